"""``adapter_config.json``: what the package reads of it, and which values peft stumbles over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt

from adue_sklearn._utils.schemas import Kind, Schema, check_document, read_document

_KIND = Kind(
    name="the configuration of an adapter",
    mend="Restore it from a copy or save the adapter again.",
    newest=1,  # peft counts no versions
)


def _names(value: Any) -> Any:
    several = value if isinstance(value, list) else [value]
    if value is not None and not all(isinstance(name, str) for name in several):
        raise ValueError("a string or a list of strings")
    return value


def _numbers(value: Any) -> Any:
    several = value if isinstance(value, list) else [value]
    if value is not None and not all(type(number) is int for number in several):
        raise ValueError("an integer or a list of integers")
    return value


_Names = Annotated[Any, AfterValidator(_names)]
_Numbers = Annotated[Any, AfterValidator(_numbers)]


class _AdapterConfig(Schema):
    """Fields of several kinds of adapter; each has some of them."""

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: NonNegativeInt | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    alpha_pattern: dict[str, float] | None = None
    rank_pattern: dict[str, Any] | None = None
    target_modules: _Names = None
    exclude_modules: _Names = None
    modules_to_save: list[str] | None = None
    layers_to_transform: _Numbers = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    fan_in_fan_out: bool | None = None
    inference_mode: bool | None = None
    auto_mapping: dict[str, Any] | None = None


def read_adapter_config(file: Path) -> dict[str, Any]:
    """Return an adapter's configuration as it was saved, checked."""
    config = read_document(file, _KIND)
    check_document(config, _AdapterConfig, file, _KIND)
    return config

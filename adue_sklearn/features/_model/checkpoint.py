"""What lies in a model folder: adapter or whole model, its tensors, its hash, its base."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from adue_sklearn._utils.places import looks_like_path, not_there, what_instead
from adue_sklearn.features._model.adapter_config import read_adapter_config
from adue_sklearn.features._model.reading import reading
from adue_sklearn.features._store.files import sha256_of

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# What decides, beside the tensors, which weights a LoRA adapter gives when it is merged.
_LORA_KEYS = (
    "peft_type",
    "r",
    "lora_alpha",
    "alpha_pattern",
    "rank_pattern",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
)
_NOT_WEIGHTS = {
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
}


_MEND = "Restore it from a copy or save the adapter again."


class NoModelError(ValueError):
    """There is no model configuration at this place."""


@dataclass(frozen=True, eq=False)
class AdapterFiles:
    """The files of a saved adapter.

    Attributes
    ----------
    name : str
        Folder or hub name, as the user wrote it.
    config : dict
        The content of ``adapter_config.json``.
    weights : Path
        ``adapter_model.safetensors``.
    """

    name: str
    config: dict[str, Any]
    weights: Path

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the adapter's tensors by the names that the base model uses."""
        with reading(self.weights, _MEND), safe_open(self.weights, framework="pt") as file:
            keys = list(file.keys())
            return {base_name(key): tuple(file.get_slice(key).get_shape()) for key in keys}

    def sha256(self) -> str:
        """Hash of the adapter's tensors and of the settings that decide how they are merged."""
        with reading(self.weights, _MEND), safe_open(self.weights, framework="pt") as file:
            keys = list(file.keys())
            tensors = {key: file.get_tensor(key) for key in keys}
            odd = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
            if odd:
                raise ValueError(f"'{odd[0]}' holds NaN or infinity")
        return tensors_sha256(tensors, self.config)


def base_name(key: str) -> str:
    """Return the name in the base model of a tensor saved by peft.

    Examples
    --------
    >>> base_name("base_model.model.classifier.modules_to_save.default.weight")
    'classifier.weight'
    """
    key = key.removeprefix("base_model.model.")
    return re.sub(r"\.(modules_to_save|original_module)(\.default)?(?=\.)", "", key)


def find_file(model: str, filename: str, *, argument: str = "model") -> Path | None:
    """Return a file of a model folder or hub repository, or None if the model lacks it.

    What looks like a path (:func:`looks_like_path`) is never asked of the hub, and the hub is
    asked once. ``argument`` is whose value ``model`` is, for messages.
    """
    if model and os.path.isdir(model):
        file = Path(model) / filename
        return file if file.is_file() else None
    if model and os.path.exists(model):
        raise ValueError(
            f"{argument}: '{model}' is a file; expected the folder that contains it, such as "
            f"'{Path(model).parent}', or a name on the hub."
        )
    if not model or looks_like_path(model):
        raise ValueError(
            f"{argument}: {not_there(model)} Expected a model's folder, or its name on the hub "
            "(owner/name)."
        )
    return _find_on_hub(model, filename, argument)


def _find_on_hub(model: str, filename: str, argument: str) -> Path | None:
    try:
        get_hf_file_metadata(hf_hub_url(model, filename))  # once: a download tries six times
        return Path(hf_hub_download(model, filename))
    except HFValidationError as error:
        raise ValueError(
            f"{argument}: {model!r} is neither an existing folder nor a name that the Hugging Face "
            "hub allows; expected one of these, such as 'owner/name'. Check the path or the name."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{argument}: '{model}' is neither an existing folder nor a model on the Hugging Face "
            "hub (or it is private); expected one of these. Check the path or the name, or log in "
            "('hf auth login')."
        ) from error
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        reason: Exception = error
    except Exception as error:  # offline, in many ways
        reason = error
    cached = try_to_load_from_cache(model, filename)
    if isinstance(cached, str):
        return Path(cached)
    known = (try_to_load_from_cache(model, name) for name in (CONFIG, ADAPTER_CONFIG))
    if any(isinstance(file, str) for file in known):
        return None
    raise ValueError(
        f"{argument}: '{model}' is neither an existing folder nor in the cache of the Hugging Face "
        f"hub, and the hub did not answer ({type(reason).__name__}); expected one of these. Check "
        "the path or the name, or go online."
    ) from reason


def read_adapter(model: str, adapter_name: str | None = None) -> AdapterFiles | None:
    """Return the adapter saved there, or None if it is a whole model.

    Parameters
    ----------
    model : str
        Folder or hub name.
    adapter_name : str or None
        The sub-folder, where several adapters were saved together. peft puts the one that is
        called "default" into the folder itself.
    """
    inside = "" if adapter_name in (None, "default") else f"{adapter_name}/"
    config_file = find_file(model, inside + ADAPTER_CONFIG)
    if config_file is None:
        _say_which_adapters(model, adapter_name)
        return None
    weights = find_file(model, inside + ADAPTER_WEIGHTS)
    name = f"{model}/{inside}".rstrip("/") if inside else model
    if weights is None:
        raise ValueError(
            f"Adapter '{name}' has no '{ADAPTER_WEIGHTS}'. If it holds 'adapter_model.bin', save "
            "it again with safe_serialization=True; pickled weights are not supported."
        )
    config = read_adapter_config(config_file)
    if "r" not in config and "prompt" in str(config.get("peft_type", "")).lower():
        raise ValueError(f"Adapter '{name}' is {config['peft_type']}, which cannot be merged.")
    return AdapterFiles(name, config, weights)


def _say_which_adapters(model: str, adapter_name: str | None) -> None:
    """Raise if an adapter was asked for, or if there are some to choose from."""
    named = sorted(file.parent.name for file in Path(model).glob(f"*/{ADAPTER_CONFIG}"))
    if adapter_name is not None:
        raise ValueError(
            f"adapter_name: '{model}' holds no adapter {adapter_name!r}; "
            f"{f'expected one of {named}' if named else 'expected None, as it names none'}."
        )
    if find_file(model, CONFIG) is not None:
        return
    if len(named) == 1:
        raise ValueError(
            f"model: '{model}' holds an adapter only in a subfolder; pass that folder: "
            f"'{Path(model) / named[0]}'."
        )
    if named:
        raise ValueError(
            f"model: '{model}' holds several adapters, {named}; choose one with adapter_name=, or "
            "pass its folder."
        )


def check_whole(model: str) -> None:
    """Raise unless a whole model is there; say what is instead, if we know."""
    if find_file(model, CONFIG) is not None:
        return
    what = what_instead(Path(model), "a model") if os.path.isdir(model) else ""
    if what:
        raise ValueError(f"model: {what} Expected an adapter's folder or a whole model's.")
    raise ValueError(
        f"model: '{model}' holds neither an adapter ({ADAPTER_CONFIG}) nor a whole model "
        f"({CONFIG}); expected a folder with one, or a name on the hub."
    )


def check_base(base: str, *, given: bool, adapter: AdapterFiles) -> None:
    """Raise unless ``base`` is a whole model; ``given`` tells whether the user named it."""
    argument = "base_model (--base-model)"
    if not base:
        raise ValueError(
            f"Adapter '{adapter.name}' does not name its base model; pass its folder or hub name "
            "with base_model= (--base-model)."
        )
    try:
        if find_file(base, CONFIG, argument=argument) is not None:
            return
        config = find_file(base, ADAPTER_CONFIG, argument=argument)
    except ValueError as error:
        if given:
            raise
        raise ValueError(
            f"Adapter '{adapter.name}' names the base model {base!r}, which cannot be used "
            f"here: {str(error).removeprefix(f'{argument}: ')} Pass its folder or hub name with "
            "base_model= (--base-model)."
        ) from error
    whose = "" if given else f", which adapter '{adapter.name}' names,"
    if config is None:
        what = what_instead(Path(base), "a whole model") if os.path.isdir(base) else ""
        if what:
            raise ValueError(
                f"{argument}: {what} Expected the model that '{adapter.name}' was trained on."
            )
        raise ValueError(
            f"{argument}: '{base}'{whose} holds no model ({CONFIG} is missing); expected the "
            "folder or hub name of the model that the adapter was trained on."
        )
    named = read_adapter_config(config).get("base_model_name_or_path")
    raise ValueError(
        f"{argument}: '{base}'{whose} is an adapter, whose own base model is {named!r}; expected "
        f"the whole model that '{adapter.name}' was trained on."
    )


def head_names(config: Any) -> list[str]:
    """Return the parameters whose shape depends on the number of classes, for this architecture.

    Found by building the architecture twice, without memory, with two numbers of classes.

    Parameters
    ----------
    config : PretrainedConfig
        The base model's configuration; not modified.
    """
    few, many = (_shapes_with(config, n_labels) for n_labels in (3, 5))
    return [name for name, shape in few.items() if shape != many[name]]


def _shapes_with(config: Any, n_labels: int) -> dict[str, tuple[int, ...]]:
    changed = type(config).from_dict({**config.to_dict(), **_labels(n_labels)})
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(changed)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def _labels(n_labels: int) -> dict[str, Any]:
    names = [f"LABEL_{row}" for row in range(n_labels)]
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def adapter_n_classes(adapter: AdapterFiles, config: Any) -> int | None:
    """Return the rows of the head saved in the adapter; None if it holds no head."""
    sizes = {adapter.shapes[name][0] for name in head_names(config) if name in adapter.shapes}
    if len(sizes) > 1:
        raise ValueError(f"Adapter '{adapter.name}' holds heads of different sizes: {sizes}.")
    return sizes.pop() if sizes else None


def load_config(model: str, **options: Any) -> Any:
    """Return the configuration of a whole model; OSError or NoModelError if it is not there."""
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(model, **options)
    except ValueError as error:  # no model_type, or a name that cannot be one
        raise NoModelError(f"'{model}' holds no model ({error})") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a value of another type, in many ways
        raise NoModelError(f"'{model}/config.json' cannot be read ({error})") from error


def load_whole(
    model: str, config: Any, dtype: torch.dtype | str, supplied: Mapping[str, Any], **options: Any
) -> Any:
    """Load a sequence classifier; refuse parameters that are neither in it nor `supplied`.

    Parameters
    ----------
    model : str
        Folder or hub name.
    config : PretrainedConfig
        Its configuration, with the right number of classes.
    dtype : torch.dtype or "auto"
        Precision of the weights; "auto" is the one that they are saved in.
    supplied : mapping
        Its keys name the parameters that an adapter will bring.
    **options
        Passed to ``from_pretrained`` (``revision``).

    Returns
    -------
    PreTrainedModel

    Raises
    ------
    ValueError
        Naming the freshly initialised parameters.
    """
    with quiet_transformers(), reading(model, "Restore its files from a copy, or get it again."):
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            model,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, unless the adapter brings the layer
            **options,
        )
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    fresh = sorted((set(info["missing_keys"]) | mismatched) - set(supplied))
    if fresh:
        raise ValueError(
            f"The trained weights of {fresh} are not in '{model}'"
            f"{' nor in the adapter' if supplied else ''}: transformers would fill them with "
            "random numbers, so every answer would be noise. Pass the trained classifier, or "
            "save the adapter again with these modules in modules_to_save."
        )
    return loaded


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence loading reports and bars: what is missing is checked and reported by us."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def tensors_sha256(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> str:
    """Hash tensors by name, dtype, shape and bytes, and the adapter settings that matter."""
    if config.get("peft_type") == "LORA":
        settings = {key: config.get(key) for key in _LORA_KEYS}
    else:  # what is unset differs between versions and between a live and a saved configuration
        kept = {key: value for key, value in config.items() if key not in _NOT_WEIGHTS}
        settings = {key: _plain(value) for key, value in kept.items() if value}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{base_name(name)} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Make a setting independent of the order in which peft keeps and saves its sets."""
    return sorted(map(str, value)) if isinstance(value, list | set | tuple) else value


def folder_sha256(model: str) -> str | None:
    """Hash the safetensors weights of a model folder; None for a hub name (its revision tells)."""
    files = sorted(Path(model).glob("*.safetensors")) if os.path.isdir(model) else []
    if not files:
        return None
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()

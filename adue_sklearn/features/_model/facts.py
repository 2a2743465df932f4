"""What a feature store records about the model: how it ran, and with which libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from adue_sklearn.features._model.heads import FoundHead
from adue_sklearn.features._model.probe import LoadChecks


def model_facts(model: Any, head: FoundHead, max_length: int, checks: LoadChecks) -> dict[str, Any]:
    """Return the part of the provenance that says how a model was run.

    Nothing in it was measured: an interrupted extraction goes on only if it is the same.
    """
    several = {"layers": [layer.module for layer in head.layers], "activation": head.activation}
    weight = model.get_submodule(head.module).weight
    return {
        "architecture": type(model).__name__,
        "view": "head" if not head.is_linear else "last_linear",
        "head": head.module,
        **(several if not head.is_linear else {}),
        "pooling": "token" if head.per_token else "model",
        "padding_side": checks.padding_side,
        "batch_tolerance": checks.tolerance,
        "max_length": max_length,
        "precision": str(weight.dtype).removeprefix("torch."),
        "versions": {
            name: _version(name) for name in ("adue-sklearn", "torch", "transformers", "peft")
        },
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None

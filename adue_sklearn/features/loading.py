"""From an adapter folder, a merged model or a live model to a classifier ready for extraction."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import peft
import torch
from transformers import PreTrainedModel

from adue_sklearn._torch import parse_device
from adue_sklearn.features import _checkpoint as checkpoint
from adue_sklearn.features._adapters import attach, live_sha256, merge
from adue_sklearn.features._checks import check_classes
from adue_sklearn.features._tokenizer import load_tokenizer, resolve_max_length, set_pad_token
from adue_sklearn.features.batching import PaddingSide, encode, pad
from adue_sklearn.features.heads import (
    Head,
    accepted_inputs,
    find_head,
    logit_tolerance,
    run_head,
)

_PROBES = ("A short text.", "A text that is a good deal longer than the first one, word by word.")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, eq=False)
class LoadedClassifier:
    """A text classifier in evaluation mode, adapters merged, its head identified.

    Attributes
    ----------
    model : PreTrainedModel
        The merged model.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    head : Head
        Last linear layer of the classification head: module name, W (C, d), b (C,) or None.
    classes : list of str or None
        Class names in the order of the head's rows, if known.
    max_length : int
        Most tokens of a text; longer ones are cut.
    provenance : dict
        Where the model comes from; goes into the feature store.
    padding_side : {"right", "left"}
        The side on which padding leaves the logits of this model as they are.
    """

    model: Any
    tokenizer: Any
    head: Head
    classes: list[str] | None
    max_length: int
    provenance: dict[str, Any]
    padding_side: PaddingSide = "right"

    @property
    def n_classes(self) -> int:
        """Number of rows of the head."""
        return len(self.head.W)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = self.model.device
        return device

    @property
    def eps(self) -> float:
        """Machine epsilon of the precision in which the head runs."""
        weight = self.model.get_submodule(self.head.module).weight
        if weight.dtype == torch.float32 and weight.is_cuda and _tf32_allowed():
            return 2.0**-10
        return float(torch.finfo(weight.dtype).eps)

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def pad_id(self) -> int:
        """The id that the model itself takes for padding."""
        return int(self.model.config.get_text_config().pad_token_id)

    @property
    def input_names(self) -> list[str]:
        """Names of the tensors that the model takes."""
        return accepted_inputs(self.model, _INPUTS)


def load_classifier(
    model: Any,
    *,
    base_model: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    max_length: int | None = None,
    classes: Sequence[str] | None = None,
) -> LoadedClassifier:
    """Load a text classifier, merge its adapter, and find its head.

    Parameters
    ----------
    model : path-like, str, PeftModel or PreTrainedModel
        An adapter folder, the folder of a whole (merged) classifier, a hub name of either, or a
        live model. A live model is copied; the caller's stays as it is.
    base_model : path-like or str, optional
        The adapter's base model; by default the one that the adapter names.
    tokenizer : PreTrainedTokenizerBase, path-like or str, optional
        By default the one saved with the model, else the base model's. Required for a live model.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one, else the CPU; for a live model, the device it is on.
    dtype : torch.dtype, optional
        Precision to run in. By default float32 on the CPU and bfloat16 on a GPU; for a live model,
        its own.
    max_length : int, optional
        Most tokens of a text. By default what tokenizer and model allow, 512 if neither says.
    classes : sequence of str, optional
        Class names in the order of the head's rows. By default the model's ``id2label``, if its
        names were ever set.

    Returns
    -------
    LoadedClassifier

    Raises
    ------
    ValueError
        A base model that is not there, weights that were never trained (freshly initialised head),
        a tokenizer without pad token, a model without a last linear layer.
    """
    if isinstance(model, str | os.PathLike):
        loaded, provenance, sources = _from_files(os.fspath(model), base_model, device, dtype)
        tokenizer = load_tokenizer(tokenizer, sources)
    else:
        loaded, provenance = _from_live(model, tokenizer, device, dtype)
    loaded.eval()
    _check_task(loaded)
    set_pad_token(loaded, tokenizer)
    length = resolve_max_length(max_length, loaded, tokenizer)
    head, side = _probe(loaded, tokenizer, length)
    return LoadedClassifier(
        model=loaded,
        tokenizer=tokenizer,
        head=head,
        classes=_resolve_classes(classes, loaded.config, len(head.W)),
        max_length=length,
        provenance=provenance | _facts(loaded, head, length),
        padding_side=side,
    )


def _from_files(
    model: str,
    base_model: str | os.PathLike[str] | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> tuple[Any, dict[str, Any], list[str]]:
    """Load from folders or hub; also the places to look for a tokenizer, best first."""
    target = parse_device(device)
    precision = dtype or (torch.bfloat16 if target.type == "cuda" else torch.float32)
    adapter = checkpoint.read_adapter(model)
    if adapter is not None:
        return _from_adapter(adapter, base_model, target, precision)
    if base_model is not None:
        raise ValueError(f"base_model: '{model}' is a whole model, not an adapter; leave it out.")
    try:
        config = checkpoint.load_config(model)
        loaded = checkpoint.load_whole(model, config, precision, supplied={})
    except (OSError, checkpoint.NoModelError) as error:
        raise ValueError(
            f"model: '{model}' holds neither an adapter nor a whole model ({error})."
        ) from error
    provenance = {
        "model": model,
        "base_model": model,
        "adapter_sha256": checkpoint.folder_sha256(model),
        "revision": getattr(loaded.config, "_commit_hash", None),
    }
    return loaded.to(target), provenance, [model]


def _from_adapter(
    adapter: checkpoint.AdapterFiles,
    base_model: str | os.PathLike[str] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Any, dict[str, Any], list[str]]:
    base = os.fspath(base_model or adapter.config.get("base_model_name_or_path") or "")
    own_base = base_model is None and adapter.config.get("revision")
    options = {"revision": adapter.config["revision"]} if own_base else {}
    try:
        config = checkpoint.load_config(base, **options)
        n_classes = checkpoint.adapter_n_classes(adapter, config)
        if n_classes is not None and n_classes != config.num_labels:
            config.num_labels = n_classes  # this also forgets class names of another task
        loaded = checkpoint.load_whole(base, config, dtype, adapter.shapes, **options)
    except (OSError, checkpoint.NoModelError) as error:
        raise ValueError(
            f"Adapter '{adapter.name}' needs the base model '{base}', which is not there "
            f"({type(error).__name__}). Give its folder with base_model= (--base-model), or go "
            "online."
        ) from error
    precisions = {name: value.dtype for name, value in loaded.named_parameters()}
    merged = merge(attach(adapter, base, loaded))
    for name, value in merged.named_parameters():  # peft keeps what it brings in float32
        value.data = value.data.to(precisions[name])
    provenance = {
        "model": adapter.name,
        "base_model": base,
        "adapter_sha256": adapter.sha256(),
        "revision": getattr(config, "_commit_hash", None),
    }
    return merged.to(device), provenance, [adapter.name, base]


def _from_live(
    model: Any, tokenizer: Any, device: str | torch.device, dtype: torch.dtype | None
) -> tuple[Any, dict[str, Any]]:
    if not isinstance(model, peft.PeftModel | PreTrainedModel):
        raise ValueError(
            "model: expected a path, a hub name, a PeftModel or a PreTrainedModel, got "
            f"{type(model).__name__}."
        )
    if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
        raise ValueError("tokenizer: a live model needs its tokenizer object as well.")
    provenance = {
        "model": None,
        "base_model": getattr(model.config, "_name_or_path", None) or None,
        "adapter_sha256": live_sha256(model),
        "revision": getattr(model.config, "_commit_hash", None),
    }
    precision = dtype or model.dtype
    merged: Any = copy.deepcopy(model)
    if isinstance(merged, peft.PeftModel):
        merged = merge(merged)
    for value in merged.parameters():  # buffers keep theirs: rotary tables need float32
        if value.is_floating_point():
            value.data = value.data.to(precision)
    merged.to(model.device if device == "auto" else parse_device(device))
    return merged, provenance


def _check_task(model: Any) -> None:
    task = model.config.problem_type
    if model.config.num_labels < 2 or task in ("regression", "multi_label_classification"):
        raise ValueError(
            f"model: expected a classifier that gives one of two or more classes, got "
            f"num_labels={model.config.num_labels}, problem_type={task!r}."
        )


def _resolve_classes(
    classes: Sequence[str] | None, config: Any, n_classes: int
) -> list[str] | None:
    if classes is None:
        names = [config.id2label.get(row) for row in range(n_classes)]
        default = names == [f"LABEL_{row}" for row in range(n_classes)]
        return None if default or None in names else [str(name) for name in names]
    return check_classes(classes, n_classes)


def _probe(model: Any, tokenizer: Any, max_length: int) -> tuple[Head, PaddingSide]:
    """Find the head, and the padding side that leaves each text's logits as without padding."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    try:
        encoded = encode(tokenizer, _PROBES, max_length, vocabulary)
    except ValueError as error:
        raise ValueError(
            f"tokenizer: '{tokenizer.name_or_path}' ({type(tokenizer).__name__}) does not fit this "
            f"model: it fails on a plain sentence ({error})."
        ) from error
    names = accepted_inputs(model, _INPUTS)
    pad_id = int(model.config.get_text_config().pad_token_id)

    def inputs(rows: list[int], side: PaddingSide) -> Mapping[str, torch.Tensor]:
        index = np.array(rows, dtype=np.int64)
        return pad(encoded, index, names=names, pad_id=pad_id, side=side, device=model.device)

    head = find_head(model, inputs([0, 1], "right"))
    alone = [run_head(model, head, inputs([row], "right")) for row in (0, 1)]
    features, logits = (np.concatenate(parts) for parts in zip(*alone, strict=True))
    eps = float(torch.finfo(model.get_submodule(head.module).weight.dtype).eps)
    # Loose: rounding grows through the layers. A pooled pad token is off by far more.
    tolerance = 100 * logit_tolerance(head, features, eps)
    sides: tuple[PaddingSide, ...] = ("right", "left")
    for side in sides:
        padded = run_head(model, head, inputs([0, 1], side))[1]
        if (np.abs(padded - logits) <= tolerance).all():
            return head, side
    raise ValueError(
        f"{type(model).__name__} gives a text other logits when it is padded, on either side (off "
        f"by {np.abs(padded - logits).max():.3g}): its answers depend on the batch. Check "
        f"config.pad_token_id ({pad_id}; the tokenizer's is {tokenizer.pad_token_id})."
    )


def _facts(model: Any, head: Head, max_length: int) -> dict[str, Any]:
    weight = model.get_submodule(head.module).weight
    return {
        "architecture": type(model).__name__,
        "view": "last_linear",
        "head": head.module,
        "pooling": "token" if head.per_token else "model",
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


def _tf32_allowed() -> bool:
    return torch.get_float32_matmul_precision() != "highest"

"""From an adapter folder, a merged model or a live model to a classifier ready for extraction."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import peft
import torch
from transformers import PreTrainedModel

from adue_sklearn._utils.arrays import parse_device
from adue_sklearn.features._model import checkpoint as checkpoint
from adue_sklearn.features._model.adapters import (
    activate,
    attach,
    cast,
    cast_trained_modules,
    check_mergeable,
    kind_of,
    live_sha256,
    merge,
    take_off,
)
from adue_sklearn.features._model.arguments import View, check_arguments, check_task
from adue_sklearn.features._model.batching import PaddingSide
from adue_sklearn.features._model.facts import model_facts
from adue_sklearn.features._model.heads import FoundHead
from adue_sklearn.features._model.hooks import accepted_inputs
from adue_sklearn.features._model.probe import (
    INPUTS,
    LoadChecks,
    Probe,
    Yardstick,
    check_batches,
    check_merge,
    head_eps,
)
from adue_sklearn.features._model.reading import in_one_line, running
from adue_sklearn.features._model.tokenizer import load_tokenizer, resolve_max_length, set_pad_token
from adue_sklearn.features._store.checks import check_classes, check_flag


@dataclass(frozen=True, eq=False)
class LoadedClassifier:
    """A text classifier in evaluation mode, adapters merged, its head identified.

    Attributes
    ----------
    model : PreTrainedModel
        The merged model.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    head : FoundHead
        The classification head: ``weights``, ``biases`` and ``activation``; one layer, the last,
        unless it was loaded with ``features="head"`` and has several.
    classes : list of str or None
        Class names in the order of the head's rows, if known.
    max_length : int
        Maximum tokens per text; longer texts are cut.
    provenance : dict
        Where the model comes from; goes into the feature store.
    checks : LoadChecks
        Results of the checks on loading, and the side on which to pad.
    """

    model: Any
    tokenizer: Any
    head: FoundHead
    classes: list[str] | None
    max_length: int
    provenance: dict[str, Any]
    checks: LoadChecks

    @property
    def padding_side(self) -> PaddingSide:
        """The side on which padding leaves the logits of this model as they are."""
        return self.checks.padding_side

    @property
    def n_classes(self) -> int:
        """Number of rows of the head."""
        return self.head.n_classes

    @property
    def n_features(self) -> int:
        """Number of inputs of the head's first layer."""
        return self.head.n_features

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = self.model.device
        return device

    @property
    def eps(self) -> float:
        """Machine epsilon of the precision in which the head runs."""
        return head_eps(self.model.get_submodule(self.head.module))

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
        return accepted_inputs(self.model, INPUTS)


def load_classifier(
    model: Any,
    *,
    base_model: str | os.PathLike[str] | None = None,
    adapter_name: str | None = None,
    tokenizer: Any = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    max_length: int | None = None,
    classes: Sequence[str] | None = None,
    features: View = "last",
    without_adapter: bool = False,
) -> LoadedClassifier:
    """Load a text classifier, merge its adapter, find its head, and check it on a few texts.

    The adapter is merged in the precision in which the base was saved (or in float32, if requested)
    and cast afterwards. The merged model must give the same logits as the unmerged one, and a text
    in a batch the same as alone: within rounding, which `provenance` records.

    Parameters
    ----------
    model : path-like, str, PeftModel or PreTrainedModel
        An adapter folder, the folder of a whole (merged) classifier, a hub name of either, or a
        live model. A live model is copied; the caller's does not change.
    base_model : path-like or str, optional
        The adapter's base model; by default the one that the adapter names.
    adapter_name : str, optional
        Which adapter, if several were saved together (its subfolder) or a live model has several.
        By default the folder's own, or a live model's active one.
    tokenizer : PreTrainedTokenizerBase, path-like or str, optional
        By default the one saved with the model, else the base model's. Required for a live model.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one, else the CPU; for a live model, the device it is on.
    dtype : torch.dtype, optional
        Precision to run in. By default float32 on the CPU and bfloat16 on a GPU; for a live model,
        its own.
    max_length : int, optional
        Maximum tokens per text. By default what tokenizer and model allow, 512 if neither says.
    classes : sequence of str, optional
        Class names in the order of the head's rows. By default the model's ``id2label``, if its
        names were ever set.
    features : {"last", "head"}, default="last"
        Extract the input of the head's last linear layer, or of its first. For a head of one layer
        they are the same.
    without_adapter : bool, default=False
        Load the base model without the change that the adapter brings, but with the modules that
        were trained whole with it, such as the head: for `ModelViews.base`.

    Returns
    -------
    LoadedClassifier

    Raises
    ------
    ValueError
        If the base model is missing, weights were never trained (freshly initialised head), the
        tokenizer has no pad token, the model has no last linear layer, the adapter is lost in
        merging, the model's answers depend on the batch, or (``features="head"``) the head is not
        a plain chain of linear layers with tanh, exact gelu or relu between them.
    """
    check_arguments(
        base_model=base_model,
        tokenizer=tokenizer,
        adapter_name=adapter_name,
        dtype=dtype,
        features=features,
    )
    check_flag("without_adapter", without_adapter)
    if isinstance(model, str | os.PathLike):
        raw = _from_files(os.fspath(model), base_model, adapter_name, device, dtype)
        tokenizer = load_tokenizer(tokenizer, raw.sources)
    else:
        raw = _from_live(model, tokenizer, adapter_name, device, dtype)
    base = raw.model.get_base_model() if isinstance(raw.model, peft.PeftModel) else raw.model
    raw.model.eval()
    if without_adapter:
        if not isinstance(raw.model, peft.PeftModel):
            raise ValueError(
                "without_adapter (--base-view): the model is whole, so its adapter cannot be "
                "taken off; expected an adapter."
            )
        raw = replace(
            raw, model=take_off(raw.model), provenance=raw.provenance | {"without_adapter": True}
        )
    check_task(base)
    set_pad_token(base, tokenizer)
    length = resolve_max_length(max_length, base, tokenizer)
    place = raw.provenance["model"]
    with nullcontext() if place is None else running(place):
        probe = Probe.of(base, tokenizer, length)
        loaded, head, checks = _settle(raw, probe)
        if features == "head":
            head = probe.find_whole_head(loaded, head)
    return LoadedClassifier(
        model=loaded,
        tokenizer=tokenizer,
        head=head,
        classes=resolve_classes(classes, loaded.config, head.n_classes),
        max_length=length,
        provenance=raw.provenance | model_facts(loaded, head, length, checks),
        checks=checks,
    )


def read_classes(
    model: str, *, base_model: str | os.PathLike[str] | None = None
) -> tuple[list[str] | None, int]:
    """Return the names of a model's classes, if it says them, and their number; load no weights."""
    adapter = checkpoint.read_adapter(model)
    if adapter is not None:
        base, options = _base_of(adapter, base_model)
        with _needing(base, adapter):
            config = _adapted_config(adapter, base, options)
    else:
        checkpoint.check_whole(model)
        with _finding(model):
            config = checkpoint.load_config(model)
    n_classes = int(config.num_labels)
    return resolve_classes(None, config, n_classes), n_classes


@dataclass(frozen=True, eq=False)
class _Raw:
    """A model as it was found: its adapter not merged yet, in the precision to merge in."""

    model: Any
    provenance: dict[str, Any]
    precision: torch.dtype
    device: torch.device
    sources: Sequence[str] = ()  # where to look for a tokenizer, best first


def _settle(raw: _Raw, probe: Probe) -> tuple[Any, FoundHead, LoadChecks]:
    """Merge, cast and move the model, and compare it with what it was before."""
    model: Any = raw.model
    merge_off = None
    if isinstance(model, peft.PeftModel):
        kind = kind_of(model)
        unmerged = probe.one_by_one(model.get_base_model())
        model = merge(model)
        cast(model, raw.precision)
        # On the device of before: other kernels would round otherwise.
        merged = Yardstick.of(model, probe.find_head(model), probe)
        merge_off = check_merge(unmerged, merged, kind)
    else:
        cast(model, raw.precision)
    model.to(raw.device)
    head = probe.find_head(model)
    return model, head, replace(check_batches(model, head, probe), merge_off=merge_off)


def _from_files(
    model: str,
    base_model: str | os.PathLike[str] | None,
    adapter_name: str | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> _Raw:
    """Load from folders or hub."""
    target = parse_device(device)
    precision = dtype or (torch.bfloat16 if target.type == "cuda" else torch.float32)
    adapter = checkpoint.read_adapter(model, adapter_name)
    if adapter is not None:
        return _from_adapter(adapter, model, base_model, target, precision)
    checkpoint.check_whole(model)
    if base_model is not None:
        raise ValueError(
            f"base_model (--base-model): '{model}' is a whole model, not an adapter; leave it out."
        )
    with _finding(model):
        config = checkpoint.load_config(model)
        loaded = checkpoint.load_whole(model, config, precision, supplied={})
    provenance = {
        "model": model,
        "base_model": model,
        "adapter_sha256": checkpoint.folder_sha256(model),
        "revision": getattr(loaded.config, "_commit_hash", None),
    }
    return _Raw(loaded, provenance, precision, target, [model])


def _from_adapter(
    adapter: checkpoint.AdapterFiles,
    model: str,
    base_model: str | os.PathLike[str] | None,
    device: torch.device,
    precision: torch.dtype,
) -> _Raw:
    base, options = _base_of(adapter, base_model)
    # Merging into weights of few digits loses small updates: not before they are as saved.
    dtype = precision if precision == torch.float32 else "auto"
    with _needing(base, adapter):
        config = _adapted_config(adapter, base, options)
        loaded = checkpoint.load_whole(base, config, dtype, adapter.shapes, **options)
    tuned = attach(adapter, base, loaded)
    provenance = {
        "model": adapter.name,
        "base_model": base,
        "adapter_sha256": adapter.sha256(),
        "revision": getattr(config, "_commit_hash", None),
    }
    sources = dict.fromkeys([os.fspath(adapter.weights.parent), model, base])
    return _Raw(tuned, provenance, precision, device, list(sources))


def _base_of(
    adapter: checkpoint.AdapterFiles, base_model: str | os.PathLike[str] | None
) -> tuple[str, dict[str, Any]]:
    """Return an adapter's base, given or its own, and with which options it is loaded."""
    base = os.fspath(base_model or adapter.config.get("base_model_name_or_path") or "")
    checkpoint.check_base(base, given=base_model is not None, adapter=adapter)
    own_base = base_model is None and adapter.config.get("revision")
    return base, {"revision": adapter.config["revision"]} if own_base else {}


def _adapted_config(adapter: checkpoint.AdapterFiles, base: str, options: dict[str, Any]) -> Any:
    """Return the configuration of a base with as many classes as the adapter's head has."""
    config = checkpoint.load_config(base, **options)
    n_classes = checkpoint.adapter_n_classes(adapter, config)
    if n_classes is not None and n_classes != config.num_labels:
        config.num_labels = n_classes  # this also forgets class names of another task
    return config


@contextmanager
def _needing(base: str, adapter: checkpoint.AdapterFiles) -> Iterator[None]:
    try:
        yield
    except (OSError, checkpoint.NoModelError) as error:
        needs = f"Adapter '{adapter.name}' needs the base model '{base}', which"
        if os.path.isdir(base):
            raise ValueError(
                f"{needs} is damaged or incomplete ({in_one_line(error)}). Restore its files from "
                "a copy, or pass another folder with base_model= (--base-model)."
            ) from error
        raise ValueError(
            f"{needs} is not available ({type(error).__name__}). Pass its folder with base_model= "
            "(--base-model), or go online."
        ) from error


@contextmanager
def _finding(model: str) -> Iterator[None]:
    try:
        yield
    except (OSError, checkpoint.NoModelError) as error:
        if os.path.isdir(model):
            raise ValueError(
                f"model: '{model}' is damaged or incomplete ({in_one_line(error)}). Restore its "
                "files from a copy, or save the model again."
            ) from error
        raise ValueError(
            f"model: '{model}' holds neither an adapter nor a whole model; expected a folder with "
            f"one, or a name on the hub. ({error})"
        ) from error


def _from_live(
    model: Any,
    tokenizer: Any,
    adapter_name: str | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> _Raw:
    if not isinstance(model, peft.PeftModel | PreTrainedModel):
        raise ValueError(
            "model: expected a path, a hub name, a PeftModel or a PreTrainedModel, got "
            f"{type(model).__name__}."
        )
    if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
        raise ValueError("tokenizer: a live model needs its tokenizer object as well.")
    copied: Any = copy.deepcopy(model)
    precision = dtype or model.dtype
    if isinstance(copied, peft.PeftModel):
        check_mergeable(copied)
        if adapter_name is not None:
            activate(copied, adapter_name)
        if precision == torch.float32:
            cast(copied, precision)
        cast_trained_modules(copied)
    elif adapter_name is not None:
        raise ValueError(f"adapter_name: {type(model).__name__} has no adapters; leave it out.")
    provenance = {
        "model": None,
        "base_model": getattr(model.config, "_name_or_path", None) or None,
        "adapter_sha256": live_sha256(copied),
        "revision": getattr(model.config, "_commit_hash", None),
    }
    target = model.device if device == "auto" else parse_device(device)
    return _Raw(copied, provenance, precision, target)


def resolve_classes(classes: Sequence[str] | None, config: Any, n_classes: int) -> list[str] | None:
    """Return names of classes: those that were given, else the model's own, else None."""
    if classes is None:
        names = [config.id2label.get(row) for row in range(n_classes)]
        default = names == [f"LABEL_{row}" for row in range(n_classes)]
        return None if default or None in names else [str(name) for name in names]
    return check_classes(classes, n_classes)

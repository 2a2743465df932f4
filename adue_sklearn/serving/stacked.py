"""A linear AdUE head in the classifier's own last layer: an ordinary checkpoint with 2C rows.

The first C logits are the classifier's, the others those of the uncertainty head. A server that
returns raw logits needs no code of ours; ``docs/serving.md`` has the formula that reads them.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adue_sklearn._utils.validation import naming
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.comparison import AutoScorer
from adue_sklearn.features import LoadedClassifier
from adue_sklearn.features._model.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    AdapterFiles,
    base_name,
    head_names,
    read_adapter,
)
from adue_sklearn.persistence import FittedHead, ModelFacts, check_same_model
from adue_sklearn.serving._folders import check_new_folder, new_folder
from adue_sklearn.thresholds import SavedThreshold

#: What begins the name of an output that belongs to the uncertainty head.
UNCERTAINTY = "uncertainty: "
#: The configuration of the stacked model beside an adapter, whose folder must hold no other.
STACKED_CONFIG = "stacked_config.json"
FORMAT_VERSION = 1
_WHAT = "a stacked export"


def export_stacked(
    classifier: LoadedClassifier,
    head: FittedHead,
    out: str | os.PathLike[str],
    *,
    adapter: bool = False,
    threshold: SavedThreshold | None = None,
    overwrite: bool = False,
    allow_other_model: bool = False,
) -> Path:
    """Write a classifier whose last layer also holds a linear AdUE head, as transformers does.

    Parameters
    ----------
    classifier : LoadedClassifier
        From :func:`adue_sklearn.features.load_classifier`.
    head : FittedHead
        Its fitted AdUE head, from :func:`adue_sklearn.persistence.load_head`: an ``AdUEEstimator``,
        or an ``AdUESearchCV`` or ``AutoScorer`` that chose one.
    out : path
        A folder that does not exist, is empty, or holds an older export.
    adapter : bool, default=False
        Write the adapter with the stacked head among its ``modules_to_save``, and not the merged
        model. The model's configuration is then ``stacked_config.json``.
    threshold : SavedThreshold, default=None
        Largest uncertainty of an accepted answer, for the configuration.
    overwrite : bool, default=False
        Whether to replace an older export.
    allow_other_model : bool, default=False
        Only warn if the head was fitted on features of another model.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the score is no linear AdUE head, or the architecture has no place for it.
    ModelMismatchError
        If the head was fitted on features of another model.
    FileExistsError
        If the folder holds anything else, or an older export and ``overwrite`` is False.
    """
    with naming("out", "the path of a folder"):
        out = Path(out)
    adue = linear_adue(head.estimator)
    facts = ModelFacts(classifier.provenance, classifier.head, classifier.classes)
    check_same_model(head.facts, facts, allow_other_model=allow_other_model)
    if threshold is not None:
        threshold.check_score(head.estimator)
    files = _adapter_of(classifier) if adapter else None
    model = stacked_model(classifier, adue, names=_class_names(classifier, head))
    if threshold is not None:
        finite = math.isfinite(threshold.threshold)
        model.config.adue["threshold"] = threshold.threshold if finite else None
        model.config.adue["accepts"] = threshold.accepts_what
    tokenizer = copy.deepcopy(classifier.tokenizer)
    tokenizer.model_max_length = classifier.max_length
    tokenizer.padding_side = classifier.padding_side
    with new_folder(out, _WHAT, _is_export, overwrite=overwrite) as folder:
        if files is None:
            model.save_pretrained(folder)
        else:
            _write_adapter(files, classifier, adue, folder)
            model.config.to_json_file(folder / STACKED_CONFIG, use_diff=False)
        tokenizer.save_pretrained(folder)
    return out


def check_export(out: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless an export can be written to a folder."""
    check_new_folder(out, _WHAT, _is_export, overwrite=overwrite)


def linear_adue(estimator: Any) -> AdUEEstimator:
    """Return the AdUE head of one layer that a score is; raise ValueError if it is another."""
    score = estimator
    if isinstance(score, AutoScorer):
        score = score.estimator_
    if isinstance(score, AdUESearchCV):
        score = score.best_estimator_
    if not isinstance(score, AdUEEstimator):
        chosen = "" if score is estimator else f", which chose a {type(score).__name__}"
        raise ValueError(
            f"head: a {type(estimator).__name__}{chosen} is not a function of further logits, so "
            "the last layer cannot hold it; expected an AdUEEstimator or AdUESearchCV. "
            "UncertaintyClassifier serves any score."
        )
    if not score.init_head_.is_linear:
        raise ValueError(
            f"head: this {type(estimator).__name__} trained {len(score.coefs_)} layers, but only "
            "the last one can be stacked. Fit on features of the last layer (features='last'), or "
            "use UncertaintyClassifier, which serves any score."
        )
    return score


def stacked_model(
    classifier: LoadedClassifier, adue: AdUEEstimator, *, names: Sequence[str]
) -> Any:
    """Return a copy of the model that shares all weights but those of its last layer, of 2C rows.

    Its configuration names the outputs, and says under ``adue`` how to read them.
    """
    shared = {id(tensor): tensor for tensor in _tensors(classifier.model)}
    model: Any = copy.deepcopy(classifier.model, shared)
    layer = model.get_submodule(classifier.head.module)
    _check_place(model, classifier.head.module, layer, adue)
    model.set_submodule(classifier.head.module, _stacked_layer(layer, adue))
    outputs = [*names, *(UNCERTAINTY + name for name in names)]
    if len(set(outputs)) < len(outputs):
        raise ValueError(
            f"head: the classes are {list(names)}, whose outputs would not have different names; "
            "give the classes other names."
        )
    model.config.id2label = dict(enumerate(outputs))
    model.config.label2id = {name: row for row, name in enumerate(outputs)}
    model.config.adue = {
        "format_version": FORMAT_VERSION,
        "n_classes": len(names),
        "measure": adue.measure,
        "scale": adue.scale,
        "lam": float(adue.lam),
    }
    model.num_labels = len(outputs)
    return model


def _tensors(model: Any) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _check_place(model: Any, module: str, layer: nn.Linear, adue: AdUEEstimator) -> None:
    """Raise unless the architecture makes the last layer, and no other, as long as its labels."""
    own = {f"{module}.{name}" for name, _ in layer.named_parameters()}
    others = sorted(set(head_names(model.config)) - own)
    if others:
        raise ValueError(
            f"head: in a {type(model).__name__} the number of classes also decides the shape of "
            f"{others[:3]}, so its last layer cannot be longer."
        )
    if layer.bias is None and adue.intercept_.any():
        raise ValueError(
            f"head: the uncertainty head has a bias, but '{module}' has none. Fit with the model's "
            "own head, whose init_b is None."
        )


def _stacked_layer(layer: nn.Linear, adue: AdUEEstimator) -> nn.Linear:
    """Return the layer with the uncertainty head's rows below its own."""
    theta = [torch.from_numpy(adue.coef_), torch.from_numpy(adue.intercept_)]
    stacked = nn.Linear(
        layer.in_features,
        layer.out_features + len(theta[0]),
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        for (_, target), (_, own), rows in zip(
            stacked.named_parameters(), layer.named_parameters(), theta, strict=False
        ):
            target.copy_(_below(own, rows))
    return stacked.eval()


def _below(own: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([own.detach(), rows.to(own)])


def _class_names(classifier: LoadedClassifier, head: FittedHead) -> list[str]:
    names = head.class_names or classifier.classes
    return names or [f"LABEL_{row}" for row in range(classifier.n_classes)]


def _adapter_of(classifier: LoadedClassifier) -> AdapterFiles:
    place = classifier.provenance.get("model")
    files = None if place is None else read_adapter(place)
    if files is None:
        raise ValueError(
            f"adapter: {'a live model' if place is None else repr(place)} is not a saved adapter; "
            "leave adapter (--adapter) out, and the merged model is written."
        )
    changed = [n for n in files.shapes if n.startswith(f"{classifier.head.module}.lora_")]
    if changed:
        raise ValueError(
            f"adapter: '{files.name}' changes the last layer by a product of low rank "
            f"({changed[0]}), which cannot be longer; leave adapter (--adapter) out, and the "
            "merged model is written."
        )
    return files


def _write_adapter(
    files: AdapterFiles, classifier: LoadedClassifier, adue: AdUEEstimator, folder: Path
) -> None:
    module, config = classifier.head.module, dict(files.config)
    tensors = load_file(files.weights)
    keys = {base_name(key): key for key in tensors}
    own = classifier.model.get_submodule(module)
    for name, rows in (("weight", adue.coef_), ("bias", adue.intercept_)):
        value = getattr(own, name)
        if value is not None:
            key = keys.get(f"{module}.{name}", f"base_model.model.{module}.{name}")
            own_rows = tensors.get(key, value).detach().cpu()
            tensors[key] = _below(own_rows, torch.from_numpy(rows))
    if f"{module}.weight" not in keys:  # the base holds the head
        config["modules_to_save"] = [*(config.get("modules_to_save") or []), module]
    config["base_model_name_or_path"] = classifier.provenance["base_model"]
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _is_export(folder: Path) -> bool:
    for name in (CONFIG, STACKED_CONFIG):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and "adue" in found:
            return True
    return False

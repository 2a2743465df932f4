"""Classifier and uncertainty as a ``torch.nn.Module`` of token ids, and exported as a graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.adue.objective import adue_score
from adue_sklearn.comparison import AutoScorer
from adue_sklearn.features import LoadedClassifier
from adue_sklearn.features._model.batching import encode
from adue_sklearn.features._model.hooks import accepted_inputs
from adue_sklearn.features._model.views import padded
from adue_sklearn.scorers.logits import LogitScorer
from adue_sklearn.serving._folders import check_new_folder, new_folder
from adue_sklearn.serving.stacked import linear_adue, stacked_model

_INPUTS, _OUTPUTS = ("input_ids", "attention_mask"), ("logits", "uncertainty")
#: What torch needs to write ONNX.
_NEEDED = ("onnx", "onnxscript")
_GRAPH, _SERVED, _WHAT = "model.onnx", "served.json", "an ONNX export"


class UncertaintyModule(nn.Module):
    """From token ids to logits and uncertainty, in one forward pass, without hooks.

    Made by ``UncertaintyClassifier.as_module``. Weights are shared with the classifier.

    Parameters
    ----------
    model : nn.Module
        The classifier; its last layer also has the rows of an AdUE head, if ``n_classes`` is less
        than its outputs.
    n_classes : int
        Number of classes.
    score : callable
        From logits (B, C) in float64 to uncertainties (B,).
    """

    def __init__(self, model: Any, n_classes: int, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.n_classes = n_classes
        self.score = score
        self._options = {"return_dict": True}
        self._options |= dict.fromkeys(accepted_inputs(model, ["use_cache"]), False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and uncertainty of tokenised texts.

        Parameters
        ----------
        input_ids, attention_mask : Tensor of int64 of shape (B, T)
            What the classifier's tokenizer gives, padded on its ``padding_side``.

        Returns
        -------
        logits : Tensor of shape (B, C)
            The classifier's.
        uncertainty : Tensor of float64 of shape (B,)
            Higher is more likely wrong.
        """
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, **self._options
        ).logits
        logits, further = outputs[:, : self.n_classes], outputs[:, -self.n_classes :]
        return logits, self.score(further.double())


def as_module(classifier: LoadedClassifier, estimator: Any) -> UncertaintyModule:
    """Return classifier and score as a module; raise ValueError if logits do not decide the score.

    Parameters
    ----------
    classifier : LoadedClassifier
        The classifier.
    estimator : UncertaintyEstimator
        Its fitted score: a linear AdUE head, or a function of the classifier's own logits.
    """
    score = estimator.estimator_ if isinstance(estimator, AutoScorer) else estimator
    n_classes = classifier.n_classes
    if isinstance(score, LogitScorer):
        return UncertaintyModule(classifier.model, n_classes, score.uncertainty_of_logits).eval()
    if isinstance(score, AdUEEstimator | AdUESearchCV):
        adue = linear_adue(score)
        names = [str(row) for row in range(n_classes)]
        model = stacked_model(classifier, adue, names=names)
        return UncertaintyModule(model, n_classes, _AdUEScore(adue)).eval()
    raise ValueError(
        f"as_module: a {type(estimator).__name__} is not a function of logits alone; expected a "
        "linear AdUE head, or a score of the logits such as softmax response or entropy."
    )


class _AdUEScore:
    """The AdUE score of logits, without the arrays of the estimator."""

    def __init__(self, adue: AdUEEstimator) -> None:
        self._setting = (float(adue.lam), adue.scale, adue.measure)

    def __call__(self, z: Tensor) -> Tensor:
        return adue_score(z, *self._setting)


def export_program(clf: Any) -> torch.export.ExportedProgram:
    """Return the graph of an ``UncertaintyClassifier``: any number of texts of any length."""
    classifier, module = clf.classifier, clf.as_module()
    texts = ["A text.", "Another text that is longer than the first."]
    encoded = encode(classifier.tokenizer, texts, classifier.max_length, classifier.vocabulary)
    inputs = padded(classifier, encoded, np.arange(2))
    rows = torch.export.Dim("rows", min=1)
    length = torch.export.Dim("length", min=1, max=classifier.max_length)
    with torch.no_grad():
        return torch.export.export(
            module,
            tuple(inputs[name] for name in _INPUTS),
            dynamic_shapes=tuple({0: rows, 1: length} for _ in _INPUTS),
        )


def export_onnx(clf: Any, folder: Path, *, overwrite: bool) -> Path:
    """Write graph, tokenizer and what a client has to know to a folder."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{' and '.join(missing)} cannot be imported; an export to ONNX needs the extra "
            "'onnx': pip install 'adue-sklearn[onnx]'."
        )
    check_new_folder(folder, _WHAT, _is_export, overwrite=overwrite)
    program = export_program(clf)
    with new_folder(folder, _WHAT, _is_export, overwrite=overwrite) as new:
        torch.onnx.export(
            program,
            (),
            new / _GRAPH,
            input_names=_INPUTS,
            output_names=_OUTPUTS,
            verbose=False,
        )
        clf.classifier.tokenizer.save_pretrained(new)
        content = json.dumps(_what_to_know(clf), indent=2) + "\n"
        (new / _SERVED).write_text(content, encoding="utf-8")
    return folder


def _what_to_know(clf: Any) -> dict[str, Any]:
    limit = clf.threshold
    facts = {
        "inputs": _INPUTS,
        "outputs": _OUTPUTS,
        "labels": clf.labels,
        "max_length": clf.classifier.max_length,
        "padding_side": clf.classifier.padding_side,
        "pad_id": clf.classifier.pad_id,
    }
    if limit is None:
        return facts
    finite = limit.accepts_what == "some"
    return facts | {
        "threshold": limit.threshold if finite else None,
        "accepts": limit.accepts_what,
    }


def _is_export(folder: Path) -> bool:
    return (folder / _GRAPH).is_file() and (folder / _SERVED).is_file()

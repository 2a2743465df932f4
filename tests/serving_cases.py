"""Tiny LoRA classifiers with an uncertainty head, to be served."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np

from adue_sklearn import AdUEEstimator
from adue_sklearn.features import compute_features, load_classifier
from adue_sklearn.persistence import FittedHead
from tests.lora_cases import make_texts

DOCS = Path(__file__).parents[1] / "docs" / "serving.md"
TEXTS = make_texts(12, longest=15, seed=3)


def snippets(section):
    """Return the snippets of Python in a section of the page."""
    text = DOCS.read_text(encoding="utf-8").split(f"## {section}")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def names_of(n_classes):
    return [f"class {row}" for row in range(n_classes)]


def loaded(case):
    return load_classifier(case.adapter, classes=names_of(case.n_classes))


@cache
def rows_of(classifier):
    """Return features, and labels of which a quarter are other than the answers."""
    X, logits = compute_features(classifier, make_texts(120, longest=12, seed=1))
    answers = logits.argmax(axis=1)
    wrong = np.random.default_rng(0).random(len(X)) < 0.25
    return X, np.where(wrong, (answers + 1) % classifier.n_classes, answers)


def fitted_head(classifier, score=None):
    """Fit a score, by default AdUE, on the classifier's features."""
    score = AdUEEstimator(max_iter=20) if score is None else score
    if classifier.head.activation is not None:
        score.set_params(activation=classifier.head.activation)
    fit_quietly(score, *rows_of(classifier), classifier.head)
    return FittedHead(score, dict(classifier.provenance), classifier.classes)


def fit_quietly(score, X, y, head):
    """Fit on few rows, in few steps, without being told so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return score.fit(X, y, head)

"""``adue threshold``: how many answers can be accepted, and what is then guaranteed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.messages import percent
from adue_sklearn._utils.row_digests import rows_among
from adue_sklearn.cli.opinions import rows_for_head
from adue_sklearn.cli.stores import facts_of, unseen_rows_of
from adue_sklearn.metrics._arguments import IntArray
from adue_sklearn.persistence import check_same_model, load_head
from adue_sklearn.scorers import SoftmaxResponseScorer
from adue_sklearn.selective import binomial_interval, what_it_takes
from adue_sklearn.thresholds import (
    SavedThreshold,
    load_threshold,
    score_sha256,
)

if TYPE_CHECKING:
    from adue_sklearn.base import UncertaintyEstimator
    from adue_sklearn.features import FeatureStore


def set_threshold(
    store: FeatureStore,
    head: Path | None,
    *,
    target_risk: float,
    confidence: float,
    method: str,
    fallback: bool,
    allow_other_model: bool,
) -> tuple[SavedThreshold, list[str]]:
    """Return the threshold, and lines that explain it."""
    said = []
    X: Any
    estimator: UncertaintyEstimator
    if head is None:
        estimator = SoftmaxResponseScorer()
        estimator.fit(store.features, store.labels, store.head)
        X, rows = store.features, np.arange(len(store))
    else:
        fitted = load_head(head)
        check_same_model(fitted.facts, facts_of(store), allow_other_model=allow_other_model)
        estimator = fitted.estimator
        X = rows_for_head(fitted, head, store, fallback=fallback)
        rows, lines, _ = unseen_rows_of(X, store, fitted, head, "set its threshold")
        said += lines
    X, y = X[rows], np.asarray(store.labels)[rows]
    found = SavedThreshold.of(
        estimator, X, y, target_risk=target_risk, confidence=confidence, method=method,
        provenance={**store.provenance, "store": str(store.path)},
    )  # fmt: skip
    said += _explain(found, estimator, X, y)
    return found, said


def thresholds_of(head: Path) -> list[Path]:
    """Return the thresholds beside a head that were set for it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            known = score_sha256(load_head(head).estimator)
    except (OSError, ValueError):  # damaged: nothing was set for what cannot be read
        return []
    return [
        file for file in sorted(head.absolute().parent.glob("*.json")) if _names_score(file, known)
    ]


def _names_score(file: Path, score: str) -> bool:
    try:
        return load_threshold(file).score_sha256 == score
    except (OSError, ValueError):
        return False


def as_json(found: SavedThreshold, said: list[str]) -> str:
    """Return what a program needs, as JSON."""
    document = {
        "meaning": found.describe(),
        "met": found.n_accepted > 0,
        "accepts": found.accepts_what,
        "coverage": found.coverage,
        "threshold": found.threshold if np.isfinite(found.threshold) else None,
        "risk_bound": found.risk_bound if found.n_accepted else None,
        **{
            name: getattr(found, name)
            for name in (
                "target_risk", "confidence", "method", "n_rows", "n_accepted", "n_errors", "score",
            )
        },
        "notes": said,
    }  # fmt: skip
    return json.dumps(document, indent=2, allow_nan=False)


def rows_without_threshold(
    store: FeatureStore, rows: IntArray, limit: SavedThreshold, file: Path | None
) -> tuple[IntArray, list[str]]:
    """Return the rows that did not set a threshold, and notes about the others."""
    if not limit.row_digests:
        return rows, [f"{file} does not record which rows set it, so this test proves nothing."]
    set_it = rows_among(store.features[rows], limit.row_digests)
    if set_it.all():
        raise ValueError(
            f"All {len(rows)} remaining rows of {store.path} were used to set {file}, so they "
            "cannot show that it holds. Test it on new rows."
        )
    if not set_it.any():
        return rows, []
    n_set = int(set_it.sum())
    used = f"{n_set} of {len(rows)} rows were used to set the threshold. They are left out."
    return rows[~set_it], [used]


def acceptance(limit: SavedThreshold, estimator: UncertaintyEstimator, X: Any, y: Any) -> list[str]:
    """Say how many answers to new rows a threshold accepts, and how many of them are wrong."""
    accepted = limit.accepts(as_numpy(estimator.predict_uncertainty(X)))
    n_accepted, n_wrong = int(accepted.sum()), int(estimator.errors(X, y)[accepted].sum())
    shown = f"{limit.describe()} Here {n_accepted} of {len(accepted)} answers are accepted"
    if n_accepted == 0:
        return [f"{shown}."]
    low, high = binomial_interval(n_wrong, n_accepted, 0.95)
    rate = f"{100 * n_wrong / n_accepted:.1f} %"
    between = f"{100 * low:.1f}, {100 * high:.1f}"
    lines = [f"{shown}, {n_wrong} of them wrong ({rate} [{between}])."]
    if low > limit.target_risk:
        lines.append(
            "This exceeds the target: these rows differ from those that set the threshold."
        )
    return lines


def _explain(found: SavedThreshold, estimator: UncertaintyEstimator, X: Any, y: Any) -> list[str]:
    errors = estimator.errors(X, y)
    name = estimator.card.name
    rate = f"{errors.mean():.1%}".replace("%", " %")
    base = f"The model is wrong on {int(errors.sum())} of the {found.n_rows} rows used ({rate})."
    if found.n_accepted == 0:
        uncertainty = as_numpy(estimator.predict_uncertainty(X))
        limits = found.target_risk, found.confidence, found.method
        return [what_it_takes(errors, uncertainty, *limits), base]
    if np.isfinite(found.threshold):
        lines = [
            f"Answers with an uncertainty ({name}) of at most {found.threshold:.6g} are accepted."
        ]
    else:
        lines = ["Every answer is accepted: the model meets the target as it is."]
    share = percent(round(found.n_errors / found.n_accepted, 4))
    return [
        *lines,
        f"{base} Of these rows, {found.n_accepted} are accepted, {found.n_errors} of them wrong "
        f"({share} observed).",
        "This holds for answers to texts of the same source as these rows.",
    ]

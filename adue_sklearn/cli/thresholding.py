"""``adue threshold``: how many answers can be accepted, and what is then guaranteed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._row_digests import rows_among
from adue_sklearn._torch import as_numpy
from adue_sklearn._validation import callers_level
from adue_sklearn.persistence import FittedHead, ModelFacts, check_same_model, load_head
from adue_sklearn.scorers import SoftmaxResponseScorer
from adue_sklearn.thresholds import SavedThreshold, percent, smallest_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adue_sklearn.base import UncertaintyEstimator
    from adue_sklearn.features import FeatureStore

#: Where a head's provenance keeps which rows it was fitted on.
FIT_ROWS = "fit_row_digests"


def set_threshold(
    store: FeatureStore,
    head: Path | None,
    *,
    target_risk: float,
    confidence: float,
    method: str,
    allow_other_model: bool,
) -> tuple[SavedThreshold, list[str]]:
    """Return the threshold, and lines that explain it."""
    said = []
    estimator: UncertaintyEstimator
    if head is None:
        estimator = SoftmaxResponseScorer(activation=store.activation)
        estimator.fit(store.features, store.labels, store.init_W, store.init_b)
        rows = np.arange(len(store))
    else:
        fitted = load_head(head)
        facts = ModelFacts.of(store.provenance, store.init_W, store.init_b, store.classes)
        check_same_model(fitted.facts, facts, allow_other_model=allow_other_model)
        estimator = fitted.estimator
        rows, line = _unseen_rows(store, fitted, head)
        said += [line] if line else []
    X, y = store.features[rows], np.asarray(store.labels)[rows]
    found = SavedThreshold.of(
        estimator, X, y, target_risk=target_risk, confidence=confidence, method=method,
        provenance={**store.provenance, "store": str(store.path)},
    )  # fmt: skip
    said += _explain(found, estimator, X, y)
    return found, said


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


def with_acceptance(
    rows: Iterator[dict[str, Any]], threshold: SavedThreshold
) -> Iterator[dict[str, Any]]:
    """Add ``accept`` to scored rows."""
    for row in rows:
        yield {**row, "accept": bool(row["uncertainty"] <= threshold.threshold)}


def _unseen_rows(
    store: FeatureStore, fitted: FittedHead, head: Path
) -> tuple[npt.NDArray[np.int64], str]:
    """Return the rows that did not fit the head, and what there is to say about it."""
    if fitted.estimator.card.needs == "head":  # has learned nothing
        return np.arange(len(store)), ""
    digests = fitted.provenance.get(FIT_ROWS)
    if digests is None:
        warnings.warn(
            f"{head} does not say which rows it was fitted on. If rows of {store.path} are among "
            "them, what follows is too good to be true and no guarantee.",
            UserWarning,
            stacklevel=callers_level(),
        )
        return np.arange(len(store)), ""
    seen = rows_among(store.features, digests)
    n_seen = int(seen.sum())
    if n_seen == len(store):
        raise ValueError(
            f"All {n_seen} rows of {store.path} fitted {head}, so they cannot set its threshold: "
            "the guarantee needs rows that are new to it. Extract others, or leave some out of the "
            "fit: adue fit STORE --leave-out 0.5 --out HEAD."
        )
    if n_seen == 0:
        return np.arange(len(store)), ""
    rows = np.flatnonzero(~seen)
    return rows, f"{n_seen} of {len(store)} rows fitted the head and are left out here."


def _explain(found: SavedThreshold, estimator: UncertaintyEstimator, X: Any, y: Any) -> list[str]:
    errors = estimator.errors(X, y)
    name = estimator.card.name
    rate = f"{errors.mean():.1%}".replace("%", " %")
    base = f"{found.n_rows} rows set it; the model errs on {int(errors.sum())} of them ({rate})."
    if found.n_accepted == 0:
        uncertainty = as_numpy(estimator.predict_uncertainty(X))
        limits = found.target_risk, found.confidence, found.method
        return [smallest_target(errors, uncertainty, *limits), base]
    if np.isfinite(found.threshold):
        lines = [f"Accepted is an uncertainty ({name}) of at most {found.threshold:.6g}."]
    else:
        lines = ["Every answer is accepted: the model meets the target as it is."]
    share = percent(round(found.n_errors / found.n_accepted, 4))
    return [
        *lines,
        f"{base} Of these rows {found.n_accepted} are accepted, {found.n_errors} of them wrong "
        f"({share} observed).",
        "This holds for answers to texts of the same source as these rows.",
    ]

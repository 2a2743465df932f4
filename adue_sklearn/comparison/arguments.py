"""Checks of what is compared: rows, a head, scorers with names, folds and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import check_scalar

from adue_sklearn._utils.arrays import as_numpy, validate_features
from adue_sklearn._utils.folds import Divisible
from adue_sklearn._utils.head import BoolArray, Head, IntArray, check_head
from adue_sklearn._utils.labels import check_labels
from adue_sklearn._utils.row_digests import row_digests, rows_among, taught_rows, unseen_rows
from adue_sklearn._utils.validation import naming, warn
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.metrics import (
    aurc_score,
    eaurc_score,
    error_average_precision_score,
    fpr_at_tpr_score,
)
from adue_sklearn.scorers import SoftmaxResponseScorer

#: What is measured besides the ROC-AUC.
DEFAULT_METRICS: dict[str, Callable[[Any, Any], float]] = {
    "aurc": aurc_score,
    "eaurc": eaurc_score,
    "average_precision": error_average_precision_score,
    "fpr95": partial(fpr_at_tpr_score, tpr=0.95),
}

Named = list[tuple[str, Any]]


def check_folds(
    cv: Any, rows: FitRows, errors: BoolArray, random_state: int
) -> list[tuple[IntArray, IntArray]]:
    """Return folds that have each row in one test part: stratified on errors, or as given.

    In the former, copies of a row are in the same part.
    """
    y = rows.y
    if isinstance(cv, Integral):
        check_scalar(cv, "cv", Integral, min_val=2)
        with naming("X"):
            known = Divisible(rows.X, errors)
            _check_enough(known)
            n_splits = max(2, min(int(cv), known.n_errors, known.n_correct))
            return known.folds(n_splits, random_state)
    with naming("cv", "folds, a splitter of scikit-learn, or pairs (train, test) of row numbers"):
        folds = [
            (_numbers(rest, len(y)), _numbers(fold, len(y)))
            for rest, fold in check_cv(cv, y, classifier=True).split(np.zeros(len(y)), y)
        ]
    judged = np.concatenate([np.empty(0, dtype=np.int64), *(fold for _, fold in folds)])
    times = np.bincount(judged, minlength=len(y))
    if (times != 1).any():
        raise ValueError(
            f"cv puts {int((times != 1).sum())} of {len(y)} rows into no test part or into "
            "several; every row must be in exactly one."
        )
    return folds


def _check_enough(known: Divisible) -> None:
    """Raise unless rows can be divided into two folds."""
    if max(known.n_errors, known.n_correct) < 2:
        n_rows = len(known.errors)
        different = "different " if n_rows < len(known.groups) else ""
        raise ValueError(
            f"X has {n_rows} {different}row{'' if n_rows == 1 else 's'}, too few for "
            "cross-validation. It needs at least 3, and a few hundred for useful results. Pass "
            "more rows, or separate test rows (X_test and y_test, --test-store)."
        )


def _numbers(rows: Any, n_rows: int) -> IntArray:
    found = as_numpy(rows)
    if found.dtype == bool:
        found = np.flatnonzero(found)
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        raise ValueError("cv must yield pairs of non-empty arrays of row numbers, (train, test).")
    if found.min() < 0 or found.max() >= n_rows:
        raise ValueError(f"cv yields row numbers outside 0 to {n_rows - 1}.")
    return found.astype(np.int64)


def check_scorers(scorers: Any, argument: str = "scorers") -> Named:
    """Return names and scorers; those without a name get that of their card."""
    example = "[EntropyScorer(), AdUESearchCV()], or a dict that names them"
    if isinstance(scorers, Mapping):
        pairs = list(scorers.items())
    elif isinstance(scorers, list | tuple):
        pairs = [s if is_named(s) else (None, s) for s in scorers]
    else:
        raise TypeError(f"{argument} is {scorers!r}; expected a list such as {example}.")
    if not pairs:
        raise ValueError(
            f"{argument} is empty; expected a list such as {example}, or None for all."
        )
    for name, scorer in pairs:
        usable = hasattr(scorer, "fit") and (
            hasattr(scorer, "predict_uncertainty") or hasattr(scorer, "score_samples")
        )
        if isinstance(scorer, type) or not usable or not isinstance(name, str | None):
            raise TypeError(
                f"{argument} holds {scorer!r} (name: {name!r}), which is not a scorer: it lacks "
                f"predict_uncertainty. Expected a list such as {example}."
            )
    return _with_names(pairs, argument)


def is_named(entry: Any) -> bool:
    """Tell whether this is a pair of a name and a scorer."""
    return isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str)


def _with_names(pairs: Sequence[tuple[str | None, Any]], argument: str) -> Named:
    named: Named = []
    for name, scorer in pairs:
        taken = {other for other, _ in named}
        if name is not None:
            if name in taken:
                raise ValueError(f"{argument}: the name {name!r} occurs twice; names must differ.")
            named.append((name, scorer))
            continue
        wanted = next(label for label in _labels(scorer) if label not in taken)
        named.append((wanted, scorer))
    return named


def _labels(scorer: Any) -> Iterator[str]:
    """Yield names for a scorer: its card's, with its settings, with a number."""
    inner = scorer.estimator if isinstance(scorer, FrozenEstimator) else scorer
    card = getattr(inner, "card", None)
    label = type(inner).__name__ if card is None else card.name
    yield label
    changed = {
        name: value
        for name, value in inner.get_params(deep=False).items()
        if name in signature(type(inner)).parameters
        and not _equal(value, signature(type(inner)).parameters[name].default)
    }
    label = f"{label} ({', '.join(f'{name}={value}' for name, value in changed.items())})"
    yield label
    number = 2
    while True:
        yield f"{label} {number}"
        number += 1


def _equal(value: Any, default: Any) -> bool:
    return value is default or repr(value) == repr(default)


def head_of_frozen(named: Named) -> Head | None:
    """Return the head of the first frozen scorer, None if there is none."""
    for _, scorer in named:
        fitted = scorer.estimator if isinstance(scorer, FrozenEstimator) else None
        if isinstance(fitted, UncertaintyEstimator) and hasattr(fitted, "classes_"):
            return fitted.init_head_
    return None


def check_rows(
    response: SoftmaxResponseScorer,
    X: Any,
    y: Any,
    init_W: Any,
    init_b: Any = None,
    classes: Any = None,
) -> FitRows:
    """Return validated rows, against the head too; frames become arrays."""
    blank = clone(response)
    X = validate_features(blank, X, reset=True)
    y = check_labels(y, X.shape[0], "compare_scorers")
    head = None
    if init_W is not None:
        head = check_head(init_W, init_b, classes, X.shape, activation=response.activation)
    elif init_b is not None or classes is not None:
        given = "init_b" if init_b is not None else "classes"
        raise ValueError(
            f"{given} was given without init_W; pass the head's weights too, or neither."
        )
    return FitRows(X, y, head)


def check_other_rows(X_name: str, X: Any, y_name: str, y: Any, rows: FitRows) -> FitRows | None:
    """Return other rows of the same head, None if there are none."""
    if X is None and y is None:
        return None
    if X is None or y is None:
        given, missing = (y_name, X_name) if X is None else (X_name, y_name)
        raise ValueError(f"{given} was given without {missing}; pass both or neither.")
    if X_name == "X_train" and rows.head is None:
        raise ValueError(
            "X_train was given without init_W, but it needs the head that was trained on it. "
            "Pass init_W; without it, a head is fitted on X, y."
        )
    blank = SoftmaxResponseScorer()
    with naming(X_name):
        X = validate_features(blank, X, reset=True)
    if X.shape[1] != rows.X.shape[1]:
        raise ValueError(
            f"{X_name} has {X.shape[1]} features, but X has {rows.X.shape[1]}; both must have "
            "the head's."
        )
    with naming(y_name):
        y = check_labels(y, X.shape[0], "compare_scorers")
    return rows._replace(X=X, y=y)


def without_shared(
    rows: FitRows,
    name: str,
    others: Mapping[str, FitRows | None],
    scorers: Named | None = None,
    *,
    cv: Any = None,
) -> FitRows:
    """Drop, with a warning, rows that are also in ``others`` or that fitted a scorer.

    Frozen scorers and second opinions come fitted.

    Raises
    ------
    ValueError
        If none remain, or if folds are given as row numbers, which would then be wrong.
    """
    shared = np.zeros(len(rows.y), dtype=bool)
    for other in others.values():
        if other is not None:
            shared |= rows_among(as_numpy(rows.X), row_digests(as_numpy(other.X)))
    places = [place for place, other in others.items() if other is not None]
    for label, scorer in scorers or ():
        fitted = scorer.estimator if isinstance(scorer, FrozenEstimator) else None
        new = unseen_rows(fitted, rows.X) if isinstance(fitted, UncertaintyEstimator) else None
        seen = taught_rows(scorer if fitted is None else fitted, rows.X)
        if new is not None:
            seen |= ~new
        if seen.any():
            shared |= seen
            places.append(f"the rows that {label} was fitted on")
    if not shared.any():
        return rows
    what = f"{name}: {int(shared.sum())} of {len(shared)} rows are also in {' or '.join(places)}"
    n_left = int((~shared).sum())
    if n_left < 2:  # one cannot be divided, nor be both an error and a correct answer
        left = "no rows remain" if n_left == 0 else "one row remains"
        raise ValueError(f"{what}, so {left}; pass rows not used for training or fitting.")
    if cv is not None and not isinstance(cv, Integral) and not hasattr(cv, "split"):
        raise ValueError(
            f"{what}, but cv gives folds as row numbers. Pass {name} without these rows."
        )
    warn(f"{what}; they are left out.")
    return rows._replace(X=rows.X[~shared], y=rows.y[~shared])


def check_metrics(metrics: Any) -> dict[str, Callable[[Any, Any], float]]:
    """Return metrics by name, each of errors and scores; the defaults for None."""
    if metrics is None:
        return DEFAULT_METRICS
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics is {metrics!r}; expected a dict of names and metric(errors, uncertainty)."
        )
    for name, metric in metrics.items():
        if not isinstance(name, str) or not callable(metric):
            raise TypeError(
                f"metrics holds {metric!r} as {name!r}; expected metric(errors, uncertainty)."
            )
    return {name: metric for name, metric in metrics.items() if name != "roc_auc"}

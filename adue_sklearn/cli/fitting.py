"""What ``adue fit`` does: one score, fitted on rows it describes or learns from, and a table."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from adue_sklearn._utils.row_digests import row_digests
from adue_sklearn._utils.tables import Table
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV, search as grid_search
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.cli.comparing import chosen_scorers, comparison_table
from adue_sklearn.cli.tables import cross_validated_table, doubts_of_rows
from adue_sklearn.comparison import compare_scorers
from adue_sklearn.exceptions import FitRowsWarning
from adue_sklearn.features import FeatureStore
from adue_sklearn.model_selection import error_stratified_folds
from adue_sklearn.persistence import CHOICE_ROWS, check_saveable


class Fitted(NamedTuple):
    """A fitted score, the features it was fitted on, and how it does on rows it has not seen."""

    estimator: UncertaintyEstimator
    features: Any
    table: Table
    #: Which rows its table is about, if other rows fitted it.
    chosen_by: dict[str, str]


def fit_adue(
    store: FeatureStore, rows: tuple[Any, Any], train: FeatureStore | None, *, folds: int
) -> Fitted:
    """Tune AdUE on rows of a store; compare it with the baselines on the same folds."""
    from sklearn.model_selection import GridSearchCV

    reservations = doubts_of_rows(store, *rows)
    splits = error_stratified_folds(*rows, store.head, n_splits=folds)
    search: AdUESearchCV | GridSearchCV
    if store.head.is_linear:  # in one stack
        search = AdUESearchCV(cv=splits)
    else:  # fit by fit
        search = GridSearchCV(AdUEEstimator(), grid_search.DEFAULT_GRID, cv=splits)
    known = None if train is None else (train.features, train.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitRowsWarning)  # said above, by name
        search.fit(*rows, init_W=store.head)
        table = cross_validated_table(
            search, *rows, store.head, train=known, reservations=reservations
        )
    return Fitted(search.best_estimator_, rows[0], table, {})


def named_score(name: str, activation: str | None, *, has_train: bool) -> tuple[str, Any]:
    """Return the label and the unfitted score that ``--score`` names, if it can be fitted here."""
    found = chosen_scorers(name, activation, option="--score")
    if len(found) > 1:
        raise ValueError(f"--score: {name} names {len(found)} scores; expected one.")
    label, scorer = found[0]
    try:
        check_saveable(scorer)
    except TypeError as error:
        raise ValueError(f"--score: {error}") from error
    if scorer.card.needs == "training rows" and not has_train:
        raise ValueError(
            f"--score: {label} describes the rows that the model was trained on; pass their "
            "store as --train-store."
        )
    return label, scorer


def fit_score(
    store: FeatureStore,
    rows: tuple[Any, Any],
    train: FeatureStore | None,
    named: tuple[str, UncertaintyEstimator],
    *,
    folds: int,
    width: int,
) -> Fitted:
    """Fit a score on rows of a store or, if it describes such, on training rows."""
    _, scorer = named
    seen, parts = rows, dict[str, Any]()
    if train is not None and scorer.card.needs == "training rows":
        seen = (train.features, train.labels)
        parts = {"X_train": seen[0], "y_train": seen[1]}
    doubts_of_rows(store, *rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitRowsWarning)  # said above, by name
        found = compare_scorers(*rows, store.head, scorers=[named], cv=folds, **parts)
        scorer.fit(*seen, store.head)
    chosen_by = {}
    if scorer.card.needs != "held-out errors":
        chosen_by = {CHOICE_ROWS: row_digests(rows[0])}
    return Fitted(scorer, seen[0], comparison_table(found, width=width), chosen_by)

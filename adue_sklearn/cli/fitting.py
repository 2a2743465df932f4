"""What ``adue fit`` does: one score, fitted on rows it describes or learns from, and a table."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.row_digests import row_digests
from adue_sklearn._utils.tables import Table
from adue_sklearn._utils.views import Views
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV, search as grid_search
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.cli.comparing import chosen_scorers, comparison_table
from adue_sklearn.cli.opinions import with_sidekick
from adue_sklearn.cli.tables import cross_validated_table, doubts_of_rows
from adue_sklearn.comparison import AutoScorer
from adue_sklearn.comparison.arguments import check_metrics, check_other_rows, check_rows
from adue_sklearn.comparison.compare import Run
from adue_sklearn.comparison.opinions import opinion_tables
from adue_sklearn.exceptions import FitRowsWarning
from adue_sklearn.features import FeatureStore
from adue_sklearn.model_selection import error_stratified_folds
from adue_sklearn.persistence import CHOICE_ROWS
from adue_sklearn.scorers import SidekickScorer, SoftmaxResponseScorer
from adue_sklearn.scorers.witnesses import witnesses_of

Rows = tuple[Any, Any]
#: What ``--score`` may be for the automatic choice.
AUTOMATIC = ("auto", "autoscorer", AutoScorer.card.name)


class Fitted(NamedTuple):
    """A fitted score, the features it was fitted on, and how it does on rows it has not seen."""

    estimator: UncertaintyEstimator
    features: Any
    tables: list[Table]
    #: Which rows its table is about, if other rows fitted it.
    chosen_by: dict[str, str]


def fit_adue(store: FeatureStore, rows: Rows, train: FeatureStore | None, *, folds: int) -> Fitted:
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
    return Fitted(search.best_estimator_, rows[0], [table], {})


def named_score(name: str, activation: str | None, X: Any, X_train: Any) -> tuple[str, Any]:
    """Return the label and the unfitted score that ``--score`` names, if it can be fitted here."""
    found = chosen_scorers(name, activation, views=X, train=X_train, option="--score")
    if len(found) > 1:
        names = ", ".join(label for label, _ in found)
        raise ValueError(
            f"--score: {name} names {len(found)} scores; expected one. They are: {names}."
        )
    label, scorer = found[0]
    if scorer.card.needs == "training rows" and X_train is None:
        raise ValueError(
            f"--score: {label} describes the rows that the model was trained on; pass their "
            "store as --train-store."
        )
    return label, scorer


def fit_score(
    store: FeatureStore,
    rows: Rows,
    train: Rows | None,
    named: tuple[str, UncertaintyEstimator],
    *,
    folds: int,
    width: int,
) -> Fitted:
    """Fit a score on rows of a store or, if it describes such, on training rows."""
    _, scorer = named
    describes = scorer.card.needs == "training rows"
    if not (describes or scorer.reads_views):
        train = None
    doubts_of_rows(store, *rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitRowsWarning)  # said above, by name
        run = _run(store, rows, train, folds)
        found = run.judged([named], check_metrics(None))
        fitted = run.fit(scorer)
    chosen_by = {}
    if scorer.card.needs != "held-out errors":
        chosen_by = {CHOICE_ROWS: row_digests(as_numpy(rows[0]))}
    seen = train if train is not None and describes else rows
    tables = [comparison_table(found, width=width), *opinion_tables(fitted)]
    return Fitted(fitted, seen[0], tables, chosen_by)


def fit_auto(
    store: FeatureStore,
    rows: Rows,
    train: Rows | None,
    sidekick: SidekickScorer | None,
    *,
    folds: int,
    width: int,
) -> Fitted:
    """Fit the automatic choice; its second opinions have label probes of the training rows."""
    X = rows[0]
    known = witnesses_of(X, activation=store.activation) if isinstance(X, Views) else []
    witnesses = [(name, with_sidekick(witness, sidekick)) for name, witness in known]
    auto = AutoScorer(witnesses=witnesses or None, activation=store.activation, cv=folds)
    doubts_of_rows(store, *rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitRowsWarning)  # said above, by name
        chosen: AutoScorer = _run(store, rows, train, folds).fit(auto)
    table = comparison_table(chosen.comparison_, width=width)
    table = replace(table, notes=[*table.notes, _why(chosen)])
    return Fitted(chosen.estimator_, X, [table, *opinion_tables(chosen)], {})


def _why(auto: AutoScorer) -> str:
    """Return the choice in words."""
    if auto.selected_ not in auto.expected_gains_:
        return f"Chosen: {auto.selected_}."
    gain = 100 * auto.expected_gains_[auto.selected_][0]
    return (
        f"Chosen: {auto.selected_}. With what scores of its kind gained elsewhere, the expected "
        f"gain is {gain:+.1f} points; the chance of being significantly worse on as many rows is "
        f"{auto.chances_of_loss_[auto.selected_]:.1%}."
    )


def _run(store: FeatureStore, rows: Rows, train: Rows | None, folds: int) -> Run:
    response = SoftmaxResponseScorer()
    checked = check_rows(response, *rows, store.head)
    known = None
    if train is not None:
        known = check_other_rows("X_train", train[0], "y_train", train[1], checked)
    return Run(checked, known, None, response, cv=folds, random_state=0)

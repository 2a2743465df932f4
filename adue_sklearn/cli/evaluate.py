"""``adue evaluate``: measure a fitted head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adue_sklearn.cli.console import show, tell, warn
from adue_sklearn.cli.options import Fallback, FittedHeadFolder, OtherModel
from adue_sklearn.cli.stores import facts_of, open_labelled, unseen_rows_of


def evaluate(
    head: FittedHeadFolder,
    store: Annotated[Path, typer.Argument(help="Labelled feature store of unused rows.")],
    threshold: Annotated[
        Path | None,
        typer.Option(help="File from 'adue threshold': also report how many answers it accepts."),
    ] = None,
    fallback: Fallback = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Measure a fitted head on fresh rows and compare it with softmax response."""
    import numpy as np

    from adue_sklearn.cli.opinions import rows_for_head
    from adue_sklearn.cli.tables import doubts_of_rows, fresh_rows_table
    from adue_sklearn.cli.thresholding import acceptance, rows_without_threshold
    from adue_sklearn.persistence import check_same_model, load_head
    from adue_sklearn.thresholds import load_threshold

    fitted = load_head(head)
    limit = None if threshold is None else load_threshold(threshold)
    if limit is not None:
        limit.check_score(fitted.estimator)
    test = open_labelled(store)
    check_same_model(fitted.facts, facts_of(test), allow_other_model=allow_other_model)
    every = rows_for_head(fitted, head, test, fallback=fallback)
    rows, said, known = unseen_rows_of(every, test, fitted, head, "show how good it is")
    if limit is not None:
        rows, lines = rows_without_threshold(test, rows, limit, threshold)
        said += lines
    X, y = every[rows], np.asarray(test.labels)[rows]
    for line in said:
        tell(line)
    _warn_of_memorised_rows(fitted.estimator, X, y)
    measurable = len(np.unique(fitted.estimator.errors(X, y))) == 2
    reservations = doubts_of_rows(test, X, y, fits=False) if measurable else ()
    if not known:
        reservations += (f"{head} does not record which rows it was fitted on",)
    table = fresh_rows_table(
        {fitted.estimator.card.name: fitted.estimator},
        X,
        y,
        title="Fresh rows" if known else f"Rows of {store}",
        reservations=reservations,
    )
    show(table)
    if limit is not None:
        for line in acceptance(limit, fitted.estimator, X, y):
            tell(line)


def _warn_of_memorised_rows(estimator: Any, X: Any, y: Any) -> None:
    from adue_sklearn.model_selection import fit_rows_look_memorised

    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    if not hasattr(estimator, "n_samples_fit_"):  # a score that learns nothing from errors
        return
    few, n_fit = estimator.n_errors_, estimator.n_samples_fit_
    many = int(estimator.errors(X, y).sum())
    if fit_rows_look_memorised((few, n_fit), (many, len(X))):
        warn(
            f"The model is wrong on {few / n_fit:.1%} of the rows that the head was fitted on, but "
            f"on {many / len(X):.1%} of these rows. It was probably trained on the former; fit the "
            "head on rows that the model has not seen."
        )

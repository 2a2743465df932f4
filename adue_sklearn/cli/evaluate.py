"""``adue evaluate``: measure a fitted head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adue_sklearn.cli.console import console, say
from adue_sklearn.cli.options import OtherModel
from adue_sklearn.cli.stores import facts_of, open_labelled

if TYPE_CHECKING:
    from adue_sklearn.features import FeatureStore


def evaluate(
    head: Annotated[Path, typer.Argument(help="Folder that 'adue fit' wrote.")],
    store: Annotated[Path, typer.Argument(help="Labelled feature store of rows not used before.")],
    allow_other_model: OtherModel = False,
) -> None:
    """Measure a fitted head on fresh rows, beside softmax response."""
    from adue_sklearn.cli.tables import fresh_rows_table
    from adue_sklearn.persistence import check_same_model, load_head

    fitted = load_head(head)
    test = open_labelled(store)
    check_same_model(fitted.facts, facts_of(test), allow_other_model=allow_other_model)
    _warn_of_memorised_rows(fitted.estimator, test)
    estimators = {fitted.estimator.card.name: fitted.estimator}
    console.print(fresh_rows_table(estimators, test.features, test.labels))


def _warn_of_memorised_rows(estimator: Any, test: FeatureStore) -> None:
    from adue_sklearn.model_selection import fit_rows_look_memorised

    if not hasattr(estimator, "n_errors_"):  # a score that learns nothing from errors
        return
    few, n_fit = estimator.n_errors_, estimator.n_samples_fit_
    many = int(estimator.errors(test.features, test.labels).sum())
    if fit_rows_look_memorised((few, n_fit), (many, len(test))):
        say(
            "warning",
            "yellow",
            f"The model errs on {few / n_fit:.1%} of the rows that the head was fitted on, but on "
            f"{many / len(test):.1%} of these. It was probably trained on the former; fit the "
            "head on rows it has not seen.",
        )

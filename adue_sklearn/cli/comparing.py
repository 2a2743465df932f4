"""What ``adue compare`` does besides reading its arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from adue_sklearn._utils.files import make_folder, open_atomically
from adue_sklearn._utils.tables import Column, Table
from adue_sklearn._utils.views import Views
from adue_sklearn.cli.stores import named_labels, rows_not_in
from adue_sklearn.comparison import Comparison, compare_scorers, default_scorers
from adue_sklearn.comparison.arguments import Named
from adue_sklearn.comparison.stores import rows_to_judge, rows_with_training
from adue_sklearn.features import FeatureStore
from adue_sklearn.scorers.witness import WitnessScorer

#: Columns that the whole table takes.
_WIDE = 136


def compare_stores(
    store: FeatureStore,
    *,
    train: FeatureStore | None,
    test: FeatureStore | None,
    scorers: str | None,
    cv: int,
) -> Comparison:
    """Compare scores on a store's rows by folds, or on those of a test store."""
    X, X_train = rows_with_training(store, train)
    named = chosen_scorers(scorers, store.activation, views=X, train=X_train)
    judged = None if test is None else rows_not_in(test, [store, train])
    rows = rows_not_in(store, [train])
    labels, parts = named_labels(store)
    if train is not None:
        parts |= {"X_train": X_train, "y_train": named_labels(train)[0]}
    if test is not None:
        X_test = rows_to_judge(store, X, test)
        parts |= {"X_test": X_test[judged], "y_test": named_labels(test)[0][judged]}
    return compare_scorers(
        X[rows],
        labels[rows],
        store.head,
        scorers=named,
        cv=cv,
        **parts,
    )


def chosen_scorers(
    names: str | None,
    activation: str | None,
    *,
    views: Any = None,
    train: Any = None,
    option: str = "--scorers",
) -> list[tuple[str, Any]]:
    """Return scorers by class or by the name on the card, 'knn,AdUESearchCV'; None for all.

    Where there are views, the second opinions that read them are among the scorers, by the names
    of the views; those that need label probes if there are training rows with views.
    """
    known = default_scorers(
        views if isinstance(views, Views) else None,
        with_train=isinstance(train, Views),
        activation=activation,
    )
    if names is None:
        return known
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    by_label: dict[str, Named] = {}
    for pair in known:
        for label in _labels(pair):
            by_label.setdefault(label, []).append(pair)
    unknown = [name for name in wanted if name.lower() not in by_label]
    if unknown or not wanted:
        kinds = dict.fromkeys(type(scorer).__name__ for _, scorer in known)
        views_too = [name for name, scorer in known if isinstance(scorer, WitnessScorer)]
        listed = ", ".join([*kinds, *views_too])
        raise ValueError(f"{option}: {', '.join(unknown) or names} is not one of {listed}.")
    return list(dict(pair for name in wanted for pair in by_label[name.lower()]).items())


def comparison_table(comparison: Comparison, *, width: int) -> Table:
    """Return the table for a terminal: short cells, in a narrow one the columns that decide."""
    table = comparison.as_table()
    rows = []
    for result, row in zip(comparison.results, table.rows, strict=True):
        cells = list(row)
        if result.failure:
            cells[1] = "failed"
        elif result.note:
            cells[2] = "ranks alike"
        rows.append(cells)
    failures = [f"{r.name} failed: {r.failure}" for r in comparison.results if r.failure]
    columns = [*table.columns[:2], Column("gain"), *table.columns[3:]]
    table = replace(table, columns=columns, rows=rows, notes=[*table.notes, *failures])
    return table if width >= _WIDE else table.only(range(4))


def save_figure(comparison: Comparison, path: Path) -> None:
    """Draw the differences to softmax response into a file, without a window."""
    from adue_sklearn.plotting import ComparisonDisplay
    from adue_sklearn.plotting._display import import_matplotlib

    figure = import_matplotlib("figure").Figure(
        figsize=(7.0, 1.5 + 0.3 * len(comparison.results)), layout="constrained"
    )
    display = ComparisonDisplay.from_comparison(comparison, ax=figure.subplots())
    level = f"{100 * comparison.confidence:g} % intervals"
    display.ax_.set_title(f"{comparison.title()}; {level}", fontsize="medium")
    make_folder(path.parent)
    with open_atomically(path) as stream:
        figure.savefig(stream, format=path.suffix.lstrip(".").lower())


def figure_suffixes() -> list[str]:
    """Return how the name of a figure's file may end; raise if nothing can draw one."""
    from adue_sklearn.plotting._display import import_matplotlib

    known = import_matplotlib("figure").Figure().canvas.get_supported_filetypes()
    return [".png", *(f".{kind}" for kind in known if kind != "png")]


def _labels(pair: tuple[str, Any]) -> set[str]:
    name, scorer = pair
    cls = type(scorer).__name__.lower()
    return {name.lower(), cls, cls.removesuffix("scorer")}

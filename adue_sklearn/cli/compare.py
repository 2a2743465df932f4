"""``adue compare``: compare scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import console, show, tell
from adue_sklearn.cli.options import TrainStore, UnseenStore
from adue_sklearn.cli.outputs import Force, check_output, write_output
from adue_sklearn.cli.stores import open_beside, open_labelled


def compare(
    store: UnseenStore,
    train_store: TrainStore = None,
    test_store: Annotated[
        Path | None,
        typer.Option(help="Test on the rows of this store instead of by cross-validation."),
    ] = None,
    scorers: Annotated[
        str | None,
        typer.Option(help="Scores to compare, by class: 'AdUESearchCV,Entropy,KNN'. Default: all."),
    ] = None,
    cv: Annotated[int, typer.Option(min=2, help="Number of cross-validation folds.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the full results to this JSON file.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Plot the differences to this file (.png, .svg, .pdf).")
    ] = None,
    force: Force = False,
) -> None:
    """Compare every score with softmax response, on rows that none of them was fitted on."""
    from adue_sklearn.cli.comparing import (
        compare_stores,
        comparison_table,
        figure_suffixes,
        save_figure,
    )

    check_output(json_file, "--json", [".json"], force=force)
    if figure is not None:
        check_output(figure, "--figure", figure_suffixes(), force=force)
    rows = open_labelled(store)
    train, test = open_beside(train_store, rows), open_beside(test_store, rows)
    with console.status("Comparing"):
        found = compare_stores(rows, train=train, test=test, scorers=scorers, cv=cv)
    show(comparison_table(found, width=console.width))
    if json_file is not None:
        write_output(json_file, found.to_json(indent=1) + "\n")
        tell(f"Wrote the full results to {json_file}.")
    if figure is not None:
        save_figure(found, figure)
        tell(f"Plotted the differences to {figure}.")

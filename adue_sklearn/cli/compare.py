"""``adue compare``: compare scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import console, tell
from adue_sklearn.cli.outputs import Force, check_output
from adue_sklearn.cli.stores import facts_of, open_labelled


def compare(
    store: Annotated[Path, typer.Argument(help="Feature store of rows the model has not seen.")],
    train_store: Annotated[
        Path | None,
        typer.Option(help="Feature store of the training rows, for scores that describe them."),
    ] = None,
    test_store: Annotated[
        Path | None,
        typer.Option(help="Judge on these rows, once, instead of folds of the first store."),
    ] = None,
    scorers: Annotated[
        str | None,
        typer.Option(help="Some only, by class: 'AdUESearchCV,Entropy,KNN'. By default all."),
    ] = None,
    cv: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this JSON file.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the differences to this file (.png, .svg, .pdf).")
    ] = None,
    force: Force = False,
) -> None:
    """Compare every score with softmax response, on rows that none of them was fitted on."""
    from adue_sklearn._utils.files import make_folder, write_file
    from adue_sklearn.cli.comparing import (
        compare_stores,
        comparison_table,
        figure_suffixes,
        save_figure,
    )
    from adue_sklearn.persistence import check_same_model

    check_output(json_file, "--json", [".json"], force=force)
    if figure is not None:
        check_output(figure, "--figure", figure_suffixes(), force=force)
    rows = open_labelled(store)
    train = None if train_store is None else open_labelled(train_store)
    test = None if test_store is None else open_labelled(test_store)
    for other in (train, test):
        if other is not None:
            check_same_model(facts_of(rows), facts_of(other))
    with console.status("Comparing"):
        found = compare_stores(rows, train=train, test=test, scorers=scorers, cv=cv)
    console.print(comparison_table(found, width=console.width))
    if json_file is not None:
        make_folder(json_file.parent)
        write_file(json_file, (found.to_json(indent=1) + "\n").encode())
        tell(f"{json_file}: all of it.")
    if figure is not None:
        save_figure(found, figure)
        tell(f"{figure}: the differences.")

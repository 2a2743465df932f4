"""``adue report``: write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import console, tell
from adue_sklearn.cli.options import OtherModel, TextColumnName
from adue_sklearn.cli.outputs import Force, check_output
from adue_sklearn.cli.stores import facts_of, open_labelled


def report(
    store: Annotated[
        Path, typer.Argument(help="Labelled feature store of rows the model has not seen.")
    ],
    out: Annotated[Path, typer.Option(help="The page, .html.")],
    train_store: Annotated[
        Path | None,
        typer.Option(help="Feature store of the training rows, for scores that describe them."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="The file that the store was extracted from, to show errors as texts."),
    ] = None,
    text_column: TextColumnName = "text",
    target_risk: Annotated[
        float, typer.Option(help="Largest error rate among accepted answers.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="How surely it has to hold.")] = 0.95,
    force: Force = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Write one page that says which answers to accept, why, and what is not known."""
    from datetime import UTC, datetime

    from adue_sklearn._utils.files import make_folder, write_file
    from adue_sklearn.cli.texts import read_texts
    from adue_sklearn.persistence import check_same_model
    from adue_sklearn.report import make_report

    check_output(out, "--out", [".html", ".htm"], force=force)
    rows = open_labelled(store)
    train = None if train_store is None else open_labelled(train_store)
    if train is not None:
        check_same_model(facts_of(rows), facts_of(train), allow_other_model=allow_other_model)
    known = None
    if texts is not None:
        known = read_texts(texts, text_column=text_column, label_column=None).texts
    with console.status("Comparing scores"):
        page = make_report(
            rows,
            train=train,
            texts=known,
            target_risk=target_risk,
            confidence=confidence,
            made_on=datetime.now(UTC).date(),
        )
    make_folder(out.parent)
    write_file(out, page.encode("utf-8"))
    tell(f"{out}: the report.")

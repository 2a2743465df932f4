"""``adue report``: write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import console, tell
from adue_sklearn.cli.options import (
    Confidence,
    OtherModel,
    TargetRisk,
    TextColumnName,
    TrainStore,
    UnseenStore,
)
from adue_sklearn.cli.outputs import Force, check_output, write_output
from adue_sklearn.cli.stores import open_beside, open_labelled


def report(
    store: UnseenStore,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    train_store: TrainStore = None,
    texts: Annotated[
        str | None,
        typer.Option(help="File that the store was extracted from, to show the texts of errors."),
    ] = None,
    text_column: TextColumnName = "text",
    target_risk: TargetRisk = 0.05,
    confidence: Confidence = 0.95,
    force: Force = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Write an HTML page that says which answers to accept, why, and what remains unknown."""
    from datetime import UTC, datetime

    from adue_sklearn.cli.texts import read_texts
    from adue_sklearn.report import make_report

    check_output(out, "--out", [".html", ".htm"], force=force)
    rows = open_labelled(store)
    train = open_beside(train_store, rows, allow_other_model=allow_other_model)
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
    write_output(out, page)
    tell(f"Wrote the report to {out}.")

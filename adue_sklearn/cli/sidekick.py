"""``adue sidekick``: fit a small text classifier on the texts that LoRA was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adue_sklearn.cli.console import console, say_left_out, tell
from adue_sklearn.cli.options import (
    Classes,
    LabelColumn,
    SkipEmpty,
    TextColumnName,
    parse_classes,
)
from adue_sklearn.cli.outputs import Force, check_folder


def sidekick(
    data: Annotated[
        str,
        typer.Argument(
            help="Labelled texts that LoRA was trained on: .jsonl, .csv, .parquet or hub "
            "NAME:SPLIT."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the sidekick.")],
    text_column: TextColumnName = "text",
    label_column: LabelColumn = "label",
    classes: Classes = None,
    skip_empty: SkipEmpty = False,
    force: Force = False,
) -> None:
    """Fit a small text classifier on the training texts, for a second opinion of other texts."""
    from adue_sklearn._utils.blank_texts import BlankRows, is_blank
    from adue_sklearn.cli.texts import read_texts
    from adue_sklearn.persistence import check_target, save_sidekick
    from adue_sklearn.scorers import SidekickScorer

    check_target(out, overwrite=force, kind="sidekick")
    check_folder(out, "--out")
    texts, labels = read_texts(
        data, text_column=text_column, label_column=label_column, skip_empty=skip_empty
    )
    rows = [row for row, text in enumerate(texts) if not (skip_empty and is_blank(text))]
    if len(rows) < len(texts):
        say_left_out(data, BlankRows.of(texts), len(texts))
    names = parse_classes(classes)
    y = _named_labels(labels or [], names, rows, data)
    with console.status("Fitting"):
        fitted = SidekickScorer().fit_witness([texts[row] for row in rows], y, classes=names)
    save_sidekick(fitted, out, overwrite=force)
    known = ", ".join(map(str, fitted.witness_classes_.tolist()))
    tell(
        f"Wrote the sidekick to {out}: {len(rows)} texts, classes {known}. Extract other texts "
        f"with it: adue extract ADAPTER DATA --sidekick {out} --out STORE"
    )


def _named_labels(labels: list[Any], names: list[str] | None, rows: list[int], data: str) -> Any:
    """Return labels of these rows: by name where there are names, else as they are."""
    import numpy as np

    from adue_sklearn.features._model.labels import label_rows

    if names is None:
        return np.array([labels[row] for row in rows])
    numbers = label_rows(
        labels, len(labels), names, len(names), rows=rows, name=f"{data}, labels", first_row=1
    )
    return np.array(names)[numbers]

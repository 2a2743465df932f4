"""``adue predict``: score texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from adue_sklearn._utils.files import make_folder, open_atomically
from adue_sklearn._utils.messages import printable
from adue_sklearn.cli.console import progress, tell
from adue_sklearn.cli.options import (
    BaseModel,
    BatchTokens,
    Device,
    OtherModel,
    Precision,
    TextColumnName,
    parse_dtype,
)
from adue_sklearn.cli.outputs import Force, check_output
from adue_sklearn.cli.stores import facts_of


def predict(
    head: Annotated[Path, typer.Argument(help="Folder that 'adue fit' wrote.")],
    model: Annotated[str, typer.Argument(help="Adapter folder, merged model or hub name.")],
    data: Annotated[str, typer.Argument(help=".jsonl, .csv, .parquet or hub NAME:SPLIT.")],
    out: Annotated[Path, typer.Option(help="JSON lines: label, probability, uncertainty.")],
    base_model: BaseModel = None,
    text_column: TextColumnName = "text",
    device: Device = "auto",
    dtype: Precision = None,
    batch_tokens: BatchTokens = 8192,
    threshold: Annotated[
        Path | None,
        typer.Option(help="File of 'adue threshold': each line says whether to accept."),
    ] = None,
    force: Force = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Score texts: one line a text with label, probability and uncertainty."""
    from adue_sklearn.cli.tables import score_rows
    from adue_sklearn.cli.texts import read_texts
    from adue_sklearn.cli.thresholding import with_acceptance
    from adue_sklearn.features import compute_features, load_classifier
    from adue_sklearn.persistence import check_same_model, load_head
    from adue_sklearn.thresholds import load_threshold

    check_output(out, "--out", [".jsonl"], force=force)
    fitted = load_head(head)
    fitted.estimator.set_params(device=device)
    limit = None if threshold is None else load_threshold(threshold)
    if limit is not None:
        limit.check_score(fitted.estimator)
    texts, _ = read_texts(data, text_column=text_column, label_column=None)
    classifier = load_classifier(
        model,
        base_model=base_model,
        device=device,
        dtype=parse_dtype(dtype),
        max_length=fitted.provenance.get("max_length"),
        classes=fitted.class_names,
        features=fitted.view,
    )
    check_same_model(fitted.facts, facts_of(classifier), allow_other_model=allow_other_model)
    with progress("Scoring", len(texts)) as advance:
        features, _ = compute_features(
            classifier, texts, batch_tokens=batch_tokens, progress=advance
        )
    rows = score_rows(fitted.estimator, features, fitted.class_names)
    _write_lines(out, rows if limit is None else with_acceptance(rows, limit))
    tell(f"{out}: {len(texts)} rows.")


def _write_lines(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, all or nothing."""
    make_folder(out.parent)
    with open_atomically(out) as stream:
        for row in rows:
            line = printable(json.dumps(row, ensure_ascii=False))  # as JSON: it reads as before
            stream.write((line + "\n").encode())

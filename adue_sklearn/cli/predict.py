"""``adue predict``: score texts."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from adue_sklearn._utils.blank_texts import BlankRows
from adue_sklearn._utils.files import make_folder, open_atomically
from adue_sklearn._utils.messages import printable
from adue_sklearn.cli.console import progress, say_left_out, tell
from adue_sklearn.cli.options import (
    BaseModel,
    BatchTokens,
    Device,
    Fallback,
    FittedHeadFolder,
    Model,
    OtherModel,
    Precision,
    SkipEmpty,
    TextColumnName,
    parse_dtype,
)
from adue_sklearn.cli.outputs import Force, check_output
from adue_sklearn.cli.stores import facts_of
from adue_sklearn.cli.views import parse_companions


def predict(
    head: FittedHeadFolder,
    model: Model,
    data: Annotated[
        str,
        typer.Argument(
            help=".jsonl, .csv, .parquet, hub NAME:SPLIT, or - for JSON lines on standard input."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="File, .jsonl or .csv; - for JSON lines on standard output.")
    ],
    base_model: BaseModel = None,
    text_column: TextColumnName = "text",
    id_column: Annotated[
        str | None,
        typer.Option(help="Column that identifies the rows. By default they are numbered from 0."),
    ] = None,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="Also write the text to each line.")
    ] = False,
    skip_empty: SkipEmpty = False,
    companion: Annotated[
        list[str] | None,
        typer.Option(
            "--companion",
            metavar="NAME=ADAPTER",
            help="Another adapter whose view NAME the head reads; may be repeated.",
        ),
    ] = None,
    fallback: Fallback = False,
    device: Device = "auto",
    dtype: Precision = None,
    batch_tokens: BatchTokens = 8192,
    threshold: Annotated[
        Path | None,
        typer.Option(help="File from 'adue threshold': each line says whether to accept."),
    ] = None,
    force: Force = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Score texts: write one line per text with label, probability and uncertainty.

    Texts are read, scored and written in blocks of a thousand, so their number is not limited.
    Views that the head reads are made from the same texts; "fallback" marks rows without one.
    """
    from adue_sklearn._utils.views import Views
    from adue_sklearn.cli.opinions import check_rows_with_views, views_to_predict
    from adue_sklearn.cli.tables import score_rows
    from adue_sklearn.cli.texts import iter_texts
    from adue_sklearn.features import load_classifier, stream_features
    from adue_sklearn.persistence import check_same_model, load_head
    from adue_sklearn.thresholds import load_threshold

    source = "standard input" if data == "-" else data
    to_stdout = str(out) == "-"
    if not to_stdout:
        check_output(out, "--out", [".jsonl", ".csv"], force=force)
        _refuse_input_as_output(data, out)
    fitted = load_head(head)
    fitted.estimator.compute_on(device)
    limit = None if threshold is None else load_threshold(threshold)
    if limit is not None:
        limit.check_score(fitted.estimator)

    left_out = BlankRows() if skip_empty else None

    def texts_with_ids(left_out: BlankRows | None) -> Iterator[tuple[Any, str]]:
        return iter_texts(data, text_column=text_column, id_column=id_column, left_out=left_out)

    # Read the file once before loading the model, so that an error in its last row shows now.
    seen = BlankRows() if skip_empty else None
    n_texts = None if data == "-" else sum(1 for _ in texts_with_ids(seen))
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

    views = views_to_predict(
        fitted, model, parse_companions(companion), fallback=fallback,
        classes=fitted.class_names, features=fitted.view, base_model=base_model, device=device,
        dtype=parse_dtype(dtype), max_length=classifier.max_length,
    )  # fmt: skip
    n_rows = 0

    def scored(advance: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        nonlocal n_rows
        known: deque[tuple[Any, str]] = deque()
        name = "row" if id_column is None else "id"

        def texts() -> Iterator[str]:
            for row in texts_with_ids(left_out):
                known.append(row)
                yield row[1]

        for batch in stream_features(classifier, texts(), batch_tokens=batch_tokens, views=views):
            X: Any = batch.features
            if views is not None:
                blocks: dict[str, Any] = batch.views
                X = Views(X, **blocks)
                numbers = [number for number, _ in islice(known, len(X))]
                check_rows_with_views(fitted.estimator, X, numbers, source)
            rows = score_rows(fitted.estimator, X, fitted.class_names, limit)
            for row in rows:
                number, text = known.popleft()
                yield {name: number, **({"text": text} if with_text else {}), **row}
            n_rows += len(batch.rows)
            advance(len(batch.rows))

    stdout = sys.stdout  # before a progress bar takes its place
    with progress("Scoring", n_texts) as advance:
        if to_stdout:
            for row in scored(advance):
                print(_as_json(row), file=stdout, flush=True)
        else:
            _write_file(out, scored(advance))
    if left_out is not None and left_out.n:
        say_left_out(source, left_out, n_rows + left_out.n)
    if not to_stdout:
        tell(f"Wrote {n_rows} rows to {out}.")


def _refuse_input_as_output(data: str, out: Path) -> None:
    if out.exists() and Path(data).exists() and out.samefile(data):
        raise ValueError(f"--out: {out} is the file that the texts are read from; name another.")


def _write_file(out: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write JSON lines or CSV, all or nothing."""
    make_folder(out.parent)
    with open_atomically(out) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        if out.suffix.lower() == ".csv":
            first = next(rows)
            table = csv.DictWriter(lines, list(first), lineterminator="\n")
            table.writeheader()
            table.writerows(chain([first], rows))
        else:
            lines.writelines(_as_json(row) + "\n" for row in rows)
        lines.flush()
        lines.detach()


def _as_json(row: dict[str, Any]) -> str:
    # printable() uses JSON's escapes, so the line still has the same meaning.
    return printable(json.dumps(row, ensure_ascii=False, default=str))

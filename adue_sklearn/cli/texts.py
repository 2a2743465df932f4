"""Labelled texts from JSON lines, and (extra ``data``) from CSV, Parquet or the hub."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adue_sklearn._utils.blank_texts import BlankRows, is_blank
from adue_sklearn._utils.places import looks_like_path, not_there, what_instead

#: What separates the columns of a table, by the end of its name.
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_EXPECTED = "a .jsonl, .csv or .parquet file, or NAME:SPLIT of a data set on the hub"
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


class Texts(NamedTuple):
    """Texts in input order, and their labels as they stand in the file (None: not asked for)."""

    texts: list[str]
    labels: list[Any] | None


def read_texts(
    source: str,
    *,
    text_column: str = "text",
    label_column: str | None,
    skip_empty: bool = False,
) -> Texts:
    """Read texts, and labels unless ``label_column`` is None.

    Parameters
    ----------
    source : str
        A ``.jsonl``, ``.csv`` or ``.parquet`` file, or ``name:split`` of a data set on the hub.
    text_column : str, default="text"
        Column of the texts.
    label_column : str or None
        Column of the labels.
    skip_empty : bool, default=False
        Whether blank texts may lack a label because they are left out later; they are still
        returned.

    Returns
    -------
    Texts
        In input order.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    IsADirectoryError
        If it is a folder.
    ValueError
        If it is empty, malformed, lacks a column, or a row lacks its text or label; the message
        names the file, the row and the column.
    ModuleNotFoundError
        If the format needs the extra ``data`` and it is not installed.
    """
    rows = list(_rows(source, text_column))
    if not rows:
        raise _empty(source)
    texts = [_text(row, text_column, source, number) for number, row in enumerate(rows, 1)]
    if label_column is None:
        return Texts(texts, None)
    labels = []
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), 1):
        label = _cell(row, label_column, source, number, option="--label-column")
        if label is None and not (skip_empty and is_blank(text)):
            raise ValueError(
                f"{source}, row {number}: column {label_column!r} is null; every row needs a label."
            )
        labels.append(label)
    return Texts(texts, labels)


def iter_texts(
    source: str,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    left_out: BlankRows | None = None,
) -> Iterator[tuple[Any, str]]:
    """Yield number (from 0) or id, and text, row by row, in constant memory.

    Parameters
    ----------
    source : str
        As in `read_texts`, or "-" for JSON lines on standard input.
    text_column : str, default="text"
        Column of the texts.
    id_column : str, optional
        Column of the ids.
    left_out : BlankRows, optional
        Leave out blank texts and count them here; the other rows keep their numbers.
    """
    name, n_rows = "standard input" if source == "-" else source, 0
    for number, row in enumerate(_rows(source, text_column, id_column, chunk_rows=1024)):
        text = _text(row, text_column, name, number + 1)
        n_rows += 1
        if left_out is not None and is_blank(text):
            left_out.add(number)
        elif id_column is None:
            yield number, text
        else:
            yield _cell(row, id_column, name, number + 1, option="--id-column"), text
    if n_rows == 0:
        raise _empty(name)
    if left_out is not None and left_out.n == n_rows:
        raise ValueError(
            f"{name}: all {n_rows} texts are empty or blank, so --skip-empty leaves none."
        )


def _rows(
    source: str, *columns: str | None, chunk_rows: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield rows; values of ``columns`` in a CSV file stay as they are written there."""
    if source == "-":
        stream = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="\n")
        try:
            yield from _json_lines("standard input", stream)
        finally:
            stream.detach()  # standard input is not ours to close
        return
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        with _existing(path).open(encoding="utf-8-sig", newline="\n") as stream:
            yield from _json_lines(source, stream)
    elif suffix in (".csv", ".tsv", ".parquet"):
        yield from _table_rows(_existing(path), suffix, columns, chunk_rows)
    elif path.is_file():
        raise ValueError(f"{source} has an unknown format; expected .jsonl, .csv or .parquet.")
    elif looks_like_path(source):
        _existing(path)
    else:
        yield from _hub_rows(source)


def _empty(source: str) -> ValueError:
    return ValueError(f"{source} is empty: it holds no rows, so there is nothing to do.")


def _existing(path: Path) -> Path:
    """Return the path of a file; raise if it does not exist."""
    if path.is_dir():
        what = what_instead(path, "a file of texts") or f"'{path}' is a folder."
        raise IsADirectoryError(f"{what} Expected {_EXPECTED}.")
    if not path.exists():
        raise FileNotFoundError(f"{not_there(str(path))} Expected {_EXPECTED}.")
    return path


def _json_lines(name: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _json_object(name, number, line)
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error) from error


def _not_utf8(name: str, error: UnicodeDecodeError) -> ValueError:
    """Return an error that names the encoding a file seems to have instead of UTF-8."""
    path = Path(name)
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(2)
    else:
        start = error.object[:2]
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        seems, code = "UTF-16", "UTF-16"
    else:
        seems, code = "Latin-1 or Windows-1252", "WINDOWS-1252"
    return ValueError(
        f"{name} is not UTF-8 ({error}). It seems to be {seems}. Save it as UTF-8, for example "
        f"with 'iconv -f {code} -t UTF-8 OLD > NEW'."
    )


def _json_object(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}, line {number} is not JSON ({error}); expected one object per line, "
            'such as {"text": "...", "label": "..."}.'
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{name}, line {number} is a {type(row).__name__}, not an object; expected "
            'one object per line, such as {"text": "...", "label": "..."}.'
        )
    return row


def _text(row: dict[str, Any], column: str, source: str, number: int) -> str:
    text = _cell(row, column, source, number, option="--text-column")
    if not isinstance(text, str):
        raise ValueError(f"{source}, row {number}: column {column!r} holds {text!r}, not a text.")
    return text


def _cell(row: dict[str, Any], column: str, source: str, number: int, *, option: str) -> Any:
    if column not in row:
        hint = " (or --unlabelled)" if option == "--label-column" else ""
        raise ValueError(
            f"{source}, row {number} has no column {column!r}; it has "
            f"{', '.join(map(repr, row)) or 'none'}. Name the right one with {option}{hint}."
        )
    return row[column]


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs the package datasets; run: pip install 'adue-sklearn[data]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _table_rows(
    path: Path, suffix: str, as_written: Sequence[str | None], chunk_rows: int | None
) -> Iterator[dict[str, Any]]:
    _datasets(f"Reading {path.name}")
    import pandas  # both come with datasets
    from pyarrow import parquet

    if path.stat().st_size == 0:
        return
    if suffix in _SEPARATORS:
        _check_separator(path, _SEPARATORS[suffix], as_written[0])
    try:
        if suffix == ".parquet":
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
            return
        # "NA" and "12" are ordinary texts.
        options = {
            "sep": _SEPARATORS[suffix],
            "keep_default_na": False,
            "dtype": {name: str for name in as_written if name is not None},
        }
        if chunk_rows is None:  # the types of the other columns are those of all their values
            yield from _records(pandas.read_csv(path, **options))
            return
        with pandas.read_csv(path, chunksize=chunk_rows, **options) as chunks:
            for chunk in chunks:
                yield from _records(chunk)
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), error) from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {suffix[1:]}: {error}") from error


def _records(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a data frame that was read from a CSV file."""
    import pandas

    if not isinstance(table.index, pandas.RangeIndex):  # extra columns became row names
        raise ValueError(
            "its rows have more columns than its first line. Put texts that contain the "
            "separator in double quotes"
        )
    records: list[dict[str, Any]] = table.to_dict("records")
    return records


def _check_separator(path: Path, separator: str, text_column: str | None) -> None:
    """Raise if the first line shows that a table's separator is not the one its name implies."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        line = stream.readline().rstrip("\r\n")
    columns = next(csv.reader([line], delimiter=separator), [])
    if text_column in columns or "\ufffd" in line:  # reading the file reports another encoding
        return
    for other, name in _SEPARATOR_NAMES.items():
        found = next(csv.reader([line], delimiter=other), [])
        if other == separator or len(found) < 2 or not (len(columns) < 2 or text_column in found):
            continue
        suffix = next((end for end, mark in _SEPARATORS.items() if mark == other), None)
        mend = "" if suffix is None else f"Name it {path.with_suffix(suffix).name}, or s"
        raise ValueError(
            f"{path} seems to be separated by {name}: its first line is {line!r}. "
            f"{mend or 'S'}ave it separated by {_SEPARATOR_NAMES[separator]}."
        )


def _hub_rows(source: str) -> Iterator[dict[str, Any]]:
    name, _, split = source.partition(":")
    datasets = _datasets(f"{source} is not a file; reading it from the hub")
    try:
        loaded = datasets.load_dataset(name, split=split or None)
    except Exception as error:
        raise FileNotFoundError(
            f"{source} is not a local file, and it could not be loaded from the hub: {error}"
        ) from error
    if not split:
        raise ValueError(
            f"{source} has the splits {', '.join(loaded)}; name one, such as "
            f"{name}:{next(iter(loaded))}."
        )
    label_names = {
        column: feature.names
        for column, feature in loaded.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    for row in loaded:
        for column, names in label_names.items():
            if row[column] is not None:
                row[column] = names[row[column]] if row[column] >= 0 else None
        yield row

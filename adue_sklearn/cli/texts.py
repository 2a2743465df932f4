"""Labelled texts from JSON lines, and (extra ``data``) from CSV, Parquet or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Texts(NamedTuple):
    """Texts in input order, and their labels as they stand in the file (None: not asked for)."""

    texts: list[str]
    labels: list[Any] | None


def read_texts(source: str, *, text_column: str = "text", label_column: str | None) -> Texts:
    """Read texts, and labels unless ``label_column`` is None.

    Parameters
    ----------
    source : str
        A ``.jsonl``, ``.csv`` or ``.parquet`` file, or ``name:split`` of a data set on the hub.
    text_column : str, default="text"
        Column of the texts.
    label_column : str or None
        Column of the labels.

    Returns
    -------
    Texts
        In input order.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is empty, malformed, lacks a column, or a row lacks its text or label; the message
        names the file, the row and the column.
    ModuleNotFoundError
        If the format needs the extra ``data`` and it is not installed.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        rows = _read_json_lines(_existing(path))
    elif suffix in (".csv", ".tsv", ".parquet"):
        rows = _read_table(_existing(path), suffix, text_column)
    elif path.exists():
        raise ValueError(
            f"{source}: the format cannot be told from the name; expected .jsonl, .csv or .parquet."
        )
    else:
        rows = _read_from_hub(source)
    if not rows:
        raise ValueError(f"{source} is empty: it holds no rows, so there is nothing to do.")
    texts = _column(rows, text_column, source, option="--text-column")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise ValueError(
                f"{source}, row {number}: column {text_column!r} holds {text!r}, not a text."
            )
    if label_column is None:
        return Texts(texts, None)
    labels = _column(rows, label_column, source, option="--label-column")
    for number, label in enumerate(labels, 1):
        if label is None:
            raise ValueError(
                f"{source}, row {number}: column {label_column!r} is null; every row needs a label."
            )
    return Texts(texts, labels)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist (or is no file).")
    return path


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}); expected one object a line, "
                'such as {"text": "...", "label": "..."}.'
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number} is a {type(row).__name__}, not an object; expected "
                'one object a line, such as {"text": "...", "label": "..."}.'
            )
        rows.append(row)
    return rows


def _column(rows: list[dict[str, Any]], name: str, source: str, *, option: str) -> list[Any]:
    for number, row in enumerate(rows, 1):
        if name not in row:
            hint = " (or --unlabelled)" if option == "--label-column" else ""
            raise ValueError(
                f"{source}, row {number} has no column {name!r}; it has "
                f"{', '.join(map(repr, row)) or 'none'}. Name the right one with {option}{hint}."
            )
    return [row[name] for row in rows]


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs the package datasets; run: pip install 'adue-sklearn[data]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _read_table(path: Path, suffix: str, text_column: str) -> list[dict[str, Any]]:
    _datasets(f"Reading {path.name}")
    import pandas  # both come with datasets
    from pyarrow import parquet

    if path.stat().st_size == 0:
        return []
    try:
        if suffix == ".parquet":
            return parquet.read_table(path).to_pylist()
        separator = "\t" if suffix == ".tsv" else ","
        # "NA" and "12" are texts like any other.
        table = pandas.read_csv(
            path, sep=separator, keep_default_na=False, dtype={text_column: str}
        )
        return table.to_dict("records")
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {suffix[1:]}: {error}") from error


def _read_from_hub(source: str) -> list[dict[str, Any]]:
    name, _, split = source.partition(":")
    datasets = _datasets(f"{source} is no file; reading it from the hub")
    try:
        loaded = datasets.load_dataset(name, split=split or None)
    except Exception as error:
        raise FileNotFoundError(
            f"{source} is neither a file here nor a data set that the hub gave: {error}"
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
    rows = loaded.to_list()
    for column, names in label_names.items():
        for row in rows:
            if row[column] is not None:
                row[column] = names[row[column]] if row[column] >= 0 else None
    return rows

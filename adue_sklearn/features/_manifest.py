"""The manifest of a feature store: read, checked, compared with the files it lists.

A writer keeps ``unfinished.json``, which is the manifest as it would be were the writing to end
with the last whole shard. Renaming it to ``manifest.json`` is what finishes a store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adue_sklearn.features._files import (
    DamagedFileError,
    Layout,
    StoreError,
    check_hash,
    map_tensors,
)
from adue_sklearn.features._layers import are_head_facts

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
HEAD = "head.safetensors"
FORMAT = "adue-feature-store"
#: The newest version that is read. A head of several layers is written as version 2, which
#: readers of version 1 refuse instead of taking its features for another layer's.
FORMAT_VERSION = 2

Manifest = dict[str, Any]

_SHARD = re.compile(r"shard-(\d{5,})\.safetensors")
_TEMPORARY = re.compile(
    rf"\.({_SHARD.pattern}|{re.escape(HEAD)}|{re.escape(MANIFEST)}|{re.escape(UNFINISHED)})"
    r"\.\d+\.tmp"
)


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def shard_number(name: str) -> int:
    """Return the number in a shard's file name; -1 for any other name."""
    found = _SHARD.fullmatch(name)
    return int(found[1]) if found else -1


def is_temporary(name: str) -> bool:
    """Say whether a name is that of a file that was being written."""
    return _TEMPORARY.fullmatch(name) is not None


class Damage(NamedTuple):
    """A file that cannot be used, why, and which rows (positions in the store) it held."""

    file: Path
    what: str
    rows: range

    def __str__(self) -> str:
        rows = f" (rows {self.rows[0]} to {self.rows[-1]})" if self.rows else ""
        return f"Feature store file '{self.file}' cannot be used: {self.what}{rows}."


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished store."""
    file = folder / MANIFEST
    if not file.is_file() and (folder / UNFINISHED).is_file():
        raise StoreError(
            f"'{folder}' is no finished feature store: '{MANIFEST}' is missing; the extraction is "
            "still running or was interrupted. Run the same again: it goes on where it stopped."
        )
    return _read(file)


def read_unfinished(folder: Path) -> Manifest | None:
    """Read what a writer has done so far; None where no writing was interrupted."""
    file = folder / UNFINISHED
    return _read(file, unfinished=True) if file.is_file() else None


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return a manifest as it is written."""
    try:
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"provenance: only what JSON can hold may be stored ({error}).") from error


def shard_layout(manifest: Manifest, n_rows: int) -> Layout:
    """Return the tensors of a shard."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "features": ("F32", (n_rows, manifest["n_features"])),
        "logits": ("F32", (n_rows, manifest["n_classes"])),
        "ids": ("I64", (n_rows,)),
    }
    return {**layout, "labels": ("I64", (n_rows,))} if manifest["labelled"] else layout


def head_layout(manifest: Manifest) -> Layout:
    """Return the tensors of the head's file."""
    head = manifest["head"]
    only = {"n_out": manifest["n_classes"], "n_in": manifest["n_features"], "bias": head["bias"]}
    layers = enumerate(head["layers"]) if "layers" in head else [("", only)]
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, layer in layers:
        layout[f"W{number}"] = ("F32", (layer["n_out"], layer["n_in"]))
        if layer["bias"]:
            layout[f"b{number}"] = ("F32", (layer["n_out"],))
    return layout


def largest_id(folder: Path, manifest: Manifest) -> int:
    """Return the largest row number in a store."""
    shards = [
        map_tensors(folder / entry["file"], shard_layout(manifest, entry["rows"]))
        for entry in manifest["shards"]
    ]
    return max(int(shard["ids"].max()) for shard in shards)


def damaged_head(folder: Path, manifest: Manifest) -> list[Damage]:
    """Check layout and sha256 of the head; a list of one or none."""
    found = _damage(folder, manifest["head"], head_layout(manifest), range(0), every_byte=True)
    return [] if found is None else [found]


def damaged_shards(folder: Path, manifest: Manifest, *, every_byte: bool) -> list[Damage]:
    """Check the layout of every shard, and with ``every_byte`` its sha256."""
    found, first = [], 0
    for entry in manifest["shards"]:
        rows = range(first, first + entry["rows"])
        layout = shard_layout(manifest, entry["rows"])
        found.append(_damage(folder, entry, layout, rows, every_byte=every_byte))
        first = rows.stop
    return [damage for damage in found if damage is not None]


def _damage(
    folder: Path, entry: Mapping[str, Any], layout: Layout, rows: range, *, every_byte: bool
) -> Damage | None:
    file = folder / entry["file"]
    try:
        map_tensors(file, layout)
        if every_byte:
            check_hash(file, entry["sha256"])
    except DamagedFileError as error:
        return Damage(file, error.what, rows)
    return None


def _read(file: Path, *, unfinished: bool = False) -> Manifest:
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"'{file.parent}' is no finished feature store: '{MANIFEST}' is missing. "
            "Check the path, or extract the store again to a new one."
        ) from None
    except OSError as error:
        raise StoreError(f"'{file}' cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise StoreError(
            f"'{file}' is not valid JSON ({error}). Restore it or extract the store again."
        ) from error
    _check(file, manifest, unfinished)
    return dict(manifest)


def _check(file: Path, manifest: Any, unfinished: bool) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"'{file}' is not the manifest of a feature store.")
    version = manifest.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise StoreError(
            f"'{file}' has format version {version!r}; this adue_sklearn reads versions 1 to "
            f"{FORMAT_VERSION}. Upgrade adue-sklearn to read it."
        )
    fields = _FIELDS | {"n_rows": _is_row_count, "shards": _are_shards} if unfinished else _FIELDS
    wrong = [key for key, fits in fields.items() if not fits(manifest.get(key))]
    if wrong:
        raise StoreError(
            f"'{file}' lacks {wrong} or holds something else there. "
            "Restore it or extract the store again."
        )
    layers = manifest["head"].get("layers")
    ends = layers and (layers[0]["n_in"], layers[-1]["n_out"])
    if layers and ends != (manifest["n_features"], manifest["n_classes"]):
        raise StoreError(
            f"'{file}': the layers of its head go from {ends[0]} features to {ends[1]} classes, "
            f"its rows have {manifest['n_features']} and {manifest['n_classes']}. "
            "Restore it or extract the store again."
        )
    in_shards = sum(entry["rows"] for entry in manifest["shards"])
    if in_shards != manifest["n_rows"]:
        raise StoreError(
            f"'{file}' promises {manifest['n_rows']} rows but lists shards with {in_shards}. "
            "Restore it or extract the store again."
        )


def _is_row_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_file_entry(value: Any) -> bool:
    # A plain name: a manifest must not reach outside its directory.
    if not isinstance(value, dict):
        return False
    name = value.get("file")
    return (
        isinstance(name, str) and Path(name).name == name and isinstance(value.get("sha256"), str)
    )


def _are_shards(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_file_entry(entry) and _is_count(entry.get("rows")) for entry in value
    )


def _are_extractions(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(record, dict) for record in value)
    )


# What each field of a manifest must be; unknown fields are for later versions.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "n_rows": _is_count,
    "n_features": _is_count,
    "n_classes": _is_count,
    "classes": lambda value: value is None or isinstance(value, list),
    "labelled": lambda value: isinstance(value, bool),
    "provenance": lambda value: isinstance(value, dict),
    "extractions": _are_extractions,  # absent from stores written before it existed
    "head": lambda value: _is_file_entry(value) and are_head_facts(value),
    "shards": lambda value: _are_shards(value) and len(value) > 0,
}

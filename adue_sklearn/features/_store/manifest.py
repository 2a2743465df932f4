"""The manifest of a feature store: read, checked, compared with the files it lists.

A writer keeps ``unfinished.json``, which is the manifest as it would be were the writing to end
with the last whole shard. Renaming it to ``manifest.json`` is what finishes a store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from adue_sklearn._utils.files import temporary_of
from adue_sklearn._utils.places import what_instead
from adue_sklearn._utils.schemas import (
    Kind,
    PlainName,
    Schema,
    check_document,
    read_document,
)
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.files import DamagedFileError, Layout, check_hash, map_tensors

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
HOLDER = ".writer.json"  # who writes; says nothing while nobody does
HEAD = "head.safetensors"
FORMAT = "adue-feature-store"
#: The newest version that is read. A head of several layers is written as version 2, which
#: readers of version 1 refuse instead of taking its features for another layer's. Text digests and
#: views are written as version 3, to which older versions would append rows without them.
FORMAT_VERSION = 3

#: As it was read: checked, and with the fields of later versions.
Manifest = dict[str, Any]

_KIND = Kind(
    name="the manifest of a feature store",
    mend="Restore it from a copy or extract the store again.",
    newest=FORMAT_VERSION,
    error=StoreError,
)

_SHARD = re.compile(r"shard-(\d{5,})\.safetensors")


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def shard_number(name: str) -> int:
    """Return the number in a shard's file name; -1 for any other name."""
    found = _SHARD.fullmatch(name)
    return int(found[1]) if found else -1


def is_store_file(name: str) -> bool:
    """Say whether a name is that of a file that a writer writes."""
    return name in (MANIFEST, UNFINISHED, HEAD, HOLDER) or shard_number(name) >= 0


def is_temporary(name: str) -> bool:
    """Say whether a name is that of a file that was being written."""
    return is_store_file(temporary_of(name) or "")


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
            f"'{folder}' is not a finished feature store: '{MANIFEST}' is missing. The extraction "
            "is still running or was interrupted. Run the same command again to resume it."
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
        raise StoreError(
            f"provenance: expected only values that JSON supports ({error})."
        ) from error


def shard_layout(manifest: Manifest, n_rows: int) -> Layout:
    """Return the tensors of a shard."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "features": ("F32", (n_rows, manifest["n_features"])),
        "logits": ("F32", (n_rows, manifest["n_classes"])),
        "ids": ("I64", (n_rows,)),
    }
    if manifest["labelled"]:
        layout["labels"] = ("I64", (n_rows,))
    if manifest.get("text_digests"):
        layout["text_digests"] = ("U64", (n_rows,))
    for name, view in (manifest.get("views") or {}).items():
        layout[view_tensor(name)] = ("F32", (n_rows, view["n_columns"]))
    return layout


def view_tensor(name: str) -> str:
    """Return the name of a view's tensor in a shard."""
    return f"view.{name}"


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
    if not file.exists():
        what = what_instead(file.parent, "a feature store")
        if what:
            raise StoreError(f"{what} 'adue extract MODEL DATA --out STORE' writes one.")
        raise StoreError(
            f"'{file.parent}' is not a finished feature store: '{MANIFEST}' is missing. "
            "Check the path, or extract the store again to a new folder."
        )
    manifest = read_document(file, _KIND)
    if manifest.get("format") != FORMAT:
        raise StoreError(f"'{file}' is not the manifest of a feature store.")
    check_document(manifest, _Unfinished if unfinished else _Finished, file, _KIND)
    return manifest


class _File(Schema):
    file: PlainName
    sha256: str


class _Shard(_File):
    rows: PositiveInt
    truncated: NonNegativeInt = 0


class _Layer(Schema):
    n_out: PositiveInt
    n_in: PositiveInt
    bias: bool


class _Head(_File):
    bias: bool
    activation: Literal["tanh", "gelu", "relu"] | None = None
    layers: Annotated[list[_Layer], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.layers is None) != (self.activation is None):
            raise ValueError("'head' has layers without an activation, or one without the other")
        for lower, upper in pairwise(self.layers or []):
            if lower.n_out != upper.n_in:
                raise ValueError(
                    f"a layer of 'head' gives {lower.n_out} numbers, the next takes {upper.n_in}"
                )
        return self


class _Extraction(Schema):
    n_rows: NonNegativeInt | None = None
    provenance: dict[str, Any] | None = None


class _View(Schema):
    n_columns: PositiveInt
    kind: str  # later versions may have other kinds
    provenance: dict[str, Any]


class _Unfinished(Schema):
    format_version: Annotated[int, Field(ge=1, le=FORMAT_VERSION)]
    n_rows: NonNegativeInt
    n_features: PositiveInt
    n_classes: PositiveInt
    classes: list[str] | None
    labelled: bool
    head: _Head
    shards: list[_Shard]
    provenance: dict[str, Any]
    extractions: list[_Extraction] | None = None  # absent from stores written before it existed
    text_digests: bool = False
    views: dict[str, _View] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        in_shards = sum(shard.rows for shard in self.shards)
        if in_shards != self.n_rows:
            raise ValueError(f"it promises {self.n_rows} rows but lists shards with {in_shards}")
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise ValueError("'shards' lists a file twice")
        if self.classes is not None and len(set(self.classes)) != self.n_classes:
            raise ValueError(
                f"'classes' holds {len(set(self.classes))} different names; expected "
                f"{self.n_classes}, one per class"
            )
        if self.head.layers:
            ends = self.head.layers[0].n_in, self.head.layers[-1].n_out
            if ends != (self.n_features, self.n_classes):
                raise ValueError(
                    f"the layers of its head go from {ends[0]} features to {ends[1]} classes, "
                    f"its rows have {self.n_features} and {self.n_classes}"
                )
        cut = sum(shard.truncated for shard in self.shards)
        if cut and type(self.provenance.get("truncated_rows")) is not int:
            raise ValueError(
                f"{cut} rows were cut, but 'provenance.truncated_rows' is not a number"
            )
        return self


class _Finished(_Unfinished):
    n_rows: PositiveInt
    shards: Annotated[list[_Shard], Field(min_length=1)]

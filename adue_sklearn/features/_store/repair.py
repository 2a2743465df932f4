"""Finding what is damaged in a store, and making a valid store of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.files import make_folder, rename, write_atomically
from adue_sklearn.features._store.lock import WriterLock
from adue_sklearn.features._store.manifest import (
    MANIFEST,
    UNFINISHED,
    Damage,
    Manifest,
    damaged_head,
    damaged_shards,
    is_temporary,
    read_manifest,
    shard_number,
    to_json,
)

ASIDE = "set-aside"


class RepairReport(NamedTuple):
    """What a repair did.

    Attributes
    ----------
    n_rows : int
        Rows that the store holds now.
    dropped : list of Damage
        Shards that were taken out, each with its file, what is wrong with it, and its rows.
    set_aside : list of Path
        Where the damaged files and the leftovers of interrupted writers are now.
    """

    n_rows: int
    dropped: list[Damage]
    set_aside: list[Path]


def find_damage(folder: Path, manifest: Manifest) -> list[Damage]:
    """Read every file of a store and list those that differ from the manifest."""
    return damaged_head(folder, manifest) + damaged_shards(folder, manifest, every_byte=True)


def damage_error(folder: Path, damaged: Sequence[Damage]) -> StoreError:
    """Return the error that names every damaged file and says how to go on without it."""
    if any(not damage.rows for damage in damaged):
        mend = (
            "Restore it from a copy (any other store of the same model holds the same "
            "head.safetensors) or extract the store again."
        )
    else:
        mend = (
            "Restore from a copy or extract the store again; the other rows are read with "
            "FeatureStore.open(path, skip_damaged=True), and kept for good by "
            f"'adue store repair {folder}'."
        )
    lines = [*map(str, damaged), mend]
    return StoreError((" " if len(damaged) == 1 else "\n").join(lines))


def repair(folder: Path) -> RepairReport:
    """Take damaged shards out of a store and move leftovers aside; nothing is deleted."""
    read_manifest(folder)  # before a lock file is made in what may be no store
    with WriterLock(folder):
        manifest = read_manifest(folder)
        head = damaged_head(folder, manifest)
        if head:
            raise damage_error(folder, head)
        dropped = damaged_shards(folder, manifest, every_byte=True)
        if dropped:
            manifest = _without(folder, manifest, dropped)
            write_atomically(folder / MANIFEST, to_json(manifest))
        listed = {entry["file"] for entry in manifest["shards"]}
        # From here on the store is valid; a file that is no longer listed is a leftover.
        leftovers = sorted(file for file in folder.iterdir() if _is_leftover(file, listed))
        moved = [_set_aside(file) for file in leftovers]
    return RepairReport(manifest["n_rows"], dropped, moved)


def _without(folder: Path, manifest: Manifest, dropped: Sequence[Damage]) -> Manifest:
    names = {damage.file.name for damage in dropped}
    kept = [entry for entry in manifest["shards"] if entry["file"] not in names]
    if not kept:
        raise StoreError(
            f"'{folder}': every shard is damaged, so there is nothing to keep. "
            "Restore it from a copy or extract the store again."
        )
    gone = [entry for entry in manifest["shards"] if entry["file"] in names]
    provenance = dict(manifest["provenance"])
    cut = sum(entry.get("truncated", 0) for entry in gone)
    if cut:
        provenance["truncated_rows"] -= cut
    n_rows = sum(entry["rows"] for entry in kept)
    rest = {**manifest, "n_rows": n_rows, "shards": kept, "provenance": provenance}
    # The store is no longer the whole of any extraction: the same texts may be appended again.
    rest.pop("extractions", None)
    return rest


def _is_leftover(file: Path, listed: set[str]) -> bool:
    unlisted = shard_number(file.name) >= 0 and file.name not in listed
    return unlisted or file.name == UNFINISHED or is_temporary(file.name)


def _set_aside(file: Path) -> Path:
    folder = file.parent / ASIDE
    make_folder(folder)
    target, number = folder / file.name, 1
    while target.exists():
        number += 1
        target = folder / f"{file.name}.{number}"
    rename(file, target)
    return target

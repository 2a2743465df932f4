"""Finding what is damaged in a store, and saying how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.manifest import Damage, Manifest, damaged_head, damaged_shards


def find_damage(folder: Path, manifest: Manifest) -> list[Damage]:
    """Read every file of a store and list those that differ from the manifest."""
    return damaged_head(folder, manifest) + damaged_shards(folder, manifest, every_byte=True)


def damage_error(damaged: Sequence[Damage]) -> StoreError:
    """Return the error that names every damaged file and says how to go on without it."""
    if any(not damage.rows for damage in damaged):
        mend = (
            "Restore it from a copy (any other store of the same model holds the same "
            "head.safetensors) or extract the store again."
        )
    else:
        mend = (
            "Restore from a copy or extract the store again; the other rows are read with "
            "FeatureStore.open(path, skip_damaged=True)."
        )
    lines = [*map(str, damaged), mend]
    return StoreError((" " if len(damaged) == 1 else "\n").join(lines))

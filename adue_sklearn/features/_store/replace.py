"""Replacing a finished store: the new one is extracted beside it and then takes its place."""

from __future__ import annotations

import shutil
from pathlib import Path

from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.files import rename
from adue_sklearn.features._store.lock import LOCK, WriterLock
from adue_sklearn.features._store.manifest import MANIFEST, is_store_file, is_temporary


def replacement_of(folder: Path) -> Path:
    """Return where the store is written that is to take the place of another."""
    return folder.absolute().with_name(f".{folder.absolute().name}.new")


def check_replaceable(folder: Path) -> None:
    """Raise if there is anything in a store's folder that would be lost with it."""
    names = {file.name for file in folder.iterdir()}
    strangers = {
        name for name in names - {LOCK} if not is_store_file(name) and not is_temporary(name)
    }
    if strangers:
        raise StoreError(
            f"'{folder}' also holds other files ({', '.join(sorted(strangers)[:3])}), so it is "
            "not replaced. Move them elsewhere, or choose another path."
        )


def replace_store(folder: Path) -> None:
    """Put the finished replacement of a store in its place, and delete the old one."""
    with WriterLock(folder):
        check_replaceable(folder)
        old = _old(folder)
        if old.exists():
            shutil.rmtree(old)
        rename(folder, old)
        rename(replacement_of(folder), folder)
    shutil.rmtree(old)


def finish_replacing(folder: Path) -> None:
    """Do what is left where a process was killed between the two renamings."""
    new, old = replacement_of(folder), _old(folder)
    if old.exists() and (new / MANIFEST).exists() and not folder.exists():
        rename(new, folder)
        shutil.rmtree(old)


def _old(folder: Path) -> Path:
    return folder.absolute().with_name(f".{folder.absolute().name}.old")

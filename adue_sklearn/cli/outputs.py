"""Where commands write, checked before the work by one rule: what exists is left unless --force."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn._utils.files import make_folder, write_file

Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def check_output(out: Path | None, option: str, suffixes: Collection[str], *, force: bool) -> None:
    """Raise unless a file can be written; None is not asked for."""
    if out is None:
        return
    example = next(iter(suffixes))
    if out.is_dir():
        raise ValueError(
            f"{option}: {out} is a folder; name a file, such as {out / ('name' + example)}."
        )
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"{option}: {out} must end in {' or '.join(sorted(suffixes))}.")
    if out.exists() and not out.is_file():
        raise ValueError(f"{option}: {out} is not a regular file, so it cannot be replaced.")
    if out.exists() and not force:
        raise FileExistsError(
            f"{option}: {out} exists. Name another file, or replace it with --force."
        )
    check_folder(out.parent, option)


def write_output(out: Path, content: str) -> None:
    """Write a text to a file; create its folder if needed."""
    make_folder(out.parent)
    write_file(out, content.encode("utf-8"))


def check_folder(folder: Path, option: str) -> None:
    """Raise unless files can be written to a folder that exists or can be created."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise ValueError(f"{option}: {place} is a file, so a folder cannot be created there.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{option}: the folder {place} cannot be written to.")


def check_head(out: Path, *, force: bool) -> None:
    """Raise unless a head can be saved; warn of thresholds that were set for a replaced one."""
    from adue_sklearn.cli.console import warn
    from adue_sklearn.persistence import check_target

    check_target(out, overwrite=force)
    check_folder(out, "--out")
    if (out / "estimator.json").exists():
        from adue_sklearn.cli.thresholding import thresholds_of

        for file in thresholds_of(out):
            warn(
                f"{file} was set for the head in {out}, which is now replaced. 'adue predict' "
                "will reject it; set a threshold for the new head: adue threshold STORE --head "
                f"{out} --out {file} --force."
            )


def check_store(out: Path, *, append: bool, force: bool) -> None:
    """Raise unless rows can be extracted to a folder."""
    from adue_sklearn.features._store.manifest import MANIFEST
    from adue_sklearn.features._store.replace import check_replaceable
    from adue_sklearn.features._store.writer import check_target

    if append and force:
        raise ValueError("--append adds to a store and --force replaces it; use only one of them.")
    check_target(out, append=append)
    if (out / MANIFEST).exists() and not append:
        if not force:
            raise FileExistsError(
                f"--out: {out} already holds a finished store. Name another folder, add rows to "
                "it with --append, or replace it with --force."
            )
        check_replaceable(out)
    check_folder(out, "--out")

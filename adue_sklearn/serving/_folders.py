"""Folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from adue_sklearn._utils.files import make_folder, not_written


@contextlib.contextmanager
def new_folder(
    out: Path, what: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> Iterator[Path]:
    """Yield an empty folder beside ``out``, which takes its place once the block has ended.

    Parameters
    ----------
    out : Path
        A folder that does not exist, is empty, or is replaced.
    what : str
        What is written, for messages.
    is_ours : callable
        Tells whether an existing folder holds the same and so may be replaced.
    overwrite : bool
        Whether to replace it.

    Raises
    ------
    FileExistsError
        If it must not be replaced.
    OutputError
        If it cannot be written.
    """
    check_new_folder(out, what, is_ours, overwrite=overwrite)
    make_folder(out.parent)
    new, old = (
        out.with_name(f".{out.name}.{secrets.token_hex(8)}.{end}") for end in ("new", "old")
    )
    try:
        new.mkdir()
        yield new
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)
    except OSError as error:
        if error.errno is None:
            raise
        raise not_written(out, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_new_folder(
    out: Path, what: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> None:
    """Raise FileExistsError unless a folder can be written; parameters as of `new_folder`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"out: {out} is a file; name a new folder.")
    if not any(out.iterdir()):
        return
    if not is_ours(out):
        raise FileExistsError(
            f"out: {out} holds other files, so {what} is not written there; name a new folder."
        )
    if not overwrite:
        raise FileExistsError(
            f"out: {out} already holds {what}. Name a new folder, or replace it with "
            "overwrite=True (--force)."
        )

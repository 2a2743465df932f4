"""One writer at a time: a lock on the store's directory that names its holder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from adue_sklearn._utils.files import not_written
from adue_sklearn._utils.json_files import parse_json
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.files import write_atomically
from adue_sklearn.features._store.manifest import HOLDER

LOCK = ".lock"  # empty; stays, because removing a lock file lets two writers in


class WriterLock:
    """Hold the right to write to a store; the operating system ends it with the process.

    Parameters
    ----------
    folder : Path
        The store's directory, which exists.

    Raises
    ------
    StoreError
        On entering, if another writer holds it; the message names that writer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK)

    def __enter__(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"'{self._folder}' is being written by {_holder(self._folder)}. Wait until it has "
                "finished or stop it, then run again."
            ) from None
        except OSError as error:
            raise StoreError(str(not_written(self._folder / LOCK, error))) from error
        try:
            note = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(self._folder / HOLDER, json.dumps(note).encode())
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            (self._folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()


def _holder(folder: Path) -> str:
    try:
        note = parse_json((folder / HOLDER).read_bytes())
        return f"process {note['pid']} on {note['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just started or is just ending
        return "another process"

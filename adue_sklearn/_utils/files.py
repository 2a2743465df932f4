"""Writing files: atomically and durably, by any number of processes.

A file is written under a temporary name beside the target, flushed to disk and renamed. The writer
holds a lock on it meanwhile, so that leftovers of a killed writer can be distinguished from files
that are still being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from adue_sklearn.exceptions import OutputError

try:
    import fcntl
except ImportError:  # Windows, which deletes no open file: nothing is cleared there
    fcntl = None  # type: ignore[assignment]

# Those of earlier versions end in the number of a process.
_TEMPORARY = re.compile(r"\.(.+)\.(?:[0-9a-f]{16}|\d+)\.tmp")
_LONGEST_NAME_BYTES = 200  # of the target in the temporary's name; file systems take 255


def write_file(target: Path, content: bytes) -> None:
    """Write a file; afterwards it is complete and on disk, or unchanged."""
    with open_atomically(target) as stream:
        stream.write(content)


@contextlib.contextmanager
def open_atomically(target: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose content replaces the target's once the block ends without an error.

    Parameters
    ----------
    target : Path
        A file in a folder that exists. If it is there, it is replaced.

    Yields
    ------
    stream : binary file
        To be written to; it is closed afterwards.

    Raises
    ------
    OutputError
        If the file cannot be written. It is then unchanged, as after any other exception.
    """
    with _naming(target, named=True):
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "not a regular file"
            raise OutputError(f"'{target}' is {kind}; name a file.")
        clear_leftovers(target.parent, lambda name: name == _shown(target))
        temporary, stream = _new_temporary(target)
    try:
        with stream, _naming(target):
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if fcntl is None:
                stream.close()  # Windows renames no open file
            rename(temporary, target)  # under the lock: nobody clears it before
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def rename(source: Path, target: Path) -> None:
    """Rename, and flush the folder, so that the name is on disk too."""
    with _naming(target, named=True):
        source.replace(target)
    try:
        sync_folder(target.parent)
    except OSError as error:  # not "run it again": an append would then be there twice
        raise OutputError(
            f"'{target}' was written, but may not survive a power failure: its directory could not "
            f"be flushed to disk ({error.strerror or error}). Fix that and check the file."
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; their names are on disk afterwards."""
    with _naming(folder, named=True):
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for place in reversed(missing):
            sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_of(name: str) -> str | None:
    """Return the name of the file that a temporary file was to become; None for other files."""
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else None


def clear_leftovers(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Delete what killed writers left in a folder; files being written stay.

    Parameters
    ----------
    folder : Path
        The folder.
    is_ours : callable
        Says of a file's final name whether its temporary files are to be cleared.
    """
    if fcntl is None:
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        target = temporary_of(name)
        if target is not None and is_ours(target):
            with contextlib.suppress(OSError):  # another process cleared it, or it is in use
                _delete_unless_locked(folder / name)


def not_written(file: Path, error: OSError) -> OutputError:
    """Return the error for a file that the operating system could not write."""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    mend = "Free some space there" if full else "Fix that"
    return OutputError(
        f"'{file}' could not be written: {error.strerror or error}. Earlier results are safe. "
        f"{mend}, then run the same again."
    )


@contextlib.contextmanager
def _naming(file: Path, *, named: bool = False) -> Iterator[None]:
    """Turn an error of writing into one that names the file.

    Unless ``named``, an error that names a file itself concerns another file, which was read.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno is None or (error.filename is not None and not named):
            raise
        raise not_written(file, error) from error


def _new_temporary(target: Path) -> tuple[Path, BinaryIO]:
    """Create a file that no other process has or clears, without following links."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = target.with_name(f".{_shown(target)}.{secrets.token_hex(8)}.tmp")
        try:
            descriptor = os.open(temporary, flags, 0o666)  # less what the umask takes away
        except FileExistsError:
            continue
        stream = os.fdopen(descriptor, "wb")
        if _lock(descriptor):
            return temporary, stream
        stream.close()  # another process cleared it before it was locked


def _lock(descriptor: int) -> bool:
    """Lock a new file; say whether it is still there."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks, where no process can clear anything either
        return True
    return os.fstat(descriptor).st_nlink > 0


def _delete_unless_locked(temporary: Path) -> None:
    descriptor = os.open(temporary, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink()
    finally:
        os.close(descriptor)


def _shown(target: Path) -> str:
    return os.fsdecode(os.fsencode(target.name)[:_LONGEST_NAME_BYTES])

"""Files of a feature store: written atomically, hashed, mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

Arrays = dict[str, npt.NDArray[Any]]

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_HEADER_SIZE_BYTES = 8  # safetensors: header length (uint64), header (JSON), data


class StoreError(ValueError):
    """A feature store cannot be read or written; the message names the file and the mend."""


def write_atomically(file: Path, content: bytes) -> None:
    """Write under a temporary name, flush to disk, rename: the file is whole or absent."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(file: Path, tensors: Arrays) -> dict[str, str]:
    """Write a safetensors file; return its manifest entry (name and sha256)."""
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    write_atomically(file, content)
    return {"file": file.name, "sha256": hashlib.sha256(content).hexdigest()}


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_hash(file: Path, expected: str) -> None:
    """Raise StoreError unless the file's sha256 is the expected one."""
    if not file.is_file():
        raise _damaged(file, "it is missing")
    if sha256_of(file) != expected:
        raise _damaged(file, "its sha256 is not the one in the manifest")


def map_tensors(file: Path, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> Arrays:
    """Map the tensors of a safetensors file into memory, read-only.

    Parameters
    ----------
    file : Path
        A safetensors file.
    expected : mapping of str to (str, tuple of int)
        Name, safetensors dtype and shape of every tensor that the file must hold.
    """
    header, data_start = _read_header(file)
    sizes = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    size = file.stat().st_size
    if size != data_start + max(sizes, default=0):
        raise _damaged(file, f"it is truncated or has surplus bytes ({size} bytes)")
    arrays: Arrays = {}
    for name, (dtype, shape) in expected.items():
        entry = header.get(name)
        if entry is None or entry["dtype"] != dtype or tuple(entry["shape"]) != shape:
            found = "absent" if entry is None else f"{entry['dtype']} {entry['shape']}"
            raise _damaged(file, f"'{name}' should be {dtype} {list(shape)} but is {found}")
        offset = data_start + entry["data_offsets"][0]
        arrays[name] = np.memmap(file, _DTYPES[dtype], mode="r", offset=offset, shape=shape)
    return arrays


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_HEADER_SIZE_BYTES), "little")
            if length > file.stat().st_size:
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
            if not isinstance(header, dict):
                raise ValueError("header is not a JSON object")
    except FileNotFoundError:
        raise _damaged(file, "it is missing") from None
    except ValueError as error:
        raise _damaged(file, f"it is truncated or no safetensors file ({error})") from error
    return header, _HEADER_SIZE_BYTES + length


def _damaged(file: Path, what: str) -> StoreError:
    return StoreError(
        f"Feature store file '{file}' cannot be used: {what}. "
        "Restore it from a copy or extract the store again."
    )

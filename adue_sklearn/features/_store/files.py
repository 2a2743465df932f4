"""Files of a feature store: written atomically, hashed, mapped into memory."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from adue_sklearn._utils import files
from adue_sklearn._utils.json_files import parse_json
from adue_sklearn.exceptions import OutputError, StoreError

Arrays = dict[str, npt.NDArray[Any]]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name: safetensors dtype and shape

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
_HEADER_SIZE_BYTES = 8  # safetensors: header length (uint64), header (JSON), data


class DamagedFileError(StoreError):
    """One file of a store is missing, truncated or changed."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"Feature store file '{file}' cannot be used: {what}")
        self.file = file
        self.what = what


@contextlib.contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except OutputError as error:
        raise StoreError(str(error)) from error


# What is written is whole and on disk afterwards, names included, or as it was.
write_atomically = _as_store_error()(files.write_file)
rename = _as_store_error()(files.rename)
make_folder = _as_store_error()(files.make_folder)


def tensor_bytes(tensors: Arrays) -> bytes:
    """Return the safetensors file of some arrays; equal arrays give equal bytes."""
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


def file_entry(name: str, content: bytes) -> dict[str, Any]:
    """Return a file's entry in the manifest: name and sha256."""
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest()}


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_hash(file: Path, expected: str) -> None:
    """Raise DamagedFileError unless the file's sha256 is the expected one."""
    with _as_damage(file):
        found = sha256_of(file)
    if found != expected:
        raise DamagedFileError(file, "its sha256 differs from the one in the manifest")


def map_tensors(file: Path, expected: Layout) -> Arrays:
    """Map the tensors of a safetensors file into memory, read-only.

    Parameters
    ----------
    file : Path
        A safetensors file.
    expected : mapping of str to (str, tuple of int)
        Name, safetensors dtype and shape of every tensor that the file must hold.
    """
    with _as_damage(file):
        header, data_start = _read_header(file)
        _check_layout(header, expected)
        size, promised = file.stat().st_size, data_start + _end_of_data(header)
        if size != promised:
            raise ValueError(f"{size} bytes instead of {promised}")
        return {
            name: np.memmap(
                file,
                _DTYPES[dtype],
                mode="r",
                offset=data_start + header[name]["data_offsets"][0],
                shape=shape,
            )
            for name, (dtype, shape) in expected.items()
        }


@contextlib.contextmanager
def _as_damage(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DamagedFileError(file, "it is missing") from None
    except OSError as error:
        raise DamagedFileError(file, f"it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DamagedFileError(file, f"it is truncated or damaged ({error})") from error


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_SIZE_BYTES), "little")
        if length > file.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = parse_json(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, _HEADER_SIZE_BYTES + length


def _check_layout(header: Mapping[str, Any], expected: Layout) -> None:
    """Raise ValueError unless the header describes the expected tensors; it may hold others."""
    for name, entry in header.items():
        if not isinstance(entry, dict) or not _are_offsets(entry.get("data_offsets")):
            raise ValueError(f"its header describes '{name}' as {entry!r}")
    for name, (dtype, shape) in expected.items():
        entry = header.get(name, {})
        found = f"{entry.get('dtype')} {entry.get('shape')}" if entry else "absent"
        if found != f"{dtype} {list(shape)}":
            raise ValueError(f"'{name}' should be {dtype} {list(shape)} but is {found}")
        start, stop = entry["data_offsets"]
        if stop - start != math.prod(shape) * _DTYPES[dtype].itemsize:
            raise ValueError(f"'{name}' is {dtype} {list(shape)} but has {stop - start} bytes")


def _are_offsets(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(offset) is int and offset >= 0 for offset in value)
    )


def _end_of_data(header: Mapping[str, Any]) -> int:
    return max((entry["data_offsets"][1] for entry in header.values()), default=0)

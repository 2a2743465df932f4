"""Checks of arguments: what it was, what is expected, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn.exceptions import StoreError


def array(
    name: str, values: npt.ArrayLike, kind: str, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """Check and convert: kind "f" to float32, "i" to int64, "u" to uint64.

    A size of None is any from 1.
    """
    try:
        array = as_numpy(values)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{name}: expected an array, got something else ({error}).") from error
    allowed = {"f": "fiu", "i": "iu", "u": "u"}[kind]
    if array.dtype.kind not in allowed:
        wanted = {"f": "numbers", "i": "integers", "u": "unsigned integers"}[kind]
        raise StoreError(f"{name}: expected {wanted}, got dtype {array.dtype}.")
    fits = array.ndim == len(shape) and all(
        size == want if want is not None else size >= 1
        for size, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("at least 1" if want is None else str(want) for want in shape)
        raise StoreError(f"{name}: expected shape ({wanted}), got {array.shape}.")
    if kind == "i":
        return array.astype(np.int64)
    if kind == "u":
        return array.astype(np.uint64)
    with np.errstate(over="ignore"):  # what float32 cannot hold is reported as inf below
        converted = array.astype(np.float32)
    if not np.isfinite(converted).all():
        row = int(np.argwhere(~np.isfinite(converted))[0, 0])
        raise StoreError(f"{name}: NaN or inf (as float32) in row {row}; expected finite values.")
    return converted


def check_labels(labels: npt.NDArray[Any], n_classes: int) -> npt.NDArray[Any]:
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if outside.size:
        raise StoreError(
            f"labels: {int(outside[0])} is out of range: the head has {n_classes} rows; "
            f"expected 0 to {n_classes - 1}."
        )
    return labels


def check_classes(classes: Sequence[str] | None, n_classes: int) -> list[str] | None:
    if classes is None:
        return None
    if isinstance(classes, np.ndarray):
        classes = np.atleast_1d(classes).tolist()
    if not isinstance(classes, Sequence) or isinstance(classes, str | bytes):
        raise ValueError(f"classes: expected a list of str, got {type(classes).__name__}.")
    if not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes: expected a list of str, got {list(classes)!r}.")
    if len(classes) != n_classes or len(set(classes)) != n_classes:
        raise ValueError(
            f"classes: expected {n_classes} different names, one per head row, got {classes!r}."
        )
    return [str(name) for name in classes]


def check_provenance(provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    if provenance is not None and not isinstance(provenance, Mapping):
        raise StoreError(
            f"provenance: expected a mapping of names to facts, got {type(provenance).__name__}."
        )
    return dict(provenance or {})


#: A view is a keyword of ``Views``, which has these of its own.
_TAKEN = ("main", "texts", "text_digests")


def check_view_name(name: Any, what: str = "views") -> str:
    """Return the name of a view; raise ValueError if it cannot be one."""
    if not isinstance(name, str) or re.fullmatch("[a-z0-9_]+", name) is None or name in _TAKEN:
        raise ValueError(
            f"{what}: {name!r} cannot name a view; expected lower-case letters, digits and '_', "
            f"and none of {', '.join(_TAKEN)}."
        )
    return name


def check_digests(digests: Any, n_rows: int, store: Path) -> npt.NDArray[np.uint64]:
    """Return the digests of the texts of rows that are written to a store that has digests."""
    if digests is None:
        raise StoreError(
            f"text_digests: '{store}' holds digests of its texts; pass those of these rows too."
        )
    return array("text_digests", digests, "u", (n_rows,))


def check_blocks(
    blocks: Mapping[str, Any] | None,
    views: Mapping[str, Mapping[str, Any]],
    n_rows: int,
    store: Path,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the blocks of rows that are written to a store with these views."""
    if set(blocks or {}) != set(views):
        raise StoreError(
            f"views: '{store}' has {_listed(views)}, these rows have {_listed(blocks or {})}; "
            "they must be the same."
        )
    return {
        name: _check_block(f"views['{name}']", (blocks or {})[name], n_rows, view)
        for name, view in views.items()
    }


def _check_block(
    name: str, block: Any, n_rows: int, view: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """Return a view's block; of some views a row may be NaN, which is then without the view."""
    shape = (n_rows, view["n_columns"])
    if not view.get("may_lack_rows"):
        return array(name, block, "f", shape)
    given = as_numpy(block)
    lacking = np.isnan(given).all(axis=-1, keepdims=True)
    checked = array(name, np.where(lacking, 0.0, given), "f", shape)
    return np.where(lacking, np.float32(np.nan), checked)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def check_path(name: str, value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name}: expected a path, got {type(value).__name__}.")
    if "\0" in str(value):
        raise ValueError(f"{name}: expected a path, got {value!r}, which holds a null character.")
    return Path(value)


def check_progress(progress: Any) -> None:
    if progress is not None and not callable(progress):
        raise ValueError(
            "progress: expected a function that takes the number of rows just done, got "
            f"{type(progress).__name__}."
        )


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: expected True or False, got {value!r}.")


def check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}.")

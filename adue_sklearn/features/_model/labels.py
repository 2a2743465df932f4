"""True labels as the caller has them, as row numbers of the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.validation import naming


def label_rows(
    labels: Any,
    n_rows: int,
    classes: Sequence[str] | None,
    n_classes: int,
    *,
    rows: Sequence[int] | None = None,
    name: str = "labels",
    first_row: int = 0,
) -> npt.NDArray[np.int64] | None:
    """Translate labels to row numbers of the head.

    Parameters
    ----------
    labels : array-like of shape (n_rows,) of int or str, or None
        Integers are row numbers already; strings are class names.
    n_rows : int
        Number of texts.
    classes : sequence of str or None
        Class names in the order of the head's rows.
    n_classes : int
        Rows of the head.
    rows : sequence of int, optional
        The texts whose labels count, by number from 0; by default all.
    name : str, default="labels"
        What the labels are called in messages.
    first_row : int, default=0
        The number of the first row in messages.

    Returns
    -------
    ndarray of shape (n_rows,), or of as many as ``rows``, int64, or None

    Raises
    ------
    ValueError
        Wrong length, wrong type, an unknown name or a number outside the head's rows; with the
        first row that holds such, and its label.

    Examples
    --------
    >>> label_rows(["bad", "good"], 2, ["bad", "good"], 2)
    array([0, 1])
    """
    if labels is None:
        return None
    listed = _as_list(labels)
    if len(listed) != n_rows:
        raise ValueError(f"{name}: expected one per text ({n_rows}), got {len(listed)}.")
    numbers = range(n_rows) if rows is None else rows
    listed = [listed[number] for number in numbers]
    shown = [number + first_row for number in numbers]
    if all(isinstance(label, str) for label in listed):
        return _rows_of_names(listed, classes, n_classes, name, shown)
    for row, label in zip(shown, listed, strict=True):
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise ValueError(
                f"{name}: expected integers (row numbers of the head) or strings (class names), "
                f"but row {row} holds {label!r} ({type(label).__name__}).{_hint(label)}"
            )
        if not 0 <= label < n_classes:
            raise ValueError(
                f"{name}: row {row} holds {label}, but the head has {n_classes} rows; expected 0 "
                f"to {n_classes - 1}."
            )
    return np.array(listed, dtype=np.int64)


def _hint(label: Any) -> str:
    if isinstance(label, bool):
        return f" Write {int(label)} instead of {label}."
    if isinstance(label, float) and label.is_integer():
        return f" Write {int(label)} instead of {label}; a missing label turns a column to floats."
    if isinstance(label, str):
        return " Do not mix names and numbers."
    return ""


def _as_list(labels: Any) -> list[Any]:
    with naming("labels", "a list of int or str"):
        listed = as_numpy(labels).tolist() if hasattr(labels, "tolist") else labels
    if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
        raise ValueError(f"labels: expected a list of int or str, got {type(labels).__name__}.")
    return list(listed)


def _rows_of_names(
    labels: list[str],
    classes: Sequence[str] | None,
    n_classes: int,
    name: str,
    shown: Sequence[int],
) -> npt.NDArray[np.int64]:
    numbers = {str(row) for row in range(n_classes)}
    quoted = (
        " They look like row numbers of the head: write them as numbers, without quotes."
        if set(labels) <= numbers
        else ""
    )
    if classes is None:
        raise ValueError(
            f"{name}: strings need the class names in the order of the head's rows, which this "
            f"model does not give; load it with classes=[...] (--classes).{quoted}"
        )
    row_of: Mapping[str, int] = {label: row for row, label in enumerate(classes)}
    unknown = [row for row, label in enumerate(labels) if label not in row_of]
    if unknown:
        first = labels[unknown[0]]
        meant = [label for label in classes if label.strip().lower() == first.strip().lower()]
        more = f" (nor are those of {len(unknown) - 1} more rows)" if len(unknown) > 1 else ""
        close = f" Did you mean {meant[0]!r}?" if meant else ""
        raise ValueError(
            f"{name}: row {shown[unknown[0]]} holds {first!r}, which is not among the classes"
            f"{more}; expected one of {list(classes)}.{close}{quoted}"
        )
    return np.array([row_of[label] for label in labels], dtype=np.int64)

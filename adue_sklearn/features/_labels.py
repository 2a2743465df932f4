"""True labels as the caller has them, as row numbers of the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._torch import as_numpy
from adue_sklearn._validation import naming
from adue_sklearn.features._checks import check_labels


def label_rows(
    labels: Any, n_rows: int, classes: Sequence[str] | None, n_classes: int
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

    Returns
    -------
    ndarray of shape (n_rows,), int64, or None

    Raises
    ------
    ValueError
        Wrong length, wrong type, an unknown name or a number outside the head's rows.

    Examples
    --------
    >>> label_rows(["bad", "good"], 2, ["bad", "good"], 2)
    array([0, 1])
    """
    if labels is None:
        return None
    listed = _as_list(labels)
    if len(listed) != n_rows:
        raise ValueError(f"labels: expected one a text ({n_rows}), got {len(listed)}.")
    if all(isinstance(label, str) for label in listed):
        return _rows_of_names(listed, classes)
    for row, label in enumerate(listed):
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise ValueError(
                "labels: expected integers (row numbers of the head) or strings (class names), "
                f"but row {row} is {label!r} ({type(label).__name__})."
            )
    return check_labels(np.array(listed, dtype=np.int64), n_classes)


def _as_list(labels: Any) -> list[Any]:
    with naming("labels", "a list of int or str"):
        listed = as_numpy(labels).tolist() if hasattr(labels, "tolist") else labels
    if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
        raise ValueError(f"labels: expected a list of int or str, got {type(labels).__name__}.")
    return list(listed)


def _rows_of_names(labels: list[str], classes: Sequence[str] | None) -> npt.NDArray[np.int64]:
    if classes is None:
        raise ValueError(
            "labels: strings need the class names in the order of the head's rows, which this "
            "model does not say; load it with classes=[...] (--classes)."
        )
    row_of: Mapping[str, int] = {name: row for row, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(row_of))
    if unknown:
        raise ValueError(
            f"labels: {unknown[:5]} are not among the classes; expected {list(classes)}."
        )
    return np.array([row_of[label] for label in labels], dtype=np.int64)

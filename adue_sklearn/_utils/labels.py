"""True labels and the labels of classes: strings or numbers, as places among the classes."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.validation import naming


def check_labels(y: Any, n_samples: int, name: str) -> npt.NDArray[Any]:
    """Return labels as a 1-D array of ``n_samples`` discrete values; ``name`` is for messages."""
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None; pass the true labels."
        )
    with naming("y", "one label per row, all strings or all numbers, shape (n_samples,)"):
        y = column_or_1d(as_numpy(y), warn=True)
        if y.dtype == object:
            y = _plain_labels(y)
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity; drop the rows without a label.")
        check_classification_targets(y)
    if len(y) != n_samples:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_samples} rows, "
            f"y has {len(y)} labels; the numbers must be equal."
        )
    return y.astype(np.int64) if y.dtype.kind == "b" else y


def check_class_labels(classes: Any) -> npt.NDArray[Any]:
    """Return ``classes`` as a 1-D array of different strings or numbers."""
    with naming("classes", "one label per class, all different"):
        array = as_numpy(classes)
        if array.ndim != 1 or len(array) == 0:
            raise ValueError(f"classes has shape {array.shape}; expected one label per class.")
        if array.dtype == object:
            array = _plain_labels(array)
        if array.dtype.kind not in "iufbOUST":
            raise ValueError(f"classes has dtype {array.dtype}; expected strings or numbers.")
        if len(np.unique(array)) != len(array):
            raise ValueError(f"classes repeats a label: {shorten(array)}; each row needs its own.")
        return array


def _plain_labels(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an object array of numbers as numbers; keep strings; raise for a mixture."""
    if all(isinstance(label, str) for label in y):
        return y
    if all(isinstance(label, Real) for label in y):
        return np.array(y.tolist())
    odd = next(label for label in y if not isinstance(label, str))
    raise ValueError(
        f"y mixes labels of different kinds, such as {odd!r} ({type(odd).__name__}); expected all "
        "strings or all numbers."
    )


def as_row_numbers(
    y: npt.NDArray[Any], classes: npt.NDArray[Any], *, named: bool
) -> npt.NDArray[np.int64]:
    """Return labels as places in ``classes``; unless ``named``, these are 0 to C - 1."""
    if not named:
        if y.dtype.kind in "OUST":
            raise ValueError(
                f"y holds strings ({shorten(np.unique(y.astype(str)))}), but classes was not "
                "given; expected fit(..., classes=[...]), the labels in the order of init_W's "
                "rows."
            )
        n_classes = len(classes)
        outside = (y < 0) | (y >= n_classes) | (y != np.floor(y))
        if outside.any():
            raise ValueError(
                f"y holds {shorten(np.unique(y[outside]))}, but the head has {n_classes} classes: "
                f"labels must be its row numbers 0 to {n_classes - 1}. Or pass classes, the "
                "labels in the order of init_W's rows."
            )
        return y.astype(np.int64)
    if (y.dtype.kind in "OUST") != (classes.dtype.kind in "OUST"):
        raise ValueError(
            f"y has dtype {y.dtype} and classes {classes.dtype} ({shorten(classes)}): y must hold "
            "entries of classes. For row numbers, leave classes out."
        )
    if len(classes) == 0:
        raise ValueError("classes is empty; expected the labels of the head's rows.")
    order = np.argsort(classes)
    place = np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)
    labels = order[place]
    unknown = classes[labels] != y
    if unknown.any():
        raise ValueError(
            f"y holds {shorten(np.unique(y[unknown]))}, not among classes "
            f"({shorten(classes)}); every label must be one of the head's classes."
        )
    return labels.astype(np.int64)


def shorten(values: npt.NDArray[Any], most: int = 5) -> str:
    shown = ", ".join(repr(v) for v in values[:most].tolist())
    return shown + (f", ... ({len(values)} in all)" if len(values) > most else "")

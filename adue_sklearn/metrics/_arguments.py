"""Checks of the metrics' arguments, and their return types."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_scalar
from sklearn.utils.validation import column_or_1d

from adue_sklearn._utils.validation import naming, share_hint, warn

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Estimate(NamedTuple):
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


def prediction_errors(predicted: Any, y: Any) -> BoolArray:
    """Return where predicted labels differ from the true ones.

    Parameters
    ----------
    predicted, y : array-like of shape (n_samples,)
        Predicted and true labels: both numbers or both strings.

    Returns
    -------
    errors : ndarray of bool of shape (n_samples,)
        True where they differ.

    Raises
    ------
    ValueError
        If one holds strings and the other numbers, or the lengths differ.

    Examples
    --------
    >>> from adue_sklearn.metrics import prediction_errors
    >>> prediction_errors(["no", "yes"], ["no", "no"])
    array([False,  True])
    """
    predicted = as_column(predicted, "predicted")
    y = as_column(y, "y")
    if len(predicted) != len(y):
        raise ValueError(
            f"y has {len(y)} labels, but there are {len(predicted)} predictions; the numbers must "
            "be equal."
        )
    if (y.dtype.kind in "OUST") != (predicted.dtype.kind in "OUST"):
        raise ValueError(
            f"y has dtype {y.dtype}, but the predicted labels have dtype {predicted.dtype} (such "
            f"as {predicted[:1].tolist()}); expected labels of the same kind as in fit."
        )
    return np.asarray(predicted != y, dtype=bool)


def judge(estimator: Any, X: Any, y: Any) -> tuple[BoolArray, Any]:
    """Return where the estimator's predictions are wrong, and its uncertainty."""
    require(estimator, "predict", "score_samples")
    return prediction_errors(estimator.predict(X), y), -estimator.score_samples(X)


def require(estimator: Any, *methods: str) -> None:
    """Raise unless an estimator has the methods."""
    missing = [method for method in methods if not hasattr(estimator, method)]
    if isinstance(estimator, type) or missing:
        what = f"has no {missing[0]}" if missing else "is a class"
        raise TypeError(
            f"estimator is {estimator!r}, which {what}; expected a fitted uncertainty estimator, "
            "or a pipeline or a search that ends in one."
        )


def check_scores(
    errors: Any, uncertainty: Any, *, name: str = "uncertainty"
) -> tuple[BoolArray, FloatArray]:
    """Return errors as bool (n,) and scores as float64 (n,), checked; scores may be infinite."""
    flags, scores = as_column(errors, "errors"), as_column(uncertainty, name)
    with naming(name, "one number per row, shape (n_samples,)"):
        scores = scores.astype(np.float64, copy=False)
    if len(flags) != len(scores):
        raise ValueError(
            f"errors has {len(flags)} rows, {name} has {len(scores)}; they must be equal."
        )
    if len(flags) == 0:
        raise ValueError(f"errors and {name} are empty; metrics need at least one row.")
    flags = as_flags(
        flags,
        "errors must be True or 1 where the classifier is wrong and False or 0 elsewhere, that "
        "is, predictions != labels",
    )
    if np.isnan(scores).any():
        raise ValueError(
            f"{name} contains NaN in {int(np.isnan(scores).sum())} of {len(scores)} rows; "
            "every row needs a score. Drop these rows, or give them the highest score."
        )
    return flags, scores


def as_flags(values: npt.NDArray[Any], expected: str) -> BoolArray:
    """Return what is 0 or 1 as bool; otherwise raise, saying what was ``expected``."""
    if values.dtype == bool:
        return values
    if values.dtype.kind in "iuf":
        odd = values[(values != 0) & (values != 1)].tolist()
    else:
        odd = [value for value in values.tolist() if value not in (0, 1)]
    if odd:
        raise ValueError(f"{expected}; got values such as {odd[:3]}.")
    return values.astype(bool)


#: What else a share may be, and the whole in words, by the boundaries that are included.
_SHARES: dict[str, tuple[tuple[int, ...], str]] = {
    "neither": ((), "above 0 and below 1"),
    "right": ((1,), "above 0 and at most 1"),
    "both": ((0, 1), "from 0 to 1"),
}


def check_share(value: Any, name: str, boundaries: str) -> None:
    """Raise unless ``value`` is a number between 0 and 1, or one of the boundaries included."""
    check_scalar(value, name, Real)
    included, expected = _SHARES[boundaries]
    if not (0 < value < 1 or value in included):
        raise ValueError(f"{name} is {value}; it must be {expected}.{share_hint(value)}")


def check_choice(value: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def as_column(values: Any, name: str) -> npt.NDArray[Any]:
    """Return a 1-D numpy array, from tensors of any device and dtype too."""
    with naming(name, "one value per row, shape (n_samples,)"):
        return column_or_1d(as_array(values, name))


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """Return a numpy array, from tensors of any device and dtype too."""
    with naming(name, "an array of real numbers"):
        if hasattr(values, "detach"):  # a tensor, without importing torch
            values = values.detach().cpu()
            values = (values.double() if values.is_floating_point() else values).numpy()
        return np.asarray(values)


def undefined(errors: BoolArray, metric: str) -> bool:
    """Return whether there are no errors or only errors; warn the caller's caller if so."""
    if 0 < errors.sum() < len(errors):
        return False
    which = "only errors" if errors.all() else "no errors"
    warn(
        f"{metric} is undefined: the {len(errors)} rows hold {which}. Use more rows, or folds "
        "stratified on the errors.",
        UndefinedMetricWarning,
    )
    return True

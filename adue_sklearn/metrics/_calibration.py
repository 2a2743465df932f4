"""How well probabilities are calibrated.

Each metric takes either the probability of an event for each row and whether it happened, such as
P(error) and errors, or class probabilities (n, C) and labels.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.utils import check_scalar

from adue_sklearn._utils.validation import naming
from adue_sklearn.metrics._arguments import (
    BoolArray,
    FloatArray,
    IntArray,
    as_array,
    as_column,
    as_flags,
    check_choice,
)


def calibration_error(
    y_true: Any,
    probabilities: Any,
    *,
    classes: Any = None,
    n_bins: int = 15,
    strategy: Literal["uniform", "quantile"] = "uniform",
    norm: Literal["l1", "l2", "max"] = "l1",
    classwise: bool = False,
    debias: bool = False,
) -> float:
    r"""Return how far observed frequencies are from predicted probabilities, over bins.

    With the share ``w_b`` of rows in bin b, their mean probability ``p_b`` and the frequency
    ``f_b`` of the event, this is ``sum_b w_b |f_b - p_b|`` (the ECE), the root of
    ``sum_b w_b (f_b - p_b)^2``, or the largest ``|f_b - p_b|``.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        If ``probabilities`` has one dimension: whether the event happened, True or 1 where it did,
        such as errors for P(error). Otherwise labels.
    probabilities : array-like of shape (n_samples,) or (n_samples, n_classes)
        Of the event, or of each class. For class probabilities, the largest is compared with
        whether its class is the label, unless ``classwise``.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the columns. If None, labels are column numbers.
    n_bins : int, default=15
        Number of bins; empty ones are ignored.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or of equal mass: each edge is the smallest probability that has a
        share of ``b / n_bins`` of the rows at or below it. Equal probabilities are always in one
        bin, in any order of rows, so bins have equal mass only as far as ties allow.
    norm : {"l1", "l2", "max"}, default="l1"
        How gaps are combined: the ECE [1]_, the root mean square [2]_, or the maximum.
    classwise : bool, default=False
        Compare each column with whether the label is its class, in separate bins, and average
        over classes (with ``norm="max"``: the largest gap of all) [3]_.
    debias : bool, default=False
        Subtract from each squared gap the variance of its frequency, ``f_b (1 - f_b) / (n_b - 1)``
        [2]_, which otherwise makes calibrated probabilities look worse the more bins there are.
        Only for ``norm="l2"``. Bins of one row are then ignored; the result is the root of the
        rest, or 0 if that is negative.

    Returns
    -------
    error : float
        In [0, 1], lower is better.

    References
    ----------
    .. [1] Guo et al., "On calibration of modern neural networks", ICML 2017.
    .. [2] Kumar et al., "Verified uncertainty calibration", NeurIPS 2019.
    .. [3] Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019.

    Examples
    --------
    >>> from adue_sklearn.metrics import calibration_error
    >>> errors, p_error = [0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25]
    >>> calibration_error(errors, p_error)
    0.0
    >>> probabilities = [[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.2, 0.8]]
    >>> round(calibration_error([0, 0, 1, 1], probabilities), 3)
    0.05
    """
    check_scalar(n_bins, "n_bins", Integral, min_val=1)
    check_choice(strategy, "strategy", ("uniform", "quantile"))
    check_choice(norm, "norm", ("l1", "l2", "max"))
    check_scalar(classwise, "classwise", (bool, np.bool_))
    check_scalar(debias, "debias", (bool, np.bool_))
    if debias and norm != "l2":
        raise ValueError(f"debias needs norm='l2'; got norm={norm!r}.")
    outcomes, forecasts = _events(y_true, probabilities, classes, classwise=classwise)
    columns = [
        bin_rates(happened, forecast, n_bins, strategy)
        for happened, forecast in zip(outcomes.T, forecasts.T, strict=True)
    ]
    n, frequency, mean = (np.concatenate(part) for part in zip(*columns, strict=True))
    weight = n / outcomes.size
    gap = np.abs(frequency - mean)
    if norm == "max":
        return float(gap.max())
    if norm == "l1":
        return float(weight @ gap)
    squares = gap**2
    if debias:
        variance = frequency * (1 - frequency) / np.maximum(n - 1, 1)
        squares = np.where(n > 1, squares - variance, 0.0)
    return float(np.sqrt(max(weight @ squares, 0.0)))


def brier_score(y_true: Any, probabilities: Any, *, classes: Any = None) -> float:
    """Return the mean squared distance of probabilities from outcomes.

    scikit-learn's ``brier_score_loss``, also for tensors and with this package's labels.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Whether the event happened, or labels, as in :func:`calibration_error`.
    probabilities : array-like of shape (n_samples,) or (n_samples, n_classes)
        Of the event, or of each class.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the columns. If None, labels are column numbers.

    Returns
    -------
    score : float
        Lower is better. For an event, or two classes, in [0, 1]. For more classes the squares
        are summed over them, in [0, 2].

    References
    ----------
    .. [1] Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
       Review 78, 1950.

    Examples
    --------
    >>> from adue_sklearn.metrics import brier_score
    >>> round(brier_score([0, 1], [0.2, 0.6]), 4)
    0.1
    >>> round(brier_score([0, 1], [[0.8, 0.2], [0.4, 0.6]]), 4)
    0.1
    """
    y, probabilities = _check(y_true, probabilities, classes)
    if probabilities.ndim == 1:
        return float(brier_score_loss(y, probabilities, pos_label=1))
    return float(brier_score_loss(y, probabilities, labels=np.arange(probabilities.shape[1])))


class BrierDecomposition(NamedTuple):
    """The Brier score is reliability - resolution + uncertainty + variance - covariance."""

    reliability: float
    resolution: float
    uncertainty: float
    within_bin_variance: float
    within_bin_covariance: float


def brier_decomposition(
    y_true: Any,
    probabilities: Any,
    *,
    classes: Any = None,
    n_bins: int | None = 15,
    strategy: Literal["uniform", "quantile"] = "uniform",
) -> BrierDecomposition:
    """Return the components of the Brier score.

    In bins with the share ``w_b`` of rows, mean probability ``p_b``, frequency ``f_b``, and the
    frequency ``f`` of all rows: *reliability* ``sum w_b (p_b - f_b)^2`` is the loss from
    miscalibrated probabilities; *resolution* ``sum w_b (f_b - f)^2`` is the gain from
    distinguishing rows; *uncertainty* ``f (1 - f)`` is the score of always forecasting ``f`` [1]_.
    These three add up to the score only if all probabilities of a bin are equal. Otherwise there
    are two more terms [2]_: the mean *within-bin variance* of the probabilities and twice the mean
    *within-bin covariance* of probabilities and outcomes, so that always ``brier_score ==
    reliability - resolution + uncertainty + within_bin_variance - within_bin_covariance``.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Whether the event happened, or labels, as in :func:`calibration_error`.
    probabilities : array-like of shape (n_samples,) or (n_samples, n_classes)
        Of the event, or of each class. Terms of classes are added as in :func:`brier_score`:
        summed, and halved for two classes.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the columns. If None, labels are column numbers.
    n_bins : int or None, default=15
        Number of bins. None: one for each distinct probability, with no terms within bins; for
        probabilities that do not repeat, reliability is then the score itself and not informative.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width or of equal mass.

    Returns
    -------
    BrierDecomposition
        ``reliability``, ``resolution``, ``uncertainty``, ``within_bin_variance``,
        ``within_bin_covariance`` (with its factor of two).

    References
    ----------
    .. [1] Murphy, "A new vector partition of the probability score", Journal of Applied
       Meteorology 12, 1973.
    .. [2] Stephenson et al., "Two extra components in the Brier score decomposition", Weather and
       Forecasting 23, 2008.

    Examples
    --------
    >>> from adue_sklearn.metrics import brier_decomposition
    >>> parts = brier_decomposition([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.9], n_bins=None)
    >>> [round(part, 3) for part in parts]
    [0.023, 0.083, 0.25, 0.0, 0.0]
    """
    if n_bins is not None:
        check_scalar(n_bins, "n_bins", Integral, min_val=1)
    check_choice(strategy, "strategy", ("uniform", "quantile"))
    outcomes, forecasts = _events(y_true, probabilities, classes, classwise=True)
    parts = [
        _decompose(happened, forecast, n_bins, strategy)
        for happened, forecast in zip(outcomes.T, forecasts.T, strict=True)
    ]
    # As scikit-learn has it: the two columns of two classes say the same, so one is enough.
    scale = 0.5 if len(parts) == 2 else 1.0
    return BrierDecomposition(*(scale * np.sum(parts, axis=0)).tolist())


def nll_score(y_true: Any, probabilities: Any, *, classes: Any = None) -> float:
    """Return the mean negative log-likelihood of the outcomes.

    scikit-learn's ``log_loss``, also for tensors and with this package's labels, in float64.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Whether the event happened, or labels, as in :func:`calibration_error`.
    probabilities : array-like of shape (n_samples,) or (n_samples, n_classes)
        Of the event, or of each class.
    classes : array-like of shape (n_classes,), default=None
        Labels in the order of the columns. If None, labels are column numbers.

    Returns
    -------
    score : float
        In nats, lower is better. Probabilities are kept ``2.2e-16`` away from 0 and 1, so that a
        row costs at most 36.04 instead of infinity.

    Examples
    --------
    >>> from adue_sklearn.metrics import nll_score
    >>> round(nll_score([0, 1], [0.5, 0.25]), 4)
    1.0397
    >>> round(nll_score([0], [[0.0, 1.0]]), 2)
    36.04
    """
    y, probabilities = _check(y_true, probabilities, classes)
    n_classes = 2 if probabilities.ndim == 1 else probabilities.shape[1]
    return float(log_loss(y, probabilities, labels=np.arange(n_classes)))


def _check(y_true: Any, probabilities: Any, classes: Any) -> tuple[IntArray, FloatArray]:
    """Return 0 and 1 or column numbers (n,), and probabilities of which rows sum to one."""
    p = _as_probabilities(probabilities)
    y = as_column(y_true, "y_true")
    if len(y) != len(p):
        raise ValueError(
            f"y_true has {len(y)} rows, probabilities has {len(p)}; they must be equal."
        )
    if p.ndim == 2:
        return _as_columns(y, p.shape[1], classes), p
    if classes is not None:
        raise ValueError(
            "classes was given, but probabilities has one dimension, which means a single event. "
            "Pass the probabilities of all classes, shape (n_samples, n_classes)."
        )
    happened = as_flags(
        y,
        "y_true must be True or 1 where the event happened and False or 0 elsewhere, because "
        "probabilities has one dimension",
    )
    return happened.astype(np.int64), p


def _as_probabilities(values: Any) -> FloatArray:
    array = as_array(values, "probabilities")
    if array.dtype.kind == "c":
        raise TypeError("probabilities are complex; expected numbers in [0, 1].")
    with naming("probabilities", "numbers in [0, 1]"):
        p = array.astype(np.float64)
    if p.ndim not in (1, 2) or (p.ndim == 2 and p.shape[1] < 2):
        raise ValueError(
            f"probabilities has shape {p.shape}, expected (n_samples,) or (n_samples, n_classes) "
            "with at least two classes."
        )
    if len(p) == 0:
        raise ValueError("probabilities is empty; metrics need at least one row.")
    if not ((p >= 0) & (p <= 1)).all():  # NaN too
        odd = p[~((p >= 0) & (p <= 1))]
        raise ValueError(
            f"probabilities must be in [0, 1]; {odd.size} are not, such as {odd[0]}. Apply a "
            "softmax to logits first."
        )
    if p.ndim == 1:
        return p
    sums = p.sum(axis=1, keepdims=True)
    off = np.abs(sums - 1).max()
    if off > 1e-2:
        raise ValueError(
            f"probabilities must sum to one in each row; a row's sum is off by {off:.3g}. Pass the "
            "columns of all classes."
        )
    return p / sums  # rounding of half precision


def _as_columns(y: npt.NDArray[Any], n_classes: int, classes: Any) -> IntArray:
    """Return labels as column numbers."""
    known = np.arange(n_classes) if classes is None else as_column(classes, "classes")
    if len(known) != n_classes:
        raise ValueError(
            f"classes has {len(known)} entries, probabilities has {n_classes} columns; they must "
            "be equal."
        )
    with naming("classes", "one label per column, all different"):
        distinct = len(np.unique(known))
    if distinct < n_classes:
        raise ValueError("classes repeats an entry; each column needs its own label.")
    if (known.dtype.kind in "OUST") != (y.dtype.kind in "OUST"):
        raise ValueError(
            f"y_true has dtype {y.dtype}, but "
            + (
                "classes was not given; expected column numbers. Otherwise pass classes."
                if classes is None
                else f"classes has dtype {known.dtype}; both must be numbers, or both strings."
            )
        )
    order = np.argsort(known)
    with naming("y_true", "labels of one kind"):  # of mixed types
        place = np.minimum(np.searchsorted(known, y, sorter=order), n_classes - 1)
    columns = order[place]
    unknown = y[known[columns] != y]
    if len(unknown):
        raise ValueError(
            f"y_true holds {unknown[:1].tolist()[0]!r}, which is not among "
            + (f"the column numbers 0 to {n_classes - 1}" if classes is None else "classes")
            + "; expected one of them."
        )
    return columns


def _events(
    y_true: Any, probabilities: Any, classes: Any, *, classwise: bool
) -> tuple[BoolArray, FloatArray]:
    """Return what happened and its probability, (n, 1), or (n, C) for each class."""
    y, p = _check(y_true, probabilities, classes)
    if p.ndim == 1:
        return y[:, None] == 1, p[:, None]
    if classwise:
        return y[:, None] == np.arange(p.shape[1]), p
    top = p.argmax(axis=1)
    return (top == y)[:, None], p.max(axis=1, keepdims=True)


def _bin_numbers(p: FloatArray, n_bins: int | None, strategy: str) -> npt.NDArray[np.intp]:
    """Return the bin of each probability; an edge belongs to the bin below, as in scikit-learn."""
    if n_bins is None:
        return np.unique(p, return_inverse=True)[1]
    if strategy == "uniform":
        edges = np.linspace(0.0, 1.0, n_bins + 1)[1:-1]
    else:
        # Probabilities at or below the b-th edge are the fewest that make b / n_bins of the rows.
        # In whole numbers: a quantile off by rounding would put all that tie with it elsewhere.
        edges = np.sort(p)[(np.arange(1, n_bins) * len(p) + n_bins - 1) // n_bins - 1]
    return np.searchsorted(edges, p)


def bin_rates(
    happened: BoolArray, p: FloatArray, n_bins: int, strategy: str
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return rows, frequency and mean probability of each bin that has rows."""
    number = _bin_numbers(p, n_bins, strategy)
    n = np.bincount(number)
    kept = n > 0
    frequency, mean = (np.bincount(number, weights=v)[kept] / n[kept] for v in (happened, p))
    return n[kept], frequency, mean


def _decompose(
    happened: BoolArray, p: FloatArray, n_bins: int | None, strategy: str
) -> tuple[float, float, float, float, float]:
    """Return the five terms of one event."""
    number = _bin_numbers(p, n_bins, strategy)
    n = np.maximum(np.bincount(number), 1)
    frequency, mean = (np.bincount(number, weights=v) / n for v in (happened, p))
    f_row, p_row, base = frequency[number], mean[number], happened.mean()
    return (
        float(np.mean((p_row - f_row) ** 2)),
        float(np.mean((f_row - base) ** 2)),
        float(base * (1 - base)),
        float(np.mean((p - p_row) ** 2)),
        float(2 * np.mean((p - p_row) * (happened - f_row))),
    )

"""How well an uncertainty finds the errors.

Every metric is a pure function of ``errors`` (n,), True where the classifier is wrong, and
``uncertainty`` (n,), higher where it is more likely to be. Ties never depend on the order of rows.
Each has a scikit-learn scorer, ``scorer(estimator, X, y)``, higher is better, for whatever has
``predict`` and ``score_samples``: an estimator of this package, or one in a pipeline or a search.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.utils import check_scalar
from sklearn.utils.validation import column_or_1d

from adue_sklearn._validation import naming

__all__ = [
    "ErrorScorer",
    "Estimate",
    "aurc_score",
    "aurc_scorer",
    "eaurc_score",
    "eaurc_scorer",
    "error_average_precision_score",
    "error_average_precision_scorer",
    "error_roc_auc_difference",
    "error_roc_auc_interval",
    "error_roc_auc_score",
    "error_roc_auc_scorer",
    "fpr_at_tpr_score",
    "fpr_at_tpr_scorer",
    "prediction_errors",
]


def prediction_errors(predicted: Any, y: Any) -> npt.NDArray[np.bool_]:
    """Return where predicted labels are not the true ones.

    Parameters
    ----------
    predicted, y : array-like of shape (n_samples,)
        Predicted and true labels: numbers both, or strings both.

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
    predicted = _column(predicted, "predicted")
    y = _column(y, "y")
    if len(predicted) != len(y):
        raise ValueError(
            f"y has {len(y)} labels, but there are {len(predicted)} predictions; they must be as "
            "many."
        )
    if (y.dtype.kind in "OUST") != (predicted.dtype.kind in "OUST"):
        raise ValueError(
            f"y has dtype {y.dtype}, but the predicted labels have dtype {predicted.dtype} (such "
            f"as {predicted[:1].tolist()}); pass the kind of labels that fit was given."
        )
    return np.asarray(predicted != y, dtype=bool)


def error_roc_auc_score(errors: Any, uncertainty: Any, *, sample_weight: Any = None) -> float:
    """Return the chance that an error is ranked above a correct answer; ties count half.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher is more likely wrong.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    score : float
        In [0, 1], 0.5 for a constant. NaN, with an ``UndefinedMetricWarning``, if there are no
        errors or only errors.

    Examples
    --------
    >>> from adue_sklearn.metrics import error_roc_auc_score
    >>> error_roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    errors, uncertainty = _check(errors, uncertainty)
    if _undefined(errors, "ROC-AUC"):
        return float("nan")
    with naming("sample_weight"):
        return float(roc_auc_score(errors, uncertainty, sample_weight=sample_weight))


class Estimate(NamedTuple):
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


def error_roc_auc_interval(errors: Any, uncertainty: Any, *, confidence: float = 0.95) -> Estimate:
    """Return the error-detection ROC-AUC with DeLong's interval.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher is more likely wrong.
    confidence : float in (0, 1), default=0.95
        Coverage of the interval.

    Returns
    -------
    Estimate
        ``value``, ``low``, ``high`` in [0, 1]; NaN, with an ``UndefinedMetricWarning``, if there
        are no errors or only errors, and NaN limits if there is one row of either kind.

    References
    ----------
    .. [1] DeLong et al., "Comparing the areas under two or more correlated receiver operating
       characteristic curves", Biometrics 44, 1988.

    Examples
    --------
    >>> from adue_sklearn.metrics import error_roc_auc_interval
    >>> value, low, high = error_roc_auc_interval([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> value, round(low, 2), high
    (0.75, 0.06, 1.0)
    """
    errors, uncertainty = _check(errors, uncertainty)
    if _undefined(errors, "ROC-AUC"):
        return Estimate(np.nan, np.nan, np.nan)
    value, low, high = _normal_interval(*_placements(errors, uncertainty), confidence)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def error_roc_auc_difference(
    errors: Any, uncertainty: Any, reference: Any, *, confidence: float = 0.95
) -> Estimate:
    """Return how much higher the ROC-AUC is than a reference's on the same rows, paired (DeLong).

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty, reference : array-like of shape (n_samples,)
        Two scores of the same rows; higher is more likely wrong.
    confidence : float in (0, 1), default=0.95
        Coverage of the interval.

    Returns
    -------
    Estimate
        ``value``, ``low``, ``high`` in [-1, 1]; NaN as in :func:`error_roc_auc_interval`.

    References
    ----------
    .. [1] DeLong et al., "Comparing the areas under two or more correlated receiver operating
       characteristic curves", Biometrics 44, 1988.

    Examples
    --------
    >>> from adue_sklearn.metrics import error_roc_auc_difference
    >>> error_roc_auc_difference([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4])
    Estimate(value=0.0, low=0.0, high=0.0)
    """
    flags, scores = _check(errors, uncertainty)
    _, others = _check(errors, reference, name="reference")
    if _undefined(flags, "ROC-AUC"):
        return Estimate(np.nan, np.nan, np.nan)
    of_errors, of_correct = _placements(flags, scores)
    reference_of_errors, reference_of_correct = _placements(flags, others)
    return _normal_interval(
        of_errors - reference_of_errors, of_correct - reference_of_correct, confidence
    )


def _placements(
    errors: npt.NDArray[np.bool_], uncertainty: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return, for each error, the share of correct rows below it; for each correct row, above."""
    ranks = rankdata(uncertainty)
    n_errors, n_correct = int(errors.sum()), int((~errors).sum())
    of_errors = (ranks[errors] - rankdata(uncertainty[errors])) / n_correct
    of_correct = 1.0 - (ranks[~errors] - rankdata(uncertainty[~errors])) / n_errors
    return of_errors, of_correct


def _normal_interval(
    of_errors: npt.NDArray[np.float64], of_correct: npt.NDArray[np.float64], confidence: float
) -> Estimate:
    """Return the mean of ``of_errors`` with the normal interval of a two-sample U-statistic."""
    _check_share(confidence, "confidence", "neither")
    value = float(of_errors.mean())
    if min(len(of_errors), len(of_correct)) < 2:
        return Estimate(value, np.nan, np.nan)
    variance = of_errors.var(ddof=1) / len(of_errors) + of_correct.var(ddof=1) / len(of_correct)
    half = float(norm.ppf((1.0 + confidence) / 2.0) * np.sqrt(variance))
    return Estimate(value, value - half, value + half)


def error_average_precision_score(errors: Any, uncertainty: Any) -> float:
    """Return the average precision of the uncertainty as a detector of errors.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher is more likely wrong.

    Returns
    -------
    score : float
        In [0, 1]; the error rate for a constant. NaN, with an ``UndefinedMetricWarning``, if
        there are no errors or only errors.

    Examples
    --------
    >>> from adue_sklearn.metrics import error_average_precision_score
    >>> round(error_average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    errors, uncertainty = _check(errors, uncertainty)
    if _undefined(errors, "average precision"):
        return float("nan")
    return float(average_precision_score(errors, uncertainty))


def fpr_at_tpr_score(errors: Any, uncertainty: Any, *, tpr: float = 0.95) -> float:
    """Return the share of correct answers flagged when at least ``tpr`` of the errors are.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher is more likely wrong. Tied rows are flagged together.
    tpr : float in (0, 1], default=0.95
        Share of errors to catch.

    Returns
    -------
    score : float
        In [0, 1], lower is better. NaN, with an ``UndefinedMetricWarning``, if there are no
        errors or only errors.

    Examples
    --------
    >>> from adue_sklearn.metrics import fpr_at_tpr_score
    >>> fpr_at_tpr_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.5
    """
    _check_share(tpr, "tpr", "right")
    errors, uncertainty = _check(errors, uncertainty)
    if _undefined(errors, f"FPR at {tpr:.0%} TPR"):
        return float("nan")
    false_rates, true_rates, _ = roc_curve(errors, uncertainty, drop_intermediate=False)
    return float(false_rates[true_rates >= tpr].min())


def aurc_score(errors: Any, uncertainty: Any) -> float:
    r"""Return the area under the risk-coverage curve, exact under ties.

    With rows sorted by confidence, ``risk(k)`` is the error rate among the ``k`` most confident
    and the area is its mean over ``k = 1 .. n``. Tied rows count as their expectation over all
    orders: within a group that follows ``n0`` rows with ``E0`` errors and has error rate ``r``,
    ``risk(k) = (E0 + (k - n0) r) / k``.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher is more likely wrong.

    Returns
    -------
    score : float
        In [0, 1], lower is better; the error rate for a constant.

    References
    ----------
    .. [1] Geifman et al., "Bias-reduced uncertainty estimation for deep neural classifiers",
       ICLR 2019.

    Examples
    --------
    >>> from adue_sklearn.metrics import aurc_score
    >>> aurc_score([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9])
    0.0625
    >>> aurc_score([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5])
    0.25
    """
    errors, uncertainty = _check(errors, uncertainty)
    return float(_expected_risks(errors, uncertainty).mean())


def eaurc_score(errors: Any, uncertainty: Any) -> float:
    """Return the AURC in excess of a perfect ranking, in which every error comes last.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher is more likely wrong.

    Returns
    -------
    score : float
        In [0, 1), lower is better, 0 for a perfect ranking.

    References
    ----------
    .. [1] Geifman et al., "Bias-reduced uncertainty estimation for deep neural classifiers",
       ICLR 2019.

    Examples
    --------
    >>> from adue_sklearn.metrics import eaurc_score
    >>> eaurc_score([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9])
    0.0
    """
    errors, uncertainty = _check(errors, uncertainty)
    perfect = _expected_risks(errors, errors.astype(np.float64))
    return float((_expected_risks(errors, uncertainty) - perfect).mean())


def _expected_risks(
    errors: npt.NDArray[np.bool_], uncertainty: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return ``risk(k)`` for ``k = 1 .. n``, tied rows in expectation."""
    order = np.argsort(uncertainty)
    ranked = uncertainty[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    sizes = np.diff(np.append(starts, len(ranked)))
    group_errors = np.add.reduceat(errors[order].astype(np.float64), starts)
    # A group adds its own error rate at each of its rows.
    accumulated = np.cumsum(np.repeat(group_errors / sizes, sizes))
    return accumulated / np.arange(1, len(ranked) + 1)


class ErrorScorer:
    """A metric of error detection as a scikit-learn scorer.

    Parameters
    ----------
    metric : callable
        ``metric(errors, uncertainty) -> float``.
    greater_is_better : bool, default=True
        Whether the metric is to be maximised; otherwise the scorer returns its negative.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from adue_sklearn import AdUEEstimator
    >>> from adue_sklearn.metrics import aurc_scorer
    >>> search = GridSearchCV(AdUEEstimator(), {"alpha": [0, 0.3]}, scoring=aurc_scorer)
    """

    def __init__(
        self, metric: Callable[[Any, Any], float], *, greater_is_better: bool = True
    ) -> None:
        self.metric = metric
        self.greater_is_better = greater_is_better

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the metric of ``estimator``'s uncertainty for its errors on ``X, y``."""
        errors = prediction_errors(estimator.predict(X), y)
        value = self.metric(errors, -estimator.score_samples(X))
        return value if self.greater_is_better else -value

    def __repr__(self) -> str:
        sign = "" if self.greater_is_better else ", greater_is_better=False"
        return f"ErrorScorer({self.metric.__name__}{sign})"


error_roc_auc_scorer = ErrorScorer(error_roc_auc_score)
error_average_precision_scorer = ErrorScorer(error_average_precision_score)
fpr_at_tpr_scorer = ErrorScorer(fpr_at_tpr_score, greater_is_better=False)
aurc_scorer = ErrorScorer(aurc_score, greater_is_better=False)
eaurc_scorer = ErrorScorer(eaurc_score, greater_is_better=False)


def _check(
    errors: Any, uncertainty: Any, *, name: str = "uncertainty"
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    flags, scores = _column(errors, "errors"), _column(uncertainty, name)
    with naming(name):
        scores = scores.astype(np.float64)
    if len(flags) != len(scores):
        raise ValueError(
            f"errors has {len(flags)} rows, {name} has {len(scores)}; they must be as many."
        )
    if len(flags) == 0:
        raise ValueError(f"errors and {name} are empty; metrics need at least one row.")
    if flags.dtype != bool:
        odd = [flag for flag in flags.tolist() if flag not in (0, 1)]
        if odd:
            raise ValueError(
                "errors must be True or 1 where the classifier is wrong and False or 0 elsewhere; "
                f"got values such as {odd[:3]}. Pass predictions != labels."
            )
        flags = flags.astype(bool)
    if np.isnan(scores).any():
        raise ValueError(
            f"{name} contains NaN in {int(np.isnan(scores).sum())} of {len(scores)} rows; "
            "a row without a score cannot be ranked. Drop it, or give it the highest score."
        )
    if not np.isfinite(scores).all():
        # Only ranks matter here, and scikit-learn's curves refuse infinity.
        scores = rankdata(scores, method="dense").astype(np.float64)
    return flags, scores


def _check_share(value: Any, name: str, boundaries: str) -> None:
    check_scalar(value, name, Real, min_val=0, max_val=1, include_boundaries=boundaries)
    if np.isnan(value):  # passes every comparison above
        raise ValueError(f"{name} == nan, must be between 0 and 1.")


def _column(values: Any, name: str) -> npt.NDArray[Any]:
    """Return a 1-D numpy array, from tensors of any device and dtype too."""
    with naming(name):
        if hasattr(values, "detach"):  # a tensor, without importing torch
            values = values.detach().cpu().double().numpy()
        return column_or_1d(values)


def _undefined(errors: npt.NDArray[np.bool_], metric: str) -> bool:
    if 0 < errors.sum() < len(errors):
        return False
    which = "only errors" if errors.all() else "no errors"
    warnings.warn(
        f"{metric} is undefined: the {len(errors)} rows hold {which}. Use more rows, or folds "
        "stratified on the errors.",
        UndefinedMetricWarning,
        stacklevel=3,
    )
    return True

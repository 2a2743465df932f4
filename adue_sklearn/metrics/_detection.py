"""How well an uncertainty separates errors from correct answers, at all thresholds or at one."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from adue_sklearn._utils.validation import naming
from adue_sklearn.metrics._arguments import (
    BoolArray,
    Estimate,
    FloatArray,
    as_array,
    check_scores,
    check_share,
    undefined,
)
from adue_sklearn.metrics._counts import average_precision, fpr_at_tpr, of_data, roc_auc


def error_roc_auc_score(errors: Any, uncertainty: Any, *, sample_weight: Any = None) -> float:
    """Return the probability that an error ranks above a correct answer; ties count half.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.
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
    if sample_weight is None:
        return of_data(roc_auc, errors, uncertainty, undefined_as="ROC-AUC")
    errors, uncertainty = check_scores(errors, uncertainty)
    if undefined(errors, "ROC-AUC"):
        return float("nan")
    ranks = rankdata(uncertainty, method="dense")  # scikit-learn refuses infinity
    with naming("sample_weight", "one number per row, at least 0, not all 0"):
        weights = as_array(sample_weight, "sample_weight")
        return float(roc_auc_score(errors, ranks, sample_weight=weights))


def error_roc_auc_interval(errors: Any, uncertainty: Any, *, confidence: float = 0.95) -> Estimate:
    """Return the error-detection ROC-AUC with DeLong's interval.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.
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
    errors, uncertainty = check_scores(errors, uncertainty)
    if undefined(errors, "ROC-AUC"):
        return Estimate(np.nan, np.nan, np.nan)
    value, low, high = _normal_interval(*_placements(errors, uncertainty), confidence)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def error_roc_auc_difference(
    errors: Any, uncertainty: Any, reference: Any, *, confidence: float = 0.95
) -> Estimate:
    """Return the paired difference in ROC-AUC from a reference on the same rows (DeLong).

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
    flags, scores = check_scores(errors, uncertainty)
    _, others = check_scores(errors, reference, name="reference")
    if undefined(flags, "ROC-AUC"):
        return Estimate(np.nan, np.nan, np.nan)
    of_errors, of_correct = _placements(flags, scores)
    reference_of_errors, reference_of_correct = _placements(flags, others)
    return _normal_interval(
        of_errors - reference_of_errors, of_correct - reference_of_correct, confidence
    )


def error_roc_auc_p_value(errors: Any, uncertainty: Any, reference: Any) -> float:
    """Return the two-sided p-value of a difference in ROC-AUC on the same rows (DeLong).

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty, reference : array-like of shape (n_samples,)
        Two scores of the same rows; higher is more likely wrong.

    Returns
    -------
    p_value : float
        Below 1 - c exactly where the interval of :func:`error_roc_auc_difference` with
        confidence c excludes zero. 1 for scores that rank equally. NaN if the variance of the
        difference cannot be estimated: with one row of either kind, and, with an
        ``UndefinedMetricWarning``, with none.

    References
    ----------
    .. [1] DeLong et al., "Comparing the areas under two or more correlated receiver operating
       characteristic curves", Biometrics 44, 1988.

    Examples
    --------
    >>> from adue_sklearn.metrics import error_roc_auc_p_value
    >>> round(error_roc_auc_p_value([0, 0, 0, 1, 1, 1], [1, 3, 2, 4, 5, 6], [2, 1, 5, 3, 6, 4]), 3)
    0.371
    """
    value, low, high = error_roc_auc_difference(errors, uncertainty, reference, confidence=0.5)
    if high - low < 1e-12:  # rounding, not variance
        return 1.0 if abs(value) < 1e-12 else float("nan")
    return float(2 * norm.sf(abs(value) / (high - value) * norm.ppf(0.75)))


def _placements(errors: BoolArray, uncertainty: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return, for each error, the share of correct rows below it; for each correct row, above."""
    ranks = rankdata(uncertainty)
    n_errors, n_correct = int(errors.sum()), int((~errors).sum())
    of_errors = (ranks[errors] - rankdata(uncertainty[errors])) / n_correct
    of_correct = 1.0 - (ranks[~errors] - rankdata(uncertainty[~errors])) / n_errors
    return of_errors, of_correct


def _normal_interval(of_errors: FloatArray, of_correct: FloatArray, confidence: float) -> Estimate:
    """Return the mean of ``of_errors`` with the normal interval of a two-sample U-statistic."""
    check_share(confidence, "confidence", "neither")
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
        Higher means more likely wrong.

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
    return of_data(average_precision, errors, uncertainty, undefined_as="average precision")


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
    check_share(tpr, "tpr", "right")
    name = f"FPR at {tpr:.0%} TPR"
    return of_data(fpr_at_tpr, errors, uncertainty, undefined_as=name, tpr=tpr)

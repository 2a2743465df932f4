"""How well an uncertainty chooses which answers to accept: risk among them, and how many they are.

Rows are accepted in order of confidence; ``risk(k)`` is the error rate among the ``k`` most
confident. Tied rows count as their expectation over all orders: within a group that follows
``n0`` rows with ``E0`` errors and has error rate ``r``, ``risk(k) = (E0 + (k - n0) r) / k``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from adue_sklearn.metrics._arguments import FloatArray, check_scores, check_share
from adue_sklearn.metrics._counts import (
    augrc,
    aurc,
    count_rows,
    coverage_at_risk,
    eaurc,
    expected_errors,
    of_data,
    prr,
    risk_at_coverage,
)


class RiskCoverageCurve(NamedTuple):
    """Risks among the accepted rows, from one row to all."""

    coverages: FloatArray
    risks: FloatArray


def risk_coverage_curve(errors: Any, uncertainty: Any) -> RiskCoverageCurve:
    """Return the risk among the ``k`` most confident rows for ``k = 1 .. n``, exact under ties.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.

    Returns
    -------
    RiskCoverageCurve
        ``coverages``, ndarray of shape (n_samples,), is ``k / n``; ``risks``, of the same shape,
        is the error rate among as many rows, tied rows in expectation. The mean of ``risks`` is
        :func:`aurc_score`.

    References
    ----------
    .. [1] El-Yaniv and Wiener, "On the foundations of noise-free selective classification",
       JMLR 11, 2010.

    Examples
    --------
    >>> from adue_sklearn.metrics import risk_coverage_curve
    >>> coverages, risks = risk_coverage_curve([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.8])
    >>> coverages
    array([0.25, 0.5 , 0.75, 1.  ])
    >>> risks.round(3)
    array([0.   , 0.25 , 0.333, 0.5  ])
    """
    counts = count_rows(*check_scores(errors, uncertainty))
    k = np.arange(1, counts.n_rows + 1)
    return RiskCoverageCurve(k / counts.n_rows, expected_errors(counts) / k)


def aurc_score(errors: Any, uncertainty: Any) -> float:
    r"""Return the area under the risk-coverage curve, exact under ties.

    The mean of ``risk(k)``, the error rate among the ``k`` most confident rows, over
    ``k = 1 .. n``, in expectation over all orders of tied rows.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.

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
    >>> round(aurc_score([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9]), 4)
    0.0625
    >>> aurc_score([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5])
    0.25
    """
    return of_data(aurc, errors, uncertainty)


def eaurc_score(errors: Any, uncertainty: Any) -> float:
    """Return the AURC in excess of a perfect ranking, in which every error comes last.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.

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
    return of_data(eaurc, errors, uncertainty)


def augrc_score(errors: Any, uncertainty: Any) -> float:
    """Return the area under the generalised risk-coverage curve, exact under ties.

    The generalised risk at ``k`` is the errors among the ``k`` most confident rows over ``n``:
    how often an error is accepted. The area is its mean over ``k = 1 .. n``. With error rate
    ``e``, it is ``e (1 - e) (1 - ROC-AUC) + e^2 / 2 + e / (2 n)``; the integral of [1]_ is the
    same without the last term.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.

    Returns
    -------
    score : float
        In [0, 1], lower is better; about half the error rate for a constant.

    References
    ----------
    .. [1] Traub et al., "Overcoming common flaws in the evaluation of selective classification
       systems", NeurIPS 2024.

    Examples
    --------
    >>> from adue_sklearn.metrics import augrc_score
    >>> augrc_score([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9])
    0.0625
    """
    return of_data(augrc, errors, uncertainty)


def prr_score(errors: Any, uncertainty: Any) -> float:
    """Return the prediction rejection ratio: how much of the possible gain a ranking brings.

    ``(AURC_random - AURC) / (AURC_random - AURC_best)``: a random ranking's AURC is the error
    rate, the best ranking has every error last. The area is that of the risk among *accepted*
    rows, as in [2]_. (For the area of the generalised risk, as in [1]_, where rejected rows are
    put right, the ratio would be ``2 ROC-AUC - 1`` and say nothing new.)

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.

    Returns
    -------
    score : float
        At most 1, which is a perfect ranking; 0 for a constant, negative for worse. NaN, with an
        ``UndefinedMetricWarning``, if there are no errors or only errors.

    References
    ----------
    .. [1] Malinin, "Uncertainty estimation in deep learning with application to spoken
       language assessment", PhD thesis, University of Cambridge, 2019.
    .. [2] Fadeeva et al., "LM-Polygraph: uncertainty estimation for language models", EMNLP 2023.

    Examples
    --------
    >>> from adue_sklearn.metrics import prr_score
    >>> prr_score([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9])
    1.0
    >>> prr_score([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5])
    0.0
    """
    return of_data(prr, errors, uncertainty, undefined_as="PRR")


def risk_at_coverage_score(errors: Any, uncertainty: Any, *, coverage: float = 0.8) -> float:
    """Return the error rate among the most confident rows, as many as ``coverage`` asks for.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.
    coverage : float in (0, 1], default=0.8
        Share of the rows to accept: the smallest number of rows that is at least this share.
        Where only some of the tied rows are needed, they count in expectation.

    Returns
    -------
    score : float
        In [0, 1], lower is better.

    Examples
    --------
    >>> from adue_sklearn.metrics import risk_at_coverage_score
    >>> risk_at_coverage_score([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.8], coverage=0.5)
    0.25
    """
    check_share(coverage, "coverage", "right")
    return of_data(risk_at_coverage, errors, uncertainty, coverage=coverage)


def coverage_at_risk_score(errors: Any, uncertainty: Any, *, risk: float = 0.05) -> float:
    """Return the largest share of rows that a threshold accepts at an error rate of ``risk``.

    Tied rows are accepted together or not at all: no threshold can split them. The threshold is
    chosen on the rows it is judged on, so this ranks scores; it promises no risk on others.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.
    risk : float in [0, 1], default=0.05
        Largest error rate among the accepted rows.

    Returns
    -------
    score : float
        In [0, 1], higher is better; 0 if every threshold has a higher error rate.

    Examples
    --------
    >>> from adue_sklearn.metrics import coverage_at_risk_score
    >>> coverage_at_risk_score([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8], risk=0.34)
    0.75
    >>> coverage_at_risk_score([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8], risk=0.3)
    0.25
    """
    check_share(risk, "risk", "both")
    return of_data(coverage_at_risk, errors, uncertainty, risk=risk)

"""From a score to the probability of an error: monotone maps as pure functions of arrays.

A map is a dict of arrays, which :func:`fit_score_map` learns and :func:`apply_score_map` uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from adue_sklearn.metrics._arguments import BoolArray, FloatArray

ScoreMap = dict[str, FloatArray]
#: How a map is learned from scores and errors, and how it is applied.
_Method = tuple[
    Callable[[FloatArray, BoolArray], ScoreMap], Callable[[ScoreMap, FloatArray], FloatArray]
]


def fit_score_map(method: str, scores: FloatArray, errors: BoolArray) -> ScoreMap:
    """Learn P(error) as a nondecreasing function of the score, from rows (n,)."""
    if method == "beta" and (scores.min() < 0 or scores.max() > 1):
        raise ValueError(
            f"method='beta' needs a score in [0, 1], but the estimator gives {scores.min():.3g} to "
            f"{scores.max():.3g}; use 'isotonic', 'sigmoid' or 'venn_abers'."
        )
    return _METHODS[method][0](_rounded(scores), errors)


def apply_score_map(method: str, score_map: ScoreMap, scores: FloatArray) -> FloatArray:
    """Return P(error) (n,), in [0, 1]."""
    return _METHODS[method][1](score_map, _rounded(scores))


def _rounded(scores: FloatArray) -> FloatArray:
    """Return scores to 36 bits, about 11 digits.

    A row scored in another batch or on another device can differ in the last bit or two; it must
    not land on the other side of a step.
    """
    mantissa, exponent = np.frexp(scores)
    return np.ldexp(np.round(np.ldexp(mantissa, 36)), exponent - 36)


def _fit_isotonic(scores: FloatArray, errors: BoolArray) -> ScoreMap:
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, errors)
    return {"scores": model.X_thresholds_, "values": model.y_thresholds_}


def _apply_isotonic(score_map: ScoreMap, scores: FloatArray) -> FloatArray:
    return np.interp(scores, score_map["scores"], score_map["values"])


def _as_column(scores: FloatArray) -> FloatArray:
    return scores[:, None]


def _log_odds_parts(scores: FloatArray) -> FloatArray:
    """Return ``log s`` and ``-log(1 - s)`` (n, 2), finite at 0 and 1."""
    low = np.log(np.clip(scores, 1e-300, 1.0))
    high = -np.log1p(-np.clip(scores, 0.0, 1.0 - 2.0**-53))
    return np.stack([low, high], axis=1)


def _fit_logistic(features: FloatArray, errors: BoolArray) -> ScoreMap:
    """Fit ``expit(features @ slopes + intercept)`` with slopes >= 0 to Platt's targets.

    The targets, (n_errors + 1) / (n_errors + 2) and 1 / (n_correct + 2), keep the solution finite
    where errors and correct answers are separable, or one is missing.
    """
    n_errors, n_correct = int(errors.sum()), int((~errors).sum())
    targets = np.where(errors, (n_errors + 1.0) / (n_errors + 2.0), 1.0 / (n_correct + 2.0))
    centre = features.mean(axis=0)
    spread = features.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    Z = (features - centre) / scale

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        logits = Z @ parameters[1:] + parameters[0]
        residual = (expit(logits) - targets) / len(targets)
        value = np.mean(np.logaddexp(0.0, logits) - targets * logits)
        return float(value), np.concatenate([[residual.sum()], Z.T @ residual])

    mean = targets.mean()
    start = np.concatenate([[np.log(mean / (1.0 - mean))], np.zeros(Z.shape[1])])
    bounds = [(None, None)] + [(0.0, None)] * Z.shape[1]
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return {"slopes": found[1:] / scale, "intercept": found[:1], "centre": centre}


def _apply_logistic(score_map: ScoreMap, features: FloatArray) -> FloatArray:
    # Centred first: far from zero the intercept alone would round.
    return expit((features - score_map["centre"]) @ score_map["slopes"] + score_map["intercept"][0])


def _logistic(features: Callable[[FloatArray], FloatArray]) -> _Method:
    """Return the logistic map on what a function makes of the scores."""
    return (
        lambda scores, errors: _fit_logistic(features(scores), errors),
        lambda score_map, scores: _apply_logistic(score_map, features(scores)),
    )


def _fit_venn_abers(scores: FloatArray, errors: BoolArray) -> ScoreMap:
    """Return ``p`` at each distinct score and in each gap between two of them (2 m + 1,)."""
    distinct, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=errors, minlength=len(distinct))
    p0, p1 = venn_abers_pairs(counts, wrong)
    return {"scores": distinct, "values": p1 / (1.0 - p0 + p1)}


def _apply_venn_abers(score_map: ScoreMap, scores: FloatArray) -> FloatArray:
    known = score_map["scores"]
    # Even places are gaps, odd ones the known scores.
    place = np.searchsorted(known, scores, "left") + np.searchsorted(known, scores, "right")
    return score_map["values"][place]


def venn_abers_pairs(counts: Any, wrong: Any) -> tuple[FloatArray, FloatArray]:
    """Return ``p0, p1`` of the inductive Venn-Abers predictor at every place a score can have.

    The place ``2 i`` lies before the ``i``-th of the m distinct calibration scores, ``2 i + 1`` on
    it. ``p0`` (``p1``) is the isotonic fit there of the calibration rows and one more row, correct
    (wrong). An isotonic fit is the slope of the lower convex hull of cumulated errors over
    cumulated rows; the additional row joins a hull from the left and one from the right, whose
    blocks it takes in until the slopes are in order.

    Parameters
    ----------
    counts, wrong : array-like of shape (m,)
        Rows and errors at each distinct score, ascending.

    Returns
    -------
    p0, p1 : ndarray of float64 of shape (2 m + 1,)
    """
    rows = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    errors = np.concatenate([[0.0], np.cumsum(wrong, dtype=np.float64)])
    m = len(rows) - 1
    before = _hull_neighbours(rows, errors)
    # In the mirror a hull from the right is one from the left.
    after = m - _hull_neighbours(rows[-1] - rows[::-1], errors[::-1])[::-1]
    places = np.arange(2 * m + 1)
    left, right = places // 2, (places + 1) // 2
    p0, p1 = (_joined_slope(rows, errors, before, after, left, right, flag) for flag in (0.0, 1.0))
    return p0, p1


def _hull_neighbours(rows: FloatArray, errors: FloatArray) -> npt.NDArray[np.int64]:
    """Return, for each point, the one before it on the lower hull of all points up to it."""
    before = np.zeros(len(rows), dtype=np.int64)
    hull = [0]
    for point in range(1, len(rows)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            into = (errors[b] - errors[a]) * (rows[point] - rows[b])
            out = (errors[point] - errors[b]) * (rows[b] - rows[a])
            if into < out:
                break
            hull.pop()
        before[point] = hull[-1]
        hull.append(point)
    return before


def _joined_slope(
    rows: FloatArray,
    errors: FloatArray,
    before: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    flag: float,
) -> FloatArray:
    last = len(rows) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        # Slopes of the blocks next to each point; 0 / 0 at the ends compares as False.
        slope_before = (errors - errors[before]) / (rows - rows[before])
        slope_after = (errors[after] - errors) / (rows[after] - rows)
    while True:
        slope = (errors[right] + flag - errors[left]) / (rows[right] + 1.0 - rows[left])
        take_right = (right < last) & (slope_after[right] < slope)
        take_left = (left > 0) & (slope_before[left] > slope) & ~take_right
        if not (take_right.any() or take_left.any()):
            return slope
        right = np.where(take_right, after[right], right)
        left = np.where(take_left, before[left], left)


_METHODS: dict[str, _Method] = {
    "isotonic": (_fit_isotonic, _apply_isotonic),
    "sigmoid": _logistic(_as_column),
    "beta": _logistic(_log_odds_parts),
    "venn_abers": (_fit_venn_abers, _apply_venn_abers),
}
METHODS = tuple(_METHODS)

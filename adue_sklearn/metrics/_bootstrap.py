"""Intervals and paired differences of any metric, by resampling rows.

A resample of ``n`` rows, drawn with replacement, is no more than how often each row occurs. The
package's ranking metrics need no new sort for it: rows are put into groups once, drawn rows are
counted in their groups, and the formula of the metric runs over a block of such counts. Other
metrics are called with the drawn rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_random_state, check_scalar

from adue_sklearn._utils.validation import naming, warn
from adue_sklearn.metrics import _counts
from adue_sklearn.metrics._arguments import (
    Estimate,
    FloatArray,
    as_array,
    check_scores,
    check_share,
)
from adue_sklearn.metrics._counts import Counts, number_groups
from adue_sklearn.metrics._detection import (
    error_average_precision_score,
    error_roc_auc_score,
    fpr_at_tpr_score,
)
from adue_sklearn.metrics._selective import (
    augrc_score,
    aurc_score,
    coverage_at_risk_score,
    eaurc_score,
    prr_score,
    risk_at_coverage_score,
)

Metric = Callable[[Any, Any], float]
CountForm = Callable[[Counts], FloatArray]

COUNT_FORMS: dict[Callable[..., float], Callable[..., FloatArray]] = {
    error_roc_auc_score: _counts.roc_auc,
    error_average_precision_score: _counts.average_precision,
    fpr_at_tpr_score: _counts.fpr_at_tpr,
    aurc_score: _counts.aurc,
    eaurc_score: _counts.eaurc,
    augrc_score: _counts.augrc,
    prr_score: _counts.prr,
    risk_at_coverage_score: _counts.risk_at_coverage,
    coverage_at_risk_score: _counts.coverage_at_risk,
}

# Counts in a block of replicates: small enough for the cache, large enough to pay for the calls.
BLOCK = 1 << 17


class Resampling(TypedDict, total=False):
    """Options of all that resamples rows."""

    n_resamples: int
    random_state: Any


class IntervalOptions(Resampling, total=False):
    """Options of intervals, too."""

    confidence: float


class Difference(NamedTuple):
    """A paired difference, its confidence interval and its two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float


@overload
def bootstrap_replicates(
    errors: Any, uncertainty: Any, metric: Metric, **options: Unpack[Resampling]
) -> FloatArray: ...
@overload
def bootstrap_replicates(
    errors: Any, uncertainty: Any, metric: Mapping[str, Metric], **options: Unpack[Resampling]
) -> dict[str, FloatArray]: ...
def bootstrap_replicates(
    errors: Any,
    uncertainty: Any,
    metric: Metric | Mapping[str, Metric],
    *,
    n_resamples: int = 1000,
    random_state: Any = None,
) -> FloatArray | dict[str, FloatArray]:
    """Return a metric's values on resampled rows.

    With the same integer as ``random_state``, the same rows are drawn for every metric and score,
    so replicates of several scores are paired.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.
    metric : callable or dict of str to callable
        ``metric(errors, uncertainty) -> float``. The ranking metrics of this package, with
        ``functools.partial`` for their options, are computed for many resamples at once; any
        other is called once per resample, with numpy arrays. If none is of this package,
        ``errors`` and ``uncertainty`` may be any two arrays of ``n_samples`` rows that the
        metrics accept, such as labels and class probabilities.
    n_resamples : int, default=1000
        How often ``n_samples`` rows are drawn, with replacement.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same resamples every time.

    Returns
    -------
    replicates : ndarray of shape (n_resamples,) or dict of str to ndarray
        NaN where a metric that needs both errors and correct answers lacks one of them. A dict if
        ``metric`` is a dict.

    Examples
    --------
    >>> from adue_sklearn.metrics import aurc_score, bootstrap_replicates
    >>> errors, uncertainty = [0, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.9]
    >>> bootstrap_replicates(errors, uncertainty, aurc_score, random_state=0).shape
    (1000,)
    """
    metrics = _named(metric)
    check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
    forms = {name: _count_form(function) for name, function in metrics.items()}
    on_counts = {name: form for name, form in forms.items() if form is not None}
    on_rows = {name: metrics[name] for name, form in forms.items() if form is None}
    if on_counts:
        errors, uncertainty = check_scores(errors, uncertainty)
    errors, uncertainty = _check_rows(errors, uncertainty, "uncertainty")
    seed = seed_of(random_state)
    replicates = {name: np.empty(n_resamples) for name in metrics}
    if on_counts:
        _fill_from_counts(replicates, on_counts, errors, uncertainty, seed)
    if on_rows:
        _fill_from_rows(replicates, on_rows, errors, uncertainty, seed)
    return _like(metric, replicates)


@overload
def bootstrap_interval(
    errors: Any, uncertainty: Any, metric: Metric, **options: Unpack[IntervalOptions]
) -> Estimate: ...
@overload
def bootstrap_interval(
    errors: Any, uncertainty: Any, metric: Mapping[str, Metric], **options: Unpack[IntervalOptions]
) -> dict[str, Estimate]: ...
def bootstrap_interval(
    errors: Any,
    uncertainty: Any,
    metric: Metric | Mapping[str, Metric],
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: Any = None,
) -> Estimate | dict[str, Estimate]:
    """Return a metric with its bootstrap percentile interval.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong.
    metric : callable or dict of str to callable
        ``metric(errors, uncertainty) -> float``, as in :func:`bootstrap_replicates`.
    n_resamples : int, default=1000
        How often the rows are drawn.
    confidence : float in (0, 1), default=0.95
        Coverage of the interval.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same interval every time.

    Returns
    -------
    Estimate or dict of str to Estimate
        ``value`` on the rows themselves; ``low`` and ``high`` are quantiles of the resamples.
        Resamples on which the metric is NaN are left out, with an ``UndefinedMetricWarning``;
        the limits are NaN if none remains.

    References
    ----------
    .. [1] Efron and Tibshirani, "An introduction to the bootstrap", Chapman and Hall, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.metrics import aurc_score, bootstrap_interval
    >>> rng = np.random.default_rng(0)
    >>> errors = rng.random(500) < 0.2
    >>> value, low, high = bootstrap_interval(
    ...     errors, rng.normal(size=500) + errors, aurc_score, random_state=0
    ... )
    >>> bool(0 < low < value < high < 0.2)
    True
    """
    check_share(confidence, "confidence", "neither")
    result = {
        name: Estimate(value, *percentiles(_defined(drawn, name), confidence))
        for name, (value, drawn) in _evaluated(
            errors, uncertainty, _named(metric), n_resamples, random_state
        ).items()
    }
    return _like(metric, result)


@overload
def bootstrap_difference(
    errors: Any,
    uncertainty: Any,
    reference: Any,
    metric: Metric,
    **options: Unpack[IntervalOptions],
) -> Difference: ...
@overload
def bootstrap_difference(
    errors: Any,
    uncertainty: Any,
    reference: Any,
    metric: Mapping[str, Metric],
    **options: Unpack[IntervalOptions],
) -> dict[str, Difference]: ...
def bootstrap_difference(
    errors: Any,
    uncertainty: Any,
    reference: Any,
    metric: Metric | Mapping[str, Metric],
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: Any = None,
) -> Difference | dict[str, Difference]:
    """Return the paired difference of a metric between a score and a reference on the same rows.

    Both scores are evaluated on the same resamples, so difficulties that they share cancel out.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty, reference : array-like of shape (n_samples,)
        Two scores of the same rows; higher is more likely wrong.
    metric : callable or dict of str to callable
        ``metric(errors, uncertainty) -> float``, as in :func:`bootstrap_replicates`.
    n_resamples : int, default=1000
        How often the rows are drawn.
    confidence : float in (0, 1), default=0.95
        Coverage of the interval.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same result every time.

    Returns
    -------
    Difference or dict of str to Difference
        ``value``, ``low``, ``high`` as in :func:`bootstrap_interval`. ``p_value`` is the level at
        which the percentile interval just reaches zero, never below ``2 / (n_resamples + 1)``;
        1 for equal scores.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.metrics import aurc_score, bootstrap_difference
    >>> rng = np.random.default_rng(0)
    >>> errors = rng.random(500) < 0.2
    >>> difference = bootstrap_difference(
    ...     errors, rng.normal(size=500) + errors, rng.normal(size=500), aurc_score, random_state=0
    ... )
    >>> difference.high < 0, round(difference.p_value, 3)
    (True, 0.002)
    """
    check_share(confidence, "confidence", "neither")
    metrics = _named(metric)
    if any(_count_form(function) is not None for function in metrics.values()):
        check_scores(errors, reference, name="reference")
    errors, reference = _check_rows(errors, reference, "reference")
    seed = seed_of(random_state)
    ours = _evaluated(errors, uncertainty, metrics, n_resamples, seed)
    theirs = _evaluated(errors, reference, metrics, n_resamples, seed)
    result = {}
    for name, (value, drawn) in ours.items():
        other, others = theirs[name]
        gains = _defined(drawn - others, name)
        limits = percentiles(gains, confidence)
        result[name] = Difference(value - other, *limits, two_sided_p_value(gains))
    return _like(metric, result)


def _evaluated(
    errors: Any, scores: Any, metrics: Mapping[str, Metric], n_resamples: int, random_state: Any
) -> dict[str, tuple[float, FloatArray]]:
    """Return the value of each metric on the rows themselves, and its replicates."""
    errors, scores = _check_rows(errors, scores, "uncertainty")
    values = {name: float(function(errors, scores)) for name, function in metrics.items()}
    replicates = bootstrap_replicates(
        errors, scores, metrics, n_resamples=n_resamples, random_state=random_state
    )
    return {name: (values[name], replicates[name]) for name in metrics}


def _fill_from_counts(
    replicates: dict[str, FloatArray],
    forms: Mapping[str, CountForm],
    errors: npt.NDArray[np.bool_],
    uncertainty: FloatArray,
    seed: int,
) -> None:
    """Write each metric's replicates, a block of them at a time."""
    group, n_scores = number_groups(errors, uncertainty)
    n_groups = 2 * n_scores + 1
    # Correct rows are counted by group, then errors by score: theirs are the odd groups.
    cell = np.where(errors, n_groups + group // 2, group)
    n_resamples = len(next(iter(replicates.values())))
    size = min(n_resamples, max(1, BLOCK // (n_groups + n_scores)))
    buffer = np.empty((size, n_groups + n_scores), dtype=np.int64)
    draws = _draws(len(errors), seed)
    for start in range(0, n_resamples, size):
        counts = buffer[: n_resamples - start]
        for replicate in counts:
            replicate[:] = np.bincount(cell[next(draws)], minlength=len(replicate))
        block = Counts(counts[:, :n_groups], counts[:, n_groups:])
        for name, form in forms.items():
            replicates[name][start : start + size] = form(block)


def _fill_from_rows(
    replicates: dict[str, FloatArray],
    metrics: Mapping[str, Metric],
    errors: npt.NDArray[Any],
    uncertainty: npt.NDArray[Any],
    seed: int,
) -> None:
    """Write each metric's replicates, calling it with the drawn rows."""
    draws = _draws(len(errors), seed)
    with warnings.catch_warnings():
        # Counted and reported once, when the limits are taken.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        for number in range(len(next(iter(replicates.values())))):
            rows = next(draws)
            for name, function in metrics.items():
                replicates[name][number] = function(errors[rows], uncertainty[rows])


def _draws(n: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of one resample after the other, without end; the seed alone decides which."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.integers(n, size=n)


def seed_of(random_state: Any) -> int:
    """Return a number that draws the same rows again."""
    with naming("random_state", "an int, a numpy RandomState or None"):
        if isinstance(random_state, Integral):
            check_random_state(random_state)
            return int(random_state)
        return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _named(metric: Any) -> dict[str, Metric]:
    """Return metrics by name; one alone is named after its function."""
    named = dict(metric) if isinstance(metric, Mapping) else {_name(metric): metric}
    for name, function in named.items():
        if not callable(function):
            raise TypeError(
                f"metric must be callable, metric(errors, uncertainty), or a dict of callables; "
                f"got {function!r}" + (f" as {name!r}." if isinstance(metric, Mapping) else ".")
            )
    if not named:
        raise ValueError("metric is an empty dict; expected at least one metric by name.")
    return named


def _name(metric: Any) -> str:
    return str(getattr(getattr(metric, "func", metric), "__name__", "metric"))


def _like(metric: Any, by_name: dict[str, Any]) -> Any:
    """Return a dict where a dict of metrics was given, and the one value otherwise."""
    return by_name if isinstance(metric, Mapping) else next(iter(by_name.values()))


def _count_form(metric: Metric) -> CountForm | None:
    """Return the metric as a formula on counts, None if it is not of this package."""
    function: Any = metric
    options: dict[str, Any] = {}
    if isinstance(metric, partial) and not metric.args:
        function, options = metric.func, metric.keywords
    form = next((form for known, form in COUNT_FORMS.items() if known is function), None)
    if form is None:
        return None
    if "sample_weight" in options:
        raise ValueError(
            "metric has a bound sample_weight, which would not match the resampled rows. "
            "Pass the metric without it."
        )
    return partial(form, **options)


def _check_rows(
    errors: Any, uncertainty: Any, name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return two arrays of as many rows, from tensors too."""
    first, second = as_array(errors, "errors"), as_array(uncertainty, name)
    for array, argument in ((first, "errors"), (second, name)):
        if array.ndim == 0:
            raise ValueError(f"{argument} must be an array of rows; got {array.tolist()!r}.")
    if len(first) != len(second):
        raise ValueError(
            f"errors has {len(first)} rows, {name} has {len(second)}; they must be equal."
        )
    if len(first) == 0:
        raise ValueError(f"errors and {name} are empty; expected at least one row.")
    return first, second


def _defined(replicates: FloatArray, name: str) -> FloatArray:
    """Return what is not NaN, and say how much is."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < len(replicates):
        warn(
            f"{name} is undefined on {len(replicates) - len(defined)} of {len(replicates)} "
            "resamples, which hold no errors or only errors; they are left out. Use more rows.",
            UndefinedMetricWarning,
        )
    return defined


def percentiles(replicates: FloatArray, confidence: float) -> tuple[float, float]:
    """Return the limits of the middle share of replicates that are not NaN."""
    if len(replicates) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def two_sided_p_value(gains: FloatArray) -> float:
    """Return how rare a sign is among resampled differences that are not NaN."""
    if len(gains) == 0:
        return float("nan")
    fewer = min(int((gains <= 0).sum()), int((gains >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(gains) + 1))

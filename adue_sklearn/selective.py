"""Choose which answers to accept so that their risk is bounded with confidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Number, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import rel_entr
from scipy.stats import beta, binom
from sklearn.base import _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from adue_sklearn._utils.arrays import Array, Features, as_numpy, like_input, validate_features
from adue_sklearn._utils.head import check_head
from adue_sklearn._utils.labels import check_labels
from adue_sklearn._utils.messages import percent
from adue_sklearn._utils.validation import naming, share_hint, warn
from adue_sklearn.base import FitRows
from adue_sklearn.card import Card
from adue_sklearn.metrics._arguments import FloatArray, IntArray, check_scores
from adue_sklearn.scorers.wrapping import (
    ScoredRows,
    WrappingEstimator,
    learns_nothing,
    score_rows,
)

__all__ = ["SelectiveClassifier", "SelectiveThreshold", "clopper_pearson", "selective_threshold"]

#: The first candidate accepts this share of the rows; each further one accepts this much more.
_FIRST_SHARE, _STEP_SHARE = 0.2, 0.02


class SelectiveThreshold(NamedTuple):
    """A threshold and what is known about the rows up to it.

    Rows with an uncertainty of at most ``threshold`` are accepted; -inf accepts nothing, inf
    everything. ``risk_bound`` is NaN if nothing is accepted.
    """

    threshold: float
    coverage: float
    risk_bound: float
    n_accepted: int
    n_errors: int


def selective_threshold(
    errors: Any,
    uncertainty: Any,
    target_risk: float = 0.05,
    confidence: float = 0.95,
    method: str = "binomial",
) -> SelectiveThreshold:
    """Return the largest threshold that guarantees an error rate of at most ``target_risk``.

    The rows must be drawn independently from one source and not be used to fit the score. Then,
    with probability ``confidence`` over these rows, the error rate among new rows of that source
    that the threshold accepts is at most ``target_risk``.

    Parameters
    ----------
    errors : array-like of bool of shape (n_samples,)
        True (or 1) where the classifier is wrong.
    uncertainty : array-like of shape (n_samples,)
        Higher means more likely wrong. Tied rows are accepted together.
    target_risk : float in (0, 1), default=0.05
        Maximum error rate among accepted rows.
    confidence : float in (0, 1), default=0.95
        Confidence level of the guarantee.
    method : {"binomial", "sgr", "ltt"}, default="binomial"
        ``"binomial"``: exact binomial tests in a fixed sequence [1]_. The first candidate accepts a
        fifth of the rows (or the smallest number that could pass, if larger), each further one 2 %
        more, up to all; the last one before the first failure is taken.
        ``"sgr"``: a binary search with exact binomial bounds that share the confidence [2]_.
        ``"ltt"``: Hoeffding-Bentkus tests of the same candidates with Holm's correction [1]_, [3]_.

    Returns
    -------
    SelectiveThreshold
        ``risk_bound`` holds with the same confidence. It is ``target_risk``; if every row is
        accepted, the Clopper-Pearson bound; for ``"sgr"``, the bound of the last success.

    Notes
    -----
    The threshold lies just below the uncertainty of the first row that is not accepted: given that
    value, the rows below it are an independent sample of what will be accepted.

    References
    ----------
    .. [1] Angelopoulos et al., "Learn then test: calibrating predictive algorithms to achieve risk
       control", arXiv 2110.01052, 2021.
    .. [2] Geifman & El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.
    .. [3] Bates et al., "Distribution-free, risk-controlling prediction sets", Journal of the ACM
       68, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.selective import selective_threshold
    >>> uncertainty = np.arange(1000) / 1000
    >>> errors = np.random.default_rng(0).random(1000) < 0.2 * uncertainty
    >>> found = selective_threshold(errors, uncertainty, target_risk=0.05)
    >>> round(found.threshold, 3), found.coverage, found.n_errors
    (0.58, 0.58, 20)
    """
    check_target(target_risk, "target_risk")
    check_target(confidence, "confidence")
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(sorted(_METHODS))}.")
    ranked = _Ranked.of(*check_scores(errors, uncertainty))
    return _METHODS[method](ranked, float(target_risk), 1.0 - float(confidence))


def clopper_pearson(n_errors: Any, n_rows: Any, confidence: float = 0.95) -> Any:
    """Return the exact upper confidence bound of an error rate.

    Parameters
    ----------
    n_errors, n_rows : int or array of int
        Errors among independent rows.
    confidence : float in (0, 1), default=0.95
        Confidence level, one-sided.

    Returns
    -------
    bound : float or array of float
        In (0, 1].

    References
    ----------
    .. [1] Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of
       the binomial", Biometrika 26, 1934.

    Examples
    --------
    >>> from adue_sklearn.selective import clopper_pearson
    >>> round(float(clopper_pearson(0, 59)), 4)
    0.0495
    """
    check_target(confidence, "confidence")
    errors, rows = _whole("n_errors", n_errors), _whole("n_rows", n_rows)
    try:
        possible = (errors >= 0) & (errors <= rows)
    except ValueError as error:
        raise ValueError(f"n_errors and n_rows must have the same shape: {error}") from error
    if not np.all(possible):
        raise ValueError("n_errors must be between 0 and n_rows.")
    return _upper_bound(errors, rows, confidence)


def _upper_bound(n_errors: Any, n_rows: Any, confidence: float) -> Any:
    """Return Clopper and Pearson's bound for checked numbers."""
    errors, rows = np.asarray(n_errors), np.asarray(n_rows)
    some = errors < rows
    return np.where(some, beta.ppf(confidence, errors + 1, np.where(some, rows - errors, 1)), 1.0)[
        ()
    ]


def binomial_interval(n_events: Any, n_rows: Any, confidence: float) -> tuple[Any, Any]:
    """Return Clopper and Pearson's exact two-sided limits of each rate."""
    one_sided = (1.0 + confidence) / 2.0
    low = 1.0 - _upper_bound(np.subtract(n_rows, n_events), n_rows, one_sided)
    return low, _upper_bound(n_events, n_rows, one_sided)


def _whole(name: str, values: Any) -> npt.NDArray[Any]:
    with naming(name, "whole numbers"):
        array = as_numpy(values)
    if array.dtype.kind not in "biuf" or not np.all(array == np.floor(array)):
        raise ValueError(f"{name} is {values!r}; expected whole numbers.")
    return array.astype(np.float64)


class _Ranked(NamedTuple):
    """Uncertainties in ascending order, and errors among the first 0 .. n of them."""

    uncertainty: FloatArray
    n_errors: IntArray

    @classmethod
    def of(cls, errors: npt.NDArray[np.bool_], uncertainty: FloatArray) -> _Ranked:
        order = np.argsort(uncertainty)
        return cls(uncertainty[order], np.concatenate([[0], np.cumsum(errors[order])]))

    def with_ties(self, n_rows: Any) -> Any:
        """Return how many rows are accepted if at least ``n_rows`` are."""
        last = self.uncertainty[np.asarray(n_rows) - 1]
        return np.searchsorted(self.uncertainty, last, side="right")

    def candidates(self, target: float, delta: float) -> IntArray:
        """Return numbers of accepted rows, ascending; they do not depend on the errors."""
        n = len(self.uncertainty)
        first = max(int(np.ceil(_FIRST_SHARE * n)), fewest_rows(target, delta))
        if first > n:
            return np.empty(0, dtype=np.int64)
        step = max(1, round(_STEP_SHARE * n))
        return np.unique(self.with_ties(np.append(np.arange(first, n, step), n)))

    def result(self, n_accepted: int, risk_bound: float) -> SelectiveThreshold:
        n = len(self.uncertainty)
        if n_accepted == 0:
            return SelectiveThreshold(-np.inf, 0.0, np.nan, 0, 0)
        threshold = np.inf
        if n_accepted < n:
            threshold = float(np.nextafter(self.uncertainty[n_accepted], -np.inf))
        n_errors = int(self.n_errors[n_accepted])
        return SelectiveThreshold(threshold, n_accepted / n, risk_bound, n_accepted, n_errors)


def fewest_rows(target: float, delta: float) -> int:
    """Return how many rows without errors are needed to show a risk of at most ``target``."""
    return int(np.ceil(np.log(delta) / np.log1p(-target)))


def _fixed_sequence(ranked: _Ranked, target: float, delta: float) -> SelectiveThreshold:
    counts = ranked.candidates(target, delta)
    passed = binom.cdf(ranked.n_errors[counts], counts, target) <= delta
    n_passed = len(counts) if passed.all() else int(passed.argmin())
    if n_passed == 0:
        return ranked.result(0, np.nan)
    n_accepted = int(counts[n_passed - 1])
    bound = target
    if n_accepted == len(ranked.uncertainty):
        # The sequence can end with smaller and smaller targets for all rows.
        bound = float(_upper_bound(ranked.n_errors[-1], n_accepted, 1.0 - delta))
    return ranked.result(n_accepted, bound)


def _sgr(ranked: _Ranked, target: float, delta: float) -> SelectiveThreshold:
    n = len(ranked.uncertainty)
    n_steps = max(1, int(np.ceil(np.log2(n))))
    lowest, highest = 1, n  # places of the least certain accepted row, least certain first
    best, bound = 0, np.nan
    for _ in range(n_steps):
        place = (lowest + highest + 1) // 2
        n_accepted = int(ranked.with_ties(n - place + 1))
        n_errors = ranked.n_errors[n_accepted]
        risk = float(_upper_bound(n_errors, n_accepted, 1.0 - delta / n_steps))
        if risk <= target:
            highest, best, bound = place, n_accepted, risk
        else:
            lowest = place
    return ranked.result(best, bound)


def _learn_then_test(ranked: _Ranked, target: float, delta: float) -> SelectiveThreshold:
    counts = ranked.candidates(target, delta)
    p = hoeffding_bentkus(ranked.n_errors[counts], counts, target)
    order = np.argsort(p)
    passed = p[order] <= delta / np.arange(len(p), 0, -1)
    n_passed = len(p) if passed.all() else int(passed.argmin())
    return ranked.result(int(counts[order[:n_passed]].max(initial=0)), target)


def hoeffding_bentkus(n_errors: Any, n_rows: Any, target: float) -> Any:
    """Return p-values of "the risk is above ``target``", for losses in [0, 1]."""
    risk = np.minimum(np.asarray(n_errors) / n_rows, target)
    divergence = rel_entr(risk, target) + rel_entr(1.0 - risk, 1.0 - target)
    hoeffding = np.exp(-n_rows * divergence)
    bentkus = np.e * binom.cdf(n_errors, n_rows, target)
    return np.minimum(1.0, np.minimum(hoeffding, bentkus))


_METHODS: dict[str, Callable[[_Ranked, float, float], SelectiveThreshold]] = {
    "binomial": _fixed_sequence,
    "sgr": _sgr,
    "ltt": _learn_then_test,
}


def smallest_target(
    errors: Any, uncertainty: Any, confidence: float, method: str, *, above: float = 0.0
) -> float:
    """Return, by bisection, about the smallest target risk for which something is accepted."""
    low, high = above, 1.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        found = selective_threshold(errors, uncertainty, middle, confidence, method)
        low, high = (low, middle) if found.n_accepted else (middle, high)
    return high


def what_it_takes(
    errors: Any, uncertainty: Any, target_risk: float, confidence: float, method: str
) -> str:
    """Say what would be needed if no threshold meets the target on these rows."""
    n_rows = len(errors)
    fewest = fewest_rows(target_risk, 1.0 - confidence)
    if fewest > n_rows:
        return (
            f"At least {fewest} labelled rows are needed, even if no answer is wrong; there are "
            f"{n_rows}."
        )
    smallest = smallest_target(errors, uncertainty, confidence, method, above=target_risk)
    smallest = math.ceil(smallest * 1000) / 1000  # rounded up, so that it can be met
    return (
        f"The smallest target that these {n_rows} rows support is about {percent(smallest)}. If "
        "you set it because of this, confirm it on fresh rows."
    )


def check_target(value: Any, name: str) -> None:
    """Raise unless ``value`` is a number between 0 and 1, both excluded."""
    check_scalar(value, name, Real)
    if not 0.0 < value < 1.0:
        why = {
            ("target_risk", 0): "no number of rows can rule out all errors",
            ("target_risk", 1): "any answer meets it",
            ("confidence", 1): "a finite number of rows cannot give certainty",
            ("confidence", 0): "that guarantees nothing",
        }.get((name, value), "it is a share")
        raise ValueError(
            f"{name} is {value}; it must be above 0 and below 1: {why}.{share_hint(value)}"
        )


class SelectiveClassifier(WrappingEstimator):
    """Accept answers up to a guaranteed error rate; defer the others.

    ``fit`` splits the rows once, at random: one part fits the estimator, the other sets the
    threshold. An estimator in scikit-learn's ``FrozenEstimator`` is not refitted: the rows must be
    new to it, and all of them set the threshold. The same holds for scores of a given head that
    learn nothing, such as softmax response.

    Parameters
    ----------
    estimator : uncertainty estimator or FrozenEstimator of one, default=None
        Estimator whose uncertainty decides; None means :class:`SoftmaxResponseScorer`. A frozen
        one knows its head, so ``fit`` does not need it.
    target_risk : float in (0, 1) or dict, default=0.05
        Maximum error rate among accepted answers; a dict gives one for each group or class.
    confidence : float in (0, 1), default=0.95
        Confidence level of the guarantee, over the draw of the rows that set the threshold. With
        groups or classes, it holds for all of them simultaneously: each gets an equal share of
        ``1 - confidence``.
    method : {"binomial", "sgr", "ltt"}, default="binomial"
        As in :func:`selective_threshold`.
    per_class : bool, default=False
        Whether each predicted class gets its own threshold.
    threshold_size : float in (0, 1) or int, default=0.5
        Share or number of the rows that set the threshold.
    random_state : int, RandomState instance or None, default=0
        Seed of the split. It is not stratified, because a stratified sample is not independent.

    Attributes
    ----------
    threshold_ : float or ndarray of shape (n_groups,)
        Largest accepted uncertainty; -inf if no threshold meets the target.
    coverage_ : float or ndarray of shape (n_groups,)
        Share of the rows that set the threshold (in the group) that it accepts.
    risk_bound_ : float or ndarray of shape (n_groups,)
        Upper bound of the error rate among accepted answers, with ``confidence``; NaN if nothing
        is accepted.
    error_rate_ : float or ndarray of shape (n_groups,)
        Observed error rate of the accepted rows; NaN if there are none.
    groups_ : ndarray of shape (n_groups,)
        Groups or predicted classes; only set with groups or ``per_class``.
    calibration_uncertainty_ : ndarray of float64 of shape (n_rows,)
        Uncertainties of the rows that set the threshold, ascending.
    estimator_ : uncertainty estimator
        The estimator fitted on the other rows, or the frozen one.
    init_coef_, init_intercept_, classes_, n_features_in_
        Those of ``estimator_``.

    Notes
    -----
    ``docs/selective.md`` explains what is guaranteed and what is not. In short: the rows that set
    the threshold and future rows must be independent draws from one source; the bound holds for
    the error rate among accepted answers, not for any single answer.

    Examples
    --------
    >>> from adue_sklearn import SelectiveClassifier
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> model = SelectiveClassifier(target_risk=0.05)
    >>> model = model.fit(*data.calibration, data.init_W, data.init_b)
    >>> accepted = model.accepts(data.test.features)
    >>> errors = model.errors(*data.test)
    >>> print(f"{model.coverage_:.2f} {accepted.mean():.2f} {errors[accepted].mean():.3f}")
    0.60 0.60 0.024
    >>> model.predict_or_defer(data.test.features[:4], defer="human")
    array([0, 'human', 'human', 'human'], dtype=object)
    """

    card: ClassVar[Card] = Card(
        name="selective classifier",
        paper="Geifman & El-Yaniv, Selective classification for deep neural networks, NeurIPS "
        "2017; Angelopoulos et al., Learn then test, arXiv 2110.01052, 2021",
        formula="the estimator's score, accepted up to a threshold",
        needs="held-out errors",
        cost="fit as the estimator; row as the estimator",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "target_risk": [Real, dict],
        "confidence": [Real],
        "method": [StrOptions(set(_METHODS))],
        "per_class": ["boolean"],
        "threshold_size": [
            Interval(Real, 0, 1, closed="neither"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "random_state": ["random_state"],
    }

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}  # and the head

    def __init__(
        self,
        estimator: Any = None,
        *,
        target_risk: float | dict[Any, float] = 0.05,
        confidence: float = 0.95,
        method: str = "binomial",
        per_class: bool = False,
        threshold_size: float | int = 0.5,
        random_state: Any = 0,
    ) -> None:
        self.estimator = estimator
        self.target_risk = target_risk
        self.confidence = confidence
        self.method = method
        self.per_class = per_class
        self.threshold_size = threshold_size
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Any,
        y: Any,
        init_W: Any = None,
        init_b: Any = None,
        *,
        classes: Any = None,
        groups: Any = None,
    ) -> Self:
        """Fit the estimator on one part of the rows and set the threshold on the other.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features that enter the head's last linear layer.
        y : array-like of shape (n_samples,)
            True labels, as in the estimator's ``fit``.
        init_W, init_b : array-like, or list of them, default=None
            The frozen original head, as in the estimator's ``fit``.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows.
        groups : array-like of shape (n_samples,), default=None
            A group for each row, numbers or strings. Each group gets its own threshold, and
            ``accepts`` then needs groups too.

        Returns
        -------
        self : SelectiveClassifier
            Fitted. If no threshold meets the target, there is a warning and nothing is accepted.
        """
        check_target(self.confidence, "confidence")
        if self.per_class and groups is not None:
            raise ValueError(
                "groups was given with per_class=True; use only one of them. For both, combine "
                "your groups with the predictions."
            )
        fitted, X, y, rest = self._fit_wrapped(X, y, init_W, init_b, classes)
        names = None if groups is None else _check_groups(groups, len(y))[rest]
        rows = score_rows(fitted, X[rest], y[rest])
        self._adopt(fitted)
        self._compare_labels(X, y)
        if self.per_class:
            names = self.classes_[self._predicted_rows(X[rest])]
        self.calibration_uncertainty_ = np.sort(rows.uncertainty)
        self._set_thresholds(rows, names)
        return self

    def accepts(self, X: Any, *, groups: Any = None) -> Array:
        """Return which answers are accepted.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.
        groups : array-like of shape (n_samples,), default=None
            Required if ``fit`` was given groups, otherwise not allowed. Rows of unknown groups are
            never accepted, with a warning.

        Returns
        -------
        accepted : array of bool of shape (n_samples,)
            A tensor on the same device if ``X`` is a tensor.
        """
        X = self.check_features(X)
        names = self._names(X, groups)
        uncertainty = as_numpy(self._uncertainty(X))
        thresholds = self.threshold_
        if names is not None:
            thresholds = self._thresholds_of(names)
        return like_input(torch.as_tensor(uncertainty <= thresholds), X)

    def predict_or_defer(self, X: Any, defer: Any = None, *, groups: Any = None) -> Array:
        """Return the original head's labels where accepted, and a marker elsewhere.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.
        defer : object, default=None
            The marker, such as None, -1 or "human"; it must not be a label.
        groups : array-like of shape (n_samples,), default=None
            As in :meth:`accepts`.

        Returns
        -------
        answers : array of shape (n_samples,)
            Of the labels' type if the marker has that type too, otherwise objects. A tensor if
            ``X`` is a tensor and both are numbers.
        """
        if _is_plain(defer) and defer in self.classes_.tolist():
            raise ValueError(
                f"defer is {defer!r}, which is a label; choose a marker that is not a label."
            )
        accepted = as_numpy(self.accepts(X, groups=groups))
        labels = self.predict(X)
        answers = _with_marker(as_numpy(labels), accepted, defer)
        if isinstance(labels, Tensor) and answers.dtype != object:
            return torch.as_tensor(answers, device=labels.device)
        return answers

    def _fit_wrapped(
        self, X: Any, y: Any, init_W: Any, init_b: Any, classes: Any
    ) -> tuple[Any, Features, npt.NDArray[Any], IntArray]:
        """Return the fitted estimator, checked rows, and which of them set the threshold."""
        if self._is_frozen():
            return self._check_frozen(X, y, init_W, init_b, classes)
        wrapped = self._wrapped()
        X = validate_features(self, X, reset=True)
        y = check_labels(y, X.shape[0], type(self).__name__)
        head = None
        if init_W is not None:
            head = check_head(init_W, init_b, classes, X.shape, activation=wrapped.activation)
        data = FitRows(X, y, head)
        rows = np.arange(len(y))
        if learns_nothing(wrapped, head_given=init_W is not None):
            return data.fit(wrapped), X, y, rows
        with naming("threshold_size", "a share of the rows in (0, 1), or a number of rows"):
            part, rest = train_test_split(
                rows, test_size=self.threshold_size, random_state=self.random_state
            )
        return data.part(part).fit(wrapped), X, y, rest

    def _set_thresholds(self, rows: ScoredRows, names: npt.NDArray[Any] | None) -> None:
        self.__dict__.pop("groups_", None)
        if names is None:
            targets = [self._target(None)]
            parts = [rows]
        else:
            self.groups_ = np.unique(names)
            targets = [self._target(group) for group in self.groups_.tolist()]
            parts = [ScoredRows(*(part[names == group] for part in rows)) for group in self.groups_]
        confidence = 1.0 - (1.0 - self.confidence) / len(parts)
        found = []
        for number, (part, target) in enumerate(zip(parts, targets, strict=True)):
            found.append(
                selective_threshold(part.errors, part.uncertainty, target, confidence, self.method)
            )
            if found[-1].n_accepted == 0:
                group = "" if names is None else f" in group {self.groups_[number]!s}"
                needed = what_it_takes(
                    part.errors, part.uncertainty, target, confidence, self.method
                )
                warn(
                    f"No threshold meets target_risk={target:g} with confidence {confidence:.4g} "
                    f"on {len(part.errors)} rows{group}. Nothing is accepted. {needed}"
                )
        thresholds, coverages, bounds, accepted, errors = map(np.array, zip(*found, strict=True))
        with np.errstate(invalid="ignore"):
            rates = errors / accepted
        for key, values in (
            ("threshold_", thresholds),
            ("coverage_", coverages),
            ("risk_bound_", bounds),
            ("error_rate_", rates),
        ):
            setattr(self, key, float(values[0]) if names is None else values)

    def _target(self, group: Any) -> float:
        target = self.target_risk
        if isinstance(target, dict):
            if group is None:
                raise ValueError(
                    "target_risk is a dict, but there are no groups; pass groups to fit or set "
                    "per_class=True."
                )
            if group not in target:
                raise ValueError(
                    f"target_risk has no entry for {group!r}; expected one for each group."
                )
            target = target[group]
        check_target(target, "target_risk")
        return float(target)

    def _names(self, X: Features, groups: Any) -> npt.NDArray[Any] | None:
        """Return the group of each row, None if there are no groups."""
        grouped = hasattr(self, "groups_") and not self.per_class
        if grouped != (groups is not None):
            mend = "groups, so groups are needed" if grouped else "no groups; leave groups out"
            raise ValueError(f"groups: fit was given {mend} here too.")
        if self.per_class:
            return self.classes_[self._predicted_rows(X)]
        return _check_groups(groups, X.shape[0]) if grouped else None

    def _thresholds_of(self, names: npt.NDArray[Any]) -> FloatArray:
        if (names.dtype.kind in "OUST") != (self.groups_.dtype.kind in "OUST"):
            raise ValueError(
                f"groups has dtype {names.dtype}; expected the kind that fit was given: "
                f"{self.groups_.dtype}."
            )
        place = np.searchsorted(self.groups_, names).clip(max=len(self.groups_) - 1)
        known = self.groups_[place] == names
        if not known.all():
            warn(
                f"groups: {int((~known).sum())} rows are in groups that fit has not seen (such as "
                f"{names[~known][0]!s}). Their risk is unknown, so none of them is accepted."
            )
        return np.where(known, self.threshold_[place], -np.inf)

    def _predicted_rows(self, X: Features) -> npt.NDArray[np.int64]:
        return self.original_logits(X).argmax(dim=1).cpu().numpy()


def _check_groups(groups: Any, n_samples: int) -> npt.NDArray[Any]:
    with naming("groups", "one group per row, strings or numbers"):
        names = column_or_1d(as_numpy(groups))
        if names.dtype == object:
            names = np.array(names.tolist())
        if names.dtype.kind not in "iufbUT" or (names.dtype.kind == "f" and np.isnan(names).any()):
            raise ValueError(f"groups has dtype {names.dtype}; expected strings or numbers.")
        if len(names) != n_samples:
            raise ValueError(f"groups has {len(names)} entries, but X has {n_samples} rows.")
    return names


def _is_plain(marker: Any) -> bool:
    return isinstance(marker, str | Number | np.generic)


def _with_marker(
    labels: npt.NDArray[Any], accepted: npt.NDArray[np.bool_], marker: Any
) -> npt.NDArray[Any]:
    kind = np.asarray(marker).dtype.kind if _is_plain(marker) else ""
    if labels.dtype.kind + kind in ("ii", "iu", "ui", "uu", "ff", "UU"):
        return np.where(accepted, labels, np.asarray(marker))
    answers = labels.astype(object)
    for row in np.flatnonzero(~accepted):
        answers[row] = marker
    return answers

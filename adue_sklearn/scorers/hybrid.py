"""Combined ranks of two scores.

Source: Vazhentsev et al. (2023), ACL, section 3 (HUQ).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy, resolve_device, rows_of
from adue_sklearn._utils.folds import Fold, stratified
from adue_sklearn._utils.head import BoolArray, FloatArray, Head, IntArray
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.metrics import aurc_score
from adue_sklearn.scorers._errors import can_learn
from adue_sklearn.scorers.logits import SoftmaxResponseScorer
from adue_sklearn.scorers.mahalanobis import MahalanobisScorer

#: What is tried; the first of equals is kept, so the aleatoric score alone comes first.
_ALPHAS = tuple(np.linspace(1.0, 0.0, 11).round(1).tolist())
_DELTA_MINS = (0.0, 0.1, 0.2, 0.3)
_DELTA_MAXS = (1.0, 0.9, 0.8)


class Mixture(NamedTuple):
    """The share of the aleatoric rank and the two thresholds, on ranks in [0, 1]."""

    alpha: float
    delta_min: float
    delta_max: float


def empirical_ranks(scores: FloatArray, reference: FloatArray) -> FloatArray:
    """Return ranks (n,) in (0, 1) of scores among reference scores (m,), which need not be sorted.

    A reference score has the share of scores below it plus half the share of its equals; between
    two of them the rank is interpolated, outside it is that of the nearest.
    """
    values, counts = np.unique(reference, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(reference)
    return np.interp(scores, values, ranks)


def mixed_ranks(
    epistemic: FloatArray,
    aleatoric: FloatArray,
    reference: tuple[FloatArray, FloatArray],
    mixture: Mixture,
) -> FloatArray:
    """Return HUQ's score (n,) in (0, 1) of rows, given both scores of the reference rows.

    Rows whose epistemic rank is at most ``delta_min`` are in distribution: they take their
    aleatoric rank, among such reference rows only unless it is above ``delta_max``. All others
    take ``(1 - alpha)`` of the epistemic rank plus ``alpha`` of the aleatoric one.
    """
    alpha, delta_min, delta_max = mixture
    epistemic_rank = empirical_ranks(epistemic, reference[0])
    aleatoric_rank = empirical_ranks(aleatoric, reference[1])
    total = (1.0 - alpha) * epistemic_rank + alpha * aleatoric_rank
    low = epistemic_rank <= delta_min
    total[low] = aleatoric_rank[low]
    inside = empirical_ranks(reference[0], reference[0]) <= delta_min
    clear = low & (aleatoric_rank <= delta_max)
    if inside.any():  # ranks count rows, so that those of a part stay below its size
        among = empirical_ranks(aleatoric[clear], reference[1][inside])
        total[clear] = among * inside.mean()
    return total


def tune_mixture(
    epistemic: FloatArray, aleatoric: FloatArray, errors: BoolArray, candidates: Iterator[Mixture]
) -> Mixture:
    """Return the candidate with the smallest area under the risk-coverage curve, the first."""
    reference = epistemic, aleatoric
    tried = [
        (aurc_score(errors, mixed_ranks(epistemic, aleatoric, reference, mixture)), mixture)
        for mixture in candidates
    ]
    lowest = min(risk for risk, _ in tried)
    return next(mixture for risk, mixture in tried if risk <= lowest + 1e-12)


@dataclass(eq=False, repr=False)
class HUQScorer(UncertaintyEstimator):
    """Ranks of an epistemic and an aleatoric score, combined by thresholds.

    Fit it on rows that the classifier was not trained on. An epistemic score describes the rows
    that the classifier *was* trained on: fit it on those rows first, and pass it in scikit-learn's
    ``FrozenEstimator``.

    Parameters
    ----------
    epistemic : uncertainty estimator or FrozenEstimator of one, default=None
        Measures how far a row is from known rows; None means :class:`MahalanobisScorer`. If it is
        not frozen, it is fitted on the rows of ``fit``.
    aleatoric : uncertainty estimator or FrozenEstimator of one, default=None
        Measures how ambiguous a row is; None means :class:`SoftmaxResponseScorer`.
    alpha : float in [0, 1], default=None
        Share of the aleatoric rank. None: chosen from 0, 0.1, ... 1.
    delta_min : float in [0, 1], default=None
        Epistemic rank up to which a row counts as in distribution. None: chosen from 0, 0.1, 0.2
        and 0.3.
    delta_max : float in [0, 1], default=None
        Aleatoric rank from which such a row counts as ambiguous. None: chosen from 0.8, 0.9 and
        1.
    cv : int, default=5
        Number of folds for the out-of-fold scores of estimators that ``fit`` fits.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where the default scores compute: ``"auto"`` (where a tensor lies; CUDA if there is one
        for numpy arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    epistemic_, aleatoric_ : uncertainty estimator
        Fitted on all rows, or the frozen ones.
    alpha_, delta_min_, delta_max_ : float
        As given, or as chosen.
    epistemic_reference_, aleatoric_reference_ : ndarray of float64 of shape (n_samples,)
        Scores of the fit rows, among which new ones are ranked.
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Raises
    ------
    ValueError
        In ``fit``, if a frozen score has another head; or if a given head makes no errors, or
        only errors, on the rows, and ``alpha`` or a threshold is to be chosen.

    Notes
    -----
    The choice minimises the area under the risk-coverage curve on the fit rows; ties go to the
    largest ``alpha`` and smallest ``delta_min``. Ranks are shares of the fit rows, interpolated in
    between, so that a single row can be scored. A score beyond all of them gets the rank of the
    last. A frozen score knows its head, so ``fit`` does not need it. Without a head and without
    errors the aleatoric score is used, with a warning.

    References
    ----------
    .. [1] Vazhentsev et al., "Hybrid uncertainty quantification for selective text classification
       in ambiguous tasks", ACL 2023.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from adue_sklearn import HUQScorer, MahalanobisScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> known = MahalanobisScorer().fit(*data.train, data.init_W, data.init_b)
    >>> scorer = HUQScorer(FrozenEstimator(known)).fit(*data.calibration)
    >>> scores = scorer.predict_uncertainty(data.test.features)
    >>> bool(0 < scores.min() < scores.max() < 1)
    True
    """

    card: ClassVar[Card] = Card(
        name="HUQ",
        paper="Vazhentsev et al., Hybrid uncertainty quantification for selective text "
        "classification in ambiguous tasks, ACL 2023",
        formula="(1 - a) R(epistemic) + a R(aleatoric), R the rank among the fit rows; "
        "R(aleatoric) where R(epistemic) <= delta_min, among such rows where it is <= delta_max",
        needs="held-out errors",
        cost="fit cv + 1 fits of each score that is not frozen, and O(n log n) per candidate; "
        "row as both scores",
    )
    reads_views: ClassVar[bool] = True

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "epistemic": [HasMethods(["fit", "predict"]), None],
        "aleatoric": [HasMethods(["fit", "predict"]), None],
        "alpha": [Interval(Real, 0, 1, closed="both"), None],
        "delta_min": [Interval(Real, 0, 1, closed="both"), None],
        "delta_max": [Interval(Real, 0, 1, closed="both"), None],
        "cv": [Interval(Integral, 2, None, closed="left")],
        **UncertaintyEstimator._parameter_constraints,
    }

    epistemic: Any = None
    aleatoric: Any = None
    _: KW_ONLY
    alpha: float | None = None
    delta_min: float | None = None
    delta_max: float | None = None
    cv: int = 5

    def fit(
        self,
        X: Any,
        y: Any,
        init_W: Any = None,
        init_b: Any = None,
        *,
        classes: Any = None,
    ) -> Self:
        """Fit the scores that are not frozen, and choose how to mix their ranks.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features that enter the head's last linear layer (the first, for a head of several).
        y : array-like of shape (n_samples,)
            True labels. With ``init_W``: row numbers of the head or, if ``classes`` is given,
            its entries. With a frozen score and no ``init_W``: as in that score's ``fit``.
        init_W, init_b : array-like, or list of them, default=None
            The frozen original head. None: that of a frozen score, or else a multinomial logistic
            regression that is fitted on ``X, y``.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows.

        Returns
        -------
        self : HUQScorer
            Fitted.
        """
        frozen = [score for score, is_frozen in self._passed() if is_frozen]
        if init_W is None and init_b is None and classes is None and frozen:
            init_W = frozen[0].init_head_
        return super().fit(X, y, init_W, init_b, classes=classes)

    def _passed(self) -> list[tuple[UncertaintyEstimator, bool]]:
        """Return both scores without their ``FrozenEstimator``, and whether they had one."""
        return [
            self._checked("epistemic", MahalanobisScorer),
            self._checked("aleatoric", SoftmaxResponseScorer),
        ]

    def _checked(
        self, name: str, default: type[UncertaintyEstimator]
    ) -> tuple[UncertaintyEstimator, bool]:
        passed = getattr(self, name)
        if passed is None:
            return default(activation=self.activation, device=self.device), False
        frozen = isinstance(passed, FrozenEstimator)
        score = passed.estimator if frozen else passed
        if not isinstance(score, UncertaintyEstimator):
            raise TypeError(
                f"{name} is {passed!r}; expected an uncertainty estimator of this package, such as "
                f"{default.__name__}(), a fitted one in scikit-learn's FrozenEstimator, or None."
            )
        if frozen and not hasattr(score, "classes_"):
            raise ValueError(
                f"{name} is frozen, but not fitted; call fit before FrozenEstimator(...), or pass "
                "the estimator itself."
            )
        return score, frozen

    def _fit(self, X: Features, labels: IntArray, head: Head) -> None:
        scores = self._passed()
        for name, (score, frozen) in zip(("epistemic", "aleatoric"), scores, strict=True):
            self._compare(name, score, frozen, head)
        rows = FitRows(X, head.classes[labels], head if head.given else None)
        self.epistemic_, self.aleatoric_ = (
            score if frozen else rows.fit(score) for score, frozen in scores
        )
        fixed = [
            fitted if frozen or (head.given and fitted.card.learns_nothing) else None
            for (_, frozen), fitted in zip(scores, (self.epistemic_, self.aleatoric_), strict=True)
        ]
        if head.given and None not in fixed:
            held_out = [_score(fitted, X) for fitted in (self.epistemic_, self.aleatoric_)]
            errors = self._original_errors(X, labels, head)
        else:
            *held_out, errors = self._out_of_fold(rows, labels, fixed)
            if head.given:
                errors = self._original_errors(X, labels, head)
        self.epistemic_reference_, self.aleatoric_reference_ = held_out
        chosen = self._choose(errors, head)
        self.alpha_, self.delta_min_, self.delta_max_ = chosen

    def _compare(self, name: str, score: UncertaintyEstimator, frozen: bool, head: Head) -> None:
        """Raise if a score does not belong to the head."""
        if not frozen:
            if not head.is_linear and score.activation not in (None, head.activation):
                raise ValueError(
                    f"{name} has activation={score.activation!r}, but this head of "
                    f"{len(head.weights)} layers has activation={head.activation!r}; set the same."
                )
            return
        if not score.init_head_.same_as(replace(head, classes=score.classes_)):
            raise ValueError(
                f"init_W, init_b or activation differ from those that the frozen {name} was "
                "fitted with; leave init_W and init_b out, or fit it on this head."
            )

    def _out_of_fold(
        self, rows: FitRows, labels: IntArray, fixed: list[UncertaintyEstimator | None]
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return both scores and errors of all rows, from fits that have not seen the row."""
        n_rows = len(labels)
        found = np.empty((2, n_rows))
        errors = np.zeros(n_rows, dtype=bool)
        for rest, fold in self._folds(labels):
            X_fold = rows_of(rows.X, fold)
            for number, (score, _) in enumerate(self._passed()):
                fitted = fixed[number] or rows.part(rest).fit(score)
                found[number, fold] = _score(fitted, X_fold)
            # Without a head every fold has one of its own, and these are its errors.
            errors[fold] = fitted.errors(X_fold, rows.y[fold])
        return found[0], found[1], errors

    def _folds(self, labels: IntArray) -> list[Fold]:
        most = int(np.bincount(labels).max())
        if most < 2:
            raise ValueError(
                f"y holds every label only once ({len(labels)} rows), so scores cannot be fitted "
                "in folds. Fit on more rows, or freeze fitted scores."
            )
        return stratified(labels, min(self.cv, most))

    def _choose(self, errors: BoolArray, head: Head) -> Mixture:
        given = (self.alpha, self.delta_min, self.delta_max)
        grids = [
            grid if value is None else (float(value),)
            for value, grid in zip(given, (_ALPHAS, _DELTA_MINS, _DELTA_MAXS), strict=True)
        ]
        alphas, delta_mins, delta_maxs = grids
        if None not in given or not can_learn(errors, head, instead="that of the aleatoric score"):
            return Mixture(alphas[0], delta_mins[0], delta_maxs[0])
        # Without rows in distribution the other threshold has nothing to do.
        candidates = (
            Mixture(alpha, delta_min, delta_max)
            for delta_min in delta_mins
            for delta_max in (delta_maxs if delta_min > 0 else delta_maxs[:1])
            for alpha in alphas
        )
        return tune_mixture(
            self.epistemic_reference_, self.aleatoric_reference_, errors, candidates
        )

    def _uncertainty(self, X: Features) -> Tensor:
        mixed = mixed_ranks(
            _score(self.epistemic_, X),
            _score(self.aleatoric_, X),
            (self.epistemic_reference_, self.aleatoric_reference_),
            Mixture(self.alpha_, self.delta_min_, self.delta_max_),
        )
        return torch.from_numpy(mixed).to(resolve_device(self.device, X))


def _score(fitted: UncertaintyEstimator, X: Features) -> FloatArray:
    """Return the uncertainty of validated rows, feature names or not."""
    uncertainty = as_numpy(fitted.uncertainty_of(X)).astype(np.float64)
    if np.isnan(uncertainty).any():
        raise ValueError("X is too large: the uncertainty overflows. Scale the features.")
    return uncertainty

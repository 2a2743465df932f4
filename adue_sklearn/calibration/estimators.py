"""Calibrated probabilities of classes and of an error."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from adue_sklearn._utils.arrays import (
    Array,
    Features,
    as_numpy,
    like_input,
    to_tensor,
    validate_features,
)
from adue_sklearn._utils.folds import Fold, stratified
from adue_sklearn._utils.head import (
    BoolArray,
    FloatArray,
    Head,
    IntArray,
    out_of_fold_predictions,
    resolve_head,
)
from adue_sklearn._utils.labels import as_row_numbers, check_class_labels, check_labels
from adue_sklearn._utils.validation import naming, warn
from adue_sklearn.adue.search import given_folds
from adue_sklearn.base import FitRows
from adue_sklearn.calibration.score_maps import METHODS, apply_score_map, fit_score_map
from adue_sklearn.card import Card
from adue_sklearn.scorers import SoftmaxResponseScorer
from adue_sklearn.scorers.wrapping import (
    ScoredRows,
    WrappingEstimator,
    learns_nothing,
    score_rows,
)

__all__ = ["ErrorProbability", "TemperatureScaling", "VectorScaling"]


class _LogitScaling(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):
    """Class probabilities from logits; subclasses say how the logits are rescaled."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, logits: Any, y: Any, *, classes: Any = None) -> Self:
        """Fit on logits and true labels of rows that the classifier was not trained on.

        Parameters
        ----------
        logits : array-like or torch.Tensor of shape (n_samples, n_classes)
            Finite; any float dtype.
        y : array-like of shape (n_samples,)
            True labels: column numbers or, if ``classes`` is given, its entries. Rare classes may
            be missing.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the columns. Needed for string labels.

        Returns
        -------
        self : estimator
            Fitted.

        Raises
        ------
        ValueError
            If the logits are not finite or labels and columns do not fit together.
        """
        logits = self._check(logits, reset=True)
        n_classes = logits.shape[1]
        if n_classes < 2:
            raise ValueError(
                f"logits has shape {tuple(logits.shape)}; expected at least 2 columns. "
                "Write a single logit z as two columns, [-z / 2, z / 2]."
            )
        y = check_labels(y, logits.shape[0], type(self).__name__)
        labels = check_class_labels(np.arange(n_classes) if classes is None else classes)
        if len(labels) != n_classes:
            raise ValueError(
                f"classes has shape {labels.shape}, but logits has {n_classes} columns; expected "
                "one label per column."
            )
        rows = as_row_numbers(y, labels, named=True)
        self.classes_ = labels
        self._fit(as_numpy(logits).astype(np.float64), rows)
        return self

    def predict_proba(self, logits: Any) -> Array:
        """Return calibrated class probabilities, columns as in ``classes_``.

        Parameters
        ----------
        logits : array-like or torch.Tensor of shape (n_samples, n_classes)
            Logits.

        Returns
        -------
        probabilities : array of float64 of shape (n_samples, n_classes)
            Rows sum to one; a tensor on the same device if ``logits`` is a tensor.
        """
        logits = self._check(logits)
        return like_input(torch.softmax(self._rescaled(logits), dim=1), logits)

    def predict(self, logits: Any) -> npt.NDArray[Any]:
        """Return the most probable labels.

        Parameters
        ----------
        logits : array-like or torch.Tensor of shape (n_samples, n_classes)
            Logits.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Entries of ``classes_``.
        """
        rows = self._rescaled(self._check(logits)).argmax(dim=1)
        return self.classes_[rows.cpu().numpy()]

    def _check(self, logits: Any, *, reset: bool = False) -> Array:
        if not reset:
            check_is_fitted(self)
        with naming("logits", "real, finite numbers, shape (n_samples, n_classes)"):
            return validate_features(self, logits, reset=reset)

    def _rescaled(self, logits: Array) -> Tensor:
        device = logits.device if isinstance(logits, Tensor) else torch.device("cpu")
        return self._rescale(to_tensor(logits, device, torch.float64))

    @abstractmethod
    def _fit(self, logits: FloatArray, labels: IntArray) -> None:
        """Learn from finite logits and labels as column numbers."""

    @abstractmethod
    def _rescale(self, logits: Tensor) -> Tensor:
        """Return rescaled logits in float64."""


@dataclass(eq=False, repr=False, kw_only=True)
class TemperatureScaling(_LogitScaling):
    """Divide all logits by one temperature, fitted by maximum likelihood.

    Predictions stay the same; only their confidence changes.

    Parameters
    ----------
    bounds : (float, float), default=(1e-3, 1e3)
        Smallest and largest temperature. If the likelihood increases up to a bound (the logits
        separate the labels perfectly, or say nothing about them), the bound is the result, with a
        warning.

    Attributes
    ----------
    temperature_ : float
        Above 1 if the classifier was overconfident.
    n_iter_ : int
        Number of steps.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the columns.
    n_features_in_ : int
        Number of columns.

    Notes
    -----
    The negative log-likelihood is convex in 1/T, so its derivative changes sign once. Brent's
    method finds that place in log T between the bounds.

    References
    ----------
    .. [1] Guo et al., "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> from adue_sklearn.calibration.estimators import TemperatureScaling
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> logits = data.calibration.features @ data.init_W.T + data.init_b
    >>> scaling = TemperatureScaling().fit(logits, data.calibration.labels)
    >>> print(f"{scaling.temperature_:.2f}")
    1.71
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"bounds": [tuple, list]}

    bounds: tuple[float, float] = (1e-3, 1e3)

    def _fit(self, logits: FloatArray, labels: IntArray) -> None:
        low, high = _check_bounds(self.bounds)
        centred = _centred(logits)
        log_temperature, self.n_iter_ = _solve_temperature(
            centred, labels, np.log(low), np.log(high)
        )
        self.temperature_ = float(np.exp(log_temperature))
        if self.temperature_ == 1.0 and not centred.any():
            warn(
                "logits are the same for all classes in every row. All temperatures are equally "
                "good; temperature_ is 1."
            )
        elif log_temperature in (np.log(low), np.log(high)):
            self.temperature_ = float(low if log_temperature == np.log(low) else high)
            why = (
                "the logits separate the labels perfectly; use more rows that the classifier was "
                "not trained on"
                if self.temperature_ == low
                else "the logits say nothing about the labels; check their order"
            )
            warn(f"The likelihood rises up to the bound temperature_={self.temperature_:g}: {why}.")

    def _rescale(self, logits: Tensor) -> Tensor:
        # Centred first: large logits over a small temperature would overflow.
        return (logits - logits.max(dim=1, keepdim=True).values) / self.temperature_


def _centred(logits: FloatArray) -> FloatArray:
    """Return logits minus the largest of their row."""
    with np.errstate(over="ignore"):
        centred = logits - logits.max(axis=1, keepdims=True)
    if not np.isfinite(centred).all():
        raise ValueError("logits are too large: their differences overflow float64.")
    return centred


def _check_bounds(bounds: Any) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"bounds is {bounds!r}; expected two temperatures, (1e-3, 1e3)."
        ) from error
    if not 0 < low < 1 < high < np.inf:
        raise ValueError(f"bounds is {bounds!r}; expected 0 < low < 1 < high < infinity.")
    return low, high


def _solve_temperature(
    centred: FloatArray, labels: IntArray, low: float, high: float
) -> tuple[float, int]:
    """Return log T in [low, high] with the highest likelihood, and the number of steps."""
    if not centred.any():
        return 0.0, 0
    true = centred[np.arange(len(labels)), labels].mean()

    def excess(log_temperature: float) -> float:
        """Return how far the expected logit is above that of the true labels; it falls with T."""
        with np.errstate(over="ignore", under="ignore"):
            p = softmax(centred * np.exp(-log_temperature), axis=1)
        return float((p * centred).sum(axis=1).mean() - true)

    if excess(low) <= 0:
        return low, 0
    if excess(high) >= 0:
        return high, 0
    found, report = brentq(excess, low, high, xtol=1e-12, full_output=True)
    return found, report.iterations


@dataclass(eq=False, repr=False, kw_only=True)
class VectorScaling(_LogitScaling):
    """Give each class's logit a scale and a bias, fitted by maximum likelihood.

    ``softmax(scale_ * logits + bias_)``. Unlike one temperature this can change predictions.

    Parameters
    ----------
    l2 : float, default=1e-3
        Weight of ``sum((T scale - 1)^2) + sum(bias^2)``, added to the mean negative log-likelihood
        with T of :class:`TemperatureScaling`: the less the rows say about a class, the closer it
        stays to that temperature. Above 0 the solution is unique, even if a class is missing.
    max_iter : int, default=1000
        Maximum number of L-BFGS iterations.

    Attributes
    ----------
    scale_, bias_ : ndarray of float64 of shape (n_classes,)
        One per class.
    temperature_ : float
        Temperature at which the fit started.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the columns.
    n_features_in_ : int
        Number of columns.

    References
    ----------
    .. [1] Guo et al., "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.calibration.estimators import VectorScaling
    >>> logits = np.random.default_rng(0).normal(size=(500, 3)) * 4
    >>> scaling = VectorScaling().fit(logits, logits.argmax(axis=1) * (np.arange(500) % 2))
    >>> bool(scaling.bias_[0] > scaling.bias_[1])
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "l2": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    l2: float = 1e-3
    max_iter: int = 1000

    def _fit(self, logits: FloatArray, labels: IntArray) -> None:
        bounds = np.log(1e-3), np.log(1e3)
        log_temperature, _ = _solve_temperature(_centred(logits), labels, *bounds)
        self.temperature_ = float(np.exp(log_temperature))
        loss = _vector_loss(logits / self.temperature_, labels, float(self.l2))
        n_classes = logits.shape[1]
        start = np.concatenate([np.ones(n_classes), np.zeros(n_classes)])
        options = {"maxiter": self.max_iter, "maxfun": 10 * self.max_iter, "gtol": 1e-9, "ftol": 0}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        if np.abs(found.jac).max() > 1e-4:
            warn(
                f"Vector scaling did not converge in {found.nit} iterations: the largest gradient "
                f"entry is {np.abs(found.jac).max():.1e}. Raise max_iter or l2."
            )
        self.scale_ = found.x[:n_classes] / self.temperature_
        self.bias_ = found.x[n_classes:]

    def _rescale(self, logits: Tensor) -> Tensor:
        scale, bias = (torch.from_numpy(a).to(logits.device) for a in (self.scale_, self.bias_))
        return logits * scale + bias


def _vector_loss(
    logits: FloatArray, labels: IntArray, l2: float
) -> Callable[[FloatArray], tuple[float, FloatArray]]:
    """Return a convex function of scales and biases (2 C,), and its gradient."""
    n, n_classes = logits.shape
    rows = np.arange(n)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        scale, bias = parameters[:n_classes], parameters[n_classes:]
        log_p = log_softmax(logits * scale + bias, axis=1)
        residual = np.exp(log_p)
        residual[rows, labels] -= 1.0
        residual /= n
        value = -log_p[rows, labels].mean() + l2 * (((scale - 1.0) ** 2).sum() + (bias**2).sum())
        of_scale = (residual * logits).sum(axis=0) + 2.0 * l2 * (scale - 1.0)
        of_bias = residual.sum(axis=0) + 2.0 * l2 * bias
        return float(value), np.concatenate([of_scale, of_bias])

    return loss


class ErrorProbability(WrappingEstimator):
    """Turn any score into the probability of an error.

    The map from score to P(error) never decreases, so the ranking is the estimator's, up to ties.
    It is learned from out-of-fold scores: for each fold, the estimator is fitted on the other folds
    and scores that fold; then it is fitted on all rows, which gives ``estimator_``. An estimator in
    scikit-learn's ``FrozenEstimator`` is not refitted: the rows must be new to it, and all of them
    are used for calibration. The same holds for scores of a given head that learn nothing, such as
    softmax response.

    Parameters
    ----------
    estimator : uncertainty estimator or FrozenEstimator of one, default=None
        Estimator that gives the score; None means :class:`SoftmaxResponseScorer`. A frozen one
        knows its head, so ``fit`` does not need it.
    method : {"isotonic", "sigmoid", "beta", "venn_abers"}, default="isotonic"
        ``"isotonic"``: any increasing curve, for 1,000 rows or more; can be exactly 0.
        ``"sigmoid"``: a logistic curve in the score (Platt), for few errors. ``"beta"``: a logistic
        curve in ``log s`` and ``-log(1 - s)``, for scores in [0, 1]. ``"venn_abers"``: isotonic
        with the new row once as an error and once not, ``p1 / (1 - p0 + p1)``; never 0 or 1.
    cv : int, cross-validation generator or iterable of (train, test), default=5
        A number of folds, stratified on errors, or scikit-learn's splitters.

    Attributes
    ----------
    estimator_ : uncertainty estimator
        Fitted on all rows, or the frozen one.
    score_map_ : dict of ndarray
        The map: its steps, or its slopes and intercept.
    n_samples_fit_, n_errors_ : int
        Number of calibration rows, and of errors among them.
    init_coef_, init_intercept_, classes_, n_features_in_
        Those of ``estimator_``.

    Notes
    -----
    The folds' estimators differ slightly from ``estimator_``, which has seen more rows. If that
    matters, freeze an estimator and calibrate it on separate rows: Venn-Abers then has its
    published guarantee for rows of the same source, that one of ``p0``, ``p1`` is calibrated.

    ``sigmoid`` and ``beta`` are fitted to Platt's smoothed targets with slopes of at least 0, so
    that separable rows give finite results and a score that ranks errors low becomes the plain
    error rate. If errors are more or less frequent in new rows than in those of ``fit``, P(error)
    is wrong by as much.

    References
    ----------
    .. [1] Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability
       estimates", KDD 2002 (isotonic).
    .. [2] Platt, "Probabilistic outputs for support vector machines", Advances in Large Margin
       Classifiers, 1999 (sigmoid).
    .. [3] Kull et al., "Beta calibration: a well-founded and easily implemented improvement on
       logistic calibration for binary classifiers", AISTATS 2017 (beta).
    .. [4] Vovk & Petej, "Venn-Abers predictors", UAI 2014 (venn_abers).

    Examples
    --------
    >>> from adue_sklearn import ErrorProbability
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> model = ErrorProbability(method="venn_abers")
    >>> model = model.fit(*data.calibration, data.init_W, data.init_b)
    >>> p = model.predict_uncertainty(data.test.features)
    >>> print(f"{p.mean():.3f} {model.errors(*data.test).mean():.3f}")
    0.138 0.129
    """

    card: ClassVar[Card] = Card(
        name="error probability",
        paper="Zadrozny & Elkan, Transforming classifier scores into accurate multiclass "
        "probability estimates, KDD 2002; Vovk & Petej, Venn-Abers predictors, UAI 2014",
        formula="P(error | score), nondecreasing in the score",
        needs="held-out errors",
        cost="fit cv + 1 fits of the estimator; row as the estimator",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "method": [StrOptions(set(METHODS))],
        "cv": ["cv_object"],
    }

    def __init__(self, estimator: Any = None, *, method: str = "isotonic", cv: Any = 5) -> None:
        self.estimator = estimator
        self.method = method
        self.cv = cv

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Any,
        y: Any,
        init_W: Any = None,
        init_b: Any = None,
        *,
        classes: Any = None,
    ) -> Self:
        """Fit the estimator and the map from its score to P(error).

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

        Returns
        -------
        self : ErrorProbability
            Fitted.

        Raises
        ------
        ValueError
            If a given head makes no errors on the rows, or too few for folds when the score
            learns from errors.
        """
        if self._is_frozen():
            fitted, features, labels, new = self._check_frozen(X, y, init_W, init_b, classes)
            features, labels = features[new], labels[new]
            rows = score_rows(fitted, features, labels)
        else:
            fitted, features, labels, rows = self._fit_wrapped(X, y, init_W, init_b, classes)
        self._adopt(fitted)
        self._compare_labels(features, labels)
        self.n_samples_fit_, self.n_errors_ = len(rows.errors), int(rows.errors.sum())
        self._complain_of_errors()
        self.score_map_ = fit_score_map(self.method, *rows)
        return self

    def _fit_wrapped(
        self, X: Any, y: Any, init_W: Any, init_b: Any, classes: Any
    ) -> tuple[Any, Features, npt.NDArray[Any], ScoredRows]:
        """Return the estimator fitted on all rows, the rows, and out-of-fold scores and errors."""
        wrapped = self._wrapped()
        X = validate_features(self, X, reset=True)
        head, labels = resolve_head(
            X, y, init_W, init_b, classes, activation=wrapped.activation, name=type(self).__name__
        )
        checked = check_labels(y, X.shape[0], type(self).__name__)
        data = FitRows(X, checked, head if head.given else None)
        if learns_nothing(wrapped, head_given=head.given):
            fitted = data.fit(wrapped)
            return fitted, X, checked, score_rows(fitted, X, checked)
        folds = self._folds(data, labels, head)
        parts = [
            score_rows(data.part(rest).fit(wrapped), X[fold], checked[fold]) for rest, fold in folds
        ]
        uncertainty, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
        return data.fit(wrapped), X, checked, ScoredRows(uncertainty, errors)

    def _folds(self, data: FitRows, labels: IntArray, head: Head) -> list[Fold]:
        if not isinstance(self.cv, Integral):
            return given_folds(self.cv, labels)
        errors = self._errors_to_stratify(data, labels, head)
        few = int(min(errors.sum(), (~errors).sum()))
        if head.given and few < 2:
            raise ValueError(
                f"The original head makes {int(errors.sum())} errors on {len(errors)} rows: too "
                "few, or too many, to learn a score in folds. Use more rows that the classifier "
                "was not trained on, or freeze a fitted estimator."
            )
        # Without a head the folds fit one: they need every class.
        strata = errors if head.given else labels * 2 + errors
        n_splits = min(int(self.cv), few, int(np.bincount(strata).max()))
        return stratified(strata, max(2, n_splits))

    def _errors_to_stratify(self, data: FitRows, labels: IntArray, head: Head) -> BoolArray:
        if not head.given:
            return out_of_fold_predictions(as_numpy(data.X), labels) != labels
        scorer = SoftmaxResponseScorer(device=self._wrapped().device)
        return data.fit(scorer).errors(data.X, data.y)

    def _complain_of_errors(self) -> None:
        if self.n_errors_ == 0 and self._head_given:
            raise ValueError(
                f"The original head makes no errors on the {self.n_samples_fit_} fit rows, so "
                "P(error) cannot be learned. A model memorises its training rows: fit on held-out "
                "rows, or on more of them."
            )
        if self.n_errors_ in (0, self.n_samples_fit_):
            which = "no errors" if self.n_errors_ == 0 else "only errors"
            warn(
                f"The {self.n_samples_fit_} fit rows hold {which}: P(error) tells no row from "
                "another."
            )

    def _uncertainty(self, X: Features) -> Tensor:
        score = super()._uncertainty(X)
        scores = as_numpy(score).astype(np.float64)
        return torch.from_numpy(apply_score_map(self.method, self.score_map_, scores))

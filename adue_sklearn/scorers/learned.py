"""Scores that learn the original head's errors with scikit-learn's models.

All are fitted on rows that the classifier was not trained on; they store only arrays.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Array, as_numpy, map_rows, resolve_device
from adue_sklearn._utils.head import (
    BoolArray,
    FloatArray,
    Head,
    IntArray,
    apply_head,
    out_of_fold_predictions,
)
from adue_sklearn._utils.validation import naming
from adue_sklearn.adue.objective import softmax_response
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.scorers._errors import can_learn

#: Penalties that a probe chooses from, and the one for too few errors to choose.
_PROBE_GRID, _PROBE_C = (1e-3, 1e-2, 1e-1, 1.0), 0.1
_PROBE_FOLDS = 5


class ErrorLearner(UncertaintyEstimator):
    """Base class: learn from the errors, or remain softmax response if there are none."""

    #: What `_learn` sets.
    _learned_names: ClassVar[tuple[str, ...]]

    def _fit(self, X: Any, labels: IntArray, head: Head) -> None:
        for name in self._learned_names:
            self.__dict__.pop(name, None)
        errors = self._original_errors(X, labels, head)
        self.n_errors_, self.n_samples_fit_ = int(errors.sum()), len(errors)
        self._learned = can_learn(errors, head, instead="softmax response")
        if self._learned:
            self._learn(X, labels, errors, head)

    def _uncertainty(self, X: Any) -> Tensor:
        if not self._learned:
            return softmax_response(self.original_logits(X))
        return self._apply(X)

    @abstractmethod
    def _learn(self, X: Any, labels: IntArray, errors: BoolArray, head: Head) -> None:
        """Learn from errors and correct answers, both of which there are."""

    @abstractmethod
    def _apply(self, X: Any) -> Tensor:
        """Return the learned uncertainty (n,)."""

    def _affine(
        self, X: Array, weights: Sequence[FloatArray], biases: Sequence[FloatArray]
    ) -> Tensor:
        """Return the one output (n,) of layers with relu between them, in float64."""
        device = resolve_device(self.device, X)
        W = [torch.tensor(w, device=device) for w in weights]
        b: list[Tensor | None] = [torch.tensor(v, device=device) for v in biases]
        return map_rows(lambda rows: apply_head(rows, W, b, "relu"), X, device, torch.float64)[:, 0]


def fit_scaler(columns: FloatArray, what: str) -> StandardScaler:
    """Return a scaler fitted on columns; raise if their squares overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaler = StandardScaler().fit(columns)
    if not (np.isfinite(scaler.mean_).all() and np.isfinite(scaler.scale_).all()):
        raise ValueError(
            f"{what} too large (up to {np.abs(columns).max():.1e}): squares overflow float64. "
            "Scale the features and the head to match."
        )
    return scaler


@dataclass(eq=False, repr=False)
class LinearProbeScorer(ErrorLearner):
    """Log-odds of an error from a logistic regression on the features.

    Fit it on rows that the classifier was not trained on.

    Parameters
    ----------
    C : float or "cv", default="cv"
        Inverse strength of the penalty on standardised features, above 0. ``"cv"``: the value of
        0.001, 0.01, 0.1, 1 with the largest ROC-AUC over five folds, stratified on the errors;
        0.1 if there are fewer than two errors or two correct answers.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``. The fit is scikit-learn's, on the CPU.

    Attributes
    ----------
    coef_ : ndarray of float64 of shape (n_features,)
        Weights of the (unscaled) features. Like the next two, not set if there were no errors to
        learn from.
    intercept_ : float
        The constant.
    C_ : float
        The inverse strength used.
    n_errors_ : int
        Number of errors of the original head on the fit rows.
    n_samples_fit_ : int
        Number of fit rows.
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
        In ``fit`` with ``init_W``, if the head makes no errors or only errors on the fit rows.

    Warns
    -----
    UserWarning
        In the same case without ``init_W``; the score is then softmax response.

    Examples
    --------
    >>> from adue_sklearn import LinearProbeScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> probe = LinearProbeScorer(C=0.1).fit(*data.calibration, data.init_W, data.init_b)
    >>> probe.predict_uncertainty(data.test.features).shape
    (1821,)
    """

    card: ClassVar[Card] = Card(
        name="linear error probe",
        paper="Alain & Bengio, Understanding intermediate layers using linear classifier probes, "
        "ICLR workshop 2017",
        formula="w'h + b, the log-odds of an error",
        needs="held-out errors",
        cost="fit O(nd) per iteration, 21 fits with C='cv'; row O(d)",
    )

    _learned_names = ("coef_", "intercept_", "C_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="neither"), StrOptions({"cv"})],
        **UncertaintyEstimator._parameter_constraints,
    }

    C: float | Literal["cv"] = "cv"

    def _learn(self, X: Array, labels: IntArray, errors: BoolArray, head: Head) -> None:
        rows = as_numpy(X).astype(np.float64)
        scaler = fit_scaler(rows, "X is")
        self.C_ = self._choose_C(rows, errors) if self.C == "cv" else float(self.C)
        model = LogisticRegression(C=self.C_, max_iter=1000).fit(scaler.transform(rows), errors)
        self.coef_ = model.coef_[0] / scaler.scale_
        self.intercept_ = float(model.intercept_[0] - self.coef_ @ scaler.mean_)

    def _choose_C(self, rows: FloatArray, errors: BoolArray) -> float:
        n_folds = min(_PROBE_FOLDS, int(errors.sum()), int((~errors).sum()))
        if n_folds < 2:
            return _PROBE_C
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": list(_PROBE_GRID)},
            scoring="roc_auc",
            cv=StratifiedKFold(n_folds, shuffle=True, random_state=0),
            refit=False,
        )
        return float(search.fit(rows, errors).best_params_["logisticregression__C"])

    def _apply(self, X: Array) -> Tensor:
        return self._affine(X, [self.coef_[None]], [np.array([self.intercept_])])


@dataclass(eq=False, repr=False)
class ConfidNetScorer(ErrorLearner):
    """A small network that learns the probability of the true class (ConfidNet).

    Fit it on rows that the classifier was not trained on. Its inputs are the features, and the
    uncertainty is one minus its prediction.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default=(100, 50)
        Widths of its hidden layers, relu between them.
    alpha : float, default=10.0
        Strength of the L2 penalty, at least 0, as in scikit-learn's ``MLPRegressor``. A few
        thousand rows need a strong penalty.
    max_iter : int, default=50
        Maximum number of passes over the rows; fewer if the loss stops decreasing.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights and the order of the rows.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``. The fit is scikit-learn's, on the CPU.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray of float64
        The network's layers, each (n_out, n_in), for unscaled features. Not set if there were no
        errors to learn from.
    n_iter_ : int
        Passes over the rows.
    n_errors_ : int
        Number of errors of the original head on the fit rows.
    n_samples_fit_ : int
        Number of fit rows.
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
        In ``fit`` with ``init_W``, if the head makes no errors or only errors on the fit rows.

    Warns
    -----
    UserWarning
        In the same case without ``init_W``; the score is then softmax response.

    Notes
    -----
    Squared error on standardised features, minimised by scikit-learn's ``MLPRegressor``. Without
    ``init_W`` the probabilities are out-of-fold. The published network also fine-tunes a copy of
    the encoder, which a score on frozen features cannot do.

    Examples
    --------
    >>> from adue_sklearn import ConfidNetScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> scorer = ConfidNetScorer(max_iter=5, random_state=0)
    >>> scorer = scorer.fit(*data.calibration, data.init_W, data.init_b)
    >>> scorer.predict_uncertainty(data.test.features).shape
    (1821,)
    """

    card: ClassVar[Card] = Card(
        name="ConfidNet",
        paper="Corbiere et al., Addressing failure prediction by learning model confidence, "
        "NeurIPS 2019",
        formula="1 - f(h), f a network that predicts the probability p_y of the true class",
        needs="held-out errors",
        cost="fit O(ndm) per pass, m hidden units; row O(dm)",
    )

    _learned_names = ("coefs_", "intercepts_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        **UncertaintyEstimator._parameter_constraints,
    }

    hidden_layer_sizes: Sequence[int] = (100, 50)
    _: KW_ONLY
    alpha: float = 10.0
    max_iter: int = 50
    random_state: int | np.random.RandomState | None = None

    def _learn(self, X: Array, labels: IntArray, errors: BoolArray, head: Head) -> None:
        rows = as_numpy(X).astype(np.float64)
        scaler = fit_scaler(rows, "X is")
        network = MLPRegressor(
            hidden_layer_sizes=_check_widths(self.hidden_layer_sizes),
            alpha=self.alpha,
            max_iter=self.max_iter,
            random_state=check_random_state(self.random_state).randint(2**31),
        )
        with warnings.catch_warnings():
            # The number of passes is part of the recipe, not a failure to converge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(scaler.transform(rows), self._true_class_probability(X, labels, head))
        self.n_iter_ = int(network.n_iter_)
        first, *others = [np.ascontiguousarray(layer.T) for layer in network.coefs_]
        first = first / scaler.scale_
        shift, *biases = network.intercepts_
        self.coefs_ = [first, *others]
        self.intercepts_ = [shift - first @ scaler.mean_, *biases]

    def _true_class_probability(self, X: Array, labels: IntArray, head: Head) -> FloatArray:
        if head.given:
            p = torch.softmax(self.original_logits(X), dim=1).cpu().numpy()
        else:
            p = out_of_fold_predictions(as_numpy(X), labels, method="predict_proba")
        return p[np.arange(len(labels)), labels]

    def _apply(self, X: Array) -> Tensor:
        return 1.0 - self._affine(X, self.coefs_, self.intercepts_)


def _check_widths(widths: Any) -> tuple[int, ...]:
    with naming("hidden_layer_sizes", "whole numbers above 0, one per layer"):
        sizes = np.asarray(widths)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or len(sizes) == 0 or (sizes < 1).any():
        raise ValueError(
            f"hidden_layer_sizes is {widths!r}; expected integers of at least 1, such as (100,)."
        )
    return tuple(sizes.tolist())

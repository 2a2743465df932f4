"""Scores that are computed from the original head's logits.

Each formula is a function of logits ``z`` (n, C), float64; its estimator is a thin wrapper. Rows
whose largest probability rounds to one keep their order: terms that would cancel are computed from
the log-odds of "any class but the largest".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Array
from adue_sklearn._utils.head import BoolArray, Head, IntArray
from adue_sklearn._utils.validation import naming, warn
from adue_sklearn.adue.objective import entropy_distance, softmax_response, top_class
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.metrics import aurc_score
from adue_sklearn.scorers._errors import can_learn

DoctorVariant = Literal["alpha", "beta"]


def entropy(z: Tensor) -> Tensor:
    """Return ``-sum p log p`` (n,)."""
    top = top_class(z)
    return top.eps * entropy_distance(top).ratio


def margin(z: Tensor) -> Tensor:
    """Return ``1 - (p(1) - p(2))`` (n,) of the two largest probabilities.

    The leading one keeps confident rows distinct: without it they would round to -1.
    """
    top = top_class(z)
    return top.eps + torch.exp(top.log_eps + top.log_share.amax(dim=-1))


def max_logit(z: Tensor) -> Tensor:
    """Return ``-max z`` (n,)."""
    return -z.amax(dim=-1)


def energy(z: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``-T logsumexp(z / T)`` (n,)."""
    maximum = z.amax(dim=-1, keepdim=True)
    return -maximum[..., 0] - temperature * ((z - maximum) / temperature).logsumexp(dim=-1)


def gen(z: Tensor, gamma: float = 0.1, top_m: int | None = None) -> Tensor:
    """Return ``sum p^gamma (1 - p)^gamma`` (n,) over the ``top_m`` largest p (None: all)."""
    top = top_class(z)
    log_p = top.log_eps[..., None] + top.log_share
    if top_m is not None and top_m < z.shape[-1]:
        log_p = log_p.topk(top_m - 1, dim=-1).values
    of_top = torch.exp(gamma * (torch.log1p(-top.eps) + top.log_eps))
    # The others' p are at most 1/2: nothing cancels.
    return of_top + torch.exp(gamma * (log_p + torch.log1p(-log_p.exp()))).sum(dim=-1)


def doctor(z: Tensor, variant: DoctorVariant = "alpha") -> Tensor:
    """Return ``(1 - g) / g`` (n,), g = sum p^2 (alpha) or max p (beta)."""
    top = top_class(z)
    if variant == "beta":
        return top.eps / (1.0 - top.eps)
    others = top.eps[..., None] * top.share
    missing = top.eps * (1.0 - top.eps) + (others * (1.0 - others)).sum(dim=-1)  # 1 - g
    return missing / (1.0 - missing)


def max_logit_p_norm(z: Tensor, p: float) -> Tensor:
    """Return ``-max(z - mean z) / ||z - mean z||_p`` (n,); 0, the largest, for equal logits.

    With two classes it is constant.
    """
    centred = z - z.mean(dim=-1, keepdim=True)
    largest = centred.abs().amax(dim=-1, keepdim=True)
    scaled = centred / torch.where(largest > 0, largest, 1.0)  # so that no power overflows
    norm = torch.linalg.vector_norm(scaled, ord=p, dim=-1)
    return -scaled.amax(dim=-1) / torch.where(norm > 0, norm, 1.0)


def rel_u(z: Tensor, D: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``p' D p`` (n,), p = softmax(z / T)."""
    p = _tempered(z, temperature)
    return ((p @ D) * p).sum(dim=-1)


def rel_u_matrix(z: Tensor, errors: BoolArray, lam: float, temperature: float = 1.0) -> Tensor:
    """Return ``relu(lam E[pp' | wrong] - (1 - lam) E[pp' | correct])`` (C, C).

    Zero on the diagonal and of Frobenius norm one, unless it is zero everywhere. An expectation
    over no rows counts as zero.
    """
    p = _tempered(z, temperature)
    wrong = torch.as_tensor(errors, device=z.device)
    of_wrong, of_correct = (rows.T @ rows / max(1, len(rows)) for rows in (p[wrong], p[~wrong]))
    D = torch.relu(lam * of_wrong - (1.0 - lam) * of_correct).fill_diagonal_(0.0)
    norm = torch.linalg.matrix_norm(D)
    return D / torch.where(norm > 0, norm, 1.0)


def _tempered(z: Tensor, temperature: float) -> Tensor:
    return torch.softmax((z - z.amax(dim=-1, keepdim=True)) / temperature, dim=-1)


class LogitScorer(UncertaintyEstimator):
    """Base class of scores that are a function of the logits; ``fit`` only takes the head."""

    def _uncertainty(self, X: Array) -> Tensor:
        return self._score_logits(self.original_logits(X))

    def uncertainty_of_logits(self, z: Tensor) -> Tensor:
        """Return the uncertainty (n,) of the original head's logits (n, C) in float64."""
        return self._score_logits(z)

    @abstractmethod
    def _score_logits(self, z: Tensor) -> Tensor:
        """Return the uncertainty (n,) of logits (n, C) in float64."""


class SoftmaxResponseScorer(LogitScorer):
    """One minus the largest class probability of the original head.

    It costs nothing, learns nothing, and is hard to beat: every other score has to.

    Parameters
    ----------
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_ : ndarray of float64 of shape (n_classes, n_features)
        Weights of the original head.
    init_intercept_ : ndarray of float64 of shape (n_classes,)
        Its bias.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Notes
    -----
    The score is computed from the log-odds of "any other class", so it distinguishes rows whose
    largest probability rounds to one.

    Examples
    --------
    >>> from adue_sklearn import SoftmaxResponseScorer
    >>> W, b = [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]
    >>> scorer = SoftmaxResponseScorer().fit([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], [0, 1, 1], W, b)
    >>> scorer.predict_uncertainty([[0.0, 0.0], [50.0, 0.0]])
    array([5.00000000e-01, 1.92874985e-22])
    """

    card: ClassVar[Card] = Card(
        name="softmax response",
        paper="Hendrycks & Gimpel, A baseline for detecting misclassified and "
        "out-of-distribution examples in neural networks, ICLR 2017",
        formula="1 - max p",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    def _score_logits(self, z: Tensor) -> Tensor:
        return softmax_response(z)


class EntropyScorer(LogitScorer):
    """Entropy of the original head's class probabilities, in nats.

    Parameters
    ----------
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import EntropyScorer
    >>> scorer = EntropyScorer().fit([[2.0, 0.0, 0.0]] * 4, [0, 0, 0, 1], np.eye(3))
    >>> scorer.predict_uncertainty([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    array([1.09861229e+00, 1.96732484e-20])
    """

    card: ClassVar[Card] = Card(
        name="entropy",
        paper="Shannon, A mathematical theory of communication, Bell System Technical Journal 27, "
        "1948",
        formula="-sum_c p_c log p_c",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    def _score_logits(self, z: Tensor) -> Tensor:
        return entropy(z)


class MarginScorer(LogitScorer):
    """One minus the gap between the two largest probabilities.

    Parameters
    ----------
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Notes
    -----
    In [0, 1]. The common form ``p(2) - p(1)`` ranks rows equally, except that rounding ties
    confident rows.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import MarginScorer
    >>> scorer = MarginScorer().fit([[2.0, 0.0, 0.0]] * 4, [0, 0, 0, 1], np.eye(3))
    >>> scorer.predict_uncertainty([[1.0, 1.0, 0.0], [50.0, 0.0, 0.0]])
    array([1.00000000e+00, 5.78624954e-22])
    """

    card: ClassVar[Card] = Card(
        name="margin",
        paper="Scheffer et al., Active hidden Markov models for information extraction, IDA 2001",
        formula="1 - (p(1) - p(2)), the two largest probabilities",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    def _score_logits(self, z: Tensor) -> Tensor:
        return margin(z)


class MaxLogitScorer(LogitScorer):
    """The negative of the largest logit.

    Parameters
    ----------
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Notes
    -----
    Unlike probabilities, it changes if a number is added to all logits of a row.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import MaxLogitScorer
    >>> scorer = MaxLogitScorer().fit([[2.0, 0.0, 0.0]] * 4, [0, 0, 0, 1], np.eye(3))
    >>> scorer.predict_uncertainty([[1.0, 1.0, 0.0], [50.0, 0.0, 0.0]])
    array([ -1., -50.])
    """

    card: ClassVar[Card] = Card(
        name="max-logit",
        paper="Hendrycks et al., Scaling out-of-distribution detection for real-world settings, "
        "ICML 2022",
        formula="-max z",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    def _score_logits(self, z: Tensor) -> Tensor:
        return max_logit(z)


@dataclass(eq=False, repr=False)
class EnergyScorer(LogitScorer):
    """Free energy of the logits: the negative of their log-sum-exp.

    Parameters
    ----------
    temperature : float, default=1.0
        Divisor of the logits, above 0. Towards 0 the score is max-logit's.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import EnergyScorer
    >>> scorer = EnergyScorer().fit([[2.0, 0.0, 0.0]] * 4, [0, 0, 0, 1], np.eye(3))
    >>> scorer.predict_uncertainty([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    array([ -1.09861229, -50.        ])
    """

    card: ClassVar[Card] = Card(
        name="energy",
        paper="Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020",
        formula="-T logsumexp(z / T)",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "temperature": [Interval(Real, 0, None, closed="neither")],
        **UncertaintyEstimator._parameter_constraints,
    }

    temperature: float = 1.0

    def _score_logits(self, z: Tensor) -> Tensor:
        return energy(z, self.temperature)


@dataclass(eq=False, repr=False)
class GENScorer(LogitScorer):
    """Generalised entropy of the largest probabilities (GEN).

    Parameters
    ----------
    gamma : float in (0, 1], default=0.1
        Exponent. Small values emphasise small probabilities.
    top_m : int or None, default=None
        How many of the largest probabilities to use. None, or a number above that of the classes,
        means all. The paper uses about a tenth of a thousand classes.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import GENScorer
    >>> scorer = GENScorer().fit([[2.0, 0.0, 0.0]] * 4, [0, 0, 0, 1], np.eye(3))
    >>> scorer.predict_uncertainty([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]).round(4)
    array([2.5811, 0.0207])
    """

    card: ClassVar[Card] = Card(
        name="GEN",
        paper="Liu et al., GEN: Pushing the limits of softmax-based out-of-distribution detection, "
        "CVPR 2023",
        formula="sum over the M largest p of p^g (1 - p)^g",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "gamma": [Interval(Real, 0, 1, closed="right")],
        "top_m": [Interval(Integral, 1, None, closed="left"), None],
        **UncertaintyEstimator._parameter_constraints,
    }

    gamma: float = 0.1
    top_m: int | None = None

    def _score_logits(self, z: Tensor) -> Tensor:
        return gen(z, self.gamma, self.top_m)


@dataclass(eq=False, repr=False)
class DoctorScorer(LogitScorer):
    """Odds that an answer is wrong, by the head's own probabilities (DOCTOR).

    Parameters
    ----------
    variant : {"alpha", "beta"}, default="alpha"
        ``"alpha"`` takes the probability that a label drawn from p is the class drawn from p,
        ``sum p^2``; ``"beta"`` takes ``max p``, which ranks rows as softmax response does.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import DoctorScorer
    >>> scorer = DoctorScorer().fit([[2.0, 0.0, 0.0]] * 4, [0, 0, 0, 1], np.eye(3))
    >>> scorer.predict_uncertainty([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    array([2.00000000e+00, 7.71499939e-22])
    """

    card: ClassVar[Card] = Card(
        name="DOCTOR",
        paper="Granese et al., DOCTOR: A simple method for detecting misclassification errors, "
        "NeurIPS 2021",
        formula="(1 - g) / g, g = sum_c p_c^2 (alpha) or max p (beta)",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "variant": [StrOptions({"alpha", "beta"})],
        **UncertaintyEstimator._parameter_constraints,
    }

    variant: DoctorVariant = "alpha"

    def _score_logits(self, z: Tensor) -> Tensor:
        return doctor(z, self.variant)


@dataclass(eq=False, repr=False)
class MaxLogitPNormScorer(LogitScorer):
    """The largest logit after centring and p-norm normalisation, p chosen on the fit rows.

    Fit it on rows that the classifier was not trained on. Softmax response is kept if no p has a
    smaller area under the risk-coverage curve, and always with two classes, whose normalised
    logits are all equal. Rows without errors therefore choose softmax response.

    Parameters
    ----------
    p_grid : sequence of float, default=(1, 2, ..., 10)
        Values of p to choose from, above 0; ``inf`` is allowed.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    p_ : float or None
        The chosen p; None is softmax response.
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Examples
    --------
    >>> from adue_sklearn import MaxLogitPNormScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> scorer = MaxLogitPNormScorer().fit(*data.calibration, data.init_W, data.init_b)
    >>> scorer.p_ is None  # two classes
    True
    """

    card: ClassVar[Card] = Card(
        name="MaxLogit-pNorm",
        paper="Cattelan & Silva, How to fix a broken confidence estimator: Evaluating post-hoc "
        "methods for selective classification with deep neural networks, UAI 2024",
        formula="-max_c (z - mean z)_c / ||z - mean z||_p, or 1 - max p",
        needs="held-out errors",
        cost="fit O(nC) per value of p; row O(Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "p_grid": ["array-like"],
        **UncertaintyEstimator._parameter_constraints,
    }

    p_grid: Sequence[float] = tuple(range(1, 11))

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        grid = _check_p_grid(self.p_grid)
        self.p_ = None
        if len(self.classes_) == 2:
            return
        errors, z = self._original_errors(X, labels, head), self.original_logits(X)
        least = aurc_score(errors, softmax_response(z))
        for p in grid:
            area = aurc_score(errors, max_logit_p_norm(z, p))
            if area < least:
                least, self.p_ = area, p

    def _score_logits(self, z: Tensor) -> Tensor:
        return softmax_response(z) if self.p_ is None else max_logit_p_norm(z, self.p_)


def _check_p_grid(p_grid: Any) -> list[float]:
    with naming("p_grid", "numbers above 0, such as (1, 2, 4)"):
        grid = np.asarray(p_grid, dtype=np.float64)
    if grid.ndim != 1 or len(grid) == 0 or not (grid > 0).all():
        raise ValueError(f"p_grid is {p_grid!r}; expected numbers above 0, such as (1, 2, 4).")
    return [float(p) for p in grid]


@dataclass(eq=False, repr=False)
class RelUScorer(LogitScorer):
    """Relative uncertainty: pairs of classes are weighted by their association with errors (Rel-U).

    Fit it on rows that the classifier was not trained on: it learns from both wrong and correct
    rows.

    Parameters
    ----------
    lam : float in (0, 1], default=0.5
        Weight of the wrong rows; the correct ones get the rest.
    temperature : float, default=1.0
        Divisor of the logits, above 0.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    relation_ : ndarray of float64 of shape (n_classes, n_classes)
        The matrix D: symmetric, not negative, zero on the diagonal, of Frobenius norm one.
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
        If (without ``init_W``) the fit rows hold no errors or only errors, or if no pair of
        classes weighs more in the wrong rows. All pairs then count equally, which gives the Gini
        index ``1 - sum p^2`` up to a factor.

    Examples
    --------
    >>> from adue_sklearn import RelUScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> scorer = RelUScorer().fit(*data.calibration, data.init_W, data.init_b)
    >>> scorer.relation_.round(4)
    array([[0.    , 0.7071],
           [0.7071, 0.    ]])
    """

    card: ClassVar[Card] = Card(
        name="Rel-U",
        paper="Dadalto et al., A data-driven measure of relative uncertainty for "
        "misclassification detection, ICLR 2024",
        formula="p' D p, D = relu(l E[pp' | wrong] - (1 - l) E[pp' | correct]), zero diagonal, "
        "over its Frobenius norm",
        needs="held-out errors",
        cost="fit O(nC^2); row O(Cd + C^2)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "lam": [Interval(Real, 0, 1, closed="right")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        **UncertaintyEstimator._parameter_constraints,
    }

    lam: float = 0.5
    temperature: float = 1.0

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        errors, z = self._original_errors(X, labels, head), self.original_logits(X)
        self.n_errors_, self.n_samples_fit_ = int(errors.sum()), len(errors)
        D = torch.zeros(z.shape[1], z.shape[1], dtype=z.dtype)
        if can_learn(errors, head, instead="the Gini index 1 - sum p^2"):
            D = rel_u_matrix(z, errors, self.lam, self.temperature)
            if not bool(D.any()):
                warn(
                    f"With lam={self.lam} no pair of classes weighs more in the wrong rows than in "
                    "the correct ones, so all pairs count equally (the Gini index). Raise lam."
                )
        if not bool(D.any()):
            D = (1.0 - torch.eye(len(D), dtype=D.dtype)) / np.sqrt(len(D) * (len(D) - 1))
        self.relation_ = D.cpu().numpy()

    def _score_logits(self, z: Tensor) -> Tensor:
        return rel_u(z, torch.tensor(self.relation_, device=z.device), self.temperature)

"""A last-layer Laplace approximation: how sure the training rows make the head of its logits.

The posterior of the head's weights is a Gaussian around them. Its precision is the generalised
Gauss-Newton matrix of the training rows plus the prior's, with the former in Kronecker factors:
``n A (x) G + tau I``, A (d, d) the second moments of the features, G (C, C) the mean curvature of
the cross-entropy in the logits. In the eigenbases of both it is diagonal, so that nothing larger
than A is ever stored.

Adding one number to all logits changes no probability, and no data say anything about it. This
direction, the zero eigenvalue of G, is left out.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Array, map_rows, resolve_device, row_chunks, tensors_on
from adue_sklearn._utils.head import FloatArray, Head, IntArray
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card

#: Where the marginal likelihood looks for a prior precision.
_LEAST_PRECISION, _MOST_PRECISION = 1e-6, 1e6
#: Sampled logits that are worked on at a time.
_SAMPLED_LOGITS = 2**18


class KroneckerFactors(NamedTuple):
    """Eigenbases and eigenvalues of ``A (x) G``.

    ``of_features`` (d,) with ``feature_axes`` (d, d), ``of_logits`` (C - 1,) with ``logit_axes``
    (C, C - 1), columns being eigenvectors.
    """

    of_features: Tensor
    feature_axes: Tensor
    of_logits: Tensor
    logit_axes: Tensor


def logit_curvature(z: Tensor) -> Tensor:
    """Return ``sum_i diag(p_i) - p_i p_i'`` (C, C) over rows of logits (n, C).

    The diagonal is summed from the rest, so that confident rows do not cancel.
    """
    p = torch.softmax(z, dim=1)
    between = (p.T @ p).fill_diagonal_(0.0)
    return torch.diag(between.sum(dim=1)) - between


def kronecker_factors(A: Tensor, G: Tensor) -> KroneckerFactors:
    """Return the factors, without the direction that adds one number to all logits."""
    of_features, feature_axes = torch.linalg.eigh(A)
    n_classes = len(G)
    # An orthonormal basis of what is left of the classes.
    ones = torch.ones(n_classes, 1, dtype=G.dtype, device=G.device)
    contrasts = torch.linalg.qr(ones, mode="complete").Q[:, 1:]
    of_logits, axes = torch.linalg.eigh(contrasts.T @ G @ contrasts)
    return KroneckerFactors(
        of_features.clamp(min=0.0), feature_axes, of_logits.clamp(min=0.0), contrasts @ axes
    )


def best_prior_precision(curvatures: Tensor, squared_norm: float) -> float:
    """Return the prior precision of the largest marginal likelihood.

    Parameters
    ----------
    curvatures : Tensor
        Eigenvalues of the Gauss-Newton matrix.
    squared_norm : float
        Sum of the squared weights of the head.

    Returns
    -------
    float
        The root of ``tau |theta|^2 = sum_i l_i / (l_i + tau)``, within 1e-6 and 1e6.
    """

    def excess(log_precision: float) -> float:
        precision = math.exp(log_precision)
        return precision * squared_norm - float((curvatures / (curvatures + precision)).sum())

    low, high = math.log(_LEAST_PRECISION), math.log(_MOST_PRECISION)
    if excess(low) >= 0.0:
        return _LEAST_PRECISION
    if excess(high) <= 0.0:
        return _MOST_PRECISION
    return math.exp(brentq(excess, low, high))


def axis_variances(H: Tensor, factors: KroneckerFactors, n: float, precision: float) -> Tensor:
    """Return the variances (m, C - 1) of the logits of rows (m, d) along ``logit_axes``."""
    posterior = torch.outer(n * factors.of_features, factors.of_logits) + precision
    return (H @ factors.feature_axes).square() @ posterior.reciprocal()


def probit_response(z: Tensor, variances: Tensor, axes: Tensor) -> Tensor:
    """Return one minus the probability of the largest logit (n,), averaged over Gaussian logits.

    Each ``z_k - z_c`` is divided by ``sqrt(1 + pi / 8 var(z_k - z_c))``, the probit approximation;
    with two classes that is the usual one.

    Parameters
    ----------
    z : Tensor of shape (n, C)
        Mean logits.
    variances : Tensor of shape (n, m)
        Variances along ``axes``.
    axes : Tensor of shape (C, m)
        Orthonormal columns.
    """
    largest = z.argmax(dim=1, keepdim=True)
    own = axes[largest[:, 0]]
    total = variances @ axes.square().T
    covariance = (variances * own) @ axes.T
    of_gap = (total.gather(1, largest) + total - 2.0 * covariance).clamp(min=0.0)
    gaps = (z - z.gather(1, largest)) / torch.sqrt(1.0 + math.pi / 8.0 * of_gap)
    return _response(gaps, largest)


def sampled_response(z: Tensor, variances: Tensor, axes: Tensor, normals: Tensor) -> Tensor:
    """Return the same mean over samples: ``normals`` (S, m) are the same for every row."""
    largest = z.argmax(dim=1, keepdim=True)
    spread = variances.sqrt()
    total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    at_a_time = max(1, _SAMPLED_LOGITS // max(1, z.numel()))
    for some in normals.split(at_a_time):
        samples = z + (spread * some[:, None]) @ axes.T
        own = largest.expand(len(some), -1, -1)
        total += _response(samples - samples.gather(-1, own), own).sum(dim=0)
    return total / len(normals)


def _response(gaps: Tensor, largest: Tensor) -> Tensor:
    """Return ``1 - p_k`` from the other logits minus that of class ``k``."""
    return torch.sigmoid(gaps.scatter(-1, largest, -torch.inf).logsumexp(dim=-1))


@dataclass(eq=False, repr=False)
class LastLayerLaplaceScorer(UncertaintyEstimator):
    """Softmax response averaged over a posterior of the head's weights (last-layer Laplace).

    Fit it on the rows that the classifier was trained on: the posterior says what these leave
    open. Their labels play no part, only the head's probabilities for them do.

    Parameters
    ----------
    prior_precision : float or "marginal_likelihood", default="marginal_likelihood"
        Precision of the Gaussian prior of every weight, above 0. By default the one of the
        largest marginal likelihood, between 1e-6 and 1e6.
    predictive : {"probit", "monte_carlo"}, default="probit"
        How the probabilities are averaged: in closed form, approximately, or over samples of the
        logits, the same for every row.
    n_samples : int, default=100
        Number of samples; only for ``"monte_carlo"``.
    random_state : int, RandomState instance or None, default=None
        Of the samples, which are drawn in ``fit``.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        Not used: the head has to be one linear layer. There because every estimator has it.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    prior_precision_ : float
        The precision that was used.
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
        In ``fit``, if the head has several layers.

    Notes
    -----
    The score is one minus the averaged probability of the class that the original head predicts,
    in [0, 1]. The posterior's precision has Kronecker factors; memory is a (d, d) matrix and
    chunks of rows, whatever the number of classes.

    References
    ----------
    .. [1] Ritter et al., "A scalable Laplace approximation for neural networks", ICLR 2018.
    .. [2] Kristiadi et al., "Being Bayesian, even just a bit, fixes overconfidence in ReLU
       networks", ICML 2020.
    .. [3] Daxberger et al., "Laplace Redux: Effortless Bayesian deep learning", NeurIPS 2021.
    .. [4] Lu et al., "Mean-field approximation to Gaussian-softmax integral with application to
       uncertainty estimation", 2020, arXiv:2006.07584, for the probit with several classes.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import LastLayerLaplaceScorer
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> scorer = LastLayerLaplaceScorer().fit(X, (X[:, 0] > 0).astype(int))
    >>> near, far = scorer.predict_uncertainty([[1.0, 0.0, 0.0], [1.0, 50.0, 0.0]])
    >>> bool(near < far)
    True
    """

    card: ClassVar[Card] = Card(
        name="last-layer Laplace",
        paper="Daxberger et al., Laplace Redux: Effortless Bayesian deep learning, NeurIPS 2021",
        formula="1 - E[p_k] over the head's weights ~ N(W, (n A (x) G + tau I)^-1)",
        needs="training rows",
        cost="fit O(nd^2 + d^3); row O(d^2 + Cd + C^2)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "prior_precision": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"marginal_likelihood"}),
        ],
        "predictive": [StrOptions({"probit", "monte_carlo"})],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        **UncertaintyEstimator._parameter_constraints,
    }

    prior_precision: float | Literal["marginal_likelihood"] = "marginal_likelihood"
    _: KW_ONLY
    predictive: Literal["probit", "monte_carlo"] = "probit"
    n_samples: int = 100
    random_state: int | np.random.RandomState | None = None

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        if not head.is_linear:
            raise ValueError(
                f"init_W has {len(head.weights)} layers, but {type(self).__name__} describes only "
                "the last one; pass the last layer's W and b, and as X the features that enter it."
            )
        device = resolve_device(self.device, X)
        self._bias = head.biases[0] is not None
        self.n_samples_fit_ = len(labels)
        factors = kronecker_factors(*self._moments(X, device))
        self.prior_precision_ = self._resolve_precision(factors, head)
        arrays = [factor.cpu().contiguous().numpy() for factor in factors]
        self._of_features, self._feature_axes, self._of_logits, self._logit_axes = arrays
        self._normals: FloatArray | None = None
        if self.predictive == "monte_carlo":
            shape = (int(self.n_samples), len(self._of_logits))
            self._normals = check_random_state(self.random_state).standard_normal(shape)

    def _moments(self, X: Array, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the means of ``h h'`` and of the logits' curvature over the rows."""
        width, n_classes = X.shape[1] + self._bias, len(self.classes_)
        A = torch.zeros(width, width, dtype=torch.float64, device=device)
        G = torch.zeros(n_classes, n_classes, dtype=torch.float64, device=device)
        W, b = self._head_on(device)
        for chunk in row_chunks(X, device, torch.float64):
            H = self._with_bias(chunk)
            A.addmm_(H.T, H)
            G += logit_curvature(torch.addmm(b, chunk, W.T))
        if not bool(torch.isfinite(A).all() and torch.isfinite(G).all()):
            raise ValueError(
                "X is too large: its squares, or the logits, overflow float64. Scale the features "
                "and the head to match."
            )
        return A / self.n_samples_fit_, G / self.n_samples_fit_

    def _resolve_precision(self, factors: KroneckerFactors, head: Head) -> float:
        if self.prior_precision != "marginal_likelihood":
            return float(self.prior_precision)
        curvatures = self.n_samples_fit_ * torch.outer(factors.of_features, factors.of_logits)
        W, b = head.weights[0], head.biases[0]
        weights = W if b is None else np.column_stack([W, b])
        return best_prior_precision(curvatures, float(np.square(weights - weights.mean(0)).sum()))

    def _uncertainty(self, X: Array) -> Tensor:
        device = resolve_device(self.device, X)
        W, b = self._head_on(device)
        factors = KroneckerFactors(
            *tensors_on(
                device, self._of_features, self._feature_axes, self._of_logits, self._logit_axes
            )
        )
        normals = None if self._normals is None else torch.tensor(self._normals, device=device)

        def score(chunk: Tensor) -> Tensor:
            z = torch.addmm(b, chunk, W.T)
            variances = axis_variances(
                self._with_bias(chunk), factors, self.n_samples_fit_, self.prior_precision_
            )
            if normals is None:
                return probit_response(z, variances, factors.logit_axes)
            return sampled_response(z, variances, factors.logit_axes, normals)

        return map_rows(score, X, device, torch.float64)

    def _head_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        (W,), (b,) = self.init_head_.to(device)
        assert b is not None  # zeros, once fitted
        return W, b

    def _with_bias(self, rows: Tensor) -> Tensor:
        if not self._bias:
            return rows
        return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)], 1)

"""Scores from the part of the features that the training rows leave empty.

Source: Wang et al. (2022), arXiv 2203.10807 (ViM).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from adue_sklearn._utils.arrays import Array, map_rows, resolve_device, row_chunks, tensors_on
from adue_sklearn._utils.head import ACTIVATIONS, FloatArray, Head, IntArray, apply_head
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card


def head_origin(W: FloatArray, b: FloatArray) -> FloatArray:
    """Return the point (d,) whose logits ``W o + b`` (C,) are nearest to zero, the shortest one."""
    return -np.linalg.pinv(W) @ b


def published_dimension(n_features: int) -> int:
    """Return the dimension of the principal subspace in the paper's experiments."""
    if n_features >= 2048:
        return 1000
    return 512 if n_features >= 768 else n_features // 2


def residual_norms(X: Tensor, origin: Tensor, complement: Tensor) -> Tensor:
    """Return lengths (n,) of the rows' parts, seen from ``origin``, in ``complement`` (d, r)."""
    return torch.linalg.vector_norm((X - origin) @ complement, dim=1)


@dataclass(eq=False, repr=False)
class ViMScorer(UncertaintyEstimator):
    """Virtual-logit matching: what lies off the training rows' main directions, minus energy.

    Fit it on the rows that the classifier was trained on: it describes where these lie.

    Parameters
    ----------
    n_components : int, default=None
        Dimension of the principal subspace, less than the number of features that enter the last
        layer. None: as in the paper 1000 of 2048 or more features, 512 of 768 or more, else half
        of them; but never more than half of the directions that the fit rows span, so that
        few rows do not leave an empty rest.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    n_components_ : int
        Dimension of the principal subspace.
    origin_ : ndarray of float64 of shape (n_last_features,)
        Where the head's logits are nearest to zero.
    complement_ : ndarray of float64 of shape (n_last_features, n_last_features - n_components_)
        Orthonormal directions off the principal subspace.
    scale_ : float
        What a residual's length is multiplied by to be on the scale of logits.
    init_coef_, init_intercept_ : ndarray of float64
        The original head (``init_coefs_, init_intercepts_``, one a layer, for one of several).
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Raises
    ------
    ValueError
        In ``fit``, if ``n_components`` leaves no directions, or none in which the fit rows differ
        from the origin.

    Notes
    -----
    The features are those that enter the last linear layer; for a head of several layers they are
    computed from ``X``. The origin is ``-pinv(W) b``; where there are fewer features than classes
    no point may have logits of zero, and it is the one of least squares. The scale is
    the mean over the fit rows of the largest logit over that of the residual; of a head whose
    largest logits are negative on average its absolute value, so that a residual never lowers
    the uncertainty.

    References
    ----------
    .. [1] Wang et al., "ViM: out-of-distribution with virtual-logit matching", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import ViMScorer
    >>> X = np.random.default_rng(0).normal(size=(200, 4)) * [5.0, 5.0, 0.1, 0.1]
    >>> W = np.eye(4)[:2]
    >>> scorer = ViMScorer(n_components=2).fit(X, (X @ W.T).argmax(axis=1), W)
    >>> on, off = scorer.predict_uncertainty([[5.0, 0.0, 0.0, 0.0], [5.0, 0.0, 1.0, 0.0]])
    >>> bool(on < off)
    True
    """

    card: ClassVar[Card] = Card(
        name="ViM",
        paper="Wang et al., ViM: out-of-distribution with virtual-logit matching, CVPR 2022",
        formula="a |R'(h + pinv(W) b)| - logsumexp z, R the directions off the principal "
        "subspace, a = mean max z / mean |R'(h + pinv(W) b)| over training rows",
        needs="training rows",
        cost="fit O(nd^2 + d^3); row O(d^2 + Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 0, None, closed="left"), None],
        **UncertaintyEstimator._parameter_constraints,
    }

    n_components: int | None = None

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        device = resolve_device(self.device, X)
        self.origin_ = head_origin(head.weights[-1], head.filled_biases()[-1])
        values, directions = self._principal_axes(X, device)
        self.n_components_ = self._dimension(values)
        complement = directions[:, : len(values) - self.n_components_]
        self.complement_ = complement.contiguous().cpu().numpy()
        residual = float(self._residuals(X).mean())
        # Rounding leaves a residual of about 1e-15 where there is none.
        if residual <= 1e-10 * float(values.sum().clamp(min=0.0).sqrt()):
            raise ValueError(
                f"X has no residual outside its first n_components={self.n_components_} directions "
                f"({X.shape[0]} rows, {len(values)} features). Set n_components lower (None adapts "
                "to the rows), or fit on more rows."
            )
        largest = self.original_logits(X).amax(dim=1)
        self.scale_ = abs(float(largest.mean())) / residual

    def _principal_axes(self, X: Array, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return eigenvalues, smallest first, and -vectors of second moments about the origin."""
        origin = torch.tensor(self.origin_, device=device)
        moments = torch.zeros(len(origin), len(origin), dtype=torch.float64, device=device)
        for chunk in row_chunks(X, device, torch.float64):
            rows = self._last_features(chunk) - origin
            moments.addmm_(rows.T, rows)
        if not bool(torch.isfinite(moments).all()):
            raise ValueError("X is too large: its squares overflow float64. Scale it down.")
        values, directions = torch.linalg.eigh(moments / X.shape[0])
        return values, directions

    def _dimension(self, values: Tensor) -> int:
        """Return the dimension of the principal subspace, given all eigenvalues in order."""
        n_features = len(values)
        if self.n_components is None:
            floor = n_features * torch.finfo(torch.float64).eps * values[-1]
            return min(published_dimension(n_features), int((values > floor).sum()) // 2)
        if self.n_components >= n_features:
            raise ValueError(
                f"n_components={self.n_components} leaves no direction for a residual: the head's "
                f"last layer takes n_features={n_features}. Set n_components below that."
            )
        return int(self.n_components)

    def _uncertainty(self, X: Array) -> Tensor:
        energy = -self.original_logits(X).logsumexp(dim=1)
        return self.scale_ * self._residuals(X) + energy

    def _residuals(self, X: Array) -> Tensor:
        device = resolve_device(self.device, X)
        origin, complement = tensors_on(device, self.origin_, self.complement_)
        return map_rows(
            lambda chunk: residual_norms(self._last_features(chunk), origin, complement),
            X,
            device,
            torch.float64,
        )

    def _last_features(self, chunk: Tensor) -> Tensor:
        """Return what enters the head's last linear layer."""
        head = self.init_head_
        if head.is_linear:
            return chunk
        W, b = head.to(chunk.device)
        hidden = apply_head(chunk, W[:-1], b[:-1], head.activation)
        return ACTIVATIONS[str(head.activation)](hidden)

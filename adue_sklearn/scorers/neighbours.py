"""Scores from distances to individual training rows.

Sources: Sun et al. (2022), arXiv 2204.06507 (k-th neighbour); Jiang et al. (2018), arXiv
1805.11783 (trust score).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from adue_sklearn._utils.arrays import (
    Array,
    exact_products,
    gemm_dtype,
    map_rows,
    resolve_device,
    row_chunks,
    tensors_on,
)
from adue_sklearn._utils.head import Head, IntArray
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.scorers.mahalanobis import unit_rows

#: Distances that are held at a time.
_BLOCK_ELEMENTS = 2**22
#: The trust score's ratio where the other class is (next to) infinitely nearer.
LARGEST_RATIO = 1e6


@exact_products
def kth_distances(X: Tensor, references: Tensor, k: int) -> Tensor:
    """Return the distance (n,) in float64 of rows (n, d) to their k-th nearest reference (m, d)."""
    found = [
        block.topk(k, dim=1, largest=False, sorted=True).indices[:, -1]
        for block in _relative_squares(X, references)
    ]
    return _distances(X, references, torch.cat(found))


@exact_products
def class_distances(
    X: Tensor, references: Tensor, labels: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return distances (n,) to the nearest reference of a row's class and of any other class.

    ``labels`` (m,) are the references' classes, ``classes`` (n,) the rows'. Infinite where there
    is no such reference.
    """
    nearest: list[list[Tensor]] = [[], []]
    start = 0
    for block in _relative_squares(X, references):
        own = classes[start : start + len(block), None] == labels
        for found, mask in zip(nearest, (own, ~own), strict=True):
            places = block.masked_fill(~mask, torch.inf).argmin(dim=1)
            found.append(torch.where(mask.any(dim=1), places, -1))
        start += len(block)
    own_distance, other_distance = (
        _distances(X, references, places).masked_fill(places < 0, torch.inf)
        for places in map(torch.cat, nearest)
    )
    return own_distance, other_distance


def trust_ratio(own: Tensor, other: Tensor) -> Tensor:
    """Return ``own / other`` in [0, LARGEST_RATIO]: 1 if both are 0, the cap if ``own`` is inf."""
    ratio = torch.where((own == 0) & (other == 0), 1.0, own / other)
    return torch.where(torch.isinf(own), LARGEST_RATIO, ratio.clamp(max=LARGEST_RATIO))


def _relative_squares(X: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Yield blocks of ``|x - r|^2 - |x|^2``, which order references as distances do."""
    centre = references.mean(dim=0)  # what is far from the origin cancels less
    anchors = (references - centre).to(X.dtype)
    squares = anchors.square().sum(dim=1)
    for part in X.split(max(1, _BLOCK_ELEMENTS // len(references))):
        rows = part - centre.to(X.dtype)
        largest = rows.square().sum(dim=1).amax() + squares.amax()
        if not bool(4 * largest < torch.finfo(X.dtype).max):
            raise ValueError(
                f"X is too large: squared distances overflow {X.dtype}. Scale the features as in "
                "fit, or set normalize=True."
            )
        yield torch.addmm(squares, rows, anchors.T, alpha=-2.0)


def _distances(X: Tensor, references: Tensor, places: Tensor) -> Tensor:
    """Return distances to references by number, from differences: nothing cancels."""
    return torch.linalg.vector_norm(X.double() - references[places].double(), dim=1)


def _kept_rows(X: Array, normalize: bool, device: torch.device) -> Tensor:
    """Return the fit rows, of unit length where asked for, in the precision of products."""
    chunks = list(row_chunks(X, device, gemm_dtype(X)))
    return torch.cat([unit_rows(chunk) for chunk in chunks] if normalize else chunks)


@dataclass(eq=False, repr=False)
class KNNScorer(UncertaintyEstimator):
    """Distance to the k-th nearest training row.

    Fit it on the rows that the classifier was trained on: it describes where these lie.

    Parameters
    ----------
    k : int, default=10
        Which neighbour; at most the number of fit rows. The paper uses 50 for sets of 50,000
        rows.
    normalize : bool, default=True
        Whether to scale rows to unit length first, as published.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    training_rows_ : ndarray of float32 or float64 of shape (n_samples, n_features)
        The fit rows, of unit length if ``normalize``; float64 if ``X`` was.
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
        In ``fit``, if ``k`` is larger than the number of rows.

    Notes
    -----
    A fit row is its own first neighbour. All distances are computed, in blocks, because no tree is
    faster in hundreds of dimensions.

    References
    ----------
    .. [1] Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022.

    Examples
    --------
    >>> from adue_sklearn import KNNScorer
    >>> X = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    >>> scorer = KNNScorer(k=2).fit(X, [0, 0, 1, 1])
    >>> near, far = scorer.predict_uncertainty([[5.0, 0.2], [-1.0, -1.0]])
    >>> bool(near < 0.1 < 1.5 < far)
    True
    """

    card: ClassVar[Card] = Card(
        name="k-NN",
        paper="Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022",
        formula="distance of h / |h| to its k-th nearest among the training features / their norm",
        needs="training rows",
        cost="fit O(nd); row O(nd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "k": [Interval(Integral, 1, None, closed="left")],
        "normalize": ["boolean"],
        **UncertaintyEstimator._parameter_constraints,
    }

    k: int = 10
    _: KW_ONLY
    normalize: bool = True

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        if self.k > X.shape[0]:
            raise ValueError(
                f"k={self.k} is larger than the number of rows (X has n_samples={X.shape[0]}); "
                "set k to at most that, or fit on more rows."
            )
        rows = _kept_rows(X, self.normalize, resolve_device(self.device, X))
        self.training_rows_ = rows.cpu().numpy()

    def _uncertainty(self, X: Array) -> Tensor:
        device = resolve_device(self.device, X)
        references = torch.tensor(self.training_rows_, device=device)

        def distance(chunk: Tensor) -> Tensor:
            return kth_distances(unit_rows(chunk) if self.normalize else chunk, references, self.k)

        return map_rows(distance, X, device, gemm_dtype(X))


@dataclass(eq=False, repr=False)
class TrustScoreScorer(UncertaintyEstimator):
    """How much farther the predicted class is than the nearest other class.

    The inverse of the trust score, with distances to the nearest training row of a class. Fit it
    on the rows that the classifier was trained on.

    Parameters
    ----------
    alpha : float in [0, 1), default=0.0
        Share of each class's rows that is left out: those with the largest distance to their
        k-th neighbour in the class (fewer where distances tie).
    k : int, default=10
        Number of that neighbour; in classes with fewer other rows, the farthest one is used.
    normalize : bool, default=False
        Whether to scale rows to unit length first.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    training_rows_ : ndarray of float32 or float64 of shape (n_kept, n_features)
        The fit rows that are kept, of unit length if ``normalize``; float64 if ``X`` was.
    training_labels_ : ndarray of int64 of shape (n_kept,)
        Their classes, as row numbers of the head.
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
        In ``fit``, if all rows are of one class.

    Notes
    -----
    The ratio ends at a million. That is also the score of a row that lies on one of another class
    but not of its own, and of one whose predicted class has no fit rows. A row that lies on both
    scores 1. All distances are computed, in blocks: no tree is faster in hundreds of dimensions.

    References
    ----------
    .. [1] Jiang et al., "To trust or not to trust a classifier", NeurIPS 2018.

    Examples
    --------
    >>> from adue_sklearn import TrustScoreScorer
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]], [0, 0, 1, 1]
    >>> scorer = TrustScoreScorer().fit(X, y, [[-1.0, 0.0], [1.0, 0.0]], [2.0, -2.0])
    >>> scorer.predict_uncertainty([[0.0, 0.0], [1.0, 0.0], [3.0, 1.0]])
    array([0.        , 0.33333333, 0.33333333])
    """

    card: ClassVar[Card] = Card(
        name="trust score",
        paper="Jiang et al., To trust or not to trust a classifier, NeurIPS 2018",
        formula="d(h, nearest training row of class k) / d(h, nearest training row of another)",
        needs="training rows",
        cost="fit O(nd), with alpha > 0 O(n^2 d / C); row O(nd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 0, 1, closed="left")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "normalize": ["boolean"],
        **UncertaintyEstimator._parameter_constraints,
    }

    alpha: float = 0.0
    _: KW_ONLY
    k: int = 10
    normalize: bool = False

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        if len(np.unique(labels)) < 2:
            raise ValueError(
                f"y holds only one class ({self.classes_[labels[0]]!r}), but the trust score needs "
                "the nearest other class. Fit on rows of at least 2 classes."
            )
        rows = _kept_rows(X, self.normalize, resolve_device(self.device, X))
        kept = _dense_rows(rows, labels, self.alpha, self.k) if self.alpha > 0 else slice(None)
        self.training_rows_ = rows[kept].cpu().numpy()
        self.training_labels_ = labels[kept]

    def _uncertainty(self, X: Array) -> Tensor:
        device = resolve_device(self.device, X)
        references, labels = tensors_on(device, self.training_rows_, self.training_labels_)
        predicted = self.original_logits(X).argmax(dim=1)
        chunks: list[Tensor] = []
        start = 0
        for chunk in row_chunks(X, device, gemm_dtype(X)):
            rows = unit_rows(chunk) if self.normalize else chunk
            classes = predicted[start : start + len(rows)]
            chunks.append(trust_ratio(*class_distances(rows, references, labels, classes)))
            start += len(rows)
        return torch.cat(chunks)


def _dense_rows(rows: Tensor, labels: IntArray, alpha: float, k: int) -> IntArray:
    """Return the numbers of the rows that remain when each class loses its sparsest ``alpha``."""
    kept = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        members = rows[torch.as_tensor(places, device=rows.device)]
        # A row is its own nearest neighbour, hence one more.
        radii = kth_distances(members, members, min(k + 1, len(members))).cpu().numpy()
        n_kept = max(1, math.ceil((1.0 - alpha) * len(members)))
        kept.append(places[radii <= np.sort(radii)[n_kept - 1]])
    return np.sort(np.concatenate(kept))

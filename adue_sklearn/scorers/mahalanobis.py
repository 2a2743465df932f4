r"""Mahalanobis distances to the training features.

Sources: Lee et al. (2018), arXiv 1807.03888 (nearest class, tied covariance); Ren et al. (2021),
arXiv 2106.09022 (relative distance); Ledoit and Wolf (2004) for the shrinkage.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._torch import Array, gemm_dtype, map_rows, resolve_device, row_chunks
from adue_sklearn.base import FloatArray, IntArray, OriginalHead, UncertaintyEstimator

Variant = Literal["class", "marginal", "relative"]


class Gaussians(NamedTuple):
    """Gaussians with a common covariance, ready to measure distances from.

    ``whitening`` (d, d) is ``V`` with ``|(x - m) V|^2 = (x - m)' S^-1 (x - m)``.
    """

    means: Tensor
    covariance: Tensor
    whitening: Tensor
    shrinkage: float


def unit_rows(X: Tensor) -> Tensor:
    """Return rows divided by their Euclidean norm; zero rows stay zero."""
    norms = torch.linalg.vector_norm(X, dim=1, keepdim=True)
    return X / torch.where(norms > 0, norms, 1.0)


def fit_gaussians(
    X: Array,
    groups: IntArray,
    *,
    shrinkage: float | Literal["auto"],
    normalize: bool,
    device: torch.device,
) -> Gaussians:
    """Fit one mean a group and one covariance for all, in float64, in two passes over ``X``.

    Parameters
    ----------
    X : array or tensor of shape (n_samples, n_features)
        Features.
    groups : ndarray of int64 of shape (n_samples,)
        Group of each row, 0 to K - 1; every group has a row.
    shrinkage : float in [0, 1] or "auto"
        Weight of ``trace(S) / d * I`` in the covariance; ``"auto"`` is Ledoit and Wolf's.
    normalize : bool
        Whether rows are scaled to unit length first.
    device : torch.device
        Where to compute.

    Returns
    -------
    Gaussians
        float64.

    Raises
    ------
    ValueError
        If the covariance is singular.
    """
    n_samples, n_features = X.shape
    membership = torch.as_tensor(groups, device=device)
    counts = torch.bincount(membership).to(torch.float64)

    means = torch.zeros(len(counts), n_features, dtype=torch.float64, device=device)
    for chunk, group in _chunks(X, membership, normalize):
        means.index_add_(0, group, chunk)
    means /= counts[:, None]

    covariance = torch.zeros(n_features, n_features, dtype=torch.float64, device=device)
    fourth_powers = torch.zeros((), dtype=torch.float64, device=device)
    for chunk, group in _chunks(X, membership, normalize):
        centred = chunk - means[group]
        covariance += centred.T @ centred
        fourth_powers += centred.square().sum(dim=1).square().sum()
    covariance /= n_samples

    if shrinkage == "auto":
        shrinkage = _ledoit_wolf(covariance, float(fourth_powers) / n_samples, n_samples)
    level = covariance.diagonal().mean()
    covariance.mul_(1.0 - shrinkage).diagonal().add_(shrinkage * level)
    return Gaussians(means, covariance, _whitening(covariance, n_samples), shrinkage)


def mahalanobis_distances(X: Tensor, gaussians: Gaussians) -> Tensor:
    """Return squared distances (n, K) of rows to every mean: one whitened product for all."""
    means, whitening = gaussians.means, gaussians.whitening.to(X.dtype)
    # Centring first keeps the expanded square from cancelling.
    centre = means.mean(dim=0)
    rows = (X - centre.to(X.dtype)) @ whitening
    anchors = ((means - centre) @ gaussians.whitening).to(X.dtype)
    squares = rows.square().sum(dim=1, keepdim=True) + anchors.square().sum(dim=1)
    return (squares - 2.0 * rows @ anchors.T).clamp(min=0.0)


def _chunks(X: Array, membership: Tensor, normalize: bool) -> Any:
    start = 0
    for chunk in row_chunks(X, membership.device, torch.float64):
        yield unit_rows(chunk) if normalize else chunk, membership[start : start + len(chunk)]
        start += len(chunk)


def _ledoit_wolf(covariance: Tensor, mean_fourth_power: float, n_samples: int) -> float:
    """Return Ledoit and Wolf's coefficient from ``S`` and the mean of ``|x|^4`` of centred rows."""
    n_features = len(covariance)
    squared_norm = float(covariance.square().sum())
    level = float(covariance.diagonal().mean())
    dispersion = squared_norm - n_features * level**2
    error = (mean_fourth_power - squared_norm) / n_samples
    return float(np.clip(error / dispersion, 0.0, 1.0)) if dispersion > 0 else 1.0


def _whitening(covariance: Tensor, n_samples: int) -> Tensor:
    """Return ``V = L^-T`` for ``S = L L'``."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    # A pivot at rounding level of its own variance is a direction without any, info or not.
    floor = len(covariance) * torch.finfo(torch.float64).eps * covariance.diagonal()
    if int(info) != 0 or bool((factor.diagonal().square() <= floor).any()):
        raise ValueError(
            f"The covariance of {len(covariance)} features over {n_samples} rows is singular: some "
            "features are constant, duplicated or linear in others within the classes, or there "
            "are fewer rows than features. Set shrinkage above 0 (or 'auto'), or fit on more rows."
        )
    identity = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False).T.contiguous()


class MahalanobisScorer(UncertaintyEstimator):
    """Mahalanobis distance of a row to the features the classifier was trained on.

    Fit it on the rows that the classifier was trained on: it describes where these lie.

    Parameters
    ----------
    variant : {"class", "marginal", "relative"}, default="class"
        ``"class"``: squared distance to the nearest class mean under the covariance within
        classes. ``"marginal"``: to one Gaussian over all rows. ``"relative"``: the first minus
        the second.
    normalize : bool, default=False
        Whether rows are scaled to unit length first.
    shrinkage : float in [0, 1] or "auto", default="auto"
        Weight of ``trace(S) / d * I`` in the covariance. ``"auto"`` is the estimate of Ledoit and
        Wolf. With 0, features that are constant or collinear are an error.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    location_ : ndarray of float64 of shape (n_present_classes, n_features)
        Means of the classes that have fit rows, in the order of ``classes_`` (one overall mean
        for ``variant="marginal"``).
    covariance_ : ndarray of float64 of shape (n_features, n_features)
        The shrunk covariance around them.
    shrinkage_ : float
        The weight that was used for it.
    background_location_, background_covariance_ : ndarray of float64
        The one Gaussian over all rows; only for ``variant="relative"``.
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
        In ``fit``, if the covariance is singular.

    Notes
    -----
    Moments are accumulated in float64 and whitened by a Cholesky factor; rows are scored in
    float32 unless they are float64. Two passes over ``X``, O(n d^2).

    References
    ----------
    .. [1] Lee et al., "A simple unified framework for detecting out-of-distribution samples and
       adversarial attacks", NeurIPS 2018.
    .. [2] Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection",
       2021, arXiv:2106.09022.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import MahalanobisScorer
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[:100, 0] += 9
    >>> scorer = MahalanobisScorer().fit(X, np.repeat([1, 0], 100))
    >>> near, far = scorer.predict_uncertainty([[9.0, 0.0, 0.0], [4.5, 0.0, 0.0]])
    >>> bool(near < 1 < 10 < far)
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "variant": [StrOptions({"class", "marginal", "relative"})],
        "normalize": ["boolean"],
        "shrinkage": [Interval(Real, 0, 1, closed="both"), StrOptions({"auto"})],
        **UncertaintyEstimator._parameter_constraints,
    }

    def __init__(
        self,
        variant: Variant = "class",
        *,
        normalize: bool = False,
        shrinkage: float | Literal["auto"] = "auto",
        device: str = "auto",
    ) -> None:
        super().__init__(device=device)
        self.variant = variant
        self.normalize = normalize
        self.shrinkage = shrinkage

    def _fit(self, X: Array, labels: IntArray, head: OriginalHead) -> None:
        # A calibration set may lack a class: only the classes that are there have a mean.
        _, groups = np.unique(labels, return_inverse=True)
        everything = np.zeros_like(groups)
        fitted = self._gaussians(X, everything if self.variant == "marginal" else groups)
        self.location_, self.covariance_, self._whitening = _to_numpy(fitted)
        self.shrinkage_ = fitted.shrinkage
        if self.variant == "relative":
            background = self._gaussians(X, everything)
            (
                self.background_location_,
                self.background_covariance_,
                self._background_whitening,
            ) = _to_numpy(background)

    def _gaussians(self, X: Array, groups: IntArray) -> Gaussians:
        return fit_gaussians(
            X,
            groups,
            shrinkage=self.shrinkage,
            normalize=self.normalize,
            device=resolve_device(self.device, X),
        )

    def _uncertainty(self, X: Array) -> Tensor:
        nearest = self._nearest(X, self.location_, self.covariance_, self._whitening)
        if self.variant == "relative":
            nearest = nearest - self._nearest(
                X,
                self.background_location_,
                self.background_covariance_,
                self._background_whitening,
            )
        return nearest

    def _nearest(self, X: Array, *parameters: FloatArray) -> Tensor:
        device = resolve_device(self.device, X)
        means, covariance, whitening = (torch.tensor(p, device=device) for p in parameters)
        gaussians = Gaussians(means, covariance, whitening, self.shrinkage_)

        def distance(chunk: Tensor) -> Tensor:
            rows = unit_rows(chunk) if self.normalize else chunk
            return mahalanobis_distances(rows, gaussians).amin(dim=1)

        return map_rows(distance, X, device, gemm_dtype(X))


def _to_numpy(gaussians: Gaussians) -> tuple[FloatArray, FloatArray, FloatArray]:
    return (
        gaussians.means.cpu().numpy(),
        gaussians.covariance.cpu().numpy(),
        gaussians.whitening.cpu().numpy(),
    )

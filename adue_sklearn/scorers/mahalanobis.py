r"""Mahalanobis distances to the training features.

Sources: Lee et al. (2018), arXiv 1807.03888 (nearest class, tied covariance); Ren et al. (2021),
arXiv 2106.09022 (relative distance); Ledoit and Wolf (2004) for the automatic shrinkage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import (
    Array,
    Features,
    gemm_dtype,
    map_rows,
    resolve_device,
    row_chunks,
    tensors_on,
    to_tensor,
    validate_features,
)
from adue_sklearn._utils.head import FloatArray, Head, IntArray, check_head, resolve_head
from adue_sklearn._utils.labels import as_row_numbers, check_class_labels, check_labels
from adue_sklearn._utils.views import main_of
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.exceptions import SingularCovarianceError

Variant = Literal["class", "marginal", "relative"]
Shrinkage = float | Literal["auto"]


#: What `partial_fit` cannot set while the covariance is singular.
_DERIVED = (
    "location_",
    "covariance_",
    "_whitening",
    "background_location_",
    "background_covariance_",
    "_background_whitening",
)


@dataclass
class Moments:
    """Counts (K,), means (K, d) and the scatter (d, d) of rows around the mean of their group.

    float64. ``scatter`` is a sum over rows, not divided by their number.
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor

    @property
    def n_rows(self) -> float:
        """Number of rows."""
        return float(self.counts.sum())

    def pooled(self) -> Moments:
        """Return the moments of all rows as one group; nothing is subtracted, nothing cancels."""
        mean = (self.counts[:, None] * self.means).sum(dim=0) / self.counts.sum()
        offsets = self.means - mean
        between = (self.counts[:, None] * offsets).T @ offsets
        return Moments(self.counts.sum()[None], mean[None], self.scatter + between)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows (Chan, Golub and LeVeque, 1983)."""
        counts = self.counts + other.counts
        share = other.counts / counts.clamp(min=1.0)
        offsets = other.means - self.means
        weights = self.counts * share
        return Moments(
            counts,
            self.means + share[:, None] * offsets,
            self.scatter + other.scatter + (weights[:, None] * offsets).T @ offsets,
        )


class Gaussians(NamedTuple):
    """Gaussians with a common covariance, ready to measure distances from.

    ``whitening`` (d, d) is ``V`` with ``|(x - m) V|^2 = (x - m)' S^-1 (x - m)``.
    """

    means: Tensor
    covariance: Tensor
    whitening: Tensor


def unit_rows(X: Tensor) -> Tensor:
    """Return rows divided by their Euclidean norm; zero rows stay zero."""
    largest = X.abs().amax(dim=1, keepdim=True)  # whose squares may overflow
    X = X / torch.where(largest > 0, largest, 1.0)
    norms = torch.linalg.vector_norm(X, dim=1, keepdim=True)
    return X / torch.where(norms > 0, norms, 1.0)


def group_moments(
    X: Array, groups: IntArray, n_groups: int, *, normalize: bool, device: torch.device
) -> Moments:
    """Return the moments of rows of ``X`` (n, d) by group, in two passes and float64."""
    membership = torch.as_tensor(groups, device=device)
    counts = torch.bincount(membership, minlength=n_groups).to(torch.float64)
    means = torch.zeros(n_groups, X.shape[1], dtype=torch.float64, device=device)
    for chunk, group in _chunks(X, membership, normalize):
        means.index_add_(0, group, chunk)
    means /= counts.clamp(min=1.0)[:, None]
    scatter = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64, device=device)
    for chunk, group in _chunks(X, membership, normalize):
        centred = chunk - means[group]
        scatter.addmm_(centred.T, centred)
    if not bool(torch.isfinite(scatter).all()):
        raise ValueError(
            f"X is too large (up to {float(means.abs().max()):.1e}): its squares overflow float64. "
            "Scale the features down."
        )
    return Moments(counts, means, scatter)


def ledoit_wolf_shrinkage(
    X: Array, groups: IntArray, moments: Moments, *, normalize: bool
) -> float:
    """Return Ledoit and Wolf's coefficient for rows centred on the mean of their group."""
    n_samples, n_features = X.shape
    membership = torch.as_tensor(groups, device=moments.means.device)
    fourth_power = torch.zeros((), dtype=torch.float64, device=moments.means.device)
    for chunk, group in _chunks(X, membership, normalize):
        # The sum over all pairs of features of sum_k x_ki^2 x_kj^2 is sum_k |x_k|^4.
        fourth_power += (chunk - moments.means[group]).square().sum(dim=1).square().sum()
    covariance = moments.scatter / n_samples
    squared_norm = float(covariance.square().sum())
    dispersion = squared_norm - n_features * float(covariance.diagonal().mean()) ** 2
    error = (float(fourth_power) / n_samples - squared_norm) / n_samples
    return float(np.clip(error / dispersion, 0.0, 1.0)) if dispersion > 0 else 1.0


def gaussians_from(moments: Moments, shrinkage: float) -> Gaussians:
    """Return Gaussians at the means of the groups that have rows, covariance shrunk and factored.

    Raises
    ------
    ValueError
        If the covariance is singular.
    """
    covariance = moments.scatter / moments.n_rows
    level = covariance.diagonal().mean()
    covariance.mul_(1.0 - shrinkage).diagonal().add_(shrinkage * level)
    whitening = _whitening(covariance, moments.n_rows)
    return Gaussians(moments.means[moments.counts > 0], covariance, whitening)


def mahalanobis_distances(X: Tensor, means: Tensor, whitening: Tensor) -> Tensor:
    """Return squared distances (n, K) of rows to every mean: one whitened product for all."""
    # Centring first keeps the expanded square from cancelling.
    centre = means.mean(dim=0)
    rows = (X - centre.to(X.dtype)) @ whitening.to(X.dtype)
    anchors = ((means - centre) @ whitening).to(X.dtype)
    squares = rows.square().sum(dim=1, keepdim=True) + anchors.square().sum(dim=1)
    return torch.addmm(squares, rows, anchors.T, alpha=-2.0).clamp_(min=0.0)


def _chunks(X: Array, membership: Tensor, normalize: bool) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for chunk in row_chunks(X, membership.device, torch.float64):
        yield unit_rows(chunk) if normalize else chunk, membership[start : start + len(chunk)]
        start += len(chunk)


def _whitening(covariance: Tensor, n_rows: float) -> Tensor:
    """Return ``V = L^-T`` for ``S = L L'``."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    # A pivot at rounding level of its own variance is a direction without any, info or not.
    floor = len(covariance) * torch.finfo(torch.float64).eps * covariance.diagonal()
    if int(info) != 0 or bool((factor.diagonal().square() <= floor).any()):
        raise SingularCovarianceError(
            f"The covariance of X ({len(covariance)} features, {n_rows:.0f} rows) is singular: "
            "within the classes, some features are constant, duplicated or linear in others, or "
            "there are fewer rows than features; expected an invertible one. Set shrinkage above "
            "0 (or 'auto'), or fit on more rows."
        )
    identity = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False).T.contiguous()


@dataclass(eq=False, repr=False)
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
        Whether to scale rows to unit length first.
    shrinkage : float in [0, 1] or "auto", default=0.001
        Weight of ``trace(S) / d * I`` in the covariance. ``"auto"`` is the estimate of Ledoit and
        Wolf, which needs all rows at once. 0 gives the published score; constant or collinear
        features, which tuned models may nearly have, are then an error.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
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
        The single Gaussian over all rows; only for ``variant="relative"``.
    n_samples_seen_ : int
        Number of rows it was fitted on.
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

    card: ClassVar[Card] = Card(
        name="Mahalanobis",
        paper="Lee et al., A simple unified framework for detecting out-of-distribution samples "
        "and adversarial attacks, NeurIPS 2018",
        formula="min_c (h - mu_c)' S^-1 (h - mu_c), one covariance S within the classes",
        needs="training rows",
        cost="fit O(nd^2 + d^3); row O(d^2 + Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "variant": [StrOptions({"class", "marginal", "relative"})],
        "normalize": ["boolean"],
        "shrinkage": [Interval(Real, 0, 1, closed="both"), StrOptions({"auto"})],
        **UncertaintyEstimator._parameter_constraints,
    }

    variant: Variant = "class"
    _: KW_ONLY
    normalize: bool = False
    shrinkage: Shrinkage = 1e-3

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        init_W: Any = None,
        init_b: Any = None,
        *,
        classes: Any = None,
    ) -> Self:
        """Add rows. The score equals that of ``fit`` on all rows so far, which are not stored.

        As long as the covariance of the rows so far is singular, which is possible only with
        ``shrinkage=0``, scoring raises an error.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features of the new rows.
        y : array-like of shape (n_samples,)
            Their true labels.
        init_W, init_b : array-like, default=None
            The original head, in the first call; later calls may repeat it. As in ``fit``, but
            it may have as many rows as ``X``. Without one, ``predict`` is the class with the
            nearest mean.
        classes : array-like of shape (n_classes,), default=None
            All labels, in the first call; with a head in the order of its rows. By default the
            head's row numbers, or without a head the labels of the first call.

        Returns
        -------
        self : MahalanobisScorer
            Updated.

        Raises
        ------
        ValueError
            If ``shrinkage="auto"``, if a label is not among the classes, or, in the first call,
            for the same reasons as in ``fit``.
        """
        if self.shrinkage == "auto":
            raise ValueError(
                "shrinkage='auto' needs all rows at once, so partial_fit cannot use it; set a "
                "number, such as 0.001, or call fit."
            )
        first = not hasattr(self, "_counts")
        if not first:
            self._refuse_other_start(X, init_W, init_b, classes)
        X = validate_features(self, main_of(X), reset=first)
        if first:
            labels = self._start(X, y, init_W, init_b, classes)
            if self._head_given:
                self._check_fit_rows(X, labels)
        else:
            labels = as_row_numbers(
                check_labels(y, X.shape[0], type(self).__name__), self.classes_, named=True
            )
        device = resolve_device(self.device, X)
        added = group_moments(
            X, labels, len(self.classes_), normalize=self.normalize, device=device
        )
        self._keep(added if first else self._moments(device).merged(added))
        try:
            self._derive(self._moments(device))
        except SingularCovarianceError:  # more rows may fix it; until then scoring raises it
            for name in _DERIVED:
                self.__dict__.pop(name, None)
        return self

    def _refuse_other_start(self, X: Any, init_W: Any, init_b: Any, classes: Any) -> None:
        """Raise if a later call of ``partial_fit`` contradicts the first."""
        if bool(self.normalize) != self._normalized:
            raise ValueError(
                f"normalize was {self._normalized} for the rows so far, but is {self.normalize} "
                "now; start a new scorer."
            )
        if init_W is not None or init_b is not None:
            if not self._head_given:
                raise ValueError("init_W was not given in the first call; start a new scorer.")
            head = check_head(
                init_W,
                init_b,
                None,
                validate_features(self, main_of(X), reset=False).shape,
                activation=self.activation,
                may_be_cut=False,
            )
            if not head.names_labels:  # later calls may leave classes out
                head = replace(head, classes=self.classes_)
            if not self.init_head_.same_as(head):
                raise ValueError(
                    "init_W, init_b are another head; expected the head of the first call."
                )
        if classes is not None and set(check_class_labels(classes).tolist()) != set(
            self.classes_.tolist()
        ):
            raise ValueError(
                f"classes are {classes!r}; expected those of the first call, "
                f"{self.classes_.tolist()}."
            )

    def _start(self, X: Array, y: Any, init_W: Any, init_b: Any, classes: Any) -> IntArray:
        """Set what the first call of ``partial_fit`` decides; return labels as row numbers."""
        self._nearest_mean_predicts = init_W is None
        self._head_given = init_W is not None
        if init_W is not None:
            head, labels = resolve_head(
                X,
                y,
                init_W,
                init_b,
                classes,
                activation=self.activation,
                name=type(self).__name__,
                may_be_cut=False,
            )
            self._keep_head(head)
            return labels
        y = check_labels(y, X.shape[0], type(self).__name__)
        self.classes_ = np.unique(y if classes is None else check_class_labels(classes))
        return as_row_numbers(y, self.classes_, named=True)

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        device = resolve_device(self.device, X)
        self._nearest_mean_predicts = False
        moments = group_moments(
            X, labels, len(self.classes_), normalize=self.normalize, device=device
        )
        self._derive(moments, (X, labels))
        self._keep(moments)

    def _moments(self, device: torch.device) -> Moments:
        return Moments(*tensors_on(device, self._counts, self._means, self._scatter))

    def _keep(self, moments: Moments) -> None:
        self._counts, self._means, self._scatter = (
            t.cpu().numpy() for t in (moments.counts, moments.means, moments.scatter)
        )
        self.n_samples_seen_, self._normalized = int(moments.n_rows), bool(self.normalize)

    def _derive(self, moments: Moments, rows: tuple[Array, IntArray] | None = None) -> None:
        """Set what scoring needs from the moments (and, for "auto", the rows)."""
        chosen = moments.pooled() if self.variant == "marginal" else moments
        shrinkage = self._resolve_shrinkage(chosen, rows)
        fitted = _fitted(chosen, shrinkage)
        if self.variant == "relative":
            pooled = moments.pooled()
            (
                self.background_location_,
                self.background_covariance_,
                self._background_whitening,
            ) = _fitted(pooled, self._resolve_shrinkage(pooled, rows))
        if self._nearest_mean_predicts:
            self.init_coef_, self.init_intercept_ = _nearest_mean_head(moments, shrinkage)
        self.location_, self.covariance_, self._whitening = fitted
        self.shrinkage_ = shrinkage

    def _resolve_shrinkage(self, moments: Moments, rows: tuple[Array, IntArray] | None) -> float:
        if self.shrinkage != "auto" or rows is None:
            return float(self.shrinkage)
        X, labels = rows
        groups = labels if len(moments.counts) > 1 else np.zeros_like(labels)
        return ledoit_wolf_shrinkage(X, groups, moments, normalize=self.normalize)

    def _require_derived(self, X: Array) -> None:
        if "_whitening" not in vars(self):  # singular so far: say so
            self._derive(self._moments(resolve_device(self.device, X)))

    def original_logits(self, X: Features) -> Tensor:
        """Return the logits (n, C) of checked rows in float64, from the class means if need be."""
        features = main_of(X)
        self._require_derived(features)
        if self._nearest_mean_predicts and self.normalize:  # the means are those of unit rows
            device = resolve_device(self.device, features)
            features = unit_rows(to_tensor(features, device, torch.float64))
        return super().original_logits(features)

    def _uncertainty(self, X: Array) -> Tensor:
        self._require_derived(X)
        nearest = self._nearest(X, self.location_, self._whitening)
        if self.variant == "relative":
            nearest -= self._nearest(X, self.background_location_, self._background_whitening)
        return nearest

    def _nearest(self, X: Array, location: FloatArray, whitening: FloatArray) -> Tensor:
        device = resolve_device(self.device, X)
        means, factor = tensors_on(device, location, whitening)

        def distance(chunk: Tensor) -> Tensor:
            rows = unit_rows(chunk) if self.normalize else chunk
            return mahalanobis_distances(rows, means, factor).amin(dim=1)

        return map_rows(distance, X, device, gemm_dtype(X))


def _fitted(moments: Moments, shrinkage: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return means, covariance and whitening as numpy arrays."""
    means, covariance, whitening = (t.cpu().numpy() for t in gaussians_from(moments, shrinkage))
    return means, covariance, whitening


def _nearest_mean_head(moments: Moments, shrinkage: float) -> tuple[FloatArray, FloatArray]:
    """Return the linear head whose largest logit is the class with the nearest mean."""
    whitening = gaussians_from(moments, shrinkage).whitening
    centre = moments.pooled().means[0]
    anchors = (moments.means - centre) @ whitening
    W = anchors @ whitening.T
    b = -0.5 * anchors.square().sum(dim=1) - W @ centre
    # A class that has no rows yet is never the nearest; the largest finite logit gap says so.
    b = torch.where(moments.counts > 0, b, torch.finfo(torch.float64).min / 4)
    return W.cpu().numpy(), b.cpu().numpy()

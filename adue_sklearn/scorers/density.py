"""Densities of the training features, one Gaussian per class.

Sources: Mukhoti et al. (2021), arXiv 2102.11582 (DDU); Yoo et al. (2022), arXiv 2203.01677 (RDE).
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from sklearn.covariance import MinCovDet
from sklearn.decomposition import KernelPCA
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Array, map_rows, resolve_device, tensors_on, to_tensor
from adue_sklearn._utils.head import FloatArray, Head, IntArray
from adue_sklearn._utils.validation import warn
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.scorers.mahalanobis import (
    gaussians_from,
    group_moments,
    mahalanobis_distances,
    unit_rows,
)

#: Elements of an intermediate array that are held at a time.
_BLOCK_ELEMENTS = 2**24
#: Rows a dimension from which a robust covariance is trusted (Rousseeuw and van Zomeren, 1990).
ROWS_A_DIMENSION = 5


class ClassGaussians(NamedTuple):
    """Gaussians with covariances ``S_c = (1 - p_c) E_c + p_c S`` around their means.

    ``E_c`` is a class's own covariance and ``S`` a common one. In coordinates in which ``S`` is
    the identity, the inverse of ``S_c`` is ``(I - F_c F_c') / p_c`` with ``F_c`` (d, r_c) and
    ``r_c`` at most the number of the class's rows: nothing of shape (C, d, d) is ever made.

    Parameters
    ----------
    means : Tensor of shape (K, d)
        Of the classes that have rows.
    whitening : Tensor of shape (d, d)
        ``V`` with ``V V' = S^-1``.
    factors : Tensor of shape (d, sum of ranks)
        All ``F_c``, side by side.
    ranks : list of int
        Their numbers of columns.
    pooling : Tensor of shape (K,)
        ``p_c``.
    log_norms : Tensor of shape (K,)
        ``log pi_c - (d log 2 pi + log det S_c) / 2``.
    """

    means: Tensor
    whitening: Tensor
    factors: Tensor
    ranks: list[int]
    pooling: Tensor
    log_norms: Tensor


def fit_class_gaussians(
    X: Array,
    labels: IntArray,
    n_classes: int,
    *,
    pooling: float | Literal["auto"],
    shrinkage: float,
    normalize: bool,
    device: torch.device,
) -> tuple[ClassGaussians, Tensor]:
    """Return one Gaussian per class for rows of ``X`` (n, d), and ``S`` (d, d), in float64.

    ``S`` is the covariance within classes, shrunk as :class:`MahalanobisScorer` does.
    """
    moments = group_moments(X, labels, n_classes, normalize=normalize, device=device)
    tied = gaussians_from(moments, shrinkage)
    n_features = X.shape[1]
    counts = moments.counts[moments.counts > 0]
    weights = n_features / (n_features + counts)
    if pooling != "auto":
        weights = torch.full_like(weights, pooling)
    log_det = -2.0 * tied.whitening.diagonal().log().sum()
    factors, log_dets = [], []
    for number, label in enumerate(np.unique(labels)):
        rows = to_tensor(X[labels == label], device, torch.float64)
        centred = (unit_rows(rows) if normalize else rows) - tied.means[number]
        factor, inner = _low_rank(centred @ tied.whitening, float(weights[number]))
        factors.append(factor)
        log_dets.append(log_det + inner)
    log_norms = (counts / counts.sum()).log() - 0.5 * (
        n_features * math.log(2 * math.pi) + torch.stack(log_dets)
    )
    ranks = [factor.shape[1] for factor in factors]
    gaussians = ClassGaussians(
        tied.means, tied.whitening, torch.cat(factors, dim=1), ranks, weights, log_norms
    )
    return gaussians, tied.covariance


def _low_rank(rows: Tensor, pooling: float) -> tuple[Tensor, Tensor]:
    """Return ``F`` (d, r) and ``log det M`` for ``M = (1 - p) rows' rows / m + p I``.

    ``M^-1 = (I - F F') / p`` (Woodbury, 1950); the determinant is Sylvester's.
    """
    n_rows, n_features = rows.shape
    A = rows * math.sqrt((1.0 - pooling) / n_rows)
    if n_rows > n_features:
        A = torch.linalg.qr(A, mode="r").R
    inner = A @ A.T
    inner.diagonal().add_(pooling)
    L = torch.linalg.cholesky(inner)
    log_det = 2.0 * L.diagonal().log().sum() + (n_features - len(A)) * math.log(pooling)
    return torch.linalg.solve_triangular(L, A, upper=False).T, log_det


def class_log_densities(X: Tensor, gaussians: ClassGaussians) -> Tensor:
    """Return ``log pi_c + log N(x; mu_c, S_c)`` (n, K) of rows (n, d)."""
    means, whitening, factors, ranks, pooling, log_norms = gaussians
    distances = mahalanobis_distances(X, means, whitening)
    centre = means.mean(dim=0)
    rows = ((X - centre) @ whitening) @ factors
    anchors = ((means - centre) @ whitening) @ factors
    parts = zip(rows.split(ranks, dim=1), anchors.split(ranks, dim=1), strict=True)
    for number, (part, anchor) in enumerate(parts):
        distances[:, number] -= (part - anchor[number]).square().sum(dim=1)
    return log_norms - 0.5 * distances.clamp(min=0.0) / pooling


@dataclass(eq=False, repr=False)
class DDUScorer(UncertaintyEstimator):
    """Minus the logarithm of the training features' density, one Gaussian per class.

    Fit it on the rows that the classifier was trained on: it describes where these lie.

    Parameters
    ----------
    pooling : float in (0, 1] or "auto", default="auto"
        Weight ``p`` of the pooled covariance ``S`` in a class's covariance ``(1 - p) E_c + p S``.
        ``"auto"`` is ``d / (d + n_c)``: the fewer rows a class has, the more it borrows. 1 gives
        all classes the same covariance; values close to 0 give the published score, for which
        every class needs more rows than features.
    shrinkage : float in [0, 1], default=0.001
        Weight of ``trace(S) / d * I`` in ``S``, as in :class:`MahalanobisScorer`.
    normalize : bool, default=False
        Whether to scale rows to unit length first.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    location_ : ndarray of float64 of shape (n_present_classes, n_features)
        Means of the classes that have fit rows, in the order of ``classes_``.
    covariance_ : ndarray of float64 of shape (n_features, n_features)
        The shrunk covariance within classes, ``S``.
    pooling_ : ndarray of float64 of shape (n_present_classes,)
        Its weight in each class's covariance.
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
        In ``fit``, if the covariance within classes is singular.

    Notes
    -----
    Class weights ``pi_c`` are the shares of the fit rows, covariances divide by the number of
    rows. Everything is float64, and densities are summed in log space. Instead of a (d, d) matrix
    per class there is one such matrix and the whitened fit rows: at most ``n d + d^2`` numbers.

    References
    ----------
    .. [1] Mukhoti et al., "Deep deterministic uncertainty: a new simple baseline", CVPR 2023
       (2021, arXiv:2102.11582).
    .. [2] Friedman, "Regularized discriminant analysis", JASA 84, 1989.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import DDUScorer
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[:100, 0] += 9
    >>> scorer = DDUScorer().fit(X, np.repeat([1, 0], 100))
    >>> near, far = scorer.predict_uncertainty([[9.0, 0.0, 0.0], [4.5, 0.0, 0.0]])
    >>> bool(near + 5 < far)
    True
    """

    card: ClassVar[Card] = Card(
        name="DDU",
        paper="Mukhoti et al., Deep deterministic uncertainty: a new simple baseline, CVPR 2023 "
        "(2021)",
        formula="-logsumexp_c [log pi_c + log N(h; mu_c, S_c)]",
        needs="training rows",
        cost="fit O(nd^2 + n^2 d / C); row O(min(n, Cd) d)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "pooling": [Interval(Real, 0, 1, closed="right"), StrOptions({"auto"})],
        "shrinkage": [Interval(Real, 0, 1, closed="both")],
        "normalize": ["boolean"],
        **UncertaintyEstimator._parameter_constraints,
    }

    pooling: float | Literal["auto"] = "auto"
    _: KW_ONLY
    shrinkage: float = 1e-3
    normalize: bool = False

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        fitted, covariance = fit_class_gaussians(
            X,
            labels,
            len(self.classes_),
            pooling=self.pooling,
            shrinkage=self.shrinkage,
            normalize=self.normalize,
            device=resolve_device(self.device, X),
        )
        self.location_, self.covariance_ = fitted.means.cpu().numpy(), covariance.cpu().numpy()
        self.pooling_ = fitted.pooling.cpu().numpy()
        self._whitening, self._factors = (
            t.cpu().numpy() for t in (fitted.whitening, fitted.factors)
        )
        self._ranks, self._log_norms = np.array(fitted.ranks), fitted.log_norms.cpu().numpy()

    def _uncertainty(self, X: Array) -> Tensor:
        device = resolve_device(self.device, X)
        means, whitening, factors, pooling, log_norms = tensors_on(
            device, self.location_, self._whitening, self._factors, self.pooling_, self._log_norms
        )
        gaussians = ClassGaussians(
            means, whitening, factors, self._ranks.tolist(), pooling, log_norms
        )

        def surprise(rows: Tensor) -> Tensor:
            rows = unit_rows(rows) if self.normalize else rows
            return -class_log_densities(rows, gaussians).logsumexp(dim=1)

        width = factors.shape[1]
        return map_rows(lambda chunk: _in_blocks(surprise, chunk, width), X, device, torch.float64)


class KernelMap(NamedTuple):
    """Kernel principal components: ``exp(-gamma |x - r|^2) @ coefficients - offset``.

    ``references`` (m, d) are the rows that made them, ``coefficients`` (m, q), ``offset`` (q,).
    The components have mean 0 and variance 1 over the references.
    """

    references: Tensor
    coefficients: Tensor
    offset: Tensor
    gamma: float


def fit_kernel_map(references: Tensor, n_components: int, gamma: float) -> KernelMap:
    """Return the leading kernel principal components (rbf) of rows (m, d) of float64."""
    if not bool(torch.isfinite(references.square().sum())):
        raise ValueError("X is too large: its squares overflow float64. Scale the features down.")
    pca = KernelPCA(n_components, kernel="rbf", gamma=gamma, eigen_solver="dense")
    values = pca.fit(references.cpu().numpy()).eigenvalues_
    # What is smaller is rounding: kernel values are of order one.
    kept = values > max(1e-10 * values[0], 1e-14 * len(references))
    if not kept.any():
        raise ValueError(
            "X: the kernel does not distinguish the rows, so there are no components. Drop "
            "constant features and scale the rest, or set gamma higher."
        )
    coefficients = pca.eigenvectors_[:, kept] * (math.sqrt(len(references)) / values[kept])
    found = torch.tensor(coefficients, device=references.device)
    raw = KernelMap(references, found, torch.zeros_like(found[0]), gamma)
    return raw._replace(offset=kernel_components(references, raw).mean(dim=0))


def kernel_components(X: Tensor, kernel: KernelMap) -> Tensor:
    """Return the kernel principal components (n, q) of rows (n, d)."""
    centre = kernel.references.mean(dim=0)
    rows, anchors = X - centre, kernel.references - centre
    squares = rows.square().sum(dim=1, keepdim=True) + anchors.square().sum(dim=1)
    squares = torch.addmm(squares, rows, anchors.T, alpha=-2.0).clamp_(min=0.0)
    return squares.mul_(-kernel.gamma).exp_() @ kernel.coefficients - kernel.offset


class Gaussian(NamedTuple):
    """A mean (q,), a covariance (q, q) and ``V`` with ``V V'`` its inverse."""

    mean: FloatArray
    covariance: FloatArray
    whitening: FloatArray


def robust_gaussian(rows: FloatArray, seed: int) -> Gaussian | None:
    """Return the minimum-covariance-determinant estimate of rows (m, q); None if singular."""
    with warnings.catch_warnings():
        # Singular estimates are recognised below.
        warnings.filterwarnings("ignore", message=r"(?s).*(full rank|Determinant has increased)")
        try:
            found = MinCovDet(random_state=seed).fit(rows)
        except ValueError as error:
            if not re.search("ingular|equal to 0", str(error)):
                raise
            return None
    covariance = found.covariance_
    factor, info = torch.linalg.cholesky_ex(torch.tensor(covariance))
    # The components have variance one over all rows.
    if int(info) != 0 or float(factor.diagonal().min()) ** 2 < 1e-12:
        return None
    identity = torch.eye(len(covariance), dtype=torch.float64)
    whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
    return Gaussian(found.location_, covariance, whitening.numpy())


def robust_class_gaussians(
    rows: FloatArray, labels: IntArray, random: np.random.RandomState
) -> tuple[list[Gaussian], list[int]]:
    """Return a robust Gaussian for each class of rows (n, q), and which classes had to share one.

    A class with fewer than ``5 q`` rows, or one whose own estimate is singular, keeps its
    mean and takes the robust covariance of all rows around their class means.
    """
    present = np.unique(labels)
    seeds = random.randint(np.iinfo(np.int32).max, size=len(present) + 1)
    own: list[Gaussian | None] = []
    for label, seed in zip(present, seeds, strict=False):
        members = rows[labels == label]
        enough = len(members) >= ROWS_A_DIMENSION * rows.shape[1]
        own.append(robust_gaussian(members, int(seed)) if enough else None)
    sharing = [int(label) for label, found in zip(present, own, strict=True) if found is None]
    if not sharing:
        return [found for found in own if found is not None], []
    means = np.array([rows[labels == label].mean(axis=0) for label in present])
    pooled = robust_gaussian(rows - means[np.searchsorted(present, labels)], int(seeds[-1]))
    if pooled is None:
        raise ValueError(
            f"The within-class covariance of X ({len(rows)} rows) is singular after kernel PCA: "
            "more than half of the rows coincide with their class mean in some component; "
            "expected rows that differ. Drop duplicates, set n_components or gamma lower, or fit "
            "on more rows."
        )
    return [
        pooled._replace(mean=mean) if found is None else found
        for mean, found in zip(means, own, strict=True)
    ], sharing


@dataclass(eq=False, repr=False)
class RDEScorer(UncertaintyEstimator):
    """Robust density estimation: Mahalanobis distance to the predicted class after kernel PCA.

    Means and covariances are minimum-covariance-determinant estimates, which tolerate outliers in
    up to half of a class's rows. Fit it on the rows that the classifier was trained on.

    Parameters
    ----------
    n_components : int, default=100
        Number of kernel principal components: at most a fifth of the number of rows, and none whose
        variance is only rounding.
    gamma : float, default=None
        Parameter of the kernel ``exp(-gamma |x - x'|^2)``; None means ``1 / n_features``.
    max_samples : int, default=2000
        Number of rows drawn for the kernel PCA, whose cost is cubic in it. The covariances always
        use all rows.
    normalize : bool, default=False
        Whether to scale rows to unit length first.
    random_state : int, RandomState instance or None, default=0
        Seed for drawing these rows and the starts of the robust estimates.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to score: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``. Kernel PCA and covariances are fitted on
        the CPU.

    Attributes
    ----------
    n_components_ : int
        Number of components.
    gamma_ : float
        The kernel's parameter.
    references_ : ndarray of float64 of shape (min(n_samples, max_samples), n_features)
        The rows of the kernel PCA.
    location_ : ndarray of float64 of shape (n_present_classes, n_components_)
        Means of the classes that have fit rows, in the order of ``classes_``.
    covariance_ : ndarray of float64 of shape (n_present_classes, n_components_, n_components_)
        Their covariances.
    pooled_classes_ : ndarray
        The labels of the classes that share one covariance (see Notes).
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Warns
    -----
    UserWarning
        In ``fit``, if classes have to share a covariance.

    Raises
    ------
    ValueError
        In ``fit``, if all rows are equal, or more than half of them coincide within classes.

    Notes
    -----
    A class needs ``5 * n_components_`` rows for a robust covariance of its own. One with fewer,
    or whose own is singular, keeps its plain mean and takes the robust covariance of
    all rows around their class means, with a warning. A row whose predicted class has no fit rows
    is measured against the nearest class that has. Components are scaled to unit variance, which
    no distance depends on. Rows that are far from all training rows look alike to the kernel: they
    all get the same score. The published ``gamma`` suits features of variance about one; where
    ``gamma |x - x'|^2`` is large for most pairs, every row is far from all others, and ``gamma``
    has to be lower, or ``normalize`` set.

    References
    ----------
    .. [1] Yoo et al., "Detection of adversarial examples in text classification: benchmark and
       baseline via robust density estimation", Findings of ACL 2022.
    .. [2] Rousseeuw and Van Driessen, "A fast algorithm for the minimum covariance determinant
       estimator", Technometrics 41, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import RDEScorer
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[:100, 0] += 9
    >>> scorer = RDEScorer(n_components=4).fit(X, np.repeat([1, 0], 100))
    >>> near, far = scorer.predict_uncertainty([[9.0, 0.0, 0.0], [5.5, 0.0, 0.0]])
    >>> bool(near < far)
    True
    """

    card: ClassVar[Card] = Card(
        name="RDE",
        paper="Yoo et al., Detection of adversarial examples in text classification: benchmark "
        "and baseline via robust density estimation, Findings of ACL 2022",
        formula="(g - m_k)' S_k^-1 (g - m_k), g the kernel principal components of h, m_k and "
        "S_k robust (minimum covariance determinant)",
        needs="training rows",
        cost="fit O(m^3 + nmd) and a robust covariance per class, m = max_samples; "
        "row O(md + Cq^2), q components",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="neither"), None],
        "max_samples": [Interval(Integral, 2, None, closed="left")],
        "normalize": ["boolean"],
        "random_state": ["random_state"],
        **UncertaintyEstimator._parameter_constraints,
    }

    n_components: int = 100
    _: KW_ONLY
    gamma: float | None = None
    max_samples: int = 2000
    normalize: bool = False
    random_state: Any = 0

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        random = check_random_state(self.random_state)
        n_samples, n_features = X.shape
        drawn = random.permutation(n_samples)[: self.max_samples]
        references = to_tensor(X[np.sort(drawn)], resolve_device(self.device, X), torch.float64)
        self.gamma_ = 1.0 / n_features if self.gamma is None else float(self.gamma)
        kernel = fit_kernel_map(
            unit_rows(references) if self.normalize else references,
            min(self.n_components, max(1, n_samples // ROWS_A_DIMENSION)),
            self.gamma_,
        )
        self.references_, self._coefficients, self._offset = (
            t.cpu().contiguous().numpy()
            for t in (kernel.references, kernel.coefficients, kernel.offset)
        )
        self.n_components_ = len(self._offset)
        components = self._components(X).cpu().numpy()
        gaussians, sharing = robust_class_gaussians(components, labels, random)
        self._present = np.unique(labels)
        self.location_, self.covariance_, self._whitening = map(
            np.array, zip(*gaussians, strict=True)
        )
        self.pooled_classes_ = self.classes_[sharing]
        if sharing:
            warn(
                f"RDEScorer: {len(sharing)} of {len(self._present)} classes have fewer than "
                f"{ROWS_A_DIMENSION * self.n_components_} rows "
                f"({ROWS_A_DIMENSION} * n_components_) or a singular covariance "
                "(see pooled_classes_). They share the robust covariance of all rows around their "
                "class means. Set n_components (or gamma, if features are large) lower, or fit on "
                "more rows."
            )

    def _uncertainty(self, X: Array) -> Tensor:
        components = self._components(X)
        device = components.device
        means, whitenings, present = tensors_on(
            device, self.location_, self._whitening, self._present
        )
        distances = torch.stack(
            [
                ((components - mean) @ whitening).square().sum(dim=1)
                for mean, whitening in zip(means, whitenings, strict=True)
            ],
            dim=1,
        )
        places = torch.full((len(self.classes_),), -1, device=device)
        places[present] = torch.arange(len(present), device=device)
        place = places[self.original_logits(X).argmax(dim=1)]
        at_predicted = distances.gather(1, place.clamp(min=0)[:, None])[:, 0]
        return torch.where(place < 0, distances.amin(dim=1), at_predicted)

    def _components(self, X: Array) -> Tensor:
        device = resolve_device(self.device, X)
        references, coefficients, offset = tensors_on(
            device, self.references_, self._coefficients, self._offset
        )
        kernel = KernelMap(references, coefficients, offset, self.gamma_)

        def components(rows: Tensor) -> Tensor:
            return kernel_components(unit_rows(rows) if self.normalize else rows, kernel)

        return map_rows(
            lambda chunk: _in_blocks(components, chunk, len(references)),
            X,
            device,
            torch.float64,
        )


def _in_blocks(function: Any, rows: Tensor, width: int) -> Tensor:
    """Apply a row-wise function that makes ``width`` numbers a row, some rows at a time."""
    return torch.cat([function(part) for part in rows.split(max(1, _BLOCK_ELEMENTS // width))])

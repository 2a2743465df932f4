"""Label probes: what a layer says of a row's label, by a linear classifier of its own."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy
from adue_sklearn._utils.head import Head
from adue_sklearn._utils.row_digests import row_digests
from adue_sklearn._utils.views import Views
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.scorers.learned import ErrorLearner, fit_scaler
from adue_sklearn.scorers.witness import (
    WitnessScorer,
    labels_of,
    require_view,
)

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(eq=False, repr=False)
class LayerProbeScorer(WitnessScorer, ErrorLearner):
    """Log-odds of an error from how the answer's probability runs through the layers.

    A label probe on each layer, fitted by :meth:`fit_witness` on the rows that LoRA was trained
    on, gives the probability of the original head's answer there. A logistic regression on rows
    that LoRA has not seen weighs three numbers: the log-odds of an error by softmax response, the
    mean of the layers' log-odds, and their trend from the first layer to the last.

    Parameters
    ----------
    views : list of str, default=None
        Names of the views, first layer first. None: all that are named ``layer_NUMBER``.
    C : float, default=0.01
        Inverse strength of the penalty of the label probes on standardised columns, above 0.
    fallback : {"error", "softmax response"}, default="error"
        What a row without the views gets in ``predict_uncertainty``. With "softmax response", the
        original head's probability stands for every layer's.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute the original head's logits: ``"auto"`` (where a tensor lies; CUDA if
        there is one for numpy arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    views_ : list of str
        Names of the views.
    probe_coefs_, probe_intercepts_ : list of ndarray of float64
        The label probes, (n_classes, n_columns) and (n_classes,), one for each view.
    witness_classes_ : ndarray of shape (n_classes,)
        The labels in the order of the label probes' rows.
    taught_rows_ : str
        Digests of the rows that ``fit_witness`` was given.
    has_view_ : bool
        Whether ``fit`` was given the views. If not, the uncertainty is softmax response.
    coef_ : ndarray of float64 of shape (3,)
        Weights of the three standardised numbers. Like the next, not set if there were no views or
        no errors to learn from.
    intercept_ : float
        The constant.
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
        In ``fit``, if ``X`` has the views but ``fit_witness`` was not called or was given other
        views, the classes in another order, or more than 5 % of these rows; with ``init_W``, if
        the head makes no errors or only errors.

    Warns
    -----
    MissingViewWarning
        If ``X`` lacks the views in ``fit``.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import LayerProbeScorer, Views
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=400)
    >>> layers = {f"layer_{k}": rng.normal(size=(400, 3)) + y[:, None] for k in (1, 2)}
    >>> X = Views(rng.normal(size=(400, 2)) + y[:, None], **layers)
    >>> scorer = LayerProbeScorer().fit_witness(X[:200], y[:200])
    >>> scorer.fit(X[200:], y[200:], [[-1.0, -1.0], [1.0, 1.0]], [1.0, -1.0]).views_
    ['layer_1', 'layer_2']
    """

    card: ClassVar[Card] = Card(
        name="layer probes",
        paper="Alain & Bengio, Understanding intermediate layers using linear classifier probes, "
        "ICLR workshop 2017",
        formula="log-odds of an error, linear in log(1 - max p) - log(max p) and in level and "
        "trend of log(1 - q_k) - log(q_k) over layers, q a label probe's",
        needs="held-out errors",
        cost="fit O(ndL) per iteration, L layers; row O(dCL)",
    )

    taught = ("views_", "probe_coefs_", "probe_intercepts_", "witness_classes_", "taught_rows_")
    _learned_names = ("coef_", "intercept_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "views": [list, None],
        "C": [Interval(Real, 0, None, closed="neither")],
        "fallback": [StrOptions({"error", "softmax response"})],
        **UncertaintyEstimator._parameter_constraints,
    }

    views: list[str] | None = None
    _: KW_ONLY
    C: float = 0.01
    fallback: str = "error"

    def fit_witness(self, X: Views, y: Any, *, classes: Any = None) -> Self:
        """Fit a label probe on each layer, on the rows that the classifier was trained on.

        Call it before ``fit``; clones keep the probes.

        Parameters
        ----------
        X : Views
            Rows that the classifier was trained on.
        y : array-like of shape (n_samples,)
            Their true labels.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows. None: the labels in ``y``, sorted.

        Returns
        -------
        self : LayerProbeScorer
            With the probes.

        Raises
        ------
        ValueError
            If ``X`` lacks the views, if labels are not among the classes, or if the rows with a
            view hold fewer than two classes or infinity.
        """
        for name in self.taught:
            self.__dict__.pop(name, None)
        if self.views is not None and len(self.views) == 0:
            raise ValueError("views is empty; expected names of views of X, or None.")
        names = self.view_names(X) if isinstance(X, Views) else ()
        for name in names or ("layer_1",):
            require_view(X, name)
        labels, self.witness_classes_ = labels_of(y, classes, len(X), type(self).__name__)
        self.views_ = list(names)
        n_classes = len(self.witness_classes_)
        probes = [label_probe(X.block(name), labels, n_classes, self.C, name) for name in names]
        self.probe_coefs_, self.probe_intercepts_ = map(list, zip(*probes, strict=True))
        self.taught_rows_ = row_digests(as_numpy(X))
        return self

    def lacks_probe(self, X: Views) -> bool:
        """Tell whether ``fit_witness`` was not called yet."""
        return "probe_coefs_" not in vars(self)

    def view_names(self, X: Views) -> tuple[str, ...]:
        """Return the names of the views that the score reads."""
        if "views_" in vars(self):
            return tuple(self.views_)
        if self.views is not None:
            return tuple(self.views)
        numbered = [name for name in X.names if re.fullmatch(r"layer_\d+", name)]
        return tuple(sorted(numbered, key=lambda name: int(name.rpartition("_")[2])))

    @property
    def views_read(self) -> tuple[str, ...]:
        """Names of the views that the score was fitted with, none if they were missing."""
        return tuple(self.views_) if self.has_view_ else ()

    def _wanted(self) -> str:
        return ", ".join(map(repr, self.views or vars(self).get("views_", ["layer_1", "..."])))

    def _fit(self, X: Features, labels: IntArray, head: Head) -> None:
        self.has_view_ = self._finds_views(X)
        if not self.has_view_:
            self._learned = False
            self.n_errors_ = int(self._original_errors(X, labels, head).sum())
            self.n_samples_fit_ = len(labels)
            return
        if "probe_coefs_" not in vars(self):
            raise ValueError(
                "LayerProbeScorer has no label probes; call fit_witness(X, y) first, with rows "
                "that the classifier was trained on (X_train of compare_scorers, --train-store)."
            )
        if self.views is not None and list(self.views) != self.views_:
            raise ValueError(
                f"views is {self.views!r}, but fit_witness was given {self.views_!r}; call it "
                "again."
            )
        self._check_classes(head)
        self._check_unseen(X)
        super()._fit(X, labels, head)

    def _learn(self, X: Features, labels: IntArray, errors: BoolArray, head: Head) -> None:
        columns = self._columns(X)
        scaler = fit_scaler(columns, "X is")
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(columns), errors)
        self._mean, self._scale = scaler.mean_, scaler.scale_
        self.coef_, self.intercept_ = model.coef_[0], float(model.intercept_[0])

    def _apply(self, X: Features) -> Tensor:
        columns = (self._columns(X) - self._mean) / self._scale
        return torch.as_tensor(columns @ self.coef_ + self.intercept_)

    def _columns(self, X: Features) -> FloatArray:
        """Return log-odds of an error by softmax response, and level and trend of the layers'."""
        own = torch.log_softmax(self.original_logits(X), dim=1).cpu().numpy()
        answers, rows = own.argmax(axis=1), np.arange(len(own))
        missing = self._lacking(X)
        self._require(X, missing)
        layers = np.repeat(own[rows, answers][:, None], len(self.views_), axis=1)
        if not missing.all():
            there = np.flatnonzero(~missing)
            layers[there] = self._log_probabilities(X)[there, :, answers[there]]
        odds = log_odds_of_error(layers)
        depth = np.linspace(-1.0, 1.0, odds.shape[1])
        return np.column_stack(
            [log_odds_of_error(own[rows, answers]), odds.mean(axis=1), odds @ depth / len(depth)]
        )

    def _log_probabilities(self, X: Any) -> FloatArray:
        """Return the probes' log-probabilities (n, L, C)."""
        found = []
        for name, coef, intercept in zip(
            self.views_, self.probe_coefs_, self.probe_intercepts_, strict=True
        ):
            check_probe(X.block(name), coef, len(self.classes_), name)
            found.append(log_softmax(X.block(name) @ coef.T + intercept, axis=1))
        return np.stack(found, axis=1)

    def answers(self, X: Features) -> IntArray:
        """Return the class (n,) that the layers find most probable on average, by row number."""
        return self._log_probabilities(X).mean(axis=1).argmax(axis=1)

    def _lacking(self, X: Features) -> BoolArray:
        if not self.has_view_:
            return np.zeros(X.shape[0], dtype=bool)
        if not isinstance(X, Views) or not set(self.views_) <= set(X.names):
            return np.ones(X.shape[0], dtype=bool)
        return np.any([np.isnan(X.block(name)).any(axis=1) for name in self.views_], axis=0)


def log_odds_of_error(log_probabilities: FloatArray) -> FloatArray:
    """Return ``log(1 - q) - log(q)`` for logarithms of probabilities of the answer."""
    return np.log(np.maximum(-np.expm1(log_probabilities), 1e-9)) - log_probabilities


def label_probe(
    block: FloatArray, labels: IntArray, n_classes: int, C: float, view: str
) -> tuple[FloatArray, FloatArray]:
    """Return weights (C, k) and constants (C,) of a logistic regression on one view.

    Columns are standardised inside. A class without rows gets a probability near zero. Rows of
    NaN, which lack the view, are left out.
    """
    there = ~np.isnan(block).any(axis=1)
    block, labels = block[there], labels[there]
    if np.isinf(block).any():
        raise ValueError(f"the view {view!r} holds infinity; expected finite features.")
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"y has {len(np.unique(labels))} class(es) in the {len(labels)} rows with the view "
            f"{view!r}; expected rows of two classes or more."
        )
    scaler = StandardScaler().fit(block)
    model = LogisticRegression(C=C, max_iter=1000).fit(scaler.transform(block), labels)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coef, intercept = np.vstack([0 * coef, coef]), np.array([0.0, *intercept])
    weights, constants = np.zeros((n_classes, block.shape[1])), np.full(n_classes, -50.0)
    weights[model.classes_] = coef / scaler.scale_
    constants[model.classes_] = intercept - weights[model.classes_] @ scaler.mean_
    return weights, constants


def check_probe(block: FloatArray, coef: FloatArray, n_classes: int, view: str) -> None:
    """Raise unless a label probe belongs to a view and to the head's classes."""
    if block.shape[1] != coef.shape[1]:
        raise ValueError(
            f"the view {view!r} has {block.shape[1]} columns, but fit_witness was given "
            f"{coef.shape[1]}; expected the same features."
        )
    if np.isinf(block).any():
        raise ValueError(f"the view {view!r} holds infinity; expected finite features.")
    if len(coef) != n_classes:
        raise ValueError(
            f"fit_witness found {len(coef)} classes, but the head has {n_classes}; pass its "
            "classes to fit_witness."
        )

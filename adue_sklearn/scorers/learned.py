"""Scores that learn the original head's errors with scikit-learn's models.

All are fitted on rows that the classifier was not trained on; they store only arrays.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from torch import Tensor

from adue_sklearn._utils.arrays import Array, Features, as_numpy, map_rows, resolve_device, rows_of
from adue_sklearn._utils.folds import stratified
from adue_sklearn._utils.head import (
    BoolArray,
    FloatArray,
    Head,
    IntArray,
    apply_head,
    out_of_fold_predictions,
)
from adue_sklearn._utils.validation import naming
from adue_sklearn.adue.objective import softmax_response, top_class
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.scorers._errors import can_learn
from adue_sklearn.scorers.logits import (
    EnergyScorer,
    EntropyScorer,
    GENScorer,
    MarginScorer,
    MaxLogitPNormScorer,
    MaxLogitScorer,
    RelUScorer,
    SoftmaxResponseScorer,
)

#: Penalties that a probe chooses from, and the one for too few errors to choose.
_PROBE_GRID, _PROBE_C = (1e-3, 1e-2, 1e-1, 1.0), 0.1
_PROBE_FOLDS = 5


class _ErrorLearner(UncertaintyEstimator):
    """Base class: learn from the errors, or remain softmax response if there are none."""

    #: What `_learn` sets.
    _learned_names: ClassVar[tuple[str, ...]]

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        for name in self._learned_names:
            self.__dict__.pop(name, None)
        errors = self._original_errors(X, labels, head)
        self.n_errors_, self.n_samples_fit_ = int(errors.sum()), len(errors)
        self._learned = can_learn(errors, head, instead="softmax response")
        if self._learned:
            self._learn(X, labels, errors, head)

    def _uncertainty(self, X: Array) -> Tensor:
        if not self._learned:
            return softmax_response(self.original_logits(X))
        return self._apply(X)

    @abstractmethod
    def _learn(self, X: Array, labels: IntArray, errors: BoolArray, head: Head) -> None:
        """Learn from errors and correct answers, both of which there are."""

    @abstractmethod
    def _apply(self, X: Array) -> Tensor:
        """Return the learned uncertainty (n,)."""

    def _affine(
        self, X: Array, weights: Sequence[FloatArray], biases: Sequence[FloatArray]
    ) -> Tensor:
        """Return the one output (n,) of layers with relu between them, in float64."""
        device = resolve_device(self.device, X)
        W = [torch.tensor(w, device=device) for w in weights]
        b: list[Tensor | None] = [torch.tensor(v, device=device) for v in biases]
        return map_rows(lambda rows: apply_head(rows, W, b, "relu"), X, device, torch.float64)[:, 0]


def _fit_scaler(columns: FloatArray, what: str) -> StandardScaler:
    with np.errstate(over="ignore", invalid="ignore"):
        scaler = StandardScaler().fit(columns)
    if not (np.isfinite(scaler.mean_).all() and np.isfinite(scaler.scale_).all()):
        raise ValueError(
            f"{what} too large (up to {np.abs(columns).max():.1e}): squares overflow float64. "
            "Scale the features and the head to match."
        )
    return scaler


@dataclass(eq=False, repr=False)
class LinearProbeScorer(_ErrorLearner):
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
        scaler = _fit_scaler(rows, "X is")
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
class ConfidNetScorer(_ErrorLearner):
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
        scaler = _fit_scaler(rows, "X is")
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


class _Answers(NamedTuple):
    """A stack's inputs: predicted class, log-odds of an error, the scores (n, S)."""

    predicted: IntArray
    log_odds: FloatArray
    scores: FloatArray

    def common(self) -> FloatArray:
        """Return the columns that all classes share (n, 1 + S)."""
        return np.column_stack([self.log_odds, self.scores])


def stack_columns(
    answers: _Answers, n_classes: int, mean: FloatArray, scale: FloatArray
) -> FloatArray:
    """Return the columns (n, 1 + S + 2 C) of a stack's logistic regression.

    The log-odds of an error by softmax response and the scores, less ``mean`` and over ``scale``
    (1 + S,); the predicted class, one column each; and the log-odds within each predicted class.
    """
    common = (answers.common() - mean) / scale
    member = np.eye(n_classes)[answers.predicted]
    return np.column_stack([common, member, member * common[:, :1]])


@dataclass(eq=False, repr=False)
class StackedScorer(_ErrorLearner, _BaseComposition):
    """A logistic regression over several scores and the predicted class.

    It learns which scores indicate errors, and that the same margin means more for one class than
    for another. Fit it on rows that the classifier was not trained on.

    Parameters
    ----------
    estimators : list of (str, estimator), default=None
        Names and scorers. Fit scores that describe the classifier's training rows, such as
        :class:`MahalanobisScorer`, on those rows first and wrap them in scikit-learn's
        ``FrozenEstimator``. Scores that learn are fitted ``cv`` times, and the regression uses
        their out-of-fold scores. None: softmax response, entropy, margin, max-logit, energy, GEN,
        MaxLogit-pNorm and Rel-U.
    C : float, default=0.01
        Inverse strength of the penalty, above 0.
    cv : int, default=5
        Number of folds, stratified on the errors; fewer if there are fewer errors.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers and
        the default scorers. Other scorers have their own.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``. The same goes.

    Attributes
    ----------
    estimators_ : list of estimators
        The scorers, fitted on all rows; frozen ones unchanged. Like the next two, not set if there
        were no errors to learn from.
    coef_ : ndarray of float64 of shape (1 + n_scores + 2 * n_classes,)
        Weights of: the standardised log-odds of an error by softmax response; the standardised
        scores; the predicted class; the first within each predicted class.
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
        In ``fit`` with ``init_W``, if the head makes fewer than two errors on the fit rows, or
        fewer than two correct answers.

    Warns
    -----
    UserWarning
        If (without ``init_W``) there are no errors or only errors; the score is then softmax
        response.

    Notes
    -----
    The score is the log-odds of an error. Without ``init_W`` the original head is also refitted in
    every fold.

    References
    ----------
    .. [1] Wolpert, "Stacked generalization", Neural Networks 5, 1992.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from adue_sklearn import MahalanobisScorer, MarginScorer, StackedScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> head = (data.init_W, data.init_b)
    >>> distance = MahalanobisScorer().fit(*data.calibration, *head)  # or on training rows
    >>> stack = StackedScorer([("margin", MarginScorer()), ("md", FrozenEstimator(distance))])
    >>> stack.fit(*data.calibration, *head).coef_.shape
    (7,)
    """

    card: ClassVar[Card] = Card(
        name="stack",
        paper="Wolpert, Stacked generalization, Neural Networks 5, 1992",
        formula="log-odds of an error, linear in scores, predicted class and, within each class, "
        "log(1 - max p) - log(max p)",
        needs="held-out errors",
        cost="fit cv + 1 times the scorers'; row the scorers'",
    )
    reads_views: ClassVar[bool] = True

    _learned_names = ("estimators_", "coef_", "intercept_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimators": [list, None],
        "C": [Interval(Real, 0, None, closed="neither")],
        "cv": [Interval(Integral, 2, None, closed="left")],
        **UncertaintyEstimator._parameter_constraints,
    }

    estimators: list[tuple[str, Any]] | None = None
    _: KW_ONLY
    C: float = 0.01
    cv: int = 5

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, including those of the scorers by name.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the scorers and their parameters.

        Returns
        -------
        params : dict
            Names and values.
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, ``name__parameter`` those of a scorer.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : StackedScorer
            The same estimator.
        """
        self._set_params("estimators", **params)
        self._pass_device_on(params)
        return self

    def _learn(self, X: Features, labels: IntArray, errors: BoolArray, head: Head) -> None:
        answers = self._unseen_answers(X, labels, errors, head)
        y = self.classes_[labels]
        rows = FitRows(X, y, head)
        self.estimators_ = [_fitted(scorer, rows) for scorer in self._scorers()]
        scaler = _fit_scaler(answers.common(), "X is, or the scores of it are,")
        self._mean, self._scale = scaler.mean_, scaler.scale_
        columns = stack_columns(answers, len(self.classes_), self._mean, self._scale)
        model = LogisticRegression(C=self.C, max_iter=1000).fit(columns, errors)
        self.coef_, self.intercept_ = model.coef_[0], float(model.intercept_[0])

    def _unseen_answers(
        self, X: Features, labels: IntArray, errors: BoolArray, head: Head
    ) -> _Answers:
        """Return out-of-fold answers for each row."""
        scorers, y = self._scorers(), self.classes_[labels]
        seen = [_is_frozen(scorer) or (head.given and _needs_head(scorer)) for scorer in scorers]
        everything = FitRows(X, y, head)
        scores = np.full((len(labels), len(scorers)), np.nan)
        for column in np.flatnonzero(seen):
            scores[:, column] = _score(_fitted(scorers[column], everything), X)
        predicted, log_odds = _view(self, X, self.classes_)
        if head.given and all(seen):
            return _Answers(predicted, log_odds, scores)
        for train, test in self._folds(labels, errors, head):
            part, rows = everything.part(train), rows_of(X, test)
            if not head.given:
                response = SoftmaxResponseScorer(device=self.device).fit(part.X, part.y)
                predicted[test], log_odds[test] = _view(response, rows, self.classes_)
                part = part._replace(head=response.init_head_)
            for column in np.flatnonzero(~np.array(seen)):
                scores[test, column] = _score(_fitted(scorers[column], part), rows)
        return _Answers(predicted, log_odds, scores)

    def _folds(
        self, labels: IntArray, errors: BoolArray, head: Head
    ) -> Iterator[tuple[IntArray, IntArray]]:
        if head.given:
            few = min(int(errors.sum()), int((~errors).sum()))
            if few < 2:
                raise ValueError(
                    f"The original head (init_W, init_b) makes {int(errors.sum())} error(s) on "
                    f"{len(errors)} fit rows (X, y); a stack needs at least two errors and two "
                    "correct answers for its folds. Fit on more held-out rows."
                )
            yield from stratified(errors, min(self.cv, few))
        else:  # the folds in which the errors were counted
            rarest = int(np.bincount(labels).min())
            yield from StratifiedKFold(max(2, min(5, rarest))).split(labels, labels)

    def _scorers(self) -> list[Any]:
        if self.estimators is None:
            common: dict[str, Any] = {"activation": self.activation, "device": self.device}
            return [
                SoftmaxResponseScorer(**common),
                EntropyScorer(**common),
                MarginScorer(**common),
                MaxLogitScorer(**common),
                EnergyScorer(**common),
                GENScorer(**common),
                MaxLogitPNormScorer(**common),
                RelUScorer(**common),
            ]
        pairs = [
            pair
            for pair in self.estimators
            if isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)
        ]
        if not pairs or len(pairs) < len(self.estimators):
            raise ValueError(
                "estimators must be a list of (name, scorer), such as "
                f"[('margin', MarginScorer())]; got {self.estimators!r}."
            )
        names, scorers = zip(*pairs, strict=True)
        self._validate_names(names)
        for name, scorer in pairs:
            if isinstance(scorer, type) or not hasattr(scorer, "predict_uncertainty"):
                raise TypeError(
                    f"estimators: {name!r} is {scorer!r}, which has no predict_uncertainty; "
                    "expected a scorer of this package."
                )
        return list(scorers)

    def _apply(self, X: Features) -> Tensor:
        predicted, log_odds = _view(self, X, self.classes_)
        scores = np.column_stack([_score(scorer, X) for scorer in self.estimators_])
        answers = _Answers(predicted, log_odds, scores)
        columns = stack_columns(answers, len(self.classes_), self._mean, self._scale)
        return torch.as_tensor(columns @ self.coef_ + self.intercept_)


def _fitted(scorer: Any, rows: FitRows) -> Any:
    """Return a scorer fitted on rows, or a frozen one unchanged; without a head, on its own."""
    if _is_frozen(scorer):
        return scorer
    on_head = rows.head is not None and (rows.head.given or _needs_head(scorer))
    return (rows if on_head else rows._replace(head=None)).fit(scorer)


def _is_frozen(scorer: Any) -> bool:
    return isinstance(scorer, FrozenEstimator)


def _needs_head(scorer: Any) -> bool:
    """Tell whether a scorer uses only the head, so that no row is special to it."""
    return getattr(getattr(scorer, "card", None), "needs", None) == "head"


def _score(scorer: Any, X: Features) -> FloatArray:
    with warnings.catch_warnings():
        # A frozen scorer may have been fitted on a data frame.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        return as_numpy(scorer.predict_uncertainty(X)).astype(np.float64)


def _view(
    estimator: UncertaintyEstimator, X: Features, classes: npt.NDArray[Any]
) -> tuple[IntArray, FloatArray]:
    """Return the head's predicted class as a place in ``classes``, and the log-odds of an error."""
    logits = estimator.original_logits(X)
    top = top_class(logits)
    own = estimator.classes_[logits.argmax(dim=1).cpu().numpy()]
    place = {label: number for number, label in enumerate(classes.tolist())}
    log_odds = top.log_eps - torch.log1p(-top.eps)
    return np.array([place[label] for label in own.tolist()]), log_odds.cpu().numpy()

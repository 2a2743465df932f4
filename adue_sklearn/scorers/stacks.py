"""Stacks: several scores of the same answers as one, from scores of rows that no fit has seen."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils._param_validation import Interval
from sklearn.utils.metaestimators import _BaseComposition
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy, rows_of
from adue_sklearn._utils.folds import stratified
from adue_sklearn._utils.head import BoolArray, FloatArray, Head, IntArray
from adue_sklearn.adue.objective import top_class
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.scorers.learned import ErrorLearner, fit_scaler
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

Named = list[tuple[str, Any]]


class Answers(NamedTuple):
    """A stack's inputs: predicted class, log-odds of an error, the scores (n, S)."""

    predicted: IntArray
    log_odds: FloatArray
    scores: FloatArray

    def common(self) -> FloatArray:
        """Return the columns that all classes share (n, 1 + S)."""
        return np.column_stack([self.log_odds, self.scores])


def stack_columns(
    answers: Answers, n_classes: int, mean: FloatArray, scale: FloatArray
) -> FloatArray:
    """Return the columns (n, 1 + S + 2 C) of a stack's logistic regression.

    The log-odds of an error by softmax response and the scores, less ``mean`` and over ``scale``
    (1 + S,); the predicted class, one column each; and the log-odds within each predicted class.
    """
    common = (answers.common() - mean) / scale
    member = np.eye(n_classes)[answers.predicted]
    return np.column_stack([common, member, member * common[:, :1]])


class ScoreStack(ErrorLearner, _BaseComposition):
    """Base class: scores that learn are weighed by how they do on rows they were not fitted on."""

    reads_views: ClassVar[bool] = True

    estimators: list[tuple[str, Any]] | None
    cv: int

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
        self : estimator
            The same estimator.
        """
        self._set_params("estimators", **params)
        self._pass_device_on(params)
        return self

    def _learn(self, X: Features, labels: IntArray, errors: BoolArray, head: Head) -> None:
        named = self._named(X)
        answers = self._unseen_answers(named, X, labels, errors, head)
        rows = FitRows(X, self.classes_[labels], head)
        self.estimators_ = [_fitted(scorer, rows) for _, scorer in named]
        self.names_ = [name for name, _ in named]
        self._weigh(answers, errors)

    def _apply(self, X: Features) -> Tensor:
        return torch.as_tensor(self._log_odds(self._answers_of(X)))

    def _answers_of(self, X: Features) -> Answers:
        predicted, log_odds = _view(self, X, self.classes_)
        scores = np.column_stack([_score(scorer, X) for scorer in self.estimators_])
        return Answers(predicted, log_odds, scores)

    @abstractmethod
    def _default_scorers(self, X: Features) -> Named:
        """Return the scorers for ``estimators=None``."""

    @abstractmethod
    def _weigh(self, answers: Answers, errors: BoolArray) -> None:
        """Learn weights from unseen answers and where the head is wrong."""

    @abstractmethod
    def _log_odds(self, answers: Answers) -> FloatArray:
        """Return the learned log-odds of an error (n,)."""

    def _unseen_answers(
        self, named: Named, X: Features, labels: IntArray, errors: BoolArray, head: Head
    ) -> Answers:
        """Return out-of-fold answers for each row."""
        scorers = [scorer for _, scorer in named]
        y = self.classes_[labels]
        seen = [
            _is_frozen(scorer) or (head.given and _learns_nothing(scorer)) for scorer in scorers
        ]
        everything = FitRows(X, y, head)
        scores = np.full((len(labels), len(scorers)), np.nan)
        for column in np.flatnonzero(seen):
            scores[:, column] = _score(_fitted(scorers[column], everything), X)
        predicted, log_odds = _view(self, X, self.classes_)
        if head.given and all(seen):
            return Answers(predicted, log_odds, scores)
        for train, test in self._folds(labels, errors, head):
            part, rows = everything.part(train), rows_of(X, test)
            if not head.given:
                response = SoftmaxResponseScorer(device=self.device).fit(part.X, part.y)
                predicted[test], log_odds[test] = _view(response, rows, self.classes_)
                part = part._replace(head=response.init_head_)
            for column in np.flatnonzero(~np.array(seen)):
                scores[test, column] = _score(_fitted(scorers[column], part), rows)
        return Answers(predicted, log_odds, scores)

    def _folds(
        self, labels: IntArray, errors: BoolArray, head: Head
    ) -> Iterator[tuple[IntArray, IntArray]]:
        if head.given:
            check_enough(errors)
            few = min(int(errors.sum()), int((~errors).sum()))
            yield from stratified(errors, min(self.cv, few))
        else:  # the folds in which the errors were counted
            rarest = int(np.bincount(labels).min())
            yield from StratifiedKFold(max(2, min(5, rarest))).split(labels, labels)

    def _named(self, X: Features) -> Named:
        """Return the scorers with their names."""
        if self.estimators is None:
            return self._default_scorers(X)
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
        self._validate_names([name for name, _ in pairs])
        for name, scorer in pairs:
            if isinstance(scorer, type) or not hasattr(scorer, "predict_uncertainty"):
                raise TypeError(
                    f"estimators: {name!r} is {scorer!r}, which has no predict_uncertainty; "
                    "expected a scorer of this package."
                )
        return [(name, scorer) for name, scorer in pairs]


@dataclass(eq=False, repr=False)
class StackedScorer(ScoreStack):
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
        The scorers, fitted on all rows; frozen ones unchanged. Like the next three, not set if
        there were no errors to learn from.
    names_ : list of str
        Their names.
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

    _learned_names = ("estimators_", "names_", "coef_", "intercept_")
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

    def _default_scorers(self, X: Features) -> Named:
        return default_scores(activation=self.activation, device=self.device)

    def _weigh(self, answers: Answers, errors: BoolArray) -> None:
        scaler = fit_scaler(answers.common(), "X is, or the scores of it are,")
        self._mean, self._scale = scaler.mean_, scaler.scale_
        columns = stack_columns(answers, len(self.classes_), self._mean, self._scale)
        model = LogisticRegression(C=self.C, max_iter=1000).fit(columns, errors)
        self.coef_, self.intercept_ = model.coef_[0], float(model.intercept_[0])

    def _log_odds(self, answers: Answers) -> FloatArray:
        columns = stack_columns(answers, len(self.classes_), self._mean, self._scale)
        return columns @ self.coef_ + self.intercept_


def default_scores(*, activation: str | None = None, device: str = "auto") -> Named:
    """Return the scores of logits that a stack combines by default, with their names."""
    classes = (
        SoftmaxResponseScorer,
        EntropyScorer,
        MarginScorer,
        MaxLogitScorer,
        EnergyScorer,
        GENScorer,
        MaxLogitPNormScorer,
        RelUScorer,
    )
    return [(cls.card.name, cls(activation=activation, device=device)) for cls in classes]


def _fitted(scorer: Any, rows: FitRows) -> Any:
    """Return a scorer fitted on rows, or a frozen one unchanged; without a head, on its own."""
    if _is_frozen(scorer):
        return scorer
    on_head = rows.head is not None and (rows.head.given or _learns_nothing(scorer))
    return (rows if on_head else rows._replace(head=None)).fit(scorer)


def check_enough(errors: BoolArray) -> None:
    """Raise unless a given head makes two errors and two correct answers."""
    if min(int(errors.sum()), int((~errors).sum())) < 2:
        raise ValueError(
            f"The original head (init_W, init_b) makes {int(errors.sum())} error(s) on "
            f"{len(errors)} fit rows (X, y); a stack needs at least two errors and two "
            "correct answers for its folds. Fit on more held-out rows."
        )


def _is_frozen(scorer: Any) -> bool:
    return isinstance(scorer, FrozenEstimator)


def _learns_nothing(scorer: Any) -> bool:
    """Tell whether a scorer learns nothing from its fit rows, so that no row is special to it."""
    card = getattr(scorer, "card", None)
    return card is not None and card.learns_nothing


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

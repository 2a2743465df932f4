"""Softmax response corrected by second opinions, with few weights that say what each is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import hypergeom
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy, rows_of, threads_for
from adue_sklearn._utils.folds import stratified
from adue_sklearn._utils.head import BoolArray, FloatArray, IntArray
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.exceptions import WitnessDriftWarning
from adue_sklearn.metrics import error_roc_auc_difference
from adue_sklearn.scorers.learned import fit_scaler
from adue_sklearn.scorers.stacks import Answers, Named, ScoreStack, check_enough
from adue_sklearn.scorers.witness import WitnessScorer
from adue_sklearn.scorers.witnesses import witnesses_of

#: Agreement is compared on at least so many rows, and at this significance.
_FEWEST_ROWS, _SIGNIFICANCE = 50, 0.001
#: Scores of probabilities enter as log-odds, which this keeps finite; a smaller weight is none.
_MARGIN = 1e-12
_REFERENCE = "softmax response"
#: In what share of rows a witness's class is the head's answer, by chance, and of how many rows.
Agreement: TypeAlias = tuple[float, float, int]


@dataclass(eq=False, repr=False)
class SecondOpinionScorer(ScoreStack):
    """Softmax response and other scores with few weights, none of them negative.

    The log-odds of an error are a constant, plus the log-odds by softmax response, plus each
    score, times its weight. Weights are shrunk towards zero, that is towards softmax response.
    Fit it on rows that neither the classifier nor its second opinions were trained on.

    Parameters
    ----------
    estimators : list of (str, estimator), default=None
        Names and scorers, such as witnesses that read views of ``X``. Scores that learn are
        fitted ``cv`` times, and the weights are learned from their out-of-fold scores. None: AdUE
        (for a linear head), :class:`SidekickScorer` if ``X`` has the view ``"sidekick"``, and a
        :class:`CompanionScorer` for every other view of probabilities.
    C : float, default=0.05
        Inverse strength of the penalty on the weights of standardised scores, above 0.
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
        The scorers, fitted on all rows; frozen ones unchanged. Like the next five, not set if
        there were no errors to learn from.
    names_ : list of str
        Their names.
    weights_ : dict of str to float
        Weights of the standardised scores, and of softmax response.
    gains_ : dict of str to tuple of float
        What each score adds to the others: the difference in ROC-AUC without it, and its 95 %
        interval (DeLong, paired), from weights and scores of other folds.
    agreement_ : dict of str to tuple
        For each witness, in what share of the fit rows its class is the head's answer, in what
        share it would be by chance, and how many of the rows have its view.
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
    WitnessDriftWarning
        In ``predict_uncertainty``, also in that of an estimator that holds this one, if a witness
        agrees with the head significantly less than on the fit rows (50 rows or more; Fisher's
        exact test, one in a thousand): it may know less of such rows. See :meth:`adapted_to`.

    Notes
    -----
    AdUE's score, which lies in [0, 1], enters as its log-odds. A row's score does not depend on the
    rows it comes with.

    References
    ----------
    .. [1] Zhou et al., "Asymmetric Duos: Sidekicks Improve Uncertainty", arXiv 2505.18636, 2025.
    .. [2] Breiman, "Stacked regressions", Machine Learning 24, 1996 (non-negative weights).

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import SecondOpinionScorer, Views
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=600)
    >>> logits = (2 * y[:, None] - 1) * [-1.0, 1.0] + rng.normal(size=(600, 2))
    >>> other = 1 / (1 + np.exp(-(4.0 * y - 2) - 2 * rng.normal(size=600)))
    >>> X = Views(logits, companion=np.column_stack([1 - other, other]))
    >>> scorer = SecondOpinionScorer().fit(X, y, np.eye(2))
    >>> max(scorer.gains_, key=scorer.gains_.get)
    'companion'
    """

    card: ClassVar[Card] = Card(
        name="second opinions",
        paper="Zhou et al., Asymmetric Duos: Sidekicks Improve Uncertainty, arXiv 2505.18636, 2025",
        formula="log-odds of an error, linear in log(1 - max p) - log(max p) and scores, with "
        "non-negative weights",
        needs="held-out errors",
        cost="fit cv + 1 times the scorers'; row the scorers'",
    )

    _learned_names = (
        "estimators_",
        "names_",
        "weights_",
        "gains_",
        "agreement_",
        "intercept_",
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimators": [list, None],
        "C": [Interval(Real, 0, None, closed="neither")],
        "cv": [Interval(Integral, 2, None, closed="left")],
        **UncertaintyEstimator._parameter_constraints,
    }

    estimators: list[tuple[str, Any]] | None = None
    _: KW_ONLY
    C: float = 0.05
    cv: int = 5

    def adapted_to(self, X: Any) -> Self:
        """Return a copy that trusts its witnesses less where they agree less with the head.

        The weight of a witness is multiplied by its agreement beyond chance on these rows over
        that on the fit rows, at most one. Labels are not needed. The copy warns of agreement that
        is lower than on these rows. A threshold that was set for the original does not hold for
        the copy.

        Parameters
        ----------
        X : Views of shape (n_samples, n_features)
            Rows like those to be scored, a few hundred at least.

        Returns
        -------
        scorer : SecondOpinionScorer
            A copy; the original stays as it is.
        """
        X = self.check_features(X)
        adapted = copy(self)
        if not self._learned:
            return adapted
        adapted.weights_, adapted.agreement_ = dict(self.weights_), dict(self.agreement_)
        for name, now, then in self._agreements(X):
            beyond, beyond_then = max(0.0, _beyond_chance(now)), _beyond_chance(then)
            if beyond < beyond_then:
                adapted.weights_[name] *= beyond / beyond_then
                adapted.agreement_[name] = now
        return adapted

    def _named(self, X: Features) -> Named:
        named = super()._named(X)
        if _REFERENCE in dict(named):
            raise ValueError(
                f"estimators holds {_REFERENCE!r}, which always has a weight of its own; leave it "
                "out, or give the score another name."
            )
        return named

    def _default_scorers(self, X: Features) -> Named:
        found = opinions_of(
            X,
            linear=self.init_head_.is_linear,
            activation=self.activation,
            device=self.device,
        )
        if not found:
            raise ValueError(
                "X has no view of probabilities, and AdUE needs a linear head, so there is "
                "nothing to combine; pass estimators, or Views with another classifier's "
                "probabilities."
            )
        return found

    def _learn(self, X: Features, labels: IntArray, errors: BoolArray, head: Any) -> None:
        if head.given:
            check_enough(errors)  # for gains, whether or not a scorer learns
        super()._learn(X, labels, errors, head)
        self.agreement_ = self._agreement(X)

    def _weigh(self, answers: Answers, errors: BoolArray) -> None:
        shares = (answers.scores >= 0).all(axis=0) & (answers.scores <= 1).all(axis=0)
        # Other scores may lie there by chance, and leave it in other rows.
        adue = [
            isinstance(_inside(each), AdUEEstimator | AdUESearchCV) for each in self.estimators_
        ]
        self._as_log_odds = shares & np.array(adue)
        columns = self._columns(answers)
        scaler = fit_scaler(columns, "X is, or the scores of it are,")
        self._mean, self._scale = scaler.mean_, scaler.scale_
        columns = scaler.transform(columns)
        self.intercept_, weights = fit_weights(columns, errors, self.C)
        names = [_REFERENCE, *self.names_]
        self.weights_ = dict(zip(names, weights.tolist(), strict=True))
        self.gains_ = self._gains(columns, errors)

    def _gains(self, columns: FloatArray, errors: BoolArray) -> dict[str, tuple[float, ...]]:
        """Return the gain of every score beside the others, by cross-validation of the weights."""
        few = int(min(errors.sum(), (~errors).sum()))
        folds = stratified(errors, max(2, min(self.cv, few)))

        def unseen(kept: Sequence[int]) -> FloatArray:
            scores = np.empty(len(errors))
            for rest, fold in folds:
                intercept, weights = fit_weights(columns[rest][:, kept], errors[rest], self.C)
                scores[fold] = columns[fold][:, kept] @ weights + intercept
            return scores

        everything = list(range(columns.shape[1]))
        whole = unseen(everything)
        return {
            name: tuple(
                map(
                    float,
                    error_roc_auc_difference(
                        errors, whole, unseen([k for k in everything if k != number])
                    ),
                )
            )
            for number, name in enumerate(self.names_, start=1)
        }

    def _columns(self, answers: Answers) -> FloatArray:
        """Return softmax response's log-odds of an error and the scores (n, 1 + S)."""
        scores = answers.scores.copy()
        shares = scores[:, self._as_log_odds].clip(_MARGIN, 1.0 - _MARGIN)
        scores[:, self._as_log_odds] = np.log(shares) - np.log1p(-shares)
        return np.column_stack([answers.log_odds, scores])

    def _log_odds(self, answers: Answers) -> FloatArray:
        columns = (self._columns(answers) - self._mean) / self._scale
        return columns @ np.array(list(self.weights_.values())) + self.intercept_

    def _apply(self, X: Features) -> Tensor:
        self._warn_of_drift(X)
        return super()._apply(X)

    def _warn_of_drift(self, X: Features) -> None:
        for name, now, then in self._agreements(X):
            share, _, n_rows = now
            if n_rows < _FEWEST_ROWS or self.weights_[name] < _MARGIN:
                continue
            agreed, agreed_then = round(share * n_rows), round(then[0] * then[2])
            p_value = hypergeom.cdf(agreed, n_rows + then[2], agreed + agreed_then, n_rows)
            if p_value < _SIGNIFICANCE:
                warn(
                    f"{name} agrees with the original head in {share:.1%} of {n_rows} rows, but "
                    f"in {then[0]:.1%} of the fit rows. These rows seem to be of another kind, "
                    "on which the second opinion may mislead. Compare on labelled rows like "
                    "these, or use adapted_to(X), which lowers its weight.",
                    WitnessDriftWarning,
                )

    def _agreements(self, X: Features) -> Iterator[tuple[str, Agreement, Agreement]]:
        """Yield each witness's agreement on these rows and on the fit rows, if there are both."""
        for name, now in self._agreement(X).items():
            if name in self.agreement_:
                yield name, now, self.agreement_[name]

    def _agreement(self, X: Features) -> dict[str, Agreement]:
        """Return how often each witness says what the head says, by chance, and in how many."""
        answers = as_numpy(self.original_logits(X).argmax(dim=1))
        n_classes = len(self.classes_)
        found = {}
        for name, scorer in zip(self.names_, map(_inside, self.estimators_), strict=True):
            if not isinstance(scorer, WitnessScorer) or not scorer.has_view_:
                continue
            known = np.flatnonzero(~scorer.lacks_view(X))
            if len(known) == 0:
                continue
            theirs = scorer.answers(rows_of(X, known))
            shares = [
                np.bincount(part, minlength=n_classes) / len(known)
                for part in (answers[known], theirs)
            ]
            agreed = float(np.mean(theirs == answers[known]))
            found[name] = agreed, float(shares[0] @ shares[1]), len(known)
        return found


def _inside(scorer: Any) -> Any:
    """Return a scorer without its ``FrozenEstimator``."""
    return scorer.estimator if isinstance(scorer, FrozenEstimator) else scorer


def _beyond_chance(agreement: Agreement) -> float:
    """Return Cohen's kappa; 1 where both give all rows the same class."""
    share, chance, _ = agreement
    return (share - chance) / (1.0 - chance) if chance < 1.0 else 1.0


def opinions_of(
    X: Features,
    *,
    linear: bool,
    with_probes: bool = False,
    activation: str | None = None,
    device: str = "auto",
) -> Named:
    """Return AdUE for a linear head, and a witness for every view.

    Witnesses that need a label probe, which is not fitted here, only ``with_probes``.
    """
    found: Named = [("AdUE", AdUEEstimator(device=device))] if linear else []
    if isinstance(X, Views):
        witnesses = witnesses_of(X, activation=activation, device=device)
        for name, scorer in witnesses:
            if with_probes or not scorer.lacks_probe(X):
                taken = name in (_REFERENCE, *dict(found))
                found.append((f"view {name}" if taken else name, scorer))
    return found


def fit_weights(columns: FloatArray, errors: BoolArray, C: float) -> tuple[float, FloatArray]:
    """Return constant and non-negative weights of a logistic regression on standardised columns.

    The penalty ``sum(w ** 2) / (2 C)`` spares the first column, softmax response.

    Parameters
    ----------
    columns : ndarray of shape (n, k)
        Softmax response first.
    errors : ndarray of bool of shape (n,)
        What to predict.
    C : float
        Inverse strength of the penalty.

    Examples
    --------
    >>> import numpy as np
    >>> columns = np.array([[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    >>> _, weights = fit_weights(columns, np.array([False, False, False, True]), C=1.0)
    >>> weights.round(2).tolist()
    [3.52, 0.0]
    """
    penalty = np.full(columns.shape[1], 1.0 / C)
    penalty[0] = 1e-3  # keeps the weight finite where the rows can be separated

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        weights = values[1:]
        odds = columns @ weights + values[0]
        total = np.logaddexp(0.0, odds).sum() - odds[errors].sum()
        residual = expit(odds) - errors
        gradient = np.concatenate([[residual.sum()], columns.T @ residual + penalty * weights])
        return float(total + 0.5 * (penalty * weights**2).sum()), gradient

    bounds = [(None, None)] + [(0.0, None)] * columns.shape[1]
    start = np.zeros(1 + columns.shape[1])
    with threads_for(columns.size):
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-10)
    return float(found.x[0]), found.x[1:]

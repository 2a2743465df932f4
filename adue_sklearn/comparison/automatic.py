"""The score that is expected to gain most over softmax response, at a small risk of a loss."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy
from adue_sklearn._utils.head import Head, IntArray
from adue_sklearn._utils.labels import as_row_numbers
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views
from adue_sklearn.adue import AdUEEstimator
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.comparison.arguments import Named, check_scorers, without_shared
from adue_sklearn.comparison.compare import (
    Judge,
    Run,
    reference_alone,
)
from adue_sklearn.comparison.prior import RISK, choose_among
from adue_sklearn.comparison.result import FEW_ERRORS, REFERENCE, Comparison, holm
from adue_sklearn.exceptions import MissingViewWarning
from adue_sklearn.metrics import error_roc_auc_score
from adue_sklearn.scorers import (
    EnergyScorer,
    EntropyScorer,
    MaxLogitPNormScorer,
    SecondOpinionScorer,
    SoftmaxResponseScorer,
    StackedScorer,
)
from adue_sklearn.scorers._errors import can_learn
from adue_sklearn.scorers.opinions import opinions_of
from adue_sklearn.scorers.stacks import default_scores

__all__ = ["AutoScorer"]


@dataclass(eq=False, repr=False)
class AutoScorer(UncertaintyEstimator):
    """The candidate that is expected to find errors best, or softmax response.

    The candidates are compared by nested cross-validation: they choose settings and learn only
    on the other folds. Each gain over softmax response is shrunk towards what scores of its kind
    gained on measured data sets, the more so the less certain it is. The candidate with the
    largest expected gain is fitted on all rows; softmax response stays if none is expected to
    gain, or if the risk is too high. Fit on rows that the classifier was not trained on.

    Parameters
    ----------
    estimators : list of (str, estimator), default=None
        Candidates besides softmax response. None: AdUE; a stack; entropy; energy;
        MaxLogit-pNorm; if ``X`` has second views, a :class:`SecondOpinionScorer`. AdUE is not
        tuned: over ten data sets a search gained no more than its defaults.
    frozen : list of (str, estimator), default=None
        More candidates: scores that describe the classifier's training rows, already fitted on
        those, each in scikit-learn's ``FrozenEstimator``. With the default ``estimators`` they
        also enter the stack, beside its own scores. ``fit`` leaves out rows that were used to fit
        a frozen score loaded by ``load_head``.
    witnesses : list of (str, estimator), default=None
        More second opinions for the default candidate that combines them, such as a
        :class:`LayerProbeScorer` after ``fit_witness``. One with the name of a view replaces what
        would be made of that view. Not used with ``estimators``.
    risk : float in (0, 1], default=0.05
        Largest chance that the chosen score is significantly worse than softmax response on as
        many fresh rows (one-sided, at 5 %).
    significance : float in (0, 1), default=None
        If given, the rule is another one: the candidate with the largest gain among those that
        are significantly better (p-values at most this), and softmax response if there is none.
    cv : int, default=5
        Number of folds, stratified on the original head's errors; fewer where there are fewer
        errors.
    random_state : int, default=0
        Seed of the folds.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers and
        the default candidates. Other candidates have their own.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``. The same goes.

    Attributes
    ----------
    selected_ : str
        Name of the chosen candidate, or ``"softmax response"``.
    estimator_ : uncertainty estimator
        The chosen one, fitted on all rows, or the frozen one.
    comparison_ : Comparison
        Candidates side by side, on rows that they were not fitted on.
    expected_gains_ : dict of str to tuple of float
        Expected gain in ROC-AUC over softmax response and its standard deviation, of the same
        candidates as ``p_values_``.
    chances_of_loss_ : dict of str to float
        Their chances of being significantly worse than softmax response.
    p_values_ : dict of str to float
        One-sided p-values of the candidates after Holm's adjustment, except those that failed or
        rank rows as softmax response does.
    n_errors_ : int
        Errors of the original head on the fit rows that were not left out.
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
        In ``fit`` with ``init_W``, if the head makes no errors or only errors on the fit rows; if
        fewer than two rows remain that were not used to fit a frozen score.

    Warns
    -----
    UserWarning
        If rows that were used to fit a frozen score are left out. If, without ``init_W``, there
        are no errors or only errors, or if there are fewer than 20 errors or correct answers:
        softmax response is kept then. If a candidate fails; the others are compared.
    MissingViewWarning
        If there are ``witnesses``, but ``X`` has no views.
    MissingClassesWarning, ClassSharesWarning, LabelOrderWarning
        If the rows lack classes of a given head, hold one far less often than the head predicts
        it, or have labels in another order. No conclusion is drawn from such rows, and softmax
        response is kept.

    Notes
    -----
    A measured gain with DeLong's standard error and the kind's mean and deviation over data sets
    (:mod:`adue_sklearn.comparison.prior`) are combined as normal variables: empirical Bayes
    [3]_. A candidate of an unknown kind is shrunk towards no gain. Gains and errors of
    cross-validation ignore the variance due to the fit rows, which the fits share.

    P-values are DeLong's, paired and one-sided, adjusted for the number of candidates by Holm's
    method.

    References
    ----------
    .. [1] DeLong et al., "Comparing the areas under two or more correlated receiver operating
       characteristic curves", Biometrics 44, 1988.
    .. [2] Varma and Simon, "Bias in error estimation when using cross-validation for model
       selection", BMC Bioinformatics 7, 2006.
    .. [3] Efron and Morris, "Data analysis using Stein's estimator and its generalizations",
       Journal of the American Statistical Association 70, 1975.

    Examples
    --------
    >>> from adue_sklearn import AutoScorer, EnergyScorer, StackedScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> auto = AutoScorer([("energy", EnergyScorer()), ("stack", StackedScorer())])
    >>> auto = auto.fit(*data.calibration, data.init_W, data.init_b)
    >>> auto.selected_
    'stack'
    >>> auto.chances_of_loss_["stack"] < 0.05
    True
    """

    card: ClassVar[Card] = Card(
        name="automatic choice",
        paper="Varma & Simon, Bias in error estimation when using cross-validation for model "
        "selection, BMC Bioinformatics 7, 2006",
        formula="the candidate with the largest expected gain over 1 - max p, else 1 - max p",
        needs="held-out errors",
        cost="fit cv + 1 times the candidates'; row as the chosen one",
    )
    reads_views: ClassVar[bool] = True

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimators": [list, None],
        "frozen": [list, None],
        "witnesses": [list, None],
        "risk": [Interval(Real, 0, 1, closed="right")],
        "significance": [Interval(Real, 0, 1, closed="neither"), None],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
        **UncertaintyEstimator._parameter_constraints,
    }

    estimators: list[tuple[str, Any]] | None = None
    _: KW_ONLY
    frozen: list[tuple[str, Any]] | None = None
    witnesses: list[tuple[str, Any]] | None = None
    risk: float = RISK
    significance: float | None = None
    cv: int = 5
    random_state: int = 0

    def _fit(self, X: Features, labels: IntArray, head: Head) -> None:
        candidates = self._candidates(X, linear=head.is_linear)
        if not head.given and any(isinstance(scorer, FrozenEstimator) for _, scorer in candidates):
            raise ValueError(
                "init_W is None, but a frozen candidate needs the head that it was fitted with. "
                "Pass that head as init_W and init_b."
            )
        rows = FitRows(X, self.classes_[labels], head if head.given else None)
        rows = without_shared(rows, "X", {}, candidates)
        X, labels = rows.X, as_row_numbers(rows.y, self.classes_, named=True)
        errors = self._original_errors(X, labels, head)
        self.n_errors_ = int(errors.sum())
        response = SoftmaxResponseScorer(activation=self.activation, device=self.device)
        judge = Judge(errors, {"roc_auc": error_roc_auc_score}, 0.95, 1, 0)
        self.selected_ = REFERENCE
        self.p_values_: dict[str, float] = {}
        self.expected_gains_: dict[str, tuple[float, float]] = {}
        self.chances_of_loss_: dict[str, float] = {}
        self.estimator_ = rows.fit(response)
        if not can_learn(errors, head, instead="softmax response") or self._too_few(errors):
            scores = as_numpy(self.estimator_.predict_uncertainty(X))
            self.comparison_: Comparison = reference_alone(scores, judge)
            return
        run = Run(rows, None, None, response, cv=self.cv, random_state=self.random_state)
        judge.errors = run.errors
        self.comparison_ = run.compare(candidates, judge)
        self._choose(candidates)
        self._tell_of_failures()
        if self.selected_ != REFERENCE:
            self.estimator_ = run.fit(dict(candidates)[self.selected_])

    def _choose(self, candidates: Named) -> None:
        """Set ``selected_`` and what decides it."""
        tested = {r.name: r.gain for r in self.comparison_.results if not math.isnan(r.p_adjusted)}
        choice = choose_among(self.comparison_, candidates, self.risk)
        self.chances_of_loss_ = choice.chances
        self.expected_gains_ = {
            name: (gain.value, gain.error) for name, gain in choice.expected.items()
        }
        one_sided = [
            gain.p_value / 2 if gain.value > 0 else 1.0 - gain.p_value / 2
            for gain in tested.values()
        ]
        self.p_values_ = dict(zip(tested, holm(one_sided), strict=True))
        if self.significance is None:
            self.selected_ = choice.name or REFERENCE
            return
        better = [name for name, p in self.p_values_.items() if p <= self.significance]
        if better and self.comparison_.can_tell and not self.comparison_.reservations:
            self.selected_ = max(better, key=lambda name: tested[name].value)

    def _candidates(self, X: Features, *, linear: bool) -> Named:
        frozen = [] if self.frozen is None else check_scorers(self.frozen, "frozen")
        for name, scorer in frozen:
            if not isinstance(scorer, FrozenEstimator):
                raise TypeError(
                    f"frozen holds {scorer!r} as {name!r}; expected a fitted score in "
                    "scikit-learn's FrozenEstimator. Put unfitted scores in estimators."
                )
        if self.estimators is None:
            own = self._defaults(X, frozen, linear=linear)
        else:
            own = check_scorers(self.estimators, "estimators")
        for name, scorer in [*own, *frozen]:
            inner = scorer.estimator if isinstance(scorer, FrozenEstimator) else scorer
            if not isinstance(inner, UncertaintyEstimator):
                raise TypeError(
                    f"estimators holds {scorer!r} as {name!r}; expected an uncertainty estimator "
                    "of this package."
                )
            if name == REFERENCE or (name in dict(own) and name in dict(frozen)):
                raise ValueError(
                    f"estimators and frozen: two candidates are named {name!r} (softmax response "
                    "is always a candidate); use different names."
                )
        return [*own, *frozen]

    def _defaults(self, X: Features, frozen: Named, *, linear: bool) -> Named:
        common: dict[str, Any] = {"activation": self.activation, "device": self.device}
        scores: Named = [
            ("entropy", EntropyScorer(**common)),
            ("energy", EnergyScorer(**common)),
            ("MaxLogit-pNorm", MaxLogitPNormScorer(**common)),
        ]
        stack = StackedScorer(**common)
        if frozen:
            stack = StackedScorer([*default_scores(**common), *frozen], **common)
        witnesses = [] if self.witnesses is None else check_scorers(self.witnesses, "witnesses")
        if witnesses and not isinstance(X, Views):
            warn(
                "AutoScorer: X has no views, so witnesses have nothing to say; fit on "
                "Views(features, NAME=block).",
                MissingViewWarning,
            )
        elif isinstance(X, Views) and (X.names or witnesses):
            own = opinions_of(X, linear=linear, **common)
            own = [(name, scorer) for name, scorer in own if name not in dict(witnesses)]
            witnesses = [*own, *witnesses]
            scores.insert(0, ("second opinions", SecondOpinionScorer(witnesses, **common)))
        return [("AdUE", AdUEEstimator(**common)), ("stack", stack), *scores]

    def _too_few(self, errors: Any) -> bool:
        n_errors = int(errors.sum())
        few = min(n_errors, len(errors) - n_errors)
        if few >= FEW_ERRORS:
            return False
        kind = "errors" if few == n_errors else "correct answers"
        warn(
            f"The original head gives {few} {kind} on {len(errors)} fit rows. Fewer than "
            f"{FEW_ERRORS} are too few to compare scores, so the uncertainty is softmax response."
        )
        return True

    def _tell_of_failures(self) -> None:
        failed = [f"{r.name} ({r.failure})" for r in self.comparison_.results if r.failure]
        if failed:
            warn(f"Not compared because they failed: {'; '.join(failed)}.")

    def _uncertainty(self, X: Features) -> Tensor:
        return self.estimator_.uncertainty_of(X)

"""Which score finds the errors best, and whether anything beats softmax response at all.

Every score is judged on rows that it has not seen. A score that learns from rows is fitted on all
folds but one and scores the remaining one. Fits on different folds need not share a scale (a search
may choose other settings each time), so each score is replaced by its rank among the scores that
the same fit gives to *all* rows. This preserves the order within a fold, makes folds comparable,
and equals the plain rank wherever the fits agree. All folds are then measured as one sample, with
the intervals of :mod:`adue_sklearn.metrics`. These hold for the fitted scores: they ignore the
variance due to the fit rows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_scalar

from adue_sklearn import scorers as _scorers
from adue_sklearn._utils.arrays import Features, as_numpy
from adue_sklearn._utils.fit_rows import Doubt
from adue_sklearn._utils.head import BoolArray, FloatArray, IntArray, out_of_fold_predictions
from adue_sklearn._utils.labels import as_row_numbers
from adue_sklearn._utils.validation import naming, warn
from adue_sklearn._utils.views import Views, main_of
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.comparison.arguments import (
    Named,
    check_folds,
    check_metrics,
    check_other_rows,
    check_rows,
    check_scorers,
    head_of_frozen,
    is_named,
    without_shared,
)
from adue_sklearn.comparison.result import (
    ALIKE,
    REFERENCE,
    Comparison,
    ScoreResult,
    with_adjusted,
)
from adue_sklearn.exceptions import ClassSharesWarning, LabelOrderWarning
from adue_sklearn.metrics import (
    Difference,
    Estimate,
    bootstrap_replicates,
    error_roc_auc_difference,
    error_roc_auc_interval,
    error_roc_auc_p_value,
    error_roc_auc_score,
)
from adue_sklearn.metrics._arguments import check_share
from adue_sklearn.metrics._bootstrap import percentiles, two_sided_p_value
from adue_sklearn.model_selection import fit_rows_look_memorised
from adue_sklearn.scorers import (
    HUQScorer,
    MahalanobisScorer,
    SecondOpinionScorer,
    SoftmaxResponseScorer,
)
from adue_sklearn.scorers.opinions import opinions_of
from adue_sklearn.scorers.witness import WitnessScorer
from adue_sklearn.scorers.witnesses import witnesses_of
from adue_sklearn.scorers.wrapping import belongs_to

__all__ = ["Comparison", "ScoreResult", "compare_scorers", "default_scorers"]


def default_scorers(
    views: Views | None = None,
    *,
    with_train: bool = False,
    activation: str | None = None,
    device: str = "auto",
    random_state: Any = 0,
) -> Named:
    """Return every public score with its default settings, by the name on its card.

    Parameters
    ----------
    views : Views, default=None
        The rows to compare on, if they have second views: a witness for each of them is added,
        by the view's name, and a :class:`SecondOpinionScorer`.
    with_train : bool, default=False
        Whether there are rows that the classifier was trained on, to fit label probes on.
    activation : {"tanh", "gelu", "relu"}, default=None
        What a head of several layers applies between them. AdUE is then not tuned: its search
        supports only linear heads.
    device : str, default="auto"
        Where they compute.
    random_state : int, RandomState instance or None, default=0
        Seed of the scorers that use randomness.

    Returns
    -------
    list of (str, estimator)
        Unfitted.

    Examples
    --------
    >>> from adue_sklearn.comparison.compare import default_scorers
    >>> [name for name, _ in default_scorers()][:3]
    ['softmax response', 'AdUE', 'tuned AdUE']
    """
    if views is not None and not isinstance(views, Views):
        raise TypeError(f"views is a {type(views).__name__}; expected Views, or None.")
    kinds: list[Any] = [SoftmaxResponseScorer, AdUEEstimator]
    if activation is None:
        kinds.append(AdUESearchCV)
    kinds += [getattr(_scorers, name) for name in _scorers.__all__]
    named: Named = []
    for kind in dict.fromkeys(kinds):
        if not issubclass(kind, UncertaintyEstimator) or issubclass(kind, WitnessScorer):
            continue  # a text classifier; witnesses have one scorer for every view
        options: dict[str, Any] = {"activation": activation, "device": device}
        if "random_state" in signature(kind).parameters:
            options["random_state"] = random_state
        if kind is SecondOpinionScorer:
            if views is None:
                continue
            options["estimators"] = (
                opinions_of(
                    views,
                    linear=activation is None,
                    with_probes=with_train,
                    activation=activation,
                    device=device,
                )
                or None
            )  # nothing to combine: fit says what is missing
        named.append((kind.card.name, kind(**options)))
    if views is not None:
        known = dict(named)
        for name, scorer in witnesses_of(views, activation=activation, device=device):
            if with_train or not scorer.lacks_probe(views):
                named.append((f"view {name}" if name in known else name, scorer))
    return named


def compare_scorers(
    X: Any,
    y: Any,
    init_W: Any = None,
    init_b: Any = None,
    *,
    classes: Any = None,
    scorers: Any = None,
    X_train: Any = None,
    y_train: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    cv: Any = 5,
    metrics: Mapping[str, Callable[[Any, Any], float]] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    random_state: int = 0,
    activation: str | None = None,
    device: str = "auto",
) -> Comparison:
    """Compare scores with softmax response on rows that none of them was fitted on.

    Parameters
    ----------
    X : array-like or torch.Tensor of shape (n_samples, n_features)
        Features of rows that the classifier was not trained on: the input of the head's last
        linear layer.
    y : array-like of shape (n_samples,)
        True labels, as in an estimator's ``fit``.
    init_W, init_b : array-like, or list of them, default=None
        The frozen original head. None: that of a frozen scorer, or else a multinomial logistic
        regression fitted anew in every fold.
    classes : array-like of shape (n_classes,), default=None
        The labels in the order of the head's rows.
    scorers : list, list of (str, estimator) or dict, default=None
        What to compare, by default :func:`default_scorers`. Softmax response is always included.
        A fitted scorer, in scikit-learn's ``FrozenEstimator``, must not have seen the rows that it
        is judged on; rows that were used to fit a loaded head are left out. A scikit-learn search
        over a scorer also works.
    X_train, y_train : array-like, default=None
        Rows that the classifier *was* trained on; rows of ``X`` and ``X_test`` that are also here
        are left out. Scores that describe such rows (``card.needs == "training rows"``), alone or
        as parts of others, are fitted on these, once; without them, on the folds.
    X_test, y_test : array-like, default=None
        Rows to judge on, used once: everything is then fitted on ``X, y`` (or the training
        rows), and there are no folds. Rows that are also in ``X`` are left out.
    cv : int, cross-validation generator or iterable of (train, test), default=5
        A number of folds, stratified on the original head's errors, with copies of a row in the
        same fold; or a scikit-learn splitter. Every row must be in exactly one test part.
    metrics : dict of str to callable, default=None
        ``metric(errors, uncertainty) -> float``, measured in addition to the ROC-AUC, which is
        ``"roc_auc"``. By default ``"aurc"``, ``"eaurc"``, ``"average_precision"``, ``"fpr95"``.
    confidence : float in (0, 1), default=0.95
        Coverage of the intervals: DeLong's for the ROC-AUC, by bootstrap for others.
    n_resamples : int, default=1000
        Number of bootstrap resamples.
    random_state : int, default=0
        Seed of folds, bootstrap and the default scorers.
    activation : {"tanh", "gelu", "relu"}, default=None
        What a head of several layers applies between them.
    device : str, default="auto"
        Where softmax response and the default scorers compute.

    Returns
    -------
    Comparison
        A row for each scorer, and the verdict in words. If a scorer fails, its row holds the
        error message and the others are still compared.

    Raises
    ------
    ValueError, TypeError
        If features, labels, head or options do not fit together, if ``scorers`` holds something
        that is not a scorer, or if no rows remain that were not used for training or fitting.

    Warns
    -----
    UserWarning
        If the head makes so many fewer errors on ``X, y`` than on ``X_test, y_test`` that the
        classifier was probably trained on the former; if rows are left out.
    LabelOrderWarning, MissingClassesWarning, ClassSharesWarning
        If labels are in another order than the head's rows, or if rows lack classes or hold one
        far less often than the head predicts it. If this concerns the rows that are judged, no
        conclusion is drawn (:attr:`Comparison.reservations`).

    Notes
    -----
    Differences from softmax response are paired. Their p-values (DeLong, two-sided) are adjusted
    for the number of scores by Holm's method; scores that rank all rows as softmax response does
    (with two classes: entropy, margin and others) do not count. With fewer than 20 errors or
    correct answers, no conclusion is drawn.

    References
    ----------
    .. [1] DeLong et al., "Comparing the areas under two or more correlated receiver operating
       characteristic curves", Biometrics 44, 1988.
    .. [2] Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
       of Statistics 6, 1979.

    Examples
    --------
    >>> from adue_sklearn import EntropyScorer, LinearProbeScorer
    >>> from adue_sklearn.comparison.compare import compare_scorers
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> found = compare_scorers(
    ...     *data.calibration, data.init_W, data.init_b,
    ...     scorers=[EntropyScorer(), LinearProbeScorer(C=0.001)],
    ... )
    >>> found["entropy"].note
    'ranks as softmax response'
    >>> found.winners
    ()
    """
    check_share(confidence, "confidence", "neither")
    check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
    check_scalar(random_state, "random_state", Integral, min_val=0, max_val=2**32 - 1)
    named = check_scorers(
        default_scorers(
            X if isinstance(X, Views) else None,
            with_train=X_train is not None,
            activation=activation,
            device=device,
            random_state=random_state,
        )
        if scorers is None
        else scorers
    )
    if init_W is None and init_b is None and classes is None:
        init_W = head_of_frozen(named)
    response = SoftmaxResponseScorer(activation=activation, device=device)
    rows = check_rows(response, X, y, init_W, init_b, classes)
    train = check_other_rows("X_train", X_train, "y_train", y_train, rows)
    test = check_other_rows("X_test", X_test, "y_test", y_test, rows)
    run = Run(rows, train, test, response, cv=cv, random_state=random_state, scorers=named)
    return run.judged(named, check_metrics(metrics), confidence, n_resamples, random_state)


def _warn_of_memorised_rows(run: Run) -> None:
    """Warn if what the scores are fitted on looks as if the classifier was trained on it."""
    if run.test is None:
        return
    errors = run.fitted_response.errors(run.rows.X, run.rows.y)
    few, many = (int(errors.sum()), len(errors)), (int(run.errors.sum()), len(run.errors))
    if fit_rows_look_memorised(few, many):
        warn(
            f"X, y: the head is wrong on {few[0] / few[1]:.1%} of these rows, but on "
            f"{many[0] / many[1]:.1%} of X_test. The classifier was probably trained on X; pass "
            "rows that it has not seen."
        )


class Scored(NamedTuple):
    """A scorer's uncertainties of the rows to judge, its times, and what went wrong."""

    uncertainty: FloatArray | None
    fitted_on: str
    fit_seconds: float
    score_seconds: float
    failure: str
    warnings: tuple[str, ...]


class Run:
    """Rows to fit on, rows to judge, and scores of the latter by fits that have not seen them.

    Parameters
    ----------
    rows : FitRows
        Rows that the classifier has not seen.
    train, test : FitRows or None
        Rows it was trained on; rows to judge, if not by folds.
    response : SoftmaxResponseScorer
        The reference, unfitted.
    cv, random_state
        As in :func:`compare_scorers`.
    scorers : list of (str, estimator), default=None
        Rows that frozen ones of these were fitted on are not judged.
    """

    def __init__(
        self,
        rows: FitRows,
        train: FitRows | None,
        test: FitRows | None,
        response: SoftmaxResponseScorer,
        *,
        cv: Any,
        random_state: int,
        scorers: Named | None = None,
    ) -> None:
        self.rows, self.train, self.test, self.response = rows, train, test, response
        self.head_given = rows.head is not None
        # This names what is wrong with rows and head, for all scorers.
        self.fitted_response: SoftmaxResponseScorer = rows.fit(response)
        if train is not None:
            with naming("y_train"):
                as_row_numbers(train.y, self.fitted_response.classes_, named=True)
        if test is not None:
            with naming("y_test"):
                self.fitted_response.errors(test.X, test.y)  # raises for unknown labels
            self.test = without_shared(test, "X_test", {"X": rows, "X_train": train}, scorers)
            self.rows = without_shared(rows, "X", {"X_train": train})
        else:
            self.rows = without_shared(rows, "X", {"X_train": train}, scorers, cv=cv)
        self.doubts, self.reservations = self._doubts() if self.head_given else ([], ())
        self.errors: BoolArray
        self.folds: list[tuple[IntArray, IntArray]] = []
        if self.test is None:
            self.errors, self.folds = self._folds(cv, random_state)
        else:
            self.errors = self.fitted_response.errors(self.test.X, self.test.y)

    def judged(
        self,
        named: Named,
        metrics: Mapping[str, Callable[[Any, Any], float]],
        confidence: float = 0.95,
        n_resamples: int = 1000,
        random_state: int = 0,
    ) -> Comparison:
        """Return all scores side by side, by ROC-AUC and other metrics; warn of the rows."""
        for doubt in self.doubts:
            doubt.warn()
        if self.head_given:
            _warn_of_memorised_rows(self)
        measured = {"roc_auc": error_roc_auc_score, **metrics}
        judge = Judge(self.errors, measured, confidence, n_resamples, random_state)
        return self.compare(named, judge)

    def compare(self, named: Named, judge: Judge) -> Comparison:
        """Return all scores side by side."""
        kept = [(REFERENCE, self.response)]
        kept += [(name, scorer) for name, scorer in named if name != REFERENCE]
        scored = {name: self.score(scorer) for name, scorer in kept}
        reference = scored[REFERENCE].uncertainty
        if reference is None:
            raise ValueError(f"X, y: {REFERENCE} failed: {scored[REFERENCE].failure}")
        results = [judge.result(name, found, reference) for name, found in scored.items()]
        known = {
            name: found.uncertainty
            for name, found in scored.items()
            if found.uncertainty is not None
        }
        return Comparison(
            with_adjusted(results, judge.confidence),
            self.errors,
            known,
            "cross-validation" if self.test is None else "test rows",
            judge.confidence,
            self.reservations,
        )

    def _doubts(self) -> tuple[list[Doubt], tuple[str, ...]]:
        """Return what is wrong with the rows, and why those judged allow no conclusion.

        A score learned from rows that lack classes may be judged on rows that do not.
        """
        found = []
        for rows, name in ((self.rows, "y"), (self.test, "y_test")):
            if rows is not None:
                labels = as_row_numbers(rows.y, self.fitted_response.classes_, named=True)
                found.append(self.fitted_response.doubts(rows.X, labels, learned=True, name=name))
        fitted, judged = found[0], found[-1]
        if self.test is not None:
            fitted = [doubt for doubt in fitted if doubt.category is LabelOrderWarning]
            # Users choose test rows with the class shares that they want the answer for.
            judged = [doubt for doubt in judged if doubt.category is not ClassSharesWarning]
        counted = dict.fromkeys([*fitted, *judged])
        reservations = tuple(doubt.reservation for doubt in counted if doubt.reservation)
        return list(dict.fromkeys([*found[0], *judged])), reservations

    def score(self, scorer: Any) -> Scored:
        """Return a scorer's view of the rows to judge; what it raises is noted."""
        clock = _Clock()
        uncertainty, failure, fitted_on = None, "", ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            try:
                uncertainty, fitted_on = self._unseen(scorer, clock)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
        said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return Scored(uncertainty, fitted_on, clock.fit, clock.score, failure, said)

    def fit(self, scorer: Any) -> Any:
        """Return the scorer fitted on all the rows that it may see; a frozen one as it is."""
        if isinstance(scorer, FrozenEstimator):
            self._check_head(scorer.estimator)
            return scorer.estimator
        if self.train is not None and needs(scorer) == "training rows":
            return self.train.fit(scorer)
        return self.rows.fit(self.with_frozen_parts(scorer))

    def with_frozen_parts(self, scorer: Any) -> Any:
        """Return the scorer with what describes training rows inside it fitted on them."""
        if self.train is None or isinstance(scorer, FrozenEstimator):
            return scorer
        if isinstance(scorer, WitnessScorer):
            return self._taught(scorer)
        if needs(scorer) == "training rows":
            return FrozenEstimator(self.train.fit(scorer))
        changed = {}
        for name, value in scorer.get_params(deep=False).items():
            if isinstance(value, UncertaintyEstimator):
                changed[name] = self.with_frozen_parts(value)
            elif isinstance(value, list) and all(map(is_named, value)):
                changed[name] = [(part, self.with_frozen_parts(inner)) for part, inner in value]
        if isinstance(scorer, HUQScorer) and scorer.epistemic is None:
            distance = MahalanobisScorer(activation=scorer.activation, device=scorer.device)
            changed["epistemic"] = self.with_frozen_parts(distance)
        return clone(scorer).set_params(**changed) if changed else scorer

    def _taught(self, scorer: WitnessScorer) -> WitnessScorer:
        """Return a witness with its label probes fitted on the training rows, if it lacks any."""
        if self.train is None or not isinstance(self.train.X, Views):
            return scorer
        wanted = scorer.view_names(self.train.X)
        there = bool(wanted) and set(wanted) <= set(self.train.X.names)
        if not there or not scorer.lacks_probe(self.train.X):
            return scorer
        head = self.fitted_response.init_head_
        return clone(scorer).fit_witness(self.train.X, self.train.y, classes=head.classes)

    def _unseen(self, scorer: Any, clock: _Clock) -> tuple[FloatArray, str]:
        once = self._fitted_once(scorer)
        if once:
            with clock.running("fit"):
                fitted = self.fit(scorer)
            judged = self.rows if self.test is None else self.test
            with clock.running("score"):
                return predicted_uncertainty(fitted, judged.X), once
        with clock.running("fit"):
            scorer = self.with_frozen_parts(scorer)
        uncertainty = np.full(len(self.errors), np.nan)
        for rest, fold in self.folds:
            with clock.running("fit"):
                fitted = self.rows.part(rest).fit(scorer)
            with clock.running("score"):
                every = predicted_uncertainty(fitted, self.rows.X)
                uncertainty[fold] = (rankdata(every)[fold] - 0.5) / len(every)
        return uncertainty, "other folds"

    def _fitted_once(self, scorer: Any) -> str:
        """Return on what a scorer is fitted that needs no folds, empty if it needs them."""
        if isinstance(scorer, FrozenEstimator):
            return "frozen"
        if self.head_given and needs(scorer) in ("head", "second view"):
            return "nothing"
        if self.train is not None and needs(scorer) == "training rows":
            return "training rows"
        return "given rows" if self.test is not None else ""

    def _check_head(self, fitted: Any) -> None:
        """Raise unless a frozen scorer belongs to the head."""
        head = self.rows.head
        if head is None or not isinstance(fitted, UncertaintyEstimator):
            return
        if not belongs_to(fitted, head, named=head.names_labels):
            raise ValueError(
                "the frozen scorer was fitted with a head other than init_W, init_b; fit it on "
                "this one."
            )

    def _folds(
        self, cv: Any, random_state: int
    ) -> tuple[BoolArray, list[tuple[IntArray, IntArray]]]:
        """Return errors of the rows and folds; without a head each fold has one of its own."""
        X, y = self.rows.X, self.rows.y
        if self.head_given:
            errors = self.fitted_response.errors(X, y)
            return errors, check_folds(cv, self.rows, errors, random_state)
        labels = np.unique(y, return_inverse=True)[1]
        guess = out_of_fold_predictions(as_numpy(X), labels) != labels
        folds = check_folds(cv, self.rows, guess, random_state)
        errors = np.zeros(len(y), dtype=bool)
        for rest, fold in folds:
            part = self.rows.part(rest).fit(self.response)
            errors[fold] = part.errors(X[fold], y[fold])
        return errors, folds


@dataclass(eq=False)
class Judge:
    """What is measured of every score, on resamples that are the same for all."""

    errors: BoolArray
    metrics: Mapping[str, Callable[[Any, Any], float]]
    confidence: float
    n_resamples: int
    random_state: int
    _of_reference: tuple[dict[str, float], dict[str, FloatArray]] | None = field(
        default=None, init=False
    )

    def result(self, name: str, scored: Scored, reference: FloatArray) -> ScoreResult:
        """Return the row of one score; the reference itself has to come first."""
        facts = scored._asdict()
        del facts["uncertainty"]
        row = ScoreResult(name, metrics={}, differences={}, **facts)
        if scored.uncertainty is None:
            return row
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # the verdict says it
            metrics, differences = self._measure(scored.uncertainty, reference)
        if name == REFERENCE:
            return replace(row, metrics=metrics)
        if rank_alike(scored.uncertainty, reference):
            differences = {metric: Difference(0.0, 0.0, 0.0, 1.0) for metric in self.metrics}
            return replace(row, metrics=metrics, differences=differences, note=ALIKE)
        return replace(row, metrics=metrics, differences=differences)

    def _measure(
        self, uncertainty: FloatArray, reference: FloatArray
    ) -> tuple[dict[str, Estimate], dict[str, Difference]]:
        others = {name: metric for name, metric in self.metrics.items() if name != "roc_auc"}
        values = {name: float(metric(self.errors, uncertainty)) for name, metric in others.items()}
        replicates: dict[str, FloatArray] = {}
        if others:
            replicates = bootstrap_replicates(
                self.errors,
                uncertainty,
                others,
                n_resamples=self.n_resamples,
                random_state=self.random_state,
            )
        if self._of_reference is None:
            self._of_reference = values, replicates
        base_values, base = self._of_reference
        level = {"confidence": self.confidence}
        metrics = {"roc_auc": error_roc_auc_interval(self.errors, uncertainty, **level)}
        differences = {
            "roc_auc": Difference(
                *error_roc_auc_difference(self.errors, uncertainty, reference, **level),
                error_roc_auc_p_value(self.errors, uncertainty, reference),
            )
        }
        for name in others:
            found, gains = _defined(replicates[name]), _defined(replicates[name] - base[name])
            metrics[name] = Estimate(values[name], *percentiles(found, self.confidence))
            differences[name] = Difference(
                values[name] - base_values[name],
                *percentiles(gains, self.confidence),
                two_sided_p_value(gains),
            )
        return metrics, differences


def reference_alone(uncertainty: FloatArray, judge: Judge) -> Comparison:
    """Return a comparison of softmax response with nothing."""
    scored = Scored(uncertainty, "nothing", 0.0, 0.0, "", ())
    results = with_adjusted([judge.result(REFERENCE, scored, uncertainty)], judge.confidence)
    known = {REFERENCE: uncertainty}
    return Comparison(results, judge.errors, known, "cross-validation", judge.confidence)


class _Clock:
    """Seconds spent on fitting and on scoring."""

    def __init__(self) -> None:
        self.fit = self.score = 0.0

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)


def needs(scorer: Any) -> str:
    """Return what a scorer learns from, by its card; of a search, what it searches over."""
    for holder in (scorer, getattr(scorer, "estimator", None)):
        card = getattr(holder, "card", None)
        if card is not None:
            return str(card.needs)
    return "held-out errors"


def predicted_uncertainty(fitted: Any, X: Features) -> FloatArray:
    """Return a fitted scorer's uncertainty (n,) as a numpy array, checked."""
    if not isinstance(fitted, UncertaintyEstimator):
        X = main_of(X)
    if hasattr(fitted, "predict_uncertainty"):
        uncertainty = as_numpy(fitted.predict_uncertainty(X))
    else:  # scikit-learn's searches forward no other name
        uncertainty = -as_numpy(fitted.score_samples(X))
    uncertainty = uncertainty.astype(np.float64)
    if uncertainty.shape != (len(X),):
        raise ValueError(f"its scores have shape {uncertainty.shape}; expected ({len(X)},).")
    if np.isnan(uncertainty).any():
        raise ValueError(
            f"its scores are NaN in {int(np.isnan(uncertainty).sum())} of {len(uncertainty)} rows."
        )
    return uncertainty


def rank_alike(first: FloatArray, second: FloatArray) -> bool:
    """Tell whether two scores put all rows in the same order, ties and all, up to rounding."""
    return _follows(first, second) and _follows(second, first)


def _follows(first: FloatArray, second: FloatArray) -> bool:
    """Tell whether ``second`` never falls, and never rests, where ``first`` clearly rises."""
    order = np.lexsort((second, first))
    a, b = first[order], second[order]
    rises = np.diff(a) > 1e-9 * np.maximum(np.abs(a[:-1]), np.abs(a[1:]))
    slack = 1e-9 * np.maximum(np.abs(b[:-1]), np.abs(b[1:]))
    return bool((np.diff(b) >= -slack).all() and (np.diff(b)[rises] > 0).all())


def _defined(replicates: FloatArray) -> FloatArray:
    return replicates[~np.isnan(replicates)]

"""The contents of a report as plain values: the chosen score, its threshold, the errors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_scalar

from adue_sklearn._utils import messages
from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.row_digests import row_digests, rows_among
from adue_sklearn._utils.tables import Table
from adue_sklearn._utils.validation import naming
from adue_sklearn._utils.views import Views
from adue_sklearn.base import FitRows
from adue_sklearn.calibration import ErrorProbability
from adue_sklearn.comparison.arguments import (
    check_metrics,
    check_other_rows,
    check_rows,
    check_scorers,
)
from adue_sklearn.comparison.compare import (
    Comparison,
    Run,
    default_scorers,
    needs,
    predicted_uncertainty,
)
from adue_sklearn.comparison.opinions import opinion_tables
from adue_sklearn.comparison.prior import RISK, choose_among
from adue_sklearn.comparison.result import FEW_ERRORS, REFERENCE
from adue_sklearn.comparison.stores import rows_with_training
from adue_sklearn.exceptions import FitRowsWarning
from adue_sklearn.features import FeatureStore
from adue_sklearn.metrics import risk_at_coverage_score
from adue_sklearn.metrics._arguments import BoolArray, FloatArray, IntArray
from adue_sklearn.scorers import SoftmaxResponseScorer
from adue_sklearn.selective import (
    SelectiveThreshold,
    binomial_interval,
    check_target,
    selective_threshold,
    what_it_takes,
)
from adue_sklearn.thresholds import shown_bound

FEWEST_ROWS = 20


class Answer(NamedTuple):
    """One wrong answer."""

    row: int
    text: str | None
    label: str
    predicted: str
    confidence: float
    uncertainty: float
    accepted: bool


class ClassRow(NamedTuple):
    """Results for one predicted class; rates are NaN where there is nothing to count."""

    name: str
    n_rows: int
    error_rate: float
    n_accepted: int
    accepted_error_rate: float


class CoverageRow(NamedTuple):
    """Error rate among the most confident answers, observed, with its exact interval."""

    coverage: float
    risk: float
    low: float
    high: float


@dataclass(frozen=True)
class Findings:
    """All that a report says.

    ``comparison`` is about one half of the rows, everything else about the other: those numbered
    ``fresh`` in the store.
    """

    comparison: Comparison
    chosen: str
    expected_gain: float
    target_risk: float
    confidence: float
    threshold: SelectiveThreshold
    store: FeatureStore
    texts: Sequence[str] | None
    fresh: IntArray
    errors: BoolArray
    uncertainty: FloatArray
    reference: FloatArray
    probabilities: FloatArray
    error_probability: FloatArray | None
    n_shown: int
    n_choosing: int
    n_trained_on: int
    doubts: list[str]
    opinions: list[Table]

    @property
    def n_rows(self) -> int:
        """Rows that set the threshold."""
        return len(self.errors)

    @property
    def bound(self) -> float:
        """Upper bound of the error rate among accepted answers; NaN if none is accepted."""
        if self.threshold.n_accepted == 0:
            return math.nan
        return shown_bound(self.target_risk, self.threshold.risk_bound)

    @property
    def n_errors(self) -> int:
        """Errors among them."""
        return int(self.errors.sum())

    @property
    def top_probability(self) -> FloatArray:
        """The classifier's confidence in its answers."""
        return self.probabilities.max(axis=1)

    @cached_property
    def coverages(self) -> list[CoverageRow]:
        """Error rates among the most confident answers."""
        rows = []
        for coverage in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
            risk = risk_at_coverage_score(self.errors, self.uncertainty, coverage=coverage)
            n_accepted = math.ceil(coverage * self.n_rows - 1e-9)
            low, high = binomial_interval(round(risk * n_accepted), n_accepted, 0.95)
            rows.append(CoverageRow(coverage, risk, float(low), float(high)))
        return rows

    @property
    def accepted(self) -> BoolArray:
        """Which of them the threshold accepts."""
        return self.uncertainty <= self.threshold.threshold

    @cached_property
    def classes(self) -> list[ClassRow]:
        """Results for each predicted class."""
        predicted = self.probabilities.argmax(axis=1)
        rows = []
        for number, name in enumerate(class_names(self.store)):
            here = predicted == number
            taken = here & self.accepted
            rows.append(
                ClassRow(
                    name,
                    int(here.sum()),
                    _rate(self.errors[here]),
                    int(taken.sum()),
                    _rate(self.errors[taken]),
                )
            )
        return rows

    @cached_property
    def most_uncertain(self) -> list[Answer]:
        """The errors with the highest uncertainty."""
        return self._wrong_answers(-self.uncertainty)

    @cached_property
    def most_confident(self) -> list[Answer]:
        """The errors with the lowest uncertainty."""
        return self._wrong_answers(self.uncertainty)

    def _wrong_answers(self, key: FloatArray) -> list[Answer]:
        """Return the errors with the smallest ``key``."""
        wrong = np.flatnonzero(self.errors)
        chosen = wrong[np.argsort(key[wrong], kind="stable")][: self.n_shown]
        return [self._answer(place) for place in chosen.tolist()]

    def _answer(self, place: int) -> Answer:
        names = class_names(self.store)
        row = int(self.fresh[place])
        number = int(self.store.ids[row])
        return Answer(
            row=number,
            text=None if self.texts is None else self.texts[number],
            label=names[int(np.asarray(self.store.labels)[row])],
            predicted=names[int(self.probabilities[place].argmax())],
            confidence=float(self.probabilities[place].max()),
            uncertainty=float(self.uncertainty[place]),
            accepted=bool(self.accepted[place]),
        )


def find(
    store: FeatureStore,
    train: FeatureStore | None,
    texts: Sequence[str] | None,
    *,
    target_risk: float,
    confidence: float,
    scorers: Any,
    n_shown: int,
) -> Findings:
    """Choose a score on one half of the rows; set and examine its threshold on the other."""
    _check_arguments(store, train, n_shown)
    texts = _checked_texts(texts)
    check_target(target_risk, "target_risk")
    check_target(confidence, "confidence")
    untrained = _untrained(store, train)
    choosing, fresh = _halves(store, texts, untrained)
    X, X_train = rows_with_training(store, train)
    y = np.asarray(store.labels)
    # A fitted scorer that the user passes knows the classes by number.
    names = np.array(class_names(store)) if scorers is None else np.arange(store.n_classes)
    named = check_scorers(
        default_scorers(
            X if isinstance(X, Views) else None,
            with_train=isinstance(X_train, Views),
            activation=store.activation,
        )
        if scorers is None
        else scorers
    )
    response = SoftmaxResponseScorer()
    rows = check_rows(response, X[choosing], names[y[choosing]], store.head, classes=names)
    run = Run(
        rows,
        _training_rows(train, X_train, rows, names),
        None,
        response,
        cv=5,
        random_state=0,
        scorers=named,
    )
    comparison = run.judged(named, check_metrics(None))
    choice = choose_among(comparison, named, RISK)
    chosen = choice.name or REFERENCE
    n_trained_on = len(store) - len(untrained)
    doubts = _doubts_of_comparison(comparison, train)
    if n_trained_on and train is not None:
        doubts.append(
            f"How good the model is on {n_trained_on} of {len(store)} rows: they are also in "
            f"{train.path}, so the model was trained on them, and they are left out."
        )

    scorer = dict(named).get(chosen, response)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitRowsWarning)  # the comparison reports it
        fitted = run.fit(scorer)
    probability = _error_probability(
        run.with_frozen_parts(scorer), fitted, run.rows, X[fresh], doubts
    )

    errors = run.fitted_response.errors(X[fresh], names[y[fresh]])
    uncertainty = predicted_uncertainty(fitted, X[fresh])
    threshold = selective_threshold(errors, uncertainty, target_risk, confidence)
    doubts += _doubts_of_threshold(threshold, errors, uncertainty, target_risk, confidence)
    return Findings(
        comparison=comparison,
        chosen=chosen,
        expected_gain=choice.expected[chosen].value if choice.name else 0.0,
        target_risk=float(target_risk),
        confidence=float(confidence),
        threshold=threshold,
        store=store,
        texts=texts,
        fresh=fresh,
        errors=errors,
        uncertainty=uncertainty,
        reference=predicted_uncertainty(run.fitted_response, X[fresh]),
        probabilities=as_numpy(run.fitted_response.predict_proba(X[fresh])),
        error_probability=probability,
        n_shown=n_shown,
        n_choosing=len(choosing),
        n_trained_on=n_trained_on,
        doubts=doubts,
        opinions=opinion_tables(fitted),
    )


def class_names(store: FeatureStore) -> list[str]:
    """Return names of the head's rows; their numbers if it has none."""
    return store.classes or [str(number) for number in range(store.n_classes)]


def percent(share: float) -> str:
    """Return a chosen share as a percentage without a line break in it."""
    return messages.percent(share).replace(" ", "\N{NO-BREAK SPACE}")


def rate(share: float) -> str:
    """Return an observed share as a percentage."""
    return "none" if math.isnan(share) else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _check_arguments(store: Any, train: Any, n_shown: Any) -> None:
    """Check the arguments that no later check names."""
    for argument, given in (("store", store), ("train", store if train is None else train)):
        if not isinstance(given, FeatureStore):
            raise TypeError(f"{argument} is a {type(given).__name__}; expected a FeatureStore.")
    with naming("n_shown", "an integer of at least 0"):
        check_scalar(n_shown, "n_shown", Integral, min_val=0)


def _checked_texts(texts: Any) -> list[str] | None:
    if texts is None:
        return None
    listed = [] if isinstance(texts, str | bytes) or not np.iterable(texts) else list(texts)
    if not (listed and all(isinstance(text, str) for text in listed)):
        raise TypeError(
            f"texts is a {type(texts).__name__}; expected a list of str, every text of the input."
        )
    return listed


def _untrained(store: FeatureStore, train: FeatureStore | None) -> IntArray:
    """Return which rows are not training rows."""
    if train is None:
        return np.arange(len(store))
    rows = np.flatnonzero(~rows_among(store.features, row_digests(train.features)))
    if len(rows) == 0:
        raise ValueError(
            f"store: all {len(store)} rows of {store.path} are also in {train.path}; a report "
            "needs rows that the model was not trained on."
        )
    return rows


def _halves(
    store: FeatureStore, texts: Sequence[str] | None, rows: IntArray
) -> tuple[IntArray, IntArray]:
    """Return two halves of some row numbers, drawn at random, in order."""
    if store.labels is None:
        raise ValueError(f"store: {store.path} has no labels; a report needs them.")
    n = len(rows)
    if n < FEWEST_ROWS:
        new = "" if n == len(store) else " that the model was not trained on"
        raise ValueError(
            f"store: {store.path} holds {n} rows{new}; a report needs at least {FEWEST_ROWS}, "
            "and a few hundred for useful results."
        )
    if texts is not None and int(store.ids.max()) >= len(texts):
        raise ValueError(
            f"texts: there are {len(texts)}, but {store.path} holds row {int(store.ids.max())} of "
            "its input; pass all texts of the file that it was extracted from."
        )
    order = np.random.default_rng(0).permutation(n)
    return rows[np.sort(order[: n // 2])], rows[np.sort(order[n // 2 :])]


def _training_rows(
    train: FeatureStore | None, X_train: Any, rows: FitRows, names: Any
) -> FitRows | None:
    if train is None:
        return None
    y = names[np.asarray(train.labels)]
    return check_other_rows("X_train", X_train, "y_train", y, rows)


def _error_probability(
    scorer: Any, fitted: Any, rows: Any, X: Any, doubts: list[str]
) -> FloatArray | None:
    """Return P(error) of fresh rows; None and a doubt if it cannot be learned."""
    # A score that has not learned from these rows' errors can be calibrated on them directly.
    frozen = needs(scorer) != "held-out errors"
    inner = FrozenEstimator(fitted) if frozen else getattr(fitted, "best_estimator_", scorer)
    method = "isotonic" if len(rows.y) >= 1000 else "sigmoid"
    head = () if frozen else (rows.head,)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ErrorProbability(inner, method=method).fit(rows.X, rows.y, *head)
    except ValueError as error:
        doubts.append(f"How likely each answer is to be wrong: {error}")
        return None
    return as_numpy(model.predict_uncertainty(X))


def _doubts_of_comparison(comparison: Comparison, train: FeatureStore | None) -> list[str]:
    doubts = []
    if not comparison.can_tell:
        doubts.append("Which score is best: " + comparison.verdict.splitlines()[0])
    elif not comparison.winners:
        doubts.append("Whether any score is better: " + comparison.verdict.splitlines()[0])
    for result in comparison.results:
        if result.failure:
            doubts.append(f"How good {result.name} is: it failed ({result.failure}).")
    if train is None:
        doubts.append(
            "How good the scores that describe the training texts are (Mahalanobis, RDE, k-NN and "
            "others): without --train-store they had to describe other texts."
        )
    return doubts


def _doubts_of_threshold(
    found: SelectiveThreshold,
    errors: BoolArray,
    uncertainty: FloatArray,
    target_risk: float,
    confidence: float,
) -> list[str]:
    doubts = []
    if found.n_accepted == 0:
        why = what_it_takes(errors, uncertainty, target_risk, confidence, "binomial")
        doubts.append(f"A threshold for this target: {why}")
    if min(errors.sum(), (~errors).sum()) < FEW_ERRORS:
        doubts.append(
            f"Where exactly the curves lie: {int(errors.sum())} errors among {len(errors)} rows "
            "make their intervals wide. More labelled rows would narrow them."
        )
    return doubts


def _rate(errors: BoolArray) -> float:
    return float(errors.mean()) if len(errors) else math.nan

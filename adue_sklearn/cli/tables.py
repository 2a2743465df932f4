"""What the command line prints: tables of scores side by side, and the verdict under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GridSearchCV

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.head import Head
from adue_sklearn._utils.tables import Column, Table
from adue_sklearn._utils.views import Views
from adue_sklearn.adue import AdUESearchCV
from adue_sklearn.adue.objective import softmax_response
from adue_sklearn.base import FitRows, UncertaintyEstimator
from adue_sklearn.comparison.result import FEW_ERRORS, REFERENCE, points
from adue_sklearn.exceptions import ClassSharesWarning
from adue_sklearn.metrics import (
    aurc_score,
    eaurc_score,
    error_average_precision_score,
    error_roc_auc_difference,
    error_roc_auc_score,
    fpr_at_tpr_score,
)
from adue_sklearn.scorers import MahalanobisScorer, SoftmaxResponseScorer

if TYPE_CHECKING:
    from adue_sklearn.features import FeatureStore
    from adue_sklearn.thresholds import SavedThreshold

Scores = Mapping[str, npt.NDArray[np.float64]]


def comparison(
    title: str,
    errors: npt.NDArray[np.bool_],
    scores: Scores,
    *,
    note: str = "",
    flattered: tuple[str, ...] = (),
    reservations: Sequence[str] = (),
) -> Table:
    """Return a table of error-detection metrics, one row a score, and what can be concluded.

    ``scores`` must hold :data:`REFERENCE`, which every other score is compared with. Scores named
    in ``flattered`` have seen these rows: only a loss counts for them, not a gain. Where there are
    ``reservations``, no difference is shown and no conclusion drawn.
    """
    n_errors = int(errors.sum())
    if n_errors in (0, len(errors)):
        which = "no errors" if n_errors == 0 else "only errors"
        line = f"{title}: {len(errors)} rows with {which}, so no score can be measured."
        return Table("", (), (), [line])
    title = f"{title}: {len(errors)} rows, {n_errors} errors ({n_errors / len(errors):.1%})"
    columns = [Column("score", of_numbers=False)]
    columns += map(Column, ("ROC-AUC", "gain [95 %]", "AP", "FPR95", "AURC", "E-AURC"))
    rows = [_cells(name, errors, scores, reservations) for name in scores]
    if reservations:
        verdicts = [f"No conclusion about gains or losses: {'; '.join(reservations)}."]
    else:
        verdicts = list(_verdicts(errors, scores, flattered))
    return Table(title, columns, rows, [*verdicts, note] if note else verdicts)


def cross_validated_table(
    search: AdUESearchCV | GridSearchCV,
    X: Any,
    y: Any,
    head: Head,
    *,
    train: tuple[Any, Any] | None,
    reservations: Sequence[str] = (),
) -> Table:
    """Compare the chosen AdUE with the baselines out-of-fold, on the folds of the search.

    Mahalanobis describes ``train`` (features and labels) where given; otherwise it is fitted on
    the other folds.
    """
    rows = FitRows(X, y, head)

    def out_of_fold(estimator: UncertaintyEstimator) -> npt.NDArray[np.float64]:
        uncertainty = np.empty(len(X))
        for rest, fold in search.cv:
            uncertainty[fold] = rows.part(rest).fit(estimator).predict_uncertainty(X[fold])
        return uncertainty

    response = rows.fit(SoftmaxResponseScorer())
    distance = MahalanobisScorer()
    if train is None:
        distances, fitted_on = out_of_fold(distance), "held-out folds"
    else:
        distances, fitted_on = distance.fit(*train, head).predict_uncertainty(X), "training rows"
    chosen = ", ".join(f"{name}={value:g}" for name, value in search.best_params_.items())
    return comparison(
        "Cross-validation",
        response.errors(X, y),
        {
            REFERENCE: response.predict_uncertainty(X),
            f"Mahalanobis ({fitted_on})": distances,
            "AdUE": out_of_fold(search.best_estimator_),
        },
        # Its settings were chosen on these folds: a gain on them proves nothing.
        flattered=("AdUE",),
        reservations=reservations,
        note=f"Chosen: {chosen}, on these same folds, which favours AdUE. Confirm a gain on fresh "
        "rows.",
    )


def fresh_rows_table(
    estimators: Mapping[str, UncertaintyEstimator],
    X: Any,
    y: Any,
    *,
    title: str = "Fresh rows",
    reservations: Sequence[str] = (),
) -> Table:
    """Compare fitted estimators of one original head with its softmax response on other rows."""
    first = next(iter(estimators.values()))
    response = softmax_response(first.original_logits(first.check_features(X)))
    scores = {name: as_numpy(e.predict_uncertainty(X)) for name, e in estimators.items()}
    return comparison(
        title,
        first.errors(X, y),
        {REFERENCE: response.cpu().numpy(), **scores},
        reservations=reservations,
    )


def doubts_of_rows(store: FeatureStore, X: Any, y: Any, *, fits: bool = True) -> tuple[str, ...]:
    """Warn of what is wrong with rows of a store, classes by name; return why nothing follows.

    ``fits`` tells whether anything is fitted on them, which then learns from odd shares of classes.
    """
    labels = np.asarray(y)
    head = store.head
    if store.classes is not None:
        head = replace(head, classes=np.array(store.classes))
    response = FitRows(X, head.classes[labels], head).fit(SoftmaxResponseScorer())
    doubts = response.doubts(X, labels, learned=True, name=str(store.path))
    doubts = [doubt for doubt in doubts if fits or doubt.category is not ClassSharesWarning]
    for doubt in doubts:
        doubt.warn()
    return tuple(doubt.reservation for doubt in doubts if doubt.reservation)


def score_rows(
    estimator: UncertaintyEstimator,
    X: Any,
    class_names: list[str] | None,
    limit: SavedThreshold | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield label, its probability and the uncertainty of every row, and whether to accept it.

    Where there are views, also whether softmax response stood for one that a row lacks.
    """
    lacking = estimator.lacks_view(X) if isinstance(X, Views) else None
    labels = as_numpy(estimator.predict(X))
    probabilities = as_numpy(estimator.predict_proba(X)).max(axis=1)
    uncertainties = as_numpy(estimator.predict_uncertainty(X))
    answers = zip(labels, probabilities, uncertainties, strict=True)
    for number, (label, probability, uncertainty) in enumerate(answers):
        yield {
            "label": label.item() if class_names is None else class_names[label],
            "probability": float(probability),
            "uncertainty": float(uncertainty),
            **({} if limit is None else {"accept": bool(uncertainty <= limit.threshold)}),
            **({} if lacking is None else {"fallback": bool(lacking[number])}),
        }


def _cells(
    name: str, errors: npt.NDArray[np.bool_], scores: Scores, reservations: Sequence[str]
) -> list[str]:
    uncertainty, gain = scores[name], ""
    if name != REFERENCE:
        difference = error_roc_auc_difference(errors, uncertainty, scores[REFERENCE])
        gain = "-" if reservations else points(difference, sign=True)
    return [
        name,
        f"{100 * error_roc_auc_score(errors, uncertainty):.1f}",
        gain,
        f"{100 * error_average_precision_score(errors, uncertainty):.1f}",
        f"{100 * fpr_at_tpr_score(errors, uncertainty):.1f}",
        f"{100 * aurc_score(errors, uncertainty):.2f}",
        f"{100 * eaurc_score(errors, uncertainty):.2f}",
    ]


def _verdicts(
    errors: npt.NDArray[np.bool_], scores: Scores, flattered: Sequence[str]
) -> Iterator[str]:
    if min(errors.sum(), (~errors).sum()) < FEW_ERRORS:
        yield f"Fewer than {FEW_ERRORS} errors or correct answers: too few to compare the scores."
        return
    gains = {
        name: error_roc_auc_difference(errors, uncertainty, scores[REFERENCE])
        for name, uncertainty in scores.items()
        if name != REFERENCE
    }
    better = {n: gain.value for n, gain in gains.items() if gain.low > 0 and n not in flattered}
    for name, gain in gains.items():
        if name in flattered:
            if gain.high < 0:
                best = max(better, key=lambda n: better[n]) if better else REFERENCE
                yield (
                    f"{name} finds errors worse than softmax response does, even on rows that "
                    f"favour it. Do not use it here; use {best}."
                )
        elif gain.low > 0:
            yield f"{name} finds errors better than softmax response does."
        elif gain.high < 0:
            yield f"{name} finds errors worse than softmax response does."
        else:
            yield f"{name} does not differ significantly from softmax response here."

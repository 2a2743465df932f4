"""What each second opinion of a fitted score is worth, as a table."""

from __future__ import annotations

from typing import Any

from adue_sklearn._utils.tables import Column, Table
from adue_sklearn.comparison.result import points
from adue_sklearn.scorers import SecondOpinionScorer

_NOTE = (
    "Weights are those of standardised scores. Gains are points of ROC-AUC that are lost without "
    "the score, on folds that its weight was not learned on."
)


def opinion_tables(fitted: Any) -> list[Table]:
    """Return weights and gains of fitted second opinions; nothing for any other score."""
    fitted = getattr(fitted, "estimator_", fitted)  # of an automatic choice
    if not isinstance(fitted, SecondOpinionScorer) or not hasattr(fitted, "weights_"):
        return []
    columns = [Column("score", of_numbers=False), Column("weight"), Column("gain [95 %]")]
    rows = [
        [
            name,
            f"{weight:.2f}",
            points(fitted.gains_[name], sign=True) if name in fitted.gains_ else "",
        ]
        for name, weight in fitted.weights_.items()
    ]
    return [Table("Second opinions", columns, rows, [_NOTE])]

"""What can be wrong with fit rows, apart from the order of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from adue_sklearn._utils.arrays import Array, as_numpy
from adue_sklearn._utils.messages import one_line
from adue_sklearn._utils.validation import warn
from adue_sklearn.exceptions import (
    ChangedFeaturesWarning,
    ClassSharesWarning,
    FitRowsWarning,
    MissingClassesWarning,
)

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Fewer rows are not conclusive.
_FEWEST_ROWS = 10
#: This many columns show what was done to all of them.
_LOOKED_AT = 16
_LONGEST_LIST = 10
#: Answers of a class for each of its rows; on real sets 0.2 to 1.4, with a quarter of its rows 1.5.
_TOO_OFTEN = 1.5


class Doubt(NamedTuple):
    """What is wrong with rows and, in short, why they allow no conclusion (or empty)."""

    message: str
    category: type[FitRowsWarning]
    reservation: str

    def warn(self) -> None:
        """Warn whoever called the package."""
        warn(self.message, self.category)


def missing_classes(
    labels: IntArray, answers: IntArray, names: Sequence[Any], *, name: str
) -> Doubt | None:
    """Say which classes the rows lack and what follows; None if they lack none.

    Parameters
    ----------
    labels, answers : array of int of shape (n,)
        True classes and the head's answers, as numbers of its rows.
    names : sequence of shape (n_classes,)
        The classes in the order of the head's rows.
    name : str
        The caller's name for the labels.

    Examples
    --------
    >>> import numpy as np
    >>> found = missing_classes(np.array([0, 0, 1]), np.array([0, 2, 1]), "abc", name="y")
    >>> found.reservation
    'y has no rows of class c'
    """
    counts = np.bincount(labels, minlength=len(names))
    absent = np.flatnonzero(counts == 0)
    if len(absent) == 0:
        return None
    n_answered = int(np.isin(answers, absent).sum())
    rows = _shortened([f"{each} {count}" for each, count in zip(names, counts, strict=True)])
    listed = _shortened([str(names[row]) for row in absent.tolist()])
    reservation = f"{name} has no rows of class{'' if len(absent) == 1 else 'es'} {listed}"
    message = (
        f"{reservation} (rows: {rows}). The head predicts them in {n_answered} of {len(labels)} "
        "rows, always wrongly. Scores that learn from errors, such as AdUE, learn to distrust "
        "these predictions. They seem better on rows like these, but are worse where these classes "
        "occur. Use rows of all classes, in the shares expected in use."
    )
    return Doubt(message, MissingClassesWarning, reservation)


def odd_shares(
    labels: IntArray, answers: IntArray, names: Sequence[Any], *, name: str
) -> Doubt | None:
    """Say which class a head predicts far more often than it occurs; None if there is none.

    At least 1.5 times as often, and significantly so by an exact sign test of wrong predictions of
    the class against wrong predictions for it, at one in a thousand for all classes.
    """
    n_classes = len(names)
    true, given = (np.bincount(part, minlength=n_classes) for part in (labels, answers))
    hits = np.bincount(labels[labels == answers], minlength=n_classes)
    too_many, missed = given - hits, true - hits
    p_values = binom.sf(too_many - 1, too_many + missed, 0.5)
    odd = np.flatnonzero((given >= _TOO_OFTEN * true) & (p_values < 0.001 / n_classes) & (true > 0))
    if len(odd) == 0:
        return None
    listed = _shortened(
        [f"{names[row]} in {true[row]} rows, predicted in {given[row]}" for row in odd.tolist()]
    )
    reservation = (
        f"in the rows of {name} the head predicts a class far more often than it occurs ({listed})"
    )
    message = (
        f"{name}: the head predicts a class far more often than it occurs in these rows "
        f"({listed}). If such rows were left out, scores that learn from errors, such as AdUE, "
        "learn to distrust these predictions. They seem better here, but are worse where the class "
        "is as frequent as the head expects. Use rows in the shares expected in use."
    )
    return Doubt(message, ClassSharesWarning, reservation)


def _shortened(parts: list[str]) -> str:
    return ", ".join(map(one_line, parts[:_LONGEST_LIST])) + (
        ", ..." if len(parts) > _LONGEST_LIST else ""
    )


def warn_of_changed_features(X: Array) -> None:
    """Warn if the columns look as if a scaler had been fitted on these same rows.

    A network does not produce means that are all zero or the same extremes in every column.
    """
    if len(X) < _FEWEST_ROWS:
        return
    columns = as_numpy(X[:, :_LOOKED_AT]).astype(np.float64)
    columns = columns[:, np.ptp(columns, axis=0) > 0]
    if columns.shape[1] < 2:
        return
    found = _mark(columns)
    if found:
        warn(
            f"X: {found}. The features seem to have been changed after extraction, but init_W "
            "belongs to the model's own features: X @ init_W.T would not be its logits. Remove "
            "the step (UncertaintyPipeline rejects such steps), or fit without a head.",
            ChangedFeaturesWarning,
        )


def _mark(columns: FloatArray) -> str:
    """Return what a scaler left in columns that are not constant; empty if nothing."""
    low, high = columns.min(axis=0), columns.max(axis=0)
    reach = np.maximum(np.abs(low), np.abs(high))
    tolerance = 1e-5  # float32 sums of many rows
    if (np.abs(columns.mean(axis=0)) <= tolerance * reach).all():
        deviations = columns.std(axis=0)
        if np.ptp(deviations) <= 1e-3 * deviations.max():
            return "every column has mean 0 and the same standard deviation, as by a StandardScaler"
        return "every column has mean 0, as by a PCA or a StandardScaler"
    # Saturated activations reach their limits in many rows, a scaler's column in one.
    rare = ((columns == low) | (columns == high)).mean(axis=0) <= 0.1
    if not rare.all():
        return ""
    if np.ptp(low) <= tolerance * reach.max() and np.ptp(high) <= tolerance * reach.max():
        return "every column has the same extremes, as by a MinMaxScaler"
    if np.ptp(reach) <= tolerance * reach.max():
        return "every column has the same largest size, as by a MaxAbsScaler"
    return ""

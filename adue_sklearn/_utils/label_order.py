"""Whether true labels and a head's rows are in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from adue_sklearn._utils.fit_rows import Doubt, IntArray
from adue_sklearn.exceptions import LabelOrderWarning

#: Fewer rows prove nothing: a good model may be wrong on most of a few.
FEWEST_ROWS = 10
_DOUBT = 0.01  # how often chance alone may make another order of the classes look better


def label_order(
    answers: npt.ArrayLike,
    labels: npt.ArrayLike,
    n_classes: int,
    classes: Sequence[Any] | None,
    *,
    name: str,
    option: str = "",
) -> Doubt | None:
    """Say if labels agree with a head no better than chance, or far better in another order.

    Chance is the agreement expected if answers were independent of labels, given how often each
    class is predicted and how often it is true (Cohen's [1]_); if the labels hold only one class,
    one over the number of classes. Another order of the classes is named if it adds a larger share
    of rows than the best of all C! orders would by chance (Hoeffding's bound, at one in a hundred);
    if agreement is at chance, also if an exact sign test says so.

    Parameters
    ----------
    answers : array-like of shape (n,) of int
        The head's row with the largest logit.
    labels : array-like of shape (n,) of int
        The row that would be right. Fewer than 10 are not checked.
    n_classes : int
        Rows of the head, C.
    classes : sequence or None
        The labels in the order of the head's rows; None if labels are given as row numbers.
    name : str
        The caller's name for the labels.
    option : str, default=""
        Another name for ``classes``, such as on the command line.

    Returns
    -------
    Doubt or None
        With a reservation if another order fits better.

    References
    ----------
    .. [1] J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
       Measurement 20(1), 1960.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(40) % 2
    >>> print(label_order(1 - labels, labels, 2, ["bad", "good"], name="y").reservation)
    y and the head's rows seem to be in different orders of the classes
    """
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)  # by label and answer
    np.add.at(counts, (np.asarray(labels), np.asarray(answers)), 1)
    n_rows = int(counts.sum())
    if n_rows < FEWEST_ROWS:
        return None
    right = float(np.trace(counts)) / n_rows
    chance, luck = _chance(counts), _luck(n_classes, n_rows)
    # No order can give more than this, so a good head needs no search.
    most = min(counts.max(axis=0).sum(), counts.max(axis=1).sum()) / n_rows
    if right > chance and most - right <= luck:
        return None
    best, order = _best_order(counts)
    far_better = best - right > luck
    if right > chance and not far_better:
        return None
    better = ""
    if far_better or _beyond_luck(counts, order):
        better = _order_message(best, order, classes, option)
    commonest = float(counts.sum(axis=1).max()) / n_rows
    message = (
        f"{name}: the head's answers agree with the labels in {right:.1%} of {n_rows} rows. Chance "
        f"alone gives {chance:.1%}; always predicting the most common class, {commonest:.1%}. "
    )
    reservation = f"{name} and the head's rows seem to be in different orders of the classes"
    return Doubt(message + (better or _NO_ORDER), LabelOrderWarning, reservation if better else "")


_NO_ORDER = (
    "No other order of the classes fits significantly better. Check that the labels belong to "
    "these rows and that the model was trained for this task."
)


def _order_message(best: float, order: IntArray, classes: Sequence[Any] | None, option: str) -> str:
    """Say which order of classes fits; `order` holds, for each head row, the label it predicts."""
    start = f"In another order of the classes they agree in {best:.1%}: "
    if classes is None:
        pairs = ", ".join(f"{label} is row {row}" for row, label in enumerate(order.tolist()))
        return f"{start}number the labels as the head's rows; now label {pairs}."
    named = [classes[label] for label in order.tolist()]
    return f"{start}give the names in the order of the head's rows, classes={named}{option}."


def _chance(counts: IntArray) -> float:
    true, answered = counts.sum(axis=1) / counts.sum(), counts.sum(axis=0) / counts.sum()
    return 1 / len(counts) if np.count_nonzero(true) == 1 else float(true @ answered)


def _best_order(counts: IntArray) -> tuple[float, IntArray]:
    """Return the best agreement over all orders, and for each head row the label that fits."""
    labels, rows = linear_sum_assignment(counts, maximize=True)
    order = np.empty_like(labels)
    order[rows] = labels
    return float(counts[labels, rows].sum() / counts.sum()), order


def _beyond_luck(counts: IntArray, order: IntArray) -> bool:
    """Tell whether `order` is right significantly more often where it and the given one differ.

    Sharper than Hoeffding's bound, which needs some fifty rows of two classes.
    """
    moved = order != np.arange(len(order))
    here, there = (
        int(np.diag(counts)[moved].sum()),
        int(counts[order, range(len(order))][moved].sum()),
    )
    log_p = float(binom.logsf(there - 1, here + there, 0.5))
    return log_p + math.lgamma(len(counts) + 1) < math.log(_DOUBT)


def _luck(n_classes: int, n_rows: int) -> float:
    """Return what the best of all orders may gain over the given one by chance."""
    return math.sqrt(2 * (math.lgamma(n_classes + 1) - math.log(_DOUBT)) / n_rows)

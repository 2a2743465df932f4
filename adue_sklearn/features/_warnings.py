"""What may be wrong with texts and labels although every row could be computed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

# Fewer rows prove nothing: a good model may err on most of a handful.
_FEWEST_ROWS = 10
_DOUBT = 0.01  # how often chance alone may make another order of the classes look better

IntArray = npt.NDArray[np.int64]


def warn_of_cut_texts(n_cut: int, n_texts: int, max_length: int) -> None:
    """Warn if texts were cut: the model did not see their ends."""
    if n_cut:
        warnings.warn(
            f"texts: {n_cut} of {n_texts} ({n_cut / n_texts:.1%}) were cut at {max_length} tokens; "
            "the model did not read the rest. Allow more with max_length= (--max-length), if the "
            "model was trained with more.",
            UserWarning,
            stacklevel=3,
        )


def warn_of_label_order(logits: npt.ArrayLike, labels: Any, classes: Sequence[str] | None) -> None:
    """Warn if labels agree with the model no more than chance, or far better in another order.

    Chance is the agreement to expect if answers had nothing to do with labels, given how often
    each class is answered and how often it is true (Cohen's [1]_); if the labels hold one class
    only, one over the number of classes. Another order of the classes is named if the share of
    rows that it adds is more than the best of all C! orders would by luck (Hoeffding's bound, at
    one in a hundred).

    Parameters
    ----------
    logits : array-like of shape (n, C)
        The model's logits.
    labels : array-like of shape (n,) of int, or None
        Row numbers of the head; nothing is checked without, nor for fewer than 10 rows.
    classes : sequence of str or None
        Class names in the order of the head's rows.

    References
    ----------
    .. [1] J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
       Measurement 20(1), 1960.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(40) % 2
    >>> warn_of_label_order(np.eye(2)[labels], labels, ["bad", "good"])
    """
    if labels is None or len(labels) < _FEWEST_ROWS:
        return
    counts = _confusion(np.asarray(labels), np.asarray(logits))
    n_rows = int(counts.sum())
    right = float(np.trace(counts)) / n_rows
    best, order = _best_order(counts)
    chance = _chance(counts)
    fits = best - right > _luck(len(counts), n_rows)
    if right > chance and not fits:
        return
    commonest = float(counts.sum(axis=1).max()) / n_rows
    message = (
        f"labels: the model agrees with them in {right:.1%} of {n_rows} rows; chance alone gives "
        f"{chance:.1%}, always the commonest class {commonest:.1%}. "
    )
    warnings.warn(
        message + (_order_message(best, order, classes) if fits else _NO_ORDER),
        UserWarning,
        stacklevel=3,
    )


_NO_ORDER = (
    "No other order of the classes fits, luck aside: check that the labels belong to these texts "
    "and that the model was trained for this task."
)


def _order_message(best: float, order: IntArray, classes: Sequence[str] | None) -> str:
    """Say which order of classes fits; `order` holds, for each head row, the label it answers."""
    start = f"In another order of the classes it agrees in {best:.1%}: "
    if classes is None:
        pairs = ", ".join(f"{label} is row {row}" for row, label in enumerate(order.tolist()))
        return f"{start}number the labels as the rows of the head; now label {pairs}."
    named = ",".join(classes[label] for label in order)
    return f"{start}give the names as the rows of the head have them, classes={named} (--classes)."


def _confusion(labels: IntArray, logits: npt.NDArray[Any]) -> IntArray:
    """Count rows by label and answer: (C, C)."""
    counts = np.zeros((logits.shape[1],) * 2, dtype=np.int64)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    return counts


def _chance(counts: IntArray) -> float:
    true, answered = counts.sum(axis=1) / counts.sum(), counts.sum(axis=0) / counts.sum()
    return 1 / len(counts) if np.count_nonzero(true) == 1 else float(true @ answered)


def _best_order(counts: IntArray) -> tuple[float, IntArray]:
    """Return the best agreement over all orders, and for each head row the label that fits."""
    labels, rows = linear_sum_assignment(counts, maximize=True)
    order = np.empty_like(labels)
    order[rows] = labels
    return float(counts[labels, rows].sum() / counts.sum()), order


def _luck(n_classes: int, n_rows: int) -> float:
    """Return what the best of all orders may gain over the given one by luck."""
    return math.sqrt(2 * (math.lgamma(n_classes + 1) - math.log(_DOUBT)) / n_rows)

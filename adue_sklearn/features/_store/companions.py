"""Another classifier's log-probabilities for the rows of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from adue_sklearn.exceptions import StoreError

Digests = npt.NDArray[np.uint64]


def log_proba_in_order(logits: npt.ArrayLike, order: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the log-probabilities of logits (n, C), their classes in another order."""
    Z = np.asarray(logits, dtype=np.float64)[:, list(order)]
    log_proba: npt.NDArray[np.float32] = log_softmax(Z, axis=1).astype(np.float32)
    return log_proba


def class_order(
    mine: Sequence[str] | None, n_classes: int, theirs: Sequence[str] | None, n_theirs: int
) -> list[int]:
    """Return where in another head's classes each of mine is.

    Heads without names have their rows in the same order.

    Raises
    ------
    ValueError
        If the classes are not the same; the message begins with what the other's are.
    """
    if n_classes != n_theirs:
        raise ValueError(
            f"its head has {n_theirs} classes, the main one has {n_classes}; expected the same "
            "classes, in any order."
        )
    if mine is None and theirs is None:
        return list(range(n_classes))
    if mine is None or theirs is None:
        nameless, named = ("its", "the main one") if theirs is None else ("the main", "it")
        raise ValueError(
            f"{nameless} head's classes have no names and those of {named} have; expected the same "
            "names. Pass those of the other with classes=, in the order of its head's rows."
        )
    if set(mine) != set(theirs):
        lacking = [name for name in mine if name not in theirs]
        strange = [name for name in theirs if name not in mine]
        raise ValueError(
            f"its head lacks the classes {_some(lacking)} and has {_some(strange)} instead; "
            "expected the main head's classes, in any order."
        )
    return [theirs.index(name) for name in mine]


def partners(mine: Digests | None, theirs: Digests | None, path: Any, other: Any) -> Any:
    """Return for each row of one store which row of the other has the same text.

    Raises
    ------
    StoreError
        If a store has no digests, or texts of one are not in the other, or not as often.
    """
    for digests, place in ((mine, path), (theirs, other)):
        if digests is None:
            raise StoreError(
                f"'{place}' holds no digests of its texts, so its rows cannot be found in another "
                "store: an earlier version of adue-sklearn wrote it, or it was made of arrays. "
                "Extract it again, or pass text_digests= to FeatureStore.create."
            )
    assert mine is not None
    assert theirs is not None
    first, second = np.argsort(mine, kind="stable"), np.argsort(theirs, kind="stable")
    if not np.array_equal(mine[first], theirs[second]):
        parts = [
            f"{len(rows)} rows of '{place}' have no partner there, such as row {rows[0]}"
            for rows, place in (
                (_without_partner(mine, theirs), path),
                (_without_partner(theirs, mine), other),
            )
            if rows
        ]
        raise StoreError(
            f"'{path}' and '{other}' do not hold the same texts, each as often: "
            f"{'; '.join(parts)}. Extract both from the same file."
        )
    order = np.empty_like(first)
    order[first] = second
    return order


def _without_partner(digests: Digests, others: Digests) -> list[int]:
    """Return rows whose text comes up less often among others; of copies the last ones."""
    left = Counter(others.tolist())
    rows = []
    for row, digest in enumerate(digests.tolist()):
        if left[digest]:
            left[digest] -= 1
        else:
            rows.append(row)
    return rows


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more

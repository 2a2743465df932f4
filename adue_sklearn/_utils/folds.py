"""Folds in which no row is judged by a score that was fitted on a copy of it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.head import BoolArray, IntArray
from adue_sklearn._utils.row_digests import row_groups

Fold = tuple[IntArray, IntArray]


def stratified(
    strata: npt.NDArray[Any], n_splits: int, *, random_state: int | None = 0
) -> list[Fold]:
    """Return folds (train, test) with equal shares of each stratum, as far as it goes."""
    splitter = StratifiedKFold(n_splits, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(splitter.split(strata, strata))


class Divisible:
    """Rows with errors and correct answers, to be divided; copies of a row stay together.

    A row in both parts of a fold favours scores that memorise rows, such as neighbour distances.
    Copies count as one row here, and as an error if any of them is, since labels may differ.
    """

    def __init__(self, X: Any, errors: BoolArray) -> None:
        self.groups = row_groups(as_numpy(X))
        if self.groups.max(initial=0) == 0:  # rows cannot be distinguished
            self.groups = np.arange(len(self.groups))
        self.errors = np.zeros(self.groups.max(initial=-1) + 1, dtype=bool)
        self.errors[self.groups[np.asarray(errors)]] = True
        self.n_errors = int(self.errors.sum())
        self.n_correct = len(self.errors) - self.n_errors

    def folds(self, n_splits: int, random_state: int | None) -> list[Fold]:
        """Return folds (train, test) with equal shares of the errors, as row numbers."""
        fold_of = np.empty(len(self.errors), dtype=np.int64)
        folds = stratified(self.errors, n_splits, random_state=random_state)
        for number, (_, test) in enumerate(folds):
            fold_of[test] = number
        rows = fold_of[self.groups]
        return [(np.flatnonzero(rows != k), np.flatnonzero(rows == k)) for k in range(n_splits)]

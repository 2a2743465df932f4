"""Every ranking metric as a formula on counts of correct answers and errors in groups of rows.

Rows are grouped from the most confident to the least: rows of one score together, and all correct
rows between two scores that errors have together as well. The latter changes no metric: a run of
correct rows is the same in whatever order. So ``K`` distinct scores of errors make ``2 K + 1``
groups, however many rows there are. Formulas take many replicates at once; a metric of the data
itself is the case of one replicate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn.metrics._arguments import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Counts:
    """Correct answers and errors in each group, most confident first.

    Parameters
    ----------
    correct, wrong : ndarray of int64 of shape (n_replicates, n_groups)
        Rows of either kind. Groups may be empty; all replicates have as many rows.
    """

    correct: IntArray
    wrong: IntArray

    @cached_property
    def rows(self) -> IntArray:
        """Rows in each group."""
        return self.correct + self.wrong

    @cached_property
    def accepted(self) -> IntArray:
        """Rows up to and with each group."""
        return np.cumsum(self.rows, axis=1)

    @cached_property
    def accepted_wrong(self) -> IntArray:
        """Errors up to and with each group."""
        return np.cumsum(self.wrong, axis=1)

    @property
    def n_rows(self) -> int:
        """Rows of a replicate."""
        return int(self.accepted[0, -1])

    @property
    def n_wrong(self) -> IntArray:
        """Errors of each replicate (n_replicates,)."""
        return self.accepted_wrong[:, -1]

    @property
    def n_correct(self) -> IntArray:
        """Correct rows of each replicate (n_replicates,)."""
        return self.n_rows - self.n_wrong

    @cached_property
    def flagged_wrong(self) -> IntArray:
        """Errors from each group on."""
        return self.n_wrong[:, None] - self.accepted_wrong + self.wrong

    @cached_property
    def expected_excess(self) -> FloatArray:
        """Errors before each group that its own rate does not account for.

        Where ``n0`` rows with ``E0`` errors come before a group of rate ``r``, the risk at its
        k-th row, tied rows in any order, is ``(E0 + (k - n0) r) / k = r + (E0 - n0 r) / k``.
        """
        excess = np.maximum(self.rows, 1).astype(np.float64)
        np.divide(self.wrong, excess, out=excess)
        excess *= self.accepted - self.rows
        return np.subtract(self.accepted_wrong - self.wrong, excess, out=excess)


def count_rows(errors: BoolArray, uncertainty: FloatArray) -> Counts:
    """Return the counts of the data themselves, as one replicate."""
    scores_of_errors, wrong = np.unique(uncertainty[errors], return_counts=True)
    correct = np.sort(uncertainty[~errors])
    below = np.searchsorted(correct, scores_of_errors, side="left")
    edges = np.repeat(below, 2).reshape(-1, 2)
    # Only scores that correct rows share have another place on the right.
    tied = np.append(correct, np.nan)[below] == scores_of_errors
    edges[tied, 1] = np.searchsorted(correct, scores_of_errors[tied], side="right")
    counts = np.zeros((2, 1, 2 * len(wrong) + 1), dtype=np.int64)
    counts[0, 0] = np.diff(edges.ravel(), prepend=0, append=len(correct))
    counts[1, 0, 1::2] = wrong
    return Counts(counts[0], counts[1])


def number_groups(errors: BoolArray, uncertainty: FloatArray) -> tuple[npt.NDArray[np.intp], int]:
    """Return the group of each row (n,), and how many groups there are."""
    scores_of_errors = np.unique(uncertainty[errors])
    # Below the j-th score: both j. Tied with it: j and j + 1.
    below = np.searchsorted(scores_of_errors, uncertainty, side="left")
    upto = np.searchsorted(scores_of_errors, uncertainty, side="right")
    return below + upto, 2 * len(scores_of_errors) + 1


def roc_auc(counts: Counts) -> FloatArray:
    """Return the share of pairs of an error and a correct row that are in order; ties half."""
    twice_below = 2 * np.cumsum(counts.correct, axis=1) - counts.correct
    twice_pairs = (counts.wrong * twice_below).sum(axis=1)
    return _where_both(counts, twice_pairs, 2 * counts.n_wrong * counts.n_correct)


def average_precision(counts: Counts) -> FloatArray:
    """Return the precision at each error's score, averaged over errors."""
    flagged = counts.n_rows - counts.accepted + counts.rows
    precision = counts.flagged_wrong / np.maximum(flagged, 1)
    return _where_both(counts, (counts.wrong * precision).sum(axis=1), counts.n_wrong)


def fpr_at_tpr(counts: Counts, *, tpr: float = 0.95) -> FloatArray:
    """Return the share of correct rows flagged by the highest threshold that catches ``tpr``."""
    n_wrong = np.maximum(counts.n_wrong, 1)[:, None]
    # The last group that catches enough: the rate falls from group to group.
    last = np.maximum((counts.flagged_wrong / n_wrong >= tpr).sum(axis=1) - 1, 0)
    passed = _pick(counts.accepted - counts.rows, last) - _pick(
        counts.accepted_wrong - counts.wrong, last
    )
    return _where_both(counts, counts.n_correct - passed, counts.n_correct)


def aurc(counts: Counts) -> FloatArray:
    """Return the mean of ``risk(k)`` over ``k = 1 .. n``, tied rows in expectation."""
    n = counts.n_rows
    harmonic = harmonic_numbers(n)
    reciprocals = harmonic[counts.accepted] - harmonic[counts.accepted - counts.rows]
    return (counts.n_wrong + (counts.expected_excess * reciprocals).sum(axis=1)) / n


def best_aurc(counts: Counts) -> FloatArray:
    """Return the AURC of a ranking with all errors last."""
    n, correct = counts.n_rows, counts.n_correct
    harmonic = harmonic_numbers(n)
    return (counts.n_wrong - correct * (harmonic[n] - harmonic[correct])) / n


def eaurc(counts: Counts) -> FloatArray:
    """Return the AURC above that of a ranking with all errors last."""
    return aurc(counts) - best_aurc(counts)


def prr(counts: Counts) -> FloatArray:
    """Return how far the AURC has come from a random ranking's to the best."""
    random = counts.n_wrong / counts.n_rows
    return _where_both(counts, random - aurc(counts), random - best_aurc(counts))


def augrc(counts: Counts) -> FloatArray:
    """Return the mean over ``k`` of the errors among the ``k`` most confident rows, over n."""
    rows, before = counts.rows, counts.accepted_wrong - counts.wrong
    # Within a group, errors grow evenly from `before`: sum over i = 1 .. m of before + i w / m.
    twice_total = (rows * 2 * before + (rows + 1) * counts.wrong).sum(axis=1)
    return twice_total / (2.0 * counts.n_rows**2)


def risk_at_coverage(counts: Counts, *, coverage: float = 0.8) -> FloatArray:
    """Return ``risk(k)`` at the smallest ``k`` with ``k / n >= coverage``."""
    n = counts.n_rows
    k = int(np.ceil(coverage * n))
    k -= int((k - 1) / n >= coverage)  # 0.07 * 100 is 7.000000000000001
    group = (counts.accepted < k).sum(axis=1)
    rate = _pick(counts.wrong, group) / _pick(counts.rows, group)
    return rate + _pick(counts.expected_excess, group) / k


def coverage_at_risk(counts: Counts, *, risk: float = 0.05) -> FloatArray:
    """Return the largest coverage of a threshold with at most ``risk``, 0 if there is none."""
    kept = counts.accepted_wrong / np.maximum(counts.accepted, 1) <= risk
    return np.where(kept, counts.accepted, 0).max(axis=1) / counts.n_rows


@lru_cache(maxsize=2)
def harmonic_numbers(n: int) -> FloatArray:
    """Return ``sum(1 / i for i = 1 .. k)`` for ``k = 0 .. n``; read-only."""
    harmonic = np.zeros(n + 1)
    np.cumsum(1.0 / np.arange(1, n + 1), out=harmonic[1:])
    harmonic.flags.writeable = False
    return harmonic


def _where_both(counts: Counts, numerator: Any, denominator: Any) -> FloatArray:
    """Return a ratio, NaN where a replicate has no errors or only errors."""
    both = (counts.n_wrong > 0) & (counts.n_correct > 0)
    return np.divide(numerator, denominator, out=np.full(len(both), np.nan), where=both)


def _pick(values: npt.NDArray[Any], group: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return one group's value of each replicate."""
    return values[np.arange(len(group)), group]

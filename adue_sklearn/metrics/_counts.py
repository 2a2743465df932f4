"""Every ranking metric as a formula on counts of correct answers and errors.

Rows are put into groups from the most confident to the least. Each score that errors have makes a
group, of these errors and the correct rows tied with them. All correct rows between two such
groups make one as well: in whatever order they come, no metric changes. So ``K`` distinct scores
of errors make ``2 K + 1`` groups, however many rows there are: correct rows, score, correct rows,
score, ..., correct rows. Formulas take many replicates at once; a metric of the data themselves is
the case of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn.metrics._arguments import BoolArray, FloatArray, IntArray, check_scores, undefined


@dataclass(frozen=True)
class Counts:
    """Correct answers and errors by group, most confident first.

    Parameters
    ----------
    correct : ndarray of int64 of shape (n_replicates, 2 * n_scores + 1)
        Correct rows in each group; those tied with errors have odd places.
    wrong : ndarray of int64 of shape (n_replicates, n_scores)
        Errors of each score. Groups may be empty; all replicates have as many rows.
    """

    correct: IntArray
    wrong: IntArray

    @cached_property
    def accepted(self) -> IntArray:
        """Rows up to and with each group."""
        rows = self.correct.copy()
        rows[:, 1::2] += self.wrong
        return np.cumsum(rows, axis=1, out=rows)

    @property
    def accepted_before(self) -> IntArray:
        """Rows before each score."""
        return self.accepted[:, :-1:2]

    @property
    def accepted_upto(self) -> IntArray:
        """Rows up to and with each score."""
        return self.accepted[:, 1::2]

    @cached_property
    def wrong_upto(self) -> IntArray:
        """Errors up to and with each score."""
        return np.cumsum(self.wrong, axis=1)

    @cached_property
    def wrong_before(self) -> IntArray:
        """Errors before each score."""
        return self.wrong_upto - self.wrong

    @cached_property
    def n_wrong(self) -> IntArray:
        """Errors of each replicate (n_replicates,)."""
        return self.wrong.sum(axis=1)

    @property
    def n_rows(self) -> int:
        """Rows of a replicate."""
        return int(self.accepted[0, -1])

    @property
    def n_correct(self) -> IntArray:
        """Correct rows of each replicate (n_replicates,)."""
        return self.n_rows - self.n_wrong

    @cached_property
    def twice_pairs(self) -> IntArray:
        """Pairs of an error and a correct row below it, twice; tied pairs once (n_replicates,)."""
        correct_upto = self.accepted_upto - self.wrong_upto
        return _row_sums(self.wrong, 2 * correct_upto - self.correct[:, 1::2])

    @cached_property
    def aurc(self) -> FloatArray:
        """Mean of ``risk(k)`` over ``k = 1 .. n``, tied rows in expectation (n_replicates,).

        In a group of error rate ``r`` that follows ``n0`` rows with ``E0`` errors the risk at the
        k-th row is ``r + (E0 - n0 r) / k``. So the group adds its errors, and ``E0 - n0 r`` times
        the sum of ``1 / k`` over its rows.
        """
        n = self.n_rows
        harmonic = harmonic_numbers(n)[self.accepted]
        before, upto, after = harmonic[:, :-1:2], harmonic[:, 1::2], harmonic[:, 2::2]
        rows = np.maximum(self.accepted_upto - self.accepted_before, 1)
        excess = self.wrong_before - self.accepted_before * (self.wrong / rows)
        total = _row_sums(excess, upto - before) + _row_sums(self.wrong_upto, after - upto)
        return (self.n_wrong + total) / n

    @cached_property
    def best_aurc(self) -> FloatArray:
        """AURC of a ranking with all errors last (n_replicates,)."""
        harmonic = harmonic_numbers(self.n_rows)
        reciprocals = harmonic[self.n_rows] - harmonic[self.n_correct]
        return (self.n_wrong - self.n_correct * reciprocals) / self.n_rows


def count_rows(errors: BoolArray, uncertainty: FloatArray) -> Counts:
    """Return the counts of the data themselves, as one replicate."""
    scores, wrong = np.unique(uncertainty[errors], return_counts=True)
    correct = np.sort(uncertainty[~errors])
    below = np.searchsorted(correct, scores, side="left")
    edges = np.repeat(below, 2).reshape(-1, 2)
    # Only scores that correct rows share have another place on the right.
    tied = np.append(correct, np.nan)[below] == scores
    edges[tied, 1] = np.searchsorted(correct, scores[tied], side="right")
    return Counts(np.diff(edges.ravel(), prepend=0, append=len(correct))[None], wrong[None])


def of_data(
    form: Callable[..., FloatArray],
    errors: Any,
    uncertainty: Any,
    *,
    undefined_as: str = "",
    **options: float,
) -> float:
    """Return the value of a formula for the data themselves, which are checked.

    ``undefined_as`` names a metric that is NaN, with a warning, without errors and correct answers.
    """
    flags, scores = check_scores(errors, uncertainty)
    if undefined_as and undefined(flags, undefined_as):
        return float("nan")
    return float(form(count_rows(flags, scores), **options)[0])


def number_groups(errors: BoolArray, uncertainty: FloatArray) -> tuple[npt.NDArray[np.intp], int]:
    """Return the group of each row (n,), and how many distinct scores errors have."""
    scores = np.unique(uncertainty[errors])
    # Below the j-th score: both j. Tied with it: j and j + 1.
    below = np.searchsorted(scores, uncertainty, side="left")
    return below + np.searchsorted(scores, uncertainty, side="right"), len(scores)


def expected_errors(counts: Counts) -> FloatArray:
    """Return the errors among the first ``k = 1 .. n`` rows of the one replicate (n,)."""
    rows = np.diff(counts.accepted[0], prepend=0)
    wrong, before = np.zeros((2, len(rows)))
    wrong[1::2] = counts.wrong[0]
    before[2::2] = counts.wrong_upto[0]
    before[1::2] = counts.wrong_before[0]
    place = np.arange(1, counts.n_rows + 1) - np.repeat(counts.accepted[0] - rows, rows)
    return np.repeat(before, rows) + place * np.repeat(wrong / np.maximum(rows, 1), rows)


def roc_auc(counts: Counts) -> FloatArray:
    """Return the share of pairs of an error and a correct row that are in order; ties half."""
    return _where_both(counts, counts.twice_pairs, 2 * counts.n_wrong * counts.n_correct)


def average_precision(counts: Counts) -> FloatArray:
    """Return the precision at each error's score, averaged over errors."""
    flagged_wrong = counts.n_wrong[:, None] - counts.wrong_before
    precision = flagged_wrong / np.maximum(counts.n_rows - counts.accepted_before, 1)
    return _where_both(counts, _row_sums(counts.wrong, precision), counts.n_wrong)


def fpr_at_tpr(counts: Counts, *, tpr: float = 0.95) -> FloatArray:
    """Return the share of correct rows flagged by the highest threshold that catches ``tpr``."""
    n_wrong = counts.n_wrong[:, None]
    caught = (n_wrong - counts.wrong_before) / np.maximum(n_wrong, 1)
    # The last score that catches enough: the rate falls from score to score.
    last = np.maximum((caught >= tpr).sum(axis=1) - 1, 0)
    if counts.wrong.shape[1] == 0:
        return np.full(len(last), np.nan)
    passed = _pick(counts.accepted_before, last) - _pick(counts.wrong_before, last)
    return _where_both(counts, counts.n_correct - passed, counts.n_correct)


def aurc(counts: Counts) -> FloatArray:
    """Return the mean of ``risk(k)`` over ``k = 1 .. n``, tied rows in expectation."""
    return counts.aurc


def eaurc(counts: Counts) -> FloatArray:
    """Return the AURC above that of a ranking with all errors last."""
    return counts.aurc - counts.best_aurc


def prr(counts: Counts) -> FloatArray:
    """Return how far the AURC has come from a random ranking's to the best."""
    random = counts.n_wrong / counts.n_rows
    return _where_both(counts, random - counts.aurc, random - counts.best_aurc)


def augrc(counts: Counts) -> FloatArray:
    """Return the mean over ``k`` of the errors among the ``k`` most confident rows, over n."""
    # An error counts at its own row and at every later one: correct rows below it are the pairs
    # out of order, and of two errors one comes later.
    twice_out_of_order = 2 * counts.n_wrong * counts.n_correct - counts.twice_pairs
    twice_total = twice_out_of_order + counts.n_wrong * (counts.n_wrong + 1)
    return twice_total / (2.0 * counts.n_rows**2)


def risk_at_coverage(counts: Counts, *, coverage: float = 0.8) -> FloatArray:
    """Return ``risk(k)`` at the smallest ``k`` with ``k / n >= coverage``."""
    n = counts.n_rows
    k = int(np.ceil(coverage * n))
    k -= int((k - 1) / n >= coverage)  # 0.07 * 100 is 7.000000000000001
    # Scores that k reaches beyond are in full, of the one that it may end in only a part.
    part = k - counts.accepted_before
    rows = np.maximum(counts.accepted_upto - counts.accepted_before, 1)
    share = np.clip(part / rows, 0.0, 1.0)
    return _row_sums(counts.wrong, share) / k


def coverage_at_risk(counts: Counts, *, risk: float = 0.05) -> FloatArray:
    """Return the largest coverage of a threshold with at most ``risk``, 0 if there is none."""
    # Correct rows after a score lower the risk: the best threshold takes them all.
    accepted = counts.accepted[:, ::2]
    wrong = np.zeros_like(accepted)
    wrong[:, 1:] = counts.wrong_upto
    kept = wrong / np.maximum(accepted, 1) <= risk
    return np.where(kept, accepted, 0).max(axis=1) / counts.n_rows


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


def _row_sums(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sum of products of each replicate."""
    return np.einsum("bg,bg->b", first, second)


def _pick(values: npt.NDArray[Any], group: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return one group's value of each replicate."""
    return values[np.arange(len(group)), group]

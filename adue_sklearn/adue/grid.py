"""Many settings of AdUE over the same folds: one from scratch, the others from their neighbours.

A setting's minimum is a good start for the next setting's. So one setting in the middle of the grid
is solved as :class:`adue_sklearn.AdUEEstimator` does, from several starts, and the others in waves
around it, each from the nearest that is solved. That takes a fifth of the work, but may end in
another of the objective's minima; :meth:`GridProblems.from_scratch` tells for those that matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adue_sklearn.adue.descents import TARGET, Descent, descend, descents, lowest
from adue_sklearn.adue.solvers import Minima
from adue_sklearn.adue.stack import Stack

Numbers = npt.NDArray[np.int64]
#: Numbers of settings that were solved, and the uncertainties (settings, folds, n) of all rows.
Solved = tuple[Numbers, Tensor]

#: float64 arrays that one problem takes at a time, about: as long as all logits; as the head.
_OF_LOGITS, _OF_HEAD = 3, 32


class GridProblems:
    """One problem for every setting and fold.

    Parameters
    ----------
    stack : Stack
        The problems, fold by fold for the first setting, then for the next.
    n_folds : int
        Number of folds.
    tol, max_iter
        As in :class:`adue_sklearn.AdUEEstimator`.
    max_memory : float
        GiB that the problems solved at a time may take, about; one setting's at least.
    """

    def __init__(
        self, stack: Stack, n_folds: int, *, tol: float, max_iter: int, max_memory: float
    ) -> None:
        self._stack, self._n_folds = stack, n_folds
        self._tol, self._max_iter = tol, max_iter
        self._x = stack.start()
        self._converged = torch.zeros(len(stack), dtype=torch.bool)
        problem_bytes = 8 * (_OF_LOGITS * stack.original.numel() + _OF_HEAD * self._x.shape[1])
        self.at_a_time = max(1, int(max_memory * 2**30 / (problem_bytes * n_folds)))

    @property
    def n_unconverged(self) -> int:
        """Number of problems that stopped before their gradient was small."""
        return int((~self._converged).sum())

    def from_scratch(self, settings: Sequence[int] | Numbers) -> Iterator[Solved]:
        """Solve settings from the original head, in turns that fit the memory."""
        for turn in self._turns(np.asarray(settings)):
            stack = self._stack[self._problems(turn)]
            found = [self._descend(stack, descent) for descent in descents(stack)]
            yield turn, self._keep(turn, lowest(found))

    def around_the_middle(self) -> Iterator[Solved]:
        """Solve every setting: the middle one from scratch, the others from their neighbours."""
        distances = self._distances()
        ranks = self._ranks()
        middle = int(np.abs(ranks - ranks.max(axis=0) // 2).sum(axis=1).argmin())
        yield from self.from_scratch([middle])
        solved = np.array([middle])
        steps = np.abs(ranks - ranks[middle]).sum(axis=1)
        steps[middle] = -1  # is solved; others may be equal to it
        for step in range(int(steps.max()) + 1):
            wave = np.flatnonzero(steps == step)
            if len(wave) == 0:
                continue
            nearest = solved[distances[wave][:, solved].argmin(axis=1)]
            yield from self._from_others(wave, nearest)
            solved = np.concatenate([solved, wave])

    def _from_others(self, settings: Numbers, others: Numbers) -> Iterator[Solved]:
        for turn, start in zip(self._turns(settings), self._turns(others), strict=True):
            stack = self._stack[self._problems(turn)]
            descent = Descent([TARGET], self._x[self._problems(start)])
            yield turn, self._keep(turn, self._descend(stack, descent))

    def _descend(self, stack: Stack, descent: Descent) -> Minima:
        return descend(stack, descent, tol=self._tol, max_iter=self._max_iter)

    def _keep(self, settings: Numbers, minima: Minima) -> Tensor:
        problems = self._problems(settings)
        self._x[problems] = minima.x
        self._converged[problems.cpu()] = minima.gradient_norm <= self._tol
        uncertainty = self._stack[problems].uncertainty(minima.x)
        return uncertainty.reshape(len(settings), self._n_folds, -1)

    def _turns(self, settings: Numbers) -> list[Numbers]:
        cuts = range(self.at_a_time, len(settings), self.at_a_time)
        return np.split(settings, cuts)

    def _problems(self, settings: Numbers) -> Tensor:
        """Return the numbers of the problems of some settings."""
        problems = settings[:, None] * self._n_folds + np.arange(self._n_folds)
        return torch.from_numpy(problems.ravel()).to(self._x.device)

    def _ranks(self) -> Numbers:
        """Return each setting's place (settings, 3) among the values of alpha, beta and lam."""
        values = (self._stack.alpha, self._stack.beta, self._stack.lam)
        columns = [v[:: self._n_folds].cpu().numpy() for v in values]
        return np.stack([np.unique(v, return_inverse=True)[1] for v in columns], axis=1)

    def _distances(self) -> npt.NDArray[np.float64]:
        """Return how far settings lie apart in the grid; of equals, the same lam is nearest."""
        ranks = self._ranks()
        return np.abs(ranks[:, None] - ranks) @ np.array([1.0, 1.01, 1.02])

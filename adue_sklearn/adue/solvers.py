"""Minimisers: L-BFGS for many problems at once, and the paper's Adam.

L-BFGS steps all problems together, so that one call of the objective serves them all, but each
has its own curvature and line search and leaves once it has converged.

What is as long as a head stays on the device. What is a few numbers a problem is decided on the
host, in numpy: an evaluation gets one array from the device and sends it one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: ``objective(x, problems)`` returns values (P,) and gradients (P, m) at ``x`` (P, m), one row for
#: each number in ``problems`` (P,).
Objective: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Observer: TypeAlias = Callable[[], object]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

#: Pairs of steps and gradient changes that L-BFGS remembers.
_MEMORY = 10
#: Rows of a problem's vectors after its pairs; all of them.
_DIRECTION, _CHANGE, _GRADIENT = range(2 * _MEMORY, 2 * _MEMORY + 3)
_ROWS = 2 * _MEMORY + 3
#: Constants of the Wolfe conditions.
_ARMIJO, _CURVATURE = 1e-4, 0.9
#: Evaluations of one line search.
_LINE_SEARCH = 20
#: Length of a first step. A short one ends in the first hollow: with steps of the gradient's own
#: length, losses on small two-class problems were up to 40 % higher.
_FIRST_STEP = 0.3
#: How often in a row a problem may find no step before it is given up; it is too where so many
#: iterations lower the value by less than this share of tol squared, in which rounding shows.
_FAILURES, _PATIENCE, _STALLED = 2, 10, 0.01
#: Converged problems are taken out once they are this share of all: that copies the memory.
_IDLE_SHARE = 0.2


@dataclass
class Minima:
    """Where problems ended: ``x`` (P, m), values, largest gradient entries, iterations (P,).

    The numbers are on the CPU.
    """

    x: Tensor
    value: Tensor
    gradient_norm: Tensor
    n_iter: Tensor


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # what is not good may be anything
def minimize_lbfgs(
    objective: Objective,
    start: Tensor,
    *,
    tol: float,
    max_iter: int,
    on_iteration: Observer | None = None,
) -> Minima:
    """Minimise every problem by L-BFGS with a line search of its own.

    Each call of the objective tries one point for every problem: some begin a line search, others
    are in the middle of one.

    Parameters
    ----------
    objective : callable
        Values and gradients of some of the problems.
    start : Tensor of float64 of shape (P, m)
        Where each begins.
    tol : float
        A problem has converged when no entry of its gradient is larger.
    max_iter : int
        Most iterations of a problem, at least 1.
    on_iteration : callable, default=None
        Called when an iteration of any problem has ended.

    Returns
    -------
    Minima
    """
    active, numbers = torch.arange(len(start), device=start.device), np.arange(len(start))
    vectors, memory, search = _Vectors(start), _Memory(len(start)), _LineSearch.of(len(start))
    seen = vectors.look(*objective(start, active))
    progress, norm = _Progress(seen.value), seen.norm
    done = _Done(start, seen.value, norm)
    going = ~(norm <= tol)  # NaN is not converged
    all_of_them = np.ones(len(start), dtype=bool)
    turn = memory.turn(all_of_them, ~all_of_them, np.ones(len(start)), seen)
    search.begin(all_of_them, seen.value, turn.slope)
    vectors.take(turn, search.length)
    while going.any():
        if going.mean() <= 1.0 - _IDLE_SHARE:
            done.put(numbers, vectors.x, search.value, norm, progress.n_iter)
            kept = np.flatnonzero(going)
            numbers, going, norm = numbers[kept], going[kept], norm[kept]
            for part in (progress, memory, search, vectors):
                part.select(kept)
            active = active[torch.from_numpy(kept).to(active.device)]
        seen = vectors.look(*objective(vectors.trial, active))
        length = search.length
        moved, failed = (which & going for which in search.go_on(seen.value, seen.slope))
        ended = moved | failed
        turn = memory.turn(moved, failed, length, seen)
        search.begin(ended, np.where(moved, seen.value, search.value), turn.slope)
        norm = np.where(moved, seen.norm, norm)
        progress.record(ended, moved, search.value, least=_STALLED * tol**2)
        going &= ~(norm <= tol) & progress.is_hopeful & (progress.n_iter < max_iter)
        vectors.take(turn, np.where(going, search.length, 0.0))
        if on_iteration is not None and ended.any():
            on_iteration()
    done.put(numbers, vectors.x, search.value, norm, progress.n_iter)
    return done.minima


class _Done:
    """Where problems have ended so far."""

    def __init__(self, start: Tensor, value: Floats, norm: Floats) -> None:
        self._x, self._value, self._norm = start.clone(), value.copy(), norm.copy()
        self._n_iter = np.zeros(len(start), dtype=np.int64)

    def put(self, numbers: Ints, x: Tensor, value: Floats, norm: Floats, n_iter: Ints) -> None:
        """Keep what problems with these numbers have reached."""
        self._x[torch.from_numpy(numbers).to(x.device)] = x
        self._value[numbers], self._norm[numbers], self._n_iter[numbers] = value, norm, n_iter

    @property
    def minima(self) -> Minima:
        of_numbers = map(torch.from_numpy, (self._value, self._norm, self._n_iter))
        return Minima(self._x, *of_numbers)


class _Seen(NamedTuple):
    """What the host learns of an evaluation: values (P,), the gradients' largest entries (P,).

    ``products`` (P, 2, rows) are those of :class:`_Vectors`' rows with the gradient's change and
    with the gradient.
    """

    value: Floats
    norm: Floats
    products: Floats

    @property
    def slope(self) -> Floats:
        """Return the slope along the direction (P,)."""
        return self.products[:, 1, _DIRECTION]


class _Turn(NamedTuple):
    """What an evaluation leads to: for each problem, all of it by numbers.

    ``factors`` (P, rows) make the next direction of rows. Before that the direction becomes a step
    by ``scale`` (P,), which is taken where ``moved`` (P,), and kept with the gradient's change in
    ``slot`` (P,). Where ``lost`` (P,), the gradient is that of the last point that was good.
    ``slope`` (P,) is the slope along the next direction, where that is new.
    """

    factors: Floats
    scale: Floats
    moved: Bools
    slot: Ints
    lost: Bools
    slope: Floats

    @property
    def anything(self) -> bool:
        """Whether any direction is new."""
        return bool(self.moved.any() or self.lost.any())


class _Vectors:
    """What is as long as a head, on the device: (P, m) each.

    ``x`` is the best point, ``trial`` the one to evaluate. The rows (P, 2 k + 3, m) are the last k
    steps, the gradient's changes along them, the direction, the gradient's change from ``x`` to
    ``trial``, and the gradient at ``trial``.
    """

    def __init__(self, start: Tensor) -> None:
        self.x, self.trial = start.clone(), start
        self._gradient = torch.zeros_like(start)
        self._rows = start.new_zeros(len(start), _ROWS, start.shape[1])
        self._numbers = torch.arange(len(start), device=start.device)[:, None]

    def look(self, value: Tensor, gradient: Tensor) -> _Seen:
        """Take in what the objective gave at ``trial``, and say of it what the host asks."""
        rows = self._rows
        torch.sub(gradient, self._gradient, out=rows[:, _CHANGE])
        rows[:, _GRADIENT] = gradient
        products = rows[:, _CHANGE:] @ rows.transpose(1, 2)
        norm = torch.linalg.vector_norm(gradient, math.inf, dim=1)
        seen = torch.cat([value[:, None], norm[:, None], products.flatten(1)], dim=1).cpu().numpy()
        return _Seen(seen[:, 0], seen[:, 1], seen[:, 2:].reshape(-1, 2, _ROWS))

    def take(self, turn: _Turn, length: Floats) -> None:
        """Take the steps that were decided on, and make the next trial points."""
        rows, lost = self._rows, np.flatnonzero(turn.lost)
        if len(lost):
            where = torch.from_numpy(lost).to(rows.device)
            rows[where, _GRADIENT] = self._gradient[where]
            rows[where, _CHANGE] = 0.0
        columns = (turn.factors, length, turn.scale, turn.moved, turn.slot, _MEMORY + turn.slot)
        sent = torch.from_numpy(np.column_stack(columns)).to(rows.device)
        factors, (by, scale, moved) = sent[:, :_ROWS], sent[:, _ROWS : _ROWS + 3, None].unbind(1)
        if turn.anything:
            rows[:, _DIRECTION] *= scale
            self.x.addcmul_(moved, rows[:, _DIRECTION])
            self._gradient.lerp_(rows[:, _GRADIENT], moved)
            direction = (factors[:, None] @ rows)[:, 0]
            # Also where no step ended: that slot is the oldest, and is written again before use.
            slots = sent[:, _ROWS + 3 :].to(torch.int64)
            rows[self._numbers, slots] = rows[:, _DIRECTION:_GRADIENT].clone()
            rows[:, _DIRECTION] = direction
        self.trial = torch.addcmul(self.x, by, rows[:, _DIRECTION])

    def select(self, problems: Ints) -> None:
        kept = torch.from_numpy(problems).to(self.x.device)
        self.x, self.trial, self._gradient = self.x[kept], self.trial[kept], self._gradient[kept]
        self._rows, self._numbers = self._rows[kept], self._numbers[: len(kept)]


class _OnHost:
    """Arrays with one row a problem."""

    def select(self, problems: Ints) -> None:
        """Keep some of the problems."""
        for name, values in vars(self).items():
            setattr(self, name, values[problems])


class _Progress(_OnHost):
    """How many iterations P problems took, and whether it makes sense to go on."""

    def __init__(self, value: Floats) -> None:
        self.n_iter = np.zeros(len(value), dtype=np.int64)
        self._failures, self._before = np.zeros_like(self.n_iter), value

    @property
    def is_hopeful(self) -> Bools:
        return self._failures <= _FAILURES

    def record(self, ended: Bools, moved: Bools, value: Floats, *, least: float) -> None:
        """Count iterations that ended, and those that did not move; ``least`` is worth waiting."""
        self.n_iter = self.n_iter + ended
        failures = np.where(moved, 0, self._failures + ended)
        checked = ended & (self.n_iter % _PATIENCE == 0)
        rounding = 4.0 * np.finfo(np.float64).eps * np.abs(value)
        stalled = checked & (self._before - value < least + rounding)
        self._failures = np.where(stalled, _FAILURES + 1, failures)
        self._before = np.where(checked, value, self._before)


@dataclass
class _LineSearch(_OnHost):
    """Searches of P problems for steps that satisfy the weak Wolfe conditions; all are (P,).

    ``value`` and ``slope`` are those where a search begins; ``length`` is what to try, in
    directions. Of the bracket, ``low`` is good but too short, ``high`` too far.
    """

    value: Floats
    slope: Floats
    low: Floats
    low_value: Floats
    low_slope: Floats
    high: Floats
    length: Floats
    tries: Ints

    @classmethod
    def of(cls, n: int) -> _LineSearch:
        """Return n searches that have yet to begin."""
        value, slope, low, low_value, low_slope, high, length = np.zeros((7, n))
        tries = np.zeros(n, dtype=np.int64)
        return cls(value, slope, low, low_value, low_slope, high, length, tries)

    def begin(self, which: Bools, value: Floats, slope: Floats) -> None:
        """Begin some of the searches anew."""
        self.value = np.where(which, value, self.value)
        self.slope = np.where(which, slope, self.slope)
        self.low = np.where(which, 0.0, self.low)
        self.low_value = np.where(which, value, self.low_value)
        self.low_slope = np.where(which, slope, self.low_slope)
        self.high = np.where(which, np.inf, self.high)
        self.length = np.where(which, 1.0, self.length)
        self.tries = np.where(which, 0, self.tries)

    def go_on(self, value: Floats, slope: Floats) -> tuple[Bools, Bools]:
        """Take in what the steps lead to; return which are good, and which searches failed."""
        length = self.length
        good = (value <= self.value + _ARMIJO * length * self.slope) & np.isfinite(slope)
        satisfied = good & (slope >= _CURVATURE * self.slope)
        shorter = _shortened(length, value, self.low, self.low_value, self.low_slope)
        self.low = np.where(good, length, self.low)
        self.low_value = np.where(good, value, self.low_value)
        self.low_slope = np.where(good, slope, self.low_slope)
        self.high = np.where(good, self.high, length)
        middle = (self.low + self.high) / 2.0
        longer = np.where(np.isinf(self.high), 2.0 * self.low, middle)
        self.tries = self.tries + 1
        late, too_late = self.tries >= _LINE_SEARCH, self.tries > _LINE_SEARCH
        # In the end the best point so far, which is evaluated once more.
        last = np.where(late & (self.low > 0.0), self.low, shorter)
        self.length = np.where(good, longer, last)
        return satisfied | (good & late), ~good & late & ((self.low == 0.0) | too_late)


class _Memory(_OnHost):
    """What the host knows of the last k steps and changes of P problems.

    The compact form of Byrd, Nocedal and Schnabel (1994) needs their products alone. Its triangle,
    of steps by later changes, is kept inverted: a new pair adds a column, and what goes with the
    oldest are a row and a column. A slot without a pair is zeros in it, which change nothing.
    """

    def __init__(self, n: int) -> None:
        self._slot = np.zeros(n, dtype=np.int64)  # of the oldest pair
        self._inverse = np.zeros((n, _MEMORY, _MEMORY))
        self._curvature = np.zeros((n, _MEMORY))  # steps by their own changes
        self._of_changes = np.zeros((n, _MEMORY, _MEMORY))  # changes by changes
        self._scale = np.zeros(n)  # 0 without a pair
        self._squared_gradient = np.zeros(n)

    def turn(self, moved: Bools, failed: Bools, length: Floats, seen: _Seen) -> _Turn:
        """Learn from steps of so many directions that were good, and return what to do next."""
        factors, slope = np.zeros((len(moved), _ROWS)), np.zeros(len(moved))
        factors[:, _DIRECTION] = 1.0  # a search that goes on keeps its direction
        slot = self._slot.copy()
        which = np.flatnonzero(moved)
        if len(which):
            of_gradient = self._add(which, length[which], seen.products[which])
            factors[which], slope[which] = self._direction(which, slot[which], of_gradient)
        # Downhill along the gradient: after a failure, and where rounding makes a direction uphill.
        plain = failed | (moved & ~(slope < 0.0))
        if plain.any():
            self._forget(plain)
            scale = self._scale_or_first(plain)
            factors[plain] = 0.0
            factors[plain, _GRADIENT] = -scale
            slope[plain] = -scale * self._squared_gradient[plain]
        strange = ~np.isfinite(seen.products).all(axis=(1, 2))
        lost = failed | (strange & ~moved)
        return _Turn(factors, np.where(moved, length, 1.0), moved, slot, lost, slope)

    def _add(self, which: Ints, length: Floats, products: Floats) -> Floats:
        """Put pairs in the place of the oldest; return the gradients' products with all pairs."""
        i, slot = np.arange(len(which)), self._slot[which]
        of_pairs = products[:, :, : 2 * _MEMORY]
        of_pairs[i, :, slot] = length[:, None] * products[:, :, _DIRECTION]
        of_pairs[i, :, _MEMORY + slot] = products[:, :, _CHANGE]
        of_steps, of_changes = of_pairs[:, 0, :_MEMORY], of_pairs[:, 0, _MEMORY:]
        curvature, squares = of_steps[i, slot], of_changes[i, slot]
        good = curvature > 1e-12 * squares
        inverse = self._inverse[which]
        inverse[i, slot] = inverse[i, :, slot] = 0.0
        column = -(inverse @ of_steps[:, :, None])[:, :, 0]
        column[i, slot] = 1.0
        inverse[i, :, slot] = np.where(good, 1.0 / curvature, 0.0)[:, None] * column
        self._inverse[which] = inverse
        self._of_changes[which, slot] = self._of_changes[which, :, slot] = of_changes
        self._curvature[which, slot] = curvature
        self._scale[which] = np.where(good, curvature / squares, self._scale[which])
        self._slot[which] = (slot + good) % _MEMORY
        self._squared_gradient[which] = products[:, 1, _GRADIENT]
        return of_pairs[:, 1]

    def _direction(self, which: Ints, slot: Ints, of_gradient: Floats) -> tuple[Floats, Floats]:
        """Return the quasi-Newton direction as factors of the rows, and the slope along it."""
        i, scale, inverse = np.arange(len(which)), self._scale_or_first(which), self._inverse[which]
        of_steps, of_changes = of_gradient[:, :_MEMORY, None], of_gradient[:, _MEMORY:, None]
        by_change = inverse @ of_steps
        inner = self._of_changes[which] @ by_change - of_changes
        inner = self._curvature[which][..., None] * by_change + scale[:, None, None] * inner
        by_step = -(inverse.transpose(0, 2, 1) @ inner)
        by_pair = np.concatenate([by_step, scale[:, None, None] * by_change], axis=1)[..., 0]
        slope = (by_pair * of_gradient).sum(axis=1) - scale * self._squared_gradient[which]
        factors = np.zeros((len(which), _ROWS))
        factors[:, : 2 * _MEMORY] = by_pair
        factors[i, slot] = factors[i, _MEMORY + slot] = 0.0  # the new pair is not there yet, but
        factors[:, _DIRECTION] = by_pair[i, slot]  # its step is where the direction was
        factors[:, _CHANGE] = by_pair[i, _MEMORY + slot]
        factors[:, _GRADIENT] = -scale
        return factors, slope

    def _scale_or_first(self, which: Ints | Bools) -> Floats:
        first = _FIRST_STEP / np.sqrt(np.maximum(self._squared_gradient[which], 1e-300))
        return np.where(self._scale[which] > 0.0, self._scale[which], first)

    def _forget(self, which: Bools) -> None:
        self._inverse[which], self._scale[which] = 0.0, 0.0


def _shortened(t: Floats, value: Floats, low: Floats, low_value: Floats, slope: Floats) -> Floats:
    """Return the minimum of a parabola through ``low``, its slope and ``t``, kept off both ends."""
    width = t - low
    rise = value - low_value - slope * width
    share = -slope * width / (2.0 * np.maximum(rise, 1e-300))
    return low + width * np.clip(np.nan_to_num(share), 0.1, 0.7)


def one_cycle(
    adam: torch.optim.Adam, learning_rates: list[float], steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return the paper's schedule; of few steps one and a half are the rise."""
    # The rise has to be longer than a step, which 10 % of a few steps are not.
    return torch.optim.lr_scheduler.OneCycleLR(
        adam,
        learning_rates,
        total_steps=max(steps, 3),
        pct_start=max(0.1, 1.5 / max(steps, 3)),
    )


def one_cycle_adam(
    gradient: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    n_rows: int,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    random_state: np.random.RandomState,
    on_epoch: Observer | None = None,
) -> tuple[Tensor, int]:
    """Run the paper's recipe: Adam over shuffled batches, OneCycle learning rate, last weights.

    The rate rises for 10 % of the steps from a 25th of ``learning_rate`` and falls (cosine) to a
    10,000th of where it began. ``gradient(x, rows)`` is the gradient over a batch. Returns the
    last ``x`` (m,) and the number of steps.
    """
    x = start.clone().requires_grad_()
    steps = epochs * math.ceil(n_rows / batch_size)
    adam = torch.optim.Adam([x], lr=learning_rate)
    schedule = one_cycle(adam, [learning_rate], steps)
    for _ in range(epochs):
        order = torch.from_numpy(random_state.permutation(n_rows)).to(start.device)
        for rows in order.split(batch_size):
            x.grad = gradient(x, rows)
            adam.step()
            schedule.step()
        if on_epoch is not None:
            on_epoch()
    return x.detach(), steps

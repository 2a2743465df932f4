"""Minimisers: L-BFGS for many problems at once, and the paper's Adam.

L-BFGS steps all problems together, so that one call of the objective serves them all, but each
has its own curvature and line search and leaves once it has converged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

#: ``objective(x, problems)`` returns values (P,) and gradients (P, m) at ``x`` (P, m), one row for
#: each number in ``problems`` (P,).
Objective: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Observer: TypeAlias = Callable[[], object]

#: Pairs of steps and gradient changes that L-BFGS remembers.
_MEMORY = 10
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
    """Where problems ended: ``x`` (P, m), values, largest gradient entries, iterations (P,)."""

    x: Tensor
    value: Tensor
    gradient_norm: Tensor
    n_iter: Tensor


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
    active = torch.arange(len(start), device=start.device)
    x = start.clone()
    value, gradient = objective(x, active)
    done = Minima(x.clone(), value.clone(), _largest(gradient), torch.zeros_like(active))
    going = ~(done.gradient_norm <= tol)  # NaN is not converged
    progress, memory = _Progress(value), _Memory(x)
    search = _LineSearch(value, gradient, memory.direction(gradient))
    while bool(going.any()):
        if float(going.double().mean()) <= 1.0 - _IDLE_SHARE:
            kept = torch.nonzero(going).ravel()
            active, going = active[kept], going[kept]
            x, value, gradient = x[kept], value[kept], gradient[kept]
            for part in (progress, memory, search):
                part.select(kept)
        ended = search.go_on(*objective(x + search.step(), active)) & going
        moved = ended & (search.low > 0.0)
        step = torch.where(ended[:, None], search.best_step(), 0.0)
        changed = torch.where(ended[:, None], search.low_gradient, gradient)
        memory.add(ended, step, changed - gradient)
        memory.forget(ended & ~moved)
        x, value, gradient = x + step, torch.where(ended, search.low_value, value), changed

        progress.record(ended, moved, value, least=_STALLED * tol**2)
        norm, of_ended = _largest(gradient), active[ended]
        done.x[of_ended], done.value[of_ended] = x[ended], value[ended]
        done.gradient_norm[of_ended], done.n_iter[of_ended] = norm[ended], progress.n_iter[ended]
        going = going & ~(norm <= tol) & progress.is_hopeful & (progress.n_iter < max_iter)
        if on_iteration is not None and bool(ended.any()):
            on_iteration()

        direction = memory.direction(gradient)
        uphill = ended & ((direction * gradient).sum(dim=1) >= 0)
        if bool(uphill.any()):
            memory.forget(uphill)
            direction = torch.where(uphill[:, None], _first_direction(gradient), direction)
        search.begin(ended, value, gradient, direction)
    return done


class _Progress:
    """How many iterations P problems took, and whether it makes sense to go on."""

    def __init__(self, value: Tensor) -> None:
        self.n_iter = torch.zeros_like(value, dtype=torch.int64)
        self._failures, self._before = torch.zeros_like(self.n_iter), value

    @property
    def is_hopeful(self) -> Tensor:
        return self._failures <= _FAILURES

    def record(self, ended: Tensor, moved: Tensor, value: Tensor, *, least: float) -> None:
        """Count iterations that ended, and those that did not move; ``least`` is worth waiting."""
        self.n_iter = self.n_iter + ended
        failures = torch.where(moved, 0, self._failures + ended)
        checked = ended & (self.n_iter % _PATIENCE == 0)
        rounding = 4.0 * torch.finfo(value.dtype).eps * value.abs()
        stalled = checked & (self._before - value < least + rounding)
        self._failures = torch.where(stalled, _FAILURES + 1, failures)
        self._before = torch.where(checked, value, self._before)

    def select(self, problems: Tensor) -> None:
        self.n_iter, self._failures = self.n_iter[problems], self._failures[problems]
        self._before = self._before[problems]


class _LineSearch:
    """Searches of P problems for steps that satisfy the weak Wolfe conditions.

    The best point of each so far is ``low`` (P,) times its direction, 0 for none, with
    ``low_value`` (P,) and ``low_gradient`` (P, m).
    """

    def __init__(self, value: Tensor, gradient: Tensor, direction: Tensor) -> None:
        self._direction = direction
        self._value = self.low_value = value
        self._slope = self._low_slope = (direction * gradient).sum(dim=1)
        self.low, self.low_gradient = torch.zeros_like(value), gradient
        self._high, self._length = torch.full_like(value, torch.inf), torch.ones_like(value)
        self._tries = torch.zeros_like(value)

    def begin(self, which: Tensor, value: Tensor, gradient: Tensor, direction: Tensor) -> None:
        """Begin some of the searches anew."""
        for name, fresh in vars(_LineSearch(value, gradient, direction)).items():
            chosen = which if fresh.ndim == 1 else which[:, None]
            setattr(self, name, torch.where(chosen, fresh, getattr(self, name)))

    def select(self, problems: Tensor) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[problems])

    def step(self) -> Tensor:
        """Return the steps (P, m) to try."""
        return self._length[:, None] * self._direction

    def best_step(self) -> Tensor:
        """Return the best steps (P, m), zero where none was good."""
        return self.low[:, None] * self._direction

    def go_on(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Take in what the steps lead to and return which searches have ended (P,)."""
        length, slope = self._length, (gradient * self._direction).sum(dim=1)
        good = value <= self._value + _ARMIJO * length * self._slope
        too_short = good & (slope < _CURVATURE * self._slope)
        shorter = _shortened(length, value, self.low, self.low_value, self._low_slope)
        # The bracket: `low` is good but too short, `high` too far.
        self.low = torch.where(good, length, self.low)
        self.low_value = torch.where(good, value, self.low_value)
        self._low_slope = torch.where(good, slope, self._low_slope)
        self.low_gradient = torch.where(good[:, None], gradient, self.low_gradient)
        self._high = torch.where(good, self._high, length)
        middle = (self.low + self._high) / 2.0
        longer = torch.where(torch.isinf(self._high), 2.0 * self.low, middle)
        self._length = torch.where(good, longer, shorter)
        self._tries = self._tries + 1
        return (good & ~too_short) | (self._tries >= _LINE_SEARCH)


def _largest(gradient: Tensor) -> Tensor:
    return gradient.abs().amax(dim=1)


class _Memory:
    """The last steps and gradient changes of P problems, ``pairs`` (P, 2 k, m): k of each.

    A pair that is not there, or has no positive curvature, is zeros, which change nothing.
    """

    def __init__(self, x: Tensor) -> None:
        self._pairs = x.new_zeros(len(x), 2 * _MEMORY, x.shape[1])
        # Products of steps with changes, and of changes with changes.
        self._SY = x.new_zeros(len(x), _MEMORY, _MEMORY)
        self._YY = torch.zeros_like(self._SY)
        self._oldest = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def add(self, which: Tensor, step: Tensor, change: Tensor) -> None:
        """Put pairs of some problems in the place of their oldest."""
        curvature = (step * change).sum(dim=1)
        good = curvature > 1e-12 * change.square().sum(dim=1).clamp(min=1e-300)
        step, change = (torch.where(good[:, None], v, 0.0) for v in (step, change))
        row = torch.nonzero(which).ravel()
        slot = self._oldest[row]
        self._pairs[row, slot], self._pairs[row, _MEMORY + slot] = step[row], change[row]
        # The new step's products with older changes are never asked for.
        of_steps, of_changes = self._products(change)
        self._SY[row, :, slot] = of_steps[row]
        self._YY[row, slot] = self._YY[row, :, slot] = of_changes[row]
        self._oldest[row] = (slot + 1) % _MEMORY

    def forget(self, problems: Tensor) -> None:
        if bool(problems.any()):
            for values in (self._pairs, self._SY, self._YY):
                values[problems] = 0.0

    def select(self, problems: Tensor) -> None:
        self._pairs, self._SY = self._pairs[problems], self._SY[problems]
        self._YY, self._oldest = self._YY[problems], self._oldest[problems]

    def direction(self, gradient: Tensor) -> Tensor:
        """Return minus the inverse-Hessian estimate times the gradient.

        In the compact form of Byrd, Nocedal and Schnabel (1994), which takes few products
        whatever the number of pairs.
        """
        by_age = (self._oldest[:, None] + torch.arange(_MEMORY, device=gradient.device)) % _MEMORY
        rows, columns = by_age[:, :, None], by_age[:, None, :].expand(-1, _MEMORY, -1)
        SY, YY = (v.gather(1, rows.expand_as(v)).gather(2, columns) for v in (self._SY, self._YY))
        Sg, Yg = (v.gather(1, by_age)[..., None] for v in self._products(gradient))
        curvature, squares = SY.diagonal(dim1=1, dim2=2), YY.diagonal(dim1=1, dim2=2)
        filled = squares > 0
        scale = _latest(torch.where(filled, curvature / squares.clamp(min=1e-300), 0.0), filled)
        scale = torch.where(filled.any(dim=1), scale, _first_scale(gradient))[:, None]
        # The triangle is that of older steps by younger changes.
        R = torch.triu(SY) + torch.diag_embed((~filled).to(SY.dtype))
        of_changes = torch.linalg.solve_triangular(R, Sg, upper=True)
        inner = curvature[..., None] * of_changes + scale[..., None] * (YY @ of_changes - Yg)
        of_steps = torch.linalg.solve_triangular(R.transpose(1, 2), inner, upper=False)
        factors = torch.cat([of_steps, -scale[..., None] * of_changes], dim=1)[..., 0]
        factors = torch.zeros_like(factors).scatter(
            1, torch.cat([by_age, _MEMORY + by_age], dim=1), factors
        )
        back = (factors[:, None] @ self._pairs)[:, 0]
        return torch.addcmul(-back, gradient, scale, value=-1.0)

    def _products(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the products (P, k) of steps and of changes with one vector each (P, m)."""
        products = (vectors[:, None] @ self._pairs.transpose(1, 2))[:, 0]
        return products[:, :_MEMORY], products[:, _MEMORY:]


def _first_direction(gradient: Tensor) -> Tensor:
    return -_first_scale(gradient)[:, None] * gradient


def _first_scale(gradient: Tensor) -> Tensor:
    return _FIRST_STEP / gradient.norm(dim=1).clamp(min=1e-300)


def _latest(values: Tensor, filled: Tensor) -> Tensor:
    """Return the last of the values (P, k) that is filled in each row."""
    numbers = torch.arange(values.shape[1], device=values.device)
    latest = torch.where(filled, numbers, -1).amax(dim=1).clamp(min=0)
    return values.gather(1, latest[:, None])[:, 0]


def _shortened(t: Tensor, value: Tensor, low: Tensor, low_value: Tensor, slope: Tensor) -> Tensor:
    """Return the minimum of a parabola through ``low``, its slope and ``t``, kept off both ends."""
    width = t - low
    rise = value - low_value - slope * width
    share = -slope * width / (2.0 * rise.clamp(min=1e-300))
    return low + width * share.nan_to_num(0.0).clamp(0.1, 0.7)


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

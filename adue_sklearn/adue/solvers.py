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

    Parameters
    ----------
    objective : callable
        Values and gradients of some of the problems.
    start : Tensor of float64 of shape (P, m)
        Where each begins.
    tol : float
        A problem has converged when no entry of its gradient is larger.
    max_iter : int
        Most iterations of a problem.
    on_iteration : callable, default=None
        Called after each iteration.

    Returns
    -------
    Minima
    """
    active = torch.arange(len(start), device=start.device)
    x = start.clone()
    value, gradient = objective(x, active)
    norm = gradient.abs().amax(dim=1)
    done = Minima(x.clone(), value.clone(), norm, torch.zeros_like(active))
    memory = _Memory(x)
    failures, before = torch.zeros_like(active), value
    for iteration in range(1, max_iter + 1):
        if iteration % _PATIENCE == 0:
            least = (_STALLED * tol**2) + 4.0 * torch.finfo(value.dtype).eps * value.abs()
            failures = torch.where(before - value < least, _FAILURES + 1, failures)
            before = value
        going = (norm > tol) & (failures <= _FAILURES)
        if not bool(going.any()):
            break
        if float(going.double().mean()) <= 1.0 - _IDLE_SHARE:
            kept = torch.nonzero(going).ravel()
            active, failures, before, going = (v[kept] for v in (active, failures, before, going))
            x, value, gradient = x[kept], value[kept], gradient[kept]
            memory.select(kept)
        direction = memory.direction(gradient)
        uphill = (direction * gradient).sum(dim=1) >= 0
        if bool(uphill.any()):
            memory.forget(uphill)
            direction = torch.where(uphill[:, None], memory.direction(gradient), direction)
        step, value, changed = _line_search(objective, active, x, value, gradient, direction, going)
        x = x + step
        memory.add(step, changed - gradient)
        stuck = going & (step == 0.0).all(dim=1)
        failures = torch.where(stuck, failures + 1, torch.where(going, 0, failures))
        if bool(stuck.any()):
            memory.forget(stuck)
        gradient = changed
        norm = gradient.abs().amax(dim=1)
        moved = active[going]
        done.x[moved], done.value[moved] = x[going], value[going]
        done.gradient_norm[moved], done.n_iter[moved] = norm[going], iteration
        if on_iteration is not None:
            on_iteration()
    return done


class _Memory:
    """The last steps ``S`` and gradient changes ``Y`` of P problems, each (P, k, m)."""

    def __init__(self, x: Tensor) -> None:
        self._steps = self._changes = x.new_zeros(len(x), 0, x.shape[1])
        self._oldest = 0

    def add(self, step: Tensor, change: Tensor) -> None:
        curvature = (step * change).sum(dim=1)
        # A pair without positive curvature is stored as zeros, which change nothing.
        good = curvature > 1e-12 * change.square().sum(dim=1).clamp(min=1e-300)
        step, change = (torch.where(good[:, None], v, 0.0) for v in (step, change))
        if self._steps.shape[1] < _MEMORY:
            self._steps = torch.cat([self._steps, step[:, None]], dim=1)
            self._changes = torch.cat([self._changes, change[:, None]], dim=1)
        else:  # in place of the oldest: a copy would cost as much as a product with the features
            self._steps[:, self._oldest], self._changes[:, self._oldest] = step, change
            self._oldest = (self._oldest + 1) % _MEMORY

    def forget(self, problems: Tensor) -> None:
        self._steps[problems], self._changes[problems] = 0.0, 0.0

    def select(self, problems: Tensor) -> None:
        self._steps, self._changes = self._steps[problems], self._changes[problems]

    def direction(self, gradient: Tensor) -> Tensor:
        """Return minus the inverse-Hessian estimate times the gradient.

        In the compact form of Byrd, Nocedal and Schnabel (1994), which takes few products
        whatever the number of pairs.
        """
        S, Y = self._steps, self._changes
        k = S.shape[1]
        if k == 0:
            return -_first_scale(gradient)[:, None] * gradient
        # The triangle below is that of younger by older pairs.
        by_age = [(self._oldest + i) % k for i in range(k)]
        as_kept = [(i - self._oldest) % k for i in range(k)]
        SY = (S @ Y.transpose(1, 2))[:, by_age][:, :, by_age]
        YY = (Y @ Y.transpose(1, 2))[:, by_age][:, :, by_age]
        Sg, Yg = (S @ gradient[..., None])[:, by_age], (Y @ gradient[..., None])[:, by_age]
        curvature, squares = SY.diagonal(dim1=1, dim2=2), YY.diagonal(dim1=1, dim2=2)
        filled = squares > 0
        scale = _latest(torch.where(filled, curvature / squares.clamp(min=1e-300), 0.0), filled)
        scale = torch.where(filled.any(dim=1), scale, _first_scale(gradient))
        R = torch.triu(SY) + torch.diag_embed((~filled).to(SY.dtype))
        of_changes = torch.linalg.solve_triangular(R, Sg, upper=True)
        inner = curvature[..., None] * of_changes + scale[:, None, None] * (YY @ of_changes - Yg)
        of_steps = torch.linalg.solve_triangular(R.transpose(1, 2), inner, upper=False)
        back = gradient - (Y.transpose(1, 2) @ of_changes[:, as_kept])[..., 0]
        return -scale[:, None] * back - (S.transpose(1, 2) @ of_steps[:, as_kept])[..., 0]


def _first_scale(gradient: Tensor) -> Tensor:
    return _FIRST_STEP / gradient.norm(dim=1).clamp(min=1e-300)


def _latest(values: Tensor, filled: Tensor) -> Tensor:
    """Return the last of the values (P, k) that is filled in each row."""
    numbers = torch.arange(values.shape[1], device=values.device)
    latest = torch.where(filled, numbers, -1).amax(dim=1).clamp(min=0)
    return values.gather(1, latest[:, None])[:, 0]


def _line_search(
    objective: Objective,
    problems: Tensor,
    x: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    going: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find a step that satisfies the weak Wolfe conditions for every problem that is going.

    Returns the steps (P, m), zero where none was found, with values and gradients there.
    """
    slope = (direction * gradient).sum(dim=1)
    # The bracket: `low` is good but too short, `high` too far.
    low, low_value, low_slope = torch.zeros_like(value), value.clone(), slope.clone()
    high = torch.full_like(value, torch.inf)
    length, low_gradient = torch.ones_like(value), gradient.clone()
    open_ = torch.nonzero(going).ravel()
    for _ in range(_LINE_SEARCH):
        t, d = length[open_], direction[open_]
        new_value, new_gradient = objective(x[open_] + t[:, None] * d, problems[open_])
        good = new_value <= value[open_] + _ARMIJO * t * slope[open_]
        too_short = good & ((new_gradient * d).sum(dim=1) < _CURVATURE * slope[open_])
        shorter = _shortened(t, new_value, low[open_], low_value[open_], low_slope[open_])
        better, far = open_[good], open_[~good]
        low[better], low_value[better] = t[good], new_value[good]
        low_gradient[better] = new_gradient[good]
        low_slope[better] = (new_gradient[good] * d[good]).sum(dim=1)
        high[far], length[far] = t[~good], shorter[~good]
        upper = high[better]
        length[better] = torch.where(
            torch.isinf(upper), 2.0 * low[better], (low[better] + upper) / 2.0
        )
        open_ = open_[~good | too_short]
        if len(open_) == 0:
            break
    return low[:, None] * direction, low_value, low_gradient


def _shortened(t: Tensor, value: Tensor, low: Tensor, low_value: Tensor, slope: Tensor) -> Tensor:
    """Return the minimum of a parabola through ``low``, its slope and ``t``, kept off both ends."""
    width = t - low
    rise = value - low_value - slope * width
    share = -slope * width / (2.0 * rise.clamp(min=1e-300))
    return low + width * share.nan_to_num(0.0).clamp(0.1, 0.7)


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
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        # The rise has to be longer than a step, which 10 % of a few steps are not.
        adam,
        learning_rate,
        total_steps=max(steps, 3),
        pct_start=max(0.1, 1.5 / max(steps, 3)),
    )
    for _ in range(epochs):
        order = torch.from_numpy(random_state.permutation(n_rows)).to(start.device)
        for rows in order.split(batch_size):
            x.grad = gradient(x, rows)
            adam.step()
            schedule.step()
        if on_epoch is not None:
            on_epoch()
    return x.detach(), steps

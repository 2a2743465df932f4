"""Minimising the AdUE objective: L-BFGS from the original head and along softer objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

Vector: TypeAlias = npt.NDArray[np.float64]
ValueAndGradient: TypeAlias = Callable[[Vector], tuple[float, Vector]]
Start = TypeVar("Start")
Observer: TypeAlias = Callable[[Vector], object]

#: Sharpness of SmoothMax at each stage that lies below the target. With a sharp SmoothMax every
#: switch of the largest class is a ridge that a descent does not cross; with a soft one it is not.
CONTINUATION = (5.0, 10.0, 20.0, 50.0)
#: Difference of the two largest logits from which a head counts as saturated.
_MODERATE_GAP = 3.0
#: How well, and for how long at most, the stages before the last are solved.
_STAGE_TOL, _STAGE_ITER = 1e-3, 200
#: A failed line search restarts with a fresh curvature estimate this often.
_RESTARTS = 3


class Stage(NamedTuple):
    """An objective on the way: sharpness of SmoothMax, and what the logits are divided by."""

    lam: float
    temperature: float


@dataclass(frozen=True)
class Solution:
    """A minimiser and how it was reached."""

    x: Vector
    value: float
    n_iter: int
    gradient_norm: float
    converged: bool


def minimize_lbfgs(
    function: ValueAndGradient,
    start: Vector,
    *,
    tol: float,
    max_iter: int,
    on_iteration: Observer | None = None,
) -> Solution:
    """Minimise by L-BFGS until the largest gradient entry is at most ``tol``."""
    x, n_iter = start, 0
    for _ in range(_RESTARTS + 1):
        result: Any = minimize(
            function,
            x,
            jac=True,
            method="L-BFGS-B",
            callback=on_iteration,
            # Only the gradient ends the run: flat stretches are common on the way.
            options={
                "gtol": tol,
                "ftol": 0.0,
                "maxiter": max(1, max_iter - n_iter),
                "maxfun": 20 * max_iter,
                "maxls": 50,
                "maxcor": 20,
            },
        )
        stalled = n_iter > 0 and result.nit == 0
        x, n_iter = result.x, n_iter + int(result.nit)
        gradient_norm = float(np.abs(result.jac).max())
        if gradient_norm <= tol or n_iter >= max_iter or stalled:
            break
    return Solution(x, float(result.fun), n_iter, gradient_norm, gradient_norm <= tol)


def plans(lam: float, typical_gap: float) -> list[list[Stage]]:
    """Return the sequences of stages that are tried, each ending at the objective itself.

    ``typical_gap`` is the median difference of the two largest original logits: how saturated
    the original head is.
    """
    target = Stage(lam, 1.0)
    lams = [softer for softer in CONTINUATION if softer < lam]
    halvings = max(0, math.ceil(math.log2(typical_gap / _MODERATE_GAP))) if typical_gap > 0 else 0
    temperatures = [typical_gap / _MODERATE_GAP / 2**k for k in range(halvings)]
    tried = [[target], [*(Stage(softer, 1.0) for softer in lams), target]]
    if temperatures:
        length = max(len(lams), len(temperatures))
        lams += [lam] * (length - len(lams))
        temperatures += [1.0] * (length - len(temperatures))
        tried.append([*map(Stage, lams, temperatures), target])
    return tried if len(tried[1]) > 1 else [tried[0], *tried[2:]]


def minimize_along(
    function: Callable[[Vector, Stage], tuple[float, Vector]],
    plan: list[Stage],
    start: Vector,
    *,
    tol: float,
    max_iter: int,
    on_iteration: Observer | None = None,
) -> Solution:
    """Minimise stage after stage, each from the minimum of the one before."""
    x, n_iter = start, 0
    for stage in plan[:-1]:
        rough = minimize_lbfgs(
            partial(_at, function, stage),
            x,
            tol=max(tol, _STAGE_TOL),
            max_iter=min(max_iter, _STAGE_ITER),
            on_iteration=on_iteration,
        )
        x, n_iter = rough.x, n_iter + rough.n_iter
    last = minimize_lbfgs(
        partial(_at, function, plan[-1]),
        x,
        tol=tol,
        max_iter=max_iter,
        on_iteration=on_iteration,
    )
    return replace(last, n_iter=n_iter + last.n_iter)


def descents(
    start: Start, softened: Start, *, lam: float, typical_gap: float
) -> list[tuple[list[Stage], Start]]:
    """Return the plans to follow, and from where; the lowest minimum is the solution.

    The objective is not convex. ``start`` (the original head) is left directly and along softer
    objectives; a saturated head, near which a plain descent stays, is also left from
    ``softened``.
    """
    planned = [(plan, start) for plan in plans(lam, typical_gap)]
    if typical_gap > _MODERATE_GAP:
        planned.append(([Stage(lam, 1.0)], softened))
    return planned


def moderated(typical_gap: float) -> float:
    """Return the factor that brings a head of this typical gap down to a moderate one."""
    return min(1.0, _MODERATE_GAP / typical_gap) if typical_gap > 0 else 1.0


def _at(
    function: Callable[[Vector, Stage], tuple[float, Vector]], stage: Stage, x: Vector
) -> tuple[float, Vector]:
    return function(x, stage)


def one_cycle_adam(
    gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    start: Vector,
    *,
    n_rows: int,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    random_state: np.random.RandomState,
    device: torch.device,
    on_epoch: Observer | None = None,
) -> tuple[Vector, int]:
    """Run the paper's recipe: Adam over shuffled batches, OneCycle learning rate, last weights.

    The rate rises for 10 % of the steps from a 25th of ``learning_rate`` and falls (cosine) to a
    10,000th of where it began. ``gradient(x, rows)`` is the gradient over a batch. Returns the
    last ``x`` and the number of steps.
    """
    x = torch.from_numpy(start.copy()).to(device).requires_grad_()
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
        order = torch.from_numpy(random_state.permutation(n_rows)).to(device)
        for rows in order.split(batch_size):
            x.grad = gradient(x, rows)
            adam.step()
            schedule.step()
        if on_epoch is not None:
            on_epoch(x.detach().cpu().numpy())
    return x.detach().cpu().numpy(), steps

"""Minimising the AdUE objective: L-BFGS from the original head and along a softened score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Vector: TypeAlias = npt.NDArray[np.float64]
ValueAndGradient: TypeAlias = Callable[[Vector], tuple[float, Vector]]

#: Sharpness of SmoothMax at each stage that lies below the target. With a sharp SmoothMax every
#: switch of the largest class is a ridge that a descent does not cross; with a soft one it is not.
CONTINUATION = (5.0, 10.0, 20.0, 50.0)
#: How well, and for how long at most, the stages before the last are solved.
_STAGE_TOL, _STAGE_ITER = 1e-3, 200
#: A failed line search restarts with a fresh curvature estimate this often.
_RESTARTS = 3


@dataclass(frozen=True)
class Solution:
    """A minimiser and how it was reached."""

    x: Vector
    value: float
    n_iter: int
    gradient_norm: float
    converged: bool


def minimize_lbfgs(
    function: ValueAndGradient, start: Vector, *, tol: float, max_iter: int
) -> Solution:
    """Minimise by L-BFGS until the largest gradient entry is at most ``tol``."""
    x, n_iter = start, 0
    for _ in range(_RESTARTS + 1):
        result: Any = minimize(
            function,
            x,
            jac=True,
            method="L-BFGS-B",
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


def minimize_continued(
    function: Callable[[Vector, float], tuple[float, Vector]],
    start: Vector,
    *,
    lam: float,
    tol: float,
    max_iter: int,
) -> Solution:
    """Minimise ``function(x, lam)``, which is not convex, from two starts; return the lower one.

    One descent starts at ``start``. The other continues in ``lam``: each sharper SmoothMax from
    the softer one's minimum. A saturated head needs the second, for the first stays where it is;
    for a head whose errors sit on its own decision boundary the first can end lower.
    """
    x, n_iter = start, 0
    for softer in CONTINUATION:
        if softer < lam:
            stage = minimize_lbfgs(
                partial(_swap, function, softer),
                x,
                tol=max(tol, _STAGE_TOL),
                max_iter=min(max_iter, _STAGE_ITER),
            )
            x, n_iter = stage.x, n_iter + stage.n_iter
    at_lam = partial(_swap, function, lam)
    solutions = [minimize_lbfgs(at_lam, start, tol=tol, max_iter=max_iter)]
    if x is not start:
        solutions.append(minimize_lbfgs(at_lam, x, tol=tol, max_iter=max_iter))
    best = min(solutions, key=lambda solution: solution.value)
    return replace(best, n_iter=n_iter + sum(solution.n_iter for solution in solutions))


def _swap(
    function: Callable[[Vector, float], tuple[float, Vector]], lam: float, x: Vector
) -> tuple[float, Vector]:
    return function(x, lam)

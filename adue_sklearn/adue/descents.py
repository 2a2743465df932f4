"""Where to start and which softer objectives to pass: the AdUE objective is not convex.

It is left from the original head directly and along softer objectives, and the lowest minimum is
taken. A saturated head, near which a descent stays, is also left from a softened one.

Weights are descended in units of the features' size, so that the same classifier takes the same
path whatever its features are counted in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from adue_sklearn.adue.solvers import Minima, Objective, Observer, minimize_lbfgs

#: Sharpness of SmoothMax at each stage that lies below the target. With a sharp SmoothMax every
#: switch of the largest class is a ridge that a descent does not cross; with a soft one it is not.
CONTINUATION = (5.0, 10.0, 20.0, 50.0)
#: Difference of the two largest logits from which a head counts as saturated.
_MODERATE_GAP = 3.0
#: Temperatures at most between a saturated head and a moderate one.
_MOST_TEMPERATURES = 8
#: Difference of the two largest logits beyond which float32 rounds it by more than 1.
_LARGEST_GAP = 2.0**24
#: Unit of weights in sizes of a feature. Of 1, 2, 3 and 4, on the heads of four real sets and on 30
#: random problems, 1 and 2 reached the lowest losses, 2 in fewer iterations.
_FEATURE_SIZES = 2.0
#: How well, and for how long at most, the stages before the last are solved.
_STAGE_TOL, _STAGE_ITER = 1e-3, 200


class Stage(NamedTuple):
    """An objective on the way: no SmoothMax sharper than ``lam``, logits over ``temperature``."""

    lam: float
    temperature: float


#: The objective itself.
TARGET = Stage(math.inf, 1.0)


class Problems(Protocol):
    """P problems that are descended together."""

    @property
    def sharpest(self) -> float:
        """The largest ``lam``; 0 for a score without one."""

    @property
    def typical_gap(self) -> float:
        """Median difference of the two largest original logits: how saturated the head is."""

    @property
    def units(self) -> Tensor:
        """What each entry of a problem is multiplied with for its descent (P or 1, m)."""

    def start(self) -> Tensor:
        """Return the original head (P, m)."""

    def softened(self, factor: float) -> Tensor:
        """Return the head that gives ``factor`` times the original logits (P, m)."""

    def objective(self, stage: Stage) -> Objective:
        """Return values and gradients, softened as the stage says."""


class Descent(NamedTuple):
    """Stages to pass, the last being the objective itself, and where to begin."""

    plan: Sequence[Stage]
    start: Tensor


def descents(problems: Problems) -> list[Descent]:
    """Return the descents of which the lowest minimum is the solution."""
    start, gap = problems.start(), problems.typical_gap
    if gap > _LARGEST_GAP:
        raise ValueError(
            f"X, init_W and init_b give logits whose two largest differ by {gap:.1e} in half of "
            f"the rows; expected at most {_LARGEST_GAP:.1e}. Beyond that, rounding errors prevent "
            "learning. "
            "Pass the unscaled features that enter the classifier's last layer."
        )
    found = [Descent(plan, start) for plan in _plans(problems.sharpest, gap)]
    if gap > _MODERATE_GAP:
        found.append(Descent([TARGET], problems.softened(_MODERATE_GAP / gap)))
    return found


def descend(
    problems: Problems,
    descent: Descent,
    *,
    tol: float,
    max_iter: int,
    on_iteration: Observer | None = None,
) -> Minima:
    """Minimise stage after stage, each from the minima of the one before."""
    units = problems.units
    x, n_iter = descent.start * units, torch.zeros(len(descent.start), dtype=torch.int64)
    for stage in descent.plan:
        last = stage is descent.plan[-1]
        minima = minimize_lbfgs(
            _in_units(problems.objective(stage), units),
            x,
            tol=tol if last else max(tol, _STAGE_TOL),
            max_iter=max_iter if last else min(max_iter, _STAGE_ITER),
            on_iteration=on_iteration,
        )
        x, n_iter = minima.x, n_iter + minima.n_iter
    minima.x, minima.n_iter = x / units, n_iter
    return minima


def lowest(found: Sequence[Minima]) -> Minima:
    """Return each problem's lowest minimum; ``n_iter`` counts all its descents."""
    values = torch.stack([minima.value for minima in found]).nan_to_num(nan=math.inf)
    rows, which = torch.arange(values.shape[1]), values.argmin(dim=0)
    x = torch.stack([minima.x for minima in found])
    return Minima(
        x[which.to(x.device), rows.to(x.device)],
        values[which, rows],
        torch.stack([minima.gradient_norm for minima in found])[which, rows],
        torch.stack([minima.n_iter for minima in found]).sum(dim=0),
    )


def typical_gap(original: Tensor) -> float:
    """Return the median difference of the two largest logits (n, C): how saturated a head is."""
    top = original.topk(2, dim=1).values
    return float((top[:, 0] - top[:, 1]).median())


def units_of(X: Tensor, row_weights: Tensor) -> Tensor:
    """Return what weights are counted in (F,): a multiple of the features' root mean square.

    Rows (n, d) count by ``row_weights`` (F, n), each of which sums to one; 1 where
    all are zero or overflow.
    """
    squares = torch.linalg.vector_norm(X, dim=1, dtype=torch.float64).square() / X.shape[1]
    size = (row_weights @ squares).sqrt()
    usable = (size > 0) & torch.isfinite(size)
    return torch.where(usable, _FEATURE_SIZES * size, torch.ones_like(size))


def _in_units(objective: Objective, units: Tensor) -> Objective:
    """Return an objective as a function of its argument times ``units``."""
    known: tuple[Tensor | None, Tensor] = None, units

    def value_and_gradient(x: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal known
        if known[0] is not problems:
            known = problems, units if len(units) == 1 else units[problems]
        values, gradient = objective(x / known[1], problems)
        return values, gradient.div_(known[1])

    return value_and_gradient


def _plans(sharpest: float, gap: float) -> list[list[Stage]]:
    """Return the sequences of stages that are tried from the original head."""
    lams = [softer for softer in CONTINUATION if softer < sharpest]
    halvings = max(0, math.ceil(math.log2(gap / _MODERATE_GAP))) if gap > 0 else 0
    n_temperatures = min(halvings, _MOST_TEMPERATURES)
    # Halved; from a head so saturated that this takes long, divided by more.
    ratio = 2.0 if halvings <= _MOST_TEMPERATURES else (gap / _MODERATE_GAP) ** (1 / n_temperatures)
    temperatures = [gap / _MODERATE_GAP / ratio**k for k in range(n_temperatures)]
    plans = [[TARGET]]
    if lams:
        plans.append([*(Stage(softer, 1.0) for softer in lams), TARGET])
    if temperatures:
        length = max(len(lams), len(temperatures))
        lams = lams + [math.inf] * (length - len(lams))
        temperatures += [1.0] * (length - len(temperatures))
        plans.append([*map(Stage, lams, temperatures), TARGET])
    return plans

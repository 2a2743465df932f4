"""Many AdUE problems over the same features as one: shared products, a line search each.

Every problem has its own weights of the three terms, its own sharpness and its own subset of the
rows. All heads are multiplied with the features in one product; a problem that has converged
leaves the stack, so that the product shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adue_sklearn.adue.objective import Measure, Scale, row_losses

#: Pairs of steps and gradient changes that L-BFGS remembers.
_MEMORY = 10
#: Constants of the Wolfe conditions.
_ARMIJO, _CURVATURE = 1e-4, 0.9
#: Evaluations of one line search before the memory is dropped.
_LINE_SEARCH = 20


@dataclass(frozen=True)
class Stack:
    """P problems over one set of n rows.

    ``X`` (n, d) features, float32 or float64; ``original`` (n, C) original logits; ``errors`` (n,)
    and ``reference`` (n,) as in :func:`adue_sklearn.adue.objective.row_losses`. ``row_weights``
    (P, n) are what each row counts for in each problem's mean (0 outside its fold; they sum to
    one), ``error_weights`` (P, n) or None. ``alpha``, ``beta``, ``lam`` (P,).
    """

    X: Tensor
    original: Tensor
    errors: Tensor
    reference: Tensor
    row_weights: Tensor
    alpha: Tensor
    beta: Tensor
    lam: Tensor
    has_bias: bool
    scale: Scale
    measure: Measure
    error_weights: Tensor | None = None

    def select(self, problems: Tensor) -> Stack:
        """Return some of the problems."""
        weights = self.error_weights
        return Stack(
            self.X,
            self.original,
            self.errors,
            self.reference,
            self.row_weights[problems],
            self.alpha[problems],
            self.beta[problems],
            self.lam[problems],
            self.has_bias,
            self.scale,
            self.measure,
            None if weights is None else weights[problems],
        )

    @property
    def n_parameters(self) -> int:
        """Length of one problem's vector."""
        return self.original.shape[1] * (self.X.shape[1] + self.has_bias)

    def logits(self, shifts: Tensor) -> Tensor:
        """Return the logits (P, n, C) of heads at their shifts (P, m)."""
        n_classes, n_features = self.original.shape[1], self.X.shape[1]
        split = n_classes * n_features
        dW = shifts[:, :split].reshape(-1, n_features)
        z = (dW.to(self.X.dtype) @ self.X.T).to(torch.float64)
        z = z.reshape(len(shifts), n_classes, -1).transpose(1, 2) + self.original
        return z + shifts[:, None, split:] if self.has_bias else z

    def value_and_gradient(
        self, shifts: Tensor, lam: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return objectives (P,) and gradients (P, m) at shifts (P, m)."""
        z = self.logits(shifts) / temperature[:, None, None]
        cross_entropy, regularization, dz = row_losses(
            z,
            self.errors,
            self.reference,
            lam=lam[:, None],
            scale=self.scale,
            alpha=self.alpha[:, None],
            measure=self.measure,
            error_weights=self.error_weights,
        )
        losses = ((cross_entropy + regularization) * self.row_weights).sum(dim=1)
        dz *= (self.row_weights / temperature[:, None])[..., None]
        by_head = dz.transpose(1, 2).reshape(-1, z.shape[1]).to(self.X.dtype)
        gradients = (by_head @ self.X).to(torch.float64).reshape(len(shifts), -1)
        if self.has_bias:
            gradients = torch.cat([gradients, dz.sum(dim=1)], dim=1)
        values = losses + self.beta * shifts.square().sum(dim=1)
        return values, gradients + 2.0 * self.beta[:, None] * shifts


@dataclass
class Minima:
    """Where the problems of a stack ended."""

    x: Tensor
    value: Tensor
    gradient_norm: Tensor
    n_iter: Tensor

    def converged(self, tol: float) -> Tensor:
        """Return where no gradient entry is above ``tol``."""
        return self.gradient_norm <= tol


@dataclass
class _Memory:
    """The last steps and gradient changes of every problem, for the two-loop recursion."""

    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def add(self, step: Tensor, change: Tensor) -> None:
        curvature = (step * change).sum(dim=1)
        # Where a pair has no positive curvature it is left out: zeros change nothing.
        good = curvature > 1e-12 * change.square().sum(dim=1).clamp(min=1e-300)
        self.steps.append(torch.where(good[:, None], step, 0.0))
        self.changes.append(torch.where(good[:, None], change, 0.0))
        del self.steps[:-_MEMORY], self.changes[:-_MEMORY]

    def forget(self, problems: Tensor) -> None:
        for tensor in (*self.steps, *self.changes):
            tensor[problems] = 0.0

    def select(self, problems: Tensor) -> None:
        self.steps = [step[problems] for step in self.steps]
        self.changes = [change[problems] for change in self.changes]

    def direction(self, gradient: Tensor) -> Tensor:
        """Return minus the inverse-Hessian estimate times the gradient, problem by problem."""
        q = gradient.clone()
        shares = []
        for step, change in zip(reversed(self.steps), reversed(self.changes), strict=True):
            rho = _inverse((step * change).sum(dim=1))
            share = rho * (step * q).sum(dim=1)
            q -= share[:, None] * change
            shares.append((rho, share))
        q *= self._initial_scale(gradient)[:, None]
        for (rho, share), step, change in zip(
            reversed(shares), self.steps, self.changes, strict=True
        ):
            q += step * (share - rho * (change * q).sum(dim=1))[:, None]
        return -q

    def _initial_scale(self, gradient: Tensor) -> Tensor:
        """Return the curvature of the latest pair; before there is one, a step of length one."""
        scale = 1.0 / gradient.norm(dim=1).clamp(min=1.0)
        for step, change in zip(self.steps, self.changes, strict=True):
            squares = change.square().sum(dim=1)
            scale = torch.where(
                squares > 0, (step * change).sum(dim=1) / squares.clamp(min=1e-300), scale
            )
        return scale


def minimize_stack(
    stack: Stack, start: Tensor, *, temperature: Tensor, tol: float, max_iter: int
) -> Minima:
    """Minimise every problem by L-BFGS with a line search of its own.

    Parameters
    ----------
    stack : Stack
        P problems.
    start : Tensor of float64 of shape (P, m)
        Where each begins.
    temperature : Tensor of shape (P,)
        What each problem's logits are divided by.
    tol : float
        A problem leaves when no entry of its gradient is larger.
    max_iter : int
        Most iterations of a problem.

    Returns
    -------
    Minima
    """
    n_problems = len(start)
    done = Minima(
        start.clone(),
        torch.empty(n_problems, dtype=torch.float64, device=start.device),
        torch.full((n_problems,), torch.inf, dtype=torch.float64, device=start.device),
        torch.zeros(n_problems, dtype=torch.int64, device=start.device),
    )
    active = torch.arange(n_problems, device=start.device)
    x, memory = start.clone(), _Memory()
    value, gradient = stack.value_and_gradient(x, stack.lam, temperature)
    for iteration in range(max_iter + 1):
        norm = gradient.abs().amax(dim=1)
        done.x[active], done.value[active] = x, value
        done.gradient_norm[active], done.n_iter[active] = norm, iteration
        going = norm > tol
        if iteration == max_iter or not bool(going.any()):
            break
        if not bool(going.all()):
            kept = torch.nonzero(going).ravel()
            active, stack, temperature = active[kept], stack.select(kept), temperature[kept]
            x, value, gradient = x[kept], value[kept], gradient[kept]
            memory.select(kept)
        direction = memory.direction(gradient)
        uphill = (direction * gradient).sum(dim=1) >= 0
        if bool(uphill.any()):
            memory.forget(uphill)
            direction = torch.where(uphill[:, None], memory.direction(gradient), direction)
        moved, new_value, new_gradient = _line_search(
            stack, x, value, gradient, direction, temperature
        )
        stuck = (moved == 0.0).all(dim=1)
        memory.add(moved, new_gradient - gradient)
        if bool(stuck.any()):
            memory.forget(stuck)
            hopeless = stuck & (iteration > 0)
            if bool(hopeless.all()):
                break
        x, value, gradient = x + moved, new_value, new_gradient
    return done


def _line_search(
    stack: Stack,
    x: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    temperature: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find a step that satisfies the weak Wolfe conditions, by bisection, for every problem.

    Returns the steps (P, m), zero where none was found, with values and gradients there.
    """
    slope = (direction * gradient).sum(dim=1)
    low, high = torch.zeros_like(value), torch.full_like(value, torch.inf)
    length = torch.ones_like(value)
    best_length = torch.zeros_like(value)
    best_value, best_gradient = value.clone(), gradient.clone()
    open_ = torch.arange(len(value), device=value.device)
    for _ in range(_LINE_SEARCH):
        part = stack.select(open_) if len(open_) < len(value) else stack
        t, d = length[open_], direction[open_]
        new_value, new_gradient = part.value_and_gradient(
            x[open_] + t[:, None] * d, part.lam, temperature[open_]
        )
        new_slope = (new_gradient * d).sum(dim=1)
        too_far = ~(new_value <= value[open_] + _ARMIJO * t * slope[open_])
        too_short = ~too_far & (new_slope < _CURVATURE * slope[open_])
        better = ~too_far
        taken = open_[better]
        best_length[taken] = t[better]
        best_value[taken], best_gradient[taken] = new_value[better], new_gradient[better]
        high[open_[too_far]] = t[too_far]
        low[open_[too_short]] = t[too_short]
        open_ = open_[too_far | too_short]
        if len(open_) == 0:
            break
        middle = (low + high) / 2.0
        length = torch.where(torch.isinf(high), 2.0 * length, middle)
    return best_length[:, None] * direction, best_value, best_gradient


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1.0 / values.clamp(min=1e-300), 0.0)

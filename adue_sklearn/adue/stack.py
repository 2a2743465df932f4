"""Many AdUE problems with a linear head over the same features, as one.

Every problem has its own weights of the three terms, its own sharpness and its fold of the rows.
All heads are multiplied with the features in one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from adue_sklearn.adue.descents import Stage, typical_gap
from adue_sklearn.adue.objective import Measure, RowLoss, Scale, adue_score
from adue_sklearn.adue.solvers import Objective

#: Logits that are worked on at a time: on a CPU, for each thread, few enough to stay in its cache.
_BLOCK = {"cpu": 2**15, "cuda": 2**24}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """P problems over one set of n rows.

    A problem is a vector: weights and biases of the head's change, class after class. The two
    rows of a binary head only ever move against each other, so that their difference over the
    square root of two is enough; that keeps lengths as they are.

    Parameters
    ----------
    X : Tensor of float32 or float64 of shape (n, d)
        Features.
    original : Tensor of float64 of shape (n, C)
        Logits of the original head.
    head : Tensor of shape (C, d) or (C, d + 1)
        The original head, its bias as the last column if it has one.
    errors, reference : Tensor of shape (n,)
        As in :meth:`adue_sklearn.adue.objective.RowLoss.of_logits`.
    row_weights : Tensor of shape (F, n)
        What each row counts for in the mean, by fold: 0 outside it; each fold sums to one.
    error_weights : Tensor of shape (F, n) or None
        Weights in the cross-entropy, by fold.
    fold : Tensor of int64 of shape (P,)
        Each problem's fold.
    alpha, beta, lam : Tensor of float64 of shape (P,)
        Each problem's setting.
    scale, measure
        As in :class:`adue_sklearn.AdUEEstimator`; the same for all.
    weight_units : Tensor of float64 of shape (F,)
        What weights are counted in during a descent, by the size of a fold's features.
    """

    X: Tensor
    original: Tensor
    head: Tensor
    errors: Tensor
    reference: Tensor
    row_weights: Tensor
    error_weights: Tensor | None
    fold: Tensor
    alpha: Tensor
    beta: Tensor
    lam: Tensor
    scale: Scale
    measure: Measure
    weight_units: Tensor

    def __len__(self) -> int:
        return len(self.lam)

    def __getitem__(self, problems: Tensor | slice) -> Stack:
        """Return some of the problems."""
        return replace(
            self,
            fold=self.fold[problems],
            alpha=self.alpha[problems],
            beta=self.beta[problems],
            lam=self.lam[problems],
        )

    @property
    def sharpest(self) -> float:
        """The largest ``lam``; 0 for the entropy, which has none."""
        return 0.0 if self.measure == "entropy" else float(self.lam.max())

    @property
    def typical_gap(self) -> float:
        """Median difference of the two largest original logits."""
        return typical_gap(self.original)

    @property
    def units(self) -> Tensor:
        """The unit of weights in a problem's fold, 1 for biases (P, m)."""
        in_weights = self._n_outputs * self.X.shape[1]
        n_biases = self._n_outputs * (self.head.shape[1] - self.X.shape[1])
        units = self.original.new_ones(len(self), in_weights + n_biases)
        units[:, :in_weights] = self.weight_units[self.fold][:, None]
        return units

    def start(self) -> Tensor:
        """Return the original head (P, m): zeros."""
        return self.softened(1.0)

    def softened(self, factor: float) -> Tensor:
        """Return the head that gives ``factor`` times the original logits (P, m)."""
        head = (self.head[1:] - self.head[:1]) / math.sqrt(2.0) if self._binary else self.head
        d = self.X.shape[1]
        vector = torch.cat([head[:, :d].ravel(), head[:, d:].ravel()])
        return ((factor - 1.0) * vector).expand(len(self), -1).clone()

    def shifts(self, x: Tensor) -> Tensor:
        """Return the change of all weights, then of all biases (P, C d [+ C])."""
        if not self._binary:
            return x
        d = self.X.shape[1]
        half = x / math.sqrt(2.0)
        return torch.cat([-half[:, :d], half[:, :d], -half[:, d:], half[:, d:]], dim=1)

    def uncertainty(self, x: Tensor) -> Tensor:
        """Return the scores (P, n) of all rows at ``x`` (P, m)."""
        products = self._products(x)
        return torch.cat(
            [
                adue_score(
                    self._logits(products[part], x[part]),
                    self.lam[part, None],
                    self.scale,
                    self.measure,
                )
                for part in self._blocks(len(x))
            ]
        )

    def objective(self, stage: Stage) -> Objective:
        """Return values and gradients, softened as the stage says."""
        return _Evaluation(self, stage)

    @cached_property
    def _original_gap(self) -> Tensor:
        return self.original[:, 1] - self.original[:, 0]

    @property
    def _binary(self) -> bool:
        return self.original.shape[1] == 2

    @property
    def _n_outputs(self) -> int:
        return 1 if self._binary else self.original.shape[1]

    def _products(self, x: Tensor) -> Tensor:
        """Return the products of weights and features (P, outputs, n), in the dtype of ``X``."""
        n_features = self.X.shape[1]
        weights = x[:, : self._n_outputs * n_features].reshape(-1, n_features)
        return (weights.to(self.X.dtype) @ self.X.T).reshape(len(x), self._n_outputs, -1)

    def _gaps(self, products: Tensor, x: Tensor) -> Tensor:
        """Return the second logit minus the first (P, n) of a binary head."""
        gap = torch.add(self._original_gap, products[:, 0], alpha=math.sqrt(2.0))
        return gap.add_(x[:, -1:], alpha=math.sqrt(2.0)) if x.shape[1] > self.X.shape[1] else gap

    def _logits(self, products: Tensor, x: Tensor) -> Tensor:
        """Return the logits (P, n, C), up to what is common to both in a binary head."""
        if self._binary:
            half = self._gaps(products, x)[..., None] / 2.0
            return torch.cat([-half, half], dim=2)
        z = products.transpose(1, 2) + self.original
        bias = x[:, self._n_outputs * self.X.shape[1] :]
        return z.add_(bias[:, None]) if bias.shape[1] else z

    def _of_folds(self, weights: Tensor) -> Tensor:
        """Return weights (F, n) of folds for each problem (P, n)."""
        return weights if len(weights) == 1 else weights[self.fold]

    def _blocks(self, n_problems: int) -> list[slice]:
        on_cpu = self.X.device.type == "cpu"
        block = _BLOCK["cpu"] * torch.get_num_threads() if on_cpu else _BLOCK["cuda"]
        size = max(1, block // max(1, len(self.X) * self._n_outputs))
        return [slice(i, i + size) for i in range(0, n_problems, size)]


class _Evaluation:
    """Values and gradients of a stack's problems, softened as a stage says.

    What depends on the settings of the problems alone is kept as long as they stay the same.
    """

    def __init__(self, stack: Stack, stage: Stage) -> None:
        self._all, self._stage = stack, stage
        self._problems: Tensor | None = None

    def __call__(self, x: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        if problems is not self._problems:
            self._problems, self._stack = problems, self._all[problems]
            self._losses = [
                (part, self._stack[part], self._loss(self._stack[part]))
                for part in self._stack._blocks(len(problems))
            ]
        stack, beta = self._stack, self._stack.beta
        products = stack._products(x)
        values = beta * x.square().sum(dim=1)
        gradient = torch.empty_like(x)
        in_weights = stack._n_outputs * stack.X.shape[1]
        for part, of_part, loss in self._losses:
            losses, dz = self._mean(of_part, loss, products[part], x[part])
            values[part] += losses
            if in_weights < x.shape[1]:
                torch.sum(dz, dim=2, out=gradient[part, in_weights:])
            products[part] = dz  # as derivatives from here on
        of_weights = products.reshape(-1, len(stack.X)) @ stack.X
        gradient[:, :in_weights] = of_weights.reshape(len(x), -1)
        return values, gradient.addcmul_(x, beta[:, None], value=2.0)

    def _loss(self, stack: Stack) -> RowLoss:
        return RowLoss(
            stack.original.shape[1],
            stack.X.device,
            lam=stack.lam.clamp(max=self._stage.lam)[:, None],
            scale=stack.scale,
            alpha=stack.alpha[:, None],
            measure=stack.measure,
        )

    def _mean(
        self, stack: Stack, loss: RowLoss, products: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each problem's mean loss (P,) and its derivatives (P, outputs, n)."""
        of_row, z = (
            (loss.of_gap, stack._gaps(products, x))
            if stack._binary
            else (loss.of_logits, stack._logits(products, x))
        )
        if self._stage.temperature != 1.0:
            z /= self._stage.temperature
        cross_entropy, regularization, dz = of_row(
            z,
            stack.errors,
            stack.reference,
            None if stack.error_weights is None else stack._of_folds(stack.error_weights),
        )
        weights = stack._of_folds(stack.row_weights)
        mean = ((cross_entropy + regularization) * weights).sum(dim=1)
        if stack._binary:
            return mean, (dz * (weights * (math.sqrt(2.0) / self._stage.temperature)))[:, None]
        if self._stage.temperature != 1.0:
            weights = weights / self._stage.temperature
        return mean, dz.transpose(1, 2) * weights[:, None]

"""Many AdUE problems with a linear head over the same features, as one.

Every problem has its own weights of the three terms, its own sharpness and its fold of the rows.
All heads are multiplied with the features in one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adue_sklearn.adue.descents import Stage, typical_gap
from adue_sklearn.adue.objective import (
    Measure,
    Scale,
    adue_score,
    row_losses,
    two_class_losses,
)
from adue_sklearn.adue.solvers import Objective

#: Logits that are worked on at a time: on a CPU, for each thread, few enough to stay in its cache.
_BLOCK = {"cpu": 2**15, "cuda": 2**24}


@dataclass(frozen=True)
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
        As in :func:`adue_sklearn.adue.objective.row_losses`.
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

        def value_and_gradient(x: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
            return self[problems]._value_and_gradient(x, stage)

        return value_and_gradient

    @property
    def _binary(self) -> bool:
        return self.original.shape[1] == 2

    @property
    def _n_outputs(self) -> int:
        return 1 if self._binary else self.original.shape[1]

    def _value_and_gradient(self, x: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        products = self._products(x)
        values = self.beta * x.square().sum(dim=1)
        of_bias = x.new_empty(products.shape[:2])
        for part in self._blocks(len(x)):
            losses, dz = self[part]._losses(products[part], x[part], stage)
            values[part] += losses
            of_bias[part] = dz.sum(dim=2)
            products[part] = dz  # as derivatives from here on
        gradient = (products.reshape(-1, len(self.X)) @ self.X).to(torch.float64)
        gradient = gradient.reshape(len(x), -1)
        if gradient.shape[1] < x.shape[1]:
            gradient = torch.cat([gradient, of_bias], dim=1)
        return values, gradient.addcmul_(x, self.beta[:, None], value=2.0)

    def _products(self, x: Tensor) -> Tensor:
        """Return the products of weights and features (P, outputs, n), in the dtype of ``X``."""
        n_features = self.X.shape[1]
        weights = x[:, : self._n_outputs * n_features].reshape(-1, n_features)
        return (weights.to(self.X.dtype) @ self.X.T).reshape(len(x), self._n_outputs, -1)

    def _losses(self, products: Tensor, x: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return each problem's mean loss (P,) and its derivatives (P, outputs, n)."""
        losses = two_class_losses if self._binary else row_losses
        z = self._gaps(products, x) if self._binary else self._logits(products, x)
        weights = self.row_weights[self.fold]
        cross_entropy, regularization, dz = losses(
            z / stage.temperature,
            self.errors,
            self.reference,
            lam=self.lam.clamp(max=stage.lam)[:, None],
            scale=self.scale,
            alpha=self.alpha[:, None],
            measure=self.measure,
            error_weights=None if self.error_weights is None else self.error_weights[self.fold],
        )
        mean = ((cross_entropy + regularization) * weights).sum(dim=1)
        if self._binary:
            return mean, (dz * weights * (math.sqrt(2.0) / stage.temperature))[:, None]
        return mean, dz.transpose(1, 2) * weights[:, None] / stage.temperature

    def _gaps(self, products: Tensor, x: Tensor) -> Tensor:
        """Return the second logit minus the first (P, n) of a binary head."""
        change = products[:, 0].to(torch.float64)
        if x.shape[1] > self.X.shape[1]:
            change += x[:, -1:]
        return self.original[:, 1] - self.original[:, 0] + math.sqrt(2.0) * change

    def _logits(self, products: Tensor, x: Tensor) -> Tensor:
        """Return the logits (P, n, C), up to what is common to both in a binary head."""
        if self._binary:
            half = self._gaps(products, x)[..., None] / 2.0
            return torch.cat([-half, half], dim=2)
        z = products.to(torch.float64).transpose(1, 2) + self.original
        bias = x[:, self._n_outputs * self.X.shape[1] :]
        return z + bias[:, None] if bias.shape[1] else z

    def _blocks(self, n_problems: int) -> list[slice]:
        on_cpu = self.X.device.type == "cpu"
        block = _BLOCK["cpu"] * torch.get_num_threads() if on_cpu else _BLOCK["cuda"]
        size = max(1, block // max(1, len(self.X) * self._n_outputs))
        return [slice(i, i + size) for i in range(0, n_problems, size)]

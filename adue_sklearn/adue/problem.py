"""The AdUE objective of one head, of any depth, as a function of one flat vector."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from adue_sklearn._utils.arrays import Array, exact_products, gemm_dtype, to_tensor
from adue_sklearn._utils.head import ACTIVATIONS, BoolArray, FloatArray, Head
from adue_sklearn.adue.descents import TARGET, Stage, typical_gap, units_of
from adue_sklearn.adue.objective import LossTerms, Measure, RowLoss, Scale, reference_score
from adue_sklearn.adue.solvers import Objective
from adue_sklearn.adue.stack import Stack

ErrorWeight = Literal["balanced"] | None


class HeadProblem:
    """Loss and gradient at ``theta = theta_init + shift``, all layers in one vector ``shift``.

    Of a linear head only the shift is multiplied with the features, in their own dtype, and added
    to the original logits in float64: rounding shrinks with the shift. The loss's derivative by
    the logits is analytic; autograd carries it through the layers.

    Parameters
    ----------
    X : array or tensor of shape (n, d)
        What enters the first layer.
    original : Tensor of float64 of shape (n, C)
        Logits of the original head.
    errors : ndarray of bool of shape (n,)
        Where the original head is wrong.
    head : Head
        Where the search starts and is anchored.
    alpha, beta, lam, scale, measure, error_weight
        As in :class:`adue_sklearn.AdUEEstimator`.
    """

    def __init__(
        self,
        X: Array,
        original: Tensor,
        errors: BoolArray,
        head: Head,
        *,
        alpha: float,
        beta: float,
        lam: float,
        scale: Scale,
        measure: Measure,
        error_weight: ErrorWeight,
    ) -> None:
        device = original.device
        self._X = to_tensor(X, device, gemm_dtype(X))
        self._row_weights = original.new_full((1, len(original)), 1.0 / len(original))
        self._weight_units = units_of(self._X, self._row_weights)
        self._original = original
        self._lam = lam
        self._errors = torch.as_tensor(errors, dtype=torch.float64, device=device)
        self._reference = reference_score(original, scale, measure)
        self._error_weights = None
        if error_weight == "balanced":
            self._error_weights = balanced_weights(self._errors, self._errors.mean())
        self._head = head
        self._alpha, self._beta, self._scale, self._measure = alpha, beta, scale, measure
        self._shapes = [None if part is None else part.shape for part in _parts(head)]
        self._init = torch.from_numpy(_flat(head)).to(device)
        self._target_loss = self._loss(TARGET)

    def __len__(self) -> int:
        return len(self._original)

    @property
    def is_linear(self) -> bool:
        """Whether the head has one layer."""
        return self._head.is_linear

    @property
    def sharpest(self) -> float:
        """``lam``; 0 for the entropy, which has none."""
        return 0.0 if self._measure == "entropy" else self._lam

    @property
    def typical_gap(self) -> float:
        """Median difference of the two largest original logits."""
        return typical_gap(self._original)

    @property
    def units(self) -> Tensor:
        """The unit of weights of the first layer, 1 for all else (1, m)."""
        units = torch.ones_like(self._init)
        units[: self._head.weights[0].size] = self._weight_units
        return units[None]

    def start(self) -> Tensor:
        """Return the change of the original head (1, m): zeros."""
        return self.softened(1.0)

    def softened(self, factor: float) -> Tensor:
        """Return the change (1, m) that gives ``factor`` times the original logits."""
        vector = self._init.clone()
        in_last = sum(math.prod(shape) for shape in self._shapes[-2:] if shape is not None)
        vector[: len(vector) - in_last] = 0.0
        return ((factor - 1.0) * vector)[None]

    def objective(self, stage: Stage) -> Objective:
        """Return value and gradient, softened as the stage says."""
        loss = self._loss(stage)

        def value_and_gradient(x: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
            shift = x[0].clone().requires_grad_()
            losses, gradient = self._losses_and_gradient(shift, stage, loss)
            value = losses.mean() + self._beta * x.square().sum()
            return value[None], gradient[None] + 2.0 * self._beta * x

        return value_and_gradient

    def shifts(self, x: Tensor) -> Tensor:
        """Return the change of the head (1, m): ``x`` itself."""
        return x

    def batch_gradient(
        self, shift: Tensor, rows: Tensor, *, dropout: float, generator: torch.Generator
    ) -> Tensor:
        """Return the gradient at a shift over some rows, with dropout in deep heads."""
        keep = (1.0 - dropout, generator) if dropout > 0 else None
        _, gradient = self._losses_and_gradient(shift, TARGET, self._target_loss, rows, keep)
        return gradient + 2.0 * self._beta * shift.detach()

    def as_stack(self) -> Stack:
        """Return the problem of a linear head as a stack of one."""
        weights = self._error_weights
        one = torch.ones(1, dtype=torch.float64, device=self._original.device)
        return Stack(
            X=self._X,
            original=self._original,
            head=head_matrix(self._head).to(one.device),
            errors=self._errors,
            reference=self._reference,
            row_weights=self._row_weights,
            error_weights=None if weights is None else weights[None],
            fold=one.new_zeros(1, dtype=torch.int64),
            alpha=self._alpha * one,
            beta=self._beta * one,
            lam=self._lam * one,
            scale=self._scale,
            measure=self._measure,
            weight_units=self._weight_units,
        )

    @exact_products
    def terms(self, shift: Tensor) -> LossTerms:
        """Return the objective's three summands."""
        with torch.no_grad():
            z = self._network(shift)
        cross_entropy, regularization, _ = self._row_losses(z, self._target_loss, slice(None))
        return LossTerms(
            float(cross_entropy.mean()),
            float(regularization.mean()),
            self._beta * float(shift.square().sum()),
        )

    def head_at(self, shift: Tensor) -> Head:
        """Return the head at a shift."""
        flat = self._split(self._init + shift)
        parts = [None if part is None else part.cpu().numpy().copy() for part in flat]
        weights = tuple(part for part in parts[::2] if part is not None)
        return replace(self._head, weights=weights, biases=tuple(parts[1::2]))

    def _losses_and_gradient(
        self,
        flat: Tensor,
        stage: Stage,
        loss: RowLoss,
        rows: Tensor | slice = slice(None),
        keep: tuple[float, torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = self._network(flat, rows, keep)
        cross_entropy, regularization, dz = self._row_losses(
            z.detach() / stage.temperature, loss, rows
        )
        (gradient,) = torch.autograd.grad(z, flat, dz / (len(dz) * stage.temperature))
        return cross_entropy + regularization, gradient

    def _loss(self, stage: Stage) -> RowLoss:
        return RowLoss(
            self._original.shape[1],
            self._original.device,
            lam=min(self._lam, stage.lam),
            scale=self._scale,
            alpha=self._alpha,
            measure=self._measure,
        )

    def _row_losses(
        self, z: Tensor, loss: RowLoss, rows: Tensor | slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = self._error_weights
        of_rows = None if weights is None else weights[rows]
        return loss.of_logits(z, self._errors[rows], self._reference[rows], of_rows)

    def _network(
        self,
        flat: Tensor,
        rows: Tensor | slice = slice(None),
        keep: tuple[float, torch.Generator] | None = None,
    ) -> Tensor:
        """Return logits (n, C) at a shift; ``keep`` drops inputs of layers at random."""
        X = self._X[rows]
        if self.is_linear:
            dW, db = self._split(flat)
            z = self._original[rows] + _product(X, dW)
            return z if db is None else z + db
        parts = self._split(self._init + flat)
        hidden = X
        for layer, (W, b) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
            if layer:
                hidden = ACTIVATIONS[str(self._head.activation)](hidden)
            if keep is not None:
                hidden = _drop(hidden, *keep)
            logits = _product(hidden, W) if b is None else _product(hidden, W) + b
            hidden = logits.to(X.dtype)  # enough between layers
        return logits

    def _split(self, flat: Tensor) -> list[Tensor | None]:
        """Return weights and biases in turn, as views of a flat vector."""
        sizes = [0 if shape is None else math.prod(shape) for shape in self._shapes]
        parts = zip(flat.split(sizes), self._shapes, strict=True)
        return [None if shape is None else part.reshape(shape) for part, shape in parts]


def head_matrix(head: Head) -> Tensor:
    """Return a linear head as one matrix (C, d [+ 1]), the bias last."""
    (W,), (b,) = head.weights, head.biases
    return torch.from_numpy(W if b is None else np.column_stack([W, b]))


def _flat(head: Head) -> FloatArray:
    """Return a head as one vector: weights and bias of each layer in turn."""
    return np.concatenate([part.ravel() for part in _parts(head) if part is not None])


def _parts(head: Head) -> list[FloatArray | None]:
    return [part for layer in zip(head.weights, head.biases, strict=True) for part in layer]


def _product(X: Tensor, W: Tensor | None) -> Tensor:
    """Return ``X @ W.T`` computed in the dtype of ``X``, as float64."""
    assert W is not None  # weights are never left out, only biases
    return (X @ W.T.to(X.dtype)).to(torch.float64)


def _drop(hidden: Tensor, keep: float, generator: torch.Generator) -> Tensor:
    mask = torch.empty(hidden.shape, device=hidden.device, dtype=hidden.dtype)
    return hidden * mask.bernoulli_(keep, generator=generator) / keep


def balanced_weights(errors: Tensor, share: Tensor) -> Tensor:
    """Return weights that make errors, that ``share`` of the rows, and correct rows count alike."""
    share = share.clamp(1e-9, 1.0 - 1e-9)  # folds may lack either
    return torch.where(errors > 0, 0.5 / share, 0.5 / (1.0 - share))

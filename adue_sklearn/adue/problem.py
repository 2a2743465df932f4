"""The AdUE objective of one head over all its layers, as a function of one flat vector."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from adue_sklearn._heads import ACTIVATIONS, BoolArray, OriginalHead
from adue_sklearn._torch import Array, gemm_dtype, to_tensor
from adue_sklearn.adue.objective import LossTerms, Measure, Scale, reference_score, row_losses
from adue_sklearn.adue.solvers import Stage, Vector

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
    head : OriginalHead
        Where the search starts and is anchored.
    activation : str or None
        Between the layers.
    alpha, beta, scale, measure, error_weight
        As in :class:`adue_sklearn.AdUEEstimator`.
    """

    def __init__(
        self,
        X: Array,
        original: Tensor,
        errors: BoolArray,
        head: OriginalHead,
        *,
        activation: str | None,
        alpha: float,
        beta: float,
        scale: Scale,
        measure: Measure,
        error_weight: ErrorWeight,
    ) -> None:
        device = original.device
        self._X = to_tensor(X, device, gemm_dtype(X))
        self._original = original
        self.typical_gap = typical_gap(original)
        self._errors = torch.as_tensor(errors, dtype=torch.float64, device=device)
        self._reference = reference_score(original, scale, measure)
        self._error_weights = _error_weights(self._errors, error_weight)
        self._head, self._activation = head, activation
        self._alpha, self._beta, self._scale, self._measure = alpha, beta, scale, measure
        parts = [part for layer in zip(head.weights, head.biases, strict=True) for part in layer]
        self._shapes = [None if part is None else part.shape for part in parts]
        self._init = torch.from_numpy(flat_head(head)).to(device)

    def __len__(self) -> int:
        return len(self._original)

    def start(self) -> Vector:
        """Return the shift of the original head: zeros."""
        return np.zeros(len(self._init))

    def softened(self, factor: float) -> Vector:
        """Return the shift that multiplies the original logits by ``factor``."""
        last = self._init.clone()
        in_last = sum(int(np.prod(shape)) for shape in self._shapes[-2:] if shape is not None)
        last[: len(last) - in_last] = 0.0
        return ((factor - 1.0) * last).cpu().numpy()

    def value_and_gradient(self, shift: Vector, stage: Stage) -> tuple[float, Vector]:
        """Return the objective (softened as ``stage`` says) and its gradient."""
        flat = torch.from_numpy(shift).to(self._init.device).requires_grad_()
        losses, gradient = self._losses_and_gradient(flat, stage)
        value = losses.mean() + self._beta * flat.detach().square().sum()
        return float(value), (gradient + 2.0 * self._beta * flat.detach()).cpu().numpy()

    def batch_gradient(
        self, flat: Tensor, rows: Tensor, *, lam: float, dropout: float, generator: torch.Generator
    ) -> Tensor:
        """Return the gradient at the shift ``flat`` over some rows, with dropout in deep heads."""
        keep = (1.0 - dropout, generator) if dropout > 0 else None
        _, gradient = self._losses_and_gradient(flat, Stage(lam, 1.0), rows, keep)
        return gradient + 2.0 * self._beta * flat.detach()

    def terms(self, shift: Vector, lam: float) -> LossTerms:
        """Return the objective's three summands."""
        flat = torch.from_numpy(shift).to(self._init.device)
        with torch.no_grad():
            z = self._network(flat)
        cross_entropy, regularization, _ = self._row_losses(z, Stage(lam, 1.0), slice(None))
        return LossTerms(
            float(cross_entropy.mean()),
            float(regularization.mean()),
            self._beta * float(flat.square().sum()),
        )

    def layers_at(self, shift: Vector) -> tuple[list[Vector], list[Vector | None]]:
        """Return weights and biases (None for a layer without) at a shift."""
        flat = self._init + torch.from_numpy(shift).to(self._init.device)
        parts = [None if part is None else part.cpu().numpy().copy() for part in self._split(flat)]
        return [part for part in parts[::2] if part is not None], parts[1::2]

    def _losses_and_gradient(
        self,
        flat: Tensor,
        stage: Stage,
        rows: Tensor | slice = slice(None),
        keep: tuple[float, torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = self._network(flat, rows, keep)
        cross_entropy, regularization, dz = self._row_losses(z.detach(), stage, rows)
        (gradient,) = torch.autograd.grad(z, flat, dz / (len(dz) * stage.temperature))
        return cross_entropy + regularization, gradient

    def _row_losses(
        self, z: Tensor, stage: Stage, rows: Tensor | slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = self._error_weights
        return row_losses(
            z / stage.temperature,
            self._errors[rows],
            self._reference[rows],
            lam=stage.lam,
            scale=self._scale,
            alpha=self._alpha,
            measure=self._measure,
            error_weights=None if weights is None else weights[rows],
        )

    def _network(
        self,
        flat: Tensor,
        rows: Tensor | slice = slice(None),
        keep: tuple[float, torch.Generator] | None = None,
    ) -> Tensor:
        """Return logits (n, C) at a shift; ``keep`` drops inputs of layers at random."""
        X = self._X[rows]
        if len(self._head.weights) == 1:
            dW, db = self._split(flat)
            z = self._original[rows] + _product(X, dW)
            return z if db is None else z + db
        parts = self._split(self._init + flat)
        hidden = X
        for layer, (W, b) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
            if layer:
                hidden = ACTIVATIONS[str(self._activation)](hidden)
            if keep is not None:
                hidden = _drop(hidden, *keep)
            logits = _product(hidden, W) if b is None else _product(hidden, W) + b
            hidden = logits.to(X.dtype)  # enough between layers
        return logits

    def _split(self, flat: Tensor) -> list[Tensor | None]:
        """Return weights and biases in turn, as views of a flat vector."""
        parts: list[Tensor | None] = []
        start = 0
        for shape in self._shapes:
            if shape is None:
                parts.append(None)
                continue
            size = int(np.prod(shape))
            parts.append(flat[start : start + size].reshape(shape))
            start += size
        return parts


def flat_head(head: OriginalHead) -> Vector:
    """Return a head as one vector: weights and bias of each layer in turn."""
    parts = [part for layer in zip(head.weights, head.biases, strict=True) for part in layer]
    return np.concatenate([part.ravel() for part in parts if part is not None])


def typical_gap(original: Tensor) -> float:
    """Return the median difference of the two largest logits (n, C): how saturated a head is."""
    top = original.topk(2, dim=1).values
    return float((top[:, 0] - top[:, 1]).median())


def _product(X: Tensor, W: Tensor | None) -> Tensor:
    """Return ``X @ W.T`` computed in the dtype of ``X``, as float64."""
    assert W is not None  # weights are never left out, only biases
    return (X @ W.T.to(X.dtype)).to(torch.float64)


def _drop(hidden: Tensor, keep: float, generator: torch.Generator) -> Tensor:
    mask = torch.empty(hidden.shape, device=hidden.device, dtype=hidden.dtype)
    return hidden * mask.bernoulli_(keep, generator=generator) / keep


def _error_weights(errors: Tensor, error_weight: ErrorWeight) -> Tensor | None:
    """Return weights that make errors and correct rows count alike, mean 1."""
    if error_weight is None:
        return None
    share = errors.mean()
    return torch.where(errors > 0, 0.5 / share.clamp(min=1e-300), 0.5 / (1.0 - share).clamp(1e-300))

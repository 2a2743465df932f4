"""The paper's Adam grid over heads, every setting with as many epochs in one stack.

Settings differ in learning rate, alpha and beta, but see the same rows in the same order, so one
product with the features serves all of them. Each head takes the steps that
``AdUEEstimator(solver="adam", scale="paper", random_state=seed)`` takes alone.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from adue_sklearn.adue.objective import RowLoss, adue_score, reference_score
from adue_sklearn.adue.solvers import one_cycle
from adue_sklearn.metrics import error_roc_auc_score

SCALE = "paper"


class LinearHead(NamedTuple):
    """Weights (C, d) and bias (C,) or None."""

    W: Tensor
    b: Tensor | None

    def logits(self, X: Tensor) -> Tensor:
        z = X.double() @ self.W.T
        return z if self.b is None else z + self.b


class HeadStack(NamedTuple):
    """Heads that a grid has trained: settings, and how far they moved ((G, C, d) and (G, C))."""

    settings: list[dict[str, float]]
    dW: Tensor
    db: Tensor | None

    def head(self, i: int, start: LinearHead) -> LinearHead:
        return LinearHead(start.W + self.dW[i], None if self.db is None else start.b + self.db[i])


class BestHead(NamedTuple):
    """The head with the highest validation ROC-AUC, its setting and that ROC-AUC."""

    head: LinearHead
    setting: dict[str, float]
    validation_roc_auc: float
    scores: list[float]


def best_of_grid(
    X: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor],
    head: LinearHead,
    grid: dict[str, Any],
    seed: int,
) -> BestHead:
    """Train the whole grid on ``X, labels`` and choose by error-ROC-AUC on the validation rows."""
    X_validation, y_validation = validation
    errors = (head.logits(X_validation).argmax(dim=1) != y_validation).cpu().numpy()
    trained = []
    for epochs in grid["epochs"]:
        stack = train_stack(X, labels, head, grid, epochs, seed)
        for i, setting in enumerate(stack.settings):
            candidate = stack.head(i, head)
            score = adue_score(candidate.logits(X_validation), grid["lam"], SCALE).cpu().numpy()
            trained.append((error_roc_auc_score(errors, score), setting, candidate))
    scores = [value for value, _, _ in trained]
    value, setting, chosen = trained[int(np.argmax(scores))]
    return BestHead(chosen, setting, value, scores)


def train_stack(
    X: Tensor, labels: Tensor, head: LinearHead, grid: dict[str, Any], epochs: int, seed: int
) -> HeadStack:
    """Train a head for every learning rate, alpha and beta of the grid."""
    rates = grid["learning_rate"]
    pairs = list(itertools.product(grid["alpha"], grid["beta"]))
    alphas, betas = torch.tensor(pairs, dtype=torch.float64, device=X.device).T.tile(len(rates))
    original = head.logits(X)
    errors = (original.argmax(dim=1) != labels).double()
    reference = reference_score(original, SCALE)

    # One tensor a learning rate, since that is what optimisers and schedules tell apart.
    weights = [X.new_zeros(len(pairs), *head.W.shape, dtype=torch.float64) for _ in rates]
    biases = [w.new_zeros(w.shape[:2]) for w in weights] if head.b is not None else []
    groups = [
        {"params": [weights[i], *biases[i : i + 1]], "lr": rate} for i, rate in enumerate(rates)
    ]
    adam = torch.optim.Adam(groups)
    steps = epochs * math.ceil(len(X) / grid["batch_size"])
    schedule = one_cycle(adam, rates, steps)
    random_state = check_random_state(seed)
    loss = RowLoss(
        original.shape[-1],
        original.device,
        lam=grid["lam"],
        scale=SCALE,
        alpha=alphas[:, None],
        measure="smoothmax",
    )
    random_state.randint(2**31)  # what AdUEEstimator draws for dropout
    for _ in range(epochs):
        order = torch.from_numpy(random_state.permutation(len(X))).to(X.device)
        for rows in order.split(grid["batch_size"]):
            dW = torch.cat(weights)
            z = original[rows] + _products(X[rows], dW)
            if biases:
                z = z + torch.cat(biases)[:, None]
            _, _, dz = loss.of_logits(z, errors[rows], reference[rows], None)
            dz /= len(rows)
            flat = dz.transpose(1, 2).flatten(0, 1).to(X.dtype)
            by_W = (flat @ X[rows]).double().view_as(dW) + 2.0 * betas[:, None, None] * dW
            _set_gradients(weights, by_W)
            if biases:
                _set_gradients(biases, dz.sum(dim=1) + 2.0 * betas[:, None] * torch.cat(biases))
            adam.step()
            schedule.step()
    settings = [
        {"learning_rate": rate, "epochs": epochs, "alpha": alpha, "beta": beta}
        for rate in rates
        for alpha, beta in pairs
    ]
    return HeadStack(settings, torch.cat(weights), torch.cat(biases) if biases else None)


def _products(X: Tensor, dW: Tensor) -> Tensor:
    """Return ``X @ dW[g].T`` for every head, (G, n, C) in float64, computed in X's dtype."""
    flat = X @ dW.flatten(0, 1).to(X.dtype).T
    return flat.double().view(len(X), *dW.shape[:2]).transpose(0, 1)


def _set_gradients(parameters: list[Tensor], gradient: Tensor) -> None:
    for parameter, part in zip(parameters, gradient.chunk(len(parameters)), strict=True):
        parameter.grad = part

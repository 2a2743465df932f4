"""Score and loss as the paper writes them."""

from __future__ import annotations

import math

import numpy as np
import torch

from adue_sklearn.adue.objective import PAPER_CLAMP, RowLoss


def plain_score(z, lam, scale, measure="smoothmax"):
    """Return the formula as it is written in the paper, for autograd."""
    n_classes = z.shape[-1]
    if measure == "entropy":
        p = torch.softmax(z, dim=-1)
        return -(p * torch.log(p)).sum(dim=-1) / math.log(n_classes)
    s = torch.logsumexp(lam * torch.softmax(z, dim=-1), dim=-1) / lam
    if scale == "paper":
        return 1 - s
    highest = np.logaddexp(lam, math.log(n_classes - 1)) / lam
    lowest = 1 / n_classes + math.log(n_classes) / lam
    return (highest - s) / (highest - lowest)


def plain_loss(z, errors, reference, lam, scale, alpha, measure="smoothmax"):
    score = plain_score(z, lam, scale, measure)
    inside = score.clamp(PAPER_CLAMP, 1 - PAPER_CLAMP) if scale == "paper" else score
    cross_entropy = -(errors * inside.log() + (1 - errors) * (1 - inside).log())
    return cross_entropy, alpha * (score - reference) ** 2


def row_losses(z, errors, reference, *, error_weights=None, measure="smoothmax", **setting):
    """Return both losses and d(both)/dz for one setting, or one a head."""
    loss = RowLoss(z.shape[-1], z.device, measure=measure, **setting)
    return loss.of_logits(z, errors, reference, error_weights)


def two_class_losses(gap, errors, reference, *, error_weights=None, measure="smoothmax", **setting):
    """Return what :func:`row_losses` does for two classes, by the second logit less the first."""
    loss = RowLoss(2, gap.device, measure=measure, **setting)
    return loss.of_gap(gap, errors, reference, error_weights)

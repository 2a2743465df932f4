r"""The AdUE score, its three-term loss and the analytic gradient.

Everything here is element-wise work on logits ``z`` (..., n, C) in float64; the matrix products
that make ``z`` belong to the caller. Two facts decide the form of the code.

* A confident row has ``1 - max p`` far under the spacing of floats around 1. Its score, the
  logarithm of its score and the gradient are therefore built from ``gap``, the log-odds of
  "any class but the largest", and never from ``1 - max(p)``.
* The score's gradient is proportional to ``eps = 1 - max p`` and so is the score: their ratio,
  which is what the cross-entropy of a wrong row needs, stays of order one. It is computed as a
  ratio, so that rows with ``eps`` under the smallest float still push the head.

Source: Zabolotnyi et al. (2025), arXiv 2505.15443, section 3; ``docs/method.md`` derives the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Scale = Literal["unit", "paper"]

#: The paper's scale clamps the score to this distance from 0 and 1 inside the cross-entropy.
PAPER_CLAMP = 1e-7
#: On the unit scale only exactly uniform probabilities reach 1; this keeps their loss finite.
UNIT_CEILING = 1e-12
#: Under this ``eps`` the ratio score / eps has reached its limit in float64.
_TINY = 1e-200


class TopClass(NamedTuple):
    """Probabilities seen from the largest class.

    ``largest`` (..., n, 1) is that class; ``eps`` (..., n) is ``1 - max p`` and ``log_eps`` its
    logarithm; ``share`` (..., n, C) the other classes' part in ``eps``, zero at ``largest``.
    """

    largest: Tensor
    log_eps: Tensor
    eps: Tensor
    share: Tensor


def top_class(z: Tensor) -> TopClass:
    """Split probabilities into the largest class and the distribution over the others."""
    maximum, largest = z.max(dim=-1, keepdim=True)
    others = (z - maximum).scatter(-1, largest, -math.inf)
    gap = others.logsumexp(dim=-1)
    return TopClass(
        largest,
        torch.nn.functional.logsigmoid(gap),
        torch.sigmoid(gap),
        torch.softmax(others, dim=-1),
    )


def softmax_response(z: Tensor) -> Tensor:
    """Return ``1 - max softmax(z)`` (..., n), exact for rows that round to 1."""
    return top_class(z).eps


class SmoothMax(NamedTuple):
    """``SmoothMax(p) = logsumexp(lam * p) / lam``, relative to a one-hot ``p``.

    ``ratio`` (..., n) is ``(s_max - s) / eps``; ``weight_top`` (..., n) and ``weight`` (..., n, C)
    are ``softmax(lam * p)`` at the largest class and (zero there) at the others.
    """

    ratio: Tensor
    weight_top: Tensor
    weight: Tensor


def smooth_max(top: TopClass, lam: float) -> SmoothMax:
    """Evaluate SmoothMax without cancellation (two forms, either side of ``lam * eps = 1``)."""
    n_classes = top.share.shape[-1]
    eps = top.eps
    p_others = eps[..., None] * top.share
    exp_lam = math.exp(-lam)
    at_one_hot = 1.0 + (n_classes - 1) * exp_lam

    # exp(-lam (max p - p_c)); the entry of the largest class itself is left out.
    relative = torch.exp(lam * (p_others - (1.0 - eps)[..., None]))
    relative = relative.scatter(-1, top.largest, 0.0)
    total = relative.sum(dim=-1)

    far = eps + (math.log(at_one_hot) - torch.log1p(total)) / lam
    # The form near one-hot overflows nowhere because it is used for lam * eps < 1 only.
    eps_near = eps.clamp(max=1.0 / lam)
    others_near = eps_near[..., None] * top.share
    shift = torch.expm1(-lam * eps_near) + exp_lam * torch.expm1(lam * others_near).sum(dim=-1)
    near = -torch.log1p(shift / at_one_hot) / lam

    distance = torch.where(lam * eps < 1.0, near, far)
    limit = -math.expm1(-lam) / at_one_hot
    ratio = torch.where(eps < _TINY, limit, distance / eps.clamp(min=_TINY))
    weight_top = 1.0 / (1.0 + total)
    return SmoothMax(ratio, weight_top, relative * weight_top[..., None])


def smooth_max_range(lam: float, n_classes: int) -> tuple[float, float]:
    """Return ``s_max - s_min`` and ``1 - s_max`` of SmoothMax over ``n_classes`` classes."""
    excess = math.log1p((n_classes - 1) * math.exp(-lam)) / lam
    return 1.0 - 1.0 / n_classes - math.log(n_classes) / lam + excess, -excess


def adue_score(z: Tensor, lam: float, scale: Scale) -> Tensor:
    """Return the AdUE uncertainty (..., n) of logits ``z`` (..., n, C).

    On the ``"unit"`` scale ``(s_max - s) / (s_max - s_min)``, in [0, 1]; on the ``"paper"`` scale
    ``1 - SmoothMax(p)`` as published, which may be negative. Both rank rows alike.
    """
    top = top_class(z)
    span, lowest = smooth_max_range(lam, z.shape[-1])
    distance = top.eps * smooth_max(top, lam).ratio
    if scale == "unit":
        return (distance / span).clamp(max=1.0)
    return lowest + distance


def reference_score(z: Tensor, scale: Scale) -> Tensor:
    """Return the softmax response (..., n) on the scale the AdUE score is drawn towards."""
    n_classes = z.shape[-1]
    return softmax_response(z) / (1.0 - 1.0 / n_classes if scale == "unit" else 1.0)


@dataclass(frozen=True)
class LossTerms:
    """The three terms as they enter the sum, weights included."""

    cross_entropy: float
    regularization: float
    l2sp: float

    @property
    def total(self) -> float:
        """The objective."""
        return self.cross_entropy + self.regularization + self.l2sp


def row_losses(
    z: Tensor, errors: Tensor, reference: Tensor, *, lam: float, scale: Scale, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return cross-entropy (n,), ``alpha * (U - U_SR)^2`` (n,) and d(both) / dz (n, C), row-wise.

    ``errors`` (n,) is 1.0 where the original head is wrong; ``reference`` (n,) is
    :func:`reference_score` of the original logits.
    """
    top = top_class(z)
    smooth = smooth_max(top, lam)
    span, lowest = smooth_max_range(lam, z.shape[-1])
    distance = top.eps * smooth.ratio
    # dU/dz = -(eps / span) * slope on the unit scale, -eps * slope on the paper's.
    slope = _slope(top, smooth)

    if scale == "unit":
        score = distance / span
        remaining = (span - distance) / span
        log_score = top.log_eps + torch.log(smooth.ratio / span)
        inside = remaining > UNIT_CEILING
        log_remaining = torch.log(remaining.clamp(min=UNIT_CEILING))
        # d(-log U)/dz and d(-log(1 - U))/dz as multiples of `slope`.
        per_error = 1.0 / smooth.ratio
        per_correct = torch.where(
            inside, -top.eps / (span * remaining.clamp(min=UNIT_CEILING)), 0.0
        )
        per_score = -top.eps / span
    else:
        score = lowest + distance
        clamped = score.clamp(PAPER_CLAMP, 1.0 - PAPER_CLAMP)
        inside = clamped == score
        log_score, log_remaining = torch.log(clamped), torch.log1p(-clamped)
        per_error = torch.where(inside, top.eps / clamped, 0.0)
        per_correct = torch.where(inside, -top.eps / (1.0 - clamped), 0.0)
        per_score = -top.eps

    deviation = score - reference
    cross_entropy = -torch.where(errors > 0, log_score, log_remaining)
    factor = torch.where(errors > 0, per_error, per_correct) + 2.0 * alpha * deviation * per_score
    return cross_entropy, alpha * deviation**2, factor[..., None] * slope


def _slope(top: TopClass, smooth: SmoothMax) -> Tensor:
    """Return ``(ds/dz) / eps`` (..., n, C): the softmax-Jacobian of SmoothMax over ``eps``."""
    inner = smooth.weight_top - (smooth.weight * top.share).sum(dim=-1)
    others = top.share * (
        smooth.weight - smooth.weight_top[..., None] + (top.eps * inner)[..., None]
    )
    return others.scatter(-1, top.largest, ((1.0 - top.eps) * inner)[..., None])

r"""The AdUE scores, the three-term loss and its analytic gradient, for one head or a stack of them.

Everything here is element-wise work on logits ``z`` (..., n, C) in float64; the matrix products
that make ``z`` belong to the caller. Two facts decide the form of the code.

* A confident row has ``1 - max p`` far under the spacing of floats around 1. Its score, the
  logarithm of its score and the gradient are therefore built from the log-odds of "any class but
  the largest", and never from ``1 - max(p)``.
* The distance of a score from its value at one-hot probabilities is proportional to
  ``eps = 1 - max p``, and so is its gradient. Their ratio, which is what the cross-entropy of a
  wrong row needs, stays of order one. It is computed as a ratio, so that rows with ``eps`` under
  the smallest float still push the head.

``lam`` and ``alpha`` may be numbers or tensors that broadcast against (..., n): one a head.

Sources: Zabolotnyi et al. (2025), arXiv 2505.15443, section 3 (``"smoothmax"``) and its second
version (``"entropy"``); ``docs/method.md`` has the algebra.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Measure = Literal["smoothmax", "entropy"]
Scale = Literal["unit", "paper"]
Number: TypeAlias = float | Tensor

#: The paper's scale clamps the score to this distance from 0 and 1 inside the cross-entropy.
PAPER_CLAMP = 1e-7
#: On the unit scale only exactly uniform probabilities reach 1; this keeps their loss finite.
UNIT_CEILING = 1e-12
#: Error of a distance: under this over the span, ``1 - U`` is rounding.
_ROUNDING = 1e-15
#: Under this ``eps`` a ratio to ``eps`` has reached its limit in float64.
_TINY = 1e-200


class TopClass(NamedTuple):
    """Probabilities seen from the largest class.

    ``largest`` (..., n, 1) is its number; ``others`` (..., n, C) are the logits less its own, minus
    infinity at itself, and ``gap`` (..., n) the log-odds of any of them; ``eps`` (..., n) is
    ``1 - max p`` and ``log_eps`` its logarithm; ``share`` (..., n, C) are their parts in ``eps``.
    """

    largest: Tensor
    others: Tensor
    gap: Tensor
    log_eps: Tensor
    eps: Tensor
    share: Tensor

    @property
    def log_share(self) -> Tensor:
        """Logarithm of ``share``, also where that has rounded to 0; the largest has -inf."""
        return self.others - self.gap[..., None]


def top_class(z: Tensor) -> TopClass:
    """Split probabilities into the largest class and the distribution over the others."""
    maximum, largest = z.max(dim=-1, keepdim=True)
    others = (z - maximum).scatter_(-1, largest, -math.inf)
    second = others.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(z.dtype).min)
    share = torch.exp(others - second)
    total = share.sum(dim=-1, keepdim=True)
    gap = (second + torch.log(total))[..., 0]
    log_eps = torch.nn.functional.logsigmoid(gap)
    return TopClass(largest, others, gap, log_eps, torch.sigmoid(gap), share.div_(total))


def softmax_response(z: Tensor) -> Tensor:
    """Return ``1 - max softmax(z)`` (..., n), exact for rows that round to 1."""
    return top_class(z).eps


class Distance(NamedTuple):
    """A score's distance from its value at one-hot probabilities, over ``eps``.

    ``ratio`` (..., n) is the distance over ``eps``, ``slope_top`` (..., n) and ``slope_others``
    (..., n, C) its derivatives by the logits over ``eps``; the latter are 0 at the largest class.
    """

    ratio: Tensor
    slope_top: Tensor
    slope_others: Tensor


class Sharpness(NamedTuple):
    """``lam`` of each row of logits, and what depends on it alone."""

    lam: Tensor
    #: The sum of the classes' weights at one-hot probabilities, that of the largest being 1.
    at_one_hot: Tensor


def sharpness(lam: Tensor, n_classes: int) -> Sharpness:
    """Return the constants of SmoothMax over so many classes."""
    return Sharpness(lam, 1.0 + (n_classes - 1) * torch.exp(-lam))


def smooth_max_distance(top: TopClass, by: Sharpness) -> Distance:
    """Return ``s_max - s`` for ``s = logsumexp(lam p) / lam``, without cancellation."""
    eps, share, per_row = top.eps, top.share, by.lam[..., None]
    # From here on the ratio has reached its limit.
    small = eps.clamp(min=_TINY)[..., None]
    below = -per_row * torch.addcmul(small, small, share)  # -lam (eps + p_c)
    # Weights softmax(lam p) of the others, relative to that of the largest class.
    relative = torch.exp(-per_row - below).scatter_(-1, top.largest, 0.0)
    # What they exceed exp(-lam) by, which is theirs where the largest class has all.
    excess = torch.expm1(below).mul_(relative).sum(dim=-1) / by.at_one_hot
    small = small[..., 0]
    ratio = torch.addcdiv(small, torch.log1p(-excess), by.lam, value=-1.0) / small

    weight_top = 1.0 / (1.0 + relative.sum(dim=-1))
    weights = relative.mul_(weight_top[..., None])
    inner = weight_top - (weights * share).sum(dim=-1)
    slope_others = (torch.addcmul(weight_top, eps, inner, value=-1.0)[..., None] - weights) * share
    return Distance(ratio, (eps - 1.0) * inner, slope_others)


def entropy_distance(top: TopClass) -> Distance:
    """Return the entropy ``-sum p log p``, which is 0 at one-hot probabilities."""
    eps, share = top.eps, top.share
    log_top = _log_top(eps)
    log_share = top.log_share.scatter(-1, top.largest, 0.0)
    among_others = -(share * log_share).sum(dim=-1)
    ratio = (eps - 1.0) * log_top - top.log_eps + among_others
    slope_top = (eps - 1.0) * (log_top + ratio)
    log_p = top.log_eps[..., None] + log_share
    return Distance(ratio, slope_top, -share * (log_p + (eps * ratio)[..., None]))


class Scaling(NamedTuple):
    """The score is ``lowest + distance / unit``; the largest distance is ``span``."""

    unit: Tensor
    lowest: Tensor
    span: Tensor


def scaling(measure: Measure, scale: Scale, lam: Tensor, n_classes: int) -> Scaling:
    """Return how a distance becomes a score."""
    one = torch.ones_like(lam)
    if measure == "entropy":  # normalised by its maximum on either scale, as published
        return Scaling(math.log(n_classes) * one, 0.0 * one, math.log(n_classes) * one)
    others_at_one_hot = (n_classes - 1) * torch.exp(-lam)
    excess = torch.log1p(others_at_one_hot) / lam
    # s_max - s_min, which are 1 + excess and 1 / C + log(C) / lam: no difference of large numbers.
    at_uniform = -(n_classes - 1) * torch.expm1(-lam)
    span = 1.0 - 1.0 / n_classes - torch.log1p(at_uniform / (1.0 + others_at_one_hot)) / lam
    return Scaling(span, 0.0 * one, span) if scale == "unit" else Scaling(one, -excess, span)


def adue_score(z: Tensor, lam: Number, scale: Scale, measure: Measure = "smoothmax") -> Tensor:
    """Return the AdUE uncertainty (..., n) of logits ``z`` (..., n, C).

    ``"smoothmax"``, ``"unit"``: ``(s_max - s) / (s_max - s_min)``, in [0, 1]. ``"paper"``:
    ``1 - s`` as published, which may be negative; both rank rows alike. ``"entropy"``: the
    entropy over ``log C``, in [0, 1].
    """
    top, lam = top_class(z), torch.as_tensor(lam, dtype=torch.float64, device=z.device)
    by, sharp = scaling(measure, scale, lam, z.shape[-1]), sharpness(lam, z.shape[-1])
    score = by.lowest + top.eps * _distance(top, measure, sharp).ratio / by.unit
    return score if (measure, scale) == ("smoothmax", "paper") else score.clamp(max=1.0)


def reference_score(z: Tensor, scale: Scale, measure: Measure = "smoothmax") -> Tensor:
    """Return what the score of the original head is drawn towards (..., n).

    Its softmax response, over the largest value of it on the unit scale; or its normalised
    entropy.
    """
    if measure == "entropy":
        return adue_score(z, 1.0, scale, "entropy")
    return softmax_response(z) / (1.0 - 1.0 / z.shape[-1] if scale == "unit" else 1.0)


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


class RowLoss:
    """Both losses for one setting, or one a head: what does not depend on rows is computed once.

    Parameters
    ----------
    n_classes : int
        Number of classes C.
    device : torch.device
        Where to compute.
    lam, alpha : float or Tensor that broadcasts against (..., n)
        Sharpness of SmoothMax, weight of the second term.
    scale, measure : str
        Which score.
    """

    def __init__(
        self,
        n_classes: int,
        device: torch.device,
        *,
        lam: Number,
        scale: Scale,
        alpha: Number,
        measure: Measure,
    ) -> None:
        lam = torch.as_tensor(lam, dtype=torch.float64, device=device)
        self._measure, self._scale, self._alpha = measure, scale, alpha
        self._sharp = sharpness(lam, n_classes)
        self._by = scaling(measure, scale, lam, n_classes)
        self._ceiling = (_ROUNDING / self._by.span).clamp(min=UNIT_CEILING)

    def of_logits(
        self, z: Tensor, errors: Tensor, reference: Tensor, error_weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cross-entropy, ``alpha (U - reference)^2`` and d(both)/dz, row-wise.

        Parameters
        ----------
        z : Tensor of float64 of shape (..., n, C)
            Logits of the uncertainty head.
        errors : Tensor of shape (n,) or (..., n)
            1.0 where the original head is wrong.
        reference : Tensor of shape (n,) or (..., n)
            :func:`reference_score` of the original logits.
        error_weights : Tensor that broadcasts against (..., n), or None
            Weights of the rows in the cross-entropy.

        Returns
        -------
        cross_entropy, regularization : Tensor of shape (..., n)
        dz : Tensor of shape (..., n, C)
        """
        top = top_class(z)
        distance = _distance(top, self._measure, self._sharp)
        cross_entropy, regularization, factor = self._by_row(
            top.eps, top.log_eps, distance.ratio, errors, reference, error_weights
        )
        dz = factor[..., None] * distance.slope_others
        dz.scatter_(-1, top.largest, (factor * distance.slope_top)[..., None])
        return cross_entropy, regularization, dz

    def of_gap(
        self, gap: Tensor, errors: Tensor, reference: Tensor, error_weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`of_logits` does for two classes, by ``gap = z[..., 1] - z[..., 0]``.

        The third is the derivative by ``gap`` (..., n). The other class is all of ``eps`` here,
        which saves two thirds of the work.
        """
        size = -gap.abs()
        eps, log_eps = torch.sigmoid(size), torch.nn.functional.logsigmoid(size)
        if self._measure == "entropy":
            ratio, slope = _two_class_entropy(eps, log_eps)
        else:
            ratio, slope = _two_class_smooth_max(eps, self._sharp)
        cross_entropy, regularization, factor = self._by_row(
            eps, log_eps, ratio, errors, reference, error_weights
        )
        return cross_entropy, regularization, factor * slope * torch.sign(gap)

    def _by_row(
        self,
        eps: Tensor,
        log_eps: Tensor,
        ratio: Tensor,
        errors: Tensor,
        reference: Tensor,
        error_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return both losses and what a slope of the distance over ``eps`` is multiplied with.

        ``errors`` choose by sums and ``lerp``, which are exact at 0 and 1 and have no branch to
        mispredict: ``where`` costs a CPU ten times as much on rows in random order.
        """
        by, errors = self._by, errors.to(eps.dtype)
        relative = ratio / by.unit
        # Each `per_...` times the slope is a derivative by z.
        per_score = eps / by.unit
        if self._scale == "unit":
            score = eps * relative
            remaining = (by.span - eps * ratio) / by.span
            kept = torch.where(remaining > self._ceiling, per_score, 0.0)
            remaining = torch.maximum(remaining, self._ceiling)
            logarithm = torch.log(torch.lerp(remaining, relative, errors))
            cross_entropy = -torch.addcmul(logarithm, errors, log_eps)
            # d(-log U) has eps in numerator and denominator: only the ratio is left.
            of_correct = kept / remaining
            of_correct = torch.addcmul(of_correct, of_correct, errors, value=-1.0)
            per_entropy = torch.addcdiv(of_correct, errors, ratio, value=-1.0)
        else:
            score = by.lowest + eps * relative
            clamped = score.clamp(PAPER_CLAMP, 1.0 - PAPER_CLAMP)
            cross_entropy = -torch.lerp(torch.log1p(-clamped), torch.log(clamped), errors)
            per_entropy = per_score * torch.lerp(1.0 / (1.0 - clamped), -1.0 / clamped, errors)
            per_entropy = torch.where(clamped == score, per_entropy, 0.0)
        if error_weights is not None:
            cross_entropy, per_entropy = error_weights * cross_entropy, error_weights * per_entropy
        deviation = score - reference
        weighted = self._alpha * deviation
        factor = torch.addcmul(per_entropy, weighted, per_score, value=2.0)
        return cross_entropy, weighted * deviation, factor


def _two_class_smooth_max(eps: Tensor, by: Sharpness) -> tuple[Tensor, Tensor]:
    """Return ratio and slope of the largest class of :func:`smooth_max_distance`, C = 2."""
    lam, small = by.lam, eps.clamp(min=_TINY)
    below = (-2.0 * lam) * small  # -2 lam eps
    excess = torch.exp(-lam - below).mul_(torch.expm1(below)) / by.at_one_hot
    ratio = torch.addcdiv(small, torch.log1p(-excess), lam, value=-1.0) / small
    # The weights (1 - r) / (1 + r) with r = exp(-lam (1 - 2 eps)).
    return ratio, (eps - 1.0) * torch.tanh(lam / 2.0 + below / 2.0)


def _two_class_entropy(eps: Tensor, log_eps: Tensor) -> tuple[Tensor, Tensor]:
    """Return ratio and slope of the largest class of :func:`entropy_distance`, C = 2."""
    log_top = _log_top(eps)
    ratio = (eps - 1.0) * log_top - log_eps
    return ratio, (eps - 1.0) * (log_top + ratio)


def _log_top(eps: Tensor) -> Tensor:
    """Return ``log(max p) / eps``, which tends to -1."""
    return torch.where(eps < 1e-8, -1.0 - eps / 2, torch.log1p(-eps) / eps.clamp(min=_TINY))


def _distance(top: TopClass, measure: Measure, by: Sharpness) -> Distance:
    return entropy_distance(top) if measure == "entropy" else smooth_max_distance(top, by)

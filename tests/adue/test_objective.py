"""Score, loss and gradient against autograd and against 400-digit arithmetic."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from adue_sklearn.adue.objective import adue_score, reference_score, softmax_response
from tests.adue.formulas import plain_loss, plain_score, row_losses, two_class_losses

SCALES = ["unit", "paper"]


def exact_unit_score(row, lam):
    """Return the unit-scale score of one row of logits in 400-digit arithmetic."""
    with mpmath.workdps(400):
        z = [mpmath.mpf(float(v)) for v in row]
        weights = [mpmath.exp(v - max(z)) for v in z]
        p = [w / sum(weights) for w in weights]
        n_classes, lam = len(z), mpmath.mpf(lam)

        def smooth(q):
            return mpmath.log(sum(mpmath.exp(lam * v) for v in q)) / lam

        highest = smooth([1] + [0] * (n_classes - 1))
        lowest = smooth([mpmath.mpf(1) / n_classes] * n_classes)
        return (highest - smooth(p)) / (highest - lowest)


@pytest.mark.parametrize("measure", ["smoothmax", "entropy"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("lam", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 5, 150])
def test_loss_and_gradient_agree_with_autograd_on_the_written_formula(
    n_classes, lam, scale, measure
):
    generator = torch.Generator().manual_seed(n_classes)
    z = 3 * torch.randn(40, n_classes, generator=generator, dtype=torch.float64)
    z.requires_grad_()
    errors = (torch.rand(40, generator=generator) < 0.5).double()
    reference = torch.rand(40, generator=generator, dtype=torch.float64)
    expected = plain_loss(z, errors, reference, lam, scale, 0.7, measure)
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in expected), z)

    *got, dz = row_losses(
        z.detach(), errors, reference, lam=lam, scale=scale, alpha=0.7, measure=measure
    )

    for part, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(part, wanted.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dz, gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("measure", ["smoothmax", "entropy"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("lam", [1e-3, 0.1, 1.0, 10.0, 100.0, 5000.0])
def test_two_classes_by_their_gap_give_what_two_logits_give(lam, scale, measure):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.1, 1.0, 3.0, 10.0, 100.0, 2000.0], dtype=torch.float64)
    gap = torch.randn(6, 100, generator=generator, dtype=torch.float64) * sizes[:, None]
    errors = (torch.rand(6, 100, generator=generator) < 0.5).double()
    reference, weights = torch.rand(2, 6, 100, generator=generator, dtype=torch.float64)
    options = {"lam": lam, "scale": scale, "alpha": 0.7, "measure": measure}
    options["error_weights"] = weights
    *expected, dz = row_losses(
        torch.stack([-gap / 2, gap / 2], dim=-1), errors, reference, **options
    )
    *got, dgap = two_class_losses(gap, errors, reference, **options)
    for part, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-7, atol=1e-9)
    rtol = 1e-6 if lam >= 0.1 else 1e-4  # a flat score leaves few digits next to gap = 0
    torch.testing.assert_close(dgap, dz[..., 1], rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("lam", [1e-3, 0.01, 1.0, 10.0, 100.0, 500.0])
@pytest.mark.parametrize("gap", [1e-3, 0.5, 3.0, 20.0, 60.0, 400.0])
@pytest.mark.parametrize("n_classes", [2, 5, 150])
def test_unit_score_keeps_its_digits_from_uniform_to_saturated_rows(n_classes, gap, lam):
    row = np.zeros(n_classes)
    row[1] = gap
    row[0] = gap / 3
    expected = exact_unit_score(row, lam)
    got = adue_score(torch.tensor(row[None]), lam, "unit").item()
    assert got == pytest.approx(float(expected), rel=1e-9 if lam >= 1 else 1e-6, abs=0)


@pytest.mark.parametrize("gap", [1e-3, 0.5, 3.0, 20.0, 60.0, 400.0])
@pytest.mark.parametrize("n_classes", [2, 5, 150])
def test_entropy_score_keeps_its_digits_from_uniform_to_saturated_rows(n_classes, gap):
    row = np.zeros(n_classes)
    row[1] = gap
    row[0] = gap / 3
    with mpmath.workdps(400):
        weights = [mpmath.exp(v - max(row)) for v in row]
        p = [w / sum(weights) for w in weights]
        expected = float(-sum(v * mpmath.log(v) for v in p) / mpmath.log(n_classes))
    got = adue_score(torch.tensor(row[None]), 1.0, "unit", "entropy").item()
    assert got == pytest.approx(expected, rel=1e-9, abs=0)


def test_a_stack_of_heads_is_each_head_by_itself():
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(4, 30, 3, generator=generator, dtype=torch.float64)
    errors = (torch.rand(30, generator=generator) < 0.5).double()
    reference = torch.rand(30, generator=generator, dtype=torch.float64)
    weights = torch.rand(4, 30, generator=generator, dtype=torch.float64)
    lam, alpha = (
        torch.tensor([[5.0], [20.0], [100.0], [1.0]]),
        torch.tensor([[0.0], [1.0], [2.0], [0.5]]),
    )
    for scale in SCALES:
        stacked = row_losses(
            z, errors, reference, lam=lam, scale=scale, alpha=alpha, error_weights=weights
        )
        for i in range(4):
            alone = row_losses(
                z[i],
                errors,
                reference,
                lam=float(lam[i]),
                scale=scale,
                alpha=float(alpha[i]),
                error_weights=weights[i],
            )
            for part, wanted in zip(stacked, alone, strict=True):
                torch.testing.assert_close(part[i], wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gap", [50.0, 200.0, 2000.0])
def test_loss_of_a_saturated_error_is_finite_and_its_gradient_still_pushes(gap):
    z = torch.tensor([[gap, 0.0, -1.0]], dtype=torch.float64)
    cross_entropy, _, dz = row_losses(
        z, torch.ones(1), torch.zeros(1), lam=100.0, scale="unit", alpha=0.0
    )
    # -log U grows like the gap, and lowering the largest logit by one lowers it by one.
    assert cross_entropy.item() == pytest.approx(gap, abs=1.5)
    assert dz[0, 0].item() == pytest.approx(1.0, rel=1e-6)
    assert dz.sum().item() == pytest.approx(0.0, abs=1e-12)


def test_uniform_rows_have_finite_loss_and_gradient():
    z = torch.zeros(2, 4, dtype=torch.float64)
    for scale in SCALES:
        cross_entropy, regularization, dz = row_losses(
            z, torch.tensor([0.0, 1.0]), torch.ones(2), lam=100.0, scale=scale, alpha=1.0
        )
        for values in (cross_entropy, regularization, dz):
            assert torch.isfinite(values).all()


@pytest.mark.parametrize("scale", SCALES)
def test_distinct_confident_rows_get_distinct_scores(scale):
    gaps = torch.linspace(1.0, 700.0, 500, dtype=torch.float64)
    z = torch.stack([gaps, torch.zeros_like(gaps), -gaps], dim=1)
    scores = adue_score(z, 100.0, scale)
    # On the paper's scale a constant of 1e-44 is added: only scores under it tie.
    kept = scores if scale == "unit" else scores[gaps < 95]
    assert (kept.diff() < 0).all()


logits = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=8).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


@given(logits, st.floats(0.5, 200), st.floats(-50, 50))
def test_unit_score_lies_in_0_1_and_ignores_shifts_and_class_order(z, lam, shift):
    score = adue_score(z, lam, "unit")
    assert ((score >= 0) & (score <= 1)).all()
    torch.testing.assert_close(adue_score(z + shift, lam, "unit"), score, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(adue_score(z.flip(-1), lam, "unit"), score, rtol=1e-6, atol=1e-12)


@given(logits, st.floats(1, 200))
def test_both_scales_are_one_affine_map_apart(z, lam):
    unit, paper = adue_score(z, lam, "unit"), adue_score(z, lam, "paper")
    torch.testing.assert_close(paper, plain_score(z, lam, "paper"), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(unit, plain_score(z, lam, "unit").clamp(0, 1), rtol=1e-6, atol=1e-8)


def test_softmax_response_is_one_minus_the_largest_probability():
    z = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = 1 - torch.softmax(z, dim=1).amax(dim=1)
    torch.testing.assert_close(softmax_response(z), expected)
    torch.testing.assert_close(reference_score(z, "paper"), expected)
    torch.testing.assert_close(reference_score(z, "unit"), expected / (1 - 1 / 7))


def test_softmax_response_of_a_saturated_row_does_not_round_to_zero():
    assert softmax_response(torch.tensor([[100.0, 0.0]], dtype=torch.float64)).item() == (
        pytest.approx(math.exp(-100), rel=1e-12)
    )


def test_softmax_response_of_logits_further_apart_than_floats_reach_is_zero():
    assert softmax_response(torch.tensor([[1e308, -1e308]], dtype=torch.float64)).item() == 0.0


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("lam", [0.001, 0.01, 1.0, 100.0, 1e4])
def test_rows_near_uniform_have_no_noise_in_their_loss_at_any_sharpness(n_classes, lam):
    z = torch.zeros(4, n_classes, dtype=torch.float64)
    z[:, 0] = gap = torch.tensor([0.0, 1e-9, 1e-7, 1e-3], dtype=torch.float64)
    for error in (0.0, 1.0):
        cross_entropy, _, dz = row_losses(
            z, torch.full((4,), error), torch.zeros(4), lam=lam, scale="unit", alpha=0.0
        )
        assert (cross_entropy >= -1e-11).all()
        assert cross_entropy.max() < 28
        # 1 - U grows with the gap's square, so that the slope of its logarithm is two over the gap.
        assert (dz.abs().amax(dim=1) <= 2.01 / gap).all()
    score = adue_score(z, lam, "unit")
    exact = [exact_unit_score(row, lam) for row in z.numpy()]
    np.testing.assert_allclose(score, np.array(exact, dtype=float), rtol=1e-11)

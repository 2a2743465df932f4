"""Metrics against brute force, scikit-learn and their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score, roc_auc_score

from adue_sklearn import SoftmaxResponseScorer, metrics

METRICS = [
    metrics.error_roc_auc_score,
    metrics.error_average_precision_score,
    metrics.fpr_at_tpr_score,
    metrics.aurc_score,
    metrics.eaurc_score,
    metrics.augrc_score,
    metrics.prr_score,
    metrics.risk_at_coverage_score,
    metrics.coverage_at_risk_score,
]
NEED_BOTH = [*METRICS[:3], metrics.prr_score]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)

# Few distinct values: most rows are tied.
tied = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(error for error, _ in rows) < len(rows)
)


def unzip(rows):
    errors, scores = zip(*rows, strict=True)
    return np.array(errors), np.array(scores, dtype=float)


def plain_aurc(errors):
    """Return the mean risk of errors that are sorted by confidence."""
    return np.mean(np.cumsum(errors) / np.arange(1, len(errors) + 1))


@every_metric
@given(tied, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(metric, rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert metric(*unzip(shuffled)) == pytest.approx(metric(*unzip(rows)), abs=1e-12)


@every_metric
@given(tied)
def test_a_monotone_transform_changes_nothing(metric, rows):
    errors, scores = unzip(rows)
    expected = metric(errors, scores)
    assert metric(errors, np.exp(scores) * 1e-3) == pytest.approx(expected, abs=1e-12)
    infinite = np.where(scores == 4, np.inf, np.where(scores == 0, -np.inf, scores))
    assert metric(errors, infinite) == pytest.approx(expected, abs=1e-12)


few = st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6)


def orders_of_tied_rows(errors, scores):
    """Return the errors in every order that sorts the rows by confidence."""
    return [
        errors[list(order)]
        for order in itertools.permutations(range(len(errors)))
        if (np.diff(scores[list(order)]) >= 0).all()
    ]


@given(few, st.sampled_from([0.01, 0.2, 1 / 3, 0.5, 0.8, 1.0]))
def test_selective_metrics_are_means_over_all_orders_of_tied_rows(rows, coverage):
    errors, scores = unzip(rows)
    orders = orders_of_tied_rows(errors, scores)
    n = len(errors)
    risks = np.mean([np.cumsum(order) / np.arange(1, n + 1) for order in orders], axis=0)
    curve = metrics.risk_coverage_curve(errors, scores)
    np.testing.assert_allclose(curve.risks, risks, atol=1e-15)
    np.testing.assert_array_equal(curve.coverages, np.arange(1, n + 1) / n)
    aurc = np.mean([plain_aurc(order) for order in orders])
    assert metrics.aurc_score(errors, scores) == pytest.approx(aurc)
    augrc = np.mean([np.mean(np.cumsum(order) / n) for order in orders])
    assert metrics.augrc_score(errors, scores) == pytest.approx(augrc)
    k = next(k for k in range(1, n + 1) if k / n >= coverage)
    assert metrics.risk_at_coverage_score(errors, scores, coverage=coverage) == pytest.approx(
        np.mean([order[:k].mean() for order in orders])
    )
    if 0 < errors.sum() < n:
        best = plain_aurc(np.sort(errors))
        prr = (errors.mean() - aurc) / (errors.mean() - best)
        assert metrics.prr_score(errors, scores) == pytest.approx(prr, abs=1e-12)


@given(tied, st.sampled_from([0.0, 0.05, 0.2, 0.25, 1 / 3, 0.5, 0.9, 1.0]))
def test_coverage_at_risk_is_that_of_the_best_threshold(rows, risk):
    errors, scores = unzip(rows)
    accepted = [scores <= threshold for threshold in scores]
    coverages = [mask.mean() for mask in accepted if errors[mask].mean() <= risk]
    assert metrics.coverage_at_risk_score(errors, scores, risk=risk) == max(coverages, default=0)


@given(tied)
def test_augrc_and_prr_relate_to_roc_auc_and_aurc_as_published(rows):
    errors, scores = unzip(rows)
    rate, n = errors.mean(), len(errors)
    auc = roc_auc_score(errors, scores)
    integral = (1 - auc) * rate * (1 - rate) + rate**2 / 2
    assert metrics.augrc_score(errors, scores) == pytest.approx(integral + rate / (2 * n))
    assert metrics.prr_score(errors, errors) == pytest.approx(1)
    assert metrics.prr_score(errors, np.zeros(n)) == pytest.approx(0, abs=1e-12)


def test_a_share_of_rows_is_not_rounded_up_by_float_arithmetic():
    errors = np.arange(100) == 7  # 0.07 * 100 is 7.000000000000001, 7 rows are enough
    assert metrics.risk_at_coverage_score(errors, np.arange(100), coverage=0.07) == 0
    assert metrics.risk_at_coverage_score(errors, np.arange(100), coverage=0.08) == 1 / 8


def test_a_long_ranking_keeps_its_digits():
    rng = np.random.default_rng(0)
    errors = rng.random(200_000) < 0.1
    ranking = errors[np.argsort(order := rng.random(200_000))]
    risks = np.cumsum(ranking) / np.arange(1, 200_001)
    assert metrics.aurc_score(errors, order) == pytest.approx(math.fsum(risks) / 2e5, rel=1e-11)


@given(tied)
def test_eaurc_is_zero_for_the_best_order_and_nowhere_below(rows):
    errors, scores = unzip(rows)
    assert metrics.eaurc_score(errors, errors) == 0
    assert metrics.eaurc_score(errors, scores) >= -1e-12
    assert metrics.eaurc_score(errors, scores) == pytest.approx(
        metrics.aurc_score(errors, scores) - plain_aurc(np.sort(errors))
    )


def test_aurc_without_and_with_errors_only():
    assert metrics.aurc_score([0, 0, 0], [1, 2, 3]) == 0
    assert metrics.aurc_score([1, 1, 1], [1, 2, 3]) == 1
    assert metrics.eaurc_score([1, 1, 1], [1, 2, 3]) == 0


def test_selective_metrics_without_and_with_errors_only():
    assert metrics.augrc_score([0, 0], [1, 2]) == 0
    assert metrics.augrc_score([1, 1], [1, 2]) == 0.75
    assert metrics.risk_at_coverage_score([0, 0], [1, 2]) == 0
    assert metrics.risk_at_coverage_score([1, 1], [1, 1]) == 1
    assert metrics.coverage_at_risk_score([0, 0], [1, 2]) == 1
    assert metrics.coverage_at_risk_score([1, 1], [1, 2]) == 0


@given(tied, st.sampled_from([0.3, 0.6, 0.95, 1.0]))
def test_roc_auc_average_precision_and_fpr_follow_their_definitions(rows, tpr):
    errors, scores = unzip(rows)
    pairs = [
        (s_error > s_correct) + 0.5 * (s_error == s_correct)
        for s_error in scores[errors]
        for s_correct in scores[~errors]
    ]
    assert metrics.error_roc_auc_score(errors, scores) == pytest.approx(np.mean(pairs))
    assert metrics.error_average_precision_score(errors, scores) == pytest.approx(
        average_precision_score(errors, scores)
    )
    rates = [
        np.mean(scores[~errors] >= threshold)
        for threshold in scores
        if np.mean(scores[errors] >= threshold) >= tpr
    ]
    assert metrics.fpr_at_tpr_score(errors, scores, tpr=tpr) == pytest.approx(min(rates))


def covariance_by_definition(errors, *score_sets):
    """Return DeLong's covariance of several AUCs from all pairs."""
    m, n = errors.sum(), (~errors).sum()
    kernels = [
        (s[errors][:, None] > s[~errors]) + 0.5 * (s[errors][:, None] == s[~errors])
        for s in score_sets
    ]
    of_errors = np.cov([k.mean(axis=1) for k in kernels])
    of_correct = np.cov([k.mean(axis=0) for k in kernels])
    return of_errors / m + of_correct / n


def test_delong_intervals_follow_the_definition_under_ties():
    rng = np.random.default_rng(0)
    errors = rng.random(200) < 0.3
    first, second = (np.round(rng.normal(size=200) + errors, 1) for _ in range(2))
    covariance = covariance_by_definition(errors, first, second)
    value, low, high = metrics.error_roc_auc_interval(errors, first)
    assert value == pytest.approx(roc_auc_score(errors, first))
    assert (high - low) / 2 / 1.959964 == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-6)
    value, low, high = metrics.error_roc_auc_difference(errors, first, second)
    assert value == pytest.approx(roc_auc_score(errors, first) - roc_auc_score(errors, second))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert (high - low) / 2 / 1.959964 == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert metrics.error_roc_auc_p_value(errors, first, second) == pytest.approx(
        math.erfc(abs(value) / math.sqrt(2 * variance)), rel=1e-9
    )


def test_delong_p_value_where_there_is_nothing_to_compare():
    errors = [0, 1, 0, 1]
    assert metrics.error_roc_auc_p_value(errors, [1, 2, 3, 4], [2, 4, 6, 8]) == 1
    # Perfect against reversed, without any variance: no evidence can be given.
    assert np.isnan(metrics.error_roc_auc_p_value(errors, [1, 3, 2, 4], [3, 1, 4, 2]))
    assert np.isnan(metrics.error_roc_auc_p_value([0, 1, 0], [1, 2, 3], [3, 2, 1]))
    with pytest.warns(UndefinedMetricWarning, match="no errors"):
        assert np.isnan(metrics.error_roc_auc_p_value([0, 0], [1, 2], [2, 1]))


def test_weights_count_like_repeated_rows_and_infinity_is_a_rank():
    errors, scores = np.array([0, 0, 1, 1, 0]), np.array([-np.inf, 1, 1, np.inf, 2])
    weights = [1, 2, 3, 1, 2]
    assert metrics.error_roc_auc_score(errors, scores, sample_weight=weights) == pytest.approx(
        metrics.error_roc_auc_score(np.repeat(errors, weights), np.repeat(scores, weights))
    )
    with pytest.raises(ValueError, match="sample_weight"):
        metrics.error_roc_auc_score(errors, scores, sample_weight=[1, 2])


@pytest.mark.slow
def test_delong_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        errors = rng.random(300) < 0.3
        signal = rng.normal(size=300) + errors
        first, second = (signal + rng.normal(size=300) for _ in range(2))
        _, low, high = metrics.error_roc_auc_difference(errors, first, second)
        covered += low <= 0 <= high
    assert 0.92 < covered / 600 < 0.975


@every_metric
def test_tensors_of_any_float_dtype_are_taken(metric):
    errors = torch.tensor([True, False, True, False])
    scores = torch.tensor([0.5, 0.25, 0.75, 0.5], dtype=torch.bfloat16)
    assert metric(errors, scores) == metric(errors.numpy(), scores.float().numpy())


@every_metric
@pytest.mark.parametrize(
    ("errors", "scores", "message"),
    [
        ([0, 1, 2], [1, 2, 3], "errors must be True or 1"),
        ([0, 1], [1, np.nan], "uncertainty contains NaN in 1 of 2 rows"),
        ([], [], "are empty"),
        ([0, 1], [1, 2, 3], "errors has 2 rows, uncertainty has 3"),
        ([[0, 1], [1, 0]], [1, 2], "1d array"),
    ],
)
def test_bad_input_is_named(metric, errors, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(errors, scores)


@pytest.mark.parametrize("metric", NEED_BOTH, ids=lambda m: m.__name__)
@pytest.mark.parametrize(("errors", "which"), [([0, 0], "no errors"), ([1, 1], "only errors")])
def test_metrics_that_need_both_kinds_of_rows_give_nan_and_warn(metric, errors, which):
    with pytest.warns(UndefinedMetricWarning, match=which):
        assert np.isnan(metric(errors, [1, 2]))


@pytest.mark.parametrize("tpr", [0, 1.5])
def test_impossible_rates_are_named(tpr):
    with pytest.raises(ValueError, match="tpr is"):
        metrics.fpr_at_tpr_score([0, 1], [1, 2], tpr=tpr)
    with pytest.raises(ValueError, match="confidence is"):
        metrics.error_roc_auc_interval([0, 0, 1, 1], [1, 2, 3, 4], confidence=tpr)
    with pytest.raises(ValueError, match="coverage is"):
        metrics.risk_at_coverage_score([0, 1], [1, 2], coverage=tpr)
    with pytest.raises(ValueError, match="risk is"):
        metrics.coverage_at_risk_score([0, 1], [1, 2], risk=tpr - 0.1 if tpr == 0 else tpr)


@pytest.mark.parametrize(
    ("scorer", "metric", "sign"),
    [
        (metrics.error_roc_auc_scorer, metrics.error_roc_auc_score, 1),
        (metrics.error_average_precision_scorer, metrics.error_average_precision_score, 1),
        (metrics.fpr_at_tpr_scorer, metrics.fpr_at_tpr_score, -1),
        (metrics.aurc_scorer, metrics.aurc_score, -1),
        (metrics.eaurc_scorer, metrics.eaurc_score, -1),
        (metrics.augrc_scorer, metrics.augrc_score, -1),
        (metrics.prr_scorer, metrics.prr_score, 1),
        (metrics.risk_at_coverage_scorer, metrics.risk_at_coverage_score, -1),
        (metrics.coverage_at_risk_scorer, metrics.coverage_at_risk_score, 1),
    ],
    ids=lambda v: getattr(v, "__name__", None) or str(v),
)
def test_scorers_apply_their_metric_to_errors_and_uncertainty(scorer, metric, sign, problem):
    fitted = SoftmaxResponseScorer().fit(*problem.fit_args)
    expected = sign * metric(problem.errors, fitted.predict_uncertainty(problem.X))
    assert scorer(fitted, problem.X, problem.y) == pytest.approx(expected)
    assert metric.__name__ in repr(scorer)

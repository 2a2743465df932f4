"""Bootstrap intervals against resampling and recomputing, and how often they hold the truth."""

from __future__ import annotations

import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import binom
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import roc_auc_score

from adue_sklearn import metrics
from tests.profiles import repeated

RANKING = {
    "ROC-AUC": metrics.error_roc_auc_score,
    "average precision": metrics.error_average_precision_score,
    "FPR95": metrics.fpr_at_tpr_score,
    "FPR60": partial(metrics.fpr_at_tpr_score, tpr=0.6),
    "AURC": metrics.aurc_score,
    "E-AURC": metrics.eaurc_score,
    "AUGRC": metrics.augrc_score,
    "PRR": metrics.prr_score,
    "risk at coverage": metrics.risk_at_coverage_score,
    "risk at half": partial(metrics.risk_at_coverage_score, coverage=0.5),
    "coverage at risk": metrics.coverage_at_risk_score,
    "coverage at 20 %": partial(metrics.coverage_at_risk_score, risk=0.2),
}


def recomputed(metric):
    """Return the same metric as a function that the bootstrap does not know."""
    return lambda errors, uncertainty: metric(errors, uncertainty)


def problem(n=300, rate=0.2, digits=None, seed=0):
    rng = np.random.default_rng(seed)
    errors = rng.random(n) < rate
    scores = rng.normal(size=n) + errors
    return errors, scores if digits is None else np.round(scores, digits)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_replicates_are_those_of_resampling_and_recomputing_under_ties(rows, seed):
    errors, scores = map(np.array, zip(*rows, strict=True))
    fast = metrics.bootstrap_replicates(errors, scores, RANKING, n_resamples=8, random_state=seed)
    slow = metrics.bootstrap_replicates(
        errors,
        scores,
        {name: recomputed(metric) for name, metric in RANKING.items()},
        n_resamples=8,
        random_state=seed,
    )
    for name in RANKING:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-12, atol=1e-13, err_msg=name)


def test_replicates_are_the_same_in_several_blocks():
    errors, scores = problem(n=30_000, rate=0.4)  # some 24,000 groups: a few replicates a block
    fast = metrics.bootstrap_replicates(errors, scores, RANKING, n_resamples=12, random_state=0)
    for name, metric in RANKING.items():
        slow = metrics.bootstrap_replicates(
            errors, scores, recomputed(metric), n_resamples=12, random_state=0
        )
        np.testing.assert_allclose(fast[name], slow, rtol=1e-11, err_msg=name)


def test_resamples_are_rows_drawn_evenly_with_replacement():
    rows, seen = np.arange(50), []

    def record(first, second):
        np.testing.assert_array_equal(first, second)
        seen.append(np.bincount(first, minlength=50))
        return 0.0

    metrics.bootstrap_replicates(rows, rows, record, n_resamples=2000, random_state=0)
    counts = np.array(seen)
    assert (counts.sum(axis=1) == 50).all()
    # Multinomial: each row once on average, variance 1 - 1/n, covariance -1/n.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=5 / np.sqrt(2000))
    covariance = np.cov(counts.T)
    np.testing.assert_allclose(np.diag(covariance).mean(), 1 - 1 / 50, rtol=0.03)
    np.testing.assert_allclose(covariance[~np.eye(50, dtype=bool)].mean(), -1 / 50, rtol=0.05)


def test_an_interval_is_the_value_and_quantiles_of_replicates():
    errors, scores = problem()
    for metric in (roc_auc_score, metrics.error_roc_auc_score):
        value, low, high = metrics.bootstrap_interval(
            errors, scores, metric, n_resamples=200, confidence=0.9, random_state=3
        )
        replicates = metrics.bootstrap_replicates(
            errors, scores, recomputed(roc_auc_score), n_resamples=200, random_state=3
        )
        assert value == pytest.approx(roc_auc_score(errors, scores))
        assert (low, high) == pytest.approx(tuple(np.quantile(replicates, [0.05, 0.95])))


def test_a_difference_pairs_the_replicates_of_both_scores():
    errors, scores = problem()
    other = scores + np.random.default_rng(1).normal(size=len(scores))
    difference = metrics.bootstrap_difference(
        errors, scores, other, metrics.aurc_score, n_resamples=400, random_state=5
    )
    gains = np.subtract(
        *(
            metrics.bootstrap_replicates(
                errors, s, metrics.aurc_score, n_resamples=400, random_state=5
            )
            for s in (scores, other)
        )
    )
    assert difference.value == metrics.aurc_score(errors, scores) - metrics.aurc_score(
        errors, other
    )
    assert (difference.low, difference.high) == pytest.approx(
        tuple(np.quantile(gains, [0.025, 0.975]))
    )
    one_sided = min((gains <= 0).sum(), (gains >= 0).sum())
    assert difference.p_value == pytest.approx(2 * (one_sided + 1) / 401)
    back = metrics.bootstrap_difference(
        errors, other, scores, metrics.aurc_score, n_resamples=400, random_state=5
    )
    assert back == pytest.approx(
        (-difference.value, -difference.high, -difference.low, difference.p_value)
    )


@pytest.mark.parametrize("name", RANKING)
def test_scores_that_rank_alike_do_not_differ(name):
    errors, scores = problem(digits=1)
    assert metrics.bootstrap_difference(
        errors, np.exp(scores), scores, RANKING[name], n_resamples=50, random_state=0
    ) == (0, 0, 0, 1)


def test_a_dict_of_metrics_gives_what_each_gives_alone():
    errors, scores = problem()
    some = {"AURC": metrics.aurc_score, "plain": roc_auc_score}
    together = metrics.bootstrap_interval(errors, scores, some, n_resamples=50, random_state=0)
    paired = metrics.bootstrap_difference(
        errors, scores, scores**3, some, n_resamples=50, random_state=0
    )
    assert list(together) == list(paired) == ["AURC", "plain"]
    for name, metric in some.items():
        assert together[name] == metrics.bootstrap_interval(
            errors, scores, metric, n_resamples=50, random_state=0
        )


def test_the_seed_decides():
    errors, scores = problem()

    def replicates(random_state):
        return metrics.bootstrap_replicates(
            errors, scores, metrics.aurc_score, n_resamples=5, random_state=random_state
        )

    np.testing.assert_array_equal(replicates(7), replicates(7))
    state = np.random.RandomState(7)
    first, second = replicates(state), replicates(state)
    assert (first != second).any()
    np.testing.assert_array_equal(replicates(np.random.RandomState(7)), first)
    assert (replicates(None) != replicates(None)).any()


def test_class_probabilities_are_resampled_by_rows():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=200)
    y = (p.cumsum(axis=1) < rng.random((200, 1))).sum(axis=1)
    for metric in (metrics.calibration_error, metrics.brier_score, metrics.nll_score):
        value, low, high = metrics.bootstrap_interval(
            torch.tensor(y), torch.tensor(p), metric, n_resamples=100, random_state=0
        )
        assert value == metric(y, p)
        assert 0 < low < high


def test_resamples_without_errors_are_left_out_and_counted():
    errors = np.arange(20) == 19
    scores = np.arange(20.0)
    alone = recomputed(metrics.error_roc_auc_score)
    for metric in (metrics.error_roc_auc_score, alone):
        replicates = metrics.bootstrap_replicates(
            errors, scores, metric, n_resamples=1000, random_state=0
        )
        missing = int(np.isnan(replicates).sum())
        assert missing == pytest.approx(1000 * 0.95**20, rel=0.2)
        with pytest.warns(UndefinedMetricWarning, match=f"on {missing} of 1000 resamples"):
            estimate = metrics.bootstrap_interval(errors, scores, metric, random_state=0)
        assert estimate == (1, 1, 1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("flag", [False, True])
def test_data_without_or_with_errors_only_give_nan_or_the_constant(flag):
    errors, scores = np.full(30, flag), np.arange(30.0)
    estimates = metrics.bootstrap_interval(errors, scores, RANKING, n_resamples=20)
    assert np.isnan(estimates["PRR"]).all()
    assert np.isnan(estimates["ROC-AUC"]).all()
    assert estimates["AURC"] == (flag, flag, flag)
    assert np.isnan(
        metrics.bootstrap_difference(errors, scores, -scores, metrics.prr_score, n_resamples=20)
    ).all()


def test_memory_does_not_grow_with_the_resamples():
    errors, scores = problem(n=20_000, rate=0.5)

    def peak(n_resamples):
        tracemalloc.start()
        metrics.bootstrap_replicates(
            errors, scores, RANKING, n_resamples=n_resamples, random_state=0
        )
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(8)  # what is kept between calls
    assert peak(80) < 1.2 * peak(8)


ERRORS = [0, 1, 0, 1]
BAD = {
    "other length": (([0, 1], [1, 2, 3], metrics.aurc_score), {}, "errors has 2 rows, uncertainty"),
    "NaN": ((ERRORS, [1, 2, 3, np.nan], metrics.aurc_score), {}, "uncertainty contains NaN"),
    "empty": (([], [], metrics.aurc_score), {}, "are empty"),
    "no rows": (([], [], roc_auc_score), {}, "empty"),
    "a name": ((ERRORS, ERRORS, "aurc"), {}, "metric must be callable.* got 'aurc'"),
    "a dict of names": ((ERRORS, ERRORS, {"a": "b"}), {}, "got 'b' as 'a'"),
    "no metric": ((ERRORS, ERRORS, {}), {}, "metric is an empty dict"),
    "no resamples": ((ERRORS, ERRORS, metrics.aurc_score), {"n_resamples": 0}, "n_resamples == 0"),
    "confidence": ((ERRORS, ERRORS, metrics.aurc_score), {"confidence": 1}, "confidence is 1"),
    "seed": ((ERRORS, ERRORS, metrics.aurc_score), {"random_state": "a"}, "random_state"),
    "negative seed": ((ERRORS, ERRORS, metrics.aurc_score), {"random_state": -1}, "random_state"),
    "weights": (
        (ERRORS, ERRORS, partial(metrics.error_roc_auc_score, sample_weight=[1, 1, 1, 1])),
        {},
        "bound sample_weight",
    ),
    "an option": (
        (ERRORS, ERRORS, partial(metrics.fpr_at_tpr_score, tpr=2)),
        {},
        "tpr is 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    args, options, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        metrics.bootstrap_interval(*args, **options)
    if case not in ("NaN", "other length"):
        errors, scores, metric = args
        with pytest.raises((ValueError, TypeError), match=message):
            metrics.bootstrap_difference(errors, scores, scores, metric, **options)


@pytest.mark.parametrize("metric", [metrics.aurc_score, roc_auc_score])
def test_a_bad_reference_is_named(metric):
    with pytest.raises(ValueError, match="reference has 2"):
        metrics.bootstrap_difference([0, 1, 0], [1, 2, 3], [1, 2], metric)


def test_a_reference_that_one_of_several_metrics_cannot_rank_is_named():
    both = {"ours": metrics.aurc_score, "own": lambda errors, scores: float(np.sum(scores))}
    with pytest.raises(ValueError, match="reference contains NaN"):
        metrics.bootstrap_difference(ERRORS, [1, 2, 3, 4], [1, 2, 3, np.nan], both)


@pytest.mark.slow
@repeated(40, 200)
def test_intervals_hold_the_population_value_and_tests_keep_their_level(times):
    rng = np.random.default_rng(0)

    def draw(n):
        errors = rng.random(n) < 0.25
        signal = 1.5 * errors + rng.normal(size=n)
        return errors, *(signal + rng.normal(size=n) for _ in range(2))

    chosen = {name: RANKING[name] for name in RANKING if name not in ("FPR95", "coverage at risk")}
    errors, scores, _ = draw(300_000)
    truth = {name: metric(errors, scores) for name, metric in chosen.items()}
    held, rejected, trials = dict.fromkeys(chosen, 0), dict.fromkeys(chosen, 0), times
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no resample is without errors
        for trial in range(trials):
            errors, scores, other = draw(500)
            options = {"n_resamples": 300, "random_state": trial}
            intervals = metrics.bootstrap_interval(errors, scores, chosen, **options)
            tests = metrics.bootstrap_difference(errors, scores, other, chosen, **options)
            for name in chosen:
                held[name] += intervals[name].low <= truth[name] <= intervals[name].high
                rejected[name] += tests[name].p_value < 0.05
    # Fair intervals miss, and fair tests reject, more than this once in a thousand.
    most = binom.ppf(0.999, trials, 0.05)
    assert all(trials - count <= most for count in held.values()), held
    assert all(count <= most for count in rejected.values()), rejected

"""Calibration metrics against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from adue_sklearn import metrics

# Few distinct values, on the edges of bins as well.
event_rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.51, 0.75, 1.0])),
    min_size=1,
    max_size=40,
)
strategies = st.sampled_from(["uniform", "quantile"])
METRICS = [
    metrics.calibration_error,
    metrics.brier_score,
    metrics.nll_score,
    metrics.brier_decomposition,
]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)


def unzip(rows):
    happened, p = zip(*rows, strict=True)
    return np.array(happened), np.array(p)


def classes_problem(n=400, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n_classes), size=n)
    y = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    sharper = p**2
    return y, sharper / sharper.sum(axis=1, keepdims=True)


def bins_by_loop(happened, p, n_bins, strategy):
    """Return (rows, frequency, mean probability) of each bin (low, high] that has rows."""
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        # The smallest probability with a share of b / n_bins of the rows at or below it.
        edges[1:-1] = [
            min(v for v in p if np.sum(p <= v) * n_bins >= b * len(p)) for b in range(1, n_bins)
        ]
    bins = {}
    for event, value in zip(happened, p, strict=True):
        number = sum(value > edge for edge in edges[1:-1])
        bins.setdefault(number, []).append((event, value))
    return [(len(rows), *np.mean(rows, axis=0)) for _, rows in sorted(bins.items())]


@given(event_rows, st.integers(1, 12), strategies)
def test_errors_of_an_event_follow_their_definitions(rows, n_bins, strategy):
    happened, p = unzip(rows)
    n, frequency, mean = np.array(bins_by_loop(happened, p, n_bins, strategy)).T
    options = {"n_bins": n_bins, "strategy": strategy}
    gaps, weight = np.abs(frequency - mean), n / n.sum()
    error = metrics.calibration_error
    assert error(happened, p, **options) == pytest.approx((weight * gaps).sum(), abs=1e-12)
    assert error(happened, p, norm="max", **options) == pytest.approx(gaps.max(), abs=1e-12)
    square = (weight * gaps**2).sum()
    assert error(happened, p, norm="l2", **options) ** 2 == pytest.approx(square, abs=1e-12)
    debiased = sum(
        w * (g**2 - f * (1 - f) / (k - 1))
        for w, g, f, k in zip(weight, gaps, frequency, n, strict=True)
        if k > 1
    )
    assert error(happened, p, norm="l2", debias=True, **options) ** 2 == pytest.approx(
        max(debiased, 0), abs=1e-12
    )
    if strategy == "uniform":
        curve = calibration_curve(happened, p, n_bins=n_bins)
        np.testing.assert_allclose(curve, [frequency, mean], atol=1e-12)


def test_bins_of_equal_mass_hold_as_many_rows():
    p = np.random.default_rng(0).permutation(np.arange(1, 61) / 100)
    # Only the likeliest happens: bins below are off by their mean, the last by |1 / rows - mean|.
    for n_bins in (1, 4, 7, 60):
        rows = 60 // n_bins  # of the last bin
        mean = np.sort(p)[-rows:].mean()
        others = np.sort(p)[:-rows].sum() / 60
        assert metrics.calibration_error(
            p == p.max(), p, n_bins=n_bins, strategy="quantile"
        ) == pytest.approx(abs(1 / rows - mean) * rows / 60 + others)


@given(event_rows, strategies, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, strategy, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    for options in ({}, {"norm": "max"}, {"norm": "l2"}, {"norm": "l2", "debias": True}):
        values = [
            metrics.calibration_error(*unzip(r), n_bins=4, strategy=strategy, **options) ** 2
            for r in (rows, shuffled)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-12)


@given(event_rows, st.one_of(st.none(), st.integers(1, 12)), strategies)
def test_the_brier_score_is_what_it_is_decomposed_into(rows, n_bins, strategy):
    happened, p = unzip(rows)
    parts = metrics.brier_decomposition(happened, p, n_bins=n_bins, strategy=strategy)
    whole = (
        parts.reliability
        - parts.resolution
        + parts.uncertainty
        + parts.within_bin_variance
        - parts.within_bin_covariance
    )
    assert whole == pytest.approx(np.mean((p - happened) ** 2), abs=1e-12)
    if n_bins is None:
        bins = [(np.sum(p == v), happened[p == v].mean(), v) for v in np.unique(p)]
        assert parts.within_bin_variance == pytest.approx(0, abs=1e-15)
        assert parts.within_bin_covariance == pytest.approx(0, abs=1e-15)
    else:
        bins = bins_by_loop(happened, p, n_bins, strategy)
    n, frequency, mean = np.array(bins).T
    base = happened.mean()
    assert parts.reliability == pytest.approx(np.average((mean - frequency) ** 2, weights=n))
    assert parts.resolution == pytest.approx(
        np.average((frequency - base) ** 2, weights=n), abs=1e-15
    )
    assert parts.uncertainty == pytest.approx(base * (1 - base), abs=1e-15)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_metrics_of_classes_are_those_of_events(n_classes, strategy):
    y, p = classes_problem(n_classes=n_classes)
    options = {"n_bins": 8, "strategy": strategy}
    top = metrics.calibration_error(p.argmax(axis=1) == y, p.max(axis=1), **options)
    assert metrics.calibration_error(y, p, **options) == pytest.approx(top)
    events = [(y == c, p[:, c]) for c in range(n_classes)]
    for norm in ("l1", "l2", "max"):
        values = [metrics.calibration_error(*event, norm=norm, **options) for event in events]
        expected = {
            "l1": np.mean(values),
            "l2": np.sqrt(np.mean(np.square(values))),
            "max": max(values),
        }[norm]
        assert metrics.calibration_error(
            y, p, norm=norm, classwise=True, **options
        ) == pytest.approx(expected)
    parts = np.array(metrics.brier_decomposition(y, p, **options))
    of_events = [metrics.brier_decomposition(*event, **options) for event in events]
    scale = 0.5 if n_classes == 2 else 1
    np.testing.assert_allclose(parts, scale * np.sum(of_events, axis=0), atol=1e-12)
    assert parts @ [1, -1, 1, 1, -1] == pytest.approx(metrics.brier_score(y, p))
    assert metrics.brier_score(y, p) == pytest.approx(
        scale * sum(np.mean((hit - q) ** 2) for hit, q in events)
    )
    assert metrics.nll_score(y, p) == pytest.approx(-np.mean(np.log(p[np.arange(len(y)), y])))


def test_scores_agree_with_scikit_learn_where_a_class_or_the_event_is_missing():
    y, p = classes_problem()
    some = y != 2
    labels = np.arange(4)
    assert metrics.brier_score(y[some], p[some]) == pytest.approx(
        brier_score_loss(y[some], p[some], labels=labels)
    )
    assert metrics.nll_score(y[some], p[some]) == pytest.approx(
        log_loss(y[some], p[some], labels=labels)
    )
    for flag in (0, 1):
        assert metrics.brier_score([flag, flag], [0.2, 0.4]) == pytest.approx(
            np.mean(np.square(flag - np.array([0.2, 0.4])))
        )
        assert metrics.nll_score([flag, flag], [0.5, 0.5]) == pytest.approx(np.log(2))


@every_metric
def test_labels_may_be_named_in_any_order(metric):
    y, p = classes_problem()
    names = np.array(["pear", "apple", "fig", "date"])
    assert metric(names[y], p, classes=names) == metric(y, p)
    assert metric(names[y], p, classes=list(names)) == metric(y, p)
    numbers = np.array([7, -1, 3, 0])
    assert metric(numbers[y], p, classes=numbers) == metric(y, p)


@every_metric
def test_tensors_and_half_precision_are_taken_without_warnings(metric, recwarn):
    y, p = classes_problem()
    half = torch.tensor(p).to(torch.bfloat16)
    assert np.ravel(metric(torch.tensor(y), half)) == pytest.approx(np.ravel(metric(y, p)), abs=0.1)
    single = p.astype(np.float32)
    assert np.ravel(metric(y, single)) == pytest.approx(np.ravel(metric(y, p)), abs=1e-2)
    metric(torch.tensor(y == 1), torch.tensor(p[:, 1]))
    assert not recwarn.list


def test_a_certain_and_wrong_probability_costs_a_finite_amount():
    assert metrics.nll_score([1, 0], [0.0, 1.0]) == pytest.approx(36.04, abs=0.01)
    assert metrics.nll_score([0], np.float32([[0, 1]])) == pytest.approx(36.04, abs=0.01)


@pytest.mark.slow
def test_debiasing_takes_out_what_many_bins_add_to_calibrated_probabilities():
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(200):
        p = rng.random(400)
        happened = rng.random(400) < p
        options = {"n_bins": 50, "strategy": "quantile", "norm": "l2"}
        plain.append(metrics.calibration_error(happened, p, **options) ** 2)
        debiased.append(metrics.calibration_error(happened, p, debias=True, **options) ** 2)
    # Before the root is cut at zero the debiased square has mean zero; cut, it stays far below.
    assert np.mean(plain) == pytest.approx(50 / 400 / 6, rel=0.15)  # E p(1-p) = 1/6
    assert np.mean(debiased) < 0.15 * np.mean(plain)
    assert np.mean(np.array(debiased) == 0) == pytest.approx(0.5, abs=0.15)


BAD = {
    "logits": (
        ([0, 1], [-1.0, 2.0]),
        r"probabilities must be in \[0, 1\]; 2 are not, such as -1",
    ),
    "NaN": (([0, 1], [0.5, np.nan]), "probabilities must be in"),
    "other length": (([0, 1, 1], [0.5, 0.5]), "y_true has 3 rows, probabilities has 2"),
    "empty": (([], []), "probabilities is empty"),
    "labels for one column": (([0, 2], [0.5, 0.5]), "y_true must be True or 1 where the event"),
    "one column": (([0, 1], [[0.5], [0.5]]), r"probabilities has shape \(2, 1\)"),
    "three dimensions": (([0], np.ones((1, 2, 2))), r"shape \(1, 2, 2\)"),
    "rows that are no distribution": (([0], [[0.5, 0.2]]), "sum to one.* off by 0.3"),
    "unknown label": (([0, 2], [[0.5, 0.5]] * 2), "y_true holds 2, .*column numbers 0 to 1"),
    "a label between": (([0, 0.5], [[0.5, 0.5]] * 2), "y_true holds 0.5"),
    "names without classes": ((["a", "b"], [[0.5, 0.5]] * 2), "classes was not given"),
    "text": (([0, 1], ["a", "b"]), "probabilities"),
    "complex": (([0, 1], [0.5j, 0.5]), "probabilities are complex"),
    "labels in two columns": (([[0, 1], [1, 0]], [0.5, 0.5]), "y_true"),
}
BAD_CLASSES = {
    "too few": ((["a"], [[0.5, 0.5]], ["a"]), "classes has 1 entries, probabilities has 2"),
    "twice": ((["a"], [[0.5, 0.5]], ["a", "a"]), "classes repeats an entry"),
    "other kind": (([0], [[0.5, 0.5]], ["a", "b"]), "both must be numbers, or both strings"),
    "unknown": ((["c"], [[0.5, 0.5]], ["a", "b"]), "y_true holds 'c', which is not among classes"),
    "of an event": (([0], [0.5], ["a", "b"]), "classes was given, but probabilities has one"),
}


@every_metric
@pytest.mark.parametrize("case", [*BAD, *BAD_CLASSES])
def test_bad_input_is_named(metric, case):
    args, message = BAD.get(case) or BAD_CLASSES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        metric(*args[:2], classes=args[2] if len(args) == 3 else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_bins": 0}, "n_bins == 0"),
        ({"strategy": "equal"}, "strategy must be one of 'uniform', 'quantile'; got 'equal'"),
        ({"norm": 1}, "norm must be one of"),
        ({"debias": True}, "debias needs norm='l2'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.calibration_error([0, 1], [0.5, 0.5], **options)
    if "debias" not in options and "norm" not in options:
        with pytest.raises(ValueError, match=message):
            metrics.brier_decomposition([0, 1], [0.5, 0.5], **options)

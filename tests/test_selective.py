"""Thresholds against the binomial distribution itself, and against classifiers of known risk."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, binomtest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from adue_sklearn import (
    AdUEEstimator,
    MahalanobisScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
)
from adue_sklearn.selective import clopper_pearson, hoeffding_bentkus, selective_threshold
from tests import marks
from tests.bad_input_cases import anything, call
from tests.estimator_cases import ESTIMATORS
from tests.problems import Problem
from tests.profiles import repeated
from tests.toy_scorers import ToyScorer

METHODS = ["binomial", "sgr", "ltt"]
every_method = pytest.mark.parametrize("method", METHODS)


class KnownRisk:
    """Uniform scores u with P(error | u) = top u^power, so that the risk up to t is known."""

    def __init__(self, top=0.6, power=1.5):
        self.top, self.power = top, power

    def draw(self, n, rng):
        u = rng.random(n)
        return rng.random(n) < self.top * u**self.power, u

    def risk(self, threshold):
        return self.top * min(threshold, 1.0) ** self.power / (self.power + 1)


# --- the tests behind a threshold -----------------------------------------------------------


@given(n=st.integers(1, 200), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_clopper_pearson_is_scipys_exact_bound(n, share, confidence):
    errors = round(share * n)
    expected = binomtest(errors, n, alternative="less").proportion_ci(confidence, "exact").high
    assert clopper_pearson(errors, n, confidence) == pytest.approx(expected, rel=1e-9)


def test_one_impossible_number_of_errors_among_several_is_refused():
    with pytest.raises(ValueError, match="between 0 and n_rows"):
        clopper_pearson([1, 5], [3, 3])


@given(n=st.integers(1, 300), share=st.floats(0, 1), target=st.floats(0.001, 0.999))
def test_hoeffding_bentkus_is_the_smaller_of_the_two_bounds(n, share, target):
    errors = round(share * n)
    risk = min(errors / n, target)

    def part(a, b):
        return a * np.log(a / b) if a > 0 else 0.0

    divergence = part(risk, target) + part(1 - risk, 1 - target)
    tail = sum(binom.pmf(k, n, target) for k in range(errors + 1))
    expected = min(1.0, np.exp(-n * divergence), np.e * tail)
    assert hoeffding_bentkus(errors, n, target) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def walk_the_sequence(errors, uncertainty, target, confidence):
    """Return the number of accepted rows, test after test."""
    n = len(errors)
    order = np.argsort(uncertainty)
    wrong, score = errors[order], uncertainty[order]
    size = max(int(np.ceil(n / 5)), int(np.ceil(np.log(1 - confidence) / np.log(1 - target))))
    step = max(1, round(n / 50))
    sizes = [*range(size, n, step), n] if size <= n else []
    accepted = 0
    for m in sizes:
        while m < n and score[m] == score[m - 1]:  # ties enter together
            m += 1
        p = binomtest(int(wrong[:m].sum()), m, target, alternative="less").pvalue
        if p > 1 - confidence:
            break
        accepted = m
    return accepted


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 300),
    target=st.sampled_from([0.02, 0.1, 0.3, 0.7]),
    confidence=st.sampled_from([0.5, 0.9, 0.99]),
    n_values=st.sampled_from([1, 5, 10**6]),
)
def test_binomial_is_the_fixed_sequence_of_exact_tests(seed, n, target, confidence, n_values):
    rng = np.random.default_rng(seed)
    uncertainty = rng.integers(0, n_values, n) / n_values
    errors = rng.random(n) < rng.random() * uncertainty
    found = selective_threshold(errors, uncertainty, target, confidence)
    accepted = uncertainty <= found.threshold
    assert accepted.sum() == walk_the_sequence(errors, uncertainty, target, confidence)
    assert found.n_accepted == accepted.sum()
    assert found.n_errors == errors[accepted].sum()
    assert found.coverage == accepted.mean()


def test_sgr_is_the_published_search():
    errors, uncertainty = KnownRisk().draw(1000, np.random.default_rng(3))
    confidence, target = 0.95, 0.1
    order = np.argsort(-uncertainty)  # least certain first, as in the paper
    low, high, steps = 1, 1000, int(np.ceil(np.log2(1000)))
    for _ in range(steps):
        z = int(np.ceil((low + high) / 2))
        rows = order[z - 1 :]
        k, m, share = errors[rows].sum(), len(rows), (1 - confidence) / steps
        bound = brentq(lambda b, k=k, m=m, s=share: binom.cdf(k, m, b) - s, 1e-12, 1 - 1e-12)
        if bound <= target:
            high, best = z, (m, bound)
        else:
            low = z
    found = selective_threshold(errors, uncertainty, target, confidence, "sgr")
    assert found.n_accepted == best[0]
    assert found.risk_bound == pytest.approx(best[1], rel=1e-9)
    assert found.risk_bound <= target


def test_learn_then_test_is_holm_over_the_candidates():
    errors, uncertainty = KnownRisk().draw(1000, np.random.default_rng(4))
    order = np.argsort(uncertainty)
    sizes = np.array([*range(200, 1000, 20), 1000])
    p = np.array([hoeffding_bentkus(errors[order[:m]].sum(), m, 0.1) for m in sizes])
    rejected = 0
    for rank, place in enumerate(np.argsort(p)):
        if p[place] > 0.05 / (len(p) - rank):
            break
        rejected = max(rejected, sizes[place])
    found = selective_threshold(errors, uncertainty, 0.1, 0.95, "ltt")
    assert found.n_accepted == rejected > 0


# --- the guarantee --------------------------------------------------------------------------


def simulate(method, n, target, confidence, *, times, problem=None, round_to=None):
    """Return how often the risk is above the target and above the bound, and mean coverage."""
    problem = KnownRisk() if problem is None else problem
    rng = np.random.default_rng(n)
    above_target = above_bound = coverage = 0
    for _ in range(times):
        errors, u = problem.draw(n, rng)
        found = selective_threshold(errors, u, target, confidence, method)
        if found.n_accepted:
            risk = problem.risk(found.threshold)
            above_target += risk > target
            above_bound += risk > found.risk_bound
            coverage += min(found.threshold, 1.0)
    return above_target, above_bound, coverage / times


def most_violations(confidence, times):
    """Return what a fair guarantee exceeds once in a thousand."""
    return binom.ppf(0.999, times, 1 - confidence)


@pytest.mark.slow
@repeated(150, 1000)
@pytest.mark.parametrize(
    "n", [500, *(pytest.param(n, marks=pytest.mark.deep) for n in (2000, 8000))]
)
def test_risk_is_kept_as_promised_and_coverage_beats_hoeffding_bentkus_with_holm(n, times):
    coverage = {}
    for method in METHODS:
        above_target, above_bound, coverage[method] = simulate(method, n, 0.1, 0.9, times=times)
        assert above_target <= most_violations(0.9, times)
        assert above_bound <= most_violations(0.9, times)
    assert coverage["binomial"] > coverage["ltt"] + 0.02
    assert coverage["binomial"] > coverage["sgr"]


@pytest.mark.slow
@repeated(100, 1000)
@every_method
def test_bounds_hold_where_everything_can_be_accepted(method, times):
    above_target, above_bound, coverage = simulate(method, 500, 0.3, 0.9, times=times)
    assert above_target == 0
    assert above_bound <= most_violations(0.9, times)
    assert coverage > 0.95


@pytest.mark.slow
@repeated(100, 1000)
@every_method
def test_risk_is_kept_for_a_score_without_information(method, times):
    # The risk is just above the target at every threshold: accepting anything is a violation.
    hopeless = KnownRisk(top=0.101, power=0.0)
    above_target, _, _ = simulate(method, 500, 0.1, 0.9, times=times, problem=hopeless)
    assert above_target <= most_violations(0.9, times)


class TiedScores(KnownRisk):
    """Ten values, each as frequent."""

    def draw(self, n, rng):
        u = rng.integers(1, 11, n) / 10
        return rng.random(n) < self.top * u**self.power, u

    def risk(self, threshold):
        u = np.arange(1, 11) / 10
        return self.top * (u[u <= threshold] ** self.power).mean()


@pytest.mark.slow
@repeated(50, 500)
@every_method
def test_risk_is_kept_for_tied_scores(method, times):
    for target in (0.05, 0.1, 0.2):
        above, _, _ = simulate(method, 500, target, 0.9, times=times, problem=TiedScores())
        assert above <= most_violations(0.9, times)


@pytest.mark.slow
def test_all_groups_keep_their_risk_at_once():
    rng = np.random.default_rng(0)
    failures = 0
    tops = np.array([0.3, 0.6, 0.9])
    frozen = FrozenEstimator(first_feature())
    for _ in range(200):
        groups, u = rng.integers(0, 3, 1500), rng.random(1500)
        errors = rng.random(1500) < tops[groups] * u
        X = np.column_stack([1.0 - u, np.zeros(1500)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no threshold for a group
            model = SelectiveClassifier(frozen, target_risk=0.15, confidence=0.8)
            model.fit(X, errors.astype(int), groups=groups)
        # The uncertainty of the head is 1 / (1 + e^(10 (1 - u))), which rises with u.
        t = model.threshold_
        with np.errstate(divide="ignore"):
            u_at = 1 - np.log(1 / np.clip(t, 1e-12, 0.5) - 1) / 10
        failures += bool((tops * np.where(t > 0, u_at, 0) / 2 > 0.15).any())
    assert failures <= most_violations(0.8, 200)


# --- edges of the pure function -------------------------------------------------------------


@every_method
def test_order_of_rows_does_not_matter(method):
    errors, u = TiedScores().draw(600, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(600)
    assert selective_threshold(errors, u, 0.2, 0.9, method) == selective_threshold(
        errors[order], u[order], 0.2, 0.9, method
    )


@every_method
def test_nothing_is_accepted_where_no_threshold_meets_the_target(method):
    for errors, u in (
        (np.ones(100), np.arange(100)),
        (np.zeros(5), np.arange(5)),
        (np.arange(100) % 2, np.zeros(100)),
        ([1], [0.0]),
    ):
        found = selective_threshold(errors, u, 0.05, 0.95, method)
        assert found[:2] == (-np.inf, 0.0)
        assert np.isnan(found.risk_bound)
        assert found.n_accepted == found.n_errors == 0


@pytest.mark.parametrize("method", ["binomial", "ltt"])
def test_everything_is_accepted_where_nothing_is_wrong(method):
    for u in (np.arange(500.0), np.zeros(500), np.full(500, -np.inf), np.full(500, np.inf)):
        found = selective_threshold(np.zeros(500), u, 0.05, 0.95, method)
        assert found.threshold == np.inf
        assert found.coverage == 1.0
        assert found.risk_bound <= 0.05
    assert selective_threshold(np.zeros(500), u).risk_bound == pytest.approx(1 - 0.05 ** (1 / 500))


@every_method
def test_infinite_scores_rank_like_any_other(method):
    errors, u = KnownRisk().draw(800, np.random.default_rng(0))
    expected = selective_threshold(errors, u, 0.1, 0.9, method)
    ends = np.where(u < 0.1, -np.inf, np.where(u > 0.9, np.inf, u))
    assert selective_threshold(errors, ends, 0.1, 0.9, method) == expected


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 1.5, np.nan, np.inf])
@pytest.mark.parametrize("name", ["target_risk", "confidence"])
def test_targets_and_confidences_outside_zero_and_one_are_named(name, value, problem):
    with pytest.raises(ValueError, match=f"{name} is .*must be above 0 and below 1"):
        selective_threshold([0, 1], [0.1, 0.2], **{name: value})
    with pytest.raises(ValueError, match=f"{name} is .*must be above 0 and below 1"):
        SelectiveClassifier(**{name: value}).fit(*problem.fit_args)


def test_bad_scores_and_methods_are_named():
    with pytest.raises(ValueError, match="uncertainty contains NaN in 1 of 2 rows"):
        selective_threshold([0, 1], [0.1, np.nan])
    with pytest.raises(ValueError, match="errors must be True or 1"):
        selective_threshold([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="errors has 2 rows, uncertainty has 3"):
        selective_threshold([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="method is 'best'; expected one of binomial, ltt, sgr"):
        selective_threshold([0, 1], [0.1, 0.2], method="best")
    with pytest.raises(TypeError, match="target_risk"):
        selective_threshold([0, 1], [0.1, 0.2], target_risk="low")


# --- the estimator --------------------------------------------------------------------------


def first_feature():
    """Return a fitted scorer: label 0 always, the surer the larger the first feature."""
    head = np.array([[10.0, 0.0], [0.0, 0.0]])
    return SoftmaxResponseScorer().fit(np.eye(3, 2), [0, 1, 0], head, [1e-9, 0.0])


@pytest.fixture
def sharp():
    """Return a problem with few errors."""
    return Problem(n=1200, gap=5.0, noise=0.4)


def test_one_part_fits_and_the_other_sets_the_threshold(sharp):
    model = SelectiveClassifier(
        AdUEEstimator(), target_risk=0.1, threshold_size=0.4, random_state=7
    ).fit(*sharp.fit_args)
    part, rest = train_test_split(np.arange(1200), test_size=0.4, random_state=7)
    inner = AdUEEstimator().fit(sharp.X[part], sharp.y[part], sharp.W, sharp.b)
    found = selective_threshold(
        sharp.errors[rest], inner.predict_uncertainty(sharp.X[rest]), 0.1, 0.95
    )
    assert found.n_accepted > 0
    assert model.threshold_ == found.threshold
    assert (model.coverage_, model.risk_bound_) == (found.coverage, found.risk_bound)
    assert model.error_rate_ == found.n_errors / found.n_accepted
    assert len(model.calibration_uncertainty_) == 480
    np.testing.assert_array_equal(
        model.predict_uncertainty(sharp.X), inner.predict_uncertainty(sharp.X)
    )
    np.testing.assert_array_equal(
        model.accepts(sharp.X), inner.predict_uncertainty(sharp.X) <= found.threshold
    )


def test_rows_that_set_the_threshold_never_touch_the_score(sharp):
    _, rest = train_test_split(np.arange(1200), test_size=0.5, random_state=0)
    changed = sharp.y.copy()
    changed[rest] = (changed[rest] + 1) % 3
    for head in (sharp.fit_args[2:], ()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            models = [
                SelectiveClassifier(AdUEEstimator(), target_risk=0.1).fit(sharp.X, y, *head)
                for y in (sharp.y, changed)
            ]
        np.testing.assert_array_equal(*(m.predict_uncertainty(sharp.X) for m in models))
        np.testing.assert_array_equal(*(m.predict(sharp.X) for m in models))


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.card.needs == "head"], ids=str)
def test_scores_that_need_the_head_alone_do_not_depend_on_the_rows(estimator, problem):
    # Otherwise they could not share their rows with the threshold.
    one, other = (
        clone(estimator).fit(problem.X[rows], problem.y[rows], problem.W, problem.b)
        for rows in (slice(0, 150), slice(150, 400))
    )
    np.testing.assert_array_equal(
        one.predict_uncertainty(problem.X), other.predict_uncertainty(problem.X)
    )


def test_scores_that_learn_nothing_spend_no_rows(sharp):
    model = SelectiveClassifier(target_risk=0.1).fit(*sharp.fit_args)
    assert len(model.calibration_uncertainty_) == 1200
    assert len(SelectiveClassifier().fit(sharp.X, sharp.y).calibration_uncertainty_) == 600


def test_a_frozen_estimator_is_not_refitted_and_all_rows_set_the_threshold(sharp):
    names = np.array(["zebra", "ant", "mole"])
    half = slice(0, 600)
    inner = AdUEEstimator().fit(
        sharp.X[half], names[sharp.y[half]], sharp.W, sharp.b, classes=names
    )
    coef = inner.coef_.copy()
    model = SelectiveClassifier(FrozenEstimator(inner), target_risk=0.1)
    model.fit(sharp.X[600:], names[sharp.y[600:]])
    assert model.estimator_ is inner
    np.testing.assert_array_equal(inner.coef_, coef)
    expected = selective_threshold(
        sharp.errors[600:], inner.predict_uncertainty(sharp.X[600:]), 0.1, 0.95
    )
    assert (model.threshold_, model.coverage_) == (expected.threshold, expected.coverage)
    np.testing.assert_array_equal(model.predict(sharp.X), inner.predict(sharp.X))


def test_the_promise_holds_on_real_rows(movie):
    model = SelectiveClassifier(AdUEEstimator(), target_risk=0.08, confidence=0.9)
    model.fit(*movie.calibration, movie.init_W, movie.init_b)
    accepted = model.accepts(movie.test.features)
    assert accepted.mean() == pytest.approx(model.coverage_, abs=0.05)
    assert accepted.mean() > 0.5
    assert model.errors(*movie.test)[accepted].mean() < 0.08


@pytest.mark.parametrize(
    ("defer", "kind"),
    [(-1, "i"), (np.int64(-9), "i"), (None, "O"), ("human", "O"), (float("nan"), "O")],
)
def test_deferred_rows_hold_the_marker_and_the_others_the_label(sharp, defer, kind):
    model = SelectiveClassifier(target_risk=0.1).fit(*sharp.fit_args)
    accepted = model.accepts(sharp.X)
    assert 0 < accepted.sum() < 1200
    answers = model.predict_or_defer(sharp.X, defer=defer)
    assert answers.dtype.kind == kind
    np.testing.assert_array_equal(answers[accepted], model.predict(sharp.X)[accepted])
    assert all(a is defer or a == defer or a != a for a in answers[~accepted].tolist())


def test_string_labels_take_longer_markers(sharp):
    names = np.array(["zebra", "ant", "mole"])
    model = SelectiveClassifier(target_risk=0.1)
    model.fit(sharp.X, names[sharp.y], sharp.W, sharp.b, classes=names)
    answers = model.predict_or_defer(sharp.X, defer="a person decides")
    assert answers.dtype.kind == "U"
    assert set(answers) == {"zebra", "ant", "mole", "a person decides"}
    markers = model.predict_or_defer(sharp.X, defer=["a", "list"])
    assert markers[~model.accepts(sharp.X)][0] == ["a", "list"]
    with pytest.raises(ValueError, match="defer is 'ant', which is a label"):
        model.predict_or_defer(sharp.X, defer="ant")


def test_tensors_give_tensors(sharp, device):
    X = torch.tensor(sharp.X, device=device)
    model = SelectiveClassifier(target_risk=0.1).fit(X, *sharp.fit_args[1:])
    accepted, answers = model.accepts(X), model.predict_or_defer(X, defer=-1)
    assert accepted.dtype == torch.bool
    assert accepted.device == answers.device == X.device
    np.testing.assert_array_equal(answers.cpu().numpy() == -1, ~accepted.cpu().numpy())
    assert model.predict_or_defer(X).dtype == object


def test_groups_have_thresholds_of_their_own_that_share_the_confidence(sharp):
    groups = np.array(["new", "old"])[(sharp.X[:, 0] > 0).astype(int)]
    model = SelectiveClassifier(target_risk={"new": 0.1, "old": 0.2}, confidence=0.9)
    model.fit(*sharp.fit_args, groups=groups)
    uncertainty = SoftmaxResponseScorer().fit(*sharp.fit_args).predict_uncertainty(sharp.X)
    assert model.groups_.tolist() == ["new", "old"]
    for place, (group, target) in enumerate((("new", 0.1), ("old", 0.2))):
        rows = groups == group
        found = selective_threshold(sharp.errors[rows], uncertainty[rows], target, 0.95)
        assert model.threshold_[place] == found.threshold
        assert model.coverage_[place] == found.coverage
        assert model.risk_bound_[place] == found.risk_bound
    expected = uncertainty <= model.threshold_[(groups == "old").astype(int)]
    np.testing.assert_array_equal(model.accepts(sharp.X, groups=groups), expected)
    objects = groups.astype(object)  # as in a column of a data frame
    np.testing.assert_array_equal(model.accepts(sharp.X, groups=objects), expected)
    answers = model.predict_or_defer(sharp.X, defer=-1, groups=groups)
    np.testing.assert_array_equal(answers != -1, expected)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.accepts(sharp.X, groups=groups), expected)
    assert not hasattr(model.set_params(target_risk=0.1).fit(*sharp.fit_args), "groups_")


def test_groups_that_fit_has_not_seen_are_never_accepted(sharp):
    groups = np.where(sharp.X[:, 0] > 0, 1, 2)
    model = SelectiveClassifier(target_risk=0.2).fit(*sharp.fit_args, groups=groups)
    with pytest.warns(UserWarning, match=r"1200 rows are in groups that fit has not seen.*as 7"):
        assert not model.accepts(sharp.X, groups=np.full(1200, 7)).any()


def test_groups_given_once_only_or_wrongly_are_named(sharp):
    groups = np.where(sharp.X[:, 0] > 0, 1, 2)
    model = SelectiveClassifier(target_risk=0.2).fit(*sharp.fit_args)
    with pytest.raises(ValueError, match="groups: fit was given no groups"):
        model.accepts(sharp.X, groups=groups)
    for bad, message in (
        (groups[1:], "groups has 1199 entries, but X has 1200 rows"),
        (np.where(groups == 1, np.nan, 1), "groups has dtype float64"),
        (groups[:, None] * [1, 2], "groups"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*sharp.fit_args, groups=bad)
    model.fit(*sharp.fit_args, groups=groups)
    with pytest.raises(ValueError, match="groups: fit was given groups, so groups are needed"):
        model.accepts(sharp.X)
    with pytest.raises(ValueError, match=r"dtype <U\d+; expected .* given: int64"):
        model.accepts(sharp.X, groups=groups.astype(str))
    with pytest.raises(ValueError, match="groups was given with per_class=True"):
        SelectiveClassifier(per_class=True).fit(*sharp.fit_args, groups=groups)
    with pytest.raises(ValueError, match="target_risk has no entry for 2"):
        SelectiveClassifier(target_risk={1: 0.1}).fit(*sharp.fit_args, groups=groups)
    with pytest.raises(ValueError, match="target_risk is a dict, but there are no groups"):
        SelectiveClassifier(target_risk={1: 0.1}).fit(*sharp.fit_args)
    with pytest.raises(ValueError, match="target_risk is 1"):
        SelectiveClassifier(target_risk={1: 0.1, 2: 1}).fit(*sharp.fit_args, groups=groups)


def test_predicted_classes_have_thresholds_of_their_own(sharp):
    names = np.array(["zebra", "ant", "mole"])
    fit = sharp.X, names[sharp.y], sharp.W, sharp.b
    model = SelectiveClassifier(target_risk=0.2, per_class=True).fit(*fit, classes=names)
    predicted = model.predict(sharp.X)
    by_group = SelectiveClassifier(target_risk=0.2).fit(*fit, classes=names, groups=predicted)
    assert model.groups_.tolist() == ["ant", "mole", "zebra"]
    np.testing.assert_array_equal(model.threshold_, by_group.threshold_)
    np.testing.assert_array_equal(
        model.accepts(sharp.X), by_group.accepts(sharp.X, groups=predicted)
    )


def test_a_row_exactly_at_the_threshold_is_accepted():
    # Two scores with no float between them: the threshold is the lower one itself.
    low, high = 0.5, np.nextafter(0.5, 1.0)
    scores, answers = np.repeat([low, high], [300, 100]), np.tile([0, 1], 200)
    X = np.column_stack([scores, 2.0 * answers - 1.0])
    labels = np.where(scores == low, answers, 1 - answers)
    model = SelectiveClassifier(ToyScorer(), target_risk=0.1)
    model.fit(X, labels, [[0.0, -1.0], [0.0, 1.0]], [0.0, 0.0])
    assert model.threshold_ == low
    np.testing.assert_array_equal(model.accepts(X), scores == low)


def test_a_class_never_predicted_at_fit_is_not_accepted(sharp):
    rows = SoftmaxResponseScorer().fit(*sharp.fit_args).predict(sharp.X) != 2
    model = SelectiveClassifier(target_risk=0.2, per_class=True)
    model.fit(sharp.X[rows], sharp.y[rows], sharp.W, sharp.b)
    with pytest.warns(UserWarning, match="groups that fit has not seen"):
        assert not model.accepts(sharp.X)[~rows].any()


def test_too_few_rows_say_how_many_are_needed(problem):
    few = problem.X[:40], problem.y[:40], problem.W, problem.b
    with pytest.warns(UserWarning, match="on 40 rows.*At least 59 labelled rows are needed"):
        model = SelectiveClassifier().fit(*few)
    assert (model.threshold_, model.coverage_) == (-np.inf, 0.0)
    assert np.isnan(model.risk_bound_)
    assert np.isnan(model.error_rate_)
    assert not model.accepts(problem.X).any()
    assert (model.predict_or_defer(problem.X, defer=-1) == -1).all()
    np.testing.assert_array_equal(
        model.predict(problem.X), SoftmaxResponseScorer().fit(*few).predict(problem.X)
    )


def test_a_target_out_of_reach_names_one_in_reach(problem):
    with pytest.warns(UserWarning, match="smallest target that these .* rows support") as record:
        SelectiveClassifier(target_risk=0.02).fit(*problem.fit_args)
    reach = float(str(record[0].message).split("is about ")[1].split(" %")[0]) / 100
    assert 0.02 < reach < 1
    model = SelectiveClassifier(target_risk=min(1.05 * reach, 0.999)).fit(*problem.fit_args)
    assert model.coverage_ > 0


@marks.odd_rows
def test_constant_scores_accept_all_or_nothing():
    X, y = np.ones((300, 2)), (np.arange(300) == 0).astype(int)
    model = SelectiveClassifier().fit(X, y, np.array([[1.0, 0], [0, 0]]))
    assert (model.threshold_, model.coverage_) == (np.inf, 1.0)
    with pytest.warns(UserWarning, match="No threshold meets"):
        model = SelectiveClassifier().fit(X, np.arange(300) % 2, np.array([[1.0, 0], [0, 0]]))
    assert model.coverage_ == 0.0


@marks.odd_rows
def test_one_class_only_works_with_a_head_and_is_named_without(sharp):
    rows = sharp.y == 1
    model = SelectiveClassifier(target_risk=0.3)
    model.fit(sharp.X[rows], sharp.y[rows], sharp.W, sharp.b)
    assert model.coverage_ > 0
    with pytest.raises(ValueError, match="y holds only one class"):
        model.fit(sharp.X[rows], sharp.y[rows])


def test_a_part_that_leaves_no_rows_is_named(sharp):
    for size in (1200, 5000):
        with pytest.raises(ValueError, match="threshold_size"):
            SelectiveClassifier(MahalanobisScorer(), threshold_size=size).fit(*sharp.fit_args)


@given(value=anything)
def test_only_documented_errors_come_out_of_thresholds(value):
    problem = Problem(n=40, d=4, noise=3.0)
    for argument in ("target_risk", "confidence", "method"):
        call(lambda a=argument: selective_threshold([0, 1], [0, 1], **{a: value}), argument)
    call(lambda: selective_threshold(value, np.arange(40)), "errors")
    call(lambda: selective_threshold(problem.errors, value), "uncertainty")
    call(lambda: SelectiveClassifier().fit(*problem.fit_args, groups=value), "groups")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = SelectiveClassifier().fit(*problem.fit_args, groups=problem.y)
    call(lambda: model.accepts(problem.X, groups=value), "groups")
    call(lambda: model.accepts(value, groups=problem.y), "X", "groups")
    call(lambda: model.predict_or_defer(problem.X, value, groups=problem.y), "defer")

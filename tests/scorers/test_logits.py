"""Scores made of logits against mpmath, scipy, brute force and each other."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import entropy as scipy_entropy, rankdata

from adue_sklearn import (
    DoctorScorer,
    EnergyScorer,
    EntropyScorer,
    GENScorer,
    MarginScorer,
    MaxLogitPNormScorer,
    MaxLogitScorer,
    RelUScorer,
    SoftmaxResponseScorer,
)
from adue_sklearn.metrics import aurc_score
from adue_sklearn.scorers import logits as formulas
from tests import marks
from tests.problems import Problem

mpmath.mp.dps = 150
# Labels here are as they come; whether they fit the head is another test's.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")

#: What is a function of the probabilities alone.
OF_PROBABILITIES = [
    SoftmaxResponseScorer(),
    EntropyScorer(),
    MarginScorer(),
    GENScorer(),
    GENScorer(gamma=0.7, top_m=2),
    DoctorScorer("alpha"),
    DoctorScorer("beta"),
]
ALL = [*OF_PROBABILITIES, MaxLogitScorer(), EnergyScorer(temperature=3.0)]


def scores(estimator, z):
    """Score logits: the head is the identity, every row an error or not as labels fall."""
    z = np.asarray(z, dtype=np.float64)
    n_classes = z.shape[1]
    rows = np.zeros((3 * n_classes, n_classes))
    return estimator.fit(
        rows, np.arange(3 * n_classes) % n_classes, np.eye(n_classes)
    ).predict_uncertainty(z)


def exact(name, row, **options):
    """The published formulas with 150 digits."""
    z = [mpmath.mpf(float(v)) for v in row]
    total = sum(mpmath.exp(v) for v in z)
    p = sorted((mpmath.exp(v) / total for v in z), reverse=True)
    if name == "softmax":
        return 1 - p[0]
    if name == "entropy":
        return -sum(v * mpmath.log(v) for v in p)
    if name == "margin":
        return 1 + p[1] - p[0]
    if name == "gen":
        g = options["gamma"]
        return sum(v**g * (1 - v) ** g for v in p[: options["top_m"]])
    if name == "alpha":
        g = sum(v * v for v in p)
        return (1 - g) / g
    assert name == "beta"
    return (1 - p[0]) / p[0]


EXACT = [
    ("softmax", SoftmaxResponseScorer(), {}),
    ("entropy", EntropyScorer(), {}),
    ("margin", MarginScorer(), {}),
    ("gen", GENScorer(), {"gamma": mpmath.mpf(0.1), "top_m": None}),
    ("gen", GENScorer(0.5, top_m=1), {"gamma": mpmath.mpf(0.5), "top_m": 1}),
    ("gen", GENScorer(0.25, top_m=3), {"gamma": mpmath.mpf(0.25), "top_m": 3}),
    ("gen", GENScorer(1.0, top_m=999), {"gamma": mpmath.mpf(1), "top_m": None}),
    ("alpha", DoctorScorer(), {}),
    ("beta", DoctorScorer("beta"), {}),
]


@pytest.mark.parametrize(("name", "estimator", "options"), EXACT, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3, 7, 150])
@pytest.mark.parametrize("gap", [0.0, 1.0, 10.0, 60.0, 100.0])
def test_scores_of_probabilities_are_the_formulas_to_the_last_digits(
    name, estimator, options, n_classes, gap
):
    z = np.random.default_rng(n_classes).normal(size=(4, n_classes)) * max(gap / 10, 1e-3)
    z[np.arange(4), np.arange(4) % n_classes] += gap
    expected = [float(exact(name, row, **options)) for row in z]
    np.testing.assert_allclose(scores(estimator, z), expected, rtol=1e-11)


def test_ordinary_rows_agree_with_scipy():
    z = np.random.default_rng(0).normal(size=(50, 6)) * 3
    p = softmax(z, axis=1)
    largest = np.sort(p, axis=1)
    np.testing.assert_allclose(scores(EntropyScorer(), z), scipy_entropy(p, axis=1))
    np.testing.assert_allclose(scores(MarginScorer(), z), 1 + largest[:, -2] - largest[:, -1])
    np.testing.assert_allclose(scores(MaxLogitScorer(), z), -z.max(axis=1))
    for T in (0.3, 1.0, 7.0):
        np.testing.assert_allclose(
            scores(EnergyScorer(T), z), -T * logsumexp(z / T, axis=1), atol=1e-12
        )


def test_energy_is_max_logit_in_the_limit_of_a_low_temperature():
    z = np.random.default_rng(1).normal(size=(20, 4))
    np.testing.assert_allclose(scores(EnergyScorer(1e-300), z), scores(MaxLogitScorer(), z))


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 10.0, 30.0]))
def test_with_two_classes_every_score_of_probabilities_ranks_rows_alike(seed, scale):
    z = np.random.default_rng(seed).normal(size=(30, 2)) * scale
    expected = rankdata(-np.abs(z[:, 0] - z[:, 1]))
    for estimator in OF_PROBABILITIES:
        np.testing.assert_array_equal(rankdata(scores(estimator, z)), expected, str(estimator))


@pytest.mark.parametrize("estimator", ALL, ids=str)
@pytest.mark.parametrize("n_classes", [2, 5, 150])
def test_confident_rows_are_still_told_apart(estimator, n_classes):
    gaps = np.linspace(30, 60, 31)
    z = np.zeros((31, n_classes))
    z[:, -1] = gaps
    assert (np.diff(scores(estimator, z)) < 0).all()


@pytest.mark.parametrize("estimator", OF_PROBABILITIES, ids=str)
@given(seed=st.integers(0, 2**31))
def test_scores_of_probabilities_ignore_the_order_of_classes_and_a_common_shift(estimator, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(10, 5)) * 4
    expected = scores(estimator, z)
    np.testing.assert_allclose(scores(estimator, z[:, rng.permutation(5)]), expected, rtol=1e-10)
    shifted = z + rng.normal(size=(10, 1)) * 100
    np.testing.assert_allclose(scores(estimator, shifted), expected, rtol=1e-10)


# The two largest of p alone are also at their most uncertain where no other class is left.
@pytest.mark.parametrize("estimator", [e for e in ALL if e.get_params().get("top_m") is None])
def test_equal_logits_are_as_uncertain_as_it_gets_and_tie(estimator):
    z = np.vstack([np.zeros((2, 4)), np.random.default_rng(0).normal(size=(20, 4)) ** 2])
    got = scores(estimator, z)
    assert got[0] == got[1]
    assert (got[2:] < got[0]).all()


@pytest.mark.parametrize("estimator", ALL, ids=str)
def test_scores_learn_nothing_from_labels(estimator, problem):
    before = estimator.fit(*problem.fit_args).predict_uncertainty(problem.X)
    shuffled = np.random.default_rng(0).permutation(problem.y)
    after = estimator.fit(problem.X[::-1], shuffled, problem.W, problem.b)
    np.testing.assert_array_equal(after.predict_uncertainty(problem.X), before)


# MaxLogit-pNorm


def p_norm_score(z, p):
    centred = z - z.mean(axis=1, keepdims=True)
    return -centred.max(axis=1) / np.linalg.norm(centred, ord=p, axis=1)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3.7, 10, np.inf])
def test_p_norm_score_is_the_formula_and_ignores_shift_and_scale(p):
    z = np.random.default_rng(0).normal(size=(40, 6))
    got = formulas.max_logit_p_norm(torch.tensor(z), p).numpy()
    magnitudes = np.abs(z - z.mean(axis=1, keepdims=True))
    norms = magnitudes.max(axis=1) if p == np.inf else (magnitudes**p).sum(axis=1) ** (1 / p)
    np.testing.assert_allclose(got, -(z.max(axis=1) - z.mean(axis=1)) / norms)
    for other in (z * 1e150, z * 1e-150, z + 7):
        np.testing.assert_allclose(
            formulas.max_logit_p_norm(torch.tensor(other), p).numpy(), got, rtol=1e-9
        )


def test_equal_logits_get_the_largest_p_norm_score():
    z = torch.tensor([[3.0, 3.0, 3.0], [3.0, 2.9, 3.0], [0.0, 0.0, 9.0]], dtype=torch.float64)
    got = formulas.max_logit_p_norm(z, 2.0)
    assert got[0] == 0
    assert (got[1:] < 0).all()


def broken_confidence(seed=0, n=400):
    """Rows whose scale has nothing to do with whether they are right, so that SR misleads."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 5))
    y = (z + rng.normal(size=(n, 5)) * 0.8).argmax(axis=1)
    return z * np.exp(rng.normal(size=(n, 1)) * 2), y


def test_p_is_the_one_with_the_least_aurc():
    z, y = broken_confidence()
    errors = z.argmax(axis=1) != y
    grid = (1, 1.5, 2, 3, 8)
    scorer = MaxLogitPNormScorer(grid).fit(z, y, np.eye(5))
    areas = {p: aurc_score(errors, p_norm_score(z, p)) for p in grid}
    assert scorer.p_ == min(areas, key=areas.get)
    assert areas[scorer.p_] < aurc_score(errors, 1 - softmax(z, axis=1).max(axis=1))
    np.testing.assert_allclose(scorer.predict_uncertainty(z), p_norm_score(z, scorer.p_))


def test_softmax_response_stays_where_it_is_better():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(2000, 4)) * np.exp(rng.normal(size=(2000, 1)))
    y = np.array([rng.choice(4, p=p) for p in softmax(z, axis=1)])  # calibrated
    scorer = MaxLogitPNormScorer().fit(z, y, np.eye(4))
    assert scorer.p_ is None
    expected = 1 - softmax(z, axis=1).max(axis=1)
    np.testing.assert_allclose(scorer.predict_uncertainty(z), expected, atol=1e-14)


def test_two_classes_and_rows_without_errors_choose_softmax_response():
    two = Problem(n_classes=2)
    assert MaxLogitPNormScorer().fit(*two.fit_args).p_ is None
    z, _ = broken_confidence()
    for y in (z.argmax(axis=1), (z.argmax(axis=1) + 1) % 5):  # no errors; only errors
        assert MaxLogitPNormScorer().fit(z, y, np.eye(5)).p_ is None


@pytest.mark.parametrize("grid", [[], [0.0], [-1, 2], [[1, 2]], ["two"], [np.nan]])
def test_odd_values_of_p_are_named(grid, problem):
    with pytest.raises(ValueError, match="p_grid"):
        MaxLogitPNormScorer(grid).fit(*problem.fit_args)


# Rel-U


def relation_by_loops(p, errors, lam):
    n_classes = p.shape[1]
    D = np.zeros((n_classes, n_classes))
    for i in range(n_classes):
        for j in range(n_classes):
            wrong = np.mean([row[i] * row[j] for row in p[errors]])
            correct = np.mean([row[i] * row[j] for row in p[~errors]])
            D[i, j] = max(0.0, lam * wrong - (1 - lam) * correct) if i != j else 0.0
    return D / np.sqrt((D**2).sum())


@pytest.mark.parametrize(("lam", "T"), [(0.5, 1.0), (0.8, 0.5), (1.0, 4.0)])
def test_relative_uncertainty_is_the_formula(lam, T, problem):
    scorer = RelUScorer(lam, T).fit(*problem.fit_args)
    p = softmax((problem.X @ problem.W.T + problem.b) / T, axis=1)
    D = relation_by_loops(p, problem.errors, lam)
    np.testing.assert_allclose(scorer.relation_, D, atol=1e-12)
    expected = [row @ D @ row for row in p]
    np.testing.assert_allclose(scorer.predict_uncertainty(problem.X), expected, rtol=1e-10)
    assert scorer.n_errors_ == problem.errors.sum()


def test_relative_uncertainty_learns_which_pair_of_classes_is_confused():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 3)) * 2
    confused = np.sort(z.argsort(axis=1)[:, 1:], axis=1)
    y = z.argmax(axis=1)
    wrong = (confused == [0, 1]).all(axis=1) & (rng.uniform(size=600) < 0.7)
    y[wrong] = 1 - y[wrong]
    scorer = RelUScorer().fit(z, y, np.eye(3))
    assert scorer.relation_[0, 1] > 10 * max(scorer.relation_[0, 2], scorer.relation_[1, 2])
    assert scorer.score(z, y) > SoftmaxResponseScorer().fit(z, y, np.eye(3)).score(z, y) + 0.05


def test_relative_uncertainty_tells_confident_rows_apart():
    z, y = broken_confidence()
    scorer = RelUScorer(lam=1.0).fit(z, y, np.eye(5))
    confident = np.zeros((31, 5))
    confident[:, 2] = np.linspace(30, 60, 31)
    assert (np.diff(scorer.predict_uncertainty(confident)) < 0).all()


def test_without_errors_relative_uncertainty_says_so(problem):
    X, W, b = problem.X, problem.W, problem.b
    right = (X @ W.T + b).argmax(axis=1)
    with pytest.raises(ValueError, match=r"no errors on the 400 fit rows.*SoftmaxResponseScorer"):
        RelUScorer().fit(X, right, W, b)
    with pytest.raises(ValueError, match="is wrong on all 400 fit rows"):
        RelUScorer().fit(X, (right + 1) % 3, W, b)
    apart = np.repeat(np.eye(3) * 50, 20, axis=0)
    with pytest.warns(UserWarning, match="nothing to learn from.*Gini") as record:
        scorer = RelUScorer().fit(apart, np.repeat([0, 1, 2], 20))
    assert record[0].filename == __file__
    p = scorer.predict_proba(apart)
    gini = (1 - (p**2).sum(axis=1)) / np.sqrt(6)
    np.testing.assert_allclose(scorer.predict_uncertainty(apart), gini, atol=1e-14)


def test_where_wrong_rows_never_weigh_more_all_pairs_count_alike(problem):
    with pytest.warns(UserWarning, match=r"lam=0\.001.*Raise lam") as record:
        scorer = RelUScorer(lam=0.001).fit(*problem.fit_args)
    assert record[0].filename == __file__  # it points at the caller
    p = softmax(problem.X @ problem.W.T + problem.b, axis=1)
    gini = (1 - (p**2).sum(axis=1)) / np.sqrt(6)
    np.testing.assert_allclose(scorer.predict_uncertainty(problem.X), gini, rtol=1e-6)


@marks.odd_rows
def test_hundred_and_fifty_classes_of_which_some_have_no_rows():
    problem = Problem(n=500, d=20, n_classes=150, noise=0.3)
    assert len(np.unique(problem.y)) < 150
    for estimator in (*ALL, MaxLogitPNormScorer(), RelUScorer()):
        got = estimator.fit(*problem.fit_args).predict_uncertainty(problem.X)
        assert np.isfinite(got).all()
        assert estimator.score(problem.X, problem.y) > 0.5

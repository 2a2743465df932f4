"""ViM against an explicit singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from adue_sklearn import ViMScorer
from tests import marks
from tests.problems import Problem

# Heads are random here; that their answers are no better than chance is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")


def explicit_vim(X, W, b, fresh, n_components):
    """Residual and energy from the singular vectors of the shifted rows."""
    origin = -np.linalg.lstsq(W, b, rcond=None)[0]
    axes = np.linalg.svd(X - origin, full_matrices=True)[2]
    rest = axes[n_components:]

    def residual(rows):
        return np.linalg.norm((rows - origin) @ rest.T @ rest, axis=1)

    scale = abs((X @ W.T + b).max(axis=1).mean()) / residual(X).mean()
    return scale * residual(fresh) - logsumexp(fresh @ W.T + b, axis=1)


@pytest.mark.parametrize("n_classes", [2, 3, 30], ids=lambda c: f"{c} classes")
@pytest.mark.parametrize("n_components", [0, 1, 7, 11])
def test_vim_is_the_scaled_residual_minus_the_energy(n_classes, n_components):
    problem = Problem(n_classes=n_classes, seed=n_classes)
    X = problem.X @ np.random.default_rng(1).normal(size=(12, 12)) + 1
    fresh = X[:40] + np.random.default_rng(2).normal(size=(40, 12))
    scorer = ViMScorer(n_components).fit(X, problem.y, problem.W, problem.b)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(fresh),
        explicit_vim(X, problem.W, problem.b, fresh, n_components),
        rtol=1e-9,
    )


def test_without_a_bias_the_origin_is_zero(problem):
    scorer = ViMScorer(3).fit(problem.X, problem.y, problem.W)
    np.testing.assert_array_equal(scorer.origin_, 0)
    expected = explicit_vim(problem.X, problem.W, np.zeros(3), problem.X, 3)
    np.testing.assert_allclose(scorer.predict_uncertainty(problem.X), expected)


def test_the_origin_has_logits_of_zero_where_there_are_enough_features(problem):
    scorer = ViMScorer().fit(*problem.fit_args)
    np.testing.assert_allclose(problem.W @ scorer.origin_ + problem.b, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("n_features", "expected"), [(1, 0), (12, 6), (767, 383), (768, 512), (2047, 512), (2048, 1000)]
)
def test_the_default_dimension_is_the_papers(n_features, expected):
    from adue_sklearn.scorers.subspace import published_dimension

    assert published_dimension(n_features) == expected


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_few_rows_leave_a_residual_by_default(problem, n):
    X, y = problem.X[:n], problem.y[:n]
    scorer = ViMScorer().fit(X, y, problem.W, problem.b)
    assert scorer.n_components_ == min(6, n // 2)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(problem.X),
        explicit_vim(X, problem.W, problem.b, problem.X, n // 2),
    )


def test_dimensions_that_leave_nothing_are_errors(problem):
    with pytest.raises(ValueError, match=r"n_components=12 leaves no direction .*n_features=12"):
        ViMScorer(12).fit(*problem.fit_args)
    with pytest.raises(ValueError, match=r"n_components=8 directions \(5 rows, 12 features\)"):
        ViMScorer(8).fit(problem.X[:5], problem.y[:5], problem.W, problem.b)
    with pytest.raises(ValueError, match="no residual outside its first n_components=0"):
        ViMScorer().fit(np.zeros((5, 12)), problem.y[:5], problem.W)


def test_constant_and_duplicated_features_are_no_trouble(problem):
    X = np.column_stack([problem.X, np.ones(400), problem.X[:, 0]])
    W = np.column_stack([problem.W, np.zeros((3, 2))])
    scorer = ViMScorer().fit(X, problem.y, W, problem.b)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(X), explicit_vim(X, W, problem.b, X, scorer.n_components_)
    )


def test_a_residual_never_lowers_the_uncertainty_even_of_negative_logits(problem):
    for shift in (0.0, -100.0):
        scorer = ViMScorer(6).fit(problem.X, problem.y, problem.W, problem.b + shift)
        assert scorer.scale_ > 0
        # A step that no logit sees and the principal subspace does not hold.
        off = scorer.complement_ @ np.linalg.svd(problem.W @ scorer.complement_)[2][-1]
        along = scorer.origin_ + np.arange(5)[:, None] * off
        assert (np.diff(scorer.predict_uncertainty(along)) > 0).all()


@marks.odd_rows
def test_of_a_deep_head_the_last_layers_features_are_scored(problem):
    rng = np.random.default_rng(3)
    V, c = rng.normal(size=(9, 12)), rng.normal(size=9)
    W, b = rng.normal(size=(3, 9)), rng.normal(size=3)
    deep = ViMScorer(4, activation="tanh").fit(problem.X, problem.y, [V, W], [c, b])
    hidden = np.tanh(problem.X @ V.T + c)
    expected = explicit_vim(hidden, W, b, hidden, 4)
    np.testing.assert_allclose(deep.predict_uncertainty(problem.X), expected, rtol=1e-9)
    shallow = ViMScorer(4).fit(hidden, problem.y, W, b)
    np.testing.assert_allclose(shallow.predict_uncertainty(hidden), expected, rtol=1e-9)


def test_blocks_of_rows_and_their_order_change_nothing(problem, monkeypatch):
    expected = ViMScorer().fit(*problem.fit_args).predict_uncertainty(problem.X)
    order = np.random.default_rng(0).permutation(400)
    monkeypatch.setattr("adue_sklearn._utils.arrays._CHUNK_ELEMENTS", 12 * 33)
    scorer = ViMScorer().fit(problem.X[order], problem.y[order], problem.W, problem.b)
    np.testing.assert_allclose(scorer.predict_uncertainty(problem.X), expected, rtol=1e-9)


def test_half_precision_rows_agree_with_the_same_rows_in_double(problem):
    X = torch.tensor(problem.X).bfloat16()
    half = ViMScorer().fit(X, problem.y, problem.W, problem.b)
    double = ViMScorer().fit(X.double(), problem.y, problem.W, problem.b)
    np.testing.assert_allclose(half.predict_uncertainty(X), double.predict_uncertainty(X.double()))


def test_rows_that_overflow_are_named(problem):
    with pytest.raises(ValueError, match="X is too large"):
        ViMScorer().fit(problem.X * 1e200, problem.y, problem.W, problem.b)

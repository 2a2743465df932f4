"""Last-layer Laplace against explicit matrices, autograd, quadrature and known limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from scipy.stats import norm

from adue_sklearn import LastLayerLaplaceScorer, SoftmaxResponseScorer
from adue_sklearn.scorers.laplace import logit_curvature
from tests.problems import Problem

# Labels here are as they come: the score does not look at them.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


def explicit_factors(problem):
    """Second moments of the features and the mean curvature of the logits, row by row."""
    H = with_ones(problem.X)
    p = softmax(problem.X @ problem.W.T + problem.b, axis=1)
    A = np.mean([np.outer(h, h) for h in H], axis=0)
    G = np.mean([np.diag(row) - np.outer(row, row) for row in p], axis=0)
    return A, G


def contrasts(n_classes):
    """Any orthonormal basis of the logits that sum to zero."""
    basis = np.random.default_rng(0).normal(size=(n_classes, n_classes - 1))
    return np.linalg.qr(basis - basis.mean(axis=0))[0]


def explicit_precision(problem, prior_precision):
    A, G = explicit_factors(problem)
    Q = contrasts(len(G))
    return len(problem.X) * np.kron(Q.T @ G @ Q, A) + prior_precision * np.eye(
        len(A) * (len(G) - 1)
    )


def explicit_logit_covariance(problem, h, prior_precision):
    n_contrasts, width = len(problem.W) - 1, problem.X.shape[1] + 1
    inverse = np.linalg.inv(explicit_precision(problem, prior_precision))
    by_contrast = inverse.reshape(n_contrasts, width, n_contrasts, width)
    Q = contrasts(n_contrasts + 1)
    return Q @ np.einsum("i,aibj,j->ab", h, by_contrast, h) @ Q.T


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("prior_precision", [0.1, 20.0])
def test_the_score_is_the_probit_response_of_the_explicit_posterior(n_classes, prior_precision):
    problem = Problem(n=60, d=4, n_classes=n_classes)
    scorer = LastLayerLaplaceScorer(prior_precision).fit(*problem.fit_args)
    expected = []
    for h, z in zip(
        with_ones(problem.X[:15]), problem.X[:15] @ problem.W.T + problem.b, strict=True
    ):
        S = explicit_logit_covariance(problem, h, prior_precision)
        k = z.argmax()
        odds = sum(
            np.exp((z[c] - z[k]) / np.sqrt(1 + np.pi / 8 * (S[k, k] + S[c, c] - 2 * S[k, c])))
            for c in range(n_classes)
            if c != k
        )
        expected.append(odds / (1 + odds))
    np.testing.assert_allclose(scorer.predict_uncertainty(problem.X[:15]), expected, rtol=1e-8)


def test_the_curvature_of_the_logits_is_that_of_the_cross_entropy():
    z = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    target = torch.tensor([0, 1, 2, 3, 0])
    expected = sum(
        torch.autograd.functional.hessian(
            lambda row, t=t: torch.nn.functional.cross_entropy(row, t), row
        )
        for row, t in zip(z, target, strict=True)
    )
    torch.testing.assert_close(logit_curvature(z), expected)
    confident = torch.tensor([[60.0, 0.0, 1.0]], dtype=torch.float64)
    diagonal = logit_curvature(confident).diagonal()
    torch.testing.assert_close(diagonal[0], diagonal[1] + diagonal[2], rtol=1e-9, atol=0)


def test_equal_rows_of_two_classes_give_bayesian_logistic_regression():
    """Where every row is the same, the Kronecker factors are exact."""
    h, n, tau = np.array([0.7, -1.2, 0.4]), 30, 0.8
    W = np.array([[0.5, 0.3, -0.2], [-0.4, 0.1, 0.9]])
    scorer = LastLayerLaplaceScorer(tau).fit(np.tile(h, (n, 1)), np.zeros(n, int), W)
    w = W[1] - W[0]
    p = expit(h @ w)
    # Two weights of variance 1 / tau each make a difference of variance 2 / tau.
    precision = n * p * (1 - p) * np.outer(h, h) + tau / 2 * np.eye(3)
    fresh = np.random.default_rng(0).normal(size=(20, 3)) * 3
    gap = fresh @ w
    variance = np.einsum("ni,ij,nj->n", fresh, np.linalg.inv(precision), fresh)
    expected = expit(-np.abs(gap) / np.sqrt(1 + np.pi / 8 * variance))
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-9)


def test_samples_average_to_the_integral_that_the_probit_approximates():
    problem = Problem(n=50, d=3, n_classes=2)
    options = {"prior_precision": 0.05}
    sampled = LastLayerLaplaceScorer(
        **options, predictive="monte_carlo", n_samples=20_000, random_state=0
    ).fit(*problem.fit_args)
    probit = LastLayerLaplaceScorer(**options).fit(*problem.fit_args)
    rows = problem.X[:10]
    expected = []
    for h, z in zip(with_ones(rows), rows @ problem.W.T + problem.b, strict=True):
        S = explicit_logit_covariance(problem, h, 0.05)
        gap, spread = abs(z[1] - z[0]), np.sqrt(S[0, 0] + S[1, 1] - 2 * S[0, 1])
        density = norm(gap, spread).pdf
        expected.append(
            quad(lambda g, f=density: expit(-g) * f(g), gap - 9 * spread, gap + 9 * spread)[0]
        )
    np.testing.assert_allclose(sampled.predict_uncertainty(rows), expected, atol=0.01)
    np.testing.assert_allclose(probit.predict_uncertainty(rows), expected, atol=0.02)


def test_samples_are_the_seeds():
    problem = Problem(n=50, d=3)
    first, again, other = (
        LastLayerLaplaceScorer(predictive="monte_carlo", n_samples=20, random_state=seed)
        .fit(*problem.fit_args)
        .predict_uncertainty(problem.X)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("gap", [1.0, 0.2])
def test_the_default_prior_has_the_largest_marginal_likelihood(gap):
    problem = Problem(n=80, d=4, gap=gap)
    weights = np.column_stack([problem.W, problem.b])
    theta = contrasts(3).T @ weights

    def negative_evidence(log_tau):
        tau = np.exp(log_tau)
        log_det = np.linalg.slogdet(explicit_precision(problem, tau))[1]
        return 0.5 * (tau * (theta**2).sum() - theta.size * log_tau + log_det)

    best = minimize_scalar(
        negative_evidence, bounds=(-10, 10), method="bounded", options={"xatol": 1e-9}
    )
    scorer = LastLayerLaplaceScorer().fit(*problem.fit_args)
    assert scorer.prior_precision_ == pytest.approx(np.exp(best.x), rel=1e-5)


def test_prior_precisions_out_of_range_stop_at_its_ends():
    problem = Problem(n=80, d=4)
    zero = LastLayerLaplaceScorer().fit(problem.X, problem.y, 0 * problem.W)
    assert zero.prior_precision_ == 1e6
    np.testing.assert_allclose(zero.predict_uncertainty(problem.X), 2 / 3)
    huge = LastLayerLaplaceScorer().fit(problem.X, problem.y, 1e6 * problem.W)
    assert huge.prior_precision_ == 1e-6
    assert np.isfinite(huge.predict_uncertainty(problem.X)).all()


def test_a_number_added_to_all_logits_and_the_order_of_classes_change_nothing(problem):
    X, y, W, b = problem.fit_args
    expected = LastLayerLaplaceScorer().fit(X, y, W, b).predict_uncertainty(X)
    shifted = LastLayerLaplaceScorer().fit(X, y, W + np.linspace(-3, 3, 12), b + 5)
    np.testing.assert_allclose(shifted.predict_uncertainty(X), expected, rtol=1e-8)
    order = np.array([2, 0, 1])
    permuted = LastLayerLaplaceScorer().fit(X, np.argsort(order)[y], W[order], b[order])
    np.testing.assert_allclose(permuted.predict_uncertainty(X), expected, rtol=1e-8)


def test_a_sure_prior_or_many_rows_leave_softmax_response(problem):
    X, y, W, b = problem.fit_args
    response = SoftmaxResponseScorer().fit(X, y, W, b).predict_uncertainty(X)
    sure = LastLayerLaplaceScorer(1e12).fit(X, y, W, b).predict_uncertainty(X)
    np.testing.assert_allclose(sure, response, rtol=1e-6)
    few = LastLayerLaplaceScorer(1.0).fit(X[:40], y[:40], W, b).predict_uncertainty(X)
    many = LastLayerLaplaceScorer(1.0).fit(np.tile(X, (50, 1)), np.tile(y, 50), W, b)
    assert np.abs(many.predict_uncertainty(X) - response).max() < 0.01
    assert np.abs(few - response).max() > 0.05


def test_rows_off_the_training_features_are_less_certain(problem):
    X, y = problem.X.copy(), problem.y
    X[:, 0] = 0  # a direction that the training rows do not have
    W = problem.W.copy()
    W[:, 0] = 0
    scorer = LastLayerLaplaceScorer().fit(X, y, W, problem.b)
    away = X.copy()
    away[:, 0] = 30
    assert (scorer.predict_uncertainty(away) > scorer.predict_uncertainty(X)).all()
    np.testing.assert_array_equal(scorer.predict(away), scorer.predict(X))


def test_labels_play_no_part(problem):
    X, y, W, b = problem.fit_args
    shuffled = np.random.default_rng(0).permutation(y)
    first, second = (
        LastLayerLaplaceScorer().fit(X, labels, W, b).predict_uncertainty(X)
        for labels in (y, shuffled)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("predictive", ["probit", "monte_carlo"])
def test_confident_rows_are_still_told_apart(predictive):
    gaps = np.linspace(30, 60, 31)
    X = np.column_stack([gaps, np.zeros(31), np.zeros(31)])
    scorer = LastLayerLaplaceScorer(1e9, predictive=predictive, random_state=0, n_samples=10)
    scorer.fit(X, np.zeros(31, int), np.eye(3))
    assert (np.diff(scorer.predict_uncertainty(X)) < 0).all()


def test_fewer_rows_than_features_and_constant_or_repeated_features_are_fine():
    problem = Problem(n=20, d=50, n_classes=4)
    problem.X[:, 0] = 1.0
    problem.X[:, 1] = problem.X[:, 2]
    got = LastLayerLaplaceScorer().fit(*problem.fit_args).predict_uncertainty(problem.X)
    assert ((got >= 0) & (got <= 0.75)).all()


def test_many_classes_and_features_keep_no_more_than_the_second_moments():
    problem = Problem(n=300, d=200, n_classes=150)
    scorer = LastLayerLaplaceScorer().fit(*problem.fit_args)
    kept = {name: value.size for name, value in vars(scorer).items() if hasattr(value, "size")}
    assert max(kept.values()) <= 201**2
    assert np.isfinite(scorer.predict_uncertainty(problem.X)).all()


def test_a_head_of_several_layers_is_named(problem):
    layers = [np.eye(12), problem.W]
    with pytest.raises(ValueError, match=r"init_W has 2 layers.*pass the last layer's"):
        LastLayerLaplaceScorer(activation="tanh").fit(problem.X, problem.y, layers)
    single = LastLayerLaplaceScorer().fit(problem.X, problem.y, [problem.W], [problem.b])
    np.testing.assert_array_equal(
        single.predict_uncertainty(problem.X),
        LastLayerLaplaceScorer().fit(*problem.fit_args).predict_uncertainty(problem.X),
    )


def test_features_whose_squares_overflow_are_named(problem):
    with pytest.raises(ValueError, match="X is too large"):
        LastLayerLaplaceScorer().fit(problem.X * 1e200, problem.y, problem.W)

"""Mahalanobis distances against scikit-learn, explicit inverses and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance, ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from adue_sklearn import MahalanobisScorer


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 500)
    X = rng.normal(size=(4, 8))[y] * 5 + rng.normal(size=(500, 8)) @ rng.normal(size=(8, 8)) + 100
    fresh = rng.normal(size=(60, 8)) * 5 + 100
    return X, y, fresh


def within_class(X, y):
    means = np.array([X[y == c].mean(axis=0) for c in np.unique(y)])
    return means, X - means[np.searchsorted(np.unique(y), y)]


def nearest(fresh, means, covariance):
    return (
        cdist(fresh, np.atleast_2d(means), "mahalanobis", VI=np.linalg.inv(covariance)) ** 2
    ).min(axis=1)


def test_class_distance_uses_the_nearest_mean_and_the_tied_covariance(clusters):
    X, y, fresh = clusters
    means, centred = within_class(X, y)
    scorer = MahalanobisScorer(shrinkage=0.0).fit(X, y)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(fresh), nearest(fresh, means, centred.T @ centred / 500)
    )
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(X, y)
    np.testing.assert_allclose(scorer.covariance_, lda.covariance_)


def test_marginal_distance_is_scikit_learns(clusters):
    X, y, fresh = clusters
    expected = EmpiricalCovariance().fit(X).mahalanobis(fresh)
    scorer = MahalanobisScorer("marginal", shrinkage=0.0).fit(X, y)
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, "auto"])
def test_relative_distance_is_class_minus_marginal(clusters, shrinkage):
    X, y, fresh = clusters
    scores = {
        variant: MahalanobisScorer(variant, shrinkage=shrinkage)
        .fit(X, y)
        .predict_uncertainty(fresh)
        for variant in ("class", "marginal", "relative")
    }
    np.testing.assert_allclose(scores["relative"], scores["class"] - scores["marginal"])


def test_auto_shrinkage_is_ledoit_and_wolfs(clusters):
    X, y, fresh = clusters
    means, centred = within_class(X, y)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    scorer = MahalanobisScorer(shrinkage="auto").fit(X, y)
    assert scorer.shrinkage_ == pytest.approx(shrinkage)
    np.testing.assert_allclose(scorer.covariance_, covariance)
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), nearest(fresh, means, covariance))


def test_full_shrinkage_is_the_euclidean_distance(clusters):
    X, y, fresh = clusters
    means, centred = within_class(X, y)
    scorer = MahalanobisScorer(shrinkage=1.0).fit(X, y)
    expected = (cdist(fresh, means) ** 2).min(axis=1) / (centred**2).mean()
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected)


def test_normalized_rows_make_the_length_irrelevant(clusters):
    X, y, fresh = clusters
    scorer = MahalanobisScorer(normalize=True).fit(X, y)
    plain = MahalanobisScorer().fit(X / np.linalg.norm(X, axis=1, keepdims=True), y)
    expected = plain.predict_uncertainty(fresh / np.linalg.norm(fresh, axis=1, keepdims=True))
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-6)
    np.testing.assert_allclose(scorer.predict_uncertainty(7 * fresh), expected, rtol=1e-6)
    assert np.isfinite(scorer.predict_uncertainty(np.zeros((1, 8)))).all()


def test_distances_do_not_change_under_an_invertible_linear_map(clusters):
    X, y, fresh = clusters
    A = np.random.default_rng(1).normal(size=(8, 8)) * np.logspace(-3, 3, 8)
    before = MahalanobisScorer(shrinkage=0.0).fit(X, y).predict_uncertainty(fresh)
    after = MahalanobisScorer(shrinkage=0.0).fit(X @ A, y).predict_uncertainty(fresh @ A)
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_float32_rows_far_from_the_origin_keep_their_digits(clusters):
    X, y, fresh = (np.asarray(a, dtype=np.float32) for a in clusters)
    y = y.astype(int)
    single = MahalanobisScorer(shrinkage=0.0).fit(X, y).predict_uncertainty(fresh)
    double = MahalanobisScorer(shrinkage=0.0).fit(X.astype(float), y)
    np.testing.assert_allclose(
        single, double.predict_uncertainty(fresh.astype(float)), rtol=1e-3, atol=1e-3
    )


def test_a_mean_has_distance_zero_not_below(clusters):
    X, y, _ = clusters
    scorer = MahalanobisScorer().fit(X, y)
    distances = scorer.predict_uncertainty(scorer.location_)
    assert (distances >= 0).all()
    np.testing.assert_allclose(distances, 0, atol=1e-8)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda X: np.column_stack([X, np.ones(len(X))]),
        lambda X: np.column_stack([X, X[:, 0]]),
        lambda X: np.column_stack([X, X[:, :2].sum(axis=1)]),
        lambda X: X[:6],
    ],
    ids=["constant", "duplicated", "collinear", "n < d"],
)
def test_singular_covariance_is_an_error_unless_shrunk(clusters, spoil):
    X, y, _ = clusters
    X = spoil(X)
    y = y[: len(X)]
    with pytest.raises(ValueError, match=r"singular.*Set shrinkage above 0"):
        MahalanobisScorer(shrinkage=0.0).fit(X, y)
    assert np.isfinite(MahalanobisScorer().fit(X, y).predict_uncertainty(X)).all()


def test_constant_features_everywhere_are_an_error():
    with pytest.raises(ValueError, match="singular"):
        MahalanobisScorer().fit(np.ones((10, 3)), [0, 1] * 5, np.eye(3)[:2])


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, "ledoit"])
def test_shrinkage_out_of_range_is_named(clusters, shrinkage):
    with pytest.raises(ValueError, match="'shrinkage' parameter"):
        MahalanobisScorer(shrinkage=shrinkage).fit(clusters[0], clusters[1])

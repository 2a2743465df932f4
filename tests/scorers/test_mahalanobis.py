"""Mahalanobis distances against scikit-learn, explicit inverses and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance, ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from adue_sklearn import MahalanobisScorer
from tests import marks


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
    scorer = MahalanobisScorer(normalize=True, shrinkage="auto").fit(X, y)
    plain = MahalanobisScorer(shrinkage="auto").fit(X / np.linalg.norm(X, axis=1, keepdims=True), y)
    expected = plain.predict_uncertainty(fresh / np.linalg.norm(fresh, axis=1, keepdims=True))
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-6)
    np.testing.assert_allclose(scorer.predict_uncertainty(7 * fresh), expected, rtol=1e-6)
    assert np.isfinite(scorer.predict_uncertainty(np.zeros((1, 8)))).all()


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # the head is not used
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
    with pytest.raises(ValueError, match=r"expected an invertible one. Set shrinkage above 0"):
        MahalanobisScorer(shrinkage=0.0).fit(X, y)
    assert np.isfinite(MahalanobisScorer().fit(X, y).predict_uncertainty(X)).all()


@marks.odd_rows
def test_constant_features_everywhere_are_an_error():
    with pytest.raises(ValueError, match="singular"):
        MahalanobisScorer().fit(np.ones((10, 3)), [0, 1] * 5, np.eye(3)[:2])


def batches(X, y, size=97):
    return [(X[i : i + size], y[i : i + size]) for i in range(0, len(X), size)]


@pytest.mark.parametrize("variant", ["class", "marginal", "relative"])
@pytest.mark.parametrize("normalize", [False, True])
@marks.odd_rows
def test_partial_fit_equals_fit_on_the_concatenation(clusters, variant, normalize):
    X, y, fresh = clusters
    rng = np.random.default_rng(2)
    W, b = rng.normal(size=(4, 8)), rng.normal(size=4)
    order = np.argsort(y)  # classes arrive one after the other: the hardest order
    X, y = X[order], y[order]
    whole = MahalanobisScorer(variant, normalize=normalize).fit(X, y, W, b)
    parts = MahalanobisScorer(variant, normalize=normalize)
    for rows, labels in batches(X, y):
        parts.partial_fit(rows, labels, W, b)
    assert parts.n_samples_seen_ == 500
    for name in ("location_", "covariance_"):
        expected = getattr(whole, name)
        np.testing.assert_allclose(
            getattr(parts, name), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max()
        )
    np.testing.assert_allclose(
        parts.predict_uncertainty(fresh), whole.predict_uncertainty(fresh), rtol=1e-9
    )
    np.testing.assert_array_equal(parts.predict(fresh), whole.predict(fresh))


@marks.odd_rows
def test_partial_fit_takes_shards_of_any_length_fit_refuses_one_as_long_as_the_head(clusters):
    X, y, fresh = clusters
    W = np.random.default_rng(2).normal(size=(4, 8))
    parts = MahalanobisScorer()
    for rows in np.split(np.arange(len(X)), [4, 5, 9, 300]):  # 4, 1, 4, 291, 200 rows
        parts.partial_fit(X[rows], y[rows], W)
    whole = MahalanobisScorer().fit(X, y, W)
    np.testing.assert_allclose(
        parts.predict_uncertainty(fresh), whole.predict_uncertainty(fresh), rtol=1e-9
    )
    with pytest.raises(ValueError, match="init_W has as many rows as X"):
        MahalanobisScorer().fit(X[:4], y[:4], W)


@marks.odd_rows
def test_partial_fit_goes_on_after_fit(clusters):
    X, y, fresh = clusters
    W = np.random.default_rng(2).normal(size=(4, 8))
    whole = MahalanobisScorer().fit(X, y, W)
    grown = MahalanobisScorer().fit(X[:300], y[:300], W).partial_fit(X[300:], y[300:])
    np.testing.assert_allclose(
        grown.predict_uncertainty(fresh), whole.predict_uncertainty(fresh), rtol=1e-9
    )


def test_without_a_head_partial_fit_predicts_the_nearest_mean(clusters):
    X, y, fresh = clusters
    names = np.array(["d", "a", "c", "b"])
    scorer = MahalanobisScorer(shrinkage=0.0)
    for rows, labels in batches(X, names[y]):
        scorer.partial_fit(rows, labels, classes=names)
    means, centred = within_class(X, names[y])
    distances = cdist(fresh, means, "mahalanobis", VI=np.linalg.inv(centred.T @ centred / 500))
    np.testing.assert_array_equal(scorer.predict(fresh), np.sort(names)[distances.argmin(axis=1)])
    expected = np.exp(-0.5 * distances**2)
    np.testing.assert_allclose(
        scorer.predict_proba(fresh), expected / expected.sum(axis=1, keepdims=True), atol=1e-8
    )


def test_a_class_without_rows_so_far_is_never_predicted(clusters):
    X, y, fresh = clusters
    seen = y < 3
    scorer = MahalanobisScorer().partial_fit(X[seen], y[seen], classes=[0, 1, 2, 3])
    assert set(scorer.predict(fresh)) <= {0, 1, 2}
    scorer.partial_fit(X[~seen], y[~seen])
    assert 3 in scorer.predict(X[~seen])


@marks.odd_rows
def test_what_partial_fit_cannot_do_is_named_and_changes_nothing(clusters):
    X, y, fresh = clusters
    with pytest.raises(ValueError, match=r"shrinkage='auto' needs all rows at once"):
        MahalanobisScorer(shrinkage="auto").partial_fit(X, y)
    scorer = MahalanobisScorer(shrinkage=0.0).partial_fit(X, y)
    before = scorer.predict_uncertainty(fresh)
    with pytest.raises(ValueError, match="y holds 4, not among classes"):
        scorer.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="X has 3 features"):
        scorer.partial_fit(X[:, :3], y)
    with pytest.raises(ValueError, match="NaN"):
        scorer.partial_fit(np.full_like(X, np.nan), y)
    assert scorer.n_samples_seen_ == 500
    np.testing.assert_array_equal(scorer.predict_uncertainty(fresh), before)
    with pytest.raises(ValueError, match="another head"):
        MahalanobisScorer().fit(X, y, np.ones((4, 8))).partial_fit(X, y, -np.ones((4, 8)))
    with pytest.raises(ValueError, match="init_W was not given in the first call"):
        scorer.partial_fit(X, y, np.ones((4, 8)))
    with pytest.raises(ValueError, match="classes are"):
        scorer.partial_fit(X, y, classes=[5, 6])
    with pytest.raises(ValueError, match="normalize was False"):
        scorer.set_params(normalize=True).partial_fit(X, y)


def test_without_shrinkage_small_batches_add_up_and_scoring_too_early_is_an_error(clusters):
    X, y, fresh = clusters
    rng = np.random.default_rng(0)
    order = rng.permutation(500)
    X, y = X[order], y[order]
    scorer = MahalanobisScorer(shrinkage=0.0).partial_fit(X[:4], y[:4], classes=range(4))
    for method in (scorer.predict_uncertainty, scorer.predict):
        with pytest.raises(ValueError, match="singular"):
            method(fresh)
    for rows, labels in batches(X[4:], y[4:], size=5):
        scorer.partial_fit(rows, labels)
    whole = MahalanobisScorer(shrinkage=0.0).fit(X, y)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(fresh), whole.predict_uncertainty(fresh), rtol=1e-8
    )


def test_the_nearest_mean_of_unit_rows_predicts_rows_of_any_length():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    X = rng.normal(size=(3, 6))[y] + 0.1 * rng.normal(size=(300, 6))
    X *= rng.uniform(0.05, 20, size=(300, 1))
    scorer = MahalanobisScorer(normalize=True).partial_fit(X, y)
    assert (scorer.predict(X) == y).mean() > 0.95
    np.testing.assert_array_equal(scorer.predict(7 * X), scorer.predict(X))


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, "ledoit"])
def test_shrinkage_out_of_range_is_named(clusters, shrinkage):
    with pytest.raises(ValueError, match="'shrinkage' parameter"):
        MahalanobisScorer(shrinkage=shrinkage).fit(clusters[0], clusters[1])

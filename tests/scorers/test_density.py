"""DDU and RDE against scipy's Gaussians and scikit-learn's kernel PCA and robust covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import MinCovDet
from sklearn.decomposition import KernelPCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from adue_sklearn import DDUScorer, MahalanobisScorer, RDEScorer

# Heads are random here; that their answers are no better than chance is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    y = rng.choice(4, 600, p=[0.1, 0.2, 0.3, 0.4])
    mixing = rng.normal(size=(4, 8, 8))
    X = rng.normal(size=(4, 8))[y] * 5 + np.einsum(
        "nd,nde->ne", rng.normal(size=(600, 8)), mixing[y]
    )
    fresh = rng.normal(size=(60, 8)) * 5 + 100
    return X + 100, y, fresh, rng.normal(size=(4, 8)), rng.normal(size=4)


@pytest.fixture
def mild(clusters):
    """The same clusters at the scale for which RDE's gamma is made."""
    X, y, fresh, W, b = clusters
    return (X - 100) / 8, y, (fresh - 100) / 8, W, b


def explicit_ddu(X, y, fresh, pooling, shrinkage):
    """Sum of scipy's densities, covariances written out."""
    classes = np.unique(y)
    d = X.shape[1]
    means = np.array([X[y == c].mean(axis=0) for c in classes])
    centred = X - means[np.searchsorted(classes, y)]
    tied = centred.T @ centred / len(X)
    tied = (1 - shrinkage) * tied + shrinkage * np.trace(tied) / d * np.eye(d)
    terms = []
    for mean, c in zip(means, classes, strict=True):
        rows = centred[y == c]
        p = d / (d + len(rows)) if pooling == "auto" else pooling
        covariance = (1 - p) * rows.T @ rows / len(rows) + p * tied
        density = multivariate_normal(mean, covariance, allow_singular=False)
        terms.append(np.log(len(rows) / len(X)) + density.logpdf(fresh))
    return -logsumexp(terms, axis=0)


@pytest.mark.parametrize("pooling", ["auto", 1.0, 0.3, 1e-6])
@pytest.mark.parametrize("shrinkage", [0.0, 1e-3, 1.0])
def test_ddu_is_minus_the_log_density(clusters, pooling, shrinkage):
    X, y, fresh, W, b = clusters
    scorer = DDUScorer(pooling, shrinkage=shrinkage).fit(X, y, W, b)
    expected = explicit_ddu(X, y, fresh, pooling, shrinkage)
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-7)
    near = X[:50]
    np.testing.assert_allclose(
        scorer.predict_uncertainty(near), explicit_ddu(X, y, near, pooling, shrinkage), rtol=1e-7
    )


def test_ddu_with_little_pooling_is_quadratic_discriminant_analysis(clusters):
    X, y, _, W, b = clusters
    scorer = DDUScorer(1e-9, shrinkage=0.0).fit(X, y, W, b)
    qda = QuadraticDiscriminantAnalysis().fit(X, y)
    joint = [
        # Versions of QDA differ in what they divide a covariance by.
        np.log(prior) + multivariate_normal(mean, np.cov(X[y == label].T, bias=True)).logpdf(X)
        for prior, mean, label in zip(qda.priors_, qda.means_, qda.classes_, strict=True)
    ]
    np.testing.assert_allclose(scorer.predict_uncertainty(X), -logsumexp(joint, axis=0), rtol=1e-5)


def test_ddu_with_full_pooling_ranks_one_class_as_mahalanobis(clusters):
    X, _, fresh, W, b = clusters
    y = np.ones(600, dtype=int)
    density = DDUScorer(1.0).fit(X, y, W, b).predict_uncertainty(fresh)
    distance = MahalanobisScorer().fit(X, y, W, b).predict_uncertainty(fresh)
    np.testing.assert_allclose(np.diff(density), np.diff(distance) / 2, rtol=1e-6)


@pytest.mark.parametrize("n_rows", [1, 2, 5, 30])
@pytest.mark.parametrize("pooling", ["auto", 0.2])
def test_ddu_of_classes_with_fewer_rows_than_features(n_rows, pooling):
    rng = np.random.default_rng(n_rows)
    X, fresh = rng.normal(size=(20 + n_rows, 25)), rng.normal(size=(30, 25))
    y = np.repeat([0, 2], [20, n_rows])
    scorer = DDUScorer(pooling, shrinkage=0.1).fit(X, y, rng.normal(size=(3, 25)))
    expected = explicit_ddu(X, y, fresh, pooling, 0.1)
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-9)


def test_ddu_of_many_classes_keeps_less_than_a_matrix_a_class():
    rng = np.random.default_rng(0)
    y = np.arange(900) % 150
    X = rng.normal(size=(150, 60))[y] * 3 + rng.normal(size=(900, 60))
    scorer = DDUScorer().fit(X, y, rng.normal(size=(150, 60)))
    expected = explicit_ddu(X, y, X[:40], "auto", 1e-3)
    np.testing.assert_allclose(scorer.predict_uncertainty(X[:40]), expected, rtol=1e-9)
    kept = sum(v.size for v in vars(scorer).values() if isinstance(v, np.ndarray))
    assert kept < 150 * 60 * 60 / 4


def test_ddu_far_away_underflows_no_density(clusters):
    X, y, fresh, W, b = clusters
    scorer = DDUScorer().fit(X, y, W, b)
    scores = scorer.predict_uncertainty(np.linspace(1, 1e6, 20)[:, None] * fresh[:1])
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()


def test_ddu_normalized_equals_unit_rows(clusters):
    X, y, fresh, W, b = clusters
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    scorer = DDUScorer(normalize=True).fit(X, y, W, b)
    expected = explicit_ddu(
        unit, y, fresh / np.linalg.norm(fresh, axis=1, keepdims=True), "auto", 1e-3
    )
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda X: np.column_stack([X, np.ones(len(X))]),
        lambda X: np.column_stack([X, X[:, 0]]),
        lambda X: X[:6],
    ],
    ids=["constant", "duplicated", "n < d"],
)
def test_ddu_of_singular_covariances_is_an_error_unless_shrunk(clusters, spoil):
    X, y, *_ = clusters
    X = spoil(X)
    y = y[: len(X)] % 2
    with pytest.raises(ValueError, match=r"covariance of X.*singular.*Set shrinkage above 0"):
        DDUScorer(shrinkage=0.0).fit(X, y)
    expected = explicit_ddu(X, y, X, "auto", 1e-3)
    np.testing.assert_allclose(DDUScorer().fit(X, y).predict_uncertainty(X), expected, rtol=1e-6)


def test_blocks_of_rows_change_nothing(mild, monkeypatch):
    X, y, fresh, W, b = mild
    scorers = [DDUScorer(), RDEScorer(5)]
    expected = [s.fit(X, y, W, b).predict_uncertainty(fresh) for s in scorers]
    monkeypatch.setattr("adue_sklearn.scorers.density._BLOCK_ELEMENTS", 700)
    monkeypatch.setattr("adue_sklearn._utils.arrays._CHUNK_ELEMENTS", 8 * 20)
    for scorer, scores in zip(scorers, expected, strict=True):
        blocks = scorer.fit(X, y, W, b).predict_uncertainty(fresh)
        np.testing.assert_allclose(blocks, scores, rtol=1e-7)


def explicit_rde(X, y, fresh, predicted, n_components, seed, gamma=None):
    """Squared distance at the predicted class by scikit-learn alone (subsampling aside)."""
    pca = KernelPCA(n_components, kernel="rbf", gamma=gamma).fit(X)
    rows, fresh_rows = pca.transform(X), pca.transform(fresh)
    scores = np.empty(len(fresh))
    for c in np.unique(predicted):
        found = MinCovDet(random_state=seed).fit(rows[y == c])
        at_c = predicted == c
        scores[at_c] = found.mahalanobis(fresh_rows[at_c])
    return scores


@pytest.mark.parametrize("gamma", [None, 0.02])
def test_rde_is_the_robust_distance_at_the_predicted_class(mild, gamma):
    X, y, _, W, b = mild
    W = np.array([X[y == c].mean(axis=0) for c in range(4)])
    b = -0.5 * (W**2).sum(axis=1)
    near = X + 0.1 * np.random.default_rng(1).normal(size=X.shape)
    predicted = (near @ W.T + b).argmax(axis=1)
    assert set(predicted) == {0, 1, 2, 3}
    scorer = RDEScorer(5, gamma=gamma).fit(X, y, W, b)
    scores = scorer.predict_uncertainty(near)
    # The robust estimate's local minimum depends on its starts; its best of many does rarely.
    expected = explicit_rde(X, y, near, predicted, 5, 0, gamma)
    assert np.corrcoef(np.log(scores), np.log(expected))[0, 1] > 0.99
    np.testing.assert_allclose(np.median(scores / expected), 1, rtol=0.05)


def test_rde_distances_are_those_of_its_means_and_covariances(mild):
    X, y, _, W, b = mild
    near = X + 0.3 * np.random.default_rng(1).normal(size=X.shape)
    scorer = RDEScorer(5).fit(X, y, W, b)
    pca = KernelPCA(5, kernel="rbf", gamma=1 / 8).fit(X)
    components = pca.transform(near) * np.sqrt(len(X) / pca.eigenvalues_)
    signs = np.sign(np.sum(pca.transform(X) * scorer._components(X).numpy(), axis=0))
    components *= signs
    np.testing.assert_allclose(scorer._components(near).numpy(), components, atol=1e-8)
    offsets = components - scorer.location_[scorer.predict(near)]
    inverse = np.linalg.inv(scorer.covariance_)[scorer.predict(near)]
    expected = np.einsum("ni,nij,nj->n", offsets, inverse, offsets)
    np.testing.assert_allclose(scorer.predict_uncertainty(near), expected, rtol=1e-6)


def test_rde_is_not_spoilt_by_outliers_in_a_class():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4))
    y = np.repeat([0, 1], 200)
    X[y == 1] += 3
    spoilt = X.copy()
    spoilt[:60] = rng.normal(size=(60, 4)) * 0.5 + [4, -4, 4, -4]
    W, b = np.array([[-1.0] * 4, [1.0] * 4]), np.array([6.0, -6.0])
    robust = RDEScorer(3, gamma=0.01).fit(spoilt, y, W, b)
    outlier, typical = (
        robust.predict_uncertainty(spoilt[:60]),
        robust.predict_uncertainty(X[60:200]),
    )
    assert np.median(outlier) > 10 * np.median(typical)


def test_rde_classes_with_few_rows_share_a_covariance_and_say_so(mild):
    X, y, _, W, b = mild
    some = np.concatenate([np.flatnonzero(y == 0)[:10], np.flatnonzero(y > 0)])
    names = np.array(["a", "b", "c", "d"])
    with pytest.warns(UserWarning, match=r"1 of 4 classes have fewer than 25 rows"):
        scorer = RDEScorer(5).fit(X[some], names[y[some]], W, b, classes=names)
    assert scorer.pooled_classes_.tolist() == ["a"]
    components = scorer._components(X[some]).numpy()
    means = np.array([components[y[some] == c].mean(axis=0) for c in range(4)])
    np.testing.assert_allclose(scorer.location_[0], means[0])
    assert not np.allclose(scorer.location_[1], means[1], rtol=1e-3)
    pooled = MinCovDet(random_state=1).fit(components - means[y[some]]).covariance_
    np.testing.assert_allclose(scorer.covariance_[0], pooled, atol=0.1 * np.abs(pooled).max())


def test_rde_singular_classes_share_a_covariance(mild):
    X, y, fresh, W, b = mild
    X = X.copy()
    X[np.flatnonzero(y == 3)[60:]] = X[np.flatnonzero(y == 3)[0]]
    with pytest.warns(UserWarning, match="singular covariance"):
        scorer = RDEScorer(5).fit(X, y, W, b)
    assert scorer.pooled_classes_.tolist() == [3]
    assert np.isfinite(scorer.predict_uncertainty(fresh)).all()


def test_rde_of_a_predicted_class_without_rows_is_the_nearest_classes(mild):
    X, y, _, W, b = mild
    seen = y != 2
    W, b = np.zeros((4, 8)), np.array([0.0, 0, 1, 0])
    scorer = RDEScorer(5).fit(X[seen], y[seen], W, b)
    scores = scorer.predict_uncertainty(X)
    by_class = []
    for c in (0, 1, 3):
        scorer.init_intercept_ = np.eye(4)[c]
        by_class.append(scorer.predict_uncertainty(X))
    np.testing.assert_array_equal(scores, np.min(by_class, axis=0))


def test_rde_subsamples_rows_for_the_kernel_and_is_deterministic(mild):
    X, y, _, W, b = mild
    scores = [
        RDEScorer(4, max_samples=100, random_state=seed).fit(X, y, W, b).predict_uncertainty(X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    assert RDEScorer(4, max_samples=100).fit(X, y, W, b).references_.shape == (100, 8)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda X: np.column_stack([X, np.ones(len(X))]),
        lambda X: np.column_stack([X, X]),
        lambda X: np.column_stack([X, np.random.default_rng(0).normal(size=(len(X), 700))]),
    ],
    ids=["constant", "duplicated", "n < d"],
)
def test_rde_takes_constant_duplicated_and_many_features(mild, spoil):
    X, y, *_ = mild
    X = spoil(X)
    scorer = RDEScorer(5).fit(X, y, np.random.default_rng(0).normal(size=(4, X.shape[1])))
    assert len(scorer.pooled_classes_) == 0
    assert np.isfinite(scorer.predict_uncertainty(X)).all()
    assert scorer.n_components_ == 5


def test_rde_of_rows_that_are_all_the_same_is_an_error():
    with pytest.raises(ValueError, match="X: the kernel does not distinguish the rows"):
        RDEScorer().fit(np.ones((10, 3)), [0, 1] * 5, np.eye(3)[:2])
    X = np.repeat(np.random.default_rng(0).normal(size=(2, 3)), 10, axis=0)
    with pytest.raises(ValueError, match=r"within-class covariance of X.*is singular"):
        RDEScorer().fit(X, np.repeat([0, 1], 10), np.eye(3)[:2])


def test_rde_takes_no_more_components_than_a_fifth_of_the_rows(mild):
    X, y, _, W, b = mild
    with pytest.warns(UserWarning, match="share the robust covariance"):
        scorer = RDEScorer().fit(X[:60], y[:60], W, b)
    assert scorer.n_components_ == 12


def test_half_precision_rows_agree_with_the_same_rows_in_double(mild):
    X, y, _, W, b = mild
    X = torch.tensor(X).bfloat16()
    for scorer in (DDUScorer(), RDEScorer(5)):
        half = scorer.fit(X, y, W, b).predict_uncertainty(X)
        double = scorer.fit(X.double(), y, W, b).predict_uncertainty(X.double())
        np.testing.assert_allclose(half, double, rtol=1e-9)


@given(seed=st.integers(0, 10**6), n=st.integers(10, 60), d=st.integers(1, 20))
def test_ddu_of_random_rows_is_the_log_density(seed, n, d):
    rng = np.random.default_rng(seed)
    X, fresh, y = rng.normal(size=(n, d)), rng.normal(size=(5, d)), np.arange(n) % 3
    scorer = DDUScorer(shrinkage=0.05).fit(X, y, rng.normal(size=(4, d)))
    np.testing.assert_allclose(
        scorer.predict_uncertainty(fresh), explicit_ddu(X, y, fresh, "auto", 0.05), rtol=1e-8
    )


def test_rows_that_overflow_are_named(mild):
    X, y, _, W, b = mild
    for scorer in (DDUScorer(), RDEScorer(5)):
        with pytest.raises(ValueError, match="X is too large"):
            scorer.fit(X * 1e200, y, W, b)

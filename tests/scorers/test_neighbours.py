"""Neighbour scores against scipy's distances, and rows that lie on one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from adue_sklearn import KNNScorer, TrustScoreScorer

# Heads are random here; that their answers are no better than chance is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    X = rng.normal(size=(4, 8))[y] * 3 + rng.normal(size=(300, 8)) + 20
    return X, y, rng.normal(size=(50, 8)) * 3 + 20, rng.normal(size=(4, 8)), rng.normal(size=4)


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 2, 17, 300])
@pytest.mark.parametrize("normalize", [True, False])
def test_knn_is_the_kth_smallest_distance(data, k, normalize):
    X, y, fresh, W, b = data
    scorer = KNNScorer(k, normalize=normalize).fit(X, y, W, b)
    rows, references = (unit(fresh), unit(X)) if normalize else (fresh, X)
    expected = np.sort(cdist(rows, references), axis=1)[:, k - 1]
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, torch.float32, torch.float16, torch.bfloat16])
def test_distances_of_single_precision_rows_do_not_cancel(data, dtype):
    X, y, _, W, b = data
    if isinstance(dtype, torch.dtype):
        X = torch.tensor(X).to(dtype)
        double = X.double().numpy()
    else:
        X = X.astype(dtype)
        double = X.astype(float)
    scores = np.asarray(KNNScorer(2, normalize=False).fit(X, y, W, b).predict_uncertainty(X))
    expected = cKDTree(double).query(double, 2)[0][:, 1]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_fit_rows_are_their_own_first_neighbours(data):
    X, y, _, W, b = data
    scorer = KNNScorer(1).fit(X, y, W, b)
    np.testing.assert_array_equal(scorer.predict_uncertainty(X), 0)
    twice = KNNScorer(2).fit(np.vstack([X, X]), np.tile(y, 2), W, b)
    np.testing.assert_array_equal(twice.predict_uncertainty(X), 0)


def test_more_neighbours_than_rows_are_an_error(data):
    X, y, _, W, b = data
    with pytest.raises(ValueError, match=r"k=11 is larger than the number of rows .*n_samples=9"):
        KNNScorer(11).fit(X[:9], y[:9], W, b)


def test_normalized_neighbours_ignore_the_length_of_rows_even_huge(data):
    X, y, fresh, W, b = data
    scorer = KNNScorer().fit(X, y, W, b)
    expected = scorer.predict_uncertainty(fresh)
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh * 1e200), expected, rtol=1e-9)
    np.testing.assert_allclose(scorer.predict_uncertainty(fresh * 1e-200), expected, rtol=1e-9)
    assert np.isfinite(scorer.predict_uncertainty(np.zeros((1, 8)))).all()


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e20), (np.float64, 1e160)])
def test_rows_whose_squares_overflow_are_named(data, dtype, size):
    X, y, fresh, W, b = data
    for scorer in (KNNScorer(normalize=False), TrustScoreScorer()):
        scorer.fit(X.astype(dtype), y, W, b)
        with pytest.raises(ValueError, match=r"X is too large: squared distances overflow"):
            scorer.predict_uncertainty((fresh * size).astype(dtype))


def brute_force_trust(X, y, fresh, predicted):
    """Ratio of k-d tree distances, class by class."""
    distances = np.array([cKDTree(X[y == c]).query(fresh)[0] for c in range(4)]).T
    rows = np.arange(len(fresh))
    own = distances[rows, predicted].copy()
    distances[rows, predicted] = np.inf
    return own / distances.min(axis=1)


@pytest.mark.parametrize("normalize", [True, False])
def test_trust_is_the_ratio_of_distances_to_the_nearest_rows(data, normalize):
    X, y, fresh, W, b = data
    scorer = TrustScoreScorer(normalize=normalize).fit(X, y, W, b)
    predicted = (fresh @ W.T + b).argmax(axis=1)
    rows, references = (unit(fresh), unit(X)) if normalize else (fresh, X)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(fresh), brute_force_trust(references, y, rows, predicted)
    )


def test_many_rows_are_scored_in_blocks_like_few(data, monkeypatch):
    X, y, fresh, W, b = data
    for scorer in (KNNScorer(3), TrustScoreScorer()):
        expected = scorer.fit(X, y, W, b).predict_uncertainty(fresh)
        monkeypatch.setattr("adue_sklearn.scorers.neighbours._BLOCK_ELEMENTS", 1000)
        monkeypatch.setattr("adue_sklearn._utils.arrays._CHUNK_ELEMENTS", 8 * 20)
        blocks = scorer.fit(X, y, W, b).predict_uncertainty(fresh)
        monkeypatch.undo()
        np.testing.assert_allclose(blocks, expected, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.99])
def test_the_density_filter_drops_the_sparsest_share_of_every_class(data, alpha):
    X, y, fresh, W, b = data
    kept = []
    for c in range(4):
        members = X[y == c]
        radii = np.sort(cdist(members, members), axis=1)[:, 5]
        n_kept = int(np.ceil((1 - alpha) * len(members)))
        kept.append(np.flatnonzero(y == c)[np.argsort(radii)[:n_kept]])
    kept = np.sort(np.concatenate(kept))
    scorer = TrustScoreScorer(alpha, k=5).fit(X, y, W, b)
    np.testing.assert_array_equal(scorer.training_rows_, X[kept])
    np.testing.assert_array_equal(scorer.training_labels_, y[kept])
    predicted = (fresh @ W.T + b).argmax(axis=1)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(fresh), brute_force_trust(X[kept], y[kept], fresh, predicted)
    )


def test_classes_smaller_than_k_use_their_farthest_row(data):
    X, y, fresh, W, b = data
    few = np.concatenate([np.flatnonzero(y == c)[:5] for c in range(4)])
    scorer = TrustScoreScorer(0.4, k=10).fit(X[few], y[few], W, b)
    radii = [cdist(X[few[y[few] == c]], X[few[y[few] == c]]).max(axis=1) for c in range(4)]
    kept = np.concatenate([r <= np.sort(r)[2] for r in radii])
    assert kept.sum() == 12
    np.testing.assert_array_equal(scorer.training_rows_, X[few[kept]])
    assert np.isfinite(scorer.predict_uncertainty(fresh)).all()


def test_rows_that_lie_on_training_rows():
    X = np.array([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 1.0]])
    scorer = TrustScoreScorer().fit(X, [0, 0, 1, 1], [[-1.0, 0.0], [1.0, 0.0]], [2.0, -2.0])
    assert scorer.predict([[5.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).tolist() == [1, 0, 0]
    on_own, on_both = scorer.predict_uncertainty([[0.0, 0.0], [0.0, 1.0]])
    assert (on_own, on_both) == (0, 1)
    other = TrustScoreScorer().fit(X, [0, 0, 1, 1], [[1.0, 0.0], [-1.0, 0.0]], [-2.0, 2.0])
    assert other.predict_uncertainty([[0.0, 0.0]]).item() == 1e6


def test_a_predicted_class_without_rows_is_trusted_least(data):
    X, y, fresh, W, b = data
    seen = y != 2
    b = b - W @ X.mean(axis=0)
    scores = TrustScoreScorer().fit(X[seen], y[seen], W, b).predict_uncertainty(fresh)
    unseen = (fresh @ W.T + b).argmax(axis=1) == 2
    assert 0 < unseen.sum() < len(unseen)
    assert (scores[unseen] == 1e6).all()
    assert (scores[~unseen] < 1e6).all()


def test_one_class_is_an_error_for_the_trust_score_only(data):
    X, _, fresh, W, b = data
    y = np.full(300, 2)
    with pytest.raises(ValueError, match=r"y holds only one class \(.*2.*at least 2 classes"):
        TrustScoreScorer().fit(X, y, W, b)
    assert np.isfinite(KNNScorer().fit(X, y, W, b).predict_uncertainty(fresh)).all()


@given(seed=st.integers(0, 10**6), n=st.integers(12, 60), d=st.integers(1, 30))
def test_neighbours_do_not_depend_on_the_order_or_orientation_of_rows(seed, n, d):
    rng = np.random.default_rng(seed)
    X, fresh = rng.normal(size=(n, d)), rng.normal(size=(5, d))
    y = np.arange(n) % 3
    order = rng.permutation(n)
    Q, _ = np.linalg.qr(rng.normal(size=(d, d)))
    W = rng.normal(size=(3, d))
    for scorer in (KNNScorer(3), TrustScoreScorer(), TrustScoreScorer(0.2, normalize=True)):
        expected = scorer.fit(X, y, W).predict_uncertainty(fresh)
        shuffled = scorer.fit(X[order], y[order], W).predict_uncertainty(fresh)
        np.testing.assert_allclose(shuffled, expected, rtol=1e-6, atol=1e-9)
        turned = scorer.fit(X @ Q, y, W @ Q).predict_uncertainty(fresh @ Q)
        np.testing.assert_allclose(turned, expected, rtol=1e-6, atol=1e-9)

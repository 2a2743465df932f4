"""HUQ against the published rule on ranks, and with scores fitted on other rows."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from hypothesis import example, given, strategies as st
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedKFold

from adue_sklearn import (
    AdUEEstimator,
    DDUScorer,
    EntropyScorer,
    ErrorProbability,
    HUQScorer,
    KNNScorer,
    MahalanobisScorer,
    SoftmaxResponseScorer,
)
from adue_sklearn.metrics import aurc_score
from adue_sklearn.scorers.hybrid import Mixture, empirical_ranks, mixed_ranks
from tests.problems import Problem

# Heads are random here; that their answers are no better than chance is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")


@pytest.fixture
def train():
    """Training rows of the same head as ``problem``, which it mostly gets right."""
    problem = Problem(seed=0)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(500, 12))
    return X, (X @ problem.W.T + problem.b).argmax(axis=1), problem.W, problem.b


def published_rule(epistemic, aleatoric, mixture):
    """Ranks from 1 to n over the rows themselves, three cases."""
    alpha, delta_min, delta_max = mixture
    n = len(epistemic)
    epistemic_rank, aleatoric_rank = rankdata(epistemic), rankdata(aleatoric)
    total = (1 - alpha) * epistemic_rank + alpha * aleatoric_rank
    # A rank is n times the threshold only if this quotient, rounded, is the threshold: n * 0.7 is
    # 31.499999999999996 for 45 rows, but 31.5 / 45 is 0.7.
    low = (epistemic_rank - 0.5) / n <= delta_min
    total[low] = rankdata(aleatoric[low])
    ambiguous = low & ((aleatoric_rank - 0.5) / n > delta_max)
    total[ambiguous] = aleatoric_rank[ambiguous]
    return (total - 0.5) / n


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    levels=st.integers(1, 40),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    delta_min=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    delta_max=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
)
@example(seed=11, n=45, levels=21, alpha=0.0, delta_min=0.7, delta_max=0.0)  # a rank is 0.7
def test_fit_rows_get_the_published_ranks(seed, n, levels, alpha, delta_min, delta_max):
    rng = np.random.default_rng(seed)
    epistemic, aleatoric = rng.integers(0, levels, size=(2, n)).astype(float)
    mixture = Mixture(alpha, delta_min, delta_max)
    np.testing.assert_allclose(
        mixed_ranks(epistemic, aleatoric, (epistemic, aleatoric), mixture),
        published_rule(epistemic, aleatoric, mixture),
        atol=1e-12,
    )


def test_ranks_rise_with_scores_and_end_with_the_reference():
    reference = np.array([3.0, 1.0, 2.0, 2.0])
    np.testing.assert_allclose(empirical_ranks(reference, reference), [0.875, 0.125, 0.5, 0.5])
    np.testing.assert_allclose(
        empirical_ranks(np.array([-9, 1.5, 2.5, 99]), reference), [0.125, 0.3125, 0.6875, 0.875]
    )


def test_the_mixture_has_the_least_risk_of_all_that_are_tried(problem, train):
    known = FrozenEstimator(MahalanobisScorer().fit(*train))
    scorer = HUQScorer(known).fit(*problem.fit_args)
    epistemic = known.predict_uncertainty(problem.X)
    aleatoric = SoftmaxResponseScorer().fit(*problem.fit_args).predict_uncertainty(problem.X)
    np.testing.assert_array_equal(scorer.epistemic_reference_, epistemic)
    np.testing.assert_array_equal(scorer.aleatoric_reference_, aleatoric)
    risks = {
        mixture: aurc_score(problem.errors, published_rule(epistemic, aleatoric, mixture))
        for mixture in itertools.product(
            np.linspace(0, 1, 11).round(1), [0, 0.1, 0.2, 0.3], [0.8, 0.9, 1]
        )
    }
    chosen = (scorer.alpha_, scorer.delta_min_, scorer.delta_max_)
    assert risks[chosen] == pytest.approx(min(risks.values()), abs=1e-12)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(problem.X), published_rule(epistemic, aleatoric, chosen)
    )


@pytest.mark.parametrize("given", [{"alpha": 0.3}, {"delta_min": 0.25}, {"delta_max": 0.5}])
def test_what_is_given_is_kept_and_the_rest_chosen(problem, given):
    scorer = HUQScorer(**given).fit(*problem.fit_args)
    for name, value in given.items():
        assert getattr(scorer, f"{name}_") == value


def test_an_informative_epistemic_score_is_used_and_a_useless_one_is_not(problem):
    rng = np.random.default_rng(0)
    X = np.column_stack([problem.X, np.where(problem.errors, 6.0, 0.0) + rng.normal(size=400)])
    W = np.column_stack([problem.W, np.zeros(3)])
    right = ~problem.errors
    known = MahalanobisScorer("marginal").fit(X[right], problem.y[right], W, problem.b)
    scorer = HUQScorer(FrozenEstimator(known)).fit(X, problem.y, W, problem.b)
    assert scorer.alpha_ < 0.5
    assert scorer.score(X, problem.y) > scorer.aleatoric_.score(X, problem.y) + 0.1
    # Every row is its own neighbour: the same score for all.
    flat = KNNScorer(k=1).fit(X, problem.y, W, problem.b)
    useless = HUQScorer(FrozenEstimator(flat)).fit(X, problem.y, W, problem.b)
    assert (useless.alpha_, useless.delta_min_) == (1.0, 0.0)


@pytest.mark.parametrize(("alpha", "part"), [(1.0, "aleatoric_"), (0.0, "epistemic_")])
def test_at_either_end_of_alpha_one_score_ranks_alone(problem, alpha, part):
    scorer = HUQScorer(alpha=alpha, delta_min=0.0, delta_max=1.0).fit(*problem.fit_args)
    inside = problem.X[np.argsort(np.linalg.norm(problem.X, axis=1))[:300]]
    scores = scorer.predict_uncertainty(inside)
    own = getattr(scorer, part).predict_uncertainty(inside)
    order = np.argsort(own)
    assert (np.diff(scores[order]) >= 0).all()
    assert len(np.unique(scores)) > 250


def test_a_frozen_score_is_not_refitted_and_lends_its_head(problem, train):
    names = np.array(["a", "b", "c"])
    X, y, W, b = train
    known = DDUScorer().fit(X, names[y], W, b, classes=names)
    before = pickle.dumps(known)
    scorer = HUQScorer(FrozenEstimator(known), EntropyScorer()).fit(problem.X, names[problem.y])
    assert scorer.epistemic_ is known
    assert pickle.dumps(known) == before
    np.testing.assert_array_equal(scorer.init_coef_, W)
    assert scorer.classes_.tolist() == ["a", "b", "c"]
    explicit = HUQScorer(FrozenEstimator(known), EntropyScorer())
    explicit.fit(problem.X, names[problem.y], W, b, classes=names)
    by_number = clone(explicit).fit(problem.X, problem.y, W, b)
    for other in (explicit, by_number):
        np.testing.assert_array_equal(
            other.predict_uncertainty(problem.X), scorer.predict_uncertainty(problem.X)
        )


def test_a_frozen_score_of_another_head_is_an_error(problem, train):
    X, y, W, b = train
    for other in ((W + 1e-3, b), (W, b + 1), (W[:, ::-1], b)):
        known = FrozenEstimator(MahalanobisScorer().fit(X, y, *other))
        with pytest.raises(ValueError, match="differ from those that the frozen epistemic"):
            HUQScorer(known).fit(*problem.fit_args)
    known = FrozenEstimator(SoftmaxResponseScorer().fit(X, y, W + 1, b))
    with pytest.raises(ValueError, match="differ from those that the frozen aleatoric"):
        HUQScorer(aleatoric=known).fit(*problem.fit_args)


def test_two_frozen_scores_need_no_head(problem, train):
    known = FrozenEstimator(MahalanobisScorer().fit(*train))
    tuned = FrozenEstimator(AdUEEstimator().fit(*problem.fit_args))
    scorer = HUQScorer(known, tuned).fit(problem.X, problem.y)
    np.testing.assert_array_equal(scorer.aleatoric_reference_, tuned.predict_uncertainty(problem.X))


@pytest.mark.parametrize("aleatoric", [None, AdUEEstimator(), ErrorProbability()], ids=str)
def test_scores_that_are_fitted_here_are_ranked_out_of_fold(problem, aleatoric):
    scorer = HUQScorer(DDUScorer(), aleatoric, cv=3).fit(*problem.fit_args)
    expected = np.empty((2, 400))
    inner = aleatoric or SoftmaxResponseScorer()
    for rest, fold in StratifiedKFold(3, shuffle=True, random_state=0).split(problem.X, problem.y):
        for row, score in enumerate((DDUScorer(), inner)):
            score = clone(score).fit(problem.X[rest], problem.y[rest], problem.W, problem.b)
            expected[row, fold] = score.predict_uncertainty(problem.X[fold])
    np.testing.assert_allclose(scorer.epistemic_reference_, expected[0], rtol=1e-9)
    np.testing.assert_allclose(scorer.aleatoric_reference_, expected[1], rtol=1e-9)
    whole = DDUScorer().fit(*problem.fit_args)
    np.testing.assert_array_equal(
        scorer.epistemic_.predict_uncertainty(problem.X), whole.predict_uncertainty(problem.X)
    )


def test_without_a_head_every_fold_has_its_own(problem):
    scorer = HUQScorer(cv=3).fit(problem.X, problem.y)
    expected = np.empty(400)
    for rest, fold in StratifiedKFold(3, shuffle=True, random_state=0).split(problem.X, problem.y):
        inner = SoftmaxResponseScorer().fit(problem.X[rest], problem.y[rest])
        expected[fold] = inner.predict_uncertainty(problem.X[fold])
    np.testing.assert_allclose(scorer.aleatoric_reference_, expected)
    np.testing.assert_array_equal(scorer.predict(problem.X), scorer.aleatoric_.predict(problem.X))


def test_rows_without_errors_or_only_with_errors(problem):
    right = ~problem.errors
    with pytest.raises(ValueError, match="makes no errors on the"):
        HUQScorer().fit(problem.X[right], problem.y[right], problem.W, problem.b)
    with pytest.raises(ValueError, match="is wrong on all"):
        HUQScorer().fit(problem.X[~right], problem.y[~right], problem.W, problem.b)
    fixed = HUQScorer(alpha=0.5, delta_min=0.1, delta_max=0.9)
    fixed.fit(problem.X[right], problem.y[right], problem.W, problem.b)
    assert np.isfinite(fixed.predict_uncertainty(problem.X)).all()
    X = np.concatenate([np.linspace(-2, -1, 20), np.linspace(1, 2, 20)])[:, None]
    with pytest.warns(UserWarning, match="The uncertainty is that of the aleatoric score"):
        scorer = HUQScorer().fit(X, np.repeat([0, 1], 20))
    assert (scorer.alpha_, scorer.delta_min_) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["epistemic", "aleatoric"])
def test_what_is_no_score_is_named(problem, name):
    from sklearn.linear_model import LogisticRegression

    for wrong in (LogisticRegression(), FrozenEstimator(LogisticRegression())):
        with pytest.raises(TypeError, match=rf"{name} is .*expected an uncertainty estimator"):
            HUQScorer(**{name: wrong}).fit(*problem.fit_args)
    with pytest.raises(ValueError, match=rf"{name} is frozen, but not fitted"):
        HUQScorer(**{name: FrozenEstimator(MahalanobisScorer())}).fit(*problem.fit_args)


def test_single_rows_blocks_and_tensors_score_alike(problem, train):
    known = FrozenEstimator(MahalanobisScorer().fit(*train))
    scorer = HUQScorer(known).fit(*problem.fit_args)
    expected = scorer.predict_uncertainty(problem.X)
    alone = np.concatenate([scorer.predict_uncertainty(row[None]) for row in problem.X[:50]])
    np.testing.assert_allclose(alone, expected[:50], rtol=1e-9)
    order = np.random.default_rng(0).permutation(400)
    shuffled = HUQScorer(known).fit(problem.X[order], problem.y[order], problem.W, problem.b)
    np.testing.assert_allclose(shuffled.predict_uncertainty(problem.X), expected, rtol=1e-9)
    got = scorer.predict_uncertainty(torch.tensor(problem.X))
    assert isinstance(got, torch.Tensor)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_heads_of_several_layers_need_one_activation(problem):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(6, 12)), rng.normal(size=(3, 6))]
    biases = [rng.normal(size=6), None]
    scorer = HUQScorer(activation="tanh").fit(problem.X, problem.y, weights, biases)
    assert np.isfinite(scorer.predict_uncertainty(problem.X)).all()
    other = HUQScorer(DDUScorer(activation="gelu"), activation="tanh")
    with pytest.raises(ValueError, match=r"epistemic has activation='gelu'.*activation='tanh'"):
        other.fit(problem.X, problem.y, weights, biases)
    HUQScorer(DDUScorer(), activation="tanh").fit(problem.X, problem.y, weights, biases)
    known = DDUScorer(activation="tanh").fit(problem.X, problem.y, weights, biases)
    frozen = HUQScorer(FrozenEstimator(known), activation="tanh").fit(problem.X, problem.y)
    np.testing.assert_array_equal(frozen.predict(problem.X), known.predict(problem.X))


def test_frozen_scores_of_data_frames_do_not_warn(problem, train):
    names = [f"h{i}" for i in range(12)]
    known = MahalanobisScorer().fit(pd.DataFrame(train[0], columns=names), *train[1:])
    frame = pd.DataFrame(problem.X, columns=names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer = HUQScorer(FrozenEstimator(known)).fit(frame, problem.y)
        scorer.predict_uncertainty(frame)
    assert list(scorer.feature_names_in_) == names


def test_copies_score_alike_and_skops_needs_our_classes_alone(problem, train):
    known = FrozenEstimator(MahalanobisScorer().fit(*train))
    scorer = HUQScorer(known).fit(*problem.fit_args)
    data = skops.io.dumps(scorer)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert all(name.startswith("adue_sklearn.") for name in untrusted)
    for other in (
        skops.io.loads(data, trusted=untrusted),
        pickle.loads(pickle.dumps(scorer)),
        copy.deepcopy(scorer),
        clone(scorer).fit(*problem.fit_args),
    ):
        np.testing.assert_array_equal(
            other.predict_uncertainty(problem.X), scorer.predict_uncertainty(problem.X)
        )

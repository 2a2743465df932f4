"""Scores that learn errors: against scikit-learn's models, by hand, and with nothing to learn."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logit, softmax
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from adue_sklearn import (
    AdUEEstimator,
    ConfidNetScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MarginScorer,
    RelUScorer,
    SoftmaxResponseScorer,
    StackedScorer,
)
from tests import marks
from tests.problems import Problem

LEARNERS = [LinearProbeScorer(), ConfidNetScorer(random_state=0), StackedScorer()]
every_learner = pytest.mark.parametrize("learner", LEARNERS, ids=lambda e: type(e).__name__)


def problem_with_shifted_features(**options):
    """Features of other means and sizes, some constant, as real ones are."""
    problem = Problem(**options)
    problem.X = problem.X * np.logspace(-2, 2, problem.X.shape[1]) + 3
    problem.X[:, 0] = 7.0
    return problem


# Linear probe


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_the_probe_is_scikit_learns_logistic_regression_on_standardised_features(C):
    problem = problem_with_shifted_features()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    expected = model.fit(problem.X, problem.errors).decision_function(problem.X)
    probe = LinearProbeScorer(C).fit(*problem.fit_args)
    np.testing.assert_allclose(probe.predict_uncertainty(problem.X), expected, rtol=1e-8, atol=1e-9)
    assert probe.C_ == C
    assert probe.n_errors_ == problem.errors.sum()


def test_the_probe_chooses_its_penalty_by_cross_validation():
    for seed in range(3):
        problem = Problem(n=150, d=30, seed=seed)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]},
            scoring="roc_auc",
            cv=StratifiedKFold(5, shuffle=True, random_state=0),
        ).fit(problem.X, problem.errors)
        probe = LinearProbeScorer().fit(*problem.fit_args)
        assert search.best_params_["logisticregression__C"] == probe.C_


def test_a_single_error_is_too_few_to_choose_a_penalty_but_not_to_fit():
    problem = Problem()
    right = np.flatnonzero(~problem.errors)
    rows = np.append(right, np.flatnonzero(problem.errors)[0])
    probe = LinearProbeScorer().fit(problem.X[rows], problem.y[rows], problem.W, problem.b)
    assert probe.C_ == 0.1
    assert probe.predict_uncertainty(problem.X[rows]).argmax() == len(rows) - 1


def test_the_probe_finds_errors_that_the_head_is_sure_of():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5))
    W = np.zeros((2, 5))
    W[1, 0] = 3.0
    y = (X @ W.T).argmax(axis=1)
    wrong = (X[:, 4] > 1) & (rng.uniform(size=600) < 0.8)
    y[wrong] = 1 - y[wrong]
    probe = LinearProbeScorer().fit(X[:300], y[:300], W)
    assert probe.score(X[300:], y[300:]) > 0.85
    assert abs(SoftmaxResponseScorer().fit(X, y, W).score(X[300:], y[300:]) - 0.5) < 0.15


# ConfidNet


def test_confidnet_is_scikit_learns_network_for_the_true_class_probability():
    problem = problem_with_shifted_features()
    p = softmax(problem.X @ problem.W.T + problem.b, axis=1)[np.arange(400), problem.y]
    scorer = ConfidNetScorer((8, 4), alpha=0.5, max_iter=7, random_state=3).fit(*problem.fit_args)
    network = MLPRegressor(
        hidden_layer_sizes=(8, 4),
        alpha=0.5,
        max_iter=7,
        random_state=np.random.RandomState(3).randint(2**31),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(StandardScaler(), network).fit(problem.X, p)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(problem.X), 1 - model.predict(problem.X), rtol=1e-7, atol=1e-9
    )
    assert scorer.n_iter_ == 7
    assert [layer.shape for layer in scorer.coefs_] == [(8, 12), (4, 8), (1, 4)]


def test_confidnet_learns_the_true_class_probability_of_rows_it_has_not_seen():
    problem = Problem(n=3000, d=6, noise=0.8, gap=2.0)
    fit, fresh = slice(0, 2000), slice(2000, None)
    p = softmax(problem.X @ problem.W.T + problem.b, axis=1)[np.arange(3000), problem.y]
    scorer = ConfidNetScorer(alpha=0.01, random_state=0)
    scorer.fit(problem.X[fit], problem.y[fit], problem.W, problem.b)
    missing = 1 - p[fresh]
    got = scorer.predict_uncertainty(problem.X[fresh])
    assert np.mean((got - missing) ** 2) < 0.8 * missing.var()
    assert scorer.score(problem.X[fresh], problem.y[fresh]) > 0.6


def test_confidnet_is_the_seeds(problem):
    first, again, other = (
        ConfidNetScorer(random_state=seed).fit(*problem.fit_args).predict_uncertainty(problem.X)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_without_a_head_confidnet_takes_probabilities_of_unseen_rows():
    problem = Problem(n=90, d=40)  # a head fitted here is sure of nearly every row it has seen
    scorer = ConfidNetScorer((5,), max_iter=30, random_state=0).fit(problem.X, problem.y)
    folds = StratifiedKFold(max(2, min(5, np.bincount(problem.y).min())))
    p = cross_val_predict(
        LogisticRegression(max_iter=1000), problem.X, problem.y, cv=folds, method="predict_proba"
    )[np.arange(90), problem.y]
    network = MLPRegressor(
        hidden_layer_sizes=(5,),
        alpha=10,
        max_iter=30,
        random_state=np.random.RandomState(0).randint(2**31),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(StandardScaler(), network).fit(problem.X, p)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(problem.X), 1 - model.predict(problem.X), rtol=1e-6
    )


@pytest.mark.parametrize("widths", [[], [0], [1.5], [[3]], ["8"], [[1], [2, 3]]])
def test_odd_widths_are_named(widths, problem):
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        ConfidNetScorer(widths).fit(*problem.fit_args)


# Stack


def stack_by_hand(problem, scores, C=0.01):
    """Fit and return the log-odds of an error for rows whose scores are no one's to learn."""
    z = problem.X @ problem.W.T + problem.b
    log_odds = logit(1 - softmax(z, axis=1).max(axis=1))
    common = StandardScaler().fit_transform(np.column_stack([log_odds, *scores]))
    member = np.eye(z.shape[1])[z.argmax(axis=1)]
    columns = np.hstack([common, member, member * common[:, :1]])
    model = LogisticRegression(C=C, max_iter=1000).fit(columns, problem.errors)
    return model.decision_function(columns)


@pytest.mark.parametrize("n_classes", [2, 4])
@marks.odd_rows
def test_a_stack_of_scores_that_learn_nothing_is_a_plain_logistic_regression(n_classes):
    problem = Problem(n_classes=n_classes)
    distance = MahalanobisScorer().fit(problem.X[::2], problem.y[::2])
    stack = StackedScorer(
        [("margin", MarginScorer()), ("distance", FrozenEstimator(distance))], C=0.1
    ).fit(*problem.fit_args)
    scores = [
        MarginScorer().fit(*problem.fit_args).predict_uncertainty(problem.X),
        distance.predict_uncertainty(problem.X),
    ]
    np.testing.assert_allclose(
        stack.predict_uncertainty(problem.X), stack_by_hand(problem, scores, 0.1), atol=1e-5
    )
    assert stack.coef_.shape == (3 + 2 * n_classes,)


def test_what_learns_is_seen_out_of_fold():
    problem = Problem(n=300)
    probe = LinearProbeScorer(C=10.0)
    stack = StackedScorer([("probe", probe)], cv=3).fit(*problem.fit_args)
    unseen = np.empty(300)
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(
        problem.X, problem.errors
    ):
        fitted = clone(probe).fit(problem.X[train], problem.y[train], problem.W, problem.b)
        unseen[test] = fitted.predict_uncertainty(problem.X[test])
    # The regression is that of the unseen scores, applied to those of the probe on all rows.
    z = problem.X @ problem.W.T + problem.b
    log_odds = logit(1 - softmax(z, axis=1).max(axis=1))
    scaler = StandardScaler().fit(np.column_stack([log_odds, unseen]))
    member = np.eye(3)[z.argmax(axis=1)]

    def columns(scores):
        common = scaler.transform(np.column_stack([log_odds, scores]))
        return np.hstack([common, member, member * common[:, :1]])

    model = LogisticRegression(C=0.01, max_iter=1000).fit(columns(unseen), problem.errors)
    whole = clone(probe).fit(*problem.fit_args).predict_uncertainty(problem.X)
    expected = model.decision_function(columns(whole))
    np.testing.assert_allclose(stack.predict_uncertainty(problem.X), expected, atol=1e-5)


def test_a_score_that_only_memorises_gets_no_weight():
    """In-sample, a probe on as many features as rows is perfect; out-of-fold it is noise."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 150))
    W = np.zeros((2, 150))
    W[1, 0] = 2.0
    y = (rng.uniform(size=200) < 1 / (1 + np.exp(-X @ W[1]))).astype(int)
    probe = LinearProbeScorer(C=100.0)
    stack = StackedScorer([("probe", probe)], C=1.0).fit(X, y, W)
    assert probe.fit(X, y, W).score(X, y) == 1.0
    assert abs(stack.coef_[1]) < 0.5 * abs(stack.coef_[0])


@marks.odd_rows
def test_a_stack_learns_that_one_class_is_less_reliable():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1500, 3)) * 2
    y = z.argmax(axis=1)
    k = y.copy()
    wrong = rng.uniform(size=1500) < np.where(k == 0, 0.5, 0.05)
    y[wrong] = (y[wrong] + 1) % 3
    stack = StackedScorer().fit(z[:1000], y[:1000], np.eye(3))
    fresh = z[1000:], y[1000:]
    response = SoftmaxResponseScorer().fit(z, y, np.eye(3))
    assert stack.score(*fresh) > response.score(*fresh) + 0.1


def test_frozen_scorers_come_as_they_are_and_are_not_fitted_again(problem):
    frame = pd.DataFrame(problem.X[:50], columns=[f"h{i}" for i in range(12)])
    distance = MahalanobisScorer().fit(frame, problem.y[:50], problem.W, problem.b)
    frozen = FrozenEstimator(distance)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack = StackedScorer([("distance", frozen)]).fit(*problem.fit_args)
        stack.predict_uncertainty(problem.X)
    assert stack.estimators_[0] is frozen
    assert distance.n_samples_seen_ == 50


def test_any_scorer_can_be_stacked(problem):
    stack = StackedScorer(
        [("adue", AdUEEstimator(max_iter=50)), ("stack", StackedScorer()), ("relu", RelUScorer())],
        cv=2,
    ).fit(*problem.fit_args)
    assert np.isfinite(stack.predict_uncertainty(problem.X)).all()
    assert stack.score(problem.X, problem.y) > 0.5


def test_parameters_of_stacked_scorers_are_reached_by_name(problem):
    stack = StackedScorer([("probe", LinearProbeScorer()), ("relu", RelUScorer())])
    stack.set_params(probe__C=0.5, relu__lam=0.7)
    assert stack.get_params()["probe__C"] == 0.5
    fitted = stack.fit(*problem.fit_args)
    assert fitted.estimators_[0].C_ == 0.5
    assert not hasattr(stack.estimators[0][1], "coef_")  # what was passed stays as it was
    search = GridSearchCV(stack, {"probe__C": [0.1, 1.0]}, cv=2)
    search.fit(problem.X, problem.y, init_W=problem.W, init_b=problem.b)
    assert search.best_params_["probe__C"] in (0.1, 1.0)


@marks.odd_rows
def test_the_default_stack_takes_a_head_of_several_layers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    W, b = [rng.normal(size=(6, 5)), rng.normal(size=(3, 6))], [rng.normal(size=6), None]
    y = rng.integers(0, 3, 300)
    stack = StackedScorer(activation="tanh").fit(X, y, W, b)
    np.testing.assert_array_equal(
        stack.predict(X), (np.tanh(X @ W[0].T + b[0]) @ W[1].T).argmax(axis=1)
    )
    assert np.isfinite(stack.predict_uncertainty(X)).all()


@marks.odd_rows
def test_many_classes_of_which_some_have_no_rows():
    problem = Problem(n=600, d=20, n_classes=150, noise=0.5)
    stack = StackedScorer().fit(*problem.fit_args)
    assert stack.coef_.shape == (1 + 8 + 300,)
    assert stack.score(problem.X, problem.y) > 0.5


def test_without_a_head_the_stack_sees_folds_of_the_head_too():
    problem = Problem(n=200, d=60, noise=0.5)  # a head that is right on every row it has seen
    stack = StackedScorer([("margin", MarginScorer())], C=1.0).fit(problem.X, problem.y)
    assert 0 < stack.n_errors_ < 200
    assert not stack.errors(problem.X, problem.y).any()
    folds = StratifiedKFold(5)
    predicted, log_odds, margins = np.empty(200, int), np.empty(200), np.empty(200)
    for train, test in folds.split(problem.X, problem.y):
        margin = MarginScorer().fit(problem.X[train], problem.y[train])
        p = margin.predict_proba(problem.X[test])
        predicted[test], log_odds[test] = p.argmax(axis=1), logit(1 - p.max(axis=1))
        margins[test] = margin.predict_uncertainty(problem.X[test])
    common = StandardScaler().fit_transform(np.column_stack([log_odds, margins]))
    member = np.eye(3)[predicted]
    model = LogisticRegression(max_iter=1000).fit(
        np.hstack([common, member, member * common[:, :1]]), predicted != problem.y
    )
    np.testing.assert_allclose(stack.coef_, model.coef_[0], atol=1e-4)


@pytest.mark.parametrize(
    ("estimators", "message"),
    [
        ([], "list of"),
        ([MarginScorer()], "list of"),
        ([("margin", MarginScorer()), "x"], "list of"),
        ([("margin", LogisticRegression())], "no predict_uncertainty"),
        ([("margin", MarginScorer)], "no predict_uncertainty"),
        ([("a", MarginScorer()), ("a", MarginScorer())], "unique"),
        ([("a__b", MarginScorer())], "__"),
        ([("cv", MarginScorer())], "conflict"),
    ],
    ids=str,
)
def test_odd_lists_of_scorers_are_named(estimators, message, problem):
    with pytest.raises((ValueError, TypeError), match=message):
        StackedScorer(estimators).fit(*problem.fit_args)


def test_a_stack_needs_two_errors_to_look_at_one_it_was_not_fitted_on(problem):
    right = np.flatnonzero(~problem.errors)
    rows = np.append(right, np.flatnonzero(problem.errors)[0])
    args = problem.X[rows], problem.y[rows], problem.W, problem.b
    with pytest.raises(ValueError, match=r"1 error\(s\) on .* two errors"):
        StackedScorer().fit(*args)
    StackedScorer([("margin", MarginScorer())]).fit(*args)  # no folds needed


# Nothing to learn


@pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")
@every_learner
def test_no_errors_and_only_errors_of_a_given_head_are_named(learner, problem):
    X, W, b = problem.X, problem.W, problem.b
    right = (X @ W.T + b).argmax(axis=1)
    with pytest.raises(ValueError, match=r"no errors on the 400 fit rows.*SoftmaxResponseScorer"):
        clone(learner).fit(X, right, W, b)
    with pytest.raises(ValueError, match="is wrong on all 400 fit rows"):
        clone(learner).fit(X, (right + 1) % 3, W, b)


@every_learner
def test_without_a_head_and_errors_the_score_is_softmax_response(learner, problem):
    fitted = clone(learner).fit(problem.X, problem.y)  # what it learned here is forgotten
    apart = np.repeat(np.eye(3, 12) * 50, 20, axis=0)
    with pytest.warns(UserWarning, match=r"nothing to learn from.*softmax response") as record:
        fitted.fit(apart, np.repeat([0, 1, 2], 20))
    assert [warning.filename for warning in record] == [__file__]  # it points at the caller
    response = SoftmaxResponseScorer().fit(apart, np.repeat([0, 1, 2], 20))
    np.testing.assert_array_equal(
        fitted.predict_uncertainty(problem.X), response.predict_uncertainty(problem.X)
    )
    assert fitted.n_errors_ == 0
    for name in ("coef_", "coefs_", "estimators_"):
        assert not hasattr(fitted, name)


@every_learner
@pytest.mark.filterwarnings("ignore:With lam=0.5 no pair of classes")  # its answers mean nothing
def test_features_whose_squares_overflow_are_named(learner, problem):
    with pytest.raises(ValueError, match=r"X is.* too large \(up to .*e\+30"):
        clone(learner).fit(problem.X * 1e300, problem.y, problem.W)


@every_learner
def test_bfloat16_features_are_learned_from(learner, problem):
    X = torch.tensor(problem.X, dtype=torch.bfloat16)
    fitted = clone(learner).fit(X, torch.tensor(problem.y), problem.W, problem.b)
    got = fitted.predict_uncertainty(X)
    assert got.dtype == torch.float64
    expected = clone(learner).fit(X.double().numpy(), problem.y, problem.W, problem.b)
    np.testing.assert_allclose(
        got.numpy(), expected.predict_uncertainty(X.double().numpy()), rtol=1e-4, atol=1e-6
    )

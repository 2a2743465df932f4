"""The automatic choice: softmax response unless something else has proved to be better."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import skops.io
from scipy.special import softmax
from scipy.stats import norm
from sklearn.frozen import FrozenEstimator

from adue_sklearn import (
    AutoScorer,
    EnergyScorer,
    EntropyScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    SoftmaxResponseScorer,
    StackedScorer,
)
from adue_sklearn.persistence import load_head, save_head
from tests.problems import Problem
from tests.profiles import repeated
from tests.toy_scorers import Failing, Oracle, with_oracle

CHEAP = [("probe", LinearProbeScorer(C=0.01)), ("energy", EnergyScorer())]


def honest_problem(seed, n=300):
    """Labels drawn from the head's own probabilities: nothing beats softmax response."""
    rng = np.random.default_rng(seed)
    X, W = rng.normal(size=(n, 4)), np.eye(3, 4)
    y = np.array([rng.choice(3, p=p) for p in softmax(X @ W.T, axis=1)])
    return X, y, W


def test_what_is_better_beyond_chance_is_chosen_and_fitted_on_all_rows(problem):
    X, y, W, b = with_oracle(problem)
    auto = AutoScorer([("probe", LinearProbeScorer(C=1.0)), *CHEAP[1:]]).fit(X, y, W, b)
    assert auto.selected_ == "probe"
    assert isinstance(auto.estimator_, LinearProbeScorer)
    expected = LinearProbeScorer(C=1.0).fit(X, y, W, b).predict_uncertainty(X)
    np.testing.assert_array_equal(auto.predict_uncertainty(X), expected)
    assert auto.comparison_["probe"].fitted_on == "other folds"


def test_of_several_better_ones_the_largest_gain_decides(problem):
    X, y, W, b = with_oracle(problem)
    rng = np.random.default_rng(0)
    X[:, -1] += 0.2 * rng.normal(size=len(X))
    X = np.column_stack([X, problem.errors + 0.1 * rng.normal(size=len(X))])
    W = np.pad(W, ((0, 0), (0, 1)))

    class Other(Oracle):
        def _uncertainty(self, X):
            return super()._uncertainty(X[:, :-1])

    auto = AutoScorer([("worse", Other()), ("better", Oracle())]).fit(X, y, W, b)
    assert max(auto.p_values_.values()) < 0.05
    assert auto.selected_ == "better"


def test_softmax_response_stays_unless_something_is_better():
    X, y, W = honest_problem(0)
    auto = AutoScorer(CHEAP).fit(X, y, W)
    assert auto.selected_ == "softmax response"
    expected = SoftmaxResponseScorer().fit(X, y, W).predict_uncertainty(X)
    np.testing.assert_array_equal(auto.predict_uncertainty(X), expected)


def test_p_values_are_one_sided_and_adjusted():
    auto = AutoScorer(CHEAP).fit(*honest_problem(1))
    one_sided = {}
    for name in auto.p_values_:
        value, low, high, _ = auto.comparison_[name].gain
        one_sided[name] = norm.sf(value / ((high - low) / 2 / norm.ppf(0.975)))
    first, last = sorted(one_sided, key=one_sided.get)
    assert auto.p_values_[first] == pytest.approx(min(1, 2 * one_sided[first]))
    assert auto.p_values_[last] == pytest.approx(max(auto.p_values_[first], one_sided[last]))


def test_a_stricter_level_keeps_softmax_response(problem):
    X, y, W, b = with_oracle(problem)
    X[:, -1] += np.random.default_rng(1).normal(size=len(X)) * 0.6
    p = AutoScorer([("oracle", Oracle())]).fit(X, y, W, b).p_values_["oracle"]
    for level, chosen in ((p * 1.01, "oracle"), (p * 0.99, "softmax response")):
        auto = AutoScorer([("oracle", Oracle())], significance=level).fit(X, y, W, b)
        assert auto.selected_ == chosen


def test_frozen_scores_are_candidates_and_enter_the_stack(problem):
    known = FrozenEstimator(MahalanobisScorer().fit(*problem.fit_args))
    fresh = Problem(n=250)
    auto = AutoScorer(frozen=[("distance", known)], cv=2).fit(*fresh.fit_args)
    assert auto.comparison_["distance"].fitted_on == "frozen"
    expected = known.estimator.predict_uncertainty(fresh.X)
    np.testing.assert_array_equal(auto.comparison_.uncertainties["distance"], expected)
    plain = AutoScorer(cv=2).fit(*fresh.fit_args)
    stacks = [one.comparison_.uncertainties["stack"] for one in (auto, plain)]
    assert (stacks[0] != stacks[1]).any()
    names = {"AdUE", "stack", "entropy", "energy", "MaxLogit-pNorm", "softmax response"}
    assert {result.name for result in plain.comparison_.results} == names


def test_a_frozen_score_can_be_chosen_and_stays_as_it_is(problem):
    X, y, W, b = with_oracle(problem)
    frozen = Oracle().fit(X[:100], y[:100], W, b)
    auto = AutoScorer(CHEAP[1:], frozen=[("oracle", FrozenEstimator(frozen))]).fit(X, y, W, b)
    assert auto.selected_ == "oracle"
    assert auto.estimator_ is frozen


def loaded(folder, problem, rows):
    """Return a frozen score that knows which rows it was fitted on."""
    X, y, W, b = problem.fit_args
    scorer = MahalanobisScorer().fit(X[rows], y[rows], W, b)
    known = load_head(save_head(scorer, folder / "head", fitted_on=X[rows]))
    return FrozenEstimator(known.estimator)


def test_rows_that_fitted_a_frozen_candidate_are_left_out(problem, tmp_path):
    rows = np.arange(100)
    frozen = [("distance", loaded(tmp_path, problem, rows))]
    with pytest.warns(
        UserWarning, match="X: 100 of 400 rows are also in the rows that distance was fitted on"
    ):
        auto = AutoScorer(CHEAP, frozen=frozen, cv=2).fit(*problem.fit_args)
    assert auto.n_errors_ == problem.errors[100:].sum() == auto.comparison_.n_errors
    rest = (problem.X[100:], problem.y[100:], problem.W, problem.b)
    expected = AutoScorer(CHEAP, frozen=frozen, cv=2).fit(*rest)
    assert auto.p_values_ == expected.p_values_


def test_rows_that_all_fitted_a_frozen_candidate_are_refused(problem, tmp_path):
    frozen = [("distance", loaded(tmp_path, problem, np.arange(400)))]
    with pytest.raises(ValueError, match="so no rows remain; pass rows not used"):
        AutoScorer(CHEAP, frozen=frozen).fit(*problem.fit_args)


def test_no_errors_is_an_error_with_a_head_and_a_warning_without(problem):
    right = ~problem.errors
    with pytest.raises(ValueError, match="makes no errors on the"):
        AutoScorer(CHEAP).fit(problem.X[right], problem.y[right], problem.W, problem.b)
    X = np.repeat(np.eye(2) * 9, 20, axis=0)
    with pytest.warns(UserWarning, match="nothing to learn from"):
        auto = AutoScorer(CHEAP).fit(X, np.repeat([0, 1], 20))
    assert auto.selected_ == "softmax response"
    assert "no score can be measured" in auto.comparison_.verdict


def test_few_errors_keep_softmax_response_and_say_so(problem):
    X, y, W, b = with_oracle(problem)
    some = np.concatenate([np.flatnonzero(~problem.errors), np.flatnonzero(problem.errors)[:15]])
    with pytest.warns(UserWarning, match="gives 15 errors on .* Fewer than 20"):
        auto = AutoScorer([("oracle", Oracle())]).fit(X[some], y[some], W, b)
    assert (auto.selected_, auto.n_errors_, auto.p_values_) == ("softmax response", 15, {})
    assert "Too few errors" in auto.comparison_.verdict


def test_a_candidate_that_fails_is_named_and_the_others_are_compared(problem):
    X, y, W, b = with_oracle(problem)
    with pytest.warns(UserWarning, match=r"failed: bad \(RuntimeError: no luck\)"):
        auto = AutoScorer([("bad", Failing()), ("oracle", Oracle())]).fit(X, y, W, b)
    assert auto.selected_ == "oracle"


def test_without_a_head_predictions_stay_those_of_the_fitted_head(problem):
    auto = AutoScorer(CHEAP, cv=3).fit(problem.X, problem.y)
    response = SoftmaxResponseScorer().fit(problem.X, problem.y)
    np.testing.assert_array_equal(auto.predict(problem.X), response.predict(problem.X))
    assert auto.comparison_.n_errors > 0


def test_whole_heads_have_candidates_too():
    rng = np.random.default_rng(0)
    W = [rng.normal(size=(5, 6)), rng.normal(size=(3, 5))]
    X = rng.normal(size=(200, 6))
    y = (np.tanh(X @ W[0].T) @ W[1].T + rng.normal(size=(200, 3))).argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto = AutoScorer(activation="tanh", cv=2).fit(X, y, W)
    assert not any(result.failure for result in auto.comparison_.results)


def test_copies_score_alike_and_skops_needs_our_classes_alone(problem):
    auto = AutoScorer(CHEAP, cv=2).fit(*problem.fit_args)
    data = skops.io.dumps(auto)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert all(name.startswith("adue_sklearn.") for name in untrusted)
    for copy in (pickle.loads(pickle.dumps(auto)), skops.io.loads(data, trusted=untrusted)):
        np.testing.assert_array_equal(
            copy.predict_uncertainty(problem.X), auto.predict_uncertainty(problem.X)
        )
        assert copy.comparison_.to_json() == auto.comparison_.to_json()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"estimators": [("a", EnergyScorer)]}, TypeError, "estimators holds"),
        ({"estimators": []}, ValueError, "estimators is empty"),
        ({"frozen": [("a", EnergyScorer())]}, TypeError, "frozen holds EnergyScorer"),
        ({"estimators": [("softmax response", EntropyScorer())]}, ValueError, "two candidates"),
        ({"significance": 0}, ValueError, "significance"),
        ({"cv": 1}, ValueError, "cv"),
    ],
)
def test_bad_parameters_are_named(problem, options, kind, message):
    with pytest.raises(kind, match=message):
        AutoScorer(**options).fit(*problem.fit_args)


def test_frozen_candidates_need_their_head(problem):
    known = FrozenEstimator(MahalanobisScorer().fit(*problem.fit_args))
    with pytest.raises(ValueError, match="init_W is None"):
        AutoScorer(CHEAP, frozen=[("distance", known)]).fit(problem.X, problem.y)


@pytest.mark.slow
@repeated(8, 40)
def test_where_nothing_is_better_something_else_is_seldom_chosen(times):
    candidates = [*CHEAP, ("stack", StackedScorer([("energy", EnergyScorer())]))]
    chosen = [AutoScorer(candidates, cv=3).fit(*honest_problem(s)).selected_ for s in range(times)]
    # More than six of forty, or two of eight, happen less than six times in a thousand at 5 %.
    assert sum(name != "softmax response" for name in chosen) <= (2 if times == 8 else 6)

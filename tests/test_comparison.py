"""Comparing scores: what is fitted on what, what is concluded, and what bad scorers do."""

from __future__ import annotations

import json
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import norm
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from adue_sklearn import (
    AdUEEstimator,
    EnergyScorer,
    EntropyScorer,
    HUQScorer,
    KNNScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MarginScorer,
    MaxLogitScorer,
    RelUScorer,
    SoftmaxResponseScorer,
    StackedScorer,
    compare_scorers,
)
from adue_sklearn.comparison import default_scorers
from adue_sklearn.comparison.result import holm
from adue_sklearn.exceptions import ClassSharesWarning
from adue_sklearn.metrics import (
    aurc_score,
    bootstrap_difference,
    bootstrap_interval,
    error_roc_auc_difference,
    error_roc_auc_interval,
    error_roc_auc_p_value,
    error_roc_auc_score,
)
from tests import marks
from tests.problems import Problem
from tests.profiles import repeated
from tests.toy_scorers import Constant, Failing, NotANumber, Oracle, ToyScorer, with_oracle

CHEAP = {"entropy": EntropyScorer(), "energy": EnergyScorer()}


class Rescaled(SoftmaxResponseScorer):
    """Softmax response on a scale that each fit draws anew."""

    card = ToyScorer.card

    def _fit(self, X, labels, head):
        self.factor_ = float(np.abs(X).sum()) % 7 + 0.1

    def _uncertainty(self, X):
        return super()._uncertainty(X) * self.factor_ + self.factor_**2


@pytest.fixture
def two():
    return Problem(n=300, d=6, n_classes=2)


def test_values_and_intervals_are_those_of_the_metrics(problem):
    found = compare_scorers(*problem.fit_args, scorers=CHEAP, random_state=3)
    errors = problem.errors
    response, energy = (
        scorer.fit(*problem.fit_args).predict_uncertainty(problem.X)
        for scorer in (SoftmaxResponseScorer(), EnergyScorer())
    )
    assert (found.n_rows, found.n_errors) == (400, errors.sum())
    row = found["energy"]
    assert row.metrics["roc_auc"] == error_roc_auc_interval(errors, energy)
    assert row.gain[:3] == error_roc_auc_difference(errors, energy, response)
    assert row.gain.p_value == error_roc_auc_p_value(errors, energy, response)
    options = {"metric": aurc_score, "random_state": 3}
    assert row.metrics["aurc"] == bootstrap_interval(errors, energy, **options)
    assert row.differences["aurc"] == bootstrap_difference(errors, energy, response, **options)
    np.testing.assert_array_equal(found.uncertainties["energy"], energy)


def test_learners_are_judged_on_rows_that_they_were_not_fitted_on(problem):
    folds = list(StratifiedKFold(4).split(problem.X, problem.errors))
    scorer = KNNScorer(k=1)  # scores rows that it was fitted on by zero
    found = compare_scorers(*problem.fit_args, scorers=[scorer], cv=folds)
    ranks = found.uncertainties["k-NN"]
    for rest, fold in folds:
        args = problem.X[rest], problem.y[rest], problem.W, problem.b
        expected = clone(scorer).fit(*args).predict_uncertainty(problem.X[fold])
        np.testing.assert_array_equal(ranks[fold].argsort(), expected.argsort())
    assert found["k-NN"].fitted_on == "other folds"


def test_folds_on_different_scales_are_comparable(problem):
    found = compare_scorers(*problem.fit_args, scorers={"rescaled": Rescaled()})
    reference = found["softmax response"].metrics
    assert found["rescaled"].metrics["roc_auc"] == pytest.approx(reference["roc_auc"])
    assert found["rescaled"].note == "ranks as softmax response"


def test_pooled_folds_measure_what_single_folds_measure(problem):
    scorer = LinearProbeScorer(C=0.01)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(problem.X, problem.errors))
    found = compare_scorers(*problem.fit_args, scorers=[scorer], cv=folds)
    single = []
    for rest, fold in folds:
        fitted = clone(scorer).fit(problem.X[rest], problem.y[rest], problem.W, problem.b)
        single.append(fitted.score(problem.X[fold], problem.y[fold]))
    pooled = found["linear error probe"].metrics["roc_auc"].value
    assert pooled == pytest.approx(np.mean(single), abs=0.015)


def test_density_scores_describe_the_training_rows(problem):
    train = Problem(seed=1, n=200)
    rows = (train.X * 2, (train.X @ problem.W.T + problem.b).argmax(axis=1))
    for scorer in (MahalanobisScorer(), StackedScorer([("md", MahalanobisScorer())])):
        found = compare_scorers(
            *problem.fit_args, scorers=[scorer], X_train=rows[0], y_train=rows[1]
        )
        assert found.results[1].failure == ""
    distance = MahalanobisScorer().fit(*rows, problem.W, problem.b)
    found = compare_scorers(
        *problem.fit_args,
        scorers=[MahalanobisScorer(), HUQScorer(alpha=0.0, delta_min=0.0, delta_max=1.0)],
        X_train=rows[0],
        y_train=rows[1],
    )
    expected = distance.predict_uncertainty(problem.X)
    np.testing.assert_array_equal(found.uncertainties["Mahalanobis"], expected)
    assert found["Mahalanobis"].fitted_on == "training rows"
    # HUQ's epistemic part too: what is left of it with these settings is its rank.
    huq = found["HUQ"].metrics["roc_auc"].value
    assert huq == pytest.approx(found["Mahalanobis"].metrics["roc_auc"].value, abs=0.003)


def test_without_training_rows_density_scores_are_fitted_on_folds(problem):
    assert (
        compare_scorers(*problem.fit_args, scorers=[MahalanobisScorer()])["Mahalanobis"].fitted_on
        == "other folds"
    )


def test_frozen_scores_are_taken_as_they_are_and_bring_their_head(problem):
    fitted = MahalanobisScorer().fit(*problem.fit_args)
    fresh = Problem(seed=0, n=500)
    frozen = {"md": FrozenEstimator(fitted)}
    found = compare_scorers(fresh.X, fresh.y, scorers=frozen)
    again = compare_scorers(*fresh.fit_args, scorers=frozen)
    for comparison in (found, again):
        np.testing.assert_array_equal(
            comparison.uncertainties["md"], fitted.predict_uncertainty(fresh.X)
        )
        np.testing.assert_array_equal(comparison.errors, fresh.errors)
    other = compare_scorers(fresh.X, fresh.y, fresh.W + 1, fresh.b, scorers=frozen)
    assert "a head other than" in other["md"].failure


def test_test_rows_are_judged_and_not_fitted_on():
    whole = Problem(n=450)
    X, y, head = whole.X[:400], whole.y[:400], (whole.W, whole.b)
    found = compare_scorers(
        X, y, *head,
        scorers=[LinearProbeScorer(C=0.01)], X_test=whole.X[400:], y_test=whole.y[400:],
    )  # fmt: skip
    expected = LinearProbeScorer(C=0.01).fit(X, y, *head).predict_uncertainty(whole.X[400:])
    np.testing.assert_array_equal(found.uncertainties["linear error probe"], expected)
    np.testing.assert_array_equal(found.errors, whole.errors[400:])
    assert (found.rows, found["linear error probe"].fitted_on) == ("test rows", "given rows")


def test_two_classes_leave_nothing_to_tell_from_softmax_response(two):
    found = compare_scorers(*two.fit_args, scorers=[EntropyScorer(), MarginScorer()])
    for name in ("entropy", "margin"):
        assert found[name].note == "ranks as softmax response"
        assert found[name].gain == (0.0, 0.0, 0.0, 1.0)
        assert np.isnan(found[name].p_adjusted)
    assert "Same ranking of rows as softmax response: entropy, margin." in found.verdict


def test_a_score_that_is_better_beyond_chance_wins(problem):
    found = compare_scorers(*with_oracle(problem), scorers={"oracle": Oracle(), **CHEAP})
    assert found.winners == ("oracle",)
    assert found["oracle"].metrics["roc_auc"].value == 1.0
    assert found.verdict.startswith("Better than softmax response at finding errors: oracle (+")
    assert [result.name for result in found.results][:2] == ["softmax response", "oracle"]


def test_it_says_when_nothing_beats_softmax_response_and_what_would_have_been_seen(problem):
    found = compare_scorers(*problem.fit_args, scorers={"toy": ToyScorer()})
    assert found.winners == ()
    row = found["toy"]
    errors = f"({found.n_errors} errors)"
    assert found.verdict.startswith(f"No score beats softmax response {errors}.")
    assert f"A gain of {100 * row.detectable:.1f} points" in found.verdict
    error = (row.gain.high - row.gain.low) / 2 / norm.ppf(0.975)
    assert row.detectable == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * error)


def test_it_says_when_there_are_too_few_errors_to_tell(problem):
    X, y, W, b = with_oracle(problem)
    right = np.flatnonzero(~problem.errors)
    some = np.concatenate([right, np.flatnonzero(problem.errors)[:12]])
    found = compare_scorers(X[some], y[some], W, b, scorers={"oracle": Oracle()})
    assert found["oracle"].p_adjusted < 0.05
    assert found.winners == ()
    assert f"Too few errors to compare scores: 12 among {len(some)} rows" in found.verdict


@pytest.mark.parametrize("right", [True, False])
@marks.odd_rows
def test_rows_without_errors_or_with_only_errors_give_no_numbers(problem, right):
    some = problem.errors != right
    found = compare_scorers(problem.X[some], problem.y[some], problem.W, problem.b, scorers=CHEAP)
    assert np.isnan(found["energy"].metrics["roc_auc"].value)
    kind = "correct answers" if right else "errors"
    assert f"All {some.sum()} rows are {kind}" in found.verdict
    json.loads(found.to_json())
    assert "nan" not in str(found)
    assert [row[1] for row in found.table()[1]] == ["-"] * 3


def test_a_scorer_that_fails_is_reported_and_the_others_finish(problem):
    found = compare_scorers(
        *problem.fit_args,
        scorers={"bad": Failing(), "nan": NotANumber(), "flat": Constant(), **CHEAP},
    )
    assert found["bad"].failure == "RuntimeError: no luck"
    assert "NaN in 1 of 400 rows" in found["nan"].failure
    assert found["flat"].metrics["roc_auc"].value == 0.5
    assert found["energy"].failure == found["entropy"].failure == ""
    assert "Failed: bad, nan." in found.verdict
    assert "failed: RuntimeError: no luck" in str(found)
    assert set(found.uncertainties) == {"softmax response", "flat", "energy", "entropy"}


def test_every_public_score_is_compared_by_default():
    problem = Problem(n=270, d=5, noise=2.0)
    X_train, y_train = problem.X[150:], problem.y[150:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what scorers warn of is in their rows
        warnings.simplefilter("ignore", ClassSharesWarning)  # this head prefers one class
        found = compare_scorers(
            problem.X[:150], problem.y[:150], problem.W, problem.b,
            X_train=X_train, y_train=y_train, cv=2, n_resamples=20,
        )  # fmt: skip
    assert {r.name for r in found.results} == {name for name, _ in default_scorers()}
    assert [r.name for r in found.results if r.failure] == []
    expected = {"nothing", "training rows", "other folds"}
    assert {r.fitted_on for r in found.results} == expected


def test_too_few_rows_for_a_score_do_not_stop_the_others():
    problem = Problem(n=30, d=40, noise=3.0)  # fewer rows than features, and than neighbours
    some = problem.y != 0  # a class without training rows
    found = compare_scorers(
        *problem.fit_args,
        scorers=[KNNScorer(k=100), MahalanobisScorer(), RelUScorer(), EntropyScorer()],
        X_train=problem.X[some] + 0.1,
        y_train=problem.y[some],
        n_resamples=20,
    )
    assert "k" in found["k-NN"].failure
    for name in ("Mahalanobis", "Rel-U", "entropy"):
        assert found[name].failure == ""


@marks.odd_rows
def test_folds_as_long_as_the_head_are_no_cut_head():
    problem = Problem(n=24, d=4, n_classes=16, noise=0.5)
    found = compare_scorers(
        *problem.fit_args, scorers=[MahalanobisScorer(), HUQScorer()], cv=3, n_resamples=20
    )
    assert [result.failure for result in found.results] == ["", "", ""]


def test_without_a_head_each_fold_has_one_of_its_own(problem):
    scorers = [EntropyScorer(), AdUEEstimator()]
    found = compare_scorers(problem.X, problem.y, scorers=scorers, cv=2, n_resamples=20)
    assert found["entropy"].fitted_on == "other folds"
    assert 0 < found.n_errors < 200
    assert found["AdUE"].failure == ""


def test_whole_heads_are_compared_too():
    rng = np.random.default_rng(0)
    W = [rng.normal(size=(5, 6)), rng.normal(size=(3, 5))]
    X = rng.normal(size=(200, 6))
    y = (np.tanh(X @ W[0].T) @ W[1].T + rng.normal(size=(200, 3))).argmax(axis=1)
    found = compare_scorers(
        X, y, W, activation="tanh", scorers=[EntropyScorer(activation="tanh")], n_resamples=10
    )
    assert found["entropy"].failure == ""
    names = {name for name, _ in default_scorers(activation="tanh")}
    assert {name for name, _ in default_scorers()} - names == {"tuned AdUE"}


def test_searches_of_scikit_learn_can_be_compared(problem):
    search = GridSearchCV(LinearProbeScorer(), {"C": [0.01, 0.1]}, cv=2)
    found = compare_scorers(*problem.fit_args, scorers={"search": search}, cv=2)
    assert found["search"].failure == ""


def test_tensors_and_string_labels_give_the_same_comparison(problem):
    names = np.array(["zebra", "ant", "mole"])
    expected = compare_scorers(*problem.fit_args, scorers=CHEAP)
    tensors = compare_scorers(*map(torch.as_tensor, problem.fit_args), scorers=CHEAP)
    named = compare_scorers(
        problem.X, names[problem.y], problem.W, problem.b, classes=names, scorers=CHEAP
    )
    for found in (tensors, named):
        assert found["energy"].metrics == expected["energy"].metrics


def test_the_same_call_gives_the_same_numbers_and_names_are_told_apart(problem):
    scorers = [AdUEEstimator(beta=1.0), AdUEEstimator(beta=10.0), AdUEEstimator(beta=10.0)]
    first, second = (
        compare_scorers(*problem.fit_args, scorers=scorers, cv=2, n_resamples=20) for _ in "ab"
    )
    assert {r.name for r in first.results[1:]} == {"AdUE", "AdUE (beta=10.0)", "AdUE (beta=10.0) 2"}
    for one, other in zip(first.results, second.results, strict=True):
        assert one.metrics == other.metrics


def test_own_metrics_are_measured_too(problem):
    def mean_of_errors(errors, uncertainty):
        return float(uncertainty[errors].mean())

    found = compare_scorers(
        *problem.fit_args,
        scorers=[MaxLogitScorer()],
        metrics={"mean": mean_of_errors},
        n_resamples=50,
    )
    assert found.metric_names == ("roc_auc", "mean")
    row = found["max-logit"].metrics["mean"]
    assert row.low < row.value < row.high


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_every_view_shows_the_same_numbers(problem):
    found = compare_scorers(*problem.fit_args, scorers={"a<b": EnergyScorer(), "bad": Failing()})
    value = found["a<b"].metrics["roc_auc"].value
    frame = found.to_frame()
    assert frame.loc["a<b", "roc_auc"] == value
    assert frame.loc["a<b", "aurc_difference_low"] == found["a<b"].differences["aurc"].low
    assert np.isnan(frame.loc["bad", "roc_auc"])
    data = json.loads(found.to_json())
    by_name = {row["name"]: row for row in data["scores"]}
    assert by_name["a<b"]["metrics"]["roc_auc"]["value"] == value
    assert by_name["softmax response"]["differences"] == {}
    assert data["verdict"] == found.verdict
    page = Cells(found._repr_html_())
    assert page.tags.count("tr") == 4
    assert "a<b" in page.text
    assert any(f"{100 * value:.1f} [" in text for text in page.text)
    assert f"{100 * value:.1f} [" in str(found)
    with pytest.raises(KeyError, match="'nobody' was not compared"):
        found["nobody"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_sequential_procedure_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected, order = set(), np.argsort(p_values, kind="stable")
        for step, number in enumerate(order):
            if (len(p_values) - step) * p_values[number] > level:
                break
            rejected.add(int(number))
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_labels_in_another_order_are_warned_about_where_the_call_is(problem):
    with pytest.warns(UserWarning, match="In another order of the classes") as caught:
        compare_scorers(problem.X, (problem.y + 1) % 3, problem.W, problem.b, scorers=CHEAP)
    assert [warning.filename for warning in caught] == [__file__]


def test_bad_arguments_are_named(problem):
    X, y, W, b = problem.fit_args
    cases = [
        ({"scorers": "energy"}, TypeError, "scorers is 'energy'"),
        ({"scorers": []}, ValueError, "scorers is empty"),
        ({"scorers": [EnergyScorer]}, TypeError, "not a scorer"),
        (
            {"scorers": [("a", EnergyScorer()), ("a", EntropyScorer())]},
            ValueError,
            "'a' occurs twice",
        ),
        ({"X_train": X}, ValueError, "X_train was given without y_train"),
        ({"y_test": y}, ValueError, "y_test was given without X_test"),
        ({"X_test": X[:, :3], "y_test": y}, ValueError, "X_test has 3 features"),
        ({"X_train": X, "y_train": y[:5]}, ValueError, "y_train"),
        ({"X_train": X, "y_train": y + 7}, ValueError, "y_train: y holds 7, 8, 9"),
        ({"X_test": X, "y_test": y + 7}, ValueError, "y_test: y holds 7, 8, 9"),
        ({"cv": 1}, ValueError, "cv == 1"),
        ({"cv": [([0, 1], [2])]}, ValueError, "no test part"),
        ({"cv": [([0], [900])]}, ValueError, "outside 0 to 399"),
        ({"confidence": 1.0}, ValueError, "confidence"),
        ({"n_resamples": 0}, ValueError, "n_resamples"),
        ({"metrics": [aurc_score]}, TypeError, "metrics is"),
        ({"metrics": {"a": 1}}, TypeError, "metrics holds 1"),
        ({"random_state": None}, TypeError, "random_state"),
        ({"classes": ["a", "b"]}, ValueError, "classes"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            compare_scorers(X, y, W, b, **({"scorers": CHEAP} | options))
    with pytest.raises(ValueError, match="X_train was given without init_W"):
        compare_scorers(X, y, scorers=CHEAP, X_train=X, y_train=y)
    with pytest.raises(ValueError, match="init_b was given without init_W"):
        compare_scorers(X, y, None, b, scorers=CHEAP)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        compare_scorers(np.where(X > 2, np.nan, X), y, W, b, scorers=CHEAP)


@pytest.mark.slow
@repeated(15, 60)
def test_scores_that_only_know_noise_seldom_win(times):
    wins, gains = 0, []
    for seed in range(times):
        rng = np.random.default_rng(seed)
        X, W = rng.normal(size=(300, 4)), np.eye(3, 4)
        p = np.exp(X @ W.T)
        y = (p.cumsum(axis=1) < rng.random((300, 1)) * p.sum(axis=1, keepdims=True)).sum(axis=1)
        found = compare_scorers(
            X, y, W, scorers=[LinearProbeScorer(C=0.01), ToyScorer()], metrics={}, cv=3
        )
        wins += bool(found.winners)
        gains.append(found["linear error probe"].gain.value)
    # More than six of sixty would be a chance of 1 in 50 at 5 %, more than three of 15 of 1 in 200.
    assert wins <= (6 if times == 60 else 3)
    assert np.mean(gains) < 0.005


def test_differences_agree_with_plain_arithmetic(problem):
    found = compare_scorers(*problem.fit_args, scorers=[LinearProbeScorer(C=0.1)])
    scores = found.uncertainties
    expected = error_roc_auc_score(
        found.errors, scores["linear error probe"]
    ) - error_roc_auc_score(found.errors, scores["softmax response"])
    assert found["linear error probe"].gain.value == pytest.approx(expected, abs=1e-12)


def test_fit_rows_that_the_classifier_was_trained_on_are_warned_about():
    fresh = Problem(n=400, seed=1)
    answers = (fresh.X @ fresh.W.T + fresh.b).argmax(axis=1)
    known = np.where(
        np.arange(400) % 200 < 3, fresh.y, answers
    )  # hardly an error, as after training
    head, options = (fresh.W, fresh.b), {"scorers": [EntropyScorer()], "n_resamples": 5}
    new = {"X_test": fresh.X[:200], "y_test": fresh.y[:200]}
    X, y, known = fresh.X[200:], fresh.y[200:], known[200:]
    with pytest.warns(UserWarning, match="probably trained on X") as caught:
        compare_scorers(X, known, *head, **new, **options)
    assert [each.filename for each in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_scorers(X, y, *head, **new, **options)

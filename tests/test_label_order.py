"""Labels in another order than the head's rows are said, once, with the order that fits."""

from __future__ import annotations

import warnings
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from adue_sklearn import (
    AdUEEstimator,
    ErrorProbability,
    MahalanobisScorer,
    SoftmaxResponseScorer,
    UncertaintyPipeline,
)
from tests.estimator_cases import ESTIMATORS
from tests.problems import Problem

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
MESSAGE = "answers agree with the labels"


def warned(function):
    """Return what was said of the order of labels."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [each for each in caught if MESSAGE in str(each.message)]


@every_estimator
def test_row_numbers_in_another_order_are_said_once_with_the_order_that_fits(estimator, problem):
    moved = np.array([1, 2, 0])[problem.y]
    fit = clone(estimator).fit
    (warning,) = warned(lambda: fit(problem.X, moved, problem.W, problem.b))
    answers = (problem.X @ problem.W.T + problem.b).argmax(axis=1)
    agree, could = np.mean(moved == answers), np.mean(~problem.errors)
    assert warning.filename == __file__
    message = str(warning.message)
    assert f"y: the head's answers agree with the labels in {agree:.1%} of 400 rows" in message
    assert f"In another order of the classes they agree in {could:.1%}" in message
    assert "now label 1 is row 0, 2 is row 1, 0 is row 2." in message


@every_estimator
def test_named_classes_in_another_order_are_said_with_the_order_that_fits(estimator, problem):
    names = np.array(["zebra", "ant", "mole"])  # as the rows of the head are
    swapped = ["ant", "zebra", "mole"]
    arguments = problem.X, names[problem.y], problem.W, problem.b
    (warning,) = warned(lambda: clone(estimator).fit(*arguments, classes=swapped))
    assert str(warning.message).endswith("classes=['zebra', 'ant', 'mole'].")
    assert not warned(lambda: clone(estimator).fit(*arguments, classes=names))


@every_estimator
def test_the_right_order_and_a_head_fitted_here_are_not_warned_about(estimator, problem):
    assert not warned(lambda: clone(estimator).fit(*problem.fit_args))
    rng = np.random.default_rng(0)
    assert not warned(lambda: clone(estimator).fit(problem.X, rng.permutation(problem.y)))


@every_estimator
def test_labels_of_other_rows_are_said_without_an_order(estimator, problem):
    answers = (problem.X @ problem.W.T + problem.b).argmax(axis=1)
    rng = np.random.default_rng(0)
    orders = (rng.permutation(problem.y) for _ in range(100))
    shuffled = next(y for y in orders if np.mean(y == answers) < 0.3)
    (warning,) = warned(lambda: clone(estimator).fit(problem.X, shuffled, problem.W, problem.b))
    assert "No other order of the classes fits" in str(warning.message)


def test_tensors_are_compared_too(problem, device):
    X, y, W, b = (torch.tensor(a, device=device) for a in problem.fit_args)
    assert len(warned(lambda: SoftmaxResponseScorer().fit(X, (y + 1) % 3, W, b))) == 1


def test_a_handful_of_rows_proves_nothing(problem):
    moved = (problem.y + 1) % 3
    for rows, times in ((9, 0), (40, 1)):
        args = problem.X[:rows], moved[:rows], problem.W, problem.b
        assert len(warned(lambda args=args: SoftmaxResponseScorer().fit(*args))) == times


def test_many_rows_are_compared_on_some_of_them():
    problem = Problem(n=40_000, d=3)
    args = problem.X, (problem.y + 1) % 3, problem.W, problem.b
    (warning,) = warned(lambda: SoftmaxResponseScorer().fit(*args))
    assert "of 8000 rows" in str(warning.message)


def test_the_first_rows_of_a_partial_fit_are_compared(problem):
    moved = (problem.y + 1) % 3
    scorer = MahalanobisScorer()
    args = problem.X[:200], moved[:200], problem.W, problem.b
    (warning,) = warned(lambda: scorer.partial_fit(*args))
    assert warning.filename == __file__
    assert not warned(lambda: scorer.partial_fit(problem.X[200:], moved[200:]))


def test_a_frozen_estimator_that_is_calibrated_on_such_rows_says_it(problem):
    frozen = FrozenEstimator(SoftmaxResponseScorer().fit(*problem.fit_args))
    moved = (problem.y + 1) % 3
    (warning,) = warned(lambda: ErrorProbability(frozen).fit(problem.X, moved))
    assert warning.filename == __file__
    assert not warned(lambda: ErrorProbability(frozen).fit(problem.X, problem.y))


def test_pipelines_and_searches_say_it(problem):
    moved = (problem.y + 1) % 3
    head = {"init_W": problem.W, "init_b": problem.b}
    for pipe in (
        make_pipeline(MahalanobisScorer()),
        UncertaintyPipeline([("score", AdUEEstimator())]),
    ):
        named = {f"{pipe.steps[-1][0]}__{name}": value for name, value in head.items()}
        assert len(warned(lambda pipe=pipe, named=named: pipe.fit(problem.X, moved, **named))) == 1
    search = GridSearchCV(MahalanobisScorer(), {"shrinkage": [0.01, 0.1]}, cv=2)
    assert warned(lambda: search.fit(problem.X, moved, **head))


@pytest.mark.parametrize(
    ("n_right", "n_wrong", "named"), [(0, 10, True), (7, 23, True), (4, 6, False)]
)
def test_few_rows_of_two_classes_name_the_order_where_that_is_no_luck(n_right, n_wrong, named):
    y = np.arange(n_right + n_wrong) % 2
    answers = np.where(np.arange(len(y)) < n_right, y, 1 - y)
    (warning,) = warned(lambda: SoftmaxResponseScorer().fit(np.eye(2)[answers], y, np.eye(2)))
    assert ("now label 1 is row 0, 0 is row 1" in str(warning.message)) is named
    assert ("No other order" in str(warning.message)) is not named


@given(seed=st.integers(0, 10**6), n_classes=st.integers(2, 6), n=st.integers(10, 300))
def test_the_named_order_is_the_best_of_all_orders(seed, n_classes, n):
    rng = np.random.default_rng(seed)
    answers, guesses = rng.integers(n_classes, size=(2, n))
    hidden = rng.permutation(n_classes)
    labels = np.where(rng.random(n) < 0.2, guesses, hidden[answers])
    W, X = np.eye(n_classes), np.eye(n_classes)[answers]
    if n == n_classes:
        return
    agreement = {
        order: np.mean(np.array(order)[answers] == labels)
        for order in permutations(range(n_classes))
    }
    for warning in warned(lambda: SoftmaxResponseScorer().fit(X, labels, W)):
        message = str(warning.message)
        if "No other order" in message:
            continue
        _, _, pairs = message.partition("now label ")
        named = tuple(int(pair.split(" ")[0]) for pair in pairs.split(", "))
        assert agreement[named] == max(agreement.values())
        assert agreement[named] > agreement[tuple(range(n_classes))]

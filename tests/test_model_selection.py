"""Folds with errors in each, and the default search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adue_sklearn import compare_scorers
from adue_sklearn.model_selection import (
    count_shared_rows,
    error_stratified_folds,
    fit_rows_look_memorised,
)
from tests import marks
from tests.toy_scorers import ToyScorer


def test_folds_share_the_errors_evenly_and_cover_every_row_once(problem):
    folds = error_stratified_folds(*problem.fit_args, n_splits=4)
    counts = [problem.errors[test].sum() for _, test in folds]
    assert max(counts) - min(counts) <= 1
    np.testing.assert_array_equal(np.sort(np.concatenate([t for _, t in folds])), np.arange(400))
    for train, test in folds:
        assert not set(train) & set(test)


def test_folds_take_string_labels(problem):
    names = np.array(["a", "b", "c"])
    by_name = error_stratified_folds(
        problem.X, names[problem.y], problem.W, problem.b, classes=names
    )
    by_number = error_stratified_folds(*problem.fit_args)
    for (_, first), (_, second) in zip(by_name, by_number, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("keep", "message"), [(True, "correct answers"), (False, "errors")])
@marks.odd_rows
def test_too_few_errors_or_correct_answers_for_the_folds_are_named(problem, keep, message):
    few = np.flatnonzero(problem.errors != keep)[:3]
    rows = np.concatenate([np.flatnonzero(problem.errors == keep), few])
    with pytest.raises(ValueError, match=f"makes 3 {message} .* too few for n_splits=5"):
        error_stratified_folds(problem.X[rows], problem.y[rows], problem.W, problem.b)


@pytest.mark.parametrize(
    ("fit_rows", "fresh_rows", "expected"),
    [
        ((3, 2605), (290, 1421), True),
        ((0, 500), (60, 500), True),
        ((0, 10), (2, 10), False),
        ((60, 500), (62, 500), False),
        ((62, 500), (3, 500), False),
        ((40, 500), (70, 500), False),
    ],
)
def test_memorised_rows_are_told_from_chance(fit_rows, fresh_rows, expected):
    assert fit_rows_look_memorised(fit_rows, fresh_rows) is expected


def test_shared_rows_are_counted_whatever_their_order(problem):
    assert count_shared_rows(problem.X[100:200][::-1], problem.X[150:]) == 50
    assert count_shared_rows(problem.X, np.zeros((3, 12))) == 0
    again = problem.X * (1 + 1e-7)  # the last bits depend on what was extracted with a text
    assert count_shared_rows(again, problem.X[150:]) == 250


def with_copies(problem, rng, *, noise=0.0):
    """Return a problem whose first hundred rows are there again, at random places."""
    numbers = rng.permutation(np.r_[np.arange(400), np.arange(100)])
    X = problem.X[numbers]
    return X + noise * rng.normal(size=X.shape), problem.y[numbers], numbers


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_copies_of_a_row_are_in_one_fold_and_other_rows_where_they_were(problem, noise):
    X, y, numbers = with_copies(problem, np.random.default_rng(0), noise=noise)
    folds = error_stratified_folds(X, y, problem.W, problem.b)
    fold_of = np.empty(len(X), dtype=int)
    for number, (train, test) in enumerate(folds):
        assert set(train) | set(test) == set(range(500))
        assert not set(numbers[train]) & set(numbers[test])
        fold_of[test] = number
    sizes = np.bincount(fold_of)
    assert sizes.sum() == 500
    assert sizes.max() - sizes.min() < 30
    first = np.sort(np.unique(numbers, return_index=True)[1])
    alone = error_stratified_folds(X[first], y[first], problem.W, problem.b)
    for number, (_, test) in enumerate(alone):
        assert (fold_of[first[test]] == number).all()


def test_errors_that_are_copies_count_once_for_the_folds(problem):
    wrong, right = np.flatnonzero(problem.errors), np.flatnonzero(~problem.errors)
    rows = np.r_[right, np.repeat(wrong[:3], 9)]
    arguments = (problem.X[rows], problem.y[rows], problem.W, problem.b)
    with pytest.raises(ValueError, match="makes 3 errors, counting copies of a row once, on"):
        error_stratified_folds(*arguments, n_splits=4)
    folds = error_stratified_folds(*arguments, n_splits=3)
    assert [len(set(rows[test]) & set(wrong)) for _, test in folds] == [1, 1, 1]


class Remembering(ToyScorer):
    """Doubts what it has seen the head err on."""

    def _fit(self, X, labels, head):
        self.wrong_ = set(X[self._original_errors(X, labels, head), 0].tolist())

    def _uncertainty(self, X):
        return torch.tensor([float(value in self.wrong_) for value in X[:, 0].tolist()])


def test_copies_in_other_folds_do_not_flatter_what_remembers_rows(problem):
    X, y = (np.repeat(part[:150], 2, axis=0) for part in (problem.X, problem.y))
    arguments = (X, y, problem.W, problem.b)
    options = {"scorers": {"memory": Remembering()}, "metrics": {}}
    together = compare_scorers(*arguments, **options)
    assert together["memory"].metrics["roc_auc"].value < 0.55
    apart = [(np.arange(k, 300, 2), np.arange(1 - k, 300, 2)) for k in (0, 1)]
    flattered = compare_scorers(*arguments, cv=apart, **options)
    assert flattered["memory"].metrics["roc_auc"].value > 0.9


def test_rows_that_are_all_alike_are_divided_all_the_same():
    folds = error_stratified_folds(np.ones((8, 2)), [0, 0, 0, 0, 0, 0, 1, 1], np.eye(2), n_splits=2)
    assert [len(test) for _, test in folds] == [4, 4]

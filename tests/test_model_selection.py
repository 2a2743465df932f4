"""Folds with errors in each, and the default search."""

from __future__ import annotations

import numpy as np
import pytest

from adue_sklearn.model_selection import (
    count_shared_rows,
    error_stratified_folds,
    fit_rows_look_memorised,
)


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

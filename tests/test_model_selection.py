"""Folds with errors in each, and the default search."""

from __future__ import annotations

import numpy as np
import pytest

from adue_sklearn.model_selection import DEFAULT_GRID, error_stratified_folds, tune_adue


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


def test_tuning_tries_the_whole_grid_and_fits_the_best(problem):
    search = tune_adue(*problem.fit_args, n_splits=2)
    assert len(search.cv_results_["params"]) == np.prod([len(v) for v in DEFAULT_GRID.values()])
    assert search.best_estimator_.get_params()["beta"] == search.best_params_["beta"]
    assert search.best_estimator_.n_errors_ == problem.errors.sum()

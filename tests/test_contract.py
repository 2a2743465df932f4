"""What every estimator of the package promises, and scikit-learn's own checks."""

from __future__ import annotations

import functools
import itertools
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator

import adue_sklearn
from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    EnergyScorer,
    ErrorProbability,
    HUQScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    StackedScorer,
)
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.comparison import Comparison
from adue_sklearn.exceptions import MissingViewWarning
from tests import marks
from tests.estimator_cases import ESTIMATORS
from tests.problems import DEVICES, Problem
from tests.profiles import share_of_examples

pytestmark = marks.no_views

#: Other settings, which compute scores by other code but check their input by the same.
VARIANTS = [
    AdUEEstimator(scale="paper", lam=10, beta=1.0),
    LinearProbeScorer(),
    MahalanobisScorer("marginal"),
    MahalanobisScorer("relative"),
    # On one feature every row of unit length is +-1, which leaves scikit-learn's checks nothing.
    MahalanobisScorer(normalize=True),
    ErrorProbability(method="venn_abers"),
]
# An estimator may hold another one, of which the same is tested.
PLAIN = (np.ndarray, str, bool, int, float, dict, UncertaintyEstimator, Comparison)
every_estimator = pytest.mark.parametrize("estimator", [*ESTIMATORS, *VARIANTS], ids=str)


#: One for each class: another setting computes by other code but checks its input by the same.
ONE_A_CLASS = list({type(estimator): estimator for estimator in reversed(ESTIMATORS)}.values())
#: One for each way in which ``fit`` checks and keeps what it is given.
ONE_A_BASE = [
    AdUEEstimator(beta=1.0, lam=10),
    SoftmaxResponseScorer(),
    MahalanobisScorer(),
    AdUESearchCV({"beta": [1.0], "lam": [10]}, cv=2),
    StackedScorer([("energy", EnergyScorer())], cv=2),
]
every_class = pytest.mark.parametrize("estimator", ONE_A_CLASS, ids=str)
every_base = pytest.mark.parametrize("estimator", ONE_A_BASE, ids=str)


def test_every_public_estimator_is_on_the_list():
    public = {
        value
        for name in adue_sklearn.__all__
        if isinstance(value := getattr(adue_sklearn, name), type)
    }
    estimators = {cls for cls in public if issubclass(cls, UncertaintyEstimator)}
    assert {type(estimator) for estimator in ESTIMATORS} == estimators


@pytest.fixture
def problem():
    return Problem(n=150)


@functools.cache
def fitted_once(text):
    """Return the estimator that reads like this, fitted: what is asked of it does not change it."""
    estimator = next(e for e in [*ESTIMATORS, *VARIANTS, *ONE_A_BASE] if str(e) == text)
    return clone(estimator).fit(*Problem(n=150).fit_args)


#: Of what ``UncertaintyEstimator.fit`` does before a class's own code.
INHERITED = {
    "check_classifier_data_not_an_array",
    "check_complex_data",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimators_fit_returns_self",
    "check_estimators_nan_inf",
    "check_f_contiguous_array_estimator",
    "check_fit1d",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_score_takes_y",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_requires_y_none",
    "check_supervised_y_2d",
    "check_supervised_y_no_nan",
}


def scikit_learn_checks():
    """Return estimators and checks: all for bases and classes with a ``fit`` of their own.

    The others take what their own code may break, and of a check that comes in several forms the
    last, which has all of it at once: read-only, mapped, float32. The deep run does everything.
    """
    of_bases = {type(estimator): estimator for estimator in ONE_A_BASE}
    # The checks ask nothing of where a descent ends.
    of_bases[AdUEEstimator] = AdUEEstimator(beta=1.0, lam=10, tol=0.01)
    of_bases[AdUESearchCV] = AdUESearchCV({"beta": [1.0], "lam": [10]}, cv=2, tol=0.01)
    for estimator in ONE_A_CLASS:
        cls = type(estimator)
        takes_all = cls in of_bases or cls.fit is not UncertaintyEstimator.fit
        pairs = list(estimator_checks_generator(of_bases.get(cls, estimator)))
        last = {check.func: check for _, check in pairs}
        for checked, check in pairs:
            what = check.func.__name__
            repeats = what in INHERITED or last[check.func] is not check
            name = "-".join([cls.__name__, what, *check.keywords])
            marks = [pytest.mark.deep] if repeats and not takes_all else []
            yield pytest.param(checked, check, id=name, marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(scikit_learn_checks()))
@marks.few_rows
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("estimator", "dtype"),
    [
        *((estimator, torch.bfloat16) for estimator in [*ESTIMATORS, *VARIANTS]),
        *itertools.product(ONE_A_BASE, [torch.float64, torch.float32, torch.float16]),
    ],
    ids=str,
)
def test_tensors_in_give_tensors_out_that_agree_with_numpy(estimator, dtype, device, problem):
    X = torch.tensor(problem.X, dtype=dtype, device=device)
    X_numpy = X.double().cpu().numpy().astype(np.float64 if dtype == torch.float64 else np.float32)
    W, b = (torch.tensor(a, device=device) for a in (problem.W, problem.b))
    y = torch.tensor(problem.y, device=device)
    fitted = clone(estimator).fit(X, y, W, b)
    expected = clone(estimator).fit(X_numpy, problem.y, problem.W, problem.b)
    for method in ("predict", "predict_proba", "predict_uncertainty"):
        got = getattr(fitted, method)(X)
        assert isinstance(got, torch.Tensor)
        assert got.device == X.device
        np.testing.assert_allclose(
            got.cpu().numpy(), getattr(expected, method)(X_numpy), rtol=1e-4, atol=1e-6
        )
    assert fitted.score(X, y) == pytest.approx(expected.score(X_numpy, problem.y), abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "layout"),
    [
        *((estimator, "frozen") for estimator in [*ESTIMATORS, *VARIANTS]),
        *itertools.product(ONE_A_BASE, ["columns", "strided", "reversed"]),
    ],
    ids=str,
)
def test_non_contiguous_and_read_only_features_give_the_same_scores(estimator, layout, problem):
    expected = fitted_once(str(estimator)).predict_uncertainty(problem.X)
    X = {
        "frozen": np.asfortranarray(problem.X),  # and not to be written to
        "columns": np.asfortranarray(problem.X),
        "strided": np.repeat(problem.X, 2, axis=1)[:, ::2],
        "reversed": problem.X[::-1].copy()[::-1],
    }[layout]
    X.flags.writeable = layout != "frozen"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", MissingViewWarning)
        refitted = clone(estimator).fit(X, problem.y, problem.W, problem.b)
        np.testing.assert_allclose(refitted.predict_uncertainty(X), expected, rtol=1e-6)


@every_estimator
def test_lists_give_the_same_scores(estimator, problem):
    fitted = fitted_once(str(estimator))
    expected = fitted.predict_uncertainty(problem.X)
    np.testing.assert_allclose(fitted.predict_uncertainty(problem.X.tolist()), expected)


@every_estimator
def test_one_row_at_a_time_scores_as_all_at_once(estimator, problem):
    fitted = fitted_once(str(estimator))
    alone = [fitted.predict_uncertainty(row[None])[0] for row in problem.X[:20]]
    np.testing.assert_allclose(alone, fitted.predict_uncertainty(problem.X)[:20], rtol=1e-9)


@every_estimator
def test_string_labels_come_back_as_strings_in_row_order(estimator, problem):
    names = np.array(["zebra", "ant", "mole"])
    fitted = clone(estimator).fit(problem.X, names[problem.y], problem.W, problem.b, classes=names)
    by_number = fitted_once(str(estimator))
    np.testing.assert_array_equal(fitted.classes_, names)
    np.testing.assert_array_equal(fitted.predict(problem.X), names[by_number.predict(problem.X)])
    np.testing.assert_array_equal(
        fitted.predict_uncertainty(problem.X), by_number.predict_uncertainty(problem.X)
    )
    assert fitted.score(problem.X, names[problem.y]) == by_number.score(problem.X, problem.y)


@every_estimator
@marks.few_rows
@pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.MissingClassesWarning")
def test_fit_rows_may_lack_a_class_of_the_head(estimator, problem):
    some = problem.y != 1
    fitted = clone(estimator).fit(problem.X[some], problem.y[some], problem.W, problem.b)
    assert np.isfinite(fitted.predict_uncertainty(problem.X)).all()
    assert 1 in fitted.predict(problem.X)


@every_estimator
def test_pickled_and_cloned_estimators_behave_alike(estimator, problem):
    fitted = fitted_once(str(estimator))
    copy = pickle.loads(pickle.dumps(fitted))
    again = clone(fitted).fit(*problem.fit_args)
    for other in (copy, again):
        np.testing.assert_array_equal(
            other.predict_uncertainty(problem.X), fitted.predict_uncertainty(problem.X)
        )


@every_estimator
def test_fitted_state_is_plain_arrays_and_numbers(estimator, problem):
    fitted = clone(estimator).fit(*map(torch.tensor, problem.fit_args))
    fitted = getattr(fitted, "best_estimator_", fitted)
    for name, value in vars(fitted).items():
        if name in fitted.get_params(deep=False):
            continue  # as it was passed
        for part in value if isinstance(value, list) else [value]:
            assert part is None or isinstance(part, PLAIN), name


@every_class
def test_data_frames_set_feature_names(estimator, problem):
    frame = pd.DataFrame(problem.X, columns=[f"h{i}" for i in range(12)])
    fitted = clone(estimator).fit(frame, pd.Series(problem.y), problem.W, problem.b)
    assert list(fitted.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict_uncertainty(frame.rename(columns={"h0": "other"}))


@every_class
def test_score_is_nan_with_a_warning_when_rows_hold_no_errors(estimator, problem):
    fitted = fitted_once(str(estimator))
    with pytest.warns(UndefinedMetricWarning, match="no errors"):
        assert np.isnan(fitted.score(problem.X, fitted.predict(problem.X)))


def with_nan(X):
    X = np.array(X)
    X[3, 2] = np.nan
    return X


def with_inf(X):
    X = np.array(X)
    X[3, 2] = np.inf
    return X


BAD_FIT_INPUT = {
    "NaN in X": (lambda p: {"X": with_nan(p.X)}, "Input X contains NaN"),
    "inf in X": (lambda p: {"X": with_inf(p.X)}, "Input X contains infinity"),
    "NaN in a tensor": (
        lambda p: {"X": torch.tensor(with_nan(p.X))},
        r"NaN or infinity in 1 of 150 rows \(first: row 3\)",
    ),
    "a 3D tensor": (lambda p: {"X": torch.zeros(2, 2, 2)}, r"2D tensor.*\(2, 2, 2\)"),
    "an empty tensor": (lambda p: {"X": torch.zeros(0, 12)}, r"0 sample\(s\)"),
    "a complex tensor": (lambda p: {"X": torch.zeros(4, 2, dtype=torch.complex64)}, "complex"),
    "other number of features": (
        lambda p: {"W": p.W[:, :-1]},
        r"init_W has shape \(3, 11\), but X has 12 features",
    ),
    "transposed head": (lambda p: {"W": p.W.T}, r"looks transposed; pass init_W\.T"),
    "one row": (lambda p: {"W": p.W[:1], "b": p.b[:1]}, "y holds 2, but the head has 2 classes"),
    "3D head": (lambda p: {"W": p.W[None]}, r"init_W has shape \(1, 3, 12\)"),
    "vector too short": (lambda p: {"W": p.W[0, 1:], "b": 0.0}, r"init_W has shape \(11,\)"),
    "NaN in the head": (
        lambda p: {"W": with_nan(np.pad(p.W, ((0, 1), (0, 0))))},
        "init_W contains",
    ),
    "a head of text": (lambda p: {"W": "head.bin"}, "init_W"),
    "short bias": (lambda p: {"b": p.b[:2]}, r"init_b has shape \(2,\).*3 rows"),
    "bias alone": (lambda p: {"W": None}, "init_b was given without init_W"),
    "label outside the head": (
        lambda p: {"y": np.where(p.y == 2, 3, p.y)},
        "y holds 3, but the head has 3 classes",
    ),
    "negative label": (lambda p: {"y": p.y - 1}, "y holds -1"),
    "strings without classes": (
        lambda p: {"y": np.array(["a", "b", "c"])[p.y]},
        "y holds strings .* but classes was not given",
    ),
    "unknown class": (
        lambda p: {"y": np.array(["a", "b", "d"])[p.y], "classes": ["a", "b", "c"]},
        "y holds 'd', not among classes",
    ),
    "too few classes": (
        lambda p: {"y": np.array(["a", "b", "c"])[p.y], "classes": ["a", "b"]},
        r"classes has shape \(2,\).*3 rows",
    ),
    "repeated classes": (lambda p: {"classes": [0, 1, 1]}, "repeats a label"),
    "numbers with named classes": (lambda p: {"classes": ["a", "b", "c"]}, "row numbers, leave"),
    "fewer labels": (lambda p: {"y": p.y[:-1]}, "X has 150 rows, y has 149"),
    "no labels": (lambda p: {"y": None}, "requires y"),
    "NaN label": (lambda p: {"y": np.where(p.y == 2, np.nan, p.y)}, "Input y contains NaN"),
    "as many classes as rows": (
        lambda p: {"X": p.X[:3], "y": p.y[:3]},
        "init_W has as many rows as X",
    ),
}


@pytest.mark.parametrize("case", BAD_FIT_INPUT)
@every_base
def test_bad_fit_input_is_named(estimator, case, problem):
    change, message = BAD_FIT_INPUT[case]
    given = {"X": problem.X, "y": problem.y, "W": problem.W, "b": problem.b, "classes": None}
    given.update(change(problem))
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(
            given["X"], given["y"], given["W"], given["b"], classes=given["classes"]
        )


@every_class
def test_wrong_number_of_features_at_prediction_is_named(estimator, problem):
    fitted = fitted_once(str(estimator))
    for X in (problem.X[:, :5], torch.tensor(problem.X[:, :5])):
        with pytest.raises(ValueError, match=r"X has 5 features, but .* is expecting 12 features"):
            fitted.predict_uncertainty(X)


@every_class
@marks.few_rows
def test_labels_outside_a_given_head_are_named_at_scoring_too(estimator, problem):
    fitted = fitted_once(str(estimator))
    for method in (fitted.score, fitted.errors):
        with pytest.raises(ValueError, match="y holds 7, 8, 9, not among classes"):
            method(problem.X, problem.y + 7)
    headless = clone(estimator).fit(problem.X, problem.y)
    assert headless.errors(problem.X, problem.y + 7).all()


@every_class
def test_labels_of_another_kind_at_scoring_are_named(estimator, problem):
    fitted = fitted_once(str(estimator))
    with pytest.raises(ValueError, match="expected labels of the same kind as in fit"):
        fitted.score(problem.X, np.array(["a", "b", "c"])[problem.y])


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("quantum", "device='quantum' is not a torch device"),
        ("mps", "lacks float64"),
        pytest.param(
            "cuda",
            "torch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_unusable_devices_are_named(device, message, problem):
    with pytest.raises(ValueError, match=message):
        SoftmaxResponseScorer(device=device).fit(*problem.fit_args).predict(problem.X)


@pytest.mark.parametrize("n_classes", [15, 16, 17])
@pytest.mark.parametrize(
    "estimator",
    [
        AdUESearchCV({"beta": [0.01, 0.1]}, cv=3),
        ErrorProbability(MahalanobisScorer(), cv=3),
        HUQScorer(cv=3),
        SelectiveClassifier(MahalanobisScorer(), target_risk=0.9, threshold_size=8),
        StackedScorer(cv=3),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # few rows, and no threshold for them
def test_folds_as_long_as_the_head_are_no_cut_head(estimator, n_classes):
    problem = Problem(n=24, d=4, n_classes=n_classes, noise=0.5)
    assert 3 <= problem.errors.sum() <= 21
    fitted = clone(estimator).fit(*problem.fit_args)  # on 16 rows, or a few more or less
    assert np.isfinite(fitted.predict_uncertainty(problem.X)).all()


@pytest.mark.filterwarnings("ignore:The least populated class")  # 30 classes in 30 rows
def test_a_search_that_would_cut_the_head_is_stopped():
    problem = Problem(n=30, d=5, n_classes=30)
    with pytest.raises(ValueError, match="init_W has as many rows as X"):
        GridSearchCV(AdUEEstimator(), {"alpha": [0.3]}, cv=3, error_score="raise").fit(
            problem.X, problem.y, init_W=problem.W, init_b=problem.b
        )


@share_of_examples(0.3)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(20, 60),
    d=st.integers(1, 30),
    n_classes=st.integers(2, 6),
)
@marks.odd_rows
@marks.few_rows
def test_scores_of_random_problems_are_finite_and_follow_row_order(seed, n, d, n_classes):
    problem = Problem(n=n, d=d, n_classes=n_classes, noise=3.0, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    if not 0 < problem.errors.sum() < n:
        return
    for estimator in (AdUEEstimator(), SoftmaxResponseScorer(), MahalanobisScorer()):
        fitted = clone(estimator).fit(*problem.fit_args)
        scores = fitted.predict_uncertainty(problem.X)
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(
            fitted.predict_uncertainty(problem.X[order]), scores[order], rtol=1e-9, atol=1e-12
        )

"""Nothing in scikit-learn's tool box breaks on our estimators."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import polars as pl
import pytest
import scipy
import sklearn
import skops.io
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ProgressBar
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.utils.fixes import parse_version

from adue_sklearn import AdUEEstimator, AdUESearchCV, SoftmaxResponseScorer
from adue_sklearn.metrics import ErrorScorer, aurc_scorer, error_roc_auc_scorer, fpr_at_tpr_scorer
from adue_sklearn.model_selection import error_stratified_folds
from tests import marks
from tests.estimator_cases import ESTIMATORS
from tests.problems import Problem

pytestmark = marks.no_views

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)


@pytest.fixture
def problem():
    return Problem(n=150)


@functools.cache
def fitted_once(text):
    """Return the estimator that reads like this, fitted: what is asked of it does not change it."""
    estimator = next(estimator for estimator in ESTIMATORS if str(estimator) == text)
    return clone(estimator).fit(*Problem(n=150).fit_args)


@pytest.fixture
def head(problem):
    return {"init_W": problem.W, "init_b": problem.b}


@pytest.mark.parametrize(
    ("n_jobs", "routing"),
    [
        (2, True),
        *(pytest.param(*case, marks=pytest.mark.deep) for case in [(None, True), (2, False)]),
    ],
)
def test_grid_search_is_the_same_with_processes_and_metadata_routing(
    problem, head, routing, n_jobs
):
    grid = {"beta": [0.1, 1.0]}
    folds = error_stratified_folds(*problem.fit_args, n_splits=2)
    expected = GridSearchCV(AdUEEstimator(lam=10), grid, cv=folds).fit(problem.X, problem.y, **head)
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(AdUEEstimator(lam=10), grid, cv=folds, n_jobs=n_jobs)
        search.fit(problem.X, problem.y, **head)
    # Another process may use another number of threads, whose sums round differently.
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], atol=1e-4
    )
    assert search.best_params_ == expected.best_params_
    np.testing.assert_array_equal(
        search.score_samples(problem.X), -search.best_estimator_.predict_uncertainty(problem.X)
    )


@pytest.mark.parametrize(
    "make_search",
    [
        lambda e: HalvingGridSearchCV(e, {"beta": [0.3, 1.0, 3.0]}, cv=2, min_resources=50),
        lambda e: RandomizedSearchCV(e, {"beta": [0.3, 1.0, 3.0]}, cv=2, n_iter=2),
    ],
    ids=["halving", "randomized"],
)
@marks.few_rows
def test_other_searches_work(problem, head, make_search):
    search = make_search(AdUEEstimator(lam=10)).fit(problem.X, problem.y, **head)
    assert np.isfinite(search.best_score_)


def test_several_of_our_scorers_in_one_search(problem, head):
    scoring = {"auc": error_roc_auc_scorer, "aurc": aurc_scorer, "fpr": fpr_at_tpr_scorer}
    search = GridSearchCV(
        AdUEEstimator(lam=10), {"beta": [0.1, 1.0]}, scoring=scoring, refit="aurc", cv=2
    ).fit(problem.X, problem.y, **head)
    assert search.cv_results_["mean_test_auc"].min() > 0.5
    assert search.best_score_ == search.cv_results_["mean_test_aurc"].max() < 0


def own_score(estimator, X, y):
    return estimator.score(X, y)


@pytest.mark.parametrize(
    ("estimator", "routing"),
    [*((e, True) for e in ESTIMATORS), (SoftmaxResponseScorer(), False)],
    ids=str,
)
@marks.few_rows
def test_cross_validation_tools_work(estimator, problem, head, routing):
    with sklearn.config_context(enable_metadata_routing=routing):
        results = cross_validate(
            estimator,
            problem.X,
            problem.y,
            params=head,
            cv=2,
            scoring={"own": own_score, "aurc": aurc_scorer},
            return_estimator=True,
        )
        predicted = cross_val_predict(estimator, problem.X, problem.y, params=head, cv=2)
    assert np.isfinite(results["test_own"]).all()
    assert (results["test_aurc"] < 0).all()
    np.testing.assert_array_equal(results["estimator"][0].init_coef_, problem.W)
    original = SoftmaxResponseScorer().fit(*problem.fit_args).predict(problem.X)
    np.testing.assert_array_equal(predicted, original)


@marks.few_rows
def test_learning_curves_work(problem, head):
    _, _, scores = learning_curve(
        SoftmaxResponseScorer(), problem.X, problem.y, params=head, cv=2, train_sizes=[0.5, 1.0]
    )
    assert np.isfinite(scores).all()


@every_estimator
@marks.few_rows
def test_without_a_head_searches_work_too(estimator, problem):
    scores = cross_val_score(estimator, problem.X, problem.y, cv=2)
    assert np.isfinite(scores).all()


@every_estimator
def test_joblib_and_skops_bring_the_same_scores_back(estimator, problem, tmp_path):
    fitted = fitted_once(str(estimator))
    expected = fitted.predict_uncertainty(problem.X)
    joblib.dump(fitted, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict_uncertainty(problem.X), expected)

    loaded = through_skops(fitted)
    np.testing.assert_array_equal(loaded.predict_uncertainty(problem.X), expected)


def through_skops(estimator):
    """Save and load, trusting nothing but classes of this package."""
    data = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=data)
    for name in untrusted:
        module, _, cls = name.rpartition(".")
        assert module.startswith("adue_sklearn")
        assert isinstance(getattr(sys.modules[module], cls), type)
    return skops.io.loads(data, trusted=untrusted)


@pytest.mark.parametrize("scoring", [aurc_scorer, error_roc_auc_scorer], ids=repr)
def test_our_scorers_are_kept_by_name(scoring, problem):
    search = AdUESearchCV({"beta": [0.1]}, cv=2, scoring=scoring).fit(*problem.fit_args)
    for copy in (through_skops(search), pickle.loads(pickle.dumps(search)), clone(search)):
        assert copy.scoring.metric is scoring.metric
        assert copy.scoring.greater_is_better is scoring.greater_is_better
        assert repr(copy.scoring) == repr(scoring)


def spread(errors, uncertainty):
    return np.ptp(uncertainty)


def test_a_metric_of_ones_own_survives_pickle():
    scorer = pickle.loads(pickle.dumps(ErrorScorer(spread)))
    assert scorer.metric is spread
    assert "partial" in repr(ErrorScorer(functools.partial(spread)))
    for metric in ("aurc_score", 3):
        with pytest.raises(TypeError, match=r"metric is .* expected a function"):
            ErrorScorer(metric)


@every_estimator
def test_polars_frames_set_feature_names(estimator, problem):
    names = [f"h{i}" for i in range(12)]
    frame = pl.DataFrame(problem.X, schema=names)
    fitted = clone(estimator).fit(frame, pl.Series(problem.y), problem.W, problem.b)
    assert list(fitted.feature_names_in_) == names
    expected = fitted_once(str(estimator)).predict_uncertainty(problem.X)
    np.testing.assert_allclose(fitted.predict_uncertainty(frame), expected, rtol=1e-9)


@every_estimator
def test_memory_mapped_features_are_read_not_written(estimator, problem, tmp_path):
    np.save(tmp_path / "X.npy", problem.X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    fitted = clone(estimator).fit(mapped, problem.y, problem.W, problem.b)
    expected = fitted_once(str(estimator)).predict_uncertainty(problem.X)
    np.testing.assert_array_equal(fitted.predict_uncertainty(mapped), expected)


@every_estimator
def test_the_html_repr_shows_the_fitted_facts(estimator, problem):
    html = fitted_once(str(estimator))._repr_html_()
    shown = ["init_coef_", "classes_"]
    shown += {
        AdUEEstimator: ["loss_", "n_iter_", "n_errors_"],
        AdUESearchCV: ["best_params_", "best_score_", "cv_results_"],
    }.get(type(estimator), [])
    for name in shown:
        assert name in html


@every_estimator
def test_a_frozen_estimator_keeps_score_and_fit(estimator, problem):
    fitted = fitted_once(str(estimator))
    frozen = FrozenEstimator(fitted)
    clone(frozen).fit(problem.X[:5], problem.y[:5])
    np.testing.assert_array_equal(
        frozen.predict_uncertainty(problem.X), fitted.predict_uncertainty(problem.X)
    )
    assert frozen.score(problem.X, problem.y) == fitted.score(problem.X, problem.y)
    assert aurc_scorer(frozen, problem.X, problem.y) == aurc_scorer(fitted, problem.X, problem.y)


@every_estimator
def test_probabilities_can_be_calibrated(estimator, problem):
    calibrated = CalibratedClassifierCV(FrozenEstimator(fitted_once(str(estimator))))
    probabilities = calibrated.fit(problem.X, problem.y).predict_proba(problem.X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert calibrated.score(problem.X, problem.y) > 0.5


class Recorder:
    """A scikit-learn callback that keeps the names of the tasks that ended."""

    def __init__(self):
        self.ended = []

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ended.append(context.task_name)

    def teardown(self, estimator, context):
        pass


def test_progress_callbacks_follow_descents_and_iterations(problem):
    recorder = Recorder()
    adue = AdUEEstimator(lam=10).set_callbacks(recorder).fit(*problem.fit_args)
    assert recorder.ended.count("lbfgs-iter") == adue.n_iter_
    assert recorder.ended.count("descent") >= 2
    assert recorder.ended[-1] == "fit"
    without = AdUEEstimator(lam=10).fit(*problem.fit_args)
    np.testing.assert_array_equal(adue.coef_, without.coef_)


def test_scikit_learns_progress_bar_runs_on_a_fit_and_on_a_search(problem, head, capfd):
    AdUEEstimator(lam=10).set_callbacks(ProgressBar()).fit(*problem.fit_args)
    search = GridSearchCV(AdUEEstimator(lam=10), {"beta": [0.3, 1.0]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=2)).fit(problem.X, problem.y, **head)
    assert "AdUEEstimator" in capfd.readouterr().out


@pytest.mark.skipif(
    parse_version(scipy.__version__) < parse_version("1.14"),
    reason="scikit-learn dispatches arrays with SciPy 1.14 or newer",
)
def test_tensors_go_through_a_search_with_array_api_dispatch():
    # The variable has to be set before scipy is imported, so another process is needed.
    code = """
        import numpy as np, sklearn, torch
        from sklearn.model_selection import GridSearchCV
        from adue_sklearn import AdUEEstimator
        from tests.problems import Problem

        p = Problem(n=150)
        grid = {"beta": [0.1, 1.0]}
        expected = GridSearchCV(AdUEEstimator(lam=10), grid, cv=2).fit(
            p.X, p.y, init_W=p.W, init_b=p.b)
        X, y, W, b = map(torch.as_tensor, p.fit_args)
        for dispatch in (True, False):
            with sklearn.config_context(array_api_dispatch=dispatch):
                search = GridSearchCV(AdUEEstimator(lam=10), grid, cv=2)
                search.fit(X, y, init_W=W, init_b=b)
                assert isinstance(search.score_samples(X), torch.Tensor)
            np.testing.assert_allclose(search.cv_results_["mean_test_score"],
                                       expected.cv_results_["mean_test_score"], atol=1e-6)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        env={**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONPATH": "."},
        cwd=os.path.dirname(os.path.dirname(__file__)),
    )


def test_tensors_on_every_device_can_be_cut_into_folds(problem, device):
    X, y = torch.tensor(problem.X, device=device), torch.tensor(problem.y, device=device)
    W, b = torch.tensor(problem.W), torch.tensor(problem.b)
    folds = error_stratified_folds(X, y, W, b, n_splits=2)
    for (rest, fold), (_, expected) in zip(
        folds, error_stratified_folds(*problem.fit_args, n_splits=2), strict=True
    ):
        np.testing.assert_array_equal(fold, expected)
        fitted = AdUEEstimator(lam=10).fit(X[rest], y[rest], W, b)
        assert fitted.predict_uncertainty(X[fold]).device == X.device

"""Whatever is passed, only documented errors come out, and they name the argument."""

from __future__ import annotations

import re
import warnings
from functools import partial

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    ConfidNetScorer,
    DDUScorer,
    DoctorScorer,
    EnergyScorer,
    ErrorProbability,
    GENScorer,
    HUQScorer,
    KNNScorer,
    LastLayerLaplaceScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MaxLogitPNormScorer,
    RDEScorer,
    RelUScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    StackedScorer,
    TrustScoreScorer,
    ViMScorer,
    metrics,
)
from adue_sklearn.features import FeatureStore
from adue_sklearn.model_selection import error_stratified_folds, fit_rows_look_memorised
from adue_sklearn.persistence import load_head, save_head
from tests.problems import Problem

PROBLEM = Problem(n=40, d=4, noise=3.0)
DOCUMENTED = (ValueError, TypeError, FileNotFoundError, FileExistsError)

numbers = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, bool]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=None,
)
other_dtypes = hnp.arrays(
    st.sampled_from([np.complex128, np.dtype("U3"), np.dtype("S2"), np.dtype("M8[s]")]),
    hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4),
)
spoiled = st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1, 0.5]).map(
    lambda value: np.where(np.arange(160).reshape(40, 4) == 7, value, PROBLEM.X)
)
things = st.sampled_from(
    [
        None,
        "text",
        b"bytes",
        3,
        -1.5,
        float("nan"),
        [],
        [[]],
        {},
        {"a": 1},
        set(),
        object(),
        [1, "a", None],
        [[1, 2], [3]],
        ["a", "b"],
        [None] * 40,
        np.array([1, "a", None], dtype=object),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        scipy.sparse.eye_array(4, format="csr"),
        torch.zeros(3),
        torch.zeros(2, 4, dtype=torch.bfloat16),
        torch.zeros(4, 4).to_sparse(),
        torch.full((40, 4), torch.nan),
        PROBLEM.X.T,
        PROBLEM.X[::-1, ::-1],
        np.asfortranarray(PROBLEM.X),
        PROBLEM.W,
        PROBLEM.y,
        PROBLEM.y.astype(str),
        PROBLEM.y.astype(object),
        PROBLEM.y + 0.5,
        PROBLEM.y[:, None],
        lambda: None,
        AdUEEstimator,
    ]
)
anything = st.one_of(things, numbers, other_dtypes, spoiled)

ESTIMATORS = [
    AdUEEstimator(max_iter=5),
    SoftmaxResponseScorer(),
    MaxLogitPNormScorer(),
    RelUScorer(),
    LastLayerLaplaceScorer(),
    LinearProbeScorer(C=0.1),
    StackedScorer(),
    MahalanobisScorer(),
    ErrorProbability(),
    DDUScorer(),
    KNNScorer(),
    RDEScorer(n_components=1),
    TrustScoreScorer(alpha=0.1),
    ViMScorer(),
    SelectiveClassifier(),
    HUQScorer(alpha=0.5, delta_min=0.1, delta_max=0.9, cv=2),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def call(function, *names):
    """Call; let pass what is documented and says one of ``names``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except DOCUMENTED as error:
            message = str(error)
            assert any(re.search(rf"\b{name}\b", message) for name in names), message
            assert len(message) > 20, message


@every_estimator
@pytest.mark.parametrize("argument", ["X", "y", "init_W", "init_b", "classes"])
@many
@given(value=anything)
def test_fit(estimator, argument, value):
    given = dict(zip(("X", "y", "init_W", "init_b"), PROBLEM.fit_args, strict=True))
    given[argument] = value
    # A wrong shape of one may show as the other not fitting to it.
    partners = {"X": ("init_W", "y"), "classes": ("y",)}.get(argument, ())
    call(lambda: clone(estimator).fit(**given), argument, *partners)


@every_estimator
@many
@given(value=anything)
def test_partial_and_headless_fit(estimator, value):
    call(lambda: clone(estimator).fit(value, PROBLEM.y), "X", "y")
    call(lambda: clone(estimator).fit(PROBLEM.X, value), "y")
    if hasattr(estimator, "partial_fit"):
        call(lambda: clone(estimator).partial_fit(value, PROBLEM.y), "X", "y")
        call(lambda: clone(estimator).partial_fit(PROBLEM.X, value), "y", "covariance")
        call(lambda: clone(estimator).partial_fit(PROBLEM.X, PROBLEM.y, classes=value), "classes")


@every_estimator
@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_uncertainty", "score_samples"]
)
@many
@given(value=anything)
def test_prediction(estimator, method, value):
    fitted = clone(estimator).fit(*PROBLEM.fit_args)
    call(lambda: getattr(fitted, method)(value), "X")


@every_estimator
@many
@given(value=anything)
def test_scoring(estimator, value):
    fitted = clone(estimator).fit(*PROBLEM.fit_args)
    for method in (fitted.score, fitted.errors):
        call(lambda method=method: method(value, PROBLEM.y), "X", "y")
        call(lambda method=method: method(PROBLEM.X, value), "y")


@pytest.mark.parametrize(
    ("cls", "parameter"),
    [
        (cls, parameter)
        for cls in (
            AdUEEstimator,
            ErrorProbability,
            SelectiveClassifier,
            MahalanobisScorer,
            SoftmaxResponseScorer,
            EnergyScorer,
            GENScorer,
            DoctorScorer,
            MaxLogitPNormScorer,
            RelUScorer,
            LastLayerLaplaceScorer,
            DDUScorer,
            KNNScorer,
            RDEScorer,
            TrustScoreScorer,
            ViMScorer,
            LinearProbeScorer,
            ConfidNetScorer,
            StackedScorer,
            HUQScorer,
        )
        for parameter in cls().get_params()
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
@many
@given(value=anything)
def test_parameters(cls, parameter, value):
    options = {"max_iter": 5} if cls is AdUEEstimator else {}
    call(lambda: cls(**options | {parameter: value}).fit(*PROBLEM.fit_args), parameter)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.error_roc_auc_score,
        metrics.error_average_precision_score,
        metrics.fpr_at_tpr_score,
        metrics.aurc_score,
        metrics.eaurc_score,
        metrics.augrc_score,
        metrics.prr_score,
        metrics.risk_at_coverage_score,
        metrics.coverage_at_risk_score,
        metrics.risk_coverage_curve,
        metrics.error_roc_auc_interval,
        partial(metrics.bootstrap_interval, metric=metrics.aurc_score, n_resamples=2),
    ],
    ids=lambda m: getattr(m, "__name__", "bootstrap_interval"),
)
@many
@given(value=anything)
def test_metrics(metric, value):
    errors = PROBLEM.errors
    call(lambda: metric(value, np.arange(40)), "errors")
    call(lambda: metric(errors, value), "uncertainty")


@many
@given(value=anything)
def test_metric_options(value):
    errors, scores = PROBLEM.errors, np.arange(40)
    call(lambda: metrics.fpr_at_tpr_score(errors, scores, tpr=value), "tpr")
    call(lambda: metrics.risk_at_coverage_score(errors, scores, coverage=value), "coverage")
    call(lambda: metrics.coverage_at_risk_score(errors, scores, risk=value), "risk")
    call(lambda: metrics.error_roc_auc_interval(errors, scores, confidence=value), "confidence")
    call(lambda: metrics.error_roc_auc_difference(errors, scores, value), "reference")
    call(lambda: metrics.error_roc_auc_score(errors, scores, sample_weight=value), "sample_weight")
    call(lambda: metrics.prediction_errors(value, PROBLEM.y), "predicted", "y")
    call(lambda: metrics.prediction_errors(PROBLEM.y, value), "y")


@many
@given(value=anything)
def test_bootstrap_options(value):
    def difference(**changed):
        options = {"reference": PROBLEM.X[:, 0], "metric": metrics.aurc_score, "n_resamples": 2}
        metrics.bootstrap_difference(PROBLEM.errors, np.arange(40), **(options | changed))

    call(lambda: difference(reference=value), "reference")
    if not callable(value):
        call(lambda: difference(metric=value), "metric")
    if not isinstance(value, int):
        call(lambda: difference(n_resamples=value), "n_resamples")
    call(lambda: difference(confidence=value), "confidence")
    call(lambda: difference(random_state=value), "random_state")


@pytest.mark.parametrize(
    "metric",
    [
        metrics.calibration_error,
        metrics.brier_score,
        metrics.brier_decomposition,
        metrics.nll_score,
    ],
    ids=lambda m: m.__name__,
)
@many
@given(value=anything)
def test_metrics_of_probabilities(metric, value):
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=40)
    for good in (p, p[:, 0]):
        call(lambda good=good: metric(value, good), "y_true")
        call(lambda good=good: metric(PROBLEM.y, good, classes=value), "classes", "y_true")
    call(lambda: metric(PROBLEM.y, value), "probabilities", "y_true")


@pytest.mark.parametrize("option", ["n_bins", "strategy", "norm"])
@many
@given(value=anything)
def test_calibration_options(option, value):
    call(lambda: metrics.calibration_error([0, 1], [0.2, 0.7], **{option: value}), option)


@pytest.mark.parametrize("argument", ["X", "y", "init_W", "init_b", "classes", "n_splits"])
@settings(many, max_examples=20)
@given(value=anything)
def test_folds(argument, value):
    given = dict(zip(("X", "y", "init_W", "init_b"), PROBLEM.fit_args, strict=True))
    given[argument] = value
    call(lambda: error_stratified_folds(**given), argument, "init_W", "y", "n_splits")


@many
@given(value=anything)
def test_signs_of_memorised_rows(value):
    call(lambda: fit_rows_look_memorised(value, (3, 10)), "fit_errors")
    call(lambda: fit_rows_look_memorised((3, 10), value), "fresh_errors")


@pytest.mark.parametrize("parameter", AdUESearchCV().get_params())
@settings(many, max_examples=20)
@given(value=anything)
def test_search_parameters(parameter, value):
    options = {"param_grid": {"beta": [0.1, 1.0]}, "cv": 2, "max_iter": 5, parameter: value}
    call(lambda: AdUESearchCV(**options).fit(*PROBLEM.fit_args), parameter)


@settings(many, max_examples=25)
@given(value=anything)
def test_persistence(value, tmp_path):
    fitted = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    call(lambda: save_head(value, tmp_path / "head"), "estimator")
    call(lambda: save_head(fitted, tmp_path / "a", provenance=value), "provenance")
    call(lambda: save_head(fitted, tmp_path / "b", class_names=value), "class_names")
    if not isinstance(value, (str, bytes, int)):
        call(lambda: save_head(fitted, value), "directory")
        call(lambda: load_head(value), "directory")


@pytest.mark.parametrize(
    "argument", ["features", "labels", "ids", "logits", "init_W", "init_b", "classes", "provenance"]
)
@settings(many, max_examples=25)
@given(value=anything)
def test_feature_store(argument, value, tmp_path_factory):
    given = {"features": PROBLEM.X, "init_W": PROBLEM.W, "init_b": PROBLEM.b, argument: value}
    folder = tmp_path_factory.mktemp("store")
    names = {"features": ("features", "init_W", "logits"), "init_W": ("init_W", "features")}
    call(
        lambda: FeatureStore.create(folder / "store", **given),
        *names.get(argument, (argument,)),
        "init_b" if argument == "init_W" else argument,
    )


@pytest.fixture(scope="module")
def classifier(make_saved_case):
    from adue_sklearn.features import load_classifier

    return load_classifier(make_saved_case("roberta", 2).adapter, classes=["no", "yes"])


@settings(many, max_examples=40)
@given(value=anything)
def test_extraction(value, classifier, tmp_path_factory):
    from adue_sklearn.features import compute_features, extract_features, iter_features

    texts = ["w1", "w2 w3"]
    out = tmp_path_factory.mktemp("out") / "store"
    for function in (compute_features, lambda *a, **k: list(iter_features(*a, **k))):
        call(lambda function=function: function(classifier, value), "texts")
        call(
            lambda function=function: function(classifier, texts, batch_tokens=value),
            "batch_tokens",
        )
    call(lambda: extract_features(classifier, value, out), "texts")
    call(lambda: compute_features(value, texts), "classifier")
    call(lambda: compute_features(classifier, texts, progress=value), "progress")
    call(lambda: list(iter_features(classifier, texts, verify=value)), "verify")
    if not isinstance(value, str):  # a name is a folder here
        call(lambda: extract_features(classifier, texts, value), "out")
        call(lambda: FeatureStore.open(value), "path")
        call(lambda: FeatureStore.repair(value), "path")
    for argument in ("labels", "batch_tokens", "shard_rows", "append", "resume", "progress"):
        # All or nothing: what was refused leaves no folder behind.
        call(
            lambda argument=argument: extract_features(
                classifier, texts, out / argument, **{argument: value}
            ),
            argument,
        )
        assert not (out / argument).exists() or FeatureStore.open(out / argument)


@pytest.mark.parametrize(
    "argument", ["model", "base_model", "tokenizer", "device", "dtype", "max_length", "classes"]
)
@settings(many, max_examples=15)
@given(value=anything)
def test_loading(argument, value, make_saved_case):
    from adue_sklearn.features import load_classifier

    given = {"model": make_saved_case("roberta", 2).adapter, argument: value}
    call(lambda: load_classifier(**given), argument, "base", "Adapter")


@pytest.mark.parametrize(
    "parameter",
    ["adapter", "cache", "base_model", "classes", "max_length", "device", "dtype", "batch_tokens"],
)
@settings(many, max_examples=15)
@given(value=anything)
def test_text_transformer(parameter, value, make_saved_case, tmp_path_factory, monkeypatch):
    from adue_sklearn.features import LoraFeatureExtractor

    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))  # a string is a folder for the cache
    adapter = make_saved_case("roberta", 2).adapter
    given = {"adapter": adapter, parameter: value}
    call(lambda: LoraFeatureExtractor(**given).fit_transform(["w1"]), parameter, "base", "Adapter")
    call(lambda: LoraFeatureExtractor(adapter, cache=None).transform(value), "X", "texts")


@settings(many, max_examples=25)
@given(value=anything)
def test_pipelines(value):
    from adue_sklearn import UncertaintyPipeline

    call(lambda: UncertaintyPipeline(value).fit(PROBLEM.X, PROBLEM.y), "steps", "Step", "step")
    pipe = UncertaintyPipeline([("score", SoftmaxResponseScorer())])
    call(lambda: pipe.fit(value, PROBLEM.y), "X", "y")
    call(lambda: pipe.fit(PROBLEM.X, value), "y")
    call(lambda: pipe.fit(PROBLEM.X, PROBLEM.y, score__init_W=value), "init_W")
    call(lambda: pipe.fit(*PROBLEM.fit_args[:2]).predict_uncertainty(value), "X")

"""Whatever is passed, only documented errors come out, and they name the argument."""

from __future__ import annotations

import functools
import inspect
import warnings

import numpy as np
import pytest
from hypothesis import given
from sklearn.base import clone

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    AutoScorer,
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
    comparison,
    metrics,
    model_selection,
    selective,
)
from adue_sklearn.features import FeatureStore, FeatureStoreWriter
from adue_sklearn.persistence import ModelFacts, check_same_model, load_head, save_head
from adue_sklearn.report import _plots, make_report
from adue_sklearn.thresholds import SavedThreshold, load_threshold, save_threshold
from tests import marks
from tests.bad_input_cases import PROBLEM, anything, call
from tests.profiles import share_of_examples

pytestmark = marks.no_views

ESTIMATORS = [
    AdUEEstimator(max_iter=5),
    SoftmaxResponseScorer(),
    MaxLogitPNormScorer(),
    RelUScorer(),
    LastLayerLaplaceScorer(),
    LinearProbeScorer(C=0.1),
    StackedScorer([("energy", EnergyScorer())]),
    MahalanobisScorer(),
    ErrorProbability(),
    DDUScorer(),
    KNNScorer(),
    RDEScorer(n_components=1),
    TrustScoreScorer(alpha=0.1),
    ViMScorer(),
    SelectiveClassifier(),
    HUQScorer(alpha=0.5, delta_min=0.1, delta_max=0.9, cv=2),
    AutoScorer([("energy", EnergyScorer())], cv=2),
]
#: What checks input is written in these; the others inherit or call it.
BASES = (AdUEEstimator, SoftmaxResponseScorer, StackedScorer, MahalanobisScorer, ErrorProbability)


def each_of(estimators):
    return pytest.mark.parametrize("estimator", estimators, ids=lambda e: type(e).__name__)


every_estimator = each_of(ESTIMATORS)
every_base = each_of([estimator for estimator in ESTIMATORS if type(estimator) in BASES])
every_other = each_of([estimator for estimator in ESTIMATORS if type(estimator) not in BASES])


@functools.cache
def fitted_once(estimator):
    """Return it fitted, once: what is asked of it afterwards does not change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows
        return clone(estimator).fit(*PROBLEM.fit_args)


def try_fit(estimator, argument, value):
    given = dict(zip(("X", "y", "init_W", "init_b"), PROBLEM.fit_args, strict=True))
    given[argument] = value
    # A wrong shape of one may show as the other not fitting to it.
    partners = {"X": ("init_W", "y"), "classes": ("y",)}.get(argument, ())
    call(lambda: clone(estimator).fit(**given), argument, *partners)


every_argument_of_fit = pytest.mark.parametrize(
    "argument", ["X", "y", "init_W", "init_b", "classes"]
)


@every_base
@every_argument_of_fit
@given(value=anything)
def test_fit(estimator, argument, value):
    try_fit(estimator, argument, value)


@every_other
@every_argument_of_fit
@share_of_examples(0.3)
@given(value=anything)
def test_fit_of_the_others(estimator, argument, value):
    try_fit(estimator, argument, value)


@every_estimator
@share_of_examples(0.5)
@given(value=anything)
def test_partial_and_headless_fit(estimator, value):
    call(lambda: clone(estimator).fit(value, PROBLEM.y), "X", "y")
    call(lambda: clone(estimator).fit(PROBLEM.X, value), "y")
    if hasattr(estimator, "partial_fit"):
        call(lambda: clone(estimator).partial_fit(value, PROBLEM.y), "X", "y")
        call(lambda: clone(estimator).partial_fit(PROBLEM.X, value), "y", "covariance")
        call(lambda: clone(estimator).partial_fit(PROBLEM.X, PROBLEM.y, classes=value), "classes")


@pytest.mark.parametrize("argument", ["init_W", "init_b", "classes"])
@given(value=anything)
def test_the_head_of_a_partial_fit(argument, value):
    given = dict(zip(("X", "y", "init_W", "init_b"), PROBLEM.fit_args, strict=True))
    for begun in (MahalanobisScorer(), MahalanobisScorer().partial_fit(**given)):
        call(
            lambda begun=begun: begun.partial_fit(**given | {argument: value}),
            argument,
            *PARTNERS.get(argument, ()),
        )


@every_base
@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_uncertainty", "score_samples"]
)
@given(value=anything)
def test_prediction(estimator, method, value):
    call(lambda: getattr(fitted_once(estimator), method)(value), "X")


@every_other
@share_of_examples(0.3)
@given(value=anything)
def test_prediction_by_the_others(estimator, value):
    call(lambda: fitted_once(estimator).predict_uncertainty(value), "X")
    call(lambda: fitted_once(estimator).predict_proba(value), "X")


@every_estimator
@share_of_examples(0.5)
@given(value=anything)
def test_scoring(estimator, value):
    for method in (fitted_once(estimator).score, fitted_once(estimator).errors):
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
            AutoScorer,
        )
        for parameter in cls().get_params()
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
@share_of_examples(0.4)
@given(value=anything)
def test_parameters(cls, parameter, value):
    options = {"max_iter": 5} if cls is AdUEEstimator else {}
    call(lambda: cls(**options | {parameter: value}).fit(*PROBLEM.fit_args), parameter)


SCORES = {"errors": PROBLEM.errors, "uncertainty": np.arange(40.0)}
PROBABILITIES = {"y_true": PROBLEM.y, "probabilities": np.full((40, 3), 1 / 3)}
HEAD = dict(zip(("X", "y", "init_W", "init_b"), PROBLEM.fit_args, strict=True))
RESAMPLING = {"metric": metrics.aurc_score, "n_resamples": 5}
COMPARED = HEAD | {"scorers": [EnergyScorer()], "n_resamples": 3, "cv": 2}
#: Arguments that every public function takes; what it has besides is added by its signature.
FUNCTIONS = {
    metrics.prediction_errors: {"predicted": PROBLEM.y, "y": PROBLEM.y},
    metrics.error_roc_auc_score: SCORES,
    metrics.error_average_precision_score: SCORES,
    metrics.fpr_at_tpr_score: SCORES,
    metrics.aurc_score: SCORES,
    metrics.eaurc_score: SCORES,
    metrics.augrc_score: SCORES,
    metrics.prr_score: SCORES,
    metrics.risk_at_coverage_score: SCORES,
    metrics.coverage_at_risk_score: SCORES,
    metrics.risk_coverage_curve: SCORES,
    metrics.error_roc_auc_interval: SCORES,
    metrics.error_roc_auc_difference: SCORES | {"reference": np.arange(40)[::-1]},
    metrics.error_roc_auc_p_value: SCORES | {"reference": np.arange(40)[::-1]},
    metrics.bootstrap_replicates: SCORES | RESAMPLING,
    metrics.bootstrap_interval: SCORES | RESAMPLING,
    metrics.bootstrap_difference: SCORES | RESAMPLING | {"reference": np.arange(40)[::-1]},
    metrics.brier_score: PROBABILITIES,
    metrics.brier_decomposition: PROBABILITIES,
    metrics.nll_score: PROBABILITIES,
    metrics.calibration_error: PROBABILITIES,
    model_selection.error_stratified_folds: HEAD,
    model_selection.fit_rows_look_memorised: {"fit_errors": (3, 10), "fresh_errors": (3, 10)},
    model_selection.count_shared_rows: {"X": PROBLEM.X, "other": PROBLEM.X[:3]},
    selective.selective_threshold: SCORES,
    comparison.compare_scorers: COMPARED,
    comparison.default_scorers: {},
    selective.clopper_pearson: {"n_errors": 3, "n_rows": 40},
}
#: Whose name an error may give instead: a wrong shape of one shows as the other not fitting to it.
PARTNERS = {
    "X": {"init_W", "y", "n_splits"},
    "init_W": {"init_b", "X", "n_splits", "X_train"},
    "init_b": {"n_splits"},
    "classes": {"y", "n_splits", "y_true", "probabilities"},
    "y": {"predicted", "n_splits"},
    "predicted": {"y"},
    "other": {"X"},
    "debias": {"norm"},
    "y_true": {"probabilities"},
    "probabilities": {"y_true", "classes"},
    "n_rows": {"n_errors"},
    "X_train": {"y_train"},
    "y_train": {"X_train"},
    "X_test": {"y_test"},
    "y_test": {"X_test"},
}


def public_functions(*modules):
    members = [getattr(module, name) for module in modules for name in module.__all__]
    return {member for member in members if inspect.isroutine(member)}


def test_every_public_function_is_tried():
    assert set(FUNCTIONS) == public_functions(comparison, metrics, model_selection, selective)


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (function, argument)
        for function in FUNCTIONS
        for argument in inspect.signature(function).parameters
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
@share_of_examples(0.5)
@given(value=anything)
def test_functions(function, argument, value):
    if argument == "metric" and callable(value):  # its own errors are the caller's
        return
    if argument == "scorers" and value is None:  # all of them, which takes long
        return
    given = FUNCTIONS[function] | {argument: value}
    partners = PARTNERS.get(argument, set()) & set(inspect.signature(function).parameters)
    call(lambda: function(**given), argument, *partners)


@pytest.mark.parametrize("argument", ["X_train", "y_train", "X_test", "y_test"])
@given(value=anything)
def test_other_rows_of_a_comparison(argument, value):
    kind = argument[2:]
    given = {f"X_{kind}": PROBLEM.X, f"y_{kind}": PROBLEM.y, argument: value}
    call(lambda: comparison.compare_scorers(**COMPARED, **given), *given)


@pytest.mark.parametrize("parameter", AdUESearchCV().get_params())
@share_of_examples(0.5)
@given(value=anything)
def test_search_parameters(parameter, value):
    options = {"param_grid": {"beta": [0.1, 1.0]}, "cv": 2, "max_iter": 5, parameter: value}
    call(lambda: AdUESearchCV(**options).fit(*PROBLEM.fit_args), parameter)


@given(value=anything)
def test_persistence(value, tmp_path):
    fitted = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    call(lambda: save_head(value, tmp_path / "head"), "estimator")
    call(lambda: save_head(fitted, tmp_path / "a", provenance=value), "provenance")
    call(lambda: save_head(fitted, tmp_path / "b", class_names=value), "class_names")
    if not isinstance(value, (str, bytes, int)):
        call(lambda: save_head(fitted, value), "directory")
        call(lambda: load_head(value), "directory")


@given(value=anything)
def test_the_same_model(value):
    facts = ModelFacts.of({}, PROBLEM.W, PROBLEM.b)
    call(lambda: check_same_model(value, facts), "known")
    call(lambda: check_same_model(facts, value), "new")


@given(value=anything)
def test_the_file_of_a_threshold(value):
    fitted = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    threshold = SavedThreshold.of(fitted, PROBLEM.X, PROBLEM.y)
    if not isinstance(value, str):  # a name is a file here
        call(lambda: save_threshold(threshold, value), "file")
    call(lambda: load_threshold(value), "file")


@given(value=anything)
def test_scorers_of_searches(value):
    call(lambda: metrics.ErrorScorer(value), "metric")
    fitted = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    call(lambda: metrics.aurc_scorer(value, PROBLEM.X, PROBLEM.y), "estimator")
    call(lambda: metrics.aurc_scorer(fitted, value, PROBLEM.y), "X", "y")
    call(lambda: metrics.aurc_scorer(fitted, PROBLEM.X, value), "y")


@pytest.mark.parametrize("argument", inspect.signature(make_report).parameters)
@share_of_examples(0.3)
@given(value=anything)
def test_a_report(argument, value, store, monkeypatch):
    monkeypatch.setattr(_plots, "_svg", lambda *_: "")  # drawing takes long and reads no argument
    if argument == "scorers" and value is None:  # all of them, which takes long
        return
    given = {"store": store, "scorers": [EnergyScorer()], argument: value}
    call(lambda: make_report(**given), argument)


@pytest.mark.parametrize(
    "argument", ["features", "labels", "ids", "logits", "init_W", "init_b", "classes", "provenance"]
)
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
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "store"
    return FeatureStore.create(
        path, features=PROBLEM.X, labels=PROBLEM.y, init_W=PROBLEM.W, init_b=PROBLEM.b
    )


@given(value=anything)
def test_opening_a_store(value, store):
    call(lambda: FeatureStore.open(store.path, skip_damaged=value), "skip_damaged")


@pytest.mark.parametrize("argument", ["features", "labels", "ids", "logits", "shard_rows"])
@given(value=anything)
def test_appending_to_a_store(argument, value, store):
    given = {"features": PROBLEM.X, "labels": PROBLEM.y, argument: value}
    partners = ("labels", "logits") if argument == "features" else ()
    before = len(store)
    call(lambda: store.append(**given), argument, *partners)
    FeatureStore.open(store.path).verify()  # what was refused left nothing behind
    assert len(FeatureStore.open(store.path)) == len(store) >= before


@pytest.mark.parametrize(
    "argument",
    [
        "path",
        "init_W",
        "init_b",
        "activation",
        "classes",
        "labelled",
        "provenance",
        "extraction",
        "append",
        "resume",
    ],
)
@given(value=anything)
def test_writing_a_store(argument, value, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("writer")
    monkeypatch.chdir(folder)
    given = {
        "path": folder / "store",
        "init_W": PROBLEM.W,
        "init_b": PROBLEM.b,
        "labelled": False,
        argument: value,
    }

    def write():
        with FeatureStoreWriter(**given) as writer:
            writer.write_shard(PROBLEM.X, PROBLEM.X @ PROBLEM.W.T, None, np.arange(40))

    partners = {
        "init_W": ("init_b", "features"),
        "append": ("path", "finished"),
        "labelled": ("labels",),
    }
    call(write, argument, *partners.get(argument, ()))


@pytest.mark.parametrize("argument", ["features", "logits", "labels", "ids", "truncated"])
@given(value=anything)
def test_writing_a_shard(argument, value, tmp_path_factory):
    given = {
        "features": PROBLEM.X,
        "logits": PROBLEM.X @ PROBLEM.W.T,
        "labels": PROBLEM.y,
        "ids": np.arange(40),
        argument: value,
    }
    path = tmp_path_factory.mktemp("shard") / "store"
    partners = ("logits", "labels", "ids") if argument == "features" else ()

    def write():
        with FeatureStoreWriter(path, init_W=PROBLEM.W, labelled=True) as writer:
            writer.write_shard(**given)

    call(write, argument, *partners)


@pytest.fixture(scope="module")
def classifier(make_saved_case):
    from adue_sklearn.features import load_classifier

    return load_classifier(make_saved_case("roberta", 2).adapter, classes=["no", "yes"])


@share_of_examples(0.5)
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
    if not callable(value):  # its own errors are the caller's
        call(lambda: compute_features(classifier, texts, progress=value), "progress")
    call(lambda: list(iter_features(classifier, texts, verify=value)), "verify")
    if not isinstance(value, str):  # a name is a folder here
        call(lambda: extract_features(classifier, texts, value), "out")
        call(lambda: FeatureStore.open(value), "path")
    for argument in (
        *("labels", "batch_tokens", "shard_rows"),
        *("append", "resume", "skip_empty", "progress"),
    ):
        if argument == "progress" and callable(value):
            continue
        # All or nothing: what was refused leaves no folder behind.
        call(
            lambda argument=argument: extract_features(
                classifier, texts, out / argument, **{argument: value}
            ),
            argument,
        )
        assert not (out / argument).exists() or FeatureStore.open(out / argument)


@pytest.mark.parametrize(
    "argument",
    [
        "model",
        "base_model",
        "tokenizer",
        "adapter_name",
        "device",
        "dtype",
        "max_length",
        "classes",
        "features",
    ],
)
@share_of_examples(0.3)
@given(value=anything)
def test_loading(argument, value, make_saved_case):
    from adue_sklearn.features import load_classifier

    given = {"model": make_saved_case("roberta", 2).adapter, argument: value}
    call(lambda: load_classifier(**given), argument)


@pytest.mark.parametrize(
    "parameter",
    [
        "adapter",
        "cache",
        "base_model",
        "classes",
        "max_length",
        "device",
        "dtype",
        "batch_tokens",
        "features",
    ],
)
@share_of_examples(0.3)
@given(value=anything)
def test_text_transformer(parameter, value, make_saved_case, tmp_path_factory, monkeypatch):
    from adue_sklearn.features import LoraFeatureExtractor

    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))  # a string is a folder for the cache
    adapter = make_saved_case("roberta", 2).adapter
    given = {"adapter": adapter, parameter: value}
    call(lambda: LoraFeatureExtractor(**given).fit_transform(["w1"]), parameter)
    call(lambda: LoraFeatureExtractor(adapter, cache=None).transform(value), "X", "texts")


@given(value=anything)
def test_pipelines(value):
    from adue_sklearn import UncertaintyPipeline

    call(lambda: UncertaintyPipeline(value).fit(PROBLEM.X, PROBLEM.y), "steps", "Step", "step")
    pipe = UncertaintyPipeline([("score", SoftmaxResponseScorer())])
    call(lambda: pipe.fit(value, PROBLEM.y), "X", "y")
    call(lambda: pipe.fit(PROBLEM.X, value), "y")
    call(lambda: pipe.fit(PROBLEM.X, PROBLEM.y, score__init_W=value), "init_W")
    call(lambda: pipe.fit(*PROBLEM.fit_args[:2]).predict_uncertainty(value), "X")

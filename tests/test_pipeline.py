"""Texts in, uncertainties out: the transformer, the pipeline, and searches over them."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from adue_sklearn import AdUEEstimator, AdUESearchCV, SoftmaxResponseScorer, UncertaintyPipeline
from adue_sklearn.features import (
    LoraFeatureExtractor,
    compute_features,
    load_classifier,
    transformer,
)
from adue_sklearn.metrics import aurc_scorer
from tests import marks
from tests.lora_cases import make_texts

CLASSES = ["bad", "good"]
#: Where a descent ends exactly is not asked here.
QUICK = AdUEEstimator(tol=0.01)


@pytest.fixture(scope="module")
def labelled(make_saved_case):
    """Hold a LoRA classifier, 90 texts, and labels that it gets wrong one time in four."""
    case = make_saved_case("roberta", 2)
    texts = make_texts(90, longest=12, seed=2)
    predicted = case.logits_one_by_one(texts).argmax(axis=1)
    wrong = np.random.default_rng(0).random(90) < 0.25
    return case, texts, np.array(CLASSES)[np.where(wrong, 1 - predicted, predicted)]


@pytest.fixture(autouse=True)
def empty_memory_cache():
    LoraFeatureExtractor.clear_cache()


@pytest.fixture
def counted(monkeypatch):
    """Count how often each text goes through the model."""
    counts = {}
    original = transformer.collect_features

    def counting(classifier, texts, *options):
        for text in texts:
            counts[text] = counts.get(text, 0) + 1
        return original(classifier, texts, *options)

    monkeypatch.setattr(transformer, "collect_features", counting)
    return counts


def extractor(case, **options):
    return LoraFeatureExtractor(case.adapter, **{"classes": CLASSES, **options})


def pipeline(case, **options):
    return UncertaintyPipeline([("features", extractor(case, **options)), ("adue", clone(QUICK))])


def test_features_times_head_are_the_models_logits(labelled):
    case, texts, _ = labelled
    features = extractor(case)
    logits = features.head().logits(features.transform(texts))
    np.testing.assert_allclose(logits, case.logits_one_by_one(texts), atol=1e-4)


def test_the_head_is_there_without_data_and_the_repr_loads_nothing(labelled, monkeypatch):
    case, _, _ = labelled
    features = extractor(case)
    monkeypatch.setattr(transformer, "_load", lambda *_: pytest.fail("loaded"))
    assert "LoraFeatureExtractor" in repr(features)
    assert "LoraFeatureExtractor" in features._repr_html_()
    assert "LoraFeatureExtractor" in pipeline(case)._repr_html_()
    assert "transform" in dir(features)
    assert not hasattr(features, "coef_")
    monkeypatch.undo()
    assert features.head().shapes == [(2, 16)]
    np.testing.assert_array_equal(features.head().classes, CLASSES)


@pytest.mark.parametrize(
    "as_type", [list, tuple, np.array, pd.Series, lambda t: np.array(t, object)]
)
def test_texts_come_as_list_array_or_series(labelled, as_type):
    case, texts, _ = labelled
    features = extractor(case)
    np.testing.assert_array_equal(features.transform(as_type(texts)), features.transform(texts))


def test_output_has_names_and_can_be_a_data_frame(labelled):
    case, texts, _ = labelled
    frame = extractor(case).set_output(transform="pandas").fit_transform(texts)
    assert list(frame.columns) == [f"h{i}" for i in range(16)]


def test_pipeline_hands_head_and_names_on_and_predicts_uncertainty(labelled):
    case, texts, labels = labelled
    pipe = pipeline(case).fit(texts, labels)
    features = extractor(case)
    X = features.transform(texts)
    alone = clone(QUICK).fit(X, labels, features.head())
    np.testing.assert_array_equal(pipe.predict(texts), alone.predict(X))
    np.testing.assert_allclose(pipe.predict_uncertainty(texts), alone.predict_uncertainty(X))
    np.testing.assert_array_equal(pipe.score_samples(texts), -pipe.predict_uncertainty(texts))
    assert pipe.score(texts, labels) == pytest.approx(alone.score(X, labels))
    assert aurc_scorer(pipe, texts, labels) == pytest.approx(aurc_scorer(alone, X, labels))
    np.testing.assert_array_equal(pipe.classes_, CLASSES)


def whole_head_pipeline(case, last):
    return UncertaintyPipeline([("features", extractor(case, features="head")), ("adue", last)])


def test_pipeline_hands_on_every_layer_of_a_whole_head(labelled):
    case, texts, labels = labelled
    pipe = whole_head_pipeline(case, clone(QUICK).set_params(activation="tanh")).fit(texts, labels)
    assert [W.shape for W in pipe[-1].init_coefs_] == [(16, 16), (2, 16)]
    predicted = np.array(CLASSES)[case.logits_one_by_one(texts).argmax(axis=1)]
    np.testing.assert_array_equal(pipe.predict(texts), predicted)
    assert np.isfinite(pipe.predict_uncertainty(texts)).all()


def test_an_activation_that_is_not_the_heads_is_refused(labelled):
    case, texts, labels = labelled
    wrong = AdUEEstimator(activation="gelu")
    with pytest.raises(ValueError, match=r"activation='gelu', but the head .* activation='tanh'"):
        whole_head_pipeline(case, wrong).fit(texts, labels)


@marks.few_rows
@marks.odd_rows
def test_a_search_over_a_whole_head_can_be_the_last_step(labelled):
    case, texts, labels = labelled
    search = GridSearchCV(AdUEEstimator(activation="tanh", tol=0.01), {"beta": [0.1, 1.0]}, cv=2)
    pipe = whole_head_pipeline(case, search).fit(texts[:50], labels[:50])
    assert np.isfinite(pipe.predict_uncertainty(texts)).all()


def test_labels_may_be_row_numbers(labelled):
    case, texts, labels = labelled
    by_name = pipeline(case).fit(texts, labels)
    by_number = pipeline(case).fit(texts, (labels == "good").astype(int))
    np.testing.assert_array_equal(
        by_name.predict_uncertainty(texts), by_number.predict_uncertainty(texts)
    )
    assert set(by_number.predict(texts)) <= {0, 1}


@marks.few_rows
def test_metadata_routing_changes_nothing(labelled):
    case, texts, labels = labelled
    expected = pipeline(case).fit(texts, labels).predict_uncertainty(texts)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = pipeline(case).fit(texts, labels)
        search = GridSearchCV(pipeline(case), {"adue__alpha": [0.1, 1.0]}, cv=2)
        search.fit(texts, labels)
    np.testing.assert_array_equal(pipe.predict_uncertainty(texts), expected)
    assert np.isfinite(search.best_score_)


@marks.few_rows
def test_a_whole_search_runs_each_text_through_the_model_once(labelled, counted):
    case, texts, labels = labelled
    texts = [*texts, texts[0]]
    labels = [*labels, labels[0]]
    search = GridSearchCV(pipeline(case), {"adue__alpha": [0.1, 1.0], "adue__beta": [0.1]}, cv=2)
    search.fit(texts, labels)
    search.best_estimator_.predict_uncertainty(texts)
    assert set(counted) == set(texts)
    assert set(counted.values()) == {1}


@marks.few_rows
def test_processes_share_a_folder_and_find_the_same(labelled, tmp_path):
    case, texts, labels = labelled
    grid = {"adue__beta": [0.01, 0.1]}
    alone = GridSearchCV(pipeline(case), grid, cv=2).fit(texts, labels)
    cache = tmp_path / "cache"
    shared = GridSearchCV(pipeline(case, cache=cache), grid, cv=2, n_jobs=2).fit(texts, labels)
    assert list(cache.rglob("*.safetensors"))
    np.testing.assert_allclose(
        shared.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=1e-3
    )


@pytest.mark.deep
def test_processes_that_meet_a_text_at_once_run_it_once(labelled, tmp_path):
    case, texts, _ = labelled
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = """
        import json, sys
        from adue_sklearn.features import LoraFeatureExtractor, transformer

        folder, adapter = sys.argv[1:]
        original = transformer.collect_features

        def counting(classifier, texts, *options):
            with open(folder + "/run.log", "a") as log:
                log.writelines(text + "\\n" for text in texts)
            return original(classifier, texts, *options)

        transformer.collect_features = counting
        texts = json.load(open(folder + "/texts.json"))
        features = LoraFeatureExtractor(adapter, cache=folder + "/cache")
        for start in (0, 30, 60):
            features.transform(texts[start : start + 30])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(case.adapter)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    run = (tmp_path / "run.log").read_text().splitlines()
    assert sorted(run) == sorted(set(texts))


@marks.cut_texts
def test_a_folder_cache_outlives_the_process_and_knows_its_model(labelled, counted, tmp_path):
    case, texts, _ = labelled
    first = extractor(case, cache=tmp_path).transform(texts)
    LoraFeatureExtractor.clear_cache()
    np.testing.assert_array_equal(extractor(case, cache=tmp_path).transform(texts), first)
    assert set(counted.values()) == {1}
    extractor(case, cache=tmp_path, max_length=6).transform(texts)
    assert set(counted.values()) == {2}
    assert not list(tmp_path.rglob("*.tmp"))


def cut_message(n_cut, n_texts):
    return rf"texts: {n_cut} of {n_texts} \(.*\) were cut at 6 tokens"


@pytest.mark.parametrize("kind", ["memory", "folder", None])
def test_cut_texts_are_counted_whether_they_are_run_or_cached(labelled, counted, tmp_path, kind):
    case, _, _ = labelled
    cache = tmp_path / "cache" if kind == "folder" else kind
    features = extractor(case, cache=cache, max_length=6)
    short, cut, longer = "w1 w2", "w1 " * 9, "w2 " * 20
    for texts, n_cut in (([short, cut], 1), ([cut, short], 1), ([cut, cut, longer, short], 3)):
        with pytest.warns(UserWarning, match=cut_message(n_cut, len(texts))) as caught:
            features.transform(texts)
        assert [Path(each.filename).name for each in caught] == [Path(__file__).name]
    if kind is not None:
        assert set(counted.values()) == {1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features.transform([short])


@marks.odd_rows
def test_a_pipeline_that_cuts_texts_points_at_its_caller(labelled):
    case, texts, labels = labelled
    steps = [("features", extractor(case, max_length=6)), ("score", SoftmaxResponseScorer())]
    pipe = UncertaintyPipeline(steps)
    for run in (lambda: pipe.fit(texts, labels), lambda: pipe.predict(texts)):
        with pytest.warns(UserWarning, match="were cut at 6 tokens") as caught:
            run()
        assert {each.filename for each in caught} == {__file__}


@marks.few_rows
@marks.odd_rows
def test_another_process_that_reads_a_folder_hears_of_cut_texts(labelled, counted, tmp_path):
    case, texts, labels = labelled
    texts = ["w1 " * 9, *texts[:39]]
    n_cut = sum(len(text.split()) > 4 for text in texts)
    options = {"cache": tmp_path, "max_length": 6}
    with pytest.warns(UserWarning, match=cut_message(n_cut, 40)):
        extractor(case, **options).transform(texts)
    LoraFeatureExtractor.clear_cache()  # as a new process starts
    with pytest.warns(UserWarning, match=cut_message(n_cut, 40)):
        pipeline(case, **options).fit(texts, labels[:40])
    assert set(counted.values()) == {1}


def test_a_folder_of_the_older_layout_is_run_again_and_kept(labelled, counted, tmp_path):
    case, texts, _ = labelled
    expected = extractor(case, cache=tmp_path).transform(texts)
    (file,) = tmp_path.rglob("*.safetensors")
    part = load_file(file)
    save_file({name: part[name] for name in ("keys", "features")}, file)
    for _ in range(2):
        np.testing.assert_array_equal(extractor(case, cache=tmp_path).transform(texts), expected)
        assert set(counted.values()) == {2}


def test_a_damaged_file_of_a_cache_is_named_and_its_texts_are_run_again(labelled, tmp_path):
    case, texts, _ = labelled
    expected = extractor(case, cache=tmp_path).transform(texts[:3])
    (file,) = tmp_path.rglob("*.safetensors")
    part = load_file(file)
    save_file(part | {"features": part["features"][:, :-1][:2].copy()}, file)
    for content in (file.read_bytes(), file.read_bytes()[:-9]):
        for more in tmp_path.rglob("*.safetensors"):
            more.unlink()
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=rf"{file.name}' cannot be read .*run .* again"):
            again = extractor(case, cache=tmp_path).transform(texts[:3])
        np.testing.assert_array_equal(again, expected)


@marks.cut_texts
def test_the_memory_cache_can_be_emptied(labelled, counted):
    case, texts, _ = labelled
    first, other = extractor(case), extractor(case, max_length=6)
    for times in (1, 2):
        for features in (first, other, clone(first)):
            features.transform(texts[:5])
        assert set(counted.values()) == {2 * times}
        assert LoraFeatureExtractor.clear_cache() is None
    first.clear_cache()
    np.testing.assert_array_equal(first.transform(texts[:5]), clone(first).transform(texts[:5]))


def test_skops_brings_a_pipeline_back_with_our_classes_alone(labelled, tmp_path):
    case, texts, labels = labelled
    for cache in ("memory", str(tmp_path / "cache")):
        search = AdUESearchCV({"beta": [0.1]}, cv=2)
        features = LoraFeatureExtractor(str(case.adapter), classes=CLASSES, cache=cache)
        pipe = UncertaintyPipeline([("features", features), ("adue", search)]).fit(texts, labels)
        data = skops.io.dumps(pipe)
        untrusted = skops.io.get_untrusted_types(data=data)
        assert {name.partition(".")[0] for name in untrusted} == {"adue_sklearn"}
        loaded = skops.io.loads(data, trusted=untrusted)
        np.testing.assert_array_equal(
            loaded.predict_uncertainty(texts), pipe.predict_uncertainty(texts)
        )


def test_skops_asks_for_trust_in_paths_that_the_caller_gave(labelled):
    case, _, _ = labelled
    data = skops.io.dumps(extractor(case))
    untrusted = skops.io.get_untrusted_types(data=data)
    assert [name for name in untrusted if not name.startswith("adue_sklearn.")] == [
        f"pathlib.{type(case.adapter).__name__}"
    ]
    assert skops.io.loads(data, trusted=untrusted).adapter == case.adapter


def test_without_a_cache_every_call_runs_the_model(labelled, counted):
    case, texts, _ = labelled
    for _ in range(2):
        extractor(case, cache=None).transform(texts)
    assert set(counted.values()) == {2}


def test_clones_and_pickles_do_not_carry_the_model(labelled):
    case, texts, labels = labelled
    pipe = pipeline(case).fit(texts, labels)
    data = pickle.dumps(pipe)
    assert len(data) < 20_000
    np.testing.assert_array_equal(
        pickle.loads(data).predict_uncertainty(texts), pipe.predict_uncertainty(texts)
    )
    assert clone(pipe).get_params()["features__classes"] == CLASSES


@marks.few_rows
def test_a_search_can_be_the_last_step(labelled):
    case, texts, labels = labelled
    search = GridSearchCV(QUICK, {"beta": [0.1, 1.0]}, cv=2)
    pipe = UncertaintyPipeline([("features", extractor(case)), ("search", search)])
    uncertainty = pipe.fit(texts, labels).predict_uncertainty(texts)
    np.testing.assert_array_equal(
        uncertainty, pipe[-1].best_estimator_.predict_uncertainty(pipe[0].transform(texts))
    )


def test_a_step_that_changes_the_features_is_refused_when_a_head_is_given(labelled, problem):
    case, texts, labels = labelled
    steps = [("features", extractor(case)), ("scale", StandardScaler()), ("adue", clone(QUICK))]
    with pytest.raises(ValueError, match=r"Step 'scale' \(StandardScaler\) changes the features"):
        UncertaintyPipeline(steps).fit(texts, labels)
    for harmless in ("passthrough", None, FunctionTransformer()):
        steps[1] = ("scale", harmless)
        UncertaintyPipeline(steps).fit(texts, labels).predict_uncertainty(texts)

    arrays = UncertaintyPipeline([("scale", StandardScaler()), ("adue", clone(QUICK))])
    with pytest.raises(ValueError, match="changes the features"):
        arrays.fit(problem.X, problem.y, adue__init_W=problem.W)
    assert np.isfinite(arrays.fit(problem.X, problem.y).predict_uncertainty(problem.X)).all()


def test_a_step_before_the_extractor_may_change_the_texts(labelled):
    case, texts, labels = labelled
    strip = FunctionTransformer(lambda texts: [text.strip() for text in texts])
    steps = [("strip", strip), ("features", extractor(case)), ("adue", clone(QUICK))]
    padded = UncertaintyPipeline(steps).fit([f"  {text} " for text in texts], labels)
    plain = pipeline(case).fit(texts, labels)
    np.testing.assert_array_equal(
        padded.predict_uncertainty(texts), plain.predict_uncertainty(texts)
    )


def test_a_model_written_anew_is_another_model(labelled, tmp_path):
    case, texts, _ = labelled
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapter, adapter)
    options = {"cache": tmp_path / "cache", "classes": CLASSES}
    before = LoraFeatureExtractor(adapter, **options).transform(texts)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k: 2 * v for k, v in weights.items()}, adapter / "adapter_model.safetensors")
    fresh = LoraFeatureExtractor(adapter, **options)
    after = fresh.transform(texts)
    assert np.abs(after - before).max() > 0.01
    alone = load_classifier(adapter)
    np.testing.assert_allclose(after, compute_features(alone, texts)[0], atol=1e-5)
    np.testing.assert_array_equal(fresh.head().init_W, alone.head.init_W)


def test_an_extractor_inside_another_step_is_refused(labelled):
    case, texts, labels = labelled
    hidden = Pipeline([("features", extractor(case))])
    with pytest.raises(ValueError, match=r"Step 'inner' \(Pipeline\) contains a step that knows"):
        UncertaintyPipeline([("inner", hidden), ("adue", clone(QUICK))]).fit(texts, labels)


def test_half_a_head_is_refused_and_object_numbers_are_row_numbers(labelled):
    case, texts, labels = labelled
    with pytest.raises(ValueError, match="adue__init_b was given without adue__init_W"):
        pipeline(case).fit(texts, labels, adue__init_b=np.zeros(2))
    numbers = (labels == "good").astype(int)
    by_number = pipeline(case).fit(texts, numbers).predict_uncertainty(texts)
    as_objects = pipeline(case).fit(texts, numbers.astype(object)).predict_uncertainty(texts)
    np.testing.assert_array_equal(as_objects, by_number)


@marks.odd_rows
def test_a_head_given_by_the_caller_comes_first(labelled):
    case, texts, labels = labelled
    features = extractor(case)
    pipe = pipeline(case)
    pipe.fit(texts, labels, adue__init_W=-features.head().init_W, adue__classes=CLASSES)
    np.testing.assert_allclose(pipe[-1].init_coef_, -features.head().init_W)


def test_scikit_learns_own_pipeline_reaches_the_score_through_score_samples(problem):
    pipe = Pipeline([("pass", "passthrough"), ("score", SoftmaxResponseScorer())])
    pipe.fit(problem.X, problem.y, score__init_W=problem.W, score__init_b=problem.b)
    alone = SoftmaxResponseScorer().fit(*problem.fit_args)
    np.testing.assert_array_equal(
        -pipe.score_samples(problem.X), alone.predict_uncertainty(problem.X)
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "texts"),
        ([], "texts"),
        ([1, 2], "texts"),
        (np.array([["a"], ["b"]]), r"X has shape \(2, 1\); expected one text per row"),
        (pd.DataFrame({"text": ["a"]}), "single column"),
        (7, "texts"),
    ],
    ids=["str", "empty", "numbers", "2D", "frame", "number"],
)
def test_what_is_no_list_of_texts_is_named(labelled, texts, message):
    case, _, _ = labelled
    for method in ("fit", "transform"):
        with pytest.raises(ValueError, match=message):
            getattr(extractor(case), method)(texts)


def test_names_without_known_classes_and_unknown_dtypes_are_named(labelled):
    case, texts, labels = labelled
    with pytest.raises(ValueError, match="does not know the names of its classes"):
        pipeline(case, classes=None).fit(texts, labels)
    with pytest.raises(ValueError, match="dtype is 'float33'"):
        extractor(case, dtype="float33").transform(texts)


def test_predict_uncertainty_is_absent_where_the_last_step_has_no_score():
    pipe = UncertaintyPipeline([("count", CountVectorizer()), ("scale", StandardScaler())])
    assert not hasattr(pipe, "predict_uncertainty")


def test_fitting_a_pipeline_warns_of_nothing(labelled):
    case, texts, labels = labelled
    LoraFeatureExtractor.clear_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        pipeline(case).fit(texts, labels).predict_uncertainty(texts)

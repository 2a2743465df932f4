"""Saved heads come back whole, hold no pickle, and refuse another model's features."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.callback import ProgressBar

from adue_sklearn import (
    AdUEEstimator,
    ConfidNetScorer,
    DDUScorer,
    DoctorScorer,
    EnergyScorer,
    EntropyScorer,
    GENScorer,
    HUQScorer,
    KNNScorer,
    LastLayerLaplaceScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MarginScorer,
    MaxLogitPNormScorer,
    MaxLogitScorer,
    RDEScorer,
    RelUScorer,
    SoftmaxResponseScorer,
    TrustScoreScorer,
    ViMScorer,
    persistence,
    scorers,
)
from adue_sklearn._utils.head import Head
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.persistence import ModelFacts, check_same_model, load_head, save_head
from tests import marks

PROVENANCE = {
    "model": "adapters/a",
    "base_model": "base",
    "adapter_sha256": "aaaa",
    "view": "last_linear",
    "max_length": 64,
    "precision": "float32",
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def adue(problem):
    return AdUEEstimator(alpha=0.1).fit(*problem.fit_args)


@pytest.fixture
def saved(adue, tmp_path):
    return save_head(adue, tmp_path / "head", provenance=PROVENANCE, class_names=["a", "b", "c"])


#: Every score that does not hold another one.
SINGLE = [
    AdUEEstimator(scale="paper"),
    ConfidNetScorer((8, 4), max_iter=3, random_state=0),
    DDUScorer(normalize=True),
    DoctorScorer("beta"),
    EnergyScorer(2.0),
    EntropyScorer(),
    GENScorer(0.2),
    KNNScorer(k=5),
    LastLayerLaplaceScorer(predictive="monte_carlo", n_samples=5, random_state=0),
    LastLayerLaplaceScorer(),
    LinearProbeScorer(C=0.1),
    MahalanobisScorer("relative"),
    MarginScorer(),
    MaxLogitPNormScorer((1, 2, float("inf"))),
    MaxLogitScorer(),
    RDEScorer(n_components=4),
    RelUScorer(0.7),
    SoftmaxResponseScorer(),
    TrustScoreScorer(),
    ViMScorer(),
]


def test_every_score_can_be_saved_but_those_that_hold_others():
    names = {type(estimator).__name__ for estimator in SINGLE}
    assert {*scorers.__all__, "AdUEEstimator"} - names == {"HUQScorer", "StackedScorer"}


@pytest.mark.parametrize("estimator", SINGLE, ids=str)
@pytest.mark.parametrize("names", [None, ["x", "y", "z"]])
@pytest.mark.filterwarnings("ignore:RDEScorer")  # classes that share a covariance
def test_a_loaded_estimator_scores_to_the_bit_as_the_saved_one(estimator, names, problem, tmp_path):
    y = problem.y if names is None else np.array(names)[problem.y]
    estimator.fit(problem.X, y, problem.W, problem.b, classes=names)
    loaded = load_head(save_head(estimator, tmp_path / "head")).estimator
    assert repr(loaded) == repr(estimator)
    for method in ("predict", "predict_proba", "predict_uncertainty"):
        np.testing.assert_array_equal(
            getattr(loaded, method)(problem.X), getattr(estimator, method)(problem.X)
        )
    assert loaded.score(problem.X, y) == estimator.score(problem.X, y)


def whole_head(problem):
    """Return weights and biases of two layers, the first without bias, for these features."""
    rng = np.random.default_rng(0)
    n_classes, n_features = problem.W.shape
    return [rng.normal(size=(7, n_features)), rng.normal(size=(n_classes, 7))], [
        None,
        rng.normal(size=n_classes),
    ]


@pytest.mark.parametrize(
    "estimator",
    [
        AdUEEstimator(activation="gelu", lam=10, beta=1.0),
        MahalanobisScorer(activation="gelu"),
        SoftmaxResponseScorer(activation="gelu"),
    ],
    ids=str,
)
@marks.odd_rows
def test_a_whole_head_comes_back_to_the_bit(estimator, problem, tmp_path):
    weights, biases = whole_head(problem)
    estimator.fit(problem.X, problem.y, weights, biases)
    fitted = load_head(save_head(estimator, tmp_path / "head"))
    assert fitted.view == "head"
    for method in ("predict", "predict_proba", "predict_uncertainty"):
        np.testing.assert_array_equal(
            getattr(fitted.estimator, method)(problem.X), getattr(estimator, method)(problem.X)
        )
    for saved, given in zip(fitted.facts.head.weights, weights, strict=True):
        np.testing.assert_array_equal(saved, given)
    check_same_model(fitted.facts, ModelFacts.of({}, Head.of(weights, biases, activation="gelu")))
    other = Head.of([2 * weights[0], weights[1]], biases, activation="gelu")
    with pytest.raises(ModelMismatchError, match="init_W has other values"):
        check_same_model(fitted.facts, ModelFacts.of({}, other))
    with pytest.raises(ModelMismatchError, match="init_W has shape"):
        check_same_model(fitted.facts, ModelFacts.of({}, weights[1], biases[1]))


def test_another_activation_between_the_layers_is_another_model(problem, tmp_path):
    weights, biases = whole_head(problem)
    scorer = SoftmaxResponseScorer(activation="tanh").fit(problem.X, problem.y, weights, biases)
    path = save_head(scorer, tmp_path / "head", provenance={"activation": "tanh"})
    other = ModelFacts.of({"activation": "gelu"}, Head.of(weights, biases, activation="gelu"))
    with pytest.raises(ModelMismatchError, match="activation is 'gelu', was 'tanh'"):
        check_same_model(load_head(path).facts, other)


def test_the_folder_holds_json_and_safetensors_only(saved):
    names = sorted({path.name for path in saved.iterdir()} - {".lock"})  # older filelock keeps it
    assert [names[0][:7], *names[1:]] == ["arrays-", "estimator.json"]
    document = json.loads((saved / "estimator.json").read_text())
    assert document["class"] == "AdUEEstimator"
    assert document["provenance"] == PROVENANCE
    assert load_head(saved).class_names == ["a", "b", "c"]


def test_saving_again_replaces_an_older_head(saved, problem):
    other = SoftmaxResponseScorer().fit(*problem.fit_args)
    save_head(other, saved)
    assert isinstance(load_head(saved).estimator, SoftmaxResponseScorer)


def test_a_folder_with_other_files_is_left_alone(adue, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(FileExistsError, match=r"holds other files \(thesis\.tex\)"):
        save_head(adue, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unfitted_or_foreign_estimators_are_refused(tmp_path, problem):
    with pytest.raises(ValueError, match="not fitted"):
        save_head(AdUEEstimator(), tmp_path / "head")

    class Mine(SoftmaxResponseScorer):
        pass

    with pytest.raises(TypeError, match="estimator is a Mine"):
        save_head(Mine().fit(*problem.fit_args), tmp_path / "head")
    with pytest.raises(TypeError, match=r"is a HUQScorer, .*; expected one of AdUEEstimator, Conf"):
        save_head(HUQScorer().fit(*problem.fit_args), tmp_path / "head")
    drawn = ConfidNetScorer((4,), max_iter=1, random_state=np.random.RandomState(0))
    with pytest.raises(TypeError, match="parameter random_state holds a value that JSON cannot"):
        save_head(drawn.fit(*problem.fit_args), tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_what_is_no_head_is_named(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=r"nothing' does not exist\. Expected a fit"):
        load_head(tmp_path / "nothing")
    document = json.loads((saved / "estimator.json").read_text())
    for change, message in [
        ({"format_version": 99}, "format version 99"),
        ({"class": "Popen"}, "it holds a Popen"),
        ({"params": {"alpa": 1}}, "alpa"),
    ]:
        (saved / "estimator.json").write_text(json.dumps(document | change))
        with pytest.raises(ValueError, match=message):
            load_head(saved)


def arrays_file(folder):
    (file,) = folder.glob("arrays-*.safetensors")
    return file


def test_a_damaged_file_is_named(saved):
    file = arrays_file(saved)
    content = file.read_bytes()
    for damaged in (content[:-10], content[:-1] + b"x", b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot be read as a fitted head: .* is damaged"):
            load_head(saved)
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read as a fitted head"):
        load_head(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["params"].update(lam=-5), "'lam' parameter"),
        (lambda d: d["attributes"].update(predict="x"), "'predict' is not an attribute of"),
        (lambda d: d.pop("provenance"), "provenance"),
        (lambda d: d.pop("arrays"), "arrays"),
        (lambda d: d["attributes"].update(n_features_in_=11), ""),
    ],
)
def test_json_that_does_not_fit_is_refused_on_loading(saved, change, message):
    document = json.loads((saved / "estimator.json").read_text())
    change(document)
    (saved / "estimator.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"cannot be read as a fitted head.*{message}"):
        load_head(saved)


def test_a_missing_or_misshapen_array_is_refused_on_loading(adue, tmp_path):
    for number, spoil in enumerate(
        (lambda e: vars(e).pop("coef_"), lambda e: setattr(e, "coef_", e.coef_[:, 1:]))
    ):
        spoiled = pickle.loads(pickle.dumps(adue))
        spoil(spoiled)
        save_head(spoiled, tmp_path / str(number))
        with pytest.raises(ValueError, match="cannot be read as a fitted head"):
            load_head(tmp_path / str(number))


def test_an_interrupted_save_leaves_the_old_head(saved, problem, monkeypatch):
    expected = load_head(saved).estimator.predict_uncertainty(problem.X)
    other = AdUEEstimator(lam=5.0).fit(*problem.fit_args)
    original = persistence.write_file

    def interrupted(file, content):
        if file.suffix == ".json":
            raise KeyboardInterrupt
        original(file, content)

    monkeypatch.setattr(persistence, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_head(other, saved)
    np.testing.assert_array_equal(
        load_head(saved).estimator.predict_uncertainty(problem.X), expected
    )
    monkeypatch.undo()
    (saved / ".estimator.json.1.tmp").write_text("left over")
    save_head(other, saved)
    assert load_head(saved).estimator.lam == 5.0
    assert len(list(saved.glob("[!.]*"))) == 2
    assert not list(saved.glob(".*.tmp"))


def save_again_and_again(estimators, folder, n_times):
    for number in range(n_times):
        save_head(estimators[number % len(estimators)], folder)


@pytest.mark.parametrize(
    ("n_writers", "n_times"), [(2, 6), pytest.param(4, 150, marks=pytest.mark.deep)]
)
def test_writers_do_not_destroy_a_head_nor_disturb_its_readers(
    adue, problem, tmp_path, n_writers, n_times
):
    others = [SoftmaxResponseScorer().fit(problem.X, problem.y, k * problem.W) for k in (1, 2)]
    expected = {e.predict_uncertainty(problem.X[:3]).tobytes() for e in (adue, *others)}
    folder = save_head(adue, tmp_path / "head")
    with ThreadPoolExecutor(n_writers) as pool:
        work = [
            pool.submit(save_again_and_again, (adue, *others)[i % 2 :], folder, n_times)
            for i in range(n_writers)
        ]
        n_reads = 0
        while n_reads < 3 or not all(task.done() for task in work):
            read = load_head(folder).estimator.predict_uncertainty(problem.X[:3])
            assert read.tobytes() in expected
            n_reads += 1
        for task in work:
            task.result()
    load_head(folder)
    assert len(list(folder.glob("[!.]*"))) == 2


def test_processes_that_save_at_once_leave_a_whole_head(adue, problem, tmp_path):
    other = SoftmaxResponseScorer().fit(*problem.fit_args)
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    processes = [
        context.Process(target=save_again_and_again, args=((one, two), tmp_path / "head", 10))
        for one, two in ((adue, other), (other, adue))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    load_head(tmp_path / "head")
    assert len(list((tmp_path / "head").glob("[!.]*"))) == 2


def test_a_head_is_not_replaced_where_that_is_not_wanted(adue, saved):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(FileExistsError, match=r"already holds a fitted head.*overwrite=True"):
        save_head(adue, saved, overwrite=False)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert save_head(adue, saved.with_name("new"), overwrite=False).is_dir()


def test_numpy_numbers_and_callbacks_do_not_stand_in_the_way(problem, tmp_path):
    adue = AdUEEstimator(np.float32(0.5), max_iter=np.int64(100)).set_callbacks(ProgressBar())
    adue.fit(*problem.fit_args)
    loaded = load_head(save_head(adue, tmp_path / "head")).estimator
    assert (loaded.alpha, loaded.max_iter) == (0.5, 100)
    adue.random_state = np.random.RandomState(0)
    with pytest.raises(TypeError, match="parameter random_state holds a value that JSON cannot"):
        save_head(adue, tmp_path / "head")
    with pytest.raises(TypeError, match=r"provenance\['when'\] holds a value that JSON cannot"):
        save_head(loaded, tmp_path / "head", provenance={"when": object()})


@marks.odd_rows
def test_a_head_of_several_layers_comes_back(problem, tmp_path):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(5, 12)), rng.normal(size=(3, 5))], [None, rng.normal(size=3)]
    adue = AdUEEstimator(activation="tanh", lam=10, beta=1.0).fit(problem.X, problem.y, *layers)
    loaded = load_head(save_head(adue, tmp_path / "head"))
    np.testing.assert_array_equal(
        loaded.estimator.predict_uncertainty(problem.X), adue.predict_uncertainty(problem.X)
    )
    check_same_model(loaded.facts, ModelFacts.of({}, Head.of(*layers, activation="tanh")))
    with pytest.raises(ModelMismatchError, match="init_W"):
        check_same_model(loaded.facts, ModelFacts.of({}, problem.W, problem.b))


def facts(problem, *, W_factor=1.0, b_shift=0.0, names=None, **provenance):
    return ModelFacts.of(PROVENANCE | provenance, problem.W * W_factor, problem.b + b_shift, names)


def test_the_same_model_is_accepted_silently(saved, problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same_model(load_head(saved).facts, facts(problem))
        check_same_model(load_head(saved).facts, facts(problem, names=["a", "b", "c"]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"adapter_sha256": "bbbb"}, "adapter_sha256"),
        ({"view": "head"}, "view"),
        ({"W_factor": 1.01}, "init_W"),
        ({"b_shift": 0.1}, "init_b"),
        ({"W_factor": 1.1, "precision": "bfloat16"}, "init_W"),
        ({"names": ["c", "b", "a"]}, "classes are"),
    ],
)
def test_features_of_another_model_are_refused_unless_allowed(saved, problem, change, named):
    new = facts(problem, **change)
    with pytest.raises(ModelMismatchError, match=named):
        check_same_model(load_head(saved).facts, new)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_same_model(load_head(saved).facts, new, allow_other_model=True)
    assert named in str(caught[0].message)


def test_another_number_of_classes_is_refused(saved, problem):
    new = ModelFacts.of(PROVENANCE, problem.W[:2], problem.b[:2])
    with pytest.raises(ModelMismatchError, match=r"init_W has shape \[\(2, 12\)\]"):
        check_same_model(load_head(saved).facts, new)


@pytest.mark.parametrize(
    "change",
    [{"model": "moved/a"}, {"versions": {"torch": "3"}}, {"max_length": 32}],
)
def test_other_paths_versions_and_lengths_only_warn(saved, problem, change):
    with pytest.warns(UserWarning, match=next(iter(change))):
        check_same_model(load_head(saved).facts, facts(problem, **change))


def test_a_head_rounded_to_another_precision_only_warns(saved, problem):
    W, b = (torch.tensor(a).to(torch.bfloat16) for a in (problem.W, problem.b))
    new = ModelFacts.of(PROVENANCE | {"precision": "bfloat16"}, W, b)
    with pytest.warns(UserWarning, match="precision"):
        check_same_model(load_head(saved).facts, new)

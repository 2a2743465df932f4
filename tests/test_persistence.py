"""Saved heads come back whole, hold no pickle, and refuse another model's features."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedKFold

import adue_sklearn
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
    LastLayerLaplaceScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MaxLogitPNormScorer,
    SecondOpinionScorer,
    SelectiveClassifier,
    SidekickScorer,
    SoftmaxResponseScorer,
    StackedScorer,
)
from adue_sklearn._utils.head import Head
from adue_sklearn._utils.row_digests import unseen_rows
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.metrics import aurc_scorer
from adue_sklearn.persistence import ModelFacts, check_same_model, heads, load_head, save_head
from adue_sklearn.scorers import TfidfClassifier
from adue_sklearn.thresholds import score_sha256
from tests import marks
from tests.estimator_cases import ESTIMATORS

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


#: Settings that the cases of all tests lack.
OTHERS = [
    AdUEEstimator(scale="paper"),
    ConfidNetScorer((8, 4), max_iter=3, random_state=0),
    DDUScorer(normalize=True),
    DoctorScorer("beta"),
    GENScorer(0.2),
    LastLayerLaplaceScorer(predictive="monte_carlo", n_samples=5, random_state=0),
    MahalanobisScorer("relative"),
    MaxLogitPNormScorer((1, 2, float("inf"))),
    AdUESearchCV({"beta": [1.0], "lam": [10]}, cv=StratifiedKFold(2), scoring=aurc_scorer),
    SelectiveClassifier(target_risk={"x": 0.6, "y": 0.7, "z": 0.6, 0: 0.6, 1: 0.7, 2: 0.6},
                        per_class=True),
]  # fmt: skip
CASES = [*ESTIMATORS, *OTHERS]


def of_all_kinds(fitted):
    """Return estimators that hold others, some of them several deep."""
    X, y, *head = fitted
    frozen = FrozenEstimator(MahalanobisScorer().fit(X[:200], y[:200], *head))
    stack = StackedScorer([("energy", EnergyScorer()), ("distance", frozen)], cv=2)
    return {
        "stack": stack,
        "huq": HUQScorer(frozen, EnergyScorer()),
        "frozen": SelectiveClassifier(frozen, target_risk=0.6),
        "deep": ErrorProbability(
            AutoScorer([("stack", stack)], frozen=[("distance", frozen)], cv=2), cv=2
        ),
    }


def assert_same_scores(loaded, fitted, X):
    for method in ("predict", "predict_proba", "predict_uncertainty"):
        np.testing.assert_array_equal(getattr(loaded, method)(X), getattr(fitted, method)(X))


def test_every_public_score_is_among_the_cases():
    public = {
        name
        for name in adue_sklearn.__all__
        if isinstance(cls := getattr(adue_sklearn, name), type)
        and issubclass(cls, UncertaintyEstimator)
    }
    assert public == {type(estimator).__name__ for estimator in CASES}


@pytest.mark.parametrize("estimator", CASES, ids=str)
@pytest.mark.parametrize("names", [None, ["x", "y", "z"]])
@pytest.mark.filterwarnings("ignore:RDEScorer")  # classes that share a covariance
@marks.no_views
def test_a_loaded_estimator_scores_to_the_bit_as_the_saved_one(estimator, names, problem, tmp_path):
    y = problem.y if names is None else np.array(names)[problem.y]
    estimator = clone(estimator).fit(problem.X, y, problem.W, problem.b, classes=names)
    loaded = load_head(save_head(estimator, tmp_path / "head")).estimator
    assert repr(loaded) == repr(estimator)
    assert vars(loaded).keys() == {k for k in vars(estimator) if not k.startswith("_skl")}
    assert_same_scores(loaded, estimator, problem.X)
    assert loaded.score(problem.X, y) == estimator.score(problem.X, y)
    assert score_sha256(loaded) == score_sha256(estimator)


@pytest.mark.parametrize("kind", ["stack", "huq", "frozen", "deep"])
def test_estimators_in_estimators_come_back_to_the_bit(kind, problem, tmp_path):
    fitted = of_all_kinds(problem.fit_args)[kind].fit(*problem.fit_args)
    folder = save_head(fitted, tmp_path / "head", provenance=PROVENANCE)
    loaded = load_head(folder).estimator
    assert_same_scores(loaded, fitted, problem.X)
    assert score_sha256(loaded) == score_sha256(fitted)
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ""}
    if kind == "stack":  # one object before, one object after, and its arrays once
        assert loaded.estimators_[1] is loaded.estimators[1][1]
        names = load_file(arrays_file(folder)).keys()
        assert "estimators_.0.init_coef_" in names
        assert sum(name.endswith("covariance_") for name in names) == 1


def test_without_a_head_estimators_in_estimators_come_back_too(problem, tmp_path):
    for number, estimator in enumerate(
        (StackedScorer(CASES_INSIDE, cv=2), HUQScorer(cv=2), AutoScorer(CASES_INSIDE, cv=2))
    ):
        fitted = estimator.fit(problem.X, problem.y)
        loaded = load_head(save_head(fitted, tmp_path / str(number))).estimator
        assert_same_scores(loaded, fitted, problem.X)


CASES_INSIDE = [("energy", EnergyScorer()), ("probe", LinearProbeScorer(C=0.1))]


def test_what_a_search_and_a_choice_found_comes_back(problem, tmp_path):
    search = AdUESearchCV({"beta": [1.0, 10.0], "lam": [10], "scale": ["unit"]}, cv=2)
    search = search.fit(*problem.fit_args)
    loaded = load_head(save_head(search, tmp_path / "search")).estimator
    assert loaded.best_params_ == search.best_params_
    assert loaded.cv_results_.keys() == search.cv_results_.keys()
    for name, values in search.cv_results_.items():
        np.testing.assert_array_equal(loaded.cv_results_[name], values)
    auto = AutoScorer(CASES_INSIDE, cv=2).fit(*problem.fit_args)
    again = load_head(save_head(auto, tmp_path / "auto")).estimator
    assert (again.selected_, again.p_values_) == (auto.selected_, auto.p_values_)
    assert again.n_errors_ == auto.n_errors_
    assert again.comparison_.to_json() == auto.comparison_.to_json()


def test_rows_that_an_inner_score_was_fitted_on_are_known_after_loading(problem, tmp_path):
    X, y, *head = problem.fit_args
    inner = MahalanobisScorer().fit(X[:100], y[:100], *head)
    inner = load_head(save_head(inner, tmp_path / "inner", fitted_on=X[:100])).estimator
    with pytest.warns(UserWarning, match="100 of 400 rows were used to fit"):
        outer = ErrorProbability(FrozenEstimator(inner)).fit(X, y)
    loaded = load_head(save_head(outer, tmp_path / "outer")).estimator
    for known in (loaded.estimator_, loaded.estimator.estimator):
        np.testing.assert_array_equal(unseen_rows(known, X), np.arange(400) >= 100)
    assert unseen_rows(loaded, X) is None


def test_a_witness_comes_back_with_its_classifier_and_a_large_vocabulary(problem, tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(3000)]
    texts = [" ".join([f"c{label}", *rng.choice(words, 5)]) for label in problem.y]
    sidekick = SidekickScorer(TfidfClassifier(min_df=1)).fit_witness(texts[:200], problem.y[:200])
    X = sidekick.views(problem.X[200:], texts[200:])
    fit_args = X, problem.y[200:], problem.W, problem.b
    stack = SecondOpinionScorer([("sidekick", sidekick), *CASES_INSIDE], cv=2)
    for number, estimator in enumerate((sidekick, stack)):
        fitted = estimator.fit(*fit_args)
        loaded = load_head(save_head(fitted, tmp_path / str(number))).estimator
        assert_same_scores(loaded, fitted, X)
    loaded = loaded.estimators_[0]
    np.testing.assert_array_equal(loaded.log_proba(texts[:9]), sidekick.log_proba(texts[:9]))


def save_as_version_1(estimator, folder):
    """Write what format version 1 held."""
    params, arrays, values = estimator.get_params(deep=False), {}, {}
    for key, value in vars(estimator).items():
        if key in params or key.startswith("_skl"):
            continue
        if isinstance(value, list):
            arrays |= {f"{key}.{number}": layer for number, layer in enumerate(value)}
        elif isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
            arrays[key] = value
        elif isinstance(value, np.ndarray):
            values[key] = {"strings": value.tolist(), "dtype": value.dtype.kind}
        else:
            values[key] = value
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    name = f"arrays-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    document = {
        "format_version": 1, "class": type(estimator).__name__, "arrays": name, "params": params,
        "attributes": values, "provenance": PROVENANCE, "class_names": None,
    }  # fmt: skip
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "estimator.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    "estimator",
    [
        AdUEEstimator(beta=1.0, lam=10),
        ConfidNetScorer((8, 4), max_iter=3, random_state=0),
        MaxLogitPNormScorer((1, 2, float("inf"))),
    ],
    ids=str,
)
def test_heads_of_the_first_format_are_read(estimator, problem, tmp_path):
    names = ["x", "y", "z"]
    y = np.array(names)[problem.y]
    fitted = estimator.fit(problem.X, y, problem.W, problem.b, classes=names)
    loaded = load_head(save_as_version_1(fitted, tmp_path / "head"))
    assert repr(loaded.estimator) == repr(fitted)
    assert vars(loaded.estimator).keys() == {k for k in vars(fitted) if not k.startswith("_skl")}
    assert_same_scores(loaded.estimator, fitted, problem.X)
    assert loaded.provenance == PROVENANCE


def test_thresholds_of_heads_of_the_first_format_still_name_their_score():
    scorer = MaxLogitPNormScorer((1, 2, float("inf"))).fit(
        [[2.0, 0.0], [0.0, 1.0], [1.0, 3.0]], ["no", "yes", "no"], [[1.0, 0.0], [0.0, 1.0]],
        classes=["no", "yes"],
    )  # fmt: skip
    assert (
        score_sha256(scorer) == "d052d959805e1e874b33c9fad1fb66fbae9099a1e487b8110c12826f3ab0a932"
    )


def test_a_search_without_a_refit_is_not_saved(problem, tmp_path):
    search = AdUESearchCV({"beta": [1.0], "lam": [10]}, cv=2, refit=False).fit(*problem.fit_args)
    with pytest.raises(ValueError, match=r"refit=False, so it has no score to save; set refit=T"):
        save_head(search, tmp_path / "head")


def test_what_cannot_be_saved_inside_another_estimator_is_named_by_its_place(problem, tmp_path):
    class Mine(SoftmaxResponseScorer):
        pass

    fitted = ErrorProbability(Mine()).fit(*problem.fit_args)
    with pytest.raises(TypeError, match=r"attribute estimator_ is a Mine, which cannot be saved"):
        save_head(fitted, tmp_path / "head")
    stack = StackedScorer([("net", ConfidNetScorer(random_state=np.random.RandomState(0)))])
    auto = AutoScorer([("stack", stack)], cv=2)
    auto.fit(problem.X[:100], problem.X[:100].argmax(axis=1) % 3)
    with pytest.raises(TypeError, match=r"estimators\.0\.1\.estimators\.0\.1\.random_state holds"):
        save_head(auto, tmp_path / "head")


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
    with pytest.raises(TypeError, match=r"is a FrozenEstimator, .*; expected one of AdUEEstimat"):
        save_head(FrozenEstimator(EnergyScorer().fit(*problem.fit_args)), tmp_path / "head")
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
    original = heads.write_file

    def interrupted(file, content):
        if file.suffix == ".json":
            raise KeyboardInterrupt
        original(file, content)

    monkeypatch.setattr(heads, "write_file", interrupted)
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

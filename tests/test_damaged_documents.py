"""Documents that others wrote or that were damaged: read whole, or one error that names the file.

Every document of the package is mutated, a few times in the ordinary run and thousands of times in
the deep one. Whatever comes of it, reading changes no file.
"""

import contextlib
import json
import re
import shutil
import warnings

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

from adue_sklearn import (
    AdUEEstimator,
    EnergyScorer,
    ErrorProbability,
    MahalanobisScorer,
    SoftmaxResponseScorer,
    StackedScorer,
    ViMScorer,
)
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore, FeatureStoreWriter
from adue_sklearn.features._store.manifest import read_unfinished
from adue_sklearn.persistence import load_head, save_head
from adue_sklearn.thresholds import SavedThreshold, load_threshold, save_threshold
from tests.mutations import content_of, mutated
from tests.problems import Problem

FEW = 150
MANY = pytest.param(5_000, marks=pytest.mark.deep)
PROBLEM = Problem(n=60, d=4)
W0, W1 = np.eye(4)[:3], np.eye(3)[:2]


def use_store(folder):
    store = FeatureStore.open(folder)
    assert len(store.features) == len(store.ids) == len(store)
    assert store.labels is None or len(store.labels) == len(store)
    assert store.logits.shape == (len(store), store.n_classes)
    assert store.classes is None or all(isinstance(name, str) for name in store.classes)
    repr(store), store.init_W, store.init_b
    store.verify()


def use_head(folder):
    warnings.filterwarnings("ignore", "This was fitted with device=")
    fitted = load_head(folder)
    fitted.facts, fitted.view, repr(fitted.estimator)
    if fitted.estimator.device not in ("auto", "cpu"):  # refused by name where it is not there
        fitted.estimator.device = "cpu"
    estimator, X = fitted.estimator, PROBLEM.X
    assert len(estimator.classes_) == estimator.predict_proba(X).shape[1] == 3
    assert estimator.predict_uncertainty(X).shape == (len(X),)
    estimator.errors(X, estimator.predict(X))


def use_threshold(file):
    threshold = load_threshold(file)
    assert 0 <= threshold.coverage <= 1
    assert threshold.accepts([np.nan, 0.3]).tolist()[0] is False
    threshold.describe(), threshold.accepts_what


def make_store(folder):
    FeatureStore.create(
        folder, features=PROBLEM.X, labels=PROBLEM.y, init_W=PROBLEM.W, init_b=PROBLEM.b,
        classes=["a", "b", "c"], provenance={"model": "m", "max_length": 20}, shard_rows=25,
    )  # fmt: skip
    return folder / "manifest.json", use_store


def make_whole_head_store(folder):
    FeatureStore.create(
        folder, features=PROBLEM.X, labels=PROBLEM.y % 2, init_W=[W0, W1], activation="tanh",
        shard_rows=30,
    )  # fmt: skip
    return folder / "manifest.json", use_store


def make_unfinished_store(folder):
    writer = FeatureStoreWriter(
        folder, init_W=PROBLEM.W, labelled=False, extraction={"n_rows": 9}, classes=["a", "b", "c"]
    )
    with contextlib.suppress(KeyboardInterrupt), writer:
        writer.write_shard(PROBLEM.X[:5], PROBLEM.X[:5] @ PROBLEM.W.T, None, range(5), truncated=2)
        raise KeyboardInterrupt
    return folder / "unfinished.json", read_unfinished


def make_head(folder, estimator=None):
    estimator = AdUEEstimator(max_iter=20) if estimator is None else estimator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(*PROBLEM.fit_args)
    save_head(estimator, folder, provenance={"max_length": 20}, class_names=["a", "b", "c"])
    return folder / "estimator.json", use_head


def nested():
    """Return a stack with a frozen score, made a probability of an error."""
    frozen = FrozenEstimator(MahalanobisScorer().fit(*PROBLEM.fit_args))
    stack = StackedScorer([("energy", EnergyScorer()), ("distance", frozen)], cv=2)
    return ErrorProbability(stack, cv=2)


def make_threshold(folder):
    folder.mkdir()
    scorer = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    found = SavedThreshold.of(scorer, PROBLEM.X, PROBLEM.y, target_risk=0.8)
    assert found.accepts_what != "none"
    return save_threshold(found, folder / "threshold.json"), lambda folder: use_threshold(
        folder / "threshold.json"
    )


MAKERS = {
    "manifest": make_store,
    "manifest of a whole head": make_whole_head_store,
    "unfinished": make_unfinished_store,
    "head": make_head,
    "density": lambda folder: make_head(folder, MahalanobisScorer()),
    "subspace": lambda folder: make_head(folder, ViMScorer()),
    "nested": lambda folder: make_head(folder, nested()),
    "threshold": make_threshold,
}


def outcome(use, folder, named):
    """Use what was damaged: None where it works, else the error, which must be ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            use(folder)
    except (ValueError, OSError) as error:
        found = str(error)
    else:
        return None
    assert named in found
    return found


@pytest.mark.parametrize("n", [FEW, MANY])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_mutated_document_is_read_or_named_and_nothing_is_written(kind, n, tmp_path):
    file, use = MAKERS[kind](tmp_path / "it")
    sound = file.read_bytes()
    assert outcome(use, tmp_path / "it", str(file)) is None
    before = content_of(tmp_path / "it")
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(n):
        damaged = mutated(sound, rng)
        file.write_bytes(damaged)
        try:
            refused += outcome(use, tmp_path / "it", str(file.parent)) is not None
        except BaseException as error:
            error.add_note(f"mutation {number}: {damaged[:2000]!r}")
            raise
        assert content_of(tmp_path / "it") == before | {file.name: damaged}
    assert refused > n / 4


@pytest.mark.parametrize("n", [20, pytest.param(500, marks=pytest.mark.deep)])
def test_a_mutated_note_of_an_interrupted_writer_is_gone_on_with_or_named(n, tmp_path):
    file, _ = make_unfinished_store(tmp_path / "it")
    sound, rng = content_of(tmp_path / "it"), np.random.default_rng(2)

    def go_on(folder):
        facts = {"extraction": {"n_rows": 9}, "classes": ["a", "b", "c"], "labelled": False}
        with FeatureStoreWriter(folder, init_W=PROBLEM.W, **facts) as writer:
            rest = PROBLEM.X[writer.n_done : 9]
            ids = range(writer.n_done, 9)
            writer.write_shard(rest, rest @ PROBLEM.W.T, None, ids, truncated=1)
        np.testing.assert_allclose(FeatureStore.open(folder).features, PROBLEM.X[:9], rtol=1e-6)

    for _ in range(n):
        shutil.rmtree(tmp_path / "it")
        (tmp_path / "it").mkdir()
        for name, content in sound.items():
            (tmp_path / "it" / name).write_bytes(content)
        file.write_bytes(mutated(sound[file.name], rng))
        with contextlib.suppress(UserWarning):  # rows that are extracted again
            outcome(go_on, tmp_path / "it", str(file.parent))


def edit(file, change):
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("classes"), "'classes' is missing"),
        (lambda m: m.update(classes=["a", "b", 3]), "'classes.2' is 3; expected a valid string"),
        (lambda m: m.update(classes=["a", "b"]), "'classes' holds 2 different names; expected 3"),
        (lambda m: m["head"].pop("bias"), "'head.bias' is missing"),
        (lambda m: m["head"].update(activation=["tanh"]), "'head.activation' is ['tanh']"),
        (lambda m: m["head"].update(activation="tanh"), "layers without an activation"),
        (lambda m: m["shards"][1].update(file=""), "'shards.1.file' is ''; expected a file name"),
        (lambda m: m["shards"][1].update(file=".."), "'shards.1.file' is '..'"),
        (lambda m: m["shards"][1].update(file="a\\b"), "'shards.1.file' is 'a\\\\b'"),
        (lambda m: m["shards"][1].update(m["shards"][0]), "'shards' lists a file twice"),
        (lambda m: m["provenance"].update(loss=float("nan")), "it holds NaN"),
        (lambda m: m["provenance"].update(loss=float("inf")), "it holds Infinity"),
        (lambda m: m.update(extractions=[{"provenance": 3}]), "'extractions.0.provenance' is 3"),
    ],
)
def test_an_edited_manifest_is_refused(change, message, tmp_path):
    file, _ = make_store(tmp_path / "it")
    edit(file, change)
    before = content_of(tmp_path / "it")
    with pytest.raises(StoreError, match=re.escape(message)) as caught:
        FeatureStore.open(tmp_path / "it")
    assert str(file) in str(caught.value)
    assert str(caught.value).endswith("Restore it from a copy or extract the store again.")
    assert content_of(tmp_path / "it") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["attributes"].update(classes_={"strings": [], "dtype": "U"}), "classes"),
        (
            lambda d: d["attributes"].update(classes_={"strings": [["a"] * 3], "dtype": "U"}),
            "classes has shape (1, 3)",
        ),
        (lambda d: d["attributes"].pop("classes_"), "classes_"),
        (
            lambda d: d["attributes"].update(classes_={"strings": ["a", "b"], "dtype": "U"}),
            "classes_ has 2 entries, but the head 3 rows",
        ),
        (lambda d: d.update(class_names=[1, 2, 3]), "'class_names.0' is 1; expected a valid str"),
        (lambda d: d.update(class_names=["a"]), "class_names has 1 entries, but the head 3 rows"),
        (lambda d: d["attributes"].update(alpha="x"), "'alpha' is not an attribute of a fitted"),
        (lambda d: d["params"].update(device="nowhere"), "nowhere"),
        (lambda d: d.update(arrays="../arrays-0.safetensors"), "'arrays' is '../arrays-0"),
        (lambda d: d["attributes"].pop("_head_given"), "_head_given"),
        (
            lambda d: d["provenance"].update(max_length="64"),
            "'provenance.max_length' is '64'; expected a valid integer",
        ),
        (
            lambda d: d["provenance"].update(max_length=0),
            "'provenance.max_length' is 0; expected greater than 0",
        ),
        (
            lambda d: d["provenance"].update(fit_row_digests=[1.0]),
            "'provenance.fit_row_digests' is [1.0]; expected a valid string",
        ),
        (
            lambda d: d["provenance"].update(fit_row_digests="AAAA"),
            "'provenance.fit_row_digests' is 'AAAA'; expected digests of rows as they were saved",
        ),
        (
            lambda d: d["provenance"].update(choice_row_digests="AADAfwAAwH8AAMB/AADAfw=="),
            "'provenance.choice_row_digests' is 'AADAfwAAwH8AAMB/AADAfw=='; expected digests of "
            "rows as they were saved, which are finite",
        ),
    ],
)
def test_an_edited_head_is_refused_and_the_file_named(change, message, tmp_path):
    names = np.array(["a", "b", "c"])
    scorer = SoftmaxResponseScorer().fit(
        PROBLEM.X, names[PROBLEM.y], PROBLEM.W, PROBLEM.b, classes=names
    )
    file = save_head(scorer, tmp_path / "head") / "estimator.json"
    if "alpha" in message:
        file, _ = make_head(tmp_path / "adue")
    edit(file, change)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_head(file.parent)
    assert str(file) in str(caught.value)
    assert "fit again" in str(caught.value)


def stack_of(document):
    return document["attributes"]["estimator_"]["attributes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda stack: stack["estimators_"][0].update({"class": "Popen"}),
            "estimator_.estimators_.0 is a Popen; expected AdUEEstimator, ",
        ),
        (
            lambda stack: stack["estimators_"][0].update({"fields": {}}),
            "estimators_.0 is an object with ['attributes', 'class', 'fields', 'params']",
        ),
        (
            lambda stack: stack["coef_"].update(array="nowhere"),
            "the array 'nowhere' of estimator_.coef_ is missing",
        ),
        (
            lambda stack: stack["coef_"].update(shape=[8]),
            "the array 'estimator_.coef_' has shape (9,) and dtype float64; expected [8] and",
        ),
        (
            lambda stack: stack["coef_"].update(array="estimator_._mean", shape=[3]),
            "matmul",
        ),
        (
            lambda stack: stack["estimators_"][0]["attributes"].update(
                init_intercept_=stack["_mean"]
            ),
            "estimator_: estimators_ has another head or other classes than the StackedScorer",
        ),
        (
            lambda stack: stack.update(classes_={"strings": ["a", "b", "c"], "dtype": "U"}),
            "estimator_ has another head or other classes than the ErrorProbability",
        ),
        (
            lambda stack: stack["estimators_"][0]["attributes"].update(
                classes_={"strings": ["a", "b"], "dtype": "U"}
            ),
            "estimator_.estimators_.0: classes_ has 2 entries, but the head 3 rows",
        ),
        (
            lambda stack: stack["estimators_"][0]["attributes"].update(_fitted_on="AAAA"),
            "digests of rows as they were saved",
        ),
        (
            lambda stack: stack["estimators_"][0]["attributes"].update(predict=1),
            "'estimator_.estimators_.0.predict' is not an attribute of a fitted EnergyScorer",
        ),
        (
            lambda stack: stack["estimators_"].append({"same": "nowhere"}),
            "estimator_.estimators_.2 is the same as 'nowhere', which is missing",
        ),
    ],
)
def test_an_edited_head_with_estimators_inside_is_refused(change, message, tmp_path):
    file, _ = make_head(tmp_path / "it", nested())
    edit(file, lambda document: change(stack_of(document)))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_head(file.parent)
    assert str(file) in str(caught.value)
    assert "fit again" in str(caught.value)


@pytest.mark.parametrize("digests", ["?", "AAAA"])
def test_a_threshold_with_edited_digests_is_refused(digests, tmp_path):
    file, use = make_threshold(tmp_path / "it")
    edit(file, lambda d: d.update(row_digests=digests))
    with pytest.raises(ValueError, match=r"'row_digests' is '.*'; expected digests of rows"):
        use(tmp_path / "it")


def test_provenance_that_could_not_be_read_again_is_not_saved(tmp_path):
    scorer = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    with pytest.raises(ValueError, match=r"'max_length' is '64'.*FeatureStore's provenance"):
        save_head(scorer, tmp_path / "head", provenance={"max_length": "64"})
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize("make", [make_store, make_head, make_threshold])
@pytest.mark.parametrize("inside", [False, True], ids=["all of it", "a field"])
def test_fifty_thousand_levels_are_an_error_and_no_crash(make, inside, tmp_path):
    file, use = make(tmp_path / "it")
    deep = "[" * 50_000 + "]" * 50_000
    text = file.read_text()
    file.write_text(
        text.replace('"provenance": {', f'"provenance": {{"deep": {deep},') if inside else deep
    )
    with pytest.raises(ValueError, match="nested deeper than 100 levels") as caught:
        use(tmp_path / "it")
    assert str(file) in str(caught.value)


def test_a_header_of_a_shard_with_fifty_thousand_levels_is_damage(tmp_path):
    make_store(tmp_path / "it")
    shard = tmp_path / "it" / "shard-00001.safetensors"
    shard.write_bytes((50_000).to_bytes(8, "little") + b"[" * 50_000)
    with pytest.raises(StoreError, match=r"shard-00001.*nested deeper than 100 levels"):
        FeatureStore.open(tmp_path / "it")

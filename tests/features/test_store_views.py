"""Views and text digests in a feature store: written, read, appended, joined with other stores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from adue_sklearn._utils.views import text_digests
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore

OLD = Path(__file__).parent / "data" / "store-v1"
TEXTS = ["a", "b", "c", "b", "d"]
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
BASE = X[:, :2] + 1
W = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]], dtype=np.float32)


@pytest.fixture
def make(tmp_path):
    """Write a store of a text's row of X for each text, and open it."""

    def write(name="store", texts=TEXTS, **changes):
        rows = [TEXTS.index(text) if text in TEXTS else 0 for text in texts]
        arrays = {"features": X[rows], "init_W": W, "classes": ["no", "yes"]}
        arrays |= {"text_digests": text_digests(texts), "shard_rows": 2}
        return FeatureStore.create(tmp_path / name, **arrays | changes)

    return write


def test_views_and_digests_are_read_as_they_were_written(make):
    written = make(views={"base": BASE, "layer_1": X})
    for store in (written, FeatureStore.open(written.path)):
        store.verify()
        np.testing.assert_array_equal(store.text_digests, text_digests(TEXTS))
        np.testing.assert_array_equal(store.view("base"), BASE)
        assert store.view_facts["base"] == {"n_columns": 2, "kind": "features", "provenance": {}}
        views = store.views()
        assert views.names == ("base", "layer_1")
        assert store.views("layer_1").names == ("layer_1",)
        np.testing.assert_array_equal(views.main, store.features)
        np.testing.assert_array_equal(views.block("base"), BASE)
        np.testing.assert_array_equal(views.text_digests, store.text_digests)
        assert [shard["view.base"].shape for shard in store.iter_shards()] == [
            (2, 2), (2, 2), (1, 2),
        ]  # fmt: skip
    manifest = json.loads((written.path / "manifest.json").read_text())
    assert manifest["format_version"] == 3


def test_one_shard_of_a_view_is_a_memory_map(make):
    store = make(views={"base": BASE}, shard_rows=5)
    assert isinstance(store.view("base"), np.memmap)
    assert isinstance(store.text_digests, np.memmap)


def test_a_store_of_an_earlier_version_has_neither_digests_nor_views():
    store = FeatureStore.open(OLD)
    assert store.text_digests is None
    assert store.view_facts == {}
    assert store.views().names == ()


def test_a_view_that_is_not_there_is_refused_with_those_that_are(make):
    store = make(views={"base": BASE})
    for ask in (store.view, store.views):
        with pytest.raises(StoreError, match=r"no view 'x'; its views are: base\. Extract .*--lay"):
            ask("x")


def test_appended_rows_bring_the_views_and_digests_of_the_store(make):
    store = make(views={"base": BASE})
    store.append(features=X[:1], text_digests=text_digests(["e"]), views={"base": BASE[:1]})
    np.testing.assert_array_equal(store.view("base"), BASE[[0, 1, 2, 3, 4, 0]])
    np.testing.assert_array_equal(store.text_digests, text_digests([*TEXTS, "e"]))
    digests = {"text_digests": text_digests(["e"])}
    for arrays, message in (
        (digests, "views: .* has base, these rows have none"),
        (digests | {"views": {"x": BASE[:1]}}, "has base, these rows have x"),
        (digests | {"views": {"base": X[:1]}}, r"views\['base'\]: expected shape \(1, 2\)"),
        ({"views": {"base": BASE[:1]}}, "text_digests: .* holds digests of its texts; pass"),
    ):
        with pytest.raises(StoreError, match=message):
            store.append(features=X[:1], **arrays)
    assert len(FeatureStore.open(store.path)) == 6


def test_a_store_without_digests_is_appended_to_without_them(tmp_path):
    shutil.copytree(OLD, tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    with pytest.raises(StoreError, match="holds no digests of its texts; leave out"):
        store.append(features=[[1, 2, 3]], labels=[1], text_digests=text_digests(["e"]))
    assert store.append(features=[[1, 2, 3]], labels=[1]).text_digests is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": {"main": X}}, "'main' cannot name a view; expected lower-case letters"),
        ({"views": {"texts": X}}, "'texts' cannot name a view"),
        ({"views": {"Base-1": X}}, "'Base-1' cannot name a view"),
        ({"views": {"base": X[:4]}}, r"views\['base'\]: expected shape \(5, 3\)"),
        ({"views": {"base": X * np.nan}}, r"views\['base'\]: NaN or inf"),
        ({"text_digests": text_digests("ab")}, r"text_digests: expected shape \(5\)"),
        ({"text_digests": np.arange(5)}, "text_digests: expected unsigned integers, got .* int64"),
    ],
)
def test_views_and_digests_that_cannot_be_are_refused_before_anything_is_written(
    make, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        make(**changes)
    assert not (tmp_path / "store").exists()


def test_a_manifest_whose_view_lacks_its_size_is_refused(make):
    file = make(views={"base": BASE}).path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["views"]["base"]["n_columns"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"'views\.base\.n_columns' is missing"):
        FeatureStore.open(file.parent)


# --- another store as a companion -------------------------------------------------------------


def test_another_store_of_the_texts_becomes_log_probabilities_in_the_order_of_this_one(make):
    texts = ["d", "b", "a", "b", "c"]
    other = make("other", texts, classes=["yes", "no"], init_W=W[::-1] * 2, init_b=[0.5, 0])
    store = make(views={"base": BASE})
    expected = log_softmax(X[[0, 1, 2, 1, 4]].astype(float) @ W.T * 2 + [0, 0.5], axis=1)
    found = store.companion_log_proba(other)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    views = store.views(companions={"friend": other})
    assert views.names == ("base", "friend")
    np.testing.assert_array_equal(views.block("friend"), found)
    with pytest.raises(ValueError, match="'base' is a view of the store already"):
        store.views(companions={"base": other})


@pytest.mark.parametrize(
    ("texts", "changes", "message"),
    [
        (["a", "b", "c", "d", "e"], {}, "1 rows of .*store' have no .* row 3; 1 rows .* row 4"),
        ([*TEXTS, "a"], {}, "1 rows of .*other' have no partner there, such as row 5"),
        (["a", "b", "c"], {}, "2 rows of .*store' have no partner there, such as row 3"),
        (TEXTS, {"text_digests": None}, "other' holds no digests of its texts.*Extract it again"),
        (TEXTS, {"classes": ["no", "maybe"]}, "lacks the classes 'yes' and has 'maybe' instead"),
        (TEXTS, {"classes": None}, "its head's classes have no names .* Pass .* classes="),
        (TEXTS, {"init_W": np.eye(3), "classes": None}, "has 3 classes, the main one has 2"),
    ],
)
def test_a_store_that_is_no_companion_is_refused_with_the_reason(make, texts, changes, message):
    store, other = make(), make("other", texts, **changes)
    with pytest.raises(StoreError, match=message):
        store.companion_log_proba(other)

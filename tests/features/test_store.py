import json
import mmap

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from adue_sklearn import MahalanobisScorer
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore, FeatureStoreWriter
from tests import marks


def finite(shape):
    return hnp.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32))


@st.composite
def store_arrays(draw):
    n, d, n_classes = draw(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(2, 4)))
    optional = {
        "labels": hnp.arrays(np.int64, n, elements=st.integers(0, n_classes - 1)),
        "ids": hnp.arrays(np.int64, n, elements=st.integers(0, 10**6)),
        "logits": finite((n, n_classes)),
        "init_b": finite(n_classes),
        "classes": st.lists(st.text(), min_size=n_classes, max_size=n_classes, unique=True),
        "provenance": st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
    }
    arrays = {name: draw(value) for name, value in optional.items() if draw(st.booleans())}
    return {"features": draw(finite((n, d))), "init_W": draw(finite((n_classes, d))), **arrays}


@given(arrays=store_arrays(), shard_rows=st.integers(1, 10))
def test_what_is_written_is_what_is_read(tmp_path_factory, arrays, shard_rows):
    path = tmp_path_factory.mktemp("store")
    store = FeatureStore.create(path, shard_rows=shard_rows, **arrays)
    for again in (store, FeatureStore.open(path)):
        again.verify()
        n = len(arrays["features"])
        assert len(again) == n
        np.testing.assert_array_equal(again.features, arrays["features"])
        np.testing.assert_array_equal(again.init_W, arrays["init_W"])
        np.testing.assert_array_equal(again.ids, arrays.get("ids", np.arange(n)))
        for name in ("labels", "init_b", "classes"):
            expected, found = arrays.get(name), getattr(again, name)
            assert (expected is None) == (found is None)
            if expected is not None:
                np.testing.assert_array_equal(found, expected)
        assert again.provenance == arrays.get("provenance", {})
        b = arrays.get("init_b", 0.0)
        logits = arrays.get(
            "logits", arrays["features"].astype(float) @ arrays["init_W"].T.astype(float) + b
        )
        np.testing.assert_array_equal(again.logits, logits.astype(np.float32))
        assert (again.n_features, again.n_classes) == arrays["init_W"].T.shape


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(10, 3)),
        "labels": rng.integers(0, 2, size=10),
        "init_W": rng.normal(size=(2, 3)),
        "init_b": rng.normal(size=2),
    }


@pytest.fixture
def path(tmp_path, arrays):
    FeatureStore.create(tmp_path / "store", shard_rows=4, **arrays)
    return tmp_path / "store"


def test_arrays_are_stored_as_float32_and_int64_and_are_read_only(path):
    store = FeatureStore.open(path)
    for name, dtype in [("features", "f4"), ("logits", "f4"), ("labels", "i8"), ("ids", "i8")]:
        array = getattr(store, name)
        assert array.dtype == dtype
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_one_shard_is_a_memory_map(tmp_path, arrays):
    store = FeatureStore.create(tmp_path, **arrays)
    assert isinstance(store.features, np.memmap)
    assert store.features is store.features


def test_the_repr_tells_the_facts(path):
    assert repr(FeatureStore.open(path)) == (
        "FeatureStore(n_samples=10, n_features=3, n_classes=2, labelled=True, shards=3)"
    )


def test_the_files_are_those_of_the_documented_format(path):
    assert sorted(file.name for file in path.iterdir()) == [
        ".lock",
        "head.safetensors",
        "manifest.json",
        *(f"shard-0000{i}.safetensors" for i in range(3)),
    ]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 2]
    assert set(load_file(path / "head.safetensors")) == {"W", "b"}
    shard = load_file(path / "shard-00002.safetensors")
    assert set(shard) == {"features", "logits", "labels", "ids"}
    assert shard["ids"].tolist() == [8, 9]


def test_equal_content_gives_equal_bytes(tmp_path, path, arrays):
    FeatureStore.create(tmp_path / "again", shard_rows=4, **arrays)
    for file in path.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "head.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_file_is_named_when_the_store_is_opened(path, name, keep):
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:keep])
    with pytest.raises(StoreError, match=rf"{name}' cannot be used: .*[Rr]estore"):
        FeatureStore.open(path)


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "head.safetensors"])
def test_a_missing_file_is_named(path, name):
    (path / name).unlink()
    with pytest.raises(StoreError, match=f"{name}' cannot be used: it is missing"):
        FeatureStore.open(path)


def test_a_changed_byte_is_found_by_verify_and_in_the_head_at_once(path):
    for name in ("shard-00001.safetensors", "head.safetensors"):
        content = bytearray((path / name).read_bytes())
        content[-3] ^= 1
        (path / name).write_bytes(content)
        with pytest.raises(StoreError, match=f"{name}.*sha256"):
            FeatureStore.open(path).verify()


@pytest.mark.parametrize("change", ["shape", "name", "dtype"])
def test_a_shard_of_another_layout_is_refused(path, change):
    file = path / "shard-00001.safetensors"
    tensors = load_file(file)
    X = tensors.pop("features")
    changed = {"shape": X[:, :2].copy(), "name": X, "dtype": X.astype(np.float64)}[change]
    save_file(tensors | {("X" if change == "name" else "features"): changed}, file)
    with pytest.raises(StoreError, match=r"shard-00001.*'features' should be F32 \[4, 3\]"):
        FeatureStore.open(path)


def test_a_directory_without_manifest_is_no_store(path, tmp_path):
    (path / "manifest.json").unlink()
    for folder, message in (
        (path, r"'manifest\.json' is missing"),
        (tmp_path / "nowhere", r"nowhere' does not exist\. Expected a feature store"),
        (path / "head.safetensors", "is a file, not a feature store"),
    ):
        with pytest.raises(StoreError, match=message):
            FeatureStore.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"format": "other"}', "not the manifest of a feature store"),
        ('{"format": "adue-feature-store", "format_version": 1}', "'n_rows' is missing"),
    ],
)
def test_a_broken_manifest_is_named(path, content, message):
    (path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=rf"manifest\.json.*{message}"):
        FeatureStore.open(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, "format version 4; .* Upgrade"),
        ({"format_version": "1"}, "'format_version' is '1'; expected a valid integer"),
        ({"n_rows": 11}, "promises 11 rows but lists shards with 10"),
        ({"shards": []}, "shards"),
        ({"shards": [{"file": "../x"}]}, "shards"),
        ({"n_features": "3"}, "n_features"),
        ({"head": None}, "head"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused(path, changes, message):
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(StoreError, match=message):
        FeatureStore.open(path)


# --- writing ----------------------------------------------------------------------------------


def test_an_existing_store_or_any_other_content_is_never_overwritten(path, tmp_path, arrays):
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(StoreError, match="already holds a store"):
        FeatureStore.create(path, **arrays)
    assert before == {file.name: file.read_bytes() for file in path.iterdir()}
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        FeatureStore.create(tmp_path / "file", **arrays)
    with pytest.raises(StoreError, match="is not empty"):
        FeatureStore.create(tmp_path, **arrays)


def test_a_store_without_rows_is_refused(tmp_path, arrays):
    with (
        pytest.raises(StoreError, match="at least one"),
        FeatureStoreWriter(tmp_path / "s", init_W=arrays["init_W"], labelled=False),
    ):
        pass


def test_labels_come_with_every_shard_or_with_none(tmp_path, arrays):
    for labelled, labels in ((True, None), (False, [0])):
        writer = FeatureStoreWriter(tmp_path / str(labelled), init_W=np.eye(2), labelled=labelled)
        with pytest.raises(StoreError, match="labels: "), writer:
            writer.write_shard(np.ones((1, 2)), np.ones((1, 2)), labels, [0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.full((10, 3), np.nan)}, "features: NaN or inf .* row 0"),
        ({"features": np.full((10, 3), 1e300)}, "features: NaN or inf"),
        ({"features": np.ones(10)}, r"features: expected shape \(at least 1, at least 1\)"),
        ({"features": np.ones((0, 3))}, "features: expected shape"),
        ({"features": [["a"]]}, "features: expected numbers"),
        ({"features": np.ones((10, 4))}, "features: "),
        ({"features": [[1.0], [1.0, 2.0]]}, "features: "),
        ({"labels": np.full(10, 2)}, "labels: 2 is out of range"),
        ({"labels": np.full(10, -1)}, "labels: -1 is out of range"),
        ({"labels": np.ones(10)}, "labels: expected integers, got dtype float64"),
        ({"labels": ["a"] * 10}, "labels: expected integers"),
        ({"labels": np.zeros(9, int)}, r"labels: expected shape \(10\), got \(9,\)"),
        ({"ids": np.zeros(9, int)}, "ids: expected shape"),
        ({"logits": np.zeros((10, 3))}, "logits: expected shape"),
        ({"init_b": np.zeros(3)}, r"init_b has shape .*expected \(2,\)"),
        ({"init_W": np.zeros((2, 3, 1))}, r"init_W has shape \(2, 3, 1\); expected"),
        ({"classes": ["a"]}, "classes: expected 2"),
        ({"classes": ["a", "a"]}, "classes: expected 2 different"),
        ({"classes": "ab"}, "classes: expected a list of str"),
        ({"classes": 3}, "classes: expected a list of str"),
        ({"provenance": {"x": np.ones(2)}}, "provenance: expected only values that JSON supports"),
        (
            {"provenance": {"x": float("nan")}},
            "provenance: expected only values that JSON supports",
        ),
        ({"shard_rows": 0}, "shard_rows: expected an integer of at least 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path, arrays, changes, message
):
    with pytest.raises(ValueError, match=message):
        FeatureStore.create(tmp_path / "store", **(arrays | changes))
    assert not (tmp_path / "store").exists()


@marks.odd_rows
def test_shards_are_read_one_by_one_by_memory_map_and_fitted_without_putting_them_together(
    tmp_path,
):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 3, 50)
    W = rng.normal(size=(3, 5)).astype(np.float32)
    store = FeatureStore.create(tmp_path / "store", features=X, labels=y, init_W=W, shard_rows=20)
    scorer = MahalanobisScorer()
    for shard in store.iter_shards():
        base = shard["features"]
        while getattr(base, "base", None) is not None and not isinstance(base, mmap.mmap):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert not shard["features"].flags.writeable
        scorer.partial_fit(shard["features"], shard["labels"], store.init_W)
    whole = MahalanobisScorer().fit(X, y, W)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(X), whole.predict_uncertainty(X), rtol=1e-5
    )

"""Damaged stores: every damaged file is named, the rest stays readable."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(10, 3)), RNG.integers(0, 2, size=10), RNG.normal(size=(2, 3))
SHARD = "shard-00001.safetensors"  # rows 4 to 7
OLD = Path(__file__).parent / "data" / "store-v1"


def make_store(folder):
    return FeatureStore.create(folder, features=X, labels=Y, init_W=W, shard_rows=4)


@pytest.fixture
def path(tmp_path):
    make_store(tmp_path / "store")
    return tmp_path / "store"


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file, position=-3):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file):
    file.write_bytes(b"")


def replace_by_a_folder(file):
    file.unlink()
    file.mkdir()


def replace_by_another_shard(file):
    shutil.copy(file.with_name("shard-00000.safetensors"), file)


WAYS = [truncate, flip, lengthen, empty, Path.unlink, replace_by_a_folder, replace_by_another_shard]
every_way = pytest.mark.parametrize("damage", WAYS, ids=lambda way: way.__name__)


@every_way
def test_the_rows_of_sound_shards_are_read_and_the_damaged_one_is_named(path, damage):
    damage(path / SHARD)
    with pytest.warns(UserWarning, match=rf"{SHARD}.*\(rows 4 to 7\)\. These rows are left out"):
        store = FeatureStore.open(path, skip_damaged=True)
    remain = [0, 1, 2, 3, 8, 9]
    assert len(store) == 6
    assert store.ids.tolist() == remain
    assert store.labels.tolist() == Y[remain].tolist()
    np.testing.assert_array_equal(store.features, X[remain].astype(np.float32))
    assert store.logits.shape == (6, 2)
    assert [(item.file, item.rows) for item in store.damaged] == [(path / SHARD, range(4, 8))]
    with pytest.raises(StoreError, match="or extract the store again"):
        store.append(features=X[:1], labels=[0])


@given(
    position=st.integers(0, 335),
    change=st.binary(min_size=1, max_size=12),
    keep=st.integers(0, 12) | st.none(),
)
@pytest.mark.filterwarnings("ignore:Feature store file")
def test_whatever_happens_to_the_bytes_of_a_shard_is_found(
    tmp_path_factory, position, change, keep
):
    path = tmp_path_factory.mktemp("store")
    make_store(path)
    file = path / SHARD
    content = file.read_bytes()
    rest = content[position + len(change) :]
    damaged = content[:position] + change + (rest if keep is None else rest[:keep])
    file.write_bytes(damaged)
    with contextlib.suppress(StoreError):  # found now, or by its sha256; never another error
        np.isfinite(FeatureStore.open(path).features).all()
    store = FeatureStore.open(path, skip_damaged=True)
    assert len(store) == (10 if damaged == content else 6)


def test_a_sound_store_is_opened_whole_and_in_silence(path, recwarn):
    store = FeatureStore.open(path, skip_damaged=True)
    assert len(store) == 10
    assert not store.damaged
    assert not recwarn


@every_way
def test_verify_names_every_damaged_file(path, damage):
    store = FeatureStore.open(path)
    flip(path / "shard-00000.safetensors")
    damage(path / SHARD)
    with pytest.raises(StoreError) as raised:
        store.verify()
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert "shard-00000.safetensors' cannot be used: its sha256" in lines[0]
    assert SHARD in lines[1]
    assert "skip_damaged=True" in lines[2]


def test_a_strict_open_says_how_to_go_on(path):
    truncate(path / SHARD)
    empty(path / "shard-00002.safetensors")
    with pytest.raises(StoreError, match="skip_damaged=True") as raised:
        FeatureStore.open(path)
    for name in (SHARD, "shard-00002.safetensors"):
        assert name in str(raised.value)


def test_nothing_is_read_without_the_head_or_without_any_sound_shard(path):
    for file in path.glob("shard-*"):
        flip(file)
    with pytest.raises(StoreError, match=r"(?s)shard-00000.*shard-00001.*shard-00002"):
        FeatureStore.open(path, skip_damaged=True)
    flip(path / "head.safetensors")
    with pytest.raises(StoreError, match=r"(?s)head\.safetensors.*any other store of the same"):
        FeatureStore.open(path, skip_damaged=True)


def test_the_head_is_restored_from_another_store_of_the_model(path, tmp_path):
    FeatureStore.create(tmp_path / "other", features=X[:2], init_W=W)
    flip(path / "head.safetensors")
    shutil.copy(tmp_path / "other" / "head.safetensors", path)
    FeatureStore.open(path).verify()


# --- format versions --------------------------------------------------------------------------


def test_a_store_of_format_version_1_is_read():
    store = FeatureStore.open(OLD)
    store.verify()
    assert (len(store), store.n_features, store.n_classes) == (5, 3, 2)
    assert store.labels.tolist() == [0, 1, 1, 0, 1]
    assert store.ids.tolist() == [3, 1, 4, 15, 9]
    assert store.classes == ["bad", "good"]
    assert store.provenance["truncated_rows"] == 1
    assert store.init_b.tolist() == [0.5, -0.25]
    np.testing.assert_allclose(store.features[4], [-2.3250308, -0.2187917, -1.245911], rtol=1e-6)
    np.testing.assert_allclose(store.init_W[0], [-0.7322674, -0.544259, -0.3163001], rtol=1e-6)
    np.testing.assert_allclose(
        store.logits, store.features @ store.init_W.T + store.init_b, rtol=1e-5
    )


def test_a_store_of_format_version_1_is_appended_to(tmp_path):
    shutil.copytree(OLD, tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store").append(features=[[1, 2, 3]], labels=[1])
    assert store.ids.tolist() == [3, 1, 4, 15, 9, 16]


def test_a_newer_format_is_refused_by_everything(tmp_path):
    shutil.copytree(OLD, tmp_path / "store")
    file = tmp_path / "store" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 4}))
    with pytest.raises(StoreError, match=r"format version 4; .* reads versions 1 to 3\. Upgrad"):
        FeatureStore.open(tmp_path / "store")

"""Resumed, appended to, interrupted, out of space, two at once: what is on disk afterwards."""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from adue_sklearn._utils.views import text_digests
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import (
    FeatureStore,
    FeatureStoreWriter,
    extract_features,
    load_classifier,
)
from tests import marks
from tests.lora_cases import make_texts, make_tokenizer

W = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]], dtype=np.float32)


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return {"features": rng.normal(size=(n, 3)), "labels": rng.integers(0, 2, size=n)}


def content(folder):
    """Return name and bytes of every file but the note that a killed writer leaves."""
    files = Path(folder).iterdir()
    return {file.name: file.read_bytes() for file in files if file.name != ".writer.json"}


@pytest.fixture
def path(tmp_path):
    FeatureStore.create(tmp_path / "store", init_W=W, shard_rows=4, **rows(10))
    return tmp_path / "store"


# Texts are cut and labels drawn, so that what is counted of them is not nought.
pytestmark = [marks.cut_texts, marks.odd_rows]


@pytest.fixture(scope="module")
def classifier(make_saved_case):
    # On the CPU: a process that has used a GPU cannot be forked.
    return load_classifier(make_saved_case("roberta", 2).adapter, max_length=20, device="cpu")


TEXTS = make_texts(11, longest=30)
LABELS = [0, 1] * 5 + [1]
# So few tokens a batch that every shard is run by itself, and written before the next one.
EXTRACTION = {"labels": LABELS, "shard_rows": 4, "batch_tokens": 2}


@contextlib.contextmanager
def before_every_system_call(act):
    """Call ``act`` before each flush to disk and each renaming."""
    fsync, rename = os.fsync, os.replace
    path_replace = Path.replace

    def acting(function):
        def call(*arguments):
            act()
            return function(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", acting(fsync))
        patch.setattr(os, "replace", acting(rename))
        patch.setattr(Path, "replace", acting(path_replace))
        yield


def moments(folder, write):
    """Run ``write``; return copies of the folder as a kill would leave it, moment by moment."""
    copies = []

    def snapshot():
        copy = folder.with_name(f"{folder.name}-{len(copies)}")
        shutil.copytree(folder, copy)
        copies.append(copy)

    with before_every_system_call(snapshot):
        write(folder)
    return copies


already_there = pytest.mark.filterwarnings("ignore:.*holds the rows of these:UserWarning")


# --- resume -----------------------------------------------------------------------------------


@already_there
def test_an_extraction_killed_at_any_moment_ends_with_the_same_bytes(classifier, tmp_path):
    def extract(out):  # all shards in one window: most are left in the middle of it
        extract_features(classifier, TEXTS, out, **EXTRACTION | {"batch_tokens": 60})

    whole = tmp_path / "whole"
    left = moments(whole, extract)
    assert len(left) > 15  # several moments a file, six files
    names = set()
    for folder in left:
        names |= set(content(folder))
        if not (folder / "manifest.json").exists():
            with pytest.raises(StoreError, match="not a finished feature store"):
                FeatureStore.open(folder)
        extract(folder)
        assert content(folder) == content(whole)
        assert not (folder / ".writer.json").exists()
    assert any(name.endswith(".tmp") for name in names)  # half files were among what was left
    FeatureStore.open(whole).verify()


@already_there
def test_a_store_is_replaced_when_the_new_one_is_finished(classifier, tmp_path):
    options = {"shard_rows": 4, "overwrite": True}
    whole = content(extract_features(classifier, TEXTS[:6], tmp_path / "whole", **options).path)
    FeatureStore.create(tmp_path / "p" / "s", init_W=W, **rows(10))
    old = content(tmp_path / "p" / "s")

    def replace(folder):
        extract_features(classifier, TEXTS[:6], folder / "s", **options)

    with pytest.raises(StoreError, match="already holds a store"):
        extract_features(classifier, TEXTS[:6], tmp_path / "p" / "s", shard_rows=4)
    (tmp_path / "p" / "s" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="also holds other files"):
        replace(tmp_path / "p")
    (tmp_path / "p" / "s" / "notes.txt").unlink()
    seen = set()
    for folder in moments(tmp_path / "p", replace):
        if (folder / "s").exists():
            found = {
                name: data for name, data in content(folder / "s").items() if ".tmp" not in name
            }
            assert found in (whole, old)
            seen.add("new" if found == whole else "old")
            FeatureStore.open(folder / "s").verify()
        replace(folder)
        assert content(folder / "s") == whole
        assert [file.name for file in folder.iterdir()] == ["s"]
    assert seen == {"old", "new"}
    assert content(tmp_path / "p" / "s") == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_killed_is_gone_on_with(classifier, tmp_path):
    def run_until_killed():
        def kill(n_rows):
            if (tmp_path / "killed" / "shard-00001.safetensors").exists():
                os.kill(os.getpid(), signal.SIGKILL)

        extract_features(classifier, TEXTS, tmp_path / "killed", progress=kill, **EXTRACTION)

    process = multiprocessing.get_context("fork").Process(target=run_until_killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = content(tmp_path / "killed")
    assert "shard-00001.safetensors" in left
    assert "manifest.json" not in left

    done = []
    extract_features(classifier, TEXTS, tmp_path / "killed", progress=done.append, **EXTRACTION)
    assert done[0] == 8  # what the killed run had done is not run again
    assert sum(done) == len(TEXTS)
    extract_features(classifier, TEXTS, tmp_path / "whole", **EXTRACTION)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert left["shard-00001.safetensors"] == content(tmp_path / "whole")["shard-00001.safetensors"]


def test_a_run_that_is_resumed_in_the_middle_of_a_window_ends_with_the_same_bytes(
    classifier, tmp_path
):
    texts, done = make_texts(40, longest=30, seed=1), []
    options = {"shard_rows": 3, "batch_tokens": 20}  # windows of 240 tokens: several shards
    whole = extract_features(classifier, texts, tmp_path / "whole", **options)
    for n_kept in (1, 2, 8, 13):
        left = tmp_path / str(n_kept)
        shutil.copytree(whole.path, left)
        manifest = json.loads((left / "manifest.json").read_text())
        (left / "manifest.json").unlink()
        manifest |= {"shards": manifest["shards"][:n_kept], "n_rows": 3 * n_kept}
        (left / "unfinished.json").write_text(json.dumps(manifest))
        done.clear()
        extract_features(classifier, texts, left, progress=done.append, **options)
        assert (done[0], sum(done)) == (3 * n_kept, 40)
        assert content(left) == content(whole.path)


def interrupted(classifier, out, *, after=1, texts=TEXTS, **options):
    """Extract until ``after`` shards are written."""

    def stop(n_rows):
        if len(list(Path(out).glob("shard-*"))) >= stop.before + after:
            raise KeyboardInterrupt

    stop.before = len(list(Path(out).glob("shard-*")))
    with pytest.raises(KeyboardInterrupt):
        extract_features(classifier, texts, out, progress=stop, **(EXTRACTION | options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": [*TEXTS[:-1], "w1"]}, "texts differ"),
        (
            {"texts": TEXTS[:-1], "labels": LABELS[:-1]},
            r"n_rows \(11 before, 10 now\); texts differ",
        ),
        ({"labels": LABELS[::-1]}, "labels differ"),
        ({"labels": None}, "labelled .True before, False now."),
        ({"shard_rows": 3}, r"shard_rows \(4 before, 3 now\)"),
        ({"max_length": 19}, r"max_length \(20 before, 19 now\)"),
        ({"dtype": "bfloat16"}, r"precision \('float32' before, 'bfloat16' now\)"),
        ({"classes": ["no", "yes"]}, r"classes \(None before, \['no', 'yes'\] now\)"),
        ({"tokenizer": make_tokenizer(encoder=False)}, "tokens differ"),
        ({"versions": {"torch": "1.0"}}, r"versions \(.* before, \{'torch': '1.0'\} now\)"),
        ({"family": "electra"}, "adapter differ; architecture .*Roberta.* before"),
        ({"resume": False}, "holds an interrupted extraction. Resume it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_extraction_is_not_resumed_and_the_difference_is_named(
    make_saved_case, classifier, tmp_path, changes, message
):
    import torch

    interrupted(classifier, tmp_path / "s")
    before = content(tmp_path / "s")
    changes = dict(changes)
    adapter = make_saved_case(changes.pop("family", "roberta"), 2).adapter
    loading = {"max_length": 20, "device": "cpu"} | {
        name: changes.pop(name)
        for name in ("max_length", "dtype", "classes", "tokenizer")
        if name in changes
    }
    if "dtype" in loading:
        loading["dtype"] = getattr(torch, loading["dtype"])
    other = load_classifier(adapter, **loading)
    if "versions" in changes:
        other.provenance["versions"] = changes.pop("versions")
    arguments = {"texts": TEXTS, **EXTRACTION} | changes
    with pytest.raises(StoreError, match=message) as raised:
        extract_features(other, out=tmp_path / "s", **arguments)
    assert "delete the directory, or choose another path" in str(raised.value)
    assert content(tmp_path / "s") == before


def test_a_shard_that_was_damaged_meanwhile_is_extracted_again(classifier, tmp_path):
    extract_features(classifier, TEXTS, tmp_path / "whole", **EXTRACTION)
    interrupted(classifier, tmp_path / "s", after=2)
    shard = tmp_path / "s" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match=r"shard-00000.*sha256.*rows 0 to 3.*extracted again"):
        extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_the_same_extraction_again_does_nothing_and_says_so(classifier, tmp_path):
    store = extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)
    before = content(tmp_path / "s")
    with pytest.warns(UserWarning, match="already holds the rows of these 11 texts"):
        again = extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)
    assert content(tmp_path / "s") == before
    np.testing.assert_array_equal(again.features, store.features)
    for changes in ({"labels": LABELS[::-1]}, {"resume": False}):
        with pytest.raises(StoreError, match="already holds a store"):
            extract_features(classifier, TEXTS, tmp_path / "s", **(EXTRACTION | changes))


def without_digests(manifest_file):
    """Make a manifest one that an earlier version would have written."""
    manifest = json.loads(manifest_file.read_text())
    del manifest["text_digests"]
    manifest_file.write_text(json.dumps(manifest | {"format_version": 1}))


def test_an_extraction_that_an_earlier_version_began_is_not_resumed(classifier, tmp_path):
    interrupted(classifier, tmp_path / "s")
    without_digests(tmp_path / "s" / "unfinished.json")
    with pytest.raises(StoreError, match="no digests of the texts, because an earlier version"):
        extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)


def test_rows_appended_to_a_store_of_an_earlier_version_have_no_digests_either(
    classifier, tmp_path
):
    store = extract_features(classifier, TEXTS[:8], tmp_path / "s", shard_rows=4)
    np.testing.assert_array_equal(store.text_digests, text_digests(TEXTS[:8]))
    without_digests(tmp_path / "s" / "manifest.json")
    options = {"shard_rows": 2, "append": True, "batch_tokens": 2, "labels": None}
    interrupted(classifier, tmp_path / "s", texts=TEXTS[8:], **options)
    store = extract_features(classifier, TEXTS[8:], tmp_path / "s", **EXTRACTION | options)
    assert (len(store), store.text_digests) == (11, None)
    store.verify()


def test_an_interrupted_extraction_kept_as_it_is_becomes_a_store_by_renaming(classifier, tmp_path):
    interrupted(classifier, tmp_path / "s", after=2)
    (tmp_path / "s" / "unfinished.json").rename(tmp_path / "s" / "manifest.json")
    store = FeatureStore.open(tmp_path / "s")
    store.verify()
    assert store.labels.tolist() == LABELS[:8]


# --- append -----------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    shard_rows=st.integers(1, 8),
    labelled=st.booleans(),
)
def test_appended_rows_follow_those_that_were_there(tmp_path_factory, sizes, shard_rows, labelled):
    path = tmp_path_factory.mktemp("store")
    parts = [rows(n, seed) for seed, n in enumerate(sizes)]
    if not labelled:
        parts = [{"features": part["features"]} for part in parts]
    store = FeatureStore.create(path, init_W=W, init_b=[0.5, 0.0], shard_rows=3, **parts[0])
    for part in parts[1:]:
        assert store.append(shard_rows=shard_rows, **part) is store
    X = np.concatenate([part["features"] for part in parts])
    for same in (store, FeatureStore.open(path)):
        same.verify()
        np.testing.assert_array_equal(same.features, X.astype(np.float32))
        np.testing.assert_array_equal(same.ids, np.arange(sum(sizes)))
        np.testing.assert_allclose(same.logits, X @ W.T + [0.5, 0.0], atol=1e-5)
        if labelled:
            assert same.labels.tolist() == [y for part in parts for y in part["labels"]]
        else:
            assert same.labels is None


def test_ids_go_on_after_the_largest_unless_they_are_given(path):
    store = FeatureStore.open(path)
    store.append(ids=[70, 3], **rows(2))
    store.append(**rows(2))
    assert store.ids.tolist() == [*range(10), 70, 3, 71, 72]
    store.append(ids=[2**63 - 1], **rows(1))
    with pytest.raises(StoreError, match=r"ids: .*2 more would overflow; pass the ids"):
        store.append(**rows(2))


def test_an_old_store_object_appends_to_what_the_store_is_now(path):
    first, second = FeatureStore.open(path), FeatureStore.open(path)
    first.append(**rows(2))
    assert len(second) == 10
    assert len(second.append(**rows(3))) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "labels: .* has labels; expected those of further rows too"),
        ({"labels": [0, 2]}, "labels: 2 is out of range"),
        ({"features": np.ones((2, 4))}, "features: 4 columns, but init_W has 3"),
        ({"features": np.full((2, 3), np.nan)}, "features: NaN or inf"),
        ({"features": np.ones((2, 4)), "logits": np.ones((2, 2))}, "features: 4 columns"),
        ({"ids": [1]}, "ids: expected shape"),
        ({"logits": np.ones((2, 3))}, "logits: expected shape"),
        ({"shard_rows": 0}, "shard_rows: expected an integer"),
    ],
)
def test_rows_that_do_not_fit_the_store_are_refused_and_change_nothing(path, changes, message):
    store, before = FeatureStore.open(path), content(path)
    with pytest.raises(ValueError, match=message):
        store.append(**(rows(2) | changes))
    assert content(path) == before
    assert len(store) == 10


def test_labels_are_not_appended_to_an_unlabelled_store(tmp_path):
    store = FeatureStore.create(tmp_path, init_W=W, features=rows(2)["features"])
    with pytest.raises(StoreError, match=r"labels: .* has no labels; leave out"):
        store.append(**rows(2))


def test_an_append_killed_at_any_moment_leaves_the_old_store_or_the_new(path, tmp_path):
    old = content(path)

    def append(folder):
        FeatureStore.open(folder).append(shard_rows=2, **rows(5, seed=1))

    left = moments(path, append)
    new = content(path)
    for folder in left:
        store = FeatureStore.open(folder)
        store.verify()
        assert len(store) in (10, 15)
        if len(store) == 10:  # what was left over is overwritten by the next append
            assert {name: content(folder)[name] for name in old} == old
            append(folder)
        assert content(folder) == new


def test_extracted_rows_are_appended_as_if_extracted_at_once(classifier, tmp_path):
    whole = extract_features(classifier, TEXTS, tmp_path / "whole", **EXTRACTION)
    for part, append in ((slice(0, 8), False), (slice(8, 11), True)):
        store = extract_features(
            classifier, TEXTS[part], tmp_path / "s", labels=LABELS[part], shard_rows=4,
            batch_tokens=2,
            append=append,
        )  # fmt: skip
    for name in ("features", "logits", "labels", "ids"):
        np.testing.assert_array_equal(getattr(store, name), getattr(whole, name))
    assert store.provenance == whole.provenance
    assert store.provenance["truncated_rows"] == sum(len(t.split()) > 18 for t in TEXTS) > 0


@already_there
def test_an_appending_extraction_killed_at_any_moment_ends_with_the_same_bytes(
    classifier, tmp_path
):
    extract_features(classifier, TEXTS[:5], tmp_path / "s", labels=LABELS[:5], shard_rows=4)

    def append(out):
        return extract_features(
            classifier, TEXTS[5:], out, labels=LABELS[5:], shard_rows=4, append=True
        )

    left = moments(tmp_path / "s", append)
    for folder in left:
        assert len(FeatureStore.open(folder)) in (5, 11)
        append(folder)
        assert content(folder) == content(tmp_path / "s")


def test_texts_are_not_appended_twice(classifier, tmp_path):
    extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)
    with pytest.warns(UserWarning, match="already holds the rows of these 11 texts"):
        store = extract_features(
            classifier, TEXTS, tmp_path / "s", labels=LABELS, shard_rows=2, append=True
        )
    assert len(store) == 11


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        ({"family": "electra"}, "adapter differ; architecture"),
        ({"max_length": 19}, r"max_length \(20 before, 19 now\)"),
        ({"classes": ["no", "yes"]}, "classes"),
    ],
)
def test_features_of_another_model_are_not_appended(
    make_saved_case, classifier, tmp_path, loading, message
):
    extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)
    before = content(tmp_path / "s")
    loading = {"max_length": 20, "device": "cpu"} | loading
    other = load_classifier(make_saved_case(loading.pop("family", "roberta"), 2).adapter, **loading)
    with pytest.raises(StoreError, match=f"holds different features: .*{message}"):
        extract_features(other, ["w1"], tmp_path / "s", labels=[0], append=True)
    assert content(tmp_path / "s") == before


def test_another_library_version_or_path_is_appended_with_a_warning_and_on_record(
    classifier, make_saved_case, tmp_path
):
    extract_features(classifier, TEXTS, tmp_path / "s", **EXTRACTION)
    other = load_classifier(make_saved_case("roberta", 2).adapter, max_length=20, device="cpu")
    other.provenance["versions"] = {"torch": "99"}
    with pytest.warns(
        UserWarning, match=r"made under other conditions \(versions .* \{'torch': '99'\} now"
    ):
        extract_features(other, ["w1"], tmp_path / "s", labels=[0], append=True)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["provenance"]["versions"] == classifier.provenance["versions"]
    assert manifest["extractions"][1]["provenance"]["versions"] == {"torch": "99"}


def test_an_interrupted_append_is_finished_or_dropped_before_another(classifier, tmp_path):
    extract_features(classifier, TEXTS[:5], tmp_path / "s", labels=LABELS[:5])
    interrupted(classifier, tmp_path / "s", texts=TEXTS, append=True)
    before = content(tmp_path / "s")
    row = {"features": np.ones((1, 16)), "labels": [0], "text_digests": text_digests(["w1"])}
    with pytest.raises(StoreError, match=r"another interrupted extraction\. Finish it, or drop it"):
        FeatureStore.open(tmp_path / "s").append(**row)
    with pytest.raises(StoreError, match=r"n_rows \(11 before, 1 now\).*drop it: delete"):
        extract_features(classifier, ["w1"], tmp_path / "s", labels=[0], append=True)
    assert content(tmp_path / "s") == before
    (tmp_path / "s" / "unfinished.json").unlink()
    store = extract_features(classifier, ["w1"], tmp_path / "s", labels=[0], append=True)
    assert len(store) == 6
    store.verify()


def test_nothing_is_appended_where_no_store_is(classifier, tmp_path):
    with pytest.raises(StoreError, match=r"s' does not exist\. Expected a feature store"):
        extract_features(classifier, ["w1"], tmp_path / "s", append=True)
    assert not (tmp_path / "s").exists()


# --- interrupted writers ------------------------------------------------------------------------


def writer_that_stops(folder, **options):
    writer = FeatureStoreWriter(folder, init_W=W, labelled=False, **options)
    with contextlib.suppress(KeyboardInterrupt), writer:
        writer.write_shard(np.ones((4, 3)), np.zeros((4, 2)), None, np.arange(4))
        raise KeyboardInterrupt


def test_a_writing_from_arrays_that_stopped_starts_over(tmp_path, path):
    writer_that_stops(tmp_path / "s")
    with pytest.raises(StoreError, match="not a finished feature store"):
        FeatureStore.open(tmp_path / "s")
    FeatureStore.create(tmp_path / "s", init_W=W, shard_rows=4, **rows(10))
    assert content(tmp_path / "s") == content(path)


def test_what_a_recorded_writer_left_is_not_overwritten_by_arrays(tmp_path):
    writer_that_stops(tmp_path / "s", extraction={"n_rows": 8})
    before = content(tmp_path / "s")
    with pytest.raises(StoreError, match="another interrupted extraction"):
        FeatureStore.create(tmp_path / "s", init_W=W, **rows(3))
    assert content(tmp_path / "s") == before


def test_an_extraction_that_failed_before_its_first_shard_is_in_nobodys_way(classifier, tmp_path):
    def fail(n_rows):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(classifier, TEXTS, tmp_path / "s", progress=fail)
    store = extract_features(classifier, TEXTS[:3], tmp_path / "s")
    store.verify()
    assert len(store) == 3


def test_an_append_begun_on_another_state_of_the_store_is_not_gone_on_with(classifier, tmp_path):
    extract_features(classifier, TEXTS[:4], tmp_path / "s", labels=LABELS[:4], shard_rows=2)
    interrupted(classifier, tmp_path / "s", append=True)
    file = tmp_path / "s" / "manifest.json"
    manifest = json.loads(file.read_text())
    one = {"shards": manifest["shards"][:1], "n_rows": 2}
    other = {"shards": manifest["shards"][::-1]}
    for changes, message in (
        (one, r"first_row \(4 before, 2 now\)"),
        (other, "the store's shards have changed"),
    ):
        file.write_text(json.dumps(manifest | changes))
        with pytest.raises(StoreError, match=message):
            extract_features(classifier, TEXTS, tmp_path / "s", append=True, **EXTRACTION)


def test_shards_are_written_inside_the_block_only(tmp_path):
    writer = FeatureStoreWriter(tmp_path / "s", init_W=W, labelled=False)
    with pytest.raises(StoreError, match="'with' block"):
        writer.write_shard(np.ones((4, 3)), np.zeros((4, 2)), None, np.arange(4))
    assert not (tmp_path / "s").exists()


# --- two writers ------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_the_first_is(path, tmp_path):
    first = FeatureStoreWriter(tmp_path / "s", init_W=W, labelled=False)
    held = rf"'.*s' is being written by process {os.getpid()} on .+\. Wait"
    with first:
        first.write_shard(np.ones((4, 3)), np.zeros((4, 2)), None, np.arange(4))
        with pytest.raises(StoreError, match=held):
            FeatureStore.create(tmp_path / "s", init_W=W, **rows(3))
    assert len(FeatureStore.open(tmp_path / "s")) == 4
    with FeatureStoreWriter(path, init_W=W, labelled=True, append=True) as writer:
        with pytest.raises(StoreError, match="is being written by process"):
            FeatureStore.open(path).append(**rows(1))
        assert len(FeatureStore.open(path)) == 10  # readers are not held up
        writer.write_shard(np.ones((1, 3)), np.zeros((1, 2)), [0], [10])
    assert len(FeatureStore.open(path)) == 11


# --- disk full --------------------------------------------------------------------------------


class FullDisk:
    """Fails the n-th flush, or writes half of the n-th file and then has no space left."""

    def __init__(self, patch, n, where):
        self.left, self.where, self.failed = n, where, False
        fsync, opened = os.fsync, os.fdopen

        def full_fsync(descriptor):
            self.fail_at("flush")
            return fsync(descriptor)

        def full_open(descriptor, mode="r", *arguments, **keywords):
            stream = opened(descriptor, mode, *arguments, **keywords)
            return self.wrap(stream) if "w" in mode else stream

        patch.setattr(os, "fsync", full_fsync)
        patch.setattr(os, "fdopen", full_open)

    def fail_at(self, where):
        if where == self.where:
            self.left -= 1
            if self.left < 0 and not self.failed:
                self.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrap(self, stream):
        write = stream.write

        class Half:
            def __enter__(half):  # noqa: N805
                return half

            def __exit__(half, *exc):  # noqa: N805
                stream.close()

            def __getattr__(half, name):  # noqa: N805
                return getattr(stream, name)

            def write(half, content):  # noqa: N805
                try:
                    self.fail_at("write")
                except OSError:
                    write(content[: len(content) // 2])
                    raise
                return write(content)

        return Half()


@pytest.mark.parametrize("where", ["write", "flush"])
@pytest.mark.parametrize("what", ["create", "append", "extract"])
def test_a_full_disk_leaves_a_store_that_is_valid_or_gone_on_with(
    classifier, tmp_path, where, what
):
    def write(folder):
        if what == "extract":
            few = EXTRACTION | {"labels": LABELS[:6]}
            extract_features(classifier, TEXTS[:6], folder, **few)
        elif what == "create":
            FeatureStore.create(folder, init_W=W, shard_rows=4, **rows(10))
        else:
            FeatureStore.open(folder).append(shard_rows=2, **rows(5, seed=1))

    def begin(folder):
        if what == "append":
            FeatureStore.create(folder, init_W=W, shard_rows=4, **rows(10))

    begin(tmp_path / "whole")
    write(tmp_path / "whole")
    n_rows = len(FeatureStore.open(tmp_path / "whole"))
    n, failed = 0, True
    while failed:
        folder = tmp_path / f"full-{n}"
        begin(folder)
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, n, where)
            error = error_of(write, folder)
            failed = disk.failed
        assert failed == (error is not None)
        assert not list(folder.glob(".*.tmp"))
        if what == "append" or not failed:
            FeatureStore.open(folder).verify()
        finished = (folder / "manifest.json").exists() and len(FeatureStore.open(folder)) == n_rows
        if failed:
            assert "No space left on device" in error
            assert str(folder) in error
            assert (
                "Free some space there, then run the same again" in error
                or "was written, but" in error
            )
            assert not finished or "was written, but" in error
        if not finished:
            write(folder)
        assert content(folder) == content(tmp_path / "whole")
        n += 1
    assert n > 5


def error_of(write, folder):
    try:
        write(folder)
    except StoreError as error:
        return str(error)
    return None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/store' could not be written: Not a directory"):
        FeatureStore.create(tmp_path / "file" / "store", init_W=W, **rows(2))

"""``adue store`` and the interrupted, repeated and appending ``adue extract``."""

import json
import re

import numpy as np
import pytest

from adue_sklearn.features import FeatureStore, extractor
from tests.adapter_cases import save_another_adapter
from tests.lora_cases import make_texts

TEXTS = make_texts(10, longest=12)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    FeatureStore.create(
        path, features=np.eye(10, 3), labels=[0, 1] * 5, init_W=np.eye(2, 3),
        classes=["bad", "good"], provenance={"model": "tuned", "versions": {"torch": "2"}},
        shard_rows=4,
    )  # fmt: skip
    return path


@pytest.fixture
def extract(adue, make_saved_case, tmp_path):
    """Run ``adue extract`` on some texts to the folder ``store``."""

    def run(*options, texts=TEXTS):
        lines = [json.dumps({"text": text, "label": row % 2}) for row, text in enumerate(texts)]
        (tmp_path / "data.jsonl").write_text("\n".join(lines))
        return adue(
            "extract", make_saved_case("roberta", 2).adapter, tmp_path / "data.jsonl",
            "--out", tmp_path / "store", "--shard-rows", 4, "--device", "cpu", *options,
        )  # fmt: skip

    return run


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def interrupt(folder):
    """Leave what a run leaves that was stopped after its first shard."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"n_rows": 4, "shards": manifest["shards"][:1]}
    (folder / "manifest.json").unlink()
    (folder / "unfinished.json").write_text(json.dumps(manifest))
    (folder / "shard-00002.safetensors").unlink()


def test_info_tells_size_classes_and_origin(adue, store):
    status, out, _ = adue("store", "info", store)
    assert status == 0
    lines = out.splitlines()
    for line in (
        "rows: 10 in 3 shards", "features: 3", "classes: 2 (bad, good)", "labels: yes",
        "format version: 1", "model: tuned", "versions: torch 2",
    ):  # fmt: skip
        assert line in lines


def test_info_tells_of_views_and_text_digests(adue, store, tmp_path):
    assert "text digests: no" in adue("store", "info", store)[1].splitlines()
    FeatureStore.create(
        tmp_path / "views", features=np.eye(3), init_W=np.eye(3), views={"layer_2": np.eye(3, 2)},
        text_digests=np.arange(3, dtype=np.uint64),
    )  # fmt: skip
    lines = adue("store", "info", tmp_path / "views")[1].splitlines()
    assert {"text digests: yes", "view layer_2: 2 features", "format version: 3"} <= {*lines}


def test_info_points_at_what_is_wrong(adue, store):
    (store / "shard-00001.safetensors").unlink()
    status, out, _ = adue("store", "info", store)
    assert status == 0
    assert "shard-00001.safetensors' cannot be used: it is missing (rows 4 to 7)" in out


def test_verify_says_that_all_is_well(adue, store):
    status, out, err = adue("store", "verify", store)
    assert (status, err) == (0, "")
    assert "4 files are intact" in out


def test_verify_lists_every_damaged_file_and_fails(adue, store):
    flip(store / "shard-00000.safetensors")
    (store / "shard-00002.safetensors").write_bytes(b"")
    status, _, err = adue("store", "verify", store)
    assert status == 1
    for part in ("shard-00000.safetensors", "rows 0 to 3", "shard-00002", "rows 8 to 9"):
        assert part in err
    assert "shard-00001" not in err


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_path_without_a_store_is_one_line_on_stderr(adue, tmp_path, command):
    status, out, err = adue("store", command, tmp_path)
    assert (status, out) == (1, "")
    assert f"error: '{tmp_path}' is not a finished feature store" in err


def test_extract_goes_on_with_an_interrupted_run_and_says_so(adue, extract, tmp_path):
    assert extract()[0] == 0
    whole = content(tmp_path / "store")
    interrupt(tmp_path / "store")
    assert "unfinished: 4 of 10 rows done" in adue("store", "info", tmp_path / "store")[1]
    status, _, err = extract("--no-resume")
    assert status == 1
    assert "holds an interrupted extraction. Resume it (resume=True, --resume)" in err
    status, _, err = extract(texts=TEXTS[:-1])
    assert status == 1
    assert "a different interrupted extraction: n_rows (10 before, 9 now); texts differ" in err
    status, out, _ = extract()
    assert status == 0
    assert "Resumed an interrupted run that had finished 4 rows." in out
    assert content(tmp_path / "store") == whole


def test_ctrl_c_says_what_was_kept_and_how_to_go_on(extract, tmp_path, monkeypatch):
    run_head, calls = extractor.run_head, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == stop_at[0]:
            raise KeyboardInterrupt
        return run_head(*arguments)

    monkeypatch.setattr(extractor, "run_head", interrupted)
    stop_at = [0]
    for stop_at[0], message in [(1, "holds no rows yet"), (7, "holds 4 of 10 rows")]:
        calls.clear()
        status, _, err = extract("--batch-tokens", 1)
        assert status == 130
        assert message in err
        assert "the same command" in err
    monkeypatch.undo()
    status, out, _ = extract("--batch-tokens", 1)
    assert (status, "that had finished 4 rows" in out) == (0, True)


def test_extract_stores_views_and_info_shows_them(adue, extract, make_saved_case, tmp_path):
    other = save_another_adapter(make_saved_case("roberta", 2).adapter, tmp_path / "other")
    views = ("--layers", "1,2", "--pool", "last", "--base-view", "--companion", f"friend={other}")
    status, out, err = extract(*views, "--classes", "bad,good")
    assert (status, err.partition("error")[2]) == (0, "")
    assert "Views: layer_1, layer_2, base, friend." in out
    store = FeatureStore.open(tmp_path / "store")
    assert store.views().block("base").shape == (10, 16)
    np.testing.assert_allclose(np.exp(store.view("friend")).sum(axis=1), 1, atol=1e-6)
    lines = adue("store", "info", tmp_path / "store")[1].splitlines()
    assert "view layer_2: 16 features, layer 2, pool last" in lines
    friend, base = (
        next(line for line in lines if line.startswith(f"view {name}"))
        for name in ("friend", "base")
    )
    assert friend.startswith(f"view friend: 2 log-probabilities, model {other}, adapter sha256 ")
    assert base.endswith(", adapter switched off")
    status, _, err = extract("--classes", "bad,good", "--append", texts=TEXTS[:2])
    assert status == 1
    assert "views (layer_1, layer_2, base, friend before, none now)" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "1,x"), "--layers is '1,x'; expected layer numbers such as '4,8,12', or 'al"),
        (("--layers", "3"), "layers: 3 is not a layer of RobertaForSequenceClassification"),
        (("--layers", "1", "--pool", "max"), "pool: expected 'mean', 'first' or 'last', got 'max'"),
        (("--companion", "friend"), "--companion is 'friend'; expected NAME=ADAPTER"),
        (("--companion", "main=x"), "--companion: 'main' cannot name a view"),
        (("--companion", "a=x", "--companion", "a=y"), "--companion: 'a' was given twice"),
        (("--companion", "a=./none"), "--companion a: model: './none' does not exist"),
        (("--companion", "a={base}"), "--companion a: .*'classifier.*random numbers"),
        (("--companion", "a={here}"), "--companion a: model: .* holds neither an adapter "),
    ],
)
def test_views_that_cannot_be_extracted_are_refused(
    extract, make_saved_case, tmp_path, options, message
):
    places = {"base": make_saved_case("roberta", 2).base, "here": tmp_path}
    status, _, err = extract(*(option.format(**places) for option in options))
    assert status == 1
    assert re.search(message, err), err
    assert not (tmp_path / "store").exists()


def test_extract_appends_once(extract, tmp_path):
    assert extract(texts=TEXTS[:6])[0] == 0
    assert extract(texts=TEXTS[6:])[0] == 1
    status, out, _ = extract("--append", texts=TEXTS[6:])
    assert status == 0
    assert "store: 10 rows" in out
    assert FeatureStore.open(tmp_path / "store").ids.tolist() == list(range(10))
    status, _, err = extract("--append", texts=TEXTS[6:])
    assert status == 0
    assert "warning: " in err
    assert "already holds the rows of these 4 texts; nothing was done" in err


def test_info_tells_of_an_unfinished_append(adue, store):
    manifest = json.loads((store / "manifest.json").read_text())
    another = manifest["shards"][0] | {"file": "shard-00009.safetensors"}
    (store / "unfinished.json").write_text(
        json.dumps(
            manifest
            | {"n_rows": 14, "shards": [*manifest["shards"], another]}
            | {"extractions": [{"n_rows": 9}]}
        )
    )
    _, out, _ = adue("store", "info", store)
    assert "unfinished append: 4 of 9 rows done, not yet part of the store" in out

"""Texts in which there is nothing to read: counted, and left out on demand."""

import json
import warnings

import numpy as np
import pytest

from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import (
    extract_features,
    extractor,
    load_classifier,
    stream_features,
)
from adue_sklearn.features._model import batching

TEXTS = ["w1 w2", "", "w3", " \n\t\u200b", "w4 w5 w6", "w7", "\xa0", "w8"]
KEPT = [0, 2, 4, 5, 7]
LABELS = [0, None, 1, "?", 1, 0, -5, 1]


@pytest.fixture(scope="module")
def classifier(make_saved_case):
    return load_classifier(make_saved_case("roberta", 2).adapter, device="cpu")


def extract(classifier, path, texts=TEXTS, labels=LABELS, **options):
    options = {"skip_empty": True, "shard_rows": 2, **options}
    return extract_features(classifier, texts, path, labels=labels, **options)


def interrupt(folder):
    """Leave what a run leaves that was stopped after its first shard."""
    manifest = json.loads((folder / "manifest.json").read_text())
    first, *others = manifest["shards"]
    manifest |= {"n_rows": first["rows"], "shards": [first]}
    (folder / "manifest.json").unlink()
    (folder / "unfinished.json").write_text(json.dumps(manifest))
    for shard in others:
        (folder / shard["file"]).unlink()


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def messages(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught if "blank" in str(warning.message)]


def test_blank_texts_are_counted_with_the_first_rows(classifier, tmp_path):
    (said,) = messages(lambda: extract_features(classifier, TEXTS, tmp_path / "s"))
    assert "3 of 8 texts (37.5%) are empty or blank (rows 1, 3, 6, counted from 0)" in said
    assert "--skip-empty" in said
    assert "skip_empty=True" in said
    many = ["", *TEXTS, *["."] * 3, *[""] * 9]
    (said,) = messages(lambda: extract_features(classifier, many, tmp_path / "t"))
    assert "13 of 21 texts (61.9%) are empty or blank (rows 0, 2, 4, 7, 12, ..., counted" in said
    assert messages(lambda: extract(classifier, tmp_path / "u")) == []


def test_what_is_left_keeps_its_row_numbers_features_and_labels(classifier, tmp_path):
    store = extract(classifier, tmp_path / "s")
    assert store.ids.tolist() == KEPT
    assert store.labels.tolist() == [LABELS[row] for row in KEPT]
    alone = extract(classifier, tmp_path / "t", [TEXTS[row] for row in KEPT], [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(store.features, alone.features)
    assert alone.ids.tolist() == [0, 1, 2, 3, 4]


def test_a_label_that_counts_is_named_by_its_row_in_the_input(classifier, tmp_path):
    labels = [0, None, 1, "?", 7, 0, 0, 1]
    with pytest.raises(ValueError, match="labels: row 4 holds 7, but the head has"):
        extract(classifier, tmp_path / "s", labels=labels)
    with pytest.raises(ValueError, match=r"labels: expected one per text \(8\), got 5"):
        extract(classifier, tmp_path / "s", labels=[0, 1, 1, 0, 1])
    assert not (tmp_path / "s").exists()


def test_what_goes_wrong_later_is_named_by_its_row_in_the_input_too(
    classifier, tmp_path, monkeypatch
):
    def half_tokenised(tokenizer, texts, max_length=None):
        return {"input_ids": [[] if text == "w7" else [0, 2] for text in texts]}

    def check(head, features, logits, rows, eps):
        checked.extend(rows.tolist())

    checked = []
    monkeypatch.setattr(extractor, "check_batch", check)
    extract(classifier, tmp_path / "s")
    assert sorted(checked) == KEPT
    monkeypatch.setattr(batching, "_tokenise", half_tokenised)
    with pytest.raises(ValueError, match=r"row 5 \('w7'\) has no tokens.*skip_empty=True"):
        extract(classifier, tmp_path / "t")


@pytest.mark.filterwarnings("ignore:texts. .* are empty or blank")
def test_an_interrupted_run_is_gone_on_with_only_if_it_leaves_out_the_same(classifier, tmp_path):
    extract(classifier, tmp_path / "s", labels=None)
    whole = content(tmp_path / "s")
    interrupt(tmp_path / "s")
    with pytest.raises(
        StoreError, match=r"n_rows \(5 before, 8 now\).*skip_empty \(True before, ab"
    ):
        extract(classifier, tmp_path / "s", labels=None, skip_empty=False)
    moved = ["", *(TEXTS[row] for row in KEPT)]
    with pytest.raises(StoreError, match="a different interrupted extraction: row_numbers differ"):
        extract(classifier, tmp_path / "s", moved, labels=None)
    extract(classifier, tmp_path / "s", labels=None)
    assert content(tmp_path / "s") == whole


def test_without_blank_texts_leaving_them_out_changes_nothing(classifier, tmp_path):
    texts = [TEXTS[row] for row in KEPT]
    for skip_empty in (False, True):
        extract(classifier, tmp_path / str(skip_empty), texts, None, skip_empty=skip_empty)
    assert content(tmp_path / "True") == content(tmp_path / "False")


def test_rows_are_appended_and_replaced_without_their_blank_texts(classifier, tmp_path):
    extract(classifier, tmp_path / "s")
    store = extract(classifier, tmp_path / "s", ["", "w9", "", "w10"], [0, 1, 1, 0], append=True)
    assert store.ids.tolist() == [*KEPT, 9, 11]
    store = extract(classifier, tmp_path / "s", ["", "w9"], ["", 1], overwrite=True)
    assert (store.ids.tolist(), store.labels.tolist()) == ([1], [1])
    (record,) = json.loads((tmp_path / "s" / "manifest.json").read_text())["extractions"]
    assert (record["n_rows"], record["skip_empty"]) == (1, True)


def test_nothing_but_blank_texts_and_a_value_that_is_no_flag_are_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="texts: all 2 are empty or blank, so skip_empty"):
        extract(classifier, tmp_path / "s", ["", " "], labels=None)
    with pytest.raises(ValueError, match="skip_empty: expected True or False, got 'yes'"):
        extract(classifier, tmp_path / "s", skip_empty="yes")
    assert not (tmp_path / "s").exists()


def test_a_stream_says_once_how_many_texts_were_blank(classifier):
    said = messages(lambda: list(stream_features(classifier, iter(TEXTS), window_rows=3)))
    assert len(said) == 1
    assert "3 of 8 texts (37.5%) are empty or blank (rows 1, 3, 6, counted from 0)" in said[0]
    assert messages(lambda: list(stream_features(classifier, ["w1", "."]))) == []

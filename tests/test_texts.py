"""Reading labelled texts: formats, and what is said about bad files."""

from __future__ import annotations

import io
import json
import re
import sys

import datasets
import pytest

from adue_sklearn.cli.options import parse_classes
from adue_sklearn.cli.texts import iter_texts, read_texts

ROWS = [
    {"text": "a b", "label": "yes"},
    {"text": 'c, "d"', "label": "no"},
    {"text": "é", "label": "no"},
]


def write(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        datasets.Dataset.from_list(rows).to_csv(path)
    elif path.suffix == ".tsv":
        datasets.Dataset.from_list(rows).to_csv(path, sep="\t")
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_texts_and_labels_in_order(tmp_path, suffix):
    texts, labels = read_texts(write(tmp_path / f"data.{suffix}"), label_column="label")
    assert texts == [row["text"] for row in ROWS]
    assert labels == [row["label"] for row in ROWS]


def test_columns_can_be_named_and_labels_left_out(tmp_path):
    path = write(tmp_path / "data.jsonl", [{"sentence": "a", "y": 1}, {"sentence": "b", "y": 0}])
    assert read_texts(path, text_column="sentence", label_column="y") == (["a", "b"], [1, 0])
    assert read_texts(path, text_column="sentence", label_column=None) == (["a", "b"], None)


def test_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert read_texts(str(path), label_column=None).texts == ["a", "b"]


def test_texts_that_look_like_numbers_or_nothing_stay_texts(tmp_path):
    (tmp_path / "data.csv").write_text("text,label\nNA,1\n12,0\nnull,1\n")
    read = read_texts(str(tmp_path / "data.csv"), label_column="label")
    assert read == (["NA", "12", "null"], [1, 0, 1])


def test_a_byte_order_mark_is_skipped_and_another_encoding_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"text": "é"}\n'.encode())
    assert read_texts(str(path), label_column=None).texts == ["é"]
    path.write_bytes('{"text": "é"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"data\.jsonl is not UTF-8"):
        read_texts(str(path), label_column=None)


def read_both_ways(path):
    """Return the message of reading a file, which is the same whole and row by row."""
    messages = []
    for read in (lambda: read_texts(path, label_column="label"), lambda: list(iter_texts(path))):
        with pytest.raises(ValueError, match=r"\S") as caught:
            read()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return messages[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text;label\na, b;1\nc;0\n", "separated by semicolons: its first line is 'text"),
        ("a.csv", "text\tlabel\na\t1\n", "separated by tabs: .* Name it a.tsv, or save it"),
        ("a.tsv", "text,label\na,1\n", "separated by commas: .* Name it a.csv, or save it"),
        ("a.csv", "text,label\nwell, yes,1\n", "more columns than its first line. Put"),
    ],
)
def test_a_table_with_another_separator_is_said_to_have_it(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    assert re.search(message, read_both_ways(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("encoding", "seems"), [("latin-1", "Latin-1 or Windows-1252"), ("utf-16", "UTF-16")]
)
@pytest.mark.parametrize("row", ["text,label\né,1\n", "text;lébel\né;1\n"])
def test_a_table_in_another_encoding_is_said_to_be_in_it(tmp_path, encoding, seems, row):
    path = tmp_path / "data.csv"
    path.write_bytes(row.encode(encoding))
    message = read_both_ways(str(path))
    assert "data.csv is not UTF-8 ('utf-8' codec can't decode" in message
    assert f"It seems to be {seems}. Save it as UTF-8, for example with 'iconv -f" in message


def test_a_table_of_a_header_only_is_empty(tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"data\.csv is empty"):
        read_texts(str(tmp_path / "data.csv"), label_column="label")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_empty_file_is_named(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    if suffix == "parquet":
        datasets.Dataset.from_dict({"text": [], "label": []}).to_parquet(path)
    else:
        path.touch()
    # Older datasets cannot read a table without rows.
    with pytest.raises(ValueError, match=rf"data\.{suffix} (is empty|cannot be read as parquet)"):
        read_texts(str(path), label_column="label")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": "review"}, r"no column 'review'; it has 'text', 'label'.*--text-column"),
        ({"label_column": "y"}, r"no column 'y'; it has 'text', 'label'.*--label-column"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, suffix, options, message):
    path = write(tmp_path / f"data.{suffix}")
    with pytest.raises(ValueError, match=message):
        read_texts(path, **{"label_column": "label", **options})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label"', "line 2 is not JSON"),
        ('["a", 1]', "line 2 is a list, not an object"),
        ('{"text": 3, "label": 1}', "row 2: column 'text' holds 3, not a text"),
        ('{"text": null, "label": 1}', "row 2: column 'text' holds None"),
        ('{"text": "a", "label": null}', "row 2: column 'label' is null"),
        ('{"text": "a"}', "row 2 has no column 'label'"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "a", "label": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        read_texts(str(path), label_column="label")


def test_missing_files_and_unknown_formats_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl' does not exist"):
        read_texts(str(tmp_path / "gone.jsonl"), label_column=None)
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(ValueError, match="has an unknown format"):
        read_texts(str(tmp_path / "data.xlsx"), label_column=None)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nodata.txt", FileNotFoundError, r"'nodata\.txt' does not exist\. Expected a \.jsonl"),
        ("dir/x.csv", FileNotFoundError, r"'dir/x\.csv' does not exist: there is no folder 'dir'"),
        ("here/nodata", FileNotFoundError, r"'here/nodata' does not exist"),
        ("date.csv", FileNotFoundError, r"Did you mean 'data\.csv'\? Expected a \.jsonl"),
        ("here", IsADirectoryError, r"'here' is a folder\. Expected a \.jsonl, \.csv or"),
        ("here.csv", IsADirectoryError, r"'here\.csv' is a folder\. Expected a \.jsonl, \.csv or"),
    ],
)
def test_a_missing_path_or_a_folder_is_said_and_the_hub_not_asked(
    tmp_path, monkeypatch, name, error, message
):
    monkeypatch.setattr(datasets, "load_dataset", None)  # calling it would fail otherwise
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here.csv").mkdir()
    (tmp_path / "data.csv").touch()
    with pytest.raises(error, match=message):
        read_texts(name, label_column=None)


def test_class_names_in_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "classes.json").write_text('["no", "é"]', encoding="utf-8-sig")
    assert parse_classes(str(tmp_path / "classes.json")) == ["no", "é"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", b'{"0": "no"}', r"c\.json' holds {'0': 'no'}; expected a list of names in the"),
        ("c.json", b'["no", 1]', r"holds \['no', 1\]; expected a list of names"),
        ("c.json", b'["no"', r"c\.json' cannot be read as JSON: .* Expected a list of names"),
        ("c.json", b'["\xe9"]', r"c\.json' is not UTF-8 .*; save it as UTF-8"),
        ("d.json", b"[]", r"c\.json' does not exist\. Did you mean .*d\.json'\? Expected names"),
        ("c.json", None, r"c\.json' is a folder; expected names such as 'no,yes', or a \.json"),
    ],
)
def test_a_file_of_class_names_that_cannot_be_used_is_named(tmp_path, name, content, message):
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=f"^--classes: '.*{message}"):
        parse_classes(str(tmp_path / "c.json"))


def test_a_file_of_class_names_that_is_no_json_is_not_taken_for_a_name(tmp_path):
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    with pytest.raises(ValueError, match=r"--classes: '.*classes\.txt' is a file; expected names"):
        parse_classes(str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "standard input is empty"),
        (b'{"text": 3}', "standard input, row 1: column 'text' holds 3"),
        (b'{"words": "a"}', "standard input, row 1 has no column 'text'"),
    ],
)
def test_standard_input_is_called_so(monkeypatch, lines, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    with pytest.raises(ValueError, match=message):
        list(iter_texts("-"))


def test_a_name_that_is_neither_file_nor_hub_data_is_named():
    with pytest.raises(FileNotFoundError, match="is not a local file, and it could not be loaded"):
        read_texts("no_such/dataset:test", label_column=None)


@pytest.fixture
def hub(monkeypatch):
    """Serve a data set in the hub's place."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    splits = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features)
            for name in ("train", "test")
        }
    )

    def load_dataset(name, split=None):
        assert name == "someone/reviews"
        return splits[split] if split else splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_hub_data_gives_the_names_of_class_labels(hub):
    read = read_texts("someone/reviews:test", label_column="label")
    assert read == (["a", "b"], ["yes", "no"])


def test_hub_data_without_a_split_says_which_there_are(hub):
    with pytest.raises(ValueError, match=r"splits train, test; name one, such as .*:train"):
        read_texts("someone/reviews", label_column="label")

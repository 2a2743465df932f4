"""The command line from adapter and texts to scored lines, and what it says about bad input."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import typer

import adue_sklearn
from adue_sklearn import ErrorProbability, cli
from adue_sklearn.adue import search
from adue_sklearn.cli.app import app
from adue_sklearn.cli.console import console
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import load_head, save_head
from tests.lora_cases import make_texts
from tests.marks import printed_warnings

CLASSES = "bad,good"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, make_saved_case):
    """Hold an adapter, and labelled texts on which it errs one time in four."""
    case = make_saved_case("roberta", 2)
    folder = tmp_path_factory.mktemp("cli")
    texts = make_texts(240, longest=12, seed=1)
    predicted = case.logits_one_by_one(texts).argmax(axis=1)
    wrong = np.random.default_rng(0).random(240) < 0.25
    labels = np.array(CLASSES.split(","))[np.where(wrong, 1 - predicted, predicted)]
    for name, rows in (("calibration", slice(0, 160)), ("test", slice(160, 240))):
        lines = [
            json.dumps({"text": text, "label": label})
            for text, label in zip(texts[rows], labels[rows].tolist(), strict=True)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return case, folder


@pytest.fixture
def small_grid(monkeypatch):
    monkeypatch.setattr(search, "DEFAULT_GRID", {"beta": [0.1]})


def extract(case, texts, out):
    """Run ``adue extract`` in this process, which has loaded the libraries already."""
    arguments = ["adue", "extract", case.adapter, texts, "--out", out, "--classes", CLASSES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, arguments)))
        with pytest.raises(SystemExit, match="0"), printed_warnings():
            cli.main()


@pytest.fixture(scope="module")
def stores(labelled):
    """Extract both files, once: one from the command line."""
    case, folder = labelled
    command = [sys.executable, "-m", "adue_sklearn", "extract", case.adapter]
    command += [folder / "calibration.jsonl", "--out", folder / "calibration", "--classes", CLASSES]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    extract(case, folder / "test.jsonl", folder / "test")
    return folder


@pytest.fixture(scope="module")
def head(stores):
    """Fit a head on the calibration store, once."""
    command = [
        "adue",
        "fit",
        "--score=AdUE",
        stores / "calibration",
        "--out",
        stores / "head",
        "--folds",
        "2",
    ]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", list(map(str, command)))
        patch.setattr(search, "DEFAULT_GRID", {"alpha": [0.0, 1.0], "beta": [0.01, 0.1]})
        with pytest.raises(SystemExit, match="0"), printed_warnings():
            cli.main()
    return stores / "head", printed.getvalue()


def test_extract_stores_labels_classes_and_the_models_logits(labelled, stores):
    case, _ = labelled
    store = FeatureStore.open(stores / "test")
    assert store.classes == ["bad", "good"]
    assert len(store) == len(store.labels) == 80
    texts = [json.loads(line)["text"] for line in (stores / "test.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(store.logits, case.logits_one_by_one(texts), atol=1e-4)


def test_fit_prints_adue_beside_softmax_response_and_mahalanobis(head):
    path, printed = head
    for name in ("softmax", "Mahalanobis", "AdUE", "ROC-AUC", "160 rows", "Chosen: alpha="):
        assert name in printed
    assert load_head(path).class_names == ["bad", "good"]


def test_evaluate_prints_metrics_on_fresh_rows(adue, head, stores):
    status, out, _ = adue("evaluate", head[0], stores / "test")
    assert status == 0
    assert "Fresh rows: 80 rows" in out
    assert "AdUE" in out


def test_predict_writes_label_probability_and_uncertainty_a_line(adue, head, labelled, stores):
    case, folder = labelled
    scored = folder / "out" / "scored.jsonl"
    status, _, err = adue("predict", head[0], case.adapter, folder / "test.jsonl", "--out", scored)
    assert status == 0, err
    rows = [json.loads(line) for line in scored.read_text().splitlines()]
    store, fitted = FeatureStore.open(stores / "test"), load_head(head[0])
    assert [row["label"] for row in rows] == [store.classes[i] for i in store.logits.argmax(axis=1)]
    probabilities = fitted.estimator.predict_proba(store.features).max(axis=1)
    np.testing.assert_allclose([row["probability"] for row in rows], probabilities, atol=1e-5)
    np.testing.assert_allclose(
        [row["uncertainty"] for row in rows],
        fitted.estimator.predict_uncertainty(store.features),
        atol=1e-4,
    )
    assert list(rows[0]) == ["row", "label", "probability", "uncertainty"]
    assert [row["row"] for row in rows] == list(range(80))


def test_predict_takes_ids_texts_csv_and_standard_streams(
    adue, head, labelled, tmp_path, monkeypatch
):
    case, folder = labelled
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()][:4]
    data = "".join(json.dumps({**line, "key": f"a{i}"}) + "\n" for i, line in enumerate(lines))
    (tmp_path / "data.jsonl").write_text(data)
    texts = [line["text"] for line in lines]

    def predict(source, out, *options):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        return adue("predict", head[0], case.adapter, source, "--out", out, *options)

    expected = None
    for source in ("-", tmp_path / "data.jsonl"):
        status, out, err = predict(source, "-", "--with-text", "--id-column", "key")
        assert status == 0, err
        rows = [json.loads(line) for line in out.splitlines()]
        assert [(row.pop("id"), row.pop("text")) for row in rows] == [
            (f"a{i}", text) for i, text in enumerate(texts)
        ]
        expected = expected or rows
        assert rows == expected
    status, out, err = predict("-", tmp_path / "new" / "scored.csv")
    assert (status, "Wrote 4 rows to " in out) == (0, True)
    with (tmp_path / "new" / "scored.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["row", "label", "probability", "uncertainty"]
    assert [float(row["uncertainty"]) for row in table] == [row["uncertainty"] for row in expected]
    status, _, err = predict(tmp_path / "data.jsonl", tmp_path / "data.jsonl", "--force")
    assert (status, "is the file that the texts are read from" in err) == (1, True)
    status, _, err = predict(tmp_path / "data.jsonl", "-", "--id-column", "nr")
    assert (status, "Name the right one with --id-column" in err) == (1, True)


def test_a_bad_row_is_said_before_the_model_is_loaded_and_nothing_is_replaced(adue, head, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "w1"}\n' * 3 + '{"text": 3}\n')
    (tmp_path / "scored.jsonl").write_text("old")
    status, _, err = adue(
        "predict", head[0], "no-model", tmp_path / "data.jsonl", "--out",
        tmp_path / "scored.jsonl", "--force",
    )  # fmt: skip
    assert status == 1
    assert "row 4: column 'text' holds 3, not a text" in err
    assert {file.name for file in tmp_path.iterdir()} == {"data.jsonl", "scored.jsonl"}
    assert (tmp_path / "scored.jsonl").read_text() == "old"


def test_a_whole_head_goes_from_extraction_to_scored_lines(adue, labelled, tmp_path, monkeypatch):
    # Deep heads are fitted one by one: the default grid takes a minute.
    monkeypatch.setattr(search, "DEFAULT_GRID", {"beta": [0.1, 1.0], "lam": [10.0]})
    case, folder = labelled
    for name in ("calibration", "test"):
        status, out, err = adue(
            "extract", case.adapter, folder / f"{name}.jsonl", "--out", tmp_path / name,
            "--classes", CLASSES, "--features", "head",
        )  # fmt: skip
        assert status == 0, err
        assert "2 classes" in out
    status, out, err = adue(
        "fit", "--score=AdUE", tmp_path / "calibration", "--out", tmp_path / "head", "--folds", 2,
        "--train-store", tmp_path / "test",
    )  # fmt: skip
    assert status == 0, err
    assert "Mahalanobis (training rows)" in out
    fitted = load_head(tmp_path / "head")
    assert [W.shape for W in fitted.estimator.coefs_] == [(16, 16), (2, 16)]
    assert fitted.facts.head.activation == "tanh"
    status, out, err = adue("evaluate", tmp_path / "head", tmp_path / "test")
    assert status == 0, err
    assert "Fresh rows: 80 rows" in out
    scored = tmp_path / "scored.jsonl"
    status, _, err = adue(
        "predict", tmp_path / "head", case.adapter, folder / "test.jsonl", "--out", scored
    )
    assert status == 0, err
    rows = [json.loads(line) for line in scored.read_text().splitlines()]
    store = FeatureStore.open(tmp_path / "test")
    assert [row["label"] for row in rows] == [store.classes[i] for i in store.logits.argmax(axis=1)]
    np.testing.assert_allclose(
        [row["uncertainty"] for row in rows],
        fitted.estimator.predict_uncertainty(store.features),
        atol=1e-4,
    )


def test_a_head_of_the_other_view_is_refused(adue, head, labelled, tmp_path):
    case, folder = labelled
    options = ("--classes", CLASSES, "--features", "head")
    adue("extract", case.adapter, folder / "test.jsonl", "--out", tmp_path / "store", *options)
    status, _, err = adue("evaluate", head[0], tmp_path / "store")
    assert status == 1
    assert "view is 'head', was 'last_linear'" in err


def test_a_train_store_is_what_mahalanobis_describes(adue, stores, tmp_path, small_grid):
    status, out, _ = adue(
        "fit",
        "--score=AdUE",
        stores / "calibration",
        "--out",
        tmp_path / "head",
        "--train-store",
        stores / "test",
        "--folds",
        2,
    )
    assert status == 0
    assert "Mahalanobis (training rows)" in out


def store_from(source, path, rows, labels):
    FeatureStore.create(
        path,
        features=source.features[rows],
        labels=labels,
        init_W=source.init_W,
        init_b=source.init_b,
        provenance=source.provenance,
    )
    return path


def test_calibration_rows_that_are_training_rows_are_warned_about(
    adue, stores, tmp_path, small_grid
):
    source = FeatureStore.open(stores / "calibration")
    train = store_from(source, tmp_path / "train", slice(0, 40), source.labels[:40])
    status, _, err = adue(
        "fit", "--score=AdUE", stores / "calibration", "--out", tmp_path / "head", "--train-store",
        train,
        "--folds", 2,
    )  # fmt: skip
    assert status == 0
    assert "40 of 160 rows" in err
    assert "has not seen" in err


def test_a_head_fitted_on_memorised_rows_is_warned_about(adue, stores, tmp_path, small_grid):
    source = FeatureStore.open(stores / "calibration")
    predicted = np.asarray(source.logits).argmax(axis=1)
    labels = np.where(np.arange(160) < 3, 1 - predicted, predicted)
    memorised = store_from(source, tmp_path / "memorised", slice(None), labels)
    status, _, err = adue(
        "fit", "--score=AdUE", memorised, "--out", tmp_path / "head", "--folds", 2
    )
    assert status == 0, err
    status, _, err = adue("evaluate", tmp_path / "head", stores / "test")
    assert status == 0
    assert "is wrong on 1.9% of the rows that the head was fitted on" in err


def test_classes_can_be_a_json_file(adue, labelled, tmp_path):
    case, folder = labelled
    (tmp_path / "classes.json").write_text('["bad", "good"]')
    status, _, err = adue(
        "extract", case.adapter, folder / "test.jsonl", "--out", tmp_path / "store",
        "--classes", tmp_path / "classes.json",
    )  # fmt: skip
    assert status == 0, err
    assert FeatureStore.open(tmp_path / "store").classes == ["bad", "good"]


def test_unlabelled_texts_can_be_extracted_but_not_fitted(adue, labelled, tmp_path):
    case, folder = labelled
    status, _, err = adue(
        "extract", case.adapter, folder / "test.jsonl", "--out", tmp_path / "store", "--unlabelled"
    )
    assert status == 0, err
    status, _, err = adue("fit", "--score=AdUE", tmp_path / "store", "--out", tmp_path / "head")
    assert status == 1
    assert "has no labels" in err


@pytest.fixture
def with_blank_texts(tmp_path):
    """Write a file of which rows 1 and 3 hold nothing to read, and no label."""
    rows = [("w1 w2", "bad"), ("", None), ("w3", "good"), (" \u200b", ""), ("w4", "bad")]
    lines = [json.dumps({"text": text, "label": label, "key": f"k{text}"}) for text, label in rows]
    (tmp_path / "blank.jsonl").write_text("\n".join(lines))
    return tmp_path / "blank.jsonl"


BLANK = "2 of 5 texts (40.0%) are empty or blank (rows 1, 3, counted from 0)"


def test_extract_counts_blank_texts_and_leaves_them_out_on_demand(
    adue, labelled, with_blank_texts, tmp_path
):
    case, _ = labelled
    command = ["extract", case.adapter, with_blank_texts, "--out"]
    status, _, err = adue(*command, tmp_path / "all", "--unlabeled")
    assert status == 0, err
    assert f"warning: texts: {BLANK}. The model answers them like any other" in err
    assert FeatureStore.open(tmp_path / "all").labels is None
    assert len(FeatureStore.open(tmp_path / "all")) == 5
    status, out, err = adue(*command, tmp_path / "some", "--classes", CLASSES, "--skip-empty")
    assert status == 0, err
    assert f"warning: {with_blank_texts}: {BLANK}; left out." in err
    assert err.count("blank (") == 1
    store = FeatureStore.open(tmp_path / "some")
    assert (store.ids.tolist(), store.labels.tolist()) == ([0, 2, 4], [0, 1, 0])
    assert "some: 3 rows" in out
    with_blank_texts.write_text('{"text": "", "label": "bad"}\n{"text": "w1", "label": "ugly"}')
    status, _, err = adue(*command, tmp_path / "new", "--classes", CLASSES, "--skip-empty")
    assert (status, "labels: row 2 holds 'ugly'" in err) == (1, True)


def test_predict_counts_blank_texts_and_leaves_them_out_on_demand(
    adue, head, labelled, with_blank_texts, monkeypatch
):
    case, _ = labelled

    def predict(source, *options):
        lines = io.TextIOWrapper(io.BytesIO(with_blank_texts.read_bytes()))
        monkeypatch.setattr(sys, "stdin", lines)
        status, out, err = adue("predict", head[0], case.adapter, source, "--out", "-", *options)
        return status, [json.loads(line) for line in out.splitlines()], err

    status, everything, err = predict(with_blank_texts)
    assert (status, [row["row"] for row in everything]) == (0, [0, 1, 2, 3, 4])
    assert err.count(BLANK) == 1
    for source, name in ((with_blank_texts, with_blank_texts), ("-", "standard input")):
        status, rows, err = predict(source, "--skip-empty")
        assert (status, [row["row"] for row in rows]) == (0, [0, 2, 4])
        assert [row["label"] for row in rows] == [everything[row]["label"] for row in (0, 2, 4)]
        assert f"warning: {name}: {BLANK}; left out." in err
        assert err.count("blank (") == 1
    _, rows, _ = predict(with_blank_texts, "--skip-empty", "--id-column", "key")
    assert [row["id"] for row in rows] == ["kw1 w2", "kw3", "kw4"]
    with_blank_texts.write_text('{"text": ""}\n{"text": " "}\n')
    status, _, err = predict(with_blank_texts, "--skip-empty")
    assert (status, "all 2 texts are empty or blank, so --skip-empty leaves none" in err) == (1, 1)


def options_named(said, command):
    """Return options that messages of a command name, with the command that each belongs to."""
    named = re.findall(r"(?:adue (\w+) |\B)(--[a-z][a-z-]*)", said)
    return {(other or command, option) for other, option in named}


def test_no_message_of_predict_names_an_option_that_it_lacks(adue, head, labelled, tmp_path):
    case, _ = labelled
    commands = typer.main.get_command(app).commands
    known = {
        (name, option)
        for name, command in commands.items()
        for parameter in command.params
        for option in parameter.opts
    }
    short = load_head(head[0])
    save_head(
        short.estimator,
        tmp_path / "short",
        provenance=short.provenance | {"max_length": 5},
        class_names=short.class_names,
    )
    (tmp_path / "data.jsonl").write_text(
        '{"text": "w1 w2 w3 w4 w5 w6 w7"}\n{"text": ""}\n{"text": "w1"}\n'
    )
    said = ""
    for options in ([], ["--id-column", "nr"], ["--text-column", "t"], ["--base-model", "nowhere"]):
        _, _, err = adue(
            "predict", tmp_path / "short", case.adapter, tmp_path / "data.jsonl", "--out", "-",
            *options,
        )  # fmt: skip
        said += err
    for words in ("cut at 5 tokens", "empty or blank", "no column 'nr'", "no column 't'", "--base"):
        assert words in said
    named = options_named(said, "predict")
    assert {("extract", "--max-length"), ("predict", "--skip-empty")} <= named <= known


def test_labels_in_another_order_than_the_head_are_said_once(adue, problem, tmp_path, small_grid):
    store = tmp_path / "store"
    moved = (problem.y + 1) % 3
    FeatureStore.create(store, features=problem.X, labels=moved, init_W=problem.W, init_b=problem.b)
    for number in range(2):
        status, _, err = adue(
            "fit", "--score=AdUE", store, "--out", tmp_path / f"head{number}", "--folds", 2
        )
        assert status == 0
        assert err.count("answers agree with the labels") == 1
        assert "now label 1 is row 0, 2 is row 1, 0 is row 2" in err


def test_cut_texts_are_counted(adue, labelled, tmp_path):
    case, folder = labelled
    _, _, err = adue(
        "extract", case.adapter, folder / "test.jsonl", "--out", tmp_path / "store",
        "--classes", CLASSES, "--max-length", 5,
    )  # fmt: skip
    assert "cut at 5 tokens" in err
    assert err.count("cut at") == 1


@pytest.fixture(scope="module")
def other_store(make_saved_case, stores):
    """Extract the same texts with another model of the same shape."""
    case = make_saved_case("electra", 2)
    extract(case, stores / "test.jsonl", stores / "other")
    return case, stores / "other"


def test_features_of_another_model_are_refused_unless_told_otherwise(
    adue, head, other_store, tmp_path
):
    case, store = other_store
    status, _, err = adue("evaluate", head[0], store)
    assert status == 1
    assert "another model" in err
    assert "adapter_sha256" in err
    status, _, err = adue("evaluate", head[0], store, "--allow-other-model")
    assert status == 0
    assert "warning" in err

    scored = tmp_path / "scored.jsonl"
    (tmp_path / "data.jsonl").write_text('{"text": "w1 w2"}')
    status, _, err = adue(
        "predict", head[0], case.adapter, tmp_path / "data.jsonl", "--out", scored
    )
    assert status == 1
    assert not scored.exists()


def test_no_errors_in_the_calibration_rows_is_one_clear_line(adue, stores, tmp_path):
    source = FeatureStore.open(stores / "test")
    FeatureStore.create(
        tmp_path / "store",
        features=source.features,
        labels=np.asarray(source.logits).argmax(axis=1),
        init_W=source.init_W,
        init_b=source.init_b,
    )
    status, out, err = adue("fit", "--score=AdUE", tmp_path / "store", "--out", tmp_path / "head")
    assert status == 1
    assert err.startswith("error: The original head makes 0 errors on 80 rows, too few for")
    assert out == ""
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", (), "is empty"),
        ('{"words": "w1", "label": "bad"}', (), "no column 'text'; it has 'words', 'label'"),
        ('{"text": "w1"}', (), "no column 'label'"),
        ('{"text": "w1", "label": "ugly"}', (), "row 1 holds 'ugly', which is not among"),
        ('{"text": "w1", "label": 7}', (), "labels: row 1 holds 7, but the head has"),
        ('{"text": "w1", "label": true}', (), "row 1 holds True (bool). Write 1 instead of True."),
        ('{"text": "w1", "label": "1"}', (), "write them as numbers, without quotes"),
        ('{"text": "w1", "label": "bad"}', ("--max-length", 10_000), "max_length"),
        ('{"text": "w1", "label": "bad"}', ("--base-model", "nowhere"), "--base-model"),
        ('{"text": "w1", "label": "bad"}', ("--classes", "a,b,c"), "classes"),
        ('{"text": "w1", "label": "bad"}', ("--dtype", "float8"), "--dtype is 'float8'"),
        ('{"text": "w1", "label": "bad"}', ("--features", "first"), "features: expected 'last'"),
    ],
)
def test_bad_data_and_options_end_in_one_line_and_leave_nothing(
    adue, labelled, tmp_path, content, options, message
):
    case, _ = labelled
    (tmp_path / "data.jsonl").write_text(content)
    classes = () if "--classes" in options else ("--classes", CLASSES)
    status, _, err = adue(
        "extract", case.adapter, tmp_path / "data.jsonl", "--out", tmp_path / "store",
        *classes, *options,
    )  # fmt: skip
    assert status == 1
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()


def test_string_labels_without_class_names_ask_for_classes(adue, labelled, tmp_path):
    case, folder = labelled
    status, _, err = adue(
        "extract", case.adapter, folder / "test.jsonl", "--out", tmp_path / "store"
    )
    assert status == 1
    assert "--classes" in err


def test_debug_shows_where_an_error_came_from(adue, tmp_path):
    status, _, err = adue("evaluate", tmp_path / "head", tmp_path / "store")
    assert status == 1
    assert "Traceback" not in err
    status, _, err = adue("--debug", "evaluate", tmp_path / "head", tmp_path / "store")
    assert status == 1
    assert re.search(
        r"Traceback .* FileNotFoundError: .* does not exist\. Expected a fitted head", err
    )


def test_help_and_version_are_there(adue):
    status, out, _ = adue("--version")
    assert (status, out) == (0, adue_sklearn.__version__)
    _, out, _ = adue("--help")
    for command in ("extract", "fit", "predict", "evaluate", "demo"):
        assert command in out


def test_what_cannot_be_written_to_is_said_before_the_work(adue, stores, head, labelled, tmp_path):
    case, folder = labelled
    (tmp_path / "notes.txt").write_text("mine")
    status, out, err = adue("fit", stores / "calibration", "--out", tmp_path)
    assert (status, out) == (1, "")
    assert "holds other files (notes.txt)" in err
    status, out, err = adue("fit", stores / "calibration", "--out", tmp_path / "notes.txt")
    assert (status, out) == (1, "")
    assert "is a file" in err
    status, out, err = adue(
        "predict", head[0], case.adapter, folder / "test.jsonl", "--out", tmp_path
    )
    assert (status, out) == (1, "")
    assert "is a folder; name a file" in err


def test_a_train_store_of_another_model_is_refused(adue, stores, other_store, tmp_path):
    arguments = (
        "fit",
        "--score=AdUE",
        stores / "calibration",
        "--out",
        tmp_path / "head",
        "--train-store",
    )
    status, _, err = adue(*arguments, other_store[1])
    assert status == 1
    assert "adapter_sha256" in err


def test_classes_in_another_order_are_refused(adue, labelled, head, tmp_path):
    case, folder = labelled
    status, _, err = adue(
        "extract", case.adapter, folder / "test.jsonl", "--out", tmp_path / "store",
        "--classes", "good,bad",
    )  # fmt: skip
    assert status == 0, err
    status, _, err = adue("evaluate", head[0], tmp_path / "store")
    assert status == 1
    assert "the classes are ['good', 'bad'], were ['bad', 'good']" in err


def test_rows_without_errors_are_said_in_one_line(adue, head, stores, tmp_path):
    source = FeatureStore.open(stores / "test")
    right = np.asarray(source.logits[:2]).argmax(axis=1)
    status, out, err = adue(
        "evaluate", head[0], store_from(source, tmp_path / "few", slice(0, 2), right)
    )
    assert (status, err) == (0, "")
    assert out == "Fresh rows: 2 rows with no errors, so no score can be measured."


def test_on_a_terminal_a_search_shows_one_bar(stores, tmp_path, monkeypatch, capfd, small_grid):
    monkeypatch.setattr(console, "_force_terminal", True)
    arguments = [
        "adue",
        "fit",
        "--score=AdUE",
        stores / "calibration",
        "--out",
        tmp_path / "head",
        "--folds",
        2,
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit, match="0"), printed_warnings():
        cli.main()
    out, _ = capfd.readouterr()
    assert "Chosen" in out
    assert out.count("AdUEEstimator - ") == 0
    assert len(out) < 100_000


def test_the_demo_compares_and_scores_its_sentences(adue, small_grid):
    status, out, err = adue("demo")
    assert status == 0, err
    for piece in ("Cross-validation: 2256 rows", "Fresh rows: 1821 rows", "AdUE", "uncertainty"):
        assert piece in out
    assert err == ""


@pytest.mark.parametrize(
    ("score", "cls", "fitted_on"),
    [
        ("Entropy", "EntropyScorer", "nothing"),
        ("linear error probe", "LinearProbeScorer", "other folds"),
        ("knn", "KNNScorer", "training rows"),
    ],
)
def test_fit_takes_any_score_and_the_commands_after_it_too(
    adue, labelled, stores, tmp_path, score, cls, fitted_on
):
    case, folder = labelled
    status, out, err = adue(
        "fit", stores / "calibration", "--out", tmp_path / "head", "--score", score, "--folds", 2,
        "--train-store", stores / "test",
    )  # fmt: skip
    assert status == 0, err
    assert "Cross-validation: 160 rows" in out
    assert fitted_on in out
    fitted = load_head(tmp_path / "head").estimator
    assert type(fitted).__name__ == cls
    store = FeatureStore.open(stores / ("test" if cls == "KNNScorer" else "calibration"))
    expected = type(fitted)().fit(store.features, store.labels, store.init_W, store.init_b)
    X = store.features[:20]
    np.testing.assert_array_equal(fitted.predict_uncertainty(X), expected.predict_uncertainty(X))
    new = "calibration" if cls == "KNNScorer" else "test"
    status, out, err = adue("evaluate", tmp_path / "head", stores / new)
    assert status == 0, err
    assert fitted.card.name in out
    scored = tmp_path / "scored.jsonl"
    status, _, err = adue(
        "predict", tmp_path / "head", case.adapter, folder / "test.jsonl", "--out", scored
    )
    assert status == 0, err
    assert len(scored.read_text().splitlines()) == 80


def test_fit_takes_a_score_that_holds_others(adue, stores, tmp_path):
    status, _, err = adue(
        "fit", stores / "calibration", "--out", tmp_path / "head", "--score", "HUQ", "--folds", 2
    )
    assert status == 0, err
    assert type(load_head(tmp_path / "head").estimator).__name__ == "HUQScorer"


def test_predict_and_evaluate_take_a_saved_probability_of_an_error(
    adue, labelled, stores, tmp_path
):
    case, folder = labelled
    store = FeatureStore.open(stores / "calibration")
    fitted = ErrorProbability(method="sigmoid").fit(store.features, store.labels, store.head)
    save_head(
        fitted, tmp_path / "head", provenance=store.provenance, class_names=store.classes,
        fitted_on=store.features,
    )  # fmt: skip
    status, out, err = adue("evaluate", tmp_path / "head", stores / "test")
    assert status == 0, err
    assert "error probability" in out
    scored = tmp_path / "scored.jsonl"
    status, _, err = adue(
        "predict", tmp_path / "head", case.adapter, folder / "test.jsonl", "--out", scored,
        "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            "ViM",
            "ViM describes the rows that the model was trained on; pass their store as --train",
        ),
        ("foo", "--score: foo is not one of SoftmaxResponseScorer, AdUEEstimator"),
        ("energy,entropy", "--score: energy,entropy names 2 scores; expected one."),
    ],
)
def test_a_score_that_cannot_be_fitted_is_named_before_the_work(
    adue, stores, tmp_path, score, message
):
    status, out, err = adue(
        "fit", stores / "calibration", "--out", tmp_path / "head", "--score", score
    )
    assert (status, out) == (1, "")
    assert message in err
    assert not (tmp_path / "head").exists()


def test_an_unknown_label_is_named_before_the_model_is_loaded(
    adue, labelled, tmp_path, monkeypatch
):
    monkeypatch.setattr("adue_sklearn.features.load_classifier", None)  # calling it would fail
    case, _ = labelled
    rows = [("w1", "bad"), ("w2", "Good"), ("w3", "?")]
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    status, _, err = adue(
        "extract", case.adapter, tmp_path / "data.jsonl", "--out", tmp_path / "store",
        "--classes", CLASSES,
    )  # fmt: skip
    assert status == 1
    assert "data.jsonl, labels: row 2 holds 'Good', which is not among the classes (nor" in err
    assert "Did you mean 'good'?" in err

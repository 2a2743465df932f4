"""Second opinions on the command line: from texts to a head that makes its own views."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest

from adue_sklearn import cli
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import load_head, load_sidekick, sidekick_sha256
from adue_sklearn.scorers.witnesses import use_fallback, views_read_by
from tests.adapter_cases import save_another_adapter
from tests.lora_cases import make_texts
from tests.marks import printed_warnings

CLASSES = ["bad", "good"]
PARTS = {"train": slice(120), "held": slice(120, 280), "test": slice(280, 400)}
UNKNOWN = "жжж ккк"


def write(path, texts, labels=None):
    """Write texts, and labels if there are any, as JSON lines."""
    rows = [{"text": text} for text in texts]
    if labels is not None:
        rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_of(path):
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def run(*arguments):
    """Run a command that ends well; return what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", list(map(str, ["adue", *arguments])))
        with pytest.raises(SystemExit, match="0"), printed_warnings():
            cli.main()
    return printed.getvalue()


@pytest.fixture(scope="module")
def case(make_saved_case, tmp_path_factory):
    """Hold an adapter, another one, texts on which it errs one time in four, and a sidekick."""
    main = make_saved_case("roberta", 2)
    folder = tmp_path_factory.mktemp("opinions")
    texts = [*make_texts(399, longest=12, seed=3), UNKNOWN]
    predicted = main.logits_one_by_one(texts).argmax(axis=1)
    wrong = np.random.default_rng(0).random(len(texts)) < 0.25
    labels = np.array(CLASSES)[np.where(wrong, 1 - predicted, predicted)].tolist()
    for name, rows in PARTS.items():
        write(folder / f"{name}.jsonl", texts[rows], labels[rows])
    save_another_adapter(main.adapter, folder / "other")
    run("sidekick", folder / "train.jsonl", "--out", folder / "sidekick", "--classes", "good,bad")
    return main.adapter, folder


def extract(case, name, *options):
    adapter, folder = case
    return run(
        "extract", adapter, folder / f"{name}.jsonl", "--out", folder / name,
        "--classes", ",".join(CLASSES), "--layers", "all", "--pool", "first", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stores(case):
    """Extract the three files: training rows with layers, the others with all views."""
    _, folder = case
    extract(case, "train", "--base-view")
    others = ("--base-view", "--companion", f"friend={folder / 'other'}")
    for name in ("held", "test"):
        extract(case, name, *others, "--sidekick", folder / "sidekick")
    return folder


@pytest.fixture(scope="module")
def head(stores):
    """Fit second opinions of all views, once."""
    printed = run(
        "fit", stores / "held", "--train-store", stores / "train", "--out", stores / "head",
        "--score", "SecondOpinionScorer", "--sidekick", stores / "sidekick", "--folds", 2,
    )  # fmt: skip
    return stores / "head", printed


def predict(adue, head, case, data, out, *options):
    status, _, err = adue("predict", head, case[0], data, "--out", out, *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return status, rows, err


def test_the_view_of_a_sidekick_is_in_the_order_of_the_adapters_classes(stores):
    sidekick = load_sidekick(stores / "sidekick")
    assert sidekick.witness_classes_.tolist() == CLASSES[::-1]
    store = FeatureStore.open(stores / "test")
    expected = sidekick.log_proba(texts_of(stores / "test.jsonl"))[:, ::-1]
    assert np.isnan(expected).all(axis=1).nonzero()[0].tolist() == [119]
    np.testing.assert_allclose(store.view("sidekick"), expected, atol=1e-5)
    facts = store.view_facts["sidekick"]
    assert facts["provenance"] == {"sidekick_sha256": sidekick_sha256(sidekick)}


def test_fit_shows_weight_and_gain_of_every_opinion(head):
    _, printed = head
    table = printed[printed.index("Second opinions") :]
    for name in ("softmax response", "AdUE", "base", "friend", "sidekick", "layer probes"):
        assert name in table
    assert "gain [95 %]" in table


def test_a_head_makes_all_its_views_of_new_texts_as_a_store_holds_them(
    adue, head, case, stores, tmp_path
):
    folder, _ = head
    fitted = load_head(folder)
    names = {"base", "friend", "sidekick", "layer_1", "layer_2"}
    assert set(views_read_by(fitted.estimator)) == names
    limit = tmp_path / "accept.json"
    status, _, err = adue(
        "threshold", stores / "test", "--head", folder, "--target-risk", 0.4, "--out", limit,
        "--fallback",
    )  # fmt: skip
    assert status == 0, err
    status, rows, err = predict(
        adue, folder, case, stores / "test.jsonl", tmp_path / "scored.jsonl",
        "--companion", f"friend={stores / 'other'}", "--threshold", limit, "--fallback",
    )  # fmt: skip
    assert status == 0, err
    use_fallback(fitted.estimator)
    expected = fitted.estimator.predict_uncertainty(FeatureStore.open(stores / "test").views())
    np.testing.assert_allclose([row["uncertainty"] for row in rows], expected, atol=1e-3)
    assert [row["fallback"] for row in rows] == [False] * 119 + [True]  # of the unknown text
    assert "accept" in rows[0]


def test_a_view_that_cannot_be_made_is_an_error_or_marked(adue, head, case, stores, tmp_path):
    out = tmp_path / "scored.jsonl"
    status, rows, err = predict(adue, head[0], case, stores / "test.jsonl", out)
    assert (status, rows) == (1, [])
    assert "but friend cannot be made. Pass --companion friend=ADAPTER, or --fallback" in err
    status, rows, err = predict(adue, head[0], case, stores / "test.jsonl", out, "--fallback")
    assert status == 0, err
    assert len(rows) == 120
    assert all(row["fallback"] for row in rows)


def test_a_text_that_the_sidekick_knows_nothing_of_is_an_error_without_fallback(
    adue, head, case, stores, tmp_path
):
    data = write(tmp_path / "new.jsonl", [*texts_of(stores / "test.jsonl")[:3], UNKNOWN])
    friend = ("--companion", f"friend={stores / 'other'}")
    out = tmp_path / "scored.jsonl"
    status, _, err = predict(adue, head[0], case, data, out, *friend)
    assert status == 1
    assert f"{data}, row 3: the text has no view sidekick" in err
    assert "--fallback" in err
    status, _, err = adue("evaluate", head[0], stores / "test")
    assert status == 1
    assert f"{stores / 'test'}, row 119: the text has no view sidekick" in err
    assert adue("evaluate", head[0], stores / "test", "--fallback")[0] == 0


def test_a_companion_is_the_one_that_the_head_was_fitted_with(adue, head, case, stores, tmp_path):
    for companion, message in (
        (f"friend={case[0]}", "is another adapter than the one whose view 'friend' the head"),
        (f"foe={case[0]}", "the head reads no view 'foe'; its companions are: friend."),
    ):
        status, _, err = predict(
            adue, head[0], case, stores / "test.jsonl", tmp_path / "scored.jsonl",
            "--companion", companion, "--fallback",
        )  # fmt: skip
        assert status == 1
        assert message in err


def test_texts_in_another_order_give_a_store_the_view_that_it_lacks(adue, case, stores, tmp_path):
    store, held = FeatureStore.open(stores / "held"), stores / "held.jsonl"
    FeatureStore.create(
        tmp_path / "plain", features=store.features, labels=store.labels, init_W=store.init_W,
        init_b=store.init_b, classes=store.classes, text_digests=store.text_digests,
        provenance=store.provenance,
    )  # fmt: skip
    shuffled = write(tmp_path / "texts.jsonl", texts_of(held)[::-1])
    fit = ("fit", tmp_path / "plain", "--out", tmp_path / "head", "--score", "sidekick", "--folds")
    options = (2, "--sidekick", stores / "sidekick")
    status, _, err = adue(*fit, *options, "--texts", shuffled)
    assert status == 0, err
    scorer = load_head(tmp_path / "head").estimator
    expected = scorer.predict_uncertainty(store.views("sidekick"))
    status, rows, err = predict(adue, tmp_path / "head", case, held, tmp_path / "scored.jsonl")
    assert status == 0, err
    np.testing.assert_allclose([row["uncertainty"] for row in rows], expected, atol=1e-4)

    missing = write(tmp_path / "missing.jsonl", texts_of(held)[2:])
    for texts, message in (
        (("--texts", missing), "texts of 2 of 160 rows of"),
        ((), "lacks the view sidekick. Pass its texts with --texts"),
    ):
        status, _, err = adue(*fit, *options, *texts, "--force")
        assert status == 1
        assert message in err


def test_a_head_is_fitted_with_the_sidekick_of_its_store(adue, stores, tmp_path):
    run("sidekick", stores / "test.jsonl", "--out", tmp_path / "other")
    fit = ("fit", stores / "held", "--out", tmp_path / "head", "--score", "sidekick", "--folds", 2)
    status, _, err = adue(*fit, "--sidekick", tmp_path / "other")
    assert status == 1
    assert f"was not made by {tmp_path / 'other'}" in err
    status, _, err = adue(*fit)
    assert status == 0
    assert "does not hold the sidekick, so 'adue predict' cannot make the view" in err
    alone = (*fit[:-4], "--score=AdUE", "--sidekick", stores / "sidekick", "--force")
    status, _, err = adue(*alone)
    assert status == 1
    assert "--sidekick needs --score" in err


def test_a_head_fitted_with_a_text_that_the_sidekick_does_not_know_needs_no_fallback(
    adue, stores, tmp_path
):
    fit = ("fit", stores / "test", "--out", tmp_path / "head", "--score", "sidekick", "--folds", 2)
    status, _, err = adue(*fit, "--sidekick", stores / "sidekick")
    assert status == 0, err
    X = FeatureStore.open(stores / "test").views("sidekick")
    assert load_head(tmp_path / "head").estimator.lacks_view(X).nonzero()[0].tolist() == [119]


def test_a_store_whose_view_was_made_otherwise_is_refused(adue, case, head, tmp_path):
    adapter, folder = case
    data = write(tmp_path / "few.jsonl", texts_of(folder / "test.jsonl")[:20], CLASSES * 10)
    run(
        "extract", adapter, data, "--out", tmp_path / "store", "--classes", "bad,good",
        "--layers", "all", "--pool", "mean",
    )  # fmt: skip
    status, _, err = adue("evaluate", head[0], tmp_path / "store", "--fallback")
    assert status == 1
    assert "view layer_1: pool ('first' before, 'mean' now)" in err


def test_a_sidekick_that_was_fitted_on_these_texts_is_refused(adue, case, stores, tmp_path):
    run("sidekick", stores / "held.jsonl", "--out", tmp_path / "held")
    for arguments in (
        ("extract", case[0], stores / "held.jsonl", "--out", tmp_path / "store"),
        ("fit", stores / "held", "--out", tmp_path / "head", "--score", "sidekick", "--texts",
         stores / "held.jsonl"),
    ):  # fmt: skip
        options = ("--classes", "bad,good") if arguments[0] == "extract" else ()
        status, _, err = adue(*arguments, "--sidekick", tmp_path / "held", *options)
        assert status == 1
        assert f"160 of 160 texts of {stores / 'held.jsonl'} were used to fit it" in err
        assert "leave --sidekick out" in err


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["yes", "no"] * 4, (), "lacks the classes 'bad', 'good' and has 'no', 'yes' instead"),
        (["a", "b", "c", "a"] * 2, (), "has 3 classes, the main one has 2"),
    ],
)
def test_a_sidekick_of_other_classes_is_refused(
    adue, case, stores, tmp_path, labels, options, message
):
    data = write(tmp_path / "train.jsonl", [f"w{n % 3} w{n % 2} w5" for n in range(8)], labels)
    run("sidekick", data, "--out", tmp_path / "sidekick")
    status, _, err = adue(
        "extract", case[0], stores / "test.jsonl", "--out", tmp_path / "store", "--classes",
        "bad,good", "--sidekick", tmp_path / "sidekick",
    )  # fmt: skip
    assert status == 1
    assert message in err


def test_a_sidekick_and_a_head_are_not_taken_for_each_other(adue, head, case, stores, tmp_path):
    status, _, err = adue("evaluate", stores / "sidekick", stores / "test")
    assert status == 1
    assert "is a sidekick, not a fitted head" in err
    status, _, err = adue(
        "extract", case[0], stores / "test.jsonl", "--out", tmp_path / "store", "--classes",
        "bad,good", "--sidekick", head[0],
    )  # fmt: skip
    assert status == 1
    assert "is a fitted head (SecondOpinionScorer), not a sidekick" in err
    file = tmp_path / "sidekick" / "estimator.json"
    run("sidekick", stores / "train.jsonl", "--out", tmp_path / "sidekick")
    document = json.loads(file.read_text())
    document["attributes"]["classifier_"]["attributes"]["words_"] = ["w1"]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="cannot be read as a sidekick"):
        load_sidekick(tmp_path / "sidekick")


def test_a_sidekick_and_a_head_do_not_replace_each_other(adue, head, stores, tmp_path):
    status, _, err = adue("sidekick", stores / "train.jsonl", "--out", head[0], "--force")
    assert status == 1
    assert "holds a fitted head, which a sidekick does not replace" in err
    sidekick = stores / "sidekick"
    fit = ("fit", stores / "held", "--score", "entropy", "--folds", 2, "--out", sidekick)
    status, _, err = adue(*fit, "--force")
    assert status == 1
    assert "holds a sidekick, which a fitted head does not replace" in err
    status, _, err = adue("sidekick", stores / "train.jsonl", "--out", sidekick)
    assert status == 1
    assert f"{sidekick} already holds a sidekick. Name a new folder" in err
    run("sidekick", stores / "train.jsonl", "--out", tmp_path / "sidekick")
    run("sidekick", stores / "train.jsonl", "--out", tmp_path / "sidekick", "--force")

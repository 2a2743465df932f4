"""``adue threshold``, the file it writes, and what ``adue predict`` makes of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given as given_value

from adue_sklearn import (
    AdUEEstimator,
    HUQScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
)
from adue_sklearn._utils.row_digests import row_digests, rows_among
from adue_sklearn.adue import search
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import load_head, save_head
from adue_sklearn.selective import selective_threshold
from adue_sklearn.thresholds import SavedThreshold, load_threshold, save_threshold
from tests.bad_input_cases import PROBLEM, anything, call
from tests.lora_cases import make_texts
from tests.problems import Problem
from tests.profiles import share_of_examples

PROVENANCE = {"adapter_sha256": "one", "model": "tuned"}


@pytest.fixture(scope="module")
def rows():
    """Features and labels of a head that errs on an eighth of them, mostly where it is unsure."""
    problem = Problem(n=2400, noise=0.35, gap=3.0)
    return problem.X.astype(np.float32), problem.y, problem.W, problem.b


def make_store(path, rows, part=slice(None), **facts):
    X, y, W, b = rows
    return FeatureStore.create(
        path, features=X[part], labels=y[part], init_W=W, init_b=b,
        provenance={**PROVENANCE, **facts},
    )  # fmt: skip


@pytest.fixture
def store(rows, tmp_path):
    return make_store(tmp_path / "store", rows, slice(0, 1200))


@pytest.fixture
def head(rows, tmp_path):
    """Save a head that was fitted on the second half of the rows and says so."""
    other = make_store(tmp_path / "fitted_on", rows, slice(1200, None))
    fitted = AdUEEstimator().fit(other.features, other.labels, other.init_W, other.init_b)
    provenance = {**PROVENANCE, "fit_row_digests": row_digests(other.features)}
    return save_head(fitted, tmp_path / "head", provenance=provenance)


def expected_threshold(estimator, store, **options):
    errors = estimator.errors(store.features, store.labels)
    return selective_threshold(errors, estimator.predict_uncertainty(store.features), **options)


def test_one_sentence_says_what_can_be_accepted_and_what_that_guarantees(adue, store):
    status, out, err = adue("threshold", store.path, "--target-risk", 0.05)
    assert (status, err) == (0, "")
    scorer = SoftmaxResponseScorer().fit(store.features, store.labels, store.init_W, store.init_b)
    found = expected_threshold(scorer, store, target_risk=0.05)
    lines = out.splitlines()
    assert lines[0] == (
        f"Accept {round(100 * found.coverage)} % of the traffic; at most 5 % of those are wrong, "
        "with 95 % confidence."
    )
    assert 0.3 < found.coverage < 1.0
    assert f"(softmax response) of at most {found.threshold:.6g}" in lines[1]
    assert f"{found.n_accepted} are accepted, {found.n_errors} of them wrong" in lines[2]


def test_it_is_what_the_selective_classifier_does(adue, store):
    _, out, _ = adue("threshold", store.path, "--target-risk", 0.05, "--confidence", 0.9, "--json")
    model = SelectiveClassifier(target_risk=0.05, confidence=0.9)
    model.fit(store.features, store.labels, store.init_W, store.init_b)
    document = json.loads(out)
    assert document["threshold"] == model.threshold_
    assert document["coverage"] == model.coverage_
    assert document["met"] is True


@pytest.mark.parametrize("method", ["sgr", "ltt"])
def test_a_saved_head_decides_and_methods_are_passed_on(adue, store, head, method):
    status, out, err = adue(
        "threshold", store.path, "--head", head, "--target-risk", 0.08, "--method", method, "--json"
    )
    assert (status, err) == (0, "")
    found = expected_threshold(load_head(head).estimator, store, target_risk=0.08, method=method)
    document = json.loads(out)
    assert document["threshold"] == found.threshold
    assert document["n_accepted"] == found.n_accepted > 0
    assert document["score"] == "AdUEEstimator"


def test_a_target_out_of_reach_is_said_honestly(adue, store):
    status, out, err = adue("threshold", store.path, "--target-risk", 0.001)
    assert (status, err) == (0, "")
    assert out.startswith("No threshold meets the target that at most 0.1 % of the accepted")
    assert "At least 2995 labelled rows are needed, even if no answer is wrong" in out
    _, out, _ = adue("threshold", store.path, "--target-risk", 0.001, "--json")
    document = json.loads(out)
    assert (document["met"], document["accepts"]) == (False, "none")
    assert document["threshold"] is document["risk_bound"] is None


def test_a_target_that_fails_names_one_that_would_not(adue, rows, tmp_path):
    X, y, W, b = rows
    wrong = (y + (np.arange(2400) % 3 == 0)) % 3  # a third of the labels are other ones
    store = make_store(tmp_path / "noisy", (X, wrong, W, b))
    status, out, _ = adue("threshold", store.path, "--target-risk", 0.1)
    assert status == 0
    line = out.splitlines()[1]
    assert line.startswith("The smallest target that these 2400 rows support is about ")
    target = float(line.split("about ")[1].split(" %")[0]) / 100
    scorer = SoftmaxResponseScorer().fit(X, wrong, W, b)
    assert expected_threshold(scorer, store, target_risk=target).n_accepted > 0
    assert expected_threshold(scorer, store, target_risk=0.9 * target).n_accepted == 0


def test_where_all_can_be_accepted_the_bound_is_the_smaller_one(adue, store):
    status, out, _ = adue("threshold", store.path, "--target-risk", 0.9)
    assert status == 0
    first, second, *_ = out.splitlines()
    assert first.startswith("Accept all of the traffic; at most ")
    assert float(first.split("at most ")[1].split(" %")[0]) < 50
    assert second == "Every answer is accepted: the model meets the target as it is."


# --- which rows ---------------------------------------------------------------------------------


def test_rows_that_fitted_the_head_are_left_out(adue, rows, head, tmp_path):
    both = make_store(tmp_path / "both", rows)
    status, out, err = adue("threshold", both.path, "--head", head, "--target-risk", 0.08, "--json")
    assert (status, err) == (0, "")
    alone = make_store(tmp_path / "alone", rows, slice(0, 1200))
    found = expected_threshold(load_head(head).estimator, alone, target_risk=0.08)
    document = json.loads(out)
    assert (document["n_rows"], document["threshold"]) == (1200, found.threshold)
    assert "1200 of 2400 rows were used to fit the head; left out." in document["notes"]


def test_rows_that_all_fitted_the_head_are_refused(adue, head, tmp_path):
    status, out, err = adue(
        "threshold", tmp_path / "fitted_on", "--head", head, "--target-risk", 0.08
    )
    assert (status, out) == (1, "")
    assert "All 1200 rows" in err
    assert "--leave-out 0.5" in err


def test_a_head_that_does_not_say_what_fitted_it_is_warned_about(adue, store, head, tmp_path):
    fitted = load_head(head).estimator
    fitted.fit(store.features[:300], store.labels[:300], store.init_W, store.init_b)
    silent = save_head(fitted, tmp_path / "silent", provenance=PROVENANCE)
    status, _, err = adue("threshold", store.path, "--head", silent, "--target-risk", 0.08)
    assert status == 0
    assert "does not record which rows it was fitted on" in err


def test_a_head_that_learned_nothing_takes_all_rows(adue, store, tmp_path):
    scorer = SoftmaxResponseScorer().fit(store.features, store.labels, store.init_W, store.init_b)
    head = save_head(scorer, tmp_path / "response", provenance=PROVENANCE)
    with_head = adue("threshold", store.path, "--head", head, "--target-risk", 0.08)
    assert with_head == adue("threshold", store.path, "--target-risk", 0.08)
    assert with_head[2] == ""


def test_fit_leaves_rows_out_that_then_set_the_threshold(adue, store, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "DEFAULT_GRID", {"beta": [0.1]})
    status, out, err = adue(
        "fit",
        "--score=AdUE",
        store.path,
        "--out",
        tmp_path / "half",
        "--folds",
        2,
        "--leave-out",
        0.5,
    )
    assert (status, err) == (0, "")
    assert "600 rows" in out
    digests = load_head(tmp_path / "half").provenance["fit_row_digests"]
    assert rows_among(store.features, digests).sum() == 600
    status, out, err = adue(
        "threshold", store.path, "--head", tmp_path / "half", "--target-risk", 0.1
    )
    assert (status, err) == (0, "")
    assert "600 of 1200 rows were used to fit the head; left out." in out
    assert "of the 600 rows used" in out


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_share_that_is_none_is_refused(adue, store, tmp_path, share):
    status, _, err = adue(
        "fit", "--score=AdUE", store.path, "--out", tmp_path / "head2", f"--leave-out={share}"
    )
    assert status == 1
    assert "--leave-out is" in err


def test_digests_know_their_rows_and_no_others():
    X = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    digests = row_digests(X[::2])
    np.testing.assert_array_equal(rows_among(X, digests), np.arange(500) % 2 == 0)
    assert row_digests(X[::2][::-1]) == digests
    assert not rows_among(X, row_digests(X[:0])).any()


def test_rows_that_were_extracted_again_are_known_by_their_digests():
    rng = np.random.default_rng(0)
    X = (5 * rng.normal(size=(500, 40))).astype(np.float32)
    again = (X * (1 + 1e-6 * rng.normal(size=X.shape))).astype(np.float32)
    assert (again != X).any(axis=1).all()
    np.testing.assert_array_equal(rows_among(again, row_digests(X[:300])), np.arange(500) < 300)
    others = X * (1 + 1e-2 * rng.normal(size=X.shape)).astype(np.float32)
    assert not rows_among(others, row_digests(X)).any()
    assert not rows_among(2 * X, row_digests(X)).any()


@pytest.mark.parametrize(
    ("n_accepted", "confidence", "sentence"),
    [
        (1221, 0.95, "Accept 99.59 % of the traffic; at most 5 % of those are wrong, with 95 %"),
        (1226, 0.95, "Accept all of the traffic; at most 5 % of those are wrong, with 95 %"),
        (700, 0.99999, "Accept 57 % of the traffic; at most 5 % of those are wrong, with 99.999 %"),
    ],
)
def test_nearly_all_is_not_called_all_nor_nearly_sure_sure(n_accepted, confidence, sentence):
    facts = {"threshold": 0.5, "target_risk": 0.05, "method": "binomial", "risk_bound": 0.05}
    counts = {"n_rows": 1226, "n_accepted": n_accepted, "n_errors": 3}
    found = SavedThreshold(
        **facts, **counts, confidence=confidence, score="SoftmaxResponseScorer", score_sha256="one"
    )
    assert found.describe() == f"{sentence} confidence."


# --- the file -----------------------------------------------------------------------------------


def test_the_file_comes_back_as_it_was_and_is_json(adue, store, head, tmp_path):
    out = tmp_path / "new" / "threshold.json"
    for target in (0.001, 0.08, 0.9):
        status, said, err = adue(
            "threshold", store.path, "--head", head, "--target-risk", target, "--out", out,
            "--force",
        )  # fmt: skip
        assert (status, err) == (0, "")
        assert f"Wrote the threshold to {out}." in said
        loaded = load_threshold(out)
        fitted = load_head(head).estimator
        found = expected_threshold(fitted, store, target_risk=target)
        assert loaded.threshold == found.threshold
        assert (loaded.n_accepted, loaded.n_errors) == (found.n_accepted, found.n_errors)
        assert loaded.provenance["adapter_sha256"] == "one"
        assert loaded.provenance["store"] == str(store.path)
        uncertainty = fitted.predict_uncertainty(store.features)
        assert loaded.accepts(uncertainty).sum() == found.n_accepted
        assert not loaded.accepts([math.nan]).any()
        json.loads(out.read_text(), parse_constant=pytest.fail)
        loaded.check_score(fitted)


def test_another_score_is_refused(store):
    fit = store.features, store.labels, store.init_W, store.init_b
    adue, rows = AdUEEstimator().fit(*fit), fit[:2]
    found = SavedThreshold.of(adue, *rows)
    found.check_score(AdUEEstimator(device="cpu").fit(*fit))
    for other in (
        SoftmaxResponseScorer().fit(*fit),
        AdUEEstimator(beta=1.0).fit(*fit),
        AdUEEstimator(measure="entropy").fit(*fit),
        AdUEEstimator().fit(fit[0], fit[1], 2 * fit[2], fit[3]),
    ):
        with pytest.raises(ValueError, match="set for another score"):
            found.check_score(other)


def test_saving_a_head_does_not_change_which_score_it_is(store, head):
    fitted = load_head(head).estimator
    found = SavedThreshold.of(fitted, store.features, store.labels)
    again = save_head(fitted, head)
    found.check_score(load_head(again).estimator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"accepts": "most"}, "'accepts' is 'most'; expected 'none', 'some' or 'all'"),
        ({"threshold": None}, "cannot be read as a threshold"),
        ({"threshold": math.nan}, "it holds NaN, which is not a JSON number"),
        ({"n_errors": 10**9}, "'n_errors', 'n_accepted' and 'n_rows'"),
        ({"target_risk": 2}, "'target_risk' is 2; expected less than 1"),
        ({"accepts": "none"}, "'accepts' is none, but"),
        ({"provenance": 3}, "cannot be read as a threshold"),
    ],
)
def test_a_damaged_file_is_refused(store, tmp_path, change, message):
    scorer = SoftmaxResponseScorer().fit(store.features, store.labels, store.init_W, store.init_b)
    file = save_threshold(SavedThreshold.of(scorer, store.features, store.labels), tmp_path / "t")
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | change))
    with pytest.raises(ValueError, match=message):
        load_threshold(file)
    for key in document.keys() - {"adue_sklearn", "meaning", "row_digests"}:
        file.write_text(json.dumps({name: v for name, v in document.items() if name != key}))
        with pytest.raises(ValueError, match=f"'{key}' is missing"):
            load_threshold(file)


def test_what_is_no_threshold_is_named(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_threshold(tmp_path / "nothing")
    with pytest.raises(TypeError, match="threshold is a float"):
        save_threshold(0.5, tmp_path / "file")
    with pytest.raises(TypeError, match="file: "):
        load_threshold(3)
    fit = store.features, store.labels, store.init_W, store.init_b

    class Mine(SoftmaxResponseScorer):
        pass

    with pytest.raises(TypeError, match="estimator is a Mine"):
        SavedThreshold.of(Mine().fit(*fit), *fit[:2])


def test_a_score_that_holds_others_gets_a_threshold_whatever_its_devices(store):
    fit = store.features, store.labels, store.init_W, store.init_b
    fitted = HUQScorer(cv=2).fit(*fit)
    found = SavedThreshold.of(fitted, *fit[:2])
    fitted.set_params(device="cpu")
    found.check_score(fitted)
    with pytest.raises(ValueError, match="set for another score"):
        found.check_score(HUQScorer(alpha=0.5, cv=2).fit(*fit))


@pytest.mark.parametrize(
    "argument",
    ["estimator", "X", "y", "target_risk", "confidence", "method", "provenance"],
)
@share_of_examples(0.5)
@given_value(value=anything)
def test_whatever_is_passed_the_error_names_it(argument, value, tmp_path):
    scorer = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    given = {"estimator": scorer, "X": PROBLEM.X, "y": PROBLEM.y, argument: value}
    call(lambda: SavedThreshold.of(**given), argument, *(("y",) if argument == "X" else ()))
    found = SavedThreshold.of(scorer, PROBLEM.X, PROBLEM.y)
    if argument == "estimator":
        call(lambda: found.check_score(value), "estimator", "threshold")
    if argument == "y":
        call(lambda: found.accepts(value), "uncertainty")
        call(lambda: save_threshold(value, tmp_path / "file"), "threshold")


# --- bad input on the command line ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-risk", 0], "target_risk is 0.0"),
        (["--target-risk", 1], "target_risk is 1.0"),
        (["--target-risk", 0.1, "--confidence", 1], "confidence is 1.0"),
        (["--target-risk", 0.1, "--method", "luck"], "method is 'luck'"),
        (
            ["--target-risk", 0.1, "--head", "nowhere"],
            "'nowhere' does not exist. Expected a fitted head",
        ),
        (["--target-risk", 0.1, "--out", "."], "is a folder; name a file"),
    ],
)
def test_bad_options_are_named(adue, store, options, message):
    status, out, err = adue("threshold", store.path, *options)
    assert (status, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_rows_of_another_model_and_rows_without_labels_are_refused(adue, rows, head, tmp_path):
    other = make_store(tmp_path / "other", rows, adapter_sha256="two")
    status, _, err = adue("threshold", other.path, "--head", head, "--target-risk", 0.1)
    assert status == 1
    assert "adapter_sha256" in err
    X, _, W, b = rows
    FeatureStore.create(tmp_path / "bare", features=X, init_W=W, init_b=b)
    status, _, err = adue("threshold", tmp_path / "bare", "--target-risk", 0.1)
    assert status == 1
    assert "has no labels" in err


# --- predict ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored_case(make_saved_case, tmp_path_factory):
    """Hold an adapter, texts, and a head that was saved for it."""
    from adue_sklearn.features import extract_features, load_classifier

    case = make_saved_case("roberta", 2)
    folder = tmp_path_factory.mktemp("threshold")
    texts = make_texts(60, longest=8, seed=3)
    classifier = load_classifier(case.adapter, device="cpu", classes=["bad", "good"])
    predicted = case.logits_one_by_one(texts).argmax(axis=1)
    store = extract_features(classifier, texts, folder / "store", labels=predicted.tolist())
    scorer = SoftmaxResponseScorer().fit(store.features, store.labels, store.init_W, store.init_b)
    save_head(scorer, folder / "head", provenance=store.provenance, class_names=["bad", "good"])
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return case, folder


def test_predict_says_for_each_line_whether_to_accept(adue, scored_case, tmp_path):
    case, folder = scored_case
    fitted = load_head(folder / "head").estimator
    store = FeatureStore.open(folder / "store")
    middle = float(np.median(fitted.predict_uncertainty(store.features)))
    found = SavedThreshold.of(fitted, store.features, store.labels, target_risk=0.1)
    half = SavedThreshold(**{**vars(found), "threshold": middle})
    save_threshold(half, tmp_path / "threshold.json")
    status, _, err = adue(
        "predict", folder / "head", case.adapter, folder / "texts.jsonl", "--out",
        tmp_path / "scored.jsonl", "--threshold", tmp_path / "threshold.json",
    )  # fmt: skip
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [line["accept"] for line in lines] == [line["uncertainty"] <= middle for line in lines]
    assert 0 < sum(line["accept"] for line in lines) < 60
    assert list(lines[0]) == ["row", "label", "probability", "uncertainty", "accept"]


def test_predict_refuses_the_threshold_of_another_head(adue, scored_case, store, tmp_path):
    case, folder = scored_case
    other = SoftmaxResponseScorer().fit(store.features, store.labels, store.init_W, store.init_b)
    found = SavedThreshold.of(other, store.features, store.labels)
    save_threshold(found, tmp_path / "threshold.json")
    status, _, err = adue(
        "predict", folder / "head", case.adapter, folder / "texts.jsonl", "--out",
        tmp_path / "scored.jsonl", "--threshold", tmp_path / "threshold.json",
    )  # fmt: skip
    assert status == 1
    assert "set for another score" in err
    assert not (tmp_path / "scored.jsonl").exists()

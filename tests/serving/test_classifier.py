"""One object that answers texts with an uncertainty, and the folder that holds it."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import HfApi
from sklearn.frozen import FrozenEstimator

from adue_sklearn import (
    CompanionScorer,
    ErrorProbability,
    LayerProbeScorer,
    SecondOpinionScorer,
    SidekickScorer,
    SoftmaxResponseScorer,
    StackedScorer,
)
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.features import ModelViews, compute_features, compute_views, load_classifier
from adue_sklearn.persistence import load_head, save_head, sidekick_view
from adue_sklearn.serving import UncertaintyClassifier, folder as folders
from adue_sklearn.thresholds import SavedThreshold, save_threshold
from tests.adapter_cases import save_another_adapter
from tests.lora_cases import make_texts
from tests.serving_cases import TEXTS, fit_quietly, fitted_head, loaded, rows_of, snippets


@pytest.fixture(scope="module")
def parts(roberta):
    """Hold classifier, head, threshold and P(error)."""
    _, classifier, head = roberta
    rows = rows_of(classifier)
    threshold = SavedThreshold.of(head.estimator, *rows, target_risk=0.5)
    median = float(np.median(head.estimator.predict_uncertainty(rows[0])))
    threshold = replace(threshold, threshold=median)  # of which some texts are on either side
    errors = ErrorProbability(FrozenEstimator(head.estimator), method="sigmoid").fit(*rows)
    return classifier, head, threshold, errors


@pytest.fixture(scope="module")
def clf(parts):
    return UncertaintyClassifier(*parts, measured={"ROC-AUC": 0.7})


def same(found, expected):
    """Compare answers, whose numbers depend on the batch in the last bits."""
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.label, ours.accepted) == (theirs.label, theirs.accepted)
        numbers = [
            (a.probability, a.uncertainty, a.error_probability or 0.0) for a in (ours, theirs)
        ]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_answers_are_what_the_estimators_say(parts, clf):
    classifier, head, threshold, errors = parts
    answers = clf(TEXTS)
    X, _ = compute_features(classifier, TEXTS)
    uncertainty = head.estimator.predict_uncertainty(X)
    labels = [classifier.classes[row] for row in head.estimator.predict(X)]
    assert [answer.label for answer in answers] == labels
    np.testing.assert_allclose([a.uncertainty for a in answers], uncertainty, atol=1e-12)
    probabilities = head.estimator.predict_proba(X).max(axis=1)
    np.testing.assert_allclose([a.probability for a in answers], probabilities, atol=1e-12)
    wrong = errors.predict_uncertainty(X)
    np.testing.assert_allclose([a.error_probability for a in answers], wrong, atol=1e-12)
    accepted = [answer.accepted for answer in answers]
    assert accepted == threshold.accepts(uncertainty).tolist()
    assert len(set(accepted)) == 2


def test_one_text_a_list_none_and_a_stream(clf):
    expected = clf(TEXTS)
    same([clf(TEXTS[0])], expected[:1])
    assert clf([]) == []
    same(list(clf.stream(iter(TEXTS), window_rows=5)), expected)
    with pytest.raises(ValueError, match="got one str"):
        next(clf.stream(TEXTS[0]))


def test_sixteen_threads_get_what_one_gets(clf):
    expected = [clf(text) for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda _: [clf(text) for text in TEXTS], range(16)):
            same(found, expected)


def test_a_saved_folder_answers_alike_and_holds_no_pickle(clf, tmp_path):
    where = clf.save_pretrained(tmp_path / "served")
    again = UncertaintyClassifier.from_pretrained(where)
    same(again(TEXTS), clf(TEXTS))
    suffixes = {file.suffix for file in where.rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md", ".lock", "", ".jinja"}
    card = (where / "README.md").read_text()
    for said in ("ROC-AUC", "0.7", clf.threshold.describe(), "## Limits", "class 0, class 1"):
        assert said in card
    with pytest.raises(FileExistsError, match="already holds an uncertainty classifier"):
        clf.save_pretrained(where)
    again.save_pretrained(where, overwrite=True)  # though it was loaded from there


def test_a_folder_may_refer_to_the_adapter(clf, tmp_path):
    where = clf.save_pretrained(tmp_path / "served", include_model=False)
    assert not (where / "adapter").exists()
    same(UncertaintyClassifier.from_pretrained(where)(TEXTS), clf(TEXTS))


def test_a_base_in_a_folder_is_named_as_the_adapter_names_it(roberta, make_saved_case, tmp_path):
    _, classifier, head = roberta
    case = make_saved_case("roberta", 2)
    adapter = shutil.copytree(case.adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "owner/base"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    base = shutil.copytree(case.base, tmp_path / "base")
    moved = load_classifier(adapter, base_model=base, classes=classifier.classes)
    clf = UncertaintyClassifier(moved, head._replace(provenance={}))
    where = clf.save_pretrained(tmp_path / "served")
    assert 'base_model: "owner/base"' in (where / "README.md").read_text()
    same(UncertaintyClassifier.from_pretrained(where)(TEXTS), clf(TEXTS))
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="owner/base"):
        UncertaintyClassifier.from_pretrained(where)
    found = UncertaintyClassifier.from_pretrained(where, base_model=tmp_path / "elsewhere")
    same(found(TEXTS), clf(TEXTS))


def test_any_saved_score_is_served_stacks_too(roberta, tmp_path):
    _, classifier, _ = roberta
    head = fitted_head(classifier, StackedScorer())
    clf = UncertaintyClassifier(classifier, head)
    where = clf.save_pretrained(tmp_path / "served")
    same(UncertaintyClassifier.from_pretrained(where)(TEXTS), clf(TEXTS))
    assert clf(TEXTS[0]).accepted is None


def test_second_opinions_get_their_views_from_the_same_texts(roberta, tmp_path):
    case, classifier, head = roberta
    friend = load_classifier(
        save_another_adapter(case.adapter, tmp_path / "friend"), classes=classifier.classes
    )
    texts, labels = make_texts(120, longest=12, seed=1), rows_of(classifier)[1]
    train, names = make_texts(60, longest=12, seed=7), np.array(classifier.classes)
    sidekick = SidekickScorer().fit_witness(
        train, names[compute_features(classifier, train)[1].argmax(axis=1)], classes=names
    )
    base = load_classifier(case.adapter, classes=classifier.classes, without_adapter=True)
    others = ModelViews(pool="first", base=base, companions={"friend": friend})
    views = replace(others, layers=[1], texts={"sidekick": sidekick_view(sidekick)})
    X, learned = compute_views(classifier, texts, views), compute_views(classifier, train, views)
    layers = LayerProbeScorer(["layer_1", "base"]).fit_witness(
        learned, names[np.arange(60) % 2], classes=names
    )
    opinions = [("s", sidekick), ("c", CompanionScorer(view="friend")), ("l", layers)]
    named = replace(classifier.head, classes=names)
    score = fit_quietly(SecondOpinionScorer(opinions, cv=2), X, names[labels], named)
    clf = UncertaintyClassifier(
        classifier,
        head._replace(estimator=score),
        views=others,
        fallback=True,
    )
    answers = clf(TEXTS)
    expected = score.predict_uncertainty(compute_views(classifier, TEXTS, views))
    np.testing.assert_allclose([a.uncertainty for a in answers], expected, atol=1e-6)
    assert not any(answer.fallback for answer in answers)
    assert clf("жжж").fallback
    same(
        UncertaintyClassifier.from_pretrained(clf.save_pretrained(tmp_path / "served"))(TEXTS),
        answers,
    )
    with pytest.raises(ValueError, match="nothing gives friend, base"):
        UncertaintyClassifier(classifier, head._replace(estimator=score))
    known = {"views": {"friend": {"provenance": {"adapter_sha256": "another"}}}}
    with pytest.raises(ModelMismatchError, match="'friend' is another adapter"):
        UncertaintyClassifier(
            classifier,
            head._replace(estimator=score, provenance={**head.provenance, **known}),
            views=others,
        )
    with pytest.raises(ValueError, match="reads no view 'friend'; it reads: none"):
        UncertaintyClassifier(classifier, head, views=ModelViews(companions={"friend": friend}))


def test_a_head_that_is_a_probability_of_an_error_needs_no_other(roberta):
    _, classifier, _ = roberta
    head = fitted_head(classifier, ErrorProbability(SoftmaxResponseScorer(), method="sigmoid"))
    answer = UncertaintyClassifier(classifier, head)(TEXTS[0])
    assert answer.error_probability == answer.uncertainty


def test_what_does_not_belong_together_is_refused(parts, roberta, make_saved_case, tmp_path):
    classifier, head, threshold, errors = parts
    other = fitted_head(classifier, SoftmaxResponseScorer())
    with pytest.raises(ValueError, match="threshold was set for another score"):
        UncertaintyClassifier(classifier, other, threshold)
    llama = loaded(make_saved_case("llama", 4))
    with pytest.raises(ModelMismatchError, match="adapter_sha256"):
        UncertaintyClassifier(llama, head)
    with pytest.raises(ValueError, match="fitted with another original head"):
        UncertaintyClassifier(llama, fitted_head(llama), None, errors)
    where = UncertaintyClassifier(classifier, head).save_pretrained(tmp_path / "served")
    document = json.loads((where / "adue.json").read_text())
    document["model"]["adapter_sha256"] = "another"
    (where / "adue.json").write_text(json.dumps(document))
    with pytest.raises(ModelMismatchError, match="holds another model"):
        UncertaintyClassifier.from_pretrained(where)


def test_places_that_hold_none_and_damaged_ones_are_named(roberta, tmp_path):
    case, classifier, head = roberta
    with pytest.raises(FileNotFoundError, match="is an adapter, not an uncertainty classifier"):
        UncertaintyClassifier.from_pretrained(case.adapter)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        UncertaintyClassifier.from_pretrained(tmp_path / "nowhere")
    where = UncertaintyClassifier(classifier, head).save_pretrained(tmp_path / "served")
    with pytest.raises(FileNotFoundError, match="is an uncertainty classifier, not a fitted head"):
        load_head(where)
    sound = (where / "adue.json").read_text()
    (where / "adue.json").write_text(sound.replace('"float32"', '"nn"'))
    with pytest.raises(ValueError, match=r"'model\.precision' is 'nn'; expected 'float64'"):
        UncertaintyClassifier.from_pretrained(where)
    (where / "adue.json").write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match="cannot be read as an uncertainty classifier"):
        UncertaintyClassifier.from_pretrained(where)
    live = load_classifier(case.live, tokenizer=case.tokenizer, classes=classifier.classes)
    unknown = head._replace(provenance={})
    with pytest.raises(ValueError, match="a live model, which has no name"):
        UncertaintyClassifier(live, unknown).save_pretrained(tmp_path / "live")


def test_the_hub_gets_the_folder_and_gives_it_back(clf, tmp_path, monkeypatch):
    asked = {}

    def create_repo(self, repo_id, **options):
        asked["created"] = repo_id, options

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        (tmp_path / "hub").mkdir()
        for name in ("adue.json", "README.md", "head", "adapter"):
            assert (folder_path / name).exists()
        folder_path.rename(tmp_path / "hub" / "snapshot")
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(name, revision):
        asked["downloaded"] = name, revision
        return str(tmp_path / "hub" / "snapshot")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(folders, "snapshot_download", snapshot_download)
    with pytest.warns(UserWarning, match="folder of this machine only"):
        address = clf.push_to_hub("me/mine", private=True)
    assert address == "https://hub/me/mine/commit/1"
    assert asked["created"] == ("me/mine", {"private": True, "exist_ok": True})
    again = UncertaintyClassifier.from_pretrained("me/mine", revision="v1")
    assert asked["downloaded"] == ("me/mine", "v1")
    same(again(TEXTS), clf(TEXTS))


def test_the_snippet_of_the_page_runs(parts, roberta, tmp_path, monkeypatch, capsys):
    classifier, head, threshold, _ = parts
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").symlink_to(roberta[0].adapter)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    save_head(head.estimator, "head", class_names=head.class_names)
    save_threshold(threshold, "accept.json")
    names = {}
    (snippet,) = snippets("One object, one folder")
    exec(snippet, names)
    assert capsys.readouterr().out.count("class ") == len(TEXTS)
    assert "ROC-AUC on 2,000 new rows**: 0.86" in (tmp_path / "served" / "README.md").read_text()
    same(names["clf"](TEXTS), UncertaintyClassifier(classifier, head, threshold)(TEXTS))

"""A stacked export is an ordinary checkpoint whose logits say answer and uncertainty."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import pipeline

from adue_sklearn import AdUESearchCV, EntropyScorer
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.features import compute_features, load_classifier
from adue_sklearn.persistence import save_head
from adue_sklearn.serving import export_stacked
from adue_sklearn.thresholds import SavedThreshold, save_threshold
from tests.serving_cases import DOCS, TEXTS, fitted_head, loaded, names_of, rows_of, snippets


def decoder():
    names = {}
    exec(snippets("An ordinary checkpoint")[0], names)
    return names["decode"]


def outputs_of(folder, texts, **options):
    """Return the outputs of an ordinary pipeline in the order of ``id2label``."""
    options = {"function_to_apply": "none", "top_k": None, "truncation": True} | options
    classify = pipeline("text-classification", str(folder), batch_size=4)
    config = classify.model.config
    names = [config.id2label[row] for row in range(config.num_labels)]
    found = [{one["label"]: one["score"] for one in row} for row in classify(texts, **options)]
    return config, [[row[name] for name in names] for row in found]


def check(folder, classifier, head):
    config, outputs = outputs_of(folder, TEXTS)
    X, logits = compute_features(classifier, TEXTS)
    decoded = [decoder()(row, config.adue) for row in outputs]
    assert [row for row, _ in decoded] == logits.argmax(axis=1).tolist()
    uncertainty = head.estimator.predict_uncertainty(X)
    np.testing.assert_allclose([u for _, u in decoded], uncertainty, atol=1e-5)
    return config


@pytest.mark.parametrize(
    ("family", "n_classes"), [("roberta", 2), ("llama", 4), ("bert", 77), ("distilbert", 4)]
)
def test_a_plain_pipeline_gives_answer_and_uncertainty(
    family, n_classes, make_saved_case, tmp_path
):
    classifier = loaded(make_saved_case(family, n_classes))
    head = fitted_head(classifier)
    export_stacked(classifier, head, tmp_path / "out")
    config = check(tmp_path / "out", classifier, head)
    names = names_of(n_classes)
    assert [*config.id2label.values()] == [*names, *(f"uncertainty: {name}" for name in names)]


@pytest.mark.parametrize(
    "setting", [{"scale": "paper", "lam": 3.0}, {"measure": "entropy"}], ids=["paper", "entropy"]
)
def test_the_decoder_knows_every_measure_and_scale(setting, roberta, tmp_path):
    _, classifier, head = roberta
    changed = head._replace(estimator=copy.copy(head.estimator).set_params(**setting))
    export_stacked(classifier, changed, tmp_path / "out")
    check(tmp_path / "out", classifier, changed)


def test_a_search_is_exported_as_its_best_head_and_the_model_stays_as_it_was(roberta, tmp_path):
    _, classifier, _ = roberta
    before = [id(value) for value in classifier.model.parameters()]
    head = fitted_head(classifier, AdUESearchCV({"beta": [0.1]}, cv=2))
    export_stacked(classifier, head, tmp_path / "out")
    check(tmp_path / "out", classifier, head)
    assert [id(value) for value in classifier.model.parameters()] == before
    assert classifier.model.config.num_labels == 2


def test_logarithms_of_a_softmax_over_all_outputs_are_read_alike(roberta, tmp_path):
    _, classifier, head = roberta
    export_stacked(classifier, head, tmp_path / "out")
    config, raw = outputs_of(tmp_path / "out", TEXTS)
    _, scores = outputs_of(tmp_path / "out", TEXTS, function_to_apply="softmax")
    decode = decoder()
    expected = [decode(row, config.adue) for row in raw]
    found = [decode(np.log(row).tolist(), config.adue) for row in scores]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_snippets_of_the_page_run(roberta, tmp_path, monkeypatch):
    case, classifier, head = roberta
    export_stacked(classifier, head, tmp_path / "served")
    export_stacked(classifier, head, tmp_path / "served-adapter", adapter=True)
    monkeypatch.chdir(tmp_path)
    names = {"text": TEXTS[0], "base_model": str(case.base)}
    for snippet in snippets("An ordinary checkpoint"):
        exec(compile(snippet, str(DOCS), "exec"), names)
    X, _ = compute_features(classifier, TEXTS[:1])
    assert names["label"] == classifier.classes[head.estimator.predict(X)[0]]
    assert names["uncertainty"] == pytest.approx(head.estimator.predict_uncertainty(X)[0], abs=1e-5)


@pytest.mark.parametrize("saved", [None, []], ids=["adapter holds the head", "base holds the head"])
def test_an_adapter_keeps_its_lora_and_brings_the_stacked_head(saved, make_saved_case, tmp_path):
    case = make_saved_case("llama", 4, **({} if saved is None else {"modules_to_save": saved}))
    if saved is not None:
        copy.deepcopy(case.live).unload().save_pretrained(case.base)
    classifier = loaded(case)
    head = fitted_head(classifier)
    export_stacked(classifier, head, tmp_path / "served-adapter", adapter=True)
    names = {"base_model": str(case.base)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(snippets("An ordinary checkpoint")[2], names)
    encoded = classifier.tokenizer(TEXTS[:1], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        logits = names["model"].eval()(**encoded).logits[0].tolist()
    X, _ = compute_features(classifier, TEXTS[:1])
    _, uncertainty = decoder()(logits, names["config"].adue)
    assert uncertainty == pytest.approx(head.estimator.predict_uncertainty(X)[0], abs=1e-5)


def test_other_scores_deep_heads_and_other_models_are_refused_by_name(roberta, tmp_path):
    case, classifier, head = roberta
    entropy = fitted_head(classifier, EntropyScorer())
    with pytest.raises(ValueError, match="a EntropyScorer is not a function of further logits"):
        export_stacked(classifier, entropy, tmp_path / "out")
    deep = load_classifier(case.adapter, classes=classifier.classes, features="head")
    with pytest.raises(ValueError, match="trained 2 layers, but only the last one can be stacked"):
        export_stacked(deep, fitted_head(deep), tmp_path / "out")
    merged = replace(classifier, provenance={**classifier.provenance, "model": None})
    unknown = head._replace(provenance={})
    with pytest.raises(ValueError, match="a live model is not a saved adapter"):
        export_stacked(merged, unknown, tmp_path / "out", adapter=True)
    other = head._replace(provenance={**head.provenance, "adapter_sha256": "another"})
    with pytest.raises(ModelMismatchError, match="adapter_sha256"):
        export_stacked(classifier, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_an_older_export_is_replaced_and_only_when_asked(roberta, tmp_path):
    _, classifier, head = roberta
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        export_stacked(classifier, head, tmp_path / "mine", overwrite=True)
    export_stacked(classifier, head, tmp_path / "out")
    with pytest.raises(FileExistsError, match="--force"):
        export_stacked(classifier, head, tmp_path / "out")
    export_stacked(classifier, head, tmp_path / "out", overwrite=True)
    assert "adue" in json.loads((tmp_path / "out" / "config.json").read_text())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine", "out"]


def test_adue_export_writes_checkpoint_and_threshold(adue, roberta, tmp_path):
    case, classifier, head = roberta
    save_head(head.estimator, tmp_path / "head", provenance=head.provenance, class_names=head[2])
    limit = SavedThreshold.of(head.estimator, *rows_of(classifier), target_risk=0.5)
    save_threshold(limit, tmp_path / "accept.json")
    arguments = ["export", case.adapter, "--head", tmp_path / "head", "--out", tmp_path / "out"]
    status, out, err = adue(*arguments, "--threshold", tmp_path / "accept.json")
    assert status == 0, err
    assert "the first 2 logits are the answer" in out
    settings = check(tmp_path / "out", classifier, head).adue
    assert (settings["accepts"], settings["threshold"]) == ("all", None)
    status, _, err = adue(*arguments)
    assert status == 1
    assert "--force" in err

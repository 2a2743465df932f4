"""Classifier and uncertainty as a module of torch, and exported as a graph."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from adue_sklearn import AdUESearchCV, MahalanobisScorer
from adue_sklearn.features import compute_features
from adue_sklearn.scorers import (
    DoctorScorer,
    EnergyScorer,
    EntropyScorer,
    MarginScorer,
    RelUScorer,
    SoftmaxResponseScorer,
)
from adue_sklearn.serving import UncertaintyClassifier
from adue_sklearn.thresholds import SavedThreshold
from tests.serving_cases import TEXTS, fitted_head, loaded, rows_of, snippets

SCORES = (SoftmaxResponseScorer, EntropyScorer, MarginScorer, EnergyScorer, DoctorScorer)


def inputs_of(classifier, texts):
    encoded = classifier.tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=classifier.max_length,
        padding_side=classifier.padding_side,
        return_tensors="pt",
    )
    return encoded["input_ids"], encoded["attention_mask"]


def check(run, clf, n_texts=12):
    texts = TEXTS[:n_texts]
    X, expected = compute_features(clf.classifier, texts)
    with torch.no_grad():
        logits, uncertainty = run(*inputs_of(clf.classifier, texts))
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-5)
    known = clf.estimator.predict_uncertainty(X)
    np.testing.assert_allclose(np.asarray(uncertainty), known, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "n_classes", "n_own"), [("roberta", 2, 2), ("llama", 4, 1)], ids=["bias", "no bias"]
)
def test_the_module_gives_logits_and_uncertainty(family, n_classes, n_own, make_saved_case):
    classifier = loaded(make_saved_case(family, n_classes))
    clf = UncertaintyClassifier(classifier, fitted_head(classifier))
    module = clf.as_module()
    check(module, clf)
    shared = {id(value) for value in classifier.model.parameters()}
    assert sum(id(value) not in shared for value in module.parameters()) == n_own


def test_scores_of_logits_and_searches_have_a_module_and_others_are_refused(roberta):
    _, classifier, _ = roberta
    scores = [score() for score in (*SCORES, RelUScorer)] + [AdUESearchCV({"beta": [0.1]}, cv=2)]
    for score in scores:
        clf = UncertaintyClassifier(classifier, fitted_head(classifier, score))
        check(clf.as_module(), clf)
    other = UncertaintyClassifier(classifier, fitted_head(classifier, MahalanobisScorer()))
    with pytest.raises(ValueError, match="a MahalanobisScorer is not a function of logits alone"):
        other.as_module()


@pytest.mark.deep
def test_the_exported_graph_takes_any_number_of_texts_of_any_length(roberta):
    _, classifier, head = roberta
    clf = UncertaintyClassifier(classifier, head)
    run = clf.export_program().module()
    for n_texts in (1, 2, 12):
        check(run, clf, n_texts)


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")  # of the libraries that write the graph
def test_onnx_runtime_gives_the_same(roberta, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, classifier, head = roberta
    limit = SavedThreshold.of(head.estimator, *rows_of(classifier), target_risk=0.5)
    clf = UncertaintyClassifier(classifier, head, replace(limit, threshold=0.25, n_accepted=1))
    where = clf.export_onnx(tmp_path / "onnx")
    session = onnxruntime.InferenceSession(where / "model.onnx")
    names = ("input_ids", "attention_mask")

    def run(*inputs):
        return session.run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})

    for n_texts in (1, 2, 12):
        check(run, clf, n_texts)
    known = json.loads((where / "served.json").read_text())
    assert (known["labels"], known["threshold"]) == (["class 0", "class 1"], 0.25)
    monkeypatch.chdir(tmp_path)
    names = {"texts": TEXTS}
    exec(snippets("As a module of torch, and as ONNX")[0], names)
    answers = clf(TEXTS)
    assert names["labels"] == [answer.label for answer in answers]
    expected = [answer.uncertainty for answer in answers]
    np.testing.assert_allclose(names["uncertainty"], expected, atol=1e-5)


def test_without_the_extra_the_message_names_it(roberta, tmp_path, monkeypatch):
    _, classifier, head = roberta
    monkeypatch.setattr("adue_sklearn.serving.module._NEEDED", ("no_such_library",))
    with pytest.raises(ModuleNotFoundError, match=r"adue-sklearn\[onnx\]"):
        UncertaintyClassifier(classifier, head).export_onnx(tmp_path / "served")

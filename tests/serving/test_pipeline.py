"""The task "uncertainty-classification" of transformers' pipelines."""

from __future__ import annotations

import pytest
from transformers import pipeline

from adue_sklearn.serving import UncertaintyClassifier
from adue_sklearn.thresholds import SavedThreshold
from tests.serving_cases import TEXTS, rows_of, snippets


@pytest.fixture(scope="module")
def clf(roberta):
    _, classifier, head = roberta
    threshold = SavedThreshold.of(head.estimator, *rows_of(classifier), target_risk=0.5)
    return UncertaintyClassifier(classifier, head, threshold)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_gives_what_text_classification_gives_and_the_uncertainty(clf, batch_size):
    plain = pipeline(
        "text-classification", clf.classifier.model, tokenizer=clf.classifier.tokenizer
    )
    ours = pipeline("uncertainty-classification", clf, batch_size=batch_size)
    answers = clf(TEXTS)
    for found, expected, answer in zip(ours(TEXTS), plain(TEXTS), answers, strict=True):
        assert found["label"] == answer.label
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert found["uncertainty"] == pytest.approx(answer.uncertainty, abs=1e-5)
        assert list(found) == ["label", "score", "uncertainty", "accepted", "truncated"]


def test_forms_of_inputs_and_outputs_are_those_of_text_classification(clf):
    ours = clf.as_pipeline()
    plain = pipeline(
        "text-classification", clf.classifier.model, tokenizer=clf.classifier.tokenizer
    )

    def form(found):
        if isinstance(found, list):
            return [form(part) for part in found]
        return {name: found[name] for name in ("label", "score") if name in found}.keys()

    for options in ({}, {"top_k": 1}, {"top_k": None}, {"top_k": 2, "truncation": True}):
        for inputs in (TEXTS[0], TEXTS[:3]):
            assert form(ours(inputs, **options)) == form(plain(inputs, **options))
    both = ours(TEXTS[:1], top_k=None)[0]
    assert both[0]["score"] >= both[1]["score"]
    assert "uncertainty" in both[0]
    assert "uncertainty" not in both[1]
    assert len(list(ours(text for text in TEXTS))) == len(TEXTS)


def test_what_it_cannot_do_is_refused(clf):
    with pytest.raises(ValueError, match="always cut at 78 tokens"):
        clf.as_pipeline()(TEXTS[0], truncation=False)
    with pytest.raises(ValueError, match="function_to_apply: unknown here"):
        clf.as_pipeline(function_to_apply="none")
    with pytest.raises(ValueError, match="expected an UncertaintyClassifier, got Roberta"):
        pipeline("uncertainty-classification", clf.classifier.model)
    with pytest.raises(ValueError, match="expected texts, got a dict"):
        clf.as_pipeline()({"text": "a", "text_pair": "b"})


def test_the_snippet_of_the_page_runs(clf):
    names = {"clf": clf}
    (snippet,) = snippets("In a pipeline of transformers")
    exec(snippet, names)
    assert names["classify"](TEXTS[:1])[0]["label"] == clf(TEXTS[0]).label

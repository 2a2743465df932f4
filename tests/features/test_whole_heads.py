"""Whole heads: every layer, and what enters the first, against the unmerged model."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from transformers import AutoModelForSequenceClassification

from adue_sklearn import AdUEEstimator, MahalanobisScorer, SoftmaxResponseScorer
from adue_sklearn._utils.head import ACTIVATIONS, apply_head
from adue_sklearn.exceptions import FeatureMismatchError, HeadError, StoreError
from adue_sklearn.features import (
    FeatureStore,
    LoraFeatureExtractor,
    compute_features,
    extract_features,
    load_classifier,
)
from adue_sklearn.features._model.heads import FoundHead, Layer, check_batch
from tests import marks
from tests.lora_cases import make_config, make_texts, make_tokenizer

TEXTS = make_texts(12)
#: Layers and activation of the head of each architecture.
HEADS = {
    "roberta": (["classifier.dense", "classifier.out_proj"], "tanh"),
    "electra": (["classifier.dense", "classifier.out_proj"], "gelu"),
    "bert": (["bert.pooler.dense", "classifier"], "tanh"),
    "distilbert": (["pre_classifier", "classifier"], "relu"),
    "deberta-v2": (["pooler.dense", "classifier"], "gelu"),
    "mpnet": (["classifier.dense", "classifier.out_proj"], "tanh"),
    "t5": (["classification_head.dense", "classification_head.out_proj"], "tanh"),
    **dict.fromkeys(["llama", "qwen2", "gemma", "mistral", "phi", "gpt2"], (["score"], None)),
}


def whole(model, **options):
    return load_classifier(model, features="head", device="cpu", **options)


def through_layers(features, head):
    """Apply a head as estimators do."""
    weights = [torch.tensor(W, dtype=torch.float64) for W in head.weights]
    biases = [None if b is None else torch.tensor(b, dtype=torch.float64) for b in head.biases]
    X = torch.tensor(features, dtype=torch.float64)
    return apply_head(X, weights, biases, head.activation).numpy()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", HEADS)
def test_features_through_all_layers_are_the_logits_of_the_unmerged_model(
    family, precision, make_saved_case
):
    case = make_saved_case(family, 3)
    classifier = whole(case.adapter, dtype=precision)
    modules, activation = HEADS[family]
    assert [layer.module for layer in classifier.head.layers] == modules
    assert classifier.head.activation == activation
    features, logits = compute_features(classifier, TEXTS, batch_tokens=100)
    assert features.shape == (len(TEXTS), classifier.n_features)
    expected = case.logits_one_by_one(TEXTS)
    tolerance = 2e-5 if precision == torch.float32 else 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    rebuilt = through_layers(features, classifier.head)
    np.testing.assert_allclose(rebuilt, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ["roberta", "electra"])
def test_features_of_an_encoder_are_the_first_tokens_last_hidden_state(family, make_saved_case):
    case = make_saved_case(family, 3)
    features, _ = compute_features(whole(case.adapter), TEXTS[:4])
    for text, row in zip(TEXTS[:4], features, strict=True):
        ids = torch.tensor([case.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = case.live(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(row, hidden[0, 0], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_head_of_one_layer_is_the_same_in_both_views(family, make_saved_case):
    case = make_saved_case(family, 3)
    last, head = load_classifier(case.adapter, device="cpu"), whole(case.adapter)
    assert head.provenance == last.provenance
    np.testing.assert_array_equal(head.head.init_W, last.head.init_W)
    for a, b in zip(compute_features(head, TEXTS), compute_features(last, TEXTS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_provenance_names_view_layers_and_activation(roberta):
    last = load_classifier(roberta.adapter, device="cpu").provenance
    assert last["view"] == "last_linear"
    assert not {"layers", "activation"} & last.keys()
    head = whole(roberta.adapter).provenance
    assert (head["view"], head["activation"]) == ("head", "tanh")
    assert head["layers"] == HEADS["roberta"][0]
    assert head["head"] == last["head"]


def live(family, **changes):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(make_config(family, 3, **changes)).eval()


class TwoLayers(nn.Module):
    """A head on every token, as a decoder's, whose way between its layers is a parameter."""

    def __init__(self, between, width=16):
        super().__init__()
        self.dense, self.out = nn.Linear(16, width), nn.Linear(width, 3, bias=False)
        self.between = between

    def forward(self, hidden):
        return self.out(self.between(hidden, self.dense(hidden)))


def test_two_layers_on_every_token_give_features_at_the_pooled_one():
    model = live("llama")
    model.score = TwoLayers(lambda hidden, z: torch.relu(z), width=8)
    classifier = whole(model, tokenizer=make_tokenizer(encoder=False))
    assert [layer.module for layer in classifier.head.layers] == ["score.dense", "score.out"]
    assert [b is None for b in classifier.head.biases] == [False, True]
    features, logits = compute_features(classifier, TEXTS)
    assert features.shape[1] == 16
    np.testing.assert_allclose(through_layers(features, classifier.head), logits, atol=1e-5)


class PooledInBetween(nn.Module):
    """RoBERTa's head, but for the first token, which is taken after the first layer."""

    def __init__(self, head):
        super().__init__()
        self.dense, self.out_proj = head.dense, head.out_proj

    def forward(self, hidden, **_):
        return self.out_proj(torch.tanh(self.dense(hidden))[:, 0])


def test_a_first_token_taken_after_the_first_layer_gives_the_same_features():
    before, after = live("roberta"), live("roberta")
    after.load_state_dict(before.state_dict())
    after.classifier = PooledInBetween(after.classifier)
    X, Z = compute_features(whole(before, tokenizer=make_tokenizer()), TEXTS)
    X_after, Z_after = compute_features(whole(after, tokenizer=make_tokenizer()), TEXTS)
    np.testing.assert_allclose(X_after, X, atol=1e-6)
    np.testing.assert_allclose(Z_after, Z, atol=1e-6)


def test_three_layers_are_followed_to_the_first():
    model = live("llama")
    model.score = nn.Sequential(
        nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5), nn.Tanh(), nn.Dropout(), nn.Linear(5, 3)
    ).eval()
    classifier = whole(model, tokenizer=make_tokenizer(encoder=False))
    assert [W.shape for W in classifier.head.weights] == [(12, 16), (5, 12), (3, 5)]
    features, logits = compute_features(classifier, TEXTS)
    np.testing.assert_allclose(through_layers(features, classifier.head), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("between", "found"),
    [
        (lambda h, z: torch.nn.functional.silu(z), r"'score\.dense' through .* off by up to"),
        (lambda h, z: torch.nn.functional.gelu(z, approximate="tanh"), "through gelu, the closest"),
        (lambda h, z: h + torch.tanh(z), r"'score\.dense' through"),
        (lambda h, z: z, r"'score\.dense' through"),
    ],
    ids=["silu", "approximate gelu", "skip", "nothing"],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_what_estimators_cannot_train_is_refused_by_name(between, found, precision):
    model = live("llama")
    model.score = TwoLayers(between)
    tokenizer = make_tokenizer(encoder=False)
    load_classifier(model, tokenizer=tokenizer, dtype=precision)  # the default view works
    with pytest.raises(HeadError, match=rf"the input of 'score\.out' is not.*{found}.*'last'"):
        whole(model, tokenizer=tokenizer, dtype=precision)


def test_a_norm_in_the_head_is_named(make_saved_case):
    case = make_saved_case("modernbert", 3)
    with pytest.raises(HeadError, match=r"'head\.dense'.*'head\.norm' \(LayerNorm\).*'last'"):
        whole(case.adapter)


def test_different_activations_in_one_head_are_refused():
    model = live("llama")
    model.score = nn.Sequential(
        nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    with pytest.raises(HeadError, match=r"different activations \(tanh, relu\)"):
        whole(model, tokenizer=make_tokenizer(encoder=False))


@pytest.mark.parametrize("value", ["first", None, 1, ["head"]])
def test_an_unknown_view_is_refused(roberta, value):
    with pytest.raises(ValueError, match=r"features: expected 'last'.*or 'head'.*got"):
        load_classifier(roberta.adapter, features=value)
    with pytest.raises(ValueError, match=r"features: expected 'last'"):
        LoraFeatureExtractor(roberta.adapter, features=value).fit(TEXTS)


def test_a_layer_changed_after_loading_is_noticed(roberta):
    classifier = whole(roberta.adapter)
    with torch.no_grad():
        classifier.model.classifier.dense.weight.mul_(1.01)
    with pytest.raises(FeatureMismatchError, match=r"tanh between the 2 layers.*rows \["):
        compute_features(classifier, TEXTS)


def test_an_activation_changed_after_loading_is_noticed(make_saved_case):
    case = make_saved_case("electra", 3)
    classifier = whole(case.adapter)
    classifier.model.classifier.activation = nn.Tanh()
    with pytest.raises(
        FeatureMismatchError, match=r"out_proj' is no longer gelu of the output of .*dense'"
    ):
        compute_features(classifier, TEXTS)


@given(
    seed=st.integers(0, 2**31),
    d=st.sampled_from([1, 7, 768]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    activation=st.sampled_from(["tanh", "gelu", "relu"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_honest_rounding_passes_in_every_layer(seed, d, scale, activation, dtype):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape, size=1.0):
        return (size * torch.randn(*shape, generator=generator)).to(dtype)

    h, W, b = random(16, d, size=scale), random(d, d, size=d**-0.5), random(d)
    V, c = random(4, d, size=d**-0.5), random(4)
    logits = ACTIVATIONS[activation](h @ W.T + b) @ V.T + c
    inner = Layer("dense", W.float().numpy(), b.float().numpy())
    last = Layer("out", V.float().numpy(), c.float().numpy())
    head = FoundHead.of_layers([inner, last], activation=activation)
    features, eps = h.float().numpy(), torch.finfo(dtype).eps
    check_batch(head, features, logits.float().numpy(), np.arange(16), eps)
    wrong = replace(head, activation="relu" if activation == "tanh" else "tanh")
    if scale == 30:
        with pytest.raises(FeatureMismatchError, match=f"{wrong.activation} between"):
            check_batch(wrong, features, logits.float().numpy(), np.arange(16), eps)


# Estimators on whole heads


def labelled(case, n=120):
    texts = make_texts(n, longest=12, seed=3)
    predicted = case.logits_one_by_one(texts).argmax(axis=1)
    wrong = np.random.default_rng(0).random(n) < 0.3
    return texts, np.where(wrong, (predicted + 1) % case.n_classes, predicted), predicted


@pytest.mark.parametrize("family", ["roberta", "electra", "bert", "llama", "qwen2"])
@marks.odd_rows
def test_estimators_fitted_on_a_whole_head_predict_what_the_model_answers(family, make_saved_case):
    case = make_saved_case(family, 3)
    texts, labels, predicted = labelled(case)
    classifier = whole(case.adapter)
    head, X = classifier.head, compute_features(classifier, texts)[0]
    adue = AdUEEstimator(lam=10, beta=1.0)  # whose descents are short
    for estimator in (adue, SoftmaxResponseScorer(), MahalanobisScorer()):
        fitted = estimator.fit(X, labels, head)
        np.testing.assert_array_equal(fitted.predict(X), predicted)
        assert np.isfinite(fitted.predict_uncertainty(X)).all()
    if not head.is_linear:
        assert [W.shape for W in adue.coefs_] == [W.shape for W in head.weights]


# Stores


def test_a_store_of_a_whole_head_holds_every_layer(roberta, tmp_path):
    classifier = whole(roberta.adapter)
    written = extract_features(classifier, TEXTS, tmp_path / "s", shard_rows=5)
    for store in (written, FeatureStore.open(tmp_path / "s")):
        store.verify()
        assert store.activation == "tanh"
        for stored, layer in zip(store.init_W, classifier.head.weights, strict=True):
            np.testing.assert_array_equal(stored, layer)
        for stored, layer in zip(store.init_b, classifier.head.biases, strict=True):
            np.testing.assert_array_equal(stored, layer)
        np.testing.assert_allclose(store.logits, roberta.logits_one_by_one(TEXTS), atol=2e-5)
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["format_version"] == 3


def test_a_store_of_one_layer_has_no_list_of_layers(llama, tmp_path):
    store = extract_features(whole(llama.adapter), TEXTS, tmp_path / "s")
    assert store.activation is None
    assert store.init_W.shape == (4, 16)
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["format_version"] == 3


def test_an_interrupted_extraction_of_a_whole_head_goes_on_to_the_same_bytes(roberta, tmp_path):
    classifier = whole(roberta.adapter)
    options = {"shard_rows": 4, "batch_tokens": 1}  # a window holds twelve batches
    texts = TEXTS * 2
    extract_features(classifier, texts, tmp_path / "whole", **options)

    def stop(rows):
        stop.done = getattr(stop, "done", 0) + rows
        if stop.done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(classifier, texts, tmp_path / "cut", **options, progress=stop)
    with pytest.raises(StoreError, match=r"head's weights differ|n_features|view"):
        extract_features(
            load_classifier(roberta.adapter, device="cpu"), texts, tmp_path / "cut", **options
        )
    extract_features(classifier, texts, tmp_path / "cut", **options)
    for file in (tmp_path / "whole").glob("*.*s*"):
        assert (tmp_path / "cut" / file.name).read_bytes() == file.read_bytes()


def test_rows_of_the_other_view_are_not_appended(roberta, tmp_path):
    last, head = load_classifier(roberta.adapter, device="cpu"), whole(roberta.adapter)
    extract_features(head, TEXTS, tmp_path / "s")
    with pytest.raises(StoreError, match="view"):
        extract_features(last, TEXTS[:3], tmp_path / "s", append=True)
    more = [text + " w1" for text in TEXTS[:3]]
    assert len(extract_features(head, more, tmp_path / "s", append=True)) == 15


def random_store(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "features": rng.normal(size=(7, 4)),
        "init_W": [rng.normal(size=(5, 4)), rng.normal(size=(3, 5))],
        "init_b": [None, rng.normal(size=3)],
        "activation": "relu",
        "labels": rng.integers(0, 3, 7),
        "shard_rows": 3,
    }
    return FeatureStore.create(path, **{**arrays, **changes}), {**arrays, **changes}


def test_arrays_of_a_whole_head_are_stored_and_appended(tmp_path):
    store, arrays = random_store(tmp_path / "s")
    first, last = arrays["init_W"]
    logits = np.maximum(arrays["features"] @ first.T, 0) @ last.T + arrays["init_b"][1]
    np.testing.assert_allclose(store.logits, logits, rtol=1e-4, atol=1e-5)
    assert store.init_b[0] is None
    store.append(features=np.ones((2, 4)), labels=[0, 1])
    assert len(store) == 9
    again = FeatureStore.open(tmp_path / "s")
    again.verify()
    np.testing.assert_array_equal(again.init_W[1], last.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": None}, "init_W has 2 layers, but activation is None.*: tanh,"),
        ({"activation": "gelu_new"}, "activation is 'gelu_new'.*: tanh,"),
        ({"init_W": np.eye(3, 4), "init_b": None}, "activation='relu', but init_W has one layer"),
        ({"init_b": [None]}, "init_W is a list of 2 layers, init_b is a list of 1"),
        ({"init_b": np.zeros(3)}, "init_W is a list of 2 layers, init_b is .*ndarray"),
        ({"init_b": [np.zeros(4), None]}, r"init_b\[0\] has shape \(4,\).*expected \(5,\)"),
        ({"init_W": [np.eye(5, 4), np.eye(3, 6)]}, r"init_W\[1\] has shape .*, 5\)"),
        ({"features": np.eye(7, 5)}, "features: 5 columns, but init_W has 4"),
    ],
)
def test_layers_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(StoreError, match=message):
        random_store(tmp_path / "s", **changes)
    assert not (tmp_path / "s" / "manifest.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "silu"},
        {"layers": []},
        {"layers": [{"n_out": 5, "n_in": 4, "bias": True}]},
        {"layers": [{"n_out": 5, "n_in": 4, "bias": 1}, {"n_out": 3, "n_in": 5, "bias": True}]},
        {"layers": [{"n_out": 5, "n_in": 4, "bias": 1}, {"n_out": 3, "n_in": 6, "bias": True}]},
        {"layers": [{"n_out": 5, "n_in": 9, "bias": True}, {"n_out": 3, "n_in": 5, "bias": True}]},
        {"layers": "two"},
    ],
)
def test_a_manifest_with_an_impossible_head_is_refused(tmp_path, change):
    random_store(tmp_path / "s")
    file = tmp_path / "s" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["head"] |= change
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="head"):
        FeatureStore.open(tmp_path / "s")


# The transformer


def test_the_extractor_gives_lists_and_keeps_the_views_apart(roberta, tmp_path):
    options = {"cache": tmp_path, "device": "cpu"}
    head = LoraFeatureExtractor(roberta.adapter, features="head", **options)
    last = LoraFeatureExtractor(roberta.adapter, **options)
    assert (head.head().activation, last.head().activation) == ("tanh", None)
    assert head.head().shapes == [(16, 16), (2, 16)]
    assert len(head.head().biases) == 2
    assert head.fit(TEXTS).n_features_out_ == 16
    expected = roberta.logits_one_by_one(TEXTS)
    for _ in range(2):  # the second time from the cache
        X, H = head.transform(TEXTS), last.transform(TEXTS)
        (W, V), (b, c) = head.head().weights, head.head().biases
        np.testing.assert_allclose(np.tanh(X @ W.T + b) @ V.T + c, expected, atol=2e-5)
        np.testing.assert_allclose(last.head().logits(H), expected, atol=2e-5)


def test_loading_the_whole_head_warns_of_nothing(roberta):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(roberta.adapter)

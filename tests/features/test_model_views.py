"""Views of a row from the same batches: layers, the model without its adapter, other adapters."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from scipy.special import log_softmax

from adue_sklearn.exceptions import FeatureMismatchError, StoreError
from adue_sklearn.features import (
    FeatureStore,
    ModelViews,
    TextView,
    compute_features,
    compute_views,
    extract_features,
    iter_features,
    load_classifier,
    stream_features,
)
from tests.adapter_cases import make_base, save_another_adapter, train_as_it_were
from tests.lora_cases import make_texts, make_tokenizer

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
TEXTS = make_texts(11, longest=30)
CLASSES = ["no", "yes"]
OPTIONS = {"shard_rows": 4, "batch_tokens": 60}


@pytest.fixture(scope="module")
def roberta(make_saved_case):
    return make_saved_case("roberta", 2)


@pytest.fixture(scope="module")
def other(roberta, tmp_path_factory):
    """Return the folder of another adapter on the same base."""
    return save_another_adapter(roberta.adapter, tmp_path_factory.mktemp("other") / "adapter")


def load(model, **options):
    return load_classifier(model, **{"classes": CLASSES, "device": "cpu"} | options)


@pytest.fixture(scope="module")
def main(roberta):
    return load(roberta.adapter)


@pytest.fixture(scope="module")
def companion(other):
    return load(other, classes=CLASSES[::-1])


@pytest.fixture(scope="module")
def base(roberta):
    return load(roberta.adapter, without_adapter=True)


@pytest.fixture(scope="module")
def everything(base, companion):
    return ModelViews(layers="all", base=base, companions={"friend": companion})


def without_lora(live):
    """Return a copy of a live model whose LoRA changes nothing."""
    plain = copy.deepcopy(live)
    for name, value in plain.named_parameters():
        if "lora_B" in name:
            value.data.zero_()
    return plain


# --- what a view is ---------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize(("family", "side"), [("roberta", "right"), ("qwen2", "left")])
def test_layers_are_pooled_over_the_real_tokens_of_each_text(family, side, pool, make_saved_case):
    case = make_saved_case(family, 2)
    loaded = load(case.adapter)
    checks = dataclasses.replace(loaded.checks, padding_side=side)
    classifier = dataclasses.replace(loaded, checks=checks)
    views = compute_views(classifier, TEXTS, ModelViews(layers="all", pool=pool), batch_tokens=200)
    assert views.names == ("layer_1", "layer_2")
    take = {"mean": lambda h: h.mean(0), "first": lambda h: h[0], "last": lambda h: h[-1]}[pool]
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([case.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = case.live(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in (1, 2):
            expected = take(states[layer][0])
            np.testing.assert_allclose(views.block(f"layer_{layer}")[row], expected, **TOLERANCE)


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_the_base_is_what_enters_the_trained_head_of_the_model_without_lora(
    family, make_saved_case
):
    case = make_saved_case(family, 2)
    base = load(case.adapter, without_adapter=True)
    views = compute_views(load(case.adapter), TEXTS, ModelViews(base=base))
    expected, _ = compute_features(load(without_lora(case.live), tokenizer=case.tokenizer), TEXTS)
    np.testing.assert_allclose(views.block("base"), expected, **TOLERANCE)
    assert np.abs(views.block("base") - views.main).max() > 0.1


def test_a_live_adapter_is_taken_off_a_copy(roberta):
    before = {name: value.clone() for name, value in roberta.live.state_dict().items()}
    live = load(roberta.live, tokenizer=roberta.tokenizer, without_adapter=True)
    saved = load(roberta.adapter, without_adapter=True)
    np.testing.assert_allclose(
        compute_features(live, TEXTS)[0], compute_features(saved, TEXTS)[0], **TOLERANCE
    )
    after = roberta.live.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_companion_gives_log_probabilities_in_the_order_of_the_main_classes(
    main, companion, tmp_path
):
    views = compute_views(main, TEXTS, ModelViews(companions={"friend": companion}))
    _, logits = compute_features(companion, TEXTS)
    expected = log_softmax(logits.astype(float), axis=1)[:, ::-1]
    np.testing.assert_allclose(views.block("friend"), expected, **TOLERANCE)
    # The same as from a store of its own, of the texts in another order.
    store = extract_features(main, TEXTS, tmp_path / "main")
    own = extract_features(companion, TEXTS[::-1], tmp_path / "own")
    np.testing.assert_allclose(store.companion_log_proba(own), expected, **TOLERANCE)


def test_views_leave_features_and_logits_as_they_are(main, everything):
    features, logits = compute_features(main, TEXTS, batch_tokens=60)
    for batch in iter_features(main, TEXTS, batch_tokens=60, views=everything):
        np.testing.assert_array_equal(batch.features, features[batch.rows])
        np.testing.assert_array_equal(batch.logits, logits[batch.rows])
        assert list(batch.views) == ["layer_1", "layer_2", "base", "friend"]


def test_a_stream_brings_the_views_of_its_rows(main, everything):
    expected = compute_views(main, TEXTS, everything)
    batches = list(stream_features(main, TEXTS, window_rows=4, views=everything))
    for name in expected.names:
        found = np.concatenate([batch.views[name] for batch in batches])
        np.testing.assert_allclose(found, expected.block(name), **TOLERANCE)


class Counting:
    """A tokenizer that remembers the texts that it was given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, **options):
        self.texts += texts
        return self.tokenizer(texts, **options)


def test_texts_are_tokenised_once_for_all_views(main, base, companion):
    main, base, companion = (
        dataclasses.replace(model, tokenizer=Counting(model.tokenizer))
        for model in (main, base, companion)
    )
    views = ModelViews(layers="all", base=base, companions={"friend": companion})
    compute_views(main, TEXTS, views)
    assert [text for text in main.tokenizer.texts if text in TEXTS] == TEXTS
    assert base.tokenizer.texts == companion.tokenizer.texts == []


# --- in a store -------------------------------------------------------------------------------


def test_a_store_holds_the_views_and_where_they_come_from(main, everything, tmp_path):
    store = extract_features(main, TEXTS, tmp_path / "s", views=everything, **OPTIONS)
    store.verify()
    views, expected = store.views(), compute_views(main, TEXTS, everything)
    assert views.names == expected.names
    np.testing.assert_array_equal(views.text_digests, expected.text_digests)
    for name in views.names:
        np.testing.assert_allclose(views.block(name), expected.block(name), **TOLERANCE)
    facts = store.view_facts
    sha256 = main.provenance["adapter_sha256"]
    assert facts["layer_2"] == {
        "n_columns": 16,
        "kind": "features",
        "provenance": {"layer": 2, "pool": "mean", "adapter_sha256": sha256},
    }
    assert (facts["base"]["kind"], facts["friend"]["kind"]) == ("features", "log-probabilities")
    assert facts["base"]["provenance"]["without_adapter"]
    friend = everything.companions["friend"].provenance
    assert facts["friend"]["provenance"]["adapter_sha256"] == friend["adapter_sha256"] != sha256


def content(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def interrupt(whole, folder, n_kept):
    """Make a copy of a store one that was interrupted after some shards."""
    shutil.copytree(whole, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    for entry in manifest["shards"][n_kept:]:
        (folder / entry["file"]).unlink()
    manifest |= {"shards": manifest["shards"][:n_kept], "n_rows": 4 * n_kept}
    (folder / "unfinished.json").write_text(json.dumps(manifest))


def test_an_interrupted_extraction_with_views_is_resumed_to_the_same_bytes(
    main, everything, tmp_path
):
    whole = extract_features(main, TEXTS, tmp_path / "whole", views=everything, **OPTIONS).path
    for n_kept in (1, 2):
        left = tmp_path / str(n_kept)
        interrupt(whole, left, n_kept)
        extract_features(main, TEXTS, left, views=everything, **OPTIONS)
        assert content(left) == content(whole)


def test_an_extraction_with_other_views_is_not_resumed(main, companion, tmp_path):
    begun = ModelViews(layers=[1], companions={"friend": companion})
    whole = extract_features(main, TEXTS, tmp_path / "whole", views=begun, **OPTIONS)
    interrupt(whole.path, tmp_path / "s", 1)
    before = content(tmp_path / "s")
    for changes, message in (
        ({"layers": [2]}, r"views \(layer_1, friend before, layer_2, friend now\)"),
        ({"companions": {}}, r"views \(layer_1, friend before, layer_1 now\)"),
        ({"pool": "last"}, r"view layer_1: pool \('mean' before, 'last' now\)"),
        ({"companions": {"friend": main}}, "view friend: adapter differ"),
    ):
        views = dataclasses.replace(begun, **changes)
        with pytest.raises(StoreError, match=message):
            extract_features(main, TEXTS, tmp_path / "s", views=views, **OPTIONS)
    with pytest.raises(StoreError, match=r"views \(layer_1, friend before, none now\)"):
        extract_features(main, TEXTS, tmp_path / "s", **OPTIONS)
    assert content(tmp_path / "s") == before
    with pytest.raises(StoreError, match="already holds a store"):  # without views
        extract_features(main, TEXTS, whole.path, **OPTIONS)


def test_appended_texts_bring_the_same_views(main, tmp_path):
    views = ModelViews(layers=[2])
    extract_features(main, TEXTS[:8], tmp_path / "s", views=views)
    with pytest.raises(StoreError, match=r"views \(layer_2 before, none now\)"):
        extract_features(main, TEXTS[8:], tmp_path / "s", append=True)
    last = ModelViews(layers=[2], pool="last")
    with pytest.raises(StoreError, match="view layer_2: pool"):
        extract_features(main, TEXTS[8:], tmp_path / "s", append=True, views=last)
    store = extract_features(main, TEXTS[8:], tmp_path / "s", append=True, views=views)
    expected = compute_views(main, TEXTS, views)
    np.testing.assert_allclose(store.view("layer_2"), expected.block("layer_2"), **TOLERANCE)
    assert len(FeatureStore.open(store.path).text_digests) == len(TEXTS)


def test_a_store_is_replaced_by_one_with_views(main, tmp_path):
    extract_features(main, TEXTS, tmp_path / "s")
    views = ModelViews(layers=[1])
    store = extract_features(main, TEXTS, tmp_path / "s", overwrite=True, views=views)
    assert store.views().names == ("layer_1",)


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [1, 3]}, "layers: 3 is not a layer of Roberta.*, which has 2; .* from 1 to 2"),
        ({"layers": [0]}, "layers: 0 is not a layer"),
        ({"layers": [1, 1]}, "layers: a number stands there twice"),
        ({"layers": "last"}, "layers: expected 'all' or a list of layer numbers, got 'last'"),
        ({"layers": [1.0]}, "layers: expected 'all' or a list"),
        ({"layers": [1], "pool": "max"}, "pool: expected 'mean', 'first' or 'last', got 'max'"),
        ({"base": "folder"}, "base: expected load_classifier.*without_adapter=True.*, got str"),
        ({"companions": ["friend"]}, "companions: expected names and classifiers, .*, got list"),
        ({"companions": {"friend": "x"}}, "companion 'friend': expected a result of load_class"),
    ],
)
def test_views_that_cannot_be_are_refused(main, options, message):
    with pytest.raises(ValueError, match=message):
        compute_views(main, TEXTS, ModelViews(**options))


def test_views_that_are_no_model_views_are_refused(main):
    with pytest.raises(ValueError, match=r"views: expected ModelViews\(\.\.\.\), got list"):
        compute_views(main, TEXTS, [1, 2])


@pytest.mark.parametrize("name", ["main", "texts", "Friend", "a-b", ""])
def test_a_companion_needs_a_name_that_a_view_can_have(main, companion, name):
    with pytest.raises(ValueError, match=r"companions: .* cannot name a view; expected lower-case"):
        compute_views(main, TEXTS, ModelViews(companions={name: companion}))


def test_two_views_of_one_name_are_refused(main, base, companion):
    for options in ({"layers": [1]}, {"base": base}):
        name = "base" if "base" in options else "layer_1"
        with pytest.raises(ValueError, match=f"companions: '{name}' also names another view"):
            compute_views(main, TEXTS, ModelViews(**options, companions={name: companion}))


def test_layers_of_a_model_that_returns_none_are_refused(make_saved_case):
    classifier = load(make_saved_case("t5", 2).adapter)
    with pytest.raises(ValueError, match=r"layers: T5.* returns no hidden states of its layers"):
        compute_views(classifier, TEXTS, ModelViews(layers="all"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["no", "maybe"]}, "'friend': its head lacks the classes 'yes' and has 'mayb"),
        ({"classes": None}, "'friend': its head's classes have no names and those of the main one"),
        (
            {"tokenizer": make_tokenizer(encoder=False)},
            "'friend': its tokenizer is not equal .* j",
        ),
        ({"max_length": 9}, "'friend': it was loaded with max_length=9, the main .* with 78; load"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_companion_that_does_not_fit_is_refused_with_the_reason(main, other, options, message):
    with pytest.raises(ValueError, match=message):
        compute_views(main, TEXTS, ModelViews(companions={"friend": load(other, **options)}))


def test_a_companion_of_more_classes_is_refused(main, make_saved_case):
    three = load(make_saved_case("roberta", 3).adapter, classes=None)
    with pytest.raises(ValueError, match="'friend': its head has 3 classes, the main one has 2"):
        compute_views(main, TEXTS, ModelViews(companions={"friend": three}))


def test_a_companion_whose_head_was_changed_is_noticed(main, other):
    changed = load(other)
    changed.model.get_submodule(changed.head.module).weight.data += 1
    with pytest.raises(FeatureMismatchError, match="differs from the model's logits"):
        compute_views(main, TEXTS, ModelViews(companions={"friend": changed}))


def test_a_base_of_another_adapter_or_with_its_adapter_is_refused(main, other):
    with pytest.raises(ValueError, match=r"base: expected .*, got a classifier with its adapter"):
        compute_views(main, TEXTS, ModelViews(base=main))
    with pytest.raises(ValueError, match="base: it was loaded from another adapter"):
        compute_views(main, TEXTS, ModelViews(base=load(other, without_adapter=True)))


def test_an_adapter_that_cannot_be_taken_off_is_refused():
    whole, tokenizer = make_base("roberta")
    with pytest.raises(ValueError, match=r"without_adapter .*: the model is whole"):
        load(whole, tokenizer=tokenizer, without_adapter=True)
    lora = peft.LoraConfig(bias="lora_only", task_type="SEQ_CLS", target_modules=["query"])
    live = train_as_it_were(peft.get_peft_model(whole, lora))
    with pytest.raises(ValueError, match="this LORA adapter has trained biases of the base model"):
        load(live, tokenizer=tokenizer, without_adapter=True)


# --- views of the texts themselves -------------------------------------------------------------


def by_words(texts):
    """Return log-probabilities by the number of words; nothing of a single word."""
    n_words = np.array([len(text.split()) for text in texts], dtype=float)
    odds = np.log([n_words, 40 - n_words + 1]).T - np.log(41)
    odds[n_words == 1] = np.nan
    return odds


@pytest.fixture(scope="module")
def by_text():
    return ModelViews(texts={"sidekick": TextView(by_words, 2, classes=CLASSES[::-1])})


def test_a_view_of_the_texts_comes_with_every_batch_in_the_order_of_the_classes(
    main, by_text, tmp_path
):
    expected = by_words(TEXTS)[:, ::-1]
    views = compute_views(main, TEXTS, by_text, batch_tokens=60)
    np.testing.assert_allclose(views.block("sidekick"), expected, atol=1e-6)
    for batch in iter_features(main, TEXTS, views=by_text, batch_tokens=60):
        np.testing.assert_allclose(batch.views["sidekick"], expected[batch.rows], atol=1e-6)
    store = extract_features(main, TEXTS, tmp_path / "store", views=by_text, **OPTIONS)
    np.testing.assert_allclose(store.view("sidekick"), expected, atol=1e-6)
    assert np.isnan(store.view("sidekick")).any()
    FeatureStore.open(tmp_path / "store").verify()


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (TextView(by_words, 3), r"its classes have no names"),
        (TextView(by_words, 2, classes=["a", "b"]), "lacks the classes 'no', 'yes'"),
        (TextView(lambda texts: np.full((len(texts), 2), np.inf), 2, CLASSES), "NaN or inf"),
        (TextView(lambda texts: np.array([[np.nan, 0.0]] * len(texts)), 2, CLASSES), "NaN or inf"),
    ],
)
def test_a_view_of_the_texts_that_cannot_be_is_refused(main, view, message, tmp_path):
    views = ModelViews(texts={"sidekick": view})
    with pytest.raises(ValueError, match=message):
        extract_features(main, TEXTS, tmp_path / "store", views=views, **OPTIONS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([by_words], "texts: expected names and text classifiers"),
        ({"sidekick": by_words}, "'sidekick' is a function; expected a TextView"),
        ({"main": TextView(by_words, 2)}, "'main' cannot name a view"),
    ],
)
def test_text_classifiers_are_given_by_the_names_of_their_views(texts, message):
    with pytest.raises(ValueError, match=message):
        ModelViews(texts=texts)

"""Every kind of adapter: merged on loading, and the same logits as unmerged."""

import copy
import shutil

import numpy as np
import peft
import pytest

from adue_sklearn.features import compute_features, load_classifier
from tests.adapter_cases import ENCODER, KINDS, make_base, train_as_it_were
from tests.lora_cases import head_logits, make_texts, one_by_one

TEXTS = make_texts(8)
TOLERANCE = {"atol": 5e-5, "rtol": 1e-4}


def save(folder, live, base, tokenizer):
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "adapter")
    live.save_pretrained(folder / "adapter")
    return folder / "adapter", folder / "base"


def check(model, expected, **options):
    classifier = load_classifier(model, **options)
    features, logits = compute_features(classifier, TEXTS)
    np.testing.assert_allclose(logits, expected, **TOLERANCE)
    np.testing.assert_allclose(head_logits(features, classifier.head), expected, **TOLERANCE)
    return classifier


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # peft saves them too
def test_merged_gives_the_logits_of_unmerged_live_and_from_disk(kind, tmp_path):
    family, config = KINDS[kind]
    base, tokenizer = make_base(family)
    untuned = one_by_one(base, tokenizer, TEXTS)
    live = train_as_it_were(peft.get_peft_model(copy.deepcopy(base), config))
    expected = one_by_one(live, tokenizer, TEXTS)
    assert np.abs(expected - untuned).max() > 0.1
    from_live = check(live, expected, tokenizer=tokenizer)
    adapter, base_folder = save(tmp_path, live, base, tokenizer)
    from_disk = check(adapter, expected, base_model=base_folder)
    sha256 = [loaded.provenance["adapter_sha256"] for loaded in (from_live, from_disk)]
    assert sha256[0] == sha256[1]
    assert "base_layer" not in from_disk.head.module
    np.testing.assert_allclose(one_by_one(live, tokenizer, TEXTS), expected, **TOLERANCE)


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
        peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
        peft.PolyConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_an_adapter_that_is_no_change_of_weights_is_refused(config, tmp_path):
    base, tokenizer = make_base("llama")
    live = peft.get_peft_model(copy.deepcopy(base), config)
    adapter, base_folder = save(tmp_path, live, base, tokenizer)
    with pytest.raises(ValueError, match=rf"{config.peft_type.value}.*cannot be merged"):
        load_classifier(live, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=rf"{config.peft_type.value}.*cannot be merged"):
        load_classifier(adapter, base_model=base_folder)


# --- several adapters -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Hold a model with two adapters, each with a head of its own, live and saved together."""
    base, tokenizer = make_base("roberta")
    config = peft.LoraConfig(r=2, **ENCODER)
    live = peft.get_peft_model(copy.deepcopy(base), config, adapter_name="mild")
    live.add_adapter("wild", config)
    for seed, name in enumerate(("mild", "wild")):
        live.set_adapter(name)
        train_as_it_were(live, seed)
    live.set_adapter("mild")
    paths = save(tmp_path_factory.mktemp("two"), live, base, tokenizer)
    expected = {}
    for name in ("wild", "mild"):
        live.set_adapter(name)
        expected[name] = one_by_one(live, tokenizer, TEXTS)
    assert np.abs(expected["wild"] - expected["mild"]).max() > 0.1
    return live, tokenizer, paths, expected


@pytest.mark.parametrize("name", ["mild", "wild"])
def test_of_several_adapters_the_named_one_is_loaded(two, name):
    live, tokenizer, (adapter, base), expected = two
    named = check(adapter, expected[name], base_model=base, adapter_name=name)
    folder = check(adapter / name, expected[name], base_model=base, tokenizer=tokenizer)
    of_live = check(live, expected[name], tokenizer=tokenizer, adapter_name=name)
    assert live.active_adapters == ["mild"]  # the caller's model stays as it was
    assert named.provenance["model"] == str(adapter / name)
    hashes = {each.provenance["adapter_sha256"] for each in (named, folder, of_live)}
    assert len(hashes) == 1


def test_of_several_live_adapters_the_active_one_counts(two):
    live, tokenizer, _, expected = two
    other = copy.deepcopy(live)
    other.set_adapter("wild")
    check(other, expected["wild"], tokenizer=tokenizer)
    check(live, expected["mild"], tokenizer=tokenizer)


def test_two_active_adapters_are_merged_together():
    base, tokenizer = make_base("roberta")
    config = peft.LoraConfig(r=2, target_modules=["query"])
    live = peft.get_peft_model(base, config, adapter_name="first")
    live.add_adapter("second", config)
    alone = []
    for seed, name in enumerate(("first", "second")):
        live.set_adapter(name)
        train_as_it_were(live, seed)
        alone.append(one_by_one(live, tokenizer, TEXTS))
    live.base_model.set_adapter(["first", "second"])
    together = one_by_one(live, tokenizer, TEXTS)
    assert all(np.abs(together - each).max() > 0.05 for each in alone)
    check(live, together, tokenizer=tokenizer)


def test_the_adapter_called_default_lies_in_the_folder_itself(make_saved_case, tmp_path):
    case = make_saved_case("roberta", 2)
    shutil.copytree(case.adapter, tmp_path / "adapter")
    shutil.copytree(case.adapter, tmp_path / "adapter" / "other")
    expected = case.logits_one_by_one(TEXTS)
    for options in ({}, {"adapter_name": "default"}, {"adapter_name": "other"}):
        check(tmp_path / "adapter", expected, **options)


def test_a_choice_that_is_missing_or_cannot_be_made_is_named(two, make_saved_case):
    live, tokenizer, (adapter, base), _ = two
    with pytest.raises(ValueError, match=r"several adapters, \['mild', 'wild'\].*adapter_name="):
        load_classifier(adapter, base_model=base)
    with pytest.raises(
        ValueError, match=r"adapter_name: .* no adapter 'x'; expected one of \['mild', 'wi"
    ):
        load_classifier(adapter, base_model=base, adapter_name="x")
    with pytest.raises(
        ValueError, match=r"adapter_name: .* no adapter 'x'; expected one of \['mild', 'wi"
    ):
        load_classifier(live, tokenizer=tokenizer, adapter_name="x")
    case = make_saved_case("roberta", 2)
    with pytest.raises(ValueError, match=r"adapter_name: .* no adapter 'x'; expected None"):
        load_classifier(case.adapter, adapter_name="x")
    whole, _ = make_base("roberta")
    with pytest.raises(ValueError, match=r"adapter_name: Roberta.* has no adapters; leave it out"):
        load_classifier(whole, tokenizer=tokenizer, adapter_name="x")

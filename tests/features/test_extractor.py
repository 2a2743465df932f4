import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from adue_sklearn.exceptions import FeatureMismatchError, StoreError
from adue_sklearn.features import (
    FeatureStore,
    compute_features,
    extract_features,
    iter_features,
    load_classifier,
    stream_features,
)
from tests import marks
from tests.lora_cases import (
    FAMILIES,
    PAD_ID,
    head_logits,
    make_config,
    make_tokenizer,
    one_by_one,
)
from tests.problems import DEVICES

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_features_times_head_are_the_logits_of_the_unmerged_model_one_by_one(case, side, device):
    tokenizer = copy.deepcopy(case.tokenizer)
    tokenizer.padding_side = side
    classifier = load_classifier(
        case.adapter, tokenizer=tokenizer, device=device, dtype=torch.float32
    )
    features, logits = compute_features(classifier, case.texts, batch_tokens=100)
    expected = case.logits_one_by_one()
    assert features.shape == (len(case.texts), 16)
    assert features.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, **TOLERANCE)
    rebuilt = head_logits(features, classifier.head)
    np.testing.assert_allclose(rebuilt, expected, **TOLERANCE)
    assert np.ptp(expected, axis=0).min() > 0.05  # the texts do differ


def test_features_are_what_enters_the_last_linear_layer(case):
    classifier = load_classifier(case.adapter)
    features, _ = compute_features(classifier, case.texts)
    last = case.live.base_model.model.get_submodule(f"{case.head}.modules_to_save.default")
    last = last.out_proj if case.is_encoder else last
    seen = []
    handle = last.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    one_by_one(case.live, case.tokenizer, case.texts)
    handle.remove()
    per_text = [x.reshape(-1, x.shape[-1])[-1].numpy() for x in seen]
    np.testing.assert_allclose(features, per_text, **TOLERANCE)


@pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
def test_rows_stay_in_input_order_whatever_the_batches(llama, batch_tokens):
    classifier = load_classifier(llama.adapter)
    expected, _ = compute_features(classifier, llama.texts)
    features, _ = compute_features(classifier, llama.texts, batch_tokens=batch_tokens)
    np.testing.assert_allclose(features, expected, **TOLERANCE)


def test_a_stream_of_texts_is_run_window_by_window(llama):
    classifier = load_classifier(llama.adapter, max_length=9)
    with pytest.warns(UserWarning, match="were cut at 9 tokens"):
        expected, logits = compute_features(classifier, llama.texts)
    n_read = []

    def texts():
        for text in llama.texts:
            n_read.append(text)
            yield text

    def batches_and_n_read():
        for batch in stream_features(classifier, texts(), window_rows=5):
            yield batch, len(n_read)

    with pytest.warns(UserWarning, match=r"of 19 .* were cut at 9 tokens") as said:
        batches, reads = zip(*batches_and_n_read(), strict=True)
    assert reads == (5, 10, 15, 19)
    assert len(said) == 1
    rows = np.concatenate([batch.rows for batch in batches])
    assert rows.tolist() == list(range(19))
    for name, all_rows in (("features", expected), ("logits", logits)):
        found = np.concatenate([getattr(batch, name) for batch in batches])
        np.testing.assert_allclose(found, all_rows, **TOLERANCE)
    assert not list(stream_features(classifier, iter(())))


def test_no_batch_holds_more_padded_tokens_than_the_budget(roberta):
    classifier = load_classifier(roberta.adapter)
    lengths = np.array([len(text.split()) + 2 for text in roberta.texts])
    rows = []
    for batch in iter_features(classifier, roberta.texts, batch_tokens=100):
        assert len(batch.rows) * lengths[batch.rows].max() <= 100
        rows += batch.rows.tolist()
    assert sorted(rows) == list(range(len(roberta.texts)))


@marks.odd_rows
def test_the_store_holds_rows_in_input_order_over_several_shards(case, tmp_path):
    classifier = load_classifier(case.adapter)
    labels = [i % case.n_classes for i in range(len(case.texts))]
    done = []
    store = extract_features(
        classifier, case.texts, tmp_path / "s", labels=labels, shard_rows=7, progress=done.append
    )
    assert len(list((tmp_path / "s").glob("shard-*.safetensors"))) == 3
    assert sum(done) == len(store) == len(case.texts)
    np.testing.assert_array_equal(store.labels, labels)
    np.testing.assert_array_equal(store.ids, np.arange(len(case.texts)))
    expected = case.logits_one_by_one()
    np.testing.assert_allclose(store.logits, expected, **TOLERANCE)
    rebuilt = head_logits(store.features, classifier.head)
    np.testing.assert_allclose(rebuilt, expected, **TOLERANCE)


def test_provenance_says_where_the_features_come_from(roberta, tmp_path):
    store = extract_features(load_classifier(roberta.adapter), ["w1 w2"], tmp_path / "s")
    facts = store.provenance
    assert facts["model"] == str(roberta.adapter)
    assert facts["base_model"] == str(roberta.base)
    assert facts["architecture"] == "RobertaForSequenceClassification"
    assert (facts["view"], facts["head"]) == ("last_linear", "classifier.out_proj")
    assert facts["precision"] == "float32"
    assert facts["truncated_rows"] == 0
    assert len(facts["adapter_sha256"]) == 64
    assert set(facts["versions"]) == {"adue-sklearn", "torch", "transformers", "peft"}
    assert store.labels is None


def test_the_adapter_hash_sees_weights_and_scaling_but_not_the_base_path(roberta, tmp_path):
    def sha256(**changes):
        folder = tmp_path / "adapter"
        shutil.copytree(roberta.adapter, folder, dirs_exist_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))
        loaded = load_classifier(folder, base_model=roberta.base)
        return loaded.provenance["adapter_sha256"]

    assert sha256() == sha256(base_model_name_or_path="elsewhere")
    assert sha256() != sha256(lora_alpha=16)


def test_ranks_and_scales_of_single_layers_count(make_saved_case):
    lora = {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 32}}
    case = make_saved_case("roberta", 2, lora=lora)
    _, logits = compute_features(load_classifier(case.adapter), case.texts)
    np.testing.assert_allclose(logits, case.logits_one_by_one(), **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_live_peft_model_gives_the_same_and_stays_as_it_was(family, make_saved_case):
    case = make_saved_case(family, 2)
    before = {name: value.clone() for name, value in case.live.state_dict().items()}
    case.live.train()
    try:
        classifier = load_classifier(case.live, tokenizer=case.tokenizer)
        assert case.live.training
    finally:
        case.live.eval()
    _, logits = compute_features(classifier, case.texts)
    np.testing.assert_allclose(logits, case.logits_one_by_one(), **TOLERANCE)
    after = case.live.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    saved = load_classifier(case.adapter).provenance["adapter_sha256"]
    assert classifier.provenance["adapter_sha256"] == saved


def test_a_merged_model_folder_and_a_live_merged_model_give_the_same(case, tmp_path):
    merged = copy.deepcopy(case.live).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for classifier in (
        load_classifier(tmp_path / "merged", tokenizer=case.tokenizer),
        load_classifier(merged, tokenizer=case.tokenizer),
    ):
        _, logits = compute_features(classifier, case.texts)
        np.testing.assert_allclose(logits, case.logits_one_by_one(), **TOLERANCE)


def test_half_precision_is_checked_against_its_own_rounding(llama):
    classifier = load_classifier(llama.adapter, device="cpu", dtype=torch.bfloat16)
    features, _ = compute_features(classifier, llama.texts)
    exact, _ = compute_features(load_classifier(llama.adapter, device="cpu"), llama.texts)
    assert classifier.provenance["precision"] == "bfloat16"
    assert np.abs(features - exact).mean() < 0.1 * np.abs(exact).mean()


def test_equal_logits_at_every_token_do_not_confuse_the_pooled_position(make_saved_case):
    case = make_saved_case("qwen2", 2)
    live = copy.deepcopy(case.live)
    layer = live.base_model.model.score.modules_to_save.default
    features, _ = compute_features(load_classifier(live, tokenizer=case.tokenizer), case.texts)
    layer.weight.data.zero_()
    classifier = load_classifier(live, tokenizer=case.tokenizer)
    with_zero_head, logits = compute_features(classifier, case.texts, batch_tokens=200)
    assert not logits.any()
    np.testing.assert_allclose(with_zero_head, features, **TOLERANCE)


def test_a_decoder_without_pad_id_takes_the_one_of_its_tokenizer(make_saved_case):
    case = make_saved_case("llama", 2, pad_token_id=None, tokenizer_changes={"pad_token": "</s>"})
    _, logits = compute_features(load_classifier(case.adapter), case.texts)
    np.testing.assert_allclose(logits, case.logits_one_by_one(), **TOLERANCE)


# --- the head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_no_file_holds_is_refused_by_name(family, make_saved_case):
    case = make_saved_case(family, 2, modules_to_save=[])
    with pytest.raises(ValueError, match=rf"{case.head}.*random numbers"):
        load_classifier(case.adapter)
    with pytest.raises(ValueError, match=rf"{case.head}.*random numbers"):
        load_classifier(case.base)


def test_a_head_of_another_size_in_the_base_is_replaced_by_the_adapters(case, tmp_path):
    other = AutoModelForSequenceClassification.from_config(make_config(case.family, 3))
    other.base_model.load_state_dict(
        AutoModelForSequenceClassification.from_pretrained(case.base).base_model.state_dict()
    )
    other.save_pretrained(tmp_path / "base")
    classifier = load_classifier(case.adapter, base_model=tmp_path / "base")
    assert classifier.n_classes == case.n_classes
    _, logits = compute_features(classifier, case.texts)
    np.testing.assert_allclose(logits, case.logits_one_by_one(), **TOLERANCE)


@pytest.mark.parametrize("family", ["electra", "llama"])
def test_a_head_changed_after_loading_is_noticed(family, make_saved_case, tmp_path):
    case = make_saved_case(family, 2)
    classifier = load_classifier(case.adapter)
    classifier.model.get_submodule(classifier.head.module).weight.data[1] += 0.01
    with pytest.raises(FeatureMismatchError, match=rf"layer '{classifier.head.module}', rows \["):
        extract_features(classifier, case.texts, tmp_path / "s")
    with pytest.raises(StoreError, match=r"manifest\.json"):
        FeatureStore.open(tmp_path / "s")
    list(iter_features(classifier, case.texts, verify=False))


@pytest.mark.parametrize("family", ["electra", "llama"])
def test_logits_that_are_not_finite_stop_the_extraction(family, make_saved_case):
    case = make_saved_case(family, 2)
    classifier = load_classifier(case.adapter)
    classifier.model.get_submodule(classifier.head.module).weight.data[0, 0] = torch.nan
    with pytest.raises(FeatureMismatchError, match=r"NaN or inf .* in rows \["):
        compute_features(classifier, case.texts)


# --- models and tokenizers that cannot be used ------------------------------------------------


def test_a_missing_base_is_named_with_its_adapter_and_the_mend(roberta, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(roberta.adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    for absent in (str(tmp_path / "nowhere"), None):
        config = json.loads(file.read_text()) | {"base_model_name_or_path": absent}
        file.write_text(json.dumps(config))
        with pytest.raises(
            ValueError, match=r"(?s)adapter'.*base model.*base_model=.*--base-model"
        ):
            load_classifier(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"--base-model.*elsewhere' does not exist"):
        load_classifier(roberta.adapter, base_model=tmp_path / "elsewhere")
    assert load_classifier(tmp_path / "adapter", base_model=roberta.base).n_classes == 2


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # peft's; ours is an error
def test_a_base_of_another_architecture_or_size_is_refused(make_saved_case, roberta, tmp_path):
    for family in ("electra", "llama"):
        other = make_saved_case(family, 2)
        with pytest.raises(ValueError, match=r"does not fit the base|random numbers"):
            load_classifier(roberta.adapter, base_model=other.base, tokenizer=other.tokenizer)
    wide = AutoModelForSequenceClassification.from_config(make_config("roberta", 2, hidden_size=32))
    wide.base_model.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"Adapter '.*' does not fit the base model '.*wide'"):
        load_classifier(roberta.adapter, base_model=tmp_path / "wide")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # peft's; ours is an error
def test_adapter_tensors_that_find_no_place_are_named(roberta, tmp_path):
    # peft itself only warns: the model would answer as if it had not been tuned.
    shutil.copytree(roberta.adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("layer.1.", "layer.7."): x for name, x in tensors.items()}, file)
    with pytest.raises(ValueError, match=r"does not fit.*layer\.7\..*layer\.1\."):
        load_classifier(tmp_path / "adapter")


def test_a_folder_without_any_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds neither an adapter .* nor a whole model"):
        load_classifier(tmp_path)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model: '.*nowhere' does not exist"):
        load_classifier(tmp_path / "nowhere")


def test_pickled_adapter_weights_are_refused(roberta, tmp_path):
    shutil.copytree(roberta.adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="safe_serialization"):
        load_classifier(tmp_path / "adapter")


def test_a_tokenizer_without_pad_token_is_refused_with_the_mend(llama):
    tokenizer = make_tokenizer(encoder=False, pad_token=None)
    with pytest.raises(ValueError, match=r"no pad token.*tokenizer\.pad_token = "):
        load_classifier(llama.adapter, tokenizer=tokenizer)


def test_a_tokenizer_of_another_model_is_refused(llama, tmp_path):
    tokenizer = make_tokenizer(encoder=False)
    tokenizer.add_tokens(["w1000"])
    classifier = load_classifier(llama.adapter, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="does not belong to this model"):
        compute_features(classifier, ["w1 w1000"])


def test_the_tokenizer_of_the_adapter_comes_first(roberta, tmp_path):
    shutil.copytree(roberta.adapter, tmp_path / "adapter")
    make_tokenizer(model_max_length=11).save_pretrained(tmp_path / "adapter")
    assert load_classifier(tmp_path / "adapter").max_length == 11


def test_without_a_tokenizer_in_the_adapter_the_bases_is_used(roberta, tmp_path):
    shutil.copytree(roberta.adapter, tmp_path / "adapter")
    for file in (tmp_path / "adapter").glob("tokenizer*"):
        file.unlink()
    _, logits = compute_features(load_classifier(tmp_path / "adapter"), roberta.texts)
    np.testing.assert_allclose(logits, roberta.logits_one_by_one(), **TOLERANCE)
    shutil.copytree(roberta.base, tmp_path / "base")
    for file in (tmp_path / "base").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"tokenizer: not found in .*expected.*tokenizer="):
        load_classifier(tmp_path / "adapter", base_model=tmp_path / "base")


def test_a_tokenizer_that_is_not_read_as_saved_is_warned_about(make_saved_case, tmp_path):
    # transformers 5 rebuilds a byte-level tokenizer for Qwen2 whatever tokenizer.json says.
    base = make_saved_case("qwen2", 2).base
    assert type(AutoTokenizer.from_pretrained(base)) is not PreTrainedTokenizerFast
    with (
        pytest.warns(UserWarning, match="splits a sentence differently from the saved"),
        pytest.raises(ValueError, match="does not fit this model"),
    ):
        load_classifier(make_saved_case("qwen2", 2).adapter, tokenizer=base)


def test_a_live_model_needs_its_tokenizer(roberta):
    with pytest.raises(ValueError, match="tokenizer: a live model needs"):
        load_classifier(roberta.live)


@pytest.mark.parametrize("model", [3, None, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match="model: expected"):
        load_classifier(model)


def test_regression_and_several_labels_at_once_are_refused(tmp_path):
    for changes in ({"num_labels": 1}, {"problem_type": "multi_label_classification"}):
        config = make_config("electra", changes.pop("num_labels", 2), **changes)
        model = AutoModelForSequenceClassification.from_config(config)
        with pytest.raises(ValueError, match="expected a classifier"):
            load_classifier(model, tokenizer=make_tokenizer())


def test_a_device_that_is_not_there_is_refused(roberta):
    with pytest.raises(ValueError, match="device='abacus' is not a torch device"):
        load_classifier(roberta.adapter, device="abacus")


# --- max_length, classes, labels, texts -------------------------------------------------------


def test_texts_longer_than_max_length_are_cut_and_counted(roberta, tmp_path):
    classifier = load_classifier(roberta.adapter, max_length=10)
    lengths = [len(text.split()) for text in roberta.texts]
    with pytest.warns(UserWarning, match=r"texts: 13 of 19 \(68.4%\) were cut at 10 tokens"):
        store = extract_features(classifier, roberta.texts, tmp_path / "s", shard_rows=8)
    assert store.provenance["truncated_rows"] == sum(length > 8 for length in lengths)
    assert store.provenance["max_length"] == 10
    cut = [" ".join(text.split()[:8]) for text in roberta.texts]
    np.testing.assert_allclose(store.logits, roberta.logits_one_by_one(cut), **TOLERANCE)


def test_max_length_by_default_is_what_the_positions_allow(make_saved_case):
    assert load_classifier(make_saved_case("electra", 2).adapter).max_length == 80
    classifier = load_classifier(make_saved_case("roberta", 2).adapter)
    assert classifier.max_length == 80 - (PAD_ID + 1)  # RoBERTa counts from behind the pad id
    with pytest.warns(UserWarning, match="were cut at 78 tokens"):
        compute_features(classifier, ["w1 " * 200])


@pytest.mark.parametrize("max_length", [0, -3, 2.5, "64", True, 79])
def test_a_max_length_that_cannot_be_is_refused(roberta, max_length):
    with pytest.raises(ValueError, match="max_length: "):
        load_classifier(roberta.adapter, max_length=max_length)


def test_class_names_come_from_the_model_or_the_caller(make_saved_case):
    case = make_saved_case("roberta", 2)
    assert load_classifier(case.adapter).classes is None
    assert load_classifier(case.adapter, classes=["no", "yes"]).classes == ["no", "yes"]
    named = make_saved_case("roberta", 2, id2label={0: "bad", 1: "good"})
    assert load_classifier(named.adapter).classes == ["bad", "good"]
    for classes in (["a"], ["a", "a"], "ab", [0, 1]):
        with pytest.raises(ValueError, match="classes: expected"):
            load_classifier(case.adapter, classes=classes)


def test_string_labels_become_rows_of_the_head(roberta, tmp_path):
    classifier = load_classifier(roberta.adapter, classes=["no", "yes"])
    store = extract_features(
        classifier, ["w1", "w2", "w3"], tmp_path / "s", labels=np.array(["yes", "no", "yes"])
    )
    assert store.labels.tolist() == [1, 0, 1]
    assert store.classes == ["no", "yes"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["yes", "maybe"],
            r"labels: row 1 holds 'maybe', which is not among .* one of \['no', 'yes'\]",
        ),
        ([0, 2], r"labels: row 1 holds 2, but the head has"),
        ([-1, 0], r"labels: row 0 holds -1, but the head has"),
        ([0], r"labels: expected one per text \(2\), got 1"),
        ([0, 1.5], r"labels: expected integers .* row 1 holds 1\.5"),
        ([0, "yes"], r"labels: expected integers .* row 1 holds 'yes'"),
        ([True, False], r"labels: expected integers"),
        ([0, None], r"labels: expected integers"),
        (3, r"labels: expected"),
        ("no", r"labels: expected"),
    ],
)
def test_labels_that_cannot_be_are_refused_before_the_model_runs(loaded, tmp_path, labels, message):
    classifier = dataclasses.replace(loaded, model=None)
    with pytest.raises(ValueError, match=message):
        extract_features(classifier, ["w1", "w2"], tmp_path / "s", labels=labels)
    assert not (tmp_path / "s").exists()


def test_string_labels_without_class_names_are_refused(roberta, tmp_path):
    with pytest.raises(ValueError, match="labels: strings need the class names"):
        extract_features(load_classifier(roberta.adapter), ["w1"], tmp_path / "s", labels=["yes"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("w1 w2", "texts: expected a list of str, got one str"),
        ([], "texts: expected at least one text"),
        (["w1", None], r"row 1 is NoneType \(None\)"),
        (["w1", 3], r"row 1 is int \(3\)"),
        (7, "texts: expected a list of str, got one int"),
        (None, "texts: expected a list of str, got one NoneType"),
        ({"w1", "w2"}, "texts: expected a list of str, got one set"),
        ({"w1": 1}, "texts: expected a list of str, got one dict"),
        (["w1", "\ud83d"], r"texts: row 1 holds half a surrogate pair.*expected"),
    ],
)
def test_texts_that_cannot_be_are_refused(loaded, tmp_path, texts, message):
    for call in (compute_features, iter_features):
        with pytest.raises(ValueError, match=message):
            call(loaded, texts)
    with pytest.raises(ValueError, match=message):
        extract_features(loaded, texts, tmp_path / "s")


def test_an_empty_text_is_legal_where_the_tokenizer_gives_a_token(roberta, llama, tmp_path):
    _, logits = compute_features(load_classifier(roberta.adapter), ["", "w1"])
    np.testing.assert_allclose(logits, roberta.logits_one_by_one(["", "w1"]), **TOLERANCE)
    classifier = load_classifier(llama.adapter)
    with pytest.raises(ValueError, match=r"texts: row 3 \(''\) has no tokens"):
        extract_features(classifier, ["w1", "w2", "w3", ""], tmp_path / "s", shard_rows=2)


@pytest.mark.parametrize("name", ["batch_tokens", "shard_rows"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, "8"])
def test_counts_that_cannot_be_are_refused(loaded, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1"):
        extract_features(loaded, ["w1"], tmp_path / "s", **{name: value})

"""What would give wrong features without a word elsewhere: an error or a warning here."""

import copy
import shutil
import warnings

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from adue_sklearn.features import (
    compute_features,
    extract_features,
    iter_features,
    load_classifier,
)
from tests.lora_cases import make_config, make_texts, make_tokenizer, one_by_one

# --- weights that were never trained ----------------------------------------------------------


def without(folder, *parts):
    """Drop the tensors whose name holds one of these parts from a saved model or adapter."""
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    kept = {name: x for name, x in tensors.items() if not any(part in name for part in parts)}
    assert len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2", "t5"])
def test_a_head_that_only_the_config_of_the_adapter_speaks_of(family, make_saved_case, tmp_path):
    case = make_saved_case(family, 2)  # modules_to_save names the head, the file lacks it
    adapter = without(shutil.copytree(case.adapter, tmp_path / "a"), f".{case.head}.")
    with pytest.raises(ValueError, match=rf"trained weights of \['{case.head}.*nor in the adapter"):
        load_classifier(adapter)


def test_one_layer_of_a_head_that_is_missing(make_saved_case, tmp_path):
    for family, layer in (("distilbert", "pre_classifier"), ("roberta", "classifier.dense")):
        case = make_saved_case(family, 2)
        adapter = without(shutil.copytree(case.adapter, tmp_path / family), f".{layer}.")
        with pytest.raises(ValueError, match=rf"trained weights of \['{layer}\.bias', '{layer}\.w"):
            load_classifier(adapter)


def test_a_pooler_that_is_missing(make_saved_case, tmp_path):
    bert, deberta = make_saved_case("bert", 2), make_saved_case("deberta-v2", 2)
    base = without(shutil.copytree(bert.base, tmp_path / "base"), "pooler")
    with pytest.raises(ValueError, match=r"\['bert\.pooler\.dense\.bias', 'bert\.pooler.*random"):
        load_classifier(bert.adapter, base_model=base)
    adapter = without(shutil.copytree(deberta.adapter, tmp_path / "adapter"), "pooler")
    with pytest.raises(
        ValueError, match=r"\['pooler\.dense\.bias', 'pooler\.dense\.weight'\].*ran"
    ):
        load_classifier(adapter)


def test_a_whole_model_without_its_head(make_saved_case):
    for family in ("bert", "mpnet", "gemma"):
        case = make_saved_case(family, 2)
        with pytest.raises(ValueError, match=rf"trained weights of \['{case.head}.*random numbers"):
            load_classifier(case.base)


# --- merging ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Hold an adapter whose every update is smaller than the last digit of the weight.

    The value projection sees pairs of equal inputs with weights 1 and -1: the base model's values
    are zero, the adapter's 0.0015 on each weight add up. In bfloat16, 1.0015 is 1.
    """
    folder = tmp_path_factory.mktemp("fragile")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(make_config("llama", 2)).eval()
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        embeddings[:, 1::2] = embeddings[:, ::2]
        attention = model.model.layers[0].self_attn
        attention.v_proj.weight[:] = torch.tensor([1.0, -1.0]).repeat(8)
        attention.o_proj.weight *= 300
    model.bfloat16().save_pretrained(folder / "base")  # as models are published
    lora = peft.LoraConfig(r=1, lora_alpha=1, target_modules=["v_proj"], layers_to_transform=[0])
    live = peft.get_peft_model(model.float(), lora).eval()
    for name, value in live.named_parameters():
        if "lora_" in name:
            value.data[:] = 1.0 if "lora_A" in name else 0.0015
    live.save_pretrained(folder / "adapter")
    make_tokenizer(encoder=False).save_pretrained(folder / "adapter")
    return folder, live


def test_an_adapter_that_is_lost_in_bfloat16_weights_is_refused_with_the_mend(fragile):
    folder, live = fragile
    tokenizer = make_tokenizer(encoder=False)
    mend = r"from those with the unmerged one \(off by .*bfloat16 explains .*dtype=torch\.float32"
    with pytest.raises(ValueError, match=mend):
        load_classifier(
            folder / "adapter", base_model=folder / "base", device="cpu", dtype=torch.bfloat16
        )
    with pytest.raises(ValueError, match=mend):
        load_classifier(live, tokenizer=tokenizer, dtype=torch.bfloat16)
    expected = one_by_one(live, tokenizer, make_texts(5))
    exact = load_classifier(folder / "adapter", base_model=folder / "base", dtype=torch.float32)
    _, logits = compute_features(exact, make_texts(5))
    np.testing.assert_allclose(logits, expected, atol=0.02)  # 300 times float32's rounding
    with live.disable_adapter():
        assert np.abs(one_by_one(live, tokenizer, make_texts(5)) - expected).max() > 0.5


def test_a_bfloat16_model_that_is_wanted_in_float32_is_merged_in_float32(fragile):
    _, live = fragile
    tokenizer = make_tokenizer(encoder=False)
    expected = one_by_one(live, tokenizer, make_texts(5))
    half = copy.deepcopy(live).bfloat16()
    classifier = load_classifier(half, tokenizer=tokenizer, dtype=torch.float32)
    _, logits = compute_features(classifier, make_texts(5))
    # lora_B was rounded to 8 bits as well, which float32 cannot bring back
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


def test_a_merge_that_is_wrong_in_float32_is_not_blamed_on_the_precision(make_saved_case):
    case = make_saved_case("roberta", 2)
    live = copy.deepcopy(case.live)
    layer = live.base_model.model.roberta.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda module, args, output: output * 1.01)  # gone with the wrapper
    with pytest.raises(ValueError, match="LORA adapter cannot be merged exactly into its weights"):
        load_classifier(live, tokenizer=case.tokenizer)


def test_how_far_merged_and_unmerged_differ_is_kept(make_saved_case):
    case = make_saved_case("roberta", 2)
    for precision, tolerance in ((torch.float32, 5e-5), (torch.bfloat16, 0.125)):
        classifier = load_classifier(case.adapter, device="cpu", dtype=precision)
        assert classifier.checks.tolerance == tolerance
        assert classifier.provenance["batch_tolerance"] == tolerance
        assert classifier.provenance["padding_side"] == classifier.padding_side
        checks = classifier.checks
        for off in (checks.merge_off, checks.batch_off, checks.padding_off):
            assert 0 <= off <= tolerance
    assert classifier.checks.merge_off > 0.001  # bfloat16 does round
    merged = load_classifier(classifier.model, tokenizer=case.tokenizer)
    assert merged.checks.merge_off is None


def test_a_model_that_overflows_on_loading_is_refused_with_the_mend(make_saved_case):
    case = make_saved_case("bert", 2)
    live = copy.deepcopy(case.live)
    layer = live.base_model.model.classifier.modules_to_save.default
    layer.weight.data *= 1e38
    with pytest.raises(ValueError, match=r"NaN or inf for .*float16.*dtype=torch\.float32"):
        load_classifier(live, tokenizer=case.tokenizer, dtype=torch.float16)


# --- batches ----------------------------------------------------------------------------------


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused():
    model = AutoModelForSequenceClassification.from_config(make_config("bert", 2))
    model.classifier.register_forward_pre_hook(
        lambda module, args: (args[0] - 0.1 * args[0].mean(dim=0),)
    )
    with pytest.raises(ValueError, match=r"other texts of the same length .* mixes the rows"):
        load_classifier(model, tokenizer=make_tokenizer())


def test_a_model_whose_answer_depends_on_padding_is_refused():
    class WithoutMask(BertForSequenceClassification):
        def forward(self, input_ids, return_dict=True):
            return super().forward(input_ids=input_ids, return_dict=True)

    model = WithoutMask(make_config("bert", 2))
    with pytest.raises(ValueError, match=r"when it is padded, on either side .*pad_token_id"):
        load_classifier(model, tokenizer=make_tokenizer())


def test_a_model_that_pools_its_last_position_is_padded_on_the_left():
    class LastPosition(LlamaForSequenceClassification):
        def forward(self, input_ids, attention_mask=None, return_dict=True):
            hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
            return SequenceClassifierOutputWithPast(logits=self.score(hidden[:, -1]))

    torch.manual_seed(0)
    model = LastPosition(make_config("llama", 2)).eval()
    tokenizer = make_tokenizer(encoder=False)  # it pads on the right
    classifier = load_classifier(model, tokenizer=tokenizer)
    assert classifier.padding_side == "left"
    assert classifier.provenance["padding_side"] == "left"
    texts = make_texts(8)
    _, logits = compute_features(classifier, texts)
    np.testing.assert_allclose(logits, one_by_one(model, tokenizer, texts), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_row_is_the_same_alone_and_among_longer_ones(family, dtype, make_saved_case):
    case = make_saved_case(family, 2)
    classifier = load_classifier(case.adapter, device="cpu", dtype=dtype)
    short, long = "w1 w2 w3", " ".join(f"w{i}" for i in range(40))
    alone, _ = compute_features(classifier, [short])
    among, _ = compute_features(classifier, [short, *[long] * 7])
    atol = 1e-5 if dtype == torch.float32 else 0.05 * np.abs(alone).max()
    np.testing.assert_allclose(among[:1], alone, rtol=0, atol=atol)


# --- texts that are cut -----------------------------------------------------------------------


def test_cut_texts_are_reported_with_number_share_and_mend(make_saved_case, tmp_path):
    case = make_saved_case("roberta", 2)
    texts = ["w1 w2 w3", "w1 " * 9, "w2 " * 20, "w4"]
    classifier = load_classifier(case.adapter, max_length=8)
    message = r"2 of 4 \(50\.0%\) were cut at 8 tokens.*--max-length"
    with pytest.warns(UserWarning, match=message):
        compute_features(classifier, texts)
    with pytest.warns(UserWarning, match=message):
        cut = [batch.truncated.sum() for batch in iter_features(classifier, texts)]
    assert sum(cut) == 2
    with pytest.warns(UserWarning, match=message):
        store = extract_features(classifier, texts, tmp_path / "s", shard_rows=3)
    assert store.provenance["truncated_rows"] == 2


def test_texts_that_fit_are_not_reported(make_saved_case, tmp_path):
    case = make_saved_case("roberta", 2)
    classifier = load_classifier(case.adapter, max_length=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_features(classifier, ["w1 w2 w3 w4 w5 w6"])
        list(iter_features(classifier, ["w1 w2 w3 w4 w5 w6"]))
        extract_features(classifier, ["w1 w2 w3 w4 w5 w6"], tmp_path / "s", labels=[0])


# --- labels in another order than the head ----------------------------------------------------


class Labelled:
    """Texts labelled with a model's own answers, but for one in seven, and what is said of them."""

    def __init__(self, case, folder):
        self.folder, self.n_classes, self.tokenizer = folder, case.n_classes, case.tokenizer
        self.texts = make_texts(240, longest=12, seed=5)
        self.model = copy.deepcopy(case.live).merge_and_unload()
        logits = one_by_one(self.model, self.tokenizer, self.texts)
        middle = np.median(logits - logits.mean(axis=1, keepdims=True), axis=0)
        self.model.classifier.out_proj.bias.data -= torch.from_numpy(middle)  # answers all classes
        self.answers = (logits - middle).argmax(axis=1)
        noise = np.random.default_rng(0)
        guesses = noise.integers(case.n_classes, size=len(self.texts))
        self.labels = np.where(noise.random(len(self.texts)) < 0.15, guesses, self.answers)

    def warned(self, labels, classes=None, rows=slice(None)):
        classifier = load_classifier(self.model, tokenizer=self.tokenizer, classes=classes)
        out = self.folder / str(len(list(self.folder.iterdir())))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            extract_features(classifier, self.texts[rows], out, labels=np.asarray(labels)[rows])
        return " ".join(str(each.message) for each in caught if "labels" in str(each.message))


@pytest.fixture(scope="module", params=[2, 4])
def labelled(request, make_saved_case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    return Labelled(make_saved_case("roberta", request.param), folder)


def test_labels_in_the_order_of_the_head_are_not_warned_about(labelled):
    assert labelled.warned(labelled.labels) == ""


def test_integer_labels_in_another_order_name_the_rows_that_fit(labelled):
    turned = (labelled.labels + 1) % labelled.n_classes
    message = labelled.warned(turned)
    agree, could = np.mean(turned == labelled.answers), np.mean(labelled.labels == labelled.answers)
    assert f"agree with the labels in {agree:.1%} of 240 rows. Chance alone gives" in message
    assert f"In another order of the classes they agree in {could:.1%}" in message
    rows = [f"{(row + 1) % labelled.n_classes} is row {row}" for row in range(labelled.n_classes)]
    assert f"now label {', '.join(rows)}." in message


def test_named_labels_in_another_order_name_the_order_that_fits(labelled):
    true_order = ["low", "middle", "high", "top"][: labelled.n_classes]
    names = np.array(true_order)[labelled.labels]
    message = labelled.warned(names, classes=true_order[::-1])
    assert f"classes={true_order} (--classes)." in message
    assert labelled.warned(names, classes=true_order) == ""


@pytest.mark.parametrize("labelled", [4], indirect=True)
def test_two_of_four_classes_in_the_wrong_order_are_noticed_above_chance(labelled):
    swapped = np.array([1, 0, 2, 3])[labelled.labels]
    shares = [np.bincount(each, minlength=4) / 240 for each in (swapped, labelled.answers)]
    assert np.mean(swapped == labelled.answers) > shares[0] @ shares[1]
    assert "now label 1 is row 0, 0 is row 1, 2 is row 2, 3 is row 3" in labelled.warned(swapped)


def test_labels_of_other_texts_are_noticed_without_naming_an_order(labelled):
    rng = np.random.default_rng(0)
    shuffled = next(
        labels
        for labels in (rng.permutation(labelled.answers) for _ in range(100))
        if np.mean(labels == labelled.answers) < 1 / labelled.n_classes - 0.02
    )
    message = labelled.warned(shuffled)
    assert "No other order of the classes fits" in message
    assert "the labels belong to these rows" in message


def test_labels_of_one_class_only_are_measured_against_all_classes(labelled):
    row = int(labelled.answers[0])
    mine = np.flatnonzero(labelled.answers == row)[:40]
    texts, labels = [labelled.texts[i] for i in mine], np.full(len(mine), row)
    of_one_class = copy.copy(labelled)
    of_one_class.texts = texts
    assert of_one_class.warned(labels) == ""
    other = (labels + 1) % labelled.n_classes
    assert "agree with the labels in 0.0% of" in of_one_class.warned(other)


def test_a_handful_of_rows_proves_nothing(labelled):
    turned = (labelled.labels + 1) % labelled.n_classes
    assert labelled.warned(turned, rows=slice(9)) == ""
    assert "labels: the head's answers agree" in labelled.warned(turned, rows=slice(10))

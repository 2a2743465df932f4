"""Tiny LoRA classifiers of many families, random but complete: base, adapter, tokenizer."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import peft
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
    T5Config,
)

torch.set_num_threads(1)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = [f"w{i}" for i in range(60)]
PAD_ID = 1
MAX_POSITIONS = 80
SIZES = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "pad_token_id": PAD_ID,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # large: attention and LoRA must matter
}


@dataclass(frozen=True)
class Family:
    """How a tiny classifier of one architecture is made, tuned and saved."""

    config_class: type
    extra: dict
    targets: list[str]
    head: str = "classifier"
    encoder: bool = True  # its texts begin and end with a special token
    saved: tuple[str, ...] = ()  # trained modules besides the head that the base does not hold
    lora: dict = field(default_factory=dict)


def decoder(config_class, extra, targets=("q_proj", "v_proj"), **lora):
    return Family(config_class, extra, list(targets), "score", encoder=False, lora=lora)


# The four on which everything is tested; ARCHITECTURES are those that each have to work.
FAMILIES = {
    "roberta": Family(RobertaConfig, {}, ["query", "value"]),
    "electra": Family(ElectraConfig, {"embedding_size": 16}, ["query", "value"]),
    "llama": decoder(LlamaConfig, {"num_key_value_heads": 2}),
    "qwen2": decoder(Qwen2Config, {"num_key_value_heads": 1}),
}
ARCHITECTURES = FAMILIES | {
    "bert": Family(BertConfig, {}, ["query", "value"]),
    "distilbert": Family(
        DistilBertConfig, {"hidden_dim": 24}, ["q_lin", "v_lin"], saved=("pre_classifier",)
    ),
    "deberta-v2": Family(
        DebertaV2Config,
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16},
        ["query_proj", "value_proj"],
        saved=("pooler",),
    ),
    "mpnet": Family(MPNetConfig, {}, ["attn.q", "attn.v"]),
    "modernbert": Family(
        ModernBertConfig,
        {"global_attn_every_n_layers": 2, "local_attention": 16, "initializer_cutoff_factor": 1.0},
        ["Wqkv"],
        saved=("head",),
    ),
    "gemma": decoder(GemmaConfig, {"num_key_value_heads": 1, "head_dim": 8}),
    "mistral": decoder(MistralConfig, {"num_key_value_heads": 1, "sliding_window": 8}),
    "phi": decoder(PhiConfig, {}),
    "gpt2": decoder(GPT2Config, {"n_inner": 24}, ["c_attn"], fan_in_fan_out=True),
    "t5": Family(
        T5Config,
        {"d_kv": 8, "d_ff": 24, "num_decoder_layers": 2, "decoder_start_token_id": PAD_ID},
        ["q", "v"],
        "classification_head",
    ),
}


def make_config(family, n_classes, **changes):
    kind = ARCHITECTURES[family]
    return kind.config_class(**{**SIZES, **kind.extra, "num_labels": n_classes, **changes})


def make_tokenizer(*, encoder=True, **changes):
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**special, **changes})


def make_texts(n=19, longest=40, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size=n)
    lengths[:3] = 1, longest, 2
    return [" ".join(rng.choice(WORDS, size=length)) for length in lengths]


def head_logits(features, head):
    return features @ head.init_W.T + (0 if head.init_b is None else head.init_b)


def one_by_one(model, tokenizer, texts):
    """Logits of each text run alone through a live model."""
    rows = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            rows.append(model(input_ids=ids).logits[0].numpy())
    return np.array(rows)


@dataclass
class Case:
    """A LoRA classifier: on disk as base (an encoder without head) and adapter, and live."""

    family: str
    n_classes: int
    base: Path
    adapter: Path
    live: peft.PeftModel
    tokenizer: PreTrainedTokenizerFast
    head: str
    texts: list[str] = field(default_factory=make_texts)
    known_logits: dict = field(default_factory=dict)

    @property
    def is_encoder(self):
        return ARCHITECTURES[self.family].encoder

    def logits_one_by_one(self, texts=None):
        """Return the live model's logits, run once for the same texts: no test changes it."""
        texts = tuple(self.texts if texts is None else texts)
        if texts not in self.known_logits:
            logits = one_by_one(self.live, self.tokenizer, texts)
            logits.flags.writeable = False
            self.known_logits[texts] = logits
        return self.known_logits[texts]


def make_case(
    folder, family, n_classes, *, modules_to_save=None, tokenizer_changes=None, lora=None, **config
):
    torch.manual_seed(7 * n_classes)
    kind = ARCHITECTURES[family]
    tokenizer = make_tokenizer(encoder=kind.encoder, **(tokenizer_changes or {}))
    model = AutoModelForSequenceClassification.from_config(make_config(family, n_classes, **config))
    model.base_model.save_pretrained(folder / "base")
    # transformers picks the tokenizer class by the model type where it finds a model's
    # configuration; in the adapter's folder it finds none and reads ours as it is.
    tokenizer.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "base")
    saved = [*kind.saved, kind.head] if modules_to_save is None else modules_to_save
    options = {
        "task_type": "SEQ_CLS" if saved else None,  # SEQ_CLS would save the head by itself
        "r": 4,
        "lora_alpha": 8,
        "target_modules": kind.targets,
        "modules_to_save": saved or None,
    }
    tuned = peft.LoraConfig(**(options | kind.lora | (lora or {})))
    live = peft.get_peft_model(model, tuned).eval()
    for name, value in live.named_parameters():
        if value.requires_grad and ("lora_B" in name or "bias" in name):
            torch.nn.init.normal_(value, std=0.3)
    live.peft_config["default"].base_model_name_or_path = str(folder / "base")
    live.save_pretrained(folder / "adapter")
    return Case(family, n_classes, folder / "base", folder / "adapter", live, tokenizer, kind.head)

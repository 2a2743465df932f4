"""Tiny LoRA classifiers of four families, random but complete: base, adapter, tokenizer."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import peft
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    ElectraConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
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
FAMILIES = {
    "roberta": (RobertaConfig, {}, ["query", "value"], "classifier"),
    "electra": (ElectraConfig, {"embedding_size": 16}, ["query", "value"], "classifier"),
    "llama": (LlamaConfig, {"num_key_value_heads": 2}, ["q_proj", "v_proj"], "score"),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 1}, ["q_proj", "v_proj"], "score"),
}


def make_config(family, n_classes, **changes):
    config_class, extra, _, _ = FAMILIES[family]
    return config_class(**{**SIZES, **extra, "num_labels": n_classes, **changes})


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

    @property
    def is_encoder(self):
        return self.head == "classifier"

    def logits_one_by_one(self, texts=None):
        rows = []
        for text in self.texts if texts is None else texts:
            ids = torch.tensor([self.tokenizer(text)["input_ids"]])
            with torch.no_grad():
                rows.append(self.live(input_ids=ids).logits[0].numpy())
        return np.array(rows)


def make_case(
    folder, family, n_classes, *, modules_to_save=None, tokenizer_changes=None, lora=None, **config
):
    torch.manual_seed(7 * n_classes)
    _, _, targets, head = FAMILIES[family]
    tokenizer = make_tokenizer(encoder=head == "classifier", **(tokenizer_changes or {}))
    model = AutoModelForSequenceClassification.from_config(make_config(family, n_classes, **config))
    model.base_model.save_pretrained(folder / "base")
    # transformers picks the tokenizer class by the model type where it finds a model's
    # configuration; in the adapter's folder it finds none and reads ours as it is.
    tokenizer.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "base")
    saved = [head] if modules_to_save is None else modules_to_save
    lora = peft.LoraConfig(
        task_type="SEQ_CLS" if saved else None,  # SEQ_CLS would save the head by itself
        r=4,
        lora_alpha=8,
        target_modules=targets,
        modules_to_save=saved or None,
        **(lora or {}),
    )
    live = peft.get_peft_model(model, lora).eval()
    for name, value in live.named_parameters():
        if value.requires_grad and ("lora_B" in name or "bias" in name):
            torch.nn.init.normal_(value, std=0.3)
    live.peft_config["default"].base_model_name_or_path = str(folder / "base")
    live.save_pretrained(folder / "adapter")
    return Case(family, n_classes, folder / "base", folder / "adapter", live, tokenizer, head)

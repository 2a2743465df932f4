"""Every kind of adapter that is tested, and whole tiny classifiers to put them on."""

import shutil

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from tests.lora_cases import ARCHITECTURES, make_config, make_tokenizer


def make_base(family, n_classes=2):
    """A whole classifier, its head trained as it were, and its tokenizer."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(make_config(family, n_classes)).eval()
    return model, make_tokenizer(encoder=ARCHITECTURES[family].encoder)


def train_as_it_were(live, seed=0):
    """Move everything that training would move; LoRA starts where it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    for value in live.parameters():
        if value.requires_grad:
            value.data += 0.3 * torch.randn(value.shape, generator=generator)
    return live.eval()


def save_another_adapter(adapter, folder):
    """Save an adapter of the same base with other weights."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(file)
    moved = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in tensors.items()
    }
    save_file(moved, file)
    return folder


ENCODER = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
DECODER = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "v_proj"]}
CONV1D = {"task_type": "SEQ_CLS", "target_modules": ["c_attn"], "fan_in_fan_out": True}
KINDS = {
    "bias=lora_only": ("roberta", peft.LoraConfig(bias="lora_only", **ENCODER)),
    "bias=lora_only, Conv1D": ("gpt2", peft.LoraConfig(bias="lora_only", **CONV1D)),
    "DoRA": ("roberta", peft.LoraConfig(use_dora=True, **ENCODER)),
    "DoRA, decoder": ("llama", peft.LoraConfig(use_dora=True, **DECODER)),
    "rsLoRA": ("qwen2", peft.LoraConfig(use_rslora=True, **DECODER)),
    "every linear layer": ("llama", peft.LoraConfig(**DECODER | {"target_modules": "all-linear"})),
    "embeddings": ("llama", peft.LoraConfig(**DECODER | {"target_modules": ["embed_tokens"]})),
    "LoRA on the head": ("llama", peft.LoraConfig(target_modules=["q_proj", "score"])),
    "LoRA on the head's layers": (
        "roberta",
        peft.LoraConfig(target_modules=["query", "classifier.dense", "classifier.out_proj"]),
    ),
    "modules_to_save": (
        "bert",
        peft.LoraConfig(target_modules=["query"], modules_to_save=["pooler", "classifier"]),
    ),
    "IA3": (
        "llama",
        peft.IA3Config(
            task_type="SEQ_CLS",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
    ),
    "IA3, a head of several layers": (
        "roberta",
        peft.IA3Config(task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[]),
    ),
    "IA3, Conv1D": (
        "gpt2",
        peft.IA3Config(
            feedforward_modules=["mlp.c_proj"],
            **CONV1D | {"target_modules": ["c_attn", "mlp.c_proj"]},
        ),
    ),
    "LoHa": ("roberta", peft.LoHaConfig(r=2, **ENCODER)),
    "VeRA": ("llama", peft.VeraConfig(r=2, **DECODER | {"target_modules": ["q_proj"]})),
}

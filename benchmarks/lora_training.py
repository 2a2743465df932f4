"""LoRA training as in the paper, resumable at the end of every epoch and deterministic by seed.

A training's folder holds ``best/`` (adapter and tokenizer of the epoch with the best validation
accuracy), while it runs ``state.safetensors`` (weights and optimiser after the last epoch) and at
the end ``training.json``. Nothing depends on random state from before an epoch: order and dropout
of each have a seed of their own, so that going on gives what an unbroken run gives.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from text_data import Split
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

#: Names of query, key and value layers in one block; some models have all three in one layer.
ATTENTION_NAMES = (
    ("query", "key", "value"),  # BERT, RoBERTa, ELECTRA, ALBERT
    ("q_proj", "k_proj", "v_proj"),  # LLaMA, Qwen2, Mistral, Gemma, OPT
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT, XLM
    ("q", "k", "v"),  # MPNet, T5
    ("Wqkv",),  # ModernBERT
    ("qkv_proj",),  # Phi-3
    ("query_key_value",),  # GPT-NeoX, Falcon, BLOOM
    ("in_proj",),  # DeBERTa
    ("c_attn",),  # GPT-2
)
STATE, SUMMARY, BEST = "state.safetensors", "training.json", "best"


def attention_names(model: nn.Module) -> list[str]:
    """Return the names of the layers that make queries, keys and values."""
    present = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None
    }
    for names in ATTENTION_NAMES:
        if present.issuperset(names):
            return list(names)
    raise SystemExit(f"no query, key and value layers among {sorted(present)}; add their names")


def head_names(model: nn.Module) -> list[str]:
    """Return the modules on top of the backbone, which are trained whole; a pooler is one."""
    backbone = model.base_model
    names = [
        name
        for name, child in model.named_children()
        if child is not backbone and any(True for _ in child.parameters())
    ]
    return [*names, "pooler"] if getattr(backbone, "pooler", None) is not None else names


def make_model(base: str, n_classes: int, recipe: dict[str, Any], seed: int) -> tuple[Any, Any]:
    """Return a fresh classifier with LoRA on it, and its tokenizer; the seed decides the head."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=n_classes, dtype=torch.float32
    )
    if tokenizer.pad_token is None:  # decoders
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=recipe["r"],
        lora_alpha=recipe["alpha"],
        lora_dropout=recipe["dropout"],
        target_modules=attention_names(model),
        modules_to_save=head_names(model),
    )
    return get_peft_model(model, config), tokenizer


def train_lora(
    base: str,
    train: Split,
    validation: Split,
    *,
    n_classes: int,
    recipe: dict[str, Any],
    max_length: int,
    seed: int,
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Train, or go on, or do nothing if it is done; return what ``training.json`` says."""
    summary = folder / SUMMARY
    if summary.exists():
        return json.loads(summary.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = make_model(base, n_classes, recipe, seed)
    model.to(device)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"]
    )
    batches = Batches(tokenizer, max_length, device)
    steps = math.ceil(len(train.texts) / recipe["batch_size"])
    history = _restore(folder / STATE, trained, optimizer)
    for epoch in range(len(history), recipe["epochs"]):
        start = time.perf_counter()
        loss = _train_epoch(model, optimizer, batches, train, recipe, seed, epoch, steps)
        accuracy = _accuracy(model, batches, validation)
        seconds = time.perf_counter() - start
        if all(accuracy > entry["validation_accuracy"] for entry in history):
            model.save_pretrained(folder / BEST)
            tokenizer.save_pretrained(folder / BEST)
        history.append({"loss": loss, "validation_accuracy": accuracy, "seconds": seconds})
        _save(folder / STATE, trained, optimizer, history)
        print(
            f"  epoch {epoch + 1}: loss {loss:.4f}, validation accuracy {accuracy:.4f}, "
            f"{seconds:.0f} s",
            flush=True,
        )
    accuracies = [entry["validation_accuracy"] for entry in history]
    facts = {
        "best_epoch": int(np.argmax(accuracies)) + 1,
        "target_modules": sorted(model.peft_config["default"].target_modules),
        "modules_to_save": sorted(model.peft_config["default"].modules_to_save),
        "trained_parameters": sum(p.numel() for p in trained.values()),
        "history": history,
    }
    write_json(summary, facts)
    (folder / STATE).unlink(missing_ok=True)
    return facts


class Batches:
    """Texts as tensors on a device, padded to the longest of each batch."""

    def __init__(self, tokenizer: Any, max_length: int, device: torch.device) -> None:
        self.tokenizer, self.max_length, self.device = tokenizer, max_length, device

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> Any:
        return self.tokenizer(
            [texts[i] for i in rows],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Return the share of the rate at a step: a linear rise, then a linear fall to zero."""
    rise = max(1, round(warmup * total))
    return (step + 1) / rise if step < rise else (total - step) / max(1, total - rise)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    train: Split,
    recipe: dict[str, Any],
    seed: int,
    epoch: int,
    steps: int,
) -> float:
    """Return the mean loss."""
    rng = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(rng.integers(2**31)))
    model.train()
    labels = torch.as_tensor(train.labels, device=batches.device)
    total = torch.zeros((), dtype=torch.float64, device=batches.device)
    for i, rows in enumerate(np.array_split(rng.permutation(len(train.texts)), steps)):
        factor = learning_rate_factor(epoch * steps + i, recipe["epochs"] * steps, recipe["warmup"])
        for group in optimizer.param_groups:
            group["lr"] = factor * recipe["learning_rate"]
        loss = model(**batches(train.texts, rows), labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        optimizer.step()
        total += loss.detach().double() * len(rows)
    return float(total) / len(train.texts)


@torch.no_grad()
def _accuracy(model: nn.Module, batches: Batches, split: Split) -> float:
    model.eval()
    right = 0
    for rows in _by_length(split.texts):
        predicted = model(**batches(split.texts, rows)).logits.argmax(dim=1).cpu().numpy()
        right += int((predicted == split.labels[rows]).sum())
    return right / len(split.texts)


def _by_length(texts: Sequence[str], size: int = 64) -> Iterator[np.ndarray]:
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _save(
    file: Path,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> None:
    tensors, metadata = {}, {"history": json.dumps(history)}
    for name, parameter in trained.items():
        state = optimizer.state[parameter]
        metadata["steps"] = str(int(state["step"]))
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = state[moment].contiguous()
    unfinished = file.with_suffix(".part")
    save_file(tensors, unfinished, metadata)
    os.replace(unfinished, file)


def _restore(
    file: Path, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    """Bring weights and optimiser to where the last whole epoch left them; return the history."""
    if not file.exists():
        return []
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
        for name, parameter in trained.items():
            parameter.data.copy_(stored.get_tensor(f"weight/{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(metadata["steps"])),
                **{
                    moment: stored.get_tensor(f"{moment}/{name}").to(parameter.device)
                    for moment in ("exp_avg", "exp_avg_sq")
                },
            }
    return json.loads(metadata["history"])


def write_json(file: Path, content: Any) -> None:
    """Write all or nothing."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, file)

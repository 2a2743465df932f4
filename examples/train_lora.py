"""Tune MiniLM with LoRA on SST-2 and watch how well its errors are found.

    pip install 'adue-sklearn[demo,data]'
    python examples/train_lora.py

takes SST-2 from the Hugging Face hub. ``--data FOLDER`` reads ``train.jsonl`` and
``validation.jsonl`` instead, lines of ``{"text": ..., "label": "negative" or "positive"}``.
After each epoch it prints the uncertainty of softmax response and AdUE on held-out rows; adapter
and AdUE head are then in ``movie-adapter``. About a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from adue_sklearn.datasets import minilm_path
from adue_sklearn.serving import UncertaintyCallback

CLASSES = ["negative", "positive"]
MAX_LENGTH = 64
N_TRAIN, N_HELD_OUT, N_VALIDATION = 960, 1200, 300


def read(data: Path | None, split: str) -> tuple[list[str], list[int]]:
    """Return texts and row numbers of labels of a split."""
    if data is None:
        from datasets import load_dataset

        rows = load_dataset("stanfordnlp/sst2", split=split)
        return list(rows["sentence"]), list(rows["label"])
    lines = (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    read_rows = [json.loads(line) for line in lines]
    return [row["text"] for row in read_rows], [CLASSES.index(row["label"]) for row in read_rows]


def main() -> None:
    """Train, evaluate after each epoch, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of train.jsonl and validation.jsonl")
    parser.add_argument("--out", type=Path, default=Path("movie-adapter"))
    args = parser.parse_args()

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm_path(),
        id2label=dict(enumerate(CLASSES)),
        label2id={name: row for row, name in enumerate(CLASSES)},
    )
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"],
    )
    model = get_peft_model(model, lora)

    def encoded(texts: list[str], labels: list[int]) -> list[dict[str, object]]:
        return [
            {**tokenizer(text, truncation=True, max_length=MAX_LENGTH), "labels": label}
            for text, label in zip(texts, labels, strict=True)
        ]

    texts, labels = read(args.data, "train")
    validation_texts, validation_labels = (
        column[:N_VALIDATION] for column in read(args.data, "validation")
    )
    order = np.random.default_rng(0).permutation(len(texts))
    train, held_out = order[:N_TRAIN], order[N_TRAIN : N_TRAIN + N_HELD_OUT]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.out),
            num_train_epochs=2,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=1e-3,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="no",
            dataloader_pin_memory=False,
            report_to="none",  # or "tensorboard", "wandb"
        ),
        train_dataset=encoded([texts[i] for i in train], [labels[i] for i in train]),
        eval_dataset=encoded(validation_texts, validation_labels),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )

    # The three lines: neither the model nor the choice of an epoch sees the held-out rows.
    callback = UncertaintyCallback(
        trainer,
        [texts[i] for i in held_out],
        [labels[i] for i in held_out],
        target_risk=0.1,
        max_length=MAX_LENGTH,
        save_to=args.out / "adue",
    )
    trainer.add_callback(callback)

    trainer.train()
    trainer.save_model(str(args.out))


if __name__ == "__main__":
    main()

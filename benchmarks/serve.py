"""What an uncertainty costs where texts are answered: interleaved runs with and without it.

    python benchmarks/serve.py [--rounds 200] [--device cpu] [--cpu-time]

MiniLM with the shipped LoRA adapter, AdUE of the shipped rows, short sentences. ``forward`` is the
bare model on tokens that are ready, ``tokenizer + forward`` the least that answers a text, with
softmax and label. The others answer texts with an uncertainty too. Medians, in milliseconds, of
elapsed time or, where other processes hold the cores, of this process's CPU time.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timing import medians

from adue_sklearn import AdUEEstimator, Head
from adue_sklearn.datasets import load_movie_sentiment, minilm_path, movie_sentiment_adapter_path
from adue_sklearn.features import load_classifier
from adue_sklearn.persistence import FittedHead
from adue_sklearn.serving import UncertaintyClassifier

SENTENCES = [
    "A warm, generous film that earns every one of its tears.",
    "You will not find a less boring film about tax law this year.",
    "It goes nowhere, slowly, and then it does so once more in the dark.",
    "Hardly the disaster that everyone expected.",
]


def served(device: str) -> UncertaintyClassifier:
    """Return the shipped case as one object."""
    data = load_movie_sentiment()
    classifier = load_classifier(
        movie_sentiment_adapter_path(),
        base_model=minilm_path(),
        classes=["negative", "positive"],
        device=device,
        dtype=torch.float32,
    )
    head = Head.of(classifier.head.init_W, classifier.head.init_b)
    adue = AdUEEstimator().fit(data.calibration.features, data.calibration.labels, head)
    return UncertaintyClassifier(classifier, FittedHead(adue, {}, classifier.classes))


def contenders(clf: UncertaintyClassifier, texts: list[str]) -> dict[str, Callable[[], Any]]:
    loaded, module = clf.classifier, clf.as_module()
    plain = loaded.tokenizer(texts, padding=True, return_tensors="pt").to(loaded.device)
    task = clf.as_pipeline(batch_size=len(texts))

    def forward() -> Any:
        with torch.inference_mode():
            return loaded.model(**plain).logits.cpu()

    def answer() -> Any:
        encoded = loaded.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            logits = loaded.model(**encoded.to(loaded.device)).logits.float()
        best = logits.softmax(dim=1).max(dim=1)
        return [
            (loaded.classes[row], p) for p, row in zip(*map(torch.Tensor.tolist, best), strict=True)
        ]

    def with_module() -> Any:
        encoded = loaded.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        encoded = encoded.to(loaded.device)
        with torch.inference_mode():
            logits, uncertainty = module(encoded["input_ids"], encoded["attention_mask"])
        best = logits.softmax(dim=1).max(dim=1)
        return [*zip(*map(torch.Tensor.tolist, (*best, uncertainty)), strict=True)]

    return {
        "forward": forward,
        "tokenizer + forward": answer,
        "as_module, tokenizer": with_module,
        "UncertaintyClassifier": lambda: clf(texts),
        "pipeline": lambda: task(texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    warnings.simplefilter("ignore")
    clf = served(args.device)
    print(f"{torch.get_num_threads()} threads, device {clf.classifier.device}")
    for n_texts in (1, 32):
        texts = [SENTENCES[number % len(SENTENCES)] for number in range(n_texts)]
        found = medians(contenders(clf, texts), rounds=args.rounds, clock=clock)
        least = found["tokenizer + forward"]
        print(f"batch {n_texts}")
        for name, seconds in found.items():
            print(f"  {name:<22}{1000 * seconds:8.2f} ms  {1000 * (seconds - least):+7.2f}")


if __name__ == "__main__":
    main()

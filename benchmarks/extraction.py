"""Extraction reproduces stored features: a real adapter over real texts.

    python benchmarks/extraction.py --data PATH [--name sst2]

``PATH`` holds ``adapters/NAME`` (a LoRA adapter of all-MiniLM-L6-v2), ``text/NAME/test.jsonl``
and ``features/NAME.safetensors`` with ``test.features``, ``W`` and ``b``. Stops if any value is
off by more than 1e-4. Prints the largest difference and texts a second.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from adue_sklearn.datasets import minilm_path
from adue_sklearn.features import compute_features, load_classifier


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="sst2")
    args = parser.parse_args()
    lines = (args.data / "text" / args.name / "test.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    expected = load_file(args.data / "features" / f"{args.name}.safetensors")

    classifier = load_classifier(
        args.data / "adapters" / args.name,
        base_model=minilm_path(),
        device="cpu",
        max_length=64,
    )
    start = time.perf_counter()
    features, _ = compute_features(classifier, texts)
    seconds = time.perf_counter() - start
    off = np.abs(features - expected["test.features"]).max()
    head = max(
        np.abs(classifier.head.init_W - expected["W"]).max(),
        np.abs(classifier.head.init_b - expected["b"]).max(),
    )
    print(
        f"{args.name}: {len(texts)} texts, features off by at most {off:.1e}, head by {head:.1e}, "
        f"{len(texts) / seconds:.0f} texts a second"
    )
    if max(off, head) > 1e-4:
        raise SystemExit("off by more than 1e-4")


if __name__ == "__main__":
    main()

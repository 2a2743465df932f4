"""How time and memory of a search and a fit grow with rows, features, classes and settings.

    python benchmarks/scaling.py [--quick] [--figure FILE.svg] [--json FILE]

From a middle case (n = 4,000 rows, d = 384 features, C = 4 classes, 16 settings x 5 folds) one
quantity grows at a time. Features are random, the head errs on a quarter to a half of the rows.
Seconds are medians of three rounds in which all sizes take turns; memory is what one search in a
fresh process adds to its resident set at most (Linux). Last, the features of a small case are
multiplied, with the head divided by as much (the same classifier) and with the head as it is (an
ever more saturated one). Slopes are of the logarithms: 1 is linear.
Asserted first: in the middle case the search's best mean score is that of AdUEEstimator on the same
folds, within 0.005.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import ParameterGrid, cross_val_score
from timing import added_memory, in_fresh_process, medians

from adue_sklearn import AdUEEstimator, AdUESearchCV
from adue_sklearn.model_selection import error_stratified_folds

ALPHAS = [0.0, 0.1, 0.3, 1.0]
BETAS = [0.001, 0.01, 0.1, 1.0]
LAMS = [100.0, 50.0, 20.0, 10.0, 75.0, 35.0, 15.0, 5.0]


class Size(NamedTuple):
    """Rows, features, classes and settings of a case."""

    n: int = 4_000
    d: int = 384
    C: int = 4
    settings: int = 16


SIZES = {
    "n": [1_000, 2_000, 4_000, 8_000, 16_000],
    "d": [96, 192, 384, 768, 1_536],
    "C": [2, 4, 8, 16, 32],
    "settings": [8, 16, 32, 64, 128],
}
SCALES = [1e-8, 1.0, 1e2, 1e4, 1e6]
NAMES = {"n": "rows", "d": "features", "C": "classes", "settings": "settings (x 5 folds)"}


def main() -> None:
    args = parse_arguments()
    check(make_case(Size()))
    results = {}
    for quantity, values in SIZES.items():
        values = values[:3] if args.quick else values
        sizes = {str(v): Size()._replace(**{quantity: v}) for v in values}
        results[quantity] = measure(sizes, rounds=1 if args.quick else 3)
        print_table(quantity, results[quantity])
    results["scale"] = measure_scales(rounds=1 if args.quick else 3)
    print_scales(results["scale"])
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    if args.figure is not None:
        draw({quantity: results[quantity] for quantity in SIZES}, args.figure)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(sizes: dict[str, Size], rounds: int) -> dict[str, dict[str, float]]:
    cases = {name: make_case(size) for name, size in sizes.items()}
    search = medians(
        {name: partial(run_search, cases[name], size) for name, size in sizes.items()},
        rounds=rounds,
    )
    fit = medians({name: partial(run_fit, case) for name, case in cases.items()}, rounds=rounds)
    memory = {name: in_fresh_process(search_memory, size) for name, size in sizes.items()}
    return {"search s": search, "fit s": fit, "search MiB": memory}


def measure_scales(rounds: int) -> dict[str, dict[str, float]]:
    X, y, W, b = make_case(Size(400, 8, 3))
    together = {f"{s:g}": partial(run_fit, (s * X, y, W / s, b)) for s in SCALES}
    alone = {f"{s:g}": partial(run_fit, (s * X, y, W, b)) for s in SCALES}
    return {
        "same classifier": medians(together, rounds=rounds),
        "same head": medians(alone, rounds=rounds),
    }


def print_scales(result: dict[str, dict[str, float]]) -> None:
    print(f"\n| X times | {' | '.join(result['same head'])} |")
    print("|---" * (len(SCALES) + 1) + "|")
    for what, measured in result.items():
        print(f"| {what}: fit s | {' | '.join(f'{s:.2f}' for s in measured.values())} |")


def check(case: tuple[np.ndarray, ...]) -> None:
    X, y, W, b = case
    folds = error_stratified_folds(*case, n_splits=5)
    search = AdUESearchCV({"beta": BETAS}, cv=folds, refit=False).fit(*case)
    head = {"init_W": W, "init_b": b}
    adue = AdUEEstimator(**search.best_params_)
    expected = cross_val_score(adue, X, y, cv=folds, params=head).mean()
    assert abs(search.best_score_ - expected) < 5e-3, (search.best_score_, expected)


def make_case(size: Size) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(size.n, size.d)).astype(np.float32)
    W = (2.0 * rng.normal(size=(size.C, size.d)) / np.sqrt(size.d)).astype(np.float32)
    truth = W + rng.normal(size=W.shape) / np.sqrt(size.d)
    return X, (X @ truth.T).argmax(axis=1), W, np.zeros(size.C, dtype=np.float32)


def run_search(case: tuple[np.ndarray, ...], size: Size) -> None:
    grid = {"alpha": ALPHAS, "beta": BETAS, "lam": LAMS}
    for name in ("lam", "beta", "alpha"):  # halve the lists until so many settings are left
        while len(ParameterGrid(grid)) > size.settings and len(grid[name]) > 1:
            grid[name] = grid[name][: len(grid[name]) // 2]
    assert len(ParameterGrid(grid)) == size.settings
    AdUESearchCV(grid, refit=False).fit(*case)


def run_fit(case: tuple[np.ndarray, ...]) -> None:
    AdUEEstimator().fit(*case)


def search_memory(size: Size) -> float:
    """Return the MiB that a search adds to a fresh process at most."""
    case = make_case(size)
    run_fit(make_case(Size(200, 8, 2)))  # imports and threads are not counted
    return added_memory(lambda: run_search(case, size))


def print_table(quantity: str, result: dict[str, dict[str, float]]) -> None:
    values = list(result["search s"])
    print(f"\n| {NAMES[quantity]} | {' | '.join(values)} | slope |")
    print("|---" * (len(values) + 2) + "|")
    for what, measured in result.items():
        numbers = [measured[value] for value in values]
        slope = np.polyfit(
            np.log([float(v) for v in values]), np.log(np.maximum(numbers, 1e-3)), 1
        )[0]
        print(f"| {what} | {' | '.join(f'{number:.3g}' for number in numbers)} | {slope:.2f} |")


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(results), figsize=(12, 6), sharey="row", layout="constrained"
    )
    for column, (quantity, result) in zip(axes.T, results.items(), strict=True):
        for what, measured in result.items():
            axis = column[1] if what.endswith("MiB") else column[0]
            values = [float(v) for v in measured]
            axis.loglog(values, list(measured.values()), "o-", label=what[:-2])
            axis.set_xticks(values, list(measured))
            axis.minorticks_off()
        column[1].set_xlabel(NAMES[quantity])
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("MiB above the arrays")
    axes[0, 0].legend(["search", "one fit"])
    figure.savefig(path)


if __name__ == "__main__":
    main()

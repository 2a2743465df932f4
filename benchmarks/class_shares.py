"""What AdUE seems to gain, and gains, where calibration rows hold too few rows of a class.

    python benchmarks/class_shares.py --data PATH/features --seeds 3

reads the files of ``real_data.py``. One class at a time is thinned out among the calibration
rows: a random share of its rows is kept. AdUE (default settings) is cross-validated on what is
left, and fitted on all of it and judged on the complete test rows. Prints a Markdown table, one row
a set and share: AdUE minus softmax response in points of error-ROC-AUC, mean over classes and
seeds, the worst on the test rows, how often cross-validation and the test rows call AdUE better
beyond chance (DeLong, 95 %), and how often ``fit`` warns of the rows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from adue_sklearn import AdUEEstimator, SoftmaxResponseScorer, compare_scorers
from adue_sklearn.metrics import error_roc_auc_difference

KEPT = (1.0, 0.5, 0.25, 0.1, 0.05, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="Names of sets; by default all.")
    args = parser.parse_args()
    print("| set | kept | cross-validated | test | worst | called better | is better | warned |")
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(args.data.glob("*.safetensors")):
        if args.only and path.stem not in args.only:
            continue
        arrays = load_file(path)
        for kept in KEPT:
            seeds = range(args.seeds if kept else 1)
            runs = np.array([run for seed in seeds for run in thinned(arrays, kept, seed)])
            seen, real, seen_low, real_low, warned = runs.T
            print(
                f"| {path.stem} | {kept:.0%} | {seen.mean():+.2f} | {real.mean():+.2f} "
                f"| {real.min():+.2f} | {(seen_low > 0).sum()} of {len(runs)} "
                f"| {(real_low > 0).sum()} | {int(warned.sum())} |",
                flush=True,
            )


def thinned(arrays: dict[str, Any], kept: float, seed: int) -> Iterator[tuple[float, ...]]:
    """Yield both gains, their lower limits and whether there is a warning, class by class."""
    X, y = arrays["calibration.features"], arrays["calibration.labels"]
    for label in range(len(arrays["W"]) if kept < 1 else 1):
        rng = np.random.default_rng([seed, label])
        rows = np.flatnonzero((y != label) | (rng.random(len(y)) < kept))
        yield gains(arrays, X[rows], y[rows], seed)


def gains(arrays: dict[str, Any], X: Any, y: Any, seed: int) -> tuple[float, ...]:
    head = (arrays["W"], arrays["b"])
    test = arrays["test.features"], arrays["test.labels"]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        found = compare_scorers(
            X, y, *head, scorers=[AdUEEstimator()], cv=3, metrics={}, random_state=seed
        )
        adue = AdUEEstimator().fit(X, y, *head)
        response = SoftmaxResponseScorer().fit(X, y, *head)
    seen = found["AdUE"].gain
    real = error_roc_auc_difference(
        response.errors(*test),
        adue.predict_uncertainty(test[0]),
        response.predict_uncertainty(test[0]),
    )
    lows = 100 * seen.low, 100 * real[1]
    return 100 * seen.value, 100 * real[0], *lows, float(bool(found.reservations))


if __name__ == "__main__":
    main()

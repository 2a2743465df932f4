"""The loss that is reached: AdUE's descents, a plain descent, and the paper's Adam.

    python benchmarks/solver.py --data PATH/features

On every ``NAME.safetensors`` in the folder (``calibration.{features,labels}``, ``W``, ``b``), with
the head as it is and multiplied by 3 and 10 (saturated): loss, 100 x error-ROC-AUC on the test rows
and seconds of ``AdUEEstimator()``, of L-BFGS from the original head alone, and of
``AdUEEstimator(solver="adam")`` with the highest rate and most epochs of the paper's grid.
alpha = 0.3, beta = 0.001, lam = 100, both scales. Ratios of losses are to AdUEEstimator's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from unittest import mock

from safetensors.numpy import load_file

from adue_sklearn import AdUEEstimator
from adue_sklearn.adue import estimator as module
from adue_sklearn.adue.descents import descents

SETTING = {"alpha": 0.3, "beta": 0.001, "lam": 100.0}


def fit(arrays: dict, factor: float, **options: object) -> tuple[float, float, float]:
    W, b = factor * arrays["W"], factor * arrays["b"]
    start = time.perf_counter()
    adue = AdUEEstimator(**SETTING, **options)
    adue.fit(arrays["calibration.features"], arrays["calibration.labels"], W, b)
    seconds = time.perf_counter() - start
    return adue.loss_, 100 * adue.score(arrays["test.features"], arrays["test.labels"]), seconds


def fit_plainly(arrays: dict, factor: float, **options: object) -> tuple[float, float, float]:
    """Fit with one descent, from the original head."""
    with mock.patch.object(module, "descents", lambda problems: descents(problems)[:1]):
        return fit(arrays, factor, **options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    print("| set | head | scale | AdUEEstimator | one descent | Adam, 20 epochs |")
    print("|---|---|---|---|---|---|")
    for path in sorted(args.data.glob("*.safetensors")):
        arrays = load_file(path)
        for factor in (1, 3, 10):
            for scale in ("unit", "paper"):
                ours = fit(arrays, factor, scale=scale)
                plain = fit_plainly(arrays, factor, scale=scale)
                adam = fit(
                    arrays,
                    factor,
                    scale=scale,
                    solver="adam",
                    learning_rate=1e-3,
                    epochs=20,
                    random_state=0,
                )
                cells = [
                    f"{loss:.4f} ({loss / ours[0]:.2f}x), {auc:.1f}, {seconds:.2f} s"
                    for loss, auc, seconds in (ours, plain, adam)
                ]
                print(
                    f"| {path.stem} | x{factor} | {scale} | " + " | ".join(cells) + " |", flush=True
                )


if __name__ == "__main__":
    main()

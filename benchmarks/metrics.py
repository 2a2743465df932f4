"""Metrics of error detection: the bootstrap against resampling and recomputing, AURC against sorts.

    python benchmarks/metrics.py [--quick] [--json FILE]

*Bootstrap.* ROC-AUC and AURC on the same resamples of n rows. The peers take the rows of a
resample and compute both again: ROC-AUC by scikit-learn's ``roc_auc_score``, AURC by fd-shifts'
formula (Traub et al., 2024): a sort, the risk at each distinct score, the trapezoid rule. It is
written once in numpy and once as a loop over rows, which is how fd-shifts runs it. Peers run a few
resamples a round and their seconds are scaled to all; ours runs all of them. Before anything is
timed, both must agree on the replicates: the ROC-AUC to rounding; the AURC to a hundredth of the
replicates' standard deviation, for here it is a mean over rows with ties in expectation and there
a line through distinct scores.

*One value.* AURC of n distinct scores against ``numpy.argsort`` and ``numpy.sort`` of the same
array; before, it must agree with the mean of running risks to 11 digits.

Contenders take turns. Seconds are medians, ratios are medians of the ratios within a round. Set
``OMP_NUM_THREADS=1``; none of the contenders uses more than one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from adue_sklearn.metrics import aurc_score, bootstrap_replicates, error_roc_auc_score

OURS = "adue_sklearn"
BOTH = {"ROC-AUC": error_roc_auc_score, "AURC": aurc_score}


def problem(n: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    errors = rng.random(n) < rate
    return errors, rng.normal(size=n) + 1.5 * errors


def area(coverages: Any, risks: Any) -> float:
    return float(-np.trapezoid(risks, coverages))


def aurc_in_numpy(errors: np.ndarray, uncertainty: np.ndarray) -> float:
    order = np.argsort(uncertainty)
    ranked, n = uncertainty[order], len(order)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))[::-1]
    risks = np.cumsum(errors[order])[last] / (last + 1)
    return area(np.append((last + 1) / n, 0.0), np.append(risks, risks[-1]))


def aurc_in_a_loop(errors: np.ndarray, uncertainty: np.ndarray) -> float:
    order = np.argsort(-uncertainty)
    residuals, confidence, n = errors[order].astype(float), -uncertainty[order], len(order)
    left, wrong = n, residuals.sum()
    coverages, risks = [1.0], [wrong / n]
    for row in range(n - 1):
        left -= 1
        wrong -= residuals[row]
        if confidence[row] != confidence[row + 1]:
            coverages.append(left / n)
            risks.append(wrong / left)
    return area([*coverages, 0.0], [*risks, risks[-1]])


class Resampling:
    """Resample the rows and compute both metrics anew."""

    def __init__(
        self, aurc: Callable[..., float], errors: np.ndarray, uncertainty: np.ndarray, times: int
    ) -> None:
        self.aurc, self.errors, self.uncertainty, self.times = aurc, errors, uncertainty, times

    def __call__(self) -> np.ndarray:
        rng, n = np.random.default_rng(0), len(self.errors)
        values = []
        for _ in range(self.times):
            rows = rng.integers(n, size=n)
            errors, uncertainty = self.errors[rows], self.uncertainty[rows]
            values.append((roc_auc_score(errors, uncertainty), self.aurc(errors, uncertainty)))
        return np.array(values)


def rounds_of(
    contenders: dict[str, Callable[[], Any]], rounds: int, scale: dict[str, float]
) -> dict[str, Any]:
    """Return median seconds, and the median ratio to ours within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):  # the first warms up
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append((time.perf_counter() - start) * scale.get(name, 1.0))
    return {
        name: {
            "seconds": statistics.median(values),
            "ratio": statistics.median(np.divide(values, seconds[OURS])),
        }
        for name, values in seconds.items()
    }


def bootstrap(n: int, rate: float, n_resamples: int, few: int, rounds: int) -> dict[str, Any]:
    errors, uncertainty = problem(n, rate)

    def ours(times: int = n_resamples) -> dict[str, np.ndarray]:
        return bootstrap_replicates(errors, uncertainty, BOTH, n_resamples=times, random_state=0)

    peers = {
        "scikit-learn, AURC in numpy": Resampling(aurc_in_numpy, errors, uncertainty, few),
        "scikit-learn, AURC in a loop": Resampling(aurc_in_a_loop, errors, uncertainty, few),
    }
    replicates = ours()
    spread = replicates["AURC"].std()
    for name, peer in peers.items():
        values = peer()  # the same seed draws the same rows
        apart = np.abs(values - np.column_stack([replicates[m][:few] for m in BOTH])).max(axis=0)
        assert apart[0] < 1e-12, f"{name}: ROC-AUC differs by {apart[0]}"
        assert apart[1] < 0.01 * spread, f"{name}: AURC differs by {apart[1]}, spread {spread}"
    timed = rounds_of({OURS: ours, **peers}, rounds, dict.fromkeys(peers, n_resamples / few))
    case = f"{n_resamples} resamples of {n} rows, {rate:.0%} errors"
    return {"case": case, "peer_resamples_run": few, "results": timed}


def one_value(n: int, rate: float, rounds: int) -> dict[str, Any]:
    errors, uncertainty = problem(n, rate)
    risks = np.cumsum(errors[np.argsort(uncertainty)]) / np.arange(1, n + 1)
    np.testing.assert_allclose(aurc_score(errors, uncertainty), math.fsum(risks) / n, rtol=1e-11)
    timed = rounds_of(
        {
            OURS: lambda: aurc_score(errors, uncertainty),
            "argsort": lambda: np.argsort(uncertainty),
            "sort": lambda: np.sort(uncertainty),
        },
        rounds,
        {},
    )
    return {"case": f"AURC of {n} rows, {rate:.0%} errors", "results": timed}


def table(result: dict[str, Any]) -> str:
    lines = [f"| {result['case']} | seconds | times ours |", "|---|---|---|"]
    for name, row in result["results"].items():
        lines.append(f"| {name} | {row['seconds']:.3g} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and resamples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cut = 10 if args.quick else 1
    results = []
    for rate in (0.1, 0.4):
        results.append(bootstrap(100_000 // cut, rate, 1000 // cut, 5, args.rounds))
        print(table(results[-1]), end="\n\n", flush=True)
    for rate in (0.1, 0.4):
        results.append(one_value(1_000_000 // cut, rate, 4 * args.rounds))
        print(table(results[-1]), end="\n\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

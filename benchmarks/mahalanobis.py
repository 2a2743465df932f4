"""Mahalanobis: ours, pytorch-ood and scikit-learn on the same arrays, against the bare products.

    pip install --no-deps pytorch-ood==0.4.0
    python benchmarks/mahalanobis.py [--quick] [--large] [--json FILE]

Every contender fits class means and one covariance on n rows and scores fresh rows by the squared
distance to the nearest mean. Before anything is timed, all must rank the fresh rows alike. The
floor is what no implementation in that dtype can do without: for the fit one product ``X' X`` in
float64 and its Cholesky factor; for scoring one product of the rows with a
d x d matrix and one with the C means, in float32. Features are random with a decaying spectrum;
seconds are medians of interleaved rounds. scikit-learn's LDA (the same Gaussians; the nearest
classes must agree) and QDA (a covariance a class, shrunk) are timed too; they give no distances.
Memory is what fit and scores add to a fresh process at most (Linux).
--large leaves out scikit-learn's distances and QDA, which take half an hour a round there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_ood.detector import Mahalanobis
from scipy.stats import spearmanr
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from timing import added_memory, in_fresh_process, medians

from adue_sklearn import MahalanobisScorer

CASES = {"11k x 768, C=20": (11_000, 768, 20, 7_500), "67k x 768, C=2": (67_000, 768, 2, 7_500)}
LARGE = {"20k x 4096, C=77": (20_000, 4_096, 77, 7_500)}
CONTENDERS = ("adue_sklearn", "pytorch-ood", "scikit-learn", "LDA", "QDA", "floor")
QUICK = {"2k x 256, C=20": (2_000, 256, 20, 1_500)}


class ScikitLearn:
    """A tied covariance and a call a class, from scikit-learn's parts."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> ScikitLearn:
        self.means = np.stack([X[y == c].mean(axis=0) for c in range(y.max() + 1)])
        self.covariance = EmpiricalCovariance(assume_centered=True).fit(X - self.means[y])
        return self

    def score(self, X: np.ndarray) -> np.ndarray:
        return np.min([self.covariance.mahalanobis(X - mean) for mean in self.means], axis=0)


def features(n: int, d: int, n_classes: int, n_fresh: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    spectrum = np.geomspace(1.0, 0.03, d)
    means = rng.normal(size=(n_classes, d)) * spectrum

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, count - n_classes)])
        return (means[y] + rng.normal(size=(count, d)) * spectrum).astype(np.float32), y

    X, y = rows(n)
    return X, y, rows(n_fresh)[0]


def run(name: str, shape: tuple[int, int, int, int], rounds: int) -> dict[str, Any]:
    X, y, fresh = features(*shape)
    X_t, y_t, fresh_t = torch.tensor(X), torch.tensor(y), torch.tensor(fresh)
    # Ours is given a head, as users do: fitting one is no part of this benchmark.
    W = np.stack([X[y == c].mean(axis=0) for c in range(shape[2])])
    priors = np.full(shape[2], 1.0 / shape[2])
    fits: dict[str, Callable[[], Any]] = {
        "adue_sklearn": lambda: MahalanobisScorer(shrinkage=0.0, device="cpu").fit(X, y, W),
        "pytorch-ood": lambda: Mahalanobis(None).fit_features(X_t, y_t),
        "LDA": lambda: LinearDiscriminantAnalysis(solver="lsqr", priors=priors).fit(X, y),
    }
    if name not in LARGE:
        fits["scikit-learn"] = lambda: ScikitLearn().fit(X, y)
        fits["QDA"] = lambda: QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(X, y)
    fitted = {contender: fit() for contender, fit in fits.items()}
    scores: dict[str, Callable[[], Any]] = {
        "adue_sklearn": lambda: fitted["adue_sklearn"].predict_uncertainty(fresh),
        "pytorch-ood": lambda: fitted["pytorch-ood"].predict_features(fresh_t),
        "LDA": lambda: fitted["LDA"].decision_function(fresh),
    }
    if name not in LARGE:
        scores["scikit-learn"] = lambda: fitted["scikit-learn"].score(fresh)
        scores["QDA"] = lambda: fitted["QDA"].decision_function(fresh)

    expected = scores["adue_sklearn"]()
    for other in scores.keys() - {"adue_sklearn", "LDA", "QDA"}:
        assert spearmanr(expected, np.asarray(scores[other]())).statistic > 0.999, other
    whitening = torch.tensor(fitted["adue_sklearn"]._whitening, dtype=torch.float32)
    anchors = torch.tensor(fitted["adue_sklearn"].location_, dtype=torch.float32) @ whitening
    nearest = torch.cdist(fresh_t @ whitening, anchors).argmin(dim=1).numpy()
    assert np.mean(fitted["LDA"].predict(fresh) == nearest) > 0.999, "classes disagree"

    def fit_floor() -> None:
        rows = X_t.double()
        torch.linalg.cholesky(rows.T @ rows)

    fits["floor"] = fit_floor
    scores["floor"] = lambda: (fresh_t @ whitening) @ anchors.T
    fit, score = (
        medians(steps, rounds=rounds, warm_up=name not in LARGE) for steps in (fits, scores)
    )
    mib = {peer: in_fresh_process(memory, shape, peer) for peer in ("adue_sklearn", "pytorch-ood")}
    return {"case": name, "fit": fit, "score": score, "MiB": mib}


def memory(shape: tuple[int, int, int, int], contender: str) -> float:
    X, y, fresh = features(*shape)
    W = np.stack([X[y == c].mean(axis=0) for c in range(shape[2])])
    X_t, y_t, fresh_t = torch.tensor(X), torch.tensor(y), torch.tensor(fresh)

    def ours() -> None:
        scorer = MahalanobisScorer(shrinkage=0.0, device="cpu").fit(X, y, W)
        scorer.predict_uncertainty(fresh)

    def theirs() -> None:
        Mahalanobis(None).fit_features(X_t, y_t).predict_features(fresh_t)

    return added_memory(ours if contender == "adue_sklearn" else theirs)


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| case | step | " + " | ".join(CONTENDERS) + " |", "|---" * 8 + "|"]
    for result in results:
        for step in ("fit", "score"):
            seconds = result[step]
            ours = seconds["adue_sklearn"]
            cells = [
                f"{seconds[name]:.3f} s ({seconds[name] / ours:.1f}x)" if name in seconds else ""
                for name in CONTENDERS
            ]
            lines.append(f"| {result['case']} | {step} | " + " | ".join(cells) + " |")
        cells = [f"{result['MiB'][n]:.0f}" if n in result["MiB"] else "" for n in CONTENDERS]
        lines.append(f"| {result['case']} | MiB | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case")
    parser.add_argument("--large", action="store_true", help="20k x 4096 with 77 classes as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cases = QUICK if args.quick else CASES | (LARGE if args.large else {})
    results = []
    for name, shape in cases.items():
        results.append(run(name, shape, args.rounds))
        print(table(results[-1:]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

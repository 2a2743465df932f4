"""Every score on features of real LoRA classifiers, the test rows looked at once.

    python benchmarks/comparison.py --data PATH/features --json FILE

reads every ``NAME.safetensors`` in the folder (``{train,calibration,test}.{features,labels}``,
``W``, ``b``). Scores that describe training rows are fitted on these, what learns from errors on
the calibration rows, with default settings all; the automatic choice also gets Mahalanobis, k-NN
and last-layer Laplace of the training rows. Prints a Markdown table of 100 x ROC-AUC of error
detection on the test rows with 95 % intervals (DeLong), bold where the paired difference to softmax
response is beyond chance after Holm's adjustment within a set. Settings are to be chosen on the
calibration rows alone: ``--validate`` fits on one half of these and judges on the other, without
test rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy.stats import rankdata
from sklearn.frozen import FrozenEstimator

from adue_sklearn import (
    AutoScorer,
    KNNScorer,
    LastLayerLaplaceScorer,
    MahalanobisScorer,
    compare_scorers,
)
from adue_sklearn.comparison import Comparison, default_scorers

AUTO = AutoScorer.card.name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--validate", action="store_true", help="leave the test rows alone")
    args = parser.parse_args()
    found, facts = {}, {}
    for path in sorted(args.data.glob("*.safetensors")):
        found[path.stem], facts[path.stem] = compare(load_file(path), validate=args.validate)
        print(f"<!-- {path.stem}: {facts[path.stem]} -->", flush=True)
    print(table(found, facts))
    for name, comparison in found.items():
        print(f"\n{name}: {comparison.verdict}")
    if args.json is not None:
        written = {name: one.to_dict() | facts[name] for name, one in found.items()}
        args.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def compare(arrays: dict[str, Any], *, validate: bool) -> tuple[Comparison, dict[str, Any]]:
    """Return all scores on the test rows, and what the automatic choice was."""
    parts = ["train", "calibration"] + ["test"] * (not validate)
    train, calibration, *test = (
        (arrays[f"{part}.features"], arrays[f"{part}.labels"]) for part in parts
    )
    head = (arrays["W"], arrays["b"])
    if validate:
        half = np.random.default_rng(0).permutation(len(calibration[1])) < len(calibration[1]) // 2
        test = [(calibration[0][~half], calibration[1][~half])]
        calibration = (calibration[0][half], calibration[1][half])
    known = [
        (kind.card.name, FrozenEstimator(kind().fit(*train, *head)))
        for kind in (MahalanobisScorer, KNNScorer, LastLayerLaplaceScorer)
    ]
    start = time.perf_counter()
    auto = AutoScorer(frozen=known).fit(*calibration, *head)
    seconds = time.perf_counter() - start
    comparison = compare_scorers(
        *calibration,
        *head,
        scorers=[*default_scorers(), (AUTO, FrozenEstimator(auto))],
        X_train=train[0],
        y_train=train[1],
        X_test=test[0][0],
        y_test=test[0][1],
    )
    return comparison, {"selected": auto.selected_, "auto_seconds": round(seconds, 2)}


def table(found: dict[str, Comparison], facts: dict[str, Any]) -> str:
    """Return one row a score: ROC-AUC a set, mean rank, mean gain, mean seconds of a fit."""
    names = [result.name for result in next(iter(found.values())).results]
    measured = [n for n in names if not any(one[n].failure for one in found.values())]
    values = np.array(
        [[one[n].metrics["roc_auc"].value for n in measured] for one in found.values()]
    )
    ranks = rankdata(-values.round(6), axis=1).mean(axis=0)
    reference = values[:, measured.index("softmax response")]
    gains = 100 * (values - reference[:, None])
    heads = [f"{n} ({one.n_errors} errors)" for n, one in found.items()]
    lines = ["| score | " + " | ".join(heads) + " | mean rank | mean gain | worst gain | seconds |"]
    lines.append("|---" * (len(found) + 5) + "|")
    for column in np.argsort(ranks):
        name = measured[column]
        seconds = [
            facts[key]["auto_seconds"] if name == AUTO else one[name].fit_seconds
            for key, one in found.items()
        ]
        cells = [cell(one, name) for one in found.values()]
        cells += [f"{ranks[column]:.1f}", f"{gains[:, column].mean():+.2f}"]
        cells += [f"{gains[:, column].min():+.2f}", f"{np.mean(seconds):.1f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        f"| {name} | failed: {next(o[name].failure for o in found.values() if o[name].failure)} |"
        for name in names
        if name not in measured
    ]
    return "\n".join(lines)


def cell(comparison: Comparison, name: str) -> str:
    result = comparison[name]
    value, low, high = (100 * v for v in result.metrics["roc_auc"])
    decided = result.beats_reference or result.loses_to_reference
    text = f"{value:.1f}"
    return f"{f'**{text}**' if decided else text} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()

"""AdUE beside softmax response and Mahalanobis on features of real LoRA classifiers.

    python benchmarks/real_data.py --data PATH/features

reads every ``NAME.safetensors`` in the folder (``{train,calibration,test}.{features,labels}``,
``W``, ``b``). AdUE is tuned by cross-validation and fitted on the calibration rows, Mahalanobis
is fitted on the training rows, all are evaluated once on the test rows. Prints a Markdown table of
100 x ROC-AUC of error detection with paired 95 % intervals (DeLong) for AdUE minus softmax
response.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from safetensors.numpy import load_file

from adue_sklearn import AdUESearchCV, MahalanobisScorer, SoftmaxResponseScorer
from adue_sklearn.metrics import error_roc_auc_difference, error_roc_auc_score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    print("| set | errors | SR | Mahalanobis | AdUE | AdUE - SR (95 %) | chosen | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(args.data.glob("*.safetensors")):
        print(row(path), flush=True)


def row(path: Path) -> str:
    arrays = load_file(path)
    train, calibration, test = (
        (arrays[f"{part}.features"], arrays[f"{part}.labels"])
        for part in ("train", "calibration", "test")
    )
    head = (arrays["W"], arrays["b"])
    start = time.perf_counter()
    search = AdUESearchCV().fit(*calibration, *head)
    seconds = time.perf_counter() - start
    response = SoftmaxResponseScorer().fit(*calibration, *head)
    distance = MahalanobisScorer().fit(*train, *head)

    X, y = test
    errors = response.errors(X, y)
    scores = [
        scorer.predict_uncertainty(X) for scorer in (response, distance, search.best_estimator_)
    ]
    sr, mahalanobis, adue = (100 * error_roc_auc_score(errors, score) for score in scores)
    gain = [100 * v for v in error_roc_auc_difference(errors, scores[2], scores[0])]
    chosen = ", ".join(f"{k}={v:g}" for k, v in search.best_params_.items())
    return (
        f"| {path.stem} | {errors.mean():.1%} | {sr:.1f} | {mahalanobis:.1f} | {adue:.1f} "
        f"| {gain[0]:+.2f} [{gain[1]:+.2f}, {gain[2]:+.2f}] | {chosen} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()

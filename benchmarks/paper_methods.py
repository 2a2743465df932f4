"""Every method of `reproduce.py` on the feature stores of one run, each kept on disk when done."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from adam_grid import SCALE, LinearHead, best_of_grid
from lora_training import write_json
from safetensors.numpy import load_file, save_file
from sklearn.model_selection import GridSearchCV

from adue_sklearn import AdUEEstimator, AdUESearchCV, MahalanobisScorer, SoftmaxResponseScorer
from adue_sklearn.adue.objective import adue_score
from adue_sklearn.features import FeatureStore
from adue_sklearn.metrics import error_roc_auc_score
from adue_sklearn.model_selection import error_stratified_folds

SOFTMAX_RESPONSE = "softmax response"
ERRORS = "errors.safetensors"


class Rows(NamedTuple):
    """Features and labels of one or more stores."""

    X: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, *stores: FeatureStore) -> Rows:
        features = np.concatenate([store.features for store in stores])
        return cls(features, np.concatenate([store.labels for store in stores]))


class Case(NamedTuple):
    """One run: its head, and its rows by what the LoRA training did with them.

    ``train`` it was fitted on, ``held_out`` it has not seen, ``validation`` has chosen its epoch.
    """

    init_W: Any
    init_b: Any
    activation: str | None
    train: Rows
    held_out: Rows
    validation: Rows
    calibration: Rows
    test: Rows

    @classmethod
    def of(cls, stores: dict[str, FeatureStore]) -> Case:
        test = stores["test"]
        rows = {name: Rows.of(store) for name, store in stores.items()}
        calibration = Rows.of(stores["held_out"], stores["validation"])
        return cls(test.init_W, test.init_b, test.activation, calibration=calibration, **rows)


class Result(NamedTuple):
    """Uncertainties of the test rows, and facts for the record."""

    scores: np.ndarray
    facts: dict[str, Any]


def methods(settings: dict[str, Any], seed: int) -> dict[str, Callable[[Case], Result]]:
    """Return the methods by name, in the order of the table."""

    def distance(variant: str) -> Callable[[Case], Result]:
        return lambda case: mahalanobis(case, variant)

    def paper(part: str) -> Callable[[Case], Result]:
        return lambda case: paper_grid(case, getattr(case, part), settings["paper_grid"], seed)

    def ours(part: str, measure: str = "smoothmax") -> Callable[[Case], Result]:
        grid = settings["our_grid"] | {"measure": [measure]}
        if measure == "entropy":  # which has no lam
            grid.pop("lam", None)
        return lambda case: cross_validated(case, getattr(case, part), grid, settings["folds"])

    return {
        SOFTMAX_RESPONSE: response,
        "Mahalanobis": distance("class"),
        "Mahalanobis, marginal": distance("marginal"),
        "Mahalanobis, relative": distance("relative"),
        "AdUE, Adam grid, training rows (paper)": paper("train"),
        "AdUE, Adam grid, held-out rows": paper("held_out"),
        "AdUE, L-BFGS, training rows": ours("train"),
        "AdUE, L-BFGS, calibration rows (ours)": ours("calibration"),
        "AdUE by entropy, L-BFGS, calibration rows": ours("calibration", measure="entropy"),
    }


def response(case: Case) -> Result:
    return Result(_original(case).predict_uncertainty(case.test.X), {})


def _original(case: Case) -> SoftmaxResponseScorer:
    scorer = SoftmaxResponseScorer(activation=case.activation)
    return scorer.fit(*case.validation, case.init_W, case.init_b)  # nothing is learned


def mahalanobis(case: Case, variant: str) -> Result:
    scorer = MahalanobisScorer(variant, normalize=True, activation=case.activation)
    scorer.fit(*case.train, case.init_W, case.init_b)
    return Result(scorer.predict_uncertainty(case.test.X), {})


def paper_grid(case: Case, rows: Rows, grid: dict[str, Any], seed: int) -> Result:
    """Train every setting on ``rows`` and choose on the validation rows, as the paper does."""
    if case.activation is not None:
        return paper_grid_of_whole_heads(case, rows, grid, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    X, y = (torch.tensor(part, device=device) for part in rows)
    validation = tuple(torch.tensor(part, device=device) for part in case.validation)
    W, b = (
        None if part is None else torch.tensor(part, dtype=torch.float64, device=device)
        for part in (case.init_W, case.init_b)
    )
    best = best_of_grid(X, y, validation, LinearHead(W, b), grid, seed)
    test = torch.tensor(case.test.X, device=device)
    scores = adue_score(best.head.logits(test), grid["lam"], SCALE).cpu().numpy()
    return Result(scores, {"chosen": best.setting, "selection_roc_auc": best.validation_roc_auc})


def paper_grid_of_whole_heads(case: Case, rows: Rows, grid: dict[str, Any], seed: int) -> Result:
    """Do the same one by one, with the dropout between layers that a stack does not have."""
    names = ("learning_rate", "epochs", "alpha", "beta")
    best: tuple[float, AdUEEstimator, dict[str, float]] | None = None
    for values in product(*(grid[name] for name in names)):
        setting = dict(zip(names, values, strict=True))
        head = AdUEEstimator(
            **setting,
            lam=grid["lam"],
            batch_size=grid["batch_size"],
            scale=SCALE,
            solver="adam",
            activation=case.activation,
            random_state=seed,
        ).fit(*rows, case.init_W, case.init_b)
        value = head.score(*case.validation)
        if best is None or value > best[0]:
            best = value, head, setting
    value, head, setting = best
    scores = head.predict_uncertainty(case.test.X)
    return Result(scores, {"chosen": setting, "selection_roc_auc": value})


def cross_validated(case: Case, rows: Rows, grid: dict[str, Any], folds: int) -> Result:
    """Choose alpha, beta and lam by cross-validation on ``rows``, and fit on all of them."""
    head = {"init_W": case.init_W, "init_b": case.init_b}
    splits = error_stratified_folds(*rows, **head, activation=case.activation, n_splits=folds)
    if case.activation is None:
        search = AdUESearchCV(grid, cv=splits)
    else:
        search = GridSearchCV(AdUEEstimator(activation=case.activation), grid, cv=splits)
    search.fit(*rows, **head)
    scores = search.best_estimator_.predict_uncertainty(case.test.X)
    return Result(scores, {"chosen": search.best_params_, "selection_roc_auc": search.best_score_})


def run_methods(
    case: Case, folder: Path, settings: dict[str, Any], seed: int
) -> dict[str, dict[str, Any]]:
    """Run what is not on disk yet; return the facts of every method.

    The scores go to ``folder`` beside the facts. A method that cannot be fitted, such as one that
    needs errors where there are none, is recorded with its reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = _original(case).errors(*case.test)
    save_file({"errors": errors}, folder / ERRORS)
    facts = {}
    for name, method in methods(settings, seed).items():
        file = folder / f"{slug(name)}.json"
        if not file.exists():
            write_json(file, _run(name, method, case, errors, folder))
        facts[name] = json.loads(file.read_text())
    return facts


def _run(
    name: str,
    method: Callable[[Case], Result],
    case: Case,
    errors: np.ndarray,
    folder: Path,
) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # Rows with few errors are what is measured here; the record has their number.
            warnings.simplefilter("ignore", UserWarning)
            scores, facts = method(case)
    except ValueError as error:
        print(f"  {name}: not fitted: {error}", flush=True)
        return {"failed": str(error)}
    seconds = time.perf_counter() - start
    save_file({"scores": scores}, folder / f"{slug(name)}.safetensors")
    roc_auc = error_roc_auc_score(errors, scores)
    print(f"  {name}: {100 * roc_auc:.2f}, {seconds:.1f} s", flush=True)
    return {"roc_auc": roc_auc, "seconds": seconds, **facts}


def count_errors(case: Case) -> dict[str, dict[str, int]]:
    """Return number of rows and of errors of each part."""
    scorer = _original(case)
    return {
        part: {
            "rows": len(getattr(case, part).y),
            "errors": int(scorer.errors(*getattr(case, part)).sum()),
        }
        for part in ("train", "held_out", "validation", "calibration", "test")
    }


def load_scores(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the scores that `run_methods` has left, of the methods that could be fitted."""
    files = {name: folder / f"{slug(name)}.safetensors" for name in names}
    return {name: load_file(file)["scores"] for name, file in files.items() if file.exists()}


def slug(name: str) -> str:
    kept = "".join(character if character.isalnum() else " " for character in name)
    return "-".join(kept.lower().split())

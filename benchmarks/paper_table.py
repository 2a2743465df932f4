"""The table of `reproduce.py`: mean, spread over seeds and rank, and paired intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paper_methods import ERRORS, SOFTMAX_RESPONSE, load_scores
from safetensors.numpy import load_file
from scipy.stats import norm, rankdata

RESULTS = "results.json"


class Run(NamedTuple):
    """One seed: its results, errors on the test rows, and each method's scores of them."""

    results: dict[str, Any]
    errors: np.ndarray
    scores: dict[str, np.ndarray]


def read_runs(out: Path) -> dict[str, list[Run]]:
    """Return the finished runs under ``out``, seeds together."""
    groups: dict[str, list[Run]] = {}
    for file in sorted(out.rglob(RESULTS)):
        results = json.loads(file.read_text())
        folder = file.parent / "methods"
        errors = load_file(folder / ERRORS)["errors"]
        run = Run(results, errors, load_scores(folder, results["methods"]))
        groups.setdefault(results["group"], []).append(run)
    return groups


def summarise(groups: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return what the table shows, as JSON."""
    summary = {name: summarise_group(runs) for name, runs in groups.items()}
    return {"groups": summary, "mean_rank": mean_ranks(summary)}


def summarise_group(runs: Sequence[Run]) -> dict[str, Any]:
    """Return mean, std, rank and gain over softmax response of every method of one group."""
    names = list(runs[0].results["methods"])
    methods: dict[str, dict[str, Any]] = {}
    for name in names:
        fitted = [run for run in runs if name in run.scores]
        values = [100 * run.results["methods"][name]["roc_auc"] for run in fitted]
        methods[name] = {
            "seeds": len(values),
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        if fitted and name != SOFTMAX_RESPONSE:
            gain = pooled_difference(
                [(run.errors, run.scores[name], run.scores[SOFTMAX_RESPONSE]) for run in fitted]
            )
            methods[name]["gain"] = [100 * value for value in gain]
    for name, rank in ranks(methods, len(runs)).items():
        methods[name]["rank"] = rank
    parts = runs[0].results["parts"]
    return {
        "seeds": [run.results["seed"] for run in runs],
        "error_rates": {
            part: float(
                np.mean(
                    [
                        run.results["parts"][part]["errors"] / run.results["parts"][part]["rows"]
                        for run in runs
                    ]
                )
            )
            for part in parts
        },
        "rows": {part: parts[part]["rows"] for part in parts},
        "methods": methods,
    }


def ranks(methods: Mapping[str, Mapping[str, Any]], n_seeds: int) -> dict[str, float]:
    """Return ranks by mean, 1 for the highest; only of methods that every seed could be given."""
    complete = [name for name, method in methods.items() if method["seeds"] == n_seeds]
    order = rankdata([-methods[name]["mean"] for name in complete])
    return {name: float(rank) for name, rank in zip(complete, order, strict=True)}


def mean_ranks(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean rank over groups, of methods that have one in each."""
    found: dict[str, list[float]] = {}
    for group in summary.values():
        for name, method in group["methods"].items():
            if "rank" in method:
                found.setdefault(name, []).append(method["rank"])
    return {
        name: float(np.mean(values))
        for name, values in found.items()
        if len(values) == len(summary)
    }


def pooled_difference(
    cases: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean over seeds of ROC-AUC minus a reference's, with a paired interval.

    Each case is ``errors, score, reference`` on the same test rows. Seeds share these rows, so a
    row's contributions to DeLong's variance are added up over seeds before they are squared
    (Obuchowski, Biometrics 53, 1997). Of one seed this is DeLong's interval. It is about other
    test rows, for these trainings; how trainings differ is the std beside it.
    """
    parts = [_contributions(*case) for case in cases]
    value = float(np.mean([value for value, _ in parts]))
    variance = np.square(np.mean([rows for _, rows in parts], axis=0)).sum()
    half = float(norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return value, value - half, value + half


def _contributions(
    errors: np.ndarray, score: np.ndarray, reference: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return a difference of ROC-AUCs and every row's part (n,) in its deviation."""
    placements = _placements(errors, score) - _placements(errors, reference)
    rows = np.empty(len(errors))
    for flag in (errors, ~errors):
        count = flag.sum()
        rows[flag] = (placements[flag] - placements[flag].mean()) / np.sqrt(count * (count - 1))
    return float(placements[errors].mean()), rows


def _placements(errors: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the share of rows of the other kind that each row is on the right side of (n,)."""
    all_ranks = rankdata(score)
    shares = np.empty(len(score))
    for flag, sign in ((errors, 1), (~errors, -1)):
        below = (all_ranks[flag] - rankdata(score[flag])) / (~flag).sum()
        shares[flag] = below if sign > 0 else 1 - below
    return shares


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the tables: runs, means with ranks, gains over softmax response."""
    groups = summary["groups"]
    names = list(dict.fromkeys(name for group in groups.values() for name in group["methods"]))
    head = "| | " + " | ".join(groups) + " |"
    rule = "|---" * (len(groups) + 1) + "|"
    runs = [
        "| set | seeds | errors on: LoRA's training rows | calibration rows | test rows |",
        "|---|---|---|---|---|",
        *(_run_line(name, group) for name, group in groups.items()),
    ]
    means = [f"{head} mean rank |", f"{rule}---|"]
    for name in names:
        cells = [_mean(name, group) for group in groups.values()]
        rank = summary["mean_rank"].get(name)
        last = "" if rank is None else f"{rank:.1f}"
        means.append(f"| {name} | {' | '.join(cells)} | {last} |")
    gains = [head, rule]
    for name in names:
        if name != SOFTMAX_RESPONSE:
            cells = [_gain(group["methods"].get(name)) for group in groups.values()]
            gains.append(f"| {name} | {' | '.join(cells)} |")
    return "\n\n".join(
        [
            "\n".join(runs),
            "100 x error-ROC-AUC on test rows: mean ± std over seeds (rank).",
            "\n".join(means),
            "Minus softmax response: mean over seeds [95 %, paired], bold where it excludes 0.",
            "\n".join(gains) + "\n",
        ]
    )


def _run_line(name: str, group: Mapping[str, Any]) -> str:
    cells = [
        f"{group['error_rates'][part]:.1%} of {group['rows'][part]:,}"
        for part in ("train", "calibration", "test")
    ]
    seeds = ", ".join(map(str, group["seeds"]))
    return f"| {name} | {seeds} | {' | '.join(cells)} |"


def _mean(name: str, group: Mapping[str, Any]) -> str:
    method = group["methods"].get(name)
    if method is None or method["mean"] is None:
        return "not fitted"
    spread = "" if method["std"] is None else f" ± {method['std']:.1f}"
    fitted = f"{method['seeds']} of {len(group['seeds'])} seeds"
    note = f"{method['rank']:g}" if "rank" in method else fitted
    return f"{method['mean']:.1f}{spread} ({note})"


def _gain(method: Mapping[str, Any] | None) -> str:
    if method is None or "gain" not in method:
        return "not fitted"
    value, low, high = method["gain"]
    text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text

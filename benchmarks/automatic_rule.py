"""Rules for choosing a score automatically, judged on sets that their prior has not seen.

    python benchmarks/automatic_rule.py --scores OUT/scores

reads what ``second_opinions.py scores`` wrote. For every data set, priors are computed from sets of
other texts; the rule sees the gains by cross-validation on the calibration rows, and is judged by
the gain on the test rows. Prints the table of rules, and the priors of all sets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from second_opinions import one_sided

from adue_sklearn.comparison.prior import Gain, Prior, choose
from adue_sklearn.comparison.result import holm

#: What the automatic choice compares: without views, with views that cost no pass, with all.
PLAIN = ("tuned AdUE", "stack", "entropy", "energy", "MaxLogit-pNorm")
POOLS = {
    "features alone": PLAIN,
    "no further pass": (*PLAIN, "AdUE + sidekick", "AdUE + sidekick + layers"),
    "one companion": (*PLAIN, "all"),
}
REFERENCE = "softmax response"
#: Sets of the same texts are left out together.
SAME_TEXTS = {"trec_fine": "trec", "r52": "r8"}
Rule = Callable[[Mapping[str, dict[str, float]], Mapping[str, Prior]], str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scores", type=Path, required=True)
    results = [
        json.loads(path.read_text()) for path in sorted(parser.parse_args().scores.glob("*.json"))
    ]
    print(f"{len(results)} classifiers of {len({r['run']['dataset'] for r in results})} sets\n")
    for pool, names in POOLS.items():
        there = [r for r in results if names[-1] in r["test"]]
        print(f"**{pool}** ({len(there)} classifiers)\n\n{table(there, names)}\n")
    print("Priors of all sets, in points:\n")
    for name in dict.fromkeys(name for names in POOLS.values() for name in names):
        prior = prior_of(results, name)
        print(f"- {name}: {100 * prior.mean:+.2f} (deviation {100 * prior.deviation:.2f})")


def as_gain(row: Mapping[str, float]) -> Gain:
    """Return value and standard error of a paired difference with its 95 % interval."""
    return Gain(row["value"], (row["high"] - row["low"]) / (2 * 1.959964))


def prior_of(results: list[dict[str, Any]], name: str) -> Prior:
    """Return mean and deviation of true gains: all sets and recipes count alike.

    The deviation is what measured gains vary by beyond their standard errors. Weights by precision
    would let the few sets with small errors, and small gains, speak for all.
    """
    groups: dict[tuple[str, str], list[Gain]] = {}
    for result in results:
        if name in result["test"]:
            key = result["run"]["dataset"], result["run"]["recipe"]
            groups.setdefault(key, []).append(as_gain(result["test"][name]))
    means = [np.mean([gain.value for gain in found]) for found in groups.values()]
    noise = [np.mean([gain.error**2 for gain in found]) for found in groups.values()]
    excess = float(np.var(means, ddof=1) - np.mean(noise))
    return Prior(float(np.mean(means)), float(np.sqrt(max(excess, 0.0))))


def table(results: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    """Return a Markdown table of rules and constant choices, judged on sets left out."""
    rules: dict[str, Rule] = {f"always {name}": always(name) for name in names}
    rules |= {
        "significance 5 %": significant,
        "largest gain": largest,
        "expected gain, risk 5 %": expected_gain(names, 0.05),
        "expected gain, risk 10 %": expected_gain(names, 0.10),
        "expected gain, any risk": expected_gain(names, 1.0),
    }
    lines = [
        "| rule | mean gain | worst set | worse | softmax response kept |",
        "|---|---|---|---|---|",
    ]
    lines += [judged(results, names, label, rule) for label, rule in rules.items()]
    return "\n".join(lines)


def judged(results: list[dict[str, Any]], names: tuple[str, ...], label: str, rule: Rule) -> str:
    gains: dict[str, list[float]] = {}
    losses, kept = [], 0
    for left_out in sorted({texts_of(r) for r in results}):
        others = [r for r in results if texts_of(r) != left_out]
        priors = {name: prior_of(others, name) for name in names}
        for result in (r for r in results if texts_of(r) == left_out):
            measured = {n: result["cross-validation"][n] for n in names if n in result["test"]}
            chosen = rule(measured, priors)
            kept += chosen == REFERENCE
            row = result["test"].get(chosen, {"value": 0.0, "p_value": 1.0})
            gains.setdefault(result["run"]["dataset"], []).append(100 * row.get("value", 0.0))
            losses.append(one_sided({"value": 0.0, "p_value": 1.0, **row}, -1))
    means = [np.mean(found) for found in gains.values()]
    worse = int((np.array(holm(losses)) <= 0.05).sum())
    return (
        f"| {label} | {np.mean(means):+.2f} | {min(means):+.2f} | {worse} "
        f"| {kept} of {len(results)} |"
    )


def texts_of(result: Mapping[str, Any]) -> str:
    """Return whose texts these are: some sets share them, under other labels or recipes."""
    name = str(result["run"]["dataset"]).removesuffix("_all").removesuffix("_20epochs")
    return SAME_TEXTS.get(name, name)


def always(name: str) -> Rule:
    return lambda measured, priors: name if name in measured else REFERENCE


def significant(measured: Mapping[str, dict[str, float]], priors: Mapping[str, Prior]) -> str:
    """Return the largest gain among those significant after Holm's adjustment."""
    adjusted = holm([one_sided(row, 1) for row in measured.values()])
    better = [name for name, p in zip(measured, adjusted, strict=True) if p <= 0.05]
    return max(better, key=lambda name: measured[name]["value"], default=REFERENCE)


def largest(measured: Mapping[str, dict[str, float]], priors: Mapping[str, Prior]) -> str:
    """Return the largest gain, if there is one."""
    best = max(measured, key=lambda name: measured[name]["value"])
    return best if measured[best]["value"] > 0 else REFERENCE


def expected_gain(names: tuple[str, ...], risk: float) -> Rule:
    def rule(measured: Mapping[str, dict[str, float]], priors: Mapping[str, Prior]) -> str:
        gains = {name: as_gain(row) for name, row in measured.items()}
        return choose(gains, priors, risk)[0] or REFERENCE

    return rule


if __name__ == "__main__":
    main()

"""The witnesses of rows with views, and those that a fitted score holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from adue_sklearn._utils.views import Views
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.scorers.companions import CompanionScorer, SidekickScorer
from adue_sklearn.scorers.label_probes import LayerProbeScorer
from adue_sklearn.scorers.witness import WitnessScorer

Named = list[tuple[str, Any]]


def witnesses_of(X: Views, *, activation: str | None = None, device: str = "auto") -> Named:
    """Return a scorer for every view, with names; all layers have one.

    Where some of the rows lack a view, softmax response stands for it.
    """
    common: dict[str, Any] = {"activation": activation, "device": device}
    layers = LayerProbeScorer(**common)
    read = layers.view_names(X)
    found: Named = []
    for name in X.names:
        if name in read:
            continue
        witness: Any = CompanionScorer(name, **common)
        if name == "sidekick":
            witness = SidekickScorer(**common)
        if np.isnan(X.block(name)).any():  # as later rows will lack it too
            witness.fallback = "softmax response"
        found.append((name, witness))
    return [*found, (layers.card.name, layers)] if read else found


def witnesses_in(estimator: UncertaintyEstimator) -> Iterator[WitnessScorer]:
    """Yield the fitted witnesses that a fitted score is or holds."""
    if isinstance(estimator, WitnessScorer):
        yield estimator
    for inner in estimator.scores_inside():
        yield from witnesses_in(inner)


def views_read_by(estimator: UncertaintyEstimator) -> list[str]:
    """Return the names of the views that a fitted score reads."""
    return list(
        dict.fromkeys(name for witness in witnesses_in(estimator) for name in witness.views_read)
    )


def use_fallback(estimator: UncertaintyEstimator) -> None:
    """Let softmax response stand for views that rows lack, in a fitted score and those inside."""
    for witness in witnesses_in(estimator):
        witness.fallback = "softmax response"

"""The views that a saved head reads and makes itself: layers, and sidekicks that it holds."""

from __future__ import annotations

from typing import Any

from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.features import ModelViews, TextView
from adue_sklearn.features._store.same import layer_number
from adue_sklearn.persistence.heads import FittedHead
from adue_sklearn.persistence.sidekicks import sidekick_view
from adue_sklearn.scorers import SidekickScorer
from adue_sklearn.scorers.witnesses import views_read_by, witnesses_in


def views_in(head: FittedHead) -> ModelViews:
    """Return what gives those views that need no other model."""
    read = views_read_by(head.estimator)
    facts: dict[str, Any] = head.provenance.get("views") or {}
    pools = [facts[name]["provenance"].get("pool") for name in read if name in facts]
    return ModelViews(
        layers=[number for number in map(layer_number, read) if number is not None],
        pool=next((pool for pool in pools if pool), "mean"),
        texts=sidekicks_in(head.estimator),
    )


def sidekicks_in(estimator: UncertaintyEstimator) -> dict[str, TextView]:
    """Return the text classifiers that a score holds, by the names of their views."""
    return {
        witness.view: sidekick_view(witness)
        for witness in witnesses_in(estimator)
        if isinstance(witness, SidekickScorer) and hasattr(witness, "classifier_")
    }

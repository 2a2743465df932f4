"""The views that a head reads, and what has to be loaded for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adue_sklearn.features import ModelViews
from adue_sklearn.features._model.views import BASE
from adue_sklearn.features._store.same import layer_number
from adue_sklearn.persistence import FittedHead, sidekick_view
from adue_sklearn.scorers import SidekickScorer
from adue_sklearn.scorers.witnesses import views_read_by, witnesses_in


def views_for(head: FittedHead, given: ModelViews | None) -> ModelViews | None:
    """Return what gives every view that a head reads; None if it reads none.

    Layers and sidekicks are known from the head; other models have to be given.

    Raises
    ------
    ValueError
        If another model has to be given for a view, or is given for none.
    """
    given = ModelViews() if given is None else given
    if not isinstance(given, ModelViews):
        raise ValueError(f"views: expected ModelViews(...), got {type(given).__name__}.")
    read = views_read_by(head.estimator)
    facts: dict[str, Any] = head.provenance.get("views") or {}
    numbers = [number for number in map(layer_number, read) if number is not None]
    pools = [facts[name]["provenance"].get("pool") for name in read if name in facts]
    texts = {**sidekicks_in(head), **given.texts}
    known = {*texts, *given.companions, *([BASE] if given.base is not None else [])}
    missing = [name for name in read if layer_number(name) is None and name not in known]
    if missing:
        raise ValueError(
            f"views: the score reads {', '.join(read)}, but nothing gives {', '.join(missing)}. "
            "Pass views=ModelViews(companions={NAME: load_classifier(...)}), base= for the view "
            "'base', or texts={'sidekick': sidekick_view(...)}."
        )
    strange = sorted(known - set(read))
    if strange:
        raise ValueError(
            f"views: the score reads no view {strange[0]!r}; it reads: {', '.join(read) or 'none'}."
        )
    if not read:
        return None
    pool = next((pool for pool in pools if pool), given.pool)
    return replace(given, layers=numbers, pool=pool, texts=texts)


def sidekicks_in(head: FittedHead) -> dict[str, Any]:
    """Return the text classifiers that a head holds, by the names of their views."""
    return {
        witness.view: sidekick_view(witness)
        for witness in witnesses_in(head.estimator)
        if isinstance(witness, SidekickScorer) and hasattr(witness, "classifier_")
    }

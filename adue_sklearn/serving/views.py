"""The views that a head reads, from the head itself and from other models that are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.features import ModelViews
from adue_sklearn.features._model.views import BASE
from adue_sklearn.features._store.same import layer_number
from adue_sklearn.persistence import FittedHead, views_in
from adue_sklearn.scorers.witnesses import views_read_by


def views_for(head: FittedHead, given: ModelViews | None) -> ModelViews | None:
    """Return what gives every view that a head reads; None if it reads none.

    Raises
    ------
    ValueError
        If another model has to be given for a view, or is given for none.
    ModelMismatchError
        If it is another one than that whose view the head was fitted with.
    """
    given = ModelViews() if given is None else given
    if not isinstance(given, ModelViews):
        raise ValueError(f"views: expected ModelViews(...), got {type(given).__name__}.")
    read, own = views_read_by(head.estimator), views_in(head)
    texts = {**own.texts, **given.texts}
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
    _check_companions(head, given)
    if not read:
        return None
    pool = own.pool if head.provenance.get("views") else given.pool
    return replace(given, layers=own.layers, pool=pool, texts=texts)


def _check_companions(head: FittedHead, given: ModelViews) -> None:
    facts: dict[str, Any] = head.provenance.get("views") or {}
    for name, companion in given.companions.items():
        known = facts.get(name, {}).get("provenance", {}).get("adapter_sha256")
        if known not in (None, companion.provenance.get("adapter_sha256")):
            raise ModelMismatchError(
                f"views: the companion {name!r} is another adapter than the one whose view the "
                "score was fitted with; pass that one."
            )

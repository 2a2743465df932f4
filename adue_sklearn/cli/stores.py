"""Feature stores that commands are given, and what is wrong with using them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adue_sklearn.cli.console import say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from adue_sklearn.features import FeatureStore, LoadedClassifier
    from adue_sklearn.persistence import ModelFacts

    IntArray = npt.NDArray[np.int64]


def open_labelled(path: Path) -> FeatureStore:
    """Open a store that has to have labels."""
    from adue_sklearn.features import FeatureStore

    store = FeatureStore.open(path)
    if store.labels is None:
        raise ValueError(f"{path} has no labels; extract it again with --label-column.")
    return store


def facts_of(made: FeatureStore | LoadedClassifier) -> ModelFacts:
    """Return what tells the model of a store, or a loaded one, from others."""
    from adue_sklearn.features import FeatureStore
    from adue_sklearn.persistence import ModelFacts

    if isinstance(made, FeatureStore):
        return ModelFacts.of(made.provenance, made.init_W, made.init_b, made.classes)
    return ModelFacts.of(made.provenance, made.head.init_W, made.head.init_b, made.classes)


def rows_not_in(store: FeatureStore, others: Sequence[FeatureStore | None]) -> IntArray:
    """Return which rows of a store stand in none of the others; say how many do.

    Raises
    ------
    ValueError
        If none remain.
    """
    import numpy as np

    from adue_sklearn._row_digests import row_digests, rows_among

    shared = np.zeros(len(store), dtype=bool)
    there = [other for other in others if other is not None]
    for other in there:
        shared |= rows_among(store.features, row_digests(other.features))
    if shared.any():
        names = " or ".join(str(other.path) for other in there)
        what = f"{int(shared.sum())} of {len(store)} rows in {store.path} stand in {names} too"
        if shared.all():
            raise ValueError(
                f"{what}, so none remain. Scores are fitted and judged on rows that nothing was "
                "trained or fitted on before; extract others."
            )
        say("warning", "yellow", f"{what}. They are left out.")
    return np.flatnonzero(~shared)


def named_labels(store: FeatureStore) -> tuple[Any, dict[str, Any]]:
    """Return labels and the keyword for their classes: by name where the store has names."""
    import numpy as np

    labels = np.asarray(store.labels)
    if not store.classes:
        return labels, {}
    return np.array(store.classes)[labels], {"classes": store.classes}

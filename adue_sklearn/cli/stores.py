"""Feature stores that commands are given, and what is wrong with using them together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adue_sklearn.cli.console import say

if TYPE_CHECKING:
    from adue_sklearn.features import FeatureStore, LoadedClassifier
    from adue_sklearn.persistence import ModelFacts


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


def warn_of_shared_rows(train: FeatureStore, calibration: FeatureStore) -> None:
    """Say how many rows of ``calibration`` stand in ``train`` too."""
    from adue_sklearn.model_selection import count_shared_rows

    shared = count_shared_rows(calibration.features, train.features)
    if shared:
        say(
            "warning",
            "yellow",
            f"{shared} of {len(calibration)} rows in {calibration.path} stand in {train.path} too. "
            "Rows that the model was trained on teach next to nothing about its errors: fit on "
            "rows it has not seen.",
        )

"""Feature stores that commands are given, and what is wrong with using them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adue_sklearn.cli.console import warn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from adue_sklearn.features import FeatureStore, LoadedClassifier
    from adue_sklearn.persistence import FittedHead, ModelFacts

    IntArray = npt.NDArray[np.int64]


def open_labelled(path: Path) -> FeatureStore:
    """Open a store that must have labels."""
    from adue_sklearn.features import FeatureStore

    store = FeatureStore.open(path)
    if store.labels is None:
        raise ValueError(f"{path} has no labels; extract it again with --label-column.")
    return store


def open_beside(
    path: Path | None, store: FeatureStore, *, allow_other_model: bool = False
) -> FeatureStore | None:
    """Open a store that has to have labels and be of the same model; None is not asked for."""
    from adue_sklearn.persistence import check_same_model

    if path is None:
        return None
    other = open_labelled(path)
    check_same_model(facts_of(store), facts_of(other), allow_other_model=allow_other_model)
    return other


def facts_of(made: FeatureStore | LoadedClassifier) -> ModelFacts:
    """Return what tells the model of a store, or a loaded one, from others."""
    from adue_sklearn.persistence import ModelFacts

    return ModelFacts.of(made.provenance, made.head, class_names=made.classes)


def rows_not_in(store: FeatureStore, others: Sequence[FeatureStore | None]) -> IntArray:
    """Return which rows of a store are in none of the others; say how many are.

    Raises
    ------
    ValueError
        If none remain.
    """
    import numpy as np

    from adue_sklearn._utils.row_digests import row_digests, rows_among

    shared = np.zeros(len(store), dtype=bool)
    there = [other for other in others if other is not None]
    for other in there:
        shared |= rows_among(store.features, row_digests(other.features))
    if shared.any():
        names = " or ".join(str(other.path) for other in there)
        what = f"{int(shared.sum())} of {len(store)} rows in {store.path} are also in {names}"
        if shared.all():
            raise ValueError(
                f"{what}, so none remain. Fit and evaluate scores on rows that were not used for "
                "training or fitting before; extract other rows."
            )
        warn(f"{what}. They are left out.")
    return np.flatnonzero(~shared)


def unseen_rows_of(
    X: Any, store: FeatureStore, fitted: FittedHead, head: Path, purpose: str
) -> tuple[IntArray, list[str], bool]:
    """Return the rows that a head was not fitted on, notes, and whether its rows are known.

    ``X`` are the rows of the store as the head takes them.

    Raises
    ------
    ValueError
        If all of them did; ``purpose`` says what they cannot do.
    """
    import numpy as np

    from adue_sklearn._utils.row_digests import rows_among, unseen_rows
    from adue_sklearn.persistence import CHOICE_ROWS

    new = unseen_rows(fitted.estimator, X)
    if new is None:
        warn(
            f"{head} does not record which rows it was fitted on. If rows of {store.path} are "
            "among them, the results are too optimistic and guarantee nothing. save_head(..., "
            "fitted_on=features) records them, and so does 'adue fit'."
        )
        return np.arange(len(store)), [], False
    if not new.any():
        raise ValueError(
            f"All {len(store)} rows of {store.path} were used to fit {head}, so they cannot "
            f"{purpose}. Extract rows that are new to it, or leave some out of the fit: "
            "adue fit STORE --leave-out 0.5 --out HEAD."
        )
    said = []
    if not new.all():
        said.append(
            f"{int((~new).sum())} of {len(store)} rows were used to fit the head; left out."
        )
    chosen = fitted.provenance.get(CHOICE_ROWS)
    compared = rows_among(store.features, chosen) if isinstance(chosen, str) else ~new
    n_compared = int((compared & new).sum())
    if n_compared:
        said.append(
            f"'adue fit' compared this score on {n_compared} of these rows. If you chose the score "
            "for its result there, the results here are too optimistic and guarantee nothing: use "
            "other rows."
        )
    return np.flatnonzero(new), said, True


def named_labels(store: FeatureStore) -> tuple[Any, dict[str, Any]]:
    """Return labels and the keyword for their classes: by name where the store has names."""
    import numpy as np

    labels = np.asarray(store.labels)
    if not store.classes:
        return labels, {}
    return np.array(store.classes)[labels], {"classes": store.classes}

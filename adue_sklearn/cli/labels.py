"""Labels of a file, checked against the classes before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_labels(
    labels: list[Any] | None,
    source: str,
    names: list[str] | None,
    model: str,
    base: str | None,
    *,
    rows: Sequence[int] | None = None,
) -> None:
    """Raise if a label is not one of the classes; ``names`` are those of ``--classes``, if given.

    ``rows`` are those, from 0, whose labels count; None for all.
    """
    from adue_sklearn.features._model.labels import label_rows
    from adue_sklearn.features._model.loading import read_classes

    if labels is None:
        return
    known, n_classes = read_classes(model, base_model=base)
    if n_classes < 2 or (names is not None and len(names) != n_classes):
        return  # loading the model reports this
    label_rows(
        labels,
        len(labels),
        names or known,
        n_classes,
        rows=rows,
        name=f"{source}, labels",
        first_row=1,
    )

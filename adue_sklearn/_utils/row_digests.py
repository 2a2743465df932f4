"""Digests of the rows that something was fitted on, sixteen bytes per row.

The same text, extracted again in another batch, has features that differ in their last bits. So
rows are identified by their length and three projections of their direction, up to a tolerance.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.validation import warn

#: A hundred times the rounding of float32 arithmetic; different texts are farther apart.
_TOLERANCE = 1e-4
_PROJECTIONS = 3
#: So many rows at a time in float64.
_BLOCK = 8192
#: Attribute of an estimator that keeps digests of the rows it was fitted on.
FITTED_ON = "_fitted_on"


def _readable(digests: str) -> str:
    if digests:
        _read(digests)
    return digests


#: Digests in a document; an empty text where they were not kept.
Digests = Annotated[str, AfterValidator(_readable)]


def row_digests(features: npt.NDArray[Any]) -> str:
    """Return digests of finite rows as text; the order of the rows does not matter."""
    digests = np.unique(_digests(features).astype("<f4"), axis=0)
    return base64.b64encode(digests.tobytes()).decode("ascii")


def rows_among(features: npt.NDArray[Any], digests: str) -> npt.NDArray[np.bool_]:
    """Return which finite rows have, up to rounding, a digest that is among ``digests``."""
    try:
        known = _read(digests)
    except ValueError as error:
        raise ValueError(f"digests of rows cannot be read; expected {error}.") from error
    rows = _digests(features)
    if not len(known) or not len(rows):
        return np.zeros(len(rows), dtype=bool)
    distances, _ = KDTree(known).query(rows, p=np.inf)
    return np.asarray(distances <= _TOLERANCE)


def _read(digests: str) -> npt.NDArray[np.float64]:
    try:
        content = np.frombuffer(base64.b64decode(digests, validate=True), dtype="<f4")
        known = content.reshape(-1, 1 + _PROJECTIONS).astype(np.float64)
    except ValueError as error:
        raise ValueError(f"digests of rows as they were saved ({error})") from error
    if not np.isfinite(known).all():
        raise ValueError("digests of rows as they were saved, which are finite")
    return known


def row_groups(features: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return a number for each finite row, the same for copies, in the order of first copies."""
    blocks = [features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK)]
    digests = np.concatenate([np.empty((0, 1 + _PROJECTIONS)), *map(_digests, blocks)])
    # Rows of a cell are alike; looking at one of each keeps thousands of copies cheap.
    _, first, cell_of = np.unique(
        np.round(digests / _TOLERANCE), axis=0, return_index=True, return_inverse=True
    )
    pairs = KDTree(digests[first]).query_pairs(_TOLERANCE, p=np.inf, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(first), len(first)))
    groups = connected_components(links, directed=False)[1][cell_of]
    _, first_row, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_row))[numbers]


def unseen_rows(estimator: Any, X: Any) -> npt.NDArray[np.bool_] | None:
    """Return which rows an estimator was not fitted on; None if it does not know.

    It knows if it was loaded from a head that records the rows, or if it has learned nothing.
    """
    if estimator.card.needs == "head":
        return np.ones(len(X), dtype=bool)
    taught = taught_rows(estimator, X)
    if estimator.card.needs == "second view":
        return ~taught
    digests = vars(estimator).get(FITTED_ON)
    return None if digests is None else ~(taught | rows_among(as_numpy(X), digests))


def taught_rows(scorer: Any, X: Any) -> npt.NDArray[np.bool_]:
    """Return which rows second opinions were taught that a scorer is or holds, fitted or not."""
    taught = np.zeros(len(X), dtype=bool)
    for part in _parts(scorer):
        if hasattr(part, "seen_rows"):
            taught |= part.seen_rows(X)
    return taught


def _parts(scorer: Any) -> Iterator[Any]:
    """Yield a scorer and what it holds: parameters, and fitted scores inside."""
    yield scorer
    if hasattr(scorer, "get_params") and not isinstance(scorer, type):
        yield from scorer.get_params(deep=True).values()
    if hasattr(scorer, "scores_inside"):
        for inner in scorer.scores_inside():
            yield from _parts(inner)


def rows_new_to(estimator: Any, X: Any, *, name: str = "X") -> npt.NDArray[np.int64]:
    """Return the numbers of rows that an estimator was not fitted on, as far as it knows.

    Raises
    ------
    ValueError
        If it was fitted on all of them.

    Warns
    -----
    UserWarning
        If it was fitted on some of them.
    """
    new = unseen_rows(estimator, X)
    if new is None:
        new = ~taught_rows(estimator, X)
    if new.all():
        return np.arange(len(X))
    kind = type(estimator).__name__
    what = f"{name}: {int((~new).sum())} of {len(new)} rows were used to fit the {kind}"
    if not new.any():
        raise ValueError(f"{what}, so none remain; expected rows that are new to it.")
    warn(f"{what}; they are left out.")
    return np.flatnonzero(new)


def _digests(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the logarithm of each row's length, and its direction along fixed random vectors."""
    rows = np.asarray(features, dtype=np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows = rows / np.where(largest > 0, largest, 1.0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    length = np.where(length > 0, length, 1.0)
    # RandomState's stream is frozen, so that later versions can read what was saved.
    directions = np.random.RandomState(0).standard_normal((rows.shape[1], _PROJECTIONS))
    logarithm = np.log(np.where(largest > 0, largest, 1.0)) + np.log(length)
    return np.hstack([logarithm, rows / length @ directions])

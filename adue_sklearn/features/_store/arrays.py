"""Arrays in memory to the shards of a feature store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.checks import (
    array,
    check_blocks,
    check_count,
    check_digests,
    check_labels,
)
from adue_sklearn.features._store.writer import FeatureStoreWriter


def write_arrays(
    writer: FeatureStoreWriter,
    features: npt.ArrayLike,
    labels: npt.ArrayLike | None,
    ids: npt.ArrayLike | None,
    logits: npt.ArrayLike | None,
    shard_rows: int,
    text_digests: npt.ArrayLike | None = None,
    views: Mapping[str, npt.ArrayLike] | None = None,
) -> None:
    """Check arrays as a whole, then write them in shards."""
    n_classes, n_features = writer.head.n_classes, writer.head.n_features
    X = array("features", features, "f", (None, None))
    y = None if labels is None else array("labels", labels, "i", (len(X),))
    rows = np.arange(len(X)) if ids is None else array("ids", ids, "i", (len(X),))
    check_count("shard_rows", shard_rows)
    if X.shape[1] != n_features:
        raise StoreError(
            f"features: {X.shape[1]} columns, but init_W has {n_features}; they must be equal."
        )
    Z = writer.head.logits(X, "cpu").numpy() if logits is None else logits
    Z = array("logits", Z, "f", (len(X), n_classes))
    if (y is not None) != writer.labelled:
        has, wanted = ("has", "expected") if writer.labelled else ("has no", "leave out")
        raise StoreError(
            f"labels: '{writer.path}' {has} labels; {wanted} those of further rows too."
        )
    if y is not None:
        check_labels(y, n_classes)
    if text_digests is not None and not writer.text_digests:
        raise StoreError(
            f"text_digests: '{writer.path}' holds no digests of its texts; leave out those of "
            "further rows too."
        )
    digests = check_digests(text_digests, len(X), writer.path) if writer.text_digests else None
    blocks = check_blocks(views, writer.views, len(X), writer.path)
    with writer:
        if ids is None:
            rows = rows + writer.first_id_for(len(X))
        for start in range(0, len(X), shard_rows):
            part = slice(start, start + shard_rows)
            writer.write_shard(
                X[part],
                Z[part],
                None if y is None else y[part],
                rows[part],
                text_digests=None if digests is None else digests[part],
                views={name: block[part] for name, block in blocks.items()},
            )

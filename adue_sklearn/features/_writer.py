"""Writing a feature store, shard by shard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from adue_sklearn.features._checks import array, check_classes, check_labels
from adue_sklearn.features._files import StoreError, write_atomically, write_tensors

MANIFEST = "manifest.json"
HEAD = "head.safetensors"
FORMAT = "adue-feature-store"
FORMAT_VERSION = 1

FloatArray = npt.NDArray[np.float32]


class FeatureStoreWriter:
    """Writes a new store shard by shard; the manifest last, when the ``with`` block ends well.

    When the block ends in an exception the shards written so far stay, without a manifest, so the
    directory is not mistaken for a store.

    Parameters
    ----------
    path : path-like
        The directory to make; it may exist if it is empty.
    init_W : array-like of shape (C, d)
        Weights of the head's last linear layer.
    init_b : array-like of shape (C,), optional
        Its bias.
    classes : sequence of str, optional
        Class names in the order of the head's rows.
    labelled : bool
        Whether every shard brings labels.
    provenance : mapping, optional
        Facts about the origin, anything JSON can hold. The attribute of that name may be changed
        until the block ends.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        init_W: npt.ArrayLike,
        init_b: npt.ArrayLike | None = None,
        classes: Sequence[str] | None = None,
        labelled: bool,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.init_W: FloatArray = array("init_W", init_W, "f", (None, None))
        self.init_b: FloatArray | None = (
            None if init_b is None else array("init_b", init_b, "f", (len(self.init_W),))
        )
        self.classes = check_classes(classes, len(self.init_W))
        self.labelled = labelled
        self.provenance: dict[str, Any] = dict(provenance or {})
        self._shards: list[dict[str, Any]] = []
        _to_json(self.provenance)  # now, not after hours of extraction

    def __enter__(self) -> Self:
        _make_empty_folder(self.path)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self._finish()

    @property
    def n_rows(self) -> int:
        """Rows written so far."""
        return sum(entry["rows"] for entry in self._shards)

    def write_shard(
        self,
        features: npt.ArrayLike,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike | None,
        ids: npt.ArrayLike,
    ) -> None:
        """Write the next rows as one file.

        Parameters
        ----------
        features : array-like of shape (n, d)
            What enters the head's last linear layer.
        logits : array-like of shape (n, C)
            The model's logits.
        labels : array-like of shape (n,) of int, or None
            Row numbers of the head; None exactly when the store is unlabelled.
        ids : array-like of shape (n,) of int
            Row numbers in the input.

        Raises
        ------
        StoreError
            Arrays that do not fit together, NaN or inf.
        """
        n_classes, n_features = self.init_W.shape
        X = array("features", features, "f", (None, n_features))
        tensors: dict[str, npt.NDArray[Any]] = {
            "features": X,
            "logits": array("logits", logits, "f", (len(X), n_classes)),
            "ids": array("ids", ids, "i", (len(X),)),
        }
        if self.labelled != (labels is not None):
            raise StoreError(f"labels: this store was opened with labelled={self.labelled}.")
        if labels is not None:
            tensors["labels"] = check_labels(array("labels", labels, "i", (len(X),)), n_classes)
        name = f"shard-{len(self._shards):05d}.safetensors"
        entry = write_tensors(self.path / name, tensors)
        self._shards.append({**entry, "rows": len(X)})

    def _finish(self) -> None:
        if not self._shards:
            raise StoreError(f"No rows were written to '{self.path}'; a store needs at least one.")
        head = {"W": self.init_W} if self.init_b is None else {"W": self.init_W, "b": self.init_b}
        head_entry = write_tensors(self.path / HEAD, head)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "n_rows": self.n_rows,
            "n_features": self.init_W.shape[1],
            "n_classes": self.init_W.shape[0],
            "classes": self.classes,
            "labelled": self.labelled,
            "dtype": "float32",
            "head": {**head_entry, "bias": self.init_b is not None},
            "shards": self._shards,
            "provenance": self.provenance,
        }
        write_atomically(self.path / MANIFEST, _to_json(manifest))


def _make_empty_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"'{folder}' is a file, and a store is a directory. Choose another path.")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        raise StoreError(f"'{folder}' already holds a store. Delete it or choose another path.")
    if any(folder.iterdir()):
        raise StoreError(
            f"'{folder}' is not empty and holds no finished feature store. "
            "Delete it (it may be the rest of an interrupted extraction) or choose another path."
        )


def _to_json(content: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"provenance: only what JSON can hold may be stored ({error}).") from error

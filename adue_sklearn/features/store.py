"""FeatureStore: the features of a text classifier as a directory of safetensors and one manifest.

The directory holds ``shard-00000.safetensors ...`` (``features``, ``logits``, ``ids`` and, when the
rows are labelled, ``labels``), ``head.safetensors`` (``W`` and, when the head has one, ``b``) and
``manifest.json``. Every file is written under a temporary name, flushed to disk and renamed; the
manifest comes last, so a directory with a manifest is complete. Nothing is pickled.

This module needs numpy and safetensors only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn.features._checks import array, check_count, check_labels
from adue_sklearn.features._files import StoreError, check_hash, map_tensors
from adue_sklearn.features._writer import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    FeatureStoreWriter,
    FloatArray,
)

__all__ = ["FeatureStore", "FeatureStoreWriter", "StoreError"]

IntArray = npt.NDArray[np.int64]


class FeatureStore:
    """Features, labels and head of one text classifier over one set of texts, on disk.

    Made by `open` or `create`, or by :func:`adue_sklearn.features.extract_features`. Rows are in
    the order of the input. Arrays are read-only.

    Attributes
    ----------
    path : Path
        The directory.
    n_features, n_classes : int
        Number of features and of classes.
    classes : list of str or None
        Class names in the order of the head's rows.
    provenance : dict
        Where the features come from: model, adapter hash, precision, library versions.
    init_W : ndarray of shape (n_classes, n_features), float32
        Weights of the head's last linear layer.
    init_b : ndarray of shape (n_classes,), float32, or None
        Its bias; None when the layer has none.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from adue_sklearn.features import FeatureStore
    >>> X, W = np.eye(3, 2, dtype=np.float32), np.eye(2, dtype=np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeatureStore.create(folder, features=X, labels=[0, 1, 1], init_W=W)
    ...     print(store)
    ...     store.logits.tolist()
    FeatureStore(n_samples=3, n_features=2, n_classes=2, labelled=True, shards=1)
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest
        self.n_features: int = manifest["n_features"]
        self.n_classes: int = manifest["n_classes"]
        self.classes: list[str] | None = manifest["classes"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self._shards = [self._open_shard(entry) for entry in manifest["shards"]]
        self._columns: dict[str, npt.NDArray[Any]] = {}
        head = self._open_head()
        self.init_W: FloatArray = head["W"]
        self.init_b: FloatArray | None = head.get("b")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FeatureStore:
        """Open a store for reading.

        Reads the manifest, the head (its hash is checked) and each shard's layout, so a missing or
        truncated file is found now; the rows themselves are read by memory map when they are used.
        Call `verify` to check every byte.

        Parameters
        ----------
        path : path-like
            The store's directory.

        Returns
        -------
        FeatureStore

        Raises
        ------
        StoreError
            No store there, a newer format, or a file that is missing or damaged.
        """
        folder = Path(path)
        return cls(folder, _read_manifest(folder))

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        features: npt.ArrayLike,
        init_W: npt.ArrayLike,
        init_b: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        logits: npt.ArrayLike | None = None,
        classes: Sequence[str] | None = None,
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int = 4096,
    ) -> FeatureStore:
        """Write arrays as a new store and open it.

        Parameters
        ----------
        path : path-like
            The directory to make; it may exist if it is empty.
        features : array-like of shape (n, d)
            What enters the head's last linear layer; stored as float32.
        init_W : array-like of shape (C, d)
            Weights of that layer.
        init_b : array-like of shape (C,), optional
            Its bias.
        labels : array-like of shape (n,) of int, optional
            True labels as row numbers of the head; None for an unlabelled store.
        ids : array-like of shape (n,) of int, optional
            Row numbers in the input; 0 to n - 1 by default.
        logits : array-like of shape (n, C), optional
            The model's logits; ``features @ init_W.T + init_b`` by default.
        classes : sequence of str, optional
            Class names in the order of the head's rows.
        provenance : mapping, optional
            Facts about the origin, anything JSON can hold.
        shard_rows : int, default=4096
            Rows a file.

        Returns
        -------
        FeatureStore

        Raises
        ------
        StoreError
            Arrays that do not fit together, NaN or inf, or a directory that is not empty.
        """
        X = array("features", features, "f", (None, None))
        n_rows = len(X)
        y = None if labels is None else array("labels", labels, "i", (n_rows,))
        rows = np.arange(n_rows) if ids is None else array("ids", ids, "i", (n_rows,))
        check_count("shard_rows", shard_rows)
        writer = FeatureStoreWriter(
            path,
            init_W=init_W,
            init_b=init_b,
            classes=classes,
            labelled=y is not None,
            provenance=provenance,
        )
        Z = _logits(X, writer.init_W, writer.init_b) if logits is None else logits
        Z = array("logits", Z, "f", (n_rows, len(writer.init_W)))
        if y is not None:
            check_labels(y, len(writer.init_W))
        with writer:
            for start in range(0, n_rows, shard_rows):
                part = slice(start, start + shard_rows)
                writer.write_shard(X[part], Z[part], None if y is None else y[part], rows[part])
        return cls.open(path)

    @property
    def features(self) -> FloatArray:
        """Array of shape (n, d), float32. One shard: a memory map; several: one copy in memory."""
        return self._column("features")

    @property
    def logits(self) -> FloatArray:
        """Array of shape (n, C), float32: the logits that the model returned."""
        return self._column("logits")

    @property
    def labels(self) -> IntArray | None:
        """Array of shape (n,), int64: row numbers of the head; None in an unlabelled store."""
        return self._column("labels") if self._manifest["labelled"] else None

    @property
    def ids(self) -> IntArray:
        """Array of shape (n,), int64: row numbers in the input."""
        return self._column("ids")

    def verify(self) -> None:
        """Read every file and compare it with its sha256 in the manifest.

        Raises
        ------
        StoreError
            Naming the first file that differs.
        """
        for entry in [self._manifest["head"], *self._manifest["shards"]]:
            check_hash(self.path / entry["file"], entry["sha256"])

    def __len__(self) -> int:
        return int(self._manifest["n_rows"])

    def __repr__(self) -> str:
        return (
            f"FeatureStore(n_samples={len(self)}, n_features={self.n_features}, "
            f"n_classes={self.n_classes}, labelled={self._manifest['labelled']}, "
            f"shards={len(self._shards)})"
        )

    def _column(self, name: str) -> npt.NDArray[Any]:
        if name not in self._columns:
            parts = [shard[name] for shard in self._shards]
            column = parts[0] if len(parts) == 1 else np.concatenate(parts)
            column.flags.writeable = False
            self._columns[name] = column
        return self._columns[name]

    def _open_shard(self, entry: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        n_rows = entry["rows"]
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            "features": ("F32", (n_rows, self.n_features)),
            "logits": ("F32", (n_rows, self.n_classes)),
            "ids": ("I64", (n_rows,)),
        }
        if self._manifest["labelled"]:
            expected["labels"] = ("I64", (n_rows,))
        return map_tensors(self.path / entry["file"], expected)

    def _open_head(self) -> dict[str, npt.NDArray[Any]]:
        entry = self._manifest["head"]
        file = self.path / entry["file"]
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            "W": ("F32", (self.n_classes, self.n_features))
        }
        if entry["bias"]:
            expected["b"] = ("F32", (self.n_classes,))
        head = map_tensors(file, expected)
        check_hash(file, entry["sha256"])
        return head


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"'{folder}' is no finished feature store: '{MANIFEST}' is missing. "
            "Check the path; if an extraction was interrupted, delete the directory and run again."
        ) from None
    except ValueError as error:
        raise StoreError(
            f"'{file}' is not valid JSON ({error}). Restore it or extract the store again."
        ) from error
    _check_manifest(file, manifest)
    return dict(manifest)


def _check_manifest(file: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"'{file}' is not the manifest of a feature store.")
    version = manifest.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise StoreError(
            f"'{file}' has format version {version!r}; this adue_sklearn reads versions 1 to "
            f"{FORMAT_VERSION}. Upgrade adue-sklearn to read it."
        )
    wrong = [key for key, fits in _FIELDS.items() if not fits(manifest.get(key))]
    if wrong:
        raise StoreError(
            f"'{file}' lacks {wrong} or holds something else there. "
            "Restore it or extract the store again."
        )
    in_shards = sum(entry["rows"] for entry in manifest["shards"])
    if in_shards != manifest["n_rows"]:
        raise StoreError(
            f"'{file}' promises {manifest['n_rows']} rows but lists shards with {in_shards}. "
            "Restore it or extract the store again."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_file_entry(value: Any) -> bool:
    # A plain name: a manifest must not reach outside its directory.
    if not isinstance(value, dict):
        return False
    name = value.get("file")
    return (
        isinstance(name, str) and Path(name).name == name and isinstance(value.get("sha256"), str)
    )


# What each field of a manifest must be; unknown fields are for later versions.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "n_rows": _is_count,
    "n_features": _is_count,
    "n_classes": _is_count,
    "classes": lambda value: value is None or isinstance(value, list),
    "labelled": lambda value: isinstance(value, bool),
    "provenance": lambda value: isinstance(value, dict),
    "head": lambda value: _is_file_entry(value) and isinstance(value.get("bias"), bool),
    "shards": lambda value: (
        isinstance(value, list)
        and len(value) > 0
        and all(_is_file_entry(entry) and _is_count(entry.get("rows")) for entry in value)
    ),
}


def _logits(X: FloatArray, W: FloatArray, b: FloatArray | None) -> npt.NDArray[Any]:
    if X.shape[1] != W.shape[1]:
        raise StoreError(
            f"features: {X.shape[1]} columns, but init_W has {W.shape[1]}; both must be the same."
        )
    product = X.astype(np.float64) @ W.T.astype(np.float64)
    return product if b is None else product + b

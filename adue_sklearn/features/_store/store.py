"""FeatureStore: the features of a text classifier as a directory of safetensors and one manifest.

The directory holds ``shard-00000.safetensors ...`` (``features``, ``logits``, ``ids``; where there
are any, ``labels``, ``text_digests`` and a ``view.NAME`` for each view), ``head.safetensors`` and
``manifest.json``. Every file is written under a temporary name, flushed to disk and renamed; the
manifest comes last, so a directory with a manifest is complete. Nothing is pickled. Format and
guarantees: ``docs/feature-store.md``.

This module needs neither transformers nor peft.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.head import Head
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.arrays import write_arrays
from adue_sklearn.features._store.checks import array, check_flag, check_path, check_view_name
from adue_sklearn.features._store.companions import class_order, log_proba_in_order, partners
from adue_sklearn.features._store.damage import damage_error, find_damage
from adue_sklearn.features._store.files import map_tensors
from adue_sklearn.features._store.layers import FloatArray, head_from_tensors
from adue_sklearn.features._store.manifest import (
    Damage,
    Manifest,
    damaged_head,
    damaged_shards,
    head_layout,
    read_manifest,
    shard_layout,
    view_tensor,
)
from adue_sklearn.features._store.writer import FeatureStoreWriter

__all__ = ["FeatureStore", "FeatureStoreWriter"]

IntArray = npt.NDArray[np.int64]
DigestArray = npt.NDArray[np.uint64]


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
    head : Head
        The head, as ``fit`` takes it: ``fit(store.features, store.labels, store.head)``.
    init_W : ndarray of shape (n_classes, n_features), float32, or list of ndarray
        Weights of the head's last linear layer; a list, first layer first, where the features
        enter a head of several layers.
    init_b : ndarray of shape (n_classes,), float32, or None, or list of them
        Its bias; None when the layer has none.
    activation : {"tanh", "gelu", "relu"} or None
        Activation between the layers of a list.
    view_facts : dict of str to dict
        What the manifest says of each view: ``n_columns``, ``kind`` (features or
        log-probabilities) and ``provenance``.
    damaged : list of Damage
        Shards that `open` skipped: ``file``, ``what`` is wrong, ``rows`` (positions in the store).

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
    ...     len(store.append(features=X, labels=[0, 0, 1]))
    FeatureStore(n_samples=3, n_features=2, n_classes=2, labelled=True, shards=1)
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    6
    """

    def __init__(self, path: Path, manifest: Manifest, damaged: Sequence[Damage] = ()) -> None:
        self.path = path
        self.damaged = list(damaged)
        self._load(manifest)

    def _load(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.n_features: int = manifest["n_features"]
        self.n_classes: int = manifest["n_classes"]
        self.classes: list[str] | None = manifest["classes"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self.view_facts: dict[str, dict[str, Any]] = manifest.get("views") or {}
        skipped = {damage.file.name for damage in self.damaged}
        self._shards = [
            map_tensors(self.path / entry["file"], shard_layout(manifest, entry["rows"]))
            for entry in manifest["shards"]
            if entry["file"] not in skipped
        ]
        self._columns: dict[str, npt.NDArray[Any]] = {}
        head = map_tensors(self.path / manifest["head"]["file"], head_layout(manifest))
        self.head: Head = head_from_tensors(head, manifest["head"].get("activation"))
        self.init_W: Any = self.head.init_W
        self.init_b: Any = self.head.init_b
        self.activation: str | None = self.head.activation

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, skip_damaged: bool = False) -> FeatureStore:
        """Open a store for reading.

        Reads the manifest, the head (its hash is checked) and each shard's layout, so a missing or
        truncated file is detected now; the rows themselves are read by memory map when used.
        Call `verify` to check every byte.

        Parameters
        ----------
        path : path-like
            The store's directory.
        skip_damaged : bool, default=False
            Read every byte now and leave out damaged shards, with a warning; ``ids`` says which
            rows remain.

        Returns
        -------
        FeatureStore

        Raises
        ------
        StoreError
            If there is no store, its format is newer, or files are missing or damaged; the message
            names them all.

        Warns
        -----
        UserWarning
            If shards are left out; the message names each.
        """
        folder = check_path("path", path)
        check_flag("skip_damaged", skip_damaged)
        manifest = read_manifest(folder)
        head = damaged_head(folder, manifest)
        shards = damaged_shards(folder, manifest, every_byte=skip_damaged)
        if head or (shards and (not skip_damaged or len(shards) == len(manifest["shards"]))):
            raise damage_error(head + shards)
        for damage in shards:
            warn(f"{damage} These rows are left out.")
        return cls(folder, manifest, shards)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        features: npt.ArrayLike,
        init_W: Any,
        init_b: Any = None,
        activation: str | None = None,
        labels: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        logits: npt.ArrayLike | None = None,
        classes: Sequence[str] | None = None,
        provenance: Mapping[str, Any] | None = None,
        text_digests: npt.ArrayLike | None = None,
        views: Mapping[str, npt.ArrayLike] | None = None,
        shard_rows: int = 4096,
    ) -> FeatureStore:
        """Write arrays as a new store and open it.

        Parameters
        ----------
        path : path-like
            The directory to create; it may exist if it is empty.
        features : array-like of shape (n, d)
            Input of the head's last linear layer (of the first, for a list); stored as float32.
        init_W : array-like of shape (C, d), or list of them
            Weights of that layer; of a whole head a list, first layer first. One row, the logit
            of two classes, becomes two, as in an estimator's ``fit``.
        init_b : array-like of shape (C,), or list of them, optional
            Its bias, or those of the layers; None for a layer without a bias.
        activation : {"tanh", "gelu", "relu"}, optional
            Activation between the layers of a list.
        labels : array-like of shape (n,) of int, optional
            True labels as row numbers of the head; None for an unlabelled store.
        ids : array-like of shape (n,) of int, optional
            Row numbers in the input; 0 to n - 1 by default.
        logits : array-like of shape (n, C), optional
            The model's logits; by default what the head makes of the features.
        classes : sequence of str, optional
            Class names in the order of the head's rows.
        provenance : mapping, optional
            Facts about the origin, anything JSON can hold.
        text_digests : array-like of shape (n,) of uint64, optional
            A digest of each row's text, by which other stores of the same texts are joined.
        views : mapping of str to array-like of shape (n, n_columns), optional
            Second views of the rows by name; stored as float32. Names consist of lower-case
            letters, digits and ``_``.
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
        writer = FeatureStoreWriter(
            path,
            init_W=init_W,
            init_b=init_b,
            activation=activation,
            classes=classes,
            labelled=labels is not None,
            provenance=provenance,
            text_digests=text_digests is not None,
            views={
                name: {
                    "n_columns": array(f"views['{name}']", block, "f", (None, None)).shape[1],
                    "kind": "features",
                    "provenance": {},
                }
                for name, block in (views or {}).items()
            },
        )
        write_arrays(writer, features, labels, ids, logits, shard_rows, text_digests, views)
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

    @property
    def text_digests(self) -> DigestArray | None:
        """Array of shape (n,), uint64: digests of the texts; None in a store without them."""
        return self._column("text_digests") if self._manifest.get("text_digests") else None

    def view(self, name: str) -> FloatArray:
        """Return a view of the rows that was extracted beside the features.

        Parameters
        ----------
        name : str
            Its name; ``view_facts`` lists them.

        Returns
        -------
        ndarray of shape (n, n_columns), float32

        Raises
        ------
        StoreError
            If the store has no such view.
        """
        if name not in self.view_facts:
            known = ", ".join(self.view_facts) or "none"
            raise StoreError(
                f"'{self.path}' has no view {name!r}; its views are: {known}. Extract the store "
                "again with it: 'adue extract' has --layers, --base-view and --companion, "
                "extract_features has views=ModelViews(...)."
            )
        return self._column(view_tensor(name))

    def views(self, *names: str, companions: Mapping[str, FeatureStore] | None = None) -> Views:
        """Return the features with views of the rows, as estimators take them.

        Parameters
        ----------
        *names : str
            Which views of the store; by default all.
        companions : mapping of str to FeatureStore, optional
            Further views by name: stores of the same texts, extracted with other adapters, of
            which the log-probabilities are taken (`companion_log_proba`).

        Returns
        -------
        Views

        Raises
        ------
        StoreError
            If the store has no such view, or a companion's rows are not its rows.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = FeatureStore.create(
        ...         folder, features=np.eye(4), init_W=np.eye(4), views={"base": np.ones((4, 3))}
        ...     )
        ...     store.views("base")
        Views(4 rows, 4 features, base: 3 columns)
        """
        blocks: dict[str, Any] = {name: self.view(name) for name in names or self.view_facts}
        for name, other in (companions or {}).items():
            if check_view_name(name, "companions") in blocks:
                raise ValueError(
                    f"companions: '{name}' is a view of the store already; use another name."
                )
            blocks[name] = self.companion_log_proba(other)
        return Views(self.features, text_digests=self.text_digests, **blocks)

    def companion_log_proba(self, other: FeatureStore) -> FloatArray:
        """Return another classifier's log-probabilities for these rows, from its own store.

        Rows are found by the digests of their texts, so their order may differ.

        Parameters
        ----------
        other : FeatureStore
            The same texts, extracted with another adapter of the same classes.

        Returns
        -------
        ndarray of shape (n, n_classes), float32
            Its columns are in the order of this store's classes.

        Raises
        ------
        StoreError
            If the classes are not the same, a store has no digests of its texts, or the stores
            do not hold the same texts equally often.
        """
        if not isinstance(other, FeatureStore):
            raise TypeError(f"other is a {type(other).__name__}; expected a FeatureStore.")
        try:
            order = class_order(self.classes, self.n_classes, other.classes, other.n_classes)
        except ValueError as error:
            raise StoreError(f"'{other.path}' is no companion of '{self.path}': {error}") from error
        rows = partners(self.text_digests, other.text_digests, self.path, other.path)
        return log_proba_in_order(other.logits[rows], order)

    def append(
        self,
        *,
        features: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        logits: npt.ArrayLike | None = None,
        text_digests: npt.ArrayLike | None = None,
        views: Mapping[str, npt.ArrayLike] | None = None,
        shard_rows: int = 4096,
    ) -> FeatureStore:
        """Write further rows of the same model to the end of the store.

        All or nothing: until the last row is on disk, everybody reads the store as it was.

        Parameters
        ----------
        features : array-like of shape (n, d)
            What enters the head's last linear layer; stored as float32.
        labels : array-like of shape (n,) of int, optional
            True labels as row numbers of the head; required exactly when the store is labelled.
        ids : array-like of shape (n,) of int, optional
            Row numbers in the input; by default they go on after the largest in the store.
        logits : array-like of shape (n, C), optional
            The model's logits; by default what the head makes of the features.
        text_digests : array-like of shape (n,) of uint64, optional
            Digests of the texts; required exactly when the store has them.
        views : mapping of str to array-like of shape (n, n_columns), optional
            The views that the store has, all of them.
        shard_rows : int, default=4096
            Rows a file.

        Returns
        -------
        FeatureStore
            Itself, with the new rows. Arrays that were taken from it before stay as they are.

        Raises
        ------
        StoreError
            Arrays that do not fit the store, a damaged store, another writer at work.
        """
        if self.damaged:
            raise damage_error(self.damaged)
        writer = FeatureStoreWriter(
            self.path,
            init_W=self.init_W,
            init_b=self.init_b,
            activation=self.activation,
            classes=self.classes,
            labelled=self._manifest["labelled"],
            text_digests=self.text_digests is not None,
            views=self.view_facts,
            append=True,
        )
        write_arrays(writer, features, labels, ids, logits, shard_rows, text_digests, views)
        self._load(read_manifest(self.path))
        return self

    def verify(self) -> None:
        """Read every file and compare it with its sha256 in the manifest.

        Raises
        ------
        StoreError
            Naming every file that differs.
        """
        damaged = find_damage(self.path, self._manifest)
        if damaged:
            raise damage_error(damaged)

    def iter_shards(self) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Yield shard after shard by memory map: what a store has that is larger than memory.

        Yields
        ------
        shard : mapping of str to ndarray
            ``features`` (m, d) and ``logits`` (m, C) float32, ``ids`` (m,) and, in a labelled
            store, ``labels`` (m,) int64; ``text_digests`` (m,) uint64 and the views as
            ``view.NAME`` (m, n_columns) float32, where there are any; read-only, rows in input
            order.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = FeatureStore.create(
        ...         folder, features=np.eye(4), init_W=np.eye(4), shard_rows=3
        ...     )
        ...     print([len(shard["features"]) for shard in store.iter_shards()])
        [3, 1]
        """
        yield from self._shards

    def __len__(self) -> int:
        return sum(len(shard["ids"]) for shard in self._shards)

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

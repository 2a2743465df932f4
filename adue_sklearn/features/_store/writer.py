"""Writing a feature store, shard by shard: new, resumed, or appended to.

One path for all three: ``unfinished.json`` is rewritten after every shard and renamed to
``manifest.json`` at the end. So a reader sees the old state or the new one, and a writer that was
killed leaves all that the next one needs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.files import clear_leftovers
from adue_sklearn._utils.validation import warn
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.checks import (
    array,
    check_blocks,
    check_classes,
    check_digests,
    check_flag,
    check_labels,
    check_path,
    check_provenance,
    check_view_name,
)
from adue_sklearn.features._store.files import (
    file_entry,
    make_folder,
    rename,
    tensor_bytes,
    write_atomically,
)
from adue_sklearn.features._store.layers import check_layers, head_facts, head_tensors
from adue_sklearn.features._store.lock import LOCK, WriterLock
from adue_sklearn.features._store.manifest import (
    FORMAT,
    FORMAT_VERSION,
    HEAD,
    HOLDER,
    MANIFEST,
    UNFINISHED,
    Manifest,
    damaged_shards,
    is_store_file,
    is_temporary,
    largest_id,
    read_manifest,
    read_unfinished,
    shard_name,
    shard_number,
    to_json,
    view_tensor,
)
from adue_sklearn.features._store.same import check_same_model, check_same_writing, is_in_store


class FeatureStoreWriter:
    """Writes a store shard by shard; the manifest last, when the ``with`` block ends well.

    When the block ends in an exception, or the process is killed, the shards written so far stay,
    without a manifest (or beside the old one, when appending), so that nobody takes them for a
    finished store. Another writer with the same ``extraction`` goes on after the last of them; one
    without any starts over. Nobody else can write to the directory meanwhile.

    Parameters
    ----------
    path : path-like
        The directory to make; it may exist if it is empty. With ``append``, a finished store.
    init_W : array-like of shape (C, d), or list of them
        Weights of the head's last linear layer; of a whole head a list, first layer first. One
        row, the logit of two classes, becomes two, as in an estimator's ``fit``.
    init_b : array-like of shape (C,), or list of them, optional
        Its bias, or those of the layers, None for one without.
    activation : {"tanh", "gelu", "relu"}, optional
        What lies between the layers of a list.
    classes : sequence of str, optional
        Class names in the order of the head's rows.
    labelled : bool
        Whether every shard brings labels.
    provenance : mapping, optional
        Facts about the origin, anything JSON can hold. The attribute of that name may be changed
        until the block ends.
    extraction : mapping, optional
        What tells this writing from any other: ``n_rows``, hashes of the input; goes into the
        manifest. Only a writer that has one can be resumed.
    text_digests : bool, default=False
        Whether every shard brings digests of its texts. An append does as the store does.
    views : mapping of str to mapping, optional
        Name and facts of the views that every shard brings: ``n_columns``, ``kind``,
        ``provenance``.
    append : bool, default=False
        Write further rows to a finished store of the same model.
    resume : bool, default=True
        Go on where an interrupted writer with the same ``extraction`` stopped.

    Attributes
    ----------
    n_done : int
        Inside the block: rows of this writing that are on disk, an interrupted run's included.
    finished_before : bool
        Inside the block: the store holds all rows of this extraction already; nothing is written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        init_W: Any,
        init_b: Any = None,
        activation: str | None = None,
        classes: Sequence[str] | None = None,
        labelled: bool,
        provenance: Mapping[str, Any] | None = None,
        extraction: Mapping[str, Any] | None = None,
        text_digests: bool = False,
        views: Mapping[str, Mapping[str, Any]] | None = None,
        append: bool = False,
        resume: bool = True,
    ) -> None:
        self.path = check_path("path", path)
        check_flag("labelled", labelled)
        check_flag("append", append)
        check_flag("resume", resume)
        self.head = check_layers(init_W, init_b, activation)
        self.classes = check_classes(classes, self.head.n_classes)
        self.labelled = labelled
        check_flag("text_digests", text_digests)
        self.text_digests = bool(text_digests)
        self.provenance = check_provenance(provenance)
        # What this writing adds to the manifest's list of extractions: one entry or none, and as
        # it will be read back. What JSON cannot hold is refused here, not hours later.
        if not (extraction is None or isinstance(extraction, Mapping)):
            raise StoreError(
                "extraction: expected a mapping of names to facts, got "
                f"{type(extraction).__name__}."
            )
        facts = {"first_row": 0, "provenance": self.provenance}
        record = [] if extraction is None else [{**extraction, **facts}]
        to_json({"provenance": self.provenance})
        self.views: dict[str, dict[str, Any]] = json.loads(
            to_json({check_view_name(name): dict(view) for name, view in (views or {}).items()})
        )
        self._record: list[dict[str, Any]] = json.loads(to_json({"extractions": record}))[
            "extractions"
        ]
        self._head = tensor_bytes(head_tensors(self.head))
        self._append, self._resume = append, resume
        self._lock: contextlib.ExitStack | None = None
        self._old_shards: list[dict[str, Any]] = []
        self._shards: list[dict[str, Any]] = []
        self._extractions: list[dict[str, Any]] = []
        self._largest_id = -1
        self.n_done, self.finished_before = 0, False

    def __enter__(self) -> Self:
        check_target(self.path, append=self._append)
        make_folder(self.path)
        with contextlib.ExitStack() as lock:
            lock.enter_context(WriterLock(self.path))
            self._begin()
            self._lock = lock.pop_all()  # nothing failed: the lock outlives this method
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return
        with self._lock:
            self._lock = None
            if exc_type is None and not self.finished_before:
                self._finish()

    @property
    def n_rows(self) -> int:
        """Rows of the store so far, those that are appended to included."""
        return sum(entry["rows"] for entry in [*self._old_shards, *self._shards])

    def first_id_for(self, n_rows: int) -> int:
        """Return the row number after the largest in the store that is appended to, else 0.

        Parameters
        ----------
        n_rows : int
            How many rows are to be numbered from there.
        """
        if self._largest_id > np.iinfo(np.int64).max - n_rows:
            raise StoreError(
                f"ids: '{self.path}' holds row number {self._largest_id}, so {n_rows} more would "
                "overflow; pass the ids of the new rows."
            )
        return self._largest_id + 1

    def write_shard(
        self,
        features: npt.ArrayLike,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike | None,
        ids: npt.ArrayLike,
        *,
        truncated: int | None = None,
        text_digests: npt.ArrayLike | None = None,
        views: Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        """Write the next rows as one file.

        Parameters
        ----------
        features : array-like of shape (n, d)
            What enters the head.
        logits : array-like of shape (n, C)
            The model's logits.
        labels : array-like of shape (n,) of int, or None
            Row numbers of the head; None exactly when the store is unlabelled.
        ids : array-like of shape (n,) of int
            Row numbers in the input.
        truncated : int, optional
            How many of the rows come from texts that were cut.
        text_digests : array-like of shape (n,) of uint64, optional
            Digests of the texts; needed where the store has them, else left out.
        views : mapping of str to array-like of shape (n, n_columns), optional
            The store's views, all of them.

        Raises
        ------
        StoreError
            Arrays that do not fit together, NaN or inf, or a file that cannot be written.
        """
        if self._lock is None or self.finished_before:
            raise StoreError(
                "write_shard: call it inside the writer's 'with' block, once per shard."
            )
        n_classes, n_features = self.head.n_classes, self.head.n_features
        X = array("features", features, "f", (None, n_features))
        tensors: dict[str, npt.NDArray[Any]] = {
            "features": X,
            "logits": array("logits", logits, "f", (len(X), n_classes)),
            "ids": array("ids", ids, "i", (len(X),)),
        }
        if not (truncated is None or isinstance(truncated, int | np.integer)):
            raise StoreError(f"truncated: expected a number of rows, got {truncated!r}.")
        if self.labelled != (labels is not None):
            wanted = "labels for every shard" if self.labelled else "none"
            raise StoreError(f"labels: expected {wanted}, as labelled={self.labelled}.")
        if labels is not None:
            tensors["labels"] = check_labels(array("labels", labels, "i", (len(X),)), n_classes)
        if self.text_digests:
            tensors["text_digests"] = check_digests(text_digests, len(X), self.path)
        for view, block in check_blocks(views, self.views, len(X), self.path).items():
            tensors[view_tensor(view)] = block
        name, content = shard_name(self._next_number()), tensor_bytes(tensors)
        write_atomically(self.path / name, content)
        entry = {**file_entry(name, content), "rows": len(X)}
        if truncated is not None:
            entry["truncated"] = int(truncated)
        self._save([*self._shards, entry])

    def _begin(self) -> None:
        clear_leftovers(self.path, is_store_file)
        if self._append:
            self._begin_append(read_manifest(self.path))
        elif (self.path / MANIFEST).exists():
            self._begin_finished(read_manifest(self.path))
        if self.finished_before:
            return
        unfinished = read_unfinished(self.path)
        shards = [] if unfinished is None else self._take_over(unfinished)
        self._save(shards)  # before the head: it says whose this directory is
        if not self._append:
            write_atomically(self.path / HEAD, self._head)

    def _begin_append(self, store: Manifest) -> None:
        check_same_model(self.path, store, self._manifest([]))
        damaged = damaged_shards(self.path, store, every_byte=False)
        if damaged:
            raise StoreError(
                f"{damaged[0]} Nothing is appended to a damaged store: restore the file from a "
                "copy or extract the store again."
            )
        self.text_digests = store.get("text_digests", False)
        self.finished_before = is_in_store(self._record, store)
        self._largest_id = largest_id(self.path, store)
        self.provenance = dict(store["provenance"])
        self._old_shards = store["shards"]
        self._extractions = store.get("extractions") or []
        for record in self._record:
            record["first_row"] = store["n_rows"]

    def _begin_finished(self, store: Manifest) -> None:
        """Raise, unless the finished store is just what this writer was about to write."""
        mine = self._manifest([])
        described = ("extractions", "head", "classes", "text_digests", "views")
        same = all(store.get(key) == mine.get(key) for key in described)
        whole = bool(self._record) and self._record[0].get("n_rows") == store["n_rows"]
        if not (self._resume and same and whole):
            raise StoreError(
                f"'{self.path}' already holds a store. Delete it, choose another path, or append "
                "to it (append=True, --append)."
            )
        self.finished_before = True

    def _take_over(self, unfinished: Manifest) -> list[dict[str, Any]]:
        """Return the shards of an interrupted writer up to the first that is not whole."""
        written = unfinished["shards"][len(self._old_shards) :]
        if not written:  # nothing is lost, whatever it was
            return []
        in_progress = (unfinished.get("extractions") or [])[len(self._extractions) :]
        if not in_progress and not self._record:  # rows from arrays, which the caller has: anew
            if not self._append:
                for entry in written:
                    (self.path / entry["file"]).unlink(missing_ok=True)
            return []
        check_same_writing(
            self.path,
            {**unfinished, "extractions": in_progress},
            {**self._manifest([]), "extractions": self._record},
            append=self._append,
            resume=self._resume,
        )
        damaged = damaged_shards(self.path, {**unfinished, "shards": written}, every_byte=True)
        for damage in damaged:
            warn(f"{damage} Its rows are extracted again.")
        bad = {damage.file.name for damage in damaged}
        return list(takewhile(lambda entry: entry["file"] not in bad, written))

    def _next_number(self) -> int:
        names = [entry["file"] for entry in [*self._old_shards, *self._shards]]
        return max(map(shard_number, names), default=-1) + 1

    def _save(self, shards: list[dict[str, Any]]) -> None:
        """Write the manifest as it would be with these shards, under the unfinished one's name."""
        write_atomically(self.path / UNFINISHED, to_json(self._manifest(shards)))
        self._shards = shards
        self.n_done = sum(entry["rows"] for entry in shards)

    def _finish(self) -> None:
        if not self._shards:
            raise StoreError(f"No rows were written to '{self.path}'; a store needs at least one.")
        self._save(self._shards)
        rename(self.path / UNFINISHED, self.path / MANIFEST)

    def _manifest(self, shards: list[dict[str, Any]]) -> Manifest:
        all_shards = [*self._old_shards, *shards]
        provenance = dict(self.provenance)
        cut = [entry["truncated"] for entry in shards if "truncated" in entry]
        if cut:
            provenance["truncated_rows"] = provenance.get("truncated_rows", 0) + sum(cut)
        optional = {
            "extractions": [*self._extractions, *self._record],
            "text_digests": self.text_digests,
            "views": self.views,
        }
        manifest = {
            "format": FORMAT,
            "format_version": self._format_version(),
            "n_rows": sum(entry["rows"] for entry in all_shards),
            "n_features": self.head.n_features,
            "n_classes": self.head.n_classes,
            "classes": self.classes,
            "labelled": self.labelled,
            "dtype": "float32",
            "head": {**file_entry(HEAD, self._head), **head_facts(self.head)},
            "shards": all_shards,
            "provenance": provenance,
        }
        return manifest | {name: value for name, value in optional.items() if value}

    def _format_version(self) -> int:
        """Return the oldest version that says it all."""
        if self.text_digests or self.views:
            return FORMAT_VERSION
        return 1 if self.head.activation is None else 2


def check_target(folder: Path, *, append: bool) -> None:
    """Raise unless a writer can write to a directory: new, empty, or what a writer left."""
    if append:
        read_manifest(folder)
        return
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"'{folder}' is a file, but a store is a directory. Choose another path.")
    names = {file.name for file in folder.iterdir() if not is_temporary(file.name)}
    if names & {MANIFEST, UNFINISHED} or names <= {LOCK, HOLDER}:
        return
    raise StoreError(
        f"'{folder}' is not empty, and it is not a feature store, finished or interrupted. "
        "Choose another path, or delete it."
    )

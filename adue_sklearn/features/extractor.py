"""From texts to features: batches sorted by length, rows in input order, every batch checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.blank_texts import BlankRows, is_blank
from adue_sklearn._utils.label_order import label_order
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views, text_digests
from adue_sklearn.features._model.batching import (
    Encoded,
    buckets,
    check_texts,
    encode,
    windows,
)
from adue_sklearn.features._model.finding import run_head
from adue_sklearn.features._model.fingerprint import fingerprint
from adue_sklearn.features._model.heads import check_batch
from adue_sklearn.features._model.hooks import hidden_states_of
from adue_sklearn.features._model.labels import label_rows
from adue_sklearn.features._model.loading import LoadedClassifier, load_classifier
from adue_sklearn.features._model.views import (
    BASE,
    ModelViews,
    TextView,
    ViewPlan,
    mask_of,
    padded,
    plan_views,
)
from adue_sklearn.features._model.warnings import warn_of_blank_texts, warn_of_cut_texts
from adue_sklearn.features._store.checks import check_count, check_flag, check_path, check_progress
from adue_sklearn.features._store.companions import log_proba_in_order
from adue_sklearn.features._store.manifest import MANIFEST
from adue_sklearn.features._store.replace import (
    check_replaceable,
    finish_replacing,
    replace_store,
    replacement_of,
)
from adue_sklearn.features._store.store import FeatureStore, FeatureStoreWriter

__all__ = [
    "FeatureBatch",
    "LoadedClassifier",
    "ModelViews",
    "TextView",
    "compute_features",
    "compute_views",
    "extract_features",
    "iter_features",
    "load_classifier",
    "stream_features",
]

Progress = Callable[[int], object]
Rows = npt.NDArray[np.float32]

#: Maximum number of rows that are tokenised and sorted by length together.
_BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Features of some rows.

    Attributes
    ----------
    rows : ndarray of shape (B,), int64
        Positions in the list of texts.
    features : ndarray of shape (B, d), float32
        Input of the head's last linear layer, or of its first for ``features="head"``.
    logits : ndarray of shape (B, C), float32
        The model's own logits.
    truncated : ndarray of shape (B,), bool
        Rows whose text was cut at ``max_length``.
    views : dict of str to ndarray of shape (B, n_columns), float32
        Views that were asked for.
    """

    rows: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]
    views: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def iter_features(
    classifier: LoadedClassifier,
    texts: Sequence[str],
    *,
    batch_tokens: int = 8192,
    verify: bool = True,
    views: ModelViews | None = None,
) -> Iterator[FeatureBatch]:
    """Yield the features of texts batch by batch, longest texts first.

    Parameters
    ----------
    classifier : LoadedClassifier
        From `load_classifier`.
    texts : sequence of str
        The texts.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding; a longer text is a batch by itself.
    verify : bool, default=True
        Check on every batch that head and features give the model's logits.
    views : ModelViews, optional
        Further views of each row.

    Yields
    ------
    FeatureBatch

    Raises
    ------
    ValueError
        If the texts are not a list of str.
    FeatureMismatchError
        If the features do not give the model's logits.

    Warns
    -----
    UserWarning
        With the first batch, if texts are cut at ``max_length``.
    """
    checked = check_texts(texts)
    _check_classifier(classifier)
    check_count("batch_tokens", batch_tokens)
    check_flag("verify", verify)
    plan = plan_views(classifier, views)

    def batches() -> Iterator[FeatureBatch]:
        encoded = _encode(classifier, plan, checked)
        warn_of_cut_texts(int(encoded.truncated.sum()), len(checked), classifier.max_length)
        known = plan.of_texts(checked)
        yield from _iterate(classifier, plan, encoded, known, batch_tokens, verify)

    return batches()


def compute_features(
    classifier: LoadedClassifier,
    texts: Sequence[str],
    *,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute the features of texts, in the order of the texts.

    Parameters
    ----------
    classifier : LoadedClassifier
        From `load_classifier`.
    texts : sequence of str
        The n texts.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding.
    progress : callable, optional
        Called after each batch with the number of rows just done.

    Returns
    -------
    features : ndarray of shape (n, d), float32
        Input of the head's last linear layer, or of its first for ``features="head"``.
    logits : ndarray of shape (n, C), float32
        The model's logits; the head gives the same from the features, within the precision.

    Raises
    ------
    ValueError
        If the texts are not a list of str.
    FeatureMismatchError
        If the features do not give the model's logits.

    Warns
    -----
    UserWarning
        If texts were cut at ``max_length``.
    """
    batch = collect_features(classifier, texts, batch_tokens, progress=progress)
    warn_of_cut_texts(int(batch.truncated.sum()), len(batch.rows), classifier.max_length)
    return batch.features, batch.logits


def compute_views(
    classifier: LoadedClassifier,
    texts: Sequence[str],
    views: ModelViews,
    *,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> Views:
    """Compute features and views of texts, in the order of the texts.

    Parameters
    ----------
    classifier : LoadedClassifier
        From `load_classifier`.
    texts : sequence of str
        The n texts.
    views : ModelViews
        Further views of each row.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding.
    progress : callable, optional
        Called after each batch with the number of rows just done.

    Returns
    -------
    Views
        What estimators take as ``X``: features, views, and digests of the texts.

    Raises
    ------
    ValueError
        If the texts are not a list of str, or the models cannot give the views.
    FeatureMismatchError
        If the features do not give the model's logits.

    Warns
    -----
    UserWarning
        If texts were cut at ``max_length``.
    """
    checked = check_texts(texts)
    plan = plan_views(_check_classifier(classifier), views)
    batch = collect_features(classifier, checked, batch_tokens, plan=plan, progress=progress)
    warn_of_cut_texts(int(batch.truncated.sum()), len(batch.rows), classifier.max_length)
    blocks: dict[str, Any] = batch.views
    return Views(batch.features, text_digests=text_digests(checked), **blocks)


def stream_features(
    classifier: LoadedClassifier,
    texts: Iterable[str],
    *,
    window_rows: int = 1024,
    batch_tokens: int = 8192,
    views: ModelViews | None = None,
) -> Iterator[FeatureBatch]:
    """Yield the features of any number of texts, in order; only a window of them is in memory.

    Parameters
    ----------
    classifier : LoadedClassifier
        From `load_classifier`.
    texts : iterable of str
        The texts, read as needed; may be empty.
    window_rows : int, default=1024
        Texts that are read, sorted by length and run together.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding.
    views : ModelViews, optional
        Further views of each row.

    Yields
    ------
    FeatureBatch
        The next ``window_rows`` texts (the last batch: the rest); ``rows`` count from the very
        first text.

    Raises
    ------
    ValueError
        If texts are not str.
    FeatureMismatchError
        If the features do not give the model's logits.

    Warns
    -----
    UserWarning
        After the last text, if texts are empty or blank, or were cut at ``max_length``.
    """
    _check_classifier(classifier)
    check_count("window_rows", window_rows)
    check_count("batch_tokens", batch_tokens)
    plan = plan_views(classifier, views)

    def batches() -> Iterator[FeatureBatch]:
        coming, n_rows, n_cut, blank = iter(texts), 0, 0, BlankRows()
        while window := list(islice(coming, window_rows)):
            batch = collect_features(classifier, window, batch_tokens, plan=plan, first_row=n_rows)
            yield replace(batch, rows=batch.rows + n_rows)
            for row, text in enumerate(window, n_rows):
                if is_blank(text):
                    blank.add(row)
            n_rows += len(window)
            n_cut += int(batch.truncated.sum())
        warn_of_blank_texts(blank, n_rows)
        warn_of_cut_texts(n_cut, n_rows, classifier.max_length)

    return batches()


def extract_features(
    classifier: LoadedClassifier,
    texts: Sequence[str],
    out: str | os.PathLike[str],
    *,
    labels: Any = None,
    batch_tokens: int = 8192,
    shard_rows: int = 256,
    append: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    skip_empty: bool = False,
    views: ModelViews | None = None,
    progress: Progress | None = None,
) -> FeatureStore:
    """Write the features of texts to a feature store, shard by shard.

    Only a few batches are in memory at a time, and their shards are then written: texts are sorted
    by length in windows of whole shards, as few as fill 12 batches (at most 4,096 rows). An
    interruption loses at most one window. The same call resumes an interrupted run, and the files
    are then identical to those of an uninterrupted run. (``batch_tokens`` may change in between,
    for instance after running out of memory; rows then agree within the precision.) Labels are
    checked before the model runs.

    Parameters
    ----------
    classifier : LoadedClassifier
        From `load_classifier`.
    texts : sequence of str
        The n texts.
    out : path-like
        Directory of the store: new, empty, or left by an interrupted run of the same call. With
        ``append``, a finished store.
    labels : array-like of shape (n,), optional
        True labels: integers are row numbers of the head, strings need ``classifier.classes``.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding.
    shard_rows : int, default=256
        Rows per file.
    append : bool, default=False
        Append the rows to a store of the same model; ``ids`` continue after its largest. The store
        does not change until the last row is on disk. Texts that were already extracted to it with
        the same labels are not written again.
    overwrite : bool, default=False
        Replace a finished store. The new one is extracted to the folder ``.NAME.new`` beside it,
        where an interrupted run resumes, and replaces the old one at the end.
    resume : bool, default=True
        Continue after the last whole shard of an interrupted run, if model, views, texts, labels,
        ``max_length``, precision, ``shard_rows`` and library versions are the same; otherwise the
        error names what differs. If False, an interrupted run is an error.
    skip_empty : bool, default=False
        Leave out texts that are empty or hold only white space, and their labels, which may be
        anything. ``ids`` of the others are still their row numbers in ``texts``.
    views : ModelViews, optional
        Further views of each row: pooled layers, the model without its adapter, other adapters'
        log-probabilities. They come from the same batches and are part of the store.
    progress : callable, optional
        Called after each batch with the number of rows just done, and at the start with the rows
        that an interrupted run had done.

    Returns
    -------
    FeatureStore
        Its provenance counts the texts that were cut at ``max_length`` as ``truncated_rows``.

    Raises
    ------
    ValueError
        If texts or labels cannot be used, or the directory cannot be written to or resumed
        (`StoreError`).
    FeatureMismatchError
        If the features do not give the model's logits.

    Warns
    -----
    UserWarning
        If texts are empty or blank and not left out; if texts were cut at ``max_length``; if labels
        agree with the model no better than chance, or far better with the classes in another order;
        or if the store already holds all these rows, so that nothing was done.
    """
    checked = check_texts(texts)
    _check_classifier(classifier)
    path = check_path("out", out)
    check_flag("append", append)
    check_flag("overwrite", overwrite)
    check_flag("skip_empty", skip_empty)
    if overwrite:
        finish_replacing(path)
        if (path / MANIFEST).exists() and not append:
            check_replaceable(path)
            extract_features(
                classifier,
                checked,
                replacement_of(path),
                labels=labels,
                batch_tokens=batch_tokens,
                shard_rows=shard_rows,
                resume=resume,
                skip_empty=skip_empty,
                views=views,
                progress=progress,
            )
            replace_store(path)
            return FeatureStore.open(path)
    check_progress(progress)
    n_texts, blank = len(checked), BlankRows.of(checked)
    rows_kept = _rows_kept(checked, skip_empty)
    y = label_rows(labels, n_texts, classifier.classes, classifier.n_classes, rows=rows_kept)
    checked = [checked[row] for row in rows_kept]
    check_count("batch_tokens", batch_tokens)
    check_count("shard_rows", shard_rows)
    plan = plan_views(classifier, views)
    writer = FeatureStoreWriter(
        out,
        init_W=classifier.head.init_W,
        init_b=classifier.head.init_b,
        activation=classifier.head.activation,
        classes=classifier.classes,
        labelled=y is not None,
        provenance=classifier.provenance,
        extraction={**fingerprint(classifier, checked, y, rows_kept), "shard_rows": shard_rows},
        text_digests=True,
        views=plan.facts,
        append=append,
        resume=resume,
    )
    if not skip_empty:
        warn_of_blank_texts(blank, n_texts)
    with writer:
        if writer.finished_before:
            warn(
                f"'{writer.path}' already holds the rows of these {len(checked)} texts; nothing "
                "was done."
            )
            return FeatureStore.open(out)
        first_id, n_done = writer.first_id_for(n_texts), writer.n_done
        ids = np.array(rows_kept) + first_id
        if progress is not None and n_done:
            progress(n_done)
        for rows, encoded in _windows_after(
            n_done, classifier, plan, checked, rows_kept, shard_rows, batch_tokens
        ):
            window = _collect(
                classifier,
                plan,
                encoded,
                checked[rows.start : rows.stop],
                batch_tokens,
                progress,
                rows.start,
                n_done,
            )
            for start in range(max(rows.start, n_done), rows.stop, shard_rows):
                shard = slice(start, min(start + shard_rows, rows.stop))
                here = slice(shard.start - rows.start, shard.stop - rows.start)
                writer.write_shard(
                    window.features[here],
                    window.logits[here],
                    None if y is None else y[shard],
                    ids[shard],
                    truncated=int(window.truncated[here].sum()),
                    text_digests=text_digests(checked[shard]),
                    views={name: block[here] for name, block in window.views.items()},
                )
    store = FeatureStore.open(out)
    _warn(classifier, store)
    return store


def _rows_kept(texts: Sequence[str], skip_empty: bool) -> Sequence[int]:
    """Return which rows are extracted; raise if none are."""
    if not skip_empty:
        return range(len(texts))
    rows = [row for row, text in enumerate(texts) if not is_blank(text)]
    if not rows:
        raise ValueError(
            f"texts: all {len(texts)} are empty or blank, so skip_empty (--skip-empty) leaves none."
        )
    return rows


def _warn(classifier: LoadedClassifier, store: FeatureStore) -> None:
    """Say what may be wrong with texts and labels of a finished store."""
    warn_of_cut_texts(store.provenance["truncated_rows"], len(store), classifier.max_length)
    if store.labels is not None:
        doubt = label_order(
            store.logits.argmax(axis=1),
            store.labels,
            classifier.n_classes,
            classifier.classes,
            name="labels",
            option=" (--classes)",
        )
        if doubt is not None:
            doubt.warn()


def _check_classifier(classifier: Any) -> LoadedClassifier:
    if not isinstance(classifier, LoadedClassifier):
        raise ValueError(
            f"classifier: expected a result of load_classifier, got {type(classifier).__name__}."
        )
    return classifier


def _encode(
    classifier: LoadedClassifier,
    plan: ViewPlan,
    texts: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> Encoded:
    return encode(classifier.tokenizer, texts, classifier.max_length, plan.vocabulary, numbers)


def _windows_after(
    n_done: int,
    classifier: LoadedClassifier,
    plan: ViewPlan,
    texts: Sequence[str],
    numbers: Sequence[int],
    shard_rows: int,
    batch_tokens: int,
) -> Iterator[tuple[range, Encoded]]:
    """Yield rows that are run together, and their tokens, from the window of row ``n_done`` on.

    Windows depend on the texts alone, not on where a run was interrupted: a row shares its batch
    with the same others, which its last bits depend on.
    """
    block_rows = shard_rows * max(1, _BLOCK_ROWS // shard_rows)
    for first in range(n_done // block_rows * block_rows, len(texts), block_rows):
        block = slice(first, first + block_rows)
        encoded = _encode(classifier, plan, texts[block], numbers[block])
        for rows in windows(encoded.lengths, shard_rows, batch_tokens):
            if first + rows.stop > n_done:
                yield range(first + rows.start, first + rows.stop), encoded.part(rows)


def _iterate(
    classifier: LoadedClassifier,
    plan: ViewPlan,
    encoded: Encoded,
    of_texts: dict[str, Rows],
    batch_tokens: int,
    verify: bool,
) -> Iterator[FeatureBatch]:
    for rows in buckets(encoded.lengths, batch_tokens):
        features, logits, blocks = _run_main(classifier, plan, encoded, rows, verify)
        if plan.base is not None:
            blocks[BASE], _ = _run(plan.base, encoded, rows, verify)
        for name, (companion, order) in plan.companions.items():
            _, others = _run(companion, encoded, rows, verify)
            blocks[name] = log_proba_in_order(others, order)
        blocks |= {name: block[rows] for name, block in of_texts.items()}
        yield FeatureBatch(rows, features, logits, encoded.truncated[rows], blocks)


def _run_main(
    classifier: LoadedClassifier,
    plan: ViewPlan,
    encoded: Encoded,
    rows: npt.NDArray[np.int64],
    verify: bool,
) -> tuple[Rows, Rows, dict[str, Rows]]:
    """Run a batch; return features, logits, and the layers that were asked for, pooled."""
    if not plan.layers:
        return *_run(classifier, encoded, rows, verify), {}
    with hidden_states_of(classifier.model) as kept:
        features, logits = _run(classifier, encoded, rows, verify)
    return features, logits, plan.pooled(kept[0], mask_of(classifier, encoded, rows))


def _run(
    classifier: LoadedClassifier, encoded: Encoded, rows: npt.NDArray[np.int64], verify: bool
) -> tuple[Rows, Rows]:
    """Run a batch; return what enters the head, and the logits."""
    inputs = padded(classifier, encoded, rows)
    features, logits = run_head(classifier.model, classifier.head, inputs)
    if verify:
        check_batch(classifier.head, features, logits, encoded.numbers[rows], classifier.eps)
    return features, logits


def collect_features(
    classifier: LoadedClassifier,
    texts: Sequence[str],
    batch_tokens: int,
    *,
    plan: ViewPlan | None = None,
    progress: Progress | None = None,
    first_row: int = 0,
) -> FeatureBatch:
    """Run all texts and put their rows in input order, without warnings about cut texts."""
    checked = check_texts(texts)
    _check_classifier(classifier)
    check_progress(progress)
    check_count("batch_tokens", batch_tokens)
    plan = plan_views(classifier, None) if plan is None else plan
    encoded = _encode(classifier, plan, checked, range(first_row, first_row + len(checked)))
    return _collect(classifier, plan, encoded, checked, batch_tokens, progress, first_row)


def _collect(
    classifier: LoadedClassifier,
    plan: ViewPlan,
    encoded: Encoded,
    texts: Sequence[str],
    batch_tokens: int,
    progress: Progress | None,
    first_row: int,
    n_done: int = 0,
) -> FeatureBatch:
    n_rows = len(encoded.truncated)
    result = FeatureBatch(
        rows=np.arange(n_rows),
        features=np.empty((n_rows, classifier.n_features), dtype=np.float32),
        logits=np.empty((n_rows, classifier.n_classes), dtype=np.float32),
        truncated=encoded.truncated,
        views={
            name: np.empty((n_rows, view["n_columns"]), dtype=np.float32)
            for name, view in plan.facts.items()
        },
    )
    known = plan.of_texts(texts)
    for batch in _iterate(classifier, plan, encoded, known, batch_tokens, True):
        result.features[batch.rows] = batch.features
        result.logits[batch.rows] = batch.logits
        for name, block in batch.views.items():
            result.views[name][batch.rows] = block
        if progress is not None:
            progress(int(np.count_nonzero(batch.rows + first_row >= n_done)))
    return result

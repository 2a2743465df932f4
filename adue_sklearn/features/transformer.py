"""Texts in, features out: a LoRA classifier as a scikit-learn transformer."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from adue_sklearn._utils.arrays import parse_device
from adue_sklearn._utils.devices import device_here
from adue_sklearn._utils.files import clear_leftovers, make_folder, write_file
from adue_sklearn._utils.head import Head
from adue_sklearn._utils.validation import warn
from adue_sklearn.features._model.adapter_config import read_adapter_config
from adue_sklearn.features._model.arguments import View, check_view
from adue_sklearn.features._model.batching import check_texts
from adue_sklearn.features._model.loading import LoadedClassifier, load_classifier
from adue_sklearn.features._model.warnings import warn_of_cut_texts
from adue_sklearn.features.extractor import collect_features

Rows = npt.NDArray[np.float32]


class CachedRow(NamedTuple):
    """The features of a text, and whether the model read only its start."""

    features: Rows
    truncated: bool


#: What decides a text's features, beside the text.
_IDENTITY = ("model", "base_model", "adapter_sha256", "revision", "view", "max_length", "precision")


@dataclass(eq=False, repr=False)
class LoraFeatureExtractor(TransformerMixin, BaseEstimator):
    """Turn texts into the features that enter a LoRA classifier's head.

    Nothing is fitted: the model, its head and its class names do not change. A text goes through
    the model once; after that its features come from the cache, in every clone of this transformer
    and so in a whole search. A search with several processes needs a folder as cache. A model whose
    files were rewritten counts as another model.

    In scikit-learn's own ``Pipeline`` you must pass the head yourself (``STEP__init_W``, ...).
    Otherwise the last step fits its own head, and its predictions are not the model's.

    Parameters are stored as given. Pass folders as str if skops should load the extractor with only
    our classes as trusted types; ``pathlib`` objects need ``"pathlib.PosixPath"``.

    Parameters
    ----------
    adapter : path-like or str
        A peft adapter folder, a merged model, or a hub name of either.
    cache : {"memory"}, path-like or None, default="memory"
        Where to store features by text, model, ``max_length`` and precision: in this process, in a
        folder (shared by processes and permanent), or nowhere. ``clear_cache`` empties memory.
    base_model : path-like or str, default=None
        The adapter's base model, if not the one it names.
    classes : list of str, default=None
        Class names in the order of the head's rows; by default the model's ``id2label``.
    max_length : int, default=None
        Maximum tokens per text; by default what the model allows.
    device : str, default="auto"
        ``"auto"`` is a GPU if there is one, else the CPU.
    dtype : str, default=None
        Precision to run in, such as ``"float32"``; by default float32 on a CPU, bfloat16 on a GPU.
    batch_tokens : int, default=8192
        Maximum padded tokens per batch.
    features : {"last", "head"}, default="last"
        Return the input of the head's last linear layer, or of its first. For a head of one layer
        they are the same.

    Attributes
    ----------
    n_features_out_ : int
        Number of features, set by ``fit``.

    See Also
    --------
    adue_sklearn.UncertaintyPipeline : Passes head and class names on automatically.
    """

    adapter: str | os.PathLike[str]
    _: KW_ONLY
    cache: str | os.PathLike[str] | None = "memory"
    base_model: str | os.PathLike[str] | None = None
    classes: Sequence[str] | None = None
    max_length: int | None = None
    device: str = "auto"
    dtype: str | None = None
    batch_tokens: int = 8192
    features: str = "last"

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the texts and load the model; nothing is learned.

        Parameters
        ----------
        X : list of str, or array or series of them, of shape (n_samples,)
            Texts.
        y : None
            Ignored.

        Returns
        -------
        self : LoraFeatureExtractor
            The same extractor.
        """
        _as_texts(X)
        self.n_features_out_ = self._classifier().n_features
        return self

    def transform(self, X: Any) -> Rows:
        """Return the features of texts, from the cache if possible.

        Parameters
        ----------
        X : list of str, or array or series of them, of shape (n_samples,)
            Texts.

        Returns
        -------
        features : ndarray of float32 of shape (n_samples, n_features)
            What enters the head's last linear layer, or its first (parameter ``features``).

        Raises
        ------
        ValueError
            If ``X`` is not a sequence of texts, or the model cannot be used.

        Warns
        -----
        UserWarning
            If texts are longer than ``max_length``, so that the model read only their start, now
            or when their cached features were computed.
        """
        texts = _as_texts(X)
        if not (self.cache is None or isinstance(self.cache, str | os.PathLike)):
            raise TypeError(
                f"cache is a {type(self.cache).__name__}; expected 'memory', a folder or None."
            )
        if "\0" in str(self.cache):
            raise ValueError(
                f"cache is {self.cache!r}, which holds a null character; expected "
                "'memory', a folder or None."
            )
        classifier = self._classifier()
        cache = _open_cache(self.cache, classifier, self._files())
        by_key = {_key(text): text for text in texts}
        known = cache.read()
        if not by_key.keys() <= known.keys():
            with cache.exclusive():
                known = cache.read()  # another process may have run some in the meantime
                missing = {key: text for key, text in by_key.items() if key not in known}
                known = {**known, **self._run(classifier, missing, cache)}
        rows = [known[_key(text)] for text in texts]
        n_cut = sum(row.truncated for row in rows)
        warn_of_cut_texts(n_cut, len(rows), classifier.max_length)
        return np.stack([row.features for row in rows])

    @staticmethod
    def clear_cache() -> None:
        """Clear this process's memory of the features of every model, and of the model.

        After that, texts go through the model again in every extractor with ``cache="memory"``.
        A cache folder is not changed; delete it to clear it.
        """
        _MemoryCache.clear()
        _load.cache_clear()

    def _run(
        self, classifier: LoadedClassifier, missing: dict[bytes, str], cache: _Cache
    ) -> dict[bytes, CachedRow]:
        """Run texts through the model and keep their features."""
        if not missing:
            return {}
        batch = collect_features(classifier, list(missing.values()), self.batch_tokens)
        rows = map(CachedRow, batch.features, batch.truncated.tolist())
        fresh = dict(zip(missing, rows, strict=True))
        cache.add(fresh)
        return fresh

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return names for the output features.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of str of shape (n_features,)
            ``h0``, ``h1``, and so on.
        """
        check_is_fitted(self)
        return np.array([f"h{i}" for i in range(self.n_features_out_)], dtype=object)

    def head(self) -> Head:
        """Return the classifier's head, which loads the model; no data is needed.

        Returns
        -------
        Head
            What ``transform`` gives enters its first layer. Its ``classes`` are the names of the
            classes, if known, and row numbers otherwise.
        """
        classifier = self._classifier()
        names = classifier.classes
        if names is None:
            return classifier.head
        return replace(classifier.head, classes=np.array(names))

    def __sklearn_is_fitted__(self) -> bool:
        return "n_features_out_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if self.__sklearn_is_fitted__():  # perhaps on a machine with another device
            self.device = device_here(self.device)

    def _classifier(self) -> LoadedClassifier:
        return _load(
            _path("adapter", self.adapter),
            None if self.base_model is None else _path("base_model", self.base_model),
            None if self.classes is None else _names(self.classes),
            None if self.max_length is None else _count(self.max_length),
            str(parse_device(self.device)),
            None if self.dtype is None else _precision(self.dtype),
            check_view(self.features),
            self._files(),
        )

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        """Return names, sizes and times of the model's files: written anew, it is another model."""
        folders = [Path(place) for place in (self.adapter, self.base_model) if place is not None]
        config = folders[0] / "adapter_config.json"
        if len(folders) == 1 and config.is_file():
            named = read_adapter_config(config).get("base_model_name_or_path")
            folders += [Path(named)] if named else []
        return tuple(
            (str(file), file.stat().st_size, file.stat().st_mtime_ns)
            for folder in folders
            if folder.is_dir()
            for file in sorted(folder.iterdir())
            if file.is_file()
        )


# One model at a time: clones in a search share it, and an old one does not hold memory.
@lru_cache(maxsize=1)
def _load(
    adapter: str,
    base_model: str | None,
    classes: tuple[str, ...] | None,
    max_length: int | None,
    device: str,
    dtype: torch.dtype | None,
    features: View,
    files: tuple[tuple[str, int, int], ...],
) -> LoadedClassifier:
    return load_classifier(
        adapter,
        base_model=base_model,
        classes=classes,
        max_length=max_length,
        device=device,
        dtype=dtype,
        features=features,
    )


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a folder or a hub name.")
    return str(os.fspath(value))


def _names(classes: Any) -> tuple[str, ...]:
    names = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"classes is {type(classes).__name__} ({str(names)[:60]}); expected a list of str."
        )
    return tuple(names)


def _count(max_length: Any) -> int:
    return int(check_scalar(max_length, "max_length", Integral, min_val=1))


def _precision(dtype: Any) -> torch.dtype:
    precision = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(precision, torch.dtype):
        raise ValueError(
            f"dtype is {dtype!r}, which torch does not know; expected 'float32', 'bfloat16' or "
            "'float16'."
        )
    return precision


class _MemoryCache:
    """Keep rows in this process."""

    #: A dictionary a model.
    _models: dict[str, dict[bytes, CachedRow]] = {}

    def __init__(self, rows: dict[bytes, CachedRow]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, identity: str) -> Self:
        """Return what is kept of a model."""
        return cls(cls._models.setdefault(identity, {}))

    @classmethod
    def clear(cls) -> None:
        cls._models.clear()

    def exclusive(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def read(self) -> dict[bytes, CachedRow]:
        return self._rows

    def add(self, rows: dict[bytes, CachedRow]) -> None:
        self._rows.update(rows)


class _FolderCache:
    """Keep rows in files that are written once: no reader ever sees half of one."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder / identity

    def exclusive(self) -> AbstractContextManager[Any]:
        """Let one process at a time run what is missing, so that no text is run twice."""
        make_folder(self._folder)
        return FileLock(self._folder / ".lock")

    def read(self) -> dict[bytes, CachedRow]:
        rows: dict[bytes, CachedRow] = {}
        for file in sorted(self._folder.glob("*.safetensors")):
            try:
                rows |= _read_rows(file)
            except (OSError, SafetensorError, ValueError) as error:
                warn(
                    f"cache: '{file}' cannot be read ({error}). Its texts are run through the "
                    "model again. Delete the file."
                )
        return rows

    def add(self, rows: dict[bytes, CachedRow]) -> None:
        keys = np.stack([np.frombuffer(key, dtype=np.uint8) for key in rows])
        content: dict[str, npt.NDArray[Any]] = {
            "keys": keys,
            "features": np.stack([row.features for row in rows.values()]),
            "truncated": np.array([row.truncated for row in rows.values()]),
        }
        clear_leftovers(self._folder, lambda name: name.endswith(".safetensors"))
        write_file(self._folder / f"{uuid.uuid4().hex}.safetensors", save(content))


def _read_rows(file: Path) -> dict[bytes, CachedRow]:
    """Return the rows of one file of a cache; ValueError where it does not hold what it should."""
    part = load_file(file)
    if not {"keys", "features", "truncated"} <= part.keys():  # an older layout: to be run again
        return {}
    keys, features, truncated = part["keys"], part["features"], part["truncated"]
    kinds = [(str(array.dtype), array.ndim) for array in (keys, features, truncated)]
    fits = (
        kinds == [("uint8", 2), ("float32", 2), ("bool", 1)]
        and len(keys) == len(features) == len(truncated)
        and keys.shape[1] == hashlib.sha256().digest_size
        and bool(np.isfinite(features).all())
    )
    if not fits:
        raise ValueError("its arrays are not those of a row cache")
    return dict(zip(map(bytes, keys), map(CachedRow, features, truncated.tolist()), strict=True))


_Cache: TypeAlias = _MemoryCache | _FolderCache


def _open_cache(
    cache: str | os.PathLike[str] | None,
    classifier: LoadedClassifier,
    files: tuple[tuple[str, int, int], ...],
) -> _Cache:
    if cache is None:
        return _MemoryCache({})  # for these texts alone
    # The adapter's hash says nothing of the base model's weights or the tokenizer: their files do.
    facts: dict[str, Any] = {name: classifier.provenance.get(name) for name in _IDENTITY}
    facts["files"] = files
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if cache == "memory":
        return _MemoryCache.of(identity)
    return _FolderCache(Path(cache), identity)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _as_texts(X: Any) -> list[str]:
    """Return a list of texts from a list, array or series."""
    if isinstance(X, Iterable) and not isinstance(X, str | list | tuple):
        shape = getattr(X, "shape", None)
        if shape is not None and len(shape) != 1:
            raise ValueError(
                f"X has shape {tuple(shape)}; expected one text per row, shape (n_samples,). Pass "
                "a single column, such as X['text'] or X[:, 0]."
            )
        X = list(X)
    return check_texts(X)

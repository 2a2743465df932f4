"""Features of rows with second views of the same rows, as one object that scikit-learn can cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import _safe_indexing
from torch import Tensor

from adue_sklearn._utils.validation import naming

_EXAMPLE = "Views(features, sidekick=log_probabilities)"


def text_digests(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each text, by which rows of the same text are found again.

    Parameters
    ----------
    texts : iterable of str of length n_samples
        Texts.

    Returns
    -------
    ndarray of uint64 of shape (n_samples,)
        The first eight bytes of the SHA-256 of each text in UTF-8, little-endian.

    Examples
    --------
    >>> from adue_sklearn._utils.views import text_digests
    >>> digests = text_digests(["good", "bad", "good"])
    >>> bool(digests[0] == digests[2]), bool(digests[0] == digests[1])
    (True, False)
    """
    raw = b"".join(
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8] for text in texts
    )
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


class Views:
    """Features of rows, with named second views of the same rows.

    Wherever an estimator of this package takes ``X``, it takes ``Views``: most scores read
    ``main``, and scores such as :class:`CompanionScorer` read the view that they are told to.
    Searches, folds and pipelines of scikit-learn cut all views alike. Objects do not change.

    Parameters
    ----------
    main : array-like, data frame or torch.Tensor of shape (n_samples, n_features)
        Features that enter the head.
    texts : sequence of str of length n_samples, default=None
        The rows' texts. Only a digest of each is kept, by which scores notice rows that their
        second opinion was trained on.
    text_digests : array of uint64 of shape (n_samples,), default=None
        Those digests, in place of ``texts``; a feature store has them.
    **blocks : array-like of shape (n_samples, n_columns)
        Second views by name: real numbers, such as another classifier's log-probabilities or
        another layer's features. A row of NaN is a row without this view.

    Attributes
    ----------
    main : array-like, data frame or torch.Tensor
        As given.
    names : tuple of str
        Names of the second views.
    text_digests : ndarray of uint64 of shape (n_samples,) or None
        Digests of the texts.
    shape : tuple of int
        That of ``main``.

    Raises
    ------
    ValueError
        If ``main`` is no matrix, if views, texts or digests have another number of rows, or if
        views are not matrices of real numbers with a column or more.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import Views
    >>> X = Views(np.eye(3), sidekick=np.log([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
    >>> X.names, len(X[1:]), X[1:].block("sidekick").shape
    (('sidekick',), 2, (2, 2))
    """

    def __init__(
        self,
        main: Any,
        /,
        *,
        texts: Sequence[str] | None = None,
        text_digests: Any = None,
        **blocks: Any,
    ) -> None:
        if isinstance(main, Views):
            raise TypeError("main is a Views already; use main.with_blocks(...) to add views.")
        # Lists become arrays; data frames keep their feature names.
        self._main = main if hasattr(main, "shape") else np.asarray(main)
        if len(self.shape) != 2:
            raise ValueError(f"main has shape {self.shape}; expected (n_samples, n_features).")
        if "main" in blocks:
            raise ValueError("main was given twice; a second view needs another name.")
        self._blocks = {name: _block(name, block, len(self)) for name, block in blocks.items()}
        if texts is not None:
            if text_digests is not None:
                raise ValueError("texts and text_digests were both given; pass one of them.")
            text_digests = _digests_of(texts)
        self._text_digests = None
        if text_digests is not None:
            self._text_digests = _check_digests(text_digests, len(self))
        # By view: digests of the texts that what made it was trained on.
        self._taught_texts: dict[str, npt.NDArray[np.uint64]] = {}

    @property
    def main(self) -> Any:
        """Features that enter the head."""
        return self._main

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the second views."""
        return tuple(self._blocks)

    @property
    def text_digests(self) -> npt.NDArray[np.uint64] | None:
        """Digests of the texts."""
        return self._text_digests

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features."""
        return tuple(self._main.shape)

    def block(self, name: str) -> npt.NDArray[np.float64]:
        """Return one of the second views.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        ndarray of float64 of shape (n_samples, n_columns)
            Read-only.

        Raises
        ------
        KeyError
            If there is no view of this name.
        """
        if name not in self._blocks:
            known = ", ".join(self._blocks) or "none"
            raise KeyError(f"X has no view {name!r}; its views are: {known}.")
        return self._blocks[name]

    def with_blocks(self, **blocks: Any) -> Views:
        """Return the same rows with more views, or others in place of those of the same name.

        Parameters
        ----------
        **blocks : array-like of shape (n_samples, n_columns)
            Views by name.

        Returns
        -------
        Views
            A new object.
        """
        merged: dict[str, Any] = {**self._blocks, **blocks}
        found = Views(self._main, text_digests=self._text_digests, **merged)
        kept = self._taught_texts.items()
        found._taught_texts = {name: taught for name, taught in kept if name not in blocks}
        return found

    def with_opinion(self, name: str, block: Any, taught_texts: npt.NDArray[np.uint64]) -> Views:
        """Return the same rows with a text classifier's view, and what it was trained on.

        Scores that read the view notice rows whose texts the classifier was trained on.

        Parameters
        ----------
        name : str
            Name of the view.
        block : array-like of shape (n_samples, n_columns)
            The view.
        taught_texts : ndarray of uint64
            Digests of the texts that the classifier was trained on.

        Returns
        -------
        Views
            A new object.
        """
        found = self.with_blocks(**{name: block})
        found._taught_texts[name] = taught_texts
        return found

    def taught(self, name: str) -> npt.NDArray[np.bool_]:
        """Return the rows whose texts the maker of a view was trained on, as far as is known.

        Parameters
        ----------
        name : str
            Name of the view.

        Returns
        -------
        ndarray of bool of shape (n_samples,)
            False where it cannot be told.
        """
        if self._text_digests is None or name not in self._taught_texts:
            return np.zeros(len(self), dtype=bool)
        return np.isin(self._text_digests, self._taught_texts[name])

    def with_texts(self, texts: Sequence[str]) -> Views:
        """Return the same rows with digests of their texts.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts in the order of the rows.

        Returns
        -------
        Views
            A new object.
        """
        blocks: dict[str, Any] = self._blocks
        return self._keeping_taught(Views(self._main, texts=texts, **blocks))

    def with_main(self, main: Any) -> Views:
        """Return the same rows with other features.

        Parameters
        ----------
        main : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        Views
            A new object.
        """
        blocks: dict[str, Any] = self._blocks
        return self._keeping_taught(Views(main, text_digests=self._text_digests, **blocks))

    def _keeping_taught(self, other: Views) -> Views:
        """Return an object with the same views, which also knows what their makers were taught."""
        other._taught_texts = dict(self._taught_texts)
        return other

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # Pickle keeps no flags of arrays.
        self._blocks = {name: _read_only(block) for name, block in self._blocks.items()}
        if self._text_digests is not None:
            self._text_digests = _read_only(self._text_digests)

    def __len__(self) -> int:
        return int(self._main.shape[0])

    def __getitem__(self, rows: Any) -> Views:
        """Return some of the rows: a slice, numbers or a mask."""
        if isinstance(rows, tuple):  # as scikit-learn writes it: rows, ...
            if len(rows) != 2 or rows[1] is not Ellipsis:
                raise TypeError("X is a Views, which has rows only; use X.main for columns.")
            rows = rows[0]
        if isinstance(rows, int | np.integer):
            raise TypeError("X is a Views; index it with several rows, such as X[:1].")
        numbers = np.ascontiguousarray(np.arange(len(self))[as_rows(rows)])
        digests = None if self._text_digests is None else self._text_digests[numbers]
        blocks: dict[str, Any] = {name: block[numbers] for name, block in self._blocks.items()}
        main = _safe_indexing(self._main, numbers)
        return self._keeping_taught(Views(main, text_digests=digests, **blocks))

    def __array__(self, *args: Any, **kwargs: Any) -> npt.NDArray[Any]:
        raise TypeError(
            "X is a Views, not an array; expected features. Pass X.main, or a scorer of this "
            "package, which reads views."
        )

    def __repr__(self) -> str:
        views = "".join(
            f", {name}: {block.shape[1]} columns" for name, block in self._blocks.items()
        )
        return f"Views({len(self)} rows, {self.shape[1]} features{views})"


def as_rows(rows: Any) -> Any:
    """Return an index of rows that numpy understands."""
    return rows.cpu().numpy() if isinstance(rows, Tensor) else rows


def main_of(X: Any) -> Any:
    """Return the features that enter the head, of views or of an array as it is."""
    return X.main if isinstance(X, Views) else X


def _block(name: str, block: Any, n_rows: int) -> npt.NDArray[np.float64]:
    with naming(name, f"real numbers, shape (n_samples, n_columns), as in {_EXAMPLE}"):
        if isinstance(block, Tensor):
            block = block.detach().cpu()
            block = (block if block.is_complex() else block.double()).numpy()
        array = np.asarray(block)
        if array.dtype.kind == "c":
            raise ValueError(f"the view {name!r} holds complex numbers.")
        array = array.astype(np.float64, copy=False)
        if array.ndim != 2 or array.shape[0] != n_rows or array.shape[1] == 0:
            raise ValueError(
                f"the view {name!r} has shape {array.shape}, but main has {n_rows} rows."
            )
    return _read_only(array)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the same values as an array that cannot be written to."""
    array = array.view()
    array.flags.writeable = False
    return array


def _digests_of(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    iterable = hasattr(texts, "__iter__") and not isinstance(texts, str)
    if not iterable or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts is a {type(texts).__name__}; expected a sequence of str.")
    return text_digests(texts)


def _check_digests(digests: Any, n_rows: int) -> npt.NDArray[np.uint64]:
    array = np.asarray(digests)
    if array.shape != (n_rows,) or array.dtype != np.uint64:
        raise ValueError(
            f"texts: {array.shape} digests of dtype {array.dtype} were given for {n_rows} rows; "
            "expected one text, or one digest of uint64, for each row of main."
        )
    return _read_only(array)

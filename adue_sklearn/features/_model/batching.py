"""Texts to padded batches: tokenise, sort by length, pack under a token budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from adue_sklearn.features._model.reading import TOKENIZER_MEND, reading

PaddingSide = Literal["right", "left"]

#: Full batches that a window holds at least. Simulated with log-normal lengths (sigma 0.7) and
#: batches of 8,192 tokens, 12 to 15 of them cost 7 to 13 % padding; 1 cost a half and more.
_WINDOW_BATCHES = 12


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of some texts.

    Attributes
    ----------
    columns : dict of str to list of list of int
        ``input_ids`` and, where the tokenizer gives them, ``token_type_ids``; one list a text.
    truncated : ndarray of shape (n,), bool
        Texts that were longer than the maximal length.
    numbers : ndarray of shape (n,), int64
        Row numbers of the texts in the input, for messages.
    """

    columns: dict[str, list[list[int]]]
    truncated: npt.NDArray[np.bool_]
    numbers: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text, shape (n,)."""
        return np.array([len(ids) for ids in self.columns["input_ids"]], dtype=np.int64)

    def part(self, rows: range) -> Encoded:
        """Return some consecutive texts."""
        here = slice(rows.start, rows.stop)
        columns = {name: values[here] for name, values in self.columns.items()}
        return Encoded(columns, self.truncated[here], self.numbers[here])


def check_texts(texts: Any) -> list[str]:
    """Return the texts as a list; raise if they are not a non-empty sequence of str."""
    # Sets have no order and mappings give their keys: rows would not be what was meant.
    no_list = isinstance(texts, str | bytes | Mapping | Set) or not isinstance(texts, Iterable)
    if no_list or getattr(texts, "ndim", 1) == 0:
        raise ValueError(f"texts: expected a list of str, got one {type(texts).__name__}.")
    listed = list(texts)
    if not listed:
        raise ValueError("texts: expected at least one text, got an empty list.")
    for row, text in enumerate(listed):
        if not isinstance(text, str):
            raise ValueError(
                f"texts: expected a list of str, but row {row} is {type(text).__name__} ({text!r})."
            )
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(
                f"texts: row {row} holds half a surrogate pair ({text!r}); expected whole "
                "characters. The text was cut or decoded wrongly."
            )
    return listed


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    vocabulary: int,
    numbers: Sequence[int] | None = None,
) -> Encoded:
    """Tokenise texts, cutting those longer than `max_length`.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer.
    texts : sequence of str
        The texts.
    max_length : int
        Most tokens a text may have, special tokens included.
    vocabulary : int
        Rows of the model's embedding; larger token ids are an error here, not in the model.
    numbers : sequence of int, optional
        Row numbers of the texts, for messages; by default from 0.

    Returns
    -------
    Encoded

    Raises
    ------
    ValueError
        A text without tokens, or a tokenizer that does not belong to the model.
    """
    rows = np.array(range(len(texts)) if numbers is None else numbers, dtype=np.int64)
    columns = _tokenise(tokenizer, texts)
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    truncated = lengths > max_length
    cut = np.flatnonzero(truncated).tolist()
    if cut:
        shorter = _tokenise(tokenizer, [texts[row] for row in cut], max_length)
        for name, values in shorter.items():
            for row, value in zip(cut, values, strict=True):
                columns[name][row] = value
    for row in np.flatnonzero(lengths == 0)[:1]:
        raise ValueError(
            f"texts: row {rows[row]} ({texts[row]!r}) has no tokens with this tokenizer; "
            "drop or fill the empty texts, or leave them out with skip_empty=True (--skip-empty)."
        )
    largest = max(max(ids) for ids in columns["input_ids"])
    if largest >= vocabulary:
        raise ValueError(
            f"tokenizer: '{_place(tokenizer)}' gives token id {largest}, but the model has "
            f"{vocabulary} embeddings; the tokenizer does not belong to this model."
        )
    return Encoded(columns, truncated, rows)


def _tokenise(
    tokenizer: Any, texts: Sequence[str], max_length: int | None = None
) -> dict[str, list[list[int]]]:
    # verbose=False: what is too long is cut and counted, there is nothing to warn about.
    with reading(_place(tokenizer), TOKENIZER_MEND):
        result = tokenizer(
            list(texts),
            truncation=max_length is not None,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
    return {name: result[name] for name in ("input_ids", "token_type_ids") if name in result}


def _place(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def windows(lengths: npt.NDArray[np.int64], shard_rows: int, batch_tokens: int) -> Iterator[range]:
    """Divide rows into those that are sorted by length together: shards that fill a few batches.

    The more rows are sorted together the fewer tokens are padding; the fewer, the less is lost
    with an interruption. What counts for both is the number of batches, not of rows.

    Examples
    --------
    >>> import numpy as np
    >>> list(windows(np.array([9, 9, 9, 2, 2, 2]), shard_rows=2, batch_tokens=1))
    [range(0, 2), range(2, 6)]
    """
    start, tokens, enough = 0, 0, _WINDOW_BATCHES * batch_tokens
    for shard in range(0, len(lengths), shard_rows):
        tokens += int(lengths[shard : shard + shard_rows].sum())
        stop = min(shard + shard_rows, len(lengths))
        if tokens >= enough or stop == len(lengths):
            yield range(start, stop)
            start, tokens = stop, 0


def buckets(lengths: npt.NDArray[np.int64], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Pack rows of like length into batches of at most `batch_tokens` padded tokens.

    Longest first, so that a batch that does not fit the memory fails at the start. A row longer
    than the budget is a batch of its own.

    Examples
    --------
    >>> import numpy as np
    >>> [rows.tolist() for rows in buckets(np.array([2, 9, 3, 2]), batch_tokens=8)]
    [[1], [2, 0], [3]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(
    encoded: Encoded,
    rows: npt.NDArray[np.int64],
    *,
    names: Sequence[str],
    pad_id: int,
    side: PaddingSide,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Return the model inputs `names` of these rows, padded to the longest: (B, T) each."""
    mask = padding_mask(encoded.lengths[rows], side)
    inputs = {}
    for name in names:
        if name == "attention_mask":
            inputs[name] = torch.from_numpy(mask.astype(np.int64))
        elif name in encoded.columns:
            padded = np.full(mask.shape, pad_id if name == "input_ids" else 0, dtype=np.int64)
            padded[mask] = np.concatenate([encoded.columns[name][row] for row in rows])
            inputs[name] = torch.from_numpy(padded)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def padding_mask(lengths: npt.NDArray[np.int64], side: PaddingSide) -> npt.NDArray[np.bool_]:
    """Return which tokens are no padding, of rows padded to the longest: (B, T).

    Examples
    --------
    >>> import numpy as np
    >>> padding_mask(np.array([1, 2]), "left")
    array([[False,  True],
           [ True,  True]])
    """
    width = int(lengths.max())
    column = np.arange(width)
    mask: npt.NDArray[np.bool_] = (
        column < lengths[:, None] if side == "right" else column >= width - lengths[:, None]
    )
    return mask

"""The tokenizer of a classifier: found, checked, its pad token and length settled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from adue_sklearn._utils.validation import warn
from adue_sklearn.features._model.checkpoint import find_file
from adue_sklearn.features._model.reading import TOKENIZER_MEND, reading
from adue_sklearn.features._store.checks import check_count

DEFAULT_MAX_LENGTH = 512
_SANE_LENGTH = 1_000_000  # tokenizers without a limit say about 1e30
_SAVED = "tokenizer.json"
_FILES = (
    _SAVED,
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SENTENCE = "It isn't a long sentence, but it has 12 words."


def load_tokenizer(tokenizer: Any, sources: Sequence[str]) -> Any:
    """Return a tokenizer: the given one, or the one of the first source that has one.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase, path-like, str or None
        What the caller gave.
    sources : sequence of str
        Folders or hub names to look into, best first.

    Raises
    ------
    ValueError
        No source has a tokenizer, or it cannot be loaded.
    """
    if tokenizer is not None and not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    looked_in = list(sources) if tokenizer is None else [os.fspath(tokenizer)]
    # Asked for a folder without tokenizer files, transformers may make up an empty tokenizer.
    source = next((place for place in looked_in if _has_tokenizer(place)), None)
    if source is None:
        raise ValueError(
            f"tokenizer: not found in {looked_in}; expected its files in one of these. "
            "Pass one with tokenizer=."
        )
    with reading(source, TOKENIZER_MEND):
        loaded = AutoTokenizer.from_pretrained(source)
        _compare_with_saved(loaded, source, find_file(source, _SAVED))
    return loaded


def _has_tokenizer(source: str) -> bool:
    return any(find_file(source, name, argument="tokenizer") is not None for name in _FILES)


def _compare_with_saved(tokenizer: Any, source: str, saved: Path | None) -> None:
    """Warn where transformers rebuilt a tokenizer by the model's type, not as it was saved."""
    if saved is None:
        return
    as_saved = Tokenizer.from_file(str(saved))
    as_saved.no_padding()  # a saved padding or cut says nothing about how text is read
    as_saved.no_truncation()
    expected = as_saved.encode(_SENTENCE, add_special_tokens=False).ids
    if tokenizer(_SENTENCE, add_special_tokens=False)["input_ids"] != expected:
        warn(
            f"tokenizer: {type(tokenizer).__name__}, which transformers chose for '{source}', "
            f"splits a sentence differently from the saved '{_SAVED}'. If the model was "
            "trained with the saved one, pass tokenizer=PreTrainedTokenizerFast.from_pretrained"
            "(...), or save the tokenizer with the adapter."
        )


def set_pad_token(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer without pad token; give the model its id if it has no usable one.

    The model's own id wins where both have one: its pooling and its positions go by that.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"tokenizer: '{tokenizer.name_or_path}' ({type(tokenizer).__name__}) has no pad token, "
            "which batches need. Set tokenizer.pad_token = tokenizer.eos_token and "
            "model.config.pad_token_id = tokenizer.pad_token_id, as in training, and save both."
        )
    config = model.config.get_text_config()
    pad_id, vocabulary = config.pad_token_id, model.get_input_embeddings().weight.shape[0]
    if pad_id is None or not 0 <= pad_id < vocabulary:
        config.pad_token_id = tokenizer.pad_token_id


def resolve_max_length(max_length: int | None, model: Any, tokenizer: Any) -> int:
    """Return the most tokens of a text: as asked, or what tokenizer and model allow."""
    config = model.config.get_text_config()
    offset, has_table = _position_table(model)
    declared = getattr(config, "max_position_embeddings", None)
    room = declared - offset if isinstance(declared, int) and declared > offset else None
    if max_length is None:
        limits = [tokenizer.model_max_length, room]
        numbers = [limit for limit in limits if isinstance(limit, int | float)]
        sane = [int(limit) for limit in numbers if 1 <= limit < _SANE_LENGTH]
        return min(sane, default=DEFAULT_MAX_LENGTH)
    check_count("max_length", max_length)
    if has_table and room is not None and max_length > room:
        raise ValueError(f"max_length: {max_length} is more than this model's {room} positions.")
    return int(max_length)


def _position_table(model: Any) -> tuple[int, bool]:
    """Positions that a learned table keeps for padding (RoBERTa: 2), and whether there is one."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and last in ("position_embeddings", "wpe"):
            padding = module.padding_idx
            return (0 if padding is None else padding + 1), True
    return 0, False

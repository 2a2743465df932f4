"""What libraries make of damaged files: one error that names the place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from adue_sklearn.exceptions import FeatureMismatchError

TOKENIZER_MEND = "Restore the tokenizer from a copy, or pass another with tokenizer=."
_OTHER_CAUSES = (OSError, MemoryError, torch.OutOfMemoryError)  # these say what is the case


@contextmanager
def reading(place: object, mend: str) -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into a ValueError that names it."""
    try:
        yield
    except _OTHER_CAUSES:
        raise
    except BaseException as error:
        if not _is_of_a_library(error):
            raise
        raise ValueError(f"'{place}' cannot be read ({_words(error)}). {mend}") from error


@contextmanager
def running(place: object) -> Iterator[None]:
    """Put the place of a model into the errors that trying it raises."""
    try:
        yield
    except _OTHER_CAUSES:
        raise
    except (ValueError, FeatureMismatchError) as error:  # ours
        if str(place) in str(error):
            raise
        raise type(error)(f"{error} It was loaded from '{place}'.") from error
    except BaseException as error:
        if not _is_of_a_library(error):
            raise
        raise ValueError(
            f"The model in '{place}' does not run ({_words(error)}). Its files are damaged or do "
            "not belong together; restore them from a copy or save them again."
        ) from error


def _is_of_a_library(error: BaseException) -> bool:
    # A panic in a tokenizer's Rust code is no Exception.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _words(error: BaseException) -> str:
    """Return an error and its type in one line."""
    return f"{type(error).__name__}: {in_one_line(error)}"


def in_one_line(error: BaseException) -> str:
    """Return the message of an error in one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".")

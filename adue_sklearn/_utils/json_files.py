"""Strict reading of JSON from other sources, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

#: Deeper than any document of ours; Python's own JSON and repr fail at about ten times this depth.
_DEEPEST = 100


def read_json(
    file: Path,
    *,
    mend: str = "Restore it from a copy or make it again.",
    error: type[ValueError] = ValueError,
    finite: bool = True,
) -> Any:
    """Return what a JSON file holds.

    Parameters
    ----------
    file : Path
        The file.
    mend : str, optional
        A sentence for the error that says how to fix it.
    error : type, default=ValueError
        Raised if the file cannot be read or is not JSON.
    finite : bool, default=True
        Reject NaN and Infinity, which JSON lacks.
    """
    try:
        content = file.read_bytes()
    except OSError as problem:
        raise error(f"'{file}' cannot be read: {problem.strerror or problem}.") from problem
    try:
        return parse_json(content, finite=finite)
    except ValueError as problem:
        raise error(f"'{file}' is not valid JSON ({problem}). {mend}") from problem


def parse_json(content: bytes, *, finite: bool = True) -> Any:
    """Return what JSON in UTF-8 holds; raise a ValueError for anything else.

    Examples
    --------
    >>> parse_json(b'[1, NaN]')
    Traceback (most recent call last):
    ...
    ValueError: it holds NaN, which is not a JSON number
    """
    too_deep = ValueError(f"it is nested deeper than {_DEEPEST} levels")
    try:
        document = json.loads(
            content.decode("utf-8"), parse_constant=_refuse_constant if finite else None
        )
    except RecursionError:
        raise too_deep from None
    level = [document]
    for _ in range(_DEEPEST):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise too_deep
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not a JSON number")

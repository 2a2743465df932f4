"""Errors name the argument and what was expected; warnings point at the caller."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PASSED_OVER = ("adue_sklearn", "copy", "joblib", "pickle", "sklearn")


@contextmanager
def naming(argument: str, expected: str = "") -> Iterator[None]:
    """Add the argument's name and what was expected to an error that lacks them.

    Examples
    --------
    >>> with naming("p_grid", "numbers above 0"):
    ...     float("a")
    Traceback (most recent call last):
    ...
    ValueError: p_grid: could not convert string to float: 'a'. Expected numbers above 0.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        message = str(error).rstrip()
        named = re.search(rf"\b{argument}\b", message) is not None
        says = re.search(r"\bexpected\b", message, re.IGNORECASE) is not None
        if named and (says or not expected):
            raise
        message = message if named else f"{argument}: {message}"
        if expected and not says:
            message += f"{'' if message.endswith('.') else '.'} Expected {expected}."
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(message) from error


def share_hint(value: Any) -> str:
    """Return a hint if a share was probably given in percent, else an empty string.

    Examples
    --------
    >>> share_hint(2)
    ' For 2 % write 0.02.'
    >>> share_hint(-1)
    ''
    """
    in_percent = isinstance(value, int | float) and 1 < value <= 100
    return f" For {value:g} % write {value / 100:g}." if in_percent else ""


def callers_level() -> int:
    """Return the ``stacklevel`` with which our caller's warning points outside the package.

    Frames of this package, scikit-learn (pipelines, searches), joblib and what copies or loads an
    estimator are passed over.
    """
    level, frame = 0, sys._getframe(0).f_back
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _PASSED_OVER:
            break
        frame = frame.f_back
    return level


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn whoever called the package, as :func:`callers_level` finds them."""
    warnings.warn(message, category, stacklevel=callers_level())

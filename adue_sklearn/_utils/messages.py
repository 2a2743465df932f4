"""Text for people: shares in percent, and text from other sources made harmless."""

from __future__ import annotations

import re

#: C0 but tab and line feed, DEL and C1; line separators; what turns the direction of text; lone
#: surrogates, which no stream takes.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return text with control characters written out, as Python and JSON write them.

    Examples
    --------
    >>> print(printable("red: \x1b[31m, backwards: \u202e"))
    red: \u001b[31m, backwards: \u202e
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    r"""Return text as `printable` does, with line feeds and tabs written out too.

    Examples
    --------
    >>> print(one_line("two\nlines"))
    two\nlines
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def percent(share: float) -> str:
    """Return a share as a percentage; 100 only if it is all."""
    digits = 12 if 0.9999 < share < 1 else 4
    return f"{100 * share:.{digits}g} %"

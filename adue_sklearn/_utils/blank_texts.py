"""Texts without anything to read."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Self

_MOST_NAMED = 5


def is_blank(text: str) -> bool:
    r"""Tell whether a text is empty or holds only white space, controls and zero-width characters.

    Examples
    --------
    >>> [is_blank(text) for text in ("", " \n\xa0", "\u200b\ufeff", "\x00", ".", "\U0001f600")]
    [True, True, True, True, False, False]
    """
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


class BlankRows:
    """Counts rows whose text is blank, and keeps the numbers of the first ones.

    Attributes
    ----------
    n : int
        Number of blank rows.
    first : list of int
        Numbers of the first ones, from 0.

    Examples
    --------
    >>> print(BlankRows.of(["a", "", "b", " "]).among(4))
    2 of 4 texts (50.0%) are empty or blank (rows 1, 3, counted from 0)
    """

    def __init__(self) -> None:
        self.n = 0
        self.first: list[int] = []

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Return the blank rows of some texts."""
        rows = cls()
        for row, text in enumerate(texts):
            if is_blank(text):
                rows.add(row)
        return rows

    def add(self, row: int) -> None:
        """Count a row."""
        self.n += 1
        if len(self.first) < _MOST_NAMED:
            self.first.append(row)

    def among(self, n_texts: int) -> str:
        """Say, without a full stop, how many of all texts are blank, and which."""
        more = ", ..." if self.n > len(self.first) else ""
        rows = f"row{'' if self.n == 1 else 's'} {', '.join(map(str, self.first))}{more}"
        are = "is" if self.n == 1 else "are"
        return (
            f"{self.n} of {n_texts} texts ({self.n / n_texts:.1%}) {are} empty or blank ({rows}, "
            "counted from 0)"
        )

"""A table as cells of text, for every place that shows one: text, a terminal, a page."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


class Column(NamedTuple):
    """A column: its heading, and whether its cells are numbers, which stand on the right."""

    heading: str
    of_numbers: bool = True


@dataclass(frozen=True)
class Table:
    """What a table says; how it looks is decided where it is shown.

    Parameters
    ----------
    title : str
        One line above it.
    columns : sequence of Column
        Its columns.
    rows : sequence of sequence of str
        The cells of each row. Where there are fewer than columns, the last one spans the rest.
    notes : sequence of str, default=()
        Lines below it.
    stressed : collection of str, default=()
        First cells of the rows that matter most.

    Examples
    --------
    >>> print(Table("Two rows", [Column("name", False), Column("%")], [["a", "1"], ["bcdef", "2"]]))
    Two rows
    <BLANKLINE>
    name   %
    -----  -
    a      1
    bcdef  2
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    stressed: Collection[str] = ()

    @property
    def headings(self) -> list[str]:
        """The headings of its columns."""
        return [column.heading for column in self.columns]

    def spans(self, row: Sequence[str]) -> bool:
        """Tell whether the last cell of a row spans several columns."""
        return len(row) < len(self.columns)

    def only(self, columns: Sequence[int]) -> Table:
        """Return the table with some of its columns."""
        rows = [row if self.spans(row) else [row[n] for n in columns] for row in self.rows]
        return replace(self, columns=[self.columns[n] for n in columns], rows=rows)

    def __str__(self) -> str:
        """Return plain text."""
        whole = [row for row in self.rows if not self.spans(row)]
        widths = [max(map(len, cells)) for cells in zip(self.headings, *whole, strict=True)]
        lines = [self.headings, ["-" * width for width in widths], *self.rows]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, "", *text, *(["", *self.notes] if self.notes else [])])

    def to_html(self) -> str:
        """Return a plain HTML table with title and notes."""
        parts = [_element("p", self.title), "<table><thead><tr>"]
        parts += [_element("th", heading) for heading in self.headings]
        parts.append("</tr></thead><tbody>")
        for row in self.rows:
            span = len(self.columns) - len(row) + 1
            *cells, last = (_element("td", cell) for cell in row)
            last = last if span == 1 else last.replace("<td>", f'<td colspan="{span}">', 1)
            parts.append(f"<tr>{''.join(cells)}{last}</tr>")
        parts.append("</tbody></table>")
        return "".join(parts + [_element("p", note) for note in self.notes])


def _element(tag: str, text: str) -> str:
    return f"<{tag}>{html.escape(text)}</{tag}>"

"""What the command line says: results on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from adue_sklearn._utils.blank_texts import BlankRows
from adue_sklearn._utils.messages import printable
from adue_sklearn._utils.tables import Table


class SafeConsole(Console):
    """A console on which text, wherever it comes from, moves no cursor and sets no title.

    Every text that is printed, in a table or a bar too, is rendered here; what rich itself says to
    the terminal is marked as control.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render to segments, the control characters of text written out."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)


console = SafeConsole()
stderr = SafeConsole(stderr=True)


def tell(message: str) -> None:
    """Print one line as it is: paths may look like markup."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def show(table: Table) -> None:
    """Print a table, and its notes below it; a name too long for its column is wrapped."""
    if table.rows:
        title = Text(table.title, style="table.title")
        shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for heading, of_numbers in table.columns:
            justify: JustifyMethod = "right" if of_numbers else "left"
            shown.add_column(Text(heading), justify=justify, no_wrap=of_numbers)
        for row in table.rows:
            shown.add_row(*map(Text, row), style="bold" if row[0] in table.stressed else None)
        console.print(shown)
    for note in table.notes:
        console.print(Text(note))


def say(kind: str, colour: str, message: str) -> None:
    """Print a warning or an error on standard error."""
    stderr.print(
        Text.assemble((f"{kind}: ", f"bold {colour}"), message), highlight=False, soft_wrap=True
    )


def warn(message: str) -> None:
    """Print a warning on standard error."""
    say("warning", "yellow", message)


def say_left_out(source: str, blank: BlankRows, n_texts: int) -> None:
    """Say which texts --skip-empty leaves out."""
    warn(f"{source}: {blank.among(n_texts)}; left out.")


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar; what is yielded takes numbers of rows that are done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task(what, total=total)
        yield lambda rows: bar.advance(task, rows)


def warning_printer() -> Callable[..., None]:
    """Return what shows our users' warnings in one line, without the place in the code."""
    doubted: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        from adue_sklearn.exceptions import FitRowsWarning

        if issubclass(category, FitRowsWarning):
            if category.__name__ in doubted:  # every fit of a command says it of its own rows
                return
            doubted.add(category.__name__)
        if issubclass(category, UserWarning):
            warn(str(message))

    return show

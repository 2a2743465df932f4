"""The command line, ``adue``: from texts to features, fitted scores, thresholds and answers.

The commands import torch, scikit-learn and the rest when they run, so that help comes at once.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from adue_sklearn.cli.compare import compare
from adue_sklearn.cli.console import console, say, warning_printer
from adue_sklearn.cli.demo import demo
from adue_sklearn.cli.evaluate import evaluate
from adue_sklearn.cli.export import export
from adue_sklearn.cli.extract import extract
from adue_sklearn.cli.fit import fit
from adue_sklearn.cli.predict import predict
from adue_sklearn.cli.report import report
from adue_sklearn.cli.sidekick import sidekick
from adue_sklearn.cli.store import store_commands
from adue_sklearn.cli.threshold import threshold

app = typer.Typer(
    help="Find the answers of a LoRA-tuned text classifier that should not be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
commands = (
    extract, sidekick, fit, threshold, report, predict, evaluate, compare, export, demo,
)  # fmt: skip
for command in commands:
    app.command()(command)
app.add_typer(store_commands, name="store")

# What a command raises on bad input. If the cause is a bug instead, --debug shows where.
_EXPECTED = (ValueError, OSError, ModuleNotFoundError, RuntimeError)


def _show_version(asked: bool) -> None:
    if asked:
        console.print(version("adue-sklearn"), highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Find the answers of a LoRA-tuned text classifier that should not be trusted."""


def main() -> None:
    """Run the command line; bad input ends in one line on stderr and exit status 1."""
    warnings.showwarning = warning_printer()
    try:
        app()
    except _EXPECTED as error:
        if "--debug" in sys.argv:
            say("error", "red", traceback.format_exc())
            sys.exit(1)
        say("error", "red", str(error))
        sys.exit(1)

"""The command line, ``adue``."""

from adue_sklearn.cli.app import app, main

__all__ = ["app", "main"]

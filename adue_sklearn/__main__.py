"""``python -m adue_sklearn`` is ``adue``."""

from adue_sklearn.cli import main

main()

"""The fixtures of the package's tests serve the benchmarks' own."""

from tests.conftest import make_saved_case

__all__ = ["make_saved_case"]

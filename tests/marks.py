"""Why a test lets a warning pass that it is not about: any other one is an error."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def printed_warnings() -> Iterator[None]:
    """Let a command print what is warned about, as for users; it sets how, for this block."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


#: Head and labels were drawn apart, or rows chosen, so that answers and labels do not fit together.
odd_rows = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.FitRowsWarning")

#: Scores of second opinions are fitted on features alone, where they are softmax response.
no_views = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.MissingViewWarning")

#: So few rows that little is learned from them and nothing promised.
few_rows = pytest.mark.filterwarnings(
    "ignore:The original head.* (under|than) 20|No threshold meets|RDEScorer. .* have fewer than"
)

#: Texts are longer than what the tests' small models take.
cut_texts = pytest.mark.filterwarnings("ignore:texts. .* were cut at")

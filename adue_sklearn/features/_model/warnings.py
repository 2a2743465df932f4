"""What may be wrong with texts although every row could be computed."""

from __future__ import annotations

from adue_sklearn._utils.blank_texts import BlankRows
from adue_sklearn._utils.validation import warn


def warn_of_cut_texts(n_cut: int, n_texts: int, max_length: int) -> None:
    """Warn if texts were cut: the model did not see their ends."""
    if n_cut:
        warn(
            f"texts: {n_cut} of {n_texts} ({n_cut / n_texts:.1%}) were cut at {max_length} tokens; "
            "the model did not read the rest. If it was trained with more tokens, extract with "
            "more (max_length=, 'adue extract --max-length') and fit the head on those features: "
            "'adue predict' uses the same limit as the head's features."
        )


def warn_of_blank_texts(blank: BlankRows, n_texts: int) -> None:
    """Warn if texts are blank: the model answers them like any other."""
    if blank.n:
        warn(
            f"texts: {blank.among(n_texts)}. The model answers them like any other text, although "
            "there is nothing to read. Leave them out with --skip-empty ('adue extract', 'adue "
            "predict') or extract_features(..., skip_empty=True)."
        )

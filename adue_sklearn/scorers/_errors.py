"""Whether the fit rows hold errors to learn from, said once for every score that learns them."""

from __future__ import annotations

from adue_sklearn._utils.head import BoolArray, Head
from adue_sklearn._utils.validation import warn


def can_learn(errors: BoolArray, head: Head, *, instead: str) -> bool:
    """Tell whether both errors and correct answers are among the fit rows.

    Parameters
    ----------
    errors : ndarray of bool of shape (n_samples,)
        Where the original head is wrong.
    head : Head
        That head.
    instead : str
        What the score becomes where nothing can be learned, for the warning.

    Raises
    ------
    ValueError
        If a head was given and either kind is missing.

    Warns
    -----
    UserWarning
        The same, where the head was fitted here.
    """
    n_rows, n_errors = len(errors), int(errors.sum())
    if 0 < n_errors < n_rows:
        return True
    if head.given and n_errors:
        raise ValueError(
            f"The original head (init_W, init_b) is wrong on all {n_rows} fit rows, so errors "
            "cannot be compared with correct answers. Check that y and classes are in the order of "
            "the head's rows."
        )
    if head.given:
        raise ValueError(
            f"The original head (init_W, init_b) makes no errors on the {n_rows} fit rows (X, y), "
            "so there is nothing to learn from. A model memorises its training rows: fit on "
            "held-out rows or on more rows, or use SoftmaxResponseScorer."
        )
    found = "is wrong on all of them" if n_errors else "is right on all of them"
    warn(
        f"A head fitted on {n_rows} rows {found} out-of-fold, so there is nothing to learn from. "
        f"The uncertainty is {instead}."
    )
    return False

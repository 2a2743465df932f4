"""Which rows to fit and choose on: folds with errors in each, rows the classifier has not seen."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import fisher_exact
from sklearn.utils import check_random_state, check_scalar

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.folds import Divisible, Fold
from adue_sklearn._utils.row_digests import row_digests, rows_among
from adue_sklearn._utils.validation import naming
from adue_sklearn.scorers import SoftmaxResponseScorer

__all__ = [
    "count_shared_rows",
    "error_stratified_folds",
    "fit_rows_look_memorised",
]


def error_stratified_folds(
    X: Any,
    y: Any,
    init_W: Any,
    init_b: Any = None,
    *,
    classes: Any = None,
    activation: str | None = None,
    n_splits: int = 5,
    random_state: int | None = 0,
) -> list[Fold]:
    """Split rows into folds with equal shares of the original head's errors.

    Copies of a row, such as features of the same text, are in the same fold: in both parts they
    would favour scores that memorise rows.

    Parameters
    ----------
    X : array-like or torch.Tensor of shape (n_samples, n_features)
        Features that enter the head's last linear layer.
    y : array-like of shape (n_samples,)
        True labels, as in an estimator's ``fit``.
    init_W, init_b : array-like, or list of them
        The original head, as in an estimator's ``fit``.
    classes : array-like of shape (n_classes,), default=None
        The labels in the order of the head's rows.
    activation : {"tanh", "gelu", "relu"}, default=None
        What a head of several layers applies between them.
    n_splits : int, default=5
        Number of folds.
    random_state : int or None, default=0
        Seed of the shuffling.

    Returns
    -------
    list of (train, test)
        Row numbers, as accepted by the ``cv`` of scikit-learn's searches.

    Raises
    ------
    ValueError
        If there are fewer errors, or fewer correct answers, than folds.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.model_selection import error_stratified_folds
    >>> X = np.column_stack([np.arange(1.0, 9.0), np.zeros(8)])
    >>> folds = error_stratified_folds(X, [0, 0, 0, 0, 0, 0, 1, 1], np.eye(2), n_splits=2)
    >>> [len(test) for _, test in folds]
    [4, 4]
    """
    check_scalar(n_splits, "n_splits", Integral, min_val=2)
    with naming("random_state", "an int, a numpy RandomState or None"):
        check_random_state(random_state)
    scorer = SoftmaxResponseScorer(activation=activation)
    errors = scorer.fit(X, y, init_W, init_b, classes=classes).errors(X, y)
    known = Divisible(scorer.check_features(X), as_numpy(errors))
    n_errors, n_correct = known.n_errors, known.n_correct
    if min(n_errors, n_correct) < n_splits:
        few, kind = (n_errors, "errors") if n_errors < n_splits else (n_correct, "correct answers")
        n_with_copies = int(errors.sum() if kind == "errors" else (~errors).sum())
        once = ", counting copies of a row once," if few < n_with_copies else ""
        raise ValueError(
            f"The original head makes {few} {kind}{once} on {len(errors)} rows, too few for "
            f"n_splits={n_splits} folds with at least one each. Use fewer folds (--folds), or more "
            "rows that the classifier was not trained on."
        )
    return known.folds(n_splits, random_state)


def fit_rows_look_memorised(
    fit_errors: tuple[int, int], fresh_errors: tuple[int, int], *, significance: float = 0.001
) -> bool:
    """Tell whether the fit rows look like rows that the classifier was trained on.

    Parameters
    ----------
    fit_errors, fresh_errors : (int, int)
        Number of errors and number of rows: for the fit rows, and for rows known to be new.
    significance : float, default=0.001
        Largest probability of a false alarm.

    Returns
    -------
    bool
        True if the error rate of the fit rows is less than half that of the fresh rows and the
        difference is significant (Fisher's exact test, one-sided).

    Examples
    --------
    >>> from adue_sklearn.model_selection import fit_rows_look_memorised
    >>> fit_rows_look_memorised((3, 2605), (290, 1421))
    True
    >>> fit_rows_look_memorised((280, 2256), (235, 1821))
    False
    """
    few, n_fit = _counts("fit_errors", fit_errors)
    many, n_fresh = _counts("fresh_errors", fresh_errors)
    if few / n_fit >= 0.5 * many / n_fresh:
        return False
    table = [[few, n_fit - few], [many, n_fresh - many]]
    return bool(fisher_exact(table, alternative="less").pvalue < significance)


def _counts(name: str, counts: Any) -> tuple[int, int]:
    try:
        errors, rows = (int(count) for count in counts)
    except (TypeError, ValueError, OverflowError, np.ma.MAError) as error:
        raise ValueError(
            f"{name} is {counts!r}; expected two integers, errors and rows."
        ) from error
    if not 0 <= errors <= rows or rows == 0:
        raise ValueError(f"{name} is {counts!r}; expected 0 <= errors <= rows, with rows above 0.")
    return errors, rows


def count_shared_rows(X: Any, other: Any) -> int:
    """Count the rows of ``X`` that are also in ``other``, up to rounding.

    The same text has the same features, up to the last bits of float32 if it was extracted in
    another batch, so shared rows are texts in both sets. Features computed in half precision can
    differ by more, so texts may be missed.

    Parameters
    ----------
    X, other : array of shape (n_samples, n_features)
        Features of one dtype, such as two feature stores'.

    Returns
    -------
    int
        Number of rows of ``X``.

    Raises
    ------
    ValueError
        If they are not matrices of finite numbers, or differ in width or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.model_selection import count_shared_rows
    >>> count_shared_rows(np.eye(3), np.eye(3)[:1])
    1
    """
    rows, others = _matrix("X", X), _matrix("other", other)
    if rows.shape[1] != others.shape[1] or rows.dtype != others.dtype:
        raise ValueError(
            f"X has {rows.shape[1]} features of dtype {rows.dtype}, but other {others.shape[1]} of "
            f"{others.dtype}; expected features of one model in one precision."
        )
    return int(rows_among(rows, row_digests(others)).sum())


def _matrix(name: str, values: Any) -> npt.NDArray[Any]:
    with naming(name, "numbers, shape (n_samples, n_features)"):
        array = as_numpy(values)
        if array.ndim != 2 or array.dtype.kind not in "biuf":
            raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}.")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} contains NaN or infinity.")
        return array

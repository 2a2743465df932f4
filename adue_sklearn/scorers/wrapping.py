"""What estimators share that add something to the score of another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy, validate_features
from adue_sklearn._utils.head import BoolArray, FloatArray, Head, IntArray, check_head
from adue_sklearn._utils.labels import as_row_numbers, check_labels
from adue_sklearn._utils.row_digests import rows_new_to
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.metrics import prediction_errors
from adue_sklearn.scorers import SoftmaxResponseScorer


class ScoredRows(NamedTuple):
    """Scores (n,) and errors (n,) of rows that the score was not fitted on."""

    uncertainty: FloatArray
    errors: BoolArray


class WrappingEstimator(UncertaintyEstimator):
    """An uncertainty estimator whose predictions and head are those of ``estimator_``.

    Subclasses have a parameter ``estimator`` and set ``estimator_`` with :meth:`_adopt`.
    """

    reads_views: ClassVar[bool] = True

    estimator: Any
    estimator_: UncertaintyEstimator

    def _wrapped(self) -> UncertaintyEstimator:
        """Return the estimator that is wrapped, out of its ``FrozenEstimator``."""
        estimator = self.estimator
        if estimator is None:
            return SoftmaxResponseScorer()
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        if not isinstance(estimator, UncertaintyEstimator):
            raise TypeError(
                f"estimator is {estimator!r}; expected an uncertainty estimator of this package, "
                "such as AdUEEstimator(), a fitted one in scikit-learn's FrozenEstimator, or None. "
                "For a search, pass best_estimator_."
            )
        return estimator

    def _is_frozen(self) -> bool:
        return isinstance(self.estimator, FrozenEstimator)

    def _check_frozen(
        self, X: Any, y: Any, init_W: Any, init_b: Any, classes: Any
    ) -> tuple[UncertaintyEstimator, Features, npt.NDArray[Any], IntArray]:
        """Return the frozen estimator, checked rows, and the numbers of those it has not seen.

        A head that is given has to be its own.
        """
        frozen = self._wrapped()
        check_is_fitted(frozen)
        given, X = X, validate_features(frozen, X, reset=False)
        if init_W is None:
            for name, value in (("init_b", init_b), ("classes", classes)):
                if value is not None:
                    raise ValueError(
                        f"{name} was given without init_W; a frozen estimator knows its head and "
                        "classes, so leave both out."
                    )
        else:
            activation = frozen.init_head_.activation
            head = check_head(init_W, init_b, classes, X.shape, activation=activation)
            if not belongs_to(frozen, head, named=head.names_labels or classes is not None):
                raise ValueError(
                    "init_W, init_b, classes differ from the head that the frozen estimator was "
                    "fitted with; leave them out, or fit the estimator on this head."
                )
        validate_features(self, given, reset=True)
        y = check_labels(y, len(X), type(self).__name__)
        return frozen, X, y, rows_new_to(frozen, X)

    def _adopt(self, fitted: UncertaintyEstimator) -> None:
        """Take predictions, head and classes from a fitted estimator."""
        self.estimator_ = fitted
        self._keep_head(fitted.init_head_)

    def _compare_labels(self, X: Features, y: npt.NDArray[Any]) -> None:
        """Warn the caller of ``fit`` of what is wrong with labels for a given head."""
        if self._head_given:
            self._check_fit_rows(X, as_row_numbers(y, self.classes_, named=True))

    def original_logits(self, X: Features) -> Tensor:
        """Return the wrapped estimator's logits (n, C) of checked rows."""
        return self.estimator_.original_logits(X)

    def _head_logits(self, X: Features) -> Tensor:
        return self.estimator_._head_logits(X)

    def _uncertainty(self, X: Features) -> Tensor:
        return self.estimator_.uncertainty_of(X)


def score_rows(fitted: UncertaintyEstimator, X: Features, y: npt.NDArray[Any]) -> ScoredRows:
    """Return scores and errors of validated rows."""
    uncertainty = as_numpy(fitted.uncertainty_of(X)).astype(np.float64)
    if not np.isfinite(uncertainty).all():
        raise ValueError(
            f"X is too large: the uncertainty overflows in {int((~np.isfinite(uncertainty)).sum())}"
            f" of {len(uncertainty)} rows. Scale the features."
        )
    return ScoredRows(uncertainty, _errors(fitted, X, y))


def learns_nothing(estimator: UncertaintyEstimator, *, head_given: bool) -> bool:
    """Tell whether ``fit`` leaves the score as it is, so that the rows stay new to it."""
    return head_given and estimator.card.learns_nothing


def _errors(fitted: UncertaintyEstimator, X: Features, y: npt.NDArray[Any]) -> BoolArray:
    """Return ``fitted.errors(X, y)`` for rows whose feature names were compared already."""
    rows = fitted.original_logits(X).argmax(dim=1).cpu().numpy()
    errors = prediction_errors(fitted.classes_[rows], y)
    if fitted._head_given:
        as_row_numbers(y, fitted.classes_, named=True)  # raises for a label it has not
    return errors


def belongs_to(fitted: UncertaintyEstimator, head: Head, *, named: bool) -> bool:
    """Tell whether an estimator was fitted on a head; labels count if they were ``named``."""
    own = fitted.init_head_
    return own.same_as(head if named else replace(head, classes=own.classes))

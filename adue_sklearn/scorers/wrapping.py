"""What estimators share that add something to the score of another one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from adue_sklearn._utils.arrays import Array, as_numpy, validate_features
from adue_sklearn._utils.head import (
    BoolArray,
    FloatArray,
    IntArray,
    OriginalHead,
    check_head,
    encode_labels,
    rows_to_fit,
)
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.exceptions import FitRowsWarning
from adue_sklearn.metrics import prediction_errors
from adue_sklearn.scorers import SoftmaxResponseScorer


class Rows(NamedTuple):
    """Scores (n,) and errors (n,) of rows that the score was not fitted on."""

    uncertainty: FloatArray
    errors: BoolArray


class FitArguments(NamedTuple):
    """Validated features, checked labels, and the head as the user gave it."""

    X: Array
    y: npt.NDArray[Any]
    init_W: Any
    init_b: Any
    classes: Any

    def fit(
        self, estimator: UncertaintyEstimator, rows: IntArray | None = None
    ) -> UncertaintyEstimator:
        """Return a clone of ``estimator`` fitted on some rows, by default all."""
        X, y = self.X, self.y
        if rows is not None:
            rows = rows_to_fit(rows, self.init_W)
            X, y = X[rows], y[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitRowsWarning)  # whoever wraps says it, once
            return clone(estimator).fit(X, y, self.init_W, self.init_b, classes=self.classes)


class WrappingEstimator(UncertaintyEstimator):
    """An uncertainty estimator whose predictions and head are those of ``estimator_``.

    Subclasses have a parameter ``estimator`` and set ``estimator_`` with :meth:`_adopt`.
    """

    estimator: Any
    estimator_: UncertaintyEstimator

    @property
    def activation(self) -> str | None:  # type: ignore[override]
        """What the wrapped estimator applies between the layers of the head."""
        return self._wrapped().activation

    @property
    def device(self) -> str:  # type: ignore[override]
        """Where the wrapped estimator computes."""
        return self._wrapped().device

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
                "such as AdUEEstimator(), one that is fitted, in scikit-learn's FrozenEstimator, "
                "or None. Of a search pass best_estimator_."
            )
        return estimator

    def _is_frozen(self) -> bool:
        return isinstance(self.estimator, FrozenEstimator)

    def _check_frozen(
        self, X: Any, init_W: Any, init_b: Any, classes: Any
    ) -> tuple[UncertaintyEstimator, Array]:
        """Return the frozen estimator and features that it takes; a head that is given is its."""
        frozen = self._wrapped()
        check_is_fitted(frozen)
        X = validate_features(frozen, X, reset=False)
        if init_W is None:
            for name, value in (("init_b", init_b), ("classes", classes)):
                if value is not None:
                    raise ValueError(
                        f"{name} was given without init_W; a frozen estimator knows its head and "
                        "classes, so leave both out."
                    )
        else:
            head = check_head(init_W, init_b, classes, X, activation=frozen.activation)
            if not _same_head(head, frozen, named=classes is not None):
                raise ValueError(
                    "init_W, init_b, classes are not the head that the frozen estimator was "
                    "fitted with; leave them out, or fit the estimator on this head."
                )
        return frozen, X

    def _adopt(self, fitted: UncertaintyEstimator) -> None:
        """Take predictions, head and classes from a fitted estimator."""
        self.estimator_ = fitted
        self._set_head("init_", *fitted._get_head("init_"))
        self.classes_, self._head_given = fitted.classes_, fitted._head_given

    def _compare_labels(self, X: Array, y: npt.NDArray[Any]) -> None:
        """Warn the caller of ``fit`` of what is wrong with labels for a given head."""
        if self._head_given:
            self._check_fit_rows(X, encode_labels(y, self.classes_, named=True))

    def _fit(self, X: Array, labels: IntArray, head: OriginalHead) -> None:
        raise NotImplementedError  # fit is overridden

    def _original_logits(self, X: Array) -> Tensor:
        return self.estimator_._original_logits(X)

    def _uncertainty(self, X: Array) -> Tensor:
        return self.estimator_._uncertainty(X)


def score_rows(fitted: UncertaintyEstimator, X: Array, y: npt.NDArray[Any]) -> Rows:
    """Return scores and errors of validated rows."""
    uncertainty = as_numpy(fitted._uncertainty(X)).astype(np.float64)
    if not np.isfinite(uncertainty).all():
        raise ValueError(
            f"X is too large: the uncertainty overflows in {int((~np.isfinite(uncertainty)).sum())}"
            f" of {len(uncertainty)} rows. Scale the features."
        )
    return Rows(uncertainty, _errors(fitted, X, y))


def learns_nothing(estimator: UncertaintyEstimator, *, head_given: bool) -> bool:
    """Tell whether ``fit`` leaves the score as it is, so that the rows stay new to it."""
    return head_given and estimator.card.needs == "head"


def _errors(fitted: UncertaintyEstimator, X: Array, y: npt.NDArray[Any]) -> BoolArray:
    """Return ``fitted.errors(X, y)`` for rows whose feature names were compared already."""
    rows = fitted._original_logits(X).argmax(dim=1).cpu().numpy()
    errors = prediction_errors(fitted.classes_[rows], y)
    if fitted._head_given:
        encode_labels(y, fitted.classes_, named=True)  # raises for a label it has not
    return errors


def _same_head(head: OriginalHead, fitted: UncertaintyEstimator, *, named: bool) -> bool:
    weights, biases = fitted._get_head("init_")
    zeros = [np.zeros(len(W)) if b is None else b for W, b in zip(*head[:2], strict=True)]
    return (
        _close(head.weights, weights)
        and _close(zeros, biases)
        and (not named or np.array_equal(head.classes, fitted.classes_))
    )


def _close(ours: Sequence[FloatArray], theirs: Sequence[FloatArray]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=1e-12)
        for a, b in zip(ours, theirs, strict=True)
    )

"""Second opinions: what another classifier says of the original head's answer.

A second opinion comes as a view of the rows (:class:`adue_sklearn.Views`), never as texts or
models, so that searches and folds cut it and cannot fit it anew. What makes views, such as a text
classifier or label probes, is fitted beforehand on the rows that LoRA was trained on
(``fit_witness``). Clones keep it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import _clone_parametrized
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy
from adue_sklearn._utils.head import Head
from adue_sklearn._utils.label_order import label_order
from adue_sklearn._utils.labels import as_row_numbers, check_class_labels, check_labels, shorten
from adue_sklearn._utils.row_digests import rows_among
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.exceptions import MissingViewWarning

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Logarithm of the smallest probability. Smaller ones would make scores infinite, or so large
#: that a probability that half precision rounds to zero outweighs all others in a stack.
SMALLEST = float(np.log(1e-12))
#: Rounding may lift the logarithm of a probability above zero by so much.
_ROUNDING = 1e-6
#: Probabilities may miss a sum of one by so much: float16's rounding over many classes.
_SUM_TOLERANCE = 0.02
#: Share of fit rows that a witness may have been trained on: texts that occur in both sets.
MOST_SHARED = 0.05


class WitnessScorer(UncertaintyEstimator):
    """Base class of scores that read second views, with softmax response where one is missing.

    Subclasses say which views they read and what they are taught by ``fit_witness``.
    """

    reads_views: ClassVar[bool] = True
    #: Attributes that ``fit_witness`` sets and that clones keep.
    taught: ClassVar[tuple[str, ...]] = ()

    fallback: str
    has_view_: bool

    def __sklearn_clone__(self) -> Self:
        copy = _clone_parametrized(self)
        for name in self.taught:
            if name in vars(self):
                setattr(copy, name, vars(self)[name])
        return copy

    def __sklearn_is_fitted__(self) -> bool:
        return "classes_" in vars(self)

    @abstractmethod
    def fit_witness(self, X: Any, y: Any, *, classes: Any = None) -> Self:
        """Fit what makes the second opinion, on what the classifier was trained on."""

    @abstractmethod
    def view_names(self, X: Views) -> tuple[str, ...]:
        """Return the names of the views that the score reads."""

    @property
    @abstractmethod
    def views_read(self) -> tuple[str, ...]:
        """Names of the views that the score was fitted with, none if they were missing."""

    @abstractmethod
    def answers(self, X: Features) -> IntArray:
        """Return the class (n,) that the second opinion finds most probable, by row number."""

    def lacks_probe(self, X: Views) -> bool:
        """Tell whether the views are features for which ``fit_witness`` was not called yet."""
        return False

    def _check_classes(self, head: Head) -> None:
        """Raise if ``fit_witness`` was given the head's classes in another order."""
        taught = vars(self).get("witness_classes_", head.classes)
        ordered = np.array_equal(taught, head.classes)
        if not ordered and set(taught.tolist()) == set(head.classes.tolist()):
            raise ValueError(
                f"{type(self).__name__}: fit_witness had the classes {shorten(taught)}, but the "
                f"head's rows are {shorten(head.classes)}; expected the same order. Pass classes "
                "to fit_witness."
            )

    def seen_rows(self, X: Features) -> BoolArray:
        """Return the rows (n,) that ``fit_witness`` was given, as far as it can be told."""
        if not isinstance(X, Views) or not hasattr(self, "taught_rows_"):
            return np.zeros(X.shape[0], dtype=bool)
        return rows_among(as_numpy(X), self.taught_rows_)

    def _finds_views(self, X: Features) -> bool:
        """Tell whether the rows come with the views; warn if they are an array or lack them."""
        wanted = self.view_names(X) if isinstance(X, Views) else ()
        if isinstance(X, Views) and wanted and set(wanted) <= set(X.names):
            return True
        have = f"views {', '.join(X.names) or 'none'}" if isinstance(X, Views) else "no views"
        warn(
            f"{type(self).__name__}: X has {have}, so there is no second opinion and the "
            f"uncertainty is softmax response. Expected {self._wanted()}; fit on "
            "Views(features, NAME=block).",
            MissingViewWarning,
        )
        return False

    @abstractmethod
    def _wanted(self) -> str:
        """Return the names of the views for a message."""

    def _check_unseen(self, X: Features) -> None:
        """Raise if a good part of the fit rows was used by ``fit_witness``."""
        seen = self.seen_rows(X)
        if not seen.any():
            return
        what = (
            f"{type(self).__name__}: fit_witness was given {int(seen.sum())} of {len(seen)} rows "
            "of X. A second opinion seems better on these than on others"
        )
        mend = "Fit on rows that neither the classifier nor its second opinion was trained on."
        if seen.mean() > MOST_SHARED:
            raise ValueError(f"{what}. {mend}")
        warn(f"{what}; there are few of them, such as texts that occur twice. {mend}")

    def _require(self, X: Features, missing: BoolArray) -> None:
        """Raise for rows without the views, unless softmax response may replace them."""
        if self.fallback == "error" and missing.any():
            raise ValueError(
                f"X has no view {self._wanted()} in {int(missing.sum())} of {len(missing)} rows "
                f"(first: row {int(missing.argmax())}), but {type(self).__name__} was fitted with "
                "it. Pass Views with it, or set fallback='softmax response' to score such rows by "
                "the original head."
            )


class AnswerWitness(WitnessScorer):
    """Base class: one view, of which another classifier's log-probabilities follow."""

    view: str

    def view_names(self, X: Views) -> tuple[str, ...]:
        """Return the name of the view that the score reads."""
        return (self.view,)

    @property
    def views_read(self) -> tuple[str, ...]:
        """Names of the views that the score was fitted with, none if they were missing."""
        return (self.view,) if self.has_view_ else ()

    def answers(self, X: Features) -> IntArray:
        """Return the class (n,) that the other classifier finds most probable, by row number."""
        return self._log_probabilities(X).argmax(axis=1)

    def _wanted(self) -> str:
        return repr(self.view)

    def _fit(self, X: Features, labels: IntArray, head: Head) -> None:
        self.has_view_ = self._finds_views(X)
        if not self.has_view_:
            return
        self._check_classes(head)
        self._check_unseen(X)
        witness = self._log_probabilities(X)
        known = np.flatnonzero(~np.isnan(witness).any(axis=1))
        doubt = label_order(
            witness[known].argmax(axis=1),
            labels[known],
            len(head.classes),
            head.classes.tolist() if head.names_labels else None,
            name=f"view {self.view!r}",
        )
        if doubt is not None:
            message = doubt.message.replace("the head's answers", "its answers")
            if doubt.reservation:
                raise ValueError(
                    f"{message} Its columns must be in the order of the original head's rows."
                )
            # No FitRowsWarning: a score that holds this one reports only those of its own rows.
            warn(f"{message} Check that the view belongs to these rows.")

    def _uncertainty(self, X: Features) -> Tensor:
        own = torch.log_softmax(self.original_logits(X), dim=1)
        confidence, answers = own.max(dim=1)
        if not self.has_view_:
            return -confidence
        missing = self._lacking(X)
        self._require(X, missing)
        found = -confidence
        if not missing.all():
            witness = torch.as_tensor(self._log_probabilities(X), device=own.device)
            second = witness.gather(1, answers[:, None])[:, 0]
            found = torch.where(torch.as_tensor(missing, device=own.device), found, -second)
        return found.clamp(max=-SMALLEST)

    def _lacking(self, X: Features) -> BoolArray:
        if not self.has_view_:
            return np.zeros(X.shape[0], dtype=bool)
        if not isinstance(X, Views) or self.view not in X.names:
            return np.ones(X.shape[0], dtype=bool)
        return np.asarray(np.isnan(X.block(self.view)).any(axis=1))

    @abstractmethod
    def _log_probabilities(self, X: Any) -> FloatArray:
        """Return the other classifier's log-probabilities (n, C), NaN where it says nothing."""


VIEW_CONSTRAINTS: dict[str, list[Any]] = {
    "view": [str],
    "fallback": [StrOptions({"error", "softmax response"})],
    **UncertaintyEstimator._parameter_constraints,
}


def are_probabilities(block: FloatArray) -> bool:
    """Tell whether these are probabilities or their logarithms."""
    try:
        as_log_probabilities(block, block.shape[1], "view")
    except ValueError:
        return False
    return True


def as_log_probabilities(block: FloatArray, n_classes: int, view: str) -> FloatArray:
    """Return probabilities or log-probabilities (n, C) as the latter; rows of NaN stay.

    Raises
    ------
    ValueError
        If they are neither, or not of so many classes.
    """
    expected = (
        "expected probabilities or log-probabilities of another classifier, one column for each "
        "row of the head. For features, call fit_witness on the rows that LoRA was trained on"
    )
    if block.shape[1] != n_classes:
        raise ValueError(
            f"the view {view!r} has {block.shape[1]} columns, but the head has {n_classes} "
            f"classes; {expected}."
        )
    known = block[~np.isnan(block).any(axis=1)]
    are_logarithms = bool((known <= _ROUNDING).all())
    with np.errstate(divide="ignore"):
        logarithms = block if are_logarithms else np.log(block.clip(min=0.0))
    sums = np.exp(known).sum(axis=1) if are_logarithms else known.sum(axis=1)
    if ((known < 0).any() and not are_logarithms) or (np.abs(sums - 1) > _SUM_TOLERANCE).any():
        raise ValueError(
            f"the view {view!r} holds values from {known.min():.3g} to {known.max():.3g} whose "
            f"rows are not probabilities; {expected}."
        )
    return logarithms.clip(min=SMALLEST)


def labels_of(y: Any, classes: Any, n_rows: int, name: str) -> tuple[IntArray, npt.NDArray[Any]]:
    """Return labels as places among the classes, and the classes."""
    labels = check_labels(y, n_rows, name)
    known = np.unique(labels) if classes is None else check_class_labels(classes)
    return as_row_numbers(labels, known, named=True), known


def require_view(X: Any, name: str) -> None:
    """Raise unless ``X`` is Views with this view."""
    if not isinstance(X, Views) or name not in X.names:
        raise ValueError(
            f"X is {X!r:.200}; expected Views with the view {name!r}, of rows that the classifier "
            "was trained on."
        )

"""The one contract: an original head that predicts, and a score that says when it is wrong."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from numbers import Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor

from adue_sklearn._torch import (
    Array,
    as_numpy,
    like_input,
    map_rows,
    resolve_device,
    validate_features,
)
from adue_sklearn._validation import naming
from adue_sklearn.metrics import error_roc_auc_score, prediction_errors

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: Folds in which an original head fitted here predicts rows it has not seen.
_OUT_OF_FOLD = 5


class OriginalHead(NamedTuple):
    """A linear classification head: ``logits = X @ W.T + b``, row ``i`` scores ``classes[i]``.

    ``given`` tells a frozen head that came from outside from one fitted on the same rows.
    """

    W: FloatArray
    b: FloatArray
    classes: npt.NDArray[Any]
    has_bias: bool
    given: bool


class UncertaintyEstimator(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):
    """Base class of everything that scores the answers of a frozen linear head.

    Subclasses implement :meth:`_fit` (may be a no-op) and :meth:`_uncertainty`. The predictions
    are the original head's, always; what subclasses learn is only when to doubt them.

    Parameters
    ----------
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    """

    _parameter_constraints: dict[str, list[Any]] = {"device": [str]}

    # Where metadata routing is on, searches and pipelines pass the head without being asked to.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {
        "init_W": True,
        "init_b": True,
        "classes": True,
    }

    def __init__(self, *, device: str = "auto") -> None:
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        init_W: Any = None,
        init_b: Any = None,
        *,
        classes: Any = None,
    ) -> Self:
        """Fit the score on features and true labels.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features that enter the head's last linear layer. Finite; any float dtype.
        y : array-like of shape (n_samples,)
            True labels. With ``init_W``: row numbers of the head or, if ``classes`` is given,
            its entries. Without: any labels that scikit-learn classifiers take.
        init_W : array-like of shape (n_classes, n_features), default=None
            Weights of the frozen original head. If None, a multinomial logistic regression is
            fitted on ``X, y`` as the original head.
        init_b : array-like of shape (n_classes,), default=None
            Its bias. None: the head has no bias, and none is trained.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows. Needed for string labels.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If the features are not finite, or features, labels and head do not fit together.
        """
        X = validate_features(self, X, reset=True)
        head, labels = resolve_head(X, y, init_W, init_b, classes, name=type(self).__name__)
        self.init_coef_, self.init_intercept_, self.classes_ = head.W, head.b, head.classes
        self._fit(X, labels, head)
        return self

    def predict(self, X: Any) -> Array:
        """Return the original head's labels.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        labels : array of shape (n_samples,)
            A tensor where ``X`` is one and the labels are numbers.
        """
        X = self._check_features(X)
        rows = self._original_logits(X).argmax(dim=1).cpu().numpy()
        labels = self.classes_[rows]
        if isinstance(X, Tensor) and labels.dtype.kind in "iufb":
            return torch.as_tensor(labels, device=X.device)
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Return the original head's class probabilities, columns as in ``classes_``.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        probabilities : array of float64 of shape (n_samples, n_classes)
            Rows sum to one.
        """
        X = self._check_features(X)
        return like_input(torch.softmax(self._original_logits(X), dim=1), X)

    def predict_uncertainty(self, X: Any) -> Array:
        """Return how likely each prediction is wrong; higher is more likely.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        uncertainty : array of float64 of shape (n_samples,)
            The range depends on the score; ranks are what counts.
        """
        X = self._check_features(X)
        uncertainty = self._uncertainty(X).to(torch.float64)
        if not bool(torch.isfinite(uncertainty).all()):
            raise ValueError(
                f"X is too large: the uncertainty overflows in "
                f"{int((~torch.isfinite(uncertainty)).sum())} of {len(uncertainty)} rows. Scale "
                "the features as in fit."
            )
        return like_input(uncertainty, X)

    def score_samples(self, X: Any) -> Array:
        """Return ``-predict_uncertainty(X)``, the name that scikit-learn's own tools forward.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        confidence : array of float64 of shape (n_samples,)
            Higher is more trustworthy.
        """
        return -self.predict_uncertainty(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the ROC-AUC of the uncertainty for finding the original head's errors.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            True labels, as in ``fit``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            In [0, 1]. NaN, with an ``UndefinedMetricWarning``, if the rows hold no errors or
            only errors.
        """
        return error_roc_auc_score(
            self.errors(X, y), self.predict_uncertainty(X), sample_weight=sample_weight
        )

    def errors(self, X: Any, y: Any) -> BoolArray:
        """Return where the original head is wrong.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            True labels, as in ``fit``. A label that ``fit`` has not seen is an error.

        Returns
        -------
        errors : ndarray of bool of shape (n_samples,)
            True where ``predict(X) != y``.
        """
        return prediction_errors(self.predict(X), y)

    @abstractmethod
    def _fit(self, X: Array, labels: IntArray, head: OriginalHead) -> None:
        """Learn from validated features and labels, the latter as row numbers of the head."""

    @abstractmethod
    def _uncertainty(self, X: Array) -> Tensor:
        """Return the uncertainty (n,) of validated features."""

    def _check_features(self, X: Any) -> Array:
        check_is_fitted(self)
        return validate_features(self, X, reset=False)

    def _original_logits(self, X: Array) -> Tensor:
        return self._logits(X, self.init_coef_, self.init_intercept_)

    def _logits(self, X: Array, W: FloatArray, b: FloatArray) -> Tensor:
        """Return ``X @ W.T + b`` in float64, whatever the dtype of ``X``."""
        device = resolve_device(self.device, X)
        W_t, b_t = torch.tensor(W.T, device=device), torch.tensor(b, device=device)
        logits = map_rows(lambda chunk: chunk @ W_t + b_t, X, device, torch.float64)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "X is too large for this head: the logits X @ W.T + b overflow float64. Scale the "
                "features and the head to match, or extract them again."
            )
        return logits

    def _original_errors(self, X: Array, labels: IntArray, head: OriginalHead) -> BoolArray:
        """Return where the original head errs on the fit rows (n,).

        A head that was fitted on these very rows is judged on rows it had not seen.
        """
        if head.given:
            return self._original_logits(X).argmax(dim=1).cpu().numpy() != labels
        return _out_of_fold_predictions(as_numpy(X), labels) != labels


def resolve_head(
    X: Array, y: Any, init_W: Any, init_b: Any, classes: Any, *, name: str
) -> tuple[OriginalHead, IntArray]:
    """Return the original head, given or fitted on ``X, y``, and labels as its row numbers.

    ``name`` is the estimator's, for messages.
    """
    y = check_labels(y, X.shape[0], name)
    if init_W is not None:
        head = check_head(init_W, init_b, classes, X)
        return head, encode_labels(y, head.classes, named=classes is not None)
    if init_b is not None or classes is not None:
        given = "init_b" if init_b is not None else "classes"
        raise ValueError(
            f"{given} was given without init_W; pass the head's weights too, or neither."
        )
    return _fit_head(X, y)


def check_head(init_W: Any, init_b: Any, classes: Any, X: Array) -> OriginalHead:
    """Validate a frozen head against features ``X`` (n_samples, n_features).

    Returns
    -------
    OriginalHead
        In float64, with ``classes`` in row order.

    Raises
    ------
    ValueError
        Naming the argument, its shape and the shape that is expected.
    """
    n_samples, n_features = X.shape
    W = _finite(init_W, "init_W", ndim=2, shape="(n_classes, n_features)")
    n_classes = W.shape[0]
    if n_classes == n_samples:
        raise ValueError(
            f"init_W has as many rows as X ({n_samples}). Searches and cross-validation cut "
            "every fit parameter that is as long as X, so such a head cannot be told from a cut "
            "one; fit on a different number of rows (drop one), or tie the head to the "
            "estimator instead of passing it through a search."
        )
    if W.shape[1] != n_features:
        hint = " It looks transposed; pass init_W.T." if n_classes == n_features else ""
        raise ValueError(
            f"init_W has shape {W.shape}, but X has {n_features} features; expected "
            f"(n_classes, {n_features}).{hint}"
        )
    if n_classes < 2:
        raise ValueError(
            f"init_W has {n_classes} row, but a head needs one row a class, at least 2; write a "
            "single-logit head w as two rows, [-w / 2, w / 2]."
        )
    has_bias = init_b is not None
    b = (
        _finite(init_b, "init_b", ndim=1, shape=f"({n_classes},)")
        if has_bias
        else np.zeros(n_classes)
    )
    if b.shape != (n_classes,):
        raise ValueError(
            f"init_b has shape {b.shape}, but init_W has {n_classes} rows; expected ({n_classes},)."
        )
    return OriginalHead(W, b, _check_classes(classes, n_classes), has_bias, given=True)


def encode_labels(y: npt.NDArray[Any], classes: npt.NDArray[Any], *, named: bool) -> IntArray:
    """Return labels as row numbers of a given head.

    ``named`` tells whether ``classes`` came from the user: otherwise labels are row numbers.
    """
    if not named:
        if y.dtype.kind in "OUST":
            raise ValueError(
                f"y holds strings ({_shorten(np.unique(y.astype(str)))}), but classes was not "
                "given; pass classes, the labels in the order of init_W's rows."
            )
        n_classes = len(classes)
        outside = (y < 0) | (y >= n_classes) | (y != np.floor(y))
        if outside.any():
            raise ValueError(
                f"y holds {_shorten(np.unique(y[outside]))}, but init_W has {n_classes} rows: "
                f"labels must be its row numbers 0 to {n_classes - 1}; or pass classes, the "
                "labels in the order of init_W's rows."
            )
        return y.astype(np.int64)
    if (y.dtype.kind in "OUST") != (classes.dtype.kind in "OUST"):
        raise ValueError(
            f"y has dtype {y.dtype} and classes {classes.dtype} ({_shorten(classes)}): y must hold "
            "entries of classes. For row numbers leave classes out."
        )
    if len(classes) == 0:
        raise ValueError("classes is empty; expected the labels of the head's rows.")
    order = np.argsort(classes)
    place = np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)
    labels = order[place]
    unknown = classes[labels] != y
    if unknown.any():
        raise ValueError(
            f"y holds {_shorten(np.unique(y[unknown]))}, not among classes "
            f"({_shorten(classes)}); every label must be one of the head's classes."
        )
    return labels.astype(np.int64)


def check_labels(y: Any, n_samples: int, name: str) -> npt.NDArray[Any]:
    """Return labels as a 1-D array of ``n_samples`` discrete values; ``name`` is for messages."""
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None; pass the true labels."
        )
    with naming("y"):
        y = column_or_1d(as_numpy(y), warn=True)
        if y.dtype == object:
            y = _plain_labels(y)
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity; drop the rows without a label.")
        check_classification_targets(y)
    if len(y) != n_samples:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_samples} rows, "
            f"y has {len(y)} labels; they must be as many."
        )
    return y.astype(np.int64) if y.dtype.kind == "b" else y


def _plain_labels(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an object array of numbers as numbers; strings stay, a mixture is an error."""
    if all(isinstance(label, str) for label in y):
        return y
    if all(isinstance(label, Real) for label in y):
        return np.array(y.tolist())
    odd = next(label for label in y if not isinstance(label, str))
    raise ValueError(
        f"y mixes labels of different kinds, such as {odd!r} ({type(odd).__name__}); expected all "
        "strings or all numbers."
    )


def check_class_labels(classes: Any) -> npt.NDArray[Any]:
    """Return ``classes`` as a 1-D array of different strings or numbers."""
    with naming("classes"):
        array = as_numpy(classes)
        if array.ndim != 1 or len(array) == 0:
            raise ValueError(f"classes has shape {array.shape}; expected one label a class.")
        if array.dtype == object:
            array = _plain_labels(array)
        if array.dtype.kind not in "iufbOUST":
            raise ValueError(f"classes has dtype {array.dtype}; expected strings or numbers.")
        if len(np.unique(array)) != len(array):
            raise ValueError(f"classes repeats a label: {_shorten(array)}; each row needs its own.")
        return array


def _check_classes(classes: Any, n_classes: int) -> npt.NDArray[Any]:
    if classes is None:
        return np.arange(n_classes)
    array = check_class_labels(classes)
    if len(array) != n_classes:
        raise ValueError(
            f"classes has shape {array.shape}, but init_W has {n_classes} rows; expected one "
            "label a row, in the same order."
        )
    return array


def _finite(values: Any, name: str, *, ndim: int, shape: str) -> FloatArray:
    try:
        array = np.array(as_numpy(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is no array of numbers ({type(values).__name__}: {error}); expected {shape}."
        ) from error
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} contains NaN or infinity; load the head again, in float32 at least."
        )
    return array


def _fit_head(X: Array, y: npt.NDArray[Any]) -> tuple[OriginalHead, IntArray]:
    """Fit the original head: scikit-learn's multinomial logistic regression."""
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds one class only ({_shorten(classes)}); without init_W a head is fitted, "
            "which needs at least 2 classes."
        )
    model = _logistic_regression().fit(as_numpy(X), labels)
    W, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(classes) == 2:  # one row of logits: the same probabilities as these two
        W, b = np.vstack([-W, W]) / 2, np.concatenate([-b, b]) / 2
    return OriginalHead(W, b, classes, has_bias=True, given=False), labels.astype(np.int64)


def _out_of_fold_predictions(X: npt.NDArray[Any], labels: IntArray) -> IntArray:
    rarest = int(np.bincount(labels).min())
    folds = StratifiedKFold(max(2, min(_OUT_OF_FOLD, rarest)))
    with warnings.catch_warnings():
        # A class with a single row cannot be in every fold: its row counts as an error.
        warnings.filterwarnings("ignore", message="The least populated class")
        return cross_val_predict(_logistic_regression(), X, labels, cv=folds)


def _logistic_regression() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def _shorten(values: npt.NDArray[Any], most: int = 5) -> str:
    shown = ", ".join(repr(v) for v in values[:most].tolist())
    return shown + (f", ... ({len(values)} in all)" if len(values) > most else "")

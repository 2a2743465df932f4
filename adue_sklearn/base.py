"""The common contract: an original head that predicts, and a score that says when it is wrong."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from adue_sklearn._utils.arrays import (
    Array,
    Features,
    as_numpy,
    like_input,
    rows_of,
    validate_features,
)
from adue_sklearn._utils.devices import device_here
from adue_sklearn._utils.fit_rows import (
    Doubt,
    missing_classes,
    odd_shares,
    warn_of_changed_features,
)
from adue_sklearn._utils.head import (
    ACTIVATIONS,
    BoolArray,
    Head,
    IntArray,
    out_of_fold_predictions,
    resolve_head,
)
from adue_sklearn._utils.label_order import label_order
from adue_sklearn._utils.labels import as_row_numbers, check_labels
from adue_sklearn._utils.row_digests import FITTED_ON
from adue_sklearn._utils.views import main_of
from adue_sklearn.card import Card
from adue_sklearn.exceptions import FitRowsWarning
from adue_sklearn.metrics import error_roc_auc_score, prediction_errors

#: Rows on which labels are compared with a given head's answers; more are not needed.
_COMPARED_ROWS = 2**13


class FitRows(NamedTuple):
    """Rows to fit on: checked features and labels, and the head that they belong to.

    Attributes
    ----------
    X : array, tensor or Views of shape (n, d)
        Features.
    y : ndarray of shape (n,)
        Labels, entries of the head's classes.
    head : Head or None
        None if the fitted estimator has its own head.
    """

    X: Features
    y: npt.NDArray[Any]
    head: Head | None = None

    def part(self, rows: IntArray) -> FitRows:
        """Return some of the rows."""
        return self._replace(X=rows_of(self.X, rows), y=self.y[rows])

    def fit(self, scorer: Any) -> Any:
        """Return a fitted clone of a scorer; the caller reports problems with the rows."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitRowsWarning)
            inner = getattr(scorer, "estimator", None)  # of a search
            ours = isinstance(scorer, UncertaintyEstimator) or isinstance(
                inner, UncertaintyEstimator
            )
            if self.head is None:
                return clone(scorer).fit(self.X if ours else main_of(self.X), self.y)
            if ours:
                return clone(scorer).fit(self.X, self.y, init_W=self.head)
            # An estimator of another library, which may accept arrays only.
            head = {"init_W": self.head.init_W, "init_b": self.head.init_b}
            if self.head.names_labels:
                head["classes"] = self.head.classes
            return clone(scorer).fit(
                main_of(self.X), self.y, **{name: v for name, v in head.items() if v is not None}
            )


@dataclass(eq=False, repr=False, kw_only=True)
class UncertaintyEstimator(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):
    """Base class of everything that scores the answers of a frozen linear head.

    Subclasses implement :meth:`_uncertainty`, and :meth:`_fit` if they learn. The predictions are
    the original head's, always; what subclasses learn is only when to doubt them.

    Parameters
    ----------
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    """

    #: What the score is; every public estimator has one.
    card: ClassVar[Card]
    #: Whether `_fit` and `_uncertainty` take views, to read one or to pass them to scores inside.
    reads_views: ClassVar[bool] = False

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "activation": [StrOptions(set(ACTIVATIONS)), None],
        "device": [str],
    }

    # With metadata routing enabled, searches and pipelines pass the head by default.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {
        "init_W": True,
        "init_b": True,
        "classes": True,
    }

    activation: str | None = None
    device: str = "auto"

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``device`` is also set on the fitted scores inside.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : estimator
            The same estimator.
        """
        super().set_params(**params)
        self._pass_device_on(params)
        return self

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
        X : array-like, torch.Tensor or Views of shape (n_samples, n_features)
            Features that enter the head's last linear layer (the first, for a head of several).
            Finite; any float dtype.
        y : array-like of shape (n_samples,)
            True labels. With ``init_W``: row numbers of the head or, if ``classes`` is given,
            its entries. Without: any labels that scikit-learn classifiers accept.
        init_W : Head, array-like of shape (n_classes, n_features) or list of them, default=None
            The frozen original head, or its weights; for a head of several layers a list, first
            layer first, each (n_out, n_in). A single row (1, n_features) or (n_features,), as the
            ``coef_`` of a binary ``LogisticRegression``, is the logit of the second of two
            classes and taken as the rows ``[-w/2, w/2]``. If None, a multinomial logistic
            regression is fitted on ``X, y`` as the original head.
        init_b : array-like of shape (n_classes,) or list of them, default=None
            Its bias, or a list with one bias (or None) per layer; (1,) or a number for a single
            row. None: no bias, and none is trained.
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

        Warns
        -----
        LabelOrderWarning
            If labels agree with a given head no better than by chance, or far better in another
            order of the classes, which the message names.
        MissingClassesWarning, ClassSharesWarning
            If the score learns from errors and the rows lack classes of a given head, or hold
            one far less often than the head predicts it.
        ChangedFeaturesWarning
            If a head is given and the columns of ``X`` look as if a scaler or a PCA had been
            fitted on these rows. A scaler fitted on other rows cannot be detected: in a plain
            scikit-learn pipeline, put nothing between a model's features and its head.
        """
        X = validate_features(self, X, reset=True)
        head, labels = resolve_head(
            X, y, init_W, init_b, classes, activation=self.activation, name=type(self).__name__
        )
        self.__dict__.pop(FITTED_ON, None)
        self._keep_head(head)
        given, X = X, self._to_fit(self._read(X))
        with self._logits_once(X):
            if head.given:
                self._check_fit_rows(X, labels, given)
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
            A tensor if ``X`` is a tensor and the labels are numbers.
        """
        X = main_of(self.check_features(X))
        rows = self.original_logits(X).argmax(dim=1).cpu().numpy()
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
        X = self.check_features(X)
        return like_input(torch.softmax(self.original_logits(X), dim=1), X)

    def predict_uncertainty(self, X: Any) -> Array:
        """Return how likely each prediction is wrong; higher is more likely.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        uncertainty : array of float64 of shape (n_samples,)
            The range depends on the score; only the ranks matter.
        """
        X = self.check_features(X)
        uncertainty = self.uncertainty_of(X).to(torch.float64)
        if not bool(torch.isfinite(uncertainty).all()):
            raise ValueError(
                f"X is too large: the uncertainty overflows in "
                f"{int((~torch.isfinite(uncertainty)).sum())} of {len(uncertainty)} rows. Scale "
                "the features as in fit."
            )
        return like_input(uncertainty, X)

    def score_samples(self, X: Any) -> Array:
        """Return ``-predict_uncertainty(X)``; scikit-learn's tools forward this method.

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
            True labels, as in ``fit``. If no head was given, a label that ``fit`` has not seen
            counts as an error.

        Returns
        -------
        errors : ndarray of bool of shape (n_samples,)
            True where ``predict(X) != y``.

        Raises
        ------
        ValueError
            If a label is not among the classes of a head that was given.
        """
        predicted = as_numpy(self.predict(X))
        errors = prediction_errors(predicted, y)
        if self._head_given:
            labels = check_labels(y, len(predicted), type(self).__name__)
            as_row_numbers(labels, self.classes_, named=True)  # raises for an unknown label
        return errors

    def lacks_view(self, X: Any) -> BoolArray:
        """Return the rows that are scored without a second view that the score was fitted with.

        Parameters
        ----------
        X : array-like, torch.Tensor or Views of shape (n_samples, n_features)
            Features.

        Returns
        -------
        lacking : ndarray of bool of shape (n_samples,)
            True where ``fallback="softmax response"`` replaced a second opinion; all False for a
            score that reads no views.
        """
        return self._lacking(self.check_features(X))

    def _lacking(self, X: Features) -> BoolArray:
        lacking = np.zeros(X.shape[0], dtype=bool)
        for score in self.scores_inside():
            lacking |= score._lacking(X)
        return lacking

    def uncertainty_of(self, X: Features) -> Tensor:
        """Return the uncertainty (n,) of rows that were checked already."""
        return self._uncertainty(self._read(X))

    def _read(self, X: Features) -> Any:
        """Return of views what the score reads."""
        return X if self.reads_views else main_of(X)

    def _to_fit(self, X: Array) -> Array:
        """Return validated features in the form that :meth:`_fit` reads, block by block."""
        return X

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        """Learn from validated features and labels, the latter as row numbers of the head.

        By default nothing: all that there is to know is the head.
        """

    @abstractmethod
    def _uncertainty(self, X: Array) -> Tensor:
        """Return the uncertainty (n,) of validated features."""

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        # A fitted estimator may come from a machine with another device; its scores stay the same.
        if "classes_" in vars(self) and "device" in vars(self):
            self.device = device_here(self.device)

    def _pass_device_on(self, params: Mapping[str, Any]) -> None:
        """Pass ``device`` and ``NAME__device`` on to the fitted scores inside."""
        if "device" in params:
            self.compute_on(params["device"])
        for name, value in params.items():
            owner, _, inner = name.partition("__")
            member = vars(self).get(f"{owner}_")
            wanted = inner == "device" or inner.endswith("__device")
            if wanted and isinstance(member, UncertaintyEstimator) and inner in member.get_params():
                member.set_params(**{inner: value})

    def compute_on(self, device: str) -> None:
        """Compute on ``device``, as do all fitted scores inside, frozen ones too."""
        if "device" in self.get_params(deep=False):
            self.device = device
        for score in self.scores_inside():
            score.compute_on(device)

    def scores_inside(self) -> Iterator[UncertaintyEstimator]:
        """Yield the fitted scores that this one holds, out of their ``FrozenEstimator``."""
        parameters = self.get_params(deep=False)
        yield from _scores_in([v for name, v in vars(self).items() if name not in parameters])

    def _check_fit_rows(self, X: Features, labels: IntArray, given: Features | None = None) -> None:
        """Warn the caller of ``fit`` of problems with the rows for a given head.

        ``given`` are the same rows if the caller has them.
        """
        warn_of_changed_features(main_of(X if given is None else given))
        for doubt in self.doubts(X, labels, learned=self.card.needs == "held-out errors"):
            doubt.warn()

    def doubts(
        self, X: Features, labels: IntArray, *, learned: bool, name: str = "y"
    ) -> list[Doubt]:
        """Return problems with the rows; those of classes only if errors are learned from them."""
        head, classes = self.init_head_, self.classes_.tolist()
        named = classes if head.names_labels else None
        step = -(-len(labels) // _COMPARED_ROWS)
        # What learns from errors needs the logits of all rows anyway.
        answers = self._answers(X)[::step] if learned else self._answers(X[::step])
        seen = labels[::step]
        found = [label_order(answers, seen, len(classes), named, name=name)]
        if learned and len(np.unique(labels)) < len(classes):
            found.append(missing_classes(labels, self._answers(X), classes, name=name))
        elif learned and not (found[0] and found[0].reservation):
            found.append(odd_shares(seen, answers, classes, name=name))
        return [doubt for doubt in found if doubt is not None]

    def _answers(self, X: Features) -> IntArray:
        """Return the original head's answers as numbers of its rows."""
        answers = self._head_logits(X).argmax(dim=1)
        return np.asarray(answers.cpu().numpy())

    def check_features(self, X: Any) -> Features:
        """Return the rows as arrays, checked and with as many features as in ``fit``."""
        check_is_fitted(self)
        return validate_features(self, X, reset=False)

    def original_logits(self, X: Features) -> Tensor:
        """Return the original head's logits (n, C) of checked rows in float64."""
        return self._head_logits(X)

    def _head_logits(self, X: Features) -> Tensor:
        """Return the original head's logits in float64, of the fit rows once."""
        X = main_of(X)
        fit_rows = self.__dict__.get("_fit_rows")
        if fit_rows is None or fit_rows[0] is not X:
            return self.init_head_.logits(X, self.device)
        if fit_rows[1] is None:
            fit_rows[1] = self.init_head_.logits(X, self.device)
        return fit_rows[1]

    @contextmanager
    def _logits_once(self, X: Features) -> Iterator[None]:
        """Compute the original logits of the fit rows once, while they are fitted on."""
        self.__dict__["_fit_rows"] = [main_of(X), None]
        try:
            yield
        finally:
            del self.__dict__["_fit_rows"]

    def _keep_head(self, head: Head) -> None:
        """Make this the original head."""
        self._set_head("init_", head)
        self.classes_, self._head_given = head.classes, head.given
        self._activation = head.activation

    def _set_head(self, prefix: str, head: Head) -> None:
        """Set ``coef_, intercept_`` of a linear head, ``coefs_, intercepts_`` of a deeper one."""
        for name in ("coef_", "intercept_", "coefs_", "intercepts_"):
            self.__dict__.pop(prefix + name, None)
        if head.is_linear:
            setattr(self, f"{prefix}coef_", head.weights[0])
            setattr(self, f"{prefix}intercept_", head.filled_biases()[0])
        else:
            setattr(self, f"{prefix}coefs_", list(head.weights))
            setattr(self, f"{prefix}intercepts_", head.filled_biases())

    @property
    def init_head_(self) -> Head:
        """The original head."""
        check_is_fitted(self, "classes_")
        return self._head("init_")

    def _head(self, prefix: str) -> Head:
        """Return the original head or, without prefix, the trained one."""
        fitted = vars(self)
        if f"{prefix}coef_" in fitted:
            weights, biases = [fitted[f"{prefix}coef_"]], [fitted[f"{prefix}intercept_"]]
        else:
            weights, biases = fitted[f"{prefix}coefs_"], fitted[f"{prefix}intercepts_"]
        # Heads that were saved before that was kept had the parameter set.
        activation = fitted.get("_activation", getattr(self, "activation", None))
        given = fitted["_head_given"]
        return Head(tuple(weights), tuple(biases), self.classes_, activation, given)

    def _original_errors(self, X: Features, labels: IntArray, head: Head) -> BoolArray:
        """Return where the original head is wrong on the fit rows (n,).

        A head that was fitted on these same rows is judged out-of-fold.
        """
        if head.given:
            return self._answers(X) != labels
        return out_of_fold_predictions(as_numpy(X), labels) != labels


def _scores_in(value: Any) -> Iterator[UncertaintyEstimator]:
    """Yield the scores in a list, or a single one, without their ``FrozenEstimator``."""
    if isinstance(value, list):
        for part in value:
            yield from _scores_in(part)
    elif isinstance(value, FrozenEstimator):
        yield from _scores_in(value.estimator)
    elif isinstance(value, UncertaintyEstimator):
        yield value

"""Second opinions: what another classifier says of the original head's answer.

A second opinion comes as a view of the rows (:class:`adue_sklearn.Views`), never as texts or
models, so that searches and folds cut it and cannot fit it anew. What makes views, such as a text
classifier or label probes, is fitted beforehand on the rows that LoRA was trained on
(``fit_witness``). Clones keep it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from sklearn.base import _clone_parametrized, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Features, as_numpy
from adue_sklearn._utils.head import Head
from adue_sklearn._utils.label_order import label_order
from adue_sklearn._utils.labels import as_row_numbers, check_class_labels, check_labels, shorten
from adue_sklearn._utils.row_digests import row_digests, rows_among
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views, text_digests
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.exceptions import FitRowsWarning, MissingViewWarning
from adue_sklearn.scorers.learned import ErrorLearner, fit_scaler
from adue_sklearn.scorers.text_classifier import TfidfClassifier, check_texts

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Named = list[tuple[str, Any]]

#: Logarithm of the smallest probability. Smaller ones would make scores infinite, or so large
#: that a probability that half precision rounds to zero outweighs all others in a stack.
_SMALLEST = float(np.log(1e-12))
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
            warn(f"{message} Check that the view belongs to these rows.", FitRowsWarning)

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
        return found.clamp(max=-_SMALLEST)

    def _lacking(self, X: Features) -> BoolArray:
        if not self.has_view_:
            return np.zeros(X.shape[0], dtype=bool)
        if not isinstance(X, Views) or self.view not in X.names:
            return np.ones(X.shape[0], dtype=bool)
        return np.asarray(np.isnan(X.block(self.view)).any(axis=1))

    @abstractmethod
    def _log_probabilities(self, X: Any) -> FloatArray:
        """Return the other classifier's log-probabilities (n, C), NaN where it says nothing."""


_VIEW_CONSTRAINTS: dict[str, list[Any]] = {
    "view": [str],
    "fallback": [StrOptions({"error", "softmax response"})],
    **UncertaintyEstimator._parameter_constraints,
}


@dataclass(eq=False, repr=False)
class CompanionScorer(AnswerWitness):
    """How improbable another classifier finds the original head's answer.

    The other classifier may be an adapter of another seed or recipe, the adapter switched off, or
    another layer. On its own this score is often worse than softmax response. Beside it, in
    :class:`SecondOpinionScorer`, it finds errors that the original head is sure of.

    Parameters
    ----------
    view : str, default="companion"
        Name of the view in ``X``: probabilities or log-probabilities (n_samples, n_classes) with
        columns in the order of the head's rows. After :meth:`fit_witness`, features of any width.
    C : float, default=0.01
        Inverse strength of the penalty of the label probe that :meth:`fit_witness` fits.
    fallback : {"error", "softmax response"}, default="error"
        What a row without the view gets in ``predict_uncertainty``; its view is missing or NaN.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute the original head's logits: ``"auto"`` (where a tensor lies; CUDA if
        there is one for numpy arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    has_view_ : bool
        Whether ``fit`` was given the view. If not, the uncertainty is softmax response.
    probe_coef_ : ndarray of float64 of shape (n_classes, n_columns)
        The label probe, if ``fit_witness`` was called.
    probe_intercept_ : ndarray of float64 of shape (n_classes,)
        Its constants.
    probe_view_ : str
        The view that it was fitted on.
    witness_classes_ : ndarray of shape (n_classes,)
        The labels in the order of the label probe's rows.
    taught_rows_ : str
        Digests of the rows that ``fit_witness`` was given.
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Raises
    ------
    ValueError
        In ``fit``, if the view has other columns than the head has classes, holds no
        probabilities, or agrees with the labels far better in another order of the classes; if
        ``fit_witness`` was given another view, the classes in another order, or more than 5 % of
        the rows.

    Warns
    -----
    MissingViewWarning
        If ``X`` lacks the view in ``fit``.
    FitRowsWarning
        If the other classifier agrees with the labels no better than chance.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import CompanionScorer, Views
    >>> X = Views(np.eye(3)[:, :2], companion=[[0.9, 0.1], [0.7, 0.3], [0.5, 0.5]])
    >>> scorer = CompanionScorer().fit(X, [0, 1, 0], np.eye(2))
    >>> scorer.predict_uncertainty(X).round(2)
    array([0.11, 1.2 , 0.69])
    """

    card: ClassVar[Card] = Card(
        name="companion",
        paper="Zhou et al., Asymmetric Duos: Sidekicks Improve Uncertainty, arXiv 2505.18636, 2025",
        formula="-log q_k, q another classifier's probabilities",
        needs="second view",
        cost="fit nothing; row O(C), and what the other classifier costs",
    )

    taught = (
        "probe_coef_",
        "probe_intercept_",
        "probe_view_",
        "witness_classes_",
        "taught_rows_",
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="neither")],
        **_VIEW_CONSTRAINTS,
    }

    view: str = "companion"
    _: KW_ONLY
    C: float = 0.01
    fallback: str = "error"

    def fit_witness(self, X: Views, y: Any, *, classes: Any = None) -> Self:
        """Fit a label probe on the view, on the rows that the classifier was trained on.

        Only for a view of features. Call it before ``fit``; clones keep the probe.

        Parameters
        ----------
        X : Views
            Rows that the classifier was trained on.
        y : array-like of shape (n_samples,)
            Their true labels.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows. None: the labels in ``y``, sorted.

        Returns
        -------
        self : CompanionScorer
            With the probe.

        Raises
        ------
        ValueError
            If ``X`` lacks the view, if labels are not among the classes, or if the rows with the
            view hold fewer than two classes or infinity.
        """
        _require_view(X, self.view)
        labels, self.witness_classes_ = _labels_of(y, classes, len(X), type(self).__name__)
        self.probe_coef_, self.probe_intercept_ = label_probe(
            X.block(self.view), labels, len(self.witness_classes_), self.C, self.view
        )
        self.probe_view_ = self.view
        self.taught_rows_ = row_digests(as_numpy(X))
        return self

    def lacks_probe(self, X: Views) -> bool:
        """Tell whether the view is features for which ``fit_witness`` was not called yet."""
        if "probe_coef_" in vars(self) or self.view not in X.names:
            return False
        return not _are_probabilities(X.block(self.view))

    def _log_probabilities(self, X: Any) -> FloatArray:
        """Return the other classifier's log-probabilities (n, C), NaN where it says nothing."""
        block = X.block(self.view)
        if not hasattr(self, "probe_coef_"):
            return as_log_probabilities(block, len(self.classes_), self.view)
        if self.view != self.probe_view_:
            raise ValueError(
                f"view is {self.view!r}, but fit_witness was given {self.probe_view_!r}; call it "
                "again."
            )
        check_probe(block, self.probe_coef_, len(self.classes_), self.view)
        logits = block @ self.probe_coef_.T + self.probe_intercept_
        return np.asarray(log_softmax(logits, axis=1))


@dataclass(eq=False, repr=False)
class SidekickScorer(AnswerWitness):
    """How improbable a small text classifier finds the original head's answer.

    The text classifier is fitted in seconds on the texts that LoRA was trained on, and needs no
    forward pass. It is weaker than the original head, but errs elsewhere. Use the score in
    :class:`SecondOpinionScorer`.

    Parameters
    ----------
    classifier : estimator, default=None
        An unfitted scikit-learn classifier of texts with ``predict_proba``, such as a pipeline
        that starts with a vectorizer. None: :class:`TfidfClassifier`, the only one that a saved
        head can hold.
    view : str, default="sidekick"
        Name of the view in ``X``: the log-probabilities that :meth:`log_proba` returns.
    fallback : {"error", "softmax response"}, default="error"
        What a row without the view gets in ``predict_uncertainty``; its view is missing or NaN.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute the original head's logits: ``"auto"`` (where a tensor lies; CUDA if
        there is one for numpy arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    classifier_ : estimator
        The fitted text classifier, if ``fit_witness`` was called.
    witness_classes_ : ndarray of shape (n_classes,)
        The labels in the order of the view's columns.
    taught_texts_ : ndarray of uint64
        Digests of the texts that ``fit_witness`` was given, sorted.
    has_view_ : bool
        Whether ``fit`` was given the view. If not, the uncertainty is softmax response.
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Raises
    ------
    ValueError
        In ``fit``, as :class:`CompanionScorer` does; if ``X`` has text digests, also if more than
        5 % of its texts were given to ``fit_witness``.

    Warns
    -----
    MissingViewWarning
        If ``X`` lacks the view in ``fit``.
    FitRowsWarning
        If the text classifier agrees with the labels no better than chance.
    UserWarning
        If ``fit_witness`` was given a few of the rows' texts.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import SidekickScorer
    >>> sidekick = SidekickScorer().fit_witness(
    ...     ["good film", "good fun", "bad film", "bad plot"], [1, 1, 0, 0]
    ... )
    >>> X = sidekick.views(np.array([[1.0, 2.0]] * 3), ["good", "a good one", "bad"])
    >>> scorer = sidekick.fit(X, [1, 1, 0], np.eye(2))  # the head says 1 of all
    >>> int(scorer.predict_uncertainty(X).argmax())
    2
    """

    card: ClassVar[Card] = Card(
        name="sidekick",
        paper="Zhou et al., Asymmetric Duos: Sidekicks Improve Uncertainty, arXiv 2505.18636, 2025",
        formula="-log q_k, q a text classifier's probabilities",
        needs="second view",
        cost="fit nothing, its text classifier seconds; row O(C), its text O(length)",
    )

    taught = ("classifier_", "witness_classes_", "taught_texts_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "classifier": [HasMethods(["fit", "predict_proba"]), None],
        **_VIEW_CONSTRAINTS,
    }

    classifier: Any = None
    _: KW_ONLY
    view: str = "sidekick"
    fallback: str = "error"

    def fit_witness(self, texts: Sequence[str], y: Any, *, classes: Any = None) -> Self:
        """Fit the text classifier on the texts that the original classifier was trained on.

        Call it before ``fit``; clones keep the text classifier.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts that LoRA was trained on; never those of calibration or test rows.
        y : array-like of shape (n_samples,)
            Their true labels.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows. None: the labels in ``y``, sorted.

        Returns
        -------
        self : SidekickScorer
            With the text classifier.

        Raises
        ------
        ValueError
            If labels are not among the classes, or the text classifier cannot be fitted.

        Warns
        -----
        UserWarning
            If texts occur with different labels.
        """
        texts = check_texts(texts)
        if not texts:
            raise ValueError("texts is empty; expected texts that the classifier was trained on.")
        labels, self.witness_classes_ = _labels_of(y, classes, len(texts), type(self).__name__)
        _warn_of_contradictions(texts, labels)
        chosen = TfidfClassifier() if self.classifier is None else clone(self.classifier)
        self.classifier_ = chosen.fit(texts, labels)
        self.taught_texts_ = np.unique(text_digests(texts))
        return self

    def log_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return the text classifier's log-probabilities: the view that the score reads.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts.

        Returns
        -------
        log_probabilities : ndarray of float64 of shape (n_samples, n_classes)
            Columns in the order of the head's rows. A class that ``fit_witness`` was given no
            text of is improbable by Laplace's rule of succession. A row is NaN if the default
            text classifier knows nothing in its text, such as one in another alphabet.
        """
        if "classifier_" not in vars(self):
            raise NotFittedError(
                "This SidekickScorer has no text classifier; call fit_witness(texts, y) with the "
                "texts that the original classifier was trained on."
            )
        texts = check_texts(texts)
        with np.errstate(divide="ignore"):
            found = np.log(self.classifier_.predict_proba(texts))
        n_classes, known = len(self.witness_classes_), self.classifier_.classes_
        # Laplace's rule of succession: so probable is a class that none of the texts was of.
        unseen = 1.0 / (len(self.taught_texts_) + n_classes)
        rest = np.log1p(-unseen * (n_classes - len(known)))
        log_probabilities = np.full((len(texts), n_classes), np.log(unseen))
        log_probabilities[:, known] = (found + rest).clip(min=_SMALLEST)
        if isinstance(self.classifier_, TfidfClassifier):
            log_probabilities[~self.classifier_.knows(texts)] = np.nan
        return log_probabilities

    def views(self, X: Any, texts: Sequence[str]) -> Views:
        """Return features with the text classifier's view of the same rows.

        Parameters
        ----------
        X : array-like, torch.Tensor or Views of shape (n_samples, n_features)
            Features. If they are Views with text digests, the texts must be theirs.
        texts : sequence of str of length n_samples
            Texts in the order of the rows.

        Returns
        -------
        Views
            ``X`` with the view, and with digests of the texts.

        Raises
        ------
        ValueError
            If the texts are not those of the rows.
        """
        texts = check_texts(texts)
        if not isinstance(X, Views):
            X = Views(X, texts=texts)
        elif X.text_digests is None:
            X = X.with_texts(texts)
        elif len(texts) != len(X):
            raise ValueError(f"texts has {len(texts)} texts, but X has {len(X)} rows.")
        else:
            other = text_digests(texts) != X.text_digests
            if other.any():
                raise ValueError(
                    f"texts: {int(other.sum())} of {len(other)} texts are not those of their rows "
                    f"(first: row {int(other.argmax())}); expected the texts that X was extracted "
                    "from, in the same order."
                )
        return X.with_blocks(**{self.view: self.log_proba(texts)})

    def seen_rows(self, X: Features) -> BoolArray:
        """Return the rows (n,) whose texts ``fit_witness`` was given, as far as can be told."""
        digests = X.text_digests if isinstance(X, Views) else None
        if digests is None or not hasattr(self, "taught_texts_"):
            return np.zeros(X.shape[0], dtype=bool)
        return np.isin(digests, self.taught_texts_)

    def _log_probabilities(self, X: Any) -> FloatArray:
        return as_log_probabilities(X.block(self.view), len(self.classes_), self.view)


@dataclass(eq=False, repr=False)
class LayerProbeScorer(WitnessScorer, ErrorLearner):
    """Log-odds of an error from how the answer's probability runs through the layers.

    A label probe on each layer, fitted by :meth:`fit_witness` on the rows that LoRA was trained
    on, gives the probability of the original head's answer there. A logistic regression on rows
    that LoRA has not seen weighs three numbers: the log-odds of an error by softmax response, the
    mean of the layers' log-odds, and their trend from the first layer to the last.

    Parameters
    ----------
    views : list of str, default=None
        Names of the views, first layer first. None: all that are named ``layer_NUMBER``.
    C : float, default=0.01
        Inverse strength of the penalty of the label probes on standardised columns, above 0.
    fallback : {"error", "softmax response"}, default="error"
        What a row without the views gets in ``predict_uncertainty``. With "softmax response", the
        original head's probability stands for every layer's.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute the original head's logits: ``"auto"`` (where a tensor lies; CUDA if
        there is one for numpy arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    views_ : list of str
        Names of the views.
    probe_coefs_, probe_intercepts_ : list of ndarray of float64
        The label probes, (n_classes, n_columns) and (n_classes,), one for each view.
    witness_classes_ : ndarray of shape (n_classes,)
        The labels in the order of the label probes' rows.
    taught_rows_ : str
        Digests of the rows that ``fit_witness`` was given.
    has_view_ : bool
        Whether ``fit`` was given the views. If not, the uncertainty is softmax response.
    coef_ : ndarray of float64 of shape (3,)
        Weights of the three standardised numbers. Like the next, not set if there were no views or
        no errors to learn from.
    intercept_ : float
        The constant.
    n_errors_ : int
        Number of errors of the original head on the fit rows.
    n_samples_fit_ : int
        Number of fit rows.
    init_coef_, init_intercept_ : ndarray of float64
        The original head.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Raises
    ------
    ValueError
        In ``fit``, if ``X`` has the views but ``fit_witness`` was not called or was given other
        views, the classes in another order, or more than 5 % of these rows; with ``init_W``, if
        the head makes no errors or only errors.

    Warns
    -----
    MissingViewWarning
        If ``X`` lacks the views in ``fit``.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import LayerProbeScorer, Views
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=400)
    >>> layers = {f"layer_{k}": rng.normal(size=(400, 3)) + y[:, None] for k in (1, 2)}
    >>> X = Views(rng.normal(size=(400, 2)) + y[:, None], **layers)
    >>> scorer = LayerProbeScorer().fit_witness(X[:200], y[:200])
    >>> scorer.fit(X[200:], y[200:], [[-1.0, -1.0], [1.0, 1.0]], [1.0, -1.0]).views_
    ['layer_1', 'layer_2']
    """

    card: ClassVar[Card] = Card(
        name="layer probes",
        paper="Alain & Bengio, Understanding intermediate layers using linear classifier probes, "
        "ICLR workshop 2017",
        formula="log-odds of an error, linear in log(1 - max p) - log(max p) and in level and "
        "trend of log(1 - q_k) - log(q_k) over layers, q a label probe's",
        needs="held-out errors",
        cost="fit O(ndL) per iteration, L layers; row O(dCL)",
    )

    taught = ("views_", "probe_coefs_", "probe_intercepts_", "witness_classes_", "taught_rows_")
    _learned_names = ("coef_", "intercept_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "views": [list, None],
        "C": [Interval(Real, 0, None, closed="neither")],
        "fallback": [StrOptions({"error", "softmax response"})],
        **UncertaintyEstimator._parameter_constraints,
    }

    views: list[str] | None = None
    _: KW_ONLY
    C: float = 0.01
    fallback: str = "error"

    def fit_witness(self, X: Views, y: Any, *, classes: Any = None) -> Self:
        """Fit a label probe on each layer, on the rows that the classifier was trained on.

        Call it before ``fit``; clones keep the probes.

        Parameters
        ----------
        X : Views
            Rows that the classifier was trained on.
        y : array-like of shape (n_samples,)
            Their true labels.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the head's rows. None: the labels in ``y``, sorted.

        Returns
        -------
        self : LayerProbeScorer
            With the probes.

        Raises
        ------
        ValueError
            If ``X`` lacks the views, if labels are not among the classes, or if the rows with a
            view hold fewer than two classes or infinity.
        """
        for name in self.taught:
            self.__dict__.pop(name, None)
        if self.views is not None and len(self.views) == 0:
            raise ValueError("views is empty; expected names of views of X, or None.")
        names = self.view_names(X) if isinstance(X, Views) else ()
        for name in names or ("layer_1",):
            _require_view(X, name)
        labels, self.witness_classes_ = _labels_of(y, classes, len(X), type(self).__name__)
        self.views_ = list(names)
        n_classes = len(self.witness_classes_)
        probes = [label_probe(X.block(name), labels, n_classes, self.C, name) for name in names]
        self.probe_coefs_, self.probe_intercepts_ = map(list, zip(*probes, strict=True))
        self.taught_rows_ = row_digests(as_numpy(X))
        return self

    def lacks_probe(self, X: Views) -> bool:
        """Tell whether ``fit_witness`` was not called yet."""
        return "probe_coefs_" not in vars(self)

    def view_names(self, X: Views) -> tuple[str, ...]:
        """Return the names of the views that the score reads."""
        if "views_" in vars(self):
            return tuple(self.views_)
        if self.views is not None:
            return tuple(self.views)
        numbered = [name for name in X.names if re.fullmatch(r"layer_\d+", name)]
        return tuple(sorted(numbered, key=lambda name: int(name.rpartition("_")[2])))

    @property
    def views_read(self) -> tuple[str, ...]:
        """Names of the views that the score was fitted with, none if they were missing."""
        return tuple(self.views_) if self.has_view_ else ()

    def _wanted(self) -> str:
        return ", ".join(map(repr, self.views or vars(self).get("views_", ["layer_1", "..."])))

    def _fit(self, X: Features, labels: IntArray, head: Head) -> None:
        self.has_view_ = self._finds_views(X)
        if not self.has_view_:
            self._learned = False
            self.n_errors_ = int(self._original_errors(X, labels, head).sum())
            self.n_samples_fit_ = len(labels)
            return
        if "probe_coefs_" not in vars(self):
            raise ValueError(
                "LayerProbeScorer has no label probes; call fit_witness(X, y) first, with rows "
                "that the classifier was trained on (X_train of compare_scorers, --train-store)."
            )
        if self.views is not None and list(self.views) != self.views_:
            raise ValueError(
                f"views is {self.views!r}, but fit_witness was given {self.views_!r}; call it "
                "again."
            )
        self._check_classes(head)
        self._check_unseen(X)
        super()._fit(X, labels, head)

    def _learn(self, X: Features, labels: IntArray, errors: BoolArray, head: Head) -> None:
        columns = self._columns(X)
        scaler = fit_scaler(columns, "X is")
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(columns), errors)
        self._mean, self._scale = scaler.mean_, scaler.scale_
        self.coef_, self.intercept_ = model.coef_[0], float(model.intercept_[0])

    def _apply(self, X: Features) -> Tensor:
        columns = (self._columns(X) - self._mean) / self._scale
        return torch.as_tensor(columns @ self.coef_ + self.intercept_)

    def _columns(self, X: Features) -> FloatArray:
        """Return log-odds of an error by softmax response, and level and trend of the layers'."""
        own = torch.log_softmax(self.original_logits(X), dim=1).cpu().numpy()
        answers, rows = own.argmax(axis=1), np.arange(len(own))
        missing = self._lacking(X)
        self._require(X, missing)
        layers = np.repeat(own[rows, answers][:, None], len(self.views_), axis=1)
        if not missing.all():
            there = np.flatnonzero(~missing)
            layers[there] = self._log_probabilities(X)[there, :, answers[there]]
        odds = log_odds_of_error(layers)
        depth = np.linspace(-1.0, 1.0, odds.shape[1])
        return np.column_stack(
            [log_odds_of_error(own[rows, answers]), odds.mean(axis=1), odds @ depth / len(depth)]
        )

    def _log_probabilities(self, X: Any) -> FloatArray:
        """Return the probes' log-probabilities (n, L, C)."""
        found = []
        for name, coef, intercept in zip(
            self.views_, self.probe_coefs_, self.probe_intercepts_, strict=True
        ):
            check_probe(X.block(name), coef, len(self.classes_), name)
            found.append(log_softmax(X.block(name) @ coef.T + intercept, axis=1))
        return np.stack(found, axis=1)

    def answers(self, X: Features) -> IntArray:
        """Return the class (n,) that the layers find most probable on average, by row number."""
        return self._log_probabilities(X).mean(axis=1).argmax(axis=1)

    def _lacking(self, X: Features) -> BoolArray:
        if not self.has_view_:
            return np.zeros(X.shape[0], dtype=bool)
        if not isinstance(X, Views) or not set(self.views_) <= set(X.names):
            return np.ones(X.shape[0], dtype=bool)
        return np.any([np.isnan(X.block(name)).any(axis=1) for name in self.views_], axis=0)


def log_odds_of_error(log_probabilities: FloatArray) -> FloatArray:
    """Return ``log(1 - q) - log(q)`` for logarithms of probabilities of the answer."""
    return np.log(np.maximum(-np.expm1(log_probabilities), 1e-9)) - log_probabilities


def check_probe(block: FloatArray, coef: FloatArray, n_classes: int, view: str) -> None:
    """Raise unless a label probe belongs to a view and to the head's classes."""
    if block.shape[1] != coef.shape[1]:
        raise ValueError(
            f"the view {view!r} has {block.shape[1]} columns, but fit_witness was given "
            f"{coef.shape[1]}; expected the same features."
        )
    if np.isinf(block).any():
        raise ValueError(f"the view {view!r} holds infinity; expected finite features.")
    if len(coef) != n_classes:
        raise ValueError(
            f"fit_witness found {len(coef)} classes, but the head has {n_classes}; pass its "
            "classes to fit_witness."
        )


def witnesses_of(X: Views, *, activation: str | None = None, device: str = "auto") -> Named:
    """Return a scorer for every view, with names; all layers have one.

    Where some of the rows lack a view, softmax response stands for it.
    """
    common: dict[str, Any] = {"activation": activation, "device": device}
    layers = LayerProbeScorer(**common)
    read = layers.view_names(X)
    found: Named = []
    for name in X.names:
        if name in read:
            continue
        witness: Any = CompanionScorer(name, **common)
        if name == "sidekick":
            witness = SidekickScorer(**common)
        if np.isnan(X.block(name)).any():  # as later rows will lack it too
            witness.fallback = "softmax response"
        found.append((name, witness))
    return [*found, (layers.card.name, layers)] if read else found


def witnesses_in(estimator: UncertaintyEstimator) -> Iterator[WitnessScorer]:
    """Yield the fitted witnesses that a fitted score is or holds."""
    if isinstance(estimator, WitnessScorer):
        yield estimator
    for inner in estimator.scores_inside():
        yield from witnesses_in(inner)


def views_read_by(estimator: UncertaintyEstimator) -> list[str]:
    """Return the names of the views that a fitted score reads."""
    return list(
        dict.fromkeys(name for witness in witnesses_in(estimator) for name in witness.views_read)
    )


def use_fallback(estimator: UncertaintyEstimator) -> None:
    """Let softmax response stand for views that rows lack, in a fitted score and those inside."""
    for witness in witnesses_in(estimator):
        witness.fallback = "softmax response"


def _are_probabilities(block: FloatArray) -> bool:
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
    return logarithms.clip(min=_SMALLEST)


def label_probe(
    block: FloatArray, labels: IntArray, n_classes: int, C: float, view: str
) -> tuple[FloatArray, FloatArray]:
    """Return weights (C, k) and constants (C,) of a logistic regression on one view.

    Columns are standardised inside. A class without rows gets a probability near zero. Rows of
    NaN, which lack the view, are left out.
    """
    there = ~np.isnan(block).any(axis=1)
    block, labels = block[there], labels[there]
    if np.isinf(block).any():
        raise ValueError(f"the view {view!r} holds infinity; expected finite features.")
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"y has {len(np.unique(labels))} class(es) in the {len(labels)} rows with the view "
            f"{view!r}; expected rows of two classes or more."
        )
    scaler = StandardScaler().fit(block)
    model = LogisticRegression(C=C, max_iter=1000).fit(scaler.transform(block), labels)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coef, intercept = np.vstack([0 * coef, coef]), np.array([0.0, *intercept])
    weights, constants = np.zeros((n_classes, block.shape[1])), np.full(n_classes, -50.0)
    weights[model.classes_] = coef / scaler.scale_
    constants[model.classes_] = intercept - weights[model.classes_] @ scaler.mean_
    return weights, constants


def _labels_of(y: Any, classes: Any, n_rows: int, name: str) -> tuple[IntArray, npt.NDArray[Any]]:
    """Return labels as places among the classes, and the classes."""
    labels = check_labels(y, n_rows, name)
    known = np.unique(labels) if classes is None else check_class_labels(classes)
    return as_row_numbers(labels, known, named=True), known


def _require_view(X: Any, name: str) -> None:
    if not isinstance(X, Views) or name not in X.names:
        raise ValueError(
            f"X is {X!r:.200}; expected Views with the view {name!r}, of rows that the classifier "
            "was trained on."
        )


def _warn_of_contradictions(texts: list[str], labels: IntArray) -> None:
    """Warn of texts that occur with different labels."""
    _, group = np.unique(text_digests(texts), return_inverse=True)
    lowest = np.full(group.max() + 1, np.iinfo(np.int64).max)
    highest = np.full(group.max() + 1, -1)
    np.minimum.at(lowest, group, labels)
    np.maximum.at(highest, group, labels)
    odd = lowest != highest
    if odd.any():
        example = texts[int(np.flatnonzero(odd[group])[0])]
        warn(
            f"texts: {int(odd.sum())} texts occur with different labels (such as {example!r:.80}); "
            "the text classifier learns both. Correct the labels or drop these rows."
        )

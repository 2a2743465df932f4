"""Another classifier's opinion: of a companion, or of a text classifier beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import HasMethods, Interval

from adue_sklearn._utils.arrays import Features, as_numpy
from adue_sklearn._utils.row_digests import row_digests
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views, text_digests
from adue_sklearn.card import Card
from adue_sklearn.scorers.label_probes import check_probe, label_probe
from adue_sklearn.scorers.text_classifier import TfidfClassifier, check_texts
from adue_sklearn.scorers.witness import (
    SMALLEST,
    VIEW_CONSTRAINTS,
    AnswerWitness,
    are_probabilities,
    as_log_probabilities,
    labels_of,
    require_view,
)

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
    UserWarning
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
        **VIEW_CONSTRAINTS,
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
        require_view(X, self.view)
        labels, self.witness_classes_ = labels_of(y, classes, len(X), type(self).__name__)
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
        return not are_probabilities(X.block(self.view))

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
    UserWarning
        If the text classifier agrees with the labels no better than chance, or ``fit_witness`` was
        given a few of the rows' texts.

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
        **VIEW_CONSTRAINTS,
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
        labels, self.witness_classes_ = labels_of(y, classes, len(texts), type(self).__name__)
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
        if isinstance(self.classifier_, TfidfClassifier):
            found = self.classifier_.known_log_proba(texts)
        else:
            with np.errstate(divide="ignore"):
                found = np.log(self.classifier_.predict_proba(texts))
        n_classes, known = len(self.witness_classes_), self.classifier_.classes_
        # Laplace's rule of succession: so probable is a class that none of the texts was of.
        unseen = 1.0 / (len(self.taught_texts_) + n_classes)
        rest = np.log1p(-unseen * (n_classes - len(known)))
        log_probabilities = np.full((len(texts), n_classes), np.log(unseen))
        log_probabilities[:, known] = (found + rest).clip(min=SMALLEST)
        log_probabilities[np.isnan(found).any(axis=1)] = np.nan
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
            ``X`` with the view, and with digests of the texts. It remembers which texts
            ``fit_witness`` was given, so that ``fit`` of any sidekick refuses them.

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
        return X.with_opinion(self.view, self.log_proba(texts), self.taught_texts_)

    def seen_rows(self, X: Features) -> BoolArray:
        """Return the rows (n,) whose texts ``fit_witness`` was given, as far as can be told.

        Here or of the scorer that made the view.
        """
        if not isinstance(X, Views):
            return np.zeros(X.shape[0], dtype=bool)
        seen = X.taught(self.view)
        if X.text_digests is not None and hasattr(self, "taught_texts_"):
            seen |= np.isin(X.text_digests, self.taught_texts_)
        return seen

    def _log_probabilities(self, X: Any) -> FloatArray:
        return as_log_probabilities(X.block(self.view), len(self.classes_), self.view)


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

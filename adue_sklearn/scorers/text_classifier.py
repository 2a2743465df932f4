"""A small text classifier without a neural network, kept as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, hstack
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from adue_sklearn._utils.labels import check_labels
from adue_sklearn._utils.validation import naming

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: What is counted of a text: words and pairs of them, and 2 to 4 characters within a word.
_WORDS = {"ngram_range": (1, 2), "sublinear_tf": True}
_CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 4), "sublinear_tf": True}


@dataclass(eq=False, repr=False)
class TfidfClassifier(ClassifierMixin, BaseEstimator):
    """Logistic regression on TF-IDF weights of words and of characters.

    It fits thousands of texts in seconds and errs on other texts than a neural network does.

    Parameters
    ----------
    C : float, default=3.0
        Inverse strength of the penalty, above 0.
    min_df : int, default=2
        Smallest number of texts that a word or a group of characters must occur in, at least 1.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    words_, characters_ : list of str
        What is counted, in the order of the weights: one or two words, two to four characters.
    idf_ : ndarray of float64 of shape (n_terms,)
        Inverse document frequencies of words and characters.
    coef_ : ndarray of float64 of shape (n_classes, n_terms)
        Weights.
    intercept_ : ndarray of float64 of shape (n_classes,)
        Constants.

    Examples
    --------
    >>> from adue_sklearn.scorers import TfidfClassifier
    >>> texts = ["a good film", "good fun", "a bad film", "bad acting"]
    >>> classifier = TfidfClassifier(min_df=1).fit(texts, ["pos", "pos", "neg", "neg"])
    >>> classifier.predict(["really good"]).tolist()
    ['pos']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="neither")],
        "min_df": [Interval(Integral, 1, None, closed="left")],
    }

    C: float = 3.0
    _: KW_ONLY
    min_df: int = 2

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, texts: Sequence[str], y: Any) -> Self:
        """Fit on texts and their labels.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts.
        y : array-like of shape (n_samples,)
            Labels of at least two classes.

        Returns
        -------
        self : TfidfClassifier
            Fitted.

        Raises
        ------
        ValueError
            If nothing that is counted occurs in ``min_df`` texts, or for fewer than two classes.
        """
        texts = check_texts(texts)
        labels = check_labels(y, len(texts), type(self).__name__)
        parts = [_count(texts, self.min_df, counted) for counted in (_WORDS, _CHARACTERS)]
        if not any(part.terms for part in parts):
            raise ValueError(
                f"texts has no words or groups of characters that occur in min_df={self.min_df} of "
                f"its {len(texts)} texts; expected more texts, or set a smaller min_df."
            )
        columns = hstack([part.weights for part in parts], format="csr")
        with naming("y", "labels of at least two classes"):
            model = LogisticRegression(C=self.C, max_iter=1000).fit(columns, labels)
        self.classes_ = model.classes_
        self.words_, self.characters_ = (part.terms for part in parts)
        self.idf_ = np.concatenate([part.idf for part in parts])
        self.coef_, self.intercept_ = model.coef_, model.intercept_
        if len(self.classes_) == 2:  # scikit-learn keeps one row, the logit of the second class
            self.coef_ = np.vstack([np.zeros_like(self.coef_), self.coef_])
            self.intercept_ = np.concatenate([np.zeros(1), self.intercept_])
        return self

    def predict_log_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return log-probabilities of the classes.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts.

        Returns
        -------
        log_probabilities : ndarray of float64 of shape (n_samples, n_classes)
            Columns as in ``classes_``.
        """
        return self._log_proba(self._weights(texts))

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return probabilities of the classes.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts.

        Returns
        -------
        probabilities : ndarray of float64 of shape (n_samples, n_classes)
            Columns as in ``classes_``.
        """
        return np.exp(self.predict_log_proba(texts))

    def predict(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Return the most probable labels.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Entries of ``classes_``.
        """
        return self.classes_[self.predict_log_proba(texts).argmax(axis=1)]

    def known_log_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return log-probabilities of the classes, NaN for texts of which it knows nothing.

        It knows nothing of a text without a letter or a digit that was seen in ``fit``, such as
        one in another alphabet; of such texts it would only say how frequent the classes are.

        Parameters
        ----------
        texts : sequence of str of length n_samples
            Texts.

        Returns
        -------
        log_probabilities : ndarray of float64 of shape (n_samples, n_classes)
            Columns as in ``classes_``.
        """
        weights = self._weights(texts)
        return np.where(self._known(weights)[:, None], self._log_proba(weights), np.nan)

    def _log_proba(self, weights: csr_array) -> FloatArray:
        logits = weights @ self.coef_.T + self.intercept_
        return np.asarray(log_softmax(logits, axis=1))

    def _known(self, weights: csr_array) -> BoolArray:
        terms = [*self.words_, *self.characters_]
        telling = np.array([any(map(str.isalnum, term)) for term in terms])
        return np.asarray(weights[:, telling].sum(axis=1) > 0).ravel()

    def _weights(self, texts: Sequence[str]) -> csr_array:
        """Return the TF-IDF weights (n, n_terms)."""
        check_is_fitted(self)
        texts = check_texts(texts)
        parts, start = [csr_array((len(texts), 0))], 0
        for counted, terms in ((_WORDS, self.words_), (_CHARACTERS, self.characters_)):
            if not terms:
                continue
            vectorizer = TfidfVectorizer(vocabulary=terms, **counted)
            vectorizer.idf_ = self.idf_[start : start + len(terms)]
            parts.append(vectorizer.transform(texts))
            start += len(terms)
        return hstack(parts, format="csr")


class _Counted(NamedTuple):
    """What is counted in texts: the terms, their inverse document frequencies, the weights."""

    terms: list[str]
    idf: FloatArray
    weights: csr_array


def _count(texts: list[str], min_df: int, counted: dict[str, Any]) -> _Counted:
    """Return the weights (n, n_terms) of what occurs in ``min_df`` texts, if only of nothing.

    Scripts without spaces have few words that occur twice, but characters that do.
    """
    vectorizer = TfidfVectorizer(min_df=min_df, **counted)
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError:  # nothing occurs so often
        return _Counted([], np.empty(0), csr_array((len(texts), 0)))
    return _Counted(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, weights)


def check_texts(texts: Any) -> list[str]:
    """Return texts as a list; anything else raises."""
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise TypeError(f"texts is a {type(texts).__name__}; expected a sequence of str.")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(
                f"texts holds a {type(text).__name__} at row {number}; expected only str."
            )
    return found

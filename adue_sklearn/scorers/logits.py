"""Scores that need the original head's logits and nothing else."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from adue_sklearn._heads import IntArray, OriginalHead
from adue_sklearn._torch import Array
from adue_sklearn.adue.objective import softmax_response
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card


class SoftmaxResponseScorer(UncertaintyEstimator):
    """One minus the largest class probability of the original head.

    Costs nothing, learns nothing, and is hard to beat: whatever is used instead has to.

    Parameters
    ----------
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers; only for heads of several layers.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    init_coef_ : ndarray of float64 of shape (n_classes, n_features)
        Weights of the original head.
    init_intercept_ : ndarray of float64 of shape (n_classes,)
        Its bias.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Notes
    -----
    The score is computed from the log-odds of "any other class", so it tells rows apart whose
    largest probability rounds to one.

    Examples
    --------
    >>> from adue_sklearn import SoftmaxResponseScorer
    >>> W, b = [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]
    >>> scorer = SoftmaxResponseScorer().fit([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], [0, 1, 1], W, b)
    >>> scorer.predict_uncertainty([[0.0, 0.0], [50.0, 0.0]])
    array([5.00000000e-01, 1.92874985e-22])
    """

    card: ClassVar[Card] = Card(
        name="softmax response",
        paper="Hendrycks & Gimpel, A baseline for detecting misclassified and "
        "out-of-distribution examples in neural networks, ICLR 2017",
        formula="1 - max p",
        needs="head",
        cost="fit nothing; row O(Cd)",
    )

    def _fit(self, X: Array, labels: IntArray, head: OriginalHead) -> None:
        """Nothing to learn beyond the head itself."""

    def _uncertainty(self, X: Array) -> Tensor:
        return softmax_response(self._original_logits(X))

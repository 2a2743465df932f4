"""What AdUE is compared with."""

from adue_sklearn.scorers.logits import SoftmaxResponseScorer
from adue_sklearn.scorers.mahalanobis import MahalanobisScorer

__all__ = ["MahalanobisScorer", "SoftmaxResponseScorer"]

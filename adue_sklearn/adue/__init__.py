"""AdUE: the method of the paper."""

from adue_sklearn.adue.estimator import AdUEEstimator
from adue_sklearn.adue.search import AdUESearchCV

__all__ = ["AdUEEstimator", "AdUESearchCV"]

"""AdUE: the method of the paper."""

from adue_sklearn.adue.estimator import AdUEEstimator

__all__ = ["AdUEEstimator"]

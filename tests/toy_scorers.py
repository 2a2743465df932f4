"""Scorers that know everything, nothing, or fail."""

from __future__ import annotations

import numpy as np
import torch

from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card


class ToyScorer(UncertaintyEstimator):
    """What other tests' scorers share: features are the score."""

    card = Card("toy", "Nobody, 2020", "h", "held-out errors", "fit nothing; row nothing")

    def _fit(self, X, labels, head):
        self.rows_ = X.copy()

    def _uncertainty(self, X):
        return torch.as_tensor(np.asarray(X)[:, 0])


class Failing(ToyScorer):
    def _fit(self, X, labels, head):
        raise RuntimeError("no luck")


class Constant(ToyScorer):
    def _uncertainty(self, X):
        return torch.zeros(len(X))


class NotANumber(ToyScorer):
    def predict_uncertainty(self, X):
        return np.where(np.arange(len(X)) == 2, np.nan, 0.5)


class Oracle(ToyScorer):
    """It knows the errors: the last feature is one where the head is wrong."""

    def _uncertainty(self, X):
        return torch.as_tensor(np.asarray(X)[:, -1])


def with_oracle(problem):
    X = np.column_stack([problem.X, problem.errors.astype(float)])
    return X, problem.y, np.pad(problem.W, ((0, 0), (0, 1))), problem.b

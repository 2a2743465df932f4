"""Rows with a head that errs, and second opinions of them that err elsewhere."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from adue_sklearn import Head, Views


class Witnessed:
    """Features whose head errs on some rows, and log-probabilities of another classifier."""

    def __init__(self, n=400, n_classes=3, *, d=6, gap=2.0, skill=2.0, seed=0):
        rng = np.random.default_rng(seed)
        self.y = rng.permutation(np.arange(n) % n_classes)
        self.W, self.b = rng.normal(size=(n_classes, d)), rng.normal(size=n_classes) * 0.1
        directions = np.linalg.pinv(self.W).T
        self.X = rng.normal(size=(n, d)) * 0.8 + gap * directions[self.y]
        self.q = self.another(rng, skill)
        self.head = Head.of(self.W, self.b)

    def another(self, rng, skill):
        """Return log-probabilities of a classifier that knows so much of the labels."""
        truth = np.eye(len(self.W))[self.y]
        return log_softmax(skill * truth + rng.normal(size=truth.shape), axis=1)

    @property
    def answers(self):
        return (self.X @ self.W.T + self.b).argmax(axis=1)

    @property
    def errors(self):
        return self.answers != self.y

    @property
    def log_p(self):
        return log_softmax(self.X @ self.W.T + self.b, axis=1)

    def views(self, **blocks):
        return Views(self.X, **(blocks or {"companion": self.q}))

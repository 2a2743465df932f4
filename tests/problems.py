"""A classification problem whose head errs, and the devices to try."""

from __future__ import annotations

import numpy as np
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Problem:
    """Features, labels and a head that errs on some of them."""

    def __init__(self, n=400, d=12, n_classes=3, *, noise=1.0, gap=1.0, seed=0):
        rng = np.random.default_rng(seed)
        self.W = rng.normal(size=(n_classes, d)) * gap
        self.b = rng.normal(size=n_classes) * 0.1 * gap
        self.X = rng.normal(size=(n, d))
        # Some directions say when the head is wrong: the labels follow another head there.
        truth = self.W / gap + noise * rng.normal(size=(n_classes, d))
        self.y = (self.X @ truth.T + self.b / gap).argmax(axis=1)

    @property
    def errors(self):
        return (self.X @ self.W.T + self.b).argmax(axis=1) != self.y

    @property
    def fit_args(self):
        return self.X, self.y, self.W, self.b

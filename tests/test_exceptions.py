"""Errors and warnings can be imported from one public place."""

from __future__ import annotations

import importlib
import pkgutil
import warnings

import numpy as np
import pytest

import adue_sklearn
from adue_sklearn import SoftmaxResponseScorer, exceptions

#: Never leaves the package: whoever loads a model turns it into a ValueError that says more.
INTERNAL = {"NoModelError"}


def test_every_class_is_there_or_is_a_kind_of_one_that_is():
    public = tuple(getattr(exceptions, name) for name in exceptions.__all__)
    found = set()
    for module in pkgutil.walk_packages(adue_sklearn.__path__, "adue_sklearn."):
        if not module.name.endswith("__main__"):
            found |= {
                value
                for value in vars(importlib.import_module(module.name)).values()
                if isinstance(value, type) and issubclass(value, Exception)
            }
    own = {cls for cls in found if cls.__module__.startswith("adue_sklearn")}
    assert set(public) <= own
    hidden = {cls.__name__ for cls in own if not issubclass(cls, public)}
    assert hidden == INTERNAL


def test_errors_and_warnings_are_of_the_usual_kinds():
    for name in exceptions.__all__:
        kinds = UserWarning if name.endswith("Warning") else (ValueError, RuntimeError)
        assert issubclass(getattr(exceptions, name), kinds)


def test_a_warning_of_label_order_can_be_made_an_error(problem):
    moved = np.array([1, 2, 0])[problem.y]
    with warnings.catch_warnings():
        warnings.simplefilter("error", exceptions.LabelOrderWarning)
        with pytest.raises(exceptions.LabelOrderWarning, match="another order"):
            SoftmaxResponseScorer().fit(problem.X, moved, problem.W, problem.b)

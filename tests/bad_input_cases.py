"""Values that nobody should pass, and what is asked of the error that they end in."""

from __future__ import annotations

import re
import warnings

import numpy as np
import scipy.sparse
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adue_sklearn import AdUEEstimator
from tests.problems import Problem

PROBLEM = Problem(n=40, d=4, noise=3.0)
DOCUMENTED = (ValueError, TypeError, FileNotFoundError, FileExistsError)

numbers = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, bool]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=None,
)
other_dtypes = hnp.arrays(
    st.sampled_from([np.complex128, np.dtype("U3"), np.dtype("S2"), np.dtype("M8[s]")]),
    hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4),
)
spoiled = st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1, 0.5]).map(
    lambda value: np.where(np.arange(160).reshape(40, 4) == 7, value, PROBLEM.X)
)
things = st.sampled_from(
    [
        None,
        "text",
        b"bytes",
        3,
        -1.5,
        float("nan"),
        [],
        [[]],
        {},
        {"a": 1},
        set(),
        object(),
        [1, "a", None],
        [[1, 2], [3]],
        ["a", "b"],
        [None] * 40,
        np.array([1, "a", None], dtype=object),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        scipy.sparse.eye_array(4, format="csr"),
        torch.zeros(3),
        torch.zeros(2, 4, dtype=torch.bfloat16),
        torch.zeros(4, 4).to_sparse(),
        torch.full((40, 4), torch.nan),
        PROBLEM.X.T,
        PROBLEM.X[::-1, ::-1],
        np.asfortranarray(PROBLEM.X),
        PROBLEM.W,
        PROBLEM.y,
        PROBLEM.y.astype(str),
        PROBLEM.y.astype(object),
        PROBLEM.y + 0.5,
        PROBLEM.y[:, None],
        lambda: None,
        AdUEEstimator,
    ]
)
anything = st.one_of(things, numbers, other_dtypes, spoiled)

#: How a message says what was expected instead of what it got.
EXPECTATION = re.compile(
    r"\b(expect(ed|s|ing)|pass|must|need(ed|s)?|requires?d?|should|too (few|large|many))\b",
    re.IGNORECASE,
)


def call(function, *names):
    """Call; let pass what is documented, says one of ``names`` and what was expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except DOCUMENTED as error:
            message = str(error)
            assert any(re.search(rf"\b{name}\b", message) for name in names), message
            assert EXPECTATION.search(message), message

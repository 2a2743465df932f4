"""Features with second views of the same rows: cut alike, joined by text, read by whoever asks."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from adue_sklearn import (
    Head,
    LinearProbeScorer,
    SelectiveClassifier,
    UncertaintyPipeline,
    Views,
    compare_scorers,
)
from tests import marks
from tests.estimator_cases import ESTIMATORS
from tests.problems import Problem

pytestmark = marks.no_views

PROBLEM = Problem(n=120, d=5, noise=0.8)
BLOCK = np.arange(240.0).reshape(120, 2)
TEXTS = [f"text {number}" for number in range(120)]


@pytest.mark.parametrize(
    "kind", [np.asarray, torch.as_tensor, lambda X: pd.DataFrame(X, columns=list("abcde"))]
)
@pytest.mark.parametrize(
    "rows",
    [
        slice(3, 9),
        slice(None, None, -2),
        np.array([5, 1, 1]),
        [5, 1],
        np.arange(120) % 2 == 0,
        torch.tensor([5, 1]),
        (np.array([5, 1]), ...),
    ],
    ids=str,
)
def test_rows_of_all_views_are_cut_alike(kind, rows):
    X = Views(kind(PROBLEM.X), texts=TEXTS, other=BLOCK)
    expected = np.arange(120)[rows[0] if isinstance(rows, tuple) else rows]
    part = X[rows]
    assert type(part.main) is type(X.main)
    np.testing.assert_array_equal(np.asarray(part.main), PROBLEM.X[expected])
    np.testing.assert_array_equal(part.block("other"), BLOCK[expected])
    np.testing.assert_array_equal(part.text_digests, X.text_digests[expected])
    assert part.shape == (len(expected), 5)
    assert len(part) == len(expected)


def test_views_survive_pickling_and_cannot_be_changed():
    X = Views(PROBLEM.X, texts=TEXTS, other=BLOCK)
    copy = pickle.loads(pickle.dumps(X))
    np.testing.assert_array_equal(copy.block("other"), BLOCK)
    np.testing.assert_array_equal(copy.text_digests, X.text_digests)
    with pytest.raises(AttributeError):
        X.main = None
    for views in (X, copy, X[:3]):
        for array in (views.block("other"), views.text_digests):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
    more = X.with_blocks(third=BLOCK[:, :1])
    assert X.names == ("other",)
    assert more.names == ("other", "third")
    assert "120 rows, 5 features, other: 2 columns, third: 1 columns" in repr(more)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda X: np.asarray(Views(X)), TypeError, "Pass X.main"),
        (lambda X: Views(X)[0], TypeError, r"such as X\[:1\]"),
        (lambda X: Views(X)[:, 0], TypeError, "X.main for columns"),
        (lambda X: Views(Views(X)), TypeError, "with_blocks"),
        (lambda X: Views(X, a=BLOCK[1:]), ValueError, "view 'a' has shape .119, 2.*120 rows"),
        (lambda X: Views(X, a=BLOCK[:, 0]), ValueError, "view 'a' has shape"),
        (lambda X: Views(X, a=[["x"]] * 120), ValueError, "a: could not convert"),
        (lambda X: Views(X, a=BLOCK[:, :0]), ValueError, "view 'a' has shape .120, 0"),
        (lambda X: Views(X, a=BLOCK + 1j), ValueError, "view 'a' holds complex numbers"),
        (lambda X: Views(X, a=torch.as_tensor(BLOCK + 1j)), ValueError, "'a' holds complex"),
        (lambda X: Views(X, a=torch.as_tensor(BLOCK).to_sparse()), TypeError, "a: .*to_dense"),
        (lambda X: Views(X[:, 0]), ValueError, r"main has shape \(120,\)"),
        (lambda X: Views(None), ValueError, r"main has shape \(\)"),
        (lambda X: Views(X, texts=5), TypeError, "texts is a int; expected a sequence of str"),
        (lambda X: Views(X, texts=[*TEXTS[1:], None]), TypeError, "sequence of str"),
        (lambda X: Views(X, texts=TEXTS, text_digests=BLOCK), ValueError, "pass one of them"),
        (lambda X: Views(X)[np.ones(3, bool)], IndexError, "boolean"),
        (lambda X: Views(X, main=BLOCK), ValueError, "another name"),
        (lambda X: Views(X).block("a"), KeyError, "no view 'a'; its views are: none"),
        (lambda X: Views(X, texts=TEXTS[1:]), ValueError, "one text, or one digest"),
        (lambda X: Views(X, texts="text"), TypeError, "sequence of str"),
        (lambda X: Views(X, text_digests=np.arange(120)), ValueError, "uint64"),
    ],
)
def test_wrong_views_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make(PROBLEM.X)


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        np.asfortranarray,
        lambda block: np.ascontiguousarray(block[::-1])[::-1],
        lambda block: np.repeat(block, 2, axis=1)[:, ::2],
        lambda block: block.astype(np.int32),
        lambda block: block.astype(np.float16),
        lambda block: block.tolist(),
        lambda block: pd.DataFrame(block, columns=["p", "q"]),
        torch.as_tensor,
        lambda block: torch.as_tensor(block).to(torch.bfloat16).requires_grad_(),
        lambda block: torch.as_tensor(block).T.contiguous().T,
        lambda block: torch.as_tensor(block).long(),
    ],
)
def test_blocks_of_any_kind_become_the_same_numbers(kind):
    X = Views(PROBLEM.X, other=kind(BLOCK % 8))
    assert X.block("other").dtype == np.float64
    np.testing.assert_array_equal(X.block("other"), BLOCK % 8)
    np.testing.assert_array_equal(X[::3].block("other"), BLOCK[::3] % 8)


def test_no_rows_are_views_too():
    nothing = Views(PROBLEM.X, texts=TEXTS, other=BLOCK)[[]]
    assert len(nothing) == 0
    assert nothing.block("other").shape == (0, 2)
    assert nothing.text_digests.shape == (0,)


@given(st.lists(st.text(max_size=6), max_size=8))
def test_texts_have_equal_digests_where_they_are_equal(texts):
    digests = Views(np.zeros((len(texts), 1)), texts=texts).text_digests
    alike = [[a == b for b in texts] for a in texts]
    np.testing.assert_array_equal(digests[:, None] == digests, np.reshape(alike, 2 * [len(texts)]))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_scores_that_need_no_view_read_the_features_alone(estimator):
    alone = clone(estimator).fit(*PROBLEM.fit_args)
    X = Views(PROBLEM.X, texts=TEXTS, other=BLOCK)
    beside = clone(estimator).fit(X, PROBLEM.y, PROBLEM.W, PROBLEM.b)
    for method in ("predict", "predict_proba", "predict_uncertainty"):
        np.testing.assert_array_equal(getattr(beside, method)(X), getattr(alone, method)(PROBLEM.X))
    assert beside.score(X, PROBLEM.y) == alone.score(PROBLEM.X, PROBLEM.y)


def test_searches_comparisons_and_pipelines_cut_views():
    X = Views(torch.as_tensor(PROBLEM.X), other=BLOCK)
    head = {"init_W": Head.of(PROBLEM.W, PROBLEM.b)}
    scorer = LinearProbeScorer(C=0.1)
    grids = [GridSearchCV(scorer, {"C": [0.01, 1.0]}, cv=2) for _ in range(2)]
    found, expected = (
        grid.fit(rows, PROBLEM.y, **head) for grid, rows in zip(grids, (X, X.main), strict=True)
    )
    assert found.best_score_ == expected.best_score_
    assert cross_val_score(scorer, X, PROBLEM.y, cv=2, params=head).shape == (2,)
    compared = compare_scorers(X[:80], PROBLEM.y[:80], **head, scorers=[scorer], cv=2)
    assert not compared.results[1].failure
    tested = compare_scorers(
        X[:80], PROBLEM.y[:80], **head, scorers=[scorer], X_test=X[80:], y_test=PROBLEM.y[80:]
    )
    assert not tested.results[1].failure
    pipe = UncertaintyPipeline([("probe", scorer)])
    pipe.fit(X, PROBLEM.y, probe__init_W=head["init_W"])
    assert pipe.predict_uncertainty(X).shape == (120,)
    selective = SelectiveClassifier(target_risk=0.6).fit(X, PROBLEM.y, **head)
    assert isinstance(selective.accepts(X), torch.Tensor)

"""Every public score has a card, what it says of its needs is true, and the docs page agrees."""

from __future__ import annotations

import dataclasses
import inspect
import runpy
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone

import adue_sklearn
from adue_sklearn import scorers
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card, Needs
from adue_sklearn.scorers.witness import WitnessScorer
from tests import marks
from tests.estimator_cases import ESTIMATORS

pytestmark = marks.no_views

PUBLIC = [
    cls
    for cls in (getattr(adue_sklearn, name) for name in adue_sklearn.__all__)
    if inspect.isclass(cls) and issubclass(cls, UncertaintyEstimator)
]
every_score = pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
DOCS = Path(__file__).parent.parent / "docs"


def by_needs(needs):
    chosen = [
        cls for cls in PUBLIC if cls.card.needs == needs and not issubclass(cls, WitnessScorer)
    ]
    assert chosen
    return pytest.mark.parametrize("cls", chosen, ids=lambda cls: cls.__name__)


def example(cls):
    """Return the example that the contract's tests take."""
    return clone(next(estimator for estimator in ESTIMATORS if type(estimator) is cls))


def scores(cls, X, y, W, fresh):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels are shuffled on purpose
        return example(cls).fit(X, y, W).predict_uncertainty(fresh)


@pytest.fixture(scope="module")
def case():
    """Features, a head, and labels of which its own probabilities tell the errors."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 6)) * np.exp(rng.normal(size=(600, 1)))
    W = np.eye(4, 6)
    y = np.array([rng.choice(4, p=p) for p in softmax(X @ W.T, axis=1)])
    return X[:500], y[:500], W, X[500:]


@every_score
def test_cards_are_complete(cls):
    card = vars(cls)["card"]  # its own, not its base's
    assert isinstance(card, Card)
    assert card.needs in get_args(Needs)
    for field in dataclasses.fields(card):
        text = getattr(card, field.name)
        assert text == text.strip() != "", field.name
    assert any(str(year) in card.paper for year in range(1940, 2030))
    assert "fit" in card.cost
    assert "row" in card.cost


def test_names_are_told_apart_and_every_scorer_is_public():
    names = [cls.card.name for cls in PUBLIC]
    assert len(set(names)) == len(names)
    assert set(scorers.__all__) - {"TfidfClassifier"} <= {cls.__name__ for cls in PUBLIC}
    assert {cls.__name__ for cls in PUBLIC} == {type(e).__name__ for e in ESTIMATORS}


@by_needs("head")
def test_what_needs_the_head_alone_is_the_same_whatever_rows_it_saw(cls, case):
    X, y, W, fresh = case
    shuffled = np.random.default_rng(1).permutation(y)
    np.testing.assert_array_equal(
        scores(cls, X, y, W, fresh), scores(cls, 3 * X[:50] + 1, shuffled[:50], W, fresh)
    )


@by_needs("training rows")
def test_what_needs_training_rows_changes_with_them_and_needs_no_errors(cls, case):
    X, _, W, fresh = case
    right = (X @ W.T).argmax(axis=1)
    stretched = X * np.linspace(0.2, 5, 6)
    first = scores(cls, X, right, W, fresh)
    second = scores(cls, stretched, (stretched @ W.T).argmax(axis=1), W, fresh)
    assert np.isfinite(first).all()
    assert (first.argsort() != second.argsort()).any()


@by_needs("held-out errors")
def test_what_needs_errors_changes_where_other_rows_are_wrong(cls, case):
    X, y, W, fresh = case
    rng = np.random.default_rng(1)
    # As many errors as before, but told by the direction of a row, not by its length.
    z = X @ W.T
    angle = np.sort(z / np.linalg.norm(z, axis=1, keepdims=True), axis=1)
    blurred = angle[:, -1] - angle[:, -2] + 0.2 * rng.normal(size=len(X))
    wrong = blurred.argsort()[: (z.argmax(axis=1) != y).sum()]
    other = z.argmax(axis=1)
    other[wrong] = z.argsort(axis=1)[wrong, -2]
    first, second = scores(cls, X, y, W, fresh), scores(cls, X, other, W, fresh)
    assert (first.argsort() != second.argsort()).any()


def test_the_page_of_scores_is_what_the_cards_say():
    made = runpy.run_path(str(DOCS / "make_scorers.py"))["page"]()
    written = (DOCS / "scorers.md").read_text(encoding="utf-8")
    assert written == made, "run python docs/make_scorers.py"
    for cls in PUBLIC:
        assert f"| `{cls.__name__}` |" in written
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {6}

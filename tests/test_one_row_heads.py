"""A head of one row is the logit of the second of two classes, wherever a head is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    ErrorProbability,
    HUQScorer,
    LastLayerLaplaceScorer,
    MahalanobisScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    StackedScorer,
)
from adue_sklearn.comparison import compare_scorers
from adue_sklearn.features import FeatureStore
from adue_sklearn.features._model.arguments import check_task
from adue_sklearn.model_selection import error_stratified_folds
from adue_sklearn.persistence import ModelFacts
from adue_sklearn.scorers import EnergyScorer
from tests import marks
from tests.problems import Problem

pytestmark = pytest.mark.filterwarnings("ignore:The original head makes")  # few rows

PROBLEM = Problem(n=80, d=5, n_classes=2, noise=0.7)
LOGISTIC = LogisticRegression(C=0.1).fit(PROBLEM.X[:20], PROBLEM.y[:20])
w, b = LOGISTIC.coef_, LOGISTIC.intercept_
TWO_ROWS = np.vstack([-w, w]) / 2, np.concatenate([-b, b]) / 2

FORMS = {
    "row": (w, b),
    "vector": (w[0], b),
    "number as bias": (w, float(b[0])),
    "lists": (w.tolist(), b.tolist()),
    "list of numbers": (w[0].tolist(), float(b[0])),
    "tensors": (torch.tensor(w[0]), torch.tensor(b[0])),
    "list of layers": ([w], [b]),
}


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_are_those_of_scikit_learn_in_every_form(form):
    fitted = SoftmaxResponseScorer().fit(PROBLEM.X, PROBLEM.y, *FORMS[form])
    np.testing.assert_allclose(
        fitted.predict_proba(PROBLEM.X), LOGISTIC.predict_proba(PROBLEM.X), atol=1e-12
    )
    np.testing.assert_array_equal(fitted.predict(PROBLEM.X), LOGISTIC.predict(PROBLEM.X))


@pytest.mark.parametrize(
    "estimator",
    [
        AdUEEstimator(),
        EnergyScorer(),
        LastLayerLaplaceScorer(),
        AdUESearchCV({"beta": [0.1, 1.0]}, cv=2),
        ErrorProbability(MahalanobisScorer(), method="sigmoid", cv=2),
        HUQScorer(cv=2),
        SelectiveClassifier(MahalanobisScorer(), target_risk=0.6),
        StackedScorer([("energy", EnergyScorer())], cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@marks.few_rows
def test_an_estimator_is_that_of_the_two_rows(estimator):
    one, two = (clone(estimator).fit(PROBLEM.X, PROBLEM.y, *head) for head in [(w, b), TWO_ROWS])
    np.testing.assert_array_equal(
        one.predict_uncertainty(PROBLEM.X), two.predict_uncertainty(PROBLEM.X)
    )


def test_without_a_bias_none_is_made():
    fitted = AdUEEstimator().fit(PROBLEM.X, PROBLEM.y, w)
    np.testing.assert_array_equal(fitted.init_intercept_, [0.0, 0.0])
    assert not fitted.intercept_.any()


def test_classes_are_those_of_the_logistic_regression():
    names = np.array(["no", "yes"])[PROBLEM.y]
    fitted = SoftmaxResponseScorer().fit(PROBLEM.X, names, w, b, classes=["no", "yes"])
    assert set(fitted.predict(PROBLEM.X)) == {"no", "yes"}
    assert fitted.score(PROBLEM.X, names) > 0.5


def test_the_last_layer_of_a_whole_head_may_have_one_row():
    dense, bias = np.eye(5), np.zeros(5)
    one, two = (
        EnergyScorer(activation="tanh").fit(PROBLEM.X, PROBLEM.y, [dense, head[0]], [bias, head[1]])
        for head in [(w, b), TWO_ROWS]
    )
    np.testing.assert_array_equal(one.score_samples(PROBLEM.X), two.score_samples(PROBLEM.X))


def test_functions_searches_and_frozen_scores_take_it():
    X, y = PROBLEM.X, PROBLEM.y
    folds = error_stratified_folds(X, y, w, b, n_splits=2)
    search = GridSearchCV(AdUEEstimator(), {"alpha": [0.3]}, cv=folds, error_score="raise")
    assert 0 < search.fit(X, y, init_W=w, init_b=b).best_score_ <= 1
    fitted = EnergyScorer().fit(X, y, w, b)
    assert ErrorProbability(FrozenEstimator(fitted)).fit(X, y, w, b).predict_uncertainty(X).size
    for head in [(w, b), (w[0].tolist(), float(b[0]))]:
        found = compare_scorers(X, y, *head, scorers=[("energy", EnergyScorer())], cv=folds)
        assert not any(result.failure for result in found.results)
    facts, same = ModelFacts.of({}, w, b), ModelFacts.of({}, *TWO_ROWS)
    np.testing.assert_array_equal(facts.head.weights[0], same.head.weights[0])
    np.testing.assert_array_equal(facts.head.biases[0], same.head.biases[0])


@pytest.mark.parametrize("form", FORMS)
def test_a_store_keeps_both_rows(form, tmp_path):
    init_W, init_b = FORMS[form]
    store = FeatureStore.create(
        tmp_path / "store", features=PROBLEM.X, labels=PROBLEM.y, init_W=init_W, init_b=init_b
    )
    np.testing.assert_allclose(store.init_W, TWO_ROWS[0], rtol=1e-6)
    np.testing.assert_allclose(store.init_b, TWO_ROWS[1], rtol=1e-6)
    np.testing.assert_array_equal(store.logits.argmax(1), LOGISTIC.predict(PROBLEM.X))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_b": np.zeros(2)}, r"init_b has shape \(2,\), but init_W has 1 row; expected \(1,"),
        ({"init_W": w.T}, r"looks transposed; pass init_W\.T"),
        ({"init_W": w[0, 1:]}, r"\(4,\), but X has 5 features; expected .* one logit of two"),
        ({"classes": ["a", "b", "c"]}, "1 row; expected two labels, of which the last"),
        ({"y": PROBLEM.y + 1}, "y holds 2, but the head has 2 classes"),
        ({"init_W": w[:0], "init_b": None}, "init_W has no rows"),
        ({"init_W": w.reshape(1, 1, 5)}, r"init_W has shape \(1, 1, 5\)"),
    ],
)
def test_what_does_not_fit_one_row_is_named(changes, message):
    given = {"X": PROBLEM.X, "y": PROBLEM.y, "init_W": w, "init_b": b, **changes}
    with pytest.raises(ValueError, match=message):
        SoftmaxResponseScorer().fit(**given)


def test_a_vector_that_a_search_cut_is_named():
    n = 30
    problem = Problem(n=n, d=n, n_classes=2)
    with pytest.raises(ValueError, match=r"Or did a search cut it.*pass init_W.reshape\(1, -1\)"):
        GridSearchCV(AdUEEstimator(), {"alpha": [0.3]}, cv=3, error_score="raise").fit(
            problem.X, problem.y, init_W=problem.W[1] - problem.W[0]
        )


def test_strings_with_a_head_name_the_remedy():
    names = np.array(["no", "yes"])[PROBLEM.y]
    with pytest.raises(ValueError, match=r"holds strings.*fit\(\.\.\., classes=\[\.\.\.\]\)"):
        SoftmaxResponseScorer().fit(PROBLEM.X, names, w, b)


def test_the_extractor_says_how_a_model_with_one_logit_is_saved():
    class Model:
        class config:  # noqa: N801
            problem_type, num_labels = None, 1

    with pytest.raises(ValueError, match=r"num_labels=1.*\[-w/2, w/2\] and \[-b/2, b/2\]"):
        check_task(Model())

"""The original head as one object: beside arrays, in searches, of several layers."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    AutoScorer,
    ErrorProbability,
    Head,
    HUQScorer,
    LastLayerLaplaceScorer,
    MahalanobisScorer,
    RelUScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    StackedScorer,
    UncertaintyPipeline,
    ViMScorer,
    compare_scorers,
)
from adue_sklearn.base import FitRows
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import ModelFacts, check_same_model, load_head, save_head
from tests.problems import Problem

PROBLEM = Problem(n=150, d=5)
X, Y = PROBLEM.X, PROBLEM.y
HEAD = Head.of(PROBLEM.W, PROBLEM.b)
NAMES = np.array(["a", "b", "c"])
RNG = np.random.default_rng(0)
DEEP = Head.of(
    [RNG.normal(size=(4, 5)), RNG.normal(size=(3, 4))], [None, np.ones(3)], activation="tanh"
)
ESTIMATORS = [
    AdUEEstimator(beta=0.1),
    AdUESearchCV({"beta": [0.1, 1.0]}, cv=2),
    MahalanobisScorer(),
    HUQScorer(cv=2),
    LastLayerLaplaceScorer(),
    RelUScorer(),
    ViMScorer(n_components=2),
    StackedScorer(cv=2),
    AutoScorer([("relu", RelUScorer())], cv=2),
    SelectiveClassifier(target_risk=0.3, confidence=0.8),
    ErrorProbability(AdUEEstimator(beta=0.1), cv=2),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_a_head_is_what_its_arrays_are(estimator):
    alone = clone(estimator).fit(X, Y, PROBLEM.W, PROBLEM.b).predict_uncertainty(X)
    np.testing.assert_array_equal(clone(estimator).fit(X, Y, HEAD).predict_uncertainty(X), alone)


def test_a_head_brings_the_names_of_its_classes():
    named = Head.of(PROBLEM.W, PROBLEM.b, classes=NAMES)
    fitted = SoftmaxResponseScorer().fit(X, NAMES[Y], named)
    assert set(fitted.predict(X)) <= set(NAMES)
    assert SoftmaxResponseScorer().fit(X, NAMES[Y], HEAD, classes=NAMES).classes_.tolist() == [
        *NAMES
    ]
    np.testing.assert_array_equal(named.errors(X, NAMES[Y]), PROBLEM.errors)
    np.testing.assert_array_equal(HEAD.errors(X, Y), PROBLEM.errors)


@pytest.mark.filterwarnings("ignore:y.* predicts a class far more often")
@pytest.mark.parametrize(
    "estimator",
    [
        AdUEEstimator(beta=1.0, lam=10.0),
        MahalanobisScorer(),
        ViMScorer(n_components=2),
        HUQScorer(cv=2),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_head_of_several_layers_brings_its_activation(estimator, tmp_path):
    layers = list(DEEP.weights), list(DEEP.biases)
    alone = clone(estimator).set_params(activation="tanh").fit(X, Y, *layers)
    fitted = clone(estimator).fit(X, Y, DEEP)
    np.testing.assert_array_equal(fitted.predict_uncertainty(X), alone.predict_uncertainty(X))
    assert fitted.activation is None
    if not isinstance(estimator, HUQScorer):
        loaded = load_head(save_head(fitted, tmp_path / "head"))
        np.testing.assert_array_equal(loaded.estimator.predict(X), alone.predict(X))
        assert loaded.facts.head.same_as(DEEP)


def test_a_search_does_not_cut_a_head_with_as_many_rows_as_there_are():
    W = np.random.default_rng(1).normal(size=(40, 5))
    rows, labels = X[:40], (X[:40] @ W.T).argmax(axis=1)
    labels[::3] = (labels[::3] + 1) % 40
    with pytest.raises(ValueError, match="as many rows as X"):
        SoftmaxResponseScorer().fit(rows, labels, W)
    search = GridSearchCV(
        SoftmaxResponseScorer(), {"device": ["cpu"]}, cv=[(np.arange(40), np.arange(40))]
    )
    assert 0 < search.fit(rows, labels, init_W=Head.of(W)).best_score_ <= 1


@pytest.mark.parametrize("name", ["__len__", "shape", "__array__"])
def test_a_head_has_nothing_that_a_search_would_cut(name):
    assert not hasattr(HEAD, name)


@pytest.mark.parametrize("estimator", [AdUEEstimator(beta=0.1), RelUScorer()], ids=str)
def test_a_fit_computes_theoriginal_logits_once(estimator, monkeypatch):
    seen = []
    logits = Head.logits

    def counted(head, rows, device="auto"):
        seen.append(len(rows))
        return logits(head, rows, device)

    monkeypatch.setattr(Head, "logits", counted)
    clone(estimator).fit(X, Y, HEAD)
    assert seen == [len(X)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_b": np.zeros(3)}, "init_b was given with a Head"),
        ({"init_W": Head.of(np.eye(3, 4))}, "X has 5 features, but the head .* needs 4"),
        ({"init_W": Head.of(PROBLEM.W, classes=NAMES), "classes": ["x", "y", "z"]}, "classes are"),
        ({"classes": ["x", "y"]}, r"classes has shape \(2,\)"),
    ],
)
def test_what_does_not_go_with_a_head_is_named(arguments, message):
    given = {"X": X, "y": Y, "init_W": HEAD} | arguments
    with pytest.raises(ValueError, match=message):
        SoftmaxResponseScorer().fit(**given)


def test_another_activation_than_the_heads_is_refused():
    with pytest.raises(ValueError, match=r"activation='gelu', but the head (.|\n)*'tanh'"):
        AdUEEstimator(activation="gelu").fit(X, Y, DEEP)


def test_two_heads_are_the_same_within_float32_and_without_a_bias_of_zeros():
    assert HEAD.same_as(Head.of(PROBLEM.W.astype(np.float32), PROBLEM.b))
    assert Head.of(PROBLEM.W).same_as(Head.of(PROBLEM.W, np.zeros(3)))
    assert not HEAD.same_as(Head.of(PROBLEM.W, PROBLEM.b + 0.01))
    assert not HEAD.same_as(Head.of(PROBLEM.W, PROBLEM.b, classes=NAMES))
    assert not HEAD.same_as(DEEP)
    relu = Head.of(list(DEEP.weights), list(DEEP.biases), activation="relu")
    assert not DEEP.same_as(relu)


def test_logits_are_float64_whatever_the_features_are():
    expected = torch.tensor(X @ PROBLEM.W.T + PROBLEM.b)
    torch.testing.assert_close(HEAD.logits(X), expected)
    torch.testing.assert_close(HEAD.logits(torch.tensor(X)), expected)
    assert HEAD.logits(X.astype(np.float32)).dtype == torch.float64


def test_stores_comparisons_and_frozen_scores_take_a_head(tmp_path):
    store = FeatureStore.create(tmp_path / "s", features=X, labels=Y, init_W=HEAD)
    assert store.head.same_as(HEAD)
    deep = FeatureStore.create(tmp_path / "deep", features=X, labels=Y, init_W=DEEP)
    assert deep.head.same_as(DEEP)
    frozen = FrozenEstimator(SoftmaxResponseScorer().fit(X, Y, HEAD))
    found = compare_scorers(X, Y, HEAD, scorers={"frozen": frozen, "relu": RelUScorer()}, cv=2)
    assert not any(result.failure for result in found.results)


def test_somebody_elses_estimator_gets_arrays():
    class Other(BaseEstimator):
        def fit(self, X, y, init_W, init_b):
            self.shapes = np.shape(init_W), np.shape(init_b)
            return self

    assert FitRows(X, Y, HEAD).fit(Other()).shapes == ((3, 5), (3,))


def test_a_pipeline_keeps_the_numbers_that_a_head_calls_its_classes():
    class Known(FunctionTransformer):
        def head(self):
            return Head.of(PROBLEM.W, PROBLEM.b, classes=[20, 10, 0])

    labels = np.array([20, 10, 0])[Y]
    pipe = UncertaintyPipeline([("known", Known()), ("score", SoftmaxResponseScorer())])
    fitted = SoftmaxResponseScorer().fit(X, labels, Known().head())
    np.testing.assert_array_equal(pipe.fit(X, labels).predict(X), fitted.predict(X))


def test_the_names_of_a_heads_classes_count_where_it_is_compared():
    ours, other = (Head.of(PROBLEM.W, PROBLEM.b, classes=names) for names in (NAMES, NAMES[::-1]))
    frozen = FrozenEstimator(SoftmaxResponseScorer().fit(X, NAMES[Y], ours))
    with pytest.raises(ValueError, match="differ from the head that the frozen"):
        ErrorProbability(frozen).fit(X, NAMES[Y], other)
    scorer = MahalanobisScorer().partial_fit(X, NAMES[Y], ours)
    with pytest.raises(ValueError, match="another head"):
        scorer.partial_fit(X, NAMES[Y], other)
    scorer.partial_fit(X, NAMES[Y], PROBLEM.W, PROBLEM.b)


def test_another_activation_is_another_model_without_provenance_too():
    layers = list(DEEP.weights), list(DEEP.biases)
    known = ModelFacts.of({}, DEEP)
    check_same_model(known, ModelFacts.of({}, *layers, activation="tanh"))
    with pytest.raises(ModelMismatchError, match="activation is 'gelu', was 'tanh'"):
        check_same_model(known, ModelFacts.of({}, *layers, activation="gelu"))


@pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.FitRowsWarning")
def test_wrapped_scores_take_a_head_of_several_layers():
    layers = list(DEEP.weights), list(DEEP.biases)
    frozen = FrozenEstimator(SoftmaxResponseScorer().fit(X, Y, DEEP))
    assert np.isfinite(ErrorProbability(frozen).fit(X, Y, *layers).predict_uncertainty(X)).all()
    members = [("probability", ErrorProbability()), ("relu", RelUScorer())]
    assert np.isfinite(StackedScorer(members, cv=2).fit(X, Y, DEEP).predict_uncertainty(X)).all()
    mixed = HUQScorer(MahalanobisScorer(activation="tanh"), SoftmaxResponseScorer(), cv=2)
    assert np.isfinite(mixed.fit(X, Y, DEEP).predict_uncertainty(X)).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_features_whose_squares_overflow_are_fitted_in_plain_units():
    huge = AdUEEstimator(beta=0.0).fit(X * 1e160, Y, PROBLEM.W / 1e160, PROBLEM.b)
    assert np.isfinite(huge.loss_)

"""Calibrated probabilities against scipy, scikit-learn and brute force."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import _sigmoid_calibration
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from adue_sklearn import (
    AdUEEstimator,
    ErrorProbability,
    MahalanobisScorer,
    SoftmaxResponseScorer,
    TemperatureScaling,
    VectorScaling,
)
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from tests import marks
from tests.bad_input_cases import anything, call
from tests.problems import DEVICES, Problem


def sampled(n, n_classes, temperature, seed=0, spread=2.0):
    """Return logits whose true temperature is known, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, n_classes)) * spread
    y = (softmax(z, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return z * temperature, y


def nll(z, y, temperature=1.0):
    return -log_softmax(z / temperature, axis=1)[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0, 3.0, 8.0, 20.0, 50.0])
@pytest.mark.parametrize("n_classes", [2, 5, 150])
def test_temperature_is_the_likeliest_one_and_near_the_truth(temperature, n_classes):
    z, y = sampled(4000, n_classes, temperature)
    fitted = TemperatureScaling().fit(z, y)
    found = minimize_scalar(
        lambda t: nll(z, y, np.exp(t)), bounds=(-6, 6), method="bounded", options={"xatol": 1e-9}
    )
    assert nll(z, y, fitted.temperature_) <= found.fun + 1e-12
    assert np.log(fitted.temperature_) == pytest.approx(found.x, abs=1e-5)
    assert fitted.temperature_ == pytest.approx(temperature, rel=0.1)
    assert fitted.n_iter_ < 40


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 30),
    n_classes=st.integers(2, 5),
    scale=st.floats(-8, 8),
)
def test_temperature_of_any_rows_is_no_worse_than_any_other(seed, n, n_classes, scale):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, n_classes)) * 10**scale
    y = rng.integers(0, n_classes, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = TemperatureScaling().fit(z, y)
    assert 1e-3 <= fitted.temperature_ <= 1e3
    others = np.exp(np.linspace(np.log(1e-3), np.log(1e3), 101))
    best = min(nll(z, y, t) for t in others)
    assert nll(z, y, fitted.temperature_) <= best * (1 + 1e-9) + 1e-12


def test_separable_rows_end_at_the_lower_bound_with_a_warning():
    z = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.warns(UserWarning, match=r"bound temperature_=0\.001: .*separate the labels"):
        assert TemperatureScaling().fit(z, z.argmax(axis=1)).temperature_ == 1e-3
    with pytest.warns(UserWarning, match=r"temperature_=0\.5"):
        fitted = TemperatureScaling(bounds=(0.5, 2)).fit(z, z.argmax(axis=1))
    assert fitted.temperature_ == 0.5


def test_misleading_logits_end_at_the_upper_bound_with_a_warning():
    z = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.warns(UserWarning, match="bound temperature_=1000: .*check their order"):
        assert TemperatureScaling().fit(z, z.argmin(axis=1)).temperature_ == 1e3


def test_rows_without_a_preference_keep_temperature_one_with_a_warning():
    with pytest.warns(UserWarning, match="the same for all classes"):
        fitted = TemperatureScaling().fit(np.full((6, 3), 7.0), [0, 1, 2, 0, 1, 2])
    assert fitted.temperature_ == 1.0
    np.testing.assert_allclose(fitted.predict_proba([[1.0, 1.0, 1.0]]), [[1 / 3] * 3])


def test_partly_tied_logits_are_fitted_like_any_other():
    z, y = np.array([[1.0, 1, 0], [1, 1, 0], [2, 0, 0], [2, 0, 0]]), [0, 1, 0, 1]
    t = TemperatureScaling().fit(z, y).temperature_
    assert nll(z, y, t) < min(nll(z, y, 0.99 * t), nll(z, y, 1.01 * t))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_logits_of_any_size_give_finite_probabilities(size):
    z, y = sampled(100, 3, 1.0)
    with pytest.warns(UserWarning, match="bound"):
        fitted = TemperatureScaling().fit(z * size, y)
    assert np.isfinite(fitted.predict_proba(z * size)).all()


SCALINGS = [TemperatureScaling(), VectorScaling()]
every_scaling = pytest.mark.parametrize("scaling", SCALINGS, ids=str)


@every_scaling
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scaled_tensors_stay_tensors_and_agree_with_numpy(scaling, dtype, device):
    z, y = sampled(300, 4, 3.0)
    tensor = torch.tensor(z, dtype=dtype, device=device)
    array = tensor.double().cpu().numpy()
    fitted = clone(scaling).fit(tensor, torch.tensor(y, device=device))
    expected = clone(scaling).fit(array, y)
    got = fitted.predict_proba(tensor)
    assert got.device == tensor.device
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.cpu().numpy(), expected.predict_proba(array), atol=1e-5)
    np.testing.assert_array_equal(fitted.predict(tensor), expected.predict(array))


@every_scaling
def test_scalings_are_cloned_and_pickled_and_name_their_classes(scaling):
    z, y = sampled(300, 3, 3.0)
    names = np.array(["zebra", "ant", "mole"])
    fitted = clone(scaling).fit(z, names[y], classes=names)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(z), fitted.predict_proba(z))
    np.testing.assert_array_equal(fitted.predict_proba(z), clone(fitted).fit(z, y).predict_proba(z))
    np.testing.assert_array_equal(fitted.classes_, names)
    assert fitted.score(z, names[y]) == np.mean(fitted.predict(z) == names[y])
    np.testing.assert_allclose(fitted.predict_proba(z).sum(axis=1), 1.0)


BAD_SCALING_INPUT = {
    "NaN": (lambda z, y: (z * np.nan, y), "logits: Input X contains NaN"),
    "infinity": (lambda z, y: (z * np.inf, y), "logits: Input X contains infinity"),
    "overflow": (lambda z, y: (np.sign(z) * 1.7e308, y), "logits are too large"),
    "one column": (lambda z, y: (z[:, :1], y * 0), r"logits has shape \(90, 1\)"),
    "unknown label": (lambda z, y: (z, y + 1), "y holds 3, not among classes"),
    "other length": (lambda z, y: (z, y[1:]), "X has 90 rows, y has 89"),
    "strings": (lambda z, y: (z, y.astype(str)), "y must hold entries of classes"),
}


@pytest.mark.parametrize("case", BAD_SCALING_INPUT)
@every_scaling
def test_bad_logits_and_labels_are_named(scaling, case):
    change, message = BAD_SCALING_INPUT[case]
    with pytest.raises(ValueError, match=message):
        clone(scaling).fit(*change(*sampled(90, 3, 1.0)))


@pytest.mark.parametrize("bounds", [(1, 2), (0, 10), (2, 0.5), (1e-3,), ("a", "b"), (0.1, np.inf)])
def test_unusable_bounds_are_named(bounds):
    with pytest.raises(ValueError, match="bounds is"):
        TemperatureScaling(bounds=bounds).fit(*sampled(90, 3, 1.0))


@pytest.mark.parametrize("temperature", [0.05, 1.0, 50.0])
def test_vector_scaling_finds_the_true_scale_and_bias(temperature):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20000, 3)) * 2
    scale, bias = np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.0, -1.0])
    p = softmax(z * scale + bias, axis=1)
    y = (p.cumsum(axis=1) > rng.random((len(z), 1))).argmax(axis=1)
    fitted = VectorScaling(l2=0).fit(z * temperature, y)
    assert np.abs(fitted.predict_proba(z * temperature) - p).mean() < 0.01
    np.testing.assert_allclose(fitted.scale_ * temperature, scale, atol=0.1)
    np.testing.assert_allclose(fitted.bias_ - fitted.bias_.mean(), bias, atol=0.1)
    regularised = VectorScaling().fit(z * temperature, y)
    assert np.abs(regularised.predict_proba(z * temperature) - p).mean() < 0.01


def test_vector_scaling_minimises_what_it_says():
    z, y = sampled(200, 3, 3.0)
    fitted = VectorScaling(l2=0.01).fit(z, y)

    def objective(scale, bias):
        anchor = ((fitted.temperature_ * scale - 1) ** 2).sum() + (bias**2).sum()
        return nll(z * scale + bias, y) + 0.01 * anchor

    best = objective(fitted.scale_, fitted.bias_)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(20):
            scale = fitted.scale_ + size * rng.normal(size=3)
            assert objective(scale, fitted.bias_ + size * rng.normal(size=3)) > best


def test_vector_scaling_stays_near_temperature_scaling_on_few_rows_and_a_missing_class():
    z, y = sampled(400, 4, 5.0)
    some = y != 2
    fitted = VectorScaling(l2=100.0).fit(z[some], y[some])
    expected = TemperatureScaling().fit(z[some], y[some])
    np.testing.assert_allclose(fitted.predict_proba(z), expected.predict_proba(z), atol=0.01)
    assert VectorScaling().fit(z[some], y[some]).predict_proba(z)[:, 2].mean() < 0.1


@every_scaling
@given(value=anything)
def test_only_documented_errors_come_out_of_scalings(scaling, value):
    z, y = sampled(40, 4, 1.0)
    call(lambda: clone(scaling).fit(value, y), "logits", "X", "y")
    call(lambda: clone(scaling).fit(z, value), "y")
    call(lambda: clone(scaling).fit(z, y, classes=value), "classes")
    fitted = clone(scaling).fit(z, y)
    call(lambda: fitted.predict_proba(value), "logits")
    for parameter in scaling.get_params():
        call(lambda parameter=parameter: type(scaling)(**{parameter: value}).fit(z, y), parameter)


# --- P(error) ---------------------------------------------------------------------------------


class FirstFeature(UncertaintyEstimator):
    """The score is the first feature, whatever it is."""

    card = Card("first feature", "none", "h_1", "head", "none")

    def _fit(self, X, labels, head):
        """Nothing to learn."""

    def _uncertainty(self, X):
        return torch.as_tensor(X, dtype=torch.float64)[:, 0]


def rows_with(scores, errors):
    """Return fit arguments whose scores are the first feature; the head says class 0."""
    X = np.column_stack([scores, np.ones(len(scores))])
    return X, np.asarray(errors).astype(int), np.array([[0.0, 1.0], [0.0, 0.0]])


def error_probability(scores, errors, method, at):
    model = ErrorProbability(FirstFeature(), method=method).fit(*rows_with(scores, errors))
    return model.predict_uncertainty(np.column_stack([at, np.ones(len(at))]))


def uneven_scores(seed, n=300, *, ties=False):
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.5, 1.5, n)
    if ties:
        scores = np.round(scores, 1)
    return scores, rng.random(n) < 0.1 + 0.7 * scores**2


METHODS = ["isotonic", "sigmoid", "beta", "venn_abers"]
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.parametrize("ties", [False, True])
@marks.odd_rows
def test_isotonic_is_scikit_learns(ties):
    scores, errors = uneven_scores(0, ties=ties)
    at = np.linspace(-0.5, 1.5, 200)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, errors).predict(at)
    np.testing.assert_allclose(
        error_probability(scores, errors, "isotonic", at), expected, atol=1e-7
    )


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@marks.odd_rows
def test_sigmoid_is_scikit_learns_platt_scaling(scale):
    scores, errors = uneven_scores(1)
    a, b = _sigmoid_calibration(scores, errors.astype(float))
    at = np.linspace(0, 1, 50)
    expected = 1 / (1 + np.exp(a * at + b))
    got = error_probability(scores * scale, errors, "sigmoid", at * scale)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@marks.odd_rows
def test_beta_is_a_logistic_regression_on_the_two_logarithms():
    scores, errors = uneven_scores(2, n=3000)
    scores = np.clip(scores, 1e-6, 1 - 1e-6)

    def features(s):
        return np.column_stack([np.log(s), -np.log1p(-s)])

    n_errors, n_correct = errors.sum(), (~errors).sum()
    targets = np.where(errors, (n_errors + 1) / (n_errors + 2), 1 / (n_correct + 2))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(
        np.vstack([features(scores)] * 2),
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    assert (model.coef_ >= 0).all()
    at = np.linspace(0.001, 0.999, 50)
    np.testing.assert_allclose(
        error_probability(scores, errors, "beta", at),
        model.predict_proba(features(at))[:, 1],
        atol=1e-4,
    )


@given(seed=st.integers(0, 10**6), n=st.integers(3, 40), n_values=st.integers(1, 60))
def test_venn_abers_is_two_isotonic_regressions_for_every_row(seed, n, n_values):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, n_values, n) / 8
    errors = rng.random(n) < rng.random()
    errors[0] = True
    at = np.concatenate([scores[:5], rng.integers(-2, n_values + 1, 5) / 8 + 1 / 16])

    def pair(score):
        both = np.append(scores, score)
        for label in (0, 1):
            model = IsotonicRegression().fit(both, np.append(errors, label))
            yield model.predict([score])[0]

    pairs = [tuple(pair(score)) for score in at]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # errors only
        got = error_probability(scores, errors, "venn_abers", at)
    np.testing.assert_allclose(got, [p1 / (1 - p0 + p1) for p0, p1 in pairs], atol=1e-12)


@every_method
@given(seed=st.integers(0, 10**6), n=st.integers(3, 60), n_values=st.integers(1, 80))
def test_probability_of_error_never_falls_with_the_score(method, seed, n, n_values):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, n_values + 1, n) / n_values
    errors = rng.random(n) < rng.random()
    errors[0] = True
    at = np.linspace(0, 1, 101)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        p = error_probability(scores, errors, method, at)
    assert (np.diff(p) >= -1e-12).all()
    assert ((p >= 0) & (p <= 1)).all()


@every_method
@marks.odd_rows
def test_a_score_without_information_becomes_the_error_rate(method):
    rng = np.random.default_rng(0)
    errors = rng.random(4000) < 0.2
    for scores in (np.full(4000, 0.5), rng.random(4000), 0.7 - 0.4 * errors):
        at = np.unique(scores)[400:-400:400] if len(np.unique(scores)) > 2 else np.unique(scores)
        p = error_probability(scores, errors, method, at)
        np.testing.assert_allclose(p, errors.mean(), atol=0.06)


@every_method
@marks.odd_rows
def test_separable_rows_and_extreme_scores_stay_finite(method):
    scores = np.concatenate([np.zeros(50), np.ones(50)])
    p = error_probability(scores, scores > 0, method, np.array([0.0, 1e-300, 0.5, 1.0]))
    assert np.isfinite(p).all()
    assert p[0] < 0.05
    assert p[-1] > 0.95


@every_method
@marks.odd_rows
def test_one_error_is_enough_where_the_score_learns_nothing(method):
    errors = np.arange(50) == 49
    p = error_probability(np.arange(50) / 50, errors, method, np.array([0.0, 0.98]))
    assert 0 <= p[0] < p[1] <= 1


@marks.odd_rows
def test_beta_refuses_a_score_outside_zero_and_one():
    scores, errors = uneven_scores(0)
    with pytest.raises(ValueError, match=r"method='beta' needs a score in \[0, 1\].*0 to 5"):
        error_probability(np.linspace(0, 5, 300), errors, "beta", scores)


@pytest.mark.parametrize("method", ["isotonic", "beta", "venn_abers"])
def test_probabilities_hold_on_new_rows(method, movie):
    model = ErrorProbability(method=method).fit(*movie.calibration, movie.init_W, movie.init_b)
    p, errors = model.predict_uncertainty(movie.test.features), model.errors(*movie.test)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 1)):
        rows = (p >= low) & (p < high)
        noise = 3 * np.sqrt(p[rows].mean() / rows.sum())
        assert errors[rows].mean() == pytest.approx(p[rows].mean(), abs=0.03 + noise)


def test_scores_that_learn_are_calibrated_out_of_fold(problem):
    model = ErrorProbability(AdUEEstimator(), cv=4).fit(*problem.fit_args)
    folds = StratifiedKFold(4, shuffle=True, random_state=0).split(problem.X, problem.errors)
    scores, errors = [], []
    for rest, fold in folds:
        part = AdUEEstimator().fit(problem.X[rest], problem.y[rest], problem.W, problem.b)
        scores.append(part.predict_uncertainty(problem.X[fold]))
        errors.append(problem.errors[fold])
    curve = IsotonicRegression(out_of_bounds="clip")
    curve.fit(np.concatenate(scores), np.concatenate(errors))
    whole = AdUEEstimator().fit(*problem.fit_args)
    np.testing.assert_allclose(
        model.predict_uncertainty(problem.X),
        curve.predict(whole.predict_uncertainty(problem.X)),
        atol=1e-6,
    )


def test_folds_can_be_given(problem):
    rows = np.arange(400)
    halves = [(rows[:200], rows[200:]), (rows[200:], rows[:200])]
    model = ErrorProbability(AdUEEstimator(max_iter=50), cv=halves).fit(*problem.fit_args)
    assert model.n_samples_fit_ == 400
    with pytest.raises(ValueError, match="cv cannot be used"):
        ErrorProbability(AdUEEstimator(), cv=[(rows, [999])]).fit(*problem.fit_args)


@pytest.mark.parametrize("head_again", [False, True])
def test_a_frozen_estimator_is_kept_and_knows_its_head(problem, head_again):
    names = np.array(["zebra", "ant", "mole"])
    half = slice(0, 200)
    inner = AdUEEstimator().fit(
        problem.X[half], names[problem.y[half]], problem.W, problem.b, classes=names
    )
    before = {key: np.copy(value) for key, value in vars(inner).items()}
    head = {"init_W": problem.W, "init_b": problem.b, "classes": names} if head_again else {}
    rest = problem.X[200:], names[problem.y[200:]]
    model = ErrorProbability(FrozenEstimator(inner)).fit(*rest, **head)
    assert model.estimator_ is inner
    assert model.n_samples_fit_ == 200
    assert before.keys() == vars(inner).keys()
    np.testing.assert_array_equal(model.predict(problem.X), inner.predict(problem.X))
    curve = IsotonicRegression(out_of_bounds="clip").fit(
        inner.predict_uncertainty(rest[0]), inner.errors(*rest)
    )
    np.testing.assert_allclose(
        model.predict_uncertainty(problem.X),
        curve.predict(inner.predict_uncertainty(problem.X)),
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="differ from the head that the frozen estimator"):
        model.fit(*rest, problem.W + 1, problem.b, classes=names)
    with pytest.raises(ValueError, match="init_b was given without init_W"):
        model.fit(*rest, init_b=problem.b)


def test_a_frozen_estimator_that_is_not_fitted_or_of_other_width_is_named(problem):
    with pytest.raises(ValueError, match="not fitted"):
        ErrorProbability(FrozenEstimator(AdUEEstimator())).fit(*problem.fit_args)
    fitted = SoftmaxResponseScorer().fit(*problem.fit_args)
    with pytest.raises(ValueError, match="X has 5 features"):
        ErrorProbability(FrozenEstimator(fitted)).fit(problem.X[:, :5], problem.y)


def test_what_is_no_uncertainty_estimator_is_named(problem):
    with pytest.raises(TypeError, match="estimator is LogisticRegression"):
        ErrorProbability(LogisticRegression()).fit(*problem.fit_args)


def test_rows_without_errors_are_an_error_with_a_head_and_a_warning_without(problem):
    predicted = SoftmaxResponseScorer().fit(*problem.fit_args).predict(problem.X)
    with pytest.raises(ValueError, match="makes no errors on the 400 fit rows"):
        ErrorProbability().fit(problem.X, predicted, problem.W, problem.b)
    with pytest.raises(ValueError, match="makes 0 errors on 400 rows: too few"):
        ErrorProbability(AdUEEstimator()).fit(problem.X, predicted, problem.W, problem.b)
    X = np.repeat([[10.0, 0.0], [0.0, 10.0]], 30, axis=0)
    for method in METHODS:
        with pytest.warns(UserWarning, match="hold no errors"):
            model = ErrorProbability(method=method).fit(X, np.repeat([0, 1], 30))
        assert (model.predict_uncertainty(X) < 0.05).all()


@marks.odd_rows
def test_rows_with_only_errors_give_a_warning():
    problem = Problem()
    wrong = (SoftmaxResponseScorer().fit(*problem.fit_args).predict(problem.X) + 1) % 3
    with pytest.warns(UserWarning, match="hold only errors"):
        model = ErrorProbability().fit(problem.X, wrong, problem.W, problem.b)
    assert (model.predict_uncertainty(problem.X) > 0.9).all()


@marks.odd_rows
def test_an_estimator_with_a_deep_head_can_be_wrapped():
    rng = np.random.default_rng(0)
    W = [rng.normal(size=(8, 5)), rng.normal(size=(3, 8))]
    X, y = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    adue = AdUEEstimator(activation="tanh", lam=10, beta=1.0)  # short descents
    for estimator in (SoftmaxResponseScorer(activation="tanh"), adue):
        model = ErrorProbability(estimator, cv=2).fit(X, y, W)
        expected = estimator.fit(X, y, W).predict_proba(X)
        np.testing.assert_allclose(model.predict_proba(X), expected)
    assert MahalanobisScorer().activation is None

"""AdUEEstimator as its users see it."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from adue_sklearn import AdUEEstimator, AdUESearchCV, SoftmaxResponseScorer, UncertaintyPipeline
from adue_sklearn.adue.objective import reference_score
from adue_sklearn.model_selection import error_stratified_folds
from tests import marks
from tests.adue.formulas import plain_loss, row_losses
from tests.problems import Problem


def QuickSearch(beta=0.01):
    """Return a search over two settings."""
    return AdUESearchCV({"beta": [beta], "lam": [50.0, 100.0]}, cv=2)


def objective(problem, W, b, *, alpha, beta, lam, scale):
    """Return the objective at a head as a differentiable float64 tensor."""
    X, W0, b0 = (torch.tensor(a, dtype=torch.float64) for a in (problem.X, problem.W, problem.b))
    errors = torch.tensor(problem.errors, dtype=torch.float64)
    parts = plain_loss(
        X @ W.T + b, errors, reference_score(X @ W0.T + b0, scale), lam, scale, alpha
    )
    anchor = ((W - W0) ** 2).sum() + ((b - b0) ** 2).sum()
    return sum(part.mean() for part in parts) + beta * anchor


def long_adam_run(problem, *, alpha, beta, lam, scale, steps):
    """Return the lowest loss that Adam reaches from the original head over three step sizes.

    By the analytic gradient: that of the written formula is NaN at a saturated head.
    """
    X, W0, b0 = (torch.tensor(a) for a in (problem.X, problem.W, problem.b))
    errors = torch.tensor(problem.errors, dtype=torch.float64)
    reference = reference_score(X @ W0.T + b0, scale)
    lowest = np.inf
    for lr in (1e-2, 1e-1, 1.0):
        W, b = W0.clone(), b0.clone()
        adam = torch.optim.Adam([W, b], lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for _ in range(steps):
            cross_entropy, regularization, dz = row_losses(
                X @ W.T + b, errors, reference, lam=lam, scale=scale, alpha=alpha
            )
            anchor = (W - W0).square().sum() + (b - b0).square().sum()
            loss = (cross_entropy + regularization).mean() + beta * anchor
            lowest = min(lowest, loss.item())
            dz /= len(X)
            W.grad = dz.T @ X + 2 * beta * (W - W0)
            b.grad = dz.sum(dim=0) + 2 * beta * (b - b0)
            adam.step()
            schedule.step()
    assert np.isfinite(lowest)
    return lowest


@pytest.mark.parametrize("scale", ["unit", "paper"])
@pytest.mark.parametrize("n_classes", [2, 5, 150])
@marks.odd_rows
def test_reported_loss_is_the_objective_at_the_fitted_head_and_stationary(n_classes, scale):
    problem = Problem(n=600, d=20, n_classes=n_classes)
    options = {"alpha": 0.3, "beta": 0.01, "lam": 50.0, "scale": scale}
    adue = AdUEEstimator(**options).fit(*problem.fit_args)
    W, b = (torch.tensor(a, requires_grad=True) for a in (adue.coef_, adue.intercept_))
    loss = objective(problem, W, b, **options)
    loss.backward()
    assert adue.loss_ == pytest.approx(loss.item(), rel=1e-9)
    assert sum(adue.loss_terms_.values()) == pytest.approx(adue.loss_, rel=1e-12)
    unit = 2 * np.sqrt(np.mean(problem.X**2))
    assert max(W.grad.abs().max() / unit, b.grad.abs().max()) <= 1.01e-4
    assert adue.loss_ < objective(problem, *map(torch.tensor, problem.fit_args[2:]), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_classes", "gap", "scale", "steps"),
    [
        (4, 1.0, "unit", 200),
        (2, 30.0, "paper", 200),
        *(
            pytest.param(*case, marks=pytest.mark.deep)
            for case in itertools.product([2, 4], [1.0, 30.0], ["unit", "paper"], [1000])
        ),
    ],
)
def test_loss_is_at_most_5_percent_above_a_long_adam_run(n_classes, gap, scale, steps):
    problem = Problem(n=300, d=10, n_classes=n_classes, gap=gap, seed=3)
    options = {"alpha": 0.3, "beta": 0.001, "lam": 100.0, "scale": scale}
    adue = AdUEEstimator(**options).fit(*problem.fit_args)
    assert adue.loss_ <= 1.05 * long_adam_run(problem, **options, steps=steps)


@pytest.mark.parametrize("scale", ["unit", "paper"])
def test_a_saturated_head_does_not_stay_where_it_starts(scale):
    # Logit gaps of about 60; a feature that the head ignores says when its second class is wrong.
    rng = np.random.default_rng(0)
    X = 0.1 * rng.normal(size=(1000, 6))
    positive, flag = rng.random((2, 1000)) < [[0.5], [0.2]]
    X[:, 0] += np.where(positive, 1.0, -1.0)
    X[:, 1] += flag
    W = np.zeros((2, 6))
    W[:, 0] = [-30.0, 30.0]
    y = np.where(positive & flag, 0, positive).astype(int)
    response = SoftmaxResponseScorer().fit(X, y, W)
    assert response.score(X, y) < 0.65
    adue = AdUEEstimator(beta=1e-5, scale=scale).fit(X, y, W)
    assert adue.score(X, y) > 0.99


def test_learns_what_softmax_response_cannot_know(problem):
    fresh = Problem(n=4000, seed=0)
    train, test = slice(0, 2000), slice(2000, None)
    args = fresh.X[train], fresh.y[train], fresh.W, fresh.b
    adue = AdUEEstimator(beta=0.001).fit(*args)
    response = SoftmaxResponseScorer().fit(*args)
    held_out = fresh.X[test], fresh.y[test]
    assert adue.score(*held_out) > response.score(*held_out) + 0.02


def test_predictions_stay_those_of_the_original_head(problem):
    adue = AdUEEstimator(beta=0.0).fit(*problem.fit_args)
    z = problem.X @ problem.W.T + problem.b
    np.testing.assert_array_equal(adue.predict(problem.X), z.argmax(axis=1))
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(adue.predict_proba(problem.X), expected, atol=1e-12)
    assert np.abs(adue.coef_ - problem.W).max() > 0.1


def test_score_is_the_roc_auc_of_finding_errors(problem):
    adue = AdUEEstimator().fit(*problem.fit_args)
    uncertainty = adue.predict_uncertainty(problem.X)
    assert uncertainty.dtype == np.float64
    expected = roc_auc_score(problem.errors, uncertainty)
    assert adue.score(problem.X, problem.y) == pytest.approx(expected)
    np.testing.assert_array_equal(adue.score_samples(problem.X), -uncertainty)


def test_a_large_beta_leaves_softmax_response(problem):
    adue = AdUEEstimator(beta=1e6, lam=1e4).fit(*problem.fit_args)
    np.testing.assert_allclose(adue.coef_, problem.W, atol=1e-6)
    response = SoftmaxResponseScorer().fit(*problem.fit_args)
    np.testing.assert_allclose(
        adue.predict_uncertainty(problem.X),
        response.predict_uncertainty(problem.X) / (1 - 1 / 3),
        atol=1e-3,
    )


def test_without_a_bias_none_is_trained(problem):
    adue = AdUEEstimator(beta=0.0).fit(problem.X, problem.y, problem.W)
    np.testing.assert_array_equal(adue.intercept_, 0)


def test_rows_in_another_order_give_the_same_head(problem):
    order = np.random.default_rng(1).permutation(len(problem.X))
    adue = AdUEEstimator(tol=1e-7).fit(*problem.fit_args)
    other = AdUEEstimator(tol=1e-7).fit(problem.X[order], problem.y[order], problem.W, problem.b)
    np.testing.assert_allclose(other.coef_, adue.coef_, atol=1e-4)


def test_the_same_input_gives_the_same_result_to_the_bit(problem):
    first, second = (AdUEEstimator().fit(*problem.fit_args) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_float32_and_float64_features_agree(problem):
    X32 = problem.X.astype(np.float32)
    single = AdUEEstimator().fit(X32, problem.y, problem.W, problem.b)
    double = AdUEEstimator().fit(X32.astype(np.float64), problem.y, problem.W, problem.b)
    assert single.loss_ == pytest.approx(double.loss_, rel=1e-3)
    np.testing.assert_allclose(
        single.predict_uncertainty(X32), double.predict_uncertainty(X32), atol=0.01
    )


def test_all_errors_warn_and_give_finite_scores(problem):
    always_wrong = (SoftmaxResponseScorer().fit(*problem.fit_args).predict(problem.X) + 1) % 3
    with pytest.warns(UserWarning, match="agree with the labels in 0.0% of 400 rows"):
        adue = AdUEEstimator().fit(problem.X, always_wrong, problem.W, problem.b)
    assert np.isfinite(adue.predict_uncertainty(problem.X)).all()


def test_no_errors_with_a_given_head_is_an_error_that_says_what_to_do(problem):
    right = SoftmaxResponseScorer().fit(*problem.fit_args).predict(problem.X)
    with pytest.raises(ValueError, match=r"no errors on the 400 fit rows.*held-out rows"):
        AdUEEstimator().fit(problem.X, right, problem.W, problem.b)


def test_no_errors_without_a_head_warn_and_keep_the_start():
    X = np.repeat([[-5.0, 0.0], [5.0, 0.0]], 20, axis=0) + 0.1 * np.arange(80).reshape(40, 2) / 80
    with pytest.warns(UserWarning, match="no errors to learn from"):
        adue = AdUEEstimator().fit(X, np.repeat([0, 1], 20))
    np.testing.assert_array_equal(adue.coef_, adue.init_coef_)
    assert adue.n_errors_ == 0


def test_without_a_head_errors_are_counted_out_of_fold():
    rng = np.random.default_rng(0)
    # As many features as rows: a head fits its own rows without error.
    X, y = rng.normal(size=(60, 60)), rng.integers(0, 2, 60)
    adue = AdUEEstimator().fit(X, y)
    assert (adue.predict(X) == y).all()
    assert adue.n_errors_ > 10


def test_too_few_iterations_warn_of_missing_convergence(problem):
    with pytest.warns(ConvergenceWarning, match="Raise max_iter"):
        AdUEEstimator(max_iter=1, beta=0.0).fit(*problem.fit_args)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1}, "alpha"),
        ({"beta": -0.1}, "beta"),
        ({"lam": 0}, "lam"),
        ({"scale": "log"}, "scale"),
        ({"tol": 0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_parameters_out_of_range_are_named(problem, parameters, message):
    with pytest.raises(ValueError, match=f"'{message}' parameter of AdUEEstimator"):
        AdUEEstimator(**parameters).fit(*problem.fit_args)


def test_grid_search_over_alpha_beta_lam_optimises_error_detection(problem):
    grid = [{"beta": [0.001, 100.0]}, {"alpha": [0.3], "beta": [0.001], "lam": [20.0]}]
    folds = error_stratified_folds(*problem.fit_args, n_splits=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = GridSearchCV(AdUEEstimator(), grid, cv=folds).fit(
            problem.X, problem.y, init_W=problem.W, init_b=problem.b
        )
    assert search.best_params_["beta"] == 0.001
    assert search.best_score_ == pytest.approx(search.cv_results_["mean_test_score"].max())
    assert search.score(problem.X, problem.y) > 0.5


@pytest.mark.parametrize("scale", ["unit", "paper"])
@pytest.mark.parametrize(
    "X",
    [
        np.ones((40, 3)),
        np.repeat(np.random.default_rng(0).normal(size=(40, 2)), 3, axis=1),
        1e4 * np.random.default_rng(0).normal(size=(40, 3)),
        np.random.default_rng(0).normal(size=(10, 30)),
    ],
    ids=["constant", "duplicated", "huge logits", "n < d"],
)
@marks.odd_rows
def test_awkward_features_give_finite_scores(X, scale):
    rng = np.random.default_rng(1)
    W, y = rng.normal(size=(3, X.shape[1])), rng.integers(0, 3, len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        adue = AdUEEstimator(scale=scale, max_iter=50).fit(X, y, W)
    assert np.isfinite(adue.predict_uncertainty(X)).all()
    assert np.isfinite(adue.loss_)


@pytest.mark.parametrize("factor", [1e-8, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cls", [AdUEEstimator, QuickSearch], ids=["one fit", "search"])
def test_the_same_classifier_counted_otherwise_gets_the_same_scores(cls, dtype, factor):
    problem = Problem(n=200, d=6)
    X, y, W, b = problem.X.astype(dtype), problem.y, problem.W, problem.b
    scaled = X * dtype(factor)
    expected = cls(beta=0.0).fit(X, y, W, b).predict_uncertainty(X)
    found = cls(beta=0.0).fit(scaled, y, W / factor, b).predict_uncertainty(scaled)
    assert spearmanr(found, expected).statistic > 0.999


def test_with_its_penalty_rescaled_the_anchored_head_is_the_same_too():
    problem = Problem(n=200, d=6)
    problem.b = None  # whose penalty would stay as it is
    expected = AdUEEstimator(beta=0.01).fit(problem.X, problem.y, problem.W)
    found = AdUEEstimator(beta=0.01 * 1e8).fit(1e4 * problem.X, problem.y, problem.W / 1e4)
    assert found.loss_ == pytest.approx(expected.loss_, rel=1e-6)
    np.testing.assert_allclose(
        found.predict_uncertainty(1e4 * problem.X),
        expected.predict_uncertainty(problem.X),
        atol=1e-6,
    )


@pytest.mark.parametrize("factor", [1e2, 1e4])
def test_the_work_for_features_out_of_scale_is_bounded(factor):
    problem = Problem(n=200, d=6)
    adue = AdUEEstimator(max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        adue.fit(factor * problem.X, problem.y, problem.W, problem.b)
    # Four descents; in two of them eight stages at most come before the last.
    assert adue.n_iter_ <= 4 * 50 + 2 * 8 * 50
    assert len(np.unique(adue.predict_uncertainty(factor * problem.X))) > 1


@pytest.mark.parametrize("cls", [AdUEEstimator, QuickSearch], ids=["one fit", "search"])
@pytest.mark.parametrize("factor", [1e9, 1e30])
def test_logits_that_rounding_hides_are_refused(cls, factor):
    problem = Problem(n=200, d=6)
    with pytest.raises(ValueError, match=r"X, init_W and init_b give .* at most 1\.7e\+07"):
        cls().fit(factor * problem.X, problem.y, problem.W, problem.b)


def test_a_real_case_gains_nothing_less_than_softmax_response(movie):
    adue = AdUEEstimator().fit(*movie.calibration, movie.init_W, movie.init_b)
    response = SoftmaxResponseScorer().fit(*movie.calibration, movie.init_W, movie.init_b)
    assert adue.score(*movie.test) >= response.score(*movie.test) - 0.005


@pytest.mark.parametrize("scale", ["unit", "paper"])
def test_the_entropy_score_is_fitted_to_its_own_objective(problem, scale):
    options = {"alpha": 0.3, "beta": 0.1, "scale": scale}
    adue = AdUEEstimator(measure="entropy", **options).fit(*problem.fit_args)
    X, W0, b0 = (torch.tensor(a) for a in (problem.X, problem.W, problem.b))
    W, b = (torch.tensor(a, requires_grad=True) for a in (adue.coef_, adue.intercept_))
    errors = torch.tensor(problem.errors.astype(float))
    reference = reference_score(X @ W0.T + b0, scale, "entropy")
    parts = plain_loss(X @ W.T + b, errors, reference, 1.0, scale, 0.3, "entropy")
    loss = sum(p.mean() for p in parts) + 0.1 * ((W - W0).square().sum() + (b - b0).square().sum())
    loss.backward()
    assert adue.loss_ == pytest.approx(loss.item(), rel=1e-9)
    assert W.grad.abs().max() <= 1.01e-4 * 2 * np.sqrt(np.mean(problem.X**2))
    p = adue.predict_proba(problem.X)
    entropy = -(p * np.log(p)).sum(axis=1) / np.log(3)
    still = AdUEEstimator(measure="entropy", beta=1e9).fit(*problem.fit_args)
    np.testing.assert_allclose(still.predict_uncertainty(problem.X), entropy, atol=1e-6)


ACTIVATIONS = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "relu": torch.relu}


@pytest.fixture
def deep():
    """Return features, labels and a head of two layers that errs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 8))
    layers = [0.5 * rng.normal(size=(6, 8)), rng.normal(size=(3, 6))]
    biases = [0.1 * rng.normal(size=6), None]
    y = (np.tanh(X @ layers[0].T + rng.normal(size=6)) @ layers[1].T).argmax(axis=1)
    return X, y, layers, biases


@pytest.mark.parametrize("activation", ACTIVATIONS)
@marks.odd_rows
def test_all_layers_of_a_deep_head_are_trained_to_a_stationary_point(deep, activation):
    X, y, layers, biases = deep
    # relu gives exactly uniform rows, whose loss the written formula cannot say on the unit scale.
    scale = "paper" if activation == "relu" else "unit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        adue = AdUEEstimator(beta=0.05, scale=scale, activation=activation)
        adue.fit(X, y, layers, biases)
    parameters = [
        torch.tensor(a, requires_grad=True)
        for a in (adue.coefs_[0], adue.intercepts_[0], adue.coefs_[1])
    ]
    starts = [torch.tensor(a) for a in (layers[0], biases[0], layers[1])]

    def logits(W1, b1, W2):
        return ACTIVATIONS[activation](torch.tensor(X) @ W1.T + b1) @ W2.T

    original = logits(*starts)
    errors = (original.argmax(dim=1) != torch.tensor(y)).double()
    parts = plain_loss(
        logits(*parameters), errors, reference_score(original, scale), 100.0, scale, 1.0
    )
    anchor = sum((p - s).square().sum() for p, s in zip(parameters, starts, strict=True))
    loss = sum(part.mean() for part in parts) + 0.05 * anchor
    loss.backward()
    assert adue.loss_ == pytest.approx(loss.item(), rel=1e-8)
    units = [2 * np.sqrt(np.mean(X**2)), 1.0, 1.0]
    for parameter, start, unit in zip(parameters, starts, units, strict=True):
        # relu has kinks: a descent may end at one, where no gradient vanishes.
        assert activation == "relu" or parameter.grad.abs().max() / unit <= 1.01e-4
        assert (parameter - start).abs().max() > 1e-3
    np.testing.assert_array_equal(adue.predict(X), original.argmax(dim=1).numpy())
    np.testing.assert_array_equal(adue.intercepts_[1], 0)
    assert not hasattr(adue, "coef_")


@marks.odd_rows
def test_refitting_on_a_linear_head_leaves_no_trace_of_a_deep_one(deep, problem):
    adue = AdUEEstimator(activation="tanh").fit(*deep)
    adue.set_params(activation=None).fit(*problem.fit_args)
    assert not hasattr(adue, "coefs_")
    assert not hasattr(adue, "init_coefs_")
    expected = AdUEEstimator().fit(*problem.fit_args).predict_uncertainty(problem.X)
    np.testing.assert_array_equal(adue.predict_uncertainty(problem.X), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda W, b: (W, b, None), "init_W has 2 layers, but activation is None"),
        (lambda W, b: (W[::-1], b, "tanh"), r"init_W\[0\] has shape \(3, 6\), but X has 8"),
        (
            lambda W, b: ([W[0], W[1][:, :4]], b, "tanh"),
            r"init_W\[1\].*init_W\[0\] gives 6 outputs",
        ),
        (lambda W, b: (W, b[:1], "tanh"), "init_W is a list of 2 layers, init_b is a list of 1"),
        (lambda W, b: (W, b[0], "tanh"), "init_W is a list of 2 layers, init_b is"),
        (lambda W, b: (W, [b[0][:2], None], "tanh"), r"init_b\[0\] has shape \(2,\)"),
        (lambda W, b: (W, b, "swish"), "'activation' parameter"),
        (
            lambda W, b: ([W[1] @ W[0]], [b[1]], "tanh"),
            "activation='tanh', but init_W has one layer",
        ),
        (lambda W, b: (W[1] @ W[0], None, "tanh"), "activation='tanh', but init_W has one layer"),
    ],
)
def test_layers_that_do_not_fit_together_are_named(deep, change, message):
    X, y, layers, biases = deep
    W, b, activation = change(layers, biases)
    with pytest.raises(ValueError, match=message):
        AdUEEstimator(activation=activation).fit(X, y, W, b)


@pytest.mark.parametrize("kind", ["linear", "deep"])
@marks.odd_rows
def test_adam_lowers_the_loss_and_is_the_same_for_the_same_seed(problem, deep, kind):
    args = problem.fit_args if kind == "linear" else deep
    options = {
        "solver": "adam",
        "learning_rate": 1e-2,
        "beta": 0.001,
        "activation": None if kind == "linear" else "tanh",
    }
    first, second, other = (
        AdUEEstimator(random_state=seed, **options).fit(*args) for seed in (0, 0, 1)
    )
    assert first.n_iter_ == 10 * -(-len(args[0]) // 128)
    assert first.loss_ == second.loss_ != other.loss_
    start = AdUEEstimator(random_state=0, **options | {"learning_rate": 1e-12}).fit(*args)
    assert first.loss_ < start.loss_ - 0.01


def test_balanced_errors_count_as_much_as_correct_rows(problem):
    # Repeating the errors until both kinds are as many is the same objective.
    right, wrong = np.flatnonzero(~problem.errors), np.flatnonzero(problem.errors)
    rows = np.concatenate([np.tile(right, len(wrong)), np.tile(wrong, len(right))])
    options = {"alpha": 0.0, "beta": 0.1, "tol": 1e-6}
    weighted = AdUEEstimator(error_weight="balanced", **options).fit(*problem.fit_args)
    repeated = AdUEEstimator(**options).fit(problem.X[rows], problem.y[rows], problem.W, problem.b)
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-3)


def test_few_errors_warn_that_the_rows_look_memorised(problem):
    rows = np.concatenate([np.flatnonzero(problem.errors)[:5], np.flatnonzero(~problem.errors)])
    with pytest.warns(UserWarning, match="5 errors on .* than 20 are too few .* trained on"):
        AdUEEstimator().fit(problem.X[rows], problem.y[rows], problem.W, problem.b)


def test_warnings_of_pipelines_and_searches_point_at_the_caller(problem):
    few = np.concatenate([np.flatnonzero(problem.errors)[:12], np.flatnonzero(~problem.errors)])
    pipe = UncertaintyPipeline([("adue", AdUEEstimator())])
    folds = [(few[::2], few[1::2]), (few[1::2], few[::2])]
    search = GridSearchCV(pipe, {"adue__beta": [0.1]}, cv=folds, refit=False)
    head = {"adue__init_W": problem.W, "adue__init_b": problem.b}
    for fit in (
        lambda: pipe.fit(problem.X[few], problem.y[few], **head),
        lambda: search.fit(problem.X, problem.y, **head),
    ):
        with pytest.warns(UserWarning, match="too few to learn from") as caught:
            fit()
        assert {warning.filename for warning in caught} == {__file__}


def test_a_handful_of_rows_that_are_all_errors_warn_too(problem):
    wrong = (SoftmaxResponseScorer().fit(*problem.fit_args).predict(problem.X[:6]) + 1) % 3
    with pytest.warns(UserWarning, match="is wrong on all 6 fit rows"):
        AdUEEstimator().fit(problem.X[:6], wrong, problem.W, problem.b)


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_adam_takes_as_few_steps_as_there_are_batches(problem, epochs):
    adue = AdUEEstimator(solver="adam", epochs=epochs, random_state=0)
    adue.fit(problem.X[:100], problem.y[:100], problem.W, problem.b)
    assert adue.n_iter_ == epochs
    assert np.isfinite(adue.loss_)


@pytest.mark.parametrize("estimator", [AdUEEstimator, AdUESearchCV, SoftmaxResponseScorer])
def test_an_activation_without_a_head_is_an_error(problem, estimator):
    with pytest.raises(ValueError, match="activation='relu' was given without init_W"):
        estimator(activation="relu").fit(problem.X, problem.y)


def test_entropy_has_no_sharpness_to_continue_in(problem):
    fits = [AdUEEstimator(measure="entropy", lam=lam).fit(*problem.fit_args) for lam in (1, 100)]
    assert fits[0].n_iter_ == fits[1].n_iter_
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)

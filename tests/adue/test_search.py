"""AdUESearchCV: the same answer as GridSearchCV, solved as one stack."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit

from adue_sklearn import AdUEEstimator, AdUESearchCV, UncertaintyPipeline
from adue_sklearn.adue.descents import TARGET, Stage, descents, lowest, units_of
from adue_sklearn.adue.objective import reference_score
from adue_sklearn.adue.search import _choose
from adue_sklearn.adue.solvers import minimize_lbfgs
from adue_sklearn.adue.stack import Stack
from adue_sklearn.metrics import aurc_scorer, error_average_precision_scorer
from adue_sklearn.model_selection import error_stratified_folds
from tests.adue.formulas import plain_score
from tests.problems import Problem

GRID = {"alpha": [0.1, 1.0], "beta": [0.01, 0.1, 10.0], "lam": [10.0, 100.0]}
SMALL_GRID = {"beta": [0.01, 10.0], "lam": [10.0, 100.0]}


@pytest.mark.parametrize(
    ("n_classes", "gap"),
    [
        (2, 1.0),
        *(pytest.param(*case, marks=pytest.mark.deep) for case in [(5, 1.0), (2, 10.0), (5, 10.0)]),
    ],
)
def test_scores_are_those_of_a_grid_search_over_the_estimator(n_classes, gap):
    problem = Problem(n=600, d=15, n_classes=n_classes, gap=gap)
    folds = error_stratified_folds(*problem.fit_args, n_splits=3)
    head = {"init_W": problem.W, "init_b": problem.b}
    expected = GridSearchCV(AdUEEstimator(), GRID, cv=folds).fit(problem.X, problem.y, **head)
    search = AdUESearchCV(GRID, cv=folds).fit(problem.X, problem.y, **head)
    assert search.cv_results_["params"] == expected.cv_results_["params"]
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert expected.cv_results_.keys() == search.cv_results_.keys()
    assert search.multimetric_ == expected.multimetric_
    difference = np.abs(
        search.cv_results_["mean_test_score"] - expected.cv_results_["mean_test_score"]
    )
    # What is chosen is solved alike; others, from their neighbours, may be in another minimum.
    assert difference[search.best_index_] < 1e-3
    assert np.median(difference) < 1e-2
    assert search.n_splits_ == 3


def test_the_chosen_setting_is_fitted_on_all_rows(problem):
    search = AdUESearchCV(GRID, cv=3).fit(*problem.fit_args)
    alone = AdUEEstimator(**search.best_params_).fit(*problem.fit_args)
    np.testing.assert_array_equal(
        search.predict_uncertainty(problem.X), alone.predict_uncertainty(problem.X)
    )
    np.testing.assert_array_equal(search.predict(problem.X), alone.predict(problem.X))
    assert search.score(problem.X, problem.y) == alone.score(problem.X, problem.y)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert search.cv_results_["rank_test_score"][search.best_index_] == 1


def make_stack(problem, n_problems=6, *, has_bias=True, scale="unit", measure="smoothmax"):
    """Return problems over two folds with settings of their own."""
    X, W, b = (torch.tensor(a) for a in (problem.X, problem.W, problem.b))
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(2, len(X), generator=generator) < 0.7).double()
    original = X @ W.T + b

    def setting(*values):
        return torch.tensor(values, dtype=torch.float64).repeat(n_problems)[:n_problems]

    return Stack(
        X=X,
        original=original,
        head=torch.cat([W, b[:, None]], dim=1) if has_bias else W,
        errors=torch.tensor(problem.errors.astype(float)),
        reference=reference_score(original, scale, measure),
        row_weights=rows / rows.sum(dim=1, keepdim=True),
        error_weights=None,
        fold=torch.arange(n_problems) % 2,
        alpha=setting(0.0, 0.1, 1.0, 0.0, 0.3, 3.0),
        beta=setting(0.1, 0.01, 0.3, 1.0, 0.1, 0.05),
        lam=setting(5.0, 5.0, 10.0, 20.0, 3.0, 5.0),
        scale=scale,
        measure=measure,
        weight_units=units_of(X, rows / rows.sum(dim=1, keepdim=True)),
    )


def test_folds_that_hold_numbers_instead_of_rows_are_refused(problem):
    with pytest.raises(ValueError, match=r"cv holds numbers .* expected: a list of pairs"):
        AdUESearchCV(SMALL_GRID, cv=[(0, 1)]).fit(*problem.fit_args)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_problem_of_a_stack_ends_where_it_ends_alone(n_classes):
    stack = make_stack(Problem(n_classes=n_classes))
    options = {"tol": 1e-6, "max_iter": 500}
    together = minimize_lbfgs(stack.objective(TARGET), stack.start(), **options)
    assert float(together.gradient_norm.max()) <= 1e-6
    for i in range(len(stack)):
        one = stack[torch.tensor([i])]
        alone = minimize_lbfgs(one.objective(TARGET), one.start(), **options)
        assert together.value[i].item() == pytest.approx(alone.value.item(), rel=1e-9)
        torch.testing.assert_close(together.x[i], alone.x[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("measure", ["smoothmax", "entropy"])
@pytest.mark.parametrize("stage", [TARGET, Stage(4.0, 2.0)], ids=["target", "soft"])
def test_values_of_a_stack_are_the_written_objective_and_its_gradient_autograds(
    n_classes, has_bias, measure, stage
):
    problem = Problem(n=60, n_classes=n_classes)
    stack = make_stack(problem, has_bias=has_bias, measure=measure)
    generator = torch.Generator().manual_seed(1)
    start = stack.start()
    x = 0.3 * torch.randn(start.shape, generator=generator, dtype=torch.float64)
    values, gradients = stack.objective(stage)(x, torch.arange(len(stack)))

    x.requires_grad_()
    shifts = stack.shifts(x)
    split = n_classes * problem.X.shape[1]
    dW = shifts[:, :split].reshape(len(stack), n_classes, -1)
    z = stack.original + stack.X @ dW.transpose(1, 2)
    if has_bias:
        z = z + shifts[:, None, split:]
    score = torch.stack(
        [
            plain_score(of_one / stage.temperature, min(float(lam), stage.lam), "unit", measure)
            for of_one, lam in zip(z, stack.lam, strict=True)
        ]
    )
    rows = -torch.where(stack.errors > 0, score.log(), (1 - score).log())
    rows = rows + stack.alpha[:, None] * (score - stack.reference) ** 2
    expected = (rows * stack.row_weights[stack.fold]).sum(dim=1)
    expected = expected + stack.beta * shifts.square().sum(dim=1)
    (expected_gradients,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_softened_start_multiplies_theoriginal_logits(n_classes):
    problem = Problem(n_classes=n_classes)
    stack = make_stack(problem)
    split = n_classes * problem.X.shape[1]
    shift = stack.shifts(stack.softened(0.25))[0]
    z = stack.original + stack.X @ shift[:split].reshape(n_classes, -1).T + shift[split:]
    gaps = [v - v[:, :1] for v in (z, 0.25 * stack.original)]
    torch.testing.assert_close(*gaps)


@pytest.mark.parametrize("gap", [1e3, 1e6])
def test_a_head_takes_no_more_stages_the_more_saturated_it_is(gap):
    plans = [descent.plan for descent in descents(make_stack(Problem(n=60, gap=gap)))]
    assert max(map(len, plans)) <= 9
    assert all(plan[-1] == TARGET for plan in plans)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_lbfgs_finds_the_minima_of_quadratics_of_any_condition(n):
    generator = torch.Generator().manual_seed(n)
    A = torch.randn(n, 20, 20, generator=generator, dtype=torch.float64)
    H = A @ A.transpose(1, 2) + torch.logspace(-4, 2, n)[:, None, None].double() * torch.eye(20)
    minimum = torch.randn(n, 20, generator=generator, dtype=torch.float64)

    def objective(x, problems):
        away = (x - minimum[problems])[..., None]
        gradient = H[problems] @ away
        return 0.5 * (away * gradient).sum(dim=(1, 2)), gradient[..., 0]

    found = minimize_lbfgs(objective, torch.zeros_like(minimum), tol=1e-9, max_iter=5000)
    assert float(found.gradient_norm.max()) <= 1e-9
    torch.testing.assert_close(found.x, minimum, rtol=1e-4, atol=1e-4)


def test_lbfgs_stops_where_no_step_leads_down_and_says_so_by_the_gradient():
    def slope(x, problems):  # its gradient points the wrong way
        return x.sum(dim=1), -torch.ones_like(x)

    found = minimize_lbfgs(slope, torch.zeros(2, 3, dtype=torch.float64), tol=1e-6, max_iter=50)
    assert bool((found.gradient_norm == 1.0).all())
    assert bool((found.x == 0.0).all())


def test_lbfgs_gives_up_where_rounding_hides_the_way_down():
    evaluations = 0

    def rounded(x, problems):  # the gradient promises what values in float32 cannot show
        nonlocal evaluations
        evaluations += 1
        value = (1e4 + 1e-6 * x.square().sum(dim=1)).to(torch.float32).to(torch.float64)
        return value, 1.0 + 2e-6 * x

    found = minimize_lbfgs(
        rounded, torch.ones(1, 3, dtype=torch.float64), tol=1e-6, max_iter=10_000
    )
    assert float(found.gradient_norm) > 1e-6
    assert evaluations < 500


def test_turns_change_nothing_but_the_memory(problem, capsys):
    whole = AdUESearchCV(SMALL_GRID, cv=2, verbose=1).fit(*problem.fit_args)
    cut = AdUESearchCV(SMALL_GRID, cv=2, verbose=1, max_memory=2e-4).fit(*problem.fit_args)
    np.testing.assert_allclose(
        cut.cv_results_["mean_test_score"], whole.cv_results_["mean_test_score"], atol=2e-3
    )
    first, second = capsys.readouterr().out.splitlines()
    assert first == "[AdUESearchCV] 8 problems over 400 rows"
    assert second == "[AdUESearchCV] 8 problems over 400 rows, 4 at a time"


def test_threads_change_nothing_and_their_number_comes_back():
    stack = make_stack(Problem(n=20_000, d=4), n_problems=8)
    x = 0.1 * torch.randn(
        stack.start().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    expected = stack.objective(TARGET)(x, torch.arange(8))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = stack.objective(TARGET)(x, torch.arange(8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for part, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-12, atol=1e-15)


def test_scale_and_measure_can_be_searched_too(problem):
    grid = {"scale": ["unit", "paper"], "measure": ["smoothmax", "entropy"], "beta": [0.01]}
    search = AdUESearchCV(grid, cv=3).fit(*problem.fit_args)
    assert len(search.cv_results_["params"]) == 4
    assert set(search.best_params_) == {"scale", "measure", "beta"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("scorer", [aurc_scorer, error_average_precision_scorer])
def test_any_of_our_metrics_can_be_maximised(problem, scorer):
    search = AdUESearchCV(SMALL_GRID, cv=2, scoring=scorer).fit(*problem.fit_args)
    folds = error_stratified_folds(*problem.fit_args, n_splits=2)
    scores = []
    for rest, fold in folds:
        fitted = AdUEEstimator(**search.best_params_).fit(
            problem.X[rest], problem.y[rest], problem.W, problem.b
        )
        scores.append(scorer(fitted, problem.X[fold], problem.y[fold]))
    assert search.best_score_ == pytest.approx(np.mean(scores), abs=5e-3)


def test_one_standard_error_prefers_the_tightest_anchor(problem):
    grid = {"beta": GRID["beta"]}
    best = AdUESearchCV(grid, cv=5).fit(*problem.fit_args)
    tight = AdUESearchCV(grid, cv=5, selection="one_standard_error").fit(*problem.fit_args)
    assert tight.best_params_["beta"] >= best.best_params_["beta"]
    scores = [best.cv_results_[f"split{i}_test_score"][best.best_index_] for i in range(5)]
    error = np.std(scores, ddof=1) / np.sqrt(5)
    assert tight.best_score_ >= best.best_score_ - error - 1e-12


def test_the_tightest_of_many_settings_with_equal_scores_is_chosen(problem):
    # So tight that the head stays: all scores are equal, and more than are solved from scratch.
    grid = {"beta": [1e8, 2e8, 3e8, 4e8, 5e8, 6e8]}
    search = AdUESearchCV(grid, cv=2, selection="one_standard_error").fit(*problem.fit_args)
    assert np.ptp(search.cv_results_["mean_test_score"]) == 0.0
    assert search.best_params_ == {"beta": 6e8}


@pytest.mark.parametrize(
    "cv",
    [KFold(3), ShuffleSplit(2, random_state=0), [(np.arange(300), np.arange(300, 400))]],
    ids=["KFold", "ShuffleSplit", "list"],
)
def test_any_splitter_can_be_used(problem, cv):
    search = AdUESearchCV(SMALL_GRID, cv=cv).fit(*problem.fit_args)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_string_labels_tensors_and_pipelines(problem):
    names = np.array(["a", "b", "c"])
    search = AdUESearchCV({"beta": [0.1, 1.0]}, cv=2)
    expected = clone(search).fit(*problem.fit_args).predict_uncertainty(problem.X)
    named = clone(search).fit(problem.X, names[problem.y], problem.W, problem.b, classes=names)
    np.testing.assert_array_equal(named.predict_uncertainty(problem.X), expected)
    assert named.predict(problem.X)[0] in names
    tensors = clone(search).fit(*map(torch.tensor, problem.fit_args))
    got = tensors.predict_uncertainty(torch.tensor(problem.X))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)
    pipe = UncertaintyPipeline([("search", clone(search))])
    pipe.fit(problem.X, problem.y, search__init_W=problem.W, search__init_b=problem.b)
    np.testing.assert_array_equal(pipe.predict_uncertainty(problem.X), expected)


def test_without_refit_there_are_results_but_no_predictions(problem):
    search = AdUESearchCV({"beta": [0.01, 0.1]}, cv=2, refit=False).fit(*problem.fit_args)
    assert search.best_params_["beta"] in (0.01, 0.1)
    with pytest.raises(AttributeError, match="With refit=False there is no fitted estimator"):
        search.predict_uncertainty(problem.X)


def test_balanced_error_weights_agree_with_the_estimator(problem):
    folds = error_stratified_folds(*problem.fit_args, n_splits=3)
    search = AdUESearchCV({"beta": [0.1]}, cv=folds, error_weight="balanced")
    search.fit(*problem.fit_args)
    expected = GridSearchCV(AdUEEstimator(error_weight="balanced"), {"beta": [0.1]}, cv=folds).fit(
        problem.X, problem.y, init_W=problem.W, init_b=problem.b
    )
    assert search.best_score_ == pytest.approx(expected.best_score_, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"param_grid": {"beta": []}}, "param_grid"),
        ({"param_grid": {"beta": 0.1}}, "param_grid"),
        ({"param_grid": {"beta": [-1.0]}}, "'beta' parameter"),
        ({"param_grid": {"lam": [0.0]}}, "'lam' parameter"),
        ({"param_grid": {"solver": ["adam"]}}, r"param_grid has \['solver'\]"),
        ({"scoring": "roc_auc"}, "'scoring' parameter"),
        ({"cv": 1}, "'cv' parameter"),
        ({"max_memory": 0}, "'max_memory' parameter"),
    ],
)
def test_bad_parameters_are_named(problem, options, message):
    with pytest.raises(ValueError, match=message):
        AdUESearchCV(**options).fit(*problem.fit_args)


def test_folds_that_teach_or_tell_nothing_are_named(problem):
    right = ~problem.errors
    order = np.argsort(right, kind="stable")  # errors first
    X, y = problem.X[order], problem.y[order]
    n_errors = int(problem.errors.sum())
    only_right = np.arange(n_errors, 400)
    no_errors = [(only_right[:100], np.arange(50)), (only_right[100:200], np.arange(50))]
    with pytest.raises(ValueError, match="training part of fold 0 holds no errors"):
        AdUESearchCV(GRID, cv=no_errors).fit(X, y, problem.W, problem.b)
    untold = [(np.arange(200), only_right[200:]), (np.arange(200), only_right[:50])]
    with pytest.raises(ValueError, match="every setting scores NaN"):
        AdUESearchCV(GRID, cv=untold).fit(X, y, problem.W, problem.b)
    few = np.concatenate([np.arange(3), only_right])
    with pytest.raises(ValueError, match=r"makes 3 errors on .* too few, or too many, for cv=5"):
        AdUESearchCV(GRID).fit(X[few], y[few], problem.W, problem.b)


def test_no_errors_at_all(problem):
    right = AdUEEstimator().fit(*problem.fit_args).predict(problem.X)
    with pytest.raises(ValueError, match="makes no error"):
        AdUESearchCV(GRID).fit(problem.X, right, problem.W, problem.b)
    X = np.repeat([[-5.0, 0.0], [5.0, 0.0]], 20, axis=0) + np.arange(80).reshape(40, 2) / 800
    with pytest.warns(UserWarning, match="no errors to learn from"):
        search = AdUESearchCV(GRID).fit(X, np.repeat([0, 1], 20))
    assert search.best_index_ == 0


def test_a_head_of_several_layers_is_pointed_to_grid_search(problem):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(5, 12)), rng.normal(size=(3, 5))]
    with pytest.raises(ValueError, match="only linear heads are searched as a stack"):
        AdUESearchCV(activation="tanh").fit(problem.X, problem.y, layers)


def test_a_search_warns_of_nothing_on_ordinary_rows(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdUESearchCV({"beta": [0.01, 0.1]}, cv=3).fit(*problem.fit_args)


def test_problems_that_did_not_converge_are_counted_and_the_caller_is_told(problem):
    search = AdUESearchCV({"beta": [0.01, 0.1]}, cv=3, max_iter=1, refit=False)
    with pytest.warns(ConvergenceWarning, match="6 of 6 problems.* Raise max_iter") as record:
        search.fit(*problem.fit_args)
    assert {warning.filename for warning in record} == {__file__}
    pipe = UncertaintyPipeline([("search", search)])
    with pytest.warns(ConvergenceWarning) as record:
        pipe.fit(problem.X, problem.y, search__init_W=problem.W, search__init_b=problem.b)
    assert {warning.filename for warning in record} == {__file__}


def test_minima_satisfy_the_tolerance_and_no_problem_disturbs_another():
    # Three Rosenbrock functions end where each does alone.
    shift = torch.tensor([[0.0, 0.0], [1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)

    def objective(x, problems):
        a, b = (x - shift[problems]).unbind(dim=1)
        value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
        by_a = -2 * (1 - a) - 400 * a * (b - a**2)
        return value, torch.stack([by_a, 200 * (b - a**2)], dim=1)

    start = torch.zeros(3, 2, dtype=torch.float64)
    minima = minimize_lbfgs(objective, start, tol=1e-8, max_iter=500)
    torch.testing.assert_close(minima.x, shift + 1.0, rtol=0, atol=1e-6)
    assert (minima.gradient_norm <= 1e-8).all()
    for number in range(3):

        def alone(x, _, number=number):
            return objective(x, torch.tensor([number]))

        single = minimize_lbfgs(alone, start[:1], tol=1e-8, max_iter=500)
        torch.testing.assert_close(single.x[0], minima.x[number], rtol=0, atol=1e-12)
        assert single.n_iter[0] == minima.n_iter[number]
    few = minimize_lbfgs(objective, start, tol=1e-8, max_iter=3)
    assert few.n_iter.tolist() == [3, 3, 3]


def test_overlapping_grids_solve_equal_settings_alike(problem):
    grids = [{"beta": [0.01, 0.1, 1.0]}, {"alpha": [1.0], "beta": [0.1, 1.0]}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = AdUESearchCV(grids, cv=2).fit(*problem.fit_args)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[[1, 2]], scores[[3, 4]], atol=1e-3)
    head = {"init_W": problem.W, "init_b": problem.b}
    expected = GridSearchCV(AdUEEstimator(max_iter=1), grids, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # only what it calls things is asked
        expected.fit(problem.X, problem.y, **head)
    for name in ("param_alpha", "param_beta"):
        theirs, ours = expected.cv_results_[name], search.cv_results_[name]
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        np.testing.assert_array_equal(ours.compressed(), theirs.compressed().astype(float))


def test_one_standard_error_is_that_of_the_best_mean():
    settings = [{"alpha": 1.0, "beta": beta} for beta in (0.01, 1.0)]
    steady = np.array([[0.8] * 5, [0.9, 0.9, 0.9, 0.9, 0.2]])
    assert _choose(steady, settings, "one_standard_error") == 0
    close = np.array([[0.9, 0.7, 0.8, 0.85, 0.75], [0.899, 0.699, 0.799, 0.849, 0.749]])
    assert _choose(close, settings, "one_standard_error") == 1
    assert _choose(close, settings, "best") == 0


@pytest.mark.parametrize("scorer", [aurc_scorer, error_average_precision_scorer])
def test_score_is_what_scoring_measures(problem, scorer):
    head = {"init_W": problem.W, "init_b": problem.b}
    grid, folds = {"beta": [0.1, 1.0]}, error_stratified_folds(*problem.fit_args, n_splits=2)
    ours = AdUESearchCV(grid, cv=folds, scoring=scorer).fit(problem.X, problem.y, **head)
    theirs = GridSearchCV(AdUEEstimator(), grid, cv=folds, scoring=scorer)
    theirs.fit(problem.X, problem.y, **head)
    assert ours.score(problem.X, problem.y) == pytest.approx(
        theirs.score(problem.X, problem.y), abs=1e-3
    )
    with pytest.raises(ValueError, match=r"sample_weight was given.*scoring=None"):
        ours.score(problem.X, problem.y, sample_weight=np.ones(len(problem.y)))


def test_the_default_score_takes_weights(problem):
    search = AdUESearchCV({"beta": [0.01]}, cv=2).fit(*problem.fit_args)
    weights = np.random.default_rng(0).uniform(size=len(problem.y))
    expected = search.best_estimator_.score(problem.X, problem.y, sample_weight=weights)
    assert search.score(problem.X, problem.y, sample_weight=weights) == expected
    assert expected != search.score(problem.X, problem.y)


def test_folds_may_come_from_a_generator_and_name_a_row_twice(problem):
    rng = np.random.default_rng(0)
    rest = rng.integers(0, 300, 400)  # a bootstrap
    folds = [(rest, np.arange(300, len(problem.y)))]
    head = {"init_W": problem.W, "init_b": problem.b}
    grid = {"beta": [0.01, 0.1]}
    ours = AdUESearchCV(grid, cv=(fold for fold in folds)).fit(problem.X, problem.y, **head)
    theirs = GridSearchCV(AdUEEstimator(), grid, cv=folds).fit(problem.X, problem.y, **head)
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], atol=1e-3
    )


@pytest.mark.parametrize("refit", [True, False])
def test_few_errors_are_warned_about_once(problem, refit):
    errors = np.flatnonzero((problem.X @ problem.W.T + problem.b).argmax(axis=1) != problem.y)
    rows = np.setdiff1d(np.arange(len(problem.y)), errors[10:])
    search = AdUESearchCV({"beta": [0.01, 0.1]}, cv=2, refit=refit)
    with pytest.warns(UserWarning, match="makes 10 errors on the") as record:
        search.fit(problem.X[rows], problem.y[rows], problem.W, problem.b)
    assert len(record) == 1


def test_folds_without_errors_to_judge_on_are_named(problem):
    errors = (problem.X @ problem.W.T + problem.b).argmax(axis=1) != problem.y
    good = np.flatnonzero(~errors)[:20]
    halves = np.array_split(np.setdiff1d(np.arange(len(problem.y)), good), 2)
    folds = [(halves[0], halves[1]), (np.concatenate(halves), good)]
    with pytest.raises(ValueError, match=r"folds \[1\] of 2"):
        AdUESearchCV({"beta": [0.1]}, cv=folds).fit(*problem.fit_args)


def test_what_verbose_says_of_turns_is_true(problem, capsys):
    kinds = {"scale": ["unit", "paper"], "measure": ["entropy", "smoothmax"]}
    search = AdUESearchCV({"beta": [0.3, 0.6, 1.0], **kinds}, cv=2, verbose=1, refit=False)
    search.fit(*problem.fit_args)
    assert capsys.readouterr().out.endswith(f"24 problems over {len(problem.y)} rows\n")
    search.set_params(max_memory=1e-6).fit(*problem.fit_args)
    assert capsys.readouterr().out.endswith(", 2 at a time\n")


def test_a_problem_that_is_not_a_number_has_not_converged():
    def objective(x, problems):
        value = torch.where(problems == 1, torch.nan, x.square().sum(dim=1))
        return value, torch.where(problems[:, None] == 1, torch.nan, 2 * x)

    minima = minimize_lbfgs(objective, torch.ones(2, 3).double(), tol=1e-6, max_iter=50)
    assert minima.gradient_norm[0] <= 1e-6
    assert not minima.gradient_norm[1] <= 1e-6
    good = replace(minima, value=minima.value.flip(0), x=minima.x.flip(0))
    assert not lowest([minima, good]).value.isnan().any()

"""Displays draw what the metrics say, whatever the order of rows, and say what they cannot draw."""

from __future__ import annotations

import inspect

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from matplotlib import pyplot as plt
from scipy.stats import binomtest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_curve
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from adue_sklearn import (
    AdUEEstimator,
    ErrorProbability,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    UncertaintyPipeline,
)
from adue_sklearn.metrics import (
    aurc_score,
    calibration_error,
    coverage_at_risk_score,
    error_roc_auc_interval,
    risk_coverage_curve,
)
from adue_sklearn.plotting import (
    ErrorRocDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    ScoreHistogramDisplay,
    ThresholdDisplay,
)
from adue_sklearn.selective import clopper_pearson, selective_threshold
from tests.bad_input_cases import anything, call
from tests.problems import Problem
from tests.profiles import repeated, share_of_examples

mpl.use("Agg")

DISPLAYS = [
    ErrorRocDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    ScoreHistogramDisplay,
    ThresholdDisplay,
]
every_display = pytest.mark.parametrize("display", DISPLAYS)


@pytest.fixture(autouse=True)
def closed_figures():
    plt.close("all")  # what tests of other modules left
    yield
    plt.close("all")


def scored_rows(n=300, seed=0, digits=None):
    rng = np.random.default_rng(seed)
    uncertainty = rng.random(n)
    errors = rng.random(n) < 0.6 * uncertainty**1.5
    return errors, uncertainty if digits is None else uncertainty.round(digits)


def values_of(display):
    """Return everything that a display has computed."""
    return {
        name: value
        for name, value in vars(display).items()
        if not name.endswith("_") and isinstance(value, np.ndarray | float | tuple)
    }


# --- the curves are the metrics' ----------------------------------------------------------------


def test_risk_coverage_is_the_curve_and_its_mean_the_aurc():
    errors, uncertainty = scored_rows(digits=1)
    display = RiskCoverageDisplay.from_predictions(errors, uncertainty, name="a")
    curve = risk_coverage_curve(errors, uncertainty)
    np.testing.assert_array_equal(display.line_.get_xdata(), curve.coverages)
    np.testing.assert_array_equal(display.line_.get_ydata(), curve.risks)
    assert display.aurc == aurc_score(errors, uncertainty)
    assert display.line_.get_label() == f"a (AURC = {display.aurc:.3f})"


@pytest.mark.parametrize("digits", [None, 1])
def test_risk_intervals_are_exact_at_thresholds(digits):
    errors, uncertainty = scored_rows(digits=digits)
    display = RiskCoverageDisplay.from_predictions(errors, uncertainty, confidence=0.9)
    thresholds = np.unique(uncertainty)
    coverages = {round((uncertainty <= t).mean() * 300): t for t in thresholds}
    assert len(display.low) == min(len(thresholds), 200)
    for coverage, low, high in zip(display.band_coverages, display.low, display.high, strict=True):
        accepted = errors[uncertainty <= coverages[round(coverage * 300)]]
        exact = binomtest(int(accepted.sum()), len(accepted)).proportion_ci(0.9, "exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert display.band_.get_paths()


def test_roc_is_scikit_learns_and_its_area_has_delongs_interval():
    errors, uncertainty = scored_rows(digits=2)
    display = ErrorRocDisplay.from_predictions(errors, uncertainty)
    fpr, tpr, _ = roc_curve(errors, uncertainty)
    np.testing.assert_array_equal(display.line_.get_xdata(), fpr)
    np.testing.assert_array_equal(display.line_.get_ydata(), tpr)
    assert display.roc_auc == error_roc_auc_interval(errors, uncertainty)
    assert display.line_.get_label().startswith(f"AUC = {display.roc_auc.value:.3f} [")


def test_roc_intervals_are_quantiles_of_resampled_rows():
    errors, uncertainty = scored_rows(digits=1)
    display = ErrorRocDisplay.from_predictions(errors, uncertainty, n_resamples=400)
    rng = np.random.default_rng(1)
    curves = []
    for _ in range(400):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(errors == kind), (errors == kind).sum()) for kind in (0, 1)]
        )
        fpr, tpr, _ = roc_curve(errors[rows], uncertainty[rows], drop_intermediate=False)
        curves.append(np.interp(display.band_fpr, fpr, tpr))
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(display.low, low, atol=0.04)
    np.testing.assert_allclose(display.high, high, atol=0.04)


@pytest.mark.slow
@repeated(30, 200)
def test_roc_intervals_cover_the_true_curve(times):
    # Normal scores: the true curve is known.
    from scipy.stats import norm

    covered = []
    for seed in range(times):
        rng = np.random.default_rng(seed)
        errors = rng.random(400) < 0.3
        display = ErrorRocDisplay.from_predictions(
            errors, rng.normal(size=400) + errors, n_resamples=200, random_state=seed
        )
        plt.close(display.figure_)
        true = norm.sf(norm.isf(display.band_fpr) - 1.0)
        inner = slice(10, 80)
        covered.append(((display.low <= true) & (true <= display.high))[inner].mean())
    assert 0.91 < np.mean(covered) < 0.98


def test_histogram_shares_and_numbers():
    errors, uncertainty = scored_rows()
    shares = ScoreHistogramDisplay.from_predictions(errors, uncertainty, bins=7)
    numbers = ScoreHistogramDisplay.from_predictions(errors, uncertainty, bins=7, share=False)
    expected = np.histogram(uncertainty[errors], np.histogram_bin_edges(uncertainty, 7))
    np.testing.assert_array_equal(numbers.wrong, expected[0])
    np.testing.assert_array_equal(numbers.edges, expected[1])
    np.testing.assert_allclose(shares.wrong, expected[0] / errors.sum())
    assert shares.correct.sum() == pytest.approx(1.0)
    assert numbers.correct.sum() + numbers.wrong.sum() == 300
    np.testing.assert_array_equal(shares.wrong_.get_data().values, shares.wrong)
    np.testing.assert_array_equal(shares.correct_.get_data().values, shares.correct)


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
@pytest.mark.parametrize("of", ["error", "confidence"])
def test_reliability_is_the_calibration_error_bin_by_bin(of, strategy):
    errors, uncertainty = scored_rows(digits=2)
    display = ReliabilityDisplay.from_predictions(
        errors, uncertainty, of=of, n_bins=6, strategy=strategy
    )
    happened = errors if of == "error" else ~errors
    ece = calibration_error(happened, uncertainty, n_bins=6, strategy=strategy)
    assert display.calibration_error == pytest.approx(ece)
    assert display.line_.get_label() == f"ECE = {ece:.3f}"
    assert display.n_rows.sum() == 300
    np.testing.assert_array_equal(display.line_.get_xdata(), display.predicted)
    np.testing.assert_array_equal(display.line_.get_ydata(), display.observed)
    for rate, n, low, high in zip(
        display.observed, display.n_rows, display.low, display.high, strict=True
    ):
        exact = binomtest(round(rate * n), int(n)).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    drawn = display.errorbar_.lines[2][0].get_segments()
    np.testing.assert_allclose(
        next(segment[:, 1] for segment in drawn), [display.low[0], display.high[0]]
    )


def test_two_sided_limits_agree_with_the_one_sided_bound():
    errors, uncertainty = scored_rows()
    display = RiskCoverageDisplay.from_predictions(errors, uncertainty, confidence=0.9)
    assert display.high[-1] == pytest.approx(clopper_pearson(errors.sum(), 300, 0.95))


@pytest.mark.parametrize("method", ["binomial", "sgr", "ltt"])
def test_threshold_chart_is_the_guarantee_at_each_target(method):
    errors, uncertainty = scored_rows(n=800, digits=2)
    targets = [0.05, 0.1, 0.2]
    display = ThresholdDisplay.from_predictions(
        errors, uncertainty, target_risk=0.1, confidence=0.9, method=method, target_risks=targets
    )
    found = [selective_threshold(errors, uncertainty, t, 0.9, method) for t in targets]
    np.testing.assert_array_equal(display.line_.get_ydata(), [f.coverage for f in found])
    np.testing.assert_array_equal(
        display.observed_line_.get_ydata(),
        [coverage_at_risk_score(errors, uncertainty, risk=t) for t in targets],
    )
    assert display.chosen == found[1]
    assert display.point_.get_xydata().tolist() == [[0.1, found[1].coverage]]


@share_of_examples(0.3)
@given(st.data())
def test_the_chart_without_a_guarantee_is_coverage_at_risk(data):
    n = data.draw(st.integers(1, 30))
    errors = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    uncertainty = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    display = ThresholdDisplay.from_predictions(errors, uncertainty)
    expected = [coverage_at_risk_score(errors, uncertainty, risk=t) for t in display.target_risks]
    np.testing.assert_array_equal(display.observed, expected)
    assert 0.05 in display.target_risks
    plt.close("all")


def test_the_chart_says_so_where_no_threshold_meets_the_target():
    errors, uncertainty = scored_rows()
    display = ThresholdDisplay.from_predictions(errors, uncertainty, target_risk=0.001)
    assert display.point_.get_label() == "no threshold for at most 0.1 % wrong"
    assert display.point_.get_ydata() == [0.0]


# --- the order of rows, ties, edges -------------------------------------------------------------


@every_display
@pytest.mark.parametrize("digits", [None, 1])
def test_the_order_of_rows_changes_nothing(display, digits):
    errors, uncertainty = scored_rows(digits=digits)
    order = np.random.default_rng(5).permutation(300)
    first = values_of(display.from_predictions(errors, uncertainty))
    second = values_of(display.from_predictions(errors[order], uncertainty[order]))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-12, err_msg=name)


@every_display
def test_a_constant_score_can_be_drawn(display):
    errors, _ = scored_rows()
    drawn = display.from_predictions(errors, np.full(300, 0.25))
    drawn.figure_.canvas.draw()


@pytest.mark.parametrize("display", [d for d in DISPLAYS if d is not ErrorRocDisplay])
@pytest.mark.parametrize("wrong", [False, True])
def test_no_errors_and_only_errors_can_be_drawn(display, wrong):
    drawn = display.from_predictions(np.full(20, wrong), np.linspace(0, 1, 20))
    drawn.figure_.canvas.draw()


@pytest.mark.parametrize("wrong", [False, True])
def test_a_roc_curve_needs_both_kinds(wrong):
    which = "only errors" if wrong else "no errors"
    with pytest.raises(ValueError, match=f"errors: the 20 rows hold {which}"):
        ErrorRocDisplay.from_predictions(np.full(20, wrong), np.linspace(0, 1, 20))


def test_one_error_has_a_roc_curve_without_intervals():
    display = ErrorRocDisplay.from_predictions(np.arange(20) == 3, np.linspace(0, 1, 20))
    assert display.band_ is None
    assert display.line_.get_label() == "AUC = 0.158"


@every_display
def test_one_row_of_each_kind_can_be_drawn(display):
    display.from_predictions([0, 1], [0.2, 0.7]).figure_.canvas.draw()


def test_infinite_scores_are_ranked_but_have_no_histogram():
    errors, uncertainty = scored_rows()
    uncertainty[:3] = np.inf
    uncertainty[3] = -np.inf
    for display in (ErrorRocDisplay, RiskCoverageDisplay, ThresholdDisplay):
        display.from_predictions(errors, uncertainty).figure_.canvas.draw()
    with pytest.raises(ValueError, match="uncertainty holds 4 infinite values"):
        ScoreHistogramDisplay.from_predictions(errors, uncertainty)


# --- what estimators say ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out():
    problem = Problem(n=600, noise=2.0)
    fit = problem.X[:300], problem.y[:300], problem.W, problem.b
    return fit, (problem.X[300:], problem.y[300:])


@pytest.fixture(scope="module")
def sources(held_out):
    """Fit P(error) in all that can hold it."""
    fit, _ = held_out
    X, y, W, b = fit
    head = {"init_W": W, "init_b": b}
    probability = ErrorProbability(method="sigmoid").fit(*fit)
    search = GridSearchCV(probability, {"method": ["sigmoid"]}, cv=2).fit(X, y, **head)
    pipe = UncertaintyPipeline([("same", "passthrough"), ("score", ErrorProbability())])
    pipe.fit(X, y, score__init_W=W, score__init_b=b)
    plain = make_pipeline(FunctionTransformer(), ErrorProbability()).fit(
        X, y, errorprobability__init_W=W, errorprobability__init_b=b
    )
    return [probability, FrozenEstimator(probability), search, pipe, plain]


@every_display
def test_estimators_pipelines_and_searches_can_be_drawn(display, held_out, sources):
    _, (X, y) = held_out
    for source in sources:
        drawn = display.from_estimator(source, X, y)
        errors = np.asarray(source.predict(X)) != y
        expected = display.from_predictions(
            errors, -source.score_samples(X), name="ErrorProbability"
        )
        first, second = values_of(drawn), values_of(expected)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert drawn.name == "ErrorProbability"


def test_every_kind_of_estimator_names_itself(held_out):
    fit, (X, y) = held_out
    response = SoftmaxResponseScorer().fit(*fit)
    for estimator, name in (
        (response, "SoftmaxResponseScorer"),
        (SelectiveClassifier(target_risk=0.7).fit(*fit), "SelectiveClassifier"),
        (AdUEEstimator().fit(*fit), "AdUEEstimator"),
    ):
        assert RiskCoverageDisplay.from_estimator(estimator, X, y).name == name
    assert RiskCoverageDisplay.from_estimator(response, X, y, name="mine").name == "mine"


@every_display
def test_tensors_give_the_same_plot(display, held_out, device):
    fit, (X, y) = held_out
    scorer = ErrorProbability().fit(*fit)
    first = values_of(display.from_estimator(scorer, X, y))
    tensors = torch.tensor(X, device=device), torch.tensor(y, device=device)
    second = values_of(display.from_estimator(scorer, *tensors))
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_the_classifiers_own_confidence_can_be_judged(held_out, kind):
    fit, (X, y) = held_out
    scorer = SoftmaxResponseScorer().fit(*fit)
    display = ReliabilityDisplay.from_estimator(scorer, kind(X), y, of="confidence")
    p = scorer.predict_proba(X)
    assert display.calibration_error == pytest.approx(
        calibration_error(y, p, n_bins=10, strategy="quantile")
    )
    assert display.ax_.get_xlabel() == "Confidence of the classifier"


# --- axes, legends, styles ----------------------------------------------------------------------


@every_display
def test_several_curves_share_an_axis(display):
    errors, uncertainty = scored_rows()
    first = display.from_predictions(errors, uncertainty, name="first")
    second = display.from_predictions(errors, uncertainty**2, name="second", ax=first.ax_)
    assert second.ax_ is first.ax_
    assert second.figure_ is first.figure_
    assert len(plt.get_fignums()) == 1
    if display is not ScoreHistogramDisplay:
        legend = " ".join(text.get_text() for text in first.ax_.get_legend().get_texts())
        assert "first" in legend
        assert "second" in legend
        assert first.line_.get_color() != second.line_.get_color()


def test_chance_and_diagonal_are_drawn_once():
    errors, uncertainty = scored_rows()
    for display, entry in (
        (ErrorRocDisplay, "constant score"),
        (ReliabilityDisplay, "as announced"),
    ):
        first = display.from_predictions(errors, uncertainty, name="first")
        display.from_predictions(errors, uncertainty, name="second", ax=first.ax_)
        texts = [text.get_text() for text in first.ax_.get_legend().get_texts()]
        assert texts.count(entry) == 1


@every_display
def test_a_computed_display_can_be_drawn_again(display):
    errors, uncertainty = scored_rows()
    drawn = display.from_predictions(errors, uncertainty)
    figure, ax = plt.subplots()
    assert drawn.plot(ax, name="again") is drawn
    assert drawn.ax_ is ax
    assert drawn.figure_ is figure
    texts = [text.get_text() for text in ax.get_legend().get_texts()] + [ax.get_xlabel()]
    assert any("again" in text for text in texts)


@pytest.mark.parametrize("display", [d for d in DISPLAYS if d is not ScoreHistogramDisplay])
def test_styles_and_their_aliases_replace_the_defaults(display):
    errors, uncertainty = scored_rows()
    drawn = display.from_predictions(
        errors, uncertainty, curve_kwargs={"c": "red", "lw": 3, "label": "mine"}
    )
    assert drawn.line_.get_color() == "red"
    assert drawn.line_.get_linewidth() == 3
    assert drawn.line_.get_label() == "mine"


def test_histogram_styles_replace_the_defaults():
    drawn = ScoreHistogramDisplay.from_predictions(
        *scored_rows(), wrong_kwargs={"label": "bad", "fc": "red"}, correct_kwargs={"alpha": 1}
    )
    assert drawn.wrong_.get_label() == "bad"
    assert drawn.correct_.get_alpha() == 1


def test_without_confidence_there_are_no_intervals():
    errors, uncertainty = scored_rows()
    for display in (ErrorRocDisplay, RiskCoverageDisplay):
        assert display.from_predictions(errors, uncertainty, confidence=None).band_ is None
    reliability = ReliabilityDisplay.from_predictions(errors, uncertainty, confidence=None)
    assert reliability.errorbar_ is None


def test_resamples_are_those_of_the_seed():
    errors, uncertainty = scored_rows()
    first, second, third = (
        ErrorRocDisplay.from_predictions(errors, uncertainty, random_state=seed, n_resamples=50)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.low, second.low)
    assert (first.low != third.low).any()


# --- bad input ----------------------------------------------------------------------------------


@every_display
@pytest.mark.parametrize(
    ("errors", "uncertainty", "message"),
    [
        ([0, 1, 1], [0.1, 0.2], "errors has 3 rows, uncertainty has 2"),
        ([0, 1], [0.1, np.nan], "uncertainty contains NaN in 1 of 2 rows"),
        ([0, 2], [0.1, 0.2], "errors must be True or 1 where"),
        ([], [], "errors and uncertainty are empty"),
        ([0, 1], ["a", "b"], "uncertainty"),
        ([0, 1], None, "uncertainty"),
    ],
)
def test_bad_rows_are_named(display, errors, uncertainty, message):
    with pytest.raises((ValueError, TypeError), match=message):
        display.from_predictions(errors, uncertainty)
    assert not plt.get_fignums()


@every_display
@pytest.mark.parametrize("estimator", [None, "score", SoftmaxResponseScorer, FunctionTransformer()])
def test_what_is_no_fitted_estimator_is_named(display, estimator):
    with pytest.raises(TypeError, match=r"estimator is .* expected a fitted uncertainty estimator"):
        display.from_estimator(estimator, np.eye(2), [0, 1])


@every_display
@pytest.mark.parametrize(
    ("options", "message"),
    [({"ax": "here"}, "ax is a str; expected matplotlib axes"), ({"colour": 3}, "colour")],
)
def test_bad_options_are_named(display, options, message):
    with pytest.raises(TypeError, match=message):
        display.from_predictions(*scored_rows(), **options)


@pytest.mark.parametrize(
    ("display", "options", "message"),
    [
        (RiskCoverageDisplay, {"confidence": 1.0}, "confidence"),
        (ErrorRocDisplay, {"confidence": -1}, "confidence"),
        (ErrorRocDisplay, {"n_resamples": 0}, "n_resamples"),
        (ErrorRocDisplay, {"random_state": "seed"}, "random_state"),
        (RiskCoverageDisplay, {"curve_kwargs": "red"}, "curve_kwargs is 'red'"),
        (ReliabilityDisplay, {"of": "answer"}, "of must be one of 'error', 'confidence'"),
        (ReliabilityDisplay, {"n_bins": 0}, "n_bins"),
        (ReliabilityDisplay, {"strategy": "width"}, "strategy must be one of"),
        (ScoreHistogramDisplay, {"bins": 0}, "bins"),
        (ScoreHistogramDisplay, {"bins": "many"}, "bins"),
        (ThresholdDisplay, {"target_risk": 0}, "target_risk is 0"),
        (ThresholdDisplay, {"confidence": 1}, "confidence is 1"),
        (ThresholdDisplay, {"method": "luck"}, "method is 'luck'"),
        (ThresholdDisplay, {"target_risks": [0.1, 1.0]}, "target_risks is 1.0"),
        (ThresholdDisplay, {"target_risks": [0.1, np.nan]}, "target_risks is nan"),
        (ThresholdDisplay, {"target_risks": []}, "target_risks is empty"),
        (ThresholdDisplay, {"target_risks": "all"}, "target_risks"),
    ],
)
def test_options_of_one_display_are_checked(display, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        display.from_predictions(*scored_rows(), **options)


def test_a_score_that_is_no_probability_has_no_reliability():
    errors, uncertainty = scored_rows()
    with pytest.raises(ValueError, match=r"ErrorProbability turns any score into P"):
        ReliabilityDisplay.from_predictions(errors, uncertainty * 7)


@pytest.mark.parametrize(
    ("display", "argument"),
    [
        (display, argument)
        for display in DISPLAYS
        for argument in inspect.signature(display.from_predictions).parameters
        if argument != "name"
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
@share_of_examples(0.4)
@given(value=anything)
def test_whatever_is_passed_the_error_names_it(display, argument, value):
    rng = np.random.default_rng(0)
    rows = {"errors": rng.random(40) < 0.4, "uncertainty": rng.random(40)}
    partners = {"errors": ("uncertainty",), "uncertainty": ("errors",)}.get(argument, ())
    few = {"n_resamples": 5} if display is ErrorRocDisplay else {}
    call(lambda: display.from_predictions(**{**rows, **few, argument: value}), argument, *partners)
    plt.close("all")

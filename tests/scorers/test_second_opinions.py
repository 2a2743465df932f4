"""Weights of second opinions: their optimum, what they are worth, and rows of another kind."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binomtest, fisher_exact
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from adue_sklearn import (
    AutoScorer,
    CompanionScorer,
    EnergyScorer,
    EntropyScorer,
    ErrorProbability,
    LayerProbeScorer,
    LinearProbeScorer,
    SecondOpinionScorer,
    SelectiveClassifier,
    SidekickScorer,
    StackedScorer,
    Views,
    compare_scorers,
)
from adue_sklearn.exceptions import MissingViewWarning, WitnessDriftWarning
from adue_sklearn.metrics import error_roc_auc_difference
from adue_sklearn.scorers.opinions import fit_weights
from tests import marks
from tests.toy_scorers import Constant, ToyScorer
from tests.witness_cases import Witnessed

CASE = Witnessed(skill=1.0)
BINARY = Witnessed(n_classes=2, skill=1.0, seed=1)
ROWS = np.arange(400)


def companions(*names, **params):
    return [(name, CompanionScorer(name, **params)) for name in names]


def fitted(estimators, case=CASE, X=None, **params):
    X = case.views() if X is None else X
    return SecondOpinionScorer(estimators, **params).fit(X, case.y, case.head)


def problem_of_weights(seed, n_columns, informative):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(150, n_columns))
    errors = rng.random(150) < expit(columns @ np.array(informative) - 1)
    return columns, errors


@pytest.mark.parametrize("C", [0.05, 1.0, 100.0])
def test_weights_are_those_of_a_logistic_regression_if_none_would_be_negative(C):
    columns, errors = problem_of_weights(0, 4, [1.0, 1.0, 0.8, 0.6])
    constant, weights = fit_weights(columns, errors, C)
    # Columns on other scales turn scikit-learn's one penalty into that of each column.
    scales = np.sqrt(1e-3 / np.array([1e-3, *[1 / C] * 3]))
    model = LogisticRegression(C=1e3, tol=1e-12, max_iter=10_000).fit(columns * scales, errors)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights, model.coef_[0] * scales, rtol=1e-4)
    np.testing.assert_allclose(constant, model.intercept_[0], rtol=1e-4)


@given(
    seed=st.integers(0, 10**6),
    informative=st.lists(st.floats(-2, 2), min_size=1, max_size=5),
    C=st.sampled_from([0.01, 0.05, 1.0, 100.0]),
)
def test_weights_meet_the_conditions_of_an_optimum_without_negative_ones(seed, informative, C):
    columns, errors = problem_of_weights(seed, len(informative), informative)
    if errors.all() or not errors.any():
        return
    constant, weights = fit_weights(columns, errors, C)
    residual = expit(columns @ weights + constant) - errors
    penalty = np.array([1e-3, *[1 / C] * (len(informative) - 1)])
    gradient = columns.T @ residual + penalty * weights
    assert (weights >= 0).all()
    assert abs(residual.sum()) < 1e-2
    assert (gradient > -1e-2).all()
    assert (np.abs(gradient[weights > 0]) < 1e-2).all()


def test_smaller_C_shrinks_towards_softmax_response_alone():
    columns, errors = problem_of_weights(1, 3, [1.0, 1.0, 0.5])
    sizes = [fit_weights(columns, errors, C)[1][1:].sum() for C in (10, 0.1, 1e-3, 1e-8)]
    assert sizes == sorted(sizes, reverse=True)
    alone = fit_weights(columns[:, :1], errors, 1.0)
    assert sizes[-1] < 1e-5
    np.testing.assert_allclose(fit_weights(columns, errors, 1e-8)[1][0], alone[1][0], rtol=1e-4)


def test_the_score_is_the_formula_of_its_weights():
    scorer = fitted(companions("companion"))
    p, q = CASE.log_p.max(axis=1), CASE.q[ROWS, CASE.answers]
    columns = np.column_stack([np.log(-np.expm1(p)) - p, -q])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)

    def loss(values):
        odds = columns @ values[1:] + values[0]
        fit = np.logaddexp(0, odds).sum() - odds[CASE.errors].sum()
        return fit + 0.5 * (values[1:] ** 2 / [1e3, 0.05]).sum()

    best = minimize(loss, np.zeros(3), tol=1e-9).x
    np.testing.assert_allclose(list(scorer.weights_.values()), best[1:], rtol=1e-3)
    assert list(scorer.weights_) == ["softmax response", "companion"]
    np.testing.assert_allclose(
        scorer.predict_uncertainty(CASE.views()), columns @ best[1:] + best[0], rtol=1e-2, atol=1e-3
    )
    np.testing.assert_array_equal(scorer.predict(CASE.views()), CASE.answers)


def test_gains_are_paired_differences_of_scores_that_have_not_seen_the_rows():
    weak = CASE.another(np.random.default_rng(1), skill=0.5)
    X = CASE.views(good=CASE.q, weak=weak)
    scorer = fitted(companions("good", "weak"), X=X, cv=3)
    p = CASE.log_p.max(axis=1)
    columns = [np.log(-np.expm1(p)) - p, *(-q[ROWS, CASE.answers] for q in (CASE.q, weak))]
    columns = np.column_stack(columns)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)

    def unseen(kept):
        found = np.empty(400)
        for rest, fold in folds.split(CASE.errors, CASE.errors):
            constant, weights = fit_weights(columns[rest][:, kept], CASE.errors[rest], 0.05)
            found[fold] = columns[fold][:, kept] @ weights + constant
        return found

    for name, others in (("good", [0, 2]), ("weak", [0, 1])):
        expected = error_roc_auc_difference(CASE.errors, unseen([0, 1, 2]), unseen(others))
        np.testing.assert_allclose(scorer.gains_[name], expected, atol=1e-3)
    gain, low, high = scorer.gains_["good"]
    assert 0 < low < gain < high
    assert gain > scorer.gains_["weak"][0]


@pytest.mark.filterwarnings("ignore:view .* agree with the labels")
def test_a_constant_witness_weighs_nothing_and_changes_no_ranking():
    constant = np.full((400, 3), 1 / 3)
    X = CASE.views(companion=CASE.q, constant=constant)
    both, one = fitted(companions("companion", "constant"), X=X), fitted(companions("companion"))
    assert both.weights_["constant"] == pytest.approx(0, abs=1e-15)
    assert both.gains_["constant"] == pytest.approx((0, 0, 0), abs=1e-9)
    a, b = both.predict_uncertainty(X), one.predict_uncertainty(CASE.views())
    np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(a), np.argsort(b))


@pytest.mark.parametrize("case", [CASE, BINARY], ids=["3", "2"])
def test_a_witness_equal_to_the_head_adds_nothing(case):
    X = case.views(companion=case.log_p)
    scorer = fitted(companions("companion"), case, X)
    np.testing.assert_array_equal(
        np.argsort(scorer.predict_uncertainty(X)), np.argsort(-case.log_p.max(axis=1))
    )
    assert abs(scorer.gains_["companion"][0]) < 0.01


@pytest.mark.parametrize("n_classes", [2, 3, 77])
def test_a_perfect_witness_dominates(n_classes):
    case = Witnessed(n_classes=n_classes, d=80, gap=25.0 if n_classes == 77 else 10.0, seed=2)
    perfect = np.where(np.eye(n_classes)[case.y] == 1, 0.99, 0.01 / (n_classes - 1))
    X = case.views(perfect=perfect, random=case.another(np.random.default_rng(3), 0.1))
    scorer = fitted(companions("perfect", "random"), case, X)
    assert scorer.weights_["perfect"] > 3 * scorer.weights_["random"]
    assert roc_auc_score(case.errors, scorer.predict_uncertainty(X)) > 0.95
    assert scorer.gains_["perfect"][1] > 0


@given(row=st.integers(0, 399), less=st.floats(0.01, 30))
def test_a_less_probable_answer_is_never_less_doubtful(row, less):
    scorer = SCORER
    q = np.exp(CASE.q[[row, row]])
    answer = CASE.answers[row]
    q[1, answer] *= np.exp(-less)
    q /= q.sum(axis=1, keepdims=True)
    found = scorer.predict_uncertainty(Views(CASE.X[[row, row]], companion=q))
    assert found[1] >= found[0]


SCORER = fitted(companions("companion"))


@given(rows=st.lists(st.integers(0, 399), min_size=1, max_size=20))
def test_a_rows_score_does_not_depend_on_the_others(rows):
    X = CASE.views()
    found = SCORER.predict_uncertainty(X[rows])
    np.testing.assert_allclose(found, SCORER.predict_uncertainty(X)[rows], rtol=1e-9)


class Memory(ToyScorer):
    """It knows the errors of the rows that it was fitted on, and nothing of others."""

    def _fit(self, X, labels, head):
        known = zip(np.asarray(X), self._original_errors(X, labels, head), strict=True)
        self.known_ = {row.tobytes(): float(error) for row, error in known}

    def _uncertainty(self, X):
        return torch.tensor([self.known_.get(row.tobytes(), 0.5) for row in np.asarray(X)])


def test_a_score_that_memorises_its_rows_gets_no_weight():
    scorer = fitted([("memory", Memory()), *companions("companion")])
    assert scorer.weights_["memory"] == pytest.approx(0, abs=1e-15)
    assert scorer.weights_["companion"] > 0


def test_a_witness_whose_scores_are_small_is_not_taken_for_a_share():
    # Its -log q lies between 0.3 and 1 on the fit rows, but not everywhere.
    q = np.empty((400, 2))
    q[ROWS, BINARY.y] = 0.5 + 0.12 * np.random.default_rng(0).random(400)
    q[ROWS, 1 - BINARY.y] = 1 - q[ROWS, BINARY.y]
    scorer = fitted(companions("companion"), BINARY, BINARY.views(companion=q))
    answer = BINARY.answers[0]
    steps = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    block = np.empty((6, 2))
    block[:, answer], block[:, 1 - answer] = steps, 1 - steps
    assert -np.log(q.min()) < 1 < -np.log(steps.min())
    found = scorer.predict_uncertainty(Views(BINARY.X[[0] * 6], companion=block))
    slopes = np.diff(found) / np.diff(-np.log(steps))
    np.testing.assert_allclose(slopes, slopes[0])  # no leap where -log q passes 1


@pytest.mark.parametrize("frozen", [False, True])
def test_agreement_says_how_often_a_witness_says_what_the_head_says(frozen):
    q = np.where(ROWS[:, None] < 100, np.nan, CASE.q)
    X = CASE.views(companion=q)
    witness = CompanionScorer(fallback="softmax response")
    if frozen:
        witness = FrozenEstimator(witness.fit(X, CASE.y, CASE.head))
    scorer = fitted([("w", witness), ("energy", EnergyScorer())], X=X)
    theirs, ours = CASE.q[100:].argmax(axis=1), CASE.answers[100:]
    chance = sum((theirs == k).mean() * (ours == k).mean() for k in range(3))
    assert list(scorer.agreement_) == ["w"]
    assert scorer.agreement_["w"] == pytest.approx(((theirs == ours).mean(), chance, 300))


def agreeing(case, n_agree, n_rows, seed=0):
    """Return rows of which a witness agrees with the head in so many."""
    rows = np.random.default_rng(seed).integers(0, 400, size=n_rows)
    witness = np.where(np.arange(n_rows) < n_agree, case.answers[rows], 1 - case.answers[rows])
    return Views(case.X[rows], companion=np.eye(2)[witness] * 0.8 + 0.1)


@pytest.mark.parametrize(("n_agree", "n_rows"), [(4000, 5000), (40, 60), (30, 49), (49, 60)])
def test_drift_is_told_by_fishers_test_and_only_on_fifty_rows(n_agree, n_rows):
    scorer = fitted(companions("companion"), BINARY)
    then, _, n_then = scorer.agreement_["companion"]
    agreed = round(then * n_then)
    table = [[n_agree, n_rows - n_agree], [agreed, n_then - agreed]]
    drifted = fisher_exact(table, alternative="less").pvalue < 0.001 and n_rows >= 50
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scorer.predict_uncertainty(agreeing(BINARY, n_agree, n_rows))
    assert [w.category for w in caught] == [WitnessDriftWarning] * int(drifted)


def test_agreement_that_few_fit_rows_overrate_is_no_drift():
    scorer = fitted(companions("companion"), BINARY)
    then = scorer.agreement_["companion"][0]
    n_agree = round(5000 * (then - 0.025))  # less than an error of the share on 400 rows
    assert binomtest(n_agree, 5000, then, alternative="less").pvalue < 0.001
    scorer.predict_uncertainty(agreeing(BINARY, n_agree, 5000))  # any warning is an error


def test_drift_counts_rows_with_the_view_alone():
    scorer = fitted(companions("companion", fallback="softmax response"), BINARY)
    few = agreeing(BINARY, 0, 400)
    block = np.where(ROWS[:, None] < 10, few.block("companion"), np.nan)
    scorer.predict_uncertainty(few.with_blocks(companion=block))  # ten rows prove nothing
    with pytest.warns(WitnessDriftWarning):
        scorer.predict_uncertainty(few)


def drifted_case(seed):
    """Return fit rows with a good witness, and test rows on which it says anything."""
    case = Witnessed(n=800, n_classes=3, skill=3.0, seed=seed)
    q = case.q.copy()
    q[400:] = np.random.default_rng(seed).permutation(q[400:])
    return case, Views(case.X[:400], companion=q[:400]), Views(case.X[400:], companion=q[400:])


@pytest.mark.parametrize("seed", range(4))
def test_where_a_witness_becomes_random_adapting_helps(seed):
    case, before, after = drifted_case(seed)
    scorer = SecondOpinionScorer(companions("companion")).fit(before, case.y[:400], case.head)
    errors = case.errors[400:]
    with pytest.warns(WitnessDriftWarning, match=r"companion agrees .*use adapted_to\(X\)"):
        misled = roc_auc_score(errors, scorer.predict_uncertainty(after))
    adapted = scorer.adapted_to(after)
    helped = roc_auc_score(errors, adapted.predict_uncertainty(after))  # and warns no more
    response = roc_auc_score(errors, -case.log_p[400:].max(axis=1))
    assert helped > misled + 0.05
    assert helped > response - 0.04
    assert adapted.weights_["companion"] < 0.2 * scorer.weights_["companion"]
    assert adapted.weights_["softmax response"] == scorer.weights_["softmax response"]
    # Twice is once, and rows like the fit rows change nothing.
    assert adapted.adapted_to(after).weights_ == adapted.weights_
    assert scorer.adapted_to(before).weights_ == scorer.weights_
    assert scorer.adapted_to(before).agreement_ == scorer.agreement_


def test_layer_probes_drift_too():
    case, before, after = drifted_case(0)
    train = Witnessed(n=200, skill=3.0, seed=9)
    layers = LayerProbeScorer(["companion"]).fit_witness(Views(train.X, companion=train.q), train.y)
    scorer = SecondOpinionScorer([("layers", layers)]).fit(before, case.y[:400], case.head)
    with pytest.warns(WitnessDriftWarning, match="layers agrees"):
        scorer.predict_uncertainty(after)
    assert scorer.adapted_to(after).weights_["layers"] < scorer.weights_["layers"]


@pytest.mark.parametrize("kind", ["selective", "probability", "automatic", "search", "frozen"])
def test_whatever_holds_the_score_warns_of_drift(kind):
    case, before, after = drifted_case(0)
    scorer = SecondOpinionScorer(companions("companion"), cv=2)
    holder = {
        "selective": SelectiveClassifier(scorer, target_risk=0.6),
        "probability": ErrorProbability(scorer, cv=2),
        "automatic": AutoScorer([("second opinions", scorer)], cv=2),
        "search": GridSearchCV(scorer, {"C": [0.05]}, cv=2),
        "frozen": SelectiveClassifier(
            FrozenEstimator(clone(scorer).fit(before, case.y[:400], case.head)), target_risk=0.6
        ),
    }[kind]
    head = {} if kind == "frozen" else {"init_W": case.head}
    holder.fit(before, case.y[:400], **head)
    with pytest.warns(WitnessDriftWarning):
        holder.score_samples(after)


def test_rows_of_a_single_class_allow_no_comparison_with_chance():
    one = np.flatnonzero((CASE.answers == 0) & (CASE.q.argmax(axis=1) == 0))
    assert SCORER.adapted_to(CASE.views()[one]).weights_ == SCORER.weights_
    opposite = Views(CASE.X[one], companion=np.tile([0.1, 0.8, 0.1], (len(one), 1)))
    assert SCORER.adapted_to(opposite).weights_["companion"] == 0


def test_a_witness_that_said_nothing_in_fit_may_speak_later():
    silent = CompanionScorer("silent", fallback="softmax response")
    X = CASE.views(companion=CASE.q, silent=CASE.q * np.nan)
    scorer = fitted([*companions("companion"), ("silent", silent)], X=X)
    later = X.with_blocks(silent=CASE.q)
    assert "silent" not in scorer.agreement_
    assert np.isfinite(scorer.predict_uncertainty(later)).all()
    assert scorer.adapted_to(later).weights_ == scorer.weights_


def test_by_default_every_view_of_probabilities_has_a_say():
    names = {"AdUE": CASE.q, "softmax response": CASE.q, "hidden": CASE.X, "sidekick": CASE.q}
    scorer = fitted(None, X=CASE.views(**names), cv=2)
    assert scorer.names_ == ["AdUE", "view AdUE", "view softmax response", "sidekick"]
    assert list(scorer.weights_) == ["softmax response", *scorer.names_]
    assert isinstance(scorer.estimators_[-1], SidekickScorer)
    assert fitted(None, X=CASE.X, cv=2).names_ == ["AdUE"]


@pytest.mark.parametrize(
    ("estimators", "error", "message"),
    [
        ([("softmax response", EnergyScorer())], ValueError, "always has a weight of its own"),
        (companions("companion", "companion"), ValueError, "not unique"),
        ([], ValueError, r"list of \(name, scorer\)"),
        ([CompanionScorer()], ValueError, r"list of \(name, scorer\)"),
        ([("c", CompanionScorer)], TypeError, "'c' is <class"),
        ([("c", LogisticRegression())], TypeError, "no predict_uncertainty"),
    ],
)
def test_estimators_that_cannot_be_weighed_are_named(estimators, error, message):
    with pytest.raises(error, match=message):
        fitted(estimators)


def test_a_witness_of_the_fit_rows_is_refused_inside_too():
    taught = CompanionScorer("hidden").fit_witness(CASE.views(hidden=CASE.X)[:200], CASE.y[:200])
    for stack in (SecondOpinionScorer, StackedScorer):
        with pytest.raises(ValueError, match=r"fit_witness was given .* rows of X"):
            stack([("hidden", taught)], cv=2).fit(CASE.views(hidden=CASE.X), CASE.y, CASE.head)


def test_comparisons_leave_out_what_witnesses_inside_were_taught():
    X = CASE.views(hidden=CASE.X)
    taught = CompanionScorer("hidden").fit_witness(X[200:250], CASE.y[200:250])
    stack = SecondOpinionScorer([("hidden", taught), ("constant", Constant())], cv=2)
    with pytest.warns(UserWarning, match="X_test: 50 of 200 rows .* that stack was fitted on"):
        found = compare_scorers(
            X[:200],
            CASE.y[:200],
            CASE.head,
            scorers={"stack": stack},
            X_test=X[200:],
            y_test=CASE.y[200:],
        )
    assert len(found.errors) == 150
    assert not found["stack"].failure


@marks.odd_rows
@pytest.mark.parametrize("wrong", [1, 49])
def test_one_error_or_one_correct_answer_teaches_no_weights(wrong):
    y = np.where(np.arange(50) < wrong, 1 - BINARY.answers[:50], BINARY.answers[:50])
    with pytest.raises(ValueError, match=rf"makes {wrong} error\(s\) on 50 .* at least two errors"):
        SecondOpinionScorer(companions("companion")).fit(BINARY.views()[:50], y, BINARY.head)


def test_what_a_frozen_score_inside_was_taught_sets_no_threshold():
    X = BINARY.views(hidden=BINARY.X)
    taught = CompanionScorer("hidden").fit_witness(X[:100], BINARY.y[:100])
    stack = SecondOpinionScorer([("hidden", taught)], cv=2)
    frozen = FrozenEstimator(stack.fit(X[200:], BINARY.y[200:], BINARY.head))
    for holder in (SelectiveClassifier(frozen, target_risk=0.6), ErrorProbability(frozen)):
        with pytest.warns(UserWarning, match="50 of 150 rows were used to fit"):
            holder.fit(X[50:200], BINARY.y[50:200])
    with pytest.warns(UserWarning, match="50 of 150 rows .* that stack was fitted on"):
        found = compare_scorers(
            X[50:200], BINARY.y[50:200], BINARY.head, scorers={"stack": frozen}, cv=2
        )
    assert len(found.errors) == 100


def test_a_witness_of_ones_own_replaces_the_default_of_its_name():
    sidekick = SidekickScorer(fallback="softmax response")
    X = CASE.views(sidekick=CASE.q)
    auto = AutoScorer(witnesses=[("sidekick", sidekick)])
    candidates = dict(auto._candidates(X, linear=True))
    (first, _), (second, chosen) = candidates["second opinions"].estimators
    assert (first, second) == ("AdUE", "sidekick")
    assert chosen is sidekick


def test_witnesses_without_views_are_warned_about():
    auto = AutoScorer(witnesses=[("sidekick", SidekickScorer())])
    with pytest.warns(MissingViewWarning, match="X has no views"):
        assert "second opinions" not in dict(auto._candidates(CASE.X, linear=True))


@pytest.mark.parametrize("stack", [SecondOpinionScorer, StackedScorer])
def test_without_a_head_rows_are_scored_by_heads_that_have_not_seen_them(stack):
    X, y = BINARY.views(), BINARY.y
    scorer = stack([*companions("companion"), ("probe", LinearProbeScorer(C=0.1))], cv=2)
    scorer.fit(X, y)
    assert roc_auc_score(scorer.errors(X, y), scorer.predict_uncertainty(X)) > 0.6
    assert scorer.names_ == ["companion", "probe"]


def test_entropy_enters_as_it_is_though_that_of_two_classes_lies_in_the_unit_interval():
    scorer = fitted([("entropy", EntropyScorer())], BINARY)
    p = np.exp(BINARY.log_p)
    entropy = -(p * BINARY.log_p).sum(axis=1)
    top = p.max(axis=1)
    columns = np.column_stack([np.log(1 - top) - np.log(top), entropy])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    constant, weights = fit_weights(columns, BINARY.errors, 0.05)
    np.testing.assert_allclose(
        scorer.predict_uncertainty(BINARY.X), columns @ weights + constant, rtol=1e-3, atol=1e-3
    )

"""Alarms over simulated deployments, and the state that carries them."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import binom

from adue_sklearn import RiskMonitor, SelectiveClassifier
from tests.bad_input_cases import anything, call
from tests.profiles import repeated


def most_false_alarms(rate, times):
    """Return what a fair rate exceeds once in a thousand."""
    return binom.ppf(0.999, times, rate)


@pytest.mark.slow
@repeated(40, 200)
def test_the_risk_alarm_is_seldom_false_however_long_one_looks(times):
    rng = np.random.default_rng(0)
    false = sum(
        RiskMonitor(0.1, false_alarm=0.1).update(rng.random(1000) < 0.1).risk_alarm
        for _ in range(times)
    )
    assert false <= most_false_alarms(0.1, times)


@pytest.mark.slow
@repeated(12, 60)
def test_the_risk_alarm_is_seldom_false_when_an_error_depends_on_the_past(times):
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(times):
        monitor = RiskMonitor(0.2, false_alarm=0.1)
        for _ in range(250):
            # Errors stop once bets are ahead, and are as likely as allowed before.
            chance = 0.2 if monitor.risk_evidence < 5 else 0.05
            monitor.update([rng.random() < chance])
        false += monitor.risk_alarm
    assert false <= most_false_alarms(0.1, times)


@pytest.mark.slow
@pytest.mark.parametrize("n_values", [2, 5, None])
@pytest.mark.parametrize("n_reference", [1, 30, 300])
@repeated(15, 80)
def test_the_shift_alarm_is_seldom_false_with_few_or_tied_reference_rows(
    n_values, n_reference, times
):
    rng = np.random.default_rng(2)

    def draw(n):
        return rng.random(n) if n_values is None else rng.integers(0, n_values, n)

    false = 0
    for seed in range(times):
        monitor = RiskMonitor(false_alarm=0.1, reference=draw(n_reference), random_state=seed)
        false += monitor.update_uncertainty(draw(200)).shift_alarm
    assert false <= most_false_alarms(0.1, times)


@pytest.mark.parametrize("before", [0, 500, 3000])
def test_a_risk_three_times_the_promise_is_found_early_and_late(before):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(10):
        monitor = RiskMonitor(0.05).update(rng.random(before) < 0.04)
        assert not monitor.risk_alarm
        monitor.update(rng.random(600) < 0.15)
        found.append(monitor.risk_alarm and monitor.risk_alarm_at > before)
    assert sum(found) >= 9


@pytest.mark.parametrize("before", [0, 500])
@pytest.mark.parametrize(
    "shift",
    [
        lambda u: u**0.5,
        lambda u: u**2,
        lambda u: 0.5 + (u - 0.5) * 0.4,
        lambda u: np.where(u < 0.5, u**2, 1 - (1 - u) ** 2),
        lambda u: u * 0 + 0.3,
        lambda u: u + 10,
    ],
    ids=["higher", "lower", "narrower", "wider", "constant", "outside"],
)
def test_a_shift_of_the_scores_is_found(shift, before):
    rng = np.random.default_rng(4)
    for _ in range(5):
        monitor = RiskMonitor(reference=rng.random(500)).update_uncertainty(rng.random(before))
        assert not monitor.shift_alarm
        monitor.update_uncertainty(shift(rng.random(800)))
        assert monitor.shift_alarm_at > before


@given(seed=st.integers(0, 10**6), n=st.integers(0, 60), n_values=st.integers(1, 6))
def test_chunks_of_any_size_and_a_pause_give_the_same_state(seed, n, n_values):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, n_values, rng.integers(1, 30))
    errors, scores = rng.random(n) < 0.3, rng.integers(0, n_values + 1, n)
    whole = RiskMonitor(reference=reference, random_state=seed)
    whole.update(errors).update_uncertainty(scores)
    parts = RiskMonitor(reference=reference, random_state=seed)
    cuts = np.sort(rng.integers(0, n + 1, 3))
    for some_errors, some_scores in zip(
        np.split(errors, cuts), np.split(scores, cuts), strict=True
    ):
        parts.update_uncertainty(some_scores).update(some_errors)
        parts = RiskMonitor.from_dict(json.loads(json.dumps(parts.to_dict(), allow_nan=False)))
    assert parts.to_dict() == whole.to_dict()
    assert repr(parts) == repr(whole)
    assert pickle.loads(pickle.dumps(whole)).to_dict() == whole.to_dict()


def brute_evidence(errors, target):
    """Return the wealth by its definition: a sum over bets and the rows at which they start."""
    odds = np.array([1.25, 1.6, 2.0, 3.0, 5.0, 10.0]) * target / (1 - target)
    bets = odds / (1 + odds)

    def kept(n):
        return 1.0 if n == 0 else 0.5 / (1 + np.log2(n))

    wealth = kept(len(errors))
    for bet in bets:
        pays = np.where(errors, bet / target, (1 - bet) / (1 - target))
        for start in range(len(errors)):
            wealth += (kept(start) - kept(start + 1)) / len(bets) * np.prod(pays[start:])
    return wealth


@given(seed=st.integers(0, 10**6), n=st.integers(0, 80), target=st.floats(0.01, 0.9))
def test_risk_evidence_is_the_wealth_of_all_bets_and_starts(seed, n, target):
    rng = np.random.default_rng(seed)
    errors = rng.random(n) < rng.random()
    monitor = RiskMonitor(target).update(errors)
    assert monitor.risk_evidence == pytest.approx(brute_evidence(errors, target), rel=1e-9)


def test_an_alarm_stays_and_says_when():
    monitor = RiskMonitor(0.1, false_alarm=0.01).update([1] * 10)
    at = monitor.risk_alarm_at
    assert brute_evidence(np.ones(at, bool), 0.1) >= 100 > brute_evidence(np.ones(at - 1), 0.1)
    monitor.update(np.zeros(2000))
    assert monitor.risk_evidence < 100
    assert (monitor.risk_alarm, monitor.risk_alarm_at) == (True, at)


@pytest.mark.slow
@pytest.mark.parametrize("drifts", [False, True])
@repeated(20, 100)
def test_the_risk_interval_holds_at_all_times_at_once(drifts, times):
    rng = np.random.default_rng(5)
    missed = 0
    looks = np.unique(np.geomspace(1, 400, 10).astype(int))
    for _ in range(times):
        chance = np.full(400, 0.1) if not drifts else np.where(np.arange(400) < 150, 0.02, 0.4)
        errors = rng.random(400) < chance
        monitor, seen, inside = RiskMonitor(), 0, True
        for n in looks:
            monitor.update(errors[seen:n])
            seen = n
            value, low, high = monitor.risk_interval(0.9)
            assert low <= value <= high
            inside &= low <= chance[:n].mean() <= high
        missed += not inside
    assert missed <= most_false_alarms(0.1, times)


def test_the_risk_interval_narrows_and_is_the_widest_before_feedback():
    monitor = RiskMonitor()
    value, low, high = monitor.risk_interval()
    assert np.isnan(value)
    assert (low, high) == (0.0, 1.0)
    rng = np.random.default_rng(6)
    widths = []
    for n in (20, 200, 2000):
        _, low, high = monitor.update(rng.random(n) < 0.1).risk_interval()
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.06
    for errors in ([0] * 50, [1] * 50):
        value, low, high = RiskMonitor().update(errors).risk_interval()
        assert low == value or high == value


def test_a_selective_classifier_brings_the_reference(movie):
    model = SelectiveClassifier(target_risk=0.08)
    model.fit(*movie.calibration, movie.init_W, movie.init_b)
    monitor = RiskMonitor(model.target_risk, reference=model.calibration_uncertainty_)
    X, y = movie.test
    accepted = model.accepts(X)
    monitor.update(model.errors(X, y)[accepted])
    monitor.update_uncertainty(model.predict_uncertainty(X))
    assert not monitor.risk_alarm
    assert not monitor.shift_alarm
    assert monitor.n_labelled == accepted.sum()
    assert monitor.n_scored == len(y)
    assert monitor.update_uncertainty(model.predict_uncertainty(X[:500] * 0.5)).shift_alarm


def test_tensors_and_lists_are_taken_like_arrays():
    states = [
        RiskMonitor(reference=kind([0.1, 0.2]))
        .update(kind([1, 0, 1]))
        .update_uncertainty(kind([0.5, 0.1]))
        .to_dict()
        for kind in (list, np.array, torch.tensor)
    ]
    assert states[0] == states[1]
    assert states[0]["risk"] == states[2]["risk"]


@pytest.mark.parametrize("value", [0, 1, -1, 2, np.nan])
@pytest.mark.parametrize("name", ["target_risk", "false_alarm"])
def test_shares_outside_zero_and_one_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is"):
        RiskMonitor(**{name: value})


def test_bad_rows_are_named_and_leave_the_state_alone():
    monitor = RiskMonitor(reference=[0.1, 0.2]).update([0, 1]).update_uncertainty([0.5])
    before = monitor.to_dict()
    for bad_call, message in (
        (lambda: monitor.update([0, 2]), "errors must be True or 1"),
        (lambda: monitor.update([[0, 1], [1, 0]]), "errors"),
        (lambda: monitor.update([0.0, np.nan]), "errors must be True or 1"),
        (lambda: monitor.update_uncertainty([0.1, np.nan]), "uncertainty contains NaN"),
        (lambda: monitor.update_uncertainty(["high"]), "uncertainty"),
        (lambda: RiskMonitor().update_uncertainty([0.1]), "uncertainty cannot be compared"),
        (lambda: RiskMonitor(reference=[0.1, np.nan]), "reference contains NaN"),
        (lambda: RiskMonitor(reference=[0.1, np.inf]), "reference contains infinity"),
        (lambda: RiskMonitor(reference=[]), "reference"),
        (lambda: RiskMonitor(random_state=-1), "random_state"),
        (lambda: monitor.risk_interval(1.0), "confidence is"),
    ):
        with pytest.raises(ValueError, match=message):
            bad_call()
    assert monitor.to_dict() == before


def changed(*path, to):
    """Return the state of a monitor with another value in one place."""
    monitor = RiskMonitor(reference=[0.1, 0.2]).update([0, 1]).update_uncertainty([0.15])
    state = monitor.to_dict()
    place = state
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return state


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "'format' is 2; expected 1"),
        ("target_risk", 0, "'target_risk' is 0; expected greater than 0"),
        ("random_state", 0.5, "'random_state' is 0.5; expected a valid integer"),
        ("n_errors", "1", "'n_errors' is '1'; expected a valid integer"),
        ("n_errors", 3, "'n_errors' is 3, 'risk.n_rows' 2; expected no more errors than rows"),
        ("risk", {}, "'risk.n_rows' is missing"),
        ("risk.n_rows", -2, "'risk.n_rows' is -2; expected greater than or equal to 0"),
        ("risk.n_rows", 0, "expected bets where there are rows, and only there"),
        ("risk.bets", [0.0], "expected 6 bets"),
        ("risk.bets", [np.nan] * 6, "'risk.bets.0' is nan; expected a finite number"),
        ("risk.alarm_at", 3, "expected an alarm at one of its rows"),
        ("bins", None, "'bins.counts' hold 0 rows, 'shift.n_rows' is 1; expected the same"),
        ("bins.counts", [0, 0], "bins are inconsistent"),
        ("bins.gaps", [1, 1, 10**30], "'bins.gaps.2' is 1000000000000000000000000000000"),
        ("bins.scores", [0.2, 0.1], "bins are not in ascending order"),
    ],
)
def test_a_state_that_is_none_is_refused_and_its_field_named(path, value, message):
    state = changed(*path.split("."), to=value)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        RiskMonitor.from_dict(state)
    assert str(caught.value).startswith("'state' cannot be read as a RiskMonitor: ")
    assert str(caught.value).endswith(". Expected the result of to_dict, unchanged.")


@given(value=anything)
def test_only_documented_errors_come_out_of_a_monitor(value):
    for name in ("target_risk", "false_alarm", "reference", "random_state"):
        call(lambda name=name: RiskMonitor(**{name: value}), name)
    monitor = RiskMonitor(reference=[0.1, 0.2])
    call(lambda: monitor.update(value), "errors")
    call(lambda: monitor.update_uncertainty(value), "uncertainty")
    call(lambda: monitor.risk_interval(value), "confidence")
    call(lambda: RiskMonitor.from_dict(value), "state")

"""What a score is expected to gain: measured gains shrunk towards what its kind gains."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.frozen import FrozenEstimator

from adue_sklearn import (
    AutoScorer,
    CompanionScorer,
    EnergyScorer,
    LayerProbeScorer,
    MahalanobisScorer,
    SecondOpinionScorer,
)
from adue_sklearn.comparison.prior import (
    MEASURED,
    UNKNOWN,
    Gain,
    Prior,
    chance_of_loss,
    choose,
    gain_of,
    prior_of,
)
from adue_sklearn.metrics._bootstrap import Difference
from tests.problems import Problem
from tests.toy_scorers import Oracle, with_oracle

OPINIONS = MEASURED["second opinions"]
WITH_LAYERS = MEASURED["second opinions with layers"]
WITH_ALL = MEASURED["second opinions with layers and a companion"]


@pytest.mark.parametrize("seed", range(5))
def test_expected_gains_are_bayes_rule(seed):
    mean, deviation, value, error = np.random.default_rng(seed).uniform(0.005, 0.03, size=4)
    found = Prior(mean, deviation).posterior(Gain(value, error))

    def moment(power):
        return quad(
            lambda g: g**power * norm.pdf(g, mean, deviation) * norm.pdf(value, g, error), -0.3, 0.3
        )[0]

    expected = moment(1) / moment(0)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.error**2 == pytest.approx(moment(2) / moment(0) - expected**2, rel=1e-5)


def test_a_certain_gain_is_believed_and_a_prior_without_spread_is_kept():
    assert Prior(0.01, 0.02).posterior(Gain(0.05, 0.0)) == (0.05, 0.0)
    assert Prior(0.01, 0.0).posterior(Gain(0.05, 0.01)) == (0.01, 0.0)


@pytest.mark.parametrize("expected", [Gain(-0.01, 0.005), Gain(0.0, 0.01), Gain(0.01, 0.02)])
def test_the_chance_of_a_loss_is_how_often_fresh_rows_show_one(expected):
    rng = np.random.default_rng(0)
    truth = rng.normal(*expected, size=400_000)
    measured = rng.normal(truth, 0.01)
    share = np.mean(measured < norm.ppf(0.05) * 0.01)
    assert chance_of_loss(expected, 0.01) == pytest.approx(share, abs=0.003)


def test_a_score_that_ranks_alike_is_no_risk():
    assert chance_of_loss(Gain(0.0, 0.0), 0.0) == 0.0
    assert chance_of_loss(Gain(-0.1, 0.0), 0.0) == 1.0


def test_the_largest_expected_gain_within_the_risk_is_chosen():
    gains = {"sure": Gain(0.01, 0.002), "wild": Gain(0.02, 0.05), "lost": Gain(-0.02, 0.01)}
    priors = {"sure": Prior(0.0, 0.01), "wild": Prior(0.014, 0.05), "lost": Prior(0.0, 0.01)}
    assert choose(gains, priors, 1.0)[0] == "wild"
    name, expected, chances = choose(gains, priors, 0.05)
    assert name == "sure"
    assert chances["wild"] > 0.05
    assert expected["lost"].value < 0
    assert choose({"lost": gains["lost"]}, priors, 1.0)[0] is None
    assert choose({}, {}, 0.05)[0] is None


def test_kinds_are_told_by_their_cards():
    assert prior_of(Oracle()) == UNKNOWN
    frozen = FrozenEstimator(MahalanobisScorer())
    assert prior_of(frozen) == prior_of(MahalanobisScorer())
    assert prior_of(SecondOpinionScorer([("energy", EnergyScorer())])) == OPINIONS


@pytest.mark.parametrize(
    ("companions", "alone", "with_layers"),
    [
        ([], OPINIONS, WITH_LAYERS),
        # Large gains of companions were measured beside layers, and of other adapters.
        (["other"], OPINIONS, WITH_ALL),
        (["base"], OPINIONS, WITH_LAYERS),
        (["base", "other"], OPINIONS, WITH_ALL),
    ],
)
def test_combinations_are_expected_to_gain_what_those_of_the_same_members_did(
    companions, alone, with_layers
):
    members = [("energy", EnergyScorer()), *((name, CompanionScorer(name)) for name in companions)]
    assert prior_of(SecondOpinionScorer(members)) == alone
    members.append(("layers", LayerProbeScorer()))
    assert prior_of(SecondOpinionScorer(members)) == with_layers


def test_the_standard_error_is_that_of_the_interval():
    gain = gain_of(Difference(0.01, 0.01 - 1.959964 * 0.004, 0.01 + 1.959964 * 0.004, 0.1))
    assert gain == pytest.approx((0.01, 0.004), rel=1e-5)


def test_the_automatic_choice_says_what_it_expects_and_what_it_risks():
    problem = Problem(n=300)
    X, y, W, b = with_oracle(problem)
    X[:, -1] += np.random.default_rng(1).normal(size=len(X)) * 0.6
    auto = AutoScorer([("oracle", Oracle()), ("energy", EnergyScorer())]).fit(X, y, W, b)
    assert auto.selected_ == "oracle"
    gain = gain_of(auto.comparison_["oracle"].gain)
    assert auto.expected_gains_["oracle"] == pytest.approx(UNKNOWN.posterior(gain))
    assert 0 < auto.expected_gains_["oracle"][0] < gain.value
    assert auto.chances_of_loss_["oracle"] < 0.05
    careful = AutoScorer([("oracle", Oracle())], risk=auto.chances_of_loss_["oracle"] / 2)
    assert careful.fit(X, y, W, b).selected_ == "softmax response"

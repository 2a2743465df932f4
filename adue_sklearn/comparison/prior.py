"""What a score is expected to gain: what it gained here, shrunk towards what its kind gains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from scipy.stats import norm
from sklearn.frozen import FrozenEstimator

from adue_sklearn.comparison.arguments import Named
from adue_sklearn.comparison.result import Comparison
from adue_sklearn.metrics._bootstrap import Difference
from adue_sklearn.scorers.companions import CompanionScorer
from adue_sklearn.scorers.label_probes import LayerProbeScorer


class Gain(NamedTuple):
    """A gain in ROC-AUC over softmax response, and its standard error."""

    value: float
    error: float


class Prior(NamedTuple):
    """Mean and standard deviation of a kind's true gains over data sets."""

    mean: float
    deviation: float

    def posterior(self, gain: Gain) -> Gain:
        """Return the expected gain and its standard deviation, given a measured one.

        Both are normal: the mean is weighed by inverse variances (empirical Bayes).

        Examples
        --------
        >>> from adue_sklearn.comparison.prior import Gain, Prior
        >>> expected = Prior(mean=0.01, deviation=0.01).posterior(Gain(0.03, 0.01))
        >>> round(expected.value, 3), round(expected.error, 4)
        (0.02, 0.0071)
        """
        if gain.error == 0.0:
            return gain
        if self.deviation == 0.0:
            return Gain(self.mean, 0.0)
        here, there = gain.error**-2, self.deviation**-2
        variance = 1.0 / (here + there)
        return Gain(variance * (here * gain.value + there * self.mean), math.sqrt(variance))


#: Gains on test rows of measured classifiers, by the name on a score's card and what a combination
#: holds; from ``benchmarks/automatic_rule.py``, as ``docs/second-opinions.md`` says.
MEASURED = {
    "AdUE": Prior(0.021, 0.017),
    "tuned AdUE": Prior(0.021, 0.017),
    "stack": Prior(0.010, 0.017),
    "entropy": Prior(-0.002, 0.005),
    "energy": Prior(-0.012, 0.024),
    "MaxLogit-pNorm": Prior(0.0, 0.001),
    "second opinions": Prior(0.024, 0.018),
    "second opinions with layers": Prior(0.037, 0.024),
    "second opinions with layers and a companion": Prior(0.044, 0.023),
}
#: The view of the model without its adapter, which is no companion: it gains far less.
_BASE = "base"
#: Default for the largest chance of being significantly worse.
RISK = 0.05
#: Of any other score no gain is expected; it has to show it.
UNKNOWN = Prior(0.0, 0.01)


def prior_of(scorer: Any) -> Prior:
    """Return what scores of this kind gained on measured sets."""
    if isinstance(scorer, FrozenEstimator):
        scorer = scorer.estimator
    kind = getattr(getattr(scorer, "card", None), "name", "")
    members = [member for _, member in getattr(scorer, "estimators", None) or []]
    if any(isinstance(member, LayerProbeScorer) for member in members):
        kind += " with layers"
        # Without layers, a companion gained as much as a sidekick and AdUE.
        if any(isinstance(m, CompanionScorer) and m.view != _BASE for m in members):
            kind += " and a companion"
    return MEASURED.get(kind, UNKNOWN)


def gain_of(difference: Difference, confidence: float = 0.95) -> Gain:
    """Return a measured gain with the standard error that its interval has."""
    width = 2.0 * float(norm.ppf((1.0 + confidence) / 2.0))
    return Gain(difference.value, (difference.high - difference.low) / width)


def chance_of_loss(expected: Gain, error: float) -> float:
    """Return the chance that rows like the fit rows call the score significantly worse.

    That is, that a gain measured on as many fresh rows, with standard error ``error``, is more
    than 1.645 of these below zero (one-sided, at 5 %).

    Examples
    --------
    >>> from adue_sklearn.comparison.prior import Gain, chance_of_loss
    >>> round(chance_of_loss(Gain(0.0, 0.0), 0.01), 3)
    0.05
    """
    spread = math.hypot(expected.error, error)
    if spread == 0.0:
        return float(expected.value < 0.0)
    return float(norm.cdf((norm.ppf(0.05) * error - expected.value) / spread))


class Choice(NamedTuple):
    """The best score, and what was expected of each.

    Attributes
    ----------
    name : str or None
        The score with the largest expected gain; None if none is expected to gain at the risk.
    expected : dict of str to Gain
        Expected gains and their standard deviations.
    chances : dict of str to float
        Chances of being significantly worse than softmax response.
    """

    name: str | None
    expected: dict[str, Gain]
    chances: dict[str, float]


def choose_among(comparison: Comparison, named: Named, risk: float) -> Choice:
    """Return the choice among compared scores; none of them where nothing can be concluded."""
    tested = {r.name: r.gain for r in comparison.results if not math.isnan(r.p_adjusted)}
    gains = {name: gain_of(gain, comparison.confidence) for name, gain in tested.items()}
    choice = choose(gains, {name: prior_of(scorer) for name, scorer in named}, risk)
    if comparison.can_tell and not comparison.reservations:
        return choice
    return choice._replace(name=None)


def choose(gains: Mapping[str, Gain], priors: Mapping[str, Prior], risk: float) -> Choice:
    """Return the score with the largest expected gain, and what was expected of each.

    Parameters
    ----------
    gains : mapping of str to Gain
        Gains measured on rows that the scores were not fitted on.
    priors : mapping of str to Prior
        One for each.
    risk : float
        Largest chance that the chosen score is significantly worse than softmax response.

    Returns
    -------
    Choice
        The score, and what was expected of each.
    """
    expected = {name: priors[name].posterior(gain) for name, gain in gains.items()}
    chances = {name: chance_of_loss(expected[name], gains[name].error) for name in gains}
    eligible = [name for name in gains if expected[name].value > 0 and chances[name] <= risk]
    best = max(eligible, key=lambda name: expected[name].value, default=None)
    return Choice(best, expected, chances)

"""After deployment: whether the promised risk still holds and the scores still look the same."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator
from scipy.optimize import brentq
from scipy.special import logsumexp
from sklearn.utils import check_scalar

from adue_sklearn._utils.schemas import Kind, Schema, check_document
from adue_sklearn.metrics._arguments import (
    Estimate,
    FloatArray,
    as_column,
    check_scores,
    check_share,
)

__all__ = ["RiskMonitor"]

_FORMAT = 1
_KIND = Kind(
    name="a RiskMonitor", mend="Expected the result of to_dict, unchanged.", newest=_FORMAT
)
#: Counts that stay exact in floats.
_MOST_ROWS = 2**53
_Count = Annotated[int, Field(ge=0, le=_MOST_ROWS)]
_Number = Annotated[int, Field(ge=1, le=_MOST_ROWS)]
#: Factors by which the odds of an error may have risen; each is a bet.
_ODDS = np.array([1.25, 1.6, 2.0, 3.0, 5.0, 10.0])
_N_BETS = 6  # on the odds, and as many on the tilts of ranks
#: Exponential rates of the confidence sequence, one sign each.
_RATES = np.geomspace(1e-3, 8.0, 24)
_MOST_BINS = 20


class _Wealth:
    """The wealth of bets that started with one coin, as a mixture over starting times.

    Half of the coin is bet from the first row on, the rest row by row, so that some money is left
    when a change comes. Under the null hypothesis no bet gains on average, and the probability of
    ever owning ``1 / false_alarm`` is at most ``false_alarm`` (Ville's inequality).
    """

    def __init__(self, false_alarm: float) -> None:
        self.limit = -np.log(false_alarm)
        self.n_rows = 0
        self.bets: FloatArray | None = None  # logarithm of the wealth in each kind of bet
        self.alarm_at: int | None = None

    def bet(self, log_factors: FloatArray) -> None:
        """Add new money and multiply each kind of bet by what this row pays."""
        n = self.n_rows = self.n_rows + 1
        new = np.log(_kept(n - 1) - _kept(n)) - np.log(len(log_factors))
        before = -np.inf if self.bets is None else self.bets
        self.bets = np.logaddexp(before, new) + log_factors
        if self.alarm_at is None and self.log_total() >= self.limit:
            self.alarm_at = n

    def log_total(self) -> float:
        """Return the logarithm of the wealth: all bets and the money not yet bet."""
        if self.bets is None:
            return 0.0
        return float(np.logaddexp(np.logaddexp.reduce(self.bets), np.log(_kept(self.n_rows))))

    def to_dict(self) -> dict[str, Any]:
        bets = None if self.bets is None else self.bets.tolist()
        return {"n_rows": self.n_rows, "bets": bets, "alarm_at": self.alarm_at}

    def restore(self, state: _WealthState) -> None:
        self.n_rows = state.n_rows
        self.alarm_at = state.alarm_at
        self.bets = None if state.bets is None else np.array(state.bets, dtype=np.float64)


def _kept(n_rows: int) -> float:
    """Return the share of the coin that is not yet bet after this many rows."""
    return 1.0 if n_rows == 0 else 0.5 / (1.0 + np.log2(n_rows))


class _WealthState(Schema):
    """The saved state of one kind of bets."""

    n_rows: _Count
    bets: list[float] | None
    alarm_at: _Number | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.bets is None) != (self.n_rows == 0):
            raise ValueError("bets where there are rows, and only there")
        if self.bets is not None and len(self.bets) != _N_BETS:
            raise ValueError(f"{_N_BETS} bets")
        if self.alarm_at is not None and self.alarm_at > self.n_rows:
            raise ValueError("an alarm at one of its rows")
        return self


class _BinsState(Schema):
    """The saved state of the reference and of the rows placed in it."""

    scores: list[float]
    ties: list[Annotated[float, Field(ge=0, le=1)]]
    gaps: list[_Number]
    counts: list[_Count]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n_bins = len(self.gaps)
        if not len(self.scores) == len(self.ties) == n_bins - 1 == len(self.counts) - 1:
            raise ValueError("bins are inconsistent")
        edges = list(zip(self.scores, self.ties, strict=True))
        if edges != sorted(edges):
            raise ValueError("bins are not in ascending order")
        return self


class _State(Schema):
    """What :meth:`RiskMonitor.to_dict` gives."""

    format: Literal[1]
    target_risk: Annotated[float, Field(gt=0, lt=1)]
    false_alarm: Annotated[float, Field(gt=0, lt=1)]
    random_state: NonNegativeInt
    n_errors: _Count
    risk: _WealthState
    shift: _WealthState
    bins: _BinsState | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.n_errors > self.risk.n_rows:
            raise ValueError(
                f"'n_errors' is {self.n_errors}, 'risk.n_rows' {self.risk.n_rows}; expected no "
                "more errors than rows"
            )
        n_placed = 0 if self.bins is None else sum(self.bins.counts)
        if n_placed != self.shift.n_rows:
            raise ValueError(
                f"'bins.counts' hold {n_placed} rows, 'shift.n_rows' is {self.shift.n_rows}; "
                "expected the same"
            )
        return self


class RiskMonitor:
    """Monitor the risk of accepted answers and the scores of all answers, row by row.

    There are two alarms. Each is false with a probability of at most ``false_alarm``, however long
    the monitor runs and however often you look:

    - the *risk* alarm, from labelled feedback (:meth:`update`): the error rate among accepted
      answers is above ``target_risk``;
    - the *shift* alarm, from uncertainties alone (:meth:`update_uncertainty`): they are no longer
      distributed like those of the calibration rows. Then the guarantee has lost its basis, even
      if the risk is still low.

    Feeding rows one by one or in chunks gives the same state, to the bit.

    Parameters
    ----------
    target_risk : float in (0, 1), default=0.05
        The promised bound.
    false_alarm : float in (0, 1), default=0.01
        Largest probability that an alarm ever goes off without a reason.
    reference : array-like of shape (n_rows,), default=None
        Uncertainties of calibration rows, such as
        ``SelectiveClassifier().fit(...).calibration_uncertainty_``; only for the shift alarm.
    random_state : int, default=0
        Seed for breaking ties between an uncertainty and a reference row's.

    Attributes
    ----------
    n_labelled, n_errors : int
        Feedback so far.
    risk_alarm_at, shift_alarm_at : int or None
        Number of the row, from 1, at which the alarm went off. An alarm stays on.

    Notes
    -----
    Both alarms are betting martingales [1]_: wealth that grows on average only if something is
    wrong, from bets on several sizes of change and on a change at any time. The risk alarm needs
    no independence: it is valid if at each row the probability of an error, given all earlier
    rows, is at most the target. The shift alarm bets on the rank of each new row among the
    reference rows and the earlier rows [2]_, in up to 20 bins; it is valid if all of them are
    exchangeable.

    A guarantee with 95 % confidence fails in up to 5 % of all calibrations. The risk alarm then
    rightly goes off without any change. Feedback must be a fair sample of the accepted answers.

    References
    ----------
    .. [1] Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting",
       Journal of the Royal Statistical Society B 86, 2024.
    .. [2] Vovk et al., "Testing exchangeability on-line", ICML 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.monitor import RiskMonitor
    >>> rng = np.random.default_rng(0)
    >>> monitor = RiskMonitor(target_risk=0.05)
    >>> monitor.update(rng.random(1000) < 0.03).risk_alarm
    False
    >>> monitor.update(rng.random(500) < 0.15).risk_alarm, monitor.risk_alarm_at
    (True, 1101)
    """

    def __init__(
        self,
        target_risk: float = 0.05,
        *,
        false_alarm: float = 0.01,
        reference: Any = None,
        random_state: int = 0,
    ) -> None:
        check_share(target_risk, "target_risk", "neither")
        check_share(false_alarm, "false_alarm", "neither")
        check_scalar(random_state, "random_state", Integral, min_val=0)
        self.target_risk = float(target_risk)
        self.false_alarm = float(false_alarm)
        self.random_state = int(random_state)
        self.n_errors = 0
        self._risk = _Wealth(self.false_alarm)
        self._shift = _Wealth(self.false_alarm)
        odds = _ODDS * self.target_risk / (1.0 - self.target_risk)
        bets = odds / (1.0 + odds)
        self._if_wrong = np.log(bets / self.target_risk)
        self._if_right = np.log((1.0 - bets) / (1.0 - self.target_risk))
        self._bins = None if reference is None else _Bins.of(reference, self.random_state)

    @property
    def n_labelled(self) -> int:
        """Number of rows with feedback."""
        return self._risk.n_rows

    @property
    def n_scored(self) -> int:
        """Number of rows whose uncertainty was seen."""
        return self._shift.n_rows

    @property
    def risk_alarm(self) -> bool:
        """Whether the risk alarm has gone off: the risk was shown to be above the target."""
        return self._risk.alarm_at is not None

    @property
    def risk_alarm_at(self) -> int | None:
        """Number of the labelled row at which the risk alarm went off."""
        return self._risk.alarm_at

    @property
    def shift_alarm(self) -> bool:
        """Whether the shift alarm has gone off: uncertainties were shown to differ."""
        return self._shift.alarm_at is not None

    @property
    def shift_alarm_at(self) -> int | None:
        """Number of the scored row at which the shift alarm went off."""
        return self._shift.alarm_at

    @property
    def risk_evidence(self) -> float:
        """Wealth of the bets on a higher risk; the alarm goes off at ``1 / false_alarm``."""
        return float(np.exp(min(self._risk.log_total(), 700.0)))

    @property
    def shift_evidence(self) -> float:
        """Wealth of the bets on a shift; the alarm goes off at ``1 / false_alarm``."""
        return float(np.exp(min(self._shift.log_total(), 700.0)))

    def update(self, errors: Any) -> Self:
        """Add feedback on accepted answers, in order of arrival.

        Parameters
        ----------
        errors : array-like of bool of shape (n_rows,)
            True (or 1) where the answer was wrong; may be empty.

        Returns
        -------
        self : RiskMonitor
            Updated.
        """
        column = as_column(errors, "errors")
        if len(column):
            column, _ = check_scores(column, np.zeros(len(column)))
        for wrong in column:
            self._risk.bet(self._if_wrong if wrong else self._if_right)
        self.n_errors += int(np.count_nonzero(column))
        return self

    def update_uncertainty(self, uncertainty: Any) -> Self:
        """Add uncertainties of all answers, accepted or not, in order of arrival.

        Parameters
        ----------
        uncertainty : array-like of shape (n_rows,)
            From the estimator that gave the reference; may be empty.

        Returns
        -------
        self : RiskMonitor
            Updated.
        """
        if self._bins is None:
            raise ValueError(
                "uncertainty cannot be compared: the monitor has no reference. Pass reference, the "
                "uncertainties of the calibration rows, to RiskMonitor."
            )
        column = as_column(uncertainty, "uncertainty")
        if len(column):
            _, column = check_scores(np.zeros(len(column)), column)
        for score in column:
            place = self._bins.place(float(score), self.random_state, self._shift.n_rows)
            self._shift.bet(self._bins.log_factors(place))
            self._bins.counts[place] += 1
        return self

    def risk_interval(self, confidence: float = 0.95) -> Estimate:
        """Return the observed error rate and limits of the risk that hold at all times.

        Parameters
        ----------
        confidence : float in (0, 1), default=0.95
            Probability that the limits hold at all times simultaneously.

        Returns
        -------
        Estimate
            ``value``, ``low``, ``high`` in [0, 1]. They concern the mean, over all rows so far, of
            each row's probability of an error, which may change. To follow the current risk, start
            a new monitor from time to time. NaN, 0, 1 before any feedback.
        """
        check_share(confidence, "confidence", "neither")
        n, k = self.n_labelled, self.n_errors
        if n == 0:
            return Estimate(np.nan, 0.0, 1.0)
        rates = np.concatenate([-_RATES, _RATES])

        def excess(risk: float) -> float:
            """Return how far the bets against this mean risk are above the limit."""
            # log E exp(rate e) is concave in the probability of an error, so the mean suffices.
            growth = rates * k - n * np.log1p(risk * np.expm1(rates))
            return float(logsumexp(growth) - np.log(len(rates)) + np.log1p(-confidence))

        value = k / n
        low = brentq(excess, 0.0, value, xtol=1e-12) if excess(0.0) > 0 else 0.0
        high = brentq(excess, value, 1.0, xtol=1e-12) if excess(1.0) > 0 else 1.0
        return Estimate(value, float(low), float(high))

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state in types that JSON supports; :meth:`from_dict` reads it."""
        return {
            "format": _FORMAT,
            "target_risk": self.target_risk,
            "false_alarm": self.false_alarm,
            "random_state": self.random_state,
            "n_errors": self.n_errors,
            "risk": self._risk.to_dict(),
            "shift": self._shift.to_dict(),
            "bins": None if self._bins is None else self._bins.to_dict(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the monitor whose :meth:`to_dict` this is.

        Parameters
        ----------
        state : mapping
            Result of :meth:`to_dict`, also after a round trip through JSON.

        Returns
        -------
        monitor : RiskMonitor
            Continues from the saved state.

        Raises
        ------
        ValueError
            If a field is missing, has another type, is out of range or contradicts others.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state is a {type(state).__name__}; expected the result of to_dict.")
        known = check_document(dict(state), _State, "state", _KIND)
        monitor = cls(
            known.target_risk, false_alarm=known.false_alarm, random_state=known.random_state
        )
        monitor.n_errors = known.n_errors
        monitor._risk.restore(known.risk)
        monitor._shift.restore(known.shift)
        if known.bins is not None:
            bins = known.bins
            monitor._bins = _Bins(bins.scores, bins.ties, bins.gaps, bins.counts)
        return monitor

    def __repr__(self) -> str:
        return (
            f"RiskMonitor(target_risk={self.target_risk:g}, {self.n_errors} errors in "
            f"{self.n_labelled} rows, risk_alarm={self.risk_alarm}, shift_alarm={self.shift_alarm})"
        )


class _Bins:
    """Bins between reference rows, and how many rows have fallen into each.

    n reference rows leave n + 1 gaps. If all rows are exchangeable, a new row is equally likely to
    fall into each gap, and divides it. So the probability of a bin is proportional to the number
    of its gaps, including those that earlier rows have added.

    Ties are broken by a random number each, as if the values had one more digit.
    """

    def __init__(self, scores: Any, ties: Any, gaps: Any, counts: Any) -> None:
        self.scores = np.array(scores, dtype=np.float64)  # of the rows between bins, ascending
        self.ties = np.array(ties, dtype=np.float64)
        self.gaps = np.array(gaps, dtype=np.int64)
        self.counts = np.array(counts, dtype=np.int64)
        middle = (np.cumsum(self.gaps) - 0.5 * self.gaps) / self.gaps.sum()
        self.tilts = _tilts(middle)

    @classmethod
    def of(cls, reference: Any, seed: int) -> Self:
        scores = as_column(reference, "reference")
        _, scores = check_scores(np.zeros(len(scores)), scores, name="reference")
        if not np.isfinite(scores).all():
            raise ValueError("reference contains infinity; expected finite uncertainties.")
        n = len(scores)
        ties = np.random.default_rng([seed, 0]).random(n)
        order = np.lexsort((ties, np.sort(scores)))
        scores, ties = np.sort(scores)[order], ties[order]
        n_bins = min(_MOST_BINS, n + 1)
        limits = np.round(np.linspace(0, n + 1, n_bins + 1)).astype(np.int64)
        edges = limits[1:-1] - 1
        return cls(scores[edges], ties[edges], np.diff(limits), np.zeros(n_bins, dtype=np.int64))

    def place(self, score: float, seed: int, row: int) -> int:
        first = int(np.searchsorted(self.scores, score, side="left"))
        last = int(np.searchsorted(self.scores, score, side="right"))
        if first == last:
            return first
        tie = np.random.default_rng([seed, 1, row]).random()
        return first + int(np.count_nonzero(self.ties[first:last] < tie))

    def log_factors(self, place: int) -> FloatArray:
        """Return what each bet pays for this bin; the mean over the bins is one."""
        share = self.gaps + self.counts
        return np.log(self.tilts[:, place] * share.sum() / (self.tilts @ share))

    def to_dict(self) -> dict[str, Any]:
        names = ("scores", "ties", "gaps", "counts")
        return {name: getattr(self, name).tolist() for name in names}


def _tilts(rank: FloatArray) -> FloatArray:
    """Return densities over ranks in (0, 1), one per bet: higher, lower, wider, narrower."""
    centred = 2.0 * rank - 1.0
    spread = 3.0 * centred**2 - 1.0
    return np.array(
        [
            1.0 + 0.4 * centred,
            1.0 - 0.4 * centred,
            np.exp(2.0 * centred),
            np.exp(-2.0 * centred),
            1.0 + 0.45 * spread,
            1.0 - 0.45 * spread,
        ]
    )

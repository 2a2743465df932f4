"""How many answers can be accepted at which guaranteed risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from adue_sklearn._utils.messages import percent
from adue_sklearn._utils.validation import naming
from adue_sklearn.metrics import risk_coverage_curve
from adue_sklearn.metrics._arguments import BoolArray, FloatArray, as_column, check_scores
from adue_sklearn.plotting._display import Display, set_percent, style
from adue_sklearn.selective import SelectiveThreshold, check_target, selective_threshold
from adue_sklearn.thresholds import shown_coverage


@dataclass(kw_only=True, eq=False, repr=False)
class ThresholdDisplay(Display):
    """Share of answers that can be accepted against their guaranteed error rate.

    Made by ``from_predictions`` or ``from_estimator``, on rows that were not used to fit the score.

    Parameters
    ----------
    target_risks, coverages : ndarray of shape (n_targets,)
        Targets, and the share of rows accepted at the threshold that meets each.
    observed : ndarray of shape (n_targets,)
        The share that a threshold without a guarantee would accept at that risk on these rows.
    target_risk, confidence : float
        The chosen target, and the confidence level of its guarantee.
    chosen : SelectiveThreshold
        The threshold that meets it.
    name : str, default=None
        Legend label.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_, observed_line_ : matplotlib Line2D
        The curve, and that without a guarantee.
    point_ : matplotlib Line2D
        The chosen point.

    Notes
    -----
    The guarantee holds for each point of the curve separately, but not for a target chosen because
    of the curve: set the target first, or confirm it on fresh rows.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.plotting import ThresholdDisplay
    >>> uncertainty = np.arange(1000) / 1000
    >>> errors = np.random.default_rng(0).random(1000) < 0.2 * uncertainty
    >>> display = ThresholdDisplay.from_predictions(errors, uncertainty, target_risk=0.05)
    >>> display.chosen.coverage, display.point_.get_label()
    (0.58, '58 % accepted, at most 5 % of them wrong')
    """

    target_risks: FloatArray
    coverages: FloatArray
    observed: FloatArray
    target_risk: float
    confidence: float
    chosen: SelectiveThreshold
    name: str | None = None

    @classmethod
    def from_predictions(
        cls,
        errors: Any,
        uncertainty: Any,
        *,
        target_risk: float = 0.05,
        confidence: float = 0.95,
        method: str = "binomial",
        target_risks: Any = None,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: Any = None,
    ) -> Self:
        """Compute and draw the chart of an uncertainty.

        Parameters
        ----------
        errors : array-like of bool of shape (n_samples,)
            True (or 1) where the classifier is wrong.
        uncertainty : array-like of shape (n_samples,)
            Higher means more likely wrong.
        target_risk, confidence, method
            As in :func:`adue_sklearn.selective.selective_threshold`: the point to mark.
        target_risks : array-like of shape (n_targets,), default=None
            The targets to try, each in (0, 1); by default 80 from near 0 to beyond the error rate.
        name : str, default=None
            Legend label.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        curve_kwargs : dict, default=None
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : ThresholdDisplay
            Drawn.
        """
        flags, scores = check_scores(errors, uncertainty)
        chosen = selective_threshold(flags, scores, target_risk, confidence, method)
        targets = _targets(target_risks, flags, float(target_risk))
        coverages = [
            selective_threshold(flags, scores, float(target), confidence, method).coverage
            for target in targets
        ]
        made = cls(
            target_risks=targets,
            coverages=np.array(coverages),
            observed=_observed(flags, scores, targets),
            target_risk=float(target_risk),
            confidence=float(confidence),
            chosen=chosen,
            name=name,
        )
        return made.plot(ax, curve_kwargs=curve_kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, curve_kwargs: Any = None) -> Self:
        """Draw the chart.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        name : str, default=None
            Legend label; by default the display's.
        curve_kwargs : dict, default=None
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : ThresholdDisplay
            Itself.
        """
        ax = self._take_axes(ax)
        name = self.name if name is None else name
        of = "" if name is None else f"{name}: "
        text = f"{of}guaranteed, {percent(self.confidence)} confidence"
        options = style({"label": text, "drawstyle": "steps-post"}, curve_kwargs, "curve_kwargs")
        (self.line_,) = ax.plot(self.target_risks, self.coverages, **options)
        colour = self.line_.get_color()
        (self.observed_line_,) = ax.plot(
            self.target_risks, self.observed, color=colour, linestyle=":", drawstyle="steps-post",
            label=f"{of}observed, no guarantee",
        )  # fmt: skip
        target = percent(self.target_risk)
        if self.chosen.n_accepted:
            what = f"{percent(shown_coverage(self.chosen.coverage))} accepted, at most {target} of "
            what += "them wrong"
        else:
            what = f"no threshold for at most {target} wrong"
        (self.point_,) = ax.plot(
            [self.target_risk], [self.chosen.coverage], "o", color=colour, markersize=8, label=what,
            clip_on=False, zorder=3,
        )  # fmt: skip
        ax.set(
            xlabel="Maximum error rate among accepted answers",
            ylabel="Share of answers accepted",
            ylim=(0, 1.02),
        )
        ax.set_xlim(left=0)
        set_percent(ax.xaxis, ax.yaxis)
        ax.legend()
        return self


def _targets(given: Any, errors: BoolArray, target_risk: float) -> FloatArray:
    if given is None:
        top = min(max(1.3 * errors.mean(), 1.5 * target_risk, 0.02), 0.999)
        return np.unique(np.append(np.linspace(top / 80, top, 80), target_risk))
    with naming("target_risks", "risks above 0 and below 1"):
        targets = np.unique(as_column(given, "target_risks").astype(np.float64))
    if len(targets) == 0:
        raise ValueError("target_risks is empty; expected at least one risk in (0, 1).")
    for target in targets[[0, -1]].tolist():  # NaN comes last
        check_target(target, "target_risks")
    return targets


def _observed(errors: BoolArray, scores: FloatArray, targets: FloatArray) -> FloatArray:
    """Return ``coverage_at_risk_score`` at each target, from one sort."""
    ends = np.cumsum(np.unique(scores, return_counts=True)[1])
    risks = risk_coverage_curve(errors, scores).risks[ends - 1]
    # The least risk from a threshold on, so that the last one below a target is found by bisection.
    rest = np.minimum.accumulate(risks[::-1])[::-1]
    accepted = np.append(0, ends)[np.searchsorted(rest, targets + 1e-12, side="right")]
    return accepted / len(scores)

"""Differences of scores from softmax response, as dots with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from adue_sklearn._utils.messages import printable
from adue_sklearn.comparison.result import HEADINGS
from adue_sklearn.metrics._arguments import FloatArray
from adue_sklearn.plotting._display import Drawing, style


@dataclass(kw_only=True, eq=False, repr=False)
class ComparisonDisplay(Drawing):
    """Difference of each score from softmax response, with its paired interval.

    Made by ``from_comparison``.

    Parameters
    ----------
    names : sequence of str of length n_scores
        Scores, from top to bottom.
    differences, low, high : ndarray of shape (n_scores,)
        Differences in a metric, and their intervals, in the metric's own unit.
    metric : str, default="roc_auc"
        The metric.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    errorbar_ : matplotlib ErrorbarContainer
        Dots and intervals.
    zero_ : matplotlib Line2D
        Line of no difference.

    Examples
    --------
    >>> from adue_sklearn import EnergyScorer, compare_scorers
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> from adue_sklearn.plotting import ComparisonDisplay
    >>> data = load_movie_sentiment()
    >>> found = compare_scorers(
    ...     *data.calibration, data.init_W, data.init_b, scorers=[EnergyScorer()]
    ... )
    >>> ComparisonDisplay.from_comparison(found).names
    ['energy']
    """

    names: Sequence[str]
    differences: FloatArray
    low: FloatArray
    high: FloatArray
    metric: str = "roc_auc"

    @classmethod
    def from_comparison(
        cls,
        comparison: Any,
        *,
        metric: str = "roc_auc",
        ax: Any = None,
        errorbar_kwargs: Any = None,
    ) -> Self:
        """Plot the result of a comparison.

        Parameters
        ----------
        comparison : Comparison
            Result of :func:`adue_sklearn.compare_scorers`. Scores that failed, and differences
            that could not be measured, are left out.
        metric : str, default="roc_auc"
            One of the comparison's.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        errorbar_kwargs : dict, default=None
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : ComparisonDisplay
            Drawn, with ``ax_`` and ``figure_``.
        """
        results = getattr(comparison, "results", None)
        if results is None:
            raise TypeError(f"comparison is {comparison!r}; expected a result of compare_scorers.")
        if metric not in comparison.metric_names:
            raise ValueError(
                f"metric is {metric!r}; this comparison has {', '.join(comparison.metric_names)}."
            )
        shown = [
            (result.name, result.differences[metric])
            for result in results
            if result.differences and np.isfinite(result.differences[metric].value)
        ]
        values = np.array([difference[:3] for _, difference in shown]).reshape(-1, 3)
        display = cls(
            names=[name for name, _ in shown],
            differences=values[:, 0],
            low=values[:, 1],
            high=values[:, 2],
            metric=metric,
        )
        display.plot(ax=ax, errorbar_kwargs=errorbar_kwargs)
        if comparison.reservations:
            label = display.ax_.get_xlabel()
            display.ax_.set_xlabel(f"{label}\nno conclusion: see the verdict")
        return display

    def plot(self, *, ax: Any = None, errorbar_kwargs: Any = None) -> Self:
        """Draw dots and intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        errorbar_kwargs : dict, default=None
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : ComparisonDisplay
            Itself.
        """
        drawn = style({"linestyle": "none", "marker": "o"}, errorbar_kwargs, "errorbar_kwargs")
        ax = self._take_axes(ax)
        places = np.arange(len(self.names))[::-1]
        values = 100 * self.differences
        arms = 100 * np.array([self.differences - self.low, self.high - self.differences])
        self.zero_ = ax.axvline(0.0, color="gray", linewidth=1, linestyle="--")
        # Without an interval (one error) the dot stands alone.
        self.errorbar_ = ax.errorbar(
            values, places, xerr=np.nan_to_num(arms).clip(min=0), capsize=3, **drawn
        )
        ax.set_yticks(places, list(map(printable, self.names)))
        ax.set_ylim(-0.7, max(len(self.names), 1) - 0.3)
        ax.set_xlabel(f"100 x {HEADINGS.get(self.metric, self.metric)}, minus softmax response")
        return self

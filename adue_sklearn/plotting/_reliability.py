"""Reliability diagrams: whether probabilities match observed frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_scalar

from adue_sklearn.metrics._arguments import (
    BoolArray,
    FloatArray,
    check_choice,
    check_scores,
    judge,
    prediction_errors,
    require,
)
from adue_sklearn.metrics._calibration import bin_rates
from adue_sklearn.plotting._display import (
    Display,
    check_confidence,
    label,
    legend_handles,
    set_percent,
    style,
)
from adue_sklearn.selective import binomial_interval

_AXES = {
    "error": ("Predicted probability of an error", "Observed error rate"),
    "confidence": ("Confidence of the classifier", "Observed share of right answers"),
}


@dataclass(kw_only=True, eq=False, repr=False)
class ReliabilityDisplay(Display):
    """Observed frequency against predicted probability, bin by bin, with intervals.

    Made by ``from_predictions`` or ``from_estimator``.

    Parameters
    ----------
    predicted, observed : ndarray of shape (n_bins,)
        Mean probability and frequency of the rows in each bin.
    n_rows : ndarray of int of shape (n_bins,)
        Number of rows in each bin.
    low, high : ndarray of shape (n_bins,), default=None
        Limits of the frequency.
    of : {"error", "confidence"}, default="error"
        Kind of probability: P(error), or the classifier's confidence.
    name : str, default=None
        Legend label.

    Attributes
    ----------
    calibration_error : float
        The mean distance of frequency from probability over rows (ECE).
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        The curve.
    errorbar_ : matplotlib ErrorbarContainer or None
        The intervals.
    perfect_ : matplotlib AxLine
        Line of perfect calibration; drawn once per axes.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.plotting import ReliabilityDisplay
    >>> p_error = np.linspace(0, 0.5, 2000)
    >>> errors = np.random.default_rng(0).random(2000) < p_error
    >>> display = ReliabilityDisplay.from_predictions(errors, p_error, n_bins=5)
    >>> display.n_rows
    array([400, 400, 400, 400, 400])
    >>> round(display.calibration_error, 3)
    0.024
    """

    predicted: FloatArray
    observed: FloatArray
    n_rows: npt.NDArray[Any]
    low: FloatArray | None = None
    high: FloatArray | None = None
    of: str = "error"
    name: str | None = None

    @property
    def calibration_error(self) -> float:
        """Mean distance of frequency from probability over rows."""
        return float(self.n_rows @ np.abs(self.observed - self.predicted) / self.n_rows.sum())

    @classmethod
    def _judged(
        cls, estimator: Any, X: Any, y: Any, *, of: str = "error", **options: Any
    ) -> tuple[BoolArray, Any]:
        if of != "confidence":
            return judge(estimator, X, y)
        require(estimator, "predict", "predict_proba")
        probabilities = estimator.predict_proba(X)
        # A tensor's max returns places too.
        top = getattr(probabilities, "amax", probabilities.max)(1)
        return prediction_errors(estimator.predict(X), y), top

    @classmethod
    def from_predictions(
        cls,
        errors: Any,
        uncertainty: Any,
        *,
        of: str = "error",
        n_bins: int = 10,
        strategy: str = "quantile",
        confidence: float | None = 0.95,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: Any = None,
    ) -> Self:
        """Compute and draw the curve of P(error), or of the classifier's confidence.

        Parameters
        ----------
        errors : array-like of bool of shape (n_samples,)
            True (or 1) where the classifier is wrong.
        uncertainty : array-like of shape (n_samples,)
            P(error), or with ``of="confidence"`` the probability of the predicted class.
        of : {"error", "confidence"}, default="error"
            Kind of probability.
        n_bins : int, default=10
            Number of bins; those without rows are left out.
        strategy : {"quantile", "uniform"}, default="quantile"
            Bins of equal mass, as far as ties allow, or of equal width.
        confidence : float in (0, 1) or None, default=0.95
            Confidence level of the exact (Clopper-Pearson) interval of each bin's frequency; None
            for none.
        name : str, default=None
            Legend label.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        curve_kwargs : dict, default=None
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : ReliabilityDisplay
            Drawn.
        """
        check_confidence(confidence)
        check_scalar(n_bins, "n_bins", Integral, min_val=1)
        check_choice(of, "of", tuple(_AXES))
        check_choice(strategy, "strategy", ("uniform", "quantile"))
        flags, probability = check_scores(errors, uncertainty)
        odd = probability[(probability < 0) | (probability > 1)]
        if odd.size:
            raise ValueError(
                f"uncertainty must be a probability in [0, 1]; {odd.size} values are not, such as "
                f"{odd[0]:g}. ErrorProbability turns any score into P(error)."
            )
        happened = flags if of == "error" else ~flags
        n_rows, observed, predicted = bin_rates(happened, probability, n_bins, strategy)
        limits: dict[str, FloatArray] = {}
        if confidence is not None:
            low, high = binomial_interval(np.rint(observed * n_rows), n_rows, confidence)
            limits = {"low": low, "high": high}
        made = cls(
            predicted=predicted, observed=observed, n_rows=n_rows, **limits, of=of, name=name
        )
        return made.plot(ax, curve_kwargs=curve_kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, curve_kwargs: Any = None) -> Self:
        """Draw the curve.

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
        display : ReliabilityDisplay
            Itself.
        """
        ax = self._take_axes(ax)
        first = not ax.has_data()
        name = self.name if name is None else name
        text = label(name, f"ECE = {self.calibration_error:.3f}")
        options = style({"marker": "o", "label": text}, curve_kwargs, "curve_kwargs")
        (self.line_,) = ax.plot(self.predicted, self.observed, **options)
        self.errorbar_ = None
        if self.low is not None and self.high is not None:
            reach = np.maximum([self.observed - self.low, self.high - self.observed], 0.0)
            self.errorbar_ = ax.errorbar(
                self.predicted, self.observed, reach, fmt="none", capsize=2,
                color=self.line_.get_color(), alpha=0.6, linewidth=1,
            )  # fmt: skip
        if first:
            place = float(self.predicted[-1])  # among the points, so that the axes stay theirs
            self.perfect_ = ax.axline(
                (place, place), slope=1, color="gray", linestyle=":", label="as announced"
            )
        xlabel, ylabel = _AXES[self.of]
        ax.set(xlabel=xlabel, ylabel=ylabel)
        set_percent(ax.xaxis, ax.yaxis)
        ax.legend(handles=legend_handles(ax))
        return self

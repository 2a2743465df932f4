"""Risk and coverage, ROC and histogram of a score."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import roc_curve
from sklearn.utils import check_scalar

from adue_sklearn._utils.validation import naming
from adue_sklearn.metrics import Estimate, aurc_score, error_roc_auc_interval, risk_coverage_curve
from adue_sklearn.metrics._arguments import BoolArray, FloatArray, check_scores
from adue_sklearn.metrics._bootstrap import seed_of
from adue_sklearn.plotting._display import (
    Display,
    check_confidence,
    finite,
    label,
    legend_handles,
    set_percent,
    style,
)
from adue_sklearn.selective import binomial_interval

#: Intervals are drawn at so many places at most.
_PLACES = 200
_MOST_BINS = 10_000


@dataclass(kw_only=True, eq=False, repr=False)
class RiskCoverageDisplay(Display):
    """Error rate among the accepted answers against how many are accepted.

    Made by ``from_predictions`` or ``from_estimator``.

    Parameters
    ----------
    coverages, risks : ndarray of shape (n_samples,)
        The curve, as from :func:`adue_sklearn.metrics.risk_coverage_curve`.
    aurc : float, default=None
        Its mean, for the legend.
    band_coverages, low, high : ndarray of shape (n_places,), default=None
        Where intervals are drawn, and their limits.
    name : str, default=None
        Legend label.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        The curve.
    band_ : matplotlib FillBetweenPolyCollection or None
        The intervals.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.plotting import RiskCoverageDisplay
    >>> uncertainty = np.linspace(0, 1, 500)
    >>> errors = np.random.default_rng(0).random(500) < 0.3 * uncertainty
    >>> display = RiskCoverageDisplay.from_predictions(errors, uncertainty, name="a score")
    >>> display.line_.get_label()
    'a score (AURC = 0.081)'
    """

    coverages: FloatArray
    risks: FloatArray
    aurc: float | None = None
    band_coverages: FloatArray | None = None
    low: FloatArray | None = None
    high: FloatArray | None = None
    name: str | None = None

    @classmethod
    def from_predictions(
        cls,
        errors: Any,
        uncertainty: Any,
        *,
        confidence: float | None = 0.95,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: Any = None,
    ) -> Self:
        """Compute and draw the curve of an uncertainty.

        Parameters
        ----------
        errors : array-like of bool of shape (n_samples,)
            True (or 1) where the classifier is wrong.
        uncertainty : array-like of shape (n_samples,)
            Higher means more likely wrong.
        confidence : float in (0, 1) or None, default=0.95
            Confidence level of the intervals; None for none. They are exact (Clopper-Pearson) for
            the error rate below one threshold fixed in advance, not for all thresholds
            simultaneously, and are drawn at possible thresholds: between groups of tied rows.
        name : str, default=None
            Legend label.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        curve_kwargs : dict, default=None
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RiskCoverageDisplay
            Drawn.
        """
        check_confidence(confidence)
        flags, scores = check_scores(errors, uncertainty)
        curve = risk_coverage_curve(flags, scores)
        band: dict[str, FloatArray] = {}
        if confidence is not None:
            accepted = _places(np.cumsum(np.unique(scores, return_counts=True)[1]))
            n_errors = np.rint(curve.risks[accepted - 1] * accepted)
            low, high = binomial_interval(n_errors, accepted, confidence)
            band = {"band_coverages": curve.coverages[accepted - 1], "low": low, "high": high}
        made = cls(**curve._asdict(), aurc=aurc_score(flags, scores), **band, name=name)
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
        display : RiskCoverageDisplay
            Itself.
        """
        ax = self._take_axes(ax)
        name = self.name if name is None else name
        top = ax.get_ylim()[1] if ax.has_data() else 0.0
        text = name if self.aurc is None else label(name, f"AURC = {self.aurc:.3f}")
        options = style({"label": text}, curve_kwargs, "curve_kwargs")
        (self.line_,) = ax.plot(self.coverages, self.risks, **options)
        limits = (self.band_coverages, self.low, self.high)
        self.band_ = _fill(ax, self.line_, *limits)
        # Of a few rows the risk, and all the more its interval, may be anything.
        risks = self.risks[self.coverages >= 0.1].max(initial=0.0)
        bound = 0.0 if self.high is None else self.high[-1]
        ax.set(
            xlabel="Share of answers accepted",
            ylabel="Error rate of accepted answers",
            xlim=(0, 1),
            ylim=(0, max(top, 1.1 * max(risks, bound), 0.01)),
        )
        set_percent(ax.xaxis, ax.yaxis)
        _legend(ax, text, loc="upper left")
        return self


@dataclass(kw_only=True, eq=False, repr=False)
class ErrorRocDisplay(Display):
    """Share of errors flagged against the share of correct answers flagged.

    Made by ``from_predictions`` or ``from_estimator``.

    Parameters
    ----------
    fpr, tpr : ndarray of shape (n_thresholds,)
        The curve, from flagging nothing to all.
    roc_auc : Estimate, default=None
        Area and its interval, for the legend.
    band_fpr, low, high : ndarray of shape (n_places,), default=None
        Where intervals are drawn, and their limits.
    name : str, default=None
        Legend label.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        The curve.
    band_ : matplotlib FillBetweenPolyCollection or None
        The intervals.
    chance_level_ : matplotlib Line2D
        Curve of a constant score; drawn once per axes.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn.plotting import ErrorRocDisplay
    >>> uncertainty = np.linspace(0, 1, 500)
    >>> errors = np.random.default_rng(0).random(500) < 0.3 * uncertainty
    >>> display = ErrorRocDisplay.from_predictions(errors, uncertainty, name="a score")
    >>> display.line_.get_label()
    'a score (AUC = 0.656 [0.595, 0.717])'
    """

    fpr: FloatArray
    tpr: FloatArray
    roc_auc: Estimate | None = None
    band_fpr: FloatArray | None = None
    low: FloatArray | None = None
    high: FloatArray | None = None
    name: str | None = None

    @classmethod
    def from_predictions(
        cls,
        errors: Any,
        uncertainty: Any,
        *,
        confidence: float | None = 0.95,
        n_resamples: int = 500,
        random_state: Any = 0,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: Any = None,
    ) -> Self:
        """Compute and draw the curve of an uncertainty.

        Parameters
        ----------
        errors : array-like of bool of shape (n_samples,)
            True (or 1) where the classifier is wrong; some, not all.
        uncertainty : array-like of shape (n_samples,)
            Higher means more likely wrong.
        confidence : float in (0, 1) or None, default=0.95
            Confidence level of the intervals; None for none. The area's is DeLong's; those of the
            curve are percentiles at each share of correct answers, over separate resamples of the
            errors and of the correct answers. With one row of either kind there are none.
        n_resamples : int, default=500
            Number of resamples.
        random_state : int, RandomState instance or None, default=0
            Seed of the resampling. The order of rows does not matter.
        name : str, default=None
            Legend label.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        curve_kwargs : dict, default=None
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : ErrorRocDisplay
            Drawn.
        """
        check_confidence(confidence)
        check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
        flags, scores = check_scores(errors, uncertainty)
        if flags.all() or not flags.any():
            which = "only errors" if flags.all() else "no errors"
            raise ValueError(
                f"errors: the {len(flags)} rows hold {which}, so there is no ROC curve; it needs "
                "both kinds of rows."
            )
        # scikit-learn refuses infinity; older scipy's ranks of infinite scores are floats.
        ranks = rankdata(scores, method="dense").astype(np.int64)
        fpr, tpr, _ = roc_curve(flags, ranks)
        band: dict[str, FloatArray] = {}
        if confidence is not None and min(flags.sum(), (~flags).sum()) > 1:
            grid = np.linspace(0.0, 1.0, _PLACES // 2 + 1)
            rng = np.random.default_rng(seed_of(random_state))
            curves = _resampled_roc(flags, ranks, grid, n_resamples, rng)
            limits = [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]
            low, high = np.quantile(curves, limits, axis=0)
            band = {"band_fpr": grid, "low": low, "high": high}
        area = error_roc_auc_interval(flags, scores, confidence=confidence or 0.95)
        if confidence is None:
            area = Estimate(area.value, np.nan, np.nan)
        return cls(fpr=fpr, tpr=tpr, roc_auc=area, **band, name=name).plot(
            ax, curve_kwargs=curve_kwargs
        )

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
        display : ErrorRocDisplay
            Itself.
        """
        ax = self._take_axes(ax)
        name = self.name if name is None else name
        text = name
        if self.roc_auc is not None:
            value, low, high = self.roc_auc
            interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
            text = label(name, f"AUC = {value:.3f}{interval}")
        options = style({"label": text}, curve_kwargs, "curve_kwargs")
        first = not ax.has_data()
        (self.line_,) = ax.plot(self.fpr, self.tpr, **options)
        self.band_ = _fill(ax, self.line_, self.band_fpr, self.low, self.high)
        if first:
            self.chance_level_ = ax.axline(
                (0, 0), slope=1, color="gray", linestyle=":", label="constant score"
            )
        ax.set(
            xlabel="Correct answers flagged", ylabel="Errors flagged", xlim=(0, 1), ylim=(0, 1.01)
        )
        set_percent(ax.xaxis, ax.yaxis)
        _legend(ax, text, loc="lower right")
        return self


@dataclass(kw_only=True, eq=False, repr=False)
class ScoreHistogramDisplay(Display):
    """Distributions of the uncertainties of correct and of wrong answers.

    Made by ``from_predictions`` or ``from_estimator``.

    Parameters
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Bin edges.
    correct, wrong : ndarray of shape (n_bins,)
        Correct and wrong answers in each: shares of either kind, or numbers.
    name : str, default=None
        For the title of the axis of uncertainties.
    share : bool, default=True
        Whether they are shares.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    correct_, wrong_ : matplotlib StepPatch
        The two histograms.

    Examples
    --------
    >>> from adue_sklearn.plotting import ScoreHistogramDisplay
    >>> display = ScoreHistogramDisplay.from_predictions(
    ...     [0, 0, 0, 1], [0.1, 0.2, 0.6, 0.9], bins=[0, 0.5, 1]
    ... )
    >>> display.correct.round(2).tolist(), display.wrong.tolist()
    ([0.67, 0.33], [0.0, 1.0])
    """

    edges: FloatArray
    correct: FloatArray
    wrong: FloatArray
    name: str | None = None
    share: bool = True

    @classmethod
    def from_predictions(
        cls,
        errors: Any,
        uncertainty: Any,
        *,
        bins: Any = 30,
        share: bool = True,
        name: str | None = None,
        ax: Any = None,
        correct_kwargs: Any = None,
        wrong_kwargs: Any = None,
    ) -> Self:
        """Count and draw the uncertainties.

        Parameters
        ----------
        errors : array-like of bool of shape (n_samples,)
            True (or 1) where the classifier is wrong.
        uncertainty : array-like of shape (n_samples,)
            Finite; higher is more likely wrong.
        bins : int, sequence of edges or str, default=30
            As in :func:`numpy.histogram_bin_edges`.
        share : bool, default=True
            Show shares of all correct and of all wrong answers, since errors are rare; False shows
            numbers.
        name : str, default=None
            Of the score, for the axis.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        correct_kwargs, wrong_kwargs : dict, default=None
            Passed to matplotlib's ``stairs``.

        Returns
        -------
        display : ScoreHistogramDisplay
            Drawn.
        """
        flags, _ = check_scores(errors, uncertainty)
        scores = finite(uncertainty, "uncertainty")
        if not isinstance(share, bool):
            raise TypeError(f"share is {share!r}; expected True or False.")
        edges = _edges(scores, bins)
        counts = [np.histogram(scores[kind], edges)[0].astype(float) for kind in (~flags, flags)]
        if share:
            counts = [
                count / max(int(kind.sum()), 1)
                for count, kind in zip(counts, (~flags, flags), strict=True)
            ]
        made = cls(edges=edges, correct=counts[0], wrong=counts[1], name=name, share=share)
        return made.plot(ax, correct_kwargs=correct_kwargs, wrong_kwargs=wrong_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        correct_kwargs: Any = None,
        wrong_kwargs: Any = None,
    ) -> Self:
        """Draw the histograms.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        name : str, default=None
            Of the score, for the axis; None is that of the display.
        correct_kwargs, wrong_kwargs : dict, default=None
            Passed to matplotlib's ``stairs``.

        Returns
        -------
        display : ScoreHistogramDisplay
            Itself.
        """
        ax = self._take_axes(ax)
        name = self.name if name is None else name
        kinds = (("correct", self.correct, correct_kwargs), ("wrong", self.wrong, wrong_kwargs))
        for number, (kind, heights, given) in enumerate(kinds):
            defaults = {"label": f"{kind} answers", "fill": True, "alpha": 0.5}
            defaults["color"] = f"C{number}"
            options = style(defaults, given, f"{kind}_kwargs", artist="patches.StepPatch")
            setattr(self, f"{kind}_", ax.stairs(heights, self.edges, **options))
        of = "" if name is None else f" ({name})"
        what = "Share of answers" if self.share else "Answers"
        ax.set(xlabel=f"Uncertainty{of}", ylabel=what)
        if self.share:
            set_percent(ax.yaxis)
        ax.legend()
        return self


def _places(accepted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return some numbers of accepted rows, evenly among those that a threshold can accept."""
    chosen = np.linspace(0, len(accepted) - 1, min(len(accepted), _PLACES))
    return accepted[np.unique(np.rint(chosen).astype(np.int64))]


def _resampled_roc(
    errors: BoolArray, ranks: npt.NDArray[np.int64], grid: FloatArray, n_resamples: int, rng: Any
) -> FloatArray:
    """Return the curves of resampled rows at each of ``grid`` (n_resamples, n_places)."""
    n_ranks = int(ranks.max())
    # Most uncertain first, and sorted: so the order of rows changes nothing.
    kinds = [np.sort(n_ranks - ranks[kind]) for kind in (~errors, errors)]
    curves = np.empty((n_resamples, len(grid)))
    for curve in curves:
        fpr, tpr = (
            np.cumsum(np.bincount(kind[rng.integers(len(kind), size=len(kind))], minlength=n_ranks))
            / len(kind)
            for kind in kinds
        )
        # Where the curve rises vertically, np.interp takes its upper end.
        curve[:] = np.interp(grid, np.append(0.0, fpr), np.append(0.0, tpr))
    return curves


def _edges(scores: FloatArray, bins: Any) -> FloatArray:
    expected = "a number, ascending edges or a name that numpy.histogram_bin_edges knows"
    with naming("bins", expected):
        if not isinstance(bins, str) and np.ndim(bins) == 0 and bins > _MOST_BINS:
            raise ValueError(f"bins is {bins}, too many to show; expected at most {_MOST_BINS}.")
        edges = np.histogram_bin_edges(scores, bins).astype(np.float64)
    if len(edges) < 2 or not np.isfinite(edges).all():
        raise ValueError("bins needs at least two edges, all of them finite.")
    return edges


def _fill(ax: Any, line: Any, x: Any, low: Any, high: Any) -> Any:
    if x is None:
        return None
    return ax.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _legend(ax: Any, text: str | None, **options: Any) -> None:
    if text is not None:
        ax.legend(handles=legend_handles(ax), **options)

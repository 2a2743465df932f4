"""What all displays share: where they draw, and what they ask an estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.frozen import FrozenEstimator

from adue_sklearn._utils.validation import naming
from adue_sklearn.metrics._arguments import BoolArray, FloatArray, as_column, check_share, judge


class Drawing:
    """What has an axis to draw on."""

    ax_: Any
    figure_: Any

    def _take_axes(self, ax: Any) -> Any:
        """Set ``ax_`` and ``figure_``: a new figure unless there is an axis to draw on."""
        axes_class = import_matplotlib("axes").Axes
        if ax is None:
            _, ax = import_matplotlib("pyplot").subplots()
        elif not isinstance(ax, axes_class):
            raise TypeError(
                f"ax is a {type(ax).__name__}; expected matplotlib axes, such as display.ax_ of "
                "another display, or None for a new figure."
            )
        self.ax_, self.figure_ = ax, ax.figure
        return ax


class Display(Drawing):
    """A plot that was computed; subclasses draw it in ``plot``."""

    #: Computes and draws the plot from errors and uncertainty; each plot has its own options.
    from_predictions: ClassVar[Callable[..., Any]]

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, name: str | None = None, **options: Any
    ) -> Self:
        """Compute and draw the plot of a fitted estimator's uncertainty on some rows.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``predict`` and ``score_samples``: an uncertainty estimator, or a pipeline
            or a search that ends in one. For a plot of the classifier's own confidence, with
            ``predict`` and ``predict_proba``.
        X : array-like of shape (n_samples, n_features), or what the pipeline takes
            Rows that it was not fitted on.
        y : array-like of shape (n_samples,)
            True labels.
        name : str, default=None
            Legend label; by default the name of the estimator's class.
        **options
            As in ``from_predictions``.

        Returns
        -------
        display
            Drawn, with ``ax_`` and ``figure_``.
        """
        judged = cls._judged(estimator, X, y, **options)
        display: Self = cls.from_predictions(*judged, name=name_of(estimator, name), **options)
        return display

    @classmethod
    def _judged(cls, estimator: Any, X: Any, y: Any, **options: Any) -> tuple[BoolArray, Any]:
        """Return where the estimator is wrong and its uncertainty, as ``options`` mean it."""
        return judge(estimator, X, y)


def import_matplotlib(module: str) -> Any:
    """Return a module of matplotlib, or raise an error that says how to install it."""
    from importlib import import_module

    try:
        return import_module(f"matplotlib.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Plots need matplotlib, which is not installed; run: pip install 'adue-sklearn[plot]'"
        ) from error


def name_of(estimator: Any, name: str | None) -> str:
    """Return the name given, or that of the class of what makes the score."""
    if name is not None:
        return name
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            return type(estimator).__name__


def style(
    defaults: Mapping[str, Any], given: Any, argument: str, *, artist: str = "lines.Line2D"
) -> dict[str, Any]:
    """Return keyword arguments for one of matplotlib's artists, those given before the defaults."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{argument} is {given!r}; expected a dict of matplotlib's keywords.")
    module, _, name = artist.partition(".")
    kind = getattr(import_matplotlib(module), name)
    with naming(argument, "a dict of matplotlib's keywords"):
        # Aliases, such as "c" for "color", are written out so that they replace a default.
        written_out = import_matplotlib("cbook").normalize_kwargs(dict(given or {}), kind)
    unknown = [key for key in written_out if not hasattr(kind, f"set_{key}")]
    if unknown:
        raise TypeError(
            f"{argument} holds {unknown[0]!r}, which a matplotlib {name} does not accept; expected "
            "such as color, linestyle, alpha, label."
        )
    return {**defaults, **written_out}


def label(name: str | None, value: str) -> str:
    """Return a legend entry."""
    return value if name is None else f"{name} ({value})"


def legend_handles(ax: Any) -> list[Any]:
    """Return the curves that have a name, what they are compared with last."""
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    reference = import_matplotlib("lines").AxLine
    return sorted(lines, key=lambda line: isinstance(line, reference))


def set_percent(*axes: Any) -> None:
    """Show shares as percentages on matplotlib's axis objects."""
    formatter = import_matplotlib("ticker").PercentFormatter
    for axis in axes:
        axis.set_major_formatter(formatter(1.0))


def check_confidence(confidence: Any) -> None:
    """Raise unless it is a share, or None for no intervals."""
    if confidence is not None:
        check_share(confidence, "confidence", "neither")


def finite(values: Any, name: str) -> FloatArray:
    """Return float64 (n,); raise where something is infinite or NaN."""
    column = as_column(values, name).astype(np.float64)
    odd = ~np.isfinite(column)
    if odd.any():
        raise ValueError(
            f"{name} holds {int(odd.sum())} infinite values, which cannot be plotted; clip "
            "them to the relevant range."
        )
    return column

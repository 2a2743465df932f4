"""Displays in the manner of scikit-learn: how well an uncertainty finds errors, as plots.

Each has ``from_predictions(errors, uncertainty, ...)`` and ``from_estimator(estimator, X, y, ...)``
for whatever has ``predict`` and ``score_samples``: an estimator of this package, or one in a
pipeline or a search. Both compute and draw; pass ``ax=display.ax_`` for several curves on one axis.
``ComparisonDisplay.from_comparison`` draws what :func:`adue_sklearn.compare_scorers` found. What
was computed and what was drawn are attributes. They need matplotlib (extra ``plot``), which is
imported when something is drawn.
"""

from adue_sklearn.plotting._comparison import ComparisonDisplay
from adue_sklearn.plotting._ranking import (
    ErrorRocDisplay,
    RiskCoverageDisplay,
    ScoreHistogramDisplay,
)
from adue_sklearn.plotting._reliability import ReliabilityDisplay
from adue_sklearn.plotting._threshold import ThresholdDisplay

__all__ = [
    "ComparisonDisplay",
    "ErrorRocDisplay",
    "ReliabilityDisplay",
    "RiskCoverageDisplay",
    "ScoreHistogramDisplay",
    "ThresholdDisplay",
]

"""Plots of how well an uncertainty finds errors, in the style of scikit-learn's displays.

Each has ``from_predictions(errors, uncertainty, ...)`` and ``from_estimator(estimator, X, y, ...)``
for any object with ``predict`` and ``score_samples``: an estimator of this package, or one in a
pipeline or a search. Both compute and draw; pass ``ax=display.ax_`` to draw several curves on the
same axes. ``ComparisonDisplay.from_comparison`` plots a result of
:func:`adue_sklearn.compare_scorers`. Computed values and drawn artists are attributes. The plots
need matplotlib (extra ``plot``), which is imported on drawing.

Names are loaded when they are first asked for; the stub beside this file lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""How well an uncertainty finds errors, and how well probabilities are calibrated.

Every metric of an uncertainty is a pure function of ``errors`` (n,), True where the classifier is
wrong, and ``uncertainty`` (n,), higher where it is more likely to be wrong. Results never depend on
the order of tied rows. Each has a scikit-learn scorer, ``scorer(estimator, X, y)``, higher is
better, for any object with ``predict`` and ``score_samples``: an estimator of this package, or one
in a pipeline or a search. Metrics of probabilities take ``(y_true, probabilities)``.
``bootstrap_interval`` and ``bootstrap_difference`` give an interval for any of them.

Names are loaded when they are first asked for; the stub beside this file lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Metrics as scikit-learn scorers, ``scorer(estimator, X, y)``, higher is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adue_sklearn.metrics._arguments import judge
from adue_sklearn.metrics._bootstrap import COUNT_FORMS
from adue_sklearn.metrics._detection import (
    error_average_precision_score,
    error_roc_auc_score,
    fpr_at_tpr_score,
)
from adue_sklearn.metrics._selective import (
    augrc_score,
    aurc_score,
    coverage_at_risk_score,
    eaurc_score,
    prr_score,
    risk_at_coverage_score,
)

#: What a scorer is saved with by name.
_METRICS: dict[str, Callable[[Any, Any], float]] = {
    metric.__name__: metric for metric in COUNT_FORMS
}


class ErrorScorer:
    """A metric of error detection as a scikit-learn scorer.

    Parameters
    ----------
    metric : callable
        ``metric(errors, uncertainty) -> float``.
    greater_is_better : bool, default=True
        Whether the metric is to be maximised; otherwise the scorer returns its negative.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from adue_sklearn import AdUEEstimator
    >>> from adue_sklearn.metrics import aurc_scorer
    >>> search = GridSearchCV(AdUEEstimator(), {"alpha": [0, 0.3]}, scoring=aurc_scorer)
    """

    def __init__(
        self, metric: Callable[[Any, Any], float], *, greater_is_better: bool = True
    ) -> None:
        if not callable(metric):
            raise TypeError(
                f"metric is {metric!r}; expected a function of errors and uncertainty, such as "
                "aurc_score."
            )
        self.metric = metric
        self.greater_is_better = greater_is_better

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the metric of ``estimator``'s uncertainty for its errors on ``X, y``."""
        value = self.metric(*judge(estimator, X, y))
        return value if self.greater_is_better else -value

    def __getstate__(self) -> dict[str, Any]:
        # A metric of ours by its name: skops then needs to trust no function.
        name = _name(self.metric)
        return vars(self) | ({"metric": name} if _METRICS.get(name) is self.metric else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        metric = state["metric"]
        if isinstance(metric, str):
            if metric not in _METRICS:
                raise ValueError(f"metric is {metric!r}; expected one of {', '.join(_METRICS)}.")
            metric = _METRICS[metric]
        vars(self).update(state | {"metric": metric})

    def __repr__(self) -> str:
        sign = "" if self.greater_is_better else ", greater_is_better=False"
        return f"ErrorScorer({_name(self.metric)}{sign})"


def _name(metric: Callable[..., Any]) -> str:
    return getattr(metric, "__name__", repr(metric))


error_roc_auc_scorer = ErrorScorer(error_roc_auc_score)
error_average_precision_scorer = ErrorScorer(error_average_precision_score)
fpr_at_tpr_scorer = ErrorScorer(fpr_at_tpr_score, greater_is_better=False)
aurc_scorer = ErrorScorer(aurc_score, greater_is_better=False)
eaurc_scorer = ErrorScorer(eaurc_score, greater_is_better=False)
augrc_scorer = ErrorScorer(augrc_score, greater_is_better=False)
prr_scorer = ErrorScorer(prr_score)
risk_at_coverage_scorer = ErrorScorer(risk_at_coverage_score, greater_is_better=False)
coverage_at_risk_scorer = ErrorScorer(coverage_at_risk_score)

"""How well an uncertainty finds errors, and how well probabilities are calibrated.

Every metric of an uncertainty is a pure function of ``errors`` (n,), True where the classifier is
wrong, and ``uncertainty`` (n,), higher where it is more likely to be wrong. Results never depend on
the order of tied rows. Each has a scikit-learn scorer, ``scorer(estimator, X, y)``, higher is
better, for any object with ``predict`` and ``score_samples``: an estimator of this package, or one
in a pipeline or a search. Metrics of probabilities take ``(y_true, probabilities)``.
``bootstrap_interval`` and ``bootstrap_difference`` give an interval for any of them.
"""

from adue_sklearn.metrics._arguments import Estimate, prediction_errors
from adue_sklearn.metrics._bootstrap import (
    Difference,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_replicates,
)
from adue_sklearn.metrics._calibration import (
    BrierDecomposition,
    brier_decomposition,
    brier_score,
    calibration_error,
    nll_score,
)
from adue_sklearn.metrics._detection import (
    error_average_precision_score,
    error_roc_auc_difference,
    error_roc_auc_interval,
    error_roc_auc_p_value,
    error_roc_auc_score,
    fpr_at_tpr_score,
)
from adue_sklearn.metrics._scorers import (
    ErrorScorer,
    augrc_scorer,
    aurc_scorer,
    coverage_at_risk_scorer,
    eaurc_scorer,
    error_average_precision_scorer,
    error_roc_auc_scorer,
    fpr_at_tpr_scorer,
    prr_scorer,
    risk_at_coverage_scorer,
)
from adue_sklearn.metrics._selective import (
    RiskCoverageCurve,
    augrc_score,
    aurc_score,
    coverage_at_risk_score,
    eaurc_score,
    prr_score,
    risk_at_coverage_score,
    risk_coverage_curve,
)

__all__ = [
    "BrierDecomposition",
    "Difference",
    "ErrorScorer",
    "Estimate",
    "RiskCoverageCurve",
    "augrc_score",
    "augrc_scorer",
    "aurc_score",
    "aurc_scorer",
    "bootstrap_difference",
    "bootstrap_interval",
    "bootstrap_replicates",
    "brier_decomposition",
    "brier_score",
    "calibration_error",
    "coverage_at_risk_score",
    "coverage_at_risk_scorer",
    "eaurc_score",
    "eaurc_scorer",
    "error_average_precision_score",
    "error_average_precision_scorer",
    "error_roc_auc_difference",
    "error_roc_auc_interval",
    "error_roc_auc_p_value",
    "error_roc_auc_score",
    "error_roc_auc_scorer",
    "fpr_at_tpr_score",
    "fpr_at_tpr_scorer",
    "nll_score",
    "prediction_errors",
    "prr_score",
    "prr_scorer",
    "risk_at_coverage_score",
    "risk_at_coverage_scorer",
    "risk_coverage_curve",
]

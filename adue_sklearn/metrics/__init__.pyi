"""What this room offers; every name is loaded when it is first asked for."""

from ._arguments import (
    Estimate as Estimate,
    prediction_errors as prediction_errors,
)
from ._bootstrap import (
    Difference as Difference,
    bootstrap_difference as bootstrap_difference,
    bootstrap_interval as bootstrap_interval,
    bootstrap_replicates as bootstrap_replicates,
)
from ._calibration import (
    BrierDecomposition as BrierDecomposition,
    brier_decomposition as brier_decomposition,
    brier_score as brier_score,
    calibration_error as calibration_error,
    nll_score as nll_score,
)
from ._detection import (
    error_average_precision_score as error_average_precision_score,
    error_roc_auc_difference as error_roc_auc_difference,
    error_roc_auc_interval as error_roc_auc_interval,
    error_roc_auc_p_value as error_roc_auc_p_value,
    error_roc_auc_score as error_roc_auc_score,
    fpr_at_tpr_score as fpr_at_tpr_score,
)
from ._scorers import (
    ErrorScorer as ErrorScorer,
    augrc_scorer as augrc_scorer,
    aurc_scorer as aurc_scorer,
    coverage_at_risk_scorer as coverage_at_risk_scorer,
    eaurc_scorer as eaurc_scorer,
    error_average_precision_scorer as error_average_precision_scorer,
    error_roc_auc_scorer as error_roc_auc_scorer,
    fpr_at_tpr_scorer as fpr_at_tpr_scorer,
    prr_scorer as prr_scorer,
    risk_at_coverage_scorer as risk_at_coverage_scorer,
)
from ._selective import (
    RiskCoverageCurve as RiskCoverageCurve,
    augrc_score as augrc_score,
    aurc_score as aurc_score,
    coverage_at_risk_score as coverage_at_risk_score,
    eaurc_score as eaurc_score,
    prr_score as prr_score,
    risk_at_coverage_score as risk_at_coverage_score,
    risk_coverage_curve as risk_coverage_curve,
)

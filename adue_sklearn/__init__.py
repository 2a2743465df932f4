"""Which answers of a LoRA-tuned text classifier should not be trusted."""

from importlib.metadata import version

from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.automatic import AutoScorer
from adue_sklearn.calibration import ErrorProbability, TemperatureScaling, VectorScaling
from adue_sklearn.comparison import compare_scorers
from adue_sklearn.monitor import RiskMonitor
from adue_sklearn.pipeline import UncertaintyPipeline
from adue_sklearn.scorers import (
    ConfidNetScorer,
    DDUScorer,
    DoctorScorer,
    EnergyScorer,
    EntropyScorer,
    GENScorer,
    HUQScorer,
    KNNScorer,
    LastLayerLaplaceScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MarginScorer,
    MaxLogitPNormScorer,
    MaxLogitScorer,
    RDEScorer,
    RelUScorer,
    SoftmaxResponseScorer,
    StackedScorer,
    TrustScoreScorer,
    ViMScorer,
)
from adue_sklearn.selective import SelectiveClassifier

__version__ = version("adue-sklearn")

__all__ = [
    "AdUEEstimator",
    "AdUESearchCV",
    "AutoScorer",
    "ConfidNetScorer",
    "DDUScorer",
    "DoctorScorer",
    "EnergyScorer",
    "EntropyScorer",
    "ErrorProbability",
    "GENScorer",
    "HUQScorer",
    "KNNScorer",
    "LastLayerLaplaceScorer",
    "LinearProbeScorer",
    "MahalanobisScorer",
    "MarginScorer",
    "MaxLogitPNormScorer",
    "MaxLogitScorer",
    "RDEScorer",
    "RelUScorer",
    "RiskMonitor",
    "SelectiveClassifier",
    "SoftmaxResponseScorer",
    "StackedScorer",
    "TemperatureScaling",
    "TrustScoreScorer",
    "UncertaintyPipeline",
    "VectorScaling",
    "ViMScorer",
    "__version__",
    "compare_scorers",
]

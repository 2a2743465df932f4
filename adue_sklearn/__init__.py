"""Which answers of a LoRA-tuned text classifier should not be trusted."""

from importlib.metadata import version

from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.calibration import ErrorProbability, TemperatureScaling, VectorScaling
from adue_sklearn.pipeline import UncertaintyPipeline
from adue_sklearn.scorers import (
    DoctorScorer,
    EnergyScorer,
    EntropyScorer,
    GENScorer,
    LastLayerLaplaceScorer,
    MahalanobisScorer,
    MarginScorer,
    MaxLogitPNormScorer,
    MaxLogitScorer,
    RelUScorer,
    SoftmaxResponseScorer,
)

__version__ = version("adue-sklearn")

__all__ = [
    "AdUEEstimator",
    "AdUESearchCV",
    "DoctorScorer",
    "EnergyScorer",
    "EntropyScorer",
    "ErrorProbability",
    "GENScorer",
    "LastLayerLaplaceScorer",
    "MahalanobisScorer",
    "MarginScorer",
    "MaxLogitPNormScorer",
    "MaxLogitScorer",
    "RelUScorer",
    "SoftmaxResponseScorer",
    "TemperatureScaling",
    "UncertaintyPipeline",
    "VectorScaling",
    "__version__",
]

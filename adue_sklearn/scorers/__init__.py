"""What AdUE is compared with."""

from adue_sklearn.scorers.laplace import LastLayerLaplaceScorer
from adue_sklearn.scorers.logits import (
    DoctorScorer,
    EnergyScorer,
    EntropyScorer,
    GENScorer,
    MarginScorer,
    MaxLogitPNormScorer,
    MaxLogitScorer,
    RelUScorer,
    SoftmaxResponseScorer,
)
from adue_sklearn.scorers.mahalanobis import MahalanobisScorer

__all__ = [
    "DoctorScorer",
    "EnergyScorer",
    "EntropyScorer",
    "GENScorer",
    "LastLayerLaplaceScorer",
    "MahalanobisScorer",
    "MarginScorer",
    "MaxLogitPNormScorer",
    "MaxLogitScorer",
    "RelUScorer",
    "SoftmaxResponseScorer",
]

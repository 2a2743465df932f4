"""What AdUE is compared with."""

from adue_sklearn.scorers.density import DDUScorer, RDEScorer
from adue_sklearn.scorers.hybrid import HUQScorer
from adue_sklearn.scorers.laplace import LastLayerLaplaceScorer
from adue_sklearn.scorers.learned import ConfidNetScorer, LinearProbeScorer, StackedScorer
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
from adue_sklearn.scorers.neighbours import KNNScorer, TrustScoreScorer
from adue_sklearn.scorers.subspace import ViMScorer

__all__ = [
    "ConfidNetScorer",
    "DDUScorer",
    "DoctorScorer",
    "EnergyScorer",
    "EntropyScorer",
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
    "SoftmaxResponseScorer",
    "StackedScorer",
    "TrustScoreScorer",
    "ViMScorer",
]

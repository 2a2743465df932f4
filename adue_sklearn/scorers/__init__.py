"""What AdUE is compared with."""

from adue_sklearn.scorers.companions import CompanionScorer, SidekickScorer
from adue_sklearn.scorers.density import DDUScorer, RDEScorer
from adue_sklearn.scorers.hybrid import HUQScorer
from adue_sklearn.scorers.label_probes import LayerProbeScorer
from adue_sklearn.scorers.laplace import LastLayerLaplaceScorer
from adue_sklearn.scorers.learned import ConfidNetScorer, LinearProbeScorer
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
from adue_sklearn.scorers.opinions import SecondOpinionScorer
from adue_sklearn.scorers.stacks import StackedScorer
from adue_sklearn.scorers.subspace import ViMScorer
from adue_sklearn.scorers.text_classifier import TfidfClassifier

__all__ = [
    "CompanionScorer",
    "ConfidNetScorer",
    "DDUScorer",
    "DoctorScorer",
    "EnergyScorer",
    "EntropyScorer",
    "GENScorer",
    "HUQScorer",
    "KNNScorer",
    "LastLayerLaplaceScorer",
    "LayerProbeScorer",
    "LinearProbeScorer",
    "MahalanobisScorer",
    "MarginScorer",
    "MaxLogitPNormScorer",
    "MaxLogitScorer",
    "RDEScorer",
    "RelUScorer",
    "SecondOpinionScorer",
    "SidekickScorer",
    "SoftmaxResponseScorer",
    "StackedScorer",
    "TfidfClassifier",
    "TrustScoreScorer",
    "ViMScorer",
]

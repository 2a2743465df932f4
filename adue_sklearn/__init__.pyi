"""What the package offers; every name is loaded when it is first asked for."""

from . import (
    adue as adue,
    base as base,
    calibration as calibration,
    card as card,
    comparison as comparison,
    datasets as datasets,
    exceptions as exceptions,
    features as features,
    metrics as metrics,
    model_selection as model_selection,
    monitor as monitor,
    persistence as persistence,
    pipeline as pipeline,
    plotting as plotting,
    report as report,
    scorers as scorers,
    selective as selective,
    serving as serving,
    thresholds as thresholds,
)
from ._utils.head import Head as Head
from ._utils.views import Views as Views
from .adue import (
    AdUEEstimator as AdUEEstimator,
    AdUESearchCV as AdUESearchCV,
)
from .calibration import (
    ErrorProbability as ErrorProbability,
    TemperatureScaling as TemperatureScaling,
    VectorScaling as VectorScaling,
)
from .comparison import (
    AutoScorer as AutoScorer,
    compare_scorers as compare_scorers,
)
from .monitor import RiskMonitor as RiskMonitor
from .pipeline import UncertaintyPipeline as UncertaintyPipeline
from .scorers import (
    CompanionScorer as CompanionScorer,
    ConfidNetScorer as ConfidNetScorer,
    DDUScorer as DDUScorer,
    DoctorScorer as DoctorScorer,
    EnergyScorer as EnergyScorer,
    EntropyScorer as EntropyScorer,
    GENScorer as GENScorer,
    HUQScorer as HUQScorer,
    KNNScorer as KNNScorer,
    LastLayerLaplaceScorer as LastLayerLaplaceScorer,
    LayerProbeScorer as LayerProbeScorer,
    LinearProbeScorer as LinearProbeScorer,
    MahalanobisScorer as MahalanobisScorer,
    MarginScorer as MarginScorer,
    MaxLogitPNormScorer as MaxLogitPNormScorer,
    MaxLogitScorer as MaxLogitScorer,
    RDEScorer as RDEScorer,
    RelUScorer as RelUScorer,
    SecondOpinionScorer as SecondOpinionScorer,
    SidekickScorer as SidekickScorer,
    SoftmaxResponseScorer as SoftmaxResponseScorer,
    StackedScorer as StackedScorer,
    TrustScoreScorer as TrustScoreScorer,
    ViMScorer as ViMScorer,
)
from .selective import SelectiveClassifier as SelectiveClassifier

__version__: str

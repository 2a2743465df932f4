"""What this room offers; every name is loaded when it is first asked for."""

from ._comparison import (
    ComparisonDisplay as ComparisonDisplay,
)
from ._ranking import (
    ErrorRocDisplay as ErrorRocDisplay,
    RiskCoverageDisplay as RiskCoverageDisplay,
    ScoreHistogramDisplay as ScoreHistogramDisplay,
)
from ._reliability import (
    ReliabilityDisplay as ReliabilityDisplay,
)
from ._threshold import (
    ThresholdDisplay as ThresholdDisplay,
)

"""Compare scores on rows that none of them has seen, and choose among them."""

from adue_sklearn.comparison.automatic import AutoScorer
from adue_sklearn.comparison.compare import compare_scorers, default_scorers
from adue_sklearn.comparison.result import Comparison, ScoreResult

__all__ = ["AutoScorer", "Comparison", "ScoreResult", "compare_scorers", "default_scorers"]

"""Calibrated probabilities of classes and of an error."""

from adue_sklearn.calibration.estimators import (
    ErrorProbability,
    TemperatureScaling,
    VectorScaling,
)

__all__ = ["ErrorProbability", "TemperatureScaling", "VectorScaling"]

"""The package's own classes of errors and warnings.

Every error is also a ``ValueError``, or a ``RuntimeError`` if the model itself went wrong; every
warning is a ``UserWarning``.

Examples
--------
To raise an error whenever labels and head seem to be in different orders:

>>> import warnings
>>> from adue_sklearn.exceptions import LabelOrderWarning
>>> with warnings.catch_warnings():
...     warnings.simplefilter("error", LabelOrderWarning)
"""

__all__ = [
    "ChangedFeaturesWarning",
    "ClassSharesWarning",
    "FeatureMismatchError",
    "FitRowsWarning",
    "HeadError",
    "LabelOrderWarning",
    "MissingClassesWarning",
    "MissingViewWarning",
    "ModelMismatchError",
    "OutputError",
    "SingularCovarianceError",
    "StoreError",
    "WitnessDriftWarning",
]


class HeadError(ValueError):
    """The model has no linear layer whose output is its logits."""


class FeatureMismatchError(RuntimeError):
    """Features and head do not give the logits that the model returned."""


class ModelMismatchError(ValueError):
    """Features of one model were used with an uncertainty head of another."""


class StoreError(ValueError):
    """A feature store cannot be read or written; the message names the file and the remedy."""


class OutputError(OSError, ValueError):
    """A file cannot be written; the message names the file and the remedy."""


class MissingViewWarning(UserWarning):
    """A score that reads a second view of the rows was fitted without it."""


class WitnessDriftWarning(UserWarning):
    """A second opinion agrees with the original head less than on the fit rows."""


class SingularCovarianceError(ValueError):
    """A covariance has no inverse."""


class FitRowsWarning(UserWarning):
    """The fit rows are inconsistent with the head or incomplete."""


class MissingClassesWarning(FitRowsWarning):
    """Some of the head's classes do not occur in the rows."""


class ClassSharesWarning(FitRowsWarning):
    """A head predicts a class far more often than it occurs in the rows."""


class ChangedFeaturesWarning(FitRowsWarning):
    """Features seem to have been scaled before they reached a given head."""


class LabelOrderWarning(FitRowsWarning):
    """Labels and a head's rows seem to be in different orders."""

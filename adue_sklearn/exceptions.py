"""All errors and warnings of the package that have a class of their own.

Every error is a ``ValueError`` besides, or a ``RuntimeError`` where the model itself went wrong;
every warning a ``UserWarning``.

Examples
--------
To stop wherever labels and head seem to be in different orders:

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
    "ModelMismatchError",
    "OutputError",
    "SingularCovarianceError",
    "StoreError",
]


class HeadError(ValueError):
    """The model has no linear layer whose output is its logits."""


class FeatureMismatchError(RuntimeError):
    """Features and head do not give the logits that the model returned."""


class ModelMismatchError(ValueError):
    """Features of one model met an uncertainty head of another."""


class StoreError(ValueError):
    """A feature store cannot be read or written; the message names the file and the mend."""


class OutputError(OSError, ValueError):
    """A file cannot be written; the message names it and says how to mend that."""


class SingularCovarianceError(ValueError):
    """A covariance has no inverse."""


class FitRowsWarning(UserWarning):
    """The rows of a fit do not fit together with the head, or leave something out."""


class MissingClassesWarning(FitRowsWarning):
    """Rows hold no example of some of the head's classes."""


class ClassSharesWarning(FitRowsWarning):
    """A head answers a class far more often than it occurs among the rows."""


class ChangedFeaturesWarning(FitRowsWarning):
    """Features look as if a scaler had changed them on their way to a given head."""


class LabelOrderWarning(FitRowsWarning):
    """Labels and a head's rows look as if they were in different orders."""

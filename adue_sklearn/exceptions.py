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

from adue_sklearn._utils.files import OutputError
from adue_sklearn._utils.fit_rows import (
    ChangedFeaturesWarning,
    ClassSharesWarning,
    FitRowsWarning,
    MissingClassesWarning,
)
from adue_sklearn._utils.label_order import LabelOrderWarning
from adue_sklearn.features import FeatureMismatchError, HeadError
from adue_sklearn.features._store.files import StoreError
from adue_sklearn.persistence import ModelMismatchError
from adue_sklearn.scorers.mahalanobis import SingularCovarianceError

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

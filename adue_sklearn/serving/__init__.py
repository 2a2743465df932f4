"""A classifier with its uncertainty, served: as an ordinary checkpoint, or as one object."""

from adue_sklearn.serving.callback import UncertaintyCallback
from adue_sklearn.serving.classifier import Answer, UncertaintyClassifier
from adue_sklearn.serving.pipeline import UncertaintyClassificationPipeline
from adue_sklearn.serving.stacked import export_stacked

__all__ = [
    "Answer",
    "UncertaintyCallback",
    "UncertaintyClassificationPipeline",
    "UncertaintyClassifier",
    "export_stacked",
]

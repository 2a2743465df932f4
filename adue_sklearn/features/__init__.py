"""From a LoRA text classifier to arrays: find its head, extract features, store them.

A store is read without transformers: what needs it is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adue_sklearn.features.store import FeatureStore, FeatureStoreWriter, StoreError

if TYPE_CHECKING:
    from adue_sklearn.features.extractor import (
        FeatureBatch,
        compute_features,
        extract_features,
        iter_features,
        stream_features,
    )
    from adue_sklearn.features.heads import FeatureMismatchError, Head, HeadError
    from adue_sklearn.features.loading import LoadedClassifier, load_classifier

_MODULES = {
    "FeatureBatch": "extractor",
    "compute_features": "extractor",
    "extract_features": "extractor",
    "iter_features": "extractor",
    "stream_features": "extractor",
    "FeatureMismatchError": "heads",
    "Head": "heads",
    "HeadError": "heads",
    "LoadedClassifier": "loading",
    "load_classifier": "loading",
    "LoraFeatureExtractor": "transformer",
}

__all__ = [
    "FeatureBatch",
    "FeatureMismatchError",
    "FeatureStore",
    "FeatureStoreWriter",
    "Head",
    "HeadError",
    "LoadedClassifier",
    "LoraFeatureExtractor",
    "StoreError",
    "compute_features",
    "extract_features",
    "iter_features",
    "load_classifier",
    "stream_features",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""What the rooms of this one offer."""

from ._model.loading import (
    LoadedClassifier as LoadedClassifier,
    load_classifier as load_classifier,
)
from ._store.store import (
    FeatureStore as FeatureStore,
    FeatureStoreWriter as FeatureStoreWriter,
)
from .extractor import (
    FeatureBatch as FeatureBatch,
    compute_features as compute_features,
    extract_features as extract_features,
    iter_features as iter_features,
    stream_features as stream_features,
)
from .transformer import LoraFeatureExtractor as LoraFeatureExtractor

"""What the rooms of this one offer."""

from ._model.loading import (
    LoadedClassifier as LoadedClassifier,
    load_classifier as load_classifier,
)
from ._model.views import (
    ModelViews as ModelViews,
    TextView as TextView,
)
from ._store.store import (
    FeatureStore as FeatureStore,
    FeatureStoreWriter as FeatureStoreWriter,
)
from .extractor import (
    FeatureBatch as FeatureBatch,
    compute_features as compute_features,
    compute_views as compute_views,
    extract_features as extract_features,
    iter_features as iter_features,
    stream_features as stream_features,
)
from .transformer import LoraFeatureExtractor as LoraFeatureExtractor

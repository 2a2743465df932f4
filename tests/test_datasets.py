"""The case that ships: numbers that belong together, and the model they came from."""

from __future__ import annotations

import numpy as np
import pytest

from adue_sklearn.datasets import minilm_path, movie_sentiment_adapter_path


def test_shapes_dtypes_and_error_rates_are_those_of_a_real_case(movie):
    assert movie.init_W.shape == (2, 384)
    assert movie.classes == ["negative", "positive"]
    for split, rows in ((movie.train, 1000), (movie.calibration, 2256), (movie.test, 1821)):
        assert split.features.shape == (rows, 384)
        assert split.features.dtype == np.float16
        logits = split.features.astype(np.float32) @ movie.init_W.T + movie.init_b
        assert (logits.argmax(axis=1) != split.labels).mean() < 0.25


def test_the_shipped_files_stay_small():
    folder = movie_sentiment_adapter_path()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_000_000
    assert (folder.parent / "movie_sentiment.safetensors").stat().st_size <= 4_000_000


def test_the_adapter_on_its_base_has_the_shipped_head(movie):
    from adue_sklearn.features import compute_features, load_classifier

    classifier = load_classifier(
        movie_sentiment_adapter_path(), base_model=minilm_path(), max_length=64, device="cpu"
    )
    np.testing.assert_allclose(classifier.head.init_W, movie.init_W, atol=1e-6)
    _, logits = compute_features(classifier, ["a wonderful film", "a dreadful bore"])
    assert logits.argmax(axis=1).tolist() == [1, 0]


def test_a_missing_base_package_says_how_to_install_it(monkeypatch):
    from importlib import resources

    def not_there(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(resources, "files", not_there)
    with pytest.raises(ModuleNotFoundError, match=r"adue-sklearn\[demo\]"):
        minilm_path()

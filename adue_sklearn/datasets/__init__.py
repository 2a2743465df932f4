"""A small real case that ships with the package."""

from __future__ import annotations

from adue_sklearn.datasets._movie_sentiment import (
    MovieSentiment,
    Split,
    load_movie_sentiment,
    minilm_path,
    movie_sentiment_adapter_path,
)

__all__ = [
    "MovieSentiment",
    "Split",
    "load_movie_sentiment",
    "minilm_path",
    "movie_sentiment_adapter_path",
]

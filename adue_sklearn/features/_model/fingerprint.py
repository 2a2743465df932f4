"""What tells one extraction from another: hashes of texts, labels and what the tokenizer makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn.features._model.batching import encode
from adue_sklearn.features._model.loading import LoadedClassifier

_SAMPLE = 256  # texts


def fingerprint(
    classifier: LoadedClassifier,
    texts: Sequence[str],
    labels: npt.NDArray[np.int64] | None,
    rows: Sequence[int],
) -> dict[str, Any]:
    """Return what tells the input of this extraction from that of any other.

    ``rows`` are the numbers of the texts in the input, from which others may have been left out.
    """
    content = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        content.update(len(encoded).to_bytes(8, "little") + encoded)
    # Tokenizers have no name that can be trusted, but what they do to some texts tells them apart.
    some = encode(
        classifier.tokenizer,
        texts[:_SAMPLE],
        classifier.max_length,
        classifier.vocabulary,
        rows[:_SAMPLE],
    )
    tokens = json.dumps([some.columns[name] for name in sorted(some.columns)])
    record: dict[str, Any] = {
        "n_rows": len(texts),
        "texts_sha256": content.hexdigest(),
        "labels_sha256": None
        if labels is None
        else hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        "tokens_sha256": hashlib.sha256(tokens.encode()).hexdigest(),
    }
    if list(rows) != list(range(len(rows))):
        record["skip_empty"] = True
        record["row_numbers_sha256"] = hashlib.sha256(np.array(rows, "<i8").tobytes()).hexdigest()
    return record

"""Which rows something was fitted on, in a form that can be kept: six bytes a row."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

_BYTES = 6


def row_digests(features: npt.NDArray[Any]) -> str:
    """Return digests of the rows as text; of float32 features such as a store's."""
    return base64.b64encode(b"".join(sorted(_digests(features)))).decode("ascii")


def rows_among(features: npt.NDArray[Any], digests: str) -> npt.NDArray[np.bool_]:
    """Return which rows have a digest that is among ``digests``.

    A row that is not may be taken for one with a chance of one in 10^14 for each digest.
    """
    content = base64.b64decode(digests, validate=True)
    known = {content[i : i + _BYTES] for i in range(0, len(content), _BYTES)}
    return np.array([digest in known for digest in _digests(features)], dtype=bool)


def _digests(features: npt.NDArray[Any]) -> list[bytes]:
    return [
        hashlib.blake2b(row.tobytes(), digest_size=_BYTES).digest()
        for row in np.asarray(features, dtype=np.float32)
    ]

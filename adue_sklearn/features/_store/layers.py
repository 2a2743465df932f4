"""The layers of a head as arrays: checked, applied, and laid out in a feature store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.head import Head, two_rows
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.checks import array
from adue_sklearn.features._store.files import Arrays

FloatArray = npt.NDArray[np.float32]


def check_layers(init_W: Any, init_b: Any, activation: str | None) -> Head:
    """Return the head of arguments, in float32: a matrix and a bias, or lists of them.

    One row becomes the two rows of a softmax.
    """
    if isinstance(init_W, Head):
        init_W, init_b, activation = init_W.init_W, init_W.init_b, init_W.activation
    try:
        head = Head.of(init_W, init_b, activation=activation)
    except (TypeError, ValueError) as error:
        raise StoreError(str(error)) from error
    return replace(
        head,
        weights=tuple(array("init_W", W, "f", (None, None)) for W in head.weights),
        biases=tuple(None if b is None else array("init_b", b, "f", b.shape) for b in head.biases),
    )


def head_from_tensors(tensors: Arrays, activation: str | None) -> Head:
    """Return the head whose layers :func:`head_tensors` named."""
    several = range(sum(name.startswith("W") for name in tensors))
    numbers = [""] if activation is None else list(map(str, several))
    weights = [tensors[f"W{number}"] for number in numbers]
    biases = [tensors.get(f"b{number}") for number in numbers]
    if len(weights[-1]) == 1:
        weights[-1], biases[-1] = two_rows(weights[-1], biases[-1])
    return Head(tuple(weights), tuple(biases), np.arange(len(weights[-1])), activation)


def head_tensors(head: Head) -> Arrays:
    """Name the arrays as in a store: W and b, or W0, b0, W1, b1 of several layers."""
    numbers = [""] if head.activation is None else map(str, range(len(head.weights)))
    tensors: Arrays = {}
    for number, W, b in zip(numbers, head.weights, head.biases, strict=True):
        tensors[f"W{number}"] = W
        if b is not None:
            tensors[f"b{number}"] = b
    return tensors


def head_facts(head: Head) -> dict[str, Any]:
    """Return what the manifest says of the head beside its file."""
    bias = head.biases[-1] is not None
    if head.activation is None:
        return {"bias": bias}
    layers = [
        {"n_out": W.shape[0], "n_in": W.shape[1], "bias": b is not None}
        for W, b in zip(head.weights, head.biases, strict=True)
    ]
    return {"bias": bias, "activation": head.activation, "layers": layers}

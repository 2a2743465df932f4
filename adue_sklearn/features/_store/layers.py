"""The layers of a head as arrays: checked, applied, and laid out in a feature store."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.head import ACTIVATIONS, Head, is_list_of_layers, two_rows
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.checks import array
from adue_sklearn.features._store.files import Arrays

FloatArray = npt.NDArray[np.float32]


def check_layers(init_W: Any, init_b: Any, activation: str | None) -> Head:
    """Return the head of arguments, in float32: a matrix and a bias, or lists of them.

    One row, the logit of two classes, becomes two, as in an estimator's ``fit``. A ``Head`` in
    ``init_W``'s place is taken as it is.
    """
    if isinstance(init_W, Head):
        init_W, init_b, activation = init_W.init_W, init_W.init_b, init_W.activation
    several = is_list_of_layers(init_W) and len(init_W) > 1
    _check_activation(activation, len(init_W) if several else 1)
    if not is_list_of_layers(init_W):
        W = _matrix("init_W", init_W)
        return _head_of([W], [None if init_b is None else _bias("init_b", init_b, len(W))], None)
    given = [None] * len(init_W) if init_b is None else init_b
    if not isinstance(given, list | tuple) or len(given) != len(init_W):
        raise StoreError(
            f"init_b: expected a list of {len(init_W)}, one bias (or None) for each layer of "
            f"init_W, got {_describe(given)}."
        )
    weights: list[FloatArray] = []
    biases: list[FloatArray | None] = []
    for number, (layer, bias) in enumerate(zip(init_W, given, strict=True)):
        width = len(weights[-1]) if weights else None
        W = array(f"init_W[{number}]", layer, "f", (None, width))
        weights.append(W)
        named = f"init_b[{number}]"
        biases.append(None if bias is None else _bias(named, bias, len(W)))
    return _head_of(weights, biases, activation)


def _head_of(
    weights: list[FloatArray], biases: list[FloatArray | None], activation: str | None
) -> Head:
    if len(weights[-1]) == 1:
        weights[-1], biases[-1] = two_rows(weights[-1], biases[-1])
    return Head(tuple(weights), tuple(biases), np.arange(len(weights[-1])), activation)


def head_from_tensors(tensors: Arrays, activation: str | None) -> Head:
    """Return the head whose layers :func:`head_tensors` named."""
    if activation is None:
        return _head_of([tensors["W"]], [tensors.get("b")], None)
    numbers = range(sum(name.startswith("W") for name in tensors))
    return _head_of(
        [tensors[f"W{number}"] for number in numbers],
        [tensors.get(f"b{number}") for number in numbers],
        activation,
    )


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


def _matrix(name: str, W: Any) -> FloatArray:
    """Return a matrix; a vector is the one row of two classes."""
    if _n_dimensions(W) == 1:
        return array(name, W, "f", (None,))[np.newaxis]
    return array(name, W, "f", (None, None))


def _bias(name: str, b: Any, n_rows: int) -> FloatArray:
    """Return a bias; a number will do for one row."""
    if n_rows == 1 and _n_dimensions(b) == 0:
        return array(name, b, "f", ())[np.newaxis]
    return array(name, b, "f", (n_rows,))


def _n_dimensions(values: Any) -> int:
    try:
        return as_numpy(values).ndim
    except (ValueError, TypeError):  # said by whoever takes them for an array
        return -1


def _check_activation(activation: Any, n_layers: int) -> None:
    known = ", ".join(map(repr, ACTIVATIONS))
    if n_layers == 1 and activation is not None:
        raise StoreError(
            f"activation: it stands between the layers of a head, but init_W has one; expected "
            f"None, got {activation!r}."
        )
    if n_layers > 1 and not (isinstance(activation, str) and activation in ACTIVATIONS):
        raise StoreError(
            f"activation: init_W has {n_layers} layers; expected what lies between them, one of "
            f"{known}, got {activation!r}."
        )


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return type(value).__name__

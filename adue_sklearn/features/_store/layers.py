"""The layers of a head as arrays: checked, applied, and laid out in a feature store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.head import ACTIVATIONS, apply_head, is_list_of_layers, two_rows
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.checks import array
from adue_sklearn.features._store.files import Arrays

FloatArray = npt.NDArray[np.float32]


def apply_layers(
    features: npt.NDArray[Any],
    weights: Sequence[npt.NDArray[Any]],
    biases: Sequence[npt.NDArray[Any] | None],
    activation: str | None,
) -> npt.NDArray[np.float64]:
    """Return the logits (n, C) that layers make of features (n, d), in float64."""
    logits = apply_head(
        _float64(features),
        [_float64(W) for W in weights],
        [None if b is None else _float64(b) for b in biases],
        activation,
    )
    result: npt.NDArray[np.float64] = logits.numpy()
    return result


def _float64(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


class HeadLayers(NamedTuple):
    """The head of a feature store, first layer first.

    Attributes
    ----------
    weights : tuple of ndarray of shape (n_out, n_in), float32
        Weights of each layer.
    biases : tuple of (ndarray of shape (n_out,), float32, or None)
        Bias of each layer.
    activation : {"tanh", "gelu", "relu"} or None
        What lies between the layers; None where there is one.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray | None, ...]
    activation: str | None

    @classmethod
    def check(cls, init_W: Any, init_b: Any, activation: str | None) -> Self:
        """Return the layers of arguments: a matrix and a bias, or lists of them.

        One row, the logit of two classes, becomes two, as in an estimator's ``fit``.
        """
        several = is_list_of_layers(init_W) and len(init_W) > 1
        _check_activation(activation, len(init_W) if several else 1)
        if not is_list_of_layers(init_W):
            W = _matrix("init_W", init_W)
            b = None if init_b is None else _bias("init_b", init_b, len(W))
            return cls(*_with_two_rows((W,), (b,)), None)
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
        return cls(*_with_two_rows(tuple(weights), tuple(biases)), activation)

    @classmethod
    def from_tensors(cls, tensors: Arrays, activation: str | None) -> Self:
        """Return the layers that `tensors` named."""
        if activation is None:
            return cls((tensors["W"],), (tensors.get("b"),), None)
        numbers = range(sum(name.startswith("W") for name in tensors))
        return cls(
            tuple(tensors[f"W{number}"] for number in numbers),
            tuple(tensors.get(f"b{number}") for number in numbers),
            activation,
        )

    @property
    def n_features(self) -> int:
        """Inputs of the first layer."""
        return int(self.weights[0].shape[1])

    @property
    def n_classes(self) -> int:
        """Outputs of the last layer."""
        return len(self.weights[-1])

    @property
    def init_W(self) -> Any:
        """Weights as estimators take them: a matrix, or a list where there are several layers."""
        return self.weights[0] if self.activation is None else list(self.weights)

    @property
    def init_b(self) -> Any:
        """Biases as estimators take them."""
        return self.biases[0] if self.activation is None else list(self.biases)

    def logits(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the logits (n, C) of features (n, d)."""
        return apply_layers(features, self.weights, self.biases, self.activation)

    def tensors(self) -> Arrays:
        """Name the arrays as in a store: W and b, or W0, b0, W1, b1 of several layers."""
        numbers = [""] if self.activation is None else map(str, range(len(self.weights)))
        tensors: Arrays = {}
        for number, W, b in zip(numbers, self.weights, self.biases, strict=True):
            tensors[f"W{number}"] = W
            if b is not None:
                tensors[f"b{number}"] = b
        return tensors

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the head beside its file."""
        bias = self.biases[-1] is not None
        if self.activation is None:
            return {"bias": bias}
        layers = [
            {"n_out": W.shape[0], "n_in": W.shape[1], "bias": b is not None}
            for W, b in zip(self.weights, self.biases, strict=True)
        ]
        return {"bias": bias, "activation": self.activation, "layers": layers}


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


def _with_two_rows(
    weights: tuple[FloatArray, ...], biases: tuple[FloatArray | None, ...]
) -> tuple[tuple[FloatArray, ...], tuple[FloatArray | None, ...]]:
    if len(weights[-1]) > 1:
        return weights, biases
    W, b = two_rows(weights[-1], biases[-1])
    return (*weights[:-1], W), (*biases[:-1], b)


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

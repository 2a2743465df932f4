"""What a classification head is, and whether features and head give a model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from adue_sklearn._utils.head import ACTIVATIONS, Head
from adue_sklearn.exceptions import FeatureMismatchError

FloatArray = npt.NDArray[np.float32]
#: The steepest slope of the activations is the gelu's.
_STEEPEST = 1.13


class Layer(NamedTuple):
    """A linear layer of a head: its name in the model, W (n_out, n_in), b (n_out,) or None."""

    module: str
    W: FloatArray
    b: FloatArray | None


@dataclass(frozen=True, eq=False)
class FoundHead(Head):
    """A head where it was found in a model: its last linear layer or all that were asked for.

    Its weights are in the precision the model runs in, stored as float32.

    Attributes
    ----------
    modules : tuple of str
        Names of the layers in the model, first layer first.
    per_token : bool
        Whether the model applies the last layer to every token and pools afterwards.
    """

    modules: tuple[str, ...] = ()
    per_token: bool = False

    @classmethod
    def of_layers(
        cls, layers: Sequence[Layer], *, activation: str | None = None, per_token: bool = False
    ) -> FoundHead:
        """Return the head that layers make, first layer first."""
        modules, weights, biases = zip(*layers, strict=True)
        classes = np.arange(len(weights[-1]))
        return cls(weights, biases, classes, activation, modules=modules, per_token=per_token)

    @property
    def module(self) -> str:
        """Name of the last linear layer."""
        return self.modules[-1]

    @property
    def layers(self) -> list[Layer]:
        """Every layer, first layer first."""
        return [*map(Layer, self.modules, self.weights, self.biases)]


def check_batch(
    head: FoundHead,
    features: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    eps: float,
) -> None:
    """Check that the head makes the model's logits of the features, within the precision.

    With one layer that is ``features @ W.T + b``; the tolerance of one logit
    ``z = sum_j h_j w_j + b`` is::

        4 * eps * (|z| + |b| + sqrt(sum_j (h_j w_j)^2))  +  sqrt(d) * eps32 * sum_j |h_j w_j|

    The first term is rounding in the precision of the model: of the result, the bias, and partial
    sums, which are of the size of a random walk over the products. The second is the accumulation
    over d products, which matrix units do in float32 also for half-precision inputs. In a head of
    several layers each adds its own, and hands on that of the layer before as a random walk.

    Parameters
    ----------
    head : Head
        The head.
    features : ndarray of shape (B, d)
        What entered its first layer.
    logits : ndarray of shape (B, C)
        The model's own logits.
    rows : ndarray of shape (B,) of int
        Row numbers, for the message.
    eps : float
        Machine epsilon of the precision in which the head ran.

    Raises
    ------
    FeatureMismatchError
        Naming the layer, the rows, and how far off they are.
    """
    finite = np.isfinite(features).all(axis=1) & np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise FeatureMismatchError(
            f"NaN or inf in the features or logits at '{head.module}' in rows "
            f"{some_rows(rows[~finite])}: the model overflows in this precision or its weights are "
            "damaged. Try dtype=torch.float32."
        )
    off = np.abs(head_logits(head, features) - logits)
    excess = off - logit_tolerance(head, features, eps)
    wrong = (excess > 0).any(axis=1)
    if wrong.any():
        raise FeatureMismatchError(
            f"{_formula(head)} differs from the model's logits: layer '{head.module}', rows "
            f"{some_rows(rows[wrong])}, off by up to {off[wrong].max():.3g} (tolerance "
            f"{(off - excess)[wrong].min():.3g}). The head was changed after loading, or the model "
            "does something between this layer and its logits."
        )


def head_logits(head: FoundHead, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the logits (B, C) that the head makes of features, in float64."""
    logits: npt.NDArray[np.float64] = head.logits(features, "cpu").numpy()
    return logits


def logit_tolerance(
    head: FoundHead, features: npt.NDArray[Any], eps: float
) -> npt.NDArray[np.float64]:
    """Return the tolerance (B, C) of `check_batch`."""
    hidden = features.astype(np.float64)
    off = np.zeros_like(hidden)
    for number, layer in enumerate(head.layers):
        if number:
            hidden = _activate(hidden, str(head.activation))
            off = _STEEPEST * off + eps * np.abs(hidden)
        W = layer.W.astype(np.float64)
        accumulation = np.sqrt(hidden.shape[1]) * np.finfo(np.float32).eps
        handed_on = np.sqrt(np.square(off) @ np.square(W.T))
        off = 4 * eps * _scale(layer, hidden) + accumulation * (np.abs(hidden) @ np.abs(W.T))
        off += handed_on
        hidden = _apply(layer, hidden)
    return off


def logit_scale(head: FoundHead, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return what a relative rounding of a logit refers to: ``|z| + |b| + |h * w|`` (B, C).

    ``h`` is what enters the last layer.
    """
    hidden = features.astype(np.float64)
    for layer in head.layers[:-1]:
        hidden = _activate(_apply(layer, hidden), str(head.activation))
    return _scale(head.layers[-1], hidden)


def _scale(layer: Layer, hidden: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    bias = 0.0 if layer.b is None else np.abs(layer.b.astype(np.float64))
    walk = np.sqrt(np.square(hidden) @ np.square(layer.W.T.astype(np.float64)))
    scale: npt.NDArray[np.float64] = np.abs(_apply(layer, hidden)) + bias + walk
    return scale


def _apply(layer: Layer, hidden: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    z: npt.NDArray[np.float64] = hidden @ layer.W.T.astype(np.float64)
    return z if layer.b is None else z + layer.b


def _activate(hidden: npt.NDArray[np.float64], activation: str) -> npt.NDArray[np.float64]:
    activated: npt.NDArray[np.float64] = ACTIVATIONS[activation](torch.from_numpy(hidden)).numpy()
    return activated


def _formula(head: FoundHead) -> str:
    if head.is_linear:
        return "features @ W.T + b"
    return f"{head.activation} between the {len(head.layers)} layers of the head"


def some_rows(rows: Any) -> str:
    """List the first few row numbers, for a message."""
    listed = [int(row) for row in rows]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{listed[:5]}{more}"

"""Find the last linear layer of a classification head and read what enters it.

One mechanism for every architecture: forward hooks on the linear layers that have as many outputs
as there are classes. The layer whose own output is the model's logits is the last one. Where the
head is applied to every token (LLaMA, Qwen, GPT-2), the pooled position is the one whose output
the model returned; no rule about padding has to be guessed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Inputs = Mapping[str, torch.Tensor]


class HeadError(ValueError):
    """The model has no linear layer whose output is its logits."""


class FeatureMismatchError(RuntimeError):
    """Features and head do not give the logits that the model returned."""


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer of a classification head: ``logits = features @ W.T + b``.

    Attributes
    ----------
    module : str
        Name of the layer in the model.
    W : ndarray of shape (C, d), float32
        Weights, in the precision the model runs in, stored as float32.
    b : ndarray of shape (C,), float32, or None
        Bias.
    per_token : bool
        Whether the model applies the layer to every token and pools afterwards.
    """

    module: str
    W: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32] | None
    per_token: bool = False


def find_head(model: Any, inputs: Inputs) -> Head:
    """Find the linear layer whose own output is the model's logits.

    Parameters
    ----------
    model : PreTrainedModel
        A sequence classifier in evaluation mode, adapters merged.
    inputs : mapping of str to Tensor
        A padded batch of two or more texts of different length.

    Returns
    -------
    Head

    Raises
    ------
    HeadError
        No layer qualifies; the message lists the candidates and why each failed.
    """
    n_classes = int(model.config.num_labels)
    candidates = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == n_classes
    }
    logits, seen = _forward(model, inputs, candidates)
    found = [name for name, (_, output) in seen.items() if _rows_matched(output, logits).all()]
    if not found:
        raise HeadError(_no_head_message(model, n_classes, candidates, seen, logits))
    name = found[-1]
    layer = candidates[name]
    return Head(
        module=name,
        W=_numpy(layer.weight),
        b=None if layer.bias is None else _numpy(layer.bias),
        per_token=seen[name][1].ndim == 3,
    )


def run_head(
    model: nn.Module, head: Head, inputs: Inputs
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Run one batch; return what enters the head's last linear layer, and the model's logits.

    Parameters
    ----------
    model : nn.Module
        The model that `head` was found in.
    head : Head
        Its head.
    inputs : mapping of str to Tensor
        A padded batch of B texts.

    Returns
    -------
    features : ndarray of shape (B, d), float32
        The layer's input, at the pooled position if the layer sees every token.
    logits : ndarray of shape (B, C), float32
        The model's own output.

    Raises
    ------
    FeatureMismatchError
        The layer's output is not what the model returned.
    """
    layers = {head.module: model.get_submodule(head.module)}
    logits, seen = _forward(model, inputs, layers)
    if head.module not in seen:
        raise FeatureMismatchError(f"The model no longer calls its head '{head.module}'.")
    hidden, output = seen[head.module]
    if output.ndim == 3:
        hidden = _at_pooled_position(model, head, inputs, hidden, output, logits)
    elif not _rows_matched(output, logits).all():
        raise FeatureMismatchError(f"The output of '{head.module}' is not the model's logits.")
    return _numpy(hidden), _numpy(logits)


def check_batch(
    head: Head,
    features: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    eps: float,
) -> None:
    """Check that ``features @ W.T + b`` is the model's logits, within the precision.

    The tolerance of one logit ``z = sum_j h_j w_j + b`` is::

        4 * eps * (|z| + |b| + sqrt(sum_j (h_j w_j)^2))  +  sqrt(d) * eps32 * sum_j |h_j w_j|

    The first term is rounding in the precision of the model: of the result, the bias, and partial
    sums, which are of the size of a random walk over the products. The second is the accumulation
    over d products, which matrix units do in float32 also for half-precision inputs.

    Parameters
    ----------
    head : Head
        The head.
    features : ndarray of shape (B, d)
        What entered its last linear layer.
    logits : ndarray of shape (B, C)
        What the model returned.
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
            f"{_some(rows[~finite])}: the model overflows in this precision or its weights are "
            "damaged. Try dtype=torch.float32."
        )
    off = np.abs(head_logits(head, features) - logits)
    excess = off - logit_tolerance(head, features, eps)
    wrong = (excess > 0).any(axis=1)
    if wrong.any():
        raise FeatureMismatchError(
            f"features @ W.T + b is not what the model returned: layer '{head.module}', rows "
            f"{_some(rows[wrong])}, off by up to {off[wrong].max():.3g} (tolerance "
            f"{(off - excess)[wrong].min():.3g}). The head was changed after loading, or the model "
            "does something between this layer and its logits."
        )


def head_logits(head: Head, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return ``features @ W.T + b`` (B, C) in float64."""
    product: npt.NDArray[np.float64] = features.astype(np.float64) @ head.W.T.astype(np.float64)
    return product if head.b is None else product + head.b


def logit_tolerance(
    head: Head, features: npt.NDArray[np.float32], eps: float
) -> npt.NDArray[np.float64]:
    """Return the tolerance (B, C) of `check_batch`."""
    H, W = np.abs(features.astype(np.float64)), np.abs(head.W.T.astype(np.float64))
    accumulation = np.sqrt(H.shape[1]) * np.finfo(np.float32).eps * (H @ W)
    tolerance: npt.NDArray[np.float64] = 4 * eps * logit_scale(head, features) + accumulation
    return tolerance


def logit_scale(head: Head, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what a relative rounding of a logit refers to: ``|z| + |b| + |h * w|`` (B, C)."""
    H, W = features.astype(np.float64), head.W.T.astype(np.float64)
    bias = 0.0 if head.b is None else np.abs(head.b.astype(np.float64))
    walk = np.sqrt(np.square(H) @ np.square(W))
    scale: npt.NDArray[np.float64] = np.abs(head_logits(head, features)) + bias + walk
    return scale


def accepted_inputs(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return those names that the model's ``forward`` takes as parameters of its own."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in names if name in parameters]


Seen = dict[str, tuple[torch.Tensor, torch.Tensor]]
Hook = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor | None]


def _forward(
    model: nn.Module, inputs: Inputs, layers: Mapping[str, nn.Module]
) -> tuple[torch.Tensor, Seen]:
    """Run the model; return its logits and, for each layer that ran, its last input and output."""
    seen: Seen = {}

    def hook_for(name: str) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            seen.pop(name, None)  # keep the order of the last calls
            seen[name] = (args[0].detach(), output.detach())

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        logits = model_logits(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return logits, seen


def model_logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """Run the model; return its logits (B, C)."""
    # A classifier needs no key-value cache: it would only fill the memory.
    no_cache = dict.fromkeys(accepted_inputs(model, ["use_cache"]), False)
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, **no_cache, return_dict=True).logits
    return logits


def _matches(output: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Where a per-token output (B, T, C) equals the logits (B, C) bit for bit: (B, T)."""
    return _same(output, logits.unsqueeze(1))


def _same(output: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Where all classes agree bit for bit. NaN agrees with NaN: it is reported as what it is."""
    # float() is exact for half precision: models that up-cast their logits match as well.
    a, b = output.float(), logits.float()
    return ((a == b) | (a.isnan() & b.isnan())).all(dim=-1)


def _rows_matched(output: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Rows whose logits are this layer's output: (B,)."""
    if output.shape == logits.shape:
        return _same(output, logits)
    if output.ndim == 3 and output.shape[::2] == logits.shape:
        return _matches(output, logits).any(dim=-1)
    return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def _at_pooled_position(
    model: nn.Module,
    head: Head,
    inputs: Inputs,
    hidden: torch.Tensor,
    output: torch.Tensor,
    logits: torch.Tensor,
) -> torch.Tensor:
    """Select from (B, T, d) the position whose output the model returned: (B, d)."""
    matches = _matches(output, logits)
    counts = matches.sum(dim=1)
    if not bool((counts > 0).all()):
        raise FeatureMismatchError(
            f"No position of '{head.module}' gives the model's logits in rows "
            f"{_some(torch.nonzero(counts == 0).flatten().tolist())} of the batch."
        )
    positions = matches.int().argmax(dim=1)
    if bool((counts > 1).any()):
        # In half precision two tokens may share their logits by chance, not their features.
        positions = _ask_for_positions(model, head, inputs, output)
    index = torch.arange(len(logits), device=logits.device)
    if not bool(matches[index, positions].all()):
        raise FeatureMismatchError(f"'{head.module}': the pooled position could not be identified.")
    return hidden[index, positions]


def _ask_for_positions(
    model: nn.Module, head: Head, inputs: Inputs, output: torch.Tensor
) -> torch.Tensor:
    """Let the head return position numbers instead of logits: the model returns the pooled one."""
    numbers = torch.arange(output.shape[1], device=output.device, dtype=torch.float32)
    answer = numbers.view(1, -1, 1).expand(output.shape[0], -1, output.shape[2])
    layer = model.get_submodule(head.module)
    handle = layer.register_forward_hook(lambda module, args, result: answer)
    try:
        returned = model_logits(model, inputs)
    finally:
        handle.remove()
    return returned[:, 0].round().long().clamp(0, output.shape[1] - 1)


def _no_head_message(
    model: nn.Module,
    n_classes: int,
    candidates: Mapping[str, nn.Module],
    seen: Seen,
    logits: torch.Tensor,
) -> str:
    lines = []
    for name in candidates:
        if name not in seen:
            lines.append(f"'{name}' was not called")
        else:
            shape = list(seen[name][1].shape)
            lines.append(f"'{name}' gives {shape}, which is not the logits {list(logits.shape)}")
    listed = "; ".join(lines) or f"it has no nn.Linear with {n_classes} outputs"
    return (
        f"{type(model).__name__} has no last linear layer whose output is its logits, so its "
        f"features cannot be defined. Candidates: {listed}."
    )


def _numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().float().cpu().numpy().copy()
    return array


def _some(rows: Any) -> str:
    listed = [int(row) for row in rows]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{listed[:5]}{more}"

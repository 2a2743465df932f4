"""Find the classification head of a model and read what enters it.

One mechanism for every architecture: forward hooks on linear layers. The layer with as many
outputs as there are classes whose own output is the model's logits is the last one. Where the
head is applied to every token (LLaMA, Qwen, GPT-2), the pooled position is the one whose output
the model returned; no rule about padding has to be guessed. In the same way a layer whose output,
through an activation, is what enters the next one is the layer before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from adue_sklearn._utils.head import ACTIVATIONS
from adue_sklearn.exceptions import FeatureMismatchError, HeadError
from adue_sklearn.features._model.heads import FoundHead, Layer, some_rows
from adue_sklearn.features._model.hooks import Call, Inputs, Seen, model_logits, watch


def find_head(model: Any, inputs: Inputs) -> FoundHead:
    """Find the linear layer whose own output is the model's logits.

    Parameters
    ----------
    model : PreTrainedModel
        A sequence classifier in evaluation mode, adapters merged.
    inputs : mapping of str to Tensor
        A padded batch of two or more texts of different length.

    Returns
    -------
    FoundHead

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
    logits, seen = watch(model, inputs, candidates)
    found = [name for name, (_, output) in seen.items() if _rows_matched(output, logits).all()]
    if not found:
        raise HeadError(_no_head_message(model, n_classes, candidates, seen, logits))
    name = found[-1]
    layer = read_layer(name, candidates[name])
    return FoundHead.of_layers([layer], per_token=seen[name][1].ndim == 3)


def read_layer(name: str, module: nn.Linear) -> Layer:
    """Copy the weights of a layer."""
    return Layer(name, _numpy(module.weight), None if module.bias is None else _numpy(module.bias))


def run_head(
    model: nn.Module, head: FoundHead, inputs: Inputs
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Run one batch; return what enters the head's first layer, and the model's logits.

    Parameters
    ----------
    model : nn.Module
        The model that `head` was found in.
    head : FoundHead
        Its head.
    inputs : mapping of str to Tensor
        A padded batch of B texts.

    Returns
    -------
    features : ndarray of shape (B, d), float32
        The first layer's input, at the pooled position if the layer sees every token.
    logits : ndarray of shape (B, C), float32
        The model's own output.

    Raises
    ------
    FeatureMismatchError
        The layer's output is not what the model returned.
    """
    layers = {layer.module: model.get_submodule(layer.module) for layer in head.layers}
    logits, seen = watch(model, inputs, layers)
    for name in layers:
        if name not in seen:
            raise FeatureMismatchError(f"The model no longer calls its head '{name}'.")
    hidden = enters_last(model, head, inputs, seen[head.module], logits)
    for above, layer in zip(head.layers[:0:-1], head.layers[-2::-1], strict=True):
        below = enters_below(seen[layer.module], hidden, str(head.activation))
        if below is None:
            raise FeatureMismatchError(
                f"The input of '{above.module}' is no longer {head.activation} of the output of "
                f"'{layer.module}', as it was on loading."
            )
        hidden = below
    return _numpy(hidden), _numpy(logits)


def enters_last(
    model: nn.Module, head: FoundHead, inputs: Inputs, call: Call, logits: torch.Tensor
) -> torch.Tensor:
    """Return what entered a head's last layer, at the pooled position: (B, d)."""
    hidden, output = call
    if output.ndim == 3:
        return _at_pooled_position(model, head, inputs, hidden, output, logits)
    if not _rows_matched(output, logits).all():
        raise FeatureMismatchError(f"The output of '{head.module}' is not the model's logits.")
    return hidden


def enters_below(call: Call, entering: torch.Tensor, activation: str) -> torch.Tensor | None:
    """Return what entered a layer (B, n_in), if its activated output enters the next (B, n_out).

    The layer may see every token, of which one enters the next. Where several would do, they give
    the same logits, and the first is taken. None if no token does.
    """
    hidden, output = call
    activated = ACTIVATIONS[activation](output).float()
    if activated.shape == entering.shape:
        return hidden if bool(_nearly_same(activated, entering).all()) else None
    if activated.ndim == 3 and activated.shape[::2] == entering.shape:
        matches = _nearly_same(activated, entering.unsqueeze(1))
        if bool(matches.any(dim=1).all()):
            return hidden[torch.arange(len(entering)), matches.int().argmax(dim=1)]
    return None


def _nearly_same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where all entries agree up to the last bits of float32, NaN with NaN.

    The same function may round otherwise on a tensor of another shape. In half precision this is
    to the bit, so that no approximate gelu passes for the exact one.
    """
    a, b = a.float(), b.float()
    near = (a - b).abs() <= 4 * torch.finfo(torch.float32).eps * b.abs()
    return (near | (a == b) | (a.isnan() & b.isnan())).all(dim=-1)


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
    head: FoundHead,
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
            f"{some_rows(torch.nonzero(counts == 0).flatten().tolist())} of the batch."
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
    model: nn.Module, head: FoundHead, inputs: Inputs, output: torch.Tensor
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

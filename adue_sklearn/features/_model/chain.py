"""Find the layers of a classification head before its last one.

The head is everything linear that the model applies outside its backbone (``model.base_model``),
and in the backbone's ``pooler``, which is a layer of the head by another name: BERT's ``pooler``
and RoBERTa's ``classifier.dense`` do the same. It has to be one chain: what a layer gives, through
one activation, is what enters the next. Anything else, such as a norm or a skip in between, is no
head that estimators can train, and an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from adue_sklearn._utils.head import ACTIVATIONS
from adue_sklearn.exceptions import HeadError
from adue_sklearn.features._model.finding import enters_below, enters_last, read_layer
from adue_sklearn.features._model.heads import FoundHead
from adue_sklearn.features._model.hooks import Inputs, Seen, watch


class _Link(NamedTuple):
    """A layer before another: its name, the activation between them, and what enters it."""

    module: str
    activation: str
    entering: torch.Tensor


def find_whole_head(model: Any, last: FoundHead, inputs: Inputs) -> FoundHead:
    """Find the layers before the last one of a head.

    Parameters
    ----------
    model : PreTrainedModel
        A sequence classifier in evaluation mode, adapters merged.
    last : FoundHead
        Its last linear layer, from `find_head`.
    inputs : mapping of str to Tensor
        A padded batch of some texts.

    Returns
    -------
    FoundHead
        With ``inner`` layers and ``activation``; `last` itself, if the head has no other layer.

    Raises
    ------
    HeadError
        The head has linear layers that are no such chain; the message names what was found.
    """
    candidates = _linear_layers(model) | {last.module: model.get_submodule(last.module)}
    logits, seen = watch(model, inputs, candidates)
    entering = enters_last(model, last, inputs, seen[last.module], logits)
    rest = {name: call for name, call in seen.items() if name != last.module}
    chain: list[_Link] = []
    while link := _link_below(rest, entering):
        chain.insert(0, link)
        entering = link.entering
        del rest[link.module]
    if rest:
        first = chain[0].module if chain else last.module
        raise HeadError(_no_chain_message(model, first, rest, entering))
    activations = list(dict.fromkeys(link.activation for link in chain))
    if len(activations) > 1:
        raise HeadError(
            f"features='head': the head of {type(model).__name__} applies different activations "
            f"({', '.join(activations)}) between its layers, but estimators support only one. "
            "Use features='last'."
        )
    if not chain:
        return last
    inner = [read_layer(link.module, candidates[link.module]) for link in chain]
    return FoundHead.of_layers(
        [*inner, *last.layers], activation=activations[0], per_token=last.per_token
    )


def _linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Return the linear layers of the head: outside the backbone, or in its pooler."""
    backbone = model.base_model
    if backbone is model:
        raise HeadError(
            f"features='head': {type(model).__name__} has no separate backbone (base_model), so "
            "the beginning of its head is unknown. Use features='last'."
        )
    inside = set(backbone.modules())
    pooler = getattr(backbone, "pooler", None)
    if isinstance(pooler, nn.Module):
        inside -= set(pooler.modules())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in inside
    }


def _link_below(calls: Seen, entering: torch.Tensor) -> _Link | None:
    for name, call in calls.items():
        for activation in ACTIVATIONS:
            below = enters_below(call, entering, activation)
            if below is not None:
                return _Link(name, activation, below)
    return None


def _no_chain_message(
    model: Any, first: str, rest: Mapping[str, tuple[torch.Tensor, torch.Tensor]], entering: Any
) -> str:
    found = "; ".join(_nearest(name, output, entering) for name, (_, output) in rest.items())
    inside = set(model.base_model.modules())
    others = [
        f"'{name}' ({type(module).__name__})"
        for name, module in model.named_modules()
        if module not in inside
        and not any(module.children())
        and not isinstance(module, nn.Linear)
        and "dropout" not in type(module).__name__.lower()
    ]
    between = f" Other parts of the head: {', '.join(others)}." if others else ""
    return (
        f"features='head': the input of '{first}' is not tanh, relu or the exact gelu of the "
        f"output of another linear layer of {type(model).__name__}'s head, so the head is not a "
        f"plain chain of layers: {found}.{between} Use features='last'."
    )


def _nearest(name: str, output: torch.Tensor, entering: torch.Tensor) -> str:
    """Say how far a layer is from being the one before."""
    per_token = output.ndim == 3 and output.shape[::2] == entering.shape
    if not per_token and output.shape != entering.shape:
        return f"'{name}' gives {list(output.shape)}, the input is {list(entering.shape)}"
    tokens = output if per_token else output.unsqueeze(1)
    off = {}
    for activation, apply in ACTIVATIONS.items():
        furthest = (apply(tokens).float() - entering.float().unsqueeze(1)).abs().amax(dim=2)
        off[activation] = float(furthest.amin(dim=1).max())  # of the token that fits best
    nearest = min(off, key=lambda activation: off[activation])
    return f"'{name}' through {nearest}, the closest, is off by up to {off[nearest]:.3g}"

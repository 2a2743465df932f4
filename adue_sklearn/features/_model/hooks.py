"""Run a model and keep what goes into some of its layers and comes out of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Inputs = Mapping[str, torch.Tensor]
#: Input and output of a layer's last call.
Call = tuple[torch.Tensor, torch.Tensor]
Seen = dict[str, Call]
Hook = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor | None]


def accepted_inputs(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return those names that the model's ``forward`` takes as parameters of its own."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in names if name in parameters]


def model_logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """Run the model; return its logits (B, C)."""
    # A classifier needs no key-value cache: it would only fill the memory.
    no_cache = dict.fromkeys(accepted_inputs(model, ["use_cache"]), False)
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, **no_cache, return_dict=True).logits
    return logits


@contextmanager
def hidden_states_of(model: nn.Module) -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """Have a model return its layers' hidden states; keep those of each run within the block.

    Yields
    ------
    kept : list of tuple of Tensor
        For each run what entered the first layer and what came out of each, (B, T, n_hidden);
        empty if the model returns none.
    """
    kept: list[tuple[torch.Tensor, ...]] = []

    def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_hidden_states": True}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(getattr(output, "hidden_states", None) or ())

    handles = [
        model.register_forward_pre_hook(ask, with_kwargs=True),
        model.register_forward_hook(keep),
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def watch(
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

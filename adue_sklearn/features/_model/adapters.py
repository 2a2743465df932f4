"""Adapters and their base model: attached, merged, hashed."""

from __future__ import annotations

import os
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, get_peft_model_state_dict

from adue_sklearn.features._model import checkpoint as checkpoint


def attach(adapter: checkpoint.AdapterFiles, base: str, model: Any) -> Any:
    """Put a saved adapter on its base; every tensor of the one must fit one of the other."""
    try:
        # The base first, then the adapter: AutoPeftModel would ask the hub for the recorded base.
        with checkpoint.quiet_transformers():
            tuned = peft.PeftModel.from_pretrained(
                model,
                os.fspath(adapter.weights.parent),
                torch_device="cpu",  # where the base is; peft's guess is an accelerator
            )
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of a value in the configuration that peft does not expect, too
        raise ValueError(
            f"Adapter '{adapter.name}' does not fit the base model '{base}' "
            f"({type(error).__name__}: {error})."
        ) from error
    check_mergeable(tuned)
    # Embeddings may be saved along, or not: they have a place, but need not be filled.
    taken = _adapter_names(tuned, embeddings=True)
    needed = _adapter_names(tuned, embeddings=False)
    unused, unfilled = sorted(set(adapter.shapes) - taken), sorted(needed - set(adapter.shapes))
    if unfilled or unused:
        raise ValueError(
            f"Adapter '{adapter.name}' does not fit the base model '{base}': the model does not "
            f"use its tensors {unused[:3]}, and the adapter lacks {unfilled[:3]}."
        )
    cast_trained_modules(tuned)
    return tuned


def _adapter_names(tuned: Any, *, embeddings: bool) -> set[str]:
    """Names, as in the base model, of the tensors that peft would save of this adapter."""
    saved = get_peft_model_state_dict(tuned, save_embedding_layers=embeddings)
    return {checkpoint.base_name(key) for key in saved}


def kind_of(tuned: Any) -> str:
    """Return the type of an adapter, as peft calls it."""
    return str(tuned.peft_type.value)


def check_mergeable(tuned: Any) -> None:
    """Refuse adapters that are more than a change of weights: tokens, routing by task."""
    prompts = any(config.is_prompt_learning for config in tuned.peft_config.values())
    layers = (module for module in tuned.modules() if isinstance(module, BaseTunerLayer))
    if prompts or any(type(layer).merge is BaseTunerLayer.merge for layer in layers):
        raise ValueError(
            f"model: an adapter of type {kind_of(tuned)} cannot be merged into the model: it does "
            "not change weights."
        )


def activate(tuned: Any, name: str) -> None:
    """Make one of the adapters of a live model the active one."""
    if name not in tuned.peft_config:
        raise ValueError(
            f"adapter_name: the model has no adapter {name!r}; expected one of "
            f"{sorted(tuned.peft_config)}."
        )
    tuned.set_adapter(name)


def cast_trained_modules(tuned: Any) -> None:
    """Give the modules that peft brings whole (a head) the precision of those they replace."""
    for wrapper in tuned.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            dtype = next(wrapper.original_module.parameters()).dtype
            wrapper.modules_to_save.to(dtype)


def merge(tuned: Any) -> Any:
    """Return the base model with the active adapters merged into its weights."""
    base = tuned.get_base_model()
    try:
        # peft 0.21 stumbles over these wrappers when it unloads IA3; they unload alone.
        _unwrap(base)
        return tuned.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"model: peft cannot merge this {kind_of(tuned)} adapter into {type(base).__name__} "
            f"({error})."
        ) from error


def take_off(tuned: Any) -> Any:
    """Return the base model without the change of an adapter, but with modules trained whole."""
    if any(getattr(config, "bias", "none") != "none" for config in tuned.peft_config.values()):
        raise ValueError(
            f"without_adapter: this {kind_of(tuned)} adapter has trained biases of the base model, "
            "which cannot be taken off again."
        )
    _unwrap(tuned.get_base_model())
    return tuned.unload()


def _unwrap(base: Any) -> None:
    """Put trained modules (a head) in the place of their wrappers."""
    wrappers = [
        (name, module)
        for name, module in base.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]
    for name, wrapper in wrappers:
        plain = wrapper.unload_and_optionally_merge_module(
            merge=True, safe_merge=True, adapter_names=None
        )
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, plain)


def cast(model: Any, dtype: torch.dtype) -> None:
    """Cast the weights of a model, except those that its architecture wants in float32.

    Buffers keep their precision: rotary tables need float32.
    """
    wide = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        wide |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, value in model.named_parameters():
        if value.is_floating_point():
            kept = any(f".{part}." in f".{name}." for part in wide)
            value.data = value.data.to(torch.float32 if kept else dtype)


def live_sha256(model: Any) -> str:
    """Hash a live model: of its adapter as it would be saved, else of all its parameters."""
    if not isinstance(model, peft.PeftModel):
        return checkpoint.tensors_sha256(dict(model.named_parameters()), {})
    active = model.active_adapters
    hashes = [
        checkpoint.tensors_sha256(
            get_peft_model_state_dict(model, adapter_name=name), model.peft_config[name].to_dict()
        )
        for name in active
    ]
    return hashes[0] if len(hashes) == 1 else "+".join(hashes)

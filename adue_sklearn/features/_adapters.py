"""Adapters and their base model: attached, merged, hashed."""

from __future__ import annotations

import os
from typing import Any

import peft
from peft.utils import get_peft_model_state_dict

from adue_sklearn.features import _checkpoint as checkpoint


def attach(adapter: checkpoint.AdapterFiles, base: str, model: Any) -> Any:
    """Put a saved adapter on its base; every tensor of the one must fit one of the other."""
    try:
        # The base first, then the adapter: AutoPeftModel would ask the hub for the recorded base.
        with checkpoint.quiet_transformers():
            tuned = peft.PeftModel.from_pretrained(model, os.fspath(adapter.weights.parent))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"Adapter '{adapter.name}' does not fit the base model '{base}' ({error})."
        ) from error
    # Embeddings may be saved along, or not: they have a place, but need not be filled.
    taken = _adapter_names(tuned, embeddings=True)
    needed = _adapter_names(tuned, embeddings=False)
    unused, unfilled = sorted(set(adapter.shapes) - taken), sorted(needed - set(adapter.shapes))
    if unfilled or unused:
        raise ValueError(
            f"Adapter '{adapter.name}' does not fit the base model '{base}': of its tensors "
            f"{unused[:3]} have no place there, and {unfilled[:3]} there get none."
        )
    return tuned


def _adapter_names(tuned: Any, *, embeddings: bool) -> set[str]:
    """Names, as in the base model, of the tensors that peft would save of this adapter."""
    saved = get_peft_model_state_dict(tuned, save_embedding_layers=embeddings)
    return {checkpoint.base_name(key) for key in saved}


def merge(tuned: Any) -> Any:
    """Return the base model with the active adapters merged into its weights."""
    if any(config.is_prompt_learning for config in tuned.peft_config.values()):
        raise ValueError(
            f"model: an adapter of type {tuned.peft_type.value} cannot be merged into the model."
        )
    try:
        return tuned.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"model: peft cannot merge this {tuned.peft_type.value} adapter into "
            f"{type(tuned.get_base_model()).__name__} ({error})."
        ) from error


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

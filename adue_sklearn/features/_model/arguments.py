"""Whether a model can be loaded as asked: arguments and task."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

import torch

View = Literal["last", "head"]


def check_view(features: Any) -> View:
    """Return which features are meant."""
    if not (isinstance(features, str) and features in get_args(View)):
        raise ValueError(
            "features: expected 'last' (what enters the head's last linear layer) or 'head' (what "
            f"enters its first), got {features!r}."
        )
    view: View = "head" if features == "head" else "last"
    return view


def check_arguments(
    *, base_model: Any, tokenizer: Any, adapter_name: Any, dtype: Any, features: Any
) -> None:
    """Refuse arguments that no later message would name."""
    check_view(features)
    if not (base_model is None or isinstance(base_model, str | os.PathLike)):
        raise ValueError(
            f"base_model: expected a folder or hub name, got {type(base_model).__name__}."
        )
    known = isinstance(tokenizer, str | os.PathLike) or hasattr(tokenizer, "pad_token_id")
    if not (tokenizer is None or known):
        raise ValueError(
            f"tokenizer: expected a tokenizer or its folder, got {type(tokenizer).__name__}."
        )
    if not (adapter_name is None or isinstance(adapter_name, str)):
        raise ValueError(
            f"adapter_name: expected the name of an adapter, got {type(adapter_name).__name__}."
        )
    if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)):
        raise ValueError(f"dtype: expected a torch dtype such as torch.float32, got {dtype!r}.")


def check_task(model: Any) -> None:
    """Refuse a model that is no classifier of one class among several."""
    task = model.config.problem_type
    n_labels = model.config.num_labels
    if n_labels < 2 or task in ("regression", "multi_label_classification"):
        hint = (
            " If its single logit is for two classes (a sigmoid gives the probability), save it "
            "with num_labels=2 and the head's weight w and bias b as [-w/2, w/2] and [-b/2, b/2]."
            if n_labels == 1
            else ""
        )
        raise ValueError(
            f"model: expected a classifier of one class among two or more, got "
            f"num_labels={n_labels}, problem_type={task!r}.{hint}"
        )

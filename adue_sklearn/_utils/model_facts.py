"""What tells one classifier's features from another's, and whether two sets of them agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adue_sklearn._utils.head import Head
from adue_sklearn._utils.validation import warn
from adue_sklearn.exceptions import ModelMismatchError


class ModelFacts(NamedTuple):
    """What distinguishes one classifier's features from another's.

    ``class_names`` are the names of the head's rows, if known.
    """

    provenance: Mapping[str, Any]
    head: Head
    class_names: list[str] | None

    @classmethod
    def of(
        cls,
        provenance: Mapping[str, Any],
        init_W: Any,
        init_b: Any = None,
        class_names: Sequence[str] | None = None,
        activation: str | None = None,
    ) -> ModelFacts:
        """Return the facts of features with their head, which is given as in ``fit``."""
        head = init_W
        if not isinstance(head, Head):
            head = Head.of(init_W, init_b, activation=activation)
        return cls(provenance, head, None if class_names is None else list(class_names))


def check_provenance(provenance: Any) -> dict[str, Any]:
    """Return where features came from as a dict; None is nothing known."""
    if provenance is not None and not isinstance(provenance, Mapping):
        raise TypeError(
            f"provenance is a {type(provenance).__name__}; expected a mapping of names to facts."
        )
    return {str(name): value for name, value in (provenance or {}).items()}


def check_same_model(
    known: ModelFacts, new: ModelFacts, *, allow_other_model: bool = False
) -> None:
    """Reject features that come from another model than those known before.

    Parameters
    ----------
    known : ModelFacts
        Of a :attr:`FittedHead.facts`, or of a first set of features.
    new : ModelFacts
        Of the new features.
    allow_other_model : bool, default=False
        Warn instead of raising.

    Raises
    ------
    ModelMismatchError
        If the adapter's hash, the feature view, W, b, the activation between layers or the order
        of the classes differ.

    Warns
    -----
    UserWarning
        If only paths, library versions, ``max_length`` or the precision differ.
    """
    for argument, given in (("known", known), ("new", new)):
        if not isinstance(given, ModelFacts):
            raise TypeError(f"{argument} is a {type(given).__name__}; expected a ModelFacts.")
    differences = _differences(known, new)
    if differences:
        message = (
            f"These features come from another model than the first: {'; '.join(differences)}. "
            "Extract both with the same model and classes, or pass allow_other_model "
            "(--allow-other-model) if you know that they belong together."
        )
        if not allow_other_model:
            raise ModelMismatchError(message)
        warn(message)
    changes = [
        f"{key}: {known.provenance[key]} before, {new.provenance[key]} now"
        for key in ("base_model", "model", "revision", "max_length", "precision", "versions")
        if _differ(known.provenance, new.provenance, key)
    ]
    if changes:
        warn(f"The same model made these features under other conditions ({'; '.join(changes)}).")


def _differences(known: ModelFacts, new: ModelFacts) -> list[str]:
    """Return, in words, how two models differ."""
    differences = [
        f"{key} is {new.provenance[key]!r}, was {known.provenance[key]!r}"
        for key in ("adapter_sha256", "view")
        if _differ(known.provenance, new.provenance, key)
    ]
    then, now = known.head, new.head
    if not now.is_linear and then.activation != now.activation:
        differences.append(f"activation is {now.activation!r}, was {then.activation!r}")
    if then.shapes != now.shapes:
        differences.append(f"init_W has shape {now.shapes}, had {then.shapes}")
    else:
        same_precision = not _differ(known.provenance, new.provenance, "precision")
        for name, old, given in (
            ("init_W", then.weights, now.weights),
            ("init_b", then.filled_biases(), now.filled_biases()),
        ):
            if not all(_close(a, b, same_precision) for a, b in zip(old, given, strict=True)):
                differences.append(f"{name} has other values")
    if None not in (known.class_names, new.class_names) and known.class_names != new.class_names:
        differences.append(f"the classes are {new.class_names}, were {known.class_names}")
    return differences


def _differ(known: Mapping[str, Any], new: Mapping[str, Any], key: str) -> bool:
    return key in known and key in new and known[key] != new[key]


def _close(then: npt.NDArray[Any], now: npt.NDArray[Any], same_precision: bool) -> bool:
    # A head that was cast to bfloat16 keeps 8 bits of each weight.
    tolerance = (1e-6 if same_precision else 2.0**-7) * np.abs(then).max(initial=0.0)
    return bool(np.abs(then - now).max(initial=0.0) <= tolerance)

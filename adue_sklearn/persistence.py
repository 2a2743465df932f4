"""A fitted estimator as a folder of safetensors and JSON; no pickle, nothing is executed.

``estimator.json`` holds the class name, the parameters and what is not an array of numbers;
``arrays.safetensors`` the rest. Both carry what is needed to refuse features of another model.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

import adue_sklearn
from adue_sklearn._validation import naming
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.scorers import MahalanobisScorer, SoftmaxResponseScorer

__all__ = ["FittedHead", "check_same_model", "load_head", "save_head"]

FORMAT_VERSION = 1
_JSON, _ARRAYS = "estimator.json", "arrays.safetensors"
_ESTIMATORS: dict[str, type[UncertaintyEstimator]] = {
    cls.__name__: cls
    for cls in (adue_sklearn.AdUEEstimator, MahalanobisScorer, SoftmaxResponseScorer)
}


class FittedHead(NamedTuple):
    """A fitted estimator, where its features came from, and the names of its classes."""

    estimator: UncertaintyEstimator
    provenance: dict[str, Any]
    class_names: list[str] | None


class ModelMismatchError(ValueError):
    """Features of one model met an uncertainty head of another."""


def save_head(
    estimator: UncertaintyEstimator,
    directory: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any] | None = None,
    class_names: list[str] | None = None,
) -> Path:
    """Write a fitted estimator to a new folder, all of it or nothing.

    Parameters
    ----------
    estimator : UncertaintyEstimator
        A fitted estimator of this package.
    directory : path
        Must not exist, or be empty, or hold an older head, which is replaced.
    provenance : mapping, default=None
        Where the features came from: a FeatureStore's ``provenance``.
    class_names : list of str, default=None
        Names of the head's rows.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder holds something else than a saved head.

    Examples
    --------
    >>> import tempfile
    >>> from adue_sklearn import SoftmaxResponseScorer
    >>> from adue_sklearn.persistence import load_head, save_head
    >>> W = [[1.0, 0.0], [0.0, 1.0]]
    >>> scorer = SoftmaxResponseScorer().fit([[2.0, 0.0]] * 3, [0, 1, 0], W)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_head(scorer, folder + "/head", class_names=["no", "yes"])
    ...     load_head(path).estimator.predict([[0.0, 1.0]])
    array([1])
    """
    with naming("directory"):
        directory = Path(directory)
    if directory.exists():
        strangers = {entry.name for entry in directory.iterdir()} - {_JSON, _ARRAYS}
        if strangers:
            raise FileExistsError(
                f"{directory} holds other files ({', '.join(sorted(strangers)[:3])}), so a head is "
                "not saved there; name a new folder."
            )
    if provenance is not None and not isinstance(provenance, Mapping):
        raise TypeError(
            f"provenance is a {type(provenance).__name__}; expected a mapping of names to facts."
        )
    arrays, values = _split_state(estimator)
    if class_names is not None:
        class_names = _check_names(class_names, len(estimator.classes_))
    document = {
        "format_version": FORMAT_VERSION,
        "adue_sklearn": adue_sklearn.__version__,
        "class": type(estimator).__name__,
        "params": estimator.get_params(deep=False),
        "attributes": values,
        "provenance": dict(provenance or {}),
        "class_names": class_names,
    }
    try:
        text = json.dumps(document, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise TypeError(f"provenance holds what JSON cannot: {error}.") from error
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".tmp-") as scratch:
        save_file(arrays, Path(scratch) / _ARRAYS)
        (Path(scratch) / _JSON).write_text(text)
        for name in (_ARRAYS, _JSON):  # the JSON last: without it there is no head
            os.replace(Path(scratch) / name, directory / name)
    return directory


def load_head(directory: str | os.PathLike[str]) -> FittedHead:
    """Read a folder written by :func:`save_head`.

    Parameters
    ----------
    directory : path
        The folder.

    Returns
    -------
    FittedHead
        The estimator, ready to predict, with provenance and class names.

    Raises
    ------
    FileNotFoundError
        If the folder is no saved head.
    ValueError
        If it was written by a newer version or is damaged.
    """
    with naming("directory"):
        directory = Path(directory)
    if not (directory / _JSON).is_file() or not (directory / _ARRAYS).is_file():
        raise FileNotFoundError(
            f"{directory} is no fitted head: it should hold {_JSON} and {_ARRAYS}. "
            "'adue fit STORE --out HEAD' writes one."
        )
    try:
        document = json.loads((directory / _JSON).read_text())
        arrays = load_file(directory / _ARRAYS)
        version, name = document["format_version"], document["class"]
        if version > FORMAT_VERSION:
            raise ValueError(
                f"it has format version {version}, this package reads up to {FORMAT_VERSION}; "
                "upgrade adue-sklearn"
            )
        if name not in _ESTIMATORS:
            raise ValueError(f"it holds a {name}; known are {', '.join(sorted(_ESTIMATORS))}")
        estimator = _ESTIMATORS[name](**document["params"])
        for key, value in {**document["attributes"], **arrays}.items():
            setattr(estimator, key, _decode(value))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{directory} cannot be read as a fitted head: {error}.") from error
    return FittedHead(estimator, document["provenance"], document["class_names"])


def check_same_model(
    head: FittedHead,
    *,
    provenance: Mapping[str, Any],
    init_W: Any,
    init_b: Any,
    allow_other_model: bool = False,
) -> None:
    """Refuse features that another model made than the head was fitted on.

    Parameters
    ----------
    head : FittedHead
        From :func:`load_head`.
    provenance : mapping
        Of the new features.
    init_W, init_b : array-like
        The classification head that the new features came with; ``init_b`` may be None.
    allow_other_model : bool, default=False
        Warn instead of raising.

    Raises
    ------
    ModelMismatchError
        If the adapter's hash, the feature view, W or b differ.

    Warns
    -----
    UserWarning
        If only paths, library versions, ``max_length`` or the precision differ.
    """
    known = head.provenance
    same_precision = known.get("precision") == provenance.get("precision")
    estimator: Any = head.estimator
    differences = [
        f"{key} ({known[key]!r} then, {provenance[key]!r} now)"
        for key in ("adapter_sha256", "view")
        if key in known and key in provenance and known[key] != provenance[key]
    ]
    bias = np.zeros(len(estimator.init_intercept_)) if init_b is None else init_b
    for name, then, now in (
        ("init_W", estimator.init_coef_, init_W),
        ("init_b", estimator.init_intercept_, bias),
    ):
        if not _close(then, np.asarray(now), same_precision=same_precision):
            differences.append(f"{name} (shape {then.shape} then, {np.shape(now)} now)")
    if differences:
        message = (
            f"These features come from another model than the uncertainty head was fitted on: "
            f"{'; '.join(differences)} differ. Fit a head for this model, or pass "
            "allow_other_model (--allow-other-model) if you know that they belong together."
        )
        if not allow_other_model:
            raise ModelMismatchError(message)
        warnings.warn(message, UserWarning, stacklevel=2)
    minor = [
        key
        for key in ("base_model", "model", "revision", "max_length", "precision", "versions")
        if key in known and key in provenance and known[key] != provenance[key]
    ]
    if minor:
        changes = "; ".join(f"{key}: {known[key]} then, {provenance[key]} now" for key in minor)
        warnings.warn(
            f"The features were made differently than those the head was fitted on ({changes}). "
            "The model is the same.",
            UserWarning,
            stacklevel=2,
        )


def _check_names(class_names: Any, n_classes: int) -> list[str]:
    names = class_names.tolist() if isinstance(class_names, np.ndarray) else class_names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names is {class_names!r}; expected a list of str.")
    if len(names) != n_classes:
        raise ValueError(f"class_names has {len(names)} entries, the head {n_classes} rows.")
    return list(names)


def _close(then: np.ndarray, now: np.ndarray, *, same_precision: bool) -> bool:
    if then.shape != now.shape:
        return False
    # A head that was cast to bfloat16 keeps 8 bits of each weight.
    tolerance = (1e-6 if same_precision else 2.0**-7) * np.abs(then).max(initial=0.0)
    return bool(np.abs(then - now).max(initial=0.0) <= tolerance)


def _split_state(estimator: UncertaintyEstimator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return fitted attributes as arrays of numbers and as JSON values."""
    name = type(estimator).__name__
    if _ESTIMATORS.get(name) is not type(estimator):
        raise TypeError(
            f"estimator is a {name}, which cannot be saved as a head; expected one of "
            f"{', '.join(sorted(_ESTIMATORS))}."
        )
    parameters = estimator.get_params(deep=False)
    arrays, values = {}, {}
    for key, value in vars(estimator).items():
        if key in parameters:
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
            arrays[key] = np.ascontiguousarray(value)
        elif isinstance(value, np.ndarray):
            values[key] = {"strings": value.tolist(), "dtype": value.dtype.kind}
        else:
            values[key] = value
    if "init_coef_" not in arrays:
        raise ValueError(f"This {name} is not fitted; call fit before saving it.")
    return arrays, values


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"strings", "dtype"}:
        return np.array(value["strings"], dtype=object if value["dtype"] == "O" else None)
    return value

"""The folder of a fitted estimator: saved by one process at a time, read by any.

``estimator.json`` holds the class name, the parameters and every value that is not an array of
numbers. It names the file of the arrays, ``arrays-HASH.safetensors``. Saving writes the arrays,
then the JSON, and then deletes the arrays that the old JSON named, so a folder always holds either
the old head or the new one. One process saves at a time (``.lock``). A reader whose arrays were
just deleted reads the JSON again. The files hold what it takes to reject another model's features.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from pydantic import Field, PositiveInt
from safetensors.numpy import load, save
from sklearn.frozen import FrozenEstimator

import adue_sklearn
from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.devices import device_here
from adue_sklearn._utils.files import (
    clear_leftovers,
    make_folder,
    not_written,
    temporary_of,
    write_file,
)
from adue_sklearn._utils.labels import check_class_labels
from adue_sklearn._utils.model_facts import ModelFacts, check_provenance
from adue_sklearn._utils.places import what_instead
from adue_sklearn._utils.row_digests import FITTED_ON, Digests, row_digests
from adue_sklearn._utils.schemas import (
    Kind,
    PlainName,
    Schema,
    check_document,
    read_document,
)
from adue_sklearn._utils.validation import naming
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.exceptions import OutputError
from adue_sklearn.persistence.state import SCORES, Reader, as_json, described, from_version_1
from adue_sklearn.scorers.witness import WitnessScorer
from adue_sklearn.scorers.wrapping import WrappingEstimator
from adue_sklearn.selective import SelectiveClassifier

__all__ = ["FittedHead", "load_head", "save_head"]

#: Version 1 held no estimators inside others.
FORMAT_VERSION = 2
#: Where a head's provenance records the rows that it was fitted on, or chosen by.
FIT_ROWS, CHOICE_ROWS = "fit_row_digests", "choice_row_digests"
_JSON, _ARRAYS, _LOCK = "estimator.json", "arrays-*.safetensors", ".lock"
#: How long a writer waits for another one; a save takes a fraction of a second.
_LONGEST_WAIT_S = 60.0
#: Attempts to read a folder before its arrays are reported missing.
_MOST_LOOKS = 5
_KIND = Kind(
    name="a fitted head",
    mend="Restore the folder from a copy, or fit again ('adue fit STORE --out HEAD').",
    newest=FORMAT_VERSION,
    finite=False,  # fitted values may be NaN, such as a score of rows without errors
)
_PROVENANCE_KIND = Kind(
    name="where features came from",
    mend="Pass a FeatureStore's provenance unchanged.",
    newest=FORMAT_VERSION,
)


class _ViewFacts(Schema):
    """What a store records of a view that the head reads."""

    n_columns: PositiveInt
    provenance: dict[str, Any]


class _Provenance(Schema):
    """Where features came from: the fields that are read; others may hold anything."""

    max_length: PositiveInt | None = None
    fit_row_digests: Digests = ""
    choice_row_digests: Digests = ""
    views: dict[str, _ViewFacts] = {}


class _Document(Schema):
    """What ``estimator.json`` holds."""

    format_version: PositiveInt
    class_name: Annotated[str, Field(alias="class")]
    arrays: PlainName
    params: dict[str, Any]
    attributes: dict[str, Any]
    provenance: _Provenance
    class_names: list[str] | None


class FittedHead(NamedTuple):
    """A fitted estimator, where its features came from, and the names of its classes."""

    estimator: UncertaintyEstimator
    provenance: dict[str, Any]
    class_names: list[str] | None

    @property
    def view(self) -> Literal["last", "head"]:
        """Which features it takes: the input of the last linear layer or of the whole head."""
        return "last" if self.estimator.init_head_.is_linear else "head"

    @property
    def facts(self) -> ModelFacts:
        """The facts that features must agree with."""
        return ModelFacts(self.provenance, self.estimator.init_head_, self.class_names)


def save_head(
    estimator: UncertaintyEstimator,
    directory: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any] | None = None,
    class_names: list[str] | None = None,
    fitted_on: Any = None,
    overwrite: bool = True,
) -> Path:
    """Write a fitted estimator to a folder, atomically.

    Several processes may save to one folder: the last one wins. A process that reads it meanwhile
    gets one head or the other. A threshold that was set for the replaced head remains unchanged
    and is rejected for the new head.

    Parameters
    ----------
    estimator : UncertaintyEstimator
        Fitted: any of this package, whatever other estimators of this package it holds.
    directory : path
        A folder that does not exist, is empty, or holds an older head, which is replaced.
    provenance : mapping, default=None
        Where the features came from: a FeatureStore's ``provenance``.
    class_names : list of str, default=None
        Names of the head's rows.
    fitted_on : array-like or torch.Tensor of shape (n_samples, n_features), default=None
        The features that the estimator was fitted on. A digest of sixteen bytes is stored for each
        row, so that these rows are recognised and left out when the head is evaluated, compared or
        given a threshold. None: the rows that a loaded estimator already knows.
    overwrite : bool, default=True
        Whether to replace an older head; if False, an older head is an error.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder holds anything but a saved head, or a head and ``overwrite`` is False.
    ValueError
        If ``max_length`` in provenance is not a positive integer, or row digests are invalid.
    OutputError
        If it cannot be written.

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
    with naming("directory", "the path of a folder"):
        directory = Path(directory)
    check_target(directory, overwrite=overwrite)
    facts = check_provenance(provenance)
    check_document(facts, _Provenance, "provenance", _PROVENANCE_KIND)
    description, arrays = described(estimator)
    known = _rows_fitted_on(estimator, fitted_on)
    if class_names is not None:
        class_names = _check_names(class_names, len(estimator.classes_))
    provenance = {
        name: as_json(f"provenance[{name!r}]", value) for name, value in {**facts, **known}.items()
    }
    write_folder(
        directory, description, arrays, provenance, class_names=class_names, overwrite=overwrite
    )
    return directory


def write_folder(
    directory: Path,
    description: Mapping[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    provenance: Mapping[str, Any],
    *,
    class_names: list[str] | None,
    overwrite: bool,
    kind: str = "fitted head",
) -> None:
    """Write a described estimator as a folder, atomically."""
    content = save(arrays)
    arrays_name = _ARRAYS.replace("*", hashlib.sha256(content).hexdigest()[:16])
    document = {
        "format_version": FORMAT_VERSION,
        "adue_sklearn": adue_sklearn.__version__,
        "class": description["class"],
        "arrays": arrays_name,
        "params": description["params"],
        "attributes": description["attributes"],
        "provenance": provenance,
        "class_names": class_names,
    }
    make_folder(directory)
    with _one_at_a_time(directory):
        # Another process may have saved meanwhile.
        check_target(directory, overwrite=overwrite, kind=kind)
        clear_leftovers(directory, _is_of_a_head)
        write_file(directory / arrays_name, content)
        write_file(directory / _JSON, (json.dumps(document, indent=2) + "\n").encode())
        for file in directory.glob(_ARRAYS):
            if file.name != arrays_name:
                file.unlink(missing_ok=True)


def _rows_fitted_on(estimator: UncertaintyEstimator, X: Any) -> dict[str, str]:
    """Return what provenance records about the fit rows."""
    if X is None:
        digests = vars(estimator).get(FITTED_ON)
        return {} if digests is None else {FIT_ROWS: digests}
    with naming("fitted_on", "the features that the estimator was fitted on"):
        return {FIT_ROWS: row_digests(as_numpy(estimator.check_features(X)))}


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
        If the folder is not a saved head.
    ValueError
        If it was written by a newer version or is damaged.

    Warns
    -----
    UserWarning
        If it was fitted on a device that torch does not find here; it then behaves as with
        ``device="auto"``.
    """
    with naming("directory", "the path of a folder"):
        directory = Path(directory)
    document, content = read_folder(directory, "a fitted head", "adue fit STORE --out HEAD")
    file = directory / _JSON
    if _is_sidekick(document.class_name, document.attributes):
        raise ValueError(
            f"'{directory}' is a sidekick, not a fitted head. Pass it as --sidekick; "
            "'adue fit STORE --sidekick SIDEKICK --out HEAD' writes a head that holds it."
        )
    try:
        if document.class_name not in SCORES:
            raise ValueError(f"it holds a {document.class_name}; expected {', '.join(SCORES)}")
        estimator, inside = _restore(document, checked_arrays(document.arrays, content))
        if document.class_names is not None:
            _check_names(document.class_names, len(estimator.classes_))
    except Exception as error:  # whatever a constructor or a score makes of other values
        raise _KIND.broken(file, error) from error
    _find_devices(inside)
    provenance = document.provenance.model_dump(exclude_unset=True)
    if FIT_ROWS in provenance:
        setattr(estimator, FITTED_ON, provenance[FIT_ROWS])
    return FittedHead(estimator, provenance, document.class_names)


def check_target(directory: Path, *, overwrite: bool = True, kind: str = "fitted head") -> None:
    """Reject a folder that holds anything but a head, or a head that must not be replaced.

    The same of a "sidekick", if that is the ``kind``.

    Raises
    ------
    FileExistsError
        If it is a file, holds something else than a saved head, or one without ``overwrite``.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"directory: {directory} is a file; name a new folder.")
    names = {file.name for file in directory.iterdir()}
    strangers = {
        name
        for name in names - {_LOCK}
        if not _is_of_a_head(name) and not _is_of_a_head(temporary_of(name) or "")
    }
    if strangers:
        raise FileExistsError(
            f"directory: {directory} holds other files "
            f"({', '.join(sorted(strangers)[:3])}), so a {kind.rpartition(' ')[2]} is not saved "
            "there; name a new folder."
        )
    if _JSON not in names:
        return
    there = _kind_of(directory)
    if there != kind:
        raise FileExistsError(
            f"directory: {directory} holds a {there}, which a {kind} does not replace; name a new "
            "folder."
        )
    if not overwrite:
        raise FileExistsError(
            f"directory: {directory} already holds a {kind}. Name a new folder, or replace it "
            "with overwrite=True (--force)."
        )


def _kind_of(directory: Path) -> str:
    """Return what a folder holds; what cannot be read counts as a head."""
    try:
        document = read_document(directory / _JSON, _KIND)
        found = _is_sidekick(document["class"], document["attributes"])
    except (ValueError, OSError, KeyError, TypeError):
        found = False
    return "sidekick" if found else "fitted head"


def _is_sidekick(class_name: Any, attributes: Any) -> bool:
    """Tell whether this is a text classifier that was not fitted to a head."""
    return (
        class_name == "SidekickScorer"
        and "classifier_" in attributes
        and "classes_" not in attributes
    )


def _is_of_a_head(name: str) -> bool:
    return name == _JSON or fnmatch(name, _ARRAYS)


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Wait until no other process saves to the folder, and hold the lock until the block ends."""
    lock = FileLock(directory / _LOCK)
    try:
        lock.acquire(timeout=_LONGEST_WAIT_S)
    except Timeout:
        raise OutputError(
            f"'{directory}' is being written by another process. Wait until it has finished or "
            "stop it, then run again."
        ) from None
    except OSError as error:
        raise not_written(directory / _LOCK, error) from error
    try:
        yield
    finally:
        lock.release()


def read_folder(directory: Path, wanted: str, command: str) -> tuple[_Document, bytes]:
    """Return the JSON and the bytes of the arrays that it names.

    ``wanted`` is what the folder should be, and ``command`` what writes one.

    Between reading the one and the other, a writer may have replaced both. Then the JSON is read
    again.
    """
    file, missing = directory / _JSON, list[str]()
    if not file.is_file():
        what = what_instead(directory, wanted)
        what = what or f"'{directory}' is not {wanted}: it does not contain {_JSON}."
        raise FileNotFoundError(f"{what} '{command}' writes one.")
    while True:
        document = check_document(read_document(file, _KIND), _Document, file, _KIND)
        try:
            return document, (directory / document.arrays).read_bytes()
        except FileNotFoundError as error:
            missing.append(document.arrays)
            if missing.count(document.arrays) == _MOST_LOOKS:
                raise _KIND.broken(file, error) from error
            time.sleep(0.01)
        except OSError as error:
            raise _KIND.broken(file, error) from error


def checked_arrays(name: str, content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays; raise unless they are those the JSON names."""
    if hashlib.sha256(content).hexdigest()[:16] not in name:
        raise ValueError(f"{name} is damaged: its hash differs from the one in its name")
    return load(content)


def _restore(
    document: _Document, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[UncertaintyEstimator, list[UncertaintyEstimator]]:
    """Return the estimator, and it with all scores inside that are fitted."""
    description: dict[str, Any] = {
        "class": document.class_name,
        "params": document.params,
        "attributes": document.attributes,
    }
    if document.format_version == 1:
        description = from_version_1(description, arrays)
    reader = Reader(arrays)
    estimator: UncertaintyEstimator = reader.estimator(description)
    fitted = {
        path: score
        for path, score in reader.made.items()
        if isinstance(score, UncertaintyEstimator) and hasattr(score, "classes_")
    }
    if "" not in fitted:
        raise ValueError("'classes_' is missing")
    for path, score in fitted.items():
        with _in(path):
            _check_head(score)
    with _on_the_cpu(fitted.values()):
        _try_out(estimator)
    return estimator, list(fitted.values())


@contextlib.contextmanager
def _in(path: str) -> Iterator[None]:
    """Name a nested estimator in what is wrong with it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from error


def _check_head(score: UncertaintyEstimator) -> None:
    """Raise if head and classes of a fitted score differ, or those of the scores in it.

    A score in a ``FrozenEstimator`` may have another head, or its own names of classes.
    """
    classes, head = check_class_labels(score.classes_), score.init_head_
    if len(classes) != head.n_classes:
        raise ValueError(f"classes_ has {len(classes)} entries, but the head {head.n_classes} rows")
    params = score.get_params(deep=False)
    named = isinstance(score, WrappingEstimator) or not _holds_frozen(list(params.values()))
    for name, value in vars(score).items():
        members = value if isinstance(value, list) else [value]
        for member in members if name not in params else []:
            if not isinstance(member, UncertaintyEstimator):
                continue
            expected = head if named else replace(head, classes=member.classes_)
            if not member.init_head_.same_as(expected):
                raise ValueError(
                    f"{name} has another head or other classes than the {type(score).__name__} "
                    "that holds it"
                )


def _holds_frozen(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_frozen, value))
    return isinstance(value, FrozenEstimator)


@contextlib.contextmanager
def _on_the_cpu(scores: Iterable[UncertaintyEstimator]) -> Iterator[None]:
    """Let scores compute on the CPU for a while; their device may be one that is not here."""
    devices = [(score, score.device) for score in scores if "device" in vars(score)]
    for score, device in devices:
        if device != "auto":
            torch.device(device)
        score.device = "cpu"
    try:
        yield
    finally:
        for score, device in devices:
            score.device = device


def _find_devices(scores: list[UncertaintyEstimator]) -> None:
    """Replace devices that torch does not find here; warn of each once."""
    with_device = [score for score in scores if "device" in vars(score)]
    here = {device: device_here(device) for device in {score.device for score in with_device}}
    for score in with_device:
        score.device = here[score.device]


def _try_out(estimator: UncertaintyEstimator) -> None:
    """Score one row, which fails if something is missing or has another shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the row has no feature names
        row = np.zeros((1, int(estimator.n_features_in_)))
        n_classes = estimator.predict_proba(row).shape[1]
        if len(estimator.classes_) != n_classes:
            raise ValueError(
                f"classes_ has {len(estimator.classes_)} entries, but the head {n_classes} rows"
            )
        estimator.errors(row, estimator.predict(row))
        if _reads_views(estimator):
            return
        if estimator.predict_uncertainty(row).shape != (1,):
            raise ValueError("it gives no uncertainty for one row")
        if isinstance(estimator, SelectiveClassifier):
            grouped = hasattr(estimator, "groups_") and not estimator.per_class
            estimator.accepts(row, groups=estimator.groups_[:1] if grouped else None)


def _reads_views(score: UncertaintyEstimator) -> bool:
    """Tell whether a score, or one in it, needs a view that a plain row lacks."""
    return isinstance(score, WitnessScorer) or any(map(_reads_views, score.scores_inside()))


def _check_names(class_names: Any, n_classes: int) -> list[str]:
    names = class_names.tolist() if isinstance(class_names, np.ndarray) else class_names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names is {class_names!r}; expected a list of str.")
    if len(names) != n_classes:
        raise ValueError(
            f"class_names has {len(names)} entries, but the head {n_classes} rows; pass one name "
            "a row."
        )
    return list(names)

"""A sidekick as a folder: a text classifier for texts that LoRA was trained on, without a head."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors.numpy import save
from sklearn.base import clone

from adue_sklearn._utils.validation import naming
from adue_sklearn.features import TextView
from adue_sklearn.persistence.heads import check_target, checked_arrays, read_folder, write_folder
from adue_sklearn.persistence.state import Reader, described, essence
from adue_sklearn.scorers import SidekickScorer

#: What a folder of one is called.
KIND = "sidekick"
_COMMAND = "adue sidekick TRAIN.jsonl --out SIDEKICK"


def save_sidekick(
    sidekick: SidekickScorer, directory: str | os.PathLike[str], *, overwrite: bool = True
) -> Path:
    """Write what ``SidekickScorer.fit_witness`` has fitted to a folder, atomically.

    Parameters
    ----------
    sidekick : SidekickScorer
        After ``fit_witness``; whether it was fitted to a head does not matter.
    directory : path
        A folder that does not exist, is empty, or holds an older sidekick, which is replaced.
    overwrite : bool, default=True
        Whether to replace an older one; if False, it is an error.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder holds anything else, or a sidekick and ``overwrite`` is False.
    ValueError
        If there is no text classifier.

    Examples
    --------
    >>> import tempfile
    >>> from adue_sklearn import SidekickScorer
    >>> from adue_sklearn.persistence import load_sidekick, save_sidekick
    >>> texts = ["good film", "good fun", "bad film", "bad plot"]
    >>> sidekick = SidekickScorer().fit_witness(texts, ["yes", "yes", "no", "no"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loaded = load_sidekick(save_sidekick(sidekick, folder + "/sidekick"))
    >>> bool(loaded.log_proba(["good"])[0].argmax()), loaded.witness_classes_.tolist()
    (True, ['no', 'yes'])
    """
    with naming("directory", "the path of a folder"):
        directory = Path(directory)
    plain = _plain(sidekick)
    check_target(directory, overwrite=overwrite, kind=KIND)
    description, arrays = described(plain, with_head=False)
    write_folder(
        directory, description, arrays, {}, class_names=None, overwrite=overwrite, kind=KIND
    )
    return directory


def load_sidekick(directory: str | os.PathLike[str]) -> SidekickScorer:
    """Read a folder written by :func:`save_sidekick`.

    Parameters
    ----------
    directory : path
        The folder.

    Returns
    -------
    SidekickScorer
        With its text classifier, not fitted to a head.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or holds something else.
    ValueError
        If it is a fitted head, is damaged or was written by a newer version.
    """
    with naming("directory", "the path of a folder"):
        directory = Path(directory)
    document, content = read_folder(directory, "a sidekick", _COMMAND)
    if document.class_name != "SidekickScorer" or "classifier_" not in document.attributes:
        raise ValueError(
            f"'{directory}' is a fitted head ({document.class_name}), not a sidekick; "
            f"'{_COMMAND}' writes one."
        )
    try:
        description = {
            "class": document.class_name,
            "params": document.params,
            "attributes": document.attributes,
        }
        found: Any = Reader(checked_arrays(document.arrays, content)).estimator(description)
        sidekick = _plain(found)
        if sidekick.log_proba(["a text"]).shape != (1, len(sidekick.witness_classes_)):
            raise ValueError("it gives no log-probabilities for a text")
    except Exception as error:  # whatever a text classifier makes of other values
        raise ValueError(
            f"'{directory}' cannot be read as a sidekick: {error}. Restore the folder from a "
            f"copy, or fit it again ('{_COMMAND}')."
        ) from error
    return sidekick


def sidekick_sha256(sidekick: SidekickScorer) -> str:
    """Return a hash of a sidekick: its text classifier, classes and training texts."""
    description, arrays = described(_plain(sidekick), with_head=False)
    rest = json.dumps(essence(description), sort_keys=True)
    return hashlib.sha256(save(dict(sorted(arrays.items()))) + rest.encode()).hexdigest()


def sidekick_view(sidekick: SidekickScorer) -> TextView:
    """Return what gives a sidekick's view of texts, for ``ModelViews(texts={"sidekick": ...})``.

    Parameters
    ----------
    sidekick : SidekickScorer
        After ``fit_witness``.

    Returns
    -------
    TextView
        Its log-probabilities, with the names of its classes.
    """
    classes: list[Any] = sidekick.witness_classes_.tolist()
    named = all(isinstance(name, str) for name in classes)
    return TextView(
        sidekick.log_proba,
        len(classes),
        classes=classes if named else None,
        provenance={"sidekick_sha256": sidekick_sha256(sidekick)},
    )


def _plain(sidekick: SidekickScorer) -> SidekickScorer:
    """Return the text classifier alone, with default settings."""
    if not isinstance(sidekick, SidekickScorer):
        raise TypeError(f"sidekick is a {type(sidekick).__name__}; expected a SidekickScorer.")
    if "classifier_" not in vars(sidekick):
        raise ValueError(
            "sidekick has no text classifier; call fit_witness(texts, y) with the texts that the "
            "original classifier was trained on."
        )
    taught = clone(sidekick)
    taught.set_params(**SidekickScorer().get_params(deep=False))
    return taught

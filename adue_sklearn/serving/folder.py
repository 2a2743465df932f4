"""The folder of an ``UncertaintyClassifier``: safetensors and JSON, and a card to read.

``adue.json`` says what there is: the classes, the base model, and which of the parts were saved.
``adapter/`` is the adapter with its tokenizer, ``head/`` the score, ``error_probability/`` the map
to P(error), ``threshold.json`` the threshold, ``companions/NAME/`` other adapters whose answers the
score reads.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, snapshot_download
from pydantic import PositiveInt

import adue_sklearn
from adue_sklearn._utils.places import looks_like_path, not_there, what_instead
from adue_sklearn._utils.schemas import Kind, PlainName, Schema, check_document, read_document
from adue_sklearn._utils.validation import naming, warn
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.features import LoadedClassifier, ModelViews, load_classifier
from adue_sklearn.features._model.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterFiles,
    read_adapter,
)
from adue_sklearn.persistence import FittedHead, as_json, load_head, save_head
from adue_sklearn.serving._folders import new_folder
from adue_sklearn.serving.model_card import model_card
from adue_sklearn.thresholds import load_threshold, save_threshold

FORMAT_VERSION = 1
_JSON, _ADAPTER, _HEAD, _ERRORS, _THRESHOLD, _COMPANIONS = (
    *("adue.json", "adapter", "head", "error_probability", "threshold.json", "companions"),
)
_KIND = Kind(
    name="an uncertainty classifier",
    mend="Restore the folder from a copy, or save it again with save_pretrained.",
    newest=FORMAT_VERSION,
)
#: Where a model lies differs between the folder and the fit, and says nothing about the model.
_PLACES = ("model", "base_model")


class _Model(Schema):
    """A model: in a folder of its own if ``copied``, else where ``name`` says."""

    name: str
    copied: bool
    base_model: str
    adapter_sha256: str | None
    max_length: PositiveInt
    precision: Literal["float64", "float32", "bfloat16", "float16"]
    classes: list[str] | None


class _Document(Schema):
    """What ``adue.json`` holds."""

    format_version: PositiveInt
    model: _Model
    companions: dict[PlainName, _Model]
    base_view: bool
    pool: Literal["mean", "first", "last"]
    threshold: bool
    error_probability: bool
    measured: dict[str, Any]


def save(clf: Any, folder: Path, *, include_model: bool, overwrite: bool) -> Path:
    """Write an ``UncertaintyClassifier`` to a folder, whole or not at all."""
    views = clf.views or ModelViews()
    with new_folder(folder, "an uncertainty classifier", _is_ours, overwrite=overwrite) as new:
        document = {
            "format_version": FORMAT_VERSION,
            "adue_sklearn": adue_sklearn.__version__,
            "model": _save_model(clf.classifier, new / _ADAPTER, copy=include_model),
            "companions": {
                name: _save_model(companion, new / _COMPANIONS / name, copy=include_model)
                for name, companion in views.companions.items()
            },
            "base_view": views.base is not None,
            "pool": views.pool,
            "threshold": clf.threshold is not None,
            "error_probability": clf.error_probability is not None,
            "measured": {name: as_json(name, value) for name, value in clf.measured.items()},
        }
        _save_score(clf.head, new / _HEAD)
        if clf.threshold is not None:
            save_threshold(clf.threshold, new / _THRESHOLD)
        if clf.error_probability is not None:
            _save_score(clf.head._replace(estimator=clf.error_probability), new / _ERRORS)
        content = json.dumps(document, indent=2, allow_nan=False) + "\n"
        (new / _JSON).write_text(content, encoding="utf-8")
        (new / "README.md").write_text(model_card(clf, base_of(clf.classifier)), encoding="utf-8")
    return folder


def load(
    cls: Any,
    place: str | os.PathLike[str],
    *,
    revision: str | None,
    base_model: str | os.PathLike[str] | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    batch_tokens: int,
) -> Any:
    """Make an ``UncertaintyClassifier`` of a folder, or of a repository on the hub."""
    folder = _find(place, revision)
    document = check_document(
        read_document(folder / _JSON, _KIND), _Document, folder / _JSON, _KIND
    )
    head = _without_places(load_head(folder / _HEAD))
    common: dict[str, Any] = {"base_model": base_model, "device": device, "dtype": dtype}
    main = common | {"features": head.view}
    classifier = _load_model(document.model, folder / _ADAPTER, **main)
    views = ModelViews(
        pool=document.pool,
        base=_load_model(document.model, folder / _ADAPTER, without_adapter=True, **main)
        if document.base_view
        else None,
        companions={
            name: _load_model(model, folder / _COMPANIONS / name, **common)
            for name, model in document.companions.items()
        },
    )
    errors: Any = None
    if document.error_probability:
        errors = load_head(folder / _ERRORS).estimator
    return cls(
        classifier,
        head,
        load_threshold(folder / _THRESHOLD) if document.threshold else None,
        errors,
        views=views,
        measured=document.measured,
        batch_tokens=batch_tokens,
    )


def push(
    clf: Any,
    repo_id: str,
    *,
    include_model: bool,
    private: bool | None,
    token: str | None,
    commit_message: str,
) -> str:
    """Upload the folder to a model repository on the hub; return the commit's address."""
    base = base_of(clf.classifier)
    if os.path.isdir(base):
        warn(
            f"The base model is known as a folder of this machine only ({base}): who loads "
            f"{repo_id} has to pass base_model=. Load the classifier with its name on the hub."
        )
    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save(clf, Path(temporary) / "new", include_model=include_model, overwrite=False)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message
        )
    return str(commit.commit_url)


def _find(place: str | os.PathLike[str], revision: str | None) -> Path:
    with naming("folder", "the path of a folder, or a name on the hub"):
        name = os.fspath(place)
    if not os.path.isdir(name):
        if not name or looks_like_path(name):
            raise FileNotFoundError(
                f"folder: {not_there(name)} Expected a folder that save_pretrained wrote, or its "
                "name on the hub (owner/name)."
            )
        return Path(snapshot_download(name, revision=revision))
    folder = Path(name)
    if not (folder / _JSON).is_file():
        what = what_instead(folder, "an uncertainty classifier")
        what = what or f"'{folder}' is not an uncertainty classifier: it does not hold {_JSON}."
        raise FileNotFoundError(f"folder: {what} UncertaintyClassifier.save_pretrained writes one.")
    return folder


def _save_score(head: FittedHead, folder: Path) -> None:
    save_head(head.estimator, folder, provenance=head.provenance, class_names=head.class_names)


def _without_places(head: FittedHead) -> FittedHead:
    known = {name: value for name, value in head.provenance.items() if name not in _PLACES}
    return head._replace(provenance=known)


def _save_model(classifier: LoadedClassifier, folder: Path, *, copy: bool) -> dict[str, Any]:
    """Write an adapter and its tokenizer, or nothing; return what ``adue.json`` says of it."""
    facts = classifier.provenance
    name = facts.get("model")
    if name is None:
        raise ValueError(
            "classifier: it was loaded from a live model, which has no name. Save the adapter "
            "(save_pretrained) and load that: load_classifier(FOLDER)."
        )
    adapter = read_adapter(name)
    copied = copy and adapter is not None
    if copied and adapter is not None:
        _copy_adapter(adapter, classifier, folder)
    return {
        "name": _absolute(name),
        "copied": copied,
        "base_model": _absolute(facts["base_model"]),
        "adapter_sha256": facts.get("adapter_sha256"),
        "max_length": classifier.max_length,
        "precision": facts["precision"],
        "classes": classifier.classes,
    }


def _copy_adapter(adapter: AdapterFiles, classifier: LoadedClassifier, folder: Path) -> None:
    """Copy an adapter with the base that it was loaded with, and the tokenizer."""
    config = adapter.config | {"base_model_name_or_path": base_of(classifier)}
    if config["base_model_name_or_path"] == classifier.provenance["base_model"]:
        revision = classifier.provenance.get("revision")
        config["revision"] = revision or adapter.config.get("revision")
    folder.mkdir(parents=True)
    (folder / ADAPTER_WEIGHTS).write_bytes(adapter.weights.read_bytes())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    classifier.tokenizer.save_pretrained(folder)


def base_of(classifier: LoadedClassifier) -> str:
    """Return the name of the base model; of one in a folder that of the adapter, if it has one."""
    used: str = classifier.provenance["base_model"]
    adapter = read_adapter(classifier.provenance["model"])
    if adapter is None or not os.path.isdir(used):
        return used
    named = adapter.config.get("base_model_name_or_path") or used
    return _absolute(named)


def _load_model(model: _Model, folder: Path, **options: Any) -> LoadedClassifier:
    if options["dtype"] is None:
        options["dtype"] = getattr(torch, model.precision)
    if options["base_model"] is None and model.base_model != model.name:
        # On another machine a folder is not there, and the adapter's own name has to do.
        here = os.path.isdir(model.base_model)
        elsewhere = model.copied or looks_like_path(model.base_model)
        options["base_model"] = model.base_model if here or not elsewhere else None
    place = os.fspath(folder) if model.copied else model.name
    options |= {"max_length": model.max_length, "classes": model.classes}
    loaded = load_classifier(place, **options)
    found = loaded.provenance.get("adapter_sha256")
    if model.adapter_sha256 is not None and found != model.adapter_sha256:
        raise ModelMismatchError(
            f"'{place}' holds another model than that which was saved (adapter_sha256 is {found}, "
            f"was {model.adapter_sha256}). Restore it from a copy, or save again."
        )
    return loaded


def _absolute(name: str) -> str:
    """Return a folder's whole path; a name on the hub as it is."""
    return os.path.abspath(name) if os.path.isdir(name) else name


def _is_ours(folder: Path) -> bool:
    return (folder / _JSON).is_file()

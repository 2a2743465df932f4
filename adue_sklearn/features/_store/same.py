"""Whether rows belong together: the same model, the same extraction, the same input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adue_sklearn._utils.validation import warn
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features._store.manifest import UNFINISHED

_ABSENT = object()
# What makes features another model's, or other features of it; the rest of the provenance (paths,
# library versions) may differ between the parts of a store, with a warning.
_MODEL = (
    "adapter_sha256",
    "architecture",
    "head",
    "view",
    "layers",
    "activation",
    "pooling",
    "revision",
    "max_length",
    "precision",
)
#: The same for a view: where it lies in a model, or which other model gave it.
_VIEW_MODEL = ("layer", "pool", "sidekick_sha256", *_MODEL)
_FORM = ("n_features", "n_classes", "classes", "labelled")


def check_same_model(folder: Path, store: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    """Raise StoreError unless further rows (a manifest) come from the model of the store."""
    then, now = store["provenance"], rows["provenance"]
    differences = _head_differences(store, rows)
    # The name of the head's module stands in the provenance as "head".
    shared = [key for key in _MODEL if key in then and key in now]
    differences += _differences(then, now, shared)
    differences += _view_differences(store, rows, _VIEW_MODEL)
    if differences:
        raise StoreError(
            f"'{folder}' holds different features: {'; '.join(differences)}. Append only rows of "
            "the same model, extracted in the same way; write others to a new store."
        )
    minor = sorted(set(then) & set(now) - {*_MODEL, "truncated_rows"})
    changes = _differences(then, now, minor)
    if changes:
        warn(
            f"The rows appended to '{folder}' come from the same model, but were made under other "
            f"conditions ({'; '.join(changes)})."
        )


def check_same_views(
    path: Path,
    mine: Mapping[str, Mapping[str, Any]],
    other: Path,
    theirs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise StoreError unless the views that two stores both have were made in the same way."""
    found = []
    for name in mine:
        if name not in theirs:
            continue
        then, now = mine[name]["provenance"], theirs[name]["provenance"]
        shared = [key for key in _VIEW_MODEL if key in then and key in now]
        different = _differences(mine[name], theirs[name], ["n_columns"])
        different += _differences(then, now, shared)
        found += [f"view {name}: {one}" for one in different]
    if found:
        raise StoreError(
            f"The views of '{other}' are not those of '{path}': {'; '.join(found)}. Extract both "
            "stores with the same options."
        )


def layer_number(name: str) -> int | None:
    """Return which layer a view is of, None for other views."""
    layer = re.fullmatch(r"layer_(\d+)", name)
    return int(layer[1]) if layer else None


def extract_options(names: Iterable[str]) -> str:
    """Return the options of ``adue extract`` that make views of these names."""
    layers, options = [], []
    for name in names:
        layer = layer_number(name)
        if layer is not None:
            layers.append(str(layer))
        elif name == "base":
            options.append("--base-view")
        elif name == "sidekick":
            options.append("--sidekick SIDEKICK")
        else:
            options.append(f"--companion {name}=ADAPTER")
    if layers:
        options.insert(0, f"--layers {','.join(layers)}")
    return " ".join(options)


def check_same_writing(
    folder: Path,
    unfinished: Mapping[str, Any],
    mine: Mapping[str, Any],
    *,
    append: bool,
    resume: bool,
) -> None:
    """Raise StoreError unless an interrupted writing (a manifest) is the one about to begin."""
    drop = (
        f"or drop it: delete '{folder / UNFINISHED}'"
        if append
        else "delete the directory, or choose another path"
    )
    if not resume:
        raise StoreError(
            f"'{folder}' holds an interrupted extraction. Resume it (resume=True, --resume), "
            f"{drop}."
        )
    then, now = unfinished["extractions"], mine["extractions"]
    if len(then) != len(now):
        raise StoreError(
            f"'{folder}' holds the rest of another interrupted "
            f"{'extraction' if then else 'writing'}. Finish it, {drop}."
        )
    differences = _head_differences(unfinished, mine)
    if unfinished["shards"][: len(mine["shards"])] != mine["shards"]:
        differences.append("the store's shards have changed")
    if not unfinished.get("text_digests") and mine.get("text_digests"):
        differences.append(
            "it holds no digests of the texts, because an earlier version of adue-sklearn began it"
        )
    differences += _view_differences(unfinished, mine)
    for old, new in zip(map(_flat, then), map(_flat, now), strict=True):
        differences += _differences(old, new, dict.fromkeys([*old, *new]))
    if differences:
        raise StoreError(
            f"'{folder}' holds a different interrupted extraction: "
            f"{'; '.join(differences)}. Run it with its original settings, {drop}."
        )


def is_in_store(record: Sequence[Mapping[str, Any]], store: Mapping[str, Any]) -> bool:
    """Say whether an extraction of the same input, however it was sharded, is in a store."""
    known = [_input(extraction) for extraction in store.get("extractions") or []]
    return any(_input(extraction) in known for extraction in record)


def _input(extraction: Mapping[str, Any]) -> dict[str, Any]:
    circumstances = ("provenance", "shard_rows", "first_row")
    return {key: value for key, value in extraction.items() if key not in circumstances}


def _head_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    differences = _differences(then, now, _FORM)
    if then["head"]["sha256"] != now["head"]["sha256"]:
        differences.append("the head's weights differ")
    differences += _differences(then["head"], now["head"], ["activation"])
    return differences


def _view_differences(
    then: Mapping[str, Any], now: Mapping[str, Any], facts: Iterable[str] | None = None
) -> list[str]:
    """Compare the views of two manifests; ``facts`` of their provenance, by default all."""
    old, new = then.get("views") or {}, now.get("views") or {}
    if set(old) != set(new):
        return [f"views ({_names(old)} before, {_names(new)} now)"]
    found = []
    for name, view in old.items():
        origins = view["provenance"], new[name]["provenance"]
        compared = {*origins[0], *origins[1]} if facts is None else facts
        found += _differences(view, new[name], ["kind", "n_columns"])
        found += [f"view {name}: {one}" for one in _differences(*origins, sorted(compared))]
    return found


def _names(views: Iterable[str]) -> str:
    return ", ".join(views) or "none"


def _flat(extraction: Mapping[str, Any]) -> dict[str, Any]:
    return {**extraction, **(extraction.get("provenance") or {}), "provenance": None}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    found = []
    for key in keys:
        old, new = then.get(key, _ABSENT), now.get(key, _ABSENT)
        if old == new:
            continue
        if key.endswith("_sha256"):  # two hashes tell nobody anything
            found.append(f"{key.removesuffix('_sha256')} differ")
        else:
            found.append(f"{key} ({_shown(old)} before, {_shown(new)} now)")
    return found


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)

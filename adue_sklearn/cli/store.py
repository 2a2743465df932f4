"""``adue store info | verify``: inspect a feature store, verify it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adue_sklearn._utils.messages import one_line
from adue_sklearn.cli.console import SafeConsole

if TYPE_CHECKING:
    from adue_sklearn.features._store.manifest import Manifest

store_commands = typer.Typer(help="Inspect or verify a feature store.", no_args_is_help=True)
# Paths and hashes are to be copied: no colours in them, no line breaks.
_console = SafeConsole(highlight=False, soft_wrap=True)

StorePath = Annotated[Path, typer.Argument(help="Folder of the feature store.")]


@store_commands.command()
def info(path: StorePath) -> None:
    """Show what a store holds and where it comes from."""
    from adue_sklearn.features._store.manifest import (
        MANIFEST,
        UNFINISHED,
        damaged_head,
        damaged_shards,
        read_manifest,
        read_unfinished,
    )

    unfinished = read_unfinished(path)
    if unfinished is not None and not (path / MANIFEST).exists():
        _print(_facts(path, unfinished))
        done = _progress(unfinished, 0)
        _print([("unfinished", f"{done}; run the same command again to resume")])
        return
    manifest = read_manifest(path)
    _print(_facts(path, manifest))
    if unfinished is not None:
        done = _progress(unfinished, manifest["n_rows"])
        mend = f"run the same append again to resume, or delete {path / UNFINISHED} to drop them"
        _print([("unfinished append", f"{done}, not yet part of the store; {mend}")])
    for damage in damaged_head(path, manifest) + damaged_shards(path, manifest, every_byte=False):
        _print([("damaged", str(damage))])


@store_commands.command()
def verify(path: StorePath) -> None:
    """Verify every byte; list damaged files and exit with status 1 if there are any."""
    from adue_sklearn.features._store.damage import damage_error, find_damage
    from adue_sklearn.features._store.manifest import read_manifest

    manifest = read_manifest(path)  # not FeatureStore.open, which stops before the last hash
    damaged = find_damage(path, manifest)
    if damaged:
        raise damage_error(damaged)
    _console.print(f"{path}: all {len(manifest['shards']) + 1} files are intact.", markup=False)


def interrupted_rows(path: Path) -> int:
    """Return how many rows an interrupted extraction or append has done in a folder."""
    from adue_sklearn.features._store.manifest import MANIFEST, read_manifest, read_unfinished

    unfinished = read_unfinished(path)
    if unfinished is None:
        return 0
    finished = read_manifest(path)["n_rows"] if (path / MANIFEST).exists() else 0
    return int(unfinished["n_rows"] - finished)


def _progress(unfinished: Manifest, before: int) -> str:
    records = unfinished.get("extractions") or [{}]
    total = records[-1].get("n_rows")
    of_all = "" if total is None else f" of {total}"
    return f"{unfinished['n_rows'] - before}{of_all} rows done"


def _facts(path: Path, manifest: Manifest) -> list[tuple[str, Any]]:
    classes = manifest["classes"]
    names = "" if classes is None else f" ({', '.join(classes)})"
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    facts = [
        ("store", path),
        ("format version", manifest["format_version"]),
        ("rows", f"{manifest['n_rows']} in {len(manifest['shards'])} shards"),
        ("features", manifest["n_features"]),
        ("classes", f"{manifest['n_classes']}{names}"),
        ("labels", "yes" if manifest["labelled"] else "no"),
        ("text digests", "yes" if manifest.get("text_digests") else "no"),
        ("bytes", f"{size:,}"),
    ]
    provenance = manifest["provenance"].items()
    facts += [(key.replace("_", " "), value) for key, value in provenance if value is not None]
    return facts + [
        (f"view {name}", _view(view)) for name, view in (manifest.get("views") or {}).items()
    ]


def _view(view: dict[str, Any]) -> str:
    """Say what a view of a store is, and where it comes from."""
    origin = view["provenance"]
    # A layer is one of the store's own model, whose adapter stands above.
    told: tuple[str, ...] = ("model", "adapter_sha256", "sidekick_sha256")
    if "layer" in origin:
        told = ("layer", "pool")
    facts = [f"{key.replace('_', ' ')} {origin[key]}" for key in told if origin.get(key)]
    off = ["adapter switched off"] if origin.get("without_adapter") else []
    return ", ".join([f"{view['n_columns']} {view['kind']}", *facts, *off])


def _print(facts: list[tuple[str, Any]]) -> None:
    for name, value in facts:
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        _console.print(one_line(f"{name}: {value}"), markup=False)

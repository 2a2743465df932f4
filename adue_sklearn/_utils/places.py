"""Paths, and names that may be on the hub instead: which is meant, and what is wrong."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

#: Ends of file names, which names on the hub hardly have.
_FILE_SUFFIXES = {
    *(".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".xlsx", ".arrow"),
    *(".gz", ".zip", ".tar", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".gguf"),
}

#: What a folder is, told by the first of these files that it holds.
_KINDS = {
    "manifest.json": "a feature store",
    "unfinished.json": "an unfinished feature store",
    "estimator.json": "a fitted head",
    "adue.json": "an uncertainty classifier",
    "adapter_config.json": "an adapter",
    "config.json": "a whole model",
}

_PLAIN = re.compile(r"\w[\w.-]*/[\w.-]*\w")


def looks_like_path(name: str) -> bool:
    r"""Tell a path from a name on the hub, which is ``name`` or ``owner/name``.

    A path is what exists here; begins with ``.``, ``/`` or ``~``; ends with a slash; holds a
    backslash or more than one slash; has the end of a file's name; or lies in a folder that
    exists here.

    Examples
    --------
    >>> [looks_like_path(name) for name in ("roberta-base", "owner/name", "owner/name:test")]
    [False, False, False]
    >>> [looks_like_path(name) for name in ("./adapter", "runs/7/adapter", "C:\\a", "a/", "a.bin")]
    [True, True, True, True, True]
    """
    path = Path(name)
    return (
        name.startswith((".", "/", "~"))
        or name.endswith("/")
        or "\\" in name
        or name.count("/") > 1
        or path.suffix.lower() in _FILE_SUFFIXES
        or ("/" in name and os.path.isdir(path.parent))
        or os.path.exists(path)  # False for a name that no file system takes
    )


def not_there(name: str) -> str:
    """Return a sentence on a path that does not exist, with what it may be mistyped from."""
    if name.startswith("~"):
        return f"'{name}' does not exist; '~' is not expanded here, so write the full path."
    path = Path(name)
    if not os.path.isdir(path.parent):
        parent = path.parent
        while not os.path.isdir(parent.parent):
            parent = parent.parent
        return f"'{name}' does not exist: there is no folder '{parent}'."
    names = [other.name for other in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"'{name}' does not exist. Did you mean '{path.parent / close[0]}'?"
    if name.count("/") == 1 and _PLAIN.fullmatch(name):
        return f"'{name}' does not exist (it is read as a path because '{path.parent}' exists)."
    return f"'{name}' does not exist."


def what_instead(path: Path, wanted: str) -> str:
    """Return a sentence that says what an unexpected path is, as far as known.

    Parameters
    ----------
    path : Path
        What was given.
    wanted : str
        What was expected, such as "a fitted head".

    Returns
    -------
    str
        Empty for an unknown kind of folder.
    """
    if os.path.isdir(path):
        kind = _kind_of_folder(path)
        return f"'{path}' is {kind}, not {wanted}; are the arguments in order?" if kind else ""
    if os.path.exists(path):
        inside = _kind_of_folder(path.parent) == wanted
        mend = f" Give the folder that contains it, '{path.parent}'." if inside else ""
        return f"'{path}' is a file, not {wanted}.{mend}"
    return f"{not_there(str(path))} Expected {wanted}."


def _kind_of_folder(folder: Path) -> str | None:
    return next((kind for file, kind in _KINDS.items() if (folder / file).is_file()), None)

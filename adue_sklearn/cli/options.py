"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Annotated, Any

import typer

from adue_sklearn._utils.places import not_there

_CLASSES = "names such as 'no,yes', or a .json file that holds a list of them"

Model = Annotated[str, typer.Argument(help="Adapter folder, merged model or hub name.")]
UnseenStore = Annotated[
    Path, typer.Argument(help="Labelled feature store of rows the model has not seen.")
]
FittedHeadFolder = Annotated[Path, typer.Argument(help="Folder that 'adue fit' wrote.")]
TrainStore = Annotated[
    Path | None,
    typer.Option(help="Feature store of the training rows, for scores that need them."),
]
TargetRisk = Annotated[
    float, typer.Option(help="Maximum error rate among accepted answers, such as 0.02.")
]
Confidence = Annotated[float, typer.Option(help="Confidence level of the guarantee.")]
BaseModel = Annotated[
    str | None, typer.Option(help="Folder or hub name of the base model, if not the adapter's own.")
]
Classes = Annotated[
    str | None,
    typer.Option(help="Class names in head order: 'negative,positive' or a JSON file with a list."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Precision = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; by default bfloat16 on a GPU.")
]
BatchTokens = Annotated[int, typer.Option(min=1, help="Maximum padded tokens per batch.")]
TextColumnName = Annotated[str, typer.Option("--text-column", help="Column that holds the texts.")]
SkipEmpty = Annotated[
    bool, typer.Option("--skip-empty", help="Leave out texts that are empty or blank.")
]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the true labels.")]
Fallback = Annotated[
    bool,
    typer.Option(
        "--fallback", help="Score by softmax response where a view of the head is missing."
    ),
]
OtherModel = Annotated[
    bool, typer.Option("--allow-other-model", help="Only warn if the model is a different one.")
]


def parse_classes(classes: str | None) -> list[str] | None:
    """Read 'a,b,c' or a JSON file that holds a list of names."""
    if classes is None:
        return None
    file = Path(classes)
    if not classes.endswith(".json"):
        if file.is_file():
            raise ValueError(f"--classes: '{classes}' is a file; expected {_CLASSES}.")
        return [name.strip() for name in classes.split(",")]
    if file.is_dir():
        raise ValueError(f"--classes: '{classes}' is a folder; expected {_CLASSES}.")
    if not file.exists():
        raise FileNotFoundError(f"--classes: {not_there(classes)} Expected {_CLASSES}.")
    try:
        names = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--classes: '{classes}' is not UTF-8 ({error}); save it as UTF-8."
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--classes: '{classes}' cannot be read as JSON: {error}. Expected a list of names, "
            'such as ["no", "yes"].'
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"--classes: '{classes}' holds {reprlib.repr(names)}; expected a list of names in the "
            'order of the head\'s rows, such as ["no", "yes"].'
        )
    return names


def parse_dtype(dtype: str | None) -> Any:
    """Return torch's dtype of a name."""
    if dtype is None:
        return None
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ValueError(f"--dtype is {dtype!r}; expected one of {', '.join(known)}.")
    return known[dtype]

"""``adue export``: write a classifier with its uncertainty head as an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import tell
from adue_sklearn.cli.options import (
    BaseModel,
    Model,
    OtherModel,
    Precision,
    parse_dtype,
)
from adue_sklearn.cli.outputs import Force, check_folder


def export(
    model: Model,
    head: Annotated[Path, typer.Option(help="Folder that 'adue fit' wrote: a linear AdUE head.")],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    base_model: BaseModel = None,
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Write the adapter alone, with the stacked head in it."),
    ] = False,
    threshold: Annotated[
        Path | None,
        typer.Option(help="File from 'adue threshold', to be named in the configuration."),
    ] = None,
    dtype: Precision = "float32",
    force: Force = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Write a checkpoint that gives answer and uncertainty without this package.

    Its last layer has the rows of the classifier's head and, below them, those of the AdUE head.
    docs/serving.md says how to read the logits.
    """
    from adue_sklearn.features import load_classifier
    from adue_sklearn.persistence import load_head
    from adue_sklearn.serving.stacked import check_export, export_stacked, linear_adue
    from adue_sklearn.thresholds import load_threshold

    check_export(out, overwrite=force)
    check_folder(out.parent, "--out")
    fitted = load_head(head)
    linear_adue(fitted.estimator)  # before the model is loaded
    limit = None if threshold is None else load_threshold(threshold)
    classifier = load_classifier(
        model,
        base_model=base_model,
        device="cpu",
        dtype=parse_dtype(dtype),
        max_length=fitted.provenance.get("max_length"),
        classes=fitted.class_names,
    )
    export_stacked(
        classifier,
        fitted,
        out,
        adapter=adapter,
        threshold=limit,
        overwrite=force,
        allow_other_model=allow_other_model,
    )
    tell(
        f"Wrote the {'adapter' if adapter else 'model'} to {out}: the first "
        f"{classifier.n_classes} logits are the answer, the others the uncertainty."
    )

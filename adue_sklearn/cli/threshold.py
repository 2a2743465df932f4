"""``adue threshold``: set a threshold with a guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import tell
from adue_sklearn.cli.options import Confidence, Fallback, OtherModel, TargetRisk, UnseenStore
from adue_sklearn.cli.outputs import Force, check_output
from adue_sklearn.cli.stores import open_labelled


def threshold(
    store: UnseenStore,
    target_risk: TargetRisk,
    confidence: Confidence = 0.95,
    head: Annotated[
        Path | None,
        typer.Option(help="Folder that 'adue fit' wrote. Default: use softmax response."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for 'adue predict --threshold'; .json.")
    ] = None,
    method: Annotated[str, typer.Option(help="binomial, sgr or ltt.")] = "binomial",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    fallback: Fallback = False,
    force: Force = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Show what share of the answers can be accepted with a guarantee, and set the threshold."""
    from adue_sklearn.cli.thresholding import as_json, set_threshold
    from adue_sklearn.thresholds import save_threshold

    check_output(out, "--out", [".json"], force=force)
    found, said = set_threshold(
        open_labelled(store),
        head,
        target_risk=target_risk,
        confidence=confidence,
        method=method,
        fallback=fallback,
        allow_other_model=allow_other_model,
    )
    for line in [as_json(found, said)] if json_ else [found.describe(), *said]:
        tell(line)
    if out is not None:
        save_threshold(found, out, overwrite=force)
        if not json_:
            tell(f"Wrote the threshold to {out}.")

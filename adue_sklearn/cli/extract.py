"""``adue extract``: run texts through a model once and keep what enters its head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adue_sklearn.cli.console import console, progress, say, say_left_out, tell
from adue_sklearn.cli.options import (
    BaseModel,
    BatchTokens,
    Classes,
    Device,
    LabelColumn,
    Model,
    Precision,
    SkipEmpty,
    TextColumnName,
    parse_classes,
    parse_dtype,
)
from adue_sklearn.cli.outputs import Force, check_store
from adue_sklearn.cli.store import interrupted_rows
from adue_sklearn.cli.views import (
    BaseView,
    Companions,
    Layers,
    PoolOfLayers,
    Sidekick,
    load_models,
    load_unseen_sidekick,
    parse_companions,
    parse_layers,
)


def extract(
    model: Model,
    data: Annotated[str, typer.Argument(help=".jsonl, .csv, .parquet or hub NAME:SPLIT.")],
    out: Annotated[Path, typer.Option(help="Folder of the new feature store.")],
    base_model: BaseModel = None,
    text_column: TextColumnName = "text",
    label_column: LabelColumn = "label",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", "--unlabeled", help="The data has no labels.")
    ] = False,
    classes: Classes = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens per text. Default: what the model allows."),
    ] = None,
    features: Annotated[
        str, typer.Option(help="Store the input of the 'last' linear layer or of the whole 'head'.")
    ] = "last",
    layers: Layers = None,
    pool: PoolOfLayers = "mean",
    base_view: BaseView = False,
    companion: Companions = None,
    sidekick: Sidekick = None,
    device: Device = "auto",
    dtype: Precision = None,
    batch_tokens: BatchTokens = 8192,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows per file.")] = 256,
    skip_empty: SkipEmpty = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add the rows to a finished store of the same model.")
    ] = False,
    force: Force = False,
    resume: Annotated[
        bool, typer.Option(help="Resume an interrupted run of the same command.")
    ] = True,
) -> None:
    """Run texts through a model once and store what enters its classification head."""
    import numpy as np

    from adue_sklearn._utils.blank_texts import BlankRows, is_blank
    from adue_sklearn.cli.labels import check_labels
    from adue_sklearn.cli.texts import read_texts
    from adue_sklearn.features import ModelViews, extract_features, load_classifier
    from adue_sklearn.features._model.arguments import check_view
    from adue_sklearn.features._model.views import check_pool
    from adue_sklearn.features._store.manifest import MANIFEST
    from adue_sklearn.features._store.replace import replacement_of

    check_store(out, append=append, force=force)
    names = parse_classes(classes)
    views = ModelViews(layers=parse_layers(layers), pool=check_pool(pool))
    companions = parse_companions(companion)
    texts, labels = read_texts(
        data,
        text_column=text_column,
        label_column=None if unlabelled else label_column,
        skip_empty=skip_empty,
    )
    rows = [row for row, text in enumerate(texts) if not (skip_empty and is_blank(text))]
    check_labels(labels, data, names, model, base_model, rows=rows)
    if len(rows) < len(texts):
        say_left_out(data, BlankRows.of(texts), len(texts))
    if sidekick is not None:
        from adue_sklearn.persistence import sidekick_view

        found = load_unseen_sidekick(sidekick, [texts[row] for row in rows], data)
        views = replace(views, texts={"sidekick": sidekick_view(found)})
    replaces = force and (out / MANIFEST).exists()
    place = replacement_of(out) if replaces else out
    try:
        classifier = load_classifier(
            model,
            base_model=base_model,
            device=device,
            dtype=parse_dtype(dtype),
            max_length=max_length,
            classes=names,
            features=check_view(features),
        )
        views = load_models(
            views, model, base_view=base_view, companions=companions, classes=names,
            features=check_view(features), base_model=base_model, device=device,
            dtype=parse_dtype(dtype), max_length=classifier.max_length,
        )  # fmt: skip
        done = interrupted_rows(place)
        with progress("Extracting", len(rows)) as advance:
            store = extract_features(
                classifier, texts, out, labels=labels, batch_tokens=batch_tokens, progress=advance,
                shard_rows=shard_rows, append=append, overwrite=force, resume=resume,
                skip_empty=skip_empty, views=views,
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = interrupted_rows(place)
        say("interrupted", "yellow", _what_is_kept(kept, len(rows), place))
        raise typer.Exit(130) from None
    if done and not interrupted_rows(place):
        console.print(f"Resumed an interrupted run that had finished {done} rows.")
    tell(
        f"{out}: {len(store)} rows of {store.features.shape[1]} features, "
        f"{store.n_classes} classes."
    )
    if store.view_facts:
        console.print(f"Views: {', '.join(store.view_facts)}.")
    if store.labels is not None:
        wrong = np.asarray(store.logits).argmax(axis=1) != store.labels
        console.print(f"The model is wrong on {int(wrong.sum())} of them ({wrong.mean():.1%}).")


def _what_is_kept(n_rows: int, n_texts: int, out: Path) -> str:
    if n_rows == 0:
        return f"{out} holds no rows yet; run the same command to start again."
    return f"{out} holds {n_rows} of {n_texts} rows; run the same command to resume."

"""Options for views of a row beside its features, and the models that give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adue_sklearn.cli.console import warn

if TYPE_CHECKING:
    from adue_sklearn.features import LoadedClassifier, ModelViews
    from adue_sklearn.scorers import SidekickScorer

Layers = Annotated[
    str | None,
    typer.Option(
        help="Also store the output of these transformer layers, such as '4,8,12', or of 'all': "
        "views layer_4, ..."
    ),
]
PoolOfLayers = Annotated[
    str, typer.Option(help="Pool layers over a text's tokens: 'mean', 'first' or 'last' token.")
]
BaseView = Annotated[
    bool,
    typer.Option(
        "--base-view",
        help="Also store what would enter the head with the adapter switched off: view base. One "
        "more pass.",
    ),
]
Sidekick = Annotated[
    Path | None,
    typer.Option(
        help="Folder that 'adue sidekick' wrote: also store the log-probabilities of this text "
        "classifier, view sidekick."
    ),
]
Companions = Annotated[
    list[str] | None,
    typer.Option(
        "--companion",
        metavar="NAME=ADAPTER",
        help="Also store the log-probabilities of another adapter of the same base and classes: "
        "view NAME. One more pass; may be repeated.",
    ),
]


def parse_layers(layers: str | None) -> list[int] | Literal["all"]:
    """Read '4,8,12' or 'all'."""
    if layers is None:
        return []
    if layers.strip() == "all":
        return "all"
    try:
        return [int(number) for number in layers.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--layers is {layers!r}; expected layer numbers such as '4,8,12', or 'all'."
        ) from error


def parse_companions(companions: Sequence[str] | None) -> dict[str, str]:
    """Read NAME=ADAPTER, each name once."""
    from adue_sklearn.features._store.checks import check_view_name

    places: dict[str, str] = {}
    for companion in companions or ():
        name, equals, place = companion.partition("=")
        if not (equals and place):
            raise ValueError(
                f"--companion is {companion!r}; expected NAME=ADAPTER, such as 'other=adapters/2'."
            )
        if check_view_name(name, "--companion") in places:
            raise ValueError(f"--companion: {name!r} was given twice; name each companion once.")
        places[name] = place
    return places


def load_unseen_sidekick(folder: Path, texts: Sequence[str], source: str) -> SidekickScorer:
    """Load a sidekick for texts that it was not fitted on; warn of a few that it was.

    Raises
    ------
    ValueError
        If it was fitted on more than 5 % of them: its view of these means nothing.
    """
    import numpy as np

    from adue_sklearn._utils.views import text_digests
    from adue_sklearn.persistence import load_sidekick
    from adue_sklearn.scorers.witness import MOST_SHARED

    sidekick = load_sidekick(folder)
    seen = np.isin(text_digests(texts), sidekick.taught_texts_)
    if seen.any():
        what = f"--sidekick: {int(seen.sum())} of {len(seen)} texts of {source} were used to fit it"
        if seen.mean() > MOST_SHARED:
            raise ValueError(
                f"{what}. Of its own training texts it says nothing new. If these are the training "
                "rows of the model, leave --sidekick out: no score reads the view there. Else fit "
                "the sidekick on training texts alone."
            )
        warn(f"{what}, such as texts that occur twice. Its view of them is too optimistic.")
    return sidekick


def load_models(
    views: ModelViews,
    model: str,
    *,
    base_view: bool,
    companions: dict[str, str],
    classes: list[str] | None,
    features: Any,
    **loading: Any,
) -> ModelViews:
    """Return views with the models that give them, loaded as the main one was."""
    from adue_sklearn.features import load_classifier

    if base_view:
        base = load_classifier(
            model, classes=classes, features=features, without_adapter=True, **loading
        )
        views = replace(views, base=base)
    loaded = {
        name: _load_companion(name, place, classes, loading) for name, place in companions.items()
    }
    return replace(views, companions=loaded)


def _load_companion(
    name: str, place: str, classes: list[str] | None, loading: dict[str, Any]
) -> LoadedClassifier:
    """Load an adapter; where it does not name its classes, --classes does."""
    from adue_sklearn.features import load_classifier

    try:
        companion = load_classifier(place, **loading)
    except (ValueError, OSError) as error:
        raise ValueError(f"--companion {name}: {error}") from error
    if companion.classes is None and classes and len(classes) == companion.n_classes:
        return replace(companion, classes=classes)
    return companion

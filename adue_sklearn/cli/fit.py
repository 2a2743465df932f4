"""``adue fit``: fit an uncertainty head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adue_sklearn._utils.validation import share_hint
from adue_sklearn.cli.console import console, show, tell
from adue_sklearn.cli.options import TextColumnName, TrainStore, UnseenStore
from adue_sklearn.cli.outputs import Force, check_head
from adue_sklearn.cli.stores import open_beside, open_labelled, rows_not_in

if TYPE_CHECKING:
    from adue_sklearn.features import FeatureStore


def fit(
    store: UnseenStore,
    out: Annotated[Path, typer.Option(help="Folder of the fitted uncertainty head.")],
    train_store: TrainStore = None,
    score: Annotated[
        str,
        typer.Option(
            help="Score to fit: 'auto', the one with the largest expected gain over softmax "
            "response; 'AdUE', tuned; or another class, such as 'RelU' or 'ViM'."
        ),
    ] = "auto",
    folds: Annotated[int, typer.Option(min=2, help="Number of cross-validation folds.")] = 5,
    leave_out: Annotated[
        float,
        typer.Option(help="Random share of the rows to leave out for 'adue threshold'."),
    ] = 0.0,
    sidekick: Annotated[
        Path | None,
        typer.Option(help="Folder that 'adue sidekick' wrote, for the head to hold."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="With --sidekick: the texts of the store, in any order, if it was extracted "
            "without the sidekick."
        ),
    ] = None,
    text_column: TextColumnName = "text",
    force: Force = False,
) -> None:
    """Choose and fit a score; print how well it does on unseen rows."""
    from adue_sklearn.cli.fitting import AUTOMATIC, fit_adue, fit_auto, fit_score, named_score
    from adue_sklearn.cli.opinions import facts_of_views, rows_with_sidekick, with_sidekick
    from adue_sklearn.cli.texts import read_texts
    from adue_sklearn.comparison.stores import rows_with_training
    from adue_sklearn.persistence import save_head

    check_head(out, force=force)
    adue_alone = score.lower() == "adue"
    _check_sidekick_options(sidekick, texts, adue_alone=adue_alone)
    calibration = open_labelled(store)
    train = open_beside(train_store, calibration)
    usable = rows_not_in(calibration, [train])
    width = console.width
    known: dict[str, Any] = {}
    if adue_alone:  # which reads no views
        rows = _rows_to_fit(calibration, calibration.features, usable, leave_out)
        with console.status("Searching"):
            fitted = fit_adue(calibration, rows, train, folds=folds)
    else:
        X, X_train = rows_with_training(calibration, train)
        views, held = calibration.view_facts, None
        if sidekick is not None:
            given = None
            if texts is not None:
                given = read_texts(texts, text_column=text_column, label_column=None).texts
            X, held, views = rows_with_sidekick(X, calibration, sidekick, given, texts)
        rows = _rows_to_fit(calibration, X, usable, leave_out)
        trained_on = None if train is None else (X_train, train.labels)
        if score.lower() in AUTOMATIC:
            with console.status("Comparing"):
                fitted = fit_auto(calibration, rows, trained_on, held, folds=folds, width=width)
        else:
            label, scorer = named_score(score, calibration.activation, X, X_train)
            named = label, with_sidekick(scorer, held)
            with console.status("Fitting"):
                fitted = fit_score(calibration, rows, trained_on, named, folds=folds, width=width)
        known = facts_of_views(fitted.estimator, views)
    for table in fitted.tables:
        show(table)
    save_head(
        fitted.estimator,
        out,
        provenance={**calibration.provenance, **fitted.chosen_by, **known},
        class_names=calibration.classes,
        fitted_on=fitted.features,
        overwrite=force,
    )
    tell(f"Wrote the fitted head to {out}. Test it on fresh rows: adue evaluate {out} STORE")


def _check_sidekick_options(sidekick: Path | None, texts: str | None, *, adue_alone: bool) -> None:
    if texts is not None and sidekick is None:
        raise ValueError("--texts needs --sidekick: only a sidekick reads texts.")
    if sidekick is not None and adue_alone:
        raise ValueError(
            "--sidekick needs --score: tuned AdUE reads no second opinion. Leave --score out, "
            "or pass SecondOpinionScorer or sidekick."
        )


def _rows_to_fit(store: FeatureStore, X: Any, usable: Any, leave_out: float) -> tuple[Any, Any]:
    """Return X and labels of usable rows, less a random share for a threshold."""
    import numpy as np

    if not 0.0 <= leave_out < 1.0:
        hint = share_hint(leave_out)
        raise ValueError(f"--leave-out is {leave_out:g}; it must be at least 0 and below 1.{hint}")
    n_left_out = round(leave_out * len(usable))
    if n_left_out == 0 and len(usable) == len(store):
        return X, store.labels
    drawn = np.random.default_rng(0).permutation(len(usable))[n_left_out:]
    kept = usable[np.sort(drawn)]
    return X[kept], np.asarray(store.labels)[kept]

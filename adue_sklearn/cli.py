"""The command line, ``adue``: from texts to features, fitted scores, thresholds and answers."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from adue_sklearn import __version__
from adue_sklearn._label_order import LabelOrderWarning
from adue_sklearn._store_commands import interrupted_rows, store_commands

if TYPE_CHECKING:
    from adue_sklearn.features import FeatureStore, LoadedClassifier
    from adue_sklearn.persistence import ModelFacts

app = typer.Typer(
    help="Which answers of a LoRA-tuned text classifier should not be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(store_commands, name="store")
console = Console()
stderr = Console(stderr=True)

# What a command raises on bad input. Should it be a bug after all, --debug shows where.
_EXPECTED = (ValueError, OSError, ModuleNotFoundError, RuntimeError)

BaseModel = Annotated[
    str | None, typer.Option(help="Folder or hub name of the base, if not the adapter's own.")
]
Classes = Annotated[
    str | None,
    typer.Option(help="Class names in head order: 'negative,positive' or a JSON file with a list."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Precision = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; by default bfloat16 on a GPU.")
]
BatchTokens = Annotated[int, typer.Option(min=1, help="Most padded tokens in one batch.")]
TextColumnName = Annotated[str, typer.Option("--text-column", help="Column of the texts.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the true labels.")]
OtherModel = Annotated[
    bool, typer.Option("--allow-other-model", help="Only warn if the model is another one.")
]


@app.command()
def extract(
    model: Annotated[str, typer.Argument(help="Adapter folder, merged model or hub name.")],
    data: Annotated[str, typer.Argument(help=".jsonl, .csv, .parquet or hub NAME:SPLIT.")],
    out: Annotated[Path, typer.Option(help="Folder of the new feature store.")],
    base_model: BaseModel = None,
    text_column: TextColumnName = "text",
    label_column: LabelColumn = "label",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="The data has no labels.")
    ] = False,
    classes: Classes = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens of a text; by default what the model allows."),
    ] = None,
    features: Annotated[
        str, typer.Option(help="What enters the head's 'last' linear layer, or the whole 'head'.")
    ] = "last",
    device: Device = "auto",
    dtype: Precision = None,
    batch_tokens: BatchTokens = 8192,
    shard_rows: Annotated[
        int, typer.Option(min=1, help="Rows a file: what an interruption can cost.")
    ] = 4096,
    append: Annotated[
        bool, typer.Option("--append", help="Add the rows to a finished store of the same model.")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on where an interrupted run of the same command stopped.")
    ] = True,
) -> None:
    """Run texts through a model once and store what enters its classification head."""
    from adue_sklearn._texts import read_texts
    from adue_sklearn.features import extract_features, load_classifier
    from adue_sklearn.features._arguments import check_view

    names = _parse_classes(classes)
    texts, labels = read_texts(
        data, text_column=text_column, label_column=None if unlabelled else label_column
    )
    classifier = load_classifier(
        model,
        base_model=base_model,
        device=device,
        dtype=_parse_dtype(dtype),
        max_length=max_length,
        classes=names,
        features=check_view(features),
    )
    done = interrupted_rows(out)
    with _progress("Extracting", len(texts)) as advance:
        store = extract_features(
            classifier, texts, out, labels=labels, batch_tokens=batch_tokens, progress=advance,
            shard_rows=shard_rows, append=append, resume=resume,
        )  # fmt: skip
    if done and not interrupted_rows(out):
        console.print(f"Went on with an interrupted run, which had done {done} rows.")
    _tell(
        f"{out}: {len(store)} rows of {store.features.shape[1]} features, "
        f"{store.n_classes} classes."
    )
    if store.labels is not None:
        wrong = np.asarray(store.logits).argmax(axis=1) != store.labels
        console.print(f"The model errs on {int(wrong.sum())} of them ({wrong.mean():.1%}).")


@app.command()
def fit(
    store: Annotated[Path, typer.Argument(help="Feature store of rows the model has not seen.")],
    out: Annotated[Path, typer.Option(help="Folder of the fitted uncertainty head.")],
    train_store: Annotated[
        Path | None,
        typer.Option(help="Feature store of the training rows, for scores that describe them."),
    ] = None,
    score: Annotated[
        str, typer.Option(help="AdUE, tuned; or another, by class: 'RelU', 'ViM'.")
    ] = "AdUE",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    leave_out: Annotated[
        float,
        typer.Option(help="Share of the rows, drawn at random, to keep for 'adue threshold'."),
    ] = 0.0,
) -> None:
    """Tune and fit AdUE, or another score; print how it does on rows it has not seen."""
    from adue_sklearn._fit_command import fit_adue, fit_score, named_score
    from adue_sklearn._row_digests import row_digests
    from adue_sklearn._threshold_command import FIT_ROWS
    from adue_sklearn.persistence import check_same_model, save_head

    _require_new_folder(out)
    calibration = _open_labelled(store)
    train = None if train_store is None else _open_labelled(train_store)
    if train is not None:
        check_same_model(_facts(calibration), _facts(train))
        _warn_of_shared_rows(train, calibration)
    rows = _rows_to_fit(calibration, leave_out)
    if score.lower() == "adue":
        with console.status("Searching"):
            fitted = fit_adue(calibration, rows, train, folds=folds)
    else:
        named = named_score(score, calibration.activation, has_train=train is not None)
        with console.status("Fitting"):
            fitted = fit_score(calibration, rows, train, named, folds=folds, width=console.width)
    console.print(fitted.table)
    save_head(
        fitted.estimator,
        out,
        provenance={**calibration.provenance, FIT_ROWS: row_digests(fitted.features)},
        class_names=calibration.classes,
    )
    _tell(f"{out}: the fitted head. Proof on fresh rows: adue evaluate {out} STORE")


@app.command()
def threshold(
    store: Annotated[
        Path, typer.Argument(help="Labelled feature store of rows the model has not seen.")
    ],
    target_risk: Annotated[
        float, typer.Option(help="Largest error rate among accepted answers, such as 0.02.")
    ],
    confidence: Annotated[float, typer.Option(help="How surely it has to hold.")] = 0.95,
    head: Annotated[
        Path | None,
        typer.Option(help="Folder that 'adue fit' wrote; without it, softmax response decides."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for 'adue predict --threshold'; replaced if there.")
    ] = None,
    method: Annotated[str, typer.Option(help="binomial, sgr or ltt.")] = "binomial",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    allow_other_model: OtherModel = False,
) -> None:
    """Say which share of the answers can be accepted with a guarantee, and set the threshold."""
    from adue_sklearn._threshold_command import as_json, set_threshold
    from adue_sklearn.thresholds import check_file, save_threshold

    if out is not None:
        check_file(out)
    found, said = set_threshold(
        _open_labelled(store),
        head,
        target_risk=target_risk,
        confidence=confidence,
        method=method,
        allow_other_model=allow_other_model,
    )
    for line in [as_json(found, said)] if json_ else [found.describe(), *said]:
        _tell(line)
    if out is not None:
        save_threshold(found, out)
        if not json_:
            _tell(f"{out}: the threshold.")


@app.command()
def report(
    store: Annotated[
        Path, typer.Argument(help="Labelled feature store of rows the model has not seen.")
    ],
    out: Annotated[Path, typer.Option(help="The page, .html; replaced if there.")],
    train_store: Annotated[
        Path | None,
        typer.Option(help="Feature store of the training rows, for scores that describe them."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="The file that the store was extracted from, to show errors as texts."),
    ] = None,
    text_column: TextColumnName = "text",
    target_risk: Annotated[
        float, typer.Option(help="Largest error rate among accepted answers.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="How surely it has to hold.")] = 0.95,
    allow_other_model: OtherModel = False,
) -> None:
    """Write one page that says which answers to accept, why, and what is not known."""
    from datetime import UTC, datetime

    from adue_sklearn._texts import read_texts
    from adue_sklearn.features._files import write_atomically
    from adue_sklearn.persistence import check_same_model
    from adue_sklearn.report import make_report
    from adue_sklearn.thresholds import check_file

    check_file(out)
    rows = _open_labelled(store)
    train = None if train_store is None else _open_labelled(train_store)
    if train is not None:
        check_same_model(_facts(rows), _facts(train), allow_other_model=allow_other_model)
    known = None
    if texts is not None:
        known = read_texts(texts, text_column=text_column, label_column=None).texts
    with console.status("Comparing scores"):
        page = make_report(
            rows,
            train=train,
            texts=known,
            target_risk=target_risk,
            confidence=confidence,
            made_on=datetime.now(UTC).date(),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode("utf-8"))
    _tell(f"{out}: the report.")


@app.command()
def predict(
    head: Annotated[Path, typer.Argument(help="Folder that 'adue fit' wrote.")],
    model: Annotated[str, typer.Argument(help="Adapter folder, merged model or hub name.")],
    data: Annotated[str, typer.Argument(help=".jsonl, .csv, .parquet or hub NAME:SPLIT.")],
    out: Annotated[Path, typer.Option(help="JSON lines: label, probability, uncertainty.")],
    base_model: BaseModel = None,
    text_column: TextColumnName = "text",
    device: Device = "auto",
    dtype: Precision = None,
    batch_tokens: BatchTokens = 8192,
    threshold: Annotated[
        Path | None,
        typer.Option(help="File of 'adue threshold': each line says whether to accept."),
    ] = None,
    allow_other_model: OtherModel = False,
) -> None:
    """Score texts: one line a text with label, probability and uncertainty."""
    from adue_sklearn._reports import score_rows
    from adue_sklearn._texts import read_texts
    from adue_sklearn._threshold_command import with_acceptance
    from adue_sklearn.features import compute_features, load_classifier
    from adue_sklearn.persistence import check_same_model, load_head
    from adue_sklearn.thresholds import load_threshold

    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder; name a file, such as {out / 'scored.jsonl'}.")
    fitted = load_head(head)
    limit = None if threshold is None else load_threshold(threshold)
    if limit is not None:
        limit.check_score(fitted.estimator)
    texts, _ = read_texts(data, text_column=text_column, label_column=None)
    classifier = load_classifier(
        model,
        base_model=base_model,
        device=device,
        dtype=_parse_dtype(dtype),
        max_length=fitted.provenance.get("max_length"),
        classes=fitted.class_names,
        features=fitted.view,
    )
    check_same_model(fitted.facts, _facts(classifier), allow_other_model=allow_other_model)
    with _progress("Scoring", len(texts)) as advance:
        features, _ = compute_features(
            classifier, texts, batch_tokens=batch_tokens, progress=advance
        )
    rows = score_rows(fitted.estimator, features, fitted.class_names)
    _write_lines(out, rows if limit is None else with_acceptance(rows, limit))
    _tell(f"{out}: {len(texts)} rows.")


@app.command()
def evaluate(
    head: Annotated[Path, typer.Argument(help="Folder that 'adue fit' wrote.")],
    store: Annotated[Path, typer.Argument(help="Labelled feature store of rows not used before.")],
    allow_other_model: OtherModel = False,
) -> None:
    """Measure a fitted head on fresh rows, beside softmax response."""
    from adue_sklearn._reports import fresh_rows_table
    from adue_sklearn.persistence import check_same_model, load_head

    fitted = load_head(head)
    test = _open_labelled(store)
    check_same_model(fitted.facts, _facts(test), allow_other_model=allow_other_model)
    _warn_of_memorised_rows(fitted.estimator, test)
    estimators = {fitted.estimator.card.name: fitted.estimator}
    console.print(fresh_rows_table(estimators, test.features, test.labels))


@app.command()
def compare(
    store: Annotated[Path, typer.Argument(help="Feature store of rows the model has not seen.")],
    train_store: Annotated[
        Path | None,
        typer.Option(help="Feature store of the training rows, for scores that describe them."),
    ] = None,
    test_store: Annotated[
        Path | None,
        typer.Option(help="Judge on these rows, once, instead of folds of the first store."),
    ] = None,
    scorers: Annotated[
        str | None,
        typer.Option(help="Some only, by class: 'AdUESearchCV,Entropy,KNN'. By default all."),
    ] = None,
    cv: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this JSON file.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the differences to this file (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Compare every score with softmax response, on rows that none of them was fitted on."""
    from adue_sklearn._compare_command import (
        check_output,
        compare_stores,
        comparison_table,
        save_figure,
    )
    from adue_sklearn.model_selection import count_shared_rows
    from adue_sklearn.persistence import check_same_model

    check_output(json_file, "--json")
    check_output(figure, "--figure")
    rows = _open_labelled(store)
    train = None if train_store is None else _open_labelled(train_store)
    test = None if test_store is None else _open_labelled(test_store)
    for other in (train, test):
        if other is not None:
            check_same_model(_facts(rows), _facts(other))
    if train is not None:
        _warn_of_shared_rows(train, rows)
    for other in (rows, train):
        if test is None or other is None:
            continue
        shared = count_shared_rows(test.features, other.features)
        if shared:
            _say(
                "warning",
                "yellow",
                f"{shared} of {len(test)} rows in {test.path} stand in {other.path} too. Scores "
                "are to be judged on rows that nothing was fitted on.",
            )
    with console.status("Comparing"):
        found = compare_stores(rows, train=train, test=test, scorers=scorers, cv=cv)
    console.print(comparison_table(found, width=console.width))
    if json_file is not None:
        json_file.write_text(found.to_json(indent=1) + "\n", encoding="utf-8")
        _tell(f"{json_file}: all of it.")
    if figure is not None:
        save_figure(found, figure)
        _tell(f"{figure}: the differences.")


@app.command()
def demo() -> None:
    """Fit and compare on a shipped case, then score a few sentences with the real model."""
    from adue_sklearn._demo import run_demo

    run_demo(console)


def _show_version(asked: bool) -> None:
    if asked:
        console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Which answers of a LoRA-tuned text classifier should not be trusted."""


def main() -> None:
    """Run the command line; bad input ends in one line on stderr and exit status 1."""
    warnings.showwarning = _warning_printer()
    try:
        app()
    except _EXPECTED as error:
        if "--debug" in sys.argv:
            raise
        _say("error", "red", str(error))
        sys.exit(1)


def _open_labelled(path: Path) -> FeatureStore:
    from adue_sklearn.features import FeatureStore

    store = FeatureStore.open(path)
    if store.labels is None:
        raise ValueError(f"{path} has no labels; extract it again with --label-column.")
    return store


def _rows_to_fit(store: FeatureStore, leave_out: float) -> tuple[Any, Any]:
    """Return features and labels without a random share that is kept for a threshold."""
    if not 0.0 <= leave_out < 1.0:
        raise ValueError(f"--leave-out is {leave_out:g}, must be at least 0 and below 1.")
    n_left_out = round(leave_out * len(store))
    if n_left_out == 0:
        return store.features, store.labels
    kept = np.sort(np.random.default_rng(0).permutation(len(store))[n_left_out:])
    return store.features[kept], np.asarray(store.labels)[kept]


def _facts(made: FeatureStore | LoadedClassifier) -> ModelFacts:
    from adue_sklearn.features import FeatureStore
    from adue_sklearn.persistence import ModelFacts

    if isinstance(made, FeatureStore):
        return ModelFacts.of(made.provenance, made.init_W, made.init_b, made.classes)
    return ModelFacts.of(made.provenance, made.head.init_W, made.head.init_b, made.classes)


def _warn_of_shared_rows(train: FeatureStore, calibration: FeatureStore) -> None:
    from adue_sklearn.model_selection import count_shared_rows

    shared = count_shared_rows(calibration.features, train.features)
    if shared:
        _say(
            "warning",
            "yellow",
            f"{shared} of {len(calibration)} rows in {calibration.path} stand in {train.path} too. "
            "Rows that the model was trained on teach next to nothing about its errors: fit on "
            "rows it has not seen.",
        )


def _warn_of_memorised_rows(estimator: Any, test: FeatureStore) -> None:
    from adue_sklearn.model_selection import fit_rows_look_memorised

    if not hasattr(estimator, "n_errors_"):  # a score that learns nothing from errors
        return
    few, n_fit = estimator.n_errors_, estimator.n_samples_fit_
    many = int(estimator.errors(test.features, test.labels).sum())
    if fit_rows_look_memorised((few, n_fit), (many, len(test))):
        _say(
            "warning",
            "yellow",
            f"The model errs on {few / n_fit:.1%} of the rows that the head was fitted on, but on "
            f"{many / len(test):.1%} of these. It was probably trained on the former; fit the "
            "head on rows it has not seen.",
        )


def _require_new_folder(out: Path) -> None:
    """Refuse a target that a head cannot be saved to before the work is done, not after."""
    from adue_sklearn.persistence import check_target

    check_target(out)


def _parse_classes(classes: str | None) -> list[str] | None:
    """Read 'a,b,c' or a JSON file that holds a list of names."""
    if classes is None:
        return None
    if not classes.endswith(".json"):
        return [name.strip() for name in classes.split(",")]
    try:
        names = json.loads(Path(classes).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--classes: {classes} cannot be read as JSON: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'--classes: {classes} must hold a list of names, such as ["no", "yes"].')
    return names


def _parse_dtype(dtype: str | None) -> Any:
    if dtype is None:
        return None
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ValueError(f"--dtype is {dtype!r}; expected one of {', '.join(known)}.")
    return known[dtype]


def _write_lines(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, all or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as progress:
        task = progress.add_task(what, total=total)
        yield lambda rows: progress.advance(task, rows)


def _warning_printer() -> Callable[..., None]:
    """Return what shows our users' warnings in one line, without the place in the code."""
    order_doubted = False

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        nonlocal order_doubted
        if issubclass(category, LabelOrderWarning):
            if order_doubted:  # every fit of a command says it of its own rows
                return
            order_doubted = True
        if issubclass(category, UserWarning):
            _say("warning", "yellow", str(message))

    return show


def _tell(message: str) -> None:
    """Print one line as it is: paths may look like markup."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _say(kind: str, colour: str, message: str) -> None:
    stderr.print(
        Text.assemble((f"{kind}: ", f"bold {colour}"), message), highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()

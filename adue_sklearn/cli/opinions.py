"""Second opinions of a head: the sidekick that it is fitted with, the views that it needs later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.base import clone

from adue_sklearn._utils.views import Views, text_digests
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.cli.console import warn
from adue_sklearn.cli.views import load_models, load_unseen_sidekick
from adue_sklearn.comparison.arguments import Named
from adue_sklearn.comparison.stores import rows_for
from adue_sklearn.features import FeatureStore, ModelViews
from adue_sklearn.features._store.same import check_same_views, extract_options, layer_number
from adue_sklearn.persistence import (
    FittedHead,
    load_sidekick,
    sidekick_sha256,
    sidekick_view,
    sidekicks_in,
    views_in,
)
from adue_sklearn.scorers import SecondOpinionScorer, SidekickScorer
from adue_sklearn.scorers.witnesses import use_fallback, views_read_by, witnesses_in

SIDEKICK = "sidekick"
Facts = dict[str, dict[str, Any]]


def rows_with_sidekick(
    X: Any, store: FeatureStore, folder: Path, texts: list[str] | None, source: str | None
) -> tuple[Views, SidekickScorer, Facts]:
    """Return the rows of a store with a sidekick's view, the sidekick, and the facts of all views.

    The view is computed from the texts, which may be in another order; without texts the store
    must hold it.

    Raises
    ------
    ValueError
        If the store holds no view of this sidekick, texts of rows are missing, the sidekick was
        fitted on these texts, or its classes are others.
    """
    if texts is None:
        sidekick = load_sidekick(folder)
        _check_view_of(sidekick, store, folder)
        return X, sidekick, store.view_facts
    found = _texts_of_rows(store, texts, source)
    sidekick = load_unseen_sidekick(folder, found, str(source))
    view = sidekick_view(sidekick)
    try:
        order = view.order(store.classes, store.n_classes)
    except ValueError as error:
        raise ValueError(f"--sidekick: {error}") from error
    facts = {**store.view_facts, SIDEKICK: view.facts}
    rows = X if isinstance(X, Views) else Views(X, text_digests=store.text_digests)
    return rows.with_blocks(sidekick=view.of(found, order)), sidekick, facts


def with_sidekick(scorer: Any, sidekick: SidekickScorer | None) -> Any:
    """Return a score whose sidekicks hold the text classifier, so that its head can be used."""
    if sidekick is None:
        return scorer
    if isinstance(scorer, SidekickScorer):
        return clone(sidekick).set_params(**scorer.get_params(deep=False))
    if isinstance(scorer, SecondOpinionScorer) and scorer.estimators is not None:
        held: Named = [(name, with_sidekick(part, sidekick)) for name, part in scorer.estimators]
        return clone(scorer).set_params(estimators=held)
    return scorer


def facts_of_views(estimator: UncertaintyEstimator, facts: Facts) -> dict[str, Any]:
    """Return what a head's provenance records of the views that it reads; warn of a lost one."""
    read = views_read_by(estimator)
    if SIDEKICK in read and not sidekicks_in(estimator):
        warn(
            "The head reads the view sidekick but does not hold the sidekick, so 'adue predict' "
            "cannot make the view. Pass the sidekick: adue fit STORE --sidekick SIDEKICK."
        )
    return {"views": {name: facts[name] for name in read if name in facts}} if read else {}


def views_to_predict(
    fitted: FittedHead,
    model: str,
    companions: Mapping[str, str],
    *,
    fallback: bool,
    **loading: Any,
) -> ModelViews | None:
    """Return what makes the views that a head reads; None if it reads none.

    With ``fallback``, the head scores rows without a view by softmax response.

    Raises
    ------
    ValueError
        If a view cannot be made, without ``fallback``; if a companion is not one of the head's.
    """
    estimator = fitted.estimator
    read = views_read_by(estimator)
    views = views_in(fitted)
    made = {*views.texts, SIDEKICK, "base"}
    others = [name for name in read if layer_number(name) is None and name not in made]
    _check_companions(companions, others)
    lacking = [name for name in others if name not in companions]
    lacking += [SIDEKICK] if SIDEKICK in read and not views.texts else []
    if lacking and not fallback:
        options = extract_options([name for name in lacking if name != SIDEKICK])
        mend = f"Pass {options}" if options else "Fit the head with --sidekick"
        raise ValueError(
            f"The head reads the views {', '.join(read)}, but {', '.join(lacking)} cannot be made. "
            f"{mend}, or --fallback to score by softmax response where a view is missing."
        )
    if fallback:
        use_fallback(estimator)
    if not read:
        return None
    facts: Facts = fitted.provenance.get("views") or {}
    views = load_models(
        views, model, base_view="base" in read, companions=dict(companions), **loading
    )
    for name, companion in views.companions.items():
        known = facts.get(name, {}).get("provenance", {}).get("adapter_sha256")
        if known not in (None, companion.provenance.get("adapter_sha256")):
            raise ValueError(
                f"--companion {name}: {companions[name]} is another adapter than the one whose "
                f"view {name!r} the head was fitted with; pass that one."
            )
    return views


def rows_for_head(fitted: FittedHead, head: Path, store: FeatureStore, *, fallback: bool) -> Any:
    """Return the rows of a store with the views that a head reads.

    With ``fallback``, the head scores rows without a view by softmax response.

    Raises
    ------
    ValueError
        If the store or some of its rows lack a view, without ``fallback``; if a view was made in
        another way than that which the head was fitted with.
    """
    check_same_views(head, fitted.provenance.get("views") or {}, store.path, store.view_facts)
    if fallback:
        use_fallback(fitted.estimator)
    X = rows_for(fitted.estimator, store, fallback=fallback)
    check_rows_with_views(fitted.estimator, X, list(range(len(store))), str(store.path))
    return X


def check_rows_with_views(
    estimator: UncertaintyEstimator, X: Any, numbers: list[Any], source: str
) -> None:
    """Raise if a text has no view that the head needs; the message has its row or id."""
    for witness in witnesses_in(estimator):
        if witness.fallback != "error":
            continue
        lacking = witness.lacks_view(X)
        if lacking.any():
            raise ValueError(
                f"{source}, row {numbers[int(lacking.argmax())]}: the text has no view "
                f"{', '.join(witness.views_read)}, as a sidekick that knows nothing in it. Pass "
                "--fallback to score such rows by softmax response; each is then marked."
            )


def _check_view_of(sidekick: SidekickScorer, store: FeatureStore, folder: Path) -> None:
    facts = store.view_facts.get(SIDEKICK)
    if facts is None:
        raise ValueError(
            f"'{store.path}' lacks the view sidekick. Pass its texts with --texts, or extract it "
            f"with --sidekick {folder}."
        )
    if facts["provenance"].get("sidekick_sha256") != sidekick_sha256(sidekick):
        raise ValueError(
            f"--sidekick: the view sidekick of '{store.path}' was not made by {folder}. Pass the "
            "sidekick that it was extracted with, or the texts with --texts."
        )


def _texts_of_rows(store: FeatureStore, texts: list[str], source: str | None) -> list[str]:
    """Return the text of each row of a store, found by its digest."""
    if store.text_digests is None:
        raise ValueError(
            f"--texts: '{store.path}' holds no digests of its texts, so they cannot be found in "
            f"{source}. Extract it again."
        )
    known = dict(zip(text_digests(texts).tolist(), texts, strict=True))
    digests = store.text_digests.tolist()
    missing = [row for row, digest in enumerate(digests) if digest not in known]
    if missing:
        raise ValueError(
            f"--texts: the texts of {len(missing)} of {len(digests)} rows of '{store.path}' "
            f"(first: row {missing[0]}) are not in {source}; expected the file that it was "
            "extracted from."
        )
    return [known[digest] for digest in digests]


def _check_companions(companions: Mapping[str, str], read: list[str]) -> None:
    strange = [name for name in companions if name not in read]
    if strange:
        raise ValueError(
            f"--companion: the head reads no view {strange[0]!r}; its companions are: "
            f"{', '.join(read) or 'none'}."
        )

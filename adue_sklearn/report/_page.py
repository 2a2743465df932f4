"""The page: findings and plots put into the template, every text escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

import adue_sklearn
from adue_sklearn._utils.messages import printable
from adue_sklearn._utils.tables import Table
from adue_sklearn.comparison.result import REFERENCE, points
from adue_sklearn.report import _plots as plots
from adue_sklearn.report._findings import (
    Findings,
    class_names,
    find,
    percent,
    rate,
)
from adue_sklearn.thresholds import shown_coverage

if TYPE_CHECKING:
    from adue_sklearn.features import FeatureStore

#: Number of characters shown of a long text.
_LONGEST = 400
_COLUMNS = ("score", "ROC-AUC", f"minus {REFERENCE}", "p (Holm)", "AURC", "FPR95", "fitted on")


def make_report(
    store: FeatureStore,
    *,
    train: FeatureStore | None = None,
    texts: Sequence[str] | None = None,
    target_risk: float = 0.05,
    confidence: float = 0.95,
    scorers: Any = None,
    n_shown: int = 10,
    made_on: date | None = None,
) -> str:
    """Return a self-contained HTML page: which answers to accept, why, and what is not known.

    The rows are split once, at random. One half serves to compare the scores and choose one: the
    best of those significantly better than softmax response, or else softmax response. The other
    half sets the threshold and provides the plots. The page loads nothing and runs no scripts.

    Parameters
    ----------
    store : FeatureStore
        Labelled rows that the model was not trained on.
    train : FeatureStore, default=None
        Rows that it was trained on, for the scores that describe them.
    texts : sequence of str, default=None
        All texts of the input that the store was extracted from, in order; without them, errors
        are shown by row number.
    target_risk : float in (0, 1), default=0.05
        Maximum error rate among accepted answers.
    confidence : float in (0, 1), default=0.95
        Confidence level of that guarantee.
    scorers : list, list of (str, estimator) or dict, default=None
        What to compare, as in :func:`adue_sklearn.comparison.compare_scorers`.
    n_shown : int, default=10
        How many of the most uncertain and of the most confident errors to show.
    made_on : date, default=None
        Date shown in the footer.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    ValueError
        If the store has no labels, fewer than 20 rows, or more rows than there are texts.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from adue_sklearn import EntropyScorer
    >>> from adue_sklearn.features import FeatureStore
    >>> from adue_sklearn.report import make_report
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.normal(size=(400, 5)), rng.normal(size=(3, 5))
    >>> y = (X @ W.T + rng.normal(size=(400, 3)) / 2).argmax(axis=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeatureStore.create(folder, features=X, labels=y, init_W=W)
    ...     page = make_report(store, scorers=[EntropyScorer()], target_risk=0.2)
    >>> page.startswith("<!doctype html>"), page.count("<svg")
    (True, 6)
    """
    if not (made_on is None or isinstance(made_on, date)):
        raise TypeError(f"made_on is a {type(made_on).__name__}; expected a datetime.date.")
    found = find(
        store,
        train,
        texts,
        target_risk=target_risk,
        confidence=confidence,
        scorers=scorers,
        n_shown=n_shown,
    )
    page = _template().render(
        found=found,
        plots={
            "risk": plots.risk_coverage(found),
            "threshold": plots.threshold(found),
            "histogram": plots.histogram(found),
            "confidence": plots.confidence_reliability(found),
            "roc": plots.error_roc(found),
            "error": plots.error_reliability(found),
        },
        recommendation=_recommendation(found),
        which_score=_which_score(found),
        table=_table(found),
        facts=_facts(store, train, found),
        n_classes=len(class_names(store)),
        reference=REFERENCE,
        made_on=None if made_on is None else made_on.isoformat(),
        version=adue_sklearn.__version__,
    )
    return printable(page.replace("\r\n", "\n"))  # the whole page: others' texts are everywhere


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    source = (files("adue_sklearn.report") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["rate"] = rate
    environment.filters["short"] = _short
    return environment.from_string(source)


def _short(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest].rstrip()} …"


def _recommendation(found: Findings) -> str:
    sure = f"with {percent(found.confidence)} confidence"
    threshold = found.threshold
    if threshold.n_accepted == 0:
        return (
            "Do not let the model answer alone yet: no threshold guarantees, "
            f"{sure}, that at most {percent(found.target_risk)} of the accepted answers are wrong."
        )
    if threshold.n_accepted == found.n_rows:
        return (
            f"Accept every answer of the model: at most {percent(found.bound)} of them are "
            f"wrong, {sure}."
        )
    share = shown_coverage(threshold.coverage)
    return (
        f"Accept {percent(share)} of the answers and send the other "
        f"{percent(round(1.0 - share, 4))} to a person: of those accepted, at most "
        f"{percent(found.bound)} are wrong, {sure}."
    )


def _which_score(found: Findings) -> str:
    if found.chosen == REFERENCE:
        return (
            "Decisions use the model's own confidence (softmax response): no other score is "
            "expected to find errors better at a small risk of finding them worse."
        )
    result = found.comparison[found.chosen]
    measured = (
        f"it found errors significantly better, by {points(result.gain, sign=True)} of ROC-AUC"
        if result.beats_reference
        else f"it gained {points(result.gain, sign=True)} of ROC-AUC, which is not significant on "
        "these rows alone"
    )
    return (
        f"Decisions use the score “{found.chosen}”. Compared with the model's own confidence, "
        f"{measured}. With what scores of its kind gained on other data sets, the expected gain "
        f"is {100 * found.expected_gain:.1f} points."
    )


def _table(found: Findings) -> Table:
    table = found.comparison.as_table()
    names = [heading.split(" [")[0] for heading in table.headings]
    return table.only([number for number, name in enumerate(names) if name in _COLUMNS])


def _facts(
    store: FeatureStore, train: FeatureStore | None, found: Findings
) -> list[tuple[str, str]]:
    facts = [
        ("feature store", str(store.path)),
        ("rows", f"{len(store)}: {found.n_choosing} to choose the score, {found.n_rows} "
                 "for the threshold and the plots"),
        ("features", str(store.n_features)),
        ("classes", ", ".join(class_names(store))),
        ("training rows", "none given" if train is None else f"{len(train)}, {train.path}"),
    ]  # fmt: skip
    facts += [
        (key.replace("_", " "), value if isinstance(value, str) else _plain(value))
        for key, value in store.provenance.items()
        if value is not None
    ]
    threshold = found.threshold.threshold
    limit = f"uncertainty of at most {threshold:.6g} ({found.chosen})"
    if not np.isfinite(threshold):
        limit = "every answer is accepted" if threshold > 0 else "none meets the target"
    return [*facts, ("threshold", limit)]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False, default=str)

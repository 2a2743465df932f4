"""What a comparison of scores found: rows, the verdict in words, and ways to look at them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from adue_sklearn._utils.tables import Column, Table
from adue_sklearn.metrics import Difference, Estimate

REFERENCE = "softmax response"
#: With fewer errors or correct answers, differences between scores are not distinguishable.
FEW_ERRORS = 20
SIGNIFICANCE = 0.05
ALIKE = f"ranks as {REFERENCE}"

#: Power of the comparison at the difference called detectable.
_POWER = 0.8
#: In place of a number that the rows do not define.
_UNDEFINED = "-"
HEADINGS = {
    "roc_auc": "ROC-AUC",
    "aurc": "AURC",
    "eaurc": "E-AURC",
    "average_precision": "AP",
    "fpr95": "FPR95",
}


@dataclass(frozen=True)
class ScoreResult:
    """One score of a comparison.

    Parameters
    ----------
    name : str
        Its name.
    fitted_on : str
        ``"nothing"`` (the head is enough), ``"training rows"``, ``"other folds"``, ``"given
        rows"`` (with separate test rows) or ``"frozen"``.
    metrics : dict of str to Estimate
        Metrics with their intervals; empty if the score failed.
    differences : dict of str to Difference
        Each metric minus the reference's, with paired interval and two-sided p-value: DeLong's for
        ``"roc_auc"``, by bootstrap for the others. Empty for the reference itself.
    p_adjusted : float
        The p-value for ``"roc_auc"`` after Holm's adjustment for all scores compared. NaN for the
        reference and for scores that rank as it does.
    detectable : float
        Difference in ``"roc_auc"`` that such a comparison detects with 80 % power.
    note : str
        ``"ranks as softmax response"``, or empty.
    fit_seconds, score_seconds : float
        Total time of its fits, and of scoring.
    failure : str
        What went wrong; empty if nothing did.
    warnings : tuple of str
        Warnings of its fits.
    """

    name: str
    fitted_on: str
    metrics: dict[str, Estimate]
    differences: dict[str, Difference]
    p_adjusted: float = math.nan
    detectable: float = math.nan
    note: str = ""
    fit_seconds: float = math.nan
    score_seconds: float = math.nan
    failure: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def gain(self) -> Difference:
        """Difference in ROC-AUC from the reference."""
        return self.differences.get("roc_auc", Difference(*[math.nan] * 4))

    @property
    def beats_reference(self) -> bool:
        """Whether it is significantly better, after Holm's adjustment."""
        return self.gain.value > 0 and self.p_adjusted <= SIGNIFICANCE

    @property
    def loses_to_reference(self) -> bool:
        """Whether it is significantly worse, after Holm's adjustment."""
        return self.gain.value < 0 and self.p_adjusted <= SIGNIFICANCE


@dataclass(frozen=True, repr=False)
class Comparison:
    """Scores compared on the same rows, each with softmax response.

    ``print(comparison)`` shows a table and the verdict; notebooks show a table with all intervals.

    Parameters
    ----------
    results : tuple of ScoreResult
        Softmax response first, then by decreasing ROC-AUC; scores that failed come last.
    errors : ndarray of bool of shape (n_samples,)
        Where the original head is wrong.
    uncertainties : dict of str to ndarray of shape (n_samples,)
        The scores themselves, on rows that they were not fitted on. Scores fitted in several
        folds are ranks in (0, 1).
    rows : {"cross-validation", "test rows"}
        Which rows were scored.
    confidence : float
        Coverage of the intervals.
    reservations : tuple of str
        Why no conclusion can be drawn from these rows, such as labels in another order than the
        head's rows, or classes that the rows lack; empty if there is no reason.
    """

    results: tuple[ScoreResult, ...]
    errors: npt.NDArray[np.bool_]
    uncertainties: dict[str, npt.NDArray[np.float64]]
    rows: str
    confidence: float
    reservations: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ScoreResult:
        """Return the result of a score by its name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(
            f"{name!r} was not compared; expected one of {[result.name for result in self.results]}"
        )

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.errors)

    @property
    def n_errors(self) -> int:
        """How many of them the original head gets wrong."""
        return int(self.errors.sum())

    @property
    def can_tell(self) -> bool:
        """Whether there are enough errors and correct answers to compare scores."""
        return min(self.n_errors, self.n_rows - self.n_errors) >= FEW_ERRORS

    @property
    def winners(self) -> tuple[str, ...]:
        """Names of scores that beat softmax response, the best first.

        Empty if there are few errors or if there are reservations.
        """
        can_tell = self.can_tell and not self.reservations
        return tuple(r.name for r in self.results if can_tell and r.beats_reference)

    @property
    def verdict(self) -> str:
        """The conclusions, in a few plain sentences."""
        return "\n".join(_verdict(self))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(self.results[0].metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the rows' scores, in types that JSON supports.

        Returns
        -------
        dict
            NaN is None.
        """
        return {
            "rows": self.rows,
            "n_rows": self.n_rows,
            "n_errors": self.n_errors,
            "confidence": self.confidence,
            "reference": REFERENCE,
            "verdict": self.verdict,
            "winners": list(self.winners),
            "reservations": list(self.reservations),
            "scores": [_plain(vars(result)) for result in self.results],
        }

    def to_json(self, **options: Any) -> str:
        """Return :meth:`to_dict` as JSON text.

        Parameters
        ----------
        **options : dict
            Passed to ``json.dumps``, such as ``indent``.

        Returns
        -------
        str
            Valid JSON: NaN is null.
        """
        return json.dumps(self.to_dict(), allow_nan=False, **options)

    def to_frame(self) -> Any:
        """Return a pandas data frame with one row per score.

        Returns
        -------
        pandas.DataFrame
            Indexed by the names. A metric has columns ``NAME``, ``NAME_low``, ``NAME_high``,
            ``NAME_difference``, ``NAME_difference_low``, ``NAME_difference_high`` and
            ``NAME_p_value``.
        """
        import pandas as pd

        records = []
        for result in self.results:
            record: dict[str, Any] = {"name": result.name, "fitted_on": result.fitted_on}
            for metric in self.metric_names:
                estimate = result.metrics.get(metric, Estimate(*[math.nan] * 3))
                record |= _flat(metric, estimate)
                difference = result.differences.get(metric, Difference(*[math.nan] * 4))
                record |= _flat(f"{metric}_difference", difference[:3])
                record[f"{metric}_p_value"] = difference.p_value
            for field in ("p_adjusted", "detectable", "fit_seconds", "score_seconds"):
                record[field] = getattr(result, field)
            records.append(record | {"note": result.note, "failure": result.failure})
        return pd.DataFrame(records).set_index("name")

    def title(self) -> str:
        """Return one line that says what was compared on which rows."""
        share = f"{self.n_errors / self.n_rows:.1%}"
        return f"{self.rows.capitalize()}: {self.n_rows} rows, {self.n_errors} errors ({share})"

    def table(self, *, intervals: bool = False) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells as text, 100 times each metric.

        Parameters
        ----------
        intervals : bool, default=False
            Whether to show the intervals of all metrics, not only of the ROC-AUC. If there are
            reservations, no differences are shown.

        Returns
        -------
        headings : list of str
            One per column.
        cells : list of list of str
            One list per score. The second cell of a failed score holds its error message.
        """
        shown = self.as_table(intervals=intervals)
        n_columns = len(shown.columns)
        return shown.headings, [[*row, *[""] * (n_columns - len(row))] for row in shown.rows]

    def as_table(self, *, intervals: bool = False) -> Table:
        """Return :meth:`table` with title, verdict and winners, for whatever shows it."""
        others = [name for name in self.metric_names if name != "roc_auc"]
        columns = [
            Column("score", of_numbers=False),
            Column(f"ROC-AUC [{100 * self.confidence:g} %]"),
            Column(f"minus {REFERENCE}"),
            Column("p (Holm)"),
            *(Column(HEADINGS.get(name, name)) for name in others),
            Column("fitted on", of_numbers=False),
            Column("fit s"),
            Column("score s"),
        ]
        rows = [_cells(result, others, intervals) for result in self.results]
        for row, result in zip(rows, self.results, strict=True):
            if self.reservations and result.differences and not result.note:
                row[2:4] = [_UNDEFINED, ""]
        return Table(self.title(), columns, rows, self.verdict.splitlines(), self.winners)

    def __str__(self) -> str:
        """Return table and verdict as plain text."""
        return str(self.as_table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.as_table(intervals=True).to_html()


def listed(names: Sequence[str]) -> str:
    """Return names as a list; quote a name that holds a comma."""
    return ", ".join(f"“{name}”" if "," in name else name for name in names)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's adjustment, in the same order."""
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def with_adjusted(results: Sequence[ScoreResult], confidence: float) -> tuple[ScoreResult, ...]:
    """Return results in order, with Holm's p-values and the differences that could be found.

    A score that ranks as the reference is not tested: the tie is known without labels.
    """
    family = [r for r in results if not r.note and not math.isnan(r.gain.p_value)]
    p_values = holm([result.gain.p_value for result in family])
    width = norm.ppf((1 + confidence) / 2)
    level = norm.ppf(1 - SIGNIFICANCE / (2 * max(1, len(family))))
    changed = {}
    for result, p_adjusted in zip(family, p_values, strict=True):
        error = (result.gain.high - result.gain.low) / (2 * width)
        detectable = float((level + norm.ppf(_POWER)) * error)
        changed[result.name] = replace(result, p_adjusted=p_adjusted, detectable=detectable)
    return tuple(sorted((changed.get(r.name, r) for r in results), key=_place))


def _place(result: ScoreResult) -> tuple[bool, bool, float]:
    value = result.metrics["roc_auc"].value if result.metrics else math.nan
    return (
        result.name != REFERENCE,
        bool(result.failure),
        0.0 if math.isnan(value) else -value,
    )


def _verdict(comparison: Comparison) -> Iterator[str]:
    n_errors, n_rows = comparison.n_errors, comparison.n_rows
    compared = [r for r in comparison.results if not math.isnan(r.p_adjusted)]
    if n_errors in (0, n_rows):
        kind = "errors" if n_errors else "correct answers"
        yield f"All {n_rows} rows are {kind}, so no score can be measured."
    elif not comparison.can_tell:
        few = min(n_errors, n_rows - n_errors)
        kind = "errors" if few == n_errors else "correct answers"
        yield (
            f"Too few {kind} to compare scores: {few} among {n_rows} rows. At least {FEW_ERRORS} "
            "are needed; get more labelled rows."
        )
    elif comparison.reservations:
        yield f"No conclusion about gains or losses: {'; '.join(comparison.reservations)}."
    elif compared:
        yield from _findings(comparison, compared)
    alike = [result.name for result in comparison.results if result.note == ALIKE]
    if alike:
        yield f"Same ranking of rows as {REFERENCE}: {listed(alike)}."
    failed = [result.name for result in comparison.results if result.failure]
    if failed:
        yield f"Failed: {listed(failed)}."


def _findings(comparison: Comparison, compared: list[ScoreResult]) -> Iterator[str]:
    winners = [comparison[name] for name in comparison.winners]
    losers = [result for result in compared if result.loses_to_reference]
    if winners:
        gains = (f"{listed([r.name])} ({points(r.gain, sign=True)})" for r in winners)
        yield f"Better than {REFERENCE} at finding errors: {', '.join(gains)}."
    else:
        start = f"No score beats {REFERENCE} ({comparison.n_errors} errors)."
        yield f"{start} {_open_question(compared)}"
    if losers:
        yield f"Worse: {listed([result.name for result in losers])}."
    n_open = len(compared) - len(winners) - len(losers)
    if n_open and winners:
        yield f"{n_open} of {len(compared)} scores do not differ significantly from it."


def _open_question(compared: list[ScoreResult]) -> str:
    """Say which score may still be better, and what gain the comparison would have detected."""
    hope = max(compared, key=lambda result: result.gain.high)
    return (
        f"{listed([hope.name])} could still be better: its gain is "
        f"{points(hope.gain, sign=True)}. A gain of {100 * hope.detectable:.1f} points in ROC-AUC "
        "would be detected with 80 % power."
    )


def _cells(result: ScoreResult, others: Sequence[str], intervals: bool) -> list[str]:
    if result.failure:
        return [result.name, f"failed: {result.failure}"]
    gain = result.note or ("" if not result.differences else points(result.gain, sign=True))
    values = [result.metrics[name] for name in others]
    return [
        result.name,
        points(result.metrics["roc_auc"]),
        gain,
        _probability(result.p_adjusted),
        *(points(value if intervals else (value.value, *[math.nan] * 2)) for value in values),
        result.fitted_on,
        f"{result.fit_seconds:.2f}",
        f"{result.score_seconds:.2f}",
    ]


def _probability(p: float) -> str:
    if math.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def points(values: Sequence[float], *, sign: bool = False) -> str:
    """Return 100 times a value, with its interval if there is one."""
    form = "{:+.1f}" if sign else "{:.1f}"
    value, low, high = (form.format(100 * v) for v in values[:3])
    if math.isnan(values[0]):
        return _UNDEFINED
    return value if math.isnan(values[1]) else f"{value} [{low}, {high}]"


def _flat(name: str, values: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _plain(value: Any) -> Any:
    """Return what JSON has for a value: no infinity, no NaN, no names but in objects."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None

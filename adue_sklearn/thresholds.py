"""A threshold as a file: which answers a score accepts, and what is guaranteed for them.

The file is plain JSON. It identifies the score by a hash of its fitted parameters, so that a
threshold is not applied to the uncertainties of another score.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from safetensors.numpy import save

import adue_sklearn
from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.files import make_folder, write_file
from adue_sklearn._utils.messages import percent
from adue_sklearn._utils.model_facts import check_provenance
from adue_sklearn._utils.places import what_instead
from adue_sklearn._utils.row_digests import Digests, row_digests, rows_new_to
from adue_sklearn._utils.schemas import (
    Kind,
    Schema,
    check_document,
    read_document,
)
from adue_sklearn._utils.validation import naming
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.metrics._arguments import as_column
from adue_sklearn.persistence import as_json, described, essence
from adue_sklearn.selective import selective_threshold

__all__ = ["SavedThreshold", "load_threshold", "save_threshold"]

FORMAT_VERSION = 1

_Share = Annotated[float, Field(gt=0, lt=1)]


_KIND = Kind(
    name="a threshold",
    mend="Restore it from a copy, or set it again ('adue threshold STORE --out FILE').",
    newest=FORMAT_VERSION,
)


@dataclass(frozen=True)
class SavedThreshold:
    """A threshold, its guarantee and the score it belongs to.

    Parameters
    ----------
    threshold : float
        Largest accepted uncertainty; -inf accepts nothing, inf everything.
    target_risk, confidence, method
        As in :func:`adue_sklearn.selective.selective_threshold`.
    risk_bound : float
        Upper bound of the error rate among accepted answers, with ``confidence``; NaN if nothing
        is accepted.
    n_rows, n_accepted, n_errors : int
        Numbers of rows that set it, of those it accepts, and of errors among the latter.
    score : str
        Class of the score.
    score_sha256 : str
        Hash of its fitted parameters.
    provenance : dict
        Where the rows came from.
    row_digests : str
        Digests that identify the rows that set it; empty if they are not known.

    Examples
    --------
    >>> from adue_sklearn import SoftmaxResponseScorer
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> from adue_sklearn.thresholds import SavedThreshold
    >>> data = load_movie_sentiment()
    >>> scorer = SoftmaxResponseScorer().fit(*data.calibration, data.init_W, data.init_b)
    >>> found = SavedThreshold.of(scorer, *data.calibration, target_risk=0.05)
    >>> print(found.describe())
    Accept 60 % of the traffic; at most 5 % of those are wrong, with 95 % confidence.
    >>> found.accepts(scorer.predict_uncertainty(data.test.features[:4])).tolist()
    [True, False, False, False]
    """

    threshold: float
    target_risk: float
    confidence: float
    method: str
    risk_bound: float
    n_rows: int
    n_accepted: int
    n_errors: int
    score: str
    score_sha256: str
    provenance: dict[str, Any] = field(default_factory=dict)
    row_digests: str = ""

    @classmethod
    def of(
        cls,
        estimator: UncertaintyEstimator,
        X: Any,
        y: Any,
        *,
        target_risk: float = 0.05,
        confidence: float = 0.95,
        method: str = "binomial",
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """Set the threshold of a fitted score on rows that it was not fitted on.

        Parameters
        ----------
        estimator : UncertaintyEstimator
            Fitted, of a kind that :func:`adue_sklearn.persistence.save_head` can save.
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features of rows that are new to it and to the classifier. Rows that were used to fit
            a loaded head are left out, with a warning.
        y : array-like of shape (n_samples,)
            True labels.
        target_risk, confidence, method
            As in :func:`adue_sklearn.selective.selective_threshold`.
        provenance : mapping, default=None
            Where the rows came from.

        Returns
        -------
        SavedThreshold
            It accepts nothing if no threshold meets the target.
        """
        facts = check_provenance(provenance)
        fingerprint = score_sha256(estimator)
        X = estimator.check_features(X)
        errors = estimator.errors(X, y)
        uncertainty = as_numpy(estimator.predict_uncertainty(X))
        rows = rows_new_to(estimator, X)
        errors, uncertainty = errors[rows], uncertainty[rows]
        found = selective_threshold(errors, uncertainty, target_risk, confidence, method)
        return cls(
            threshold=found.threshold,
            target_risk=float(target_risk),
            confidence=float(confidence),
            method=method,
            risk_bound=found.risk_bound,
            n_rows=len(errors),
            n_accepted=found.n_accepted,
            n_errors=found.n_errors,
            score=type(estimator).__name__,
            score_sha256=fingerprint,
            provenance=facts,
            row_digests=row_digests(as_numpy(X)[rows]),
        )

    @property
    def coverage(self) -> float:
        """Share of the rows that it accepts."""
        return self.n_accepted / self.n_rows

    @property
    def accepts_what(self) -> str:
        """Which answers can be accepted: "none", "some" (up to the threshold) or "all"."""
        return _kind(self.threshold)

    def accepts(self, uncertainty: Any) -> npt.NDArray[np.bool_]:
        """Return which answers are accepted.

        Parameters
        ----------
        uncertainty : array-like of shape (n_samples,)
            Uncertainties of the score that the threshold was set for.

        Returns
        -------
        accepted : ndarray of bool of shape (n_samples,)
            NaN is not accepted.
        """
        values = as_column(uncertainty, "uncertainty")
        with naming("uncertainty", "one number per row"):
            return values.astype(np.float64) <= self.threshold

    def check_score(self, estimator: UncertaintyEstimator) -> None:
        """Raise unless this is the score that the threshold was set for.

        Parameters
        ----------
        estimator : UncertaintyEstimator
            Fitted.

        Raises
        ------
        ValueError
            If it is a different one.
        """
        if score_sha256(estimator) != self.score_sha256:
            raise ValueError(
                f"The threshold was set for another score (a {self.score} whose parameters differ "
                f"from this {type(estimator).__name__}'s), so it is not valid here. Perhaps the "
                "head was refitted. Set a new threshold: adue threshold STORE --head HEAD "
                "--out FILE."
            )

    def describe(self) -> str:
        """Return its meaning in one sentence."""
        sure = f"with {percent(self.confidence)} confidence"
        if self.n_accepted == 0:
            return (
                f"No threshold meets the target that at most {percent(self.target_risk)} of the "
                f"accepted answers are wrong, {sure}."
            )
        share = "all" if self.n_accepted == self.n_rows else percent(shown_coverage(self.coverage))
        bound = shown_bound(self.target_risk, self.risk_bound)
        return (
            f"Accept {share} of the traffic; at most {percent(bound)} of those are wrong, {sure}."
        )


class _Document(Schema):
    """The file. JSON has no infinity, so ``accepts`` says what a missing threshold means."""

    format_version: PositiveInt
    threshold: float | None
    accepts: Literal["none", "some", "all"]
    target_risk: _Share
    confidence: _Share
    method: str
    risk_bound: Annotated[float, Field(ge=0, le=1)] | None
    n_rows: PositiveInt
    n_accepted: NonNegativeInt
    n_errors: NonNegativeInt
    score: str
    score_sha256: str
    provenance: dict[str, Any]
    row_digests: Digests = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        return check_document(read_document(file, _KIND), cls, file, _KIND)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.n_errors <= self.n_accepted <= self.n_rows:
            raise ValueError("'n_errors', 'n_accepted' and 'n_rows' are inconsistent counts")
        if (self.n_accepted == 0) != (self.accepts == "none"):
            raise ValueError(f"'accepts' is {self.accepts}, but 'n_accepted' is {self.n_accepted}")
        if (self.threshold is None) != (self.accepts != "some"):
            raise ValueError(f"'threshold' is {self.threshold}, but 'accepts' is {self.accepts}")
        if self.risk_bound is None and self.accepts != "none":
            raise ValueError(f"'risk_bound' is None, but 'accepts' is {self.accepts}")
        return self

    def restore(self) -> SavedThreshold:
        limit = math.inf if self.accepts == "all" else -math.inf
        return SavedThreshold(
            threshold=limit if self.threshold is None else self.threshold,
            risk_bound=math.nan if self.risk_bound is None else self.risk_bound,
            **self.model_dump(include=_COPIED),
        )


_COPIED = {item.name for item in fields(SavedThreshold)} - {"threshold", "risk_bound"}


def save_threshold(
    threshold: SavedThreshold, file: str | os.PathLike[str], *, overwrite: bool = True
) -> Path:
    """Write a threshold as JSON, atomically.

    Parameters
    ----------
    threshold : SavedThreshold
        Result of :meth:`SavedThreshold.of`.
    file : path
        The file.
    overwrite : bool, default=True
        Whether to replace an existing file; if False, an existing file is an error.

    Returns
    -------
    Path
        The file.
    """
    if not isinstance(threshold, SavedThreshold):
        raise TypeError(
            f"threshold is a {type(threshold).__name__}; expected the result of SavedThreshold.of."
        )
    with naming("file", "a path"):
        path = Path(file)
    if path.is_dir():
        raise ValueError(f"file: {path} is a folder; name a file, such as {path / 'name.json'}.")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"file: {path} exists. Name another file, or replace it with overwrite=True (--force)."
        )
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "adue_sklearn": adue_sklearn.__version__,
        "meaning": threshold.describe(),
        **{name: as_json(name, value) for name, value in asdict(threshold).items()},
        # JSON has no infinity.
        "accepts": threshold.accepts_what,
        "threshold": threshold.threshold if math.isfinite(threshold.threshold) else None,
        "risk_bound": None if math.isnan(threshold.risk_bound) else threshold.risk_bound,
    }
    make_folder(path.parent)
    write_file(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    return path


def load_threshold(file: str | os.PathLike[str]) -> SavedThreshold:
    """Read a threshold that :func:`save_threshold` wrote.

    Parameters
    ----------
    file : path
        The file.

    Returns
    -------
    SavedThreshold
        As it was saved.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a threshold, is damaged, or is of a newer version.

    Examples
    --------
    >>> import tempfile
    >>> from adue_sklearn import SoftmaxResponseScorer
    >>> from adue_sklearn.thresholds import SavedThreshold, load_threshold, save_threshold
    >>> X, y, W = [[2.0, 0.0]] * 100, [0] * 100, [[1.0, 0.0], [0.0, 1.0]]
    >>> scorer = SoftmaxResponseScorer().fit(X, y, W)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = save_threshold(SavedThreshold.of(scorer, X, y), folder + "/threshold.json")
    ...     print(load_threshold(file).describe())
    Accept all of the traffic; at most 2.96 % of those are wrong, with 95 % confidence.
    """
    with naming("file", "a path"):
        path = Path(file)
    if not path.is_file():
        what = what_instead(path, "a threshold") or f"'{path}' is a folder, not a threshold."
        raise FileNotFoundError(
            f"file: {what} save_threshold and 'adue threshold STORE --out FILE' write one."
        )
    return _Document.read(path).restore()


def score_sha256(estimator: UncertaintyEstimator) -> str:
    """Return a hash of a fitted score: its class, parameters and fitted attributes.

    The device is left out: it does not change what the score means.
    """
    description, arrays = described(estimator)
    rest = json.dumps(essence(description), sort_keys=True)
    return hashlib.sha256(save(dict(sorted(arrays.items()))) + rest.encode()).hexdigest()


def shown_bound(target_risk: float, risk_bound: float) -> float:
    """Return a bound for printing, rounded up so that it remains a bound."""
    return min(target_risk, math.ceil(risk_bound * 1e4) / 1e4)


def shown_coverage(coverage: float) -> float:
    """Return a share of answers for printing: in whole percent, but 1 only if it is all."""
    rounded = round(coverage, 2 if coverage >= 0.01 else 4)
    return rounded if rounded < 1 or coverage == 1 else math.floor(coverage * 1e4) / 1e4


def _kind(threshold: float) -> str:
    if math.isfinite(threshold):
        return "some"
    return "all" if threshold > 0 else "none"

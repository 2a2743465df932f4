"""The search over AdUE's settings by cross-validation, as a scikit-learn estimator."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from adue_sklearn._utils.arrays import (
    Array,
    as_numpy,
    gemm_dtype,
    resolve_device,
    threads_for,
    to_tensor,
    where_it_computes,
)
from adue_sklearn._utils.folds import Fold, stratified
from adue_sklearn._utils.head import BoolArray, Head, IntArray
from adue_sklearn._utils.validation import warn
from adue_sklearn.adue.descents import units_of
from adue_sklearn.adue.estimator import AdUEEstimator, warn_of_odd_errors
from adue_sklearn.adue.grid import GridProblems, Solved
from adue_sklearn.adue.objective import reference_score
from adue_sklearn.adue.problem import balanced_weights, head_matrix
from adue_sklearn.adue.stack import Stack
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.metrics import ErrorScorer, error_roc_auc_scorer

#: The default grid. Deliberately small: a finer one fits the folds' noise.
DEFAULT_GRID: dict[str, list[Any]] = {
    "alpha": [0.0, 0.3, 1.0],
    "beta": [0.001, 0.01, 0.1],
    "lam": [50.0, 100.0],
}
SEARCHED = ("alpha", "beta", "lam", "scale", "measure")

#: The best so many settings, in share and at least, are solved from scratch before one is chosen.
_CONFIRMED_SHARE, _FEWEST_CONFIRMED = 0.08, 4

Grid = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]]


@dataclass(eq=False, repr=False)
class AdUESearchCV(CallbackSupportMixin, UncertaintyEstimator):
    """Search over AdUE's settings by cross-validation, all fits solved together.

    It does what ``GridSearchCV(AdUEEstimator(), param_grid)`` does, deterministically and in a
    fraction of the time: every (setting, fold) is a problem over the same features, so one product
    serves all heads. Each problem has its own line search and leaves once it has converged.

    Parameters
    ----------
    param_grid : dict or list of dict, default=None
        Lists of values for ``alpha``, ``beta``, ``lam``, ``scale`` and ``measure``; settings left
        out keep the defaults of :class:`AdUEEstimator`. By default alpha {0, 0.3, 1}, beta
        {0.001, 0.01, 0.1}, lam {50, 100}.
    cv : int, cross-validation generator or iterable of (train, test), default=5
        A number of folds stratified on the original head's errors, scikit-learn's splitters, or
        pairs of row numbers.
    scoring : ErrorScorer, default=None
        One of :mod:`adue_sklearn.metrics`' scorers; by default the ROC-AUC of finding errors.
        ``score`` returns it too.
    selection : {"best", "one_standard_error"}, default="best"
        ``"one_standard_error"``: of all settings within one standard error of the best mean
        score, the most regularised one (largest beta, then alpha).
    refit : bool, default=True
        Whether to fit ``best_estimator_`` on all rows, which predictions require.
    error_weight : {"balanced"} or None, default=None
        As in :class:`AdUEEstimator`.
    max_iter, tol
        As in :class:`AdUEEstimator`, for every problem.
    max_memory : float, default=1.0
        Approximate memory limit in GiB for the problems solved at the same time. More problems are
        solved in turns of at least one setting with all folds.
    verbose : int, default=0
        1 prints how many problems are solved, and in how many turns.
    activation : None
        Heads of several layers are not searched; use ``GridSearchCV``.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    cv_results_ : dict of array
        As in ``GridSearchCV``: ``params``, ``param_NAME``, ``splitK_test_score``,
        ``mean_test_score``, ``std_test_score``, ``rank_test_score`` and times (a problem's share).
    best_index_, best_params_, best_score_
        The chosen setting, its number and its mean score.
    best_estimator_ : AdUEEstimator
        Fitted on all rows with it; only if ``refit``.
    n_iter_ : int
        L-BFGS iterations of that fit.
    n_splits_ : int
        Number of folds.
    refit_time_ : float
        Seconds of the last fit.
    scorer_ : ErrorScorer
        The score that was maximised.
    init_coef_, init_intercept_, classes_, n_features_in_
        As in :class:`AdUEEstimator`.

    Notes
    -----
    The objective has many minima. One setting is solved from several starts, as in
    :class:`AdUEEstimator`, the others from the minima of their neighbours in the grid. Then the
    best settings, and always the chosen one, are also solved from several starts.

    Without ``init_W`` the original head is fitted once, on all rows, and its errors are counted
    out-of-fold; ``GridSearchCV`` fits one in every fold.

    Examples
    --------
    >>> from adue_sklearn import AdUESearchCV
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> search = AdUESearchCV({"beta": [0.001, 0.01]}, cv=3)
    >>> search = search.fit(*data.calibration, data.init_W, data.init_b)
    >>> len(search.cv_results_["params"]), sorted(search.best_params_)
    (2, ['beta'])
    """

    card: ClassVar[Card] = replace(
        AdUEEstimator.card,
        name="tuned AdUE",
        cost="fit O(nCd) per iteration, setting and fold; row O(Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "param_grid": [dict, list, None],
        "cv": [
            Interval(Integral, 2, None, closed="left"),
            HasMethods(["split"]),
            HasMethods(["__iter__"]),
        ],
        "scoring": [ErrorScorer, None],
        "selection": [StrOptions({"best", "one_standard_error"})],
        "refit": ["boolean"],
        "error_weight": [StrOptions({"balanced"}), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_memory": [Interval(Real, 0, None, closed="neither")],
        "verbose": ["verbose"],
        **UncertaintyEstimator._parameter_constraints,
    }

    param_grid: Grid | None = None
    _: KW_ONLY
    cv: Any = 5
    scoring: ErrorScorer | None = None
    selection: Literal["best", "one_standard_error"] = "best"
    refit: bool = True
    error_weight: Literal["balanced"] | None = None
    max_iter: int = 1000
    tol: float = 1e-4
    max_memory: float = 1.0
    verbose: int = 0

    def _to_fit(self, X: Array) -> Array:
        return where_it_computes(X, self.device)

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        if not head.is_linear:
            raise ValueError(
                f"init_W has {len(head.weights)} layers, but only linear heads are searched as a "
                "stack; use GridSearchCV(AdUEEstimator(activation=...), ...)."
            )
        candidates = _candidates(self.param_grid)
        settings = [_in_full(candidate) for candidate in candidates]
        errors = self._original_errors(X, labels, head)
        self.scorer_ = error_roc_auc_scorer if self.scoring is None else self.scoring
        folds = self._folds(X, labels, errors, head) if errors.any() else []
        self.n_splits_, self.multimetric_ = len(folds), False
        if not self.refit:  # else said of the last fit
            warn_of_odd_errors(int(errors.sum()), len(errors), head)
        scores, seconds = np.zeros((len(settings), 0)), 0.0
        if folds:
            scores, seconds = self._cross_validate(_Rows(X, errors, head, folds), settings)
        if head.given and folds and np.isnan(scores.mean(axis=1)).all():
            bad = np.flatnonzero(np.isnan(scores).all(axis=0)).tolist()
            raise ValueError(
                f"cv: every setting scores NaN. Each fold's test part needs errors and correct "
                f"answers, but folds {bad} of {len(folds)} (from 0) lack them. Stratify the "
                "folds on the errors (error_stratified_folds), or use more rows."
            )
        self.best_index_ = _choose(scores, settings, self.selection)
        self.cv_results_ = _results(candidates, scores, seconds)
        self.best_params_ = candidates[self.best_index_]
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        if self.refit:
            start = time.perf_counter()
            self.best_estimator_ = self._estimator(settings[self.best_index_])
            # On this search's head, not on one fitted anew, so that predictions are the same.
            self.best_estimator_._fit_on(self, X, errors, head)
            self.n_iter_ = self.best_estimator_.n_iter_
            self.refit_time_ = time.perf_counter() - start

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the ``scoring`` of the best estimator; higher is better.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            True labels, as in ``fit``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; only for the default ``scoring``.

        Returns
        -------
        score : float
            By default a ROC-AUC in [0, 1]; losses are negated.

        Raises
        ------
        ValueError
            If weights are given for another ``scoring``.
        """
        if self.scoring is None:
            return super().score(X, y, sample_weight)
        if sample_weight is not None:
            raise ValueError(
                "sample_weight was given, but a custom scoring function takes only errors and "
                "uncertainty; expected sample_weight=None, or scoring=None."
            )
        check_is_fitted(self)
        return float(self.scorer_(self, X, y))

    def _estimator(self, setting: Mapping[str, Any]) -> AdUEEstimator:
        return AdUEEstimator(
            **setting,
            error_weight=self.error_weight,
            max_iter=self.max_iter,
            tol=self.tol,
            device=self.device,
        )

    def _uncertainty(self, X: Array) -> Tensor:
        if not self.refit:
            raise AttributeError(
                "With refit=False there is no fitted estimator; set refit=True, or fit "
                "AdUEEstimator(**search.best_params_)."
            )
        return self.best_estimator_.uncertainty_of(X)

    def _folds(self, X: Array, labels: IntArray, errors: BoolArray, head: Head) -> list[Fold]:
        """Return the folds; with a head given each training part has to hold errors."""
        if isinstance(self.cv, Integral):
            n_splits = int(self.cv)
            fewest = int(min(errors.sum(), (~errors).sum()))
            if head.given and fewest < n_splits:
                raise ValueError(
                    f"The original head makes {int(errors.sum())} errors on {len(errors)} rows: "
                    f"too few, or too many, for cv={n_splits} folds with both. Use fewer folds, "
                    "or more rows that the classifier was not trained on."
                )
            return stratified(errors, max(2, min(n_splits, fewest)))
        folds = given_folds(self.cv, labels)
        for number, (rest, _) in enumerate(folds):
            if head.given and not errors[rest].any():
                raise ValueError(
                    f"cv: the training part of fold {number} holds no errors of the original head, "
                    "so nothing can be learned there; stratify the folds on the errors "
                    "(error_stratified_folds)."
                )
        return folds

    def _cross_validate(
        self, rows: _Rows, settings: list[dict[str, Any]]
    ) -> tuple[npt.NDArray[np.float64], float]:
        """Return test scores (settings, folds) and seconds."""
        start = time.perf_counter()
        X, errors, head, folds = rows
        scores = np.full((len(settings), len(folds)), np.nan)
        grids = self._grids(rows, settings)
        self._tell(grids, scores.size, len(errors))
        progress = self._init_callback_context(max_subtasks=None)
        progress.call_on_fit_task_begin(estimator=self, X=X)

        def score(numbers: IntArray, turns: Iterable[Solved]) -> None:
            for turn, uncertainty in turns:
                step = progress.subcontext(task_name="turn")
                step.call_on_fit_task_begin(estimator=self)
                scores[numbers[turn]] = self._score(uncertainty.cpu().numpy(), errors, folds)
                step.call_on_fit_task_end(estimator=self)

        n_confirmed = max(_FEWEST_CONFIRMED, math.ceil(_CONFIRMED_SHARE * len(settings)))
        unconfirmed = np.ones(len(settings), dtype=bool)
        with threads_for(scores.size * len(errors) * len(head.weights[0])):
            if len(settings) > n_confirmed:
                for numbers, grid in grids:
                    score(numbers, grid.around_the_middle())
            # What is chosen has been solved just as AdUEEstimator solves it.
            while unconfirmed[_choose(scores, settings, self.selection)]:
                confirmed = _best_of(scores, unconfirmed, n_confirmed)
                for numbers, grid in grids:
                    score(numbers, grid.from_scratch(np.flatnonzero(confirmed[numbers])))
                unconfirmed &= ~confirmed
        progress.call_on_fit_task_end(estimator=self, X=X)
        n_unconverged = sum(grid.n_unconverged for _, grid in grids)
        if n_unconverged:
            warn(
                f"{n_unconverged} of {scores.size} problems (setting and fold) did not converge "
                f"to tol={self.tol:.1e}. Raise max_iter, or scale the features if they are very "
                "large.",
                ConvergenceWarning,
            )
        return scores, time.perf_counter() - start

    def _grids(
        self, rows: _Rows, settings: list[dict[str, Any]]
    ) -> list[tuple[IntArray, GridProblems]]:
        """Return a grid for each scale and measure, with the numbers of its settings."""
        X, original = rows.X, self.original_logits(rows.X)
        rows = rows._replace(X=to_tensor(X, resolve_device(self.device, X), gemm_dtype(X)))
        kinds: dict[tuple[Any, Any], list[int]] = {}
        for number, setting in enumerate(settings):
            kinds.setdefault((setting["scale"], setting["measure"]), []).append(number)
        return [
            (
                np.array(numbers),
                GridProblems(
                    self._stack(rows, original, [settings[i] for i in numbers]),
                    len(rows.folds),
                    tol=self.tol,
                    max_iter=self.max_iter,
                    max_memory=self.max_memory,
                ),
            )
            for numbers in kinds.values()
        ]

    def _tell(self, grids: list[tuple[IntArray, GridProblems]], n: int, n_rows: int) -> None:
        if not self.verbose:
            return
        at_a_time = max(
            min(grid.at_a_time, len(numbers)) * self.n_splits_ for numbers, grid in grids
        )
        in_turns = any(grid.at_a_time < len(numbers) for numbers, grid in grids)
        turns = f", {at_a_time} at a time" if in_turns else ""
        print(f"[AdUESearchCV] {n} problems over {n_rows} rows{turns}")

    def _stack(self, rows: _Rows, original: Tensor, settings: list[dict[str, Any]]) -> Stack:
        """Return the problems of settings with one scale and measure."""
        X, errors, head, folds = rows
        scale, measure, device = settings[0]["scale"], settings[0]["measure"], original.device
        # A row may be there twice.
        counts = np.array([np.bincount(rest, minlength=len(errors)) for rest, _ in folds])
        inside = torch.from_numpy(counts.reshape(len(folds), -1)).to(device, torch.float64)
        row_weights = inside / inside.sum(dim=1, keepdim=True)
        wrong = torch.as_tensor(errors, dtype=torch.float64, device=device)
        error_weights = None
        if self.error_weight == "balanced":
            error_weights = balanced_weights(wrong, (row_weights @ wrong)[:, None])

        def per_problem(name: str) -> Tensor:
            values = torch.tensor([float(s[name]) for s in settings], dtype=torch.float64)
            return values.repeat_interleave(len(folds)).to(device)

        return Stack(
            X=X,
            original=original,
            head=head_matrix(head).to(device),
            errors=wrong,
            reference=reference_score(original, scale, measure),
            row_weights=row_weights,
            error_weights=error_weights,
            fold=torch.arange(len(folds), device=device).repeat(len(settings)),
            alpha=per_problem("alpha"),
            beta=per_problem("beta"),
            lam=per_problem("lam"),
            scale=scale,
            measure=measure,
            weight_units=units_of(X, row_weights),
        )

    def _score(
        self, uncertainty: npt.NDArray[np.float64], errors: BoolArray, folds: list[Fold]
    ) -> npt.NDArray[np.float64]:
        """Return the scores (settings, folds) of uncertainties (settings, folds, n)."""
        sign = 1.0 if self.scorer_.greater_is_better else -1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # NaN says it, for all at once
            return np.array(
                [
                    [
                        sign * self.scorer_.metric(errors[fold], of_fold[fold])
                        for of_fold, (_, fold) in zip(of_setting, folds, strict=True)
                    ]
                    for of_setting in uncertainty
                ]
            )


class _Rows(NamedTuple):
    """Rows, the head, where it is wrong on them, and the folds to judge in."""

    X: Any
    errors: BoolArray
    head: Head
    folds: list[Fold]


def given_folds(cv: Any, labels: IntArray) -> list[Fold]:
    """Return the folds of a splitter or a list, checked."""
    rows = np.arange(len(labels))
    try:
        splits = check_cv(cv, labels, classifier=True).split(rows[:, None], labels)
        folds = [(rows[as_numpy(rest)], rows[as_numpy(fold)]) for rest, fold in splits]
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"cv cannot be used ({type(error).__name__}: {error}); expected a number of folds, a "
            "scikit-learn splitter, or a list of (train, test) row numbers."
        ) from error
    parts = [part for fold in folds for part in fold]
    if any(part.ndim != 1 for part in parts):
        raise ValueError(
            "cv holds numbers where parts of folds are expected: a list of pairs (train, test), "
            "each a list of row numbers."
        )
    if not folds or any(part.size == 0 for part in parts):
        raise ValueError("cv has no folds, or folds without rows; every part needs rows.")
    return folds


def _candidates(param_grid: Grid | None) -> list[dict[str, Any]]:
    """Return every setting, checked, in the order of ``ParameterGrid``."""
    grid = DEFAULT_GRID if param_grid is None else param_grid
    try:
        candidates = list(ParameterGrid(grid))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"param_grid: {error} Expected a dict of lists, such as {{'beta': [0.01, 0.1]}}."
        ) from error
    if not candidates:
        raise ValueError("param_grid is empty; expected a dict of lists, or None for the default.")
    for candidate in candidates:
        unknown = set(candidate) - set(SEARCHED)
        if unknown:
            raise ValueError(
                f"param_grid has {sorted(unknown)}, which a stacked search cannot vary; expected "
                f"{', '.join(SEARCHED)}. Use GridSearchCV for the rest."
            )
        AdUEEstimator(**candidate)._validate_params()
    return candidates


def _in_full(candidate: dict[str, Any]) -> dict[str, Any]:
    """Return a setting with the estimator's defaults for what it does not name."""
    params = AdUEEstimator(**candidate).get_params()
    return {name: params[name] for name in SEARCHED}


def _best_of(scores: npt.NDArray[np.float64], among: BoolArray, n_best: int) -> BoolArray:
    """Return where the best ``n_best`` mean scores among some are; NaN counts as the lowest."""
    means = np.where(among, np.nan_to_num(scores.mean(axis=1), nan=-1e300), -np.inf)
    chosen = np.zeros(len(means), dtype=bool)
    chosen[np.argsort(-means, kind="stable")[:n_best]] = True
    return chosen & among


def _choose(scores: npt.NDArray[np.float64], settings: list[dict[str, Any]], selection: str) -> int:
    """Return the number of the chosen setting; the first of equals, NaN last."""
    means = scores.mean(axis=1) if scores.shape[1] else np.full(len(settings), np.nan)
    if np.isnan(means).all():
        return 0
    best = int(np.nanargmax(means))
    if selection == "best" or scores.shape[1] < 2:
        return best
    error = scores[best].std(ddof=1) / np.sqrt(scores.shape[1])
    close = np.flatnonzero(means >= means[best] - error)
    return int(max(close, key=lambda i: (settings[i]["beta"], settings[i]["alpha"], -i)))


def _results(
    candidates: list[dict[str, Any]], scores: npt.NDArray[np.float64], seconds: float
) -> dict[str, Any]:
    """Return a dict as GridSearchCV's ``cv_results_``."""
    n_settings, n_folds = scores.shape
    share = np.full(n_settings, seconds / max(1, scores.size))
    results: dict[str, Any] = {
        "mean_fit_time": share,
        "std_fit_time": np.zeros(n_settings),
        "mean_score_time": np.zeros(n_settings),
        "std_score_time": np.zeros(n_settings),
    }
    for name in sorted({name for candidate in candidates for name in candidate}):
        given = [name in candidate for candidate in candidates]
        anything = candidates[given.index(True)][name]  # where there is none, it is masked
        values = [candidate.get(name, anything) for candidate in candidates]
        results[f"param_{name}"] = np.ma.MaskedArray(values, mask=np.logical_not(given))
    results["params"] = candidates
    for fold in range(n_folds):
        results[f"split{fold}_test_score"] = scores[:, fold]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no folds: NaN
        results["mean_test_score"] = scores.mean(axis=1)
        results["std_test_score"] = scores.std(axis=1)
    means = np.nan_to_num(results["mean_test_score"], nan=-np.inf)
    results["rank_test_score"] = rankdata(-means, method="min").astype(np.int32)
    return results

"""A whole grid of AdUE settings times cross-validation folds, solved as one stacked problem."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.model_selection import ParameterGrid, StratifiedKFold, check_cv
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import Tensor

from adue_sklearn._heads import BoolArray, IntArray, OriginalHead
from adue_sklearn._torch import Array, gemm_dtype, resolve_device, threads_for, to_tensor
from adue_sklearn.adue.estimator import AdUEEstimator
from adue_sklearn.adue.objective import adue_score, reference_score
from adue_sklearn.adue.problem import flat_head, typical_gap
from adue_sklearn.adue.solvers import Stage, descents, moderated
from adue_sklearn.adue.stack import Minima, Stack, minimize_stack
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card
from adue_sklearn.metrics import ErrorScorer, error_roc_auc_scorer

#: What is tried if no grid is given. Small on purpose: a finer one picks up the folds' noise.
DEFAULT_GRID: dict[str, list[Any]] = {
    "alpha": [0.0, 0.3, 1.0],
    "beta": [0.001, 0.01, 0.1],
    "lam": [50.0, 100.0],
}
SEARCHED = ("alpha", "beta", "lam", "scale", "measure")

#: float64 tensors of the shape of all logits that one evaluation holds at a time, about.
_TEMPORARIES = 12
_ROUGH_TOL, _ROUGH_ITER = 1e-3, 200

Fold = tuple[IntArray, IntArray]
Grid = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]]


class AdUESearchCV(CallbackSupportMixin, UncertaintyEstimator):
    """Search over AdUE's settings by cross-validation, all fits solved together.

    What ``GridSearchCV(AdUEEstimator(), param_grid)`` does, deterministically and in a fraction
    of the time: every (setting, fold) is a problem over the same features, so that one product
    serves all heads, each problem has a line search of its own, and leaves once it has converged.

    Parameters
    ----------
    param_grid : dict or list of dict, default=None
        Lists of values for ``alpha``, ``beta``, ``lam``, ``scale`` and ``measure``; settings left
        out keep the defaults of :class:`AdUEEstimator`. By default alpha {0, 0.3, 1}, beta
        {0.001, 0.01, 0.1}, lam {50, 100}.
    cv : int, cross-validation generator or iterable of (train, test), default=5
        A number of folds stratified on the original head's errors, or scikit-learn's splitters.
    scoring : ErrorScorer, default=None
        One of :mod:`adue_sklearn.metrics`' scorers; by default the ROC-AUC of finding errors.
    selection : {"best", "one_standard_error"}, default="best"
        ``"one_standard_error"``: of all settings within one standard error of the best mean
        score, the one held most tightly (largest beta, then alpha).
    refit : bool, default=True
        Whether ``best_estimator_`` is fitted on all rows. Without it there are no predictions.
    error_weight : {"balanced"} or None, default=None
        As in :class:`AdUEEstimator`.
    max_iter, tol
        As in :class:`AdUEEstimator`, for every problem.
    max_memory : float, default=1.0
        GiB that the problems solved at a time may take, about; more are solved in turns.
    verbose : int, default=0
        1 tells how many problems are solved, in how many turns.
    activation : None
        Heads of several layers are not searched; use ``GridSearchCV``.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    cv_results_ : dict of array
        As ``GridSearchCV``'s: ``params``, ``param_NAME``, ``splitK_test_score``,
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
        What was maximised.
    init_coef_, init_intercept_, classes_, n_features_in_
        As of :class:`AdUEEstimator`.

    Notes
    -----
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
        name="AdUE, tuned",
        cost="fit O(nCd) an iteration, setting and fold; row O(Cd)",
    )

    _parameter_constraints: dict[str, list[Any]] = {
        "param_grid": [dict, list, None],
        "cv": [Interval(Integral, 2, None, closed="left"), HasMethods(["split"]), "array-like"],
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

    def __init__(
        self,
        param_grid: Grid | None = None,
        *,
        cv: Any = 5,
        scoring: ErrorScorer | None = None,
        selection: Literal["best", "one_standard_error"] = "best",
        refit: bool = True,
        error_weight: Literal["balanced"] | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        max_memory: float = 1.0,
        verbose: int = 0,
        activation: str | None = None,
        device: str = "auto",
    ) -> None:
        super().__init__(activation=activation, device=device)
        self.param_grid = param_grid
        self.cv = cv
        self.scoring = scoring
        self.selection = selection
        self.refit = refit
        self.error_weight = error_weight
        self.max_iter = max_iter
        self.tol = tol
        self.max_memory = max_memory
        self.verbose = verbose

    def _fit(self, X: Array, labels: IntArray, head: OriginalHead) -> None:
        if len(head.weights) > 1:
            raise ValueError(
                f"init_W has {len(head.weights)} layers, but only linear heads are searched as a "
                "stack; use GridSearchCV(AdUEEstimator(activation=...), ...)."
            )
        settings = _settings(self.param_grid)
        errors = self._original_errors(X, labels, head)
        self.scorer_ = error_roc_auc_scorer if self.scoring is None else self.scoring
        if errors.any():
            folds = self._folds(X, labels, errors, head)
            scores, seconds = self._cross_validate(X, errors, head, settings, folds)
        else:
            folds, scores, seconds = [], np.zeros((len(settings), 0)), 0.0
        self.n_splits_ = len(folds)
        self.best_index_ = _choose(scores, settings, self.selection, head)
        self.cv_results_ = _results(settings, scores, seconds)
        self.best_params_ = {
            name: settings[self.best_index_][name] for name in self._searched_names()
        }
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        if self.refit:
            start = time.perf_counter()
            self.best_estimator_ = self._estimator(settings[self.best_index_])
            # On this search's head, not on one fitted anew, so that predictions are the same.
            self.best_estimator_._fit_on(self, X, labels, head)
            self.n_iter_ = self.best_estimator_.n_iter_
            self.refit_time_ = time.perf_counter() - start

    def _searched_names(self) -> list[str]:
        grids = DEFAULT_GRID if self.param_grid is None else self.param_grid
        grids = [grids] if isinstance(grids, Mapping) else grids
        return sorted({name for grid in grids for name in grid})

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
                "refit=False leaves no fitted estimator to predict with; set refit=True, or fit "
                "AdUEEstimator(**search.best_params_)."
            )
        return self.best_estimator_._uncertainty(X)

    def _folds(
        self, X: Array, labels: IntArray, errors: BoolArray, head: OriginalHead
    ) -> list[Fold]:
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
            splitter = StratifiedKFold(max(2, min(n_splits, fewest)), shuffle=True, random_state=0)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The least populated class")
                return list(splitter.split(np.zeros(len(errors)), errors))
        folds = _given_folds(self.cv, labels)
        for number, (rest, _) in enumerate(folds):
            if head.given and not errors[rest].any():
                raise ValueError(
                    f"cv: the training part of fold {number} holds no errors of the original head, "
                    "so nothing can be learned there; stratify the folds on the errors "
                    "(error_stratified_folds)."
                )
        return folds

    def _cross_validate(
        self,
        X: Array,
        errors: BoolArray,
        head: OriginalHead,
        settings: list[dict[str, Any]],
        folds: list[Fold],
    ) -> tuple[npt.NDArray[np.float64], float]:
        """Return test scores (settings, folds) and seconds."""
        start = time.perf_counter()
        device = resolve_device(self.device, X)
        scores = np.empty((len(settings), len(folds)))
        turns = [
            (kind, turn)
            for kind, numbers in _by_score(settings).items()
            for turn in self._turns(numbers, X, head, folds)
        ]
        if self.verbose:
            print(
                f"[AdUESearchCV] {scores.size} problems over {len(errors)} rows in {len(turns)} "
                f"turn{'s' * (len(turns) != 1)}"
            )
        progress = self._init_callback_context(max_subtasks=len(turns))
        progress.call_on_fit_task_begin(estimator=self, X=X)
        data = to_tensor(X, device, gemm_dtype(X)), self._original_logits(X)
        vector = torch.from_numpy(flat_head(head)).to(device)
        with threads_for(X):
            for kind, turn in turns:
                step = progress.subcontext(task_name="turn")
                step.call_on_fit_task_begin(estimator=self)
                chosen = [settings[number] for number in turn]
                stack = self._stack(data, errors, head, chosen, folds, kind)
                uncertainty = _solve(stack, vector, tol=self.tol, max_iter=self.max_iter)
                scores[turn] = self._score(uncertainty, errors, folds, len(turn))
                step.call_on_fit_task_end(estimator=self)
        progress.call_on_fit_task_end(estimator=self, X=X)
        return scores, time.perf_counter() - start

    def _turns(
        self, numbers: list[int], X: Array, head: OriginalHead, folds: list[Fold]
    ) -> Iterable[list[int]]:
        """Cut settings into turns that fit the memory."""
        setting_bytes = 8 * _TEMPORARIES * len(folds) * X.shape[0] * len(head.weights[0])
        size = max(1, int(self.max_memory * 2**30 / setting_bytes))
        return [numbers[i : i + size] for i in range(0, len(numbers), size)]

    def _stack(
        self,
        data: tuple[Tensor, Tensor],
        errors: BoolArray,
        head: OriginalHead,
        settings: list[dict[str, Any]],
        folds: list[Fold],
        kind: ScoreKind,
    ) -> Stack:
        X, original = data
        device = original.device
        inside = np.zeros((len(folds), len(errors)))
        for number, (rest, _) in enumerate(folds):
            inside[number, rest] = 1.0
        rows = torch.from_numpy(np.tile(inside, (len(settings), 1))).to(device)
        wrong = torch.as_tensor(errors, dtype=torch.float64, device=device)
        weights = None
        if self.error_weight == "balanced":
            share = ((rows * wrong).sum(dim=1) / rows.sum(dim=1)).clamp(1e-9, 1 - 1e-9)[:, None]
            weights = torch.where(wrong > 0, 0.5 / share, 0.5 / (1.0 - share))

        def per_problem(name: str) -> Tensor:
            values = torch.tensor([float(s[name]) for s in settings], dtype=torch.float64)
            return values.repeat_interleave(len(folds)).to(device)

        return Stack(
            X,
            original,
            wrong,
            reference_score(original, kind.scale, kind.measure),
            rows / rows.sum(dim=1, keepdim=True),
            per_problem("alpha"),
            per_problem("beta"),
            per_problem("lam"),
            head.biases[0] is not None,
            kind.scale,
            kind.measure,
            weights,
        )

    def _score(
        self, uncertainty: Tensor, errors: BoolArray, folds: list[Fold], n_settings: int
    ) -> npt.NDArray[np.float64]:
        by_setting = uncertainty.cpu().numpy().reshape(n_settings, len(folds), -1)
        sign = 1.0 if self.scorer_.greater_is_better else -1.0
        scores = np.empty((n_settings, len(folds)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # NaN says it, for all at once
            for number, (_, fold) in enumerate(folds):
                for setting in range(n_settings):
                    scores[setting, number] = sign * self.scorer_.metric(
                        errors[fold], by_setting[setting, number, fold]
                    )
        return scores


class ScoreKind(NamedTuple):
    """What has to be the same for all problems of a stack."""

    scale: Any
    measure: Any


def _given_folds(cv: Any, labels: IntArray) -> list[Fold]:
    """Return the folds of a splitter or a list, checked."""
    rows = np.arange(len(labels))
    try:
        splits = check_cv(cv, labels, classifier=True).split(rows[:, None], labels)
        folds = [(rows[np.asarray(rest)], rows[np.asarray(fold)]) for rest, fold in splits]
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"cv cannot be used ({type(error).__name__}: {error}); expected a number of folds, a "
            "scikit-learn splitter, or a list of (train, test) row numbers."
        ) from error
    if not folds or any(rest.size == 0 or fold.size == 0 for rest, fold in folds):
        raise ValueError("cv has no folds, or folds without rows; every part needs some.")
    return folds


def _settings(param_grid: Grid | None) -> list[dict[str, Any]]:
    """Return every setting in full, in the order of ``ParameterGrid``."""
    grid = DEFAULT_GRID if param_grid is None else param_grid
    try:
        candidates = list(ParameterGrid(grid))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"param_grid: {error} Expected a dict of lists, such as {{'beta': [0.01, 0.1]}}."
        ) from error
    if not candidates:
        raise ValueError("param_grid is empty; expected a dict of lists, or None for the default.")
    defaults = AdUEEstimator().get_params()
    for candidate in candidates:
        unknown = set(candidate) - set(SEARCHED)
        if unknown:
            raise ValueError(
                f"param_grid has {sorted(unknown)}, which a stacked search cannot vary; it takes "
                f"{', '.join(SEARCHED)}. Use GridSearchCV for the rest."
            )
        AdUEEstimator(**candidate)._validate_params()
    return [{name: {**defaults, **c}[name] for name in SEARCHED} for c in candidates]


def _by_score(settings: list[dict[str, Any]]) -> dict[ScoreKind, list[int]]:
    groups: dict[ScoreKind, list[int]] = {}
    for number, setting in enumerate(settings):
        groups.setdefault(ScoreKind(setting["scale"], setting["measure"]), []).append(number)
    return groups


def _solve(stack: Stack, head: Tensor, *, tol: float, max_iter: int) -> Tensor:
    """Return the uncertainties (P, n) of all rows under each problem's lowest minimum.

    The same descents as :class:`AdUEEstimator` makes, for all problems at once. ``head`` (m,) is
    the original head.
    """
    gap = typical_gap(stack.original)
    start = stack.original.new_zeros(len(stack.lam), stack.n_parameters)
    softened = start + (moderated(gap) - 1.0) * head.to(start.device)
    sharpest = float(stack.lam.max())
    minima = [
        _follow(stack, plan, begin, tol, max_iter)
        for plan, begin in descents(start, softened, lam=sharpest, typical_gap=gap)
    ]
    values = torch.stack([minimum.value for minimum in minima])
    lowest = values.argmin(dim=0)
    x = torch.stack([minimum.x for minimum in minima])[lowest, torch.arange(len(lowest))]
    return adue_score(stack.logits(x), stack.lam[:, None], stack.scale, stack.measure)


def _follow(stack: Stack, plan: list[Stage], start: Tensor, tol: float, max_iter: int) -> Minima:
    """Solve stage after stage; no problem is sharper on the way than at its end."""
    minima = None
    for number, stage in enumerate(plan):
        last = number == len(plan) - 1
        at_stage = stack if last else replace(stack, lam=stack.lam.clamp(max=stage.lam))
        minima = minimize_stack(
            at_stage,
            start if minima is None else minima.x,
            temperature=torch.full_like(stack.lam, stage.temperature),
            tol=tol if last else max(tol, _ROUGH_TOL),
            max_iter=max_iter if last else min(max_iter, _ROUGH_ITER),
        )
    assert minima is not None
    return minima


def _choose(
    scores: npt.NDArray[np.float64],
    settings: list[dict[str, Any]],
    selection: str,
    head: OriginalHead,
) -> int:
    """Return the number of the chosen setting; the first of equals, NaN last."""
    if scores.shape[1] == 0:
        return 0
    means = scores.mean(axis=1)
    if np.isnan(means).all():
        if head.given:
            raise ValueError(
                "cv: every setting scores NaN, because no fold's test part holds both errors and "
                "correct answers; stratify the folds on the errors (error_stratified_folds), or "
                "use more rows."
            )
        return 0
    best = int(np.nanargmax(means))
    if selection == "best" or scores.shape[1] < 2:
        return best
    behind = scores[best] - scores
    error = behind.std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    close = np.flatnonzero(behind.mean(axis=1) <= error)
    return int(max(close, key=lambda i: (settings[i]["beta"], settings[i]["alpha"], -i)))


def _results(
    settings: list[dict[str, Any]], scores: npt.NDArray[np.float64], seconds: float
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
    for name in SEARCHED:
        values = [setting[name] for setting in settings]
        results[f"param_{name}"] = np.ma.MaskedArray(values, mask=False)
    results["params"] = settings
    for fold in range(n_folds):
        results[f"split{fold}_test_score"] = scores[:, fold]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no folds: NaN
        results["mean_test_score"] = scores.mean(axis=1)
        results["std_test_score"] = scores.std(axis=1)
    means = np.nan_to_num(results["mean_test_score"], nan=-np.inf)
    results["rank_test_score"] = rankdata(-means, method="min").astype(np.int32)
    return results

"""AdUE: a copy of the classifier's head that learns when the classifier is wrong."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._torch import Array, gemm_dtype, resolve_device, threads_for, to_tensor
from adue_sklearn.adue.objective import LossTerms, Scale, adue_score, reference_score, row_losses
from adue_sklearn.adue.solvers import (
    Solution,
    Stage,
    Vector,
    descents,
    minimize_along,
    moderated,
)
from adue_sklearn.base import IntArray, OriginalHead, UncertaintyEstimator


class AdUEEstimator(CallbackSupportMixin, UncertaintyEstimator):
    r"""Uncertainty of a classifier's predictions from a second, adapted head (AdUE).

    The classifier's last linear layer ``init_W, init_b`` stays as it is and makes every
    prediction. A copy of it, ``coef_, intercept_``, is trained so that ``U``, one minus a smooth
    maximum of its class probabilities, says whether the original head errs (``e``):

    .. math::
        \mathrm{BCE}(U, e) + \alpha\, \mathrm{mean}\,(U - U_{SR})^2
        + \beta\, \lVert \theta - \theta_{init} \rVert^2

    The second term draws the score towards the softmax response of the original head, the third
    (a sum over all weights and biases) keeps the head near its start. Fit it on rows that the
    classifier was not trained on: rows it has memorised teach almost nothing.

    Parameters
    ----------
    alpha : float, default=1.0
        Weight of the pull towards the softmax response, at least 0.
    beta : float, default=0.01
        Weight of the pull towards the original head, at least 0. Below about 0.001 the head
        overfits a few thousand rows.
    lam : float, default=100.0
        Sharpness of the smooth maximum, above 0. Large is the maximum itself, small weighs the
        whole distribution.
    scale : {"unit", "paper"}, default="unit"
        ``"unit"`` maps the score to [0, 1] so that the cross-entropy can say "surely wrong";
        ``"paper"`` is the published score, at most ``1 - 1/C - log(C)/lam`` and clamped to
        ``[1e-7, 1 - 1e-7]`` in the cross-entropy. Both rank the rows of a given head alike.
    max_iter : int, default=1000
        Most L-BFGS iterations of one descent.
    tol : float, default=1e-4
        A descent has converged when no entry of the gradient is larger.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    coef_ : ndarray of float64 of shape (n_classes, n_features)
        Weights of the uncertainty head.
    intercept_ : ndarray of float64 of shape (n_classes,)
        Its bias; zeros where the original head has none.
    init_coef_, init_intercept_ : ndarray of float64
        The original head, shaped alike.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    loss_ : float
        The objective at the solution.
    loss_terms_ : dict of float
        Its three summands, weights included: ``"cross_entropy"``, ``"regularization"``,
        ``"l2sp"``.
    n_iter_ : int
        L-BFGS iterations over all descents.
    n_samples_fit_ : int
        Number of fit rows.
    n_errors_ : int
        Errors of the original head among them.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Set when ``X`` has feature names that are all strings.

    Warns
    -----
    ConvergenceWarning
        If the gradient is still larger than ``tol`` after ``max_iter`` iterations.
    UserWarning
        If every row is an error, or (without ``init_W``) none is: the head keeps its start then.

    See Also
    --------
    SoftmaxResponseScorer : What the original head says by itself.

    Notes
    -----
    The objective is not convex. It is minimised from the original head and once more along a
    sequence of softer maxima, and the lower minimum is taken.

    References
    ----------
    .. [1] Zabolotnyi et al., "AdUE: Improving uncertainty estimation head for LoRA adapters in
       LLMs", 2025, arXiv:2505.15443.

    Examples
    --------
    >>> from adue_sklearn import AdUEEstimator
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> adue = AdUEEstimator().fit(*data.calibration, data.init_W, data.init_b)
    >>> adue.predict_uncertainty(data.test.features).shape
    (1821,)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "beta": [Interval(Real, 0, None, closed="left")],
        "lam": [Interval(Real, 0, None, closed="neither")],
        "scale": [StrOptions({"unit", "paper"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        **UncertaintyEstimator._parameter_constraints,
    }

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.01,
        lam: float = 100.0,
        *,
        scale: Scale = "unit",
        max_iter: int = 1000,
        tol: float = 1e-4,
        device: str = "auto",
    ) -> None:
        super().__init__(device=device)
        self.alpha = alpha
        self.beta = beta
        self.lam = lam
        self.scale = scale
        self.max_iter = max_iter
        self.tol = tol

    def _fit(self, X: Array, labels: IntArray, head: OriginalHead) -> None:
        errors = self._original_errors(X, labels, head)
        self.n_samples_fit_, self.n_errors_ = len(errors), int(errors.sum())
        problem = _HeadProblem(self, X, errors, head)
        if self.n_errors_ == 0:
            _complain_of_no_errors(len(errors), head)
            shift, self.n_iter_ = problem.start(), 0
        else:
            if self.n_errors_ == len(errors):
                warnings.warn(
                    f"The original head errs on all {len(errors)} fit rows: nothing tells errors "
                    "from correct answers. Check the order of labels and head rows.",
                    UserWarning,
                    stacklevel=4,
                )
            shift = self._minimize(problem, X)
        terms = problem.terms(shift, self.lam)
        self.loss_ = terms.total
        self.loss_terms_ = {
            "cross_entropy": terms.cross_entropy,
            "regularization": terms.regularization,
            "l2sp": terms.l2sp,
        }
        dW, db = problem.split(shift)
        self.coef_ = head.W + dW.cpu().numpy()
        self.intercept_ = head.b + db.cpu().numpy()

    def _minimize(self, problem: _HeadProblem, X: Array) -> Vector:
        gap = problem.typical_gap()
        planned = descents(
            problem.start(), problem.scaled(moderated(gap)), lam=self.lam, typical_gap=gap
        )
        progress = self._init_callback_context(max_subtasks=len(planned))
        progress.call_on_fit_task_begin(estimator=self, X=X)
        with threads_for(X):
            solutions = [self._descend(problem, plan, start, progress) for plan, start in planned]
        progress.call_on_fit_task_end(estimator=self, X=X)
        self.n_iter_ = sum(solution.n_iter for solution in solutions)
        best = min(solutions, key=lambda solution: solution.value)
        if not best.converged:
            warnings.warn(
                f"AdUE did not converge: after {best.n_iter} iterations the largest gradient "
                f"entry is {best.gradient_norm:.1e}, tol={self.tol:.1e}. Raise max_iter, or "
                "scale the features if they are very large.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return best.x

    def _descend(
        self, problem: _HeadProblem, plan: list[Stage], start: Vector, progress: Any
    ) -> Solution:
        """Follow one plan; ``progress`` is scikit-learn's callback context of the fit."""
        descent = progress.subcontext(task_name="descent", max_subtasks=None)
        descent.call_on_fit_task_begin(estimator=self)

        def on_iteration(_: Vector) -> None:
            step = descent.subcontext(task_name="lbfgs-iter")
            step.call_on_fit_task_begin(estimator=self)
            step.call_on_fit_task_end(estimator=self)

        solution = minimize_along(
            problem.value_and_gradient,
            plan,
            start,
            tol=self.tol,
            max_iter=self.max_iter,
            on_iteration=on_iteration if hasattr(self, "_skl_callbacks") else None,
        )
        descent.call_on_fit_task_end(estimator=self)
        return solution

    def _uncertainty(self, X: Array) -> Tensor:
        return adue_score(self._logits(X, self.coef_, self.intercept_), self.lam, self.scale)


class _HeadProblem:
    """The objective as a function of the flattened shift ``theta - theta_init``.

    The shift is small where the original logits may be large, so these are computed once in
    float64 and the products at every step can run in the dtype of the features.
    """

    def __init__(
        self, estimator: AdUEEstimator, X: Array, errors: np.ndarray[Any, Any], head: OriginalHead
    ) -> None:
        device = resolve_device(estimator.device, X)
        self._X = to_tensor(X, device, gemm_dtype(X))
        self._original = estimator._original_logits(X)
        self._errors = torch.as_tensor(errors, dtype=torch.float64, device=device)
        self._reference = reference_score(self._original, estimator.scale)
        self._alpha, self._beta, self._scale = estimator.alpha, estimator.beta, estimator.scale
        self._W, self._b = head.W, head.b
        self._shape = head.W.shape
        self._has_bias = head.has_bias

    def start(self) -> Vector:
        """Return the shift of the original head: zeros."""
        n_classes, n_features = self._shape
        return np.zeros(n_classes * (n_features + self._has_bias))

    def split(self, shift: Vector) -> tuple[Tensor, Tensor]:
        """Return the shift of the weights (C, d) and of the biases (C,)."""
        n_classes, n_features = self._shape
        flat = torch.from_numpy(shift).to(self._original.device)
        dW = flat[: n_classes * n_features].reshape(self._shape)
        db = flat[n_classes * n_features :] if self._has_bias else flat.new_zeros(n_classes)
        return dW, db

    def scaled(self, factor: float) -> Vector:
        """Return the shift of the original head multiplied by ``factor``."""
        parts = [self._W.ravel(), self._b] if self._has_bias else [self._W.ravel()]
        return (factor - 1.0) * np.concatenate(parts)

    def typical_gap(self) -> float:
        """Return the median difference of the two largest original logits."""
        top = self._original.topk(2, dim=1).values
        return float((top[:, 0] - top[:, 1]).median())

    def value_and_gradient(self, shift: Vector, stage: Stage) -> tuple[float, Vector]:
        """Return the objective (softened as ``stage`` says) and its gradient."""
        dW, db = self.split(shift)
        cross_entropy, regularization, dz = self._row_losses(dW, db, stage)
        dz = dz / (len(dz) * stage.temperature)
        gradient_W = (dz.T.to(self._X.dtype) @ self._X).to(torch.float64) + 2 * self._beta * dW
        parts = [gradient_W.ravel()]
        if self._has_bias:
            parts.append(dz.sum(dim=0) + 2 * self._beta * db)
        value = (cross_entropy + regularization).mean() + self._penalty(dW, db)
        return float(value), torch.cat(parts).cpu().numpy()

    def terms(self, shift: Vector, lam: float) -> LossTerms:
        """Return the objective's three summands."""
        dW, db = self.split(shift)
        cross_entropy, regularization, _ = self._row_losses(dW, db, Stage(lam, 1.0))
        return LossTerms(
            float(cross_entropy.mean()), float(regularization.mean()), float(self._penalty(dW, db))
        )

    def _row_losses(self, dW: Tensor, db: Tensor, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
        z = self._original + (self._X @ dW.T.to(self._X.dtype)).to(torch.float64) + db
        return row_losses(
            z / stage.temperature,
            self._errors,
            self._reference,
            lam=stage.lam,
            scale=self._scale,
            alpha=self._alpha,
        )

    def _penalty(self, dW: Tensor, db: Tensor) -> Tensor:
        return self._beta * (dW.square().sum() + db.square().sum())


def _complain_of_no_errors(n_rows: int, head: OriginalHead) -> None:
    if head.given:
        raise ValueError(
            f"The original head makes no error on the {n_rows} fit rows, so there is nothing to "
            "learn from. Rows it was trained on are memorised: fit on held-out rows, more of "
            "them, or rely on SoftmaxResponseScorer."
        )
    warnings.warn(
        f"A head fitted on {n_rows} rows predicts all of them out-of-fold: no errors to learn "
        "from. The uncertainty head stays equal to it.",
        UserWarning,
        stacklevel=5,
    )

"""AdUE: a copy of the classifier's head that learns when the classifier is wrong."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from adue_sklearn._utils.arrays import Array, resolve_device, threads_for, where_it_computes
from adue_sklearn._utils.head import BoolArray, Head, IntArray
from adue_sklearn._utils.label_order import FEWEST_ROWS
from adue_sklearn._utils.validation import warn
from adue_sklearn.adue.descents import Descent, Problems, descend, descents, lowest
from adue_sklearn.adue.objective import Measure, Scale, adue_score
from adue_sklearn.adue.problem import ErrorWeight, HeadProblem
from adue_sklearn.adue.solvers import Minima, Observer, one_cycle_adam
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.card import Card

#: With fewer errors on the fit rows there is a warning.
FEW_ERRORS = 20


@dataclass(eq=False, repr=False)
class AdUEEstimator(CallbackSupportMixin, UncertaintyEstimator):
    r"""Uncertainty of a classifier's predictions from a second, adapted head (AdUE).

    The classifier's last linear layer ``init_W, init_b`` does not change and makes every
    prediction. A copy of it, ``coef_, intercept_``, is trained so that ``U``, one minus a smooth
    maximum of its class probabilities, predicts whether the original head is wrong (``e``):

    .. math::
        \mathrm{BCE}(U, e) + \alpha\, \mathrm{mean}\,(U - U_{SR})^2
        + \beta\, \lVert \theta - \theta_{init} \rVert^2

    The second term pulls the score towards the softmax response of the original head, the third
    (a sum over all weights and biases) keeps the head near its start. Fit it on rows that the
    classifier was not trained on: memorised rows hold no errors to learn from. (After a few epochs,
    training rows were about as useful as others in our measurements.)

    Parameters
    ----------
    alpha : float, default=1.0
        Weight of the pull towards the softmax response, at least 0.
    beta : float, default=0.01
        Weight of the pull towards the original head, at least 0. Below about 0.001 the head
        overfits a few thousand rows. It depends on the features' scale: for features times `s`
        and weights over `s`, `beta` times `s` squared has the same effect.
    lam : float, default=100.0
        Sharpness of the smooth maximum, at least 0.001. Large values give the maximum itself, small
        values weigh the whole distribution.
    scale : {"unit", "paper"}, default="unit"
        ``"unit"`` maps the score to [0, 1] so that the cross-entropy can say "certainly wrong";
        ``"paper"`` is the published score, at most ``1 - 1/C - log(C)/lam`` and clamped to
        ``[1e-7, 1 - 1e-7]`` in the cross-entropy. Both rank the rows of a given head equally,
        except for rounding: the published score has a constant of at least
        ``(C - 1) exp(-lam) / lam``, below which confident rows tie (1e-46 for lam = 100, 5e-6 for
        lam = 10).
    measure : {"smoothmax", "entropy"}, default="smoothmax"
        The score of the class probabilities: one minus their smooth maximum, or their entropy
        over ``log C``, pulled towards the original head's. With entropy, ``lam`` has no effect and
        ``scale="paper"`` only clamps.
    error_weight : {"balanced"} or None, default=None
        ``"balanced"``: in the cross-entropy, all errors together weigh as much as all correct rows.
    solver : {"lbfgs", "adam"}, default="lbfgs"
        ``"lbfgs"`` is deterministic and converges to a minimum. ``"adam"`` is the paper's recipe,
        with OneCycle learning rate and last weights, for reproducing published numbers.
    max_iter : int, default=1000
        L-BFGS: maximum number of iterations of one descent.
    tol : float, default=1e-4
        L-BFGS: a descent has converged when no entry of the gradient is larger, with weights
        scaled by twice the features' root mean square.
    learning_rate : float, default=1e-4
        Adam: the highest rate of the cycle.
    epochs : int, default=10
        Adam: passes over the rows.
    batch_size : int, default=128
        Adam: rows per step.
    dropout : float in [0, 1), default=0.1
        Adam: share of each layer's inputs that is dropped in training; only in heads of several
        layers.
    random_state : int, RandomState instance or None, default=None
        Adam: order of the rows and dropout.
    activation : {"tanh", "gelu", "relu"} or None, default=None
        What the original head applies between its layers, such as tanh in RoBERTa's and the exact
        gelu in ELECTRA's. Only for heads of several layers: ``init_W`` and ``init_b`` are then
        lists, all layers are trained, and ``X`` is the input of the first layer.
    device : str, default="auto"
        Where to compute: ``"auto"`` (where a tensor lies; CUDA if there is one for numpy
        arrays), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Attributes
    ----------
    coef_ : ndarray of float64 of shape (n_classes, n_features)
        Weights of the uncertainty head.
    intercept_ : ndarray of float64 of shape (n_classes,)
        Its bias; zeros if the original head has none.
    init_coef_, init_intercept_ : ndarray of float64
        The original head, with the same shapes.
    coefs_, intercepts_, init_coefs_, init_intercepts_ : list of ndarray of float64
        The same for a head of several layers, which has these instead; first layer first.
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the head's rows.
    loss_ : float
        The objective at the solution.
    loss_terms_ : dict of float
        Its three summands, weights included: ``"cross_entropy"``, ``"regularization"``,
        ``"l2sp"``.
    n_iter_ : int
        L-BFGS iterations over all descents, or steps of Adam.
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
        If every row is an error or, with ``init_W``, fewer than 20 are. If, without ``init_W``,
        none is; the head then keeps its start.

    See Also
    --------
    SoftmaxResponseScorer : The original head's own uncertainty.

    Notes
    -----
    With ``init_W``, ``X`` must be the features that the model itself passes to its head. A scaler
    between them, in a plain scikit-learn pipeline, silently changes the classifier. ``fit`` detects
    this and warns if the scaler was fitted on the same rows, but not if it was fitted on others.
    :class:`adue_sklearn.UncertaintyPipeline` rejects such steps.

    The objective is not convex. It is minimised from the original head and again along a sequence
    of softer maxima, and the lower minimum is used.

    References
    ----------
    .. [1] Zabolotnyi et al., "AdUE: Improving uncertainty estimation head for LoRA adapters in
       LLMs", 2025, arXiv:2505.15443; the entropy is from its second version (2026).

    Examples
    --------
    >>> from adue_sklearn import AdUEEstimator
    >>> from adue_sklearn.datasets import load_movie_sentiment
    >>> data = load_movie_sentiment()
    >>> adue = AdUEEstimator().fit(*data.calibration, data.init_W, data.init_b)
    >>> adue.predict_uncertainty(data.test.features).shape
    (1821,)
    """

    card: ClassVar[Card] = Card(
        name="AdUE",
        paper="Zabolotnyi et al., AdUE: Improving uncertainty estimation head for LoRA adapters "
        "in LLMs, arXiv 2505.15443, 2025",
        formula="1 - logsumexp(lam p') / lam, p' of an adapted copy of the head",
        needs="held-out errors",
        cost="fit O(nCd) per iteration; row O(Cd)",
    )

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "beta": [Interval(Real, 0, None, closed="left")],
        # Below this the smooth maximum is so flat that rounding matters.
        "lam": [Interval(Real, 1e-3, None, closed="left")],
        "scale": [StrOptions({"unit", "paper"})],
        "measure": [StrOptions({"smoothmax", "entropy"})],
        "error_weight": [StrOptions({"balanced"}), None],
        "solver": [StrOptions({"lbfgs", "adam"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        **UncertaintyEstimator._parameter_constraints,
    }

    alpha: float = 1.0
    beta: float = 0.01
    lam: float = 100.0
    _: KW_ONLY
    scale: Scale = "unit"
    measure: Measure = "smoothmax"
    error_weight: ErrorWeight = None
    solver: Literal["lbfgs", "adam"] = "lbfgs"
    max_iter: int = 1000
    tol: float = 1e-4
    learning_rate: float = 1e-4
    epochs: int = 10
    batch_size: int = 128
    dropout: float = 0.1
    random_state: int | np.random.RandomState | None = None

    def _to_fit(self, X: Array) -> Array:
        return where_it_computes(X, self.device)

    def _fit(self, X: Array, labels: IntArray, head: Head) -> None:
        self._fit_to(X, self._original_errors(X, labels, head), head)

    def _fit_to(self, X: Array, errors: BoolArray, head: Head) -> None:
        self.n_samples_fit_, self.n_errors_ = len(errors), int(errors.sum())
        problem = HeadProblem(
            X,
            self.original_logits(X),
            errors,
            head,
            alpha=self.alpha,
            beta=self.beta,
            lam=self.lam,
            scale=self.scale,
            measure=self.measure,
            error_weight=self.error_weight,
        )
        if self.n_errors_ == 0:
            _complain_of_no_errors(len(errors), head)
            shift, self.n_iter_ = problem.start()[0], 0
        else:
            warn_of_odd_errors(self.n_errors_, len(errors), head)
            shift = self._train(problem, X)
        terms = problem.terms(shift)
        self.loss_ = terms.total
        self.loss_terms_ = asdict(terms)
        self._set_head("", problem.head_at(shift))

    @with_callbacks
    def _fit_on(self, other: UncertaintyEstimator, X: Array, errors: BoolArray, head: Head) -> None:
        """Fit on another estimator's head, validated rows and the head's errors on them."""
        self._keep_head(head)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(other, name):
                setattr(self, name, getattr(other, name))
        self._fit_to(X, errors, head)

    def _train(self, problem: HeadProblem, X: Array) -> Tensor:
        """Return the change of the head (m,)."""
        adam = self.solver == "adam"
        problems = problem.as_stack() if problem.is_linear and not adam else problem
        planned = descents(problems)
        progress = self._init_callback_context(max_subtasks=self.epochs if adam else len(planned))
        progress.call_on_fit_task_begin(estimator=self, X=X)
        with threads_for(X.shape[0] * X.shape[1]):
            if adam:
                shift = self._run_adam(problem, resolve_device(self.device, X), progress)
            else:
                shift = problems.shifts(self._descend_all(problems, planned, progress))[0]
        progress.call_on_fit_task_end(estimator=self, X=X)
        return shift

    def _descend_all(self, problems: Problems, planned: list[Descent], progress: Any) -> Tensor:
        best = lowest([self._descend(problems, descent, progress) for descent in planned])
        self.n_iter_ = int(best.n_iter)
        if not float(best.gradient_norm) <= self.tol:  # NaN too
            warn(
                f"AdUE did not converge: after {self.n_iter_} iterations the largest gradient "
                f"entry is {float(best.gradient_norm):.1e}, tol={self.tol:.1e}. Raise max_iter, or "
                "scale the features if they are very large.",
                ConvergenceWarning,
            )
        return best.x

    def _descend(self, problems: Problems, descent: Descent, progress: Any) -> Minima:
        """Follow one descent; ``progress`` is scikit-learn's callback context of the fit."""
        task = progress.subcontext(task_name="descent", max_subtasks=None)
        task.call_on_fit_task_begin(estimator=self)
        minima = descend(
            problems,
            descent,
            tol=self.tol,
            max_iter=self.max_iter,
            on_iteration=self._observer(task, "lbfgs-iter"),
        )
        task.call_on_fit_task_end(estimator=self)
        return minima

    def _run_adam(self, problem: HeadProblem, device: torch.device, progress: Any) -> Tensor:
        random_state = check_random_state(self.random_state)
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        shift, self.n_iter_ = one_cycle_adam(
            lambda x, rows: problem.batch_gradient(
                x, rows, dropout=self.dropout, generator=generator
            ),
            problem.start()[0],
            n_rows=len(problem),
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            random_state=random_state,
            on_epoch=self._observer(progress, "epoch"),
        )
        return shift

    def _observer(self, context: Any, task_name: str) -> Observer | None:
        """Return what tells scikit-learn's callbacks, if any, that a step of a task is done."""
        if not hasattr(self, "_skl_callbacks"):
            return None

        def observe() -> None:
            step = context.subcontext(task_name=task_name)
            step.call_on_fit_task_begin(estimator=self)
            step.call_on_fit_task_end(estimator=self)

        return observe

    def _uncertainty(self, X: Array) -> Tensor:
        z = self._head("").logits(X, self.device)
        return adue_score(z, self.lam, self.scale, self.measure)


def warn_of_odd_errors(n_errors: int, n_rows: int, head: Head) -> None:
    """Warn if there are too few errors to learn from, or only errors."""
    at_chance = n_errors >= n_rows * (1 - 1 / len(head.classes))
    if head.given and at_chance and n_rows >= FEWEST_ROWS:
        return  # `fit` has compared labels and answers, and warned
    if n_errors == n_rows:
        message = (
            f"The original head is wrong on all {n_rows} fit rows, so errors cannot be compared "
            "with correct answers. Check the order of labels and head rows."
        )
    elif head.given and n_errors < FEW_ERRORS:
        message = (
            f"The original head makes {n_errors} errors on the {n_rows} fit rows. Fewer than "
            f"{FEW_ERRORS} are too few to learn from. Rows that the classifier was trained on look "
            "like this; fit on rows that it has not seen, or on more rows."
        )
    else:
        return
    warn(message)


def _complain_of_no_errors(n_rows: int, head: Head) -> None:
    if head.given:
        raise ValueError(
            f"The original head makes no errors on the {n_rows} fit rows, so there is nothing to "
            "learn from. A model memorises its training rows: fit on held-out rows or on more "
            "rows, or use SoftmaxResponseScorer."
        )
    warn(
        f"A head fitted on {n_rows} rows predicts all of them correctly out-of-fold, so there are "
        "no errors to learn from. The uncertainty head stays equal to it."
    )

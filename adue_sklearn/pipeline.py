"""A pipeline that passes a classifier's head from the step that knows it to the last step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils.metaestimators import available_if

from adue_sklearn._utils.arrays import Array, as_numpy
from adue_sklearn._utils.head import Head

__all__ = ["UncertaintyPipeline"]


def _last_step_scores(pipeline: UncertaintyPipeline) -> bool:
    return hasattr(pipeline._final_estimator, "score_samples")


class UncertaintyPipeline(Pipeline):
    """A pipeline from texts (or features) to an uncertainty.

    Like :class:`sklearn.pipeline.Pipeline`, with three additions. The head of a step that knows a
    classifier's head, such as :class:`adue_sklearn.features.LoraFeatureExtractor`, is passed to the
    last step's ``fit``. ``predict_uncertainty`` is forwarded. Steps that change the features before
    a given head are rejected, since ``X @ W.T + b`` would no longer be the classifier's logits. A
    step knows a head if it has a method ``head()`` that returns a :class:`adue_sklearn.Head`.

    Parameters
    ----------
    steps : list of (name, estimator)
        The last one is an uncertainty estimator, or a search over one.
    transform_input, memory, verbose
        As in :class:`sklearn.pipeline.Pipeline`.

    Examples
    --------
    >>> import numpy as np
    >>> from adue_sklearn import MahalanobisScorer, UncertaintyPipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    >>> pipe = UncertaintyPipeline([("scale", StandardScaler()), ("score", MahalanobisScorer())])
    >>> pipe.fit(X, y).predict_uncertainty(X).shape
    (50,)
    >>> pipe.fit(X, y, score__init_W=np.eye(2, 3))
    Traceback (most recent call last):
    ...
    ValueError: Step 'scale' (StandardScaler) changes the features, but a head was given: ...
    """

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Fit the steps, the last one on the head that an earlier step knows.

        Parameters
        ----------
        X : list of str, or any input of the first step
            Texts or features.
        y : array-like of shape (n_samples,)
            True labels: names of classes, or row numbers of the head.
        **params : dict
            Fit parameters, as in :class:`sklearn.pipeline.Pipeline`. A head that is given here
            (``STEP__init_W``, or ``init_W`` with metadata routing) takes precedence over the one
            that a step knows.

        Returns
        -------
        self : UncertaintyPipeline
            Fitted.

        Raises
        ------
        ValueError
            If a head is given and a step before the last changes the features.
        """
        pairs = isinstance(self.steps, list) and all(
            isinstance(step, tuple | list) and len(step) == 2 for step in self.steps
        )
        if not pairs or not self.steps:
            raise ValueError(f"steps is {self.steps!r}; expected a list of (name, estimator).")
        self._validate_steps()
        self._refuse_hidden_heads()
        prefix = "" if _routing_enabled() else f"{self.steps[-1][0]}__"
        source = self._head_source()
        given = f"{prefix}init_W" in params
        if given or source is not None:
            self._refuse_changed_features(self.steps[0 if source is None else source + 1 : -1])
        if not given and source is not None:
            partial = [key for key in ("init_b", "classes") if f"{prefix}{key}" in params]
            if partial:
                raise ValueError(
                    f"{prefix}{partial[0]} was given without {prefix}init_W; pass the whole head, "
                    f"or let step '{self.steps[source][0]}' supply it."
                )
            params[f"{prefix}init_W"] = _head_for(self.steps[source][1], y)
        return super().fit(X, y, **params)

    @available_if(_last_step_scores)
    def predict_uncertainty(self, X: Any) -> Array:
        """Return how likely each prediction is wrong; higher is more likely.

        Parameters
        ----------
        X : list of str, or any input of the first step
            Texts or features.

        Returns
        -------
        uncertainty : array of float64 of shape (n_samples,)
            Result of the last step.
        """
        return -self.score_samples(X)

    def _head_source(self) -> int | None:
        """Return the number of the step that knows a head, if there is one."""
        for number, (_, step) in enumerate(self.steps[:-1]):
            if _knows_head(step):
                return number
        return None

    def _refuse_hidden_heads(self) -> None:
        """Raise if a step contains one that knows a head, which could not be passed on."""
        for name, step in self.steps[:-1]:
            inner = step.get_params().values() if hasattr(step, "get_params") else ()
            if any(map(_knows_head, inner)):
                raise ValueError(
                    f"Step '{name}' ({type(step).__name__}) contains a step that knows the "
                    "classifier's head, but does not pass it on; make that a step of this "
                    "pipeline itself."
                )

    def _refuse_changed_features(self, between: list[tuple[str, Any]]) -> None:
        for name, step in between:
            if not _leaves_features(step):
                raise ValueError(
                    f"Step '{name}' ({type(step).__name__}) changes the features, but a head was "
                    "given: init_W belongs to the classifier's own features, so X @ init_W.T "
                    "would no longer be its logits. Remove the step, or fit "
                    "without a head."
                )


def _knows_head(step: Any) -> bool:
    return callable(getattr(step, "head", None))


def _leaves_features(step: Any) -> bool:
    if step is None or step == "passthrough":
        return True
    return isinstance(step, FunctionTransformer) and step.func is None


def _head_for(step: Any, y: Any) -> Head:
    """Return a step's head, with the names of its classes only if ``y`` holds names."""
    head: Head = step.head()
    named = y is not None and any(isinstance(label, str) for label in as_numpy(y).ravel()[:1])
    if not named:
        numbers = head.names_labels and head.classes.dtype.kind not in "OUST"
        return head if numbers else replace(head, classes=np.arange(head.n_classes))
    if not head.names_labels:
        raise ValueError(
            f"y holds strings ({np.unique(as_numpy(y).astype(str))[:5].tolist()}), but "
            f"{type(step).__name__} does not know the names of its classes; set classes=[...], the "
            "labels in the order of the head's rows."
        )
    return head

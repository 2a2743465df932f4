"""The frozen head that a classifier predicts with: given as arrays, or fitted here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from adue_sklearn._utils.arrays import Array, Features, as_numpy, map_rows, resolve_device
from adue_sklearn._utils.labels import (
    as_row_numbers,
    check_class_labels,
    check_labels,
    shorten,
)
from adue_sklearn._utils.views import main_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: What a head may apply between its layers; gelu is the exact one.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
}
#: Folds in which an original head fitted here predicts rows it has not seen.
_OUT_OF_FOLD = 5


@dataclass(frozen=True, eq=False)
class Head:
    """A frozen classification head, as :meth:`of` makes it from arrays.

    A linear head has one layer: ``logits = X @ W.T + b``. An encoder's full head has two, with an
    activation between them. It has no length and is not an array, so a search does not cut it.

    Attributes
    ----------
    weights : tuple of ndarray of shape (n_out, n_in)
        Weights of each layer, first layer first.
    biases : tuple of (ndarray of shape (n_out,) or None)
        Their biases; None for a layer without a bias, for which none is trained.
    classes : ndarray of shape (n_classes,)
        The labels in the order of the last layer's rows; row numbers unless labels were given.
    activation : {"tanh", "gelu", "relu"} or None
        What the head applies between its layers; None for a linear head.
    given : bool
        False for a head that an estimator fitted on its own rows.

    Examples
    --------
    >>> head = Head.of([[1.0, 0.0], [0.0, 1.0]], classes=["no", "yes"])
    >>> head.logits(np.array([[2.0, 1.0]]))
    tensor([[2., 1.]], dtype=torch.float64)
    >>> head.errors(np.array([[2.0, 1.0]]), ["yes"])
    array([ True])
    """

    weights: tuple[npt.NDArray[Any], ...]
    biases: tuple[npt.NDArray[Any] | None, ...]
    classes: npt.NDArray[Any]
    activation: str | None = None
    given: bool = True

    @classmethod
    def of(
        cls, init_W: Any, init_b: Any = None, *, classes: Any = None, activation: str | None = None
    ) -> Head:
        """Return the head of arrays, in float64.

        Parameters
        ----------
        init_W : array-like of shape (n_classes, n_features) or list of them
            Weights; for several layers a list, first layer first. A single row, as the ``coef_``
            of a binary ``LogisticRegression``, becomes the two of :func:`two_rows`.
        init_b : array-like of shape (n_classes,) or list of them, default=None
            Biases; None if there are none.
        classes : array-like of shape (n_classes,), default=None
            The labels in the order of the last layer's rows; None for row numbers.
        activation : {"tanh", "gelu", "relu"} or None, default=None
            Activation between several layers.

        Returns
        -------
        Head
            The head.

        Raises
        ------
        ValueError
            If the arrays do not form a head; the message names the argument.
        """
        deep = is_list_of_layers(init_W)
        name, first = ("init_W[0]", init_W[0]) if deep else ("init_W", init_W)
        width = _finite(first, name, ndim=(1, 2), shape="(n_classes, n_features)").shape[-1]
        return check_head(
            init_W, init_b, classes, (0, width), activation=activation, may_be_cut=False
        )

    @property
    def is_linear(self) -> bool:
        """Whether there is one layer."""
        return len(self.weights) == 1

    @property
    def n_features(self) -> int:
        """Inputs of the first layer."""
        return int(self.weights[0].shape[1])

    @property
    def n_classes(self) -> int:
        """Outputs of the last layer."""
        return len(self.weights[-1])

    @property
    def names_labels(self) -> bool:
        """Whether labels differ from row numbers."""
        return not np.array_equal(self.classes, np.arange(self.n_classes))

    @property
    def init_W(self) -> Any:
        """Weights as ``fit`` takes them: a matrix, or a list where there are several layers."""
        return self.weights[0] if self.is_linear else list(self.weights)

    @property
    def init_b(self) -> Any:
        """Biases as ``fit`` takes them."""
        return self.biases[0] if self.is_linear else list(self.biases)

    def to(self, device: torch.device) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return weights and biases as float64 tensors on a device."""
        W = [torch.tensor(w, dtype=torch.float64, device=device) for w in self.weights]
        b = [
            None if b is None else torch.tensor(b, dtype=torch.float64, device=device)
            for b in self.biases
        ]
        return W, b

    def logits(self, X: Features, device: str = "auto") -> Tensor:
        """Return the logits (n, C) of features (n, d) in float64, whatever the dtype of ``X``.

        Raises
        ------
        ValueError
            If they overflow float64.
        """
        features = main_of(X)
        target = resolve_device(device, features)
        W, b = self.to(target)
        logits = map_rows(
            lambda chunk: apply_head(chunk, W, b, self.activation), features, target, torch.float64
        )
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "X is too large for this head: the logits X @ init_W.T + init_b overflow float64; "
                "expected finite logits. Scale features and head consistently, or extract them "
                "again."
            )
        return logits

    def errors(self, X: Array, y: Any) -> BoolArray:
        """Return where the head's answers to rows (n, d) differ from the labels (n,)."""
        labels = encode_labels(check_labels(y, X.shape[0], "Head"), self)
        return self.logits(X).argmax(dim=1).cpu().numpy() != labels

    def same_as(self, other: Head) -> bool:
        """Tell whether both are the same head, within float32; no bias equals a bias of zeros."""
        return self.shapes == other.shapes and (
            (self.is_linear or self.activation == other.activation)
            and np.array_equal(self.classes, other.classes)
            and all(
                np.allclose(ours, theirs, rtol=1e-6, atol=1e-12)
                for ours, theirs in zip(self._filled(), other._filled(), strict=True)
            )
        )

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the layers' weights."""
        return [W.shape for W in self.weights]

    def filled_biases(self) -> list[FloatArray]:
        """Return the biases, zeros where there are none."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [np.zeros(len(W)) if b is None else b for W, b in pairs]

    def _filled(self) -> list[FloatArray]:
        return [*self.weights, *self.filled_biases()]


def apply_head(
    X: Tensor, weights: list[Tensor], biases: list[Tensor | None], activation: str | None
) -> Tensor:
    """Return the logits (n, C) of rows (n, d), layer after layer."""
    hidden = X
    for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
        if layer:
            hidden = ACTIVATIONS[str(activation)](hidden)
        hidden = hidden @ W.T if b is None else torch.addmm(b, hidden, W.T)
    return hidden


def resolve_head(
    X: Array,
    y: Any,
    init_W: Any,
    init_b: Any,
    classes: Any,
    *,
    activation: str | None,
    name: str,
    may_be_cut: bool = True,
) -> tuple[Head, IntArray]:
    """Return the original head, given or fitted on ``X, y``, and labels as its row numbers.

    ``name`` is the estimator's, for messages; ``may_be_cut`` is as in :func:`check_head`.
    """
    y = check_labels(y, X.shape[0], name)
    if init_W is not None:
        head = check_head(
            init_W, init_b, classes, X.shape, activation=activation, may_be_cut=may_be_cut
        )
        return head, encode_labels(y, head)
    if init_b is not None or classes is not None:
        given = "init_b" if init_b is not None else "classes"
        raise ValueError(
            f"{given} was given without init_W; pass the head's weights too, or neither."
        )
    if activation is not None:
        raise ValueError(
            f"activation={activation!r} was given without init_W, but the head that is fitted on "
            "X, y has one layer; expected activation=None, or init_W as a list of layers."
        )
    return _fit_head(X, y)


def check_head(
    init_W: Any,
    init_b: Any,
    classes: Any,
    shape: tuple[int, ...],
    *,
    activation: str | None,
    may_be_cut: bool = True,
) -> Head:
    """Validate a frozen head against the shape (n_samples, n_features) of features.

    A :class:`Head` may be passed as ``init_W``; it provides biases and activation, and classes
    unless they are row numbers.

    A head of one row, as of a binary ``LogisticRegression`` (``coef_`` (1, d) or (d,), bias (1,),
    a number or None), becomes the two rows of :func:`two_rows`. ``may_be_cut`` tells whether a
    search can have cut the head to the rows of ``X``, as it does with what ``fit`` gets; what
    ``partial_fit`` gets is never cut.

    Returns
    -------
    Head
        In float64, with ``classes`` in row order.

    Raises
    ------
    ValueError
        Naming the argument, its shape and the shape that is expected.
    """
    n_samples, n_features = shape
    if isinstance(init_W, Head):
        return _check_ready(init_W, init_b, classes, n_features, activation)
    if not is_list_of_layers(init_W):
        W = _finite(init_W, "init_W", ndim=(1, 2), shape="(n_classes, n_features)")
        if W.ndim == 1:
            _check_single_width(W, n_samples, n_features)
            W = W[np.newaxis]
        _check_width(W, "init_W", n_features, "X")
        b = None if init_b is None else _check_bias(init_b, "init_b", W, "init_W")
        weights: tuple[FloatArray, ...] = (W,)
        biases: tuple[FloatArray | None, ...] = (b,)
    else:
        weights, biases = _check_layers(init_W, init_b, n_features, activation)
    if len(weights) == 1 and activation is not None:
        raise ValueError(
            f"activation={activation!r}, but init_W has one layer and so no activation; expected "
            "activation=None, or the whole head: a list of layers, with the features that enter "
            "the first."
        )
    n_rows = len(weights[-1])
    if may_be_cut and n_rows == n_samples:
        raise ValueError(
            f"init_W has as many rows as X ({n_samples}). Searches and cross-validation cut every "
            "fit parameter that is as long as X, so this could be a cut head. X needs another "
            "number of rows (drop one), or bind the head to the estimator instead of passing it "
            "through a search."
        )
    if n_rows == 0:
        raise ValueError("init_W has no rows; expected one per class, or one for two classes.")
    if n_rows == 1:
        last_W, last_b = two_rows(weights[-1], biases[-1])
        weights, biases = (*weights[:-1], last_W), (*biases[:-1], last_b)
    return Head(weights, biases, _check_classes(classes, n_rows), activation)


def _check_ready(
    head: Head, init_b: Any, classes: Any, n_features: int, activation: str | None
) -> Head:
    """Return a head that was passed as one, in float64."""
    if init_b is not None:
        raise ValueError("init_b was given with a Head, which has its own biases; leave it out.")
    if activation not in (None, head.activation):
        raise ValueError(
            f"activation={activation!r}, but the head that was passed has "
            f"activation={head.activation!r}; leave activation out, or set the same."
        )
    if head.n_features != n_features:
        raise ValueError(
            f"X has {n_features} features, but the head that was passed needs {head.n_features}; "
            "expected the features that enter its first layer."
        )
    if classes is not None:
        classes = _check_classes(classes, head.n_classes)
        if head.names_labels and not np.array_equal(classes, head.classes):
            raise ValueError(
                f"classes are {shorten(classes)}, but the head that was passed has "
                f"{shorten(head.classes)}; leave classes out."
            )
    return replace(
        head,
        weights=tuple(W.astype(np.float64) for W in head.weights),
        biases=tuple(None if b is None else b.astype(np.float64) for b in head.biases),
        classes=head.classes if classes is None else classes,
        given=True,
    )


def two_rows(
    w: npt.NDArray[Any], b: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return the two rows, ``[-w/2, w/2]``, for a head (1, d) with a single sigmoid logit.

    The softmax over both rows equals the sigmoid of the single logit.

    Examples
    --------
    >>> two_rows(np.array([[2.0, 4.0]]), np.array([1.0]))
    (array([[-1., -2.],
           [ 1.,  2.]]), array([-0.5,  0.5]))
    """
    return np.concatenate([-w, w]) / 2, None if b is None else np.concatenate([-b, b]) / 2


def is_list_of_layers(init_W: Any) -> bool:
    """Tell a list of matrices from one matrix, which may be nested lists."""
    return isinstance(init_W, list | tuple) and any(map(_is_matrix, init_W))


def _is_matrix(layer: Any) -> bool:
    nested = isinstance(layer, list | tuple) and len(layer) > 0
    return bool(getattr(layer, "ndim", 0) == 2 or (nested and isinstance(layer[0], list | tuple)))


def _check_layers(
    init_W: Any, init_b: Any, n_features: int, activation: str | None
) -> tuple[tuple[FloatArray, ...], tuple[FloatArray | None, ...]]:
    if init_b is None:
        init_b = [None] * len(init_W)
    if not isinstance(init_b, list | tuple) or len(init_b) != len(init_W):
        raise ValueError(
            f"init_W is a list of {len(init_W)} layers, init_b is "
            f"{f'a list of {len(init_b)}' if isinstance(init_b, list | tuple) else type(init_b)}; "
            "expected one bias (or None) per layer, first layer first."
        )
    known = isinstance(activation, str) and activation in ACTIVATIONS
    if len(init_W) > 1 and not known:
        raise ValueError(
            f"init_W has {len(init_W)} layers, but activation is {activation!r}; set it to what "
            f"the head applies between them: {', '.join(ACTIVATIONS)}."
        )
    weights, biases = [], []
    width, source = n_features, "X"
    for number, (layer, bias) in enumerate(zip(init_W, init_b, strict=True)):
        name = f"init_W[{number}]"
        W = _finite(layer, name, ndim=(2,), shape="(n_out, n_in)")
        _check_width(W, name, width, source)
        weights.append(W)
        biases.append(None if bias is None else _check_bias(bias, f"init_b[{number}]", W, name))
        width, source = len(W), name
    return tuple(weights), tuple(biases)


def _check_width(W: FloatArray, name: str, width: int, source: str) -> None:
    if W.shape[1] != width:
        what = f"X has {width} features" if source == "X" else f"{source} gives {width} outputs"
        hint = f" It looks transposed; pass {name}.T." if len(W) == width else ""
        rows = "n_classes" if source == "X" and name == "init_W" else "n_out"
        raise ValueError(
            f"{name} has shape {W.shape}, but {what}; expected ({rows}, {width}).{hint}"
        )


def _check_single_width(w: FloatArray, n_samples: int, n_features: int) -> None:
    """Raise unless a head of one row, given as a vector, is as long as ``X`` is wide."""
    if len(w) == n_features:
        return
    cut = (
        " Or did a search cut it? Searches cut every fit parameter that is as long as X; pass "
        "init_W.reshape(1, -1)."
        if len(w) == n_samples
        else ""
    )
    raise ValueError(
        f"init_W has shape {w.shape}, but X has {n_features} features; expected (n_classes, "
        f"{n_features}), or ({n_features},) for the one logit of two classes.{cut}"
    )


def _check_bias(bias: Any, name: str, W: FloatArray, weights_name: str) -> FloatArray:
    n_rows = len(W)
    b = _finite(bias, name, ndim=(0, 1) if n_rows == 1 else (1,), shape=f"({n_rows},)")
    if b.ndim == 0:
        b = b[np.newaxis]
    if b.shape != (n_rows,):
        raise ValueError(
            f"{name} has shape {b.shape}, but {weights_name} has {n_rows} "
            f"{'row' if n_rows == 1 else 'rows'}; expected ({n_rows},)."
        )
    return b


def encode_labels(y: npt.NDArray[Any], head: Head) -> IntArray:
    """Return labels as row numbers of a head."""
    return as_row_numbers(y, head.classes, named=head.names_labels)


def _check_classes(classes: Any, n_rows: int) -> npt.NDArray[Any]:
    n_classes = max(n_rows, 2)
    if classes is None:
        return np.arange(n_classes)
    array = check_class_labels(classes)
    if len(array) != n_classes:
        expected = (
            "one label per row, in the same order"
            if n_rows > 1
            else "two labels, of which the last is the one that a high logit means"
        )
        raise ValueError(
            f"classes has shape {array.shape}, but init_W has {n_rows} "
            f"{'row' if n_rows == 1 else 'rows'}; expected {expected}."
        )
    return array


def _finite(values: Any, name: str, *, ndim: tuple[int, ...], shape: str) -> FloatArray:
    try:
        array = np.array(as_numpy(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not a numeric array ({type(values).__name__}: {error}); expected {shape}."
        ) from error
    if array.ndim not in ndim:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} contains NaN or infinity; expected finite numbers. Load the head again, in "
            "float32 at least."
        )
    return array


def _fit_head(X: Array, y: npt.NDArray[Any]) -> tuple[Head, IntArray]:
    """Fit the original head: scikit-learn's multinomial logistic regression."""
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds only one class ({shorten(classes)}); without init_W a head is fitted, "
            "which needs at least 2 classes."
        )
    model = _logistic_regression().fit(as_numpy(X), labels)
    W, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(classes) == 2:
        W, b = two_rows(W, b)
    return Head((W,), (b,), classes, given=False), labels.astype(np.int64)


def out_of_fold_predictions(
    X: npt.NDArray[Any], labels: IntArray, *, method: str = "predict"
) -> npt.NDArray[Any]:
    """Return out-of-fold predictions of heads like the one fitted here.

    ``method`` is ``"predict"`` for labels (n,) or ``"predict_proba"`` for probabilities (n, C).
    """
    rarest = int(np.bincount(labels).min())
    folds = StratifiedKFold(max(2, min(_OUT_OF_FOLD, rarest)))
    with warnings.catch_warnings():
        # A class with a single row cannot be in every fold: its row counts as an error.
        warnings.filterwarnings("ignore", message="The least populated class")
        warnings.filterwarnings("ignore", message="Number of classes in training fold")
        return cross_val_predict(_logistic_regression(), X, labels, cv=folds, method=method)


def _logistic_regression() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)

"""The frozen head that a classifier predicts with: given as arrays, or fitted here; and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from adue_sklearn._utils.arrays import Array, as_numpy
from adue_sklearn._utils.validation import naming

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


class OriginalHead(NamedTuple):
    """A frozen classification head, first layer first; row ``i`` of the last scores ``classes[i]``.

    A linear head has one layer: ``logits = X @ W.T + b``. An encoder's full head has two, with an
    activation between them. A bias of None is a layer without bias, for which none is trained.
    ``given`` tells a head that came from outside from one fitted on the same rows.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray | None, ...]
    classes: npt.NDArray[Any]
    given: bool


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
) -> tuple[OriginalHead, IntArray]:
    """Return the original head, given or fitted on ``X, y``, and labels as its row numbers.

    ``name`` is the estimator's, for messages; ``may_be_cut`` is as in :func:`check_head`.
    """
    y = check_labels(y, X.shape[0], name)
    if init_W is not None:
        head = check_head(init_W, init_b, classes, X, activation=activation, may_be_cut=may_be_cut)
        return head, encode_labels(y, head.classes, named=classes is not None)
    if init_b is not None or classes is not None:
        given = "init_b" if init_b is not None else "classes"
        raise ValueError(
            f"{given} was given without init_W; expected the head's weights too, or neither."
        )
    if activation is not None:
        raise ValueError(
            f"activation={activation!r} was given without init_W, but the head that is fitted on "
            "X, y is one layer; expected activation=None, or init_W as a list of layers."
        )
    return _fit_head(X, y)


def check_head(
    init_W: Any,
    init_b: Any,
    classes: Any,
    X: Array,
    *,
    activation: str | None,
    may_be_cut: bool = True,
) -> OriginalHead:
    """Validate a frozen head against features ``X`` (n_samples, n_features).

    A head of one row, as of a binary ``LogisticRegression`` (``coef_`` (1, d) or (d,), bias (1,),
    a number or None), becomes the two rows of :func:`two_rows`. ``may_be_cut`` tells whether a
    search can have cut the head to the rows of ``X``, as it does with what ``fit`` gets; what
    ``partial_fit`` gets is never cut.

    Returns
    -------
    OriginalHead
        In float64, with ``classes`` in row order.

    Raises
    ------
    ValueError
        Naming the argument, its shape and the shape that is expected.
    """
    n_samples, n_features = X.shape
    if not is_list_of_layers(init_W):
        W = _finite(init_W, "init_W", ndim=(1, 2), shape="(n_classes, n_features)")
        if W.ndim == 1:
            _check_single_width(W, X)
            W = W[np.newaxis]
        _check_width(W, "init_W", n_features, "X")
        b = None if init_b is None else _check_bias(init_b, "init_b", W, "init_W")
        weights: tuple[FloatArray, ...] = (W,)
        biases: tuple[FloatArray | None, ...] = (b,)
    else:
        weights, biases = _check_layers(init_W, init_b, n_features, activation)
    if len(weights) == 1 and activation is not None:
        raise ValueError(
            f"activation={activation!r}, but init_W is one layer, which has none; expected "
            "activation=None, or the whole head: a list of layers, with the features that enter "
            "the first."
        )
    n_rows = len(weights[-1])
    if may_be_cut and n_rows == n_samples:
        raise ValueError(
            f"init_W has as many rows as X ({n_samples}). Searches and cross-validation cut "
            "every fit parameter that is as long as X, so such a head cannot be told from a cut "
            "one; it needs another number of rows (drop one), or tie the head to the estimator "
            "instead of passing it through a search."
        )
    if n_rows == 0:
        raise ValueError("init_W has no rows; expected one a class, or one for two classes.")
    if n_rows == 1:
        last_W, last_b = two_rows(weights[-1], biases[-1])
        weights, biases = (*weights[:-1], last_W), (*biases[:-1], last_b)
    return OriginalHead(weights, biases, _check_classes(classes, n_rows), given=True)


def two_rows(
    w: npt.NDArray[Any], b: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return the two rows, ``[-w/2, w/2]``, of a head (1, d) whose one logit a sigmoid takes.

    Softmax over both gives what the sigmoid of the one logit gives.

    Examples
    --------
    >>> two_rows(np.array([[2.0, 4.0]]), np.array([1.0]))
    (array([[-1., -2.],
           [ 1.,  2.]]), array([-0.5,  0.5]))
    """
    return np.concatenate([-w, w]) / 2, None if b is None else np.concatenate([-b, b]) / 2


def rows_to_fit(rows: IntArray, init_W: Any) -> IntArray:
    """Return the numbers of rows to fit on, the first twice if they are as many as the head's rows.

    Folds inside an estimator cut no head; without this :func:`check_head` would refuse some.
    """
    if init_W is None:
        return rows
    last = init_W[-1] if is_list_of_layers(init_W) else init_W
    if np.ndim(last) == 1:  # a head of one row
        return rows
    return np.append(rows, rows[0]) if len(last) == len(rows) else rows


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
            "expected one bias (or None) a layer, first layer first."
        )
    if len(init_W) > 1 and activation is None:
        raise ValueError(
            f"init_W has {len(init_W)} layers, but activation is None; set activation to what the "
            f"head applies between them: {', '.join(ACTIVATIONS)}."
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


def _check_single_width(w: FloatArray, X: Array) -> None:
    """Raise unless a head of one row, given as a vector, is as long as ``X`` is wide."""
    n_samples, n_features = X.shape
    if len(w) == n_features:
        return
    cut = (
        " Or has a search cut it? It cuts every fit parameter that is as long as X; pass "
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


def encode_labels(y: npt.NDArray[Any], classes: npt.NDArray[Any], *, named: bool) -> IntArray:
    """Return labels as row numbers of a given head.

    ``named`` tells whether ``classes`` came from the user: otherwise labels are row numbers.
    """
    if not named:
        if y.dtype.kind in "OUST":
            raise ValueError(
                f"y holds strings ({_shorten(np.unique(y.astype(str)))}), but classes was not "
                "given; expected fit(..., classes=[...]), the labels in the order of init_W's "
                "rows."
            )
        n_classes = len(classes)
        outside = (y < 0) | (y >= n_classes) | (y != np.floor(y))
        if outside.any():
            raise ValueError(
                f"y holds {_shorten(np.unique(y[outside]))}, but the head has {n_classes} classes: "
                f"labels must be its row numbers 0 to {n_classes - 1}; or pass classes, the "
                "labels in the order of init_W's rows."
            )
        return y.astype(np.int64)
    if (y.dtype.kind in "OUST") != (classes.dtype.kind in "OUST"):
        raise ValueError(
            f"y has dtype {y.dtype} and classes {classes.dtype} ({_shorten(classes)}): y must hold "
            "entries of classes. For row numbers leave classes out."
        )
    if len(classes) == 0:
        raise ValueError("classes is empty; expected the labels of the head's rows.")
    order = np.argsort(classes)
    place = np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)
    labels = order[place]
    unknown = classes[labels] != y
    if unknown.any():
        raise ValueError(
            f"y holds {_shorten(np.unique(y[unknown]))}, not among classes "
            f"({_shorten(classes)}); every label must be one of the head's classes."
        )
    return labels.astype(np.int64)


def check_labels(y: Any, n_samples: int, name: str) -> npt.NDArray[Any]:
    """Return labels as a 1-D array of ``n_samples`` discrete values; ``name`` is for messages."""
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None; pass the true labels."
        )
    with naming("y", "one label a row, all strings or all numbers, shape (n_samples,)"):
        y = column_or_1d(as_numpy(y), warn=True)
        if y.dtype == object:
            y = _plain_labels(y)
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity; drop the rows without a label.")
        check_classification_targets(y)
    if len(y) != n_samples:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_samples} rows, "
            f"y has {len(y)} labels; they must be as many."
        )
    return y.astype(np.int64) if y.dtype.kind == "b" else y


def _plain_labels(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an object array of numbers as numbers; strings stay, a mixture is an error."""
    if all(isinstance(label, str) for label in y):
        return y
    if all(isinstance(label, Real) for label in y):
        return np.array(y.tolist())
    odd = next(label for label in y if not isinstance(label, str))
    raise ValueError(
        f"y mixes labels of different kinds, such as {odd!r} ({type(odd).__name__}); expected all "
        "strings or all numbers."
    )


def check_class_labels(classes: Any) -> npt.NDArray[Any]:
    """Return ``classes`` as a 1-D array of different strings or numbers."""
    with naming("classes", "one label a class, all different"):
        array = as_numpy(classes)
        if array.ndim != 1 or len(array) == 0:
            raise ValueError(f"classes has shape {array.shape}; expected one label a class.")
        if array.dtype == object:
            array = _plain_labels(array)
        if array.dtype.kind not in "iufbOUST":
            raise ValueError(f"classes has dtype {array.dtype}; expected strings or numbers.")
        if len(np.unique(array)) != len(array):
            raise ValueError(f"classes repeats a label: {_shorten(array)}; each row needs its own.")
        return array


def _check_classes(classes: Any, n_rows: int) -> npt.NDArray[Any]:
    n_classes = max(n_rows, 2)
    if classes is None:
        return np.arange(n_classes)
    array = check_class_labels(classes)
    if len(array) != n_classes:
        expected = (
            "one label a row, in the same order"
            if n_rows > 1
            else "two labels, the one that a high logit stands for last"
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
            f"{name} is no array of numbers ({type(values).__name__}: {error}); expected {shape}."
        ) from error
    if array.ndim not in ndim:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} contains NaN or infinity; expected finite numbers. Load the head again, in "
            "float32 at least."
        )
    return array


def _fit_head(X: Array, y: npt.NDArray[Any]) -> tuple[OriginalHead, IntArray]:
    """Fit the original head: scikit-learn's multinomial logistic regression."""
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds one class only ({_shorten(classes)}); without init_W a head is fitted, "
            "which needs at least 2 classes."
        )
    model = _logistic_regression().fit(as_numpy(X), labels)
    W, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    head = two_rows(W, b) if len(classes) == 2 else (W, b)
    return OriginalHead(head[:1], head[1:], classes, given=False), labels.astype(np.int64)


def out_of_fold_predictions(
    X: npt.NDArray[Any], labels: IntArray, *, method: str = "predict"
) -> npt.NDArray[Any]:
    """Return what a head like the one fitted here predicts for rows it was not fitted on.

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


def _shorten(values: npt.NDArray[Any], most: int = 5) -> str:
    shown = ", ".join(repr(v) for v in values[:most].tolist())
    return shown + (f", ... ({len(values)} in all)" if len(values) > most else "")

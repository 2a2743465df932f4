"""Arrays in, the same kind of arrays out: device and dtype are decided only here."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import validate_data
from threadpoolctl import threadpool_limits
from torch import Tensor

from adue_sklearn._utils.validation import naming
from adue_sklearn._utils.views import Views, main_of

Array: TypeAlias = npt.NDArray[Any] | Tensor
#: What estimators take as ``X`` once it is checked.
Features: TypeAlias = Array | Views

#: Elements of one chunk of rows: 128 MiB in float64, enough to keep any BLAS busy.
_CHUNK_ELEMENTS = 2**24
#: Elements of ``X`` from which a product with a few columns is worth sharing among threads.
_SHARED_ELEMENTS = 2**22


def parse_device(device: str | torch.device) -> torch.device:
    """Return a device that torch can use here; ``"auto"`` is CUDA if there is one, else the CPU."""
    if not isinstance(device, str | torch.device):
        raise TypeError(
            f"device is a {type(device).__name__}; expected a str such as 'auto', 'cpu' or 'cuda', "
            "or a torch.device."
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a torch device ({error}); expected 'auto', 'cpu', 'cuda' or "
            "another device that torch knows."
        ) from error
    if chosen.type != "cuda":
        return chosen
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (chosen.index or 0) >= n_cuda:
        found = f"{n_cuda} CUDA device(s), numbered from 0" if n_cuda else "no CUDA device"
        raise ValueError(
            f"device={device!r} was requested, but torch finds {found}; use device='auto', "
            "device='cpu' or a device that is there."
        )
    return chosen


def resolve_device(device: str, X: Features) -> torch.device:
    """Return the device to compute on: ``"auto"`` stays where a tensor lies."""
    X = main_of(X)
    chosen = X.device if device == "auto" and isinstance(X, Tensor) else parse_device(device)
    if chosen.type == "mps":
        raise ValueError(
            f"device={device!r} means MPS, which lacks float64; use device='cpu' and X.cpu()."
        )
    return chosen


def validate_features(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Check ``X`` (n_samples, n_features) and set or compare ``n_features_in_``.

    Parameters
    ----------
    estimator : estimator
        Holds ``n_features_in_`` (and ``feature_names_in_``).
    X : array-like, data frame, torch.Tensor or Views
        Real and finite. Tensors keep their device. Of views, the features are checked.
    reset : bool
        True in ``fit``.

    Returns
    -------
    array of float32 or float64, a floating tensor, or views of either
        float16 arrays become float32; integers become float64.
    """
    if isinstance(X, Views):
        return X.with_main(validate_features(estimator, X.main, reset=reset))
    if isinstance(X, Tensor):
        return _validate_tensor(estimator, X, reset=reset)
    half = getattr(X, "dtype", None) == np.float16
    dtype = np.float32 if half else [np.float64, np.float32]
    # scikit-learn looks for infinity by a sum, of which numpy warns before the error says it.
    with (
        naming("X", "real, finite numbers, shape (n_samples, n_features)"),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        return validate_data(estimator, X, dtype=dtype, reset=reset)


def _validate_tensor(estimator: Any, X: Tensor, *, reset: bool) -> Tensor:
    name = type(estimator).__name__
    if X.layout != torch.strided:
        raise TypeError(
            f"X is a sparse tensor ({X.layout}), but {name} needs dense data; use X.to_dense()."
        )
    if X.is_complex():
        raise ValueError(f"X is complex ({X.dtype}), but {name} needs real features.")
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D tensor X (n_samples, n_features), got shape {tuple(X.shape)}. "
            "Reshape a single row with X.reshape(1, -1)."
        )
    if X.shape[0] == 0:
        raise ValueError(
            f"Found tensor with 0 sample(s) (shape={tuple(X.shape)}) while a minimum of 1 is "
            f"required by {name}."
        )
    X = X.detach()
    if not X.is_floating_point():
        X = X.to(torch.float64)
    finite = torch.isfinite(X).all(dim=1)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).ravel()
        raise ValueError(
            f"Input X contains NaN or infinity in {len(bad)} of {X.shape[0]} rows (first: row "
            f"{int(bad[0])}), but {name} needs finite features; drop these rows or extract "
            "them again in float32."
        )
    if reset:
        estimator.n_features_in_ = X.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {name} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return X


def gemm_dtype(X: Array) -> torch.dtype:
    """Return the dtype for matrix products over ``X``: float64 for float64, else float32."""
    return torch.float64 if X.dtype in (np.float64, torch.float64) else torch.float32


def row_chunks(X: Array, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield ``X`` in blocks of rows on ``device`` as ``dtype``; blocks may share its memory."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, X.shape[1]))
    for start in range(0, X.shape[0], rows):
        yield to_tensor(X[start : start + rows], device, dtype)


def to_tensor(X: Array, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return ``X`` as a tensor on ``device``; may share its memory, so never write to it."""
    if isinstance(X, Tensor):
        return X.to(device=device, dtype=dtype)
    if not X.flags.aligned or min(X.strides, default=0) < 0:  # torch takes neither
        X = np.array(X, order="C")
    with warnings.catch_warnings():
        # Read-only memory (a memory map, joblib's) is as good: nothing here writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(X).to(device, dtype)


def tensors_on(device: torch.device, *arrays: npt.NDArray[Any]) -> list[Tensor]:
    """Return copies of fitted arrays on a device."""
    return [torch.tensor(array, device=device) for array in arrays]


def rows_of(X: Any, numbers: npt.NDArray[Any]) -> Any:
    """Return some of the rows."""
    return X[torch.as_tensor(numbers, device=X.device)] if isinstance(X, Tensor) else X[numbers]


def where_it_computes(X: Array, device: str) -> Array:
    """Return ``X`` on the accelerator that ``device`` leads to, moved once; on a CPU as it is."""
    target = resolve_device(device, X)
    return X if target.type == "cpu" else to_tensor(X, target, gemm_dtype(X))


class _ThreadLimits:
    """Process-wide limits while any descent runs, in any Python thread.

    BLAS has one number of threads for the process, and torch gives its own to threads that start.
    So the first descent remembers both, and the last to end restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._blas: threadpool_limits | None = None
        self._torch_threads = 1

    def enter(self, torch_threads: int | None) -> None:
        """Give BLAS one thread and torch this many; None leaves torch's number unchanged."""
        with self._lock:
            if self._inside == 0:
                self._torch_threads = torch.get_num_threads()
                self._blas = threadpool_limits(limits=1, user_api="blas")
            self._inside += 1
            torch.set_num_threads(torch_threads or self._torch_threads)

    def leave(self) -> None:
        """Undo :meth:`enter`: torch's number in this thread, BLAS's with the last that leaves."""
        with self._lock:
            torch.set_num_threads(self._torch_threads)
            self._inside -= 1
            if self._inside == 0 and self._blas is not None:
                self._blas.restore_original_limits()
                self._blas = None


_limits = _ThreadLimits()


@contextmanager
def threads_for(elements: int) -> Iterator[None]:
    """Limit threads during a descent over so many array elements, if its steps are short.

    Its products are exact (no TF32).

    A short parallel product waits for a core whenever another process holds one, up to a hundred
    times one thread's time. numpy's and scipy's BLAS, which only see vectors as long as the head,
    get one thread; torch does if there are few elements. Both get back what they had when the
    last of the descents that run at a time has ended.
    """
    _limits.enter(1 if elements < _SHARED_ELEMENTS else None)
    try:
        with exact_products:
            yield
    finally:
        _limits.leave()


class _ExactProducts(ContextDecorator):
    """Disables TF32, whose 10 bits are too coarse for float32 distances and small head changes.

    The setting is process-wide: the first to enter saves it, the last to leave restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: Any = None

    def __enter__(self) -> None:
        matmul = torch.backends.cuda.matmul
        with self._lock:
            if self._inside == 0:
                self._before = getattr(matmul, _PRECISION)
                setattr(matmul, _PRECISION, "ieee" if _PRECISION == "fp32_precision" else False)
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                setattr(torch.backends.cuda.matmul, _PRECISION, self._before)


# torch 2.9 brought another setting; where that was used, reading the older one raises.
_PRECISION = (
    "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"
)
#: A context in which float32 products on a GPU are computed in float32.
exact_products = _ExactProducts()


def map_rows(
    function: Callable[[Tensor], Tensor],
    X: Array,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Apply a row-wise ``function`` to ``X`` chunk by chunk and concatenate the results."""
    with torch.no_grad(), exact_products:
        return torch.cat([function(chunk) for chunk in row_chunks(X, device, dtype)])


def like_input(values: Tensor, X: Features) -> Array:
    """Return ``values`` as the same kind of array as ``X``, on its device."""
    features = main_of(X)
    if isinstance(features, Tensor):
        return values.to(features.device)
    return values.cpu().numpy()


def as_numpy(values: Any) -> npt.NDArray[Any]:
    """Return array-likes and tensors of any device and float dtype as numpy; of views, main."""
    values = main_of(values)
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)

"""An accelerator that is not there: tensors that say ``cuda:0`` and compute on the CPU.

    with emulated_cuda() as seen:
        AdUEEstimator(device="cuda").fit(X, y, W, b)        # numpy in, "moved" to cuda:0
        SoftmaxResponseScorer().fit(to_cuda(X), y, W, b)    # a tensor on cuda:0 in
    print(seen.ops.total(), seen.waits.total(), seen.waits.most_common(5))

What works on one device only fails inside as on a CUDA build: operands on two devices (but for
0-dim CPU operands of element-wise operations, CPU indices, copies), ``.numpy()``, generators of
another device. Kernels are the CPU's, so results are the CPU's too. Not emulated: streams, pinned
memory, TF32, operations that CUDA lacks, threads (n_jobs=1). ``.cpu()`` cuts the autograd graph.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE, HOST = torch.device("cuda:0"), torch.device("cpu")
#: Operations that make the host wait for the device.
WAITING = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}


@dataclass
class Seen:
    """What the device did: kernels by name; waits and transfers by what and file:line."""

    package: str = "adue_sklearn"
    ops: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)  # elements of each transfer
    within: bool = False  # a function that has operands on the device

    def wait(self, what: str) -> None:
        frame: Any = sys._getframe(1)
        while frame.f_back and f"/{self.package}/" not in frame.f_code.co_filename:
            frame = frame.f_back
        name = frame.f_code.co_filename.rpartition(f"/{self.package}/")[2]
        self.waits[what, f"{name}:{frame.f_lineno}"] += 1

    def transfer(self, tensor: torch.Tensor) -> None:
        self.sizes.append(tensor.numel())
        self.wait("to host" if isinstance(tensor, CudaTensor) else "to device")


_seen = [Seen()]  # the first is for tensors that outlive `emulated_cuda`


class CudaTensor(torch.Tensor):
    """Says it is on ``cuda:0``; ``held`` holds the values.

    To torch's C++, whose autograd would ask the driver about any other device, it is on the CPU.
    """

    held: torch.Tensor
    # Results are wrapped where operations are dispatched, not once more.
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> CudaTensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, **layout)
        made.held = inner.detach()
        return made

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held  # type: ignore[attr-defined]

    def to(self, *args: Any, **kwargs: Any) -> Any:
        device, dtype = _parse_to(args, kwargs)
        if device is None or _is_cuda(device):
            copy = kwargs.get("copy", False)
            return torch.Tensor.to(self, dtype=dtype or self.dtype, copy=copy)
        _seen[-1].transfer(self)
        return self.held.to(dtype or self.dtype, copy=True)

    def cpu(self) -> torch.Tensor:
        return self.to(HOST)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else repr(self), spec)

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {DEVICE}"

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, dict(kwargs or {}), _seen[-1])


def to_cuda(values: Any) -> CudaTensor:
    """Return a copy of an array or tensor on the emulated device."""
    return CudaTensor(torch.as_tensor(values).detach().clone())


_Generator = torch.Generator


class _CudaGenerator(_Generator):  # type: ignore[misc]
    device = property(lambda self: DEVICE)


class _Generators(_Generator):  # type: ignore[misc]
    def __new__(cls, device: Any = "cpu") -> Any:
        return _CudaGenerator() if _is_cuda(device) else _Generator(device)


def _is_cuda(device: Any) -> bool:
    return device is not None and str(device).startswith("cuda")


def _parse_to(args: Any, kwargs: Any) -> tuple[Any, torch.dtype | None]:
    devices = [a for a in (*args, kwargs.get("device")) if isinstance(a, str | torch.device)]
    dtypes = [a for a in (*args, kwargs.get("dtype")) if isinstance(a, torch.dtype)]
    return devices[0] if devices else None, dtypes[0] if dtypes else None


def _flat(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    parts = values if isinstance(values, list | tuple) else []
    return [tensor for value in parts for tensor in _flat(value)]


def _map(values: Any, function: Any = lambda tensor: getattr(tensor, "held", tensor)) -> Any:
    if isinstance(values, list | tuple):
        return type(values)([_map(value, function) for value in values])
    return function(values) if isinstance(values, torch.Tensor) else values


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any], seen: Seen) -> Any:
    """Run one operation: on the CPU alone, or with checks on the emulated device."""
    name, given = func._schema.name.partition("::")[2], _flat(args) + _flat(list(kwargs.values()))
    # Operations that are made of others ask for room where their operands are.
    room = seen.within and not given and "device" in kwargs and name != "scalar_tensor"
    on_device = any(isinstance(a, CudaTensor) for a in given)
    if not (on_device or room or _is_cuda(kwargs.get("device"))):
        return func(*args, **kwargs)
    _check_devices(func, name, args, given)
    if "device" in kwargs:
        kwargs["device"] = HOST
    out = func(*map(_map, args), **{key: _map(value) for key, value in kwargs.items()})
    _count(func, name, args, seen)
    if func._schema.is_mutable:  # in place: what came in goes out
        return args[0] if isinstance(args[0], torch.Tensor) else kwargs.get("out", args)
    return _map(out, CudaTensor)


def _check_devices(func: Any, name: str, args: Any, given: list[torch.Tensor]) -> None:
    host = [a for a in given if not isinstance(a, CudaTensor)]
    if name in ("index", "_unsafe_index", "index_put", "index_put_") and host:
        if not isinstance(args[0], CudaTensor):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        host = [v for v in args[2:3] if not isinstance(v, CudaTensor)]  # of indices any
    if not host or name in ("copy_", "_to_copy"):
        return
    pointwise = torch.Tag.pointwise in func.tags
    numbers = all(a.ndim == 0 for a in host) and (
        pointwise or name.startswith(("index", "fill", "masked"))
    )
    # A number on the host is read, never written to with what is on the device.
    if not numbers or (pointwise and name.endswith("_") and not isinstance(args[0], CudaTensor)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({func})"
        )


def _count(func: Any, name: str, args: Any, seen: Seen) -> None:
    if name == "copy_" and isinstance(args[0], CudaTensor) != isinstance(args[1], CudaTensor):
        seen.transfer(args[1])
    if name in WAITING:
        seen.wait(name)
    for index in args[1] if name in ("index", "index_put_") else ():
        # One mask and a number is masked_fill, which waits for nothing.
        mask = index is not None and index.dtype == torch.bool
        if mask and not (name == "index_put_" and args[2].ndim == 0):
            seen.wait("boolean index")
        if index is not None and not isinstance(index, CudaTensor):
            seen.transfer(index)
    view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
    seen.ops[name] += not view and name not in ("_unsafe_view", "detach", "_local_scalar_dense")


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, dict(kwargs or {}), _seen[-1])


class _Functions(TorchFunctionMode):
    """What is settled before dispatch: arrays that become tensors, moves, generators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, first, seen = dict(kwargs or {}), args[0] if args else None, _seen[-1]
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            return _make(func, args, kwargs, seen)
        if func is torch.Tensor.to and not isinstance(first, CudaTensor):
            device, dtype = _parse_to(args[1:], kwargs)
            if _is_cuda(device):
                seen.transfer(first)
                return to_cuda(first.detach().to(dtype=dtype or first.dtype))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.from_numpy(i) if isinstance(i, np.ndarray) else i for i in index)
            args = (first, index if isinstance(args[1], tuple) else index[0], *args[2:])
        generator, where = kwargs.get("generator"), getattr(first, "device", kwargs.get("device"))
        if generator is not None and _is_cuda(generator.device) != _is_cuda(where):
            raise RuntimeError(f"Expected a '{where}' device type for generator")
        before = seen.within
        seen.within = before or any(isinstance(a, CudaTensor) for a in _flat(args))
        try:
            return func(*args, **kwargs)
        finally:
            seen.within = before


def _make(func: Any, args: Any, kwargs: dict[str, Any], seen: Seen) -> Any:
    """Run ``torch.tensor`` or one of its kin, on the device that it names."""
    device = kwargs.pop("device") if _is_cuda(kwargs.get("device")) else None
    if isinstance(args[0], CudaTensor) and func is not torch.tensor:
        return args[0].to(device or DEVICE, **kwargs)
    made = func(*args, **kwargs)
    if device is None:
        return made
    seen.transfer(made)
    return to_cuda(made)


@contextlib.contextmanager
def emulated_cuda(package: str = "adue_sklearn") -> Iterator[Seen]:
    """Make torch believe in one CUDA device; yield the counts of what is done on it."""
    cuda = {"is_available": True, "_lazy_init": None, "device_count": 1, "current_device": 0}
    future = torch.__future__
    with contextlib.ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=value))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generators))
        overwrite = future.get_overwrite_module_params_on_conversion()
        future.set_overwrite_module_params_on_conversion(True)  # for `module.to`
        stack.callback(future.set_overwrite_module_params_on_conversion, overwrite)
        _seen.append(Seen(package))
        stack.callback(_seen.pop)
        stack.enter_context(_Functions())
        stack.enter_context(_Operations())
        yield _seen[-1]

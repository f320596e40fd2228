"""A CUDA device made of CPU memory: tensors compute real numbers and refuse what tensors on a GPU refuse.

On a machine without a GPU nothing else notices a tensor that was made on the wrong device. A `SimulatedTensor` says
that it is on ``cuda:0``. Inside `simulated_cuda`, whatever torch makes there or moves there is such a tensor, and

- an operation on tensors of both devices is an error, but for CPU tensors without axes, as on a GPU;
- a random generator of one device draws no numbers on the other;
- ``numpy()`` and ``numpy.asarray`` refuse them;
- a collective operation of the (simulated) two processes refuses CPU tensors, as NCCL does;
- waiting for the device (``item``, ``tolist``, ``cpu``) works and is counted.

Numbers are those of the CPU, so that results on both devices can be compared. For torch's own machinery, such as
autograd, the tensors are on the device "meta".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, STAND_IN, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")

MOVES = ("aten::_to_copy", "aten::copy_")
"""Operations that may take tensors of both devices."""

INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
"""Operations whose integer indices may be on the CPU: torch moves them."""

JOINING = ("aten::cat", "aten::stack")
"""Operations that refuse CPU tensors without axes, too."""

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")
"""Operations for whose result the CPU waits."""

waits: list[str] = []
"""Names of the operations that waited for the device since `simulated_cuda` was entered."""


class DeviceMismatchError(RuntimeError):
    """The RuntimeError that torch raises on a GPU."""


class CudaGenerator(torch.Generator):
    """A generator that says that it is on the device that it was made for."""

    def __new__(cls, device: torch.device | str = "cpu") -> CudaGenerator:
        generator = super().__new__(cls)
        generator.place = CUDA if torch.device(device).type == "cuda" else CPU
        return generator

    @property
    def device(self) -> torch.device:
        return self.place


class SimulatedTensor(Tensor):
    """A tensor that says that it is on ``cuda:0``, with its numbers in `inner` on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> SimulatedTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=STAND_IN,
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __repr__(self, **_: Any) -> str:
        return f"SimulatedTensor({self.inner!r})"


def unwrap(value: Any) -> Any:
    """The numbers of a simulated tensor, and the CPU for the device."""
    if isinstance(value, SimulatedTensor):
        return value.inner
    return CPU if is_cuda(value) else value


def wrap(value: Any) -> Any:
    plain = isinstance(value, Tensor) and not isinstance(value, SimulatedTensor)
    return SimulatedTensor(value) if plain else value


def replace(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with its leaves changed; arguments of operations are no deeper than lists of lists."""
    if isinstance(value, Tensor) or not isinstance(value, list | tuple | dict):
        return change(value)
    if isinstance(value, dict):
        return {key: replace(item, change) for key, item in value.items()}
    items = [replace(item, change) for item in value]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments `values` of an operation."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def is_cuda(device: Any) -> bool:
    return isinstance(device, torch.device) and device.type in (CUDA.type, STAND_IN.type)


def check_devices(name: str, tensors: Sequence[Tensor]) -> None:
    """Raises where a GPU would refuse to compute with `tensors` on both devices."""
    if name in MOVES or len({isinstance(tensor, SimulatedTensor) for tensor in tensors}) < 2:
        return
    strays = [tensor for tensor in tensors if not isinstance(tensor, SimulatedTensor)]
    if name not in JOINING:
        strays = [tensor for tensor in strays if tensor.dim() > 0]
    if name in INDEXING and isinstance(tensors[0], SimulatedTensor):
        strays = [tensor for tensor in strays if tensor.dtype not in (torch.int64, torch.bool, torch.uint8)]
    if strays:
        places = [f"{tensor.device} {tuple(tensor.shape)}" for tensor in tensors]
        raise DeviceMismatchError(f"{name}: expected all tensors to be on the same device, got {', '.join(places)}")


def check_generator(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raises where a generator of one device would draw numbers on the other."""
    generator, device = kwargs.get("generator"), kwargs.get("device")
    if not isinstance(generator, torch.Generator):
        return
    on_cuda = isinstance(args[0], SimulatedTensor) if device is None else torch.device(device).type == "cuda"
    if (generator.device.type == "cuda") != on_cuda:
        wanted = "cuda" if on_cuda else "cpu"
        raise DeviceMismatchError(f"{func}: expected a {wanted!r} generator, got one on {generator.device.type!r}")


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`func` on the CPU's numbers; what it returns is on the device where a GPU would return it there."""
    name, tensors = func._schema.name, list(tensors_in((*args, *kwargs.values())))
    if any(tensor.device == STAND_IN for tensor in tensors):
        raise NotImplementedError(
            f"{name}: torch made a tensor behind the simulation's back; teach `_Arguments` about it"
        )
    check_devices(name, tensors)
    device = kwargs.get("device")
    on_cuda = any(isinstance(tensor, SimulatedTensor) for tensor in tensors) if device is None else is_cuda(device)
    if on_cuda and name in WAITING:
        waits.append(name)
    result = func(*(replace(arg, unwrap) for arg in args), **{key: replace(arg, unwrap) for key, arg in kwargs.items()})
    if "out" in kwargs:
        return kwargs["out"]
    if name.endswith("_") and not name.endswith("__") and isinstance(result, Tensor):
        return args[0]  # an operation in place returns the very tensor
    return replace(result, wrap) if on_cuda else result


class _Operations(TorchDispatchMode):
    """Has operations without a simulated tensor among their arguments made on the device that they name."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Arguments(TorchFunctionMode):
    """Puts the stand-in in the place of the device "cuda", for which torch would look for a driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        check_generator(func, args, kwargs)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = self._translate(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (
                args[0],
                torch.tensor(args[1]),
                *args[2:],
            )  # torch moves such an index where simulation cannot follow
        if func is not torch.device:
            args = tuple(replace(arg, self._translate) for arg in args)
            kwargs = {key: replace(arg, self._translate) for key, arg in kwargs.items()}
        return func(*args, **kwargs)

    def _translate(self, value: Any) -> Any:
        named = isinstance(value, str) and value.split(":")[0] == "cuda"
        return STAND_IN if named or is_cuda(value) else value


def _all_reduce(tensor: Tensor, *_: Any, **__: Any) -> None:
    """Adds up what two processes have, where both have the same."""
    if not isinstance(tensor, SimulatedTensor):
        raise RuntimeError(f"No backend type associated with device type cpu: {tuple(tensor.shape)} is not on CUDA")
    tensor.mul_(2)


@contextmanager
def two_processes() -> Iterator[None]:
    """A process group of two like NCCL's: both have the same tensors, and CPU tensors are refused."""
    replaced = {"is_initialized": lambda: True, "get_world_size": lambda *_: 2, "all_reduce": _all_reduce}
    with ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(mock.patch.object(dist, name, function))
        yield


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """Inside, torch has a CUDA device."""
    cuda: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_: True,
        "get_device_name": lambda *_: "a simulated device",
        "synchronize": lambda *_: waits.append("synchronize"),
        "mem_get_info": lambda *_: (2**33, 2**34),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
    }
    waits.clear()
    with ExitStack() as stack:
        for name, function in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(torch, "Generator", CudaGenerator))
        stack.enter_context(_Operations())
        stack.enter_context(_Arguments())
        yield

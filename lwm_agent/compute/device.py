"""Choosing where to compute: the only place that knows devices by name."""

from __future__ import annotations

import copy
import ctypes
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import UserError
from .memory import free_host_memory

Network = TypeVar("Network", bound=nn.Module)

DEVICES = ("auto", "cpu", "cuda", "mps")

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process sees."""

ENOUGH_ROLLOUTS = {"cpu": 2048, "mps": 2048, "cuda": 32768}
"""Imagined at once, they keep a device busy: more would take memory, and no less time (a guess for GPUs)."""


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU, and "cuda:1" the second GPU.

    Raises:
        UserError: the name is unknown, or this machine has no such device.
    """
    kind, colon, index = name.partition(":")
    if kind not in DEVICES or (colon and (kind != "cuda" or not index.isdecimal())):
        raise UserError(f"device={name!r} is unknown: choose one of {', '.join(DEVICES)}, or a GPU by number: cuda:0")
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        return torch.device(next(device for device, count in counts.items() if count))
    if int(index or 0) >= counts[kind]:
        present = [device for device, count in counts.items() if count]
        numbered = [f"cuda:{number}" for number in range(counts["cuda"])] if counts["cuda"] > 1 else []
        choices = ", ".join(["auto", *present, *numbered])
        raise UserError(f"device={name!r} is not available on this machine: choose one of {choices}")
    return torch.device(name)


def any_gpu(name: str) -> bool:
    """True if the device called `name` is a GPU with CUDA, whichever: "cuda", or "auto" where there is one."""
    device = resolve_device(name)
    return device.type == "cuda" and device.index is None


def count_devices(name: str) -> int:
    """Number of devices that `name` may stand for: all GPUs, or one."""
    return torch.cuda.device_count() if any_gpu(name) else 1


@contextmanager
def one_gpu(number: int) -> Iterator[None]:
    """Processes started inside see a single GPU: that of this `number`, counted round all that this process sees."""
    before = os.environ.get(VISIBLE_GPUS)
    seen = before.split(",") if before else list(map(str, range(torch.cuda.device_count())))
    os.environ[VISIBLE_GPUS] = seen[number % len(seen)]
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE_GPUS]
        else:
            os.environ[VISIBLE_GPUS] = before


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of handing it back to the system at once.

    Page faults on buffers that are freed and asked for again dominate small training steps on a CPU: keeping them is
    worth a factor of 3. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
    mallopt(mmap_threshold, 2**30)


def synchronize(device: torch.device) -> None:
    """Waits until `device` has done all that it was asked to: until then, a clock measures the asking only."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> float | None:
    """Most MiB so far: allocated on CUDA, resident in this process on a CPU; None where there is no telling."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS tells bytes, Linux KiB


def free_memory(device: torch.device) -> int:
    """Bytes that `device` has left for tensors; on a CPU, also within what a container may take (cgroup v2)."""
    if device.type == "cuda":
        kept_for_tensors = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept_for_tensors)
    return free_host_memory()  # of MPS too: its memory is the CPU's


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 on `device`, if `bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@contextmanager
def unaffected(device: torch.device) -> Iterator[None]:
    """Computes the same whatever the caller has switched on: inference mode, gradients, autocast.

    Tensors that are made inside can take part in gradients later.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def arrange_weights(network: Network, device: torch.device, bf16: bool) -> Network:
    """Copy of `network` on `device`, with the weights of its linear maps as inference reads them fastest.

    In bfloat16, for use under `autocast`: it casts frozen weights anew in every call, which takes a tenth of the time
    where batches are small. In float32 on a CPU, column by column: products of 64 rows then take a sixth less time on
    one core, those of 17 rows a fourth less. Results are the same but for rounding.
    """
    network = copy.deepcopy(network).to(device)
    for part in network.modules():
        if isinstance(part, nn.Linear) and bf16:
            part.to(torch.bfloat16)
        elif isinstance(part, nn.Linear) and device.type == "cpu":
            part.weight.data = part.weight.data.t().contiguous().t()
    return network


def can_compile(device: torch.device) -> bool:
    """True if torch.compile has what it needs on `device`: on a CPU, a C++ compiler and Python's headers."""
    if device.type != "cpu":
        return True
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return any(map(which, ("c++", "g++", "clang++"))) and headers.exists()


def compile_methods(device: torch.device, *methods: tuple[nn.Module, str]) -> None:
    """Has torch.compile translate `methods`, each of a network, once for each kind of shape that they are called with.

    On CUDA they are recorded as CUDA graphs, so that a call takes a few launches instead of hundreds.

    Raises:
        ValueError: this machine lacks what torch.compile needs.
    """
    if not can_compile(device):
        raise UserError("compile=True needs a C++ compiler and Python's headers (Debian: apt install g++ python3-dev)")
    import torch._dynamo  # slow

    # For the whole process: horizons that shrink towards a deadline, and histories that fill up, are more than 8.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for network, name in methods:
        method = getattr(network, name)
        if device.type == "cuda":
            setattr(network, name, _copying(torch.compile(method, mode="reduce-overhead")))
        else:
            setattr(network, name, torch.compile(method))


def _copying(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, with a copy of what it returns: that of a CUDA graph is overwritten by its next run."""
    return lambda *args: tree_map_only(Tensor, Tensor.clone, method(*args))


def fast_bf16(device: torch.device) -> bool:
    """True if matrix products in bfloat16 are faster than in float32: on CUDA, and on CPUs made for it.

    Those are Intel's with AMX and AMD's with AVX-512 BF16. Intel's have the latter too, but issue it half as often as
    float32 products, which does as much without casts.
    """
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _has_fast_bf16(_cpu_info())
    return device.type == "cuda"


def _has_fast_bf16(cpu_info: str) -> bool:
    """True if the CPU that ``/proc/cpuinfo`` describes gains from bfloat16."""
    return "amx_bf16" in cpu_info or ("AuthenticAMD" in cpu_info and "avx512_bf16" in cpu_info)


@cache
def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""

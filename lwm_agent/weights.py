"""Weight files: parameters in half precision, buffers as they are, in safetensors; checked before they are used."""

from __future__ import annotations

import hashlib
import math
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .errors import FileError, UserError
from .files import advice, check_regular_file

Module = TypeVar("Module", bound=nn.Module)

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "BOOL": torch.bool}
"""Number types by their name in safetensors, of those that a buffer may have."""

PARAMETER_DTYPES = ("F16", "F32")

MOST_EXTERNAL_TENSORS, MOST_EXTERNAL_NUMBERS = 10_000, 2 * 10**9
"""Largest frozen encoder that a model may bring from elsewhere."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or made for something else; the message says which, and what to do."""


class Entry(NamedTuple):
    """Number type and shape of a tensor, as the header of a file announces them."""

    dtype: str
    shape: tuple[int, ...]


def packed(module: nn.Module, exact: bool = False) -> dict[str, Tensor]:
    """Tensors of `module` as files hold them: parameters in half precision, unless `exact`, and buffers as they are.

    Raises:
        CheckpointError: a weight is not finite, or exceeds half precision.
    """
    parameters = dict(module.named_parameters())
    weights = {
        name: (tensor.half() if name in parameters and not exact else tensor).detach().cpu().contiguous()
        for name, tensor in stored_weights(module).items()
    }
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{name} has weights beyond 65504, or no numbers: lower learning_rate")
    return weights


def save_weights(module: nn.Module, path: Path, exact: bool = False, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the weights of `module`: parameters in half precision (relative error below 0.05 % where above 6e-5).

    With `exact`, they stay as they are. `metadata` goes into the header.

    Raises:
        CheckpointError: a weight is not finite, or exceeds half precision.
        FileError: the disk is full, or the file cannot be written.
    """
    weights = packed(module, exact)
    try:
        save_file(weights, path, metadata=None if metadata is None else dict(metadata))
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path} cannot be written: {advice(error)}") from error


def stored_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state of `module` without the parts whose weights come from elsewhere.

    A class says which in ``external_parts``; see `WorldModel`.
    """
    parts = tuple(f"{part}." for part in external_parts(module))
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(parts)}


def external_parts(module: nn.Module) -> Sequence[str]:
    """Names of the parts of `module` that files leave out."""
    parts: Sequence[str] = getattr(type(module), "external_parts", ())
    return parts


def external_digests(module: nn.Module) -> dict[str, str]:
    """SHA-256 of the weights of each of the `external_parts`, in full precision."""
    state = module.state_dict()
    return {
        part: digest_of({name: tensor for name, tensor in state.items() if name.startswith(f"{part}.")})
        for part in external_parts(module)
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_regular(path: Path) -> Path:
    """`path`, if it is a regular file that may be read.

    Raises:
        CheckpointError: it is not; the message says why.
    """
    try:
        check_regular_file(path)
        path.open("rb").close()
    except OSError as error:
        fix = advice(error)
        if isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError):
            fix = "it does not exist: copy or train the checkpoint again"
        raise CheckpointError(f"{path} cannot be read ({fix})") from error
    return path


def build(make: Callable[[], Module], path: Path, what: str, external: bool = False) -> Module:
    """The module that `make` makes, if the weights in the file `path` fit it: the file holds its tensors and no others.

    It is made without memory first ("meta" device), and no larger than the file: what a damaged configuration asks for
    is never allocated. With `external` parts, whose weights the file does not hold, it may be larger by those.

    Raises:
        CheckpointError: the module cannot be made, or the file does not fit; `what` describes the module.
    """
    header = read_header(path)
    with _default_modes():
        blank = _build_blank(make, header, path, what, external)
        _check_header(blank, header, path)
        return make()


def _build_blank(
    make: Callable[[], Module], header: Mapping[str, Entry], path: Path, what: str, external: bool
) -> Module:
    """The module that `make` makes, on the "meta" device: without memory."""
    try:
        with torch.device("meta"), _no_larger_than(header, external):
            return make()
    except _TooLargeError as error:
        raise CheckpointError(f"{path} does not fit {what}: {error}") from error
    except Exception as error:  # a constructor may refuse its arguments in any way
        raise CheckpointError(f"{what} cannot be built: {error}") from error


@contextmanager
def _default_modes() -> Iterator[None]:
    """Makes modules inside the block independent of the caller's modes, and the caller's random numbers of them."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(dtype)


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads the file `path` into `module`, which `build` has compared with it.

    Raises:
        CheckpointError: the file is damaged, or holds NaN or infinity.
    """
    with reading(path), safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} has NaN or infinity: copy or train the checkpoint again")
    module.load_state_dict({**module.state_dict(), **rename(module, weights)})


Value = TypeVar("Value")


def rename(module: nn.Module, entries: Mapping[str, Value]) -> dict[str, Value]:
    """`entries` by the names that today's `module` has for them.

    A class of modules that has renamed a part of itself says so in ``renamed_weights: ClassVar[dict[str, str]]``, old
    prefix to new, relative to itself: ``{"inward": "input_proj"}``.
    """
    names = {name: name for name in entries}
    expected = module.state_dict().keys()
    for path, part in module.named_modules():  # outer parts first: inner ones are found under their new names
        renamed: Mapping[str, str] = getattr(type(part), "renamed_weights", {})
        prefix = f"{path}." if path else ""
        for old, new in renamed.items():
            start = f"{prefix}{old.rstrip('.')}"
            for name, current in names.items():
                if current not in expected and (current == start or current.startswith(f"{start}.")):
                    names[name] = f"{prefix}{new.rstrip('.')}{current[len(start) :]}"
    return {names[name]: value for name, value in entries.items()}


def read_header(path: Path) -> dict[str, Entry]:
    """Tensors that a weight file announces, without reading them."""
    open_regular(path)
    header = {}
    with reading(path), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            header[name] = Entry(part.get_dtype(), tuple(part.get_shape()))
    return header


def _check_header(module: nn.Module, header: Mapping[str, Entry], path: Path) -> None:
    """Compares names, shapes and number types with those of `module`."""
    parameters, expected = dict(module.named_parameters()), stored_weights(module)
    entries = rename(module, header)
    problems = [f"{name} is missing" for name in expected.keys() - entries.keys()]
    problems += [f"{name} is unexpected" for name in entries.keys() - expected.keys()]
    for name in expected.keys() & entries.keys():
        dtype, shape = entries[name]
        if shape != tuple(expected[name].shape):
            problems.append(f"{name} is {shape}, expected {tuple(expected[name].shape)}")
        elif name in parameters and dtype not in PARAMETER_DTYPES:
            problems.append(f"{name} has numbers of type {dtype}, expected {' or '.join(PARAMETER_DTYPES)}")
        elif name not in parameters and DTYPES.get(dtype) != expected[name].dtype:
            problems.append(f"{name} has numbers of type {dtype}, expected {expected[name].dtype}")
    if problems:
        raise CheckpointError(f"{path} does not fit what config.json describes: {'; '.join(sorted(problems)[:5])}")


class _TooLargeError(Exception):
    """A module has more parameters than the file that it is to be loaded from."""


@contextmanager
def _no_larger_than(header: Mapping[str, Entry], external: bool) -> Iterator[None]:
    """Stops the making of modules inside the block that exceed the tensors of `header`, in number or in size.

    Twice as much may be made, since a constructor may throw a part away.
    """
    most_tensors = 2 * len(header) + 8 + MOST_EXTERNAL_TENSORS * external
    most_numbers = 2 * sum(math.prod(entry.shape) for entry in header.values()) + MOST_EXTERNAL_NUMBERS * external
    tensors = numbers = 0
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if parameter is None or threading.get_ident() != thread:
            return
        tensors, numbers = tensors + 1, numbers + parameter.numel()
        if tensors > most_tensors or numbers > most_numbers:
            shape = tuple(parameter.shape)
            raise _TooLargeError(f"the file has {len(header)} tensors, expected more or larger ones, such as {shape}")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of reading a weight file into a `CheckpointError` that names it."""
    try:
        yield
    except (OSError, SafetensorError, struct.error, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({advice(error)}): copy or train the checkpoint again") from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors on the CPU: names, number types, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

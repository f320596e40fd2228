"""No tensor is made on the CPU by accident: whoever makes one says where, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("lwm_agent/models", "lwm_agent/agent", "lwm_agent/training", "planners")

MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "frombuffer", "from_numpy", "full", "hann_window", "linspace"),
    *("logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices"),
    *("triu_indices", "zeros", "Tensor", "FloatTensor", "LongTensor", "BoolTensor", "IntTensor", "Generator"),
}
"""Functions of torch whose result is on the CPU unless they are told otherwise."""

ALLOWED = {
    # Statement, as `ast.unparse` writes it: why it is right.
    "torch.Generator()": "training draws on the CPU what processes on several devices must share",
    "torch.randint(1, most + 1, (), generator=generator)": "a number for the CPU",
    "torch.from_numpy(state[:, list(where)])": "probes are solved on the CPU, in float64",
    "torch.eye(fit, dtype=kernel.dtype)": "probes are solved on the CPU, in float64",
    "torch.from_numpy(rows)": "rows of latents that stay in the memory of the CPU",
    "torch.from_numpy(chunks.at(start))": "latents that are gathered in the memory of the CPU",
    "torch.from_numpy(order)": "probes are solved on the CPU, in float64",
    "torch.arange(rows)": "probes are solved on the CPU, in float64",
    "torch.from_numpy(np.load(self.path, mmap_mode='c'))": "latents stay on disk, and rows of them are moved",
    "torch.randint(2 ** 31, ())": "an agent's own seed follows from torch's global generator, which is on the CPU",
}


def is_maker(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}


def names_a_place(call: ast.Call) -> bool:
    """True if a call of a maker has a device, as a keyword or, of a generator, as its argument."""
    return any(keyword.arg == "device" for keyword in call.keywords) or (
        ast.unparse(call.func) == "torch.Generator" and bool(call.args)
    )


def is_moved(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """True if the expression that `node` begins, a chain of attributes and calls, calls ``to`` with a device."""
    while isinstance(parents.get(node), ast.Attribute | ast.Call):
        parent = parents[node]
        if isinstance(parent, ast.Call) and parent.func is not node:
            return False  # an argument of another call
        if isinstance(node, ast.Attribute) and node.attr == "to" and isinstance(parent, ast.Call):
            return any("device" in ast.unparse(argument) for argument in (*parent.args, *parent.keywords))
        node = parent
    return False


def is_part_of_a_module(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """True if a tensor becomes a parameter or a buffer, which move with their module."""
    while not isinstance(node, ast.stmt):
        node = parents[node]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("nn.Parameter", "self.register_buffer"):
            return True
    return False


def strays(source: str) -> Iterator[str]:
    """Makers of tensors in `source` that do not say where."""
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if is_maker(node) and isinstance(node, ast.Call):
            placed = names_a_place(node) or is_moved(node, parents) or is_part_of_a_module(node, parents)
            if not placed and ast.unparse(node) not in ALLOWED:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def sources() -> dict[str, Path]:
    return {str(path.relative_to(ROOT)): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


@pytest.mark.parametrize("name", sources())
def test_every_tensor_is_made_on_a_named_device(name: str) -> None:
    found = list(strays(sources()[name].read_text("utf-8")))
    assert found == [], f"{name}: pass device=..., call .to(device), or add it to ALLOWED with a reason"


@pytest.mark.parametrize(
    "source",
    [
        "torch.zeros(3)",
        "x + torch.arange(5)",
        "torch.tensor([1.0]).float()",
        "torch.from_numpy(pixels).to(torch.float32)",
        "move(torch.randn(3), device)",
        "torch.randn(3, generator=torch.Generator(device))",
        "self.scale = torch.ones(3)",
    ],
)
def test_tensor_without_a_device_is_found(source: str) -> None:
    assert len(list(strays(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.zeros(3, device=x.device)",
        "torch.from_numpy(pixels).to(device)",
        "torch.randn(3).flatten().to(x.device).float()",
        "nn.Parameter(0.02 * torch.randn(3))",
        "self.register_buffer('scale', torch.ones(3))",
        "torch.zeros_like(x) + x.new_zeros(3)",
        "torch.Generator(device)",
    ],
)
def test_tensor_with_a_device_is_accepted(source: str) -> None:
    assert list(strays(source)) == []


def test_exceptions_are_still_needed() -> None:
    calls = {
        ast.unparse(node)
        for path in sources().values()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if is_maker(node)
    }
    assert ALLOWED.keys() <= calls

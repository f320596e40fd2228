"""What the README says is what there is."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from typer.main import get_command

from lwm_agent import Agent, Budget, make_planner
from lwm_agent.checkpoint import checksum
from lwm_agent.cli.main import app
from lwm_agent.cli.settings import parse_settings
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.eval import compact_table, markdown_table
from lwm_agent.models import MODELS

from .import_graph import LAYERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = [
    ("README.md", "results", ["*.json", "plain/*.json", "paper/*.json"]),
    ("docs/planners.md", "ablation", ["ablation/*.json"]),
    ("docs/planners.md", "equal", ["equal/*.json"]),
    ("docs/planners.md", "ladder", ["ladder/*.json"]),
    ("docs/planners.md", "offsets", ["offsets/*.json"]),
    ("docs/planners.md", "realtime", ["realtime/*.json"]),
    ("README.md", "every-step", ["every-step/*.json"]),
]  # the document, what its table is called there, and its files in results/
COMMANDS = re.findall(r"^lwm-agent (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


@pytest.mark.parametrize(("document", "mark", "patterns"), TABLES)
def test_tables_are_those_of_the_results_files(document: str, mark: str, patterns: list[str]) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    table = text.split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- /{mark} -->")[0]
    paths = [(ROOT / document).parent / name for name in re.findall(r"\]\((\S*?\.json)\)", table)]
    files = [path for pattern in patterns for path in (ROOT / "results").glob(pattern)]
    assert sorted(path.resolve() for path in paths) == sorted(path.resolve() for path in files)
    make = compact_table if mark == "offsets" else markdown_table
    assert table == make(paths, (ROOT / document).parent)


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.json")), ids=lambda path: path.stem)
def test_results_are_those_of_the_shipped_checkpoint(path: Path) -> None:
    env, *_ = path.stem.split("-")
    assert f'"checkpoint": "{checksum(f"{env}-tiny")}"' in path.read_text(encoding="utf-8") or "replay" in path.name


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.json")), ids=lambda path: path.stem)
def test_results_are_of_settings_that_there_are(path: Path) -> None:
    words = shlex.split(json.loads(path.read_text(encoding="utf-8"))["run"]["command"])
    given = [value for option, value in pairwise(words) if option == "--set"]
    settings = parse_settings(given, ("planner", "agent", "env"))["agent"]
    assert settings.keys() <= get_type_hints(Agent.__init__).keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_exist_with_their_options(command: str) -> None:
    name, *words = shlex.split(command)
    options = {option for parameter in get_command(app).commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= options


def examples(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)


def run(example: str, scope: dict[str, Any], changes: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs an example with some of its text changed, so that it takes less time."""
    for old, new in (changes or {}).items():
        assert old in example, f"the example has no {old!r}"
        example = example.replace(old, new)
    exec(example, scope)
    return scope


class CountedAgent:
    """An agent that counts the episodes that begin, and checks that each row pursues the goal of its picture."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self.begun = agent, 0

    def predict(self, observation: Any, state: Any, episode_start: Any = None) -> tuple[Any, Any]:
        action, state = self._agent.predict(observation, state, episode_start)
        assert np.array_equal(state.goal_pixels, observation["goal"])
        self.begun += int((state.ages == 1).sum())
        return action, state


def test_rooms_of_the_readme_are_those_of_the_import_graph() -> None:
    tree = README.split("an arrow upwards; tests hold both.")[1].split("```")[1]
    levels = re.split(r"^\d  ", tree, flags=re.MULTILINE)[1:]
    assert len(levels) == len(LAYERS)
    for text, rooms in zip(levels, LAYERS, strict=True):
        for room in set(rooms) - {"lwm_agent", "__main__"}:
            assert re.search(rf"\b{room}(/|\.py)", text), room


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_files_that_documents_name_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    names = re.findall(r"`([\w./-]+\.(?:py|md))`", text)
    links = [link for link in re.findall(r"\]\((?!http)([^)#]+)", text) if "/" in link or "." in link]
    missing = [name for name in names if not any((folder / name).exists() for folder in (ROOT, ROOT / "lwm_agent"))]
    assert missing == []
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "docs/world-models.md", "CHANGELOG.md"])
def test_options_that_documents_name_exist(document: str) -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {option for command in commands for parameter in command.params for option in parameter.opts}
    options |= {option for parameter in get_command(app).params for option in parameter.opts}
    named = re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b(?!-)", (ROOT / document).read_text(encoding="utf-8"))
    assert set(named) - options - {"--help", "--logdir", "--install-completion"} == set()


LOOP, SB3, AUTORESET, PLANNER, WRITER = range(5)
"""Python examples of the README."""


def test_readme_has_no_other_python_examples() -> None:
    assert len(examples("README.md")) == 5
    assert "from lwm_agent." not in README
    assert "import lwm_agent." not in README


def test_loops_of_the_readme_run() -> None:
    scope: dict[str, Any] = {}
    loop, sb3, autoreset = examples("README.md")[LOOP : AUTORESET + 1]
    run(
        loop,
        scope,
        {"deadline_env_steps=100": "deadline_env_steps=10", "max_episode_steps=100": "max_episode_steps=10"},
    )
    assert scope["over"]
    run(
        sb3,
        scope,
        {"n_envs=4": "n_envs=2", '"max_episode_steps": 50': '"max_episode_steps": 5', "episodes=8": "episodes=3"},
    )
    scope["agent"] = CountedAgent(scope["agent"])
    run(autoreset, scope, {"range(200)": "range(23)", "max_episode_steps=100": "max_episode_steps=10"})
    assert scope["agent"].begun == 3 * 3 * 4  # three loops, three episodes in each of four environments


def test_planner_example_of_the_readme_runs() -> None:
    scope = run(examples("README.md")[PLANNER], {})
    assert scope["agent"].planner == make_planner("cem", num_samples=64, proposals="all")
    assert scope["agent"].replanner.budget == Budget(rollouts=300)


def test_writer_example_of_the_readme_runs(tmp_path: Path) -> None:
    episodes = [(np.full((n, 64, 64, 3), n, np.uint8), np.full((n - 1, 2), n, np.float32)) for n in (3, 5)]
    path = tmp_path / "mine.h5"
    run(examples("README.md")[WRITER], {"my_episodes": episodes}, {"mine.h5": path.as_posix()})
    assert Trajectories.open(path).lengths.tolist() == [3, 5]


def test_example_of_a_planner_plans() -> None:
    (example,) = examples("docs/planners.md")
    agent = run(example, {})["agent"]
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for name in ("pixels", "goal")}
    _, state = agent.predict(observation)
    for decision in state.decisions:
        assert len(decision.trace) == 5
        assert decision.trace[-1] < decision.trace[0]


def test_example_of_a_world_model_trains_and_plans(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, training = examples("docs/world-models.md")
    monkeypatch.setitem(MODELS, "markov", MODELS["lewm"])  # restored afterwards; the example puts its own there
    scope = run(model, {})
    assert MODELS["markov"].model is scope["MarkovModel"]
    changes = {"data/pusht.h5": data, "runs/": f"{tmp_path.as_posix()}/", "out=": "steps=3, device='cpu', out="}
    agent = run(training, scope, changes)["agent"]
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (3, 32, 32, 3), np.uint8) for name in ("pixels", "goal")}
    for planner in ("cem", "grasp", "cem+gradient"):
        action, _ = Agent(agent.checkpoint, planner, device="cpu").predict(observation)
        assert action.shape == (3, 2)

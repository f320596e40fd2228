"""What the README says is what there is."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.main import get_command

from lwm_agent import Agent
from lwm_agent.checkpoint import checksum
from lwm_agent.cli.main import app
from lwm_agent.cli.settings import parse_settings
from lwm_agent.eval import compact_table, markdown_table

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
    assert f'"checkpoint": "{checksum(f"{env}-tiny")}"' in path.read_text() or "replay" in path.name


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


def test_the_first_python_example_runs(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    fast = example.replace("deadline_env_steps=100", "deadline_env_steps=10").replace(
        "max_episode_steps=100", "max_episode_steps=10"
    )
    assert fast != example
    scope: dict[str, object] = {}
    exec(fast, scope)
    assert scope["over"]

"""What an installed lwm-agent offers: its version, command, packages, environments and files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

import pytest

import lwm_agent

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version_is_the_installed_one() -> None:
    assert lwm_agent.__version__ == version("lwm-agent")


def test_command_is_installed() -> None:
    (script,) = distribution("lwm-agent").entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("lwm-agent", "lwm_agent.cli.main:main")
    assert "eval" in run(Path(sys.executable).with_name("lwm-agent"), "--help")


@pytest.mark.parametrize("name", ["agent", "envs", "eval", "models", "planners", "protocols"])
def test_package_is_inside_lwm_agent(name: str) -> None:
    assert find_spec(f"lwm_agent.{name}") is not None


@pytest.mark.parametrize(
    "make", ['gymnasium.make("lwm_agent:lwm/PushT-v0")', 'import lwm_agent; gymnasium.make("lwm/PushT-v0")']
)
def test_gymnasium_makes_the_environment(make: str, tmp_path: Path) -> None:
    run(sys.executable, "-c", f"import gymnasium; {make}", cwd=tmp_path)


def test_wheel_holds_code_checkpoints_and_tasks(tmp_path: Path) -> None:
    tree, wheels = tmp_path / "tree", tmp_path / "wheels"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("lwm_agent", "envs", "planners", "eval"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, wheels, cwd=tree)

    (wheel,) = wheels.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in held} == {"lwm_agent", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    missing = []
    for folder, target in {"lwm_agent": "", "envs": "envs/", "planners": "planners/", "eval": "eval/"}.items():
        files = (path.relative_to(tree / folder).as_posix() for path in (tree / folder).rglob("*") if path.is_file())
        missing += [f"{folder}/{file}" for file in files if f"lwm_agent/{target}{file}" not in held]
    assert missing == []  # every file, so that a new kind of data file needs its line in pyproject.toml
    assert {
        "lwm_agent/py.typed",
        "lwm_agent/zoo/pusht-tiny/model.safetensors",
        "lwm_agent/zoo/cube-tiny/model.safetensors",
    } <= held

"""Public names of the package: imported at their first use, so that importing the package leaves torch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lwm_agent
from lwm_agent.imports import pip_install


def run(code: str, folder: Path) -> str:
    child = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


def test_public_names_are_imported_at_their_first_use(tmp_path: Path) -> None:
    code = """
import sys, lwm_agent
names = sorted(set(lwm_agent.__all__) - {"__version__"})
assert set(names) <= set(dir(lwm_agent)) and "torch" not in sys.modules
for name in names:
    assert name not in vars(lwm_agent) or name == "register_env"
    assert getattr(lwm_agent, name).__name__ == name
    assert name in vars(lwm_agent)
print("torch" in sys.modules)
"""
    assert run(code, tmp_path) == "True"


def test_star_import_offers_the_public_names(tmp_path: Path) -> None:
    code = "from lwm_agent import *; import lwm_agent; print(all(name in globals() for name in lwm_agent.__all__))"
    assert run(code, tmp_path) == "True"


def test_public_names_are_listed() -> None:
    expected = {"Agent", "Budget", "Checkpoint", "LatentObservation", "TrajectoryWriter", "__version__"}
    expected |= {"GoalImageEnv", "Quantity", "RecordImagination", "make_planner", "register_env", "shipped_tasks"}
    assert set(lwm_agent.__all__) == expected
    assert expected <= set(dir(lwm_agent))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'lwm_agent' has no attribute 'Agents'"):
        lwm_agent.Agents  # noqa: B018


def test_commands_that_install_extras_name_their_packages() -> None:
    assert pip_install("plot") == "pip install 'matplotlib>=3.8'"
    assert pip_install("nothing") == "pip install 'lwm-agent[nothing]'"

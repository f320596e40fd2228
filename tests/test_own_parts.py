"""Planners and world models of a user's own module, in commands: the files of examples/."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lwm_agent import Agent, make_planner
from lwm_agent.checkpoint import Checkpoint, CheckpointError
from lwm_agent.errors import UserError
from lwm_agent.imports import VARIABLE, import_requested
from lwm_agent.models import MODELS, find_model
from lwm_agent.planners.registry import find_planner
from lwm_agent.training.config import TrainConfig
from lwm_agent.training.train import train

from .commands import run, run_apart

SEARCH = "shrinking_search:ShrinkingSearch"


@pytest.fixture
def markov(examples: Path, data: str, tmp_path: Path) -> Path:
    """A checkpoint of the example's world model."""
    config = TrainConfig.from_options(
        model="markov_model:markov", data=(data,), out=str(tmp_path / "run"), steps=3, device="cpu"
    )
    assert config.model == "markov"
    assert config.learning_rate == 1e-3  # its recipe's
    train(config)
    return tmp_path / "run" / "checkpoint"


def test_a_planner_of_ones_own_plans(examples: Path) -> None:
    agent = Agent.load("pusht-tiny", make_planner(SEARCH, num_samples=20), device="cpu")
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for name in ("pixels", "goal")}
    _, state = agent.predict(observation)
    for decision in state.decisions:
        assert len(decision.trace) == 5
        assert decision.trace[-1] < decision.trace[0]


def test_commands_take_a_planner_of_the_working_directory(examples: Path, tmp_path: Path) -> None:
    shutil.copy(examples / "shrinking_search.py", tmp_path)
    settings = "--set planner.num_samples=8 --set planner.iterations=2 --device cpu --no-floors"
    run_apart(f"eval --planner {SEARCH} --episodes 1 --output-dir own {settings}", tmp_path)
    planner = json.loads((tmp_path / "own" / "results.json").read_text())["run"]["planner"]
    assert (planner["name"], planner["num_samples"]) == (SEARCH, 8)
    chain = "--set planner.first.num_samples=8 --set planner.second.iterations=1 --device cpu --no-floors"
    run(f"eval --planner {SEARCH}+gradient --episodes 1 --output-dir chain {chain}", tmp_path)
    printed = run("eval --planner shrinking_search:Nothing", tmp_path, code=2)
    assert "is no class derived from lwm_agent.protocols.Planner" in printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Search", "planner='no_such_module:Search': there is no module 'no_such_module'"),
        ("json:JSONDecoder", "is no class derived from"),
        ("search", r"planner='search' is unknown: choose one of actor, .* or MODULE:CLASS"),
    ],
)
def test_planners_that_there_are_not_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_planner(name)


def test_a_world_model_of_ones_own_trains_and_plans(markov: Path) -> None:
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (3, 32, 32, 3), np.uint8) for name in ("pixels", "goal")}
    checkpoint = Checkpoint.load(markov)
    for planner in ("cem", "grasp", "cem+gradient"):
        action, _ = Agent(checkpoint, planner, device="cpu").predict(observation)
        assert action.shape == (3, 2)


def test_a_file_imports_no_module(markov: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS.pop("markov")
    with pytest.raises(CheckpointError, match=r"model='markov' is unknown: .* `lwm-agent --import MODULE"):
        Checkpoint.load(markov)
    sys.modules.pop("markov_model")
    monkeypatch.setenv(VARIABLE, "json,markov_model")
    assert Checkpoint.load(markov).name == "markov"
    assert find_model("markov") is MODELS["markov"]


def test_commands_import_what_is_asked_for(markov: Path, examples: Path, tmp_path: Path) -> None:
    shutil.copy(examples / "markov_model.py", tmp_path)
    bench = f"bench --checkpoint {markov} --planner cem --max-batch 1 --decisions 3 --no-plot --device cpu"
    printed = run_apart(bench, tmp_path, code=2)  # here, the fixture has imported it
    assert "model='markov' is unknown" in printed
    run_apart(f"--import markov_model {bench}", tmp_path)
    printed = run("--import nowhere doctor", tmp_path, code=2)
    assert "there is no module 'nowhere'" in printed


def test_processes_that_are_started_import_it_too(
    markov: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"from lwm_agent.checkpoint import Checkpoint; print(Checkpoint.load({str(markov)!r}).name)"
    monkeypatch.setenv(VARIABLE, "markov_model")
    monkeypatch.setenv("PYTHONPATH", str(examples))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "markov", done.stderr


def test_a_requested_module_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(UserError, match="LWM_AGENT_IMPORT=nowhere: there is no module 'nowhere'"):
        import_requested()

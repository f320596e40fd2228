"""The scripts of examples/ run, and what they write is what the command line reads."""

from __future__ import annotations

import json
import re
import runpy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm_agent import Agent

ROOT = Path(__file__).parent.parent
EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs"


def test_sac_on_latents_learns_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(EXAMPLES / "sac_her_on_latents.py"))["main"]
    main(steps=130, episodes=2, num_envs=2, out=tmp_path / "new" / "sac")
    assert "sac+her" in capsys.readouterr().out
    results = json.loads((tmp_path / "new" / "sac" / "results.json").read_text(encoding="utf-8"))
    assert results["run"]["planner"]["name"] == "sac+her"
    assert results["summary"]["n"] == 2
    assert results["floors"].keys() == {"random", "none"}
    assert (tmp_path / "new" / "sac" / "policy.zip").exists()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The control loop, whose clock does not wait for the next tick."""
    scope = runpy.run_path(str(EXAMPLES / "control_loop.py"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return scope


def test_control_loop_stops_when_somebody_moves_the_block(loop: dict[str, Any]) -> None:
    agent = Agent.load("pusht-tiny", "policy", device="cpu", keep_surprise=True)
    settings = {"rate_hz": 5.0, "num_ticks": 24, "max_surprise": 12.0, "latency_ms": 10_000.0}
    undisturbed, knocked = loop["SimulatedRobot"](), loop["SimulatedRobot"](knock_at=15)
    calm, alarmed = (loop["control"](agent, robot, **settings) for robot in (undisturbed, knocked))
    assert (calm.ticks, calm.late, calm.stopped) == (24, 0, False)
    assert (undisturbed.actions, undisturbed.stops) == (24, 1)
    assert alarmed.stopped
    assert alarmed.ticks == 16  # the first block that ends after the knock
    assert (knocked.actions, knocked.stops) == (15, 1)
    assert np.nanmax(alarmed.surprises[:-1]) < 6 < 12 < alarmed.surprises[-1]


class SlowAgent:
    """Decides in time, but for the calls named `slow`, which take 0.3 s."""

    def __init__(self, *slow: int) -> None:
        self.slow, self.states, self._wait = slow, [], time.sleep  # before the test's clock takes its place

    def predict(self, observation: dict[str, Any], state: Any) -> tuple[Any, Any]:
        self.states.append(state)
        if len(self.states) in self.slow:
            self._wait(0.3)
        surprise = type("State", (), {"surprise": np.array([np.nan])})
        return np.full(2, len(self.states) / 10, np.float32), surprise


@pytest.mark.parametrize("hold", [True, False])
def test_control_loop_counts_late_decisions_and_begins_anew_after_them(hold: bool) -> None:
    loop = runpy.run_path(str(EXAMPLES / "control_loop.py"))
    robot, agent = loop["SimulatedRobot"](), SlowAgent(3)
    report = loop["control"](agent, robot, rate_hz=10.0, num_ticks=12, max_surprise=1.0, hold=hold)
    assert 2 <= report.late <= 5
    assert len(report.surprises) == 12 - report.late
    assert robot.actions == (12 if hold else 12 - report.late)
    assert robot.stops == (1 if hold else 1 + report.late)
    assert [state is None for state in agent.states[:5]] == [True, False, False, True, False]
    assert report.slowest_ms < 100


def test_every_example_is_run() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
        "control_loop.py",
        "markov_model.py",
        "onnx_agent.py",
        "room.py",
        "sac_her_on_latents.py",
        "shrinking_search.py",
    ]


def test_example_of_the_baselines_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "baselines.md").read_text("utf-8"), flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example, scope)
    latents, _ = scope["env"].reset(seed=0)
    action, _ = scope["model"].predict(latents)
    assert scope["env"].action_space.contains(action)

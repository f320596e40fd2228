"""The scripts of examples/ run, and what they write is what the command line reads."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

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


def test_every_example_is_run() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
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

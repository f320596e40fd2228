"""Explanations of failed tasks: causes follow from the evidence, and the evidence from what really happens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lwm_agent import Agent
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.errors import UserError
from lwm_agent.eval import shipped_tasks
from lwm_agent.eval.explanation import CAUSES, COST, MODEL, SEARCH, TIME, Evidence, Explanation, cause_table, task_table
from lwm_agent.eval.results_file import parse_results
from lwm_agent.experiments.explain import Witness
from lwm_agent.experiments.played_before import evaluation_of

from .commands import run

SMALL = "--set planner.num_samples=8 --set planner.num_elites=2 --set agent.num_proposals=2 --budget-iterations 1"


def evidence(
    task: int = 3, later: bool = False, plan: float = 0.2, real: float = 0.3, recorded: float = 0.5
) -> Evidence:
    costs = {"recorded_imagined": recorded, "recorded_real": 0.1, "nothing_real": 1.0}
    return Evidence(task, later, plan, real, **costs, closest={"block_px": 9.0}, final={"block_px": 30.0})


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        (evidence(later=True, recorded=0.0), TIME),
        (evidence(recorded=0.1), SEARCH),
        (evidence(real=0.7), MODEL),
        (evidence(real=1.4), MODEL),
        (evidence(real=0.3), COST),
        (evidence(real=0.1), COST),
    ],
)
def test_the_cause_is_the_first_that_the_evidence_speaks_for(known: Evidence, cause: str) -> None:
    assert known.cause == cause


def test_shares_and_sentences() -> None:
    found = Explanation("x", 20, 5, (evidence(1, real=0.9), evidence(2, real=0.9), evidence(4, later=True)))
    assert found.summary == "Of 20 tasks 5 failed; of 3 looked at: model 2, time 1."
    rows = {row[0]: row for row in cause_table(found).rows}
    assert list(rows) == list(CAUSES)
    assert rows[MODEL][2:] == ("2", "67 (21-94)")
    assert [row[:3] for row in task_table(found).rows] == [("1", MODEL, "0.2"), ("2", MODEL, "0.2"), ("4", TIME, "0.2")]
    assert Explanation("x", 20, 0, ()).summary == "Every task was solved."
    assert len(cause_table(Explanation("x", 20, 0, ())).rows) == len(CAUSES)


def test_witnesses_tell_what_happens() -> None:
    task = shipped_tasks("pusht", "strict", "val", 25).tasks[4]
    agent = Agent.load("pusht-tiny", "guided", cost="best-step", device="cpu", num_proposals=2, deadline_env_steps=50)
    twin = PushTEnv(terminate_on_success=False)
    costs = Witness(agent, twin).costs(task)
    assert costs["recorded_real"] == pytest.approx(0, abs=0.02)  # 25 steps lead to the goal
    assert costs["nothing_real"] > 0.2
    observation, _ = twin.reset(options=task.reset_options)
    _, state = agent.predict(observation)
    assert costs["plan_imagined"] == pytest.approx(state.decisions[0].cost, rel=1e-3)
    plan = agent.insight(state).plan
    assert plan is not None
    frames = [twin.step(action)[0]["pixels"] for action in plan.env_actions.reshape(-1, 2)][4::5]
    latents = agent.observer.begin(np.stack(frames)).latent
    goal = agent.observer.begin(observation["goal"][None]).latent
    assert costs["plan_real"] == pytest.approx(float(agent.model.distance(latents[None, None], goal).min()), rel=1e-3)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with failures."""
    folder = tmp_path_factory.mktemp("explained")
    run(f"eval --env pusht --offset 100 --split val --episodes 4 --no-floors --output-dir ev {SMALL}", folder)
    return folder


def test_the_command_writes_a_page(evaluated: Path) -> None:
    said = run("explain ev/results.json --films 1 --failures 2 --out ex", evaluated)
    contents = json.loads((evaluated / "ex" / "explanation.json").read_text())
    assert contents["summary"] in " ".join(said.split())
    assert contents["played"] == 4
    assert len(contents["tasks"]) == min(2, contents["failed"])
    assert sum(contents["causes"].values()) == len(contents["tasks"])
    page = (evaluated / "ex" / "explanation.html").read_text()
    assert page.count("<video") == 1
    assert "<svg" in page
    assert not re.search(r'(src|href)="https?:', page)  # opens offline


def test_settings_are_those_of_the_evaluation(evaluated: Path) -> None:
    path = evaluated / "ev" / "results.json"
    config = evaluation_of(parse_results(path), path, None, None, "cpu")
    assert (config.env, config.planner, config.split, config.offset, config.episodes) == (
        "pusht",
        "guided",
        "val",
        100,
        4,
    )
    assert config.budget_iterations == 1
    assert config.planner_settings["num_samples"] == 8
    assert config.agent_settings["num_proposals"] == 2
    assert config.agent_settings["deadline_env_steps"] == 200


def test_the_checkpoint_is_the_one_of_the_package_that_the_results_are_of(evaluated: Path) -> None:
    run(f"eval --checkpoint pusht-robust --episodes 1 --no-floors --output-dir robust {SMALL}", evaluated)
    path = evaluated / "robust" / "results.json"
    assert evaluation_of(parse_results(path), path, None, None, "cpu").checkpoint == "pusht-robust"


def test_results_of_others_are_refused(evaluated: Path) -> None:
    path = evaluated / "ev" / "results.json"
    with pytest.raises(UserError, match="is of another checkpoint than 'pusht-dreamer'"):
        evaluation_of(parse_results(path), path, "pusht-dreamer", None, "cpu")
    run("eval --env pusht --planner none --episodes 2 --no-floors --output-dir none", evaluated)
    path = evaluated / "none" / "results.json"
    with pytest.raises(UserError, match="is of none, which makes no plans"):
        evaluation_of(parse_results(path), path, None, None, "cpu")
    shipped = Path(__file__).parent.parent / "results" / "tiny" / "pusht-guided-25.json"
    with pytest.raises(UserError, match="is of an earlier version"):
        evaluation_of(parse_results(shipped), shipped, None, None, "cpu")


def test_nothing_failed(evaluated: Path) -> None:
    run("eval --env pusht --planner guided --episodes 1 --no-floors --output-dir good", evaluated)
    assert "Every task was solved." in run("explain good/results.json --out good-ex", evaluated)

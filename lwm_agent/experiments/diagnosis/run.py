"""A diagnosis from the data and the checkpoint to the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...agent.agent import Agent
from ...agent.config import load_agent
from ...checkpoint import checksum
from ...data.clips import Clips, Mixture, Windows
from ...envs.base import GoalImageEnv
from ...errors import UserError
from ...eval import TaskSet, make_env
from ...eval.figures import new_figure
from ...eval.provenance import command_line, machine
from ...files import write_text
from ...training.frozen_encoder import open_fitting
from ...training.held_out import unseen_episodes
from ..evaluate import load_tasks
from .config import DiagnoseConfig
from .data_checks import DataCheck, check_data
from .figure import draw_diagnosis
from .trials import TRIALS, Trials, run_trials
from .verdict import Finding, find, verdict
from .verifier import Verification, encode_clips, verify

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Diagnosis:
    """Outcome of a diagnosis.

    Attributes:
        data: what the data are like.
        verification: tests of the world model.
        trials: success with parts replaced, or None where there is no simulator.
        no_trials: reason why there are none.
        findings: what the numbers mean, in the order in which things should be mended.
    """

    data: DataCheck
    verification: Verification
    trials: Trials | None
    no_trials: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """The worst finding, and what to do about it."""
        return verdict(self.findings)


def diagnose(config: DiagnoseConfig, progress: Progress = lambda *_: None) -> Diagnosis:
    """Runs all tests; writes ``diagnosis.json`` and the figure.

    Args:
        config: settings.
        progress: called with the name of a part, what is done of it, and the total.

    Raises:
        UserError: the checkpoint imagines nothing, the data do not fit it, or matplotlib is not installed.
    """
    new_figure(1, 1)  # first: without matplotlib, nothing need be tested
    agent = load_agent(config)
    if agent.planner.reactive:
        raise UserError(
            f"checkpoint {config.checkpoint_name!r} acts by its policy and makes no plans: there is no model to test; "
            "name a planner, or a checkpoint that imagines"
        )
    clips = encode_clips(agent, sample_clips(config, agent))
    progress("data", 1, 1)
    data, verification = check_data(agent, clips), verify(agent, clips, config.seed)
    progress("world model", 1, 1)
    trials, reason = None, "not asked for (--episodes 0)"
    if config.episodes > 0:
        task_set = load_tasks(config.evaluation)
        reason = _no_simulator(task_set)
        trials = None if reason else run_trials(config, task_set, agent, progress)
    result = Diagnosis(data, verification, trials, reason, find(data, verification, trials))
    write_text(config.out / "diagnosis.json", json.dumps(_contents(config, agent, result), indent=1) + "\n")
    draw_diagnosis(verification, trials, config.out)
    return result


def sample_clips(config: DiagnoseConfig, agent: Agent) -> Clips:
    """Clips as long as a plan, of held-out episodes."""
    files = open_fitting(agent.checkpoint, config.data)
    length = agent.schedule.horizon + 1
    windows = [
        Windows(file, unseen_episodes(agent.checkpoint.training, file), length, agent.model.frameskip) for file in files
    ]
    return Mixture(windows).sample(config.clips, np.random.default_rng(config.seed))


def _no_simulator(task_set: TaskSet) -> str:
    """The reason why the simulator cannot take the model's place; empty where it can."""
    with make_env(task_set) as env:
        if isinstance(env.unwrapped, GoalImageEnv):
            return ""
    return f"{task_set.env} is no GoalImageEnv: its simulator cannot be put into a state"


def _contents(config: DiagnoseConfig, agent: Agent, result: Diagnosis) -> dict[str, Any]:
    """The results in JSON types."""
    trials = None
    if result.trials is not None:
        trials = {name: {**asdict(result.trials.rates[name]), "solved": result.trials.solved[name]} for name in TRIALS}
    return {
        "command": command_line(),
        "checkpoint": checksum(config.checkpoint_name),
        "planner": {"name": config.planner, "agent": agent.settings()},
        "seed": config.seed,
        "data": {"files": [str(path) for path in config.data], "clips": config.clips, **asdict(result.data)},
        "verification": asdict(result.verification),
        "trials": trials if trials is not None else result.no_trials,
        "findings": [asdict(finding) for finding in result.findings],
        "verdict": result.verdict,
        **machine(),
    }

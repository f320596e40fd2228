"""Errors of imagined futures, on the actions of the data and on those that planners choose: see --help.

For each task, several sequences of actions are imagined and then executed: the recorded ones, the recorded ones
perturbed as a search perturbs them, and the plans of planners at the first decision of an evaluation. A world model is
as good for planning as its error on the last ones. It is larger than on the data of the training: a search looks for
futures that are imagined to be good, and finds errors among them. The cost shows the same in the planner's own unit:
the distance to the goal that was predicted for a sequence, and the one that it reached.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import typer
from options import CheckpointOption, EnvOption, OffsetOption, OutOption, SeedOption, TasksOption  # beside this file
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.agent.config import AgentConfig, checkpoint_of, load_agent
from lwm_agent.agent.objective import ModelObjective
from lwm_agent.checkpoint import checksum
from lwm_agent.compatibility import conventions
from lwm_agent.eval import Task, make_env, run_info, shipped_tasks
from lwm_agent.files import write_text
from lwm_agent.planners import make_planner, plan
from lwm_agent.planners.sampling import sample_actions
from lwm_agent.protocols import Belief, Problem

PERTURBATIONS = (0.25, 0.5, 1.0)  # standard deviations, normalised
PLANNERS = ("guided", "cem")
COST = "best-step"  # of distances only, whatever the checkpoint recommends: the costs are compared
Errors = dict[str, dict[str, Any]]  # errors and costs of a task's sequences, by their names


@dataclass(frozen=True)
class Trial:
    """Agents, with the actor's proposal and without, and an environment to execute their plans in."""

    agent: Agent
    plain: Agent
    env: gym.Env[Any, Any]
    budget_env_steps: int

    def run(self, task: Task, seed: int) -> Errors:
        """Imagines and executes all sequences of a task."""
        observation, _ = self.env.reset(options=task.reset_options)
        start, goal = (self.agent.observer.begin(observation[key][None]) for key in ("pixels", "goal"))
        sequences = self._sequences(task, start, goal.latent, seed)
        return {name: self._compare(task, start, goal.latent, blocks) for name, blocks in sequences.items()}

    def _sequences(self, task: Task, start: Belief, goal: Tensor, seed: int) -> dict[str, Tensor]:
        """Blocks ``(T, F*A)`` by their names."""
        schedule, units, device = self.agent.schedule, self.agent.checkpoint.normalizer, self.agent.device
        env_actions = np.array(task.env_actions, np.float32).reshape(-1, schedule.frameskip, units.action_size)
        recorded = units.blocks(env_actions[: schedule.horizon], device)
        deadline = torch.full((1,), self.budget_env_steps / schedule.frameskip, device=device)

        def pose(agent: Agent) -> Problem:
            init, generator = torch.zeros_like(recorded)[None], torch.Generator(device).manual_seed(seed)
            return agent.replanner.problem(start, goal, init, deadline, [generator])

        sequences = {"recorded": recorded}
        for std in PERTURBATIONS:
            drawn = sample_actions(pose(self.plain), recorded[None], torch.full_like(recorded, std)[None], 2, 0.7)
            sequences[f"perturbed by {std:g}"] = drawn[0, 1]
        for name in PLANNERS if self.agent.replanner.proposal is not None else ():
            sequences[name] = plan(make_planner(name), pose(self.agent)).actions[0]
        return sequences | {"cem, no proposal": plan(make_planner("cem"), pose(self.plain)).actions[0]}

    def _compare(self, task: Task, start: Belief, goal: Tensor, blocks: Tensor) -> dict[str, Any]:
        """Squared error of the latent after each block, and the cost, predicted and actual."""
        agent = self.agent
        self.env.reset(options=task.reset_options)
        frames = []
        for block in agent.checkpoint.normalizer.env_actions(blocks):
            for action in block:
                observation, *_ = self.env.step(action)
            frames.append(observation["pixels"])
        actual = agent.observer.begin(np.stack(frames)).latent
        objective = ModelObjective(agent.model, start, goal, agent.cost, agent.bf16, agent.max_rollouts)
        actions = blocks[None, None]  # (1, 1, T, F*A)
        with torch.no_grad():
            predicted = objective.rollout(actions)[0, 0]
            costs = [float(objective.rate(latents[None, None], actions)) for latents in (predicted, actual)]
        errors = (predicted - actual).square().flatten(1).mean(dim=1).tolist()
        return {"errors": errors, "predicted": costs[0], "actual": costs[1]}


def summarize(tasks: list[Errors]) -> dict[str, dict[str, Any]]:
    """Means of the errors and medians of the costs over all tasks."""
    return {
        name: {
            "errors": np.mean([task[name]["errors"] for task in tasks], axis=0).tolist(),
            "predicted": float(np.median([task[name]["predicted"] for task in tasks])),
            "actual": float(np.median([task[name]["actual"] for task in tasks])),
        }
        for name in tasks[0]
    }


def show(summary: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints the summary."""
    horizon = len(next(iter(summary.values()))["errors"])
    table = Table("actions", *(f"{k + 1}" for k in range(horizon)), "predicted", "actual", box=SIMPLE_HEAD)
    for name, row in summary.items():
        table.add_row(
            name, *(f"{error:.3f}" for error in row["errors"]), f"{row['predicted']:.3f}", f"{row['actual']:.3f}"
        )
    console.print("mean squared error of imagined latents, after so many blocks; median cost", table, sep="\n")


def main(
    env: EnvOption = "pusht",
    checkpoint: CheckpointOption = None,
    tasks: TasksOption = 100,
    offset: OffsetOption = 25,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> None:
    """Measure the errors of a world model on the plans that planners make with it."""
    console, task_set = Console(), shipped_tasks(env, "strict", "val", offset)
    out = out or Path(f"out/model-error-{env}.json")
    agent, plain = (
        load_agent(AgentConfig(env=env, planner="cem", checkpoint=checkpoint, seed=seed, agent_settings=settings))
        for settings in ({"cost": COST}, {"cost": COST, "proposal": "none"})
    )
    seen_as = conventions(env, agent.checkpoint.env_kwargs)
    trial = Trial(agent, plain, make_env(task_set, seen_as), task_set.budget_env_steps)
    errors = [trial.run(task, seed + i) for i, task in enumerate(track(task_set.tasks[:tasks], console=console))]
    summary = summarize(errors)
    report = {
        "run": run_info(
            task_set,
            seed=seed,
            checkpoint=checksum(checkpoint_of(env, checkpoint)),
            planner={"name": ", ".join(PLANNERS), "agent": agent.settings()},
            env_kwargs=seen_as,
        ),
        "summary": summary,
        "tasks": errors,
    }
    write_text(out, json.dumps(report, indent=1, allow_nan=False) + "\n")
    show(summary, console)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)

"""Failures of open-loop plans for the cube by their causes, the model, the cost or the search: see --help.

The same CEM plans four times for each task, from the same first candidates: in futures of the model or the simulator,
by the distance of latents or of the cube in m, which a linear probe reads from imagined latents. Each plan is executed
to its end in the environment. Each step down from the score of the recorded actions has one cause:

    recorded -> simulator + cube    lost by the search, at this number of candidates
             -> simulator + latent  lost by the cost; maybe won, as it also tells the arm where to go
             -> model + latent      lost by the model

Plans that the model rates better than the recorded actions, and that really are worse, exploit its errors; those that
the simulator rates worse, by the same cost, needed a longer search. With the defaults, a task takes a core 45 s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad

from lwm_agent import Agent
from lwm_agent.agent.objective import ModelObjective
from lwm_agent.checkpoint import checksum
from lwm_agent.compatibility import conventions
from lwm_agent.data.trajectories import Trajectories, split
from lwm_agent.envs.cube import CubeEnv
from lwm_agent.envs.cube_simulator import centre, simulator
from lwm_agent.eval import Task, run_info, shipped_tasks, wilson
from lwm_agent.files import write_text
from lwm_agent.models import WorldModel
from lwm_agent.models.wrapped import WrappedModel
from lwm_agent.planners import make_planner, plan
from lwm_agent.protocols import Belief, Plan, Problem
from lwm_agent.training.monitors import probe

Outcomes = dict[str, dict[str, Any]]  # of a task's plans, by their names
Futures = Callable[[Belief, Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
STEPS = {"search": "simulator + cube", "cost": "simulator + latent", "model": "model + latent"}
READINGS = ("privileged/block_0_pos", "proprio/gripper_opening", "proprio/effector_pos", "proprio/joint_pos")
PROBES = {"cube x": (0,), "cube y": (1,), "cube z": (2,), "grip": (3,), "effector": (4, 5, 6), "arm": (*range(7, 13),)}
MEASURED = ("final_cube_m", "candidates", "seconds")
COSTS = ("plan", "plan_really", "recorded", "recorded_really", "plan_better", "plan_really_better")
STYLE: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}


class Present(NamedTuple):
    """Belief of the simulator: states ``(B, 41)``."""

    latent: Tensor


class View(WrappedModel):
    """A world model with other futures, which are compared as places unless there is a `distance` of them.

    Args:
        model: the world model.
        futures: takes a belief and actions ``(B, S, T, F*A)``, gives ``(B, S, T, ...)``.
        distance: takes futures and the goal, gives ``(B, S, T)``.
    """

    def __init__(self, model: WorldModel, futures: Futures, distance: Distance | None = None) -> None:
        super().__init__(model)
        self.futures, self.distance_of_futures = futures, distance

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Latents ``(B, S, T, *Z)`` of the given futures."""
        return self.futures(belief, actions)

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Distance ``(B, S, T)`` of these latents to the goal."""
        if self.distance_of_futures is None:
            return (latents - goal[:, None, None]).norm(dim=-1)
        return self.distance_of_futures(latents, goal)


@dataclass(frozen=True)
class Diagnosis:
    """All that tasks share.

    Attributes:
        agent: its model and planner are diagnosed.
        painter: an environment that draws for the agent.
        env: an environment without pictures, in which plans are executed.
    """

    agent: Agent
    painter: CubeEnv
    env: CubeEnv

    def run(self, task: Task, seed: int, read_cube: Callable[[Tensor], Tensor]) -> Outcomes:
        """Makes and executes all plans for a task; each is also judged by the objectives of the others."""
        units, objectives = self.agent.checkpoint.normalizer, self.objectives(task, read_cube)
        recorded = np.array(task.env_actions, np.float32).reshape(-1, self.agent.schedule.frameskip, units.action_size)
        plans = {"recorded": units.blocks(recorded), "nothing": units.blocks(np.zeros_like(recorded))}
        outcomes: Outcomes = {name: {"candidates": 0, "seconds": 0.0} for name in plans}
        for name, objective in objectives.items():
            best = self.search(objective, objectives["model + latent"], len(recorded), seed)
            plans[name], outcomes[name] = (
                best.actions[0].cpu(),
                {"candidates": best.rollouts[0], "seconds": best.seconds},
            )
        together = torch.stack(list(plans.values()))[None].to(self.agent.device)  # (1, S, T, F*A)
        costs = {judge: objective(together)[0].tolist() for judge, objective in objectives.items()}
        for place, (name, blocks) in enumerate(plans.items()):
            outcomes[name] |= self.execute(task, blocks)
            outcomes[name]["costs"] = {judge: costs[judge][place] for judge in costs}
        return outcomes

    def objectives(self, task: Task, read_cube: Callable[[Tensor], Tensor]) -> dict[str, ModelObjective]:
        """Objectives of the task, for each combination of dynamics and distance."""
        agent, model = self.agent, self.agent.model
        states = torch.tensor([task.state, task.goal_state], dtype=torch.float64)
        true, seen = Present(states[:1]), agent.observer.begin(self.pictures(states[:1]))
        goal = self.look(states[1:])
        cube = torch.tensor([task.goal_state[centre()]], device=agent.device)

        def simulate_cube(belief: Belief, actions: Tensor) -> Tensor:
            return self.simulate(belief, actions)[..., centre()]

        def simulate_latents(belief: Belief, actions: Tensor) -> Tensor:
            return self.look(self.simulate(belief, actions))

        def imagine_cube(belief: Belief, actions: Tensor) -> Tensor:
            return read_cube(model.rollout(belief, actions))

        problems: dict[str, tuple[WorldModel, Belief, Tensor]] = {
            "simulator + cube": (View(model, simulate_cube), true, cube),
            "simulator + latent": (View(model, simulate_latents, model.distance), true, goal),
            "model + cube": (View(model, imagine_cube), seen, cube),
            "model + latent": (model, seen, goal),
        }
        deadline = torch.full((1,), len(task.env_actions) / agent.schedule.frameskip, device=agent.device)
        actor = agent.replanner.actor
        return {
            name: ModelObjective(*problem, agent.cost, agent.bf16, agent.max_rollouts, actor, deadline)
            for name, problem in problems.items()
        }

    def simulate(self, belief: Belief, actions: Tensor) -> Tensor:
        """True states ``(B, S, T, 41)`` after each block of `actions` ``(B, S, T, F*A)``."""
        env_actions = self.agent.checkpoint.normalizer.env_actions(actions).reshape(*actions.shape[:2], -1, 5)
        episodes = zip(belief.latent.numpy(), env_actions, strict=True)
        futures = np.array([[follow(start, candidate) for candidate in candidates] for start, candidates in episodes])
        frameskip = self.agent.schedule.frameskip
        return torch.tensor(futures[:, :, frameskip::frameskip], dtype=torch.float32, device=actions.device)

    def pictures(self, states: Tensor) -> NDArray[np.uint8]:
        """Pictures ``(N, h, w, C)`` of `states` ``(N, 41)``."""
        return np.stack([self.painter.picture(state) for state in states.double().cpu().numpy()])

    def look(self, states: Tensor) -> Tensor:
        """Latents ``(..., D)`` of the pictures of `states` ``(..., 41)``, computed as the agent does."""
        parts = states.flatten(0, -2).split(512)
        latents = torch.cat([self.agent.observer.begin(self.pictures(part)).latent for part in parts])
        return latents.unflatten(0, states.shape[:-1])

    def search(self, objective: ModelObjective, imagined: ModelObjective, horizon: int, seed: int) -> Plan:
        """The planner's plan. An actor, where there is one, proposes futures that the model has `imagined`."""
        agent, units, proposal = self.agent, self.agent.checkpoint.normalizer, self.agent.replanner.proposal
        init = torch.zeros(1, horizon, agent.model.block_size, device=agent.device)
        low, high = units.bounds(agent.schedule.frameskip, agent.device)
        generators = [torch.Generator(agent.device).manual_seed(seed)]
        problem = Problem(objective, init, torch.ones_like(init), low, high, generators, units.action_size)
        if proposal is not None:
            guess = partial(proposal, imagined, problem)

            def propose() -> tuple[Tensor, Tensor]:
                guesses, _ = guess()  # their costs are those of the model
                return guesses, objective(guesses)

            problem = replace(problem, scale=agent.replanner.proposal_std * problem.scale, propose=propose)
        return plan(agent.planner, problem)

    def execute(self, task: Task, blocks: Tensor) -> dict[str, Any]:
        """Executes the whole of a plan ``(T, F*A)``; success counts at any step, as in evaluations."""
        self.env.reset(options=task.reset_options)
        env_actions = self.agent.checkpoint.normalizer.env_actions(blocks).reshape(-1, 5)
        infos = [self.env.step(action)[-1] for action in env_actions]
        off_m = self.env.errors(infos[-1]["state"], infos[-1]["goal_state"])["cube_m"]
        return {"success": any(info["is_success"] for info in infos), "final_cube_m": off_m}


def follow(state: NDArray[np.float64], env_actions: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The states from `state` on, itself included."""
    return list(accumulate(env_actions, lambda state, action: simulator().advance(state, action)[0], initial=state))


def states_to_probe(tasks: Sequence[Task], data: Path | None, seed: int, num: int) -> NDArray[np.float64]:
    """States spread over the validation episodes of `data`, or else over the recorded episodes of `tasks`."""
    if data is None:
        ways = [np.array(follow(np.array(task.state), np.array(task.env_actions, np.float32))) for task in tasks]
    else:
        recorded = Trajectories.open(data, in_memory=False)
        if recorded.state is None:
            raise ValueError(f"{data} has no states to read from latents: leave --data out")
        _, episodes = split(recorded.num_episodes, seed=seed)
        ways = [recorded.state[recorded.offsets[i] :][: recorded.lengths[i]] for i in episodes]
    states = np.concatenate(ways)
    return states[np.linspace(0, len(states) - 1, min(num, len(states))).astype(int)]


def fit_cube(latents: Tensor, cubes: NDArray[np.float64]) -> tuple[Callable[[Tensor], Tensor], float]:
    """Ridge regression of the cube's place on two thirds of the rows; its median error on the last third, in m."""
    scale, y, fit = latents.std().double(), torch.from_numpy(cubes).to(latents.device), 2 * len(latents) // 3
    x = pad(latents.double() / scale, (0, 1), value=1.0)  # float64, which autocast leaves as it is
    penalty = 1e-3 * fit * torch.eye(x.shape[1]).to(x)
    weights = torch.linalg.solve(x[:fit].T @ x[:fit] + penalty, x[:fit].T @ y[:fit])
    error_m = float((x[fit:] @ weights - y[fit:]).norm(dim=-1).median())
    return lambda latents: latents.double() / scale @ weights[:-1] + weights[-1], error_m


def summarize(tasks: Sequence[Outcomes]) -> dict[str, Any]:
    """Scores of each plan, the share of tasks lost by each step, and costs of plans, imagined and real."""
    plans: dict[str, Any] = {}
    for name in tasks[0]:
        rows = [task[name] for task in tasks]
        solved = sum(row["success"] for row in rows)
        medians = {f"median_{key}": median(row[key] for row in rows) for key in MEASURED}
        plans[name] = {"success": solved / len(rows), "ci95": wilson(solved, len(rows)), **medians}
    levels = [plans[name]["success"] for name in ("recorded", *STEPS.values())]
    lost = {step: above - below for step, (above, below) in zip(STEPS, pairwise(levels), strict=True)}
    costs = {}
    for name in tasks[0]["recorded"]["costs"]:
        judges = (name, name.replace("model", "simulator"))
        rated = np.array(
            [[[task[by]["costs"][judge] for judge in judges] for by in (name, "recorded")] for task in tasks]
        )
        values = [*np.median(rated, axis=0).flatten(), *(rated[:, 0] < rated[:, 1]).mean(axis=0)]
        costs[name] = dict(zip(COSTS, map(float, values), strict=True))
    return {"plans": plans, "lost": lost, "costs": costs}


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the report."""
    probes = Table("R2 of reading", "linear", "kernel", **STYLE)
    for name in PROBES:
        probes.add_row(name, *(f"{report['probes'][f'{kind}_{name}']:.3f}" for kind in ("r2", "kernel_r2")))
    plans = Table("plan", "success %", "95 % CI", "cube off, cm", "candidates", "s", **STYLE)
    for name, row in report["plans"].items():
        success, low, high, off = (100 * part for part in (row["success"], *row["ci95"], row["median_final_cube_m"]))
        effort = f"{row['median_candidates']:.0f}", f"{row['median_seconds']:.1f}"
        plans.add_row(name, f"{success:.0f}", f"{low:.0f}-{high:.0f}", f"{off:.1f}", *effort)
    costs = Table("median cost by", "plan", "really", "recorded", "really", "better %", "really", **STYLE)
    for name, row in report["costs"].items():
        costs.add_row(name, *(f"{100 * cost:.0f}" if "better" in key else f"{cost:.3g}" for key, cost in row.items()))
    error = f"the linear map reads the cube {100 * report['probes']['cube_error_m']:.1f} cm off (median)"
    lost = ", ".join(f"{100 * share:.0f} by the {step}" for step, share in report["lost"].items())
    console.print(probes, error, plans, f"points lost on {len(report['tasks'])} tasks: {lost}", costs, sep="\n")


def main(
    checkpoint: Annotated[str, typer.Option(help="Folder or name.")] = "cube-tiny",
    tasks: Annotated[int, typer.Option(help="Validation tasks, from the first.", min=1, max=150)] = 20,
    offset: Annotated[int, typer.Option(help="Environment steps from start to goal, and of a plan.")] = 25,
    samples: Annotated[int, typer.Option(help="CEM's candidates an iteration, an eighth of them elites.", min=16)] = 64,
    iterations: Annotated[int, typer.Option(help="CEM's iterations.", min=1)] = 4,
    cost: Annotated[str, typer.Option(help="As agent.cost, but of distances only.")] = "best-step",
    proposal: Annotated[str, typer.Option(help="none or actor.")] = "none",
    data: Annotated[Path | None, typer.Option(help="Data with states to probe on (default: the other tasks).")] = None,
    frames: Annotated[int, typer.Option(help="Frames to probe on.")] = 3000,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("out/cube-diagnosis.json"),
) -> None:
    """Measure what plans for the cube fail by: the model, the cost or the search."""
    console, task_set = Console(), shipped_tasks("cube", "strict", "val", offset)
    planner = make_planner("cem", num_samples=samples, num_elites=samples // 8, iterations=iterations)
    agent = Agent.load(checkpoint, planner, cost=cost, proposal=proposal, seed=seed)
    if agent.cost.asks_for_heads:
        raise typer.BadParameter(f"{cost} asks heads on latents, and says nothing of a cube's place")
    seen_as = conventions("cube", agent.checkpoint.env_kwargs)
    diagnosis = Diagnosis(agent, CubeEnv(**seen_as), CubeEnv(fidelity="blank", terminate_on_success=False))
    states = states_to_probe(task_set.tasks[tasks:], data, agent.checkpoint.training.get("seed", 0), frames)
    latents = diagnosis.look(torch.from_numpy(states))
    read_cube, probe_error_m = fit_cube(latents, states[:, centre()])
    restored = [simulator().restore(state) for state in states]
    readings = np.hstack([[reading[name] for reading in restored] for name in READINGS])
    outcomes = [diagnosis.run(task, seed + i, read_cube) for i, task in enumerate(track(task_set.tasks[:tasks]))]
    settings = {"name": "cem", **asdict(planner), "agent": agent.settings()}
    report = {
        "run": run_info(task_set, seed=seed, checkpoint=checksum(checkpoint), planner=settings, env_kwargs=seen_as),
        "probes": {**probe(latents, readings, PROBES), "cube_error_m": probe_error_m, "frames": len(states)},
        **summarize(outcomes),
        "tasks": outcomes,
    }
    write_text(out, json.dumps(report, indent=1, allow_nan=False) + "\n")
    show(report, console)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)

"""SAC with hindsight replay (HER) of Stable-Baselines3 on the latents of a frozen encoder: see --help.

It learns by acting in the simulator, which no other entry of the tables does, and from latents alone: rewards and
hindsight goals are made of them. Training episodes are cut from play as the tasks of the evaluation are, but from other
play. The result is evaluated as `lwm-agent eval` does, and `lwm-agent compare` reads its results.json.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import typer
from rich.console import Console
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from lwm_agent import LatentObservation
from lwm_agent.checkpoint import checksum
from lwm_agent.eval import (
    Task,
    TaskSet,
    evaluate,
    floors,
    make_tasks,
    run_info,
    save_results,
    shipped_tasks,
    summarize,
    table,
)

SAC_SETTINGS: dict[str, Any] = {"gamma": 0.95, "batch_size": 256, "gradient_steps": -1, "learning_rate": 3e-4}
NETWORK: dict[str, Any] = {"net_arch": [256, 256, 256]}


class RandomTasks(gym.Wrapper[Any, Any, Any, Any]):
    """Each episode begins at the start of a random one of `tasks`."""

    def __init__(self, env: gym.Env[Any, Any], tasks: tuple[Task, ...]) -> None:
        super().__init__(env)
        self.tasks = tasks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """An episode of a task that is drawn from the environment's generator."""
        self.env.reset(seed=seed)
        task = self.tasks[self.np_random.integers(len(self.tasks))]
        return self.env.reset(options=task.reset_options)


def learn(steps: int, tasks: TaskSet, wrap: partial[LatentObservation], num_envs: int, seed: int) -> SAC:
    """The policy after `steps` environment steps in episodes of random `tasks`."""

    def make() -> gym.Env[Any, Any]:
        settings = {**tasks.env_kwargs, "terminate_on_success": False, "max_episode_steps": tasks.budget_env_steps}
        return wrap(RandomTasks(gym.make(tasks.env_id, **settings), tasks.tasks))

    model = SAC(
        "MultiInputPolicy",
        make_vec_env(make, num_envs, seed),
        replay_buffer_class=HerReplayBuffer,
        learning_starts=max(tasks.budget_env_steps * num_envs, min(10_000, steps // 2)),  # after the first episodes
        policy_kwargs=NETWORK,
        seed=seed,
        device="cpu",
        verbose=1,
        **SAC_SETTINGS,
    )
    return model.learn(steps, log_interval=200)


def main(
    steps: Annotated[int, typer.Option(help="Environment steps to learn from.", min=100)] = 300_000,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint of Push-T whose encoder is used.")] = "pusht-tiny",
    success_distance: Annotated[
        float, typer.Option(help="Largest latent distance that is success; 0 takes the graded reward.", min=0)
    ] = 0.05,
    offset: Annotated[int, typer.Option(help="Environment steps from start to goal: 25, 50, 75 or 100.")] = 25,
    split: Annotated[str, typer.Option(help="Tasks to evaluate on: val or test.")] = "val",
    episodes: Annotated[int, typer.Option(help="Tasks to evaluate on.", min=1)] = 200,
    num_envs: Annotated[int, typer.Option(help="Environments to learn in.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Source of every random choice.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the policy and its results.json.")] = Path("out/sac-her"),
) -> None:
    """Trains, evaluates on strict tasks of Push-T, and prints a table with the floors."""
    wrap = partial(LatentObservation, checkpoint=checkpoint, success_distance=success_distance or None)
    count = min(500, steps // (2 * offset))  # an episode has twice the steps of the offset
    model = learn(steps, make_tasks("pusht", offset, count, seed=1000 + seed), wrap, num_envs, seed)
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "policy.zip")
    tasks = shipped_tasks("pusht", split=split, offset=offset)
    tasks = replace(tasks, tasks=tasks.tasks[:episodes])
    settings = {"name": "sac+her", "steps": steps, "success_distance": success_distance, **SAC_SETTINGS}
    run = run_info(tasks, seed=seed, planner=settings, checkpoint=checksum(checkpoint))
    played = evaluate(model, tasks, batch_size=10, seed=seed, wrap_env=wrap)
    others = floors(tasks, seed=seed, env_kwargs={"image_size": 16})  # floors look at no pictures
    save_results(out, run, played, others)
    rows = {"sac+her": played, **others}
    Console().print(table({name: summarize(row) for name, row in rows.items()}, f"{split} tasks, offset {offset}"))


if __name__ == "__main__":
    typer.run(main)

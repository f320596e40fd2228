"""Scores of the same agent with its model's futures and with the simulator's: see --help.

The simulator's futures are those of a twin of the environment, filmed and encoded. Encoder, distance and planner stay,
and so do the actor's proposals, which the model still imagines. The difference of the two scores is lost by
searching in the model. It is for planners that only ask for costs: there is no gradient through a simulator.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from options import CheckpointOption, EnvOption, OffsetOption, OutOption, SeedOption, TasksOption  # beside this file
from rich.console import Console
from rich.progress import track
from torch import Tensor
from wrapped_model import WrappedModel  # beside this file

from lwm_agent import Agent
from lwm_agent.agent.agent import Observation
from lwm_agent.agent.config import checkpoint_of
from lwm_agent.agent.objective import ModelObjective
from lwm_agent.agent.observer import Observer
from lwm_agent.agent.proposal import ActorProposal
from lwm_agent.agent.state import AgentState
from lwm_agent.checkpoint import Checkpoint, checksum
from lwm_agent.compatibility import conventions
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.eval import Task, evaluate, make_env, run_info, shipped_tasks, wilson
from lwm_agent.eval.episode import Episode
from lwm_agent.files import write_text
from lwm_agent.protocols import Belief, Policy, Problem


class SimulatedModel(WrappedModel):
    """A world model that rolls out in a twin of the environment, one episode at a time.

    Args:
        observer: encodes the twin's pictures, and has the world model and the units of actions.
        twin: an environment of the kind that the agent acts in, in the same state.
    """

    def __init__(self, observer: Observer, twin: GoalImageEnv) -> None:
        super().__init__(observer.model)
        self.observer, self.twin = observer, twin

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Latents ``(1, S, T, *Z)`` of the twin's pictures after each block of `actions` ``(1, S, T, F*A)``."""
        env_actions = self.observer.normalizer.env_actions(actions[0])
        env_actions = env_actions.reshape(*actions.shape[1:3], self.frameskip, -1)
        present, pictures = self.twin.get_state(), []
        for candidate in env_actions:
            self.twin.set_state(present)
            for block in candidate:
                for action in block:
                    self.twin.simulate(action)
                pictures.append(self.twin.picture(self.twin.get_state()))
        self.twin.set_state(present)
        return self.observer.begin(np.stack(pictures)).latent.unflatten(0, actions.shape[:3])


class SimulatedProposal(ActorProposal):
    """Futures that the actor imagines with its world model, at the costs that they have in the simulator."""

    def __call__(self, objective: ModelObjective, problem: Problem) -> tuple[Tensor, Tensor]:
        """First guesses ``(B, P + 1, T, F*A)`` and their costs in the simulator, ``(B, P + 1)``."""
        guesses, _ = super().__call__(objective, problem)
        return guesses, objective(guesses)


class ClairvoyantPolicy:
    """An agent, in one episode at a time, whose planner searches in the futures of the simulator.

    Args:
        agent: the agent, whose planning is changed.
        twin: an environment of the kind that the agent acts in.
    """

    def __init__(self, agent: Agent, twin: GoalImageEnv) -> None:
        self.agent, self.twin = agent, twin
        observer = replace(agent.observer, model=SimulatedModel(agent.observer, twin))
        proposal = agent.replanner.proposal
        if proposal is not None:
            proposal = SimulatedProposal(proposal.model, proposal.actor, proposal.num_proposals, proposal.bf16)
        agent.decider = replace(agent.replanner, observer=observer, proposal=proposal)

    def begin(self, tasks: list[Task]) -> None:
        """Puts the twin at the start of the one task (`evaluate` calls it)."""
        (task,) = tasks
        self.twin.set_state(np.array(task.state))

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.float32], AgentState]:
        """The agent's action, which the twin executes too."""
        action, state = self.agent.predict(observation, state, episode_start, deterministic)
        self.twin.simulate(action[0])
        return action, state


def main(
    env: EnvOption = "pusht",
    checkpoint: CheckpointOption = None,
    planner: Annotated[str, typer.Option(help="That of both agents.")] = "guided",
    cost: Annotated[str, typer.Option(help="As agent.cost, whatever the checkpoint recommends.")] = "best-step",
    tasks: TasksOption = 100,
    offset: OffsetOption = 25,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> None:
    """Evaluate an agent with its world model, and with the simulator in place of its predictor."""
    console, task_set = Console(), shipped_tasks(env, "strict", "val", offset)
    torch.set_num_threads(1)  # one core simulates; another thread would only wait for it
    name = checkpoint_of(env, checkpoint)
    trained = Checkpoint.load(name)
    seen_as = conventions(env, trained.env_kwargs)
    plain, changed = (
        Agent(trained, planner, cost=cost, deadline_env_steps=task_set.budget_env_steps, seed=seed) for _ in range(2)
    )
    episodes: dict[str, list[Episode]] = {}
    with make_env(task_set, seen_as) as env_of_twin:
        twin = env_of_twin.unwrapped
        assert isinstance(twin, GoalImageEnv)
        policies: dict[str, Policy] = {"model": plain, "simulator": ClairvoyantPolicy(changed, twin)}
        for futures, policy in policies.items():
            indices = track(range(tasks), description=f"futures of the {futures}", console=console)
            one_by_one = (
                evaluate(policy, task_set, indices=[index], batch_size=1, seed=seed, env_kwargs=seen_as)
                for index in indices
            )
            episodes[futures] = [episode for (episode,) in one_by_one]
    summary = {}
    for futures, played in episodes.items():
        solved = sum(episode.success for episode in played)
        summary[futures] = {"success": solved / tasks, "ci95": wilson(solved, tasks)}
        console.print(f"futures of the {futures}: {solved} of {tasks} tasks solved")
    settings = {"name": planner, "agent": plain.settings()}
    report = {
        "run": run_info(task_set, seed=seed, checkpoint=checksum(name), planner=settings, env_kwargs=seen_as),
        "summary": summary,
        "episodes": {futures: [asdict(episode) for episode in played] for futures, played in episodes.items()},
    }
    out = out or Path(f"out/perfect-model-{env}.json")
    write_text(out, json.dumps(report, allow_nan=False) + "\n")
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)

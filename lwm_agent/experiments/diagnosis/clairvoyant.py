"""An agent that searches in the simulator's futures: what it loses otherwise, it loses by its world model.

Planner, proposals and budget stay. Two things can be compared in the simulator's futures: their pictures, encoded, by
the model's distance; or their true states, by how far they are from the goal. It is for planners that only ask for
costs: there is no gradient through a simulator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...agent.agent import Agent, Observation
from ...agent.objective import ModelObjective
from ...agent.proposal import ActorProposal
from ...agent.state import AgentState
from ...envs.base import GoalImageEnv, State
from ...eval import Task
from ...models.wrapped import WrappedModel
from ...protocols import Belief, Problem

GoalError = Callable[[State, State], float]
"""How far a state is from the goal's."""


class SimulatedModel(WrappedModel, ABC):
    """A world model that rolls out in a twin of the environment, one episode at a time.

    Args:
        agent: has the world model, and the units of actions.
        twin: an environment of the kind that the agent acts in; the policy keeps it in the same state.
    """

    def __init__(self, agent: Agent, twin: GoalImageEnv) -> None:
        super().__init__(agent.replanner.model)
        self.observer, self.twin = agent.observer, twin

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """What is seen ``(1, S, T, ...)`` after each block of `actions` ``(1, S, T, F*A)``."""
        env_actions = self.observer.normalizer.env_actions(actions[0])  # (S, T, F, A)
        present, states, frameskip = self.twin.get_state(), [], env_actions.shape[2]
        for candidate in env_actions.reshape(len(env_actions), -1, env_actions.shape[3]):
            states += [*self.twin.follow(present, candidate)][frameskip - 1 :: frameskip]
        self.twin.set_state(present)
        return self.see(states).unflatten(0, actions.shape[:3])

    @abstractmethod
    def see(self, states: Sequence[State]) -> Tensor:
        """What is compared with the goal, ``(N, ...)``, of N `states`."""


class SeesPictures(SimulatedModel):
    """Futures of the simulator as latents of their pictures."""

    def see(self, states: Sequence[State]) -> Tensor:
        """Latents ``(N, *Z)``."""
        return self.observer.begin(np.stack([self.twin.picture(state) for state in states])).latent


class SeesStates(SimulatedModel):
    """Futures of the simulator as errors of their states.

    Args:
        agent: as for `SimulatedModel`.
        twin: the same.
        error: how far a state is from the goal's.
    """

    def __init__(self, agent: Agent, twin: GoalImageEnv, error: GoalError) -> None:
        super().__init__(agent, twin)
        self.error, self.goal_state = error, np.empty(0)

    def see(self, states: Sequence[State]) -> Tensor:
        """Errors ``(N,)``."""
        errors = [self.error(state, self.goal_state) for state in states]
        return torch.tensor(errors, dtype=torch.float32, device=self.observer.device)

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """The errors ``(B, S, T)`` themselves."""
        return latents


class SimulatedProposal(ActorProposal):
    """Futures that the actor imagines with its world model, at the costs that they have in the simulator."""

    def __call__(self, objective: ModelObjective, problem: Problem) -> tuple[Tensor, Tensor]:
        """First guesses ``(B, P + 1, T, F*A)`` and their costs in the simulator, ``(B, P + 1)``."""
        guesses, _ = super().__call__(replace(objective, model=self.model, actor=self.actor), problem)
        return guesses, objective(guesses)


class ClairvoyantPolicy:
    """An agent, in one episode at a time, whose planner searches in the futures of the simulator.

    Args:
        agent: the agent, whose planning is changed. Its cost is one of distances only.
        model: the simulator, in the place of its world model.
    """

    def __init__(self, agent: Agent, model: SimulatedModel) -> None:
        self.agent, self.model = agent, model
        proposal = agent.replanner.proposal
        if proposal is not None:
            proposal = SimulatedProposal(proposal.model, proposal.actor, proposal.num_proposals, proposal.bf16)
        agent.decider = replace(agent.replanner, model=model, actor=None, proposal=proposal)

    def begin(self, tasks: Sequence[Task]) -> None:
        """Puts the twin at the start of the one task (`evaluate` calls it)."""
        (task,) = tasks
        self.model.twin.set_state(np.array(task.state))
        if isinstance(self.model, SeesStates):
            self.model.goal_state = np.array(task.goal_state)

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.float32], AgentState]:
        """The agent's action, which the twin executes too."""
        action, state = self.agent.predict(observation, state, episode_start, deterministic)
        self.model.twin.simulate(action[0])
        return action, state


def goal_error(env: GoalImageEnv, tasks: Sequence[Task]) -> GoalError:
    """Mean of the environment's errors, each over its median at the start of `tasks`; 0 where the goal is reached."""
    at_start = [env.errors(np.array(task.state), np.array(task.goal_state)) for task in tasks]
    scales = {name: max(float(np.median([errors[name] for errors in at_start])), 1e-9) for name in at_start[0]}

    def error(state: State, goal_state: State) -> float:
        if env.is_success(state, goal_state):
            return 0.0
        errors = env.errors(state, goal_state)
        return float(np.mean([errors[name] / scale for name, scale in scales.items()]))

    return error

"""Agent as a data policy: it pursues one goal after the other, each of them within reach."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..agent.config import AgentConfig, load_agent
from ..checkpoint import checksum
from ..compatibility import check_compatible
from ..envs import EnvSpec
from ..envs.base import GoalImageEnv
from .config import CollectConfig

if TYPE_CHECKING:
    from ..agent.agent import Agent
    from ..agent.state import AgentState

TRIES = 10
"""Goals drawn before one is accepted for which nothing but the agent has to move."""


class AgentDataPolicy:
    """Agent of a collection, and the sampler of its goals.

    Raises:
        ValueError: unknown planner, or a checkpoint made for another environment.
    """

    def __init__(self, config: CollectConfig) -> None:
        assert config.spec is not None
        self._config, self._agent = config, _load(config)
        self._goals = ReachableGoalSampler(config.spec, config.goal_offset)

    @property
    def origin(self) -> dict[str, Any]:
        """Attributes of the file that identify the agent."""
        settings = {**self._agent.settings(), "planner": asdict(self._agent.planner)}  # type: ignore[call-overload]
        return {
            "checkpoint": checksum(str(self._config.checkpoint)),
            "agent": json.dumps(settings, sort_keys=True),
            "offset": self._config.goal_offset,
        }

    def policy(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> GoalSwitchingPolicy:
        """Policy of the next episode of `env`; its goals are drawn from `rng`."""
        return GoalSwitchingPolicy(env, self._agent, self._goals, rng)

    def close(self) -> None:
        """Closes the environment in which goals are sampled."""
        self._goals.close()


class ReachableGoalSampler:
    """Sampler of goals such as those of tasks: states that scripted play reaches in `offset` environment steps."""

    def __init__(self, spec: EnvSpec, offset: int) -> None:
        self._policy: Any = pkgutil.resolve_name(spec.policies["play"])
        self._offset = offset
        self._env = gym.make(spec.env_id, **spec.no_pixels_kwargs, terminate_on_success=False, disable_env_checker=True)

    def __call__(self, state: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """State that play reaches from `state`: one for which more than the agent has to move, if there is one soon."""
        simulator = cast(GoalImageEnv, self._env.unwrapped)
        for _ in range(TRIES):
            goal = self._play(state, rng)
            if simulator.is_nontrivial(state, goal) and not simulator.is_success(state, goal):
                break
        return goal

    def _play(self, state: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        policy = self._policy(rng)
        policy.reset()
        _, info = self._env.reset(options={"state": state, "goal_state": state})
        for _ in range(self._offset):
            _, _, _, _, info = self._env.step(policy(info))
        reached: NDArray[np.float64] = info["state"]
        return reached

    def close(self) -> None:
        """Closes its environment."""
        self._env.close()


class GoalSwitchingPolicy:
    """Agent in one episode, with a new goal each time that the steps for the last one are used up.

    It resets the recorded environment to its present state with the new goal, in the middle of an episode: frames and
    states of the episode go on without a gap, and only the goal picture changes.

    Args:
        env: recorded environment.
        agent: acting agent; its deadline is the number of steps for a goal.
        goals: sampler of goals.
        rng: source of the goals.
    """

    def __init__(
        self, env: gym.Env[Any, Any], agent: Agent, goals: ReachableGoalSampler, rng: np.random.Generator
    ) -> None:
        assert agent.schedule.deadline_env_steps is not None
        self._env, self._agent, self._goals, self._rng = env, agent, goals, rng
        self._steps_per_goal, self._steps = agent.schedule.deadline_env_steps, 0
        self._state: AgentState | None = None

    def __call__(self, observation: dict[str, NDArray[np.uint8]], info: dict[str, Any]) -> Any:
        """The agent's next action."""
        if self._steps % self._steps_per_goal == 0:
            state = info["state"]
            options = {"state": state, "goal_state": self._goals(state, self._rng)}
            (observation, _), self._state = self._env.reset(options=options), None
        self._steps += 1
        action, self._state = self._agent.predict(observation, self._state)
        return action


def _load(config: CollectConfig) -> Agent:
    """Agent that `config` names; refused where it was trained with other conventions."""
    agent = load_agent(
        AgentConfig(
            env=config.env,
            planner=config.policy,
            checkpoint=config.checkpoint,
            seed=config.seed,
            device=config.device,
            planner_settings=config.planner_settings,
            agent_settings={**config.agent_settings, "deadline_env_steps": 2 * config.goal_offset},
        )
    )
    trained = agent.checkpoint
    check_compatible(
        trained.env,
        trained.env_kwargs,
        config.all_env_kwargs,
        trained_by="the checkpoint was trained with",
        requested_by="this collection has",
        fix=lambda options: f"collect with {options}",
    )
    return agent

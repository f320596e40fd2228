"""An agent that records data: it goes for one goal after the other, each of them within reach."""

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
from ..compatibility import mismatch
from ..envs import ENVS, EnvSpec
from ..envs.base import GoalImageEnv
from ..errors import UserError

if TYPE_CHECKING:
    from ..agent.agent import Agent
    from ..agent.state import AgentState
    from .record import CollectConfig

TRIES = 10  # goals looked at before one is taken for which nothing but the agent has to move


class RecordedAgent:
    """The agent of a collection, and the goals that it goes for.

    Raises:
        ValueError: unknown planner, or a checkpoint made for another environment.
    """

    def __init__(self, config: CollectConfig) -> None:
        assert config.spec is not None
        self._config, self._agent = config, _load(config)
        self._goals = GoalsAhead(config.spec, config.goal_offset)

    @property
    def origin(self) -> dict[str, Any]:
        """Which agent it is, for the file's attributes."""
        settings = {**self._agent.settings(), "planner": asdict(self._agent.planner)}  # type: ignore[call-overload]
        return {
            "checkpoint": checksum(str(self._config.checkpoint)),
            "agent": json.dumps(settings, sort_keys=True),
            "offset": self._config.goal_offset,
        }

    def policy(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> Acting:
        """What it does in the next episode of `env`; its goals are drawn from `rng`."""
        return Acting(env, self._agent, self._goals, rng)

    def close(self) -> None:
        """Closes the environment in which goals are found."""
        self._goals.close()


class GoalsAhead:
    """Goals such as those of tasks: where scripted play, begun anew, gets in `offset` environment steps."""

    def __init__(self, spec: EnvSpec, offset: int) -> None:
        self._policy: Any = pkgutil.resolve_name(spec.policies["play"])
        self._offset = offset
        self._env = gym.make(spec.env_id, **spec.blind, terminate_on_success=False, disable_env_checker=True)

    def __call__(self, state: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """A state that play reaches from `state`; if it does so soon, one for which more than the agent has to move."""
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


class Acting:
    """An agent in one episode; each time that its time for a goal is up, it sets `env` the next.

    Args:
        env: where it acts.
        agent: what acts; its deadline is how long it has for a goal.
        goals: finds goals.
        rng: what they are drawn from.
    """

    def __init__(self, env: gym.Env[Any, Any], agent: Agent, goals: GoalsAhead, rng: np.random.Generator) -> None:
        assert agent.deadline_env_steps is not None
        self._env, self._agent, self._goals, self._rng = env, agent, goals, rng
        self._time, self._steps = agent.deadline_env_steps, 0
        self._state: AgentState | None = None

    def __call__(self, observation: dict[str, NDArray[np.uint8]], info: dict[str, Any]) -> Any:
        """The agent's next action."""
        if self._steps % self._time == 0:
            here = info["state"]
            options = {"state": here, "goal_state": self._goals(here, self._rng)}
            (observation, _), self._state = self._env.reset(options=options), None
        self._steps += 1
        action, self._state = self._agent.predict(observation, self._state)
        return action


def _load(config: CollectConfig) -> Agent:
    """The agent that `config` names, if it sees and acts as the environment does."""
    name = next(name for name, spec in ENVS.items() if spec is config.spec)
    agent = load_agent(
        AgentConfig(
            env=name,
            planner=config.policy,
            checkpoint=config.checkpoint,
            seed=config.seed,
            device=config.device,
            planner_settings=config.planner_settings,
            agent_settings={**config.agent_settings, "deadline_env_steps": 2 * config.goal_offset},
        )
    )
    trained = agent.checkpoint
    differing = mismatch(trained.env, trained.env_kwargs, config.all_env_kwargs)
    if differing is not None:
        raise UserError(
            f"this collection has {differing.given} and the checkpoint was trained with {differing.trained}: "
            f"collect with {differing.options}"
        )
    return agent

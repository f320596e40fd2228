"""An agent refuses environments whose pictures or actions mean something else than in its training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, RescaleAction, TimeLimit, TransformObservation

from lwm_agent import Agent
from lwm_agent.errors import UserError

ENV = "lwm/PushT-v0"


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.load("pusht-tiny", device="cpu")


def larger(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` with an action space that is wider than the simulator's own."""
    return gym.wrappers.TransformAction(env, lambda action: action, gym.spaces.Box(-9, 9, (2,), np.float32))


def pictures_only(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` without the goal in its observation."""
    space = gym.spaces.Dict({"pixels": env.observation_space["pixels"]})  # type: ignore[index]
    return TransformObservation(env, lambda seen: {"pixels": seen["pixels"]}, space)


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: TimeLimit(env, 9)])
def test_environment_of_the_training_data_is_accepted(agent: Agent, wrap: Callable[[Any], Any]) -> None:
    with wrap(gym.make(ENV)) as env:
        agent.check_env(env)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_are_accepted_and_refused(agent: Agent, mode: str) -> None:
    for kwargs, message in (({}, None), ({"control_mode": "absolute"}, "takes actions from")):
        envs = gym.make_vec(f"lwm_agent:{ENV}", num_envs=2, vectorization_mode=mode, **kwargs)
        try:
            if message is None:
                agent.check_env(envs)
            else:
                with pytest.raises(UserError, match=message):
                    agent.check_env(envs)
        finally:
            envs.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RescaleAction(gym.make(ENV), np.float32(0), np.float32(1)), "takes actions from"),
        (lambda: RescaleAction(gym.make(ENV), np.float32(-2), np.float32(2)), "wrapper changes the actions"),
        (lambda: larger(gym.make(ENV)), "wrapper changes the actions"),
        (lambda: gym.make(ENV, control_mode="absolute"), "takes actions from"),
        (lambda: gym.make(ENV, image_size=96), r"uint8 \(96, 96, 3\).*image_size=64"),
        (lambda: FlattenObservation(gym.make(ENV)), "needs a Dict with 'pixels' and 'goal'"),
        (lambda: pictures_only(gym.make(ENV)), "needs a Dict with 'pixels' and 'goal'"),
        (lambda: gym.make("CartPole-v1"), "needs a Dict"),
    ],
)
def test_environment_that_means_something_else_is_refused(
    agent: Agent, make: Callable[[], gym.Env[Any, Any]], message: str
) -> None:
    with make() as env, pytest.raises(UserError, match=message):
        agent.check_env(env)


@pytest.mark.ogbench
def test_another_fidelity_is_refused() -> None:
    agent = Agent.load("cube-tiny", device="cpu")
    with gym.make("lwm/Cube-v0", fidelity="blank") as env, pytest.raises(UserError, match="fidelity"):
        agent.check_env(env)

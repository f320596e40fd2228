"""A check that an environment shows and does what a checkpoint was trained on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..checkpoint import Checkpoint
from ..compatibility import check_compatible, different_env
from ..errors import UserError


def check_env(env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any], checkpoint: Checkpoint) -> None:
    """Compares pictures, actions and conventions of an environment with those of the training data.

    Raises:
        UserError: they differ; the message says in what, and what to do.
    """
    if isinstance(env, gym.vector.VectorEnv):
        observations, actions = env.single_observation_space, env.single_action_space
    else:
        observations, actions = env.observation_space, env.action_space
    _check_pictures(observations, checkpoint.model.image_size)
    _check_actions(actions, checkpoint)
    _check_wrappers(env, actions)
    _check_conventions(env, checkpoint)


def _check_pictures(space: gym.Space[Any], size: int) -> None:
    wanted = (size, size, 3)
    if not isinstance(space, gym.spaces.Dict) or not {"pixels", "goal"} <= space.spaces.keys():
        raise UserError(f"the environment observes {space}: the agent needs a Dict with 'pixels' and 'goal'")
    for name in ("pixels", "goal"):
        if space[name].shape != wanted or space[name].dtype != np.uint8:
            raise UserError(
                f"the environment's {name!r} are {space[name].dtype} {space[name].shape} and the model sees uint8 "
                f"{wanted}: make it with image_size={size}, or resize its pictures"
            )


def _check_actions(space: gym.Space[Any], checkpoint: Checkpoint) -> None:
    units = checkpoint.normalizer
    if units.discrete:
        if not isinstance(space, gym.spaces.Discrete) or (int(space.n), int(space.start)) != (units.action_size, 0):
            raise UserError(f"the environment acts in {space} and the model in Discrete({units.action_size})")
        return
    if not isinstance(space, gym.spaces.Box) or space.shape != (units.action_size,):
        raise UserError(f"the environment acts in {space} and the model in a Box of shape ({units.action_size},)")
    low, high = np.array(units.action_low, np.float32), np.array(units.action_high, np.float32)
    slack = 1e-4 * (high - low)
    if (space.low > low + slack).any() or (space.high < high - slack).any():
        raise UserError(
            f"the environment takes actions from {space.low.tolist()} to {space.high.tolist()} and the model was "
            f"trained on {low.tolist()} to {high.tolist()}: remove wrappers that rescale actions, and make it with the "
            "arguments of the training data, such as control_mode"
        )


def _check_wrappers(env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any], space: gym.Space[Any]) -> None:
    """Refuses action wrappers: an action of the same size then does something else."""
    inner = env.unwrapped
    own = inner.single_action_space if isinstance(inner, gym.vector.VectorEnv) else inner.action_space
    if own != space:
        raise UserError(
            f"a wrapper changes the actions of the environment from {own} to {space}, and the model knows the former; "
            "remove the wrapper"
        )


def _check_conventions(env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any], checkpoint: Checkpoint) -> None:
    if env.spec is None:
        return
    if different_env(checkpoint.env, env.spec.id) is not None:
        raise UserError(f"the checkpoint was trained for {checkpoint.env}, and this environment is {env.spec.id}")
    check_compatible(
        checkpoint.env,
        checkpoint.env_kwargs,
        env.spec.kwargs,
        trained_by="the checkpoint was trained with",
        requested_by="the environment has",
        fix=lambda options: "make it with the arguments that the checkpoint was trained with",
    )

"""Scenery of films: large pictures of states, and where plans lead, beside the environment that is played."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.base import GoalImageEnv, State
from ..envs.variation import Value
from ..errors import UserError

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """Where the simulator says that a plan leads: what the agent itself does not know.

    Attributes:
        ways: places ``(N + 1, 2)`` in pictures of each landmark, from the first environment step to the last.
        pictures: the state after each block, ``(T, h, w, 3)``.
    """

    ways: Mapping[str, NDArray[np.float64]]
    pictures: Frame


class Scenery:
    """A second environment of the kind that is filmed, which only draws and tries out.

    Args:
        env_id: id for ``gymnasium.make``.
        env_kwargs: its arguments.
        size: side of the pictures, px.

    Attributes:
        fps: frames a second, the control rate of the environment.
    """

    def __init__(self, env_id: str, env_kwargs: Mapping[str, Any], size: int) -> None:
        env = gym.make(env_id, disable_env_checker=True, **{**env_kwargs, "image_size": size, "render_mode": None})
        self._env = cast(GoalImageEnv, env.unwrapped)
        self.fps = int(env.metadata["render_fps"])

    def vary(self, variation: Mapping[str, Value]) -> None:
        """Takes up the values of factors that another environment has in an episode."""
        if variation != self._env.variation:
            self._env.reset(options={"variation": dict(variation)})

    def view(self, state: State) -> Frame:
        """Picture ``(size, size, 3)`` of a state, for people."""
        return self._env.view(state)

    def outcome(self, state: State, env_actions: NDArray[Any]) -> Outcome:
        """What the simulator makes of a plan ``(T, F, A)`` from `state` on; it ends where the simulation breaks."""
        env, frameskip = self._env, env_actions.shape[1]
        states = [env.check_state(state, "state")]
        with suppress(UserError):  # at a state that no simulator can go on from
            for reached in env.follow(state, env_actions.reshape(-1, *env_actions.shape[2:])):
                states.append(reached)
        marks = [env.landmarks(each) for each in states]
        ways = {name: np.array([mark[name] for mark in marks]) for name in marks[0]}
        return Outcome(ways, np.stack([env.view(each) for each in states[frameskip::frameskip] or states]))

    def steered(self, state: State, candidates: NDArray[Any]) -> NDArray[np.float64] | None:
        """Ways ``(S, N + 1, 2)`` of the agent that candidates ``(S, T, F, A)`` ask for; None if that is unknown."""
        return self._env.steered(state, candidates.reshape(len(candidates), -1, *candidates.shape[3:]))

"""Policies without a model: the floors under every score, and the ceiling above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from ..envs.base import GoalImageEnv
from .tasks import Task

Actions = NDArray[np.float32]


class NoOpPolicy:
    """Does nothing: zeros, clipped into the action space.

    Args:
        action_space: its space.
        env: environment of the tasks, which says what zeros mean at the start of a task (`scripted_action`).
    """

    def __init__(self, action_space: Box, env: GoalImageEnv | None = None) -> None:
        self._action = np.clip(np.zeros(action_space.shape, np.float32), action_space.low, action_space.high)
        self._env = env

    def begin(self, tasks: Sequence[Task]) -> Actions | None:
        """State for episodes of `tasks`: the action of each, ``(N, A)``; None where it is that of all."""
        if self._env is None:
            return None
        return np.stack([self._env.scripted_action(self._action, np.array(task.state)) for task in tasks])

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Actions, Any]:
        """The same actions ``(N, A)`` each time, for N observations."""
        return np.tile(self._action, (len(observation["pixels"]), 1)) if state is None else state, state


class RandomPolicy:
    """Uniform in the action space.

    Actions follow from `seed`, task (in other loops, the first observation) and step alone, not from the batch.
    """

    def __init__(self, action_space: Box, seed: int = 0) -> None:
        self._space = action_space
        self._seed = seed

    def begin(self, tasks: Sequence[Task]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """State for episodes of `tasks`, identified by their states: the pictures of floors may be black."""
        hashes = [crc32(np.array([task.state, task.goal_state]).tobytes()) for task in tasks]
        return np.array(hashes, np.int64), np.zeros(len(tasks), np.int64)

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Actions, Any]:
        """Actions ``(N, A)``; the state is (hash of the first observation, step), ``(N,)`` each."""
        n = len(observation["pixels"])
        if state is None:
            state, episode_start = (np.zeros(n, np.int64), np.full(n, -1)), np.ones(n, bool)
        hashes, steps = state
        fresh = (
            np.zeros(n, bool) if episode_start is None else episode_start & (steps != 0)
        )  # at step 0, `begin` has set the hashes
        if fresh.any():
            pictures = np.concatenate([observation["pixels"], observation["goal"]], axis=1)
            hashes = np.where(fresh, [crc32(picture.tobytes()) for picture in pictures], hashes)
            steps = np.where(fresh, 0, steps)
        return np.stack([self._draw(*key) for key in zip(hashes, steps, strict=True)]), (hashes, steps + 1)

    def _draw(self, key: int, step: int) -> Actions:
        rng = np.random.default_rng([self._seed, key, step])
        return rng.uniform(self._space.low, self._space.high).astype(np.float32)


class ReplayPolicy:
    """Replays the actions from which each task was cut, then zeros: the least score of a perfect planner.

    `evaluate` calls its `begin` with the tasks.
    """

    def __init__(self, action_space: Box) -> None:
        self._idle = NoOpPolicy(action_space)

    def begin(self, tasks: Sequence[Task]) -> tuple[Actions, NDArray[np.int64]]:
        """State for a batch of N tasks: their actions ``(N, offset, A)`` and the step ``(N,)``."""
        return np.array([task.env_actions for task in tasks], np.float32), np.zeros(len(tasks), np.int64)

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Actions, Any]:
        """The recorded action of each row's step, ``(N, A)``."""
        recorded, steps = state
        idle, _ = self._idle.predict(observation)
        offset = recorded.shape[1]
        action = recorded[np.arange(len(steps)), np.minimum(steps, offset - 1)]
        return np.where(steps[:, None] < offset, action, idle), (recorded, steps + 1)

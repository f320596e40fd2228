"""Scripted play with cubes: ogbench's oracles with targets that change within an episode, and some random motion."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cube_simulator import ENV_TYPES, CubeMarkovOracle, CubePlanOracle, simulator

TABLE_M = 0.02  # height of the centre of a cube that lies on the table
_GLOBAL_GENERATOR = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child must not inherit a lock that another thread holds
    os.register_at_fork(
        before=_GLOBAL_GENERATOR.acquire,
        after_in_parent=_GLOBAL_GENERATOR.release,
        after_in_child=_GLOBAL_GENERATOR.release,
    )


class _OraclePolicy(ABC):
    """A policy whose oracle of ogbench carries a cube to one random target after the other, with random walks between.

    Args:
        rng: source of every choice.
    """

    walk_chance: float  # probability that a random walk begins at a step

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.reset()

    def reset(self) -> None:
        """Forgets the current target; called at the start of an episode."""
        self._steps = 0
        self._walk_steps_left = 0
        self._heading: NDArray[np.float64] = np.zeros(5)
        self._drift: NDArray[np.float64] = np.zeros(5)
        self._oracle: Any = None

    def __call__(self, info: dict[str, Any]) -> NDArray[np.float32]:
        """The next action ``(5,)`` in [-1, 1] for the arm and the cubes of `info`."""
        self._steps += 1
        self._simulator = simulator(len(_cubes(info)))
        if self._walk_steps_left == 0 and self._rng.random() < self.walk_chance:
            self._begin_walk(info)
        if self._walk_steps_left > 0:
            self._walk_steps_left -= 1
            self._drift = 0.8 * self._drift + 0.6 * self._rng.normal(0.0, 0.3, 5)
            action = self._heading + self._drift
        else:
            action = self._oracle_action(info)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    @abstractmethod
    def _new_oracle(self) -> Any:
        """An oracle with a speed and noise of its own."""

    @abstractmethod
    def _perturbed(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """The oracle's action with the noise of this policy."""

    def _begin_walk(self, info: dict[str, Any]) -> None:
        """Starts random motion for up to 1.5 s; a gripper that holds something mostly keeps it."""
        self._oracle = None
        self._walk_steps_left = int(self._rng.integers(5, 30))
        self._drift = np.zeros(5)
        self._heading = self._rng.uniform(-0.6, 0.6, 5)
        if info["proprio/gripper_contact"][0] > 0.5 and self._rng.random() < 0.7:
            self._heading[4] = 0.8

    def _oracle_action(self, info: dict[str, Any]) -> NDArray[np.float64]:
        if self._oracle is None or self._oracle.done:
            cube, place = self._choose_target(info)
            self._target = {
                "privileged/target_block": cube,
                "privileged/target_block_pos": place,
                "privileged/target_block_yaw": self._rng.uniform(0.0, 2 * np.pi, 1),
            }
            self._oracle = self._new_oracle()
            with _global_seed(self._rng):
                self._oracle.reset(None, self._oracle_info(info))
        action: NDArray[np.float64] = self._oracle.select_action(None, self._oracle_info(info))
        return self._perturbed(action)

    def _choose_target(self, info: dict[str, Any]) -> tuple[int, NDArray[np.float64]]:
        """A cube that carries no other cube, and a place for it: on the table, or in half the cases on another cube."""
        cubes = _cubes(info)
        free = [i for i, cube in enumerate(cubes) if not any(_carries(cube, other) for other in cubes)]
        chosen = free[self._rng.integers(len(free))] if len(cubes) > 1 else 0
        bases = [cubes[i] for i in free if i != chosen]
        if bases and self._rng.random() < 0.5:
            return chosen, bases[0] + np.array([0.0, 0.0, 2 * TABLE_M])
        return chosen, np.append(self._rng.uniform(*self._simulator._target_sampling_bounds), TABLE_M)

    def _oracle_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """The entries of ogbench's own info that its oracle reads."""
        return {**info, **self._target, "time": np.array([self._simulator._control_timestep * self._steps])}


class PlayPolicy(_OraclePolicy):
    """ogbench's `play`: follows a planned path of picking and placing, slow or fast, with smooth noise."""

    walk_chance = 0.008

    def _new_oracle(self) -> Any:
        pace = self._rng.uniform(0.22, 0.4)
        return CubePlanOracle(env=self._simulator, segment_dt=pace, noise=self._rng.uniform(0.0, 0.2))

    def _perturbed(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        return action


class NoisyPolicy(_OraclePolicy):
    """ogbench's `noisy`: reacts to the present scene, with noise on each action; one action in ten is random."""

    walk_chance = 0.004

    def _new_oracle(self) -> Any:
        level = self._rng.uniform(0.0, 0.1)
        self._noise_scale = level * np.array([1.0, 1.0, 1.0, 3.0, 10.0])
        return CubeMarkovOracle(env=self._simulator, min_norm=0.4)

    def _perturbed(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._rng.random() < 0.1:
            return self._rng.uniform(-1.0, 1.0, 5)
        return action + self._rng.normal(0.0, self._noise_scale)


def _cubes(info: dict[str, Any]) -> list[NDArray[np.float64]]:
    """Centres of all cubes, m."""
    names = [f"privileged/block_{cube}_pos" for cube in range(max(ENV_TYPES))]
    return [info[name] for name in names if name in info]


def _carries(cube: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """True if `other` lies on `cube`, both centres in m: ogbench's rule."""
    return bool(other[2] > cube[2] and np.linalg.norm(other[:2] - cube[:2]) < 0.02)


def mixed_policy(rng: np.random.Generator) -> _OraclePolicy:
    """`PlayPolicy` in one half of the episodes, `NoisyPolicy` in the other: successes and failures."""
    return PlayPolicy(rng) if rng.random() < 0.5 else NoisyPolicy(rng)


@contextmanager
def _global_seed(rng: np.random.Generator) -> Iterator[None]:
    """Seeds NumPy's global generator from `rng` for a block, and restores it afterwards; other threads wait."""
    seed = int(rng.integers(2**32))
    with _GLOBAL_GENERATOR:
        before = np.random.get_state()  # noqa: NPY002  (ogbench's oracles draw from it)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002

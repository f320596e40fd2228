"""ogbench's cubes as a function of a state and an action, one simulator for all environments of a thread.

mujoco and ogbench are imported here and by modules that import this one first: OpenGL must be chosen before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError, UserError
from .base import State
from .opengl import choose_backend, opengl_errors
from .per_thread import one_per_thread

with suppress(RuntimeError):  # a machine that cannot draw can still simulate
    choose_backend()  # mujoco and dm_control read MUJOCO_GL when they are imported
try:
    with opengl_errors():
        import mujoco
        from ogbench.manipspace.envs.cube_env import CubeEnv as OGBenchCube
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
except ModuleNotFoundError as error:
    raise MachineError(f"the cube needs ogbench, which has wheels for Python 3.10 to 3.12 ({error})") from error

__all__ = ["CubeMarkovOracle", "CubePlanOracle", "CubeSimulator", "Readings", "mujoco", "simulator"]

ARM_JOINTS = 14  # with those of the gripper; a cube has 7 positions and 6 velocities
APART_M = 0.06  # of centres, so that cubes of 4 cm do not touch however they are turned
ENV_TYPES = {1: "single", 2: "double"}  # ogbench's names, by number of cubes

_UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)

Readings = dict[str, NDArray[np.float64]]
"""ogbench's measurements of arm and cube, under its own names, all vectors."""


class CubeSimulator(OGBenchCube):  # type: ignore[misc]  # ogbench has no types
    """ogbench's environment without its own goal, observation and memory.

    A control step is 25 substeps of 2 ms. Each starts from joint positions and velocities alone: the solver's warm
    start, the last controls and the clock are as after a reset, so that the step is a function of state and action.

    Args:
        num_cubes: 1 or 2.
    """

    def __init__(self, num_cubes: int) -> None:
        super().__init__(ENV_TYPES[num_cubes], ob_type="pixels", mode="data_collection", visualize_info=False)
        super().reset(seed=0)  # compiles the model

    def __reduce__(self) -> tuple[Callable[[int], CubeSimulator], tuple[int]]:
        """Copies are the simulator of the thread that copies: a step depends on nothing that a simulator keeps."""
        return simulator, (self._num_cubes,)

    def compute_observation(self) -> None:
        """Returns nothing: `lwm_agent.envs.cube_scene` draws the pictures."""

    def post_step(self) -> None:
        """Makes ogbench report where the gripper is, not where it was a substep ago."""
        mujoco.mj_forward(self._model, self._data)

    def restore(self, state: State) -> Readings:
        """Puts arm and cube into `state`; nothing of the past remains."""
        self._put(state)
        return _readings(self.compute_ob_info())

    def advance(self, state: State, action: NDArray[np.float32]) -> tuple[State, Readings]:
        """The state one control step after `state`.

        Raises `UserError` if the simulation is unstable there: mujoco then resets itself, and says so in a log only.
        """
        self._put(state)
        *_, info = self.step(action)
        if any(self._data.warning[kind].number for kind in _UNSTABLE):
            raise UserError(f"the simulation is unstable in this state: pass one that `info` reported, not {state!r}")
        return self._state(), _readings(info)

    def sample(self, rng: np.random.Generator) -> State:
        """A random scene: the open gripper in the air, the cubes on the table and apart."""
        self.np_random = rng
        super().reset()
        while (
            self._num_cubes == 2 and np.linalg.norm(self._data.qpos[centre(1)] - self._data.qpos[centre(0)]) < APART_M
        ):
            super().reset()  # ogbench draws each place independently
        return self._state()

    def _put(self, state: State) -> None:
        mujoco.mj_resetData(self._model, self._data)
        self.set_state(*np.split(state, [self._model.nq]))

    def _state(self) -> State:
        return np.concatenate([self._data.qpos, self._data.qvel])


def simulator(num_cubes: int = 1) -> CubeSimulator:
    """The simulator of the calling thread: compiling one takes a second or two."""
    return _simulator(num_cubes)


_simulator = one_per_thread(CubeSimulator)


def state_size(num_cubes: int) -> int:
    """Count of the numbers of a state: joint positions, then velocities."""
    return (ARM_JOINTS + 7 * num_cubes) + (ARM_JOINTS + 6 * num_cubes)


def centre(cube: int = 0) -> slice:
    """Columns of a cube's centre in a state, m."""
    return slice(ARM_JOINTS + 7 * cube, ARM_JOINTS + 7 * cube + 3)


def quaternion(cube: int = 0) -> slice:
    """Columns of a cube's orientation in a state: w, x, y, z."""
    return slice(ARM_JOINTS + 7 * cube + 3, ARM_JOINTS + 7 * cube + 7)


def _readings(info: dict[str, Any]) -> Readings:
    return {name: value for name, value in info.items() if name.startswith(("proprio/", "privileged/block_"))}

"""Quantities of recorded frames: those that their environment names, or each number that a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..data.hdf5 import other_columns
from ..data.trajectories import DatasetError, Trajectories
from ..envs import EnvSpec, spec_of
from ..envs.base import GoalImageEnv
from ..envs.quantities import Quantity, numbers_of


class RecordedQuantities:
    """Quantities of the frames of a file.

    A file that was recorded in a registered environment has the quantities of that environment. Of any other file, each
    number of a state is one; and of every file, each number of a column that this package does not know.

    Args:
        file: the file.
    """

    def __init__(self, file: Trajectories) -> None:
        self._file = file
        self._spec = None if file.env_id is None else spec_of(file.env_id)

    def at(self, rows: NDArray[np.int64]) -> dict[str, Quantity]:
        """Quantities of the frames in these rows, ``(N,)``.

        Raises:
            DatasetError: the file holds nothing but pictures and actions.
        """
        quantities: dict[str, Quantity] = {}
        if self._file.state is not None:
            quantities |= self._of_states(self._file.state[rows])
        for name, values in self._others.items():
            quantities |= numbers_of(name, values[rows])
        if not quantities:
            raise DatasetError(
                f"{self._file.path} holds nothing to read from latents: record states with the frames, or any column "
                "of numbers, one row a frame"
            )
        return quantities

    def _of_states(self, states: NDArray[np.float64]) -> Mapping[str, Quantity]:
        if self._spec is None:
            return numbers_of("state", states)
        env = _make(self._spec)
        if states.shape[1] != env.state_size:
            return numbers_of("state", states)
        return env.quantities(states) or _columns(self._spec, states) or numbers_of("state", states)

    @cached_property
    def _others(self) -> dict[str, NDArray[np.float64]]:
        return other_columns(self._file.path)


def _make(spec: EnvSpec) -> GoalImageEnv:
    return cast(GoalImageEnv, gym.make(spec.env_id, disable_env_checker=True, **spec.no_pixels_kwargs).unwrapped)


def _columns(spec: EnvSpec, states: NDArray[np.float64]) -> dict[str, Quantity]:
    """Quantities that were named by columns alone; those called "angle" are in radians."""
    return {
        name: Quantity(values=states[:, list(columns)], period=2 * np.pi if name == "angle" else None)
        for name, columns in spec.probes.items()
    }

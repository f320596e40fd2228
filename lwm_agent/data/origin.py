"""Environment that data of another format are declared to be of, for evaluations to be made in the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs import find_env
from ..errors import UserError
from .attributes import MAX_OUTSIDE, outside
from .config import ConvertConfig


@dataclass(frozen=True)
class Origin:
    """An environment, or none.

    Attributes:
        env_id: id for ``gymnasium.make``.
        env_kwargs: its conventions, defaults included.
        low: lower bounds of its actions, ``(A,)``.
        high: upper bounds of its actions, ``(A,)``.
    """

    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, config: ConvertConfig) -> Origin:
        """The environment that `config` names.

        Raises:
            UserError: there is none of this name, or it takes no such arguments.
        """
        if config.env is None:
            return cls()
        spec = find_env(config.env)
        unknown = sorted(config.env_kwargs.keys() - spec.conventions.keys() | config.env_kwargs.keys() & {"image_size"})
        if unknown:
            names = ", ".join(sorted(spec.conventions.keys() - {"image_size"})) or "none"
            raise UserError(f"--set env.{unknown[0]} says nothing about data of {config.env}: choose from {names}")
        kwargs = {**spec.conventions, "image_size": config.image_size, **config.env_kwargs}
        with gym.make(spec.env_id, disable_env_checker=True, **kwargs) as env:
            space = env.action_space
        bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else (None, None)
        return cls(spec.env_id, kwargs, *bounds)

    def check_frame(self, frame: NDArray[np.uint8], size: int) -> None:
        """Refuses a frame ``(h, w, 3)`` that would be cut or resized: the environment would draw it otherwise."""
        height, width = frame.shape[:2]
        if self.env_id is not None and (height, width) != (size, size):
            fix = f"pass --image-size {height}" if height == width else "leave out --env"
            raise UserError(
                f"the frames are {width} x {height} px, and {self.env_id} would not draw what is left of them at "
                f"{size} px: {fix}"
            )

    def check_actions(self, action: NDArray[np.float32]) -> None:
        """Refuses actions ``(n, A)`` that are of another unit than those of the environment."""
        if self.low is None or self.high is None or action.shape[1] != len(self.low):
            return  # the writer compares the sizes
        if np.mean(outside(action, self.low, self.high)) > MAX_OUTSIDE:
            ours = ", ".join(f"{name}={value!r}" for name, value in self.env_kwargs.items() if name != "image_size")
            raise UserError(
                f"actions go from {action.min(0).tolist()} to {action.max(0).tolist()}, and with {ours} those of "
                f"{self.env_id} from {self.low.tolist()} to {self.high.tolist()}: say what they mean by "
                "--set env.NAME=VALUE"
            )

"""The times at which an agent looks, plans and acts, for episodes of any age."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """Receding-horizon planning in environment steps. Ages ``(B,)`` are environment steps since an episode began.

    Args:
        frameskip: F.
        horizon: T, blocks that a plan looks ahead.
        replan_every_env_steps: environment steps executed before planning again; None is a block.
        deadline_env_steps: environment steps of an episode; None if that is not known.

    Raises:
        UserError: a value out of range.
    """

    frameskip: int
    horizon: int
    replan_every_env_steps: int
    deadline_env_steps: int | None

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise UserError(f"horizon={self.horizon} must be at least 1")
        longest = self.horizon * self.frameskip
        if not 1 <= self.replan_every_env_steps <= longest:
            raise UserError(
                f"replan_every_env_steps={self.replan_every_env_steps} must be from 1 to {longest}, "
                "the length of a plan"
            )
        if self.deadline_env_steps is not None and self.deadline_env_steps < 1:
            raise UserError(f"deadline_env_steps={self.deadline_env_steps} must be positive, or None for no deadline")

    @property
    def num_phases(self) -> int:
        """Beliefs kept of an episode: one, or F of them where plans begin between two blocks."""
        return self.frameskip if self.replan_every_env_steps % self.frameskip else 1

    def phases(self, ages: Steps) -> Steps:
        """Number of the belief that the present frame belongs to: its last frame came a block earlier."""
        return ages % self.frameskip if self.num_phases > 1 else np.zeros_like(ages)

    def looks(self, ages: Steps) -> NDArray[np.bool_]:
        """True for episodes whose present frame enters a belief, ``(B,)``."""
        return np.ones(len(ages), bool) if self.num_phases > 1 else ages % self.frameskip == 0

    def blocks_left(self, ages: Steps) -> NDArray[np.float64]:
        """Blocks until the deadline, at least one; infinitely many without a deadline."""
        if self.deadline_env_steps is None:
            return np.full(len(ages), math.inf)
        return np.maximum(1, np.ceil((self.deadline_env_steps - ages) / self.frameskip))

    def horizons(self, ages: Steps) -> Steps:
        """Blocks to look ahead: none that begins after the deadline, where nothing that happens counts any more."""
        return np.minimum(self.horizon, self.blocks_left(ages)).astype(np.int64)

    def steps_to_execute(self, ages: Steps) -> Steps:
        """Environment steps to execute before planning again; the last block is executed whole."""
        usual = np.minimum(self.replan_every_env_steps, self.horizons(ages) * self.frameskip)
        return np.where(self.blocks_left(ages) == 1, self.frameskip, usual)

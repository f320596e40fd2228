"""Batches as world models train on them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.clips import UNRELATED, Clips
from ..normalizer import Normalizer
from ..protocols import Batch


def to_batch(clips: Clips, normalizer: Normalizer, device: torch.device) -> Batch:
    """Raw clips as a batch on `device`; pictures travel in uint8, a quarter of their size as floats."""
    return Batch(
        pixels=normalizer.pixels(clips.pixels, device),
        actions=normalizer.blocks(clips.env_action, device),
        state=None if clips.state is None else torch.from_numpy(clips.state).float().to(device),  # MPS has no float64
        goal=None if clips.goal is None else normalizer.pixels(clips.goal, device),
        goal_steps=None if clips.goal_steps is None else _steps(torch.from_numpy(clips.goal_steps).to(device)),
        reward=None if clips.reward is None else torch.from_numpy(clips.reward).to(device),
    )


def _steps(goal_steps: Tensor) -> Tensor:
    """Environment steps to goals ``(B,)``, infinitely many to those of another trajectory."""
    return goal_steps.float().masked_fill(goal_steps == UNRELATED, torch.inf)

"""The one place where pictures and actions change units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import UserError


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Units of a checkpoint: pictures to tensors, environment actions to normalised blocks and back.

    Attributes:
        pixel_mean: mean of each colour over the training frames, on the scale [0, 1].
        pixel_std: standard deviation of each colour.
        action_mean: mean of each of the A environment actions.
        action_std: standard deviation of each.
        action_low: smallest action that may be planned: the environment's bound, or the smallest of the data if that is
            tighter.
        action_high: largest action that may be planned.
        discrete: whether actions are one-hot, of a Discrete space; what the environment takes is then their index.
    """

    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    discrete: bool = False

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if name != "discrete":
                object.__setattr__(self, name, _finite(name, values))
        if not isinstance(self.discrete, bool):
            raise UserError(f"discrete={self.discrete!r} must be True or False")
        self._check()

    def _check(self) -> None:
        """Refuses lists of different lengths, scales that are not positive, and bounds that contradict each other."""
        for name, values in vars(self).items():
            axis = "pixel_mean" if name.startswith("pixel") else "action_mean"
            if name != "discrete" and len(values) != len(getattr(self, axis)):
                raise UserError(f"{name} has {len(values)} numbers and {axis} has {len(getattr(self, axis))}")
        if min((*self.pixel_std, *self.action_std)) <= 0:
            raise UserError(f"standard deviations must be positive: pixels {self.pixel_std}, actions {self.action_std}")
        for index, (low, high) in enumerate(zip(self.action_low, self.action_high, strict=True)):
            if low >= high:
                raise UserError(
                    f"action_low[{index}]={low} must be below action_high[{index}]={high}: either this action never "
                    "changes in the data, or the data and the declared bounds have different units (control_mode)"
                )

    @property
    def action_size(self) -> int:
        """A."""
        return len(self.action_mean)

    def pixels(self, frames: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
        """Frames ``(..., h, w, C)`` in uint8 to a normalised tensor ``(..., C, h, w)``."""
        if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != len(self.pixel_mean):
            raise UserError(
                f"frames must be uint8 (..., h, w, {len(self.pixel_mean)}), not {frames.dtype} {frames.shape}"
            )
        scale = torch.tensor(self.pixel_std, dtype=torch.float32, device=device) * 255.0
        shift = torch.tensor(self.pixel_mean, dtype=torch.float32, device=device) * 255.0
        tensor = torch.from_numpy(frames).to(device)
        return ((tensor - shift) / scale).movedim(-1, -3)

    def frames(self, pixels: Tensor) -> NDArray[np.uint8]:
        """A normalised tensor ``(..., C, h, w)`` to frames ``(..., h, w, C)`` in uint8, clipped to their range."""
        scale, shift = (
            255.0 * torch.tensor(values, dtype=torch.float32, device=pixels.device)
            for values in (self.pixel_std, self.pixel_mean)
        )
        shown = (pixels.detach().float().movedim(-3, -1) * scale + shift).round().clamp(0, 255)
        frames: NDArray[np.uint8] = shown.byte().cpu().numpy()
        return frames

    def blocks(self, env_actions: NDArray[np.float32], device: torch.device | str = "cpu") -> Tensor:
        """Environment actions ``(..., F, A)`` to normalised action blocks ``(..., F*A)``."""
        actions = torch.from_numpy(np.ascontiguousarray(env_actions, dtype=np.float32)).to(device)
        return self._normalize(actions).flatten(-2)

    def env_actions(self, blocks: Tensor) -> NDArray[Any]:
        """Normalised blocks ``(..., F*A)`` to environment actions: ``(..., F, A)`` inside the bounds, or ``(..., F)``
        indices of discrete ones.
        """
        actions = blocks.detach().float().cpu().unflatten(-1, (-1, self.action_size)).numpy()
        actions = actions * np.array(self.action_std, np.float32) + np.array(self.action_mean, np.float32)
        if self.discrete:
            return actions.argmax(axis=-1)
        return np.clip(actions, np.array(self.action_low, np.float32), np.array(self.action_high, np.float32))

    def bounds(self, frameskip: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Lower and upper bound of a normalised block, each ``(F*A,)``."""
        low, high = (
            self._normalize(torch.tensor(bound, dtype=torch.float32, device=device)).repeat(frameskip)
            for bound in (self.action_low, self.action_high)
        )
        return low, high

    def _normalize(self, actions: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=actions.device)
            for values in (self.action_mean, self.action_std)
        )
        return (actions - mean) / std


def _finite(name: str, values: Any) -> tuple[float, ...]:
    """Tuple of at least one finite number."""
    try:
        numbers = tuple(float(value) for value in values if not isinstance(value, bool | str))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={values!r} must be a list of numbers") from error
    if not numbers or len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name}={values!r} must be finite numbers, at least one")
    return numbers

"""Scripted play on Push-T: data from which a world model learns the effect of pushing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pusht import RELATIVE_SCALE
from .pusht_geometry import AGENT_RADIUS, WORLD

# Outward normal, mid-point and half the usable length of each of the T's eight faces, in the block's frame (px).
_FACES = (
    ((0.0, -1.0), (0.0, 0.0), 55.0),  # top of the bar
    ((1.0, 0.0), (60.0, 15.0), 12.0),  # right end of the bar
    ((-1.0, 0.0), (-60.0, 15.0), 12.0),  # left end of the bar
    ((0.0, 1.0), (38.0, 30.0), 20.0),  # under the bar, right of the stem
    ((0.0, 1.0), (-38.0, 30.0), 20.0),  # under the bar, left of the stem
    ((1.0, 0.0), (15.0, 80.0), 38.0),  # right side of the stem
    ((-1.0, 0.0), (-15.0, 80.0), 38.0),  # left side of the stem
    ((0.0, 1.0), (0.0, 120.0), 12.0),  # foot of the stem
)
_CENTER = (0.0, 45.0)  # centre of gravity, px: the centre of detours
_REACH = 85.0 + AGENT_RADIUS  # px from the centre: there the agent passes every corner of the block
_MARGIN = 30.0  # px between targets and walls


class PlayPolicy:
    """Approaches, circles and pushes the block from all sides, fast and slow, with noise (relative actions only).

    A push chooses a face of the T, a point on it and a speed, goes around the block to that point and pushes for a
    random time, turning slowly. Between pushes the agent sometimes wanders off or circles the block.

    Args:
        rng: source of every choice.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.reset()

    def reset(self) -> None:
        """Forgets the current push; called at the start of an episode."""
        self._mode = "choose"
        self._steps_left = 0
        self._noise = np.zeros(2)
        self._noise_scale = self._rng.uniform(0.0, 0.12)

    def __call__(self, info: dict[str, Any]) -> NDArray[np.float32]:
        """The next action ``(2,)`` in [-1, 1] for the state in `info`."""
        x, y, block_x, block_y, angle = map(float, info["state"][:5])
        if self._steps_left <= 0:
            self._next_mode(block_x, block_y, angle)
        self._steps_left -= 1
        if self._mode == "approach":
            dx, dy = self._approach(x, y, block_x, block_y, angle)
        elif self._mode == "push":
            dx, dy = self._push(block_x, block_y, angle)
        else:
            dx, dy = self._wander(x, y, block_x, block_y, angle)
        self._noise = 0.8 * self._noise + 0.6 * self._noise_scale * self._rng.standard_normal(2)
        action = np.array([dx, dy]) / RELATIVE_SCALE + self._noise
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _next_mode(self, block_x: float, block_y: float, angle: float) -> None:
        chance = self._rng.random()
        if self._mode == "approach" or chance < 0.15:  # it took too long: the path may be blocked
            self._mode = "wander"
        elif chance < 0.25:
            self._mode = "circle"
        else:
            self._mode = "approach"
            self._choose_push(block_x, block_y, angle)
        self._steps_left = int(self._rng.integers(4, 14))
        self._speed = self._rng.uniform(10.0, 90.0)
        if self._mode == "approach":
            self._steps_left = 40
            self._speed = self._rng.uniform(50.0, 100.0)
        self._goal = self._rng.uniform(_MARGIN, WORLD - _MARGIN, 2)
        self._turn = math.copysign(1.0, self._rng.random() - 0.5)

    def _choose_push(self, block_x: float, block_y: float, angle: float) -> None:
        """Draws a face, a point on it and a direction; prefers those that keep the block on the table."""
        for _ in range(6):
            self._normal, (mid_x, mid_y), half = _FACES[self._rng.integers(len(_FACES))]
            along = self._rng.uniform(-half, half)
            self._contact = mid_x + along * abs(self._normal[1]), mid_y + along * abs(self._normal[0])
            self._slant = self._rng.normal(0.0, 0.3)
            self._bend = self._rng.normal(0.0, 0.03)
            start_x, start_y = self._to_world(self._start_point(), block_x, block_y, angle)
            dx, dy = self._direction(angle)
            end_x, end_y = block_x + 80 * dx, block_y + 80 * dy
            reachable = _MARGIN < start_x < WORLD - _MARGIN and _MARGIN < start_y < WORLD - _MARGIN
            if reachable and 90 < end_x < WORLD - 90 and 90 < end_y < WORLD - 90:
                return

    def _start_point(self) -> tuple[float, float]:
        clearance = AGENT_RADIUS + 6.0
        return self._contact[0] + clearance * self._normal[0], self._contact[1] + clearance * self._normal[1]

    def _direction(self, angle: float) -> tuple[float, float]:
        heading = math.atan2(-self._normal[1], -self._normal[0]) + angle + self._slant
        return math.cos(heading), math.sin(heading)

    @staticmethod
    def _to_world(point: tuple[float, float], block_x: float, block_y: float, angle: float) -> tuple[float, float]:
        cos, sin = math.cos(angle), math.sin(angle)
        return block_x + cos * point[0] - sin * point[1], block_y + sin * point[0] + cos * point[1]

    def _approach(self, x: float, y: float, block_x: float, block_y: float, angle: float) -> tuple[float, float]:
        """Displacement (px) to the start of the push: straight if the path is free, else around the block."""
        target_x, target_y = self._to_world(self._start_point(), block_x, block_y, angle)
        dx, dy = target_x - x, target_y - y
        distance = math.hypot(dx, dy)
        if distance < 12.0:
            self._mode = "push"
            self._steps_left = int(self._rng.integers(5, 20))
            self._speed = math.exp(self._rng.uniform(math.log(5.0), math.log(35.0)))
            return self._push(block_x, block_y, angle)
        center = self._to_world(_CENTER, block_x, block_y, angle)
        if self._blocked(x, y, target_x, target_y, center):
            return self._orbit(x, y, center, target_x, target_y)
        speed = min(self._speed, 2.0 * distance)
        return speed * dx / distance, speed * dy / distance

    @staticmethod
    def _blocked(x: float, y: float, target_x: float, target_y: float, center: tuple[float, float]) -> bool:
        """True if agent and target lie on different sides of the block, seen from its centre."""
        first = math.atan2(y - center[1], x - center[0])
        second = math.atan2(target_y - center[1], target_x - center[0])
        return abs((second - first + math.pi) % (2 * math.pi) - math.pi) > 0.6

    def _orbit(
        self, x: float, y: float, center: tuple[float, float], target_x: float, target_y: float
    ) -> tuple[float, float]:
        """Displacement (px) along the circle that clears the block, in the shorter direction to the target."""
        bearing = math.atan2(y - center[1], x - center[0])
        wanted = math.atan2(target_y - center[1], target_x - center[0])
        ahead = bearing + 0.7 * math.copysign(1.0, (wanted - bearing + math.pi) % (2 * math.pi) - math.pi)
        next_x = min(max(center[0] + _REACH * math.cos(ahead), 22.0), WORLD - 22.0)
        next_y = min(max(center[1] + _REACH * math.sin(ahead), 22.0), WORLD - 22.0)
        dx, dy = next_x - x, next_y - y
        distance = math.hypot(dx, dy) + 1e-9
        return self._speed * dx / distance, self._speed * dy / distance

    def _push(self, block_x: float, block_y: float, angle: float) -> tuple[float, float]:
        self._slant += self._bend
        dx, dy = self._direction(angle)
        x, y = self._to_world(_CENTER, block_x, block_y, angle)
        if self._leaves_table(x, dx) or self._leaves_table(y, dy):
            self._steps_left = 0
            return 0.0, 0.0
        return self._speed * dx, self._speed * dy

    @staticmethod
    def _leaves_table(position: float, direction: float) -> bool:
        """True if a push in `direction` squeezes a block with its centre at `position` (px) into a wall."""
        return (position < 95.0 and direction < -0.2) or (position > WORLD - 95.0 and direction > 0.2)

    def _wander(self, x: float, y: float, block_x: float, block_y: float, angle: float) -> tuple[float, float]:
        if self._mode == "circle":
            center = self._to_world(_CENTER, block_x, block_y, angle)
            bearing = math.atan2(y - center[1], x - center[0]) + self._turn
            return self._orbit(x, y, center, center[0] + math.cos(bearing), center[1] + math.sin(bearing))
        dx, dy = self._goal[0] - x, self._goal[1] - y
        distance = math.hypot(dx, dy) + 1e-9
        speed = min(self._speed, distance)
        return speed * dx / distance, speed * dy / distance


class NoisyPolicy(PlayPolicy):
    """`PlayPolicy` with correlated noise of changing size on its actions, as in the candidates of planners."""

    def reset(self) -> None:
        """Forgets the current push; called at the start of an episode."""
        super().reset()
        self._shake = np.zeros(2)
        self._shake_steps_left = 0

    def __call__(self, info: dict[str, Any]) -> NDArray[np.float32]:
        """The next action ``(2,)`` in [-1, 1] for the state in `info`."""
        if self._shake_steps_left <= 0:
            self._shake_steps_left = int(self._rng.integers(5, 30))
            self._shake_scale = self._rng.uniform(0.0, 0.45)
        self._shake_steps_left -= 1
        # AR(1) noise, as in the candidates of planners (planners/sampling.py).
        self._shake = 0.7 * self._shake + math.sqrt(1 - 0.7**2) * self._rng.standard_normal(2)
        action = super().__call__(info) + self._shake_scale * self._shake
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def mixed_policy(rng: np.random.Generator) -> PlayPolicy:
    """`PlayPolicy` in one half of the episodes, `NoisyPolicy` in the other."""
    return PlayPolicy(rng) if rng.random() < 0.5 else NoisyPolicy(rng)

"""An environment of your own: a point that walks through the door of a wall, and the policy that collects its data.

Collect, train, make tasks and evaluate, from the folder of this file (docs/data.md goes through it)::

    lwm-agent collect --env room:Room-v0 --episodes 400 --episode-env-steps 100 --out room.h5
    lwm-agent train --env room:Room-v0 --data room.h5 --batch-size 64 --steps 600 --out runs/room
    lwm-agent train-heads --checkpoint runs/room/checkpoint --data room.h5 --steps 1000
    lwm-agent tasks --env room:Room-v0 --episodes 50 --out room.json
    lwm-agent eval --env room:Room-v0 --checkpoint runs/room/checkpoint --tasks room.json --video 3
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from lwm_agent import GoalImageEnv, register_env

WALL, DOOR, STEP = 0.5, (0.4, 0.6), 0.04  # in units of the room: x of the wall, y of the door, length of a step


class RoomEnv(GoalImageEnv):
    """A room of side 1: the state is a place ``(x, y)``, an action a displacement of at most `STEP` along each axis."""

    state_size = 2

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def sample_state(self) -> NDArray[np.float64]:
        return self.np_random.uniform(0.05, 0.95, 2)

    def simulate(self, action: NDArray[np.float32]) -> None:
        x, y = place = np.clip(self.get_state() + STEP * action, 0.05, 0.95)
        crosses = (self.get_state()[0] < WALL) != (x < WALL)
        self._state = self.get_state() if crosses and not DOOR[0] < y < DOOR[1] else place

    def picture(self, state: NDArray[np.float64]) -> NDArray[np.uint8]:
        y, x = (np.indices((self.image_size, self.image_size)) + 0.5) / self.image_size
        picture = np.full((self.image_size, self.image_size, 3), 240, np.uint8)
        picture[(np.abs(x - WALL) < 0.02) & ((y < DOOR[0]) | (y > DOOR[1]))] = (90, 90, 100)
        picture[np.hypot(x - state[0], y - state[1]) < 0.05] = (65, 105, 225)
        return picture

    def is_success(self, state: NDArray[np.float64], goal_state: NDArray[np.float64]) -> bool:
        return bool(np.linalg.norm(state - goal_state) < 0.06)


class Stroll:
    """Walks towards one random place after the other, through the door where it lies on the way."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.reset()

    def reset(self) -> None:
        self._target = self._rng.uniform(0.05, 0.95, 2)

    def __call__(self, info: dict[str, Any]) -> NDArray[np.float32]:
        place = info["state"]
        if np.linalg.norm(self._target - place) < STEP:
            self.reset()
        aim = self._target
        if (place[0] < WALL) != (aim[0] < WALL) and not DOOR[0] < place[1] < DOOR[1]:
            aim = np.array([place[0], np.mean(DOOR)])
        noise = self._rng.normal(0.0, 0.3, 2)
        return np.clip((aim - place) / STEP + noise, -1.0, 1.0).astype(np.float32)


register_env("Room-v0", RoomEnv, max_episode_steps=100, policies={"play": Stroll})

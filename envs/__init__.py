"""Environments: Gymnasium and simulators only, no torch. A new environment is a file and an entry of `ENVS`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym

from ..errors import UserError

PLAY = "play"
"""The scripted policy that every environment has."""


@dataclass(frozen=True)
class EnvSpec:
    """An environment of the package: its Gymnasium id, its class and the scripted policies that collect its data.

    The class is a `GoalImageEnv`, which lists what a class provides.

    Attributes:
        env_id: id for ``gymnasium.make``.
        entry_point: its class, ``module:class``.
        max_episode_steps: limit of an episode, in environment steps.
        policies: scripted data policies, name to ``module:class`` or ``module:function``. Each is called with a NumPy
            generator and returns an object with ``reset()`` that maps an ``info`` to an action inside the Box. One is
            called "play" (`PLAY`): tasks, and the goals of recorded agents, are states that it reaches.
        probes: quantities that training monitors predict, name to columns of ``info["state"]``; columns called
            ``angle`` are predicted as sine and cosine.
        no_pixels_kwargs: arguments with which the environment is fastest, for callers that never look at pictures.
        conventions: arguments that decide what is observed and what an action means, with their defaults. A world
            model holds for one choice of them. All other arguments only judge, limit or film an episode.
    """

    env_id: str
    entry_point: str
    max_episode_steps: int
    policies: dict[str, str]
    probes: dict[str, tuple[int, ...]]
    no_pixels_kwargs: dict[str, Any]
    conventions: dict[str, Any]

    def __post_init__(self) -> None:
        if PLAY not in self.policies:
            raise UserError(f"{self.env_id} has no policy {PLAY!r}, only {sorted(self.policies)}: tasks need one")
        if self.max_episode_steps < 1:
            raise UserError(f"{self.env_id}: max_episode_steps={self.max_episode_steps} must be at least 1")
        for place in (self.entry_point, *self.policies.values()):
            if place.count(":") != 1:
                raise UserError(f"{self.env_id}: {place!r} must name a module and an object, module:object")


_CUBE = EnvSpec(
    env_id="lwm/Cube-v0",
    entry_point="lwm_agent.envs.cube:CubeEnv",
    max_episode_steps=200,
    policies={
        "play": "lwm_agent.envs.cube_play:PlayPolicy",
        "noisy": "lwm_agent.envs.cube_play:NoisyPolicy",
        "mixed": "lwm_agent.envs.cube_play:mixed_policy",
    },
    probes={"cube": (14, 15, 16), "arm": (0, 1, 2, 3, 4, 5), "gripper": (6,)},
    no_pixels_kwargs={"image_size": 16, "fidelity": "blank"},
    conventions={"image_size": 64, "fidelity": "lite", "shadows": True},
)

ENVS = {
    "pusht": EnvSpec(
        env_id="lwm/PushT-v0",
        entry_point="lwm_agent.envs.pusht:PushTEnv",
        max_episode_steps=300,
        policies={
            "play": "lwm_agent.envs.pusht_play:PlayPolicy",
            "noisy": "lwm_agent.envs.pusht_play:NoisyPolicy",
            "mixed": "lwm_agent.envs.pusht_play:mixed_policy",
        },
        probes={"agent": (0, 1), "block": (2, 3), "angle": (4,)},
        no_pixels_kwargs={"image_size": 16},
        conventions={"image_size": 64, "control_mode": "relative"},
    ),
    "cube": _CUBE,
    "cube-double": replace(
        _CUBE,
        env_id="lwm/CubeDouble-v0",
        entry_point="lwm_agent.envs.cube:CubeDoubleEnv",
        max_episode_steps=400,
        probes={**_CUBE.probes, "second cube": (21, 22, 23)},
    ),
}


def spec_of(env: str) -> EnvSpec | None:
    """The entry of `ENVS` with this name or Gymnasium id, None if there is none."""
    return next((spec for name, spec in ENVS.items() if env in (name, spec.env_id)), None)


def register() -> None:
    """Registers every environment with Gymnasium; calling it again changes nothing."""
    for spec in ENVS.values():
        if spec.env_id not in gym.registry:
            gym.register(spec.env_id, spec.entry_point, max_episode_steps=spec.max_episode_steps)

"""Environments: Gymnasium and simulators only, no torch. A new one is a file and a line of `ENVS`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym


@dataclass(frozen=True)
class EnvSpec:
    """How the command line's name of an environment maps to Gymnasium.

    Attributes:
        env_id: id for ``gymnasium.make``.
        entry_point: its class.
        max_episode_steps: limit of an episode, in environment steps.
        policies: scripted data policies, name to ``module:class`` or function; each is called with a NumPy generator.
        probes: what privileged state the training monitors read out, name to columns of ``info["state"]``;
            columns called ``angle`` are read out as sine and cosine.
        blind: arguments with which it is fastest, for those who never look at its pictures.
        conventions: arguments that decide what is seen and what an action does, with their defaults: a world model
            holds for one choice of them. All others only judge, limit or film an episode.
    """

    env_id: str
    entry_point: str
    max_episode_steps: int
    policies: dict[str, str]
    probes: dict[str, tuple[int, ...]]
    blind: dict[str, Any]
    conventions: dict[str, Any]


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
    blind={"image_size": 16, "fidelity": "blank"},
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
        blind={"image_size": 16},
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
    """The package's own environment of this name or Gymnasium id, if there is one."""
    return next((spec for name, spec in ENVS.items() if env in (name, spec.env_id)), None)


def register() -> None:
    """Registers every environment with Gymnasium; calling it again changes nothing."""
    for spec in ENVS.values():
        if spec.env_id not in gym.registry:
            gym.register(spec.env_id, spec.entry_point, max_episode_steps=spec.max_episode_steps)

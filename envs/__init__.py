"""Environments: Gymnasium and simulators only, no torch. A new environment is a file and an entry of `ENVS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from ..errors import UserError
from ..imports import import_named, import_requested
from .opengl import prepare_drawing

if TYPE_CHECKING:
    from .base import GoalImageEnv

PLAY = "play"
"""The scripted policy that every environment has."""


@dataclass(frozen=True)
class EnvSpec:
    """A registered environment: its Gymnasium id, its class and the scripted policies that collect its data.

    The class is a `GoalImageEnv`, which lists what a class provides.

    Attributes:
        env_id: id for ``gymnasium.make``.
        entry_point: its class, ``module:class``.
        max_episode_steps: limit of an episode, in environment steps.
        policies: scripted data policies, name to ``module:class`` or ``module:function``. Each is called with a NumPy
            generator and returns an object with ``reset()`` that maps an ``info`` to an action inside the Box, or to
            None where the episode is over, after its first step. One is called "play" (`PLAY`): tasks, and the goals of
            recorded agents, are states that it reaches.
        probes: quantities that training monitors predict, name to columns of ``info["state"]``; columns called
            ``angle`` are predicted as sine and cosine. `GoalImageEnv.quantities` names more, with units, for
            ``lwm-agent probe``.
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
            "expert": "lwm_agent.envs.pusht_expert:ExpertPolicy",
        },
        probes={"agent": (0, 1), "block": (2, 3), "angle": (4,)},
        no_pixels_kwargs={"image_size": 16},
        conventions={"image_size": 64, "look": "plain", "control_mode": "relative"},
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
    """The entry of `ENVS` with this name or Gymnasium id, None if there is none.

    Nothing is imported, so that `env` may come from a file: of ``module:Name-v0``, only the name counts.
    """
    name = env.rpartition(":")[2]
    return next((spec for key, spec in ENVS.items() if name in (key, spec.env_id)), None)


def find_env(env: str) -> EnvSpec:
    """The environment that a user asks for: a name of `ENVS`, a Gymnasium id, or ``module:Name-v0``.

    The latter imports a module, which registers it, as `gymnasium.make` does.

    Raises:
        UserError: there is no such module, or no such environment is registered.
    """
    import_env(env)
    spec = spec_of(env)
    if spec is None:
        raise UserError(
            f"env={env!r} is unknown: choose one of {', '.join(ENVS)}, or MODULE:NAME of a module of yours that calls "
            "lwm_agent.register_env"
        )
    return spec


def import_env(env: str) -> None:
    """Imports the module of ``module:Name-v0``, or what was asked for where a name is not registered.

    An environment that is not one of ours may draw with MuJoCo: it can do so without a display afterwards.

    Raises:
        UserError: there is no such module.
    """
    module, colon, _ = env.rpartition(":")
    if not colon and spec_of(env) is not None:
        return
    prepare_drawing()
    if colon:
        import_named(module, f"env={env!r}")
    else:
        import_requested()


def name_of(env: str) -> str:
    """The name of an environment in `ENVS`; `env` itself if it is not registered."""
    spec = spec_of(env)
    return next((name for name, other in ENVS.items() if other is spec), env)


def register_env(
    env_id: str,
    env: type[GoalImageEnv],
    *,
    max_episode_steps: int,
    policies: Mapping[str, Callable[..., Any]],
    probes: Mapping[str, tuple[int, ...]] | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> None:
    """Registers an environment of your own, with Gymnasium and for all commands: ``--env MODULE:ENV_ID``.

    Call it where the module of the environment ends; calling it again with the same arguments changes nothing.

    Args:
        env_id: id for ``gymnasium.make``, such as "Room-v0".
        env: its class.
        max_episode_steps: limit of an episode, in environment steps.
        policies: scripted data policies by their names, classes or functions of a module. Each is called with a NumPy
            generator and returns an object with ``reset()`` that maps an ``info`` to an action. One is called "play":
            tasks are states that it reaches.
        probes: quantities that training monitors predict, name to columns of ``info["state"]``.
        conventions: arguments of `env` that decide what is observed and what an action means, with their defaults,
            beside `image_size`.

    Raises:
        UserError: the id is taken or is none of Gymnasium's, or there is no policy "play".
    """
    if not re.fullmatch(r"([\w-]+/)?[\w.-]+-v\d+", env_id):
        raise UserError(f"env_id={env_id!r} is no id of Gymnasium: write Name-v0 or namespace/Name-v0")
    spec = EnvSpec(
        env_id=env_id,
        entry_point=_place(env),
        max_episode_steps=max_episode_steps,
        policies={name: _place(policy) for name, policy in policies.items()},
        probes=dict(probes or {}),
        no_pixels_kwargs={"image_size": 16},
        conventions={"image_size": 64, **(conventions or {})},
    )
    if ENVS.get(env_id, spec) != spec or (env_id in gym.registry and env_id not in ENVS):
        raise UserError(f"env_id={env_id!r} is registered already: choose another one")
    ENVS[env_id] = spec
    register()


def _place(thing: Callable[..., Any]) -> str:
    """``module:name`` of a class or function."""
    name = getattr(thing, "__qualname__", "")
    if not name or "<" in name:
        raise UserError(f"{thing!r} must be a class or a function of a module, which other processes can import")
    return f"{thing.__module__}:{name}"


def register() -> None:
    """Registers every environment with Gymnasium; calling it again changes nothing."""
    for spec in ENVS.values():
        if spec.env_id not in gym.registry:
            gym.register(spec.env_id, spec.entry_point, max_episode_steps=spec.max_episode_steps)

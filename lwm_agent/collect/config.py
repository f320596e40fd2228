"""Settings of a collection. Importing this module imports neither torch nor a simulator nor HDF5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..agent.config import trained_env
from ..envs import ENVS, EnvSpec, import_env, spec_of
from ..envs.shifts import GENERAL, OWN_SHIFTS, parse_shift
from ..errors import UserError
from ..validation import Choices, Config, Count, Option, Range, Seed

TRAINABLE = {"tiny": 16, "base": 14}
"""Number of which `image_size` must be a multiple, for the encoder of each preset of a model."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig(Config):
    """Settings of a collection. The file depends on all of them but `out`, `workers` and `overwrite`.

    The actions of an agent depend on the rounding of its sums too: on the processor, and on whether the agent has all
    of it (`workers` 1) or one thread.

    Attributes:
        out: HDF5 file to write.
        env: a name of `ENVS`, or any Gymnasium id; the latter is filmed by ``render()``. ``module:Name-v0`` imports a
            module first, which may lie in the working directory.
        policy: a scripted policy of the environment (`EnvSpec.policies`; expert ends an episode at its goal), or
            "random": uniform over the action space; with a checkpoint, the planner of an agent.
        checkpoint: world model of that agent, a folder or a name.
        offset: environment steps of scripted play to an agent's goals (default 25); for each goal it has twice as many
            steps, as in evaluations.
        episodes: number of episodes.
        episode_env_steps: steps of an episode; only environments that end by themselves stop sooner.
        seed: source of every random choice; episode i is a function of (seed, i).
        workers: processes; 1 records in the calling one.
        image_size: side of the frames, px.
        shift: NAME=STRENGTH of what differs from the usual, anew in each episode, such as agent-color=1, for agents
            that shall bear it; only with scripted policies.
        env_kwargs: arguments of ``gymnasium.make``, which must fit in JSON.
        planner_settings: arguments of an agent's planner.
        agent_settings: arguments of `Agent`.
        device: device of an agent: auto, cpu, cuda or mps.
        overwrite: replace the file, or what an interrupted collection left of it.
    """

    out: Annotated[str | Path, Option(path="file")]
    env: Annotated[str, Choices(ENVS, "any Gymnasium id that renders rgb_array")] = "pusht"
    policy: Annotated[str, Choices(("play", "noisy", "mixed", "expert", "random"), "with a checkpoint, a planner")] = (
        "play"
    )
    checkpoint: str | None = None
    offset: Count | None = None
    episodes: Annotated[int, Range(least=1, under=2**31)] = 1000
    episode_env_steps: Annotated[int, Range(least=1, most=100_000)] = 150
    seed: Seed = 0
    workers: Annotated[int, Range(least=1, most=512)] = 2
    image_size: Annotated[int, Range(least=16, most=512)] = 64
    shift: Annotated[tuple[str, ...], Choices(GENERAL, OWN_SHIFTS)] = ()
    env_kwargs: Annotated[Mapping[str, Any], Option(group="env")] = field(default_factory=dict, hash=False)
    planner_settings: Annotated[Mapping[str, Any], Option(group="planner")] = field(default_factory=dict, hash=False)
    agent_settings: Annotated[Mapping[str, Any], Option(group="agent")] = field(default_factory=dict, hash=False)
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if str(self.out) == ".":
            raise UserError("out='.' names no file: name the HDF5 file to write")
        longest = self.spec.max_episode_steps if self.spec else 100_000
        if self.offset is not None and self.offset > longest:
            raise UserError(f"offset={self.offset} must be at most {longest}, the length of an episode of {self.env}")
        reserved = self.env_kwargs.keys() & {"image_size", "render_mode", "terminate_on_success"}
        if reserved:
            raise UserError(f"env_kwargs must not set {', '.join(sorted(reserved))}: collect does")
        try:
            json.dumps(dict(self.env_kwargs), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"env_kwargs={self.env_kwargs!r} must fit in JSON ({error})") from error
        if self.shift and (self.spec is None or self.checkpoint is not None):
            other = f"in {self.env}, which is not registered" if self.spec is None else "by an agent"
            raise UserError(f"shift={' '.join(self.shift)}: nothing can differ in a collection {other}: leave it out")
        for text in self.shift:
            parse_shift(text, self.env)
        if self.checkpoint is None:
            self._check_policy()
        else:
            self._check_agent()

    def _check_agent(self) -> None:
        """The names of planners are checked when the agent is made."""
        if self.spec is None:
            choices = ", ".join(ENVS)
            raise UserError(f"checkpoint={self.checkpoint!r}: an agent can be recorded in {choices}, not in {self.env}")
        reserved = self.agent_settings.keys() & {"deadline_env_steps", "seed", "device", "budget"}
        if reserved:
            raise UserError(f"agent settings must not name {', '.join(sorted(reserved))}: offset, seed and device do")

    def _check_policy(self) -> None:
        if self.planner_settings or self.agent_settings or self.offset is not None:
            raise UserError("an offset and settings of planner or agent need an agent: name its checkpoint too")
        policies = ["random", *(self.spec.policies if self.spec else ())]
        if self.policy not in policies:
            choices = f"choose one of {', '.join(policies)}, or a planner, with a checkpoint"
            raise UserError(f"policy={self.policy!r} is unknown for {self.env}: {choices}")

    @classmethod
    def from_options(cls, **options: Any) -> CollectConfig:
        """Settings in the environment of the checkpoint, where one is named and no environment."""
        if "env" not in options and "checkpoint" in options:
            options["env"] = trained_env(options["checkpoint"])
        return cls(**options)

    @property
    def goal_offset(self) -> int:
        """Environment steps of scripted play to an agent's goal."""
        return 25 if self.offset is None else self.offset

    @property
    def spec(self) -> EnvSpec | None:
        """Entry of `ENVS` that `env` names, if there is one."""
        import_env(self.env)
        return spec_of(self.env)

    @property
    def env_id(self) -> str:
        """Gymnasium id of the environment."""
        return self.spec.env_id if self.spec else self.env

    @property
    def all_env_kwargs(self) -> dict[str, Any]:
        """`env_kwargs`, and the defaults of the conventions that they leave open: each file states its fidelity."""
        own = {**self.spec.conventions, "image_size": self.image_size} if self.spec else {}
        return {**own, **self.env_kwargs}

    @property
    def size_warning(self) -> str | None:
        """Warning about frames that the default preset of `train` does not take."""
        if self.image_size % TRAINABLE["tiny"] == 0:
            return None
        sizes = ", ".join(f"{preset} takes multiples of {number}" for preset, number in TRAINABLE.items())
        return f"image_size={self.image_size}: not every preset of `train` can take such frames; {sizes}"

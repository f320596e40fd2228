"""Data, checkpoint and environment must agree on what is seen and what an action does: on their conventions.

A picture of another fidelity, or an action of another meaning, looks like any other to a model: only the arguments of
the environment tell. They are stored with data and checkpoint, and compared here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from .envs import ENVS, spec_of


class Mismatch(NamedTuple):
    """How two sets of conventions differ, in words."""

    trained: str  # "fidelity='lite'"
    given: str  # "fidelity='stock'"
    options: str  # of `lwm-agent collect`, for what the model was trained on: "--set env.fidelity=lite"


def conventions(env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The conventions that `env_kwargs` mean in `env`, a name in `ENVS` or a Gymnasium id; defaults included.

    Of an environment that is not the package's own, any argument may be one.
    """
    spec = spec_of(env)
    if spec is None:
        return dict(env_kwargs)
    return {name: env_kwargs.get(name, default) for name, default in spec.conventions.items()}


def mismatch(env: str, trained: Mapping[str, Any], given: Mapping[str, Any]) -> Mismatch | None:
    """How the conventions of two sets of arguments differ, None where they do not."""
    ours, theirs = conventions(env, trained), conventions(env, given)
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if not names:
        return None
    return Mismatch(
        _words(ours, names), _words(theirs, names), " ".join(_option(name, ours.get(name)) for name in names)
    )


def other_env(env: str, env_id: str | None) -> str | None:
    """Name or Gymnasium id of what data were recorded in, None if it is `env` or not known."""
    spec = spec_of(env)
    if env_id in (None, spec.env_id if spec else env):
        return None
    return next((name for name, other in ENVS.items() if other.env_id == env_id), env_id)


def _words(values: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}={values.get(name)!r}" for name in names)


def _option(name: str, value: Any) -> str:
    if name == "image_size":
        return f"--image-size {value}"
    return f"--set env.{name}={value if isinstance(value, str) else json.dumps(value)}"

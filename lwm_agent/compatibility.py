"""Agreement of data, checkpoint and environment about conventions: what a frame shows and what an action does.

A picture of another fidelity, or an action of another meaning, looks like any other to a model: only the arguments of
the environment differ. They are stored with data and checkpoint, and compared here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .envs import ENVS, spec_of
from .errors import UserError


def conventions(env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The conventions that `env_kwargs` mean in `env`, a name in `ENVS` or a Gymnasium id; defaults included.

    Of an environment that is not the package's own, any argument may be one.
    """
    spec = spec_of(env)
    if spec is None:
        return dict(env_kwargs)
    return {name: env_kwargs.get(name, default) for name, default in spec.conventions.items()}


def check_compatible(
    env: str,
    trained: Mapping[str, Any],
    requested: Mapping[str, Any],
    *,
    trained_by: str,
    requested_by: str,
    fix: Callable[[str], str],
    error: type[UserError] = UserError,
) -> None:
    """Refuses two sets of arguments of `env` whose conventions differ.

    Args:
        env: name in `ENVS` or a Gymnasium id.
        trained: arguments of the environment that the model was trained in.
        requested: the other arguments.
        trained_by: subject and verb of the message, "the checkpoint was trained with".
        requested_by: the same of the other arguments, "square.h5 has".
        fix: remedy for the message, from the options of ``lwm-agent collect`` that ask for the conventions of
            `trained`: "--set env.fidelity=lite".
        error: class of the error.

    Raises:
        UserError: "`requested_by` fidelity='stock' and `trained_by` fidelity='lite': `fix`".
    """
    ours, theirs = conventions(env, trained), conventions(env, requested)
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if names:
        options = " ".join(_option(name, ours.get(name)) for name in names)
        raise error(f"{requested_by} {_words(theirs, names)} and {trained_by} {_words(ours, names)}: {fix(options)}")


def different_env(env: str, env_id: str | None) -> str | None:
    """Name or Gymnasium id of the environment that data were recorded in, None if it is `env` or not recorded."""
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

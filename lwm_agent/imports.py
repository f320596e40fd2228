"""Modules that users name, which register what they add, and packages that extras would bring.

A module is imported because its user names it, never because a file does.
"""

from __future__ import annotations

import os
import shlex
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from types import ModuleType
from typing import Any

from .errors import MachineError, UserError

VARIABLE = "LWM_AGENT_IMPORT"
"""Environment variable with modules to import, joined by commas; processes that are started inherit it."""


def import_named(module: str, option: str) -> ModuleType:
    """The module that a user names for `option`.

    Raises:
        UserError: there is no such module.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # another module, which that one imports
        raise UserError(f"{option}: there is no module {module!r} here or among the installed packages") from error


def import_requested() -> None:
    """Imports the modules of ``LWM_AGENT_IMPORT``.

    Raises:
        UserError: there is no such module.
    """
    for module in filter(None, os.environ.get(VARIABLE, "").split(",")):
        import_named(module, f"{VARIABLE}={os.environ[VARIABLE]}")


def pip_install(extra: str) -> str:
    """The command that installs what an extra of this package brings; in a checkout too, which no index knows."""
    try:
        lines = requires("lwm-agent") or []
    except PackageNotFoundError:  # not installed, but run from its sources
        lines = []
    packages = [line.split(";")[0].strip() for line in lines if f'extra == "{extra}"' in line]
    return f"pip install {shlex.join(packages or [f'lwm-agent[{extra}]'])}"


def hub(reason: str) -> Any:
    """The module of the Hugging Face hub; `reason` begins the message where it is not installed.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MachineError(f"{reason}: {pip_install('hub')}") from error
    return huggingface_hub

"""The command line: global options, and the entry point of ``lwm-agent`` and ``python -m lwm_agent``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..imports import VARIABLE, import_requested
from . import data, doctor, experiments, inspection, sharing, training
from .errors import TRACEBACK_VARIABLE, handle_signals, request_traceback, show_error
from .progress import console

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


def main() -> None:
    """Runs the command line."""
    handle_signals()
    sys.path.append(os.getcwd())  # modules of your own, as with `python -m`; last, so that they hide none
    try:
        app(prog_name="lwm-agent")
    except Exception as error:
        raise SystemExit(show_error(error)) from None


def _print_version(requested: bool) -> None:
    if requested:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import a module of yours, which registers what it adds."),
    ] = None,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help=f"Show the traceback of every error (or set {TRACEBACK_VARIABLE}=1).")
    ] = False,
) -> None:
    """Model-based planning with latent world models."""
    if show_traceback:
        request_traceback()
    if modules:
        os.environ[VARIABLE] = ",".join(modules)  # processes that are started inherit it
        import_requested()


for room in (data, training, experiments, inspection, sharing, doctor):
    room.add_commands(app)

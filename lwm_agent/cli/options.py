"""Commands generated from dataclasses of settings: a field is an option, and its docstring line is the help text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape
from typer.core import TyperCommand

from ..errors import UserError
from ..validation import Choices, Config, base_type, limits_of, option_of
from .errors import interruptible, request_traceback
from .settings import parse_settings

SET, TRACEBACK = "assignments", "show_traceback"
"""Parameters of the options ``--set`` and ``--traceback``; no field has these names."""

SET_FLAG = "--set"

Traceback = Annotated[bool, typer.Option("--traceback", hidden=True)]
"""The global option of this name, which is accepted after the command too."""


def command(
    app: typer.Typer, name: str, config: type[Config], resume: str = "run it again"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the command `name` to `app`: its options are the fields of `config`.

    The decorated function takes the configuration; what it takes beside are options of its own, declared as typer
    declares them. `resume` says what to do after an interruption.
    """

    def add(run: Callable[..., None]) -> Callable[..., None]:
        declared = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in declared]

        def execute(**values: Any) -> None:
            extra = {parameter.name: values.pop(parameter.name) for parameter in own}
            if values.pop(TRACEBACK):
                request_traceback()
            with interruptible(resume):
                settings = configure(config, values)
                check_outputs(settings)
                run(settings, **extra)

        traceback = inspect.Parameter(TRACEBACK, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Traceback)
        parameters = [*_parameters(config), *own, traceback]
        execute.__doc__ = run.__doc__
        execute.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        execute.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, cls=_Command)(execute)
        return run

    return add


class _Command(TyperCommand):
    """A command whose options that may be repeated also take several values: ``--data a.h5 b.h5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Implements `click.Command`."""
        listed = {flag for item in self.params if item.multiple for flag in item.opts}
        return super().parse_args(ctx, spread(args, listed))


def spread(args: Sequence[str], flags: Collection[str]) -> list[str]:
    """`args` with one of `flags` before each of its values: ``--data a b`` becomes ``--data a --data b``.

    Values of ``--set`` are assignments: what stands behind them without ``=`` is the command's own argument.
    """
    spread_out: list[str] = []
    flag, named = None, False  # the flag whose values are read, and whether it stands before the next one
    for place, arg in enumerate(args):
        if arg == "--":
            return [*spread_out, *args[place:]]
        if arg.startswith("-") and not _is_number(arg):
            flag, named = (arg, True) if arg in flags else (None, False)
        elif flag == SET_FLAG and not named and "=" not in arg:
            flag = None
        elif flag is not None:
            spread_out += [] if named else [flag]
            named = False
        spread_out.append(arg)
    return spread_out


def _is_number(text: str) -> bool:
    """True for ``-0.5``, which is no flag."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def configure(config: type[Config], values: Mapping[str, Any]) -> Config:
    """The configuration that options ask for; those that are None, or lists without elements, were not named."""
    named = {name: value for name, value in values.items() if value is not None and value != []}
    groups = _groups(config)
    settings = parse_settings(named.pop(SET, []), tuple(groups))
    for name, value in named.items():
        if isinstance(value, list):
            named[name] = tuple(value)
    for group, entries in settings.items():
        target = groups[group]
        if target is not None and entries:
            named[target] = entries
        elif target is None:
            _add_own(config, group, entries, named)
    return config.from_options(**named)


def _add_own(config: type[Config], group: str, entries: Mapping[str, Any], named: dict[str, Any]) -> None:
    """Adds ``--set GROUP.NAME=VALUE`` for the fields of the configuration itself to the `named` options."""
    names = [item.name for item in fields(config)]
    for name, value in entries.items():
        if name not in names:
            raise UserError(f"--set {group}.{name} is unknown: choose one of {', '.join(sorted(names))}")
        if name in named:
            raise UserError(f"--set {group}.{name} and --{name.replace('_', '-')} name the same: leave one out")
        named[name] = value


def check_outputs(config: Config) -> None:
    """Refuses paths that cannot be written, before the work; leaves nothing behind.

    Raises:
        UserError: the path is of another kind, or its folder cannot be made or written to.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for item in fields(config):
        kind, value = option_of(hints[item.name]).path, getattr(config, item.name)
        if kind is None or value is None:
            continue
        flag, path = f"--{item.name.replace('_', '-')}", Path(value)
        if kind == "file" and path.is_dir():
            raise UserError(f"{flag} {path} is a folder: name a file")
        if kind == "folder" and path.exists() and not path.is_dir():
            raise UserError(f"{flag} {path} is a file: name a folder")
        folder = path if kind == "folder" else path.parent
        try:
            while not folder.exists():
                folder = folder.parent
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{flag} {path} cannot be written ({reason}): choose another place") from error


def _parameters(config: type[Config]) -> Iterator[inspect.Parameter]:
    """The parameters of a command, as typer reads them."""
    hints, texts = get_type_hints(config, include_extras=True), help_texts(config)
    for item in fields(config):
        kind = hints[item.name]
        if option_of(kind).group is None:
            yield _parameter(item, kind, texts[item.name])
    groups = _groups(config)
    if groups:
        described = {group: "the options above" if name is None else texts[name] for group, name in groups.items()}
        listed = "; ".join(f"{group}.NAME: {text.rstrip('.')}" for group, text in described.items())
        text = f"Any other settings, one or several. {escape(listed)}."
        option = typer.Option(SET_FLAG, metavar="GROUP.NAME=VALUE", help=text, show_default=False)
        yield inspect.Parameter(
            SET, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, option]
        )


def _parameter(item: Field[Any], kind: Any, text: str) -> inspect.Parameter:
    option, base = option_of(kind), base_type(kind)
    several = get_origin(base) is tuple
    value = base_type(get_args(base)[0]) if several else base
    required = item.default is MISSING and item.default_factory is MISSING and option.default is None
    details: dict[str, Any] = {"help": _help(item, kind, text), "show_default": False}
    if value in (str, Path):
        details |= {"parser": _path if value is Path else _text, "metavar": "PATH" if value is Path else "TEXT"}
        choices = [name for rule in limits_of(kind) if isinstance(rule, Choices) for name in rule.names]
        if choices:
            details["autocompletion"] = _completion(choices)
    if option.positional:
        del details["metavar"]
        declared: Any = typer.Argument(**details)
    else:
        flag = f"--{item.name.replace('_', '-')}"
        declared = typer.Option(option.flag or flag, **details)  # a bool's own flag: typer would add --no-FLAG
    annotation = list[value] if several else value  # type: ignore[valid-type]
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[annotation if required else annotation | None, declared],
    )


def _help(item: Field[Any], kind: Any, text: str) -> str:
    """The help text of a field: its docstring line, what it may be, and its default."""
    default = option_of(kind).default
    if default is None and item.default is not MISSING and item.default is not None and item.default is not False:
        default = "yes" if item.default is True else str(item.default)
    details = [] if default is None else [f"default: {default}"]
    details += [str(rule) for rule in limits_of(kind)]
    listed = "; ".join(details)
    return f"{escape(text)} [dim]{escape(f'[{listed}]')}[/]" if details else escape(text)


def _groups(config: type[Config]) -> dict[str, str | None]:
    """Groups of ``--set`` and the mapping that each fills; None for the configuration itself."""
    hints = get_type_hints(config, include_extras=True)
    groups: dict[str, str | None] = {} if config.own_group is None else {config.own_group: None}
    for item in fields(config):
        group = option_of(hints[item.name]).group
        if group is not None:
            groups[group] = item.name
    return groups


def help_texts(config: type) -> dict[str, str]:
    """Text of each line of the "Attributes:" sections of a class and its bases, by the attribute's name."""
    texts: dict[str, str] = {}
    for parent in reversed(config.__mro__[:-1]):
        _, _, section = inspect.cleandoc(parent.__doc__ or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n(?=    \S)", section.rstrip()):
            name, colon, text = entry.strip().partition(": ")
            if colon:
                text = " ".join(text.split()).replace("`", "")
                texts[name] = text[0].upper() + text[1:]
    return texts


def _text(value: str) -> str:
    if not value:
        raise typer.BadParameter("it is empty; is a variable unset?")
    return value


def _path(value: str) -> Path:
    return Path(_text(value))


def _completion(choices: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in choices if name.startswith(incomplete)]

    return complete

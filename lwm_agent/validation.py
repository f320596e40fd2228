"""Checks of settings against their annotations, for every dataclass of settings. It imports the standard library only.

An annotation says what a setting may be, and is all that there is to write for a new one::

    steps: Annotated[int, Range(above=0)] = 8_500
    split: Annotated[str, Choices(("test", "val"))] = "test"

The command line is generated from the same annotations (`lwm_agent.cli.options`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import UserError, UserTypeError

ConfigType = TypeVar("ConfigType", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that a setting may have.

    Attributes:
        least: smallest of them.
        most: largest of them.
        above: bound below all of them.
        under: bound above all of them.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    under: float | None = None

    def bounds(self) -> list[tuple[Callable[[float], bool], str]]:
        """Each bound: a test of a value, and its words after "must be"."""
        least, most, above, under = self.least, self.most, self.above, self.under
        bounds: list[tuple[Callable[[float], bool], str]] = []
        if least is not None:
            bounds.append((lambda value: value >= least, f"at least {least}"))
        if above is not None:
            bounds.append((lambda value: value > above, "positive" if above == 0 else f"above {above}"))
        if most is not None:
            bounds.append((lambda value: value <= most, f"at most {most}"))
        if under is not None:
            bounds.append((lambda value: value < under, f"under {'2**63' if under == 2**63 else under}"))
        return bounds

    def __str__(self) -> str:
        """All bounds in words."""
        return " and ".join(words for _, words in self.bounds())


@dataclass(frozen=True)
class Choices:
    """Names that a setting may have.

    Attributes:
        names: the names; a registry may grow after it was named here.
        other: what else is accepted, in words; the names are then not enforced, whoever uses the setting checks it.
    """

    names: Collection[str]
    other: str | None = None

    def __str__(self) -> str:
        """The rule in words."""
        names = ", ".join(self.names)
        return f"one of {names}" if self.other is None else f"{names}, or {self.other}"


@dataclass(frozen=True, kw_only=True)
class Option:
    """Presentation of a setting on the command line, where it differs from the usual.

    Attributes:
        flag: its name, if it is not that of the field, such as "--floors/--no-floors".
        default: description of a default that depends on other settings. It makes the option optional, and
            `Config.from_options` fills it in.
        group: name of a mapping's group: its entries are set by ``--set GROUP.NAME=VALUE``.
        positional: whether it is an argument without a name.
        path: what is written there, if the setting is a path: "file" or "folder".
    """

    flag: str | None = None
    default: str | None = None
    group: str | None = None
    positional: bool = False
    path: str | None = None


Seed = Annotated[int, Range(least=0, under=2**63)]
"""Source of random choices, which every random generator in use takes."""
PositiveInt = Annotated[int, Range(above=0)]
PositiveFloat = Annotated[float, Range(above=0)]
Count = Annotated[int, Range(least=1)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Dropout = Annotated[float, Range(least=0, under=1)]
OutputFolder = Annotated[Path, Option(path="folder")]
OutputFile = Annotated[Path, Option(path="file")]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that are checked against their annotations at construction."""

    own_group: ClassVar[str | None] = None
    """Group of ``--set GROUP.NAME=VALUE`` that names the fields themselves, beside their own options."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            UserTypeError: a value is not of the annotated type.
            UserError: a value is empty, not finite, or not in its range or among its choices.
        """
        hints = get_type_hints(type(self), include_extras=True)
        for item in fields(self):
            check_setting(item.name, getattr(self, item.name), hints[item.name])

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Default of each setting that has one, by name."""
        defaults = {item.name: item.default for item in fields(cls)}
        defaults |= {item.name: item.default_factory() for item in fields(cls) if item.default_factory is not MISSING}
        return {name: default for name, default in defaults.items() if default is not MISSING}

    @classmethod
    def from_options(cls: type[ConfigType], **options: Any) -> ConfigType:
        """Settings from those that the command line names; subclasses fill in defaults that depend on others."""
        return cls(**options)


def check_setting(name: str, value: object, kind: Any) -> None:
    """Refuses a `value` that its annotation `kind` does not allow; the message begins with ``name=value``."""
    if not has_type(value, kind):
        raise UserTypeError(f"{name}={value!r} must be {type_name(kind)}{_advice(value, kind)}")
    for entry in value if isinstance(value, tuple) else (value,):
        _check_rules(name, entry, kind)
    fault = _fault(value)
    if fault is not None:
        raise UserError(f"{name}={value!r} must {fault}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """The text `value`, which must be one of `choices`, such as the keys of a registry."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
    return value


def check_arguments(owner: str, kind: type, arguments: Mapping[str, Any]) -> None:
    """Checks arguments of the constructor of `kind` against its annotations; messages begin with ``owner.name=value``.

    Annotations other than numbers, names, switches and their rules are left to the constructor.

    Raises:
        UserTypeError: a value is not of the annotated type.
        UserError: an argument that the constructor does not have, or a value that a rule forbids.
    """
    parameters = signature(kind).parameters
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    try:
        hints = get_type_hints(kind.__init__, include_extras=True)  # type: ignore[misc]
    except NameError:  # a name that only type checkers import
        hints = {}
    for name, value in arguments.items():
        if name not in parameters and not open_ended:
            raise UserError(f"{owner}.{name} is unknown: choose from {', '.join(parameters)}")
        hint = hints.get(name, Any)
        check_setting(f"{owner}.{name}", value, hint if _is_plain(hint) else Any)


def _is_plain(kind: Any) -> bool:
    """True for numbers, names and switches, and choices of these."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        return _is_plain(parts[0])
    if origin in (Union, UnionType):
        return all(map(_is_plain, parts))
    return kind in (int, float, bool, str, NoneType)


def parse_value(name: str, text: str) -> Any:
    """The value of the setting `name` that `text` stands for: as JSON where it is JSON, else the text itself."""
    if not text.strip():
        raise UserError(f"{name}= has no value: write {name}=VALUE, or leave it out for the default")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={text} must be finite")
    return value


def _check_rules(name: str, value: object, kind: Any) -> None:
    """Refuses a `value`, or an entry of a tuple, that breaks a range or is not among the choices."""
    for rule in _rules(kind):
        if isinstance(rule, Choices) and rule.other is None and isinstance(value, str) and value not in rule.names:
            if value:
                raise UserError(f"{name}={value!r} is unknown: choose {rule}")
        elif isinstance(rule, Range) and isinstance(value, int | float) and value == value:  # not NaN
            broken = [words for holds, words in rule.bounds() if not holds(value)]
            if broken:
                raise UserError(f"{name}={value!r} must be {broken[0]}")


def check_type(owner: str, name: str, value: object, kind: Any) -> None:
    """Raises UserTypeError unless `value`, called `name` in the `owner`, is of the type or union `kind`."""
    if not has_type(value, kind):
        raise UserTypeError(f"{owner}: {name} must be {type_name(kind)}, got {value!r}{_advice(value, kind)}")


def check_types(settings: Any) -> None:
    """Raises UserTypeError where a field of a dataclass is not of its annotated type; an int may stand for a float."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        check_type(type(settings).__name__, item.name, getattr(settings, item.name), hints[item.name])


def has_type(value: object, kind: Any) -> bool:
    """True if `value` is of the annotated type `kind`; a bool is no number, an int may stand for a float."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        return has_type(value, parts[0])
    if origin in (Union, UnionType):
        return any(has_type(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(has_type(part, parts[0]) for part in value)
    if kind is Any:
        return True
    if origin is not None:
        return isinstance(value, origin)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def type_name(kind: Any) -> str:
    """An annotated type as messages name it, such as "int | None"."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        return type_name(parts[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, parts))
    if origin is tuple:
        return f"a tuple of {type_name(parts[0])}"
    return "None" if kind is NoneType else str(getattr(origin or kind, "__name__", kind))


def base_type(kind: Any) -> Any:
    """The type within an annotation, without None and without rules."""
    if get_origin(kind) is Annotated:
        return base_type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return base_type(next(part for part in get_args(kind) if part is not NoneType))
    return kind


def option_of(kind: Any) -> Option:
    """The presentation that an annotation asks for; of several, each adds to those before."""
    merged = {}
    for rule in _rules(kind):
        if isinstance(rule, Option):
            merged.update({item.name: value for item in fields(rule) if (value := getattr(rule, item.name))})
    return Option(**merged)


def limits_of(kind: Any) -> list[Range | Choices]:
    """The ranges and choices of an annotation."""
    return [rule for rule in _rules(kind) if isinstance(rule, Range | Choices)]


def _rules(kind: Any) -> list[object]:
    """Rules that the annotations within `kind` add to its type."""
    parts = get_args(kind)
    if get_origin(kind) is Annotated:
        return [*_rules(parts[0]), *parts[1:]]
    if get_origin(kind) in (Union, UnionType):
        return [rule for part in parts for rule in _rules(part)]
    return []


def _fault(value: object) -> str | None:
    """The rule that a value of any setting breaks, after "must"."""
    if value == "":
        return "not be empty: leave it out for the default"
    if isinstance(value, float) and not math.isfinite(value):
        return "be finite"
    if isinstance(value, int) and abs(value) > 2**63:
        return "be within 64 bits"
    if isinstance(value, tuple):
        return next(filter(None, map(_fault, value)), None)
    if isinstance(value, Mapping):
        faults = {key: _fault(entry) for key, entry in value.items()}
        return next((f"{fault} (its {key!r})" for key, fault in faults.items() if fault), None)
    return None


def _advice(value: object, kind: Any) -> str:
    """A hint for a whole number that is written as a float, such as ``1e3``."""
    if isinstance(value, float) and value.is_integer() and has_type(int(value), kind):
        return f": write {int(value)}"
    return ""

"""JSON files of users: read with limits, and refused with a clear error."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError

MAX_BYTES = 64 << 20


def read_text(path: str | Path, kind: str) -> str:
    """Text of a regular file of at most `MAX_BYTES` in UTF-8.

    A FIFO would block for ever, so the kind of file is checked before it is opened.

    Args:
        path: the file.
        kind: noun with article for errors, such as ``a task file``.

    Raises:
        UserError: there is no such file, or it cannot be read as text.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not {kind}: it is no regular file")
        if status.st_size > MAX_BYTES:
            raise UserError(f"{path} is not {kind}: it has {status.st_size} bytes, more than {MAX_BYTES}")
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: pass the path of {kind}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {kind}, or is damaged: it is not UTF-8 ({error})") from error


def parse_json(text: str, *, constants: bool = False) -> Any:
    """Value of a JSON text; with `constants`, NaN and infinities are left for the caller to refuse.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, repeats a key, or has NaN or an infinity.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=float if constants else _refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    contents = dict(pairs)
    if len(contents) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return contents


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def checked_object(value: Any, name: str) -> dict[str, Any]:
    """The JSON object `value`; `name` is its place in the file.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def checked_list(value: Any, name: str) -> list[Any]:
    """The JSON list `value`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def checked_text(value: Any, name: str) -> str:
    """The text `value`, not empty.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r:.60} is not a word")
    return value


def checked_flag(value: Any, name: str) -> bool:
    """The truth value `value`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r:.60} is not true or false")
    return value


def checked_count(value: Any, name: str, low: int = 0, high: int = 2**63 - 1) -> int:
    """The whole number `value`, from `low` to `high`.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name}={value!r:.60} is not a count from {low} to {high}")
    return value


def checked_number(value: Any, name: str, low: float = 0.0, high: float = sys.float_info.max) -> float:
    """The finite number `value`, from `low` to `high`.

    Raises:
        ValueError: it is something else.
    """
    if not is_number(value) or not low <= value <= high:
        raise ValueError(f"{name}={value!r:.60} is not a number from {low:g} to {high:g}")
    return float(value)


def checked_numbers(value: Any, name: str) -> tuple[float, ...]:
    """The numbers of a list; NaN and infinities are left for the caller to refuse.

    Raises:
        ValueError: it is no list, or an entry is no number.
    """
    for entry in checked_list(value, name):
        if not isinstance(entry, float) and not is_number(entry):
            raise ValueError(f"{name}: {entry!r:.60} is not a number")
    return tuple(map(float, value))


def is_number(value: Any) -> bool:
    """True if `value` is a finite number; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max

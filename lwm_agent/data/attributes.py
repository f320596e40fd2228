"""Attributes of a data set: where it was recorded and which actions its environment takes, checked in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs import spec_of
from .schema import VERSION, DatasetError

MAX_OUTSIDE = 0.02
"""Largest share of the actions that may lie outside the declared bounds: noise may exceed them, another unit does."""

TOLERANCE = 1e-4
"""Distance from a bound, as a share of the range, that counts as rounding."""

_ENV_ID = re.compile(r"[\w.:/\-]{1,200}")  # names of modules and of Gymnasium ids


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Attributes that the package reads.

    Attributes:
        env_id: id for ``gymnasium.make``.
        env_kwargs: its keyword arguments.
        action_low: lower bounds of the action space, ``(A,)`` float32.
        action_high: upper bounds of the action space, ``(A,)`` float32.
        discrete: whether actions are the one-hot rows of a Discrete space.
    """

    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    action_low: Any = None
    action_high: Any = None
    discrete: bool = False

    def __post_init__(self) -> None:
        if self.env_id is not None and not (isinstance(self.env_id, str) and _ENV_ID.fullmatch(self.env_id)):
            raise DatasetError(f"env_id={self.env_id!r} is no Gymnasium id, such as lwm/PushT-v0 or module:Name-v0")
        if not isinstance(self.env_kwargs, Mapping) or not all(isinstance(name, str) for name in self.env_kwargs):
            raise DatasetError(f"env_kwargs={self.env_kwargs!r} must map names of arguments to values")
        if not isinstance(self.discrete, bool | np.bool_):
            raise DatasetError(f"discrete={self.discrete!r} must be True or False")
        object.__setattr__(self, "discrete", bool(self.discrete))
        for name in ("action_low", "action_high"):
            object.__setattr__(self, name, _bound(name, getattr(self, name)))
        self._check_bounds()

    def _check_bounds(self) -> None:
        low, high = self.action_low, self.action_high
        if (low is None) != (high is None):
            raise DatasetError("action_low and action_high belong together: declare both of them or neither")
        if low is None:
            return
        if low.shape != high.shape:
            raise DatasetError(f"action_low has {len(low)} numbers and action_high has {len(high)}: both need (A,)")
        if not (low < high).all():
            index = int(np.argmin(low < high))
            raise DatasetError(
                f"action_low[{index}]={low[index]} must be below action_high[{index}]={high[index]}: "
                "declare the bounds of the environment's action_space"
            )

    def check_columns(self, image_size: int, action_size: int) -> None:
        """Refuses attributes that contradict the columns: the number of actions, the size of the frames."""
        if self.action_low is not None and len(self.action_low) != action_size:
            raise DatasetError(
                f"action_low and action_high have {len(self.action_low)} numbers, and actions have {action_size}"
            )
        announced = self.env_kwargs.get("image_size", image_size)
        if self.env_id is not None and spec_of(self.env_id) is not None and announced != image_size:
            raise DatasetError(
                f"env_kwargs has image_size={announced!r}, and the frames are {image_size} px wide: declare their size"
            )

    def num_outside(self, action: NDArray[np.float32]) -> int:
        """Number of the finite actions ``(n, A)`` that lie outside the declared bounds."""
        if self.action_low is None:
            return 0
        return int(np.count_nonzero(outside(action, self.action_low, self.action_high)))

    def check_outside(self, name: str, num_outside: int, num_actions: int) -> None:
        """Refuses a data set called `name` of which more than `MAX_OUTSIDE` of the actions exceed the bounds."""
        if num_outside > MAX_OUTSIDE * num_actions:
            mode = self.env_kwargs.get("control_mode", "not given")
            raise DatasetError(
                f"{name}: {num_outside / num_actions:.1%} of the actions lie outside the declared bounds, from "
                f"{self.action_low.tolist()} to {self.action_high.tolist()} (control_mode: {mode}). They seem to be in "
                "another unit: record actions of the declared action space, or declare action_low and action_high of "
                "the recorded ones"
            )


def check_bounds(
    names: str, action: NDArray[np.float64], declared: Sequence[tuple[NDArray[Any] | None, NDArray[Any] | None]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds ``(A,)`` within which actions may be planned: those of the data and of every file that declares any.

    Recorded actions ``(n, A)`` may exceed the bounds a little, where the environment clips them itself. Files `names`
    whose actions have different units are refused, and an action that never changes.
    """
    low, high = np.full(action.shape[1], -np.inf), np.full(action.shape[1], np.inf)
    for lower, upper in declared:
        low = low if lower is None else np.maximum(low, lower)
        high = high if upper is None else np.minimum(high, upper)
    bounded = np.isfinite(high - low)
    share = float(np.mean(outside(action[:, bounded], low[bounded], high[bounded]))) if len(action) else 0.0
    if share > MAX_OUTSIDE or (low >= high).any():
        raise DatasetError(
            f"{names}: {share:.1%} of the actions lie outside the bounds that these files declare together, from "
            f"{low.tolist()} to {high.tolist()}: their units (control_mode) differ; train on files of one unit"
        )
    low, high = np.maximum(low, action.min(0)), np.minimum(high, action.max(0))
    if (low >= high).any():
        constant = ", ".join(map(str, np.flatnonzero(low >= high)))
        raise DatasetError(f"{names}: actions {constant} never change, so that nothing can be learned of them")
    return low, high


def outside(action: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask ``(n,)`` of the finite actions ``(n, A)`` that exceed bounds ``(A,)`` by more than rounding."""
    slack = TOLERANCE * (np.asarray(high, np.float64) - low)
    return ((action < low - slack) | (action > high + slack)).any(axis=1)


def parse_attributes(values: Mapping[str, Any]) -> Attributes:
    """Attributes as HDF5 stores them."""
    version = values.get("schema_version", VERSION)
    if not isinstance(version, int | np.integer) or not 1 <= version <= VERSION:
        raise DatasetError(f"schema_version={version!r} is not known here: this version reads 1 to {VERSION}")
    env_id, discrete = values.get("env_id"), values.get("discrete", False)
    return Attributes(
        env_id=env_id.decode("utf-8", "replace") if isinstance(env_id, bytes) else env_id,
        env_kwargs=_parse_object("env_kwargs", values.get("env_kwargs", "{}")),
        action_low=values.get("action_low"),
        action_high=values.get("action_high"),
        discrete=discrete,
    )


def _bound(name: str, value: Any) -> NDArray[np.float32] | None:
    if value is None:
        return None
    try:
        bound = np.array(value)
    except ValueError as error:
        raise DatasetError(f"{name}={_short(value)} must be numbers (A,): {error}") from error
    if bound.dtype.kind not in "fiu" or bound.ndim != 1 or bound.size == 0:
        raise DatasetError(f"{name}={_short(value)} must be numbers (A,), one for each axis of an action")
    with np.errstate(over="ignore"):
        bound = bound.astype(np.float32)
    if not np.isfinite(bound).all():
        raise DatasetError(f"{name}={bound.tolist()} must be finite: leave out the bounds of an unbounded space")
    return bound


def _parse_object(name: str, text: Any) -> dict[str, Any]:
    """JSON object that the attribute `name` holds."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{name}={_short(text)} must be a JSON object ({error})") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{name}={_short(text)} must be a JSON object")
    return value


def _short(value: Any) -> str:
    """One line that shows `value`."""
    return " ".join(repr(value).split())[:200]


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")

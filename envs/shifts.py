"""Shifts: what may differ from the training of an agent, each by its name and in several strengths.

``shifted(env, ["blur=1", "action-delay=2"], "pusht")`` makes of an environment one whose pictures are blurred and whose
actions come late. What is random is drawn anew in each episode, from the seed of its reset.
"""

from __future__ import annotations

import pkgutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from ..errors import UserError
from . import find_env, picture_shifts
from .base import GoalImageEnv, Observation
from .picture_shifts import Change
from .variation import Factor, Strength

Env = gym.Env[Any, Any]
Action = NDArray[np.float32]


class Shifted(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment with a difference: a subclass changes what is shown, or what is executed.

    Args:
        env: the environment, around a `GoalImageEnv`.
        name: name of the shift: two shifts of an environment draw different numbers.
        strength: its strength.
        arguments: those that a subclass has beside these, for the environment's `spec`.

    Attributes:
        rng: source of what is random in this episode.
        strength: as above.
    """

    def __init__(self, env: Env, name: str, strength: Strength, **arguments: Any) -> None:
        RecordConstructorArgs.__init__(self, name=name, strength=strength, **arguments)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, GoalImageEnv):
            raise UserError(f"shift {name}={strength} is for a GoalImageEnv, not for {env.unwrapped!r}")
        self._name = name
        self._begun = False
        self.strength = strength
        self.rng = np.random.default_rng()

    @property
    def simulator(self) -> GoalImageEnv:
        """The environment itself."""
        return cast(GoalImageEnv, self.env.unwrapped)

    def chosen(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a reset instead of those that were passed."""
        return options

    def begin(self, observation: Observation) -> None:
        """Starts an episode that `observation` is the first of."""

    def shown(self, observation: Observation) -> Observation:
        """Observation instead of the one that was made."""
        return observation

    def executed(self, action: Action) -> Action:
        """Action instead of the one that was asked for."""
        return action

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng([seed, *self._name.encode()])
        observation, info = self.env.reset(seed=seed, options=self.chosen({} if options is None else options))
        self.begin(observation)
        self._begun = True
        return self.shown(observation), info

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if not self._begun:
            raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        observation, reward, terminated, truncated, info = self.env.step(self.executed(action))
        return self.shown(observation), float(reward), terminated, truncated, info


class VariedWorld(Shifted):
    """An environment of which a factor of variation is unusual; in the name of the shift, it has dashes."""

    def chosen(self, options: dict[str, Any]) -> dict[str, Any]:
        stated = options.get("variation") or {} if isinstance(options, Mapping) else None
        if not isinstance(stated, Mapping):
            return options  # which the environment refuses
        name = self._name.replace("-", "_")
        drawn = {name: self.simulator.factors[name].drawn(self.strength, self.rng)}
        return {**options, "variation": {**drawn, **stated}}


class ShiftedPictures(Shifted):
    """An environment whose pictures are changed, that of the goal too: it was taken under the same conditions.

    Args:
        env: the environment.
        name: name of the shift.
        strength: its strength.
        shift: one of `lwm_agent.envs.picture_shifts`.
    """

    def __init__(
        self, env: Env, name: str, strength: Strength, shift: Callable[[np.random.Generator, float], Change]
    ) -> None:
        super().__init__(env, name, strength, shift=shift)
        self._shift = shift

    def begin(self, observation: Observation) -> None:
        self._change = self._shift(self.rng, float(self.strength))
        self._goal = self._change(observation["goal"])

    def shown(self, observation: Observation) -> Observation:
        return {"pixels": self._change(observation["pixels"]), "goal": self._goal.copy()}


class DroppedFrames(Shifted):
    """An environment whose camera misses a share of the pictures: the last one is shown again."""

    def begin(self, observation: Observation) -> None:
        self._last = observation["pixels"]

    def shown(self, observation: Observation) -> Observation:
        if self.rng.uniform() >= float(self.strength):
            self._last = observation["pixels"]
        return {**observation, "pixels": self._last.copy()}


class NoisyActions(Shifted):
    """An environment whose actions have Gaussian noise, as a share of half the width of the action space."""

    def executed(self, action: Action) -> Action:
        space = cast(gym.spaces.Box, self.env.action_space)
        noise = self.rng.normal(0.0, float(self.strength) * (space.high - space.low) / 2)
        return self.simulator.executed_action(self.simulator.executed_action(action) + noise)


class LateActions(Shifted):
    """An environment that executes each action so many steps later, and does nothing before the first."""

    def begin(self, observation: Observation) -> None:
        space = cast(gym.spaces.Box, self.env.action_space)
        still = self.simulator.scripted_action(np.zeros(space.shape, np.float32), self.simulator.get_state())
        self._waiting = deque([still] * round(float(self.strength)))

    def executed(self, action: Action) -> Action:
        self._waiting.append(self.simulator.executed_action(action))  # a copy: the caller may reuse its array
        return self._waiting.popleft()


class StickyActions(Shifted):
    """An environment that executes its last action again instead of a share of the new ones."""

    def begin(self, observation: Observation) -> None:
        self._last: Action | None = None

    def executed(self, action: Action) -> Action:
        if self._last is None or self.rng.uniform() >= float(self.strength):
            self._last = self.simulator.executed_action(action)  # a copy: the caller may reuse its array
        return self._last


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Something that differs.

    Attributes:
        wrap: makes of an environment one with the difference, with a name and a strength.
        strengths: strengths that a study tries, from the weakest to the strongest; words are kinds without an order.
        unit: what a strength counts, in words.
        most: largest strength; None where the strengths are words.
        whole: whether strengths are whole numbers.
        seen: whether a state looks different.
    """

    wrap: Callable[[Env, str, Strength], Env]
    strengths: tuple[Strength, ...]
    unit: str
    most: float | None = 1.0
    whole: bool = False
    seen: bool = True

    def checked(self, name: str, text: str) -> Strength:
        """The strength that `text` stands for; raises `UserError` if the shift, called `name`, cannot have it."""
        if self.most is None:
            if text not in self.strengths:
                raise UserError(f"shift {name}={text} is unknown: choose one of {', '.join(map(str, self.strengths))}")
            return text
        try:
            strength = float(text)
        except ValueError:
            strength = float("nan")
        if not 0 < strength <= self.most or (self.whole and strength != round(strength)):
            kind = "whole number" if self.whole else "number"
            raise UserError(
                f"shift {name}={text} must be a {kind} above 0 and at most {self.most:g}, such as "
                f"{name}={self.strengths[0]:g}: {self.unit}"
            )
        return strength


def _of_pictures(shift: Callable[[np.random.Generator, float], Change], **settings: Any) -> Shift:
    return Shift(wrap=partial(ShiftedPictures, shift=shift), **settings)


def _in_time(wrap: Callable[[Env, str, Strength], Env], **settings: Any) -> Shift:
    return Shift(wrap=wrap, seen=False, **settings)


GENERAL = {
    "light": _of_pictures(picture_shifts.Light, strengths=(0.1, 0.25, 0.5), unit="share of the brightness"),
    "blur": _of_pictures(picture_shifts.Blur, strengths=(0.5, 1.0, 2.0), unit="pixels of 64", most=16.0),
    "pixel-noise": _of_pictures(picture_shifts.PixelNoise, strengths=(0.02, 0.05, 0.1), unit="share of white"),
    "occlusion": _of_pictures(picture_shifts.Occlusion, strengths=(0.1, 0.2, 0.3), unit="share of the width"),
    "distractors": _of_pictures(
        picture_shifts.Distractors, strengths=(1.0, 2.0, 4.0), unit="coloured discs", most=100.0, whole=True
    ),
    "camera-shift": _of_pictures(picture_shifts.CameraShift, strengths=(0.02, 0.05, 0.1), unit="share of the width"),
    "camera-zoom": _of_pictures(picture_shifts.CameraZoom, strengths=(0.02, 0.05, 0.1), unit="share", most=0.5),
    "camera-turn": _of_pictures(picture_shifts.CameraTurn, strengths=(2.0, 5.0, 10.0), unit="degrees", most=180.0),
    "dropped-frames": _in_time(DroppedFrames, strengths=(0.1, 0.25, 0.5), unit="share of the pictures"),
    "action-noise": _in_time(NoisyActions, strengths=(0.1, 0.2, 0.4), unit="share of the largest action"),
    "action-delay": _in_time(LateActions, strengths=(1.0, 2.0, 3.0), unit="environment steps", most=1000.0, whole=True),
    "sticky-actions": _in_time(StickyActions, strengths=(0.1, 0.25, 0.5), unit="share of the actions"),
}
"""Shifts of every environment."""

OWN_SHIFTS = "those of the environment"
"""Words in help texts for the shifts beside `GENERAL`."""


def shifts_of(env: str) -> dict[str, Shift]:
    """Shifts that `env`, a name as for `find_env`, can have: its own factors of variation, and those of every one.

    Raises:
        UserError: there is no such environment.
    """
    factors: Mapping[str, Factor] = pkgutil.resolve_name(find_env(env).entry_point).factors
    own = {
        name.replace("_", "-"): Shift(
            wrap=VariedWorld,
            strengths=factor.strengths,
            unit=factor.unit,
            most=factor.most_strength,
        )
        for name, factor in factors.items()
    }
    return own | GENERAL


def parse_shift(text: str, env: str) -> tuple[str, Shift, Strength]:
    """Name, shift and strength of ``NAME=STRENGTH``.

    Raises:
        UserError: `env` has no such shift, or the shift no such strength.
    """
    name, _, strength = text.partition("=")
    shifts = shifts_of(env)
    if name not in shifts:
        raise UserError(f"shift {text!r} is unknown: write NAME=STRENGTH with a name of {', '.join(shifts)}")
    return name, shifts[name], shifts[name].checked(name, strength)


def shifted(env: Env, shifts: Sequence[str], name: str) -> Env:
    """`env` with all of `shifts`, each ``NAME=STRENGTH``; `name` is that of the environment, as for `find_env`.

    Raises:
        UserError: it has no such shift, or the shift no such strength.
    """
    for text in shifts:
        called, shift, strength = parse_shift(text, name)
        env = shift.wrap(env, called, strength)
    return env

"""Events that break the expectations of a world model, injected into recorded clips (violation of expectation).

An event changes a clip from its frame `Place.at` on; what came before stays as it was recorded. Events of this module
need frames, actions or time only, so that they are of every environment (`GENERIC`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..envs.base import GoalImageEnv

Frames = NDArray[np.uint8]
States = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """K frames, F environment steps apart.

    Attributes:
        frames: ``(K, h, w, 3)``.
        env_action: between them, ``(K - 1, F, A)``.
        states: of the frames, ``(K, k)``; None where the data have none.
    """

    frames: Frames
    env_action: NDArray[np.float32]
    states: States | None = None


@dataclass(frozen=True)
class Place:
    """Place of an event in a clip, and all that it may draw from.

    Attributes:
        at: number of the first frame that shows it, 1 or more.
        other: a clip of another episode.
        rng: source of random choices.
        states: states of all episodes, ``(M, k)``, where there are some.
        env: draws and simulates states; None where it cannot.
    """

    at: int
    other: Clip
    rng: np.random.Generator
    states: States | None = None
    env: GoalImageEnv | None = None

    @property
    def drawer(self) -> GoalImageEnv:
        """The environment, for events that need one."""
        assert self.env is not None
        return self.env


class Event(ABC):
    """Something that cannot happen.

    Attributes:
        needs_states: whether the data must have states that the environment draws.
    """

    needs_states: ClassVar[bool] = True

    @abstractmethod
    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """`clip` with the event; None where it would change nothing, or cannot be."""


@dataclass(frozen=True)
class Freeze(Event):
    """The picture stands still, the actions go on."""

    needs_states = False

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        shown = np.minimum(np.arange(len(clip.frames)), place.at - 1)
        return refilmed(clip, clip.frames[shown], place.at)


@dataclass(frozen=True)
class Reversal(Event):
    """Time runs backwards, the actions go on."""

    needs_states = False

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        numbers = np.arange(len(clip.frames))
        shown = np.where(numbers < place.at, numbers, np.maximum(2 * (place.at - 1) - numbers, 0))
        return refilmed(clip, clip.frames[shown], place.at)


@dataclass(frozen=True)
class WrongActions(Event):
    """The actions are those of another clip; the pictures are right."""

    needs_states = False

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        first = place.at - 1
        env_action = np.concatenate([clip.env_action[:first], place.other.env_action[first:]])
        same = np.array_equal(env_action[first], clip.env_action[first])
        return None if same else replace(clip, env_action=env_action)


@dataclass(frozen=True)
class Cut(Event):
    """Another scene is shown, and goes on with its own actions: everything is elsewhere."""

    needs_states = False

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        frames = np.concatenate([clip.frames[: place.at], place.other.frames[place.at :]])
        env_action = np.concatenate([clip.env_action[: place.at], place.other.env_action[place.at :]])
        return refilmed(replace(clip, env_action=env_action), frames, place.at)


@dataclass(frozen=True)
class Colours(Event):
    """Red, green and blue of the whole picture change places."""

    needs_states = False

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        changed = clip.frames[place.at :][..., [1, 2, 0]]
        return refilmed(clip, np.concatenate([clip.frames[: place.at], changed]), place.at)


def refilmed(clip: Clip, frames: Frames, at: int) -> Clip | None:
    """`clip` with other frames, whose states nobody knows; None if frame `at` looks the same."""
    return None if np.array_equal(frames[at], clip.frames[at]) else replace(clip, frames=frames, states=None)


GENERIC: dict[str, Event] = {
    "freeze": Freeze(),
    "reversal": Reversal(),
    "wrong-actions": WrongActions(),
    "colours": Colours(),
    "cut": Cut(),
}
"""Events of every environment, by name."""

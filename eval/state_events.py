"""Events of things that an environment draws: they jump, vanish, stay or change colour. `EVENTS` is their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..envs import ENVS, name_of
from ..errors import UserError
from .events import GENERIC, Clip, Event, Place, States, refilmed

TRIES = 200
"""Places that a teleport tries, before it gives up."""


@dataclass(frozen=True)
class Teleport(Event):
    """A thing jumps to where it is in another recorded state, and the recorded actions go on from there.

    Attributes:
        columns: of the thing, in a state.
        least: smallest jump, in the unit of the `measured` columns.
        measured: columns that tell how far the jump is; None is all.
        possible: whether a state can be; None is always.
    """

    columns: tuple[int, ...]
    least: float
    measured: tuple[int, ...] | None = None
    possible: Callable[[States], bool] | None = None

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        assert clip.states is not None
        assert place.states is not None
        measured = list(self.columns if self.measured is None else self.measured)
        for row in place.rng.integers(len(place.states), size=TRIES):
            start = clip.states[place.at].copy()
            start[list(self.columns)] = place.states[row][list(self.columns)]
            far = np.linalg.norm(start[measured] - clip.states[place.at][measured]) >= self.least
            if far and (self.possible is None or self.possible(start)):
                try:
                    return _continued(clip, place, start)
                except UserError:  # the simulator cannot go on from this state
                    continue
        return None


@dataclass(frozen=True)
class Moved(Event):
    """A thing is drawn elsewhere, while all that happens stays as it was recorded.

    Attributes:
        move: the state to draw, of a recorded one ``(k,)`` and of the last one before the event.
    """

    move: Callable[[States, States], States]

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        assert clip.states is not None
        before = clip.states[place.at - 1]
        drawn = [place.drawer.picture(self.move(state, before)) for state in clip.states[place.at :]]
        return refilmed(clip, np.concatenate([clip.frames[: place.at], np.stack(drawn)]), place.at)


@dataclass(frozen=True)
class Stays(Event):
    """A thing stays where it is, although it is pushed or carried.

    Attributes:
        columns: of the thing, in a state.
        least: smallest way that it goes until the first frame of the event, for the event to be one.
        measured: columns of that way.
    """

    columns: tuple[int, ...]
    least: float
    measured: tuple[int, ...]

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        assert clip.states is not None
        measured = list(self.measured)
        way = clip.states[place.at][measured] - clip.states[place.at - 1][measured]
        return Moved(self._hold).inject(clip, place) if np.linalg.norm(way) >= self.least else None

    def _hold(self, state: States, before: States) -> States:
        held = state.copy()
        held[list(self.columns)] = before[list(self.columns)]
        return held


@dataclass(frozen=True)
class Recoloured(Event):
    """A thing has another colour.

    Its pixels are those that look different where it is hidden.

    Attributes:
        hide: the state without the thing, of a state.
        colour: new colour, R, G and B.
    """

    hide: Callable[[States, States], States]
    colour: tuple[int, int, int]

    def inject(self, clip: Clip, place: Place) -> Clip | None:
        """Implements `Event`."""
        assert clip.states is not None
        after = clip.frames[place.at :].astype(float)
        hidden = np.stack([place.drawer.picture(self.hide(state, state)) for state in clip.states[place.at :]])
        share = np.abs(after - hidden).max(-1, keepdims=True)
        share /= share.max((1, 2, 3), keepdims=True).clip(1e-9)
        painted = (hidden + share * (np.array(self.colour) - hidden)).round().astype(np.uint8)
        return refilmed(clip, np.concatenate([clip.frames[: place.at], painted]), place.at)


def _continued(clip: Clip, place: Place, start: States) -> Clip | None:
    """`clip`, from frame `place.at` on as the environment simulates it from the state `start`."""
    env, blocks = place.drawer, clip.env_action[place.at :]
    reached = [start, *env.follow(start, blocks.reshape(-1, blocks.shape[-1]))][:: blocks.shape[1]]
    frames = [env.picture(state) for state in reached]
    return refilmed(clip, np.concatenate([clip.frames[: place.at], np.stack(frames)]), place.at)


def elsewhere(columns: Sequence[int], values: Sequence[float]) -> Callable[[States, States], States]:
    """A move for `Moved` and `Recoloured`: `columns` of the state get `values`, such as a place out of sight."""

    def move(state: States, before: States) -> States:
        moved = state.copy()
        moved[list(columns)] = values
        return moved

    return move


def apart(state: States) -> bool:
    """True if agent and block of Push-T do not overlap."""
    from ..envs.pusht_geometry import AGENT_RADIUS, TEE

    x, y, *block = state[:5].tolist()
    return TEE.distance(x, y, *block) > AGENT_RADIUS


def into_wall(state: States, before: States) -> States:
    """The state of Push-T with the block's place on the nearest edge of the table, half of the block outside."""
    from ..envs.pusht_geometry import WORLD

    moved, place = state.copy(), state[2:4]
    gaps = np.concatenate([place, WORLD - place])
    side = int(np.argmin(gaps))
    moved[2 + side % 2] = 0.0 if side < 2 else WORLD
    return moved


_HIDE_AGENT, _HIDE_BLOCK = elsewhere((0, 1), (-2000.0, -2000.0)), elsewhere((2, 3), (-2000.0, -2000.0))
_CUBE, _CUBE_SPEEDS, _ARM = tuple(range(14, 21)), tuple(range(35, 41)), (*range(14), *range(21, 35))
_HIDE_CUBE = elsewhere((14, 15, 16), (0.0, 0.0, -5.0))

EVENTS: dict[str, Mapping[str, Event]] = {
    "pusht": {
        "teleport-agent": Teleport((0, 1), least=100.0, possible=apart),
        "teleport-block": Teleport((2, 3, 4), least=100.0, measured=(2, 3), possible=apart),
        "teleport-both": Teleport((0, 1, 2, 3, 4), least=150.0, measured=(0, 1, 2, 3)),
        "vanish-agent": Moved(_HIDE_AGENT),
        "vanish-block": Moved(_HIDE_BLOCK),
        "colour-agent": Recoloured(_HIDE_AGENT, (225, 87, 0)),
        "colour-block": Recoloured(_HIDE_BLOCK, (46, 139, 87)),
        "block-not-pushed": Stays((2, 3, 4), least=10.0, measured=(2, 3)),
        "block-in-wall": Moved(into_wall),
    },
    "cube": {
        "teleport-cube": Teleport((*_CUBE, *_CUBE_SPEEDS), least=0.1, measured=(14, 15, 16)),
        "teleport-arm": Teleport(_ARM, least=0.5, measured=(0, 1, 2, 3, 4, 5)),
        "vanish-cube": Moved(_HIDE_CUBE),
        "colour-cube": Recoloured(_HIDE_CUBE, (0, 158, 115)),
        "cube-not-carried": Stays(_CUBE, least=0.02, measured=(14, 15, 16)),
    },
}
"""Events of environments, by the environment's name in `ENVS` and by their own; `GENERIC` ones need no entry."""


def events_of(env: str, states: States | None) -> dict[str, Event]:
    """All events of an environment by name; `states` ``(M, k)`` are those of the data, None where there are none.

    Without an entry in `EVENTS`, each thing that the environment's `probes` name teleports by one standard deviation of
    its recorded places at least.
    """
    name = name_of(env)
    own = EVENTS.get(name)
    if own is None:
        own, probes = {}, ENVS[name].probes if name in ENVS else {}
        for thing, columns in probes.items() if states is not None else ():
            spread = float(np.linalg.norm(states[:, list(columns)].std(0)))  # type: ignore[index]
            own[f"teleport-{thing.replace(' ', '-')}"] = Teleport(columns, least=spread)
    return {**own, **GENERIC}

"""Interface of environments that people play with in a window."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .base import Place, State


@runtime_checkable
class Playable(Protocol):
    """Changes that people make with the mouse, as functions of states; beside what a `GoalImageEnv` has.

    Places are those of the square picture that ``render()`` gives, from 0 at the left and the top to 1. It shows the
    present and the goal together.
    """

    def drag_goal(self, goal_state: State, start: Place, end: Place) -> State:
        """The goal after a drag; unchanged where `start` misses it."""
        ...

    def turn_goal(self, goal_state: State, turn_deg: float) -> State:
        """The goal, turned clockwise."""
        ...

    def push(self, state: State, start: Place, end: Place) -> State:
        """The present after a hand has moved from `start` to `end`; unchanged where it touches nothing."""
        ...

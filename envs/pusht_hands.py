"""Hands on the table of Push-T: what people drag, turn and push with the mouse, as functions of states."""

from __future__ import annotations

import math

import numpy as np

from .base import Place, State
from .pusht_geometry import AGENT_RADIUS, CENTER_OF_GRAVITY, TEE, WORLD, place

HAND_PX = 12.0  # radius of a hand
WALL_PX = 8.0  # from the edge of the table to the inside of its walls
TURNING_PX = 50.0  # a push so far from the centre of gravity turns the block as much as it moves it


def drag_goal(goal_state: State, start: Place, end: Place) -> State:
    """The goal after a drag: of the agent alone if that is taken, else of the block, the agent with it."""
    x, y = (WORLD * value for value in start)
    moved = goal_state.copy()
    shift = WORLD * (np.array(end) - np.array(start))
    if math.dist((x, y), goal_state[:2]) < AGENT_RADIUS:
        moved[:2] += shift
    elif TEE.distance(x, y, *goal_state[2:5].tolist()) < HAND_PX:
        moved[:2] += shift
        moved[2:4] += shift
    return inside(moved)


def turn_goal(goal_state: State, turn_deg: float) -> State:
    """The goal turned clockwise about the block's centre of gravity, the agent with it."""
    return inside(_turned(goal_state, math.radians(turn_deg), with_agent=True))


def push(state: State, start: Place, end: Place) -> State:
    """The table after a hand that was on the block, or comes near it, has moved: a push off the centre turns it."""
    hand, shift = WORLD * np.array(start), WORLD * (np.array(end) - np.array(start))
    if TEE.distance(*hand.tolist(), *state[2:5].tolist()) > HAND_PX:
        return state
    arm = hand - _centre(state)
    turn = float(arm[0] * shift[1] - arm[1] * shift[0]) / (TURNING_PX**2 + float(arm @ arm))
    moved = _turned(state, turn, with_agent=False)
    moved[2:4] += shift
    return inside(moved)


def inside(state: State) -> State:
    """`state` with agent and block moved inside the walls, as little as that takes."""
    kept = state.copy()
    kept[:2] = np.clip(kept[:2], WALL_PX + AGENT_RADIUS, WORLD - WALL_PX - AGENT_RADIUS)
    corners = np.concatenate(TEE.polygons(*kept[2:5].tolist()))
    kept[2:4] += np.maximum(0.0, WALL_PX - corners.min(axis=0)) - np.maximum(
        0.0, corners.max(axis=0) - (WORLD - WALL_PX)
    )
    return kept


def _centre(state: State) -> State:
    """The block's centre of gravity, px."""
    return np.array(place((CENTER_OF_GRAVITY,), *state[2:5].tolist())[0])


def _turned(state: State, turn_rad: float, with_agent: bool) -> State:
    """`state` with the block turned about its centre of gravity."""
    centre, turned = _centre(state), state.copy()
    turned[4] += turn_rad
    turned[2:4] += centre - _centre(turned)
    if with_agent:
        (x, y), (from_x, from_y) = centre.tolist(), (state[:2] - centre).tolist()
        turned[:2] = place(((from_x, from_y),), x, y, turn_rad)[0]
    return turned

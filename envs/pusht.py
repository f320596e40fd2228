"""Push-T: a round agent pushes a T-shaped block over a table until the table looks like the goal picture."""

from __future__ import annotations

import atexit
import itertools
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pymunk
from numpy.typing import NDArray

from ..validation import check_choice
from . import pusht_hands
from .base import GoalImageEnv, Place, State
from .pusht_drawing import Painter, Table, Window, draw_table, to_array
from .pusht_geometry import (
    AGENT_RADIUS,
    BAR,
    BLOCKS,
    WALLS,
    WORLD,
    area,
    place,
)
from .pusht_public import PublicPainter
from .quantities import Quantity
from .variation import ColorFactor, ScaleFactor, WordFactor

DT, SUBSTEPS = 0.01, 10  # 100 Hz physics, 10 Hz control
K_P, K_V = 100.0, 20.0
RELATIVE_SCALE = 100.0  # px that a relative action of 1 asks for
CLEAR = 10.0  # px between the block of a sampled state and the edge of the world, of which the wall takes 7
LOOKS: dict[str, type[Painter | PublicPainter]] = {"plain": Painter, "gym-pusht": PublicPainter}


class PushTEnv(GoalImageEnv):
    """Push-T with the physics of the public environment (Diffusion Policy, arXiv 2303.04137), on pymunk 7.

    Actions: ``Box(-1, 1, (2,))``, the wanted displacement of the agent divided by 100 px (`control_mode` "relative"),
        or ``Box(0, 512, (2,))``, the position to go to in px ("absolute", the original). Actions outside the Box are
        clipped to it. Control runs at 10 Hz; a PD controller with k_p 100 and k_v 20 moves the agent, which is
        kinematic: the block and the walls never push it back.

    State: agent x, y, block x, y (px), block angle (rad, not wrapped), agent velocity x, y (px/s).

    Success: `pose` (default, the protocol of LeWorldModel, arXiv 2603.19312): the 4-vector error of agent and block
    position is under 20 px and the block's angle error under 20 degrees; `block`: the same for the block alone;
    `coverage`: the block covers 95 % of the goal block, as in gym-pusht.

    ``info`` adds `coverage`, the covered share of the goal block.

    Factors, of the reset option `variation`: `agent_color`, `block_color`, `background_color` (red, green, blue),
    `agent_size`, `block_size` (multiples of the usual) and `block_shape` (T, L, Z, I, square or +; all weigh the same).
    States stay what they are: where something larger or of another shape would stand in something else at the start,
    the first step pushes it out.

    Physics is a function of the state alone, which makes restoring exact. Unlike the public environment, this one
    carries no contact impulses over from one control step to the next, and it integrates the block's motion at the end
    of a control step.

    Args:
        image_size: side of the observed pictures, px.
        look: drawing of the pictures: "plain", or as the public environment draws them ("gym-pusht"), in whose data
            they are 96 px wide and actions are absolute. Its green T stands in the present and in the goal picture, at
            the pose where the public task ends, whatever the goal is.
        control_mode: meaning of an action, "relative" or "absolute".
        success: success criterion.
        terminate_on_success: whether success ends an episode.
        render_mode: "rgb_array", "human" (a window) or None.
        render_size: side of the pictures of ``render()``, px.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (declared so by Gymnasium)
        "render_modes": ["rgb_array", "human"],
        "render_fps": 10,
    }
    state_size = 7
    successes = ("pose", "block", "coverage")
    uncopied = ("_window", "_painter", "_table", "_agent", "_block", "_contents", "_space")
    factors = {  # noqa: RUF012  (never changed)
        "agent_color": ColorFactor(usual=Table.agent_color),
        "block_color": ColorFactor(usual=Table.block_color),
        "background_color": ColorFactor(usual=Table.background),
        "agent_size": ScaleFactor(least=0.5, most=2.0),
        "block_size": ScaleFactor(least=0.5, most=1.5),
        "block_shape": WordFactor(usual="T", words=tuple(BLOCKS)),
    }

    def __init__(
        self,
        *,
        image_size: int = 64,
        look: str = "plain",
        control_mode: str = "relative",
        success: str = "pose",
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        render_size: int = 512,
    ) -> None:
        super().__init__(
            image_size=image_size,
            success=success,
            terminate_on_success=terminate_on_success,
            render_mode=render_mode,
            render_size=render_size,
        )
        self.look = check_choice("look", look, LOOKS)
        self.control_mode = check_choice("control_mode", control_mode, ("relative", "absolute"))
        low, high = (-1.0, 1.0) if control_mode == "relative" else (0.0, WORLD)
        self.action_space = gym.spaces.Box(low, high, (2,), np.float32)
        self.build()

    def build(self) -> None:
        self._window = Window(self.metadata["render_fps"])
        self.vary()

    def vary(self) -> None:
        values: dict[str, Any] = self.variation
        self._table = table = Table(
            values["background_color"],
            values["agent_color"],
            values["block_color"],
            AGENT_RADIUS * values["agent_size"],
            BLOCKS[values["block_shape"]].scaled(values["block_size"]),
        )
        self._painter = LOOKS[self.look](self.image_size, table)
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._block = pymunk.Body(1.0, _moment(values["block_shape"]) * values["block_size"] ** 2)
        self._block.center_of_gravity = table.block.center_of_gravity
        ground = pymunk.Body(body_type=pymunk.Body.STATIC)
        self._contents: tuple[pymunk.Body | pymunk.Shape, ...] = (
            *(self._agent, self._block, ground),
            *(pymunk.Segment(ground, a, b, 2) for a, b in itertools.pairwise(WALLS)),
            pymunk.Circle(self._agent, table.agent_radius),
            *(pymunk.Poly(self._block, part) for part in table.block.parts),
        )
        self._space = pymunk.Space()
        self._space.add(*self._contents)
        _IN_USE.add(self)
        if self._state is not None:
            self.restore(self._state)

    def restore(self, state: State) -> None:
        agent_x, agent_y, block_x, block_y, angle, velocity_x, velocity_y = state.tolist()
        self._agent.position = agent_x, agent_y
        self._agent.velocity = velocity_x, velocity_y
        self._block.angle = angle  # before the position: the angle turns the block about its centre of gravity
        self._block.position = block_x, block_y
        self._block.velocity = 0.0, 0.0
        self._block.angular_velocity = 0.0
        pymunk.Body.update_position(self._block, 0.0)  # drops the solver's hidden position correction
        # A space remembers contact impulses and the order it met its shapes in; only a new one goes by the state alone.
        self._space.remove(*self._contents)
        self._space = pymunk.Space()
        self._space.damping = 0.0
        self._space.add(*self._contents)

    def sample_state(self) -> State:
        return self._sample(lambda block: block)

    def unusual_goal(self, kind: str, state: State) -> State | None:
        """Implements `GoalImageEnv.unusual_goal`.

        The block is 4 px from a ``wall``, or anywhere and ``turned`` by half a turn from where it points in `state`.
        """
        if kind == "wall":
            return self._sample(self._beside_a_wall)
        if kind == "turned":
            angle = math.remainder(state[4] + math.pi, 2 * math.pi)
            return self._sample(lambda block: np.array([*block[:2], angle]))
        return None

    def _beside_a_wall(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
        """The pose, moved straight to one of the walls."""
        corners = np.concatenate(self._table.block.polygons(*block))
        axis, far = self.np_random.integers(2, size=2)
        gap = WORLD - CLEAR - 1 - corners.max(0)[axis] if far else CLEAR + 1 - corners.min(0)[axis]
        return block + gap * (np.arange(3) == axis)

    def _sample(self, placed: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> State:
        """A random state with the block at the pose that `placed` makes of a random one, clear of agent and walls."""
        shape, radius = self._table.block, self._table.agent_radius
        while True:
            x, y = self.np_random.uniform(50, 450, 2)
            block = placed(self.np_random.uniform((100, 100, -math.pi), (400, 400, math.pi)))
            corners = np.concatenate(shape.polygons(*block))
            inside = corners.min() > CLEAR and corners.max() < WORLD - CLEAR
            if inside and shape.distance(x, y, *block) > radius + 1:
                return np.array([x, y, *block, 0.0, 0.0])

    def simulate(self, action: NDArray[np.float32]) -> None:
        self._state = self._advance(action)
        # Continues from the reported state, not from pymunk's own numbers, which differ from it in the last bit.
        self.restore(self._state)

    def sketch(self, state: State, env_actions: NDArray[np.float32]) -> Iterator[State]:
        """States as of `follow`, for actions inside the Box, in less than half the time and not exact: for searches.

        Contact impulses carry over from one step to the next, as in the public environment.
        """
        self.set_state(state)
        for action in env_actions:
            self._state = self._advance(action)
            yield self._state

    def _advance(self, action: NDArray[np.float32]) -> State:
        """State after one control step."""
        x, y, *_, velocity_x, velocity_y = self.get_state().tolist()
        target_x, target_y = float(action[0]), float(action[1])
        if self.control_mode == "relative":
            # Kept on the table, as absolute targets are: walls do not stop a kinematic agent.
            target_x = min(max(x + RELATIVE_SCALE * target_x, 0.0), WORLD)
            target_y = min(max(y + RELATIVE_SCALE * target_y, 0.0), WORLD)
        for _ in range(SUBSTEPS):
            velocity_x += DT * (K_P * (target_x - x) - K_V * velocity_x)
            velocity_y += DT * (K_P * (target_y - y) - K_V * velocity_y)
            x, y = x + DT * velocity_x, y + DT * velocity_y
            self._agent.velocity = velocity_x, velocity_y
            self._space.step(DT)
        pymunk.Body.update_position(self._block, DT)
        return np.array([x, y, *self._block.position, self._block.angle, velocity_x, velocity_y])

    def scripted_action(self, action: NDArray[np.float32], state: State) -> NDArray[np.float32]:
        if self.control_mode == "relative":
            return action
        return np.clip(state[:2] + RELATIVE_SCALE * action, 0.0, WORLD).astype(np.float32)

    def is_success(self, state: State, goal_state: State) -> bool:
        if self.success == "coverage":
            return self._coverage(state, goal_state) > 0.95
        first = 0 if self.success == "pose" else 2
        return position_error(state, goal_state, first) < 20.0 and angle_error(state, goal_state) < math.pi / 9

    def is_nontrivial(self, state: State, goal_state: State) -> bool:
        """The block moves at least 20 px or turns at least 20 degrees."""
        return position_error(state, goal_state, first=2) >= 20.0 or angle_error(state, goal_state) >= math.pi / 9

    def errors(self, state: State, goal_state: State) -> dict[str, float]:
        return {
            "position_px": position_error(state, goal_state),
            "block_px": position_error(state, goal_state, first=2),
            "angle_deg": math.degrees(angle_error(state, goal_state)),
        }

    def quantities(self, states: NDArray[np.float64]) -> dict[str, Quantity]:
        return {
            "agent": Quantity(values=states[:, 0:2], unit="px", is_place=True, tolerance=15.0),
            "block": Quantity(values=states[:, 2:4], unit="px", is_place=True, tolerance=20.0),
            "angle": Quantity(values=np.degrees(states[:, 4:5]), unit="deg", period=360.0, tolerance=20.0),
            "velocity": Quantity(values=states[:, 5:7], unit="px/s", is_place=True),
        }

    def extra_info(self) -> dict[str, Any]:
        return {"coverage": self._coverage(self.get_state(), self.goal_state)}

    def _coverage(self, state: State, goal_state: State) -> float:
        """Share of the goal block that the block covers, in [0, 1]; 0 where the goal's state is unknown."""
        return self._table.block.coverage(state[2:5].tolist(), goal_state[2:5].tolist())

    def landmarks(self, state: State) -> dict[str, Place]:
        """The agent and the block's centre of gravity."""
        (centre,) = place((self._table.block.center_of_gravity,), *state[2:5].tolist())
        return {"agent": (state[0] / WORLD, state[1] / WORLD), "block": (centre[0] / WORLD, centre[1] / WORLD)}

    def steered(self, state: State, env_actions: NDArray[np.float32]) -> NDArray[np.float64]:
        """Exact: nothing pushes the agent back."""
        position, velocity = (np.tile(state[part], (len(env_actions), 1)) for part in (slice(0, 2), slice(5, 7)))
        way = [position]
        for action in env_actions.astype(np.float64).swapaxes(0, 1):
            relative = self.control_mode == "relative"
            target = np.clip(position + RELATIVE_SCALE * action, 0.0, WORLD) if relative else action
            for _ in range(SUBSTEPS):
                velocity = velocity + DT * (K_P * (target - position) - K_V * velocity)
                position = position + DT * velocity
            way.append(position)
        return np.stack(way, axis=1) / WORLD

    def drag_goal(self, goal_state: State, start: Place, end: Place) -> State:
        return pusht_hands.drag_goal(goal_state, start, end)

    def turn_goal(self, goal_state: State, turn_deg: float) -> State:
        return pusht_hands.turn_goal(goal_state, turn_deg)

    def push(self, state: State, start: Place, end: Place) -> State:
        return pusht_hands.push(state, start, end)

    def picture(self, state: State) -> NDArray[np.uint8]:
        return self._painter.picture(state)

    def render(self) -> NDArray[np.uint8] | None:
        """The table with the goal block in green, ``(render_size, render_size, 3)``, or a window in `human` mode."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: gymnasium.make('lwm/PushT-v0', render_mode='rgb_array')")
            return None
        goal_state = self.goal_state if np.isfinite(self.goal_state).all() else None
        table = draw_table(self.render_size, self.get_state(), goal_state, self._table)
        if self.render_mode == "rgb_array":
            return to_array(table)
        self._window.show(table)
        return None

    def close(self) -> None:
        self._window.close()


_IN_USE: weakref.WeakSet[PushTEnv] = weakref.WeakSet()


@atexit.register
def _free_spaces() -> None:
    """Frees the spaces of environments that outlive the program: pymunk cannot when its modules are gone."""
    for env in list(_IN_USE):
        del env._space


def position_error(state: State, goal_state: State, first: int = 0) -> float:
    """Norm of the position error in px: of agent and block (`first` 0) or of the block alone (`first` 2)."""
    return float(np.linalg.norm(state[first:4] - goal_state[first:4]))


def angle_error(state: State, goal_state: State) -> float:
    """Absolute difference of the two block angles, in [0, pi]."""
    return abs((state[4] - goal_state[4] + math.pi) % (2 * math.pi) - math.pi)


def _moment(shape: str) -> float:
    """Moment of inertia of a block of mass 1."""
    if shape == "T":  # both moments are the bar's: a slip of the public environment that defines its dynamics
        return 2 * pymunk.moment_for_poly(1.0, BAR)
    block = BLOCKS[shape]
    x, y = block.center_of_gravity
    shares = [abs(area(part)) / block.area for part in block.parts]
    parts = zip(shares, block.parts, strict=True)
    return sum(pymunk.moment_for_poly(share, part, (-x, -y)) for share, part in parts)

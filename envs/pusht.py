"""Push-T: a round agent pushes a T-shaped block over a table until the table looks like the goal picture."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import numpy as np
import pygame
import pymunk
from numpy.typing import NDArray

from .base import GoalImageEnv, State
from .polygons import Polygon, overlap_area, place

WORLD = 512.0
AGENT_RADIUS = 15.0
BAR: Polygon = ((-60.0, 30.0), (60.0, 30.0), (60.0, 0.0), (-60.0, 0.0))
STEM: Polygon = ((-15.0, 30.0), (-15.0, 120.0), (15.0, 120.0), (15.0, 30.0))
BLOCK_AREA = 120.0 * 30.0 + 30.0 * 90.0
CENTER_OF_GRAVITY = (0.0, 45.0)  # mean of the two rectangles' centres, as in the public environment

DT, SUBSTEPS = 0.01, 10  # 100 Hz physics, 10 Hz control
K_P, K_V = 100.0, 20.0
RELATIVE_SCALE = 100.0  # px that a relative action of 1 asks for

BACKGROUND, AGENT_COLOR, BLOCK_COLOR, GOAL_COLOR = "white", "royalblue", "lightslategray", "lightgreen"
WALL_COLOR = "lightgray"


class PushTEnv(GoalImageEnv):
    """Push-T with the physics of the public environment (Diffusion Policy, arXiv 2303.04137), on pymunk 7.

    Actions: ``Box(-1, 1, (2,))``, the wanted displacement of the agent divided by 100 px (`control_mode` "relative"),
        or ``Box(0, 512, (2,))``, the position to go to in px ("absolute", the original). Control runs at 10 Hz; a
        PD controller with k_p 100 and k_v 20 moves the agent, which is kinematic: the block and the walls never
        push it back.

    State: agent x, y, block x, y (px), block angle (rad, not wrapped), agent velocity x, y (px/s).

    Success: `pose` (default, the protocol of LeWorldModel, arXiv 2603.19312): the 4-vector error of agent and block
    position is under 20 px and the block's angle error under 20 degrees; `block`: the same for the block alone;
    `coverage`: the block covers 95 % of the goal block, as in gym-pusht.

    ``info`` adds `coverage`, the covered share of the goal block.

    Physics is a function of the state alone: unlike in the public environment, no contact impulses are carried over
    from one control step to the next and the block's motion is integrated at the end of a control step, which is what
    makes restoring exact.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (declared so by Gymnasium)
        "render_modes": ["rgb_array", "human"],
        "render_fps": 10,
    }
    state_size = 7
    successes = ("pose", "block", "coverage")

    def __init__(
        self,
        *,
        image_size: int = 64,
        control_mode: str = "relative",
        success: str = "pose",
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        render_size: int = 512,
    ) -> None:
        super().__init__(image_size, success, terminate_on_success, render_mode)
        if control_mode not in ("relative", "absolute"):
            raise ValueError(f"control_mode={control_mode!r} is unknown: choose one of relative, absolute")
        self.control_mode = control_mode
        self.render_size = render_size
        low, high = (-1.0, 1.0) if control_mode == "relative" else (0.0, WORLD)
        self.action_space = gym.spaces.Box(low, high, (2,), np.float32)
        self._window: pygame.Surface | None = None
        self._clock: pygame.time.Clock | None = None
        # Drawn larger, then smoothed down: an agent of 4 px still moves by fractions of a pixel.
        self._canvas = pygame.Surface((_drawing_size(image_size),) * 2)
        self._build_space()

    def _build_space(self) -> None:
        self._space = pymunk.Space()
        self._space.damping = 0.0
        corners = [(5, 506), (5, 5), (506, 5), (506, 506), (5, 506)]
        for a, b in itertools.pairwise(corners):
            self._space.add(pymunk.Segment(self._space.static_body, a, b, 2))
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        # Both moments are the bar's: a slip of the public environment that defines its dynamics.
        self._block = pymunk.Body(1.0, 2 * pymunk.moment_for_poly(1.0, BAR))
        self._block.center_of_gravity = CENTER_OF_GRAVITY
        self._shapes = (
            pymunk.Circle(self._agent, AGENT_RADIUS),
            pymunk.Poly(self._block, BAR),
            pymunk.Poly(self._block, STEM),
        )
        self._space.add(self._agent, self._block, *self._shapes)

    def get_state(self) -> State:
        return self._state.copy()

    def set_state(self, state: State) -> None:
        agent_x, agent_y, block_x, block_y, angle, velocity_x, velocity_y = map(float, state)
        self._agent.position = agent_x, agent_y
        self._agent.velocity = velocity_x, velocity_y
        self._block.angle = angle  # before the position: the angle turns the block about its centre of gravity
        self._block.position = block_x, block_y
        self._block.velocity = 0.0, 0.0
        self._block.angular_velocity = 0.0
        pymunk.Body.update_position(self._block, 0.0)  # drops the solver's hidden position correction
        self._space.reindex_shapes_for_body(self._agent)
        self._space.reindex_shapes_for_body(self._block)
        self._state = np.array(state, np.float64)

    def sample_state(self) -> State:
        while True:
            x, y = self.np_random.uniform(50, 450, 2)
            block = self.np_random.uniform((100, 100, -math.pi), (400, 400, math.pi))
            corners = np.concatenate(block_polygons(*block))
            inside = corners.min() > 10 and corners.max() < WORLD - 10
            if inside and distance_to_block(x, y, *block) > AGENT_RADIUS + 1:
                return np.array([x, y, *block, 0.0, 0.0])

    def simulate(self, action: NDArray[np.float32]) -> None:
        # The cached impulses of the last control step are not part of the state; taking the shapes out drops them.
        self._space.remove(*self._shapes)
        self._space.add(*self._shapes)
        x, y, velocity_x, velocity_y = map(float, self._state[[0, 1, 5, 6]])
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
        # Going on from what is reported, not from pymunk's own numbers, which differ from it in the last bit.
        self.set_state(np.array([x, y, *self._block.position, self._block.angle, velocity_x, velocity_y]))

    def is_success(self, state: State, goal_state: State) -> bool:
        if self.success == "coverage":
            return coverage(state, goal_state) > 0.95
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

    def extra_info(self) -> dict[str, Any]:
        return {"coverage": coverage(self.get_state(), self.goal_state)}

    def picture(self, state: State) -> NDArray[np.uint8]:
        self._draw(self._canvas, state)
        return _to_array(pygame.transform.smoothscale(self._canvas, (self.image_size, self.image_size)))

    def render(self) -> NDArray[np.uint8] | None:
        """The table with the goal block in green, ``(render_size, render_size, 3)``, or a window in `human` mode."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: gymnasium.make('lwm/PushT-v0', render_mode='rgb_array')")
            return None
        canvas = pygame.Surface((self.render_size, self.render_size))
        self._draw(canvas, self.get_state(), self.goal_state)
        if self.render_mode == "rgb_array":
            return _to_array(canvas)
        if self._window is None:
            pygame.display.init()
            self._window = pygame.display.set_mode(canvas.get_size())
            self._clock = pygame.time.Clock()
        assert self._clock is not None
        self._window.blit(canvas, (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])
        return None

    def close(self) -> None:
        if self._window is not None:
            pygame.display.quit()
            self._window = None

    def _draw(self, canvas: pygame.Surface, state: State, goal_state: State | None = None) -> None:
        scale = canvas.get_width() / WORLD
        canvas.fill(BACKGROUND)
        frame = pygame.Rect(5 * scale, 5 * scale, 501 * scale, 501 * scale)
        pygame.draw.rect(canvas, WALL_COLOR, frame, max(1, round(4 * scale)))
        if goal_state is not None and np.isfinite(goal_state).all():
            _draw_block(canvas, GOAL_COLOR, goal_state, scale)
        pygame.draw.circle(canvas, AGENT_COLOR, (state[0] * scale, state[1] * scale), AGENT_RADIUS * scale)
        _draw_block(canvas, BLOCK_COLOR, state, scale)


def _drawing_size(image_size: int) -> int:
    return image_size * max(1, min(3, 1024 // image_size))


def _draw_block(canvas: pygame.Surface, color: str, state: State, scale: float) -> None:
    for polygon in block_polygons(state[2], state[3], state[4]):
        pygame.draw.polygon(canvas, color, [(x * scale, y * scale) for x, y in polygon])


def _to_array(canvas: pygame.Surface) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pygame.surfarray.pixels3d(canvas).swapaxes(0, 1))


def block_polygons(x: float, y: float, angle: float) -> tuple[Polygon, Polygon]:
    """Corners of the T's bar and stem in the world, px."""
    return place(BAR, x, y, angle), place(STEM, x, y, angle)


def distance_to_block(x: float, y: float, block_x: float, block_y: float, angle: float) -> float:
    """Distance in px from a point to the T, 0 inside."""
    cos, sin = math.cos(angle), math.sin(angle)
    local_x = cos * (x - block_x) + sin * (y - block_y)
    local_y = -sin * (x - block_x) + cos * (y - block_y)
    bar = math.hypot(max(abs(local_x) - 60.0, 0.0), max(abs(local_y - 15.0) - 15.0, 0.0))
    stem = math.hypot(max(abs(local_x) - 15.0, 0.0), max(abs(local_y - 75.0) - 45.0, 0.0))
    return min(bar, stem)


def position_error(state: State, goal_state: State, first: int = 0) -> float:
    """Norm of the position error in px: of agent and block (`first` 0) or of the block alone (`first` 2)."""
    return float(np.linalg.norm(state[first:4] - goal_state[first:4]))


def angle_error(state: State, goal_state: State) -> float:
    """Absolute difference of the two block angles, in [0, pi]."""
    return abs((state[4] - goal_state[4] + math.pi) % (2 * math.pi) - math.pi)


def coverage(state: State, goal_state: State) -> float:
    """Share of the goal block that the block covers, in [0, 1]; 0 where the goal's state is unknown."""
    if not position_error(state, goal_state, first=2) < 270.0:  # further apart than two blocks reach, or NaN
        return 0.0
    area = sum(
        overlap_area(part, goal_part)
        for part in block_polygons(state[2], state[3], state[4])
        for goal_part in block_polygons(goal_state[2], goal_state[3], goal_state[4])
    )
    return min(1.0, area / BLOCK_AREA)

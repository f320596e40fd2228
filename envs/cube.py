"""OGBench-Cube: a robot arm picks a cube up and carries it until the table looks like the goal picture."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..validation import check_choice
from .arguments import check_flag
from .base import GoalImageEnv, Place, State
from .cube_scene import Look, scene
from .cube_simulator import centre, quaternion, simulator, state_size
from .quantities import Quantity
from .variation import ColorFactor, ScaleFactor

FIDELITIES = ("lite", "stock", "blank")
REACHED_M, REACHED_DEG = 0.04, 15.0
SHORTEST_QUATERNION = 1e-3
STEP_M = 0.02  # displacement of the gripper by an action of 1: two fifths of the 5 cm that it asks for, as measured
REACH_M = (0.25, -0.35, 0.02), (0.6, 0.35, 0.35)  # of the gripper: two corners of ogbench's workspace
DEGREES = 180.0 / np.pi  # of a radian


class CubeEnv(GoalImageEnv):
    """OGBench's cube-single (arXiv 2410.20092) with goal pictures; ogbench simulates, this class adapts it.

    Actions: ``Box(-1, 1, (5,))`` at 20 Hz: the wanted displacement of the gripper along x, y, z (times 5 cm), its turn
        about the vertical (times 0.3 rad) and the change of its closing (times 1, from open to closed). Actions outside
        the Box are clipped to it. The gripper stays above a part of the table of 35 x 70 cm.

    State: ogbench's 21 joint positions, then its 20 joint velocities (m, rad, s). Columns 0-5 are the arm's joints, 6
        a gripper joint (0 open, 0.8 closed), 14-16 the cube's centre, 17-20 its quaternion (w, x, y, z).

    Success: `position` (default, OGBench's rule): the cube's centre is within 4 cm of the goal's, held or not; `pose`:
    and a turn of at most 15 degrees makes it look like the goal's (a cube looks alike in 24 orientations; about the
    vertical, every 90 degrees).

    ``info`` adds ogbench's own readings: ``proprio/``: `joint_pos`, `joint_vel`, `effector_pos` (m), `effector_yaw`,
    `gripper_opening` (0 open, 1 closed, in spite of ogbench's name), `gripper_vel`, `gripper_contact`; ``privileged/``:
    `block_0_pos`, `block_0_quat`, `block_0_yaw`, `target_block_pos` (the goal's cubes). `gripper_contact` is measured
    during a step: it is 0 after a reset.

    Physics is a function of the state alone, which makes restoring exact: ogbench's solver is not started from the last
    step's forces, and its controller reads the present place of the gripper, not the place of a substep of 2 ms ago.

    Factors, of the reset option `variation`: `cube_color` (of the first cube), `gripper_color`, `floor_color` (a tint;
    red, green, blue) and `lamps` (their brightness, a multiple of the usual). Physics is as before.

    Threads: an environment may be used in another thread than the one that made it. The first step and the first
    picture in a thread take about a second more each, since each thread has its own simulator and OpenGL context.

    Args:
        image_size: side of the observed pictures, px.
        fidelity: ``lite`` draws 20 times faster than ogbench, ``stock`` is ogbench's own picture, ``blank`` draws
            nothing: pictures are black, for users of the state alone. All have the same physics.
        shadows: whether objects throw shadows, which show their height; drawing takes half the time without.
        success: success criterion.
        terminate_on_success: whether success ends an episode.
        render_mode: "rgb_array" or None.
        render_size: side of the pictures of ``render()``, px.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  (as in Gymnasium)
    num_cubes = 1
    state_size = state_size(num_cubes)
    successes = ("position", "pose")
    factors = {  # noqa: RUF012  (never changed)
        "cube_color": ColorFactor(usual=Look.cube_color),
        "gripper_color": ColorFactor(usual=Look.gripper_color),
        "floor_color": ColorFactor(usual=Look.floor_color),
        "lamps": ScaleFactor(least=0.1, most=1.9, strengths=(0.25, 0.5, 0.9)),
    }

    def __init__(
        self,
        *,
        image_size: int = 64,
        fidelity: str = "lite",
        shadows: bool = True,
        success: str = "position",
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        super().__init__(
            image_size=image_size,
            success=success,
            terminate_on_success=terminate_on_success,
            render_mode=render_mode,
            render_size=render_size,
        )
        self.fidelity = check_choice("fidelity", fidelity, FIDELITIES)
        self.shadows = check_flag("shadows", shadows)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def check_state(self, state: Any, name: str) -> State:
        """Also refuses a cube without an orientation."""
        vector = super().check_state(state, name)
        if any(np.linalg.norm(vector[quaternion(cube)]) < SHORTEST_QUATERNION for cube in range(self.num_cubes)):
            raise UserError(f"{name} has a cube whose quaternion is zero: pass a state as in `info`, not {state!r}")
        return vector

    def restore(self, state: State) -> None:
        self._readings = simulator(self.num_cubes).restore(state)

    def sample_state(self) -> State:
        return simulator(self.num_cubes).sample(self.np_random)

    def unusual_goal(self, kind: str, state: State) -> State | None:
        """Implements `GoalImageEnv.unusual_goal`.

        The first cube lies at the ``edge`` of what the gripper reaches, where neither starts nor targets of play are.
        """
        if kind != "edge":
            return None
        goal = self.sample_state()
        place = goal[centre()][:2]  # a view
        low, high = simulator(self.num_cubes)._target_sampling_bounds
        while ((low <= place) & (place <= high)).all():
            place[:] = self.np_random.uniform(*np.array(REACH_M)[:, :2])
        return goal

    def simulate(self, action: NDArray[np.float32]) -> None:
        self._state, self._readings = simulator(self.num_cubes).advance(self.get_state(), action)

    def is_success(self, state: State, goal_state: State) -> bool:
        near = self._farthest_m(state, goal_state) <= REACHED_M
        return near and (self.success == "position" or self._most_turned_deg(state, goal_state) <= REACHED_DEG)

    def is_nontrivial(self, state: State, goal_state: State) -> bool:
        """True if a cube moves more than 4 cm."""
        return self._farthest_m(state, goal_state) > REACHED_M

    def errors(self, state: State, goal_state: State) -> dict[str, float]:
        """Distance of the centres and difference of orientation, each the largest of all cubes."""
        return {
            "cube_m": self._farthest_m(state, goal_state),
            "cube_turn_deg": self._most_turned_deg(state, goal_state),
        }

    def quantities(self, states: NDArray[np.float64]) -> dict[str, Quantity]:
        """ogbench's readings of `states`, 0.4 ms each.

        A cube looks alike after a quarter of a turn, so its yaw is asked for twice: as it is, and as it looks.
        """
        readings = [simulator(self.num_cubes).restore(state) for state in states]

        def column(name: str, scale: float) -> NDArray[np.float64]:
            return scale * np.stack([reading[name] for reading in readings])

        named: dict[str, Quantity] = {}
        for cube, name in zip(range(self.num_cubes), ("cube", "second cube"), strict=False):
            place, yaw = column(f"privileged/block_{cube}_pos", 100.0), column(f"privileged/block_{cube}_yaw", DEGREES)
            named[name] = Quantity(values=place, unit="cm", is_place=True, tolerance=2.0)
            named[f"{name} yaw"] = Quantity(values=yaw, unit="deg", period=360.0)
            named[f"{name} yaw as it looks"] = Quantity(values=yaw, unit="deg", period=90.0, tolerance=15.0)
        hand = column("proprio/effector_pos", 100.0)
        return {
            **named,
            "effector": Quantity(values=hand, unit="cm", is_place=True, tolerance=2.0),
            "effector yaw": Quantity(values=column("proprio/effector_yaw", DEGREES), unit="deg", period=360.0),
            "gripper": Quantity(values=column("proprio/gripper_opening", 100.0), unit="%"),
            "joints": Quantity(values=column("proprio/joint_pos", DEGREES), unit="deg"),
            "joint speeds": Quantity(values=column("proprio/joint_vel", DEGREES), unit="deg/s"),
        }

    def _farthest_m(self, state: State, goal_state: State) -> float:
        columns = map(centre, range(self.num_cubes))
        return max(float(np.linalg.norm(state[cube] - goal_state[cube])) for cube in columns)

    def _most_turned_deg(self, state: State, goal_state: State) -> float:
        columns = map(quaternion, range(self.num_cubes))
        return max(cube_turn_deg(state[cube], goal_state[cube]) for cube in columns)

    def extra_info(self) -> dict[str, Any]:
        goals = [self.goal_state[centre(cube)] for cube in range(self.num_cubes)]
        readings = {name: reading.copy() for name, reading in self._readings.items()}
        return {**readings, "privileged/target_block_pos": np.concatenate(goals)}

    def landmarks(self, state: State) -> dict[str, Place]:
        """The tip of the gripper and the centres of the cubes."""
        tip = simulator(self.num_cubes).restore(state)["proprio/effector_pos"]
        centres = [state[centre(cube)] for cube in range(self.num_cubes)]
        names = ("gripper", "cube", "second cube")[: 1 + self.num_cubes]
        return {name: (x, y) for name, (x, y) in zip(names, self._places(np.stack([tip, *centres])), strict=True)}

    def steered(self, state: State, env_actions: NDArray[np.float32]) -> NDArray[np.float64]:
        """About: the arm is taken to follow in even steps, and things in its way to give way."""
        tip = simulator(self.num_cubes).restore(state)["proprio/effector_pos"]
        way = [np.tile(tip, (len(env_actions), 1))]
        for action in env_actions.astype(np.float64).swapaxes(0, 1):
            way.append(np.clip(way[-1] + STEP_M * action[:, :3], *REACH_M))
        ways = np.stack(way, axis=1)
        return self._places(ways.reshape(-1, 3)).reshape(*ways.shape[:2], 2)

    def _places(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        return scene(self.num_cubes, self.image_size, self._view_fidelity, self.shadows).places(points_m)

    def picture(self, state: State) -> NDArray[np.uint8]:
        """The observation ``(h, w, 3)`` of a state, without ogbench's mark of the goal."""
        if self.fidelity == "blank":
            return np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return scene(self.num_cubes, self.image_size, self.fidelity, self.shadows).picture(state, look=self._look)

    def view(self, state: State) -> NDArray[np.uint8]:
        """The picture of a state with a bright light and an opaque arm, which the observation does not have."""
        return scene(self.num_cubes, self.image_size, self._view_fidelity, self.shadows).picture(state, look=self._look)

    @property
    def _look(self) -> Look:
        values: dict[str, Any] = self.variation
        return Look(values["cube_color"], values["gripper_color"], values["floor_color"], values["lamps"])

    @property
    def _view_fidelity(self) -> str:
        return "stock" if self.fidelity == "stock" else "film"

    def render(self) -> NDArray[np.uint8] | None:
        """The scene as in `view` with translucent cubes at the goal, ``(render_size, render_size, 3)``."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: gymnasium.make(..., render_mode='rgb_array')")
            return None
        goal_state = self.goal_state if np.isfinite(self.goal_state).all() else None
        drawn = scene(self.num_cubes, self.render_size, self._view_fidelity, self.shadows)
        return drawn.picture(self.get_state(), goal_state, self._look)


class CubeDoubleEnv(CubeEnv):
    """OGBench's cube-double: `CubeEnv` with two cubes, which may be stacked; both must reach their goals.

    State: 28 joint positions, then 26 velocities; columns 21-23 are the second cube's centre, 24-27 its quaternion.
        ``privileged/block_1_*`` are its readings.
    """

    num_cubes = 2
    state_size = state_size(num_cubes)


def cube_turn_deg(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Smallest turn that makes a cube of the first orientation look like one of the second, quaternions ``(4,)``.

    In degrees: 0 to 45 about the vertical.

    The turn from one orientation to the other is a unit quaternion; the cosine of half its angle is its first number.
    Following it by any of the cube's 24 symmetries leaves the largest of three sums.
    """
    (a, *u), (b, *v) = first.tolist(), second.tolist()
    turn = [a * b + np.dot(u, v), *(a * np.array(v) - b * np.array(u) - np.cross(u, v))]
    first, second, third, fourth = np.sort(np.abs(turn))[::-1]
    cosine = max(first, (first + second) / np.sqrt(2), (first + second + third + fourth) / 2)
    return float(np.degrees(2 * np.arccos(min(cosine / np.linalg.norm(turn), 1.0))))

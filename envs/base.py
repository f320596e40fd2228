"""Goal-image environments: the observations, reset options, success, termination and copies that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..validation import check_choice
from .arguments import check_flag, check_size
from .quantities import Quantity
from .variation import Factor, Value, checked_variation

Observation = dict[str, NDArray[np.uint8]]
State = NDArray[np.float64]

Place = tuple[float, float]
"""A place in a picture: x and y from 0 at the left and the top to 1 at the right and the bottom."""

STATE_LIMIT = 1e6
"""Largest magnitude of a number in a state: beyond it, simulators overflow or reset themselves silently."""


class _ResetOptions(NamedTuple):
    """Checked copies of reset options; None is an option that was not passed."""

    state: State | None
    goal_state: State | None
    goal_image: NDArray[np.uint8] | None
    variation: dict[str, Value]


class GoalImageEnv(gym.Env[Observation, NDArray[np.float32]], ABC):
    """An environment that shows its present and its goal as two pictures.

    Observation: ``{"pixels", "goal"}``, both uint8 ``(h, w, 3)``. Nothing else is observed: simulator quantities are in
        ``info`` (`state`, `goal_state`, `is_success`, and the entries that a subclass adds).

    Actions: clipped to `action_space` before they are executed, as in the public Push-T (`executed_action`). An action
        of another shape, or with a number that is not finite, is refused.

    Reset options: `state` and `goal_state` (vectors as in ``info``) set both exactly. `goal_image` (uint8 ``(h, w,
        3)``) sets the picture of the goal alone: without `goal_state`, the goal's state is then NaN and success is
        never reported. `variation` sets values of `factors` for the episode, by name, for its goal picture too; all
        others have their usual value. Refused options change nothing.

    Reward is 1.0 on success, else 0.0; an episode terminates on success unless `terminate_on_success` is False.

    Copies: ``copy.deepcopy`` and pickle copy state, goal and random generators, so that the copy continues exactly as
        the original would. A window on the screen is not copied. Returned arrays are copies, and so are the arrays that
        the environment keeps.

    `close` frees a window on the screen. It may be called twice, and the environment may be used again afterwards.

    A new environment provides the following; ``docs/data.md`` has an example. ``tests/test_env_contract.py`` checks
    every entry of `lwm_agent.envs.ENVS`:

    * `state_size`, the length of a state;
    * `action_space`, a bounded float32 Box of one axis, set by a constructor that takes keywords only and passes on
      `image_size`, `success`, `terminate_on_success`, `render_mode` and `render_size`;
    * `simulate`, `sample_state`, `picture` and `is_success`;
    * physics that is a function of the state alone: restoring a state and continuing equals never having stopped. A
      simulator with a memory of its own is put into a state by `restore`;
    * if the default does not suit: `successes` (names of success criteria, of which the constructor has a default),
      `is_nontrivial`, `errors`, `quantities`, `unusual_goal`, `view`, `landmarks`, `steered`, `scripted_action`,
      `extra_info`, ``render`` and `metadata`;
    * for a world that may look or be different, `factors` and `vary`;
    * for attributes that cannot be copied, their names in `uncopied` and a `build` that makes them anew;
    * `lwm_agent.register_env`, with a scripted data policy called ``play``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (as in Gymnasium)
    state_size: int
    successes: tuple[str, ...] = ("default",)
    uncopied: tuple[str, ...] = ()
    factors: Mapping[str, Factor] = {}

    def __init__(
        self,
        *,
        image_size: int = 64,
        success: str = "default",
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        self.image_size = check_size("image_size", image_size, 16, 512)
        self.render_size = check_size("render_size", render_size, 16, 4096)
        self.success = check_choice("success", success, self.successes)
        self.terminate_on_success = check_flag("terminate_on_success", terminate_on_success)
        modes: list[str] = self.metadata["render_modes"]
        self.render_mode = None if render_mode is None else check_choice("render_mode", render_mode, modes)
        shape = (self.image_size, self.image_size, 3)
        pictures = {name: gym.spaces.Box(0, 255, shape, np.uint8) for name in ("pixels", "goal")}
        self.observation_space = gym.spaces.Dict(pictures)  # type: ignore[assignment, arg-type]
        self._goal_state: State = np.full(self.state_size, np.nan)
        self._goal = np.zeros(shape, np.uint8)
        self._state: State | None = None
        self._variation = checked_variation({}, self.factors)

    def restore(self, state: State) -> None:
        """Puts the simulation into `state`, a checked vector; nothing of the past remains."""

    @abstractmethod
    def sample_state(self) -> State:
        """A random start or goal, drawn from ``self.np_random``."""

    def unusual_goal(self, kind: str, state: State) -> State | None:
        """A random goal that play does not lead to, for a task from `state`; None where the world has no such goals.

        Args:
            kind: second word of a protocol of tasks: ``wall``, ``turned`` or ``edge``.
            state: start of the task.
        """
        return None

    @abstractmethod
    def picture(self, state: State) -> NDArray[np.uint8]:
        """The observation ``(h, w, 3)`` of any state; the simulation stays as it is."""

    @abstractmethod
    def is_success(self, state: State, goal_state: State) -> bool:
        """True if `state` counts as having reached `goal_state` under ``self.success``."""

    def is_nontrivial(self, state: State, goal_state: State) -> bool:
        """True if the way from one to the other takes more than moving the agent: the filter of strict tasks."""
        return True

    def errors(self, state: State, goal_state: State) -> dict[str, float]:
        """Distances of `state` from `goal_state`; where there is one, each name ends in its unit: ``_px``, ``_deg``."""
        return {"distance": float(np.linalg.norm(state - goal_state))}

    def quantities(self, states: NDArray[np.float64]) -> dict[str, Quantity]:
        """Physical quantities of recorded `states` ``(N, state_size)`` by their names, for probes.

        Without any, probes take those of ``register_env(probes=...)``, and without those each column of a state.
        """
        return {}

    @abstractmethod
    def simulate(self, action: NDArray[np.float32]) -> None:
        """Replaces ``self._state`` by the state after one control step of an action inside `action_space`."""

    def follow(self, state: State, env_actions: NDArray[Any]) -> Iterator[State]:
        """States after each of `env_actions` ``(N, A)`` from `state` on; the simulation goes along.

        Raises:
            UserError: an action is none, or the simulator cannot go on from a state.
        """
        self.set_state(state)
        for action in env_actions:
            self.simulate(self.executed_action(action))
            yield self.get_state()

    def scripted_action(self, action: NDArray[np.float32], state: State) -> NDArray[np.float32]:
        """The action of this environment that does in `state` what `action` does in one of default arguments.

        Scripted policies act in the latter, and zeros stand for doing nothing there. An environment overrides this
        where an argument changes what an action means.
        """
        return action

    def view(self, state: State) -> NDArray[np.uint8]:
        """Picture ``(h, w, 3)`` of any state for people, in videos; by default the observation."""
        return self.picture(state)

    def landmarks(self, state: State) -> dict[str, Place]:
        """Places in `view` of what films draw paths of, by name, the agent first; by default nothing is."""
        return {}

    def steered(self, state: State, env_actions: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Ways of the agent in `view` that S action sequences ``(S, N, A)`` ask for, ``(S, N + 1, 2)``.

        From the actions alone: nothing is simulated, so that hundreds of candidates cost little. None, the default, if
        that cannot be told. As in `landmarks`, places are ``(x, y)`` from 0 at the left and the top to 1.
        """
        return None

    def vary(self) -> None:
        """Takes up `variation`, of which a reset has changed something."""

    def extra_info(self) -> dict[str, Any]:
        """Entries that a subclass adds to ``info``; their arrays are copies."""
        return {}

    def build(self) -> None:
        """Makes the attributes named in `uncopied`, at construction and in a copy, as ``self._state`` needs them."""

    @property
    def variation(self) -> dict[str, Value]:
        """Value of each of `factors` in this episode."""
        return dict(self._variation)

    @property
    def goal_state(self) -> State:
        """A copy of the goal's state ``(state_size,)``, NaN where only its picture is known."""
        return self._goal_state.copy()

    def get_state(self) -> State:
        """The simulator's state ``(state_size,)``; restoring it and continuing equals never having stopped."""
        if self._state is None:
            raise UserError("there is no state before the first reset: call reset()")
        return self._state.copy()

    def set_state(self, state: State) -> None:
        """Restores a vector that `get_state` returned."""
        state = self.check_state(state, "state")
        self.restore(state)
        self._state = state

    def check_state(self, state: Any, name: str) -> State:
        """A copy of `state` as float64; raises `UserError` unless it is `state_size` finite numbers of a usual size."""
        vector = _numbers(state)
        if vector is None or vector.shape != (self.state_size,) or not np.isfinite(vector).all():
            raise UserError(f"{name} must be {self.state_size} finite numbers, not {state!r}")
        if np.abs(vector).max() > STATE_LIMIT:
            raise UserError(f"{name} has numbers beyond {STATE_LIMIT:g}, which cannot be simulated: {state!r}")
        return vector.astype(np.float64)

    def executed_action(self, action: Any) -> NDArray[np.float32]:
        """The action ``(A,)`` that a step executes for `action`: of the type of `action_space`, clipped to it."""
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        vector = _numbers(action)
        if vector is None or vector.shape != space.shape or not np.isfinite(vector).all():
            raise UserError(f"action {action!r} must be finite and of shape {space.shape}")
        clipped: NDArray[np.float32] = np.clip(vector, space.low, space.high).astype(space.dtype)
        return clipped

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        passed = self._checked_options(options)
        super().reset(seed=seed)
        if passed.variation != self._variation:
            self._variation = passed.variation
            self.vary()
        state = self.sample_state() if passed.state is None else passed.state
        goal_state, goal = passed.goal_state, passed.goal_image
        if goal is None:
            goal_state = self.sample_state() if goal_state is None else goal_state
            goal = self.picture(goal_state)
        self.set_state(state)
        self._goal_state = np.full(self.state_size, np.nan) if goal_state is None else goal_state
        self._goal = goal
        if self.render_mode == "human":
            self.render()
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        action = self.executed_action(action)
        self.simulate(action)
        info = self._info()
        if self.render_mode == "human":
            self.render()
        terminated = self.terminate_on_success and info["is_success"]
        return self._observe(), float(info["is_success"]), terminated, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The view of the present, `image_size` pixels wide; None without a `render_mode`."""
        return None if self.render_mode is None else self.view(self.get_state())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self.uncopied}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        self.build()

    def _checked_options(self, options: dict[str, Any] | None) -> _ResetOptions:
        if not isinstance(options, dict | None):
            raise UserError(f"reset options must be a dictionary, not {options!r}")
        unknown = set(options or {}) - set(_ResetOptions._fields)
        if unknown:
            names = ", ".join(_ResetOptions._fields)
            raise UserError(f"unknown reset options {sorted(map(str, unknown))}: choose from {names}")
        passed = {name: value for name, value in (options or {}).items() if value is not None}
        state, goal_state = (
            self.check_state(passed[name], f"options[{name!r}]") if name in passed else None
            for name in ("state", "goal_state")
        )
        picture = self._checked_picture(passed.get("goal_image"))
        variation = checked_variation(passed.get("variation", {}), self.factors)
        return _ResetOptions(state, goal_state, picture, variation)

    def _checked_picture(self, picture: Any) -> NDArray[np.uint8] | None:
        if picture is None:
            return None
        array = _numbers(picture)
        if array is None:
            raise UserError(f"options['goal_image'] must be a picture, not {picture!r}")
        if array.shape != self._goal.shape or array.dtype != np.uint8:
            raise UserError(
                f"options['goal_image'] is {array.dtype} {array.shape}; this environment needs uint8 {self._goal.shape}"
            )
        return array

    def _observe(self) -> Observation:
        return {"pixels": self.picture(self.get_state()), "goal": self._goal.copy()}

    def _info(self) -> dict[str, Any]:
        state = self.get_state()
        return {
            "state": state,
            "goal_state": self.goal_state,
            "is_success": bool(self.is_success(state, self._goal_state)),
            **self.extra_info(),
        }


def _numbers(value: Any) -> NDArray[Any] | None:
    """A copy of `value` as an array of real numbers; None if it is anything else."""
    try:
        array = np.array(value)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, a tensor that needs a gradient
        return None
    return array if array.dtype.kind in "iuf" else None

"""What every goal-image environment shares: observations, reset options, success and termination."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Observation = dict[str, NDArray[np.uint8]]
State = NDArray[np.float64]


class GoalImageEnv(gym.Env[Observation, NDArray[np.float32]]):
    """An environment that shows where it is and where it should be as two pictures.

    Observation: ``{"pixels", "goal"}``, both uint8 ``(h, w, 3)``. Nothing else is observed: what a simulator knows
        beyond the picture is in ``info`` (`state`, `goal_state`, `is_success`, and what a subclass adds).

    Reset options: `state` and `goal_state` (vectors as in ``info``) set both exactly, `goal_image` (uint8 ``(h, w,
    3)``) sets a goal that is known by its picture only: `goal_state` is then NaN and success is never reported.

    Reward is 1.0 on success, else 0.0; an episode terminates on success unless `terminate_on_success` is False.
    """

    state_size: int
    successes: tuple[str, ...] = ()

    def __init__(self, image_size: int, success: str, terminate_on_success: bool, render_mode: str | None) -> None:
        if not 16 <= image_size <= 512:
            raise UserError(f"image_size={image_size} is out of range: choose one from 16 to 512")
        if success not in self.successes:
            raise UserError(f"success={success!r} is unknown: choose one of {', '.join(self.successes)}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"render_mode={render_mode!r} is unknown: choose one of {self.metadata['render_modes']}")
        self.image_size = image_size
        self.success = success
        self.terminate_on_success = terminate_on_success
        self.render_mode = render_mode
        picture = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"pixels": picture, "goal": picture})  # type: ignore[assignment]
        self.goal_state: State = np.full(self.state_size, np.nan)
        self._goal = np.zeros(picture.shape, np.uint8)

    @abstractmethod
    def get_state(self) -> State:
        """The simulator's state ``(state_size,)``; restoring it and going on equals never having stopped."""

    @abstractmethod
    def set_state(self, state: State) -> None:
        """Restores what `get_state` returned."""

    @abstractmethod
    def sample_state(self) -> State:
        """A random start or goal, drawn from ``self.np_random``."""

    @abstractmethod
    def picture(self, state: State) -> NDArray[np.uint8]:
        """The observation ``(h, w, 3)`` of any state, leaving the simulation as it is."""

    @abstractmethod
    def is_success(self, state: State, goal_state: State) -> bool:
        """Whether `state` counts as having reached `goal_state` under ``self.success``."""

    @abstractmethod
    def is_nontrivial(self, state: State, goal_state: State) -> bool:
        """Whether getting from one to the other takes more than moving the agent: the filter of strict tasks."""

    @abstractmethod
    def errors(self, state: State, goal_state: State) -> dict[str, float]:
        """How far `state` is from `goal_state`, each error under a name that ends in its unit."""

    @abstractmethod
    def simulate(self, action: NDArray[np.float32]) -> None:
        """Advances the simulation by one control step."""

    def extra_info(self) -> dict[str, Any]:
        """What a subclass adds to ``info``."""
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        unknown = options.keys() - {"state", "goal_state", "goal_image"}
        if unknown:
            raise UserError(f"unknown reset options {sorted(unknown)}: choose from state, goal_state, goal_image")
        state = self._checked(options.get("state"), "state")
        if options.get("goal_image") is None:
            self.goal_state = self._checked(options.get("goal_state"), "goal_state")
            self._goal = self.picture(self.goal_state)
        else:
            self._set_goal_image(np.array(options["goal_image"]), options.get("goal_state"))
        self.set_state(state)
        if self.render_mode == "human":
            self.render()
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UserError(f"action {action!r} must be finite and of shape {self.action_space.shape}")
        self.simulate(action)
        info = self._info()
        if self.render_mode == "human":
            self.render()
        terminated = self.terminate_on_success and info["is_success"]
        return self._observe(), float(info["is_success"]), terminated, False, info

    def _checked(self, state: Any, name: str) -> State:
        if state is None:
            return self.sample_state()
        state = np.array(state, np.float64)
        if state.shape != (self.state_size,) or not np.isfinite(state).all():
            raise UserError(f"options[{name!r}] must be {self.state_size} finite numbers, not {state!r}")
        return state

    def _set_goal_image(self, image: NDArray[Any], goal_state: Any) -> None:
        if image.shape != self._goal.shape or image.dtype != np.uint8:
            raise UserError(
                f"options['goal_image'] is {image.dtype} {image.shape}; this environment needs uint8 {self._goal.shape}"
            )
        known = goal_state is not None
        self.goal_state = self._checked(goal_state, "goal_state") if known else np.full(self.state_size, np.nan)
        self._goal = image

    def _observe(self) -> Observation:
        return {"pixels": self.picture(self.get_state()), "goal": self._goal.copy()}

    def _info(self) -> dict[str, Any]:
        state = self.get_state()
        return {
            "state": state,
            "goal_state": self.goal_state.copy(),
            "is_success": bool(self.is_success(state, self.goal_state)),
            **self.extra_info(),
        }

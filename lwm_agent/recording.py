"""Films of a loop of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np

from .agent.agent import Agent
from .agent.state import AgentState
from .envs.base import GoalImageEnv
from .errors import UserError
from .eval.canvas import PANEL
from .eval.film import Film
from .eval.scenery import Scenery
from .eval.video import check_videos, write_film
from .validation import Count, check_setting

DEFAULT_FPS = 10


class RecordImagination(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """An environment whose episodes are filmed, with what an agent imagines: the films of `lwm-agent record`.

    Show the agent's state after each `predict`; nothing else of the loop changes::

        action, state = agent.predict(observation, state)
        env.show(state)
        observation, reward, terminated, truncated, info = env.step(action)

    A film is written when its episode is over, is reset, or the environment is closed. An environment derived from
    `GoalImageEnv` is drawn large, with the ways that the simulator says the plans lead; of any other, the observed
    pictures are shown.

    Args:
        env: observes ``{"pixels", "goal"}``.
        agent: what plays, with ``keep_imagined=True``; with ``keep_surprise=True``, films have a graph of it too.
        folder: folder of the films, ``episode-000.mp4`` and so on; those that are there are replaced.
        suffixes: ``.mp4``, ``.gif`` or both.
        every: films one of so many episodes, from the first.

    Raises:
        UserError: the environment shows no goal, the agent does not keep what it imagines, or videos cannot be written.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        agent: Agent,
        folder: Path | str,
        *,
        suffixes: Sequence[str] = (".mp4",),
        every: int = 1,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, agent=agent, folder=folder, suffixes=suffixes, every=every)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict) or not {"pixels", "goal"} <= space.spaces.keys():
            raise UserError(f"the environment observes {space}: films need a Dict with 'pixels' and 'goal'")
        check_setting("every", every, Count)
        if not (agent.planner.reactive or agent.replanner.keep_imagined):
            raise UserError("the agent does not keep what it imagines: make it with keep_imagined=True")
        check_videos(folder, suffixes)
        self._agent, self._folder, self._suffixes, self._every = agent, Path(folder), tuple(suffixes), every
        self._scenery = None
        if isinstance(env.unwrapped, GoalImageEnv) and env.spec is not None:
            self._scenery = Scenery(env.spec.id, env.spec.kwargs, PANEL)
        self._fps = int(env.metadata.get("render_fps") or DEFAULT_FPS)
        self._film: Film | None = None
        self._episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Writes the film of an episode that was not over, and begins the next one."""
        self._finish(None)
        observation, info = self.env.reset(seed=seed, options=options)
        if self._episodes % self._every == 0:
            goal = observation["goal"]
            if self._scenery is not None:
                self._scenery.vary(cast(GoalImageEnv, self.unwrapped).variation)
                if np.isfinite(info["goal_state"]).all():
                    goal = self._scenery.view(info["goal_state"])
            self._film = Film(goal, f"episode {self._episodes}", self._agent.describe(), self._scenery)
            self._look(observation, info)
        self._episodes += 1
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Films a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._look(observation, info)
        if terminated or truncated:
            self._finish(bool(info["is_success"]) if "is_success" in info else None)
        return observation, reward, terminated, truncated, info

    def show(self, state: AgentState, row: int = 0) -> None:
        """Films what the agent thought at the newest step: the `state` that `predict` returned, this episode's row."""
        if self._film is not None:
            self._film.explain(self._agent.insight(state, row))

    def close(self) -> None:
        """Writes the film of an episode that was not over."""
        self._finish(None)
        super().close()

    def _look(self, observation: Any, info: dict[str, Any]) -> None:
        if self._film is None:
            return
        if self._scenery is None:
            self._film.look(picture=np.array(observation["pixels"]))
        else:
            self._film.look(state=info["state"])

    def _finish(self, success: bool | None) -> None:
        film, self._film = self._film, None
        if film is not None:
            stem = self._folder / f"episode-{self._episodes - 1:03d}"
            write_film(film, [stem.with_suffix(suffix) for suffix in self._suffixes], success, self._fps)

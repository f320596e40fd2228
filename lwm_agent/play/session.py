"""A session of play: the environment, an agent that thinks in a thread of its own, and what people change."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..agent.agent import Agent
from ..agent.state import AgentState
from ..envs.base import GoalImageEnv, Observation, Place, State
from ..envs.playable import Playable
from ..errors import UserError
from ..eval.tasks import Task
from ..insight import Insight, PlanInsight

REMEMBERED = 200
"""Environment steps that graphs look back."""


@dataclass(frozen=True)
class Thought:
    """What the agent decided for one observation."""

    action: NDArray[Any]
    state: AgentState
    insight: Insight


class Session:
    """Play in real time, at the control rate of the environment.

    The agent thinks in a second thread. `advance` never waits for it: where a decision takes longer than a control
    step, the simulated world stands still until it is there, while the window goes on. What people change meanwhile is
    seen by the next decision.

    Args:
        env: a `GoalImageEnv` that is `Playable`, with a `render_mode`; success must not end an episode.
        agent: plans for it.
        tasks: starts and goals, one after the other, from the first again after the last.

    Attributes:
        steps: environment steps since the last new task.
        paused: whether the world stands still.
        success: whether the goal is reached now.
        plan: the newest plan, None before the first.
        planned_ways: the way of the agent that it asks for, ``(N + 1, 2)``, where that can be told.
        told: the newest insights, with their environment steps.
        version: grows with each change of what there is to see.

    Raises:
        UserError: the environment is not `Playable`.
    """

    def __init__(self, env: GoalImageEnv, agent: Agent, tasks: Sequence[Task]) -> None:
        if not isinstance(env, Playable):
            raise UserError(
                f"{type(env).__name__} cannot be played with: it needs the methods drag_goal, turn_goal and push of "
                "lwm_agent.envs.playable.Playable, as Push-T has them; `lwm-agent record` films any environment"
            )
        agent.check_env(env)
        self.env, self.agent = env, agent
        self._playable: Playable = env
        self._tasks: Iterator[Task] = cycle(tasks)
        self._period_s = 1.0 / env.metadata["render_fps"]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="agent")
        self._pending: Future[Thought] | None = None
        self._observation: Observation
        self._due_s = 0.0
        self.paused, self.version = False, 0
        self.new_task()

    def new_task(self) -> None:
        """Begins the next task."""
        self._pending = None  # a decision for what is not there any more
        task = next(self._tasks)
        self._put(np.array(task.state), np.array(task.goal_state))
        self._state: AgentState | None = None
        self.steps = 0
        self.plan: PlanInsight | None = None
        self.planned_ways: dict[str, NDArray[np.float64]] = {}
        self.told: deque[tuple[int, Insight]] = deque(maxlen=REMEMBERED)

    def toggle_pause(self) -> None:
        """Stops the world, or lets it go on."""
        self.paused, self.version = not self.paused, self.version + 1

    def drag_goal(self, start: Place, end: Place) -> None:
        """Drags the goal."""
        self._put(self.env.get_state(), self._playable.drag_goal(self.env.goal_state, start, end))

    def turn_goal(self, turn_deg: float) -> None:
        """Turns the goal clockwise."""
        self._put(self.env.get_state(), self._playable.turn_goal(self.env.goal_state, turn_deg))

    def push(self, start: Place, end: Place) -> None:
        """Pushes things of the present."""
        self._put(self._playable.push(self.env.get_state(), start, end), self.env.goal_state)

    def advance(self, now_s: float) -> bool:
        """Takes an environment step if it is due and decided on; returns whether it did."""
        if self.paused:
            return False
        if self._pending is None:
            self._pending = self._pool.submit(self._think, self._observation, self._state)
        if now_s < self._due_s or not self._pending.done():
            return False
        thought = self._pending.result()
        self._remember(thought)
        self._observation, _, _, _, info = self.env.step(thought.action)
        self.success = info["is_success"]
        self.steps, self.version = self.steps + 1, self.version + 1
        self._due_s = max(self._due_s + self._period_s, now_s)  # time that was lost is not made up for
        self._pending = self._pool.submit(self._think, self._observation, self._state)
        return True

    @property
    def goal_picture(self) -> NDArray[np.uint8]:
        """What the agent is shown as its goal, ``(h, w, 3)``."""
        return self._observation["goal"]

    def close(self) -> None:
        """Ends the agent's thread, after the decision that it is working on."""
        self._pool.shutdown(cancel_futures=True)

    def _think(self, observation: dict[str, NDArray[np.uint8]], state: AgentState | None) -> Thought:
        action, state = self.agent.predict(observation, state)
        return Thought(action, state, self.agent.insight(state))

    def _remember(self, thought: Thought) -> None:
        self._state = thought.state
        self.told.append((self.steps, thought.insight))
        if thought.insight.plan is not None:
            self.plan = thought.insight.plan
            actions = self.plan.env_actions.reshape(1, -1, *self.plan.env_actions.shape[2:])
            way = self.env.steered(self.env.get_state(), actions)
            self.planned_ways = {} if way is None else {"agent": way[0]}

    def _put(self, state: State, goal_state: State) -> None:
        """Puts the environment into a state, and gives it a goal."""
        self._observation, info = self.env.reset(options={"state": state, "goal_state": goal_state})
        self.success, self.version = info["is_success"], self.version + 1

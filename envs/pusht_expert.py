"""An expert for Push-T: it reaches goals of scripted play in less time, by search in the simulator itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import State
from .pusht import PushTEnv
from .pusht_play import PlayPolicy

BLOCK, BLOCKS = 5, 8  # environment steps between two searches; those that a search changes, in such blocks
CANDIDATES, ELITES, FIRST_ITERATIONS, ITERATIONS = 48, 8, 5, 3
STD, NEAR_STD = 0.5, 0.15  # of the first candidates' actions; of those of every other one, around the best plan
KEPT = 0.7  # correlation of an action with the one before
NEAR_PX, NEAR_RAD = 20.0, math.pi / 9  # errors that count as 1, those of success
REACHED = 0.8  # of both errors, at which an episode ends: a margin to success
STEP_COST = 0.02  # of each environment step
OFFSETS = 10, 101  # environment steps of play to a goal
PATIENCE = 2  # an episode ends after so many times the steps that play took
SHAKEN, SHAKE_STD = 0.15, 0.3  # share of the blocks whose actions are noisy, so that data show how to correct them


class ExpertPolicy:
    """Reaches one goal an episode, then ends it: data of an expert (relative actions only).

    The goal is a state that `PlayPolicy` reaches from the start after 10 to 100 steps, with the block moved. The search
    is CEM over the true states of the simulator, which is privileged: the agent that learns from its data is not. It
    starts from what play did, so that it can hardly do worse. It searches in the usual world: under a shift of sizes or
    shapes it reaches fewer goals.

    Args:
        rng: source of every choice.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._simulator = PushTEnv(image_size=16)
        self.reset()

    def reset(self) -> None:
        """Forgets the goal; called at the start of an episode."""
        self._goal: State | None = None
        self._plan = np.zeros((0, 2))  # actions
        self._steps = self._left = self._most_steps = 0
        self._shaken, self._share, self._iterations = 0.0, SHAKEN, FIRST_ITERATIONS

    def __call__(self, info: dict[str, Any]) -> NDArray[np.float32] | None:
        """The next action ``(2,)`` in [-1, 1] for the state in `info`; None where the episode is over."""
        state = info["state"]
        if self._goal is None:
            self.pursue(*self._reachable(state))
        assert self._goal is not None
        self._steps += 1
        if self._steps > 1 and (error(state, self._goal) <= REACHED or self._steps > self._most_steps):
            return None
        if self._left == 0:
            self._search(state)
        action, self._plan, self._left = self._plan[0], self._plan[1:], self._left - 1
        noise = self._shaken * self._rng.normal(0.0, SHAKE_STD, 2)
        clipped: NDArray[np.float32] = np.clip(action + noise, -1, 1).astype(np.float32)
        return clipped

    def pursue(self, goal: State, actions: NDArray[np.float64], shaken: float = SHAKEN) -> None:
        """Begins an episode towards `goal`, which `actions` ``(N, 2)`` reach from its start; they may be zeros.

        Args:
            goal: the state to reach.
            actions: the first guess.
            shaken: share of the blocks with noise.
        """
        self._goal, self._share = goal, shaken
        self._most_steps = PATIENCE * len(actions)
        self._steps = self._left = 0
        self._plan = actions.copy()
        self._iterations = FIRST_ITERATIONS

    def _reachable(self, start: State) -> tuple[State, NDArray[np.float64]]:
        """A state that play reaches from `start` with the block moved, and its actions."""
        while True:
            play, env = PlayPolicy(self._rng), self._simulator
            env.set_state(start)
            actions = []
            for _ in range(int(self._rng.integers(*OFFSETS))):
                actions.append(play({"state": env.get_state()}))
                env.simulate(actions[-1])
            if env.is_nontrivial(start, env.get_state()):
                return env.get_state(), np.array(actions, np.float64)

    def _search(self, state: State) -> None:
        """Improves the plan by CEM, for the next `BLOCK` steps.

        What follows the first 40 actions stays as it is, and counts: from there, the recorded actions reach far goals.
        """
        steps = BLOCK * BLOCKS
        self._plan = np.append(self._plan, np.zeros((max(0, steps - len(self._plan)), 2)), axis=0)
        mean, std, tail = self._plan[:steps], np.full((steps, 2), STD), self._plan[steps:]
        best, best_cost = mean, self._cost(state, self._plan)
        for _ in range(self._iterations):
            noise = self._correlated(steps)
            candidates = mean + std * noise
            candidates[::2] = best + NEAR_STD * noise[::2]
            candidates[0] = best
            candidates = np.clip(candidates, -1, 1)
            costs = np.array([self._cost(state, np.append(candidate, tail, axis=0)) for candidate in candidates])
            elites = candidates[np.argsort(costs)[:ELITES]]
            if costs.min() < best_cost:
                best, best_cost = elites[0], float(costs.min())
            mean, std = elites.mean(axis=0), elites.std(axis=0) + 0.02
        self._plan[:steps] = best
        self._left, self._iterations = BLOCK, ITERATIONS
        self._shaken = float(self._rng.random() < self._share)

    def _correlated(self, steps: int) -> NDArray[np.float64]:
        """Noise ``(CANDIDATES, steps, 2)`` of unit variance, of which each step resembles the one before."""
        noise = self._rng.standard_normal((CANDIDATES, steps, 2))
        for step in range(1, steps):
            noise[:, step] = KEPT * noise[:, step - 1] + math.sqrt(1 - KEPT**2) * noise[:, step]
        return noise

    def _cost(self, state: State, actions: NDArray[np.float64]) -> float:
        """Lowest error on the way, and the time until the goal: all of it where that is not reached.

        So a plan that ends near the goal never costs less than one that reaches it, however long that takes.
        """
        assert self._goal is not None
        least, steps = error(state, self._goal), 0
        for reached in self._simulator.sketch(state, actions.astype(np.float32)):
            if least <= REACHED:
                break
            least, steps = min(least, error(reached, self._goal)), steps + 1
        return least + STEP_COST * steps


def error(state: State, goal: State) -> float:
    """Error of the pose: 1 at the edge of success, by the worse of position and angle, and a little by the other."""
    at, to = state.tolist(), goal.tolist()  # floats are faster than arrays here
    position = math.dist(at[:4], to[:4]) / NEAR_PX
    angle = abs((at[4] - to[4] + math.pi) % (2 * math.pi) - math.pi) / NEAR_RAD
    return max(position, angle) + 0.2 * min(position, angle)

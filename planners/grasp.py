"""GRASP: descent on actions and imagined states at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from lwm_agent.errors import UserError
from lwm_agent.protocols import Dynamics, Problem

from .checks import check_settings, check_value
from .descent import descend, differentiate
from .sampling import sample_actions, select_best


@dataclass(frozen=True, kw_only=True)
class GRASP:
    """Gradient relaxed stochastic planner (arXiv 2602.00475), a lifted search: states are variables beside actions.

    A lifted step predicts one block ahead of all virtual states in parallel. Actions descend towards the states that
    follow and the goal; no gradient flows into the state that a step starts from, where learned models are brittle.
    States descend towards their predictions, with noise to explore. Phases of lifted steps take turns with ordinary
    gradient steps on the objective, after which the states go back to where the actions really lead.

    Attributes:
        num_samples: S, starts: the first guess itself, and others around it.
        iterations: of a plan without a budget, each one evaluation of the objective and a gradient step on it.
        sync_steps: iterations between two phases of lifted steps; the plan begins with them.
        sync_lr: learning rate of the steps on the objective, in normalised action units.
        lifted_steps: lifted steps of a phase, each one forward and one backward pass.
        lr: learning rate of lifted steps, in normalised action units.
        state_lr: share of the way to its prediction that a virtual state goes in a lifted step.
        state_noise: standard deviation of the noise on virtual states, as a share of the root mean square difference
            between start and goal.
        goal_weight: weight of reaching the goal in one step, from any state, beside reaching the next state.
        noise_correlation: correlation of the noise of successive environment steps, in the starts.
    """

    num_samples: int = 8
    iterations: int = 15
    sync_steps: int = 5
    sync_lr: float = 0.05
    lifted_steps: int = 10
    lr: float = 0.05
    state_lr: float = 0.5
    state_noise: float = 0.05
    goal_weight: float = 0.1
    noise_correlation: float = 0.7

    def __post_init__(self) -> None:
        check_settings(self)
        check_value(self, "sync_steps", self.sync_steps >= 1, "at least 1")
        check_value(self, "lifted_steps", self.lifted_steps >= 1, "at least 1")
        check_value(self, "sync_lr", self.sync_lr > 0, "positive")
        check_value(self, "state_lr", 0 < self.state_lr <= 1, "in (0, 1]")
        check_value(self, "state_noise", self.state_noise >= 0, "at least 0")
        check_value(self, "goal_weight", self.goal_weight >= 0, "at least 0")

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the best candidate ``(B, T, F*A)`` of each iteration and its cost ``(B,)``.

        Raises:
            ValueError: the problem has no dynamics.
        """
        dynamics = problem.dynamics
        if dynamics is None:
            raise UserError("GRASP needs Problem.dynamics, a world model to step: give it, or use another planner")
        actions = sample_actions(problem, problem.init, problem.scale, self.num_samples, self.noise_correlation)
        for phase in count():
            optimizer = torch.optim.Adam([actions], lr=self.sync_lr)
            for _ in range(self.sync_steps):
                costs, gradient = differentiate(problem.objective, actions)
                yield select_best(actions, costs)
                descend(optimizer, actions, gradient, problem)
            optimizer = torch.optim.Adam([actions], lr=self.lr)
            states = dynamics.rollout(actions)[:, :, :-1] if phase > 0 else straight_line(dynamics, actions)
            for _ in range(self.lifted_steps):
                reached, gradient = self._lifted_step(dynamics, states, actions)
                descend(optimizer, actions, gradient, problem)
                noise = self.state_noise * sample_state_noise(problem, dynamics, states)
                states = torch.lerp(states, reached[:, :, :-1], self.state_lr) + noise

    def _lifted_step(self, dynamics: Dynamics, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Where steps from start and `states` lead, ``(B, S, T, *Z)``, and the gradient of their loss in `actions`."""
        ends = (len(states), actions.shape[1], 1, *states.shape[3:])
        start, goal = (latent[:, None, None].expand(ends) for latent in (dynamics.start, dynamics.goal))
        before, after = torch.cat([start, states], dim=2), torch.cat([states, goal], dim=2)
        return dynamics.step(before, actions, self._loss, after, goal)

    def _loss(self, reached: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        """How far states are from those `after` them, ``(B, S, T, *Z)``, and from the `goal` ``(B, S, 1, *Z)``."""
        loss = (reached - after).square() + self.goal_weight * (reached - goal).square()
        return loss.flatten(3).mean(dim=3).sum()


def straight_line(dynamics: Dynamics, actions: Tensor) -> Tensor:
    """Virtual states ``(B, S, T - 1, *Z)`` between start and goal, evenly spaced, the same for all of `actions`."""
    samples, horizon = actions.shape[1:3]
    line = [torch.lerp(dynamics.start, dynamics.goal, step / horizon) for step in range(horizon + 1)]
    return torch.stack(line, dim=1)[:, None, 1:-1].repeat_interleave(samples, dim=1)


def sample_state_noise(problem: Problem, dynamics: Dynamics, states: Tensor) -> Tensor:
    """Noise like `states` ``(B, S, T - 1, *Z)``, as large as start and goal differ in the root mean square."""
    size = states.shape[1:]
    noise = [
        torch.randn(size, generator=generator, device=states.device, dtype=states.dtype)
        for generator in problem.generators
    ]
    scale = (dynamics.goal - dynamics.start).flatten(1).square().mean(dim=1).sqrt()
    return torch.stack(noise) * scale.reshape(-1, *(1 for _ in size))

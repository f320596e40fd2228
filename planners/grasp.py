"""GRASP: descent on actions and imagined states at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from lwm_agent.errors import UserError
from lwm_agent.protocols import Dynamics, Planner, Problem

from .checks import check_settings, check_value
from .descent import Adam, differentiate
from .horizons import draw_episodes
from .sampling import clamp, sample_actions, select_best


@dataclass(frozen=True, kw_only=True)
class GRASP(Planner):
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

    follows_gradients = True

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
            optimizer = Adam(self.sync_lr)
            for _ in range(self.sync_steps):
                costs, gradient = differentiate(problem.objective, actions)
                yield select_best(actions, costs)
                actions = clamp(optimizer.step(actions, gradient), problem)
            optimizer = Adam(self.lr)
            states = dynamics.rollout(actions)[:, :, :-1] if phase > 0 else straight_line(problem, dynamics, actions)
            states = end_at_goal(states, problem, dynamics)
            for _ in range(self.lifted_steps):
                reached, gradient = self._lifted_step(problem, dynamics, states, actions)
                actions = clamp(optimizer.step(actions, gradient), problem)
                noise = self.state_noise * sample_state_noise(problem, dynamics, states)
                states = torch.lerp(states, reached[:, :, :-1], self.state_lr) + noise
                states = end_at_goal(states, problem, dynamics)

    def _lifted_step(
        self, problem: Problem, dynamics: Dynamics, states: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents ``(B, S, T, *Z)`` one step after start and `states`, and the gradient of their loss in `actions`."""
        ends = (len(states), actions.shape[1], 1, *states.shape[3:])
        start, goal = (latent[:, None, None].expand(ends) for latent in (dynamics.start, dynamics.goal))
        before, after = torch.cat([start, states], dim=2), torch.cat([states, goal], dim=2)
        if problem.valid is None:
            return dynamics.step(before, actions, self._loss, after, goal)
        valid = problem.valid[:, None].expand(-1, actions.shape[1], -1)
        return dynamics.step(before, actions, self._loss, after, goal, valid)

    def _loss(self, reached: Tensor, after: Tensor, goal: Tensor, valid: Tensor | None = None) -> Tensor:
        """Squared distance of latents ``(B, S, T, *Z)`` to the states `after` them and to the `goal` ``(B, S, 1, *Z)``.

        Summed over the steps that are `valid` ``(B, S, T)``: those within an episode's horizon.
        """
        loss = (reached - after).square() + self.goal_weight * (reached - goal).square()
        distances = loss.flatten(3).mean(dim=3)
        return (distances if valid is None else torch.where(valid, distances, 0)).sum()


def straight_line(problem: Problem, dynamics: Dynamics, actions: Tensor) -> Tensor:
    """Virtual states ``(B, S, T - 1, *Z)`` between start and goal, evenly spaced, the same for all of `actions`.

    The line of an episode reaches the goal at its own horizon; what follows is for `end_at_goal` to fill.
    """
    samples, longest = actions.shape[1:3]

    def draw_line(horizon: int) -> Tensor:
        states = [torch.lerp(dynamics.start, dynamics.goal, step / horizon) for step in range(horizon + 1)]
        return torch.stack(states, dim=1)[:, 1:-1]  # (B, T - 1, *Z)

    line = draw_line(longest)
    for horizon, episodes in problem.equal_horizons.items():
        line[episodes, : horizon - 1] = draw_line(horizon)[episodes]
    return line[:, None].repeat_interleave(samples, dim=1)


def end_at_goal(states: Tensor, problem: Problem, dynamics: Dynamics) -> Tensor:
    """`states` ``(B, S, T - 1, *Z)``, which are the goal from the end of each episode's plan on."""
    if problem.valid is None:
        return states
    latent_axes = (1,) * (states.dim() - 3)
    before_end = problem.valid[:, 1:].reshape(len(states), 1, -1, *latent_axes)  # a later block of the plan follows
    return torch.where(before_end, states, dynamics.goal[:, None, None])


def sample_state_noise(problem: Problem, dynamics: Dynamics, states: Tensor) -> Tensor:
    """Noise like `states` ``(B, S, T - 1, *Z)``, as large as start and goal differ in the root mean square."""
    samples, _, *latent = states.shape[1:]

    def draw(generator: torch.Generator, horizon: int) -> Tensor:
        size = (samples, horizon - 1, *latent)
        return torch.randn(size, generator=generator, device=states.device, dtype=states.dtype)

    noise = draw_episodes(problem, draw, states.shape[1:], dim=-len(latent) - 1)
    scale = (dynamics.goal - dynamics.start).flatten(1).square().mean(dim=1).sqrt()
    return noise * scale.reshape(-1, *(1,) * (states.dim() - 1))

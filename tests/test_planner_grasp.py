from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import GRASP, Budget, plan
from lwm_agent.protocols import Problem

B, T, DT = 3, 8, 0.5


@dataclass
class Mass:
    """A mass on a spring that gives way, pushed by a motor that saturates; latents are ``(position, speed)``."""

    charged: int = 0

    @property
    def start(self) -> Tensor:
        return torch.tensor([[0.0, 0.0], [1.0, 0.0], [-0.5, 0.3]])

    @property
    def goal(self) -> Tensor:
        return torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]])

    def advance(self, latents: Tensor, actions: Tensor) -> Tensor:
        position, speed = latents.unbind(-1)
        speed = speed + DT * (torch.tanh(1.5 * actions.squeeze(-1)) - 0.3 * torch.sin(position))
        return torch.stack([position + DT * speed, speed], dim=-1)

    def rollout(self, actions: Tensor) -> Tensor:
        self.charged += actions.shape[1] * (2 if actions.requires_grad else 1)
        return self.imagine(actions)

    def imagine(self, actions: Tensor) -> Tensor:
        latents = [self.start[:, None].expand(-1, actions.shape[1], -1)]
        for block in actions.unbind(2):
            latents.append(self.advance(latents[-1], block))
        return torch.stack(latents[1:], dim=2)

    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert not latents.requires_grad  # no gradient may flow into states
        assert (actions.abs() <= 0.8).all()
        assert torch.equal(latents[:, :, 0], self.start[:, None].expand(-1, actions.shape[1], -1))
        self.charged += 2 * actions.shape[1]
        with torch.enable_grad():
            leaf = actions.detach().requires_grad_()
            reached = self.advance(latents, leaf)
            (gradient,) = torch.autograd.grad(loss(reached, *loss_inputs), leaf)
        return reached.detach(), gradient

    def cost(self, actions: Tensor) -> Tensor:
        assert (actions.abs() <= 0.8).all()
        self.charged += actions.shape[1] * (2 if actions.requires_grad else 1)
        return (self.imagine(actions)[:, :, -1] - self.goal[:, None]).square().sum(dim=2)


def make_problem(dynamics: Mass) -> Problem:
    return Problem(
        objective=dynamics.cost,
        init=torch.zeros(B, T, 1),
        scale=torch.full((B, T, 1), 0.3),
        low=torch.tensor([-0.8]),
        high=torch.tensor([0.8]),
        generators=[torch.Generator().manual_seed(i) for i in range(B)],
        action_size=1,
        dynamics=dynamics,
    )


def test_solves_nonlinear_dynamics_inside_the_bounds() -> None:
    result = plan(GRASP(iterations=20), make_problem(Mass()))
    assert (result.cost < 3e-3).all()  # within 0.055 of the goal, from 1 away


def test_lifted_steps_alone_get_most_of_the_way() -> None:
    planner = GRASP(num_samples=1, iterations=3, sync_steps=1, sync_lr=1e-9, lifted_steps=30, state_noise=0.0)
    trace = plan(planner, make_problem(Mass())).trace
    assert (trace[-1] < 0.4 * trace[0]).all()


def test_noise_explores() -> None:
    plans = [
        plan(GRASP(num_samples=1, iterations=3, sync_steps=1, state_noise=noise), make_problem(Mass())).actions
        for noise in (0.0, 0.05, 0.05)
    ]
    assert not torch.equal(plans[0], plans[1])
    assert torch.equal(plans[1], plans[2])


@pytest.mark.parametrize("rollouts", [16, 100, 1000])
def test_steps_and_rollouts_are_charged(rollouts: int) -> None:
    dynamics = Mass()
    result = plan(GRASP(sync_steps=2), make_problem(dynamics), Budget(rollouts=rollouts))
    assert result.rollouts == (dynamics.charged,) * B
    assert rollouts - 16 < dynamics.charged <= rollouts


def test_needs_dynamics() -> None:
    with pytest.raises(ValueError, match=r"GRASP needs Problem\.dynamics"):
        plan(GRASP(), replace(make_problem(Mass()), dynamics=None))

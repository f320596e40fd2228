"""Settings of planners that change how they search, not whether they find something."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import GRASP, CategoricalCEM
from lwm_agent.protocols import Problem

B, T, A = 2, 3, 5


def make_problem(objective: Callable[[Tensor], Tensor], block: int, **parts: object) -> Problem:
    return Problem(
        objective=objective,
        init=torch.zeros(B, T, block),
        scale=torch.ones(B, T, block),
        low=torch.zeros(block),
        high=torch.ones(block),
        generators=[torch.Generator().manual_seed(i) for i in range(B)],
        action_size=block,
        **parts,  # type: ignore[arg-type]
    )


class Drift:
    """Dynamics in which a step adds one to a latent of two numbers, whatever the action; it notes where steps start."""

    start, goal = torch.zeros(B, 2), torch.full((B, 2), 9.0)

    def __init__(self) -> None:
        self.starts: list[Tensor] = []

    def rollout(self, actions: Tensor) -> Tensor:
        raise AssertionError("the first phase begins with a straight line")

    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        self.starts.append(latents)
        return latents + 1, torch.zeros_like(actions)


@pytest.mark.parametrize("state_lr", [0.2, 1.0])
@torch.no_grad()
def test_grasp_moves_states_by_their_share_towards_predictions(state_lr: float) -> None:
    dynamics = Drift()
    planner = GRASP(num_samples=2, sync_steps=1, lifted_steps=3, state_lr=state_lr, state_noise=0.0)
    problem = make_problem(lambda actions: actions.flatten(2).sum(2), 1, dynamics=dynamics)
    search = planner.improve(problem)
    next(search)
    with pytest.raises(AssertionError, match="straight line"):  # after the lifted steps, the next phase
        list(islice(search, 2))
    assert len(dynamics.starts) == 3
    for before, after in zip(dynamics.starts, dynamics.starts[1:], strict=False):
        reached = before[:, :, :-1] + 1
        torch.testing.assert_close(after[:, :, 1:], before[:, :, 1:] + state_lr * (reached - before[:, :, 1:]))


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@torch.no_grad()
def test_categorical_cem_keeps_a_chance_of_every_action(smoothing: float) -> None:
    """With one elite, all candidates of the next iteration are like it but for the smoothing."""
    seen: list[Tensor] = []

    def objective(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions * torch.arange(1.0, A + 1)).flatten(2).sum(2)

    planner = CategoricalCEM(num_samples=500, num_elites=1, smoothing=smoothing, exploration=1.0)
    list(islice(planner.improve(make_problem(objective, A)), 2))
    first, second = seen
    differs = (second[:, 2:] != second[:, :1]).any(dim=-1).float().mean()
    assert (first[:, 2:] != first[:, :1]).any()
    assert float(differs) == pytest.approx(smoothing * (A - 1) / A, abs=0.03)

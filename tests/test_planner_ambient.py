"""Plans do not depend on the state of torch around the call: modes, default dtype, default device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import PLANNERS, Budget, make_planner, plan
from lwm_agent.protocols import Problem

B, T, F, A = 2, 3, 5, 2
CHAINS = ("cem+gradient", "icem+lbfgs")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def anomaly_detection() -> Iterator[None]:
    with torch.autograd.set_detect_anomaly(True):
        yield


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference mode": lambda: torch.inference_mode(),
    "no grad": lambda: torch.no_grad(),
    "enable grad": lambda: torch.enable_grad(),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic_algorithms,
    "anomaly": anomaly_detection,
    "device": lambda: torch.device("meta"),
}


def random(seed: int, *size: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return 2 * torch.rand(size, generator=generator, dtype=torch.float32, device="cpu") - 1


class Model:
    """A linear world of latents ``(4, 3)``, whose weights are made in the usual state."""

    def __init__(self) -> None:
        self.weight = random(0, F * A, 12)
        self.start, self.goal = random(1, B, 4, 3), random(2, B, 4, 3)
        self.costs = random(3, B, 5)
        self.proposals = random(4, B, 5, T, F * A)

    def rollout(self, actions: Tensor) -> Tensor:
        way = (actions @ self.weight).cumsum(dim=2).unflatten(3, (4, 3))
        return self.start[:, None, None] + 0.2 * torch.tanh(way)

    @torch.enable_grad()
    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        leaf = actions.detach().requires_grad_()
        reached = latents + 0.2 * torch.tanh((leaf @ self.weight).unflatten(3, (4, 3)))
        (gradient,) = torch.autograd.grad(loss(reached, *loss_inputs), leaf)
        return reached.detach(), gradient

    def __call__(self, actions: Tensor) -> Tensor:
        return (self.rollout(actions)[:, :, -1] - self.goal[:, None]).square().flatten(2).sum(dim=2)


def make_problem(model: Model, proposals: bool = False) -> Problem:
    """A problem whose tensors are made in the state of the caller."""
    return Problem(
        objective=model,
        init=random(5, B, T, F * A),
        scale=random(6, B, T, F * A).square() + 0.1,
        low=random(7, F * A).abs() - 2,
        high=random(8, F * A).abs() + 0.5,
        generators=[torch.Generator("cpu").manual_seed(i) for i in range(B)],
        action_size=A,
        dynamics=model,
        propose=(lambda: (model.proposals, model.costs)) if proposals else None,
        horizons=(3, 2) if proposals else None,
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [*PLANNERS, *CHAINS])
@pytest.mark.parametrize("proposals", [False, True])
def test_plan_does_not_depend_on_ambient_state(name: str, state: str, proposals: bool) -> None:
    planner, model, budget = make_planner(name), Model(), Budget(rollouts=300)
    expected = plan(planner, make_problem(model, proposals), budget)
    with STATES[state]():
        result = plan(planner, make_problem(model, proposals), budget)
    for actual, usual in ((result.actions, expected.actions), (result.cost, expected.cost)):
        assert actual.dtype == torch.float32
        assert actual.device.type == "cpu"
        assert torch.equal(actual, usual)
        assert not actual.is_inference()
    assert result.trace.shape == expected.trace.shape
    assert result.rollouts == expected.rollouts


@pytest.mark.parametrize("name", [*PLANNERS, *CHAINS])
def test_plan_leaves_the_state_and_the_generators_of_torch_alone(name: str) -> None:
    model = Model()
    problem = make_problem(model)
    before, drawn = torch.get_rng_state(), replace(problem)
    with torch.enable_grad():
        plan(make_planner(name), drawn)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.weight.grad is None
    assert torch.equal(problem.init, make_problem(model).init)

"""Plans of different lengths in one call: each is bit for bit what it is alone, with T its own horizon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import PLANNERS, Budget, make_cost, make_planner, plan
from lwm_agent.planners.costs import Futures
from lwm_agent.protocols import Objective, Plan, Problem

HORIZONS = (2, 5, 1, 5, 3)
T, F, A = 5, 3, 7
LOW, HIGH = -0.9, 1.2
CHAINS = ("cem+gradient", "icem+lbfgs", "categorical-cem+categorical-cem")
every_planner = pytest.mark.parametrize("name", [*PLANNERS, *CHAINS])


@dataclass(frozen=True)
class World:
    """Some episodes of a nonlinear world of latents ``(2, 3)``, whose blocks are taken one after the other."""

    episodes: tuple[int, ...]

    def draw(self, key: int, *size: int) -> Tensor:
        return torch.stack([random(key + episode, *size) for episode in self.episodes])

    @property
    def start(self) -> Tensor:
        return self.draw(10, 2, 3)

    @property
    def goal(self) -> Tensor:
        return self.draw(20, 2, 3)

    def advance(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Latents after `blocks` ``(..., F*A)``, without a product of matrices, whose rounding depends on its rows."""
        push = torch.stack([blocks[..., i : i + 6].sum(dim=-1) for i in range(0, 18, 3)], dim=-1).unflatten(-1, (2, 3))
        return latents + 0.2 * torch.tanh(push - torch.sin(3 * latents))

    def rollout(self, actions: Tensor) -> Tensor:
        latents = [self.start[:, None].expand(-1, actions.shape[1], -1, -1)]
        for block in actions.unbind(2):
            latents.append(self.advance(latents[-1], block))
        return torch.stack(latents[1:], dim=2)

    @torch.enable_grad()
    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        leaf = actions.detach().requires_grad_()
        reached = self.advance(latents, leaf)
        (gradient,) = torch.autograd.grad(loss(reached, *loss_inputs), leaf)
        return reached.detach(), gradient

    def objective(self, horizons: Sequence[int], kind: str) -> Objective:
        """Costs that add up block by block, so that padding does not change how they are rounded."""
        targets = self.draw(30, T, F * A)
        valid = torch.arange(T) < torch.tensor(horizons)[:, None]

        def objective(actions: Tensor) -> Tensor:
            assert not actions.masked_select(~valid[:, None, : actions.shape[2], None]).any() or kind == "one-hot"
            costs = torch.zeros(actions.shape[:2])
            latents = self.rollout(actions) if kind == "world" else None
            for t, block in enumerate(actions.unbind(2)):
                cost = (block - targets[:, None, t]).square().sum(dim=2)
                if kind != "quadratic":
                    cost = cost + torch.sin(5 * block).sum(dim=2) + (block[..., 1:] * block[..., :-1]).sum(dim=2)
                if latents is not None:
                    cost = 0.1 * cost + (latents[:, :, t] - self.goal[:, None]).square().flatten(2).sum(dim=2)
                costs = costs + torch.where(valid[:, None, t], cost, 0)
            return costs

        return objective


def random(seed: int, *size: int) -> Tensor:
    """Uniform numbers in [-1, 1]; of a longer size, those of a shorter one come first."""
    return 2 * torch.rand(size, generator=torch.Generator().manual_seed(seed)) - 1


def make_problem(name: str, kind: str, episodes: Sequence[int], horizons: Sequence[int], proposals: int = 0) -> Problem:
    """A problem of `episodes`, as long as the longest of `horizons`."""
    longest = max(horizons)
    world = World(tuple(episodes))
    one_hot = make_planner(name).discrete
    init, guesses = world.draw(40, T, F * A)[:, :longest], world.draw(50, max(proposals, 1), T, F * A)[:, :, :longest]
    objective = world.objective(horizons, "one-hot" if one_hot else kind)
    problem = Problem(
        objective=objective,
        init=init,
        scale=0.3 * world.draw(60, T, F * A)[:, :longest] + 0.6,
        low=torch.full((F * A,), LOW),
        high=torch.full((F * A,), HIGH),
        generators=[torch.Generator().manual_seed(episode) for episode in episodes],
        action_size=A,
        dynamics=world,
        horizons=tuple(horizons),
    )
    if not proposals:
        return problem
    valid = problem.valid
    assert valid is not None
    guesses = guesses.clamp(LOW, HIGH) * valid[:, None, :, None]
    return replace(problem, propose=lambda: (guesses, objective(guesses)))


def assert_same(together: Plan, place: int, alone: Plan, horizon: int) -> None:
    assert torch.equal(together.actions[place, :horizon], alone.actions[0])
    assert torch.equal(together.trace[:, place], alone.trace[:, 0])
    assert torch.equal(together.cost[place], alone.cost[0])


@every_planner
@pytest.mark.parametrize("kind", ["quadratic", "non-convex", "world"])
@pytest.mark.parametrize("proposals", [0, 3])
def test_plan_does_not_depend_on_horizons_beside_it(name: str, kind: str, proposals: int) -> None:
    planner = make_planner(name)
    together = plan(planner, make_problem(name, kind, range(5), HORIZONS, proposals), Budget(rollouts=400))
    for place, horizon in enumerate(HORIZONS):
        alone = make_problem(name, kind, [place], [horizon], proposals)
        assert alone.init.shape[1] == horizon
        assert_same(together, place, plan(planner, replace(alone, horizons=None), Budget(rollouts=400)), horizon)


@every_planner
def test_padding_is_the_same_in_every_candidate(name: str) -> None:
    problem = make_problem(name, "world", range(5), HORIZONS)
    nothing = torch.zeros(F * A)
    if make_planner(name).discrete:
        nothing = torch.where(torch.arange(F * A) % A == 0, HIGH, LOW)
    calls: list[Tensor] = []

    def objective(actions: Tensor) -> Tensor:
        calls.append(actions.detach())
        return problem.objective(actions)

    result = plan(make_planner(name), replace(problem, objective=objective))
    assert calls
    for actions in (*calls, result.actions[:, None]):
        for place, horizon in enumerate(HORIZONS):
            assert torch.equal(actions[place, :, horizon:], nothing.expand_as(actions[place, :, horizon:]))


@every_planner
def test_equal_horizons_are_no_horizons(name: str) -> None:
    problem = make_problem(name, "non-convex", range(3), (T, T, T))
    with_horizons = plan(make_planner(name), problem)
    without = plan(make_planner(name), replace(make_problem(name, "non-convex", range(3), (T, T, T)), horizons=None))
    assert torch.equal(with_horizons.actions, without.actions)
    assert torch.equal(with_horizons.trace, without.trace)


@every_planner
def test_gradients_and_bounds_do_not_reach_the_padding(name: str) -> None:
    """Though the bounds exclude zero, and the objective depends on what it should not."""
    problem = make_problem(name, "quadratic", range(2), (2, 4))
    odd = replace(problem, objective=lambda actions: actions.square().sum(dim=(2, 3)), low=torch.full((F * A,), 0.3))
    result = plan(make_planner(name), odd)
    padding = result.actions[0, 2:]
    if make_planner(name).discrete:
        assert (padding.unflatten(1, (F, A)).argmax(dim=2) == 0).all()
    else:
        assert not padding.any()
    assert (result.actions[0, :2] >= 0.3).all()


@pytest.mark.parametrize(
    ("horizons", "message"),
    [
        ((2, 3, 1), r"Problem\.horizons must be one for each of 2 episodes, got 3"),
        ((0, 3), r"Problem\.horizons must be whole numbers from 1 to T = 4, got \(0, 3\)"),
        ((4, 5), r"must be whole numbers from 1 to T = 4, got \(4, 5\)"),
        ((4, 2.0), r"must be whole numbers from 1 to T = 4, got \(4, 2\.0\)"),
        ((4, True), r"must be whole numbers from 1 to T = 4, got \(4, True\)"),
    ],
)
def test_horizons_out_of_range_are_refused(horizons: tuple[int, ...], message: str) -> None:
    problem = replace(make_problem("cem", "quadratic", range(2), (4, 4)), horizons=horizons)
    with pytest.raises(ValueError, match=message):
        plan(make_planner("cem"), problem)


@pytest.mark.parametrize(
    "name", ["terminal", "best-step", "running", "control-penalty", "temporal-distance", "contrast"]
)
def test_costs_look_at_the_plan_only(name: str) -> None:
    distances, log_steps = random(0, 3, 11, T), random(1, 3, 11, T)
    actions = random(2, 3, 11, T, F * A)
    horizons = (2, 5, 1)
    valid = torch.arange(T) < torch.tensor(horizons)[:, None]
    cost = make_cost(name)
    odd = distances.masked_fill(~valid[:, None], torch.nan)
    masked = cost(Futures(odd, actions, lambda: log_steps, valid=valid, compute_contrasts=lambda: log_steps))
    for place, horizon in enumerate(horizons):
        own = (tensor[place : place + 1, :, :horizon] for tensor in (distances, actions, log_steps))
        own_distances, own_actions, own_steps = own
        steps = partial(torch.clone, own_steps)
        alone = cost(Futures(own_distances, own_actions, steps, compute_contrasts=steps))
        torch.testing.assert_close(masked[place], alone[0])


def test_terminal_cost_of_the_last_block_alone() -> None:
    """Distances are computed after the last block of each plan only."""
    valid = torch.tensor([[True, False, False], [True, True, True]])
    distances = random(0, 2, 11, 1)
    futures = Futures(distances, torch.zeros(2, 11, 3, 7), valid=valid)
    assert torch.equal(make_cost("terminal")(futures), distances[..., 0])


@pytest.mark.parametrize("name", ["terminal", "best-step", "running"])
def test_gradients_of_costs_are_zero_beyond_the_plan(name: str) -> None:
    distances = random(0, 2, 11, 3).requires_grad_()
    valid = torch.tensor([[True, False, False], [True, True, True]])
    cost = make_cost(name)(Futures(distances, torch.zeros(2, 11, 3, 7), valid=valid))
    (gradient,) = torch.autograd.grad(cost.sum(), distances)
    assert torch.equal(gradient[0], torch.tensor([1.0, 0.0, 0.0]).expand(11, 3))
    torch.testing.assert_close(gradient[1].sum(dim=1), torch.ones(11))

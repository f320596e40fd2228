from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, count, islice
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import lwm_agent.planners as planners_package
from lwm_agent.planners import (
    CEM,
    ICEM,
    MPPI,
    PLANNERS,
    SGD,
    Budget,
    Chain,
    Gradient,
    PredictiveSampling,
    make_planner,
    plan,
)
from lwm_agent.planners.mppi import path_weights
from lwm_agent.planners.sampling import sample_coloured_noise, sample_noise
from lwm_agent.protocols import Objective, Plan, Planner, Problem

B, S, T, F, A = 2, 11, 5, 3, 7
CHAIN = "cem+gradient"
# Settings of planners that search little, for those that have them.
SMALL: dict[str, Any] = {"num_samples": S, "num_elites": 4, "sync_steps": 1, "lifted_steps": 2, "decay": 1.2}
# Settings with which a planner solves four-dimensional quadratics, and the error that it then may leave in an action.
SEARCH: dict[str, Any] = {"num_samples": 200, "iterations": 20, "min_std": 1e-3}
THOROUGH: dict[str, tuple[dict[str, Any], float]] = {
    "cem": ({**SEARCH, "num_elites": 40, "noise_correlation": 0.3}, 0.01),
    "gradient": ({"num_samples": 8, "iterations": 100}, 0.01),
    "grasp": ({"num_samples": 8, "iterations": 100, "sync_steps": 90}, 0.01),
    "guided": ({**SEARCH, "num_elites": 40, "noise_correlation": 0.3}, 0.01),
    "icem": ({**SEARCH, "num_elites": 40, "noise_beta": 0.5, "decay": 1.0}, 0.01),
    "lbfgs": ({"num_samples": 2, "iterations": 10}, 0.001),
    "mppi": ({**SEARCH, "noise_correlation": 0.3}, 0.01),
    "predictive-sampling": ({"num_samples": 500, "iterations": 50, "noise_scale": 0.05}, 0.05),
    "random-shooting": ({"num_samples": 1000, "iterations": 20, "noise_correlation": 0.0}, 0.3),
    "sgd": ({"num_samples": 2, "iterations": 20, "lr": 0.3}, 0.001),
    CHAIN: ({"first.num_elites": 40, "first.iterations": 5, "second.iterations": 100}, 0.01),
}
NO_SEARCH = ("actor", "policy")  # what holds for the first guess alone is tested by itself
ALL = [*(name for name in PLANNERS if name not in NO_SEARCH), CHAIN]
DISCRETE = [name for name in ALL if make_planner(name).discrete]
SEARCHERS = [name for name in ALL if name not in DISCRETE]  # of all numbers inside the bounds
planners = pytest.mark.parametrize("name", ALL)
searchers = pytest.mark.parametrize("name", SEARCHERS)


def make_small(name: str, iterations: int = 4) -> Planner:
    """A planner of few candidates, S where it may choose."""
    if name == CHAIN:
        parts = {"first.num_samples": S, "second.num_samples": S, "first.num_elites": 4}
        first = (iterations + 1) // 2
        return make_planner(name, **parts, **{"first.iterations": first, "second.iterations": iterations - first})
    return make_planner(name, **has_settings(name, {**SMALL, "iterations": iterations}))


def make_thorough(name: str) -> tuple[Planner, float]:
    """A planner that finds a minimum, and the error that it may leave; any planner has a default for both."""
    default: tuple[dict[str, Any], float] = ({}, 0.05)
    if name not in THOROUGH:
        default = (has_settings(name, {"num_samples": 500, "iterations": 100}), 0.05)
    settings, tolerance = THOROUGH.get(name, default)
    return make_planner(name, **settings), tolerance


def has_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The part of `settings` that the planner called `name` has."""
    kind: Any = PLANNERS[name]
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in settings.items() if key in names}


def quadratic(target: Tensor) -> Objective:
    """Squared distance to `target` ``(B, T, F*A)``, by no means the same for all episodes."""
    return lambda actions: (actions - target[:, None]).square().flatten(2).sum(dim=2)


class Recorder:
    """An objective that remembers its calls, and what each call of it or of its dynamics costs in rollouts."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.calls: list[Tensor] = []
        self.prices: list[int] = []

    @property
    def rollouts(self) -> int:
        return sum(self.prices)

    def charge(self, actions: Tensor, differentiated: bool = False) -> None:
        self.prices.append(actions.shape[1] * (2 if differentiated or actions.requires_grad else 1))

    def __call__(self, actions: Tensor) -> Tensor:
        self.calls.append(actions.detach().clone())
        self.charge(actions)
        return self.objective(actions)


@dataclass
class Still:
    """A world of latents ``(3, 2)`` in which nothing happens, whatever is done."""

    episodes: int
    device: str
    charge: Callable[..., None] = lambda *actions, differentiated=False: None

    @property
    def start(self) -> Tensor:
        return torch.zeros(self.episodes, 3, 2, device=self.device)

    @property
    def goal(self) -> Tensor:
        return torch.ones(self.episodes, 3, 2, device=self.device)

    def rollout(self, actions: Tensor) -> Tensor:
        self.charge(actions)
        return torch.zeros(*actions.shape[:3], 3, 2, device=self.device)

    def step(
        self, latents: Tensor, actions: Tensor, loss: Callable[..., Tensor], *loss_inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert latents.shape == (*actions.shape[:3], 3, 2)
        self.charge(actions, differentiated=True)
        assert loss(latents, *loss_inputs).shape == ()
        return latents, torch.zeros_like(actions)


def make_problem(
    objective: Objective | None = None,
    episodes: Sequence[int] = range(B),
    shape: tuple[int, int, int] = (T, F, A),
    bounds: tuple[float, float] = (-2.0, 3.0),
    device: str = "cpu",
) -> Problem:
    """A problem of the given episodes, each with its own target, first guess and generator."""
    horizon, frameskip, action_size = shape
    block = frameskip * action_size

    def draw(offset: int) -> Tensor:
        drawn = [torch.rand(horizon, block, generator=torch.Generator().manual_seed(offset + i)) for i in episodes]
        return torch.stack(drawn).to(device)

    return Problem(
        objective=objective or quadratic(2 * draw(100) - 1),
        init=draw(200) - 0.5,
        scale=0.5 + draw(300),
        low=torch.full((block,), bounds[0], device=device),
        high=torch.full((block,), bounds[1], device=device),
        generators=[torch.Generator(device).manual_seed(i) for i in episodes],
        action_size=action_size,
        dynamics=Still(len(episodes), device),
    )


def record(problem: Problem) -> tuple[Problem, Recorder]:
    recorder = Recorder(problem.objective)
    dynamics = Still(len(problem.init), str(problem.init.device), recorder.charge)
    return replace(problem, objective=recorder, dynamics=dynamics), recorder


def test_every_registered_planner_is_in_the_search_tests() -> None:
    """A planner that is registered cannot be left out of the tests of what a plan is, nor of a test of its search."""
    assert {*NO_SEARCH, *DISCRETE, *SEARCHERS} == {*PLANNERS, CHAIN}
    assert set(THOROUGH) <= set(SEARCHERS)


def test_default_settings_of_the_tests_serve_any_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cem", "mppi", "gradient", "lbfgs"):
        monkeypatch.delitem(THOROUGH, name)
        planner, tolerance = make_thorough(name)
        target = torch.tensor([[[0.5, -1.0], [1.5, 0.2]], [[-0.7, 0.9], [0.1, -0.3]]])
        result = plan(planner, make_problem(quadratic(target), shape=(2, 2, 1)))
        torch.testing.assert_close(result.actions, target, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", DISCRETE)
def test_finds_the_best_discrete_actions(name: str) -> None:
    chosen = torch.tensor([[3, 0], [1, 6]])  # (B, T), F = 1, A = 7
    target = torch.where(torch.nn.functional.one_hot(chosen, A).bool(), 3.0, -2.0)
    planner = make_planner(name, **has_settings(name, {"num_samples": 256, "iterations": 10}))
    result = plan(planner, make_problem(quadratic(target), shape=(2, 1, A)))
    assert torch.equal(result.actions, target)


def test_looking_up_names_does_not_import_torch() -> None:
    look_up = "from lwm_agent.planners import PLANNERS, Budget; sorted(PLANNERS); Budget(rollouts=3)"
    code = f"import sys; {look_up}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


def test_registered_classes_are_planners() -> None:
    for name, planner in PLANNERS.items():
        assert issubclass(planner, Planner)
        assert name not in ("cem", "grasp") or getattr(planners_package, planner.__name__) is planner
        assert make_planner(name).iterations >= 1
    with pytest.raises(AttributeError, match="no attribute 'Cem'"):
        _ = planners_package.Cem  # type: ignore[attr-defined]


def test_a_chain_declares_what_its_parts_need() -> None:
    chain = make_planner("guided+sgd", **{"first.iterations": 3, "second.iterations": 8})
    assert (chain.iterations, chain.needs_proposal, chain.discrete) == (11, True, False)
    assert not make_planner("cem+sgd").needs_proposal
    assert make_planner("categorical-cem+categorical-cem").discrete
    assert pickle.loads(pickle.dumps(chain)).iterations == 11


# --- what a plan is -----------------------------------------------------------------------------------------------


@searchers
def test_finds_the_minimum_inside_the_bounds(name: str) -> None:
    planner, tolerance = make_thorough(name)
    target = torch.tensor([[[0.5, -1.0], [1.5, 0.2]], [[-0.7, 0.9], [0.1, -0.3]]])  # (B, T, F*A), F = 2, A = 1
    result = plan(planner, make_problem(quadratic(target), shape=(2, 2, 1)))
    torch.testing.assert_close(result.actions, target, atol=tolerance, rtol=0)


@searchers
def test_optimum_outside_the_bounds_is_met_at_the_bound(name: str) -> None:
    planner, tolerance = make_thorough(name)
    target = torch.tensor([9.0, -9.0]).expand(B, 2, 2)
    result = plan(planner, make_problem(quadratic(target), shape=(2, 2, 1), bounds=(-0.4, 0.9)))
    torch.testing.assert_close(result.actions, torch.tensor([0.9, -0.4]).expand(B, 2, 2), atol=tolerance, rtol=0)


@planners
def test_asymmetric_bounds_are_never_left(name: str) -> None:
    low, high = torch.linspace(-0.3, 0.1, F * A), torch.linspace(0.2, 0.9, F * A)
    problem, recorder = record(replace(make_problem(), low=low, high=high))
    result = plan(make_small(name), problem)
    for actions in [*recorder.calls, result.actions]:
        assert (actions >= low).all()
        assert (actions <= high).all()
    assert len(recorder.calls) == 4


@planners
def test_plan_is_consistent(name: str) -> None:
    problem, recorder = record(make_problem())
    result = plan(make_small(name), problem)
    assert result.actions.shape == (B, T, F * A)
    assert result.trace.shape == (4, B)
    assert (result.trace.diff(dim=0) <= 0).all()
    assert torch.equal(result.trace[-1], result.cost)
    assert torch.equal(problem.objective(result.actions[:, None])[:, 0], result.cost)
    if name in SEARCHERS:  # one-hot plans cannot be what this first guess is
        assert (result.cost <= problem.objective(problem.init[:, None])[:, 0]).all()
    assert not result.actions.requires_grad
    # The cheapest of all the candidates ever seen is the plan.
    seen = torch.cat([recorder.objective(actions) for actions in recorder.calls[:4]], dim=1)
    assert torch.equal(seen.amin(dim=1), result.cost)


@searchers
def test_first_guess_is_the_first_candidate(name: str) -> None:
    problem, recorder = record(make_problem())
    plan(make_small(name), problem)
    assert torch.equal(recorder.calls[0][:, 0], problem.init)


@planners
def test_same_seed_same_plan(name: str) -> None:
    planner = make_small(name)
    first, second = plan(planner, make_problem()), plan(planner, make_problem())
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.trace, second.trace)
    assert not torch.equal(first.actions, plan(planner, make_problem(episodes=range(5, 5 + B))).actions)


@planners
@pytest.mark.parametrize("episodes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_plan_does_not_depend_on_its_batch(name: str, episodes: tuple[int, ...]) -> None:
    planner = make_small(name)
    together = plan(planner, make_problem(episodes=episodes))
    for position, episode in enumerate(episodes):
        alone = plan(planner, make_problem(episodes=[episode]))
        assert torch.equal(alone.actions[0], together.actions[position])
        assert torch.equal(alone.trace[:, 0], together.trace[:, position])


@searchers
def test_shortest_problem(name: str) -> None:
    """One block of one environment step, as at an episode's end."""
    problem, recorder = record(make_problem(shape=(1, 1, 2)))
    result = plan(make_small(name), problem)
    assert result.actions.shape == (B, 1, 2)
    assert (result.cost < problem.objective(problem.init[:, None])[:, 0]).all()
    assert all(call.isfinite().all() for call in recorder.calls)


@pytest.mark.parametrize(
    ("costs", "winner"),
    [([3.0, 1.0, 2.0], 1), ([3.0, 2.0, 0.5], 2), ([torch.nan, 2.0, torch.nan], 1), ([-torch.inf, 2.0, torch.nan], 0)],
)
def test_search_starts_from_the_best_proposal(costs: list[float], winner: int) -> None:
    """By the costs that come with the guesses."""
    problem = make_problem()
    guesses = 0.1 * torch.arange(1.0, 4.0)[:, None, None] * torch.ones(B, 3, *problem.init.shape[1:])
    problem, recorder = record(
        replace(problem, propose=lambda: (guesses, torch.tensor(costs).expand(B, 3)), propose_flops=7.0)
    )
    result = plan(CEM(num_samples=S, num_elites=2, iterations=1), problem, flops_per_rollout=10.0)
    (searched,) = recorder.calls
    torch.testing.assert_close(searched[:, 0], guesses[:, winner])
    assert result.rollouts == (3 + S,) * B
    assert result.flops == (10.0 * (3 + S) + 7.0,) * B


def test_proposals_are_no_iteration() -> None:
    problem = make_problem()
    guesses = torch.zeros(B, 3, *problem.init.shape[1:])
    problem, recorder = record(replace(problem, propose=lambda: (guesses, torch.zeros(B, 3))))
    assert len(plan(CEM(num_samples=S, num_elites=2), problem, Budget(iterations=1)).trace) == 1
    assert len(recorder.calls) == 1


def test_proposals_without_a_finite_cost_are_no_plan() -> None:
    clock = count()
    problem = make_problem()
    guesses, costs = torch.zeros(B, 3, *problem.init.shape[1:]), torch.full((B, 3), torch.nan)
    problem = replace(problem, propose=lambda: (guesses, costs))
    result = plan(CEM(num_samples=S, num_elites=2), problem, Budget(seconds=0.5), clock=lambda: next(clock))
    assert len(result.trace) == 1
    assert result.cost.isfinite().all()


def test_budget_for_proposals_alone_leaves_the_best_of_them() -> None:
    problem = make_problem()
    guesses = 0.1 * torch.arange(1.0, 4.0)[:, None, None] * torch.ones(B, 3, *problem.init.shape[1:])
    now = 0.0

    def propose() -> tuple[Tensor, Tensor]:
        nonlocal now
        now += 10.0
        return guesses, torch.tensor([3.0, 1.0, 2.0]).expand(B, 3)

    problem, recorder = record(replace(problem, propose=propose, propose_flops=7.0))
    cem = CEM(num_samples=S, num_elites=2)
    for budget, overshoot in (
        (Budget(rollouts=3 + S - 1), 0.0),
        (Budget(flops=10.0 * (3 + S) + 6.9), 0.0),
        (Budget(seconds=4.0), 6.0),
    ):
        result = plan(cem, problem, budget, flops_per_rollout=10.0, clock=lambda: now)
        assert torch.equal(result.actions, guesses[:, 1])
        assert torch.equal(result.cost, torch.ones(B))
        assert result.trace.shape == (0, B)
        assert (result.rollouts, result.flops) == ((3,) * B, (10.0 * 3 + 7.0,) * B)
        assert result.overshoot == overshoot
    for budget in (Budget(rollouts=2), Budget(flops=10.0 * 3 + 6.9)):
        with pytest.raises(ValueError, match=r"too small.*num_proposals where an actor proposes"):
            plan(cem, problem, budget, flops_per_rollout=10.0)
    assert not recorder.calls


@planners
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_plans_on_cuda(name: str) -> None:
    problem = make_problem(device="cuda")
    result = plan(make_small(name), problem, Budget(seconds=60.0, iterations=4))
    assert {result.actions.device.type, result.cost.device.type, result.trace.device.type} == {"cuda"}
    torch.testing.assert_close(problem.objective(result.actions[:, None])[:, 0], result.cost)


# --- budgets ------------------------------------------------------------------------------------------------------


def spend(name: str, budget: Budget, iterations: int = 1000) -> tuple[Plan, Recorder]:
    """A plan under `budget` of a planner that would not stop, and what was spent."""
    problem, recorder = record(make_problem())
    result = plan(make_small(name, iterations), problem, budget, flops_per_rollout=10.0)
    assert result.rollouts == (recorder.rollouts,) * B
    assert result.flops == (10.0 * recorder.rollouts,) * B
    return result, recorder


def affordable(name: str, rollouts: float) -> int:
    """Rollouts of all the calls that fit, one after the other, into a budget of `rollouts`."""
    _, recorder = spend(name, Budget(iterations=20))
    assert recorder.rollouts > rollouts
    return max(total for total in accumulate(recorder.prices) if total <= rollouts)


@planners
@pytest.mark.parametrize("rollouts", [2 * S, 66, 100])
def test_rollouts_budget(name: str, rollouts: int) -> None:
    _, recorder = spend(name, Budget(rollouts=rollouts))
    assert recorder.rollouts == affordable(name, rollouts)


@planners
@pytest.mark.parametrize("flops", [20.0 * S, 660.0, 999.5])
def test_flops_budget(name: str, flops: float) -> None:
    _, recorder = spend(name, Budget(flops=flops))
    assert recorder.rollouts == affordable(name, flops / 10)


@planners
@pytest.mark.parametrize(("own", "allowed", "expected"), [(9, 3, 3), (2, 3, 3), (2, None, 2)])
def test_iterations_budget(name: str, own: int, allowed: int | None, expected: int) -> None:
    result, recorder = spend(name, Budget(iterations=allowed), iterations=own)
    assert len(recorder.calls) == len(result.trace) == expected


@planners
@pytest.mark.parametrize(("seconds", "expected"), [(1, 1), (25.0, 3), (30.0, 3)])
def test_seconds_budget(name: str, seconds: float, expected: int) -> None:
    """An iteration of ten seconds starts before the deadline only, but the first always does."""
    now = 0.0

    def slow(actions: Tensor) -> Tensor:
        nonlocal now
        now += 10.0
        return quadratic(torch.zeros(B, T, F * A))(actions)

    planner = make_small(name, 1000)
    result = plan(planner, make_problem(slow), Budget(seconds=seconds), clock=lambda: now)
    assert len(result.trace) == expected
    assert result.seconds == 10.0 * expected
    assert result.overshoot == max(0.0, 10.0 * expected - seconds) <= 10.0


@planners
def test_first_iteration_is_always_in_time(name: str) -> None:
    clock = count()
    assert len(plan(make_small(name), make_problem(), Budget(seconds=0.5), clock=lambda: next(clock)).trace) == 1


@planners
@pytest.mark.parametrize("budget", [Budget(rollouts=S - 1), Budget(flops=10.0 * S - 1)])
def test_budget_below_one_iteration(name: str, budget: Budget) -> None:
    problem, recorder = record(make_problem())
    with pytest.raises(ValueError, match=r"Budget\(.*=10.*is too small.*any plan of \w+: lower num_samples"):
        plan(make_small(name), problem, budget, flops_per_rollout=10.0)
    assert not recorder.calls


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": 0}, "Budget: rollouts must be positive and finite, or None for no limit, got 0"),
        ({"seconds": -1.5}, "Budget: seconds must be positive"),
        ({"flops": float("nan")}, "Budget: flops must be positive"),
        ({"seconds": float("inf")}, "Budget: seconds must be positive and finite"),
    ],
)
def test_budget_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**settings)


@pytest.mark.parametrize("settings", [{"rollouts": 10.0}, {"iterations": True}, {"seconds": "1"}])
def test_budget_of_wrong_type(settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=rf"Budget: {next(iter(settings))} must be (int|float) \| None, got"):
        Budget(**settings)


def test_flops_budget_needs_the_flops_of_a_rollout() -> None:
    with pytest.raises(ValueError, match=r"flops_per_rollout must be positive under a budget in flops, got 0\.0"):
        plan(CEM(), make_problem(), Budget(flops=1e9))


# --- objectives ---------------------------------------------------------------------------------------------------


@planners
def test_costs_that_are_not_numbers_never_win(name: str) -> None:
    def partial(actions: Tensor) -> Tensor:
        odd = torch.arange(actions.shape[1]) % 2 == 1
        return quadratic(torch.zeros(B, T, F * A))(actions).masked_fill(odd, torch.nan)

    problem, recorder = record(make_problem(partial))
    result = plan(make_small(name), problem)
    assert result.trace.isfinite().all()
    even = torch.cat([actions[:, ::2] for actions in recorder.calls], dim=1)
    assert torch.equal(quadratic(torch.zeros(B, T, F * A))(even).amin(dim=1), result.cost)


@planners
def test_episode_without_a_finite_cost(name: str) -> None:
    factor = torch.tensor([[1.0], [torch.nan]])
    problem = make_problem(lambda actions: actions.sum(dim=(2, 3)) * factor)
    with pytest.raises(ValueError, match=r"no candidate of episodes \[1\] has a finite cost"):
        plan(make_small(name), problem)


@planners
def test_search_survives_an_iteration_without_a_finite_cost(name: str) -> None:
    calls = count()

    def objective(actions: Tensor) -> Tensor:
        return quadratic(torch.zeros(B, T, F * A))(actions) * (torch.nan if next(calls) == 0 else 1.0)

    problem, recorder = record(make_problem(objective))
    result = plan(make_small(name), problem)
    assert result.cost.isfinite().all()
    assert all(actions.isfinite().all() for actions in recorder.calls)


@planners
def test_objective_of_wrong_shape(name: str) -> None:
    with pytest.raises(ValueError, match=r"objective must return \(B, S\) = \(2, 11\), got \(2, 11, 5\)"):
        plan(make_small(name), make_problem(lambda actions: actions.sum(dim=3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": torch.zeros(T, F * A)}, r"Problem.init must be \(B, T, F\*A\), got \(5, 21\)"),
        ({"scale": torch.ones(1, T, F * A)}, r"Problem.scale must be \(2, 5, 21\).*got \(1, 5, 21\)"),
        ({"low": torch.zeros(A)}, r"Problem.low must be \(21,\).*got \(7,\)"),
        ({"high": torch.zeros(())}, r"Problem.high must be \(21,\).*got \(\)"),
        ({"action_size": 4}, r"Problem.action_size must divide the action block F\*A = 21, got 4"),
        ({"generators": [torch.Generator()]}, r"Problem.generators must be one for each of 2 episodes, got 1"),
    ],
)
def test_problem_of_wrong_shape(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(CEM(), replace(make_problem(), **change))


# --- planners, one by one -----------------------------------------------------------------------------------------


def adam(points: Tensor, gradient: Objective, lr: float) -> Iterator[Tensor]:
    """Points after each step of Algorithm 1 of arXiv 1412.6980, projected to the bounds [-0.5, 0.8]."""
    first, second = torch.zeros(()), torch.zeros(())
    for k in count(1):
        first = 0.9 * first + 0.1 * gradient(points)
        second = 0.999 * second + 0.001 * gradient(points) ** 2
        step = lr * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
        points = (points - step).clamp(-0.5, 0.8)
        yield points


def sgd(points: Tensor, gradient: Objective, lr: float) -> Iterator[Tensor]:
    while True:
        points = (points - lr * gradient(points)).clamp(-0.5, 0.8)
        yield points


@pytest.mark.parametrize(("planner", "reference"), [(Gradient, adam), (SGD, sgd)])
def test_gradient_takes_the_steps_of_its_optimizer(
    planner: type[Gradient], reference: Callable[..., Iterator[Tensor]]
) -> None:
    target = torch.rand(B, T, F * A, generator=torch.Generator().manual_seed(0))
    problem, recorder = record(make_problem(quadratic(target), bounds=(-0.5, 0.8)))
    plan(planner(lr=0.05, num_samples=S, iterations=4), problem)
    expected = reference(recorder.calls[0], lambda actions: 2 * (actions - target[:, None]), 0.05)
    assert len(recorder.calls) == 4
    for actual in recorder.calls[1:]:
        torch.testing.assert_close(actual, next(expected))


@pytest.mark.parametrize("name", ["gradient", "sgd", "lbfgs", "grasp"])
def test_gradient_leaves_the_weights_alone(name: str) -> None:
    weight = torch.ones(F * A, requires_grad=True)
    plan(make_small(name), make_problem(lambda actions: (actions * weight).square().sum((2, 3))))
    assert weight.grad is None
    assert torch.equal(weight, torch.ones(F * A))


@pytest.mark.parametrize("name", ["gradient", "sgd", "lbfgs", "grasp", CHAIN])
def test_gradient_needs_a_differentiable_objective(name: str) -> None:
    with pytest.raises(ValueError, match="objective has no gradient"):
        plan(make_small(name), make_problem(lambda actions: actions.detach().sum(dim=(2, 3))))


@pytest.mark.parametrize("keep_best", [True, False])
def test_cem_fits_its_elites(keep_best: bool) -> None:
    problem, recorder = record(make_problem(bounds=(-99.0, 99.0)))
    planner = CEM(num_samples=S, num_elites=4, momentum=0.25, keep_best=keep_best)
    (best, _), _ = islice(planner.improve(problem), 2)
    first, second = recorder.calls
    same = make_problem()
    _, noise = sample_noise(same, S, planner.noise_correlation), sample_noise(same, S, planner.noise_correlation)
    costs = recorder.objective(first)
    for i in range(B):
        elites = first[i, costs[i].argsort()[:4]]
        mean = 0.25 * problem.init[i] + 0.75 * elites.mean(dim=0)
        std = 0.25 * problem.scale[i] + 0.75 * elites.std(dim=0, correction=0)
        assert torch.equal(best[i], elites[0])
        torch.testing.assert_close(second[i, 0], mean)
        assert torch.equal(second[i, 1], best[i]) == keep_best
        torch.testing.assert_close(second[i, 2:], mean + std * noise[i, 2:])


def test_cem_keeps_a_least_standard_deviation() -> None:
    problem, recorder = record(replace(make_problem(), scale=torch.zeros(B, T, F * A)))
    plan(CEM(num_samples=400, min_std=0.2, iterations=2), problem)
    first, second = recorder.calls
    assert torch.equal(first, problem.init[:, None].expand_as(first))
    torch.testing.assert_close(second[:, 2:].std(dim=1).mean(), torch.tensor(0.2), atol=0.01, rtol=0)


def test_icem_remembers_elites_and_shrinks() -> None:
    problem, recorder = record(make_problem(bounds=(-99.0, 99.0)))
    planner = ICEM(num_samples=20, num_elites=4, decay=1.5, keep_elites=0.5, momentum=0.25, min_std=0.0)
    plans = list(islice(planner.improve(problem), 4))
    assert recorder.prices == [20, 13, 8, 8]  # 20 / 1.5^i, but two for each elite
    mean, pool = problem.init, torch.empty(B, 0, T, F * A)
    for candidates, (best, cost) in zip(recorder.calls, plans, strict=True):
        torch.testing.assert_close(candidates[:, 0], mean)
        pool = torch.cat([candidates, pool], dim=1)
        costs = recorder.objective(pool)
        pool = pool.take_along_dim(costs.argsort(dim=1)[:, :4, None, None], dim=1)
        mean = 0.25 * mean + 0.75 * pool.mean(dim=1)
        assert torch.equal(best, pool[:, 0])
        assert torch.equal(cost, costs.amin(dim=1))
        pool = pool[:, :2]  # the share of the elites that is kept


def test_mppi_temperature() -> None:
    costs = torch.tensor([[3.0, 1.0, 2.0, torch.inf, 5.0], [7.0, 7.0, 7.0, 7.0, 7.0]])
    cold, warm, hot = (path_weights(costs, temperature) for temperature in (1e-6, 0.5, 1e6))
    alike = torch.full((5,), 0.2)
    torch.testing.assert_close(cold, torch.stack([torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]), alike]))
    torch.testing.assert_close(hot, torch.stack([torch.tensor([0.25, 0.25, 0.25, 0.0, 0.25]), alike]))
    # The median is 1 above the best.
    torch.testing.assert_close(warm[0], torch.softmax(-2 * costs[0], dim=0))
    torch.testing.assert_close(path_weights(100 * costs - 3, 0.5), warm)  # whatever the unit
    torch.testing.assert_close(path_weights(torch.full((1, 5), torch.inf), 0.5), alike[None])


def test_mppi_weighs_all_candidates() -> None:
    problem, recorder = record(make_problem(bounds=(-99.0, 99.0)))
    planner = MPPI(num_samples=400, temperature=0.3)
    (best, _), _ = islice(planner.improve(problem), 2)
    first, second = recorder.calls
    weights = path_weights(recorder.objective(first), 0.3)[:, :, None, None]
    mean = (weights * first).sum(dim=1)
    torch.testing.assert_close(second[:, 0], mean)
    assert torch.equal(second[:, 1], best)
    std = (weights * (first - mean[:, None]).square()).sum(dim=1).sqrt()
    assert ((second[:, 2:].std(dim=1) / std).log().abs() < 0.2).all()


def test_predictive_sampling_moves_with_its_best() -> None:
    problem, recorder = record(make_problem())
    plans = list(islice(PredictiveSampling(num_samples=S).improve(problem), 3))
    for call, (best, _) in zip(recorder.calls[1:], plans, strict=False):
        assert torch.equal(call[:, 0], best)


@pytest.mark.parametrize("budget", [Budget(), Budget(rollouts=9)])
def test_actor_takes_the_first_guess_under_any_budget(budget: Budget) -> None:
    problem, recorder = record(make_problem(bounds=(-0.3, 0.4)))
    result = plan(make_planner("actor"), problem, budget)
    assert torch.equal(result.actions, problem.init.clamp(-0.3, 0.4))
    assert torch.equal(result.cost, problem.objective(result.actions[:, None])[:, 0])
    assert recorder.prices[:1] == [1]
    assert result.rollouts == (1,) * B


def test_chain_refines_the_plan_of_its_first_planner() -> None:
    problem, recorder = record(make_problem())
    chain = make_small(CHAIN, iterations=7)
    result = plan(chain, problem)
    first = plan(CEM(num_samples=S, num_elites=4, iterations=4), make_problem())
    assert recorder.prices == 4 * [S] + 3 * [2 * S]
    assert torch.equal(result.trace[:4], first.trace)
    assert torch.equal(recorder.calls[4][:, 0], first.actions)
    assert (result.cost < first.cost).all()
    # The others start nearby.
    assert ((recorder.calls[4] - first.actions[:, None]).std() / problem.scale.mean()).item() < 0.25


@pytest.mark.parametrize(("rollouts", "trace"), [(2 * S, 2), (4 * S, 4), (6 * S, 5), (9 * S, 6), (99 * S, 51)])
def test_chain_shares_one_budget(rollouts: int, trace: int) -> None:
    assert len(plan(make_small(CHAIN, iterations=7), make_problem(), Budget(rollouts=rollouts)).trace) == trace


def test_second_of_a_chain_spends_what_the_first_cannot() -> None:
    problem, recorder = record(make_problem())
    chain = make_planner("cem+gradient", **{"first.num_samples": 20, "first.iterations": 9, "second.num_samples": 3})
    assert plan(chain, problem, Budget(rollouts=55)).rollouts == (52,) * B
    assert recorder.prices == [20, 20, 6, 6]


def test_chain_of_three() -> None:
    chain = make_planner("icem+sgd+lbfgs", spread=0.0, **{"first.iterations": 3, "second.first.iterations": 5})
    assert chain == Chain(
        first=ICEM(iterations=3), second=Chain(first=SGD(iterations=5), second=make_planner("lbfgs")), spread=0.0
    )
    assert chain.iterations == 3 + 5 + 20


# --- noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.95])
def test_noise_is_correlated_over_env_steps(correlation: float) -> None:
    episodes, samples, horizon, frameskip, size = 3, 5000, 5, 3, 2
    noise = sample_noise(make_problem(episodes=range(3), shape=(horizon, frameskip, size)), samples, correlation)
    assert noise.shape == (episodes, samples, horizon, frameskip * size)
    # Every env step of every action dimension is one variable: (B*S, T*F*A), steps before dimensions.
    env_steps = torch.arange(horizon * frameskip)
    expected = torch.kron(correlation ** (env_steps[:, None] - env_steps).abs(), torch.eye(size))
    covariance = noise.reshape(episodes * samples, -1).T.cov()
    torch.testing.assert_close(covariance, expected, atol=0.06, rtol=0)
    assert noise.mean(dim=(0, 1)).abs().max() < 0.05


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("horizon", [4, 5])
def test_coloured_noise_has_its_spectrum(beta: float, horizon: int) -> None:
    problem = make_problem(episodes=range(3), shape=(horizon, 3, 2))
    noise = sample_coloured_noise(problem, 4000, beta)
    assert noise.shape == (3, 4000, horizon, 6)
    env_steps = noise.reshape(3, 4000, horizon * 3, 2)
    torch.testing.assert_close(env_steps.std(dim=(0, 1)), torch.ones(horizon * 3, 2), atol=0.03, rtol=0)
    power = torch.fft.rfft(env_steps, dim=2).abs().square().mean(dim=(0, 1, 3))
    frequencies = torch.arange(len(power)).clamp_min(1)
    torch.testing.assert_close(power / power[1], frequencies**-beta, atol=0.01, rtol=0.08)


@pytest.mark.parametrize("sample", [sample_noise, sample_coloured_noise])
def test_noise_of_episodes_is_their_own(sample: Callable[..., Tensor]) -> None:
    noise = sample(make_problem(episodes=[0, 1, 0]), S, 0.7)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


# --- settings -----------------------------------------------------------------------------------------------------


def test_unknown_planner() -> None:
    with pytest.raises(
        ValueError, match=r"planner='sem' is unknown: choose one of actor, categorical-cem, cem, .*joined by a plus"
    ):
        make_planner("sem")


@pytest.mark.parametrize("name", PLANNERS)
def test_unknown_setting(name: str) -> None:
    takes = "none" if name in NO_SEARCH else ".*iterations"
    with pytest.raises(ValueError, match=rf"unknown settings \['samples'\] of planner '{name}', which takes {takes}"):
        make_planner(name, samples=3)


def of_all(*settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every planner with each of the settings that it has."""
    return [
        (name, setting)
        for name, planner in PLANNERS.items()
        for setting in settings
        if setting.keys() <= {item.name for item in fields(cast("Any", planner))}
    ]


@pytest.mark.parametrize(
    ("name", "settings"), of_all({"num_samples": 8.0}, {"iterations": "3"}, {"noise_correlation": True}, {"lr": "low"})
)
def test_setting_of_wrong_type(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=rf"{next(iter(settings))} must be (int|float), got"):
        make_planner(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    of_all({"num_samples": 0}, {"iterations": 0}, {"noise_correlation": 1}, {"momentum": 1}, {"min_std": -1}),
)
def test_setting_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} must be (at least|in) .*, got (0|1|-1)$"):
        make_planner(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cem", {"num_samples": 8, "num_elites": 9}, "CEM: num_elites must be 1 to num_samples = 8, got 9"),
        ("cem", {"num_samples": 1}, "CEM: num_samples must be at least 2"),
        ("icem", {"num_samples": 8, "num_elites": 9}, "ICEM: num_elites must be 1 to num_samples = 8, got 9"),
        ("icem", {"noise_beta": -1}, "ICEM: noise_beta must be at least 0, got -1"),
        ("icem", {"decay": 0.9}, "ICEM: decay must be at least 1, got 0.9"),
        ("icem", {"keep_elites": 1.1}, r"ICEM: keep_elites must be in \[0, 1\], got 1.1"),
        ("mppi", {"num_samples": 1}, "MPPI: num_samples must be at least 2"),
        ("mppi", {"temperature": 0.0}, "MPPI: temperature must be positive, got 0.0"),
        ("predictive-sampling", {"noise_scale": 0.0}, "noise_scale must be positive, got 0.0"),
        ("lbfgs", {"history": 0}, "LBFGS: history must be at least 1, got 0"),
        ("lbfgs", {"first_step": 0.0}, "LBFGS: first_step must be positive, got 0.0"),
        ("grasp", {"lifted_steps": 0}, "GRASP: lifted_steps must be at least 1, got 0"),
        ("grasp", {"sync_steps": 0}, "GRASP: sync_steps must be at least 1, got 0"),
        ("grasp", {"sync_lr": 0.0}, "GRASP: sync_lr must be positive, got 0.0"),
        ("grasp", {"state_lr": 1.5}, r"GRASP: state_lr must be in \(0, 1\], got 1.5"),
        ("grasp", {"state_noise": -1}, "GRASP: state_noise must be at least 0, got -1"),
        ("grasp", {"goal_weight": -1}, "GRASP: goal_weight must be at least 0, got -1"),
        ("sgd", {"lr": 0.0}, "SGD: lr must be positive, got 0.0"),
        (CHAIN, {"spread": -0.1}, "Chain: spread must be a number of at least 0, got -0.1"),
        (CHAIN, {"spread": float("inf")}, "Chain: spread must be a number of at least 0, got inf"),
        (CHAIN, {"spread": True}, "Chain: spread must be a number of at least 0, got True"),
        ("gradient", {"lr": float("inf")}, "Gradient: lr must be finite, got inf"),
        ("cem", {"min_std": float("nan")}, "CEM: min_std must be finite, got nan"),
        ("mppi", {"temperature": float("inf")}, "MPPI: temperature must be finite, got inf"),
        (CHAIN, {"spread": "wide"}, "Chain: spread must be a number of at least 0, got 'wide'"),
        (CHAIN, {"second.lr": 0.0}, "Gradient: lr must be positive, got 0.0"),
        (CHAIN, {"lr": 0.1}, r"unknown settings \['lr'\] of planner 'cem\+gradient', which takes .*'second.NAME'"),
        (CHAIN, {"third.lr": 0.1}, r"unknown settings \['third.lr'\] of planner 'cem\+gradient'"),
        (CHAIN, {"first.lr": 0.1}, r"unknown settings \['lr'\] of planner 'cem', which takes"),
        ("policy+cem", {}, "a policy that acts by itself plans nothing"),
        ("cem+magic", {}, "planner='magic' is unknown: choose one of actor, categorical-cem, cem"),
        ("cem+categorical-cem", {}, "Chain: of CEM and CategoricalCEM, one plans discrete actions and the other"),
        ("categorical-cem", {"num_samples": 1, "num_elites": 1}, "CategoricalCEM: num_samples must be at least 2"),
        ("categorical-cem", {"exploration": 1.1}, r"CategoricalCEM: exploration must be in \[0, 1\], got 1.1"),
        ("categorical-cem", {"smoothing": -1}, r"CategoricalCEM: smoothing must be in \[0, 1\], got -1"),
        ("+cem", {}, "planner='' is unknown: choose one of actor, categorical-cem, cem"),
    ],
)
def test_own_setting_out_of_range(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_planner(name, **settings)

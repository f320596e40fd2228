from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm_agent.planners import CEM, PLANNERS, Budget, Gradient, base, make_planner, plan
from lwm_agent.planners.base import sample_noise
from lwm_agent.protocols import Objective, Plan, Problem

B, S, T, F, A = 2, 11, 5, 3, 7
SMALL: dict[str, dict[str, Any]] = {name: {"num_samples": S, "iterations": 4} for name in PLANNERS}
SMALL["cem"]["num_elites"] = 4
# Settings with which a planner solves four-dimensional quadratics, and the error that it then may leave in an action.
THOROUGH: dict[str, tuple[dict[str, Any], float]] = {
    "cem": ({"num_samples": 200, "num_elites": 40, "iterations": 20, "noise_correlation": 0.3, "min_std": 1e-3}, 0.01),
    "gradient": ({"num_samples": 8, "iterations": 100}, 0.01),
    "random-shooting": ({"num_samples": 1000, "iterations": 20, "noise_correlation": 0.0}, 0.3),
}
planners = pytest.mark.parametrize("name", PLANNERS)


def quadratic(target: Tensor) -> Objective:
    """Squared distance to `target` ``(B, T, F*A)``, by no means the same for all episodes."""
    return lambda actions: (actions - target[:, None]).square().flatten(2).sum(dim=2)


class Recorder:
    """An objective that remembers its calls and counts rollouts by itself."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.calls: list[Tensor] = []
        self.rollouts = 0

    def __call__(self, actions: Tensor) -> Tensor:
        self.calls.append(actions.detach().clone())
        self.rollouts += actions.shape[1] * (2 if actions.requires_grad else 1)
        return self.objective(actions)


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
    )


def record(problem: Problem) -> tuple[Problem, Recorder]:
    recorder = Recorder(problem.objective)
    return replace(problem, objective=recorder), recorder


# --- what a plan is -----------------------------------------------------------------------------------------------


@planners
def test_finds_the_minimum_inside_the_bounds(name: str) -> None:
    settings, tolerance = THOROUGH[name]
    target = torch.tensor([[[0.5, -1.0], [1.5, 0.2]], [[-0.7, 0.9], [0.1, -0.3]]])  # (B, T, F*A), F = 2, A = 1
    result = plan(make_planner(name, **settings), make_problem(quadratic(target), shape=(2, 2, 1)))
    torch.testing.assert_close(result.actions, target, atol=tolerance, rtol=0)


@planners
def test_optimum_outside_the_bounds_is_met_at_the_bound(name: str) -> None:
    settings, tolerance = THOROUGH[name]
    target = torch.tensor([9.0, -9.0]).expand(B, 2, 2)
    result = plan(make_planner(name, **settings), make_problem(quadratic(target), shape=(2, 2, 1), bounds=(-0.4, 0.9)))
    torch.testing.assert_close(result.actions, torch.tensor([0.9, -0.4]).expand(B, 2, 2), atol=tolerance, rtol=0)


@planners
def test_asymmetric_bounds_are_never_left(name: str) -> None:
    low, high = torch.linspace(-0.3, 0.1, F * A), torch.linspace(0.2, 0.9, F * A)
    problem, recorder = record(replace(make_problem(), low=low, high=high))
    result = plan(make_planner(name, **SMALL[name]), problem)
    for actions in [*recorder.calls, result.actions]:
        assert (actions >= low).all()
        assert (actions <= high).all()
    assert len(recorder.calls) == 4


@planners
def test_plan_is_consistent(name: str) -> None:
    problem, recorder = record(make_problem())
    result = plan(make_planner(name, **SMALL[name]), problem)
    assert result.actions.shape == (B, T, F * A)
    assert result.trace.shape == (4, B)
    assert (result.trace.diff(dim=0) <= 0).all()
    assert torch.equal(result.trace[-1], result.cost)
    assert torch.equal(problem.objective(result.actions[:, None])[:, 0], result.cost)
    assert (result.cost <= problem.objective(problem.init[:, None])[:, 0]).all()
    assert not result.actions.requires_grad
    # The cheapest of all the candidates ever seen is the plan.
    seen = torch.cat([recorder.objective(actions) for actions in recorder.calls[:4]], dim=1)
    assert torch.equal(seen.amin(dim=1), result.cost)


@planners
def test_first_guess_is_the_first_candidate(name: str) -> None:
    problem, recorder = record(make_problem())
    plan(make_planner(name, **SMALL[name]), problem)
    assert torch.equal(recorder.calls[0][:, 0], problem.init)


@planners
def test_same_seed_same_plan(name: str) -> None:
    planner = make_planner(name, **SMALL[name])
    first, second = plan(planner, make_problem()), plan(planner, make_problem())
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.trace, second.trace)
    assert not torch.equal(first.actions, plan(planner, make_problem(episodes=range(5, 5 + B))).actions)


@planners
@pytest.mark.parametrize("episodes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_plan_does_not_depend_on_its_batch(name: str, episodes: tuple[int, ...]) -> None:
    planner = make_planner(name, **SMALL[name])
    together = plan(planner, make_problem(episodes=episodes))
    for position, episode in enumerate(episodes):
        alone = plan(planner, make_problem(episodes=[episode]))
        assert torch.equal(alone.actions[0], together.actions[position])
        assert torch.equal(alone.trace[:, 0], together.trace[:, position])


@planners
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_plans_on_cuda(name: str) -> None:
    problem = make_problem(device="cuda")
    result = plan(make_planner(name, **SMALL[name]), problem, Budget(seconds=60.0))
    assert {result.actions.device.type, result.cost.device.type, result.trace.device.type} == {"cuda"}
    torch.testing.assert_close(problem.objective(result.actions[:, None])[:, 0], result.cost)


# --- budgets ------------------------------------------------------------------------------------------------------


def spend(name: str, budget: Budget, iterations: int = 1000) -> tuple[Plan, Recorder, int]:
    """A plan under `budget` of a planner that would not stop, what was spent, and the price of an iteration."""
    problem, recorder = record(make_problem())
    planner = make_planner(name, **SMALL[name] | {"iterations": iterations})
    result = plan(planner, problem, budget, flops_per_rollout=10.0)
    assert result.rollouts == recorder.rollouts
    assert result.flops == 10.0 * recorder.rollouts
    return result, recorder, 2 * S if name == "gradient" else S


@planners
@pytest.mark.parametrize("rollouts", [2 * S, 66, 100])
def test_rollouts_budget(name: str, rollouts: int) -> None:
    _, recorder, price = spend(name, Budget(rollouts=rollouts))
    assert recorder.rollouts == rollouts // price * price


@planners
@pytest.mark.parametrize("flops", [20.0 * S, 660.0, 999.5])
def test_flops_budget(name: str, flops: float) -> None:
    _, recorder, price = spend(name, Budget(flops=flops))
    assert recorder.rollouts == flops // (10 * price) * price


@planners
@pytest.mark.parametrize(("own", "allowed", "expected"), [(9, 3, 3), (2, 3, 2), (2, None, 2)])
def test_iterations_budget(name: str, own: int, allowed: int | None, expected: int) -> None:
    result, recorder, _ = spend(name, Budget(iterations=allowed), iterations=own)
    assert len(recorder.calls) == len(result.trace) == expected


@planners
@pytest.mark.parametrize(("seconds", "expected"), [(1, 1), (25.0, 3), (30.0, 3)])
def test_seconds_budget(name: str, seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration of ten seconds starts before the deadline only, but the first always does."""
    now = 0.0

    def slow(actions: Tensor) -> Tensor:
        nonlocal now
        now += 10.0
        return quadratic(torch.zeros(B, T, F * A))(actions)

    monkeypatch.setattr(base, "perf_counter", lambda: now)
    planner = make_planner(name, **SMALL[name] | {"iterations": 1000})
    result = plan(planner, make_problem(slow), Budget(seconds=seconds))
    assert len(result.trace) == expected
    assert result.seconds == 10.0 * expected


@planners
def test_first_iteration_is_always_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(base, "perf_counter", lambda: next(clock))
    assert len(plan(make_planner(name, **SMALL[name]), make_problem(), Budget(seconds=0.5)).trace) == 1


@planners
@pytest.mark.parametrize("budget", [Budget(rollouts=S - 1), Budget(flops=10.0 * S - 1)])
def test_budget_below_one_iteration(name: str, budget: Budget) -> None:
    problem, recorder = record(make_problem())
    with pytest.raises(ValueError, match=r"Budget\(.*=10.*is too small.*one iteration of \w+: lower num_samples"):
        plan(make_planner(name, **SMALL[name]), problem, budget, flops_per_rollout=10.0)
    assert not recorder.calls


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": 0}, "Budget: rollouts must be positive, or None for no limit, got 0"),
        ({"seconds": -1.5}, "Budget: seconds must be positive"),
        ({"flops": float("nan")}, "Budget: flops must be positive"),
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
    result = plan(make_planner(name, **SMALL[name]), problem)
    assert result.trace.isfinite().all()
    even = torch.cat([actions[:, ::2] for actions in recorder.calls], dim=1)
    assert torch.equal(quadratic(torch.zeros(B, T, F * A))(even).amin(dim=1), result.cost)


@planners
def test_episode_without_a_finite_cost(name: str) -> None:
    factor = torch.tensor([[1.0], [torch.nan]])
    problem = make_problem(lambda actions: actions.sum(dim=(2, 3)) * factor)
    with pytest.raises(ValueError, match=r"no candidate of episodes \[1\] has a finite cost"):
        plan(make_planner(name, **SMALL[name]), problem)


@planners
def test_objective_of_wrong_shape(name: str) -> None:
    with pytest.raises(ValueError, match=r"objective must return \(B, S\) = \(2, 11\), got \(2, 11, 5\)"):
        plan(make_planner(name, **SMALL[name]), make_problem(lambda actions: actions.sum(dim=3)))


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


@pytest.mark.parametrize(("optimizer", "reference"), [("adam", adam), ("sgd", sgd)])
def test_gradient_takes_the_steps_of_its_optimizer(optimizer: str, reference: Callable[..., Iterator[Tensor]]) -> None:
    target = torch.rand(B, T, F * A, generator=torch.Generator().manual_seed(0))
    problem, recorder = record(make_problem(quadratic(target), bounds=(-0.5, 0.8)))
    plan(Gradient(optimizer=optimizer, lr=0.05, num_samples=S, iterations=4), problem)
    expected = reference(recorder.calls[0], lambda actions: 2 * (actions - target[:, None]), 0.05)
    assert len(recorder.calls) == 4
    for actual in recorder.calls[1:]:
        torch.testing.assert_close(actual, next(expected))


def test_gradient_leaves_the_weights_alone() -> None:
    weight = torch.ones(F * A, requires_grad=True)
    plan(Gradient(num_samples=S, iterations=2), make_problem(lambda actions: (actions * weight).square().sum((2, 3))))
    assert weight.grad is None
    assert torch.equal(weight, torch.ones(F * A))


def test_gradient_needs_a_differentiable_objective() -> None:
    with pytest.raises(ValueError, match="objective has no gradient"):
        plan(Gradient(), make_problem(lambda actions: actions.detach().sum(dim=(2, 3))))


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


def test_noise_of_episodes_is_their_own() -> None:
    noise = sample_noise(make_problem(episodes=[0, 1, 0]), S, 0.7)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


# --- settings -----------------------------------------------------------------------------------------------------


def test_unknown_planner() -> None:
    with pytest.raises(ValueError, match=r"unknown planner 'sem', choose one of \['cem', 'gradient', 'random-shoot"):
        make_planner("sem")


@planners
def test_unknown_setting(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"unknown settings \['samples'\] of planner '{name}', which takes .*num_samp"
    ):
        make_planner(name, samples=3)


@planners
@pytest.mark.parametrize("settings", [{"num_samples": 8.0}, {"iterations": "3"}, {"noise_correlation": True}])
def test_setting_of_wrong_type(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=rf"{next(iter(settings))} must be (int|float), got"):
        make_planner(name, **settings)


@planners
@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"iterations": 0}, {"noise_correlation": 1}])
def test_setting_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} must be (at least|in) .*, got [01]"):
        make_planner(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cem", {"num_samples": 8, "num_elites": 9}, "CEM: num_elites must be 1 to num_samples = 8, got 9"),
        ("cem", {"momentum": 1.0}, r"CEM: momentum must be in \[0, 1\), got 1.0"),
        ("cem", {"min_std": -0.1}, "CEM: min_std must be at least 0, got -0.1"),
        ("gradient", {"lr": 0.0}, r"Gradient: lr must be positive, got 0.0"),
        ("gradient", {"optimizer": "lbfgs"}, r"optimizer must be one of \['adam', 'sgd'\], got 'lbfgs'"),
    ],
)
def test_own_setting_out_of_range(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_planner(name, **settings)

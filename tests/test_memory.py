"""Chunks that follow from the memory there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lwm_agent import Agent, memory
from lwm_agent.device import ENOUGH_ROLLOUTS, free_memory
from lwm_agent.imagination import Imagination
from lwm_agent.memory import LiveBytes, bytes_per_rollout, rollouts_at_once
from lwm_agent.planners import make_cost, make_planner

from .test_agent import CONTINUOUS, SMALL, checkpoint, observations

CPU = torch.device("cpu")
COSTS = ["best-step", "temporal-distance", "best-step+actor-deviation"]


def imagination(cost: str, max_rollouts: int, episodes: int = 3) -> Imagination:
    ready = checkpoint()
    belief = ready.model.encode(torch.randn(episodes, 3, 32, 32))
    deadline = torch.full((episodes,), torch.inf)
    return Imagination(
        ready.model, belief, torch.randn(episodes, 8), make_cost(cost), False, max_rollouts, ready.heads, deadline
    )


def peak_of_gradient(ready: Imagination, candidates: int, horizon: int = 4) -> tuple[int, torch.Tensor]:
    """Bytes alive at once, at most, and the gradient."""
    actions = torch.randn(
        len(ready.goal), candidates, horizon, 10, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    with LiveBytes() as live:
        (gradient,) = torch.autograd.grad(ready.objective(actions).sum(), actions)
    return live.peak, gradient


def test_live_bytes_count_what_is_alive_once() -> None:
    with LiveBytes() as live:
        kept = torch.ones(1000)
        view = kept.view(10, 100)[2:]  # of the same storage
        assert (live.now, live.peak) == (4000, 4000)
        lost = view + 1
        assert live.now == 4000 + 3200
        del lost
    assert (live.now, live.peak) == (4000, 7200)


@pytest.mark.parametrize("cost", COSTS)
def test_what_a_rollout_takes_foretells_what_many_take(cost: str) -> None:
    each = bytes_per_rollout(checkpoint(), make_cost(cost), horizon=4)
    fewer, more = (peak_of_gradient(imagination(cost, 10_000), candidates)[0] for candidates in (20, 120))
    assert (more - fewer) / (3 * 100) == pytest.approx(each, rel=0.3)  # its episodes remember less


@pytest.mark.parametrize("cost", COSTS)
def test_chunks_bound_the_memory_of_gradients_and_change_nothing(cost: str) -> None:
    torch.manual_seed(0)
    whole = imagination(cost, max_rollouts=10_000)
    chunked = Imagination(**{**vars(whole), "max_rollouts": 16})
    (most, wanted), (least, found) = (peak_of_gradient(made, candidates=128) for made in (whole, chunked))
    assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-6)
    assert wanted.abs().max() > 0
    assert least < most / 4


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_scarce_memory_makes_chunks_smaller(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, cost, sizes = checkpoint(), make_cost("best-step"), []
    each = bytes_per_rollout(ready, cost, horizon=4)
    for free in (None, 10**15, 2 * 100 * each, 2 * each, 0):
        monkeypatch.setattr(memory, "free_memory", lambda _, free=free: free)
        sizes.append(rollouts_at_once(ready, cost, 4, torch.device(device)))
    most = ENOUGH_ROLLOUTS[device]
    assert sizes == [most, most, 64, 1, 1]


def test_a_longer_horizon_takes_more() -> None:
    short, long = (bytes_per_rollout(checkpoint(), make_cost("best-step"), horizon) for horizon in (2, 6))
    assert long > 2 * short


@pytest.mark.parametrize("planner", CONTINUOUS)
def test_an_agent_plans_the_same_where_memory_is_scarce(planner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> tuple[int, Any]:
        agent = Agent(checkpoint(), make_planner(planner, **SMALL[planner]), device="cpu", bf16=False, num_proposals=4)
        return agent.max_rollouts, agent.predict(observations(3))[0]

    plenty, wanted = act()
    monkeypatch.setattr(memory, "free_memory", lambda _: 0)
    scarce, found = act()
    assert (plenty, scarce) == (2048, 1)
    assert np.allclose(wanted, found, atol=1e-4)


def test_free_memory_is_told() -> None:
    assert 2**20 < (free_memory(CPU) or 0) < 2**50
    assert free_memory(torch.device("mps")) is None


@pytest.mark.cuda
def test_free_memory_of_cuda_shrinks_by_what_is_allocated() -> None:
    device = torch.device("cuda")
    before = free_memory(device)
    kept = torch.empty(2**28, dtype=torch.uint8, device=device)
    after = free_memory(device)
    assert before is not None
    assert after is not None
    assert before - after == pytest.approx(kept.nbytes, rel=0.1)

"""Chunks that follow from the memory there is."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lwm_agent import Agent
from lwm_agent.agent import capacity
from lwm_agent.agent.capacity import bytes_per_rollout, max_parallel_rollouts
from lwm_agent.agent.objective import ModelObjective
from lwm_agent.compute.device import ENOUGH_ROLLOUTS, can_compile, free_memory
from lwm_agent.compute.int8 import exact_products
from lwm_agent.compute.memory import container_memory
from lwm_agent.models import PREDICTORS
from lwm_agent.planners import PLANNERS, make_cost, make_planner

from .test_agent import CONTINUOUS, SMALL, checkpoint, observations

CPU = torch.device("cpu")
COSTS = ["best-step", "temporal-distance", "best-step+actor-deviation"]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside it: those alive now, and the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for storage in [leaf.untyped_storage() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]:
            if storage not in self._seen:
                self._seen.add(storage)
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return made

    def _change(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def imagination(
    cost: str, max_rollouts: int, predictor: str = "transformer", episodes: int = 3, bf16: bool = False
) -> ModelObjective:
    ready = checkpoint(predictor)
    belief = ready.model.begin(torch.randn(episodes, 3, 32, 32))
    deadline = torch.full((episodes,), torch.inf)
    return ModelObjective(
        ready.model, belief, torch.randn(episodes, 8), make_cost(cost), bf16, max_rollouts, ready.heads, deadline
    )


def peak_of_gradient(ready: ModelObjective, candidates: int, horizon: int = 4) -> tuple[int, torch.Tensor]:
    """Bytes alive at once, at most, and the gradient."""
    actions = torch.randn(
        len(ready.goal), candidates, horizon, 10, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    with LiveBytes() as live:
        (gradient,) = torch.autograd.grad(ready(actions).sum(), actions)
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


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("cost", COSTS)
def test_a_rollout_takes_no_more_than_foretold_and_not_much_less(cost: str, predictor: str) -> None:
    foretold = bytes_per_rollout(checkpoint(predictor), make_cost(cost), horizon=4)
    fewer, more = (peak_of_gradient(imagination(cost, 10_000, predictor), count)[0] for count in (20, 120))
    assert 0.4 * foretold < (more - fewer) / (3 * 100) < foretold


@pytest.mark.parametrize("cost", COSTS)
def test_chunks_bound_the_memory_of_gradients_and_change_nothing(cost: str) -> None:
    torch.manual_seed(0)
    whole = imagination(cost, max_rollouts=10_000)
    chunked = ModelObjective(**{**vars(whole), "max_rollouts": 16})
    (most, wanted), (least, found) = (peak_of_gradient(made, candidates=128) for made in (whole, chunked))
    assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-6)
    assert wanted.abs().max() > 0
    assert least < most / 4


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_scarce_memory_makes_chunks_smaller(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, cost, sizes = checkpoint(), make_cost("best-step"), []
    each = bytes_per_rollout(ready, cost, horizon=4)
    for free in (10**15, 2 * 100 * each, 2 * each, 0):
        monkeypatch.setattr(capacity, "free_memory", lambda _, free=free: free)
        sizes.append(max_parallel_rollouts(ready, cost, 4, torch.device(device)))
    most = ENOUGH_ROLLOUTS[device]
    assert sizes == [most, 64, 1, 1]


def test_a_longer_horizon_takes_more() -> None:
    short, long = (bytes_per_rollout(checkpoint(), make_cost("best-step"), horizon) for horizon in (2, 6))
    assert long > 2 * short


VARIANTS = [
    pytest.param({}, id="float32"),
    pytest.param(
        {"int8": True}, id="int8", marks=pytest.mark.skipif(not exact_products(), reason="no exact 8-bit products")
    ),
]


def decide(planner: str, predictor: str = "transformer", **settings: Any) -> tuple[int, Any]:
    settings = {"device": "cpu", "bf16": False, "num_proposals": 4, **settings}
    agent = Agent(checkpoint(predictor), make_planner(planner, **SMALL[planner]), **settings)
    return agent.max_rollouts, agent.predict(observations(3))[0]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("planner", [name for name in CONTINUOUS if not PLANNERS[name].reactive])
def test_an_agent_plans_the_same_where_memory_is_scarce(
    planner: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty, wanted = decide(planner, **settings)
    monkeypatch.setattr(capacity, "free_memory", lambda _: 0)
    scarce, found = decide(planner, **settings)
    assert (plenty, scarce) == (2048, 1)
    assert np.allclose(wanted, found, atol=1e-4)


@pytest.mark.skipif(not can_compile(CPU), reason="no C++ compiler or no Python headers")
@pytest.mark.parametrize("planner", ["gradient", "grasp"])
def test_compiled_gradients_go_in_chunks_too(planner: str) -> None:
    _, wanted = decide(planner, "mlp", proposal="none")  # compiled in less time than a transformer
    _, found = decide(planner, "mlp", proposal="none", compile=True, max_rollouts=3)
    assert np.allclose(wanted, found, atol=1e-4)


@pytest.mark.parametrize("max_rollouts", [10_000, 5])
@pytest.mark.parametrize("planner", ["gradient", "sgd", "cem"])
@pytest.mark.parametrize(("predictor", "shared"), [("mlp", 0.0), ("transformer", 0.2)])
def test_chunks_spend_the_flops_that_are_charged(
    predictor: str, shared: float, planner: str, max_rollouts: int
) -> None:
    """A transformer computes the frames before the present beside: for all candidates of a chunk at once."""
    made = make_planner(planner, **SMALL[planner])
    ready = checkpoint(predictor)
    agent = Agent(ready, made, device="cpu", bf16=False, proposal="none", max_rollouts=max_rollouts)
    seen = observations(1)
    with FlopCounterMode(display=False) as looking:
        agent.observer.begin(np.concatenate([seen["pixels"], seen["goal"]]))
    with FlopCounterMode(display=False) as counter:
        _, state = agent.predict(seen)
    (decision,) = state.decisions
    assert decision is not None
    spent = counter.get_total_flops() - looking.get_total_flops()
    # A gradient is charged as a second rollout, which is more than the backward pass takes.
    least = 0.98 if planner == "cem" else 0.85
    assert least * decision.flops < spent < (1.06 + shared) * decision.flops  # drawing correlated noise takes 5 %


def test_an_agent_is_made_in_inference_mode() -> None:
    with torch.inference_mode():
        _, found = decide("guided")
    assert np.array_equal(found, decide("guided")[1])


def test_proposals_go_in_chunks() -> None:
    peaks = []
    for limit in (10_000, 32):
        agent = Agent(checkpoint(), "actor", device="cpu", bf16=False, num_proposals=512, max_rollouts=limit)
        seen = observations(6)
        with LiveBytes() as live:
            agent.predict(seen)
        peaks.append(live.peak)
    assert peaks[1] < peaks[0] / 2


def test_chunks_change_no_more_than_roundings_of_bfloat16() -> None:
    torch.manual_seed(0)
    whole = imagination("best-step", max_rollouts=10_000, bf16=True)
    chunked = ModelObjective(**{**vars(whole), "max_rollouts": 5})
    actions = torch.randn(3, 40, 4, 10)
    wanted, found = whole(actions), chunked(actions)
    assert torch.allclose(wanted, found, rtol=0.02)
    assert wanted.std() > 0.1 * wanted.mean()


def test_a_model_without_gradients_is_planned_with() -> None:
    ready = checkpoint()
    rollout = ready.model.rollout
    ready.model.rollout = torch.no_grad()(rollout)  # type: ignore[method-assign]
    agent = Agent(ready, make_planner("cem", **SMALL["cem"]), device="cpu", bf16=False)
    assert np.isfinite(agent.predict(observations(1))[0]).all()
    with pytest.raises(ValueError, match="has no gradient"):
        Agent(ready, make_planner("gradient", **SMALL["gradient"]), device="cpu").predict(observations(1))


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_free_memory_is_told(device: str) -> None:
    assert 2**20 < free_memory(torch.device(device)) < 2**50


def test_memory_of_a_container(tmp_path: Path) -> None:
    assert container_memory(tmp_path) is None  # no control group
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    for limit, left in {"max": None, "1000": 450, "400": 0}.items():
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert container_memory(tmp_path) == left


@pytest.mark.cuda
def test_free_memory_of_cuda_shrinks_by_what_is_allocated() -> None:
    device = torch.device("cuda")
    before = free_memory(device)
    kept = torch.empty(2**28, dtype=torch.uint8, device=device)
    after = free_memory(device)
    assert before - after == pytest.approx(kept.nbytes, rel=0.1)

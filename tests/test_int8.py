"""Linear maps in 8-bit integers."""

from __future__ import annotations

import copy

import gymnasium as gym
import pytest
import torch
from torch import nn

from lwm_agent import Agent
from lwm_agent.device import can_compile
from lwm_agent.int8 import Int8Linear, to_int8
from lwm_agent.models.layers import linear_weights


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(70, 5).requires_grad_(False)


@pytest.mark.parametrize("shape", [(1,), (9,), (2, 3), (2, 1, 4)])
def test_it_is_nearly_what_floats_are(linear: nn.Linear, shape: tuple[int, ...]) -> None:
    rows = torch.randn(*shape, 70) * torch.logspace(-3, 3, shape[-1])[:, None]  # each row has its own scale
    exact, found = linear(rows), Int8Linear(linear)(rows)
    assert found.shape == (*shape, 5)
    assert found.dtype == torch.float32
    assert ((found - exact).norm(dim=-1) < 0.003 * rows.norm(dim=-1) * linear.weight.norm()).all()
    assert not torch.equal(found, exact)


def test_a_row_does_not_depend_on_its_batch(linear: nn.Linear) -> None:
    rounded, rows = Int8Linear(linear), torch.randn(6, 70)
    rows[2] *= 1000
    assert torch.equal(rounded(rows)[4:5], rounded(rows[4:5]))


def test_zeros_and_no_bias() -> None:
    assert torch.equal(Int8Linear(nn.Linear(64, 3, bias=False))(torch.zeros(2, 64)), torch.zeros(2, 3))


def test_gradients_are_those_of_floats(linear: nn.Linear) -> None:
    rows, gradients = torch.randn(3, 70), []
    for network in (linear, Int8Linear(linear)):
        given = rows.clone().requires_grad_()
        network(given).square().sum().backward()
        gradients.append(given.grad)
    assert torch.equal(*gradients)  # type: ignore[arg-type]


def test_only_large_maps_are_replaced() -> None:
    network = nn.Sequential(nn.Linear(10, 80), nn.GELU(), nn.Sequential(nn.Linear(80, 4)))
    flops = linear_weights(network)
    to_int8(network)
    assert [type(part) for part in network.modules() if isinstance(part, nn.Linear)] == [nn.Linear, Int8Linear]
    assert linear_weights(network) == flops


@pytest.mark.parametrize("env", ["pusht", "cube"])
@torch.no_grad()
def test_the_shipped_models_rank_plans_as_with_floats(env: str) -> None:
    exact, rounded = (Agent.load(f"{env}-tiny", "cem", device="cpu", bf16=False, int8=int8) for int8 in (False, True))
    assert rounded.settings()["int8"]
    pixels, goal = (torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8).numpy() for _ in range(2))
    belief, goal_latent = exact.encode(pixels), exact.encode(goal).latent
    blocks = torch.randn(2, 150, 5, 5 * exact.normalizer.action_size)
    ranks = []
    for agent in (exact, rounded):
        costs = agent.model.distance(agent.model.rollout(belief, blocks), goal_latent).amin(-1)
        ranks.append(costs.argsort(-1).argsort(-1).float())
    for place in range(2):
        assert torch.corrcoef(torch.stack([rank[place] for rank in ranks]))[0, 1] >= 0.99  # Spearman


@pytest.mark.parametrize("planner", ["guided", "gradient", "grasp", "lbfgs"])
def test_every_kind_of_planner_plans_with_it(planner: str) -> None:
    """Those that follow gradients too."""
    agent = Agent.load("pusht-tiny", planner, device="cpu", int8=True, num_proposals=2)
    with gym.make("lwm/PushT-v0") as env:
        observation, _ = env.reset(seed=0)
        action, state = agent.predict(observation)
        assert env.action_space.contains(action)
    decision = state.decisions[0]
    assert decision is not None
    assert decision.trace[-1] < decision.trace[0]


def test_weights_of_the_checkpoint_stay_as_they_are() -> None:
    agent = Agent.load("pusht-tiny", "cem", device="cpu", int8=True)
    before = copy.deepcopy(agent.checkpoint.model.state_dict())
    assert not any(isinstance(part, Int8Linear) for part in agent.checkpoint.model.modules())
    assert any(isinstance(part, Int8Linear) for part in agent.model.modules())
    assert all(torch.equal(before[name], weight) for name, weight in agent.model.state_dict().items())


def test_it_is_for_cpus_without_bfloat16() -> None:
    assert not Agent.load("pusht-tiny", device="cpu", int8=True).bf16
    with pytest.raises(ValueError, match="int8=True is for CPUs, without bf16: device='cpu', bf16=True"):
        Agent.load("pusht-tiny", device="cpu", int8=True, bf16=True)


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler, or no Python headers")
@torch.no_grad()
def test_compiled_it_imagines_the_same() -> None:
    agents = [Agent.load("pusht-tiny", "cem", device="cpu", int8=True, compile=compiled) for compiled in (False, True)]
    belief = agents[0].encode(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8).numpy())
    plain, compiled = (agent.model.rollout(belief, torch.ones(1, 4, 3, 10)) for agent in agents)
    assert (plain - compiled).abs().mean() < 0.01 * plain.abs().mean()

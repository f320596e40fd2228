"""Linear maps in 8-bit integers."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from lwm_agent import Agent
from lwm_agent.compute.device import can_compile
from lwm_agent.compute.int8 import Int8Linear, exact_products, to_int8
from lwm_agent.envs import ENVS
from lwm_agent.models.layers import JointLinear, linear_weights

pytestmark = pytest.mark.skipif(not exact_products(), reason="a CPU without VNNI")


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


def test_parts_are_those_of_the_whole(linear: nn.Linear) -> None:
    rows = torch.randn(2, 3, 70)
    for bias in (linear.bias, None):
        linear.bias = bias
        joint = JointLinear(70, 5, bias=bias is not None).requires_grad_(False)
        joint.load_state_dict(linear.state_dict())
        for network in (joint, Int8Linear(linear)):
            for outputs in (slice(2), slice(1, 4), slice(3, None)):
                torch.testing.assert_close(network.part(rows, outputs), network(rows)[..., outputs])


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


def test_it_can_be_copied_with_weights_that_still_learn() -> None:
    network = nn.Sequential(nn.Linear(64, 3))
    to_int8(network, None)
    rows = torch.randn(2, 64)
    assert torch.equal(copy.deepcopy(network)(rows), network(rows))


def test_cpus_that_round_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_agent.compute.int8.exact_products", lambda: False)
    with pytest.raises(ValueError, match="int8=True needs a CPU with VNNI"):
        Agent.load("pusht-tiny", device="cpu", int8=True)


def test_only_large_maps_are_replaced() -> None:
    network = nn.Sequential(nn.Linear(10, 80), nn.GELU(), nn.Sequential(nn.Linear(80, 4)))
    network.qkv = JointLinear(80, 6)
    flops = linear_weights(network)
    to_int8(network)
    kinds = [type(part) for part in network.modules() if isinstance(part, nn.Linear)]
    assert kinds == [nn.Linear, Int8Linear, Int8Linear]
    assert linear_weights(network) == flops


@pytest.mark.parametrize("env", ["pusht", pytest.param("cube", marks=pytest.mark.ogbench)])
def test_the_shipped_agents_rank_plans_as_with_floats(env: str) -> None:
    """By the costs that their checkpoints recommend; the cube's asks the heads too."""
    agents = [Agent.load(f"{env}-tiny", "cem", device="cpu", bf16=False, int8=int8) for int8 in (False, True)]
    assert [agent.settings()["int8"] for agent in agents] == [False, True]
    correlations = []
    with gym.make(ENVS[env].env_id) as simulator:
        for seed in range(4):
            observation, _ = simulator.reset(seed=seed)
            torch.manual_seed(seed)
            blocks = torch.randn(1, 150, 5, 5 * agents[0].checkpoint.normalizer.action_size)
            costs = np.stack([rate(agent, observation, blocks) for agent in agents])
            correlations.append(np.corrcoef(costs.argsort(-1).argsort(-1))[0, 1])  # Spearman
    assert np.mean(correlations) >= 0.99


@torch.no_grad()
def rate(agent: Agent, observation: dict[str, np.ndarray], blocks: torch.Tensor) -> np.ndarray:
    pixels, goal = (agent.observer.begin(observation[name][None]) for name in ("pixels", "goal"))
    deadline, generators = torch.tensor([10.0]), [torch.Generator().manual_seed(0)]
    problem = agent.replanner.problem(pixels, goal.latent, torch.zeros_like(blocks[:, 0]), deadline, generators)
    return problem.objective(blocks)[0].numpy()


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
@pytest.mark.parametrize("env", ["pusht", "cube"])
def test_compiled_it_imagines_the_same(env: str) -> None:
    agents = [Agent.load(f"{env}-tiny", "cem", device="cpu", int8=True, compile=compiled) for compiled in (False, True)]
    belief = agents[0].observer.begin(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8).numpy())
    blocks = torch.ones(1, 4, 3, 5 * agents[0].model.action_size)
    plain, compiled = (agent.model.rollout(belief, blocks) for agent in agents)
    assert (plain - compiled).abs().mean() < 0.01 * plain.abs().mean()

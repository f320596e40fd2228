"""Numbers that the shipped checkpoints must go on computing: a change of model, heads, cost or units shows here.

The inputs lie in ``tests/golden/NAME.npz``: frames and goals of two tasks as the real environments drew them, a block
of actions that was executed between two frames, and eight plans for each task. The expected numbers lie in
``tests/golden/NAME.json``; commit ead1017 (version 0.1) computed them in float32 on a CPU. To record both anew, because
a checkpoint was replaced on purpose::

    python -c "import test_golden; test_golden.record('pusht-tiny')"  # in tests/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.planners import make_cost
from lwm_agent.planners.costs import Futures
from lwm_agent.protocols import Batch, Belief

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINTS = ("cube-tiny", "pusht-tiny")
EPISODES, PLANS, HORIZON = 2, 8, 5
NUM_LATENTS = 8
"""Numbers of a latent that are compared."""
RELATIVE, ABSOLUTE = 1e-4, 2e-5
"""Tolerance of the float32 results: other instruction sets and orders of summation take less than a tenth of it."""

Arrays = Mapping[str, NDArray[np.generic]]


class Subject:
    """The interfaces of the package that this test calls: the only part that depends on their names."""

    def __init__(self, name: str) -> None:
        self.agent = Agent(Checkpoint.load(name), "cem", device="cpu", bf16=False)
        self.checkpoint = self.agent.checkpoint
        self.model, self.heads = self.agent.checkpoint.model, self.agent.checkpoint.heads

    def begin(self, frames: NDArray[np.uint8]) -> Belief:
        """Belief of episodes that begin with `frames` ``(B, h, w, C)``."""
        return self.model.begin(self.checkpoint.normalizer.pixels(frames))

    def observe(self, belief: Belief, block: Tensor, frames: NDArray[np.uint8]) -> Belief:
        """`belief` after the executed `block` ``(B, F*A)`` and the `frames` ``(B, h, w, C)`` that it led to."""
        return self.model.observe(belief, block, self.checkpoint.normalizer.pixels(frames))

    def recommended_cost(self, belief: Belief, goal: Tensor, plans: Tensor) -> Tensor:
        """Costs ``(B, S)`` that the agent asks its planner to minimise, ten blocks before the deadline."""
        deadline = torch.full((len(goal),), 10.0)
        generators = [torch.Generator() for _ in goal]
        return self.agent.replanner.problem(
            belief, goal, torch.zeros_like(plans[:, 0]), deadline, generators
        ).objective(plans)


@torch.no_grad()
def measure(name: str, inputs: Arrays) -> dict[str, NDArray[np.float64]]:
    """The numbers that are compared, for the `inputs` of a golden file."""
    subject = Subject(name)
    model, heads, normalizer = subject.model, subject.heads, subject.checkpoint.normalizer
    assert heads is not None
    block = normalizer.blocks(inputs["env_actions"])  # type: ignore[arg-type]
    plans = torch.from_numpy(inputs["plans"])
    goal = subject.begin(inputs["goals"]).latent  # type: ignore[arg-type]
    first = subject.begin(inputs["frames"][:, 0])  # type: ignore[arg-type]
    second = subject.observe(first, block, inputs["frames"][:, 1])  # type: ignore[arg-type]
    results = {"latent": first.latent[:, :NUM_LATENTS], "goal": goal[:, :NUM_LATENTS]}
    for remembered, belief in (("one frame", first), ("two frames", second)):
        futures = model.rollout(belief, plans)
        results[f"future from {remembered}"] = futures[:, 0, -1, :NUM_LATENTS]
        results[f"log steps from {remembered}"] = heads.log_steps(futures, goal)[:, :, -1]
        for cost in ("terminal", "best-step", "running"):
            distances = model.distance(futures, goal)
            results[f"{cost} from {remembered}"] = make_cost(cost)(Futures(distances, plans))
        results[f"recommended cost from {remembered}"] = subject.recommended_cost(belief, goal, plans)
    steps = torch.tensor([3, 8])
    results["actor mean"], results["actor deviation"] = heads.actor(second.latent, goal, steps)
    results["steps to go"] = heads.steps_to_go(second.latent, goal)
    clips = Batch(normalizer.pixels(inputs["frames"]), block[:, None])  # type: ignore[arg-type]
    losses = model.loss(clips, torch.Generator().manual_seed(0))
    results["losses"] = torch.stack([losses[kind] for kind in ("prediction", "rollout", "inverse")])
    results["env actions"] = torch.from_numpy(normalizer.env_actions(plans[:, 0, 0]))
    return {kind: tensor.double().numpy() for kind, tensor in results.items()}


def draw_inputs(name: str) -> Arrays:
    """Frames of two tasks from the real environment, and plans that are random walks inside the bounds."""
    agent = Agent.load(name, device="cpu")
    env_name = agent.checkpoint.env
    tasks = Path(__file__).parent.parent / "eval" / "tasks" / f"{env_name}-strict-test-25.json"
    content = json.loads(tasks.read_text("utf-8"))
    frames, goals, env_actions = [], [], []
    with gym.make(content["env_id"], **agent.checkpoint.env_kwargs) as env:
        for task in content["tasks"][:EPISODES]:
            observation, _ = env.reset(options={key: task[key] for key in ("state", "goal_state")})
            executed = np.array(task["env_actions"][: agent.model.frameskip], np.float32)
            pixels = [observation["pixels"]]
            for action in executed:
                observation = env.step(action)[0]
            frames.append([*pixels, observation["pixels"]])
            goals.append(observation["goal"])
            env_actions.append(executed)
    low, high = (bound.numpy() for bound in agent.checkpoint.normalizer.bounds(agent.model.frameskip))
    noise = np.random.RandomState(0).standard_normal((EPISODES, PLANS, HORIZON, len(low)))
    plans = np.clip(0.6 * np.cumsum(noise, axis=2), low, high).astype(np.float32)
    return {
        "frames": np.array(frames),
        "goals": np.array(goals),
        "env_actions": np.array(env_actions),
        "plans": plans,
    }


def record(name: str) -> None:
    """Writes both golden files of the checkpoint called `name`."""
    inputs = draw_inputs(name)
    np.savez_compressed(GOLDEN / f"{name}.npz", **inputs)  # type: ignore[arg-type]
    lines = [
        f"{json.dumps(kind)}: {json.dumps(np.vectorize(lambda x: float(f'{x:.8g}'))(values).tolist())}"
        for kind, values in measure(name, inputs).items()
    ]
    (GOLDEN / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_golden(name: str) -> tuple[Arrays, dict[str, NDArray[np.float64]]]:
    """Inputs and expected numbers of the checkpoint called `name`."""
    expected = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    with np.load(GOLDEN / f"{name}.npz") as inputs:
        return dict(inputs), {kind: np.array(values) for kind, values in expected.items()}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_shipped_checkpoint_computes_the_recorded_numbers(name: str) -> None:
    inputs, expected = read_golden(name)
    computed = measure(name, inputs)
    assert computed.keys() == expected.keys()
    for kind, values in expected.items():
        np.testing.assert_allclose(computed[kind], values, RELATIVE, ABSOLUTE, err_msg=f"{name}: {kind}")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_recorded_costs_tell_plans_apart(name: str) -> None:
    """Numbers that hardly vary would match those of a wrong model, too."""
    inputs, expected = read_golden(name)
    assert inputs["plans"].shape[:3] == (EPISODES, PLANS, HORIZON)
    for kind, values in expected.items():
        if "from" in kind:
            assert (values.std(axis=-1) > 200 * (RELATIVE * np.abs(values).mean(axis=-1) + ABSOLUTE)).all(), kind

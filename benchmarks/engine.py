"""How fast plans are made, against a straightforward rollout; prints JSON: python benchmarks/engine.py.

All contestants have the same weights and take turns in one run; medians are told. `base` is one iteration of the
paper's CEM, 300 candidates over 5 blocks, with random weights and without the encoder; a plan of 30 iterations is told
by multiplication. `pusht-tiny` and `cube-tiny` are whole decisions of `guided` with the checkpoints of the package, for
one episode, encoder and actor included. Where stable-worldmodel is installed, its LeWM and its CEMSolver compete in
`base` too; where there is a compiler, compiled rollouts of what may win. On a busy machine, the ratios tell more than
the times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from lwm_agent import Agent
from lwm_agent.agent.objective import Imagination
from lwm_agent.checkpoint import Checkpoint, available
from lwm_agent.compute.device import (
    ENOUGH_ROLLOUTS,
    arrange_weights,
    can_compile,
    compile_methods,
    fast_bf16,
    keep_freed_memory,
    resolve_device,
    synchronize,
)
from lwm_agent.compute.int8 import exact_products, to_int8
from lwm_agent.eval.provenance import machine
from lwm_agent.models import PRESETS, LeWorldModel
from lwm_agent.planners import CEM, make_cost, plan
from lwm_agent.protocols import Belief, Problem

DECISIONS = 40
SAMPLES, ELITES, ITERATIONS, HORIZON = 300, 30, 30, 5
ACTION_SIZE, FRAMESKIP = 2, 5
BLOCK = FRAMESKIP * ACTION_SIZE
TOLERANCE = 1e-4
DEVICE = resolve_device("auto")
ROUNDS_BY_EPISODES = {1: 7, 16: 3} if DEVICE.type == "cpu" else {1: 7, 16: 7, 64: 7}
PEER = "stable-worldmodel"


class Naive(LeWorldModel):
    """Imagines as one would write it down: each step runs the whole window of every candidate through the predictor."""

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, D)`` after each block of `actions` ``(B, S, T, F*A)``."""
        latents, past = (part.repeat_interleave(actions.shape[1], dim=0) for part in belief)
        frames, blocks = list(latents.unbind(1)), torch.cat([past, actions.flatten(0, 1)], dim=1)
        for end in range(latents.shape[1], blocks.shape[1] + 1):
            window = slice(max(0, end - self.history), end)
            frames.append(self.predictor(torch.stack(frames[window], dim=1), blocks[:, window])[:, -1])
        return torch.stack(frames[latents.shape[1] :], dim=1).unflatten(0, actions.shape[:2])

    def advance(self, belief: Belief, action: Tensor) -> Belief:
        """Belief after imagining the block `action` ``(B, F*A)``."""
        return self._remember(belief, action, self.rollout(belief, action[:, None, None])[:, 0, 0].float())


class Contestant(NamedTuple):
    """A world model, whether to compute in bfloat16 or 8-bit integers, and whether to compile its rollouts."""

    model: LeWorldModel
    bf16: bool = False
    int8: bool = False
    compile: bool = False

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return not (self.bf16 or self.int8)

    def ready(self) -> LeWorldModel:
        """The model as an agent would use it."""
        model = arrange_weights(self.model, DEVICE, self.bf16)
        if self.int8:
            to_int8(model.predictor)
        if self.compile:
            compile_methods(DEVICE, (model, "rollout"))
        return model


def contestants(ours: LeWorldModel, settings: dict[str, Any]) -> dict[str, Contestant]:
    """World models with the weights of `ours`, which was made with `settings`."""
    naive = Naive(**settings)
    naive.load_state_dict(ours.state_dict())
    ours, naive = (model.to(DEVICE).eval().requires_grad_(False) for model in (ours, naive))
    found = {
        "naive fp32": Contestant(naive),
        "ours fp32": Contestant(ours),
        "ours bf16": Contestant(ours, bf16=True),
    }
    if DEVICE.type == "cpu" and exact_products():
        found["ours int8"] = Contestant(ours, int8=True)
    if can_compile(DEVICE):
        # Compiling takes minutes: it is for what may win.
        fast = {name: one for name, one in found.items() if one.int8 or (one.bf16 and fast_bf16(DEVICE))}
        found |= {f"{name} compiled": one._replace(compile=True) for name, one in fast.items()}
    return found


def take_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, which take turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            synchronize(DEVICE)
            started = perf_counter()
            run()
            synchronize(DEVICE)
            if turn:
                seconds[name].append(perf_counter() - started)
    return seconds


def base(episodes: int, rounds: int) -> dict[str, Any]:
    """One iteration of CEM with the `base` preset, for some episodes at once."""
    torch.manual_seed(0)
    settings = {"action_size": ACTION_SIZE, "frameskip": FRAMESKIP, **PRESETS["base"]}
    ours = LeWorldModel(**settings)
    for block in ours.predictor.blocks:
        nn.init.normal_(block.modulation[1].weight, std=0.1)  # from zero: actions would have no effect
    models = contestants(ours, settings)
    start, goal = torch.randn(2, episodes, ours.predictor.positions.shape[1], device=DEVICE)
    belief = Belief(start[:, None], start.new_zeros(episodes, 0, BLOCK))
    candidates = torch.randn(episodes, SAMPLES, HORIZON, BLOCK, device=DEVICE)
    costs: dict[str, Tensor] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, contestant in models.items():
        rest = make_cost("terminal"), contestant.bf16, ENOUGH_ROLLOUTS[DEVICE.type]
        imagination = Imagination(contestant.ready(), belief, goal, *rest)
        runs[name] = partial(iterate, imagination, episodes)
        with torch.no_grad():
            costs[name] = imagination.objective(candidates)
    if find_spec("stable_worldmodel"):
        from peer import Peer  # beside this file

        peer = Peer(ours.predictor, start, goal, SAMPLES, ELITES, HORIZON, FRAMESKIP, ACTION_SIZE)
        runs[f"{PEER} fp32"], costs[f"{PEER} fp32"] = peer.iterate, peer.costs(candidates)
    reference = costs["naive fp32"]
    for name in [name for name in costs if name not in models or models[name].exact]:
        torch.testing.assert_close(costs[name], reference, atol=TOLERANCE, rtol=TOLERANCE)
    taken = {name: float(np.median(seconds)) for name, seconds in take_turns(runs, rounds).items()}
    return {
        name: {
            "s_an_iteration": round(seconds, 4),
            f"s_a_plan_of_{ITERATIONS}_extrapolated": round(ITERATIONS * seconds, 2),
            "faster_than_naive": round(taken["naive fp32"] / seconds, 2),
            "spearman_of_costs": round(spearman(costs[name], reference), 4),
        }
        for name, seconds in taken.items()
    }


def iterate(imagination: Imagination, episodes: int) -> None:
    """One iteration of the paper's CEM."""
    init = torch.zeros(episodes, HORIZON, BLOCK, device=DEVICE)
    bound = init.new_full((BLOCK,), 3.0)
    generators = [torch.Generator(DEVICE).manual_seed(seed) for seed in range(episodes)]
    problem = Problem(imagination.objective, init, torch.ones_like(init), -bound, bound, generators, ACTION_SIZE)
    plan(CEM(num_samples=SAMPLES, num_elites=ELITES, iterations=1, noise_correlation=0.0, keep_best=False), problem)


def spearman(costs: Tensor, reference: Tensor) -> float:
    """Rank correlation of two sets of costs ``(B, S)``: the smallest over the episodes."""
    ranks = [table.argsort(1).argsort(1).float() for table in (costs, reference)]
    return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(*ranks, strict=True))


def decide(checkpoint_name: str) -> dict[str, Any]:
    """A decision of `guided` with the checkpoint of this name, for one episode with a full history."""
    checkpoint = Checkpoint.load(checkpoint_name)
    models = contestants(checkpoint.model, checkpoint.model_config)  # type: ignore[arg-type]
    image_size = checkpoint.model_config["image_size"]
    rng = np.random.default_rng(0)
    observation = {view: rng.integers(0, 256, (image_size, image_size, 3), np.uint8) for view in ("pixels", "goal")}
    runs, costs = {}, {}
    for name, contestant in models.items():
        precision = {"bf16": contestant.bf16, "int8": contestant.int8, "compile": contestant.compile}
        agent = Agent(replace(checkpoint, model=contestant.model), "guided", device=DEVICE.type, **precision)
        state = None
        for _ in range(FRAMESKIP):  # the first block; the next call sees a second frame, and plans again
            _, state = agent.predict(observation, state)
        runs[name] = partial(agent.predict, observation, state)
        (decision,) = runs[name]()[1].decisions
        costs[name] = decision.cost
    assert math.isclose(costs["ours fp32"], costs["naive fp32"], rel_tol=TOLERANCE, abs_tol=TOLERANCE), costs
    taken = take_turns(runs, DECISIONS)
    return {
        name: {
            "p50_ms": round(1000 * float(np.percentile(seconds, 50)), 1),
            "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 1),
            "faster_than_naive": round(float(np.median(taken["naive fp32"]) / np.median(seconds)), 2),
        }
        for name, seconds in taken.items()
    }


def main() -> None:
    """Measures and prints."""
    if DEVICE.type == "cpu":
        keep_freed_memory()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        **{f"base, {n} at once": partial(base, n, rounds) for n, rounds in ROUNDS_BY_EPISODES.items()},
        **{f"{name}, guided": partial(decide, name) for name in available()},
    }
    console = Console(stderr=True)
    measured = {name: measure() for name, measure in track(parts.items(), "measuring", console=console)}
    peer = version(PEER) if find_spec("stable_worldmodel") else "not installed"
    print(json.dumps({**measured, PEER: peer, "device": DEVICE.type, **machine()}, indent=2))


if __name__ == "__main__":
    main()

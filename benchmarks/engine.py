"""Planning speed against a straightforward rollout; prints JSON: python benchmarks/engine.py.

All contestants have the same weights and take turns in one run; times are medians. `base` is one iteration of the
paper's CEM, 300 candidates over 5 blocks, with random weights and without the encoder; the time of a plan of 30
iterations is a multiple of it. `pusht-tiny` and `cube-tiny` are whole decisions of `guided` with the checkpoints of the
package, for one episode, encoder and actor included. stable-worldmodel's LeWM and CEMSolver compete in `base` too if
they are installed. Compiled rollouts of what may win compete if there is a compiler. On a busy machine, ratios vary
less than times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
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
from lwm_agent.agent.objective import ModelObjective
from lwm_agent.agent.state import AgentState
from lwm_agent.checkpoint import Checkpoint, shipped_checkpoints
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
from lwm_agent.models import MODELS, LeWorldModel, WorldModel
from lwm_agent.models.base import checked
from lwm_agent.models.predictors import Transformer
from lwm_agent.models.window import Window, make_window
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
    """Rolls out straightforwardly: each step runs the whole window of every candidate through the predictor."""

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, D)`` after each block of `actions` ``(B, S, T, F*A)``."""
        return WorldModel.rollout(self, belief, actions)

    def imagine(self, belief: Belief, block: Tensor) -> Window:
        """Belief after one more block, for windows that are of the same length in all rows."""
        window = checked(belief, Window)
        length = int(window.length[0])
        blocks = torch.cat([window.actions, block.unsqueeze(1)], dim=1)
        return window.append(block, self.predictor(window.latents[:, -length:], blocks[:, -length:])[:, -1].float())


class Contestant(NamedTuple):
    """A world model, and how it computes: in bfloat16, in 8-bit integers, compiled."""

    model: LeWorldModel
    bf16: bool = False
    int8: bool = False
    compile: bool = False

    @property
    def exact(self) -> bool:
        """True if it computes in float32."""
        return not (self.bf16 or self.int8)

    def ready(self) -> LeWorldModel:
        """The model as an agent would use it."""
        model = arrange_weights(self.model, DEVICE, self.bf16)
        if self.int8:
            to_int8(*model.planning_parts())
        if self.compile:
            compile_methods(DEVICE, (model, "rollout"))
        return model


def contestants(ours: LeWorldModel, settings: Mapping[str, Any]) -> dict[str, Contestant]:
    """World models with the weights of `ours`, which was made with `settings`."""
    naive = Naive(**settings)
    naive.load_state_dict(ours.state_dict())
    for model in (ours, naive):
        model.to(DEVICE).eval().requires_grad_(False)
    models = {
        "naive fp32": Contestant(naive),
        "ours fp32": Contestant(ours),
        "ours bf16": Contestant(ours, bf16=True),
    }
    if DEVICE.type == "cpu" and exact_products():
        models["ours int8"] = Contestant(ours, int8=True)
    if can_compile(DEVICE):
        # Compiling takes minutes: it is for what may win.
        fast = {name: model for name, model in models.items() if model.int8 or (model.bf16 and fast_bf16(DEVICE))}
        models |= {f"{name} compiled": model._replace(compile=True) for name, model in fast.items()}
    return models


def take_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
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
    settings = {"action_size": ACTION_SIZE, "frameskip": FRAMESKIP, **MODELS["lewm"].presets["base"]}
    ours = LeWorldModel(**settings)
    predictor = ours.predictor
    assert isinstance(predictor, Transformer)
    for name, weights in predictor.named_parameters():
        if name.endswith("modulation.1.weight"):
            nn.init.normal_(weights, std=0.1)  # from zero: actions would have no effect
    models = contestants(ours, settings)
    start, goal = torch.randn(2, episodes, *ours.latent_shape, device=DEVICE)
    belief = make_window(start[:, None], start.new_zeros(episodes, 0, BLOCK), ours.history)
    candidates = torch.randn(episodes, SAMPLES, HORIZON, BLOCK, device=DEVICE)
    costs: dict[str, Tensor] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, contestant in models.items():
        limit = ENOUGH_ROLLOUTS[DEVICE.type]
        objective = ModelObjective(contestant.ready(), belief, goal, make_cost("terminal"), contestant.bf16, limit)
        runs[name] = partial(iterate, objective, episodes)
        with torch.no_grad():
            costs[name] = objective(candidates)
    if find_spec("stable_worldmodel"):
        from peer import Peer  # beside this file

        peer = Peer(predictor, start, goal, SAMPLES, ELITES, HORIZON, FRAMESKIP, ACTION_SIZE)
        runs[f"{PEER} fp32"], costs[f"{PEER} fp32"] = peer.iterate, peer.costs(candidates)
    reference = costs["naive fp32"]
    for name in [name for name in costs if name not in models or models[name].exact]:
        torch.testing.assert_close(costs[name], reference, atol=TOLERANCE, rtol=TOLERANCE)
    medians = {name: float(np.median(seconds)) for name, seconds in take_turns(runs, rounds).items()}
    return {
        name: {
            "s_an_iteration": round(seconds, 4),
            f"s_a_plan_of_{ITERATIONS}_extrapolated": round(ITERATIONS * seconds, 2),
            "faster_than_naive": round(medians["naive fp32"] / seconds, 2),
            "spearman_of_costs": round(spearman(costs[name], reference), 4),
        }
        for name, seconds in medians.items()
    }


def iterate(objective: ModelObjective, episodes: int) -> None:
    """One iteration of the paper's CEM."""
    init = torch.zeros(episodes, HORIZON, BLOCK, device=DEVICE)
    bound = init.new_full((BLOCK,), 3.0)
    generators = [torch.Generator(DEVICE).manual_seed(seed) for seed in range(episodes)]
    problem = Problem(objective, init, torch.ones_like(init), -bound, bound, generators, ACTION_SIZE)
    plan(CEM(num_samples=SAMPLES, num_elites=ELITES, iterations=1, noise_correlation=0.0, keep_best=False), problem)


def spearman(costs: Tensor, reference: Tensor) -> float:
    """Rank correlation of two sets of costs ``(B, S)``: the smallest over the episodes."""
    ranks = [table.argsort(1).argsort(1).float() for table in (costs, reference)]
    return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(*ranks, strict=True))


def decide(checkpoint_name: str) -> dict[str, Any]:
    """A decision of `guided` with the checkpoint of this name, for one episode with a full history."""
    checkpoint = Checkpoint.load(checkpoint_name)
    assert isinstance(checkpoint.model, LeWorldModel)
    models = contestants(checkpoint.model, checkpoint.model_config)
    image_size = checkpoint.model.image_size
    rng = np.random.default_rng(0)
    observation = {view: rng.integers(0, 256, (image_size, image_size, 3), np.uint8) for view in ("pixels", "goal")}
    runs: dict[str, Callable[[], tuple[object, AgentState]]] = {}
    costs = {}
    for name, (model, bf16, int8, compiled) in models.items():
        ready = replace(checkpoint, model=model)
        agent = Agent(ready, "guided", device=DEVICE.type, bf16=bf16, int8=int8, compile=compiled)
        state = None
        for _ in range(FRAMESKIP):  # the first block; the next call sees a second frame, and plans again
            _, state = agent.predict(observation, state)
        runs[name] = partial(agent.predict, observation, state)
        (decision,) = runs[name]()[1].decisions
        assert decision is not None
        costs[name] = decision.cost
    assert math.isclose(costs["ours fp32"], costs["naive fp32"], rel_tol=TOLERANCE, abs_tol=TOLERANCE), costs
    turns = take_turns(runs, DECISIONS)
    return {
        name: {
            "p50_ms": round(1000 * float(np.percentile(seconds, 50)), 1),
            "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 1),
            "faster_than_naive": round(float(np.median(turns["naive fp32"]) / np.median(seconds)), 2),
        }
        for name, seconds in turns.items()
    }


def main() -> None:
    """Measures and prints."""
    if DEVICE.type == "cpu":
        keep_freed_memory()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        **{f"base, {n} at once": partial(base, n, rounds) for n, rounds in ROUNDS_BY_EPISODES.items()},
        **{f"{name}, guided": partial(decide, name) for name in shipped_checkpoints()},
    }
    console = Console(stderr=True)
    measured = {name: measure() for name, measure in track(parts.items(), "measuring", console=console)}
    peer = version(PEER) if find_spec("stable_worldmodel") else "not installed"
    print(json.dumps({**measured, PEER: peer, "device": DEVICE.type, **machine()}, indent=2))


if __name__ == "__main__":
    main()

"""Costs of a model beside its plans, counted and measured."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from ..agent.agent import Agent
from ..compute.device import synchronize
from ..eval.accounting import ModelAccount, training_seconds
from ..models import WorldModel

WARM_UP, REPEATS = 3, 20  # frames before the first that is timed, and frames that are timed


def account_of(agent: Agent) -> ModelAccount:
    """Costs of the agent's model that follow from its checkpoint."""
    checkpoint, model = agent.checkpoint, agent.checkpoint.model
    heads = () if checkpoint.heads is None else checkpoint.heads.parameters()
    rollout_flops = None
    if isinstance(model, WorldModel) and not agent.planner.reactive:
        rollout_flops = model.rollout_flops(agent.schedule.horizon)
    chosen = checkpoint.training.get("recommendation")
    tried = chosen.get("tried") if isinstance(chosen, dict) else None
    return ModelAccount(
        parameters=sum(parameter.numel() for parameter in (*model.parameters(), *heads)),
        tokens=model.tokens,
        encode_flops=model.encode_flops(),
        rollout_flops=rollout_flops,
        training_seconds=training_seconds(checkpoint.training),
        costs_tried=len(tried) if isinstance(tried, dict) else None,
    )


def encoding_ms(agent: Agent) -> float:
    """Median milliseconds of encoding one frame alone, as the agent does it."""
    size = agent.model.image_size
    frames = np.random.default_rng(0).integers(0, 256, (WARM_UP + REPEATS, 1, size, size, 3), np.uint8)
    seconds = []
    for frame in frames:
        synchronize(agent.device)
        started = perf_counter()
        agent.observer.begin(frame)
        synchronize(agent.device)
        seconds.append(perf_counter() - started)
    return float(1000 * np.median(seconds[WARM_UP:]))


def frames_a_decision(agent: Agent) -> float:
    """Frames that the agent encodes for each of its decisions; that of the goal, once an episode, is left out."""
    return max(1.0, agent.schedule.replan_every_env_steps / agent.model.frameskip)

"""Checks of data with a checkpoint: do the latents differ, do things move, are actions on the scale of the training?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...agent.agent import Agent
from ...training.monitors import collapse_monitors, collapse_warning
from .verifier import EncodedClips, root_distances

STILL = 0.1
"""A clip in which nothing moves ends nearer to its start than this share of the distance of two random frames."""


@dataclass(frozen=True)
class DataCheck:
    """What the clips are like.

    Attributes:
        collapse: warning about latents that hardly differ, or None.
        effective_rank: of the latents, from 1 to D (Roy and Vetterli, 2007).
        latent_size: D.
        still: share of the clips in which nothing moves.
        block_move: median distance of two frames that are a block apart, over that of two random frames.
        action_mean: largest mean of an action, in standard deviations of the training data, without its sign.
        action_std: smallest and largest standard deviation of an action, in those of the training data.
        at_bounds: share of the actions at a bound of those that may be planned.
        beyond: share of the actions beyond these bounds.
    """

    collapse: str | None
    effective_rank: float
    latent_size: int
    still: float
    block_move: float
    action_mean: float
    action_std: tuple[float, float]
    at_bounds: float
    beyond: float


@torch.no_grad()
def check_data(agent: Agent, clips: EncodedClips) -> DataCheck:
    """The check of `clips`."""
    model = agent.replanner.model
    latents = torch.cat([clips.start[:, None], clips.latents], dim=1)  # (N, T + 1, *Z)
    summaries = model.summary(latents.flatten(0, 1))
    monitors = collapse_monitors(summaries.cpu())
    others = clips.latents[:, -1].roll(1, dims=0)
    apart = root_distances(agent, clips.latents[:, None, -1], others).median().clamp_min(1e-9)
    ways = root_distances(agent, clips.start[:, None], clips.latents[:, -1])
    first = root_distances(agent, clips.start[:, None], clips.latents[:, 0])
    actions = clips.blocks.flatten(0, 1).unflatten(1, (model.frameskip, -1)).flatten(0, 1)  # (N*T*F, A)
    low, high = (bound[: actions.shape[1]] for bound in agent.checkpoint.normalizer.bounds(1, agent.device))
    return DataCheck(
        collapse=collapse_warning(monitors, summaries.shape[1], num_frames=len(summaries)),
        effective_rank=monitors["effective_rank"],
        latent_size=summaries.shape[1],
        still=_share(ways < STILL * apart),
        block_move=float(first.median() / apart),
        action_mean=float(actions.mean(0).abs().max()),
        action_std=(float(actions.std(0).min()), float(actions.std(0).max())),
        at_bounds=_share((actions <= low + 1e-4) | (actions >= high - 1e-4)),
        beyond=_share((actions < low - 1e-4) | (actions > high + 1e-4)),
    )


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())

"""Verifier tests: does a world model tell what actions do, on recorded clips that it was not trained on?

A search proposes, a world model verifies. These tests need no environment and no search. They are after those of LeWAM
(arXiv 2610.12818) for the released LeWorldModel, whose figures are in `PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...agent.agent import Agent
from ...agent.chunking import in_chunks
from ...compute.device import autocast
from ...data.clips import Clips
from ...eval import wilson
from ...models.base import select
from ...protocols import Belief

DEVIATIONS = (0.25, 0.5, 1.0, 2.0)
"""Distances of wrong actions from the recorded ones, in standard deviations of the data's actions."""

OTHER_CLIP = "another clip"
"""Name of wrong actions that another clip has."""

RIVALS = 31
"""Plans of other clips beside the recorded one."""

PUBLISHED = {"0.25 sd": 0.80, "0.5 sd": 0.91, "1 sd": 0.98, "2 sd": 1.00}
"""Shares of `Verification.told_apart` of the released LeWorldModel on Push-T."""

PUBLISHED_END = (0.14, 0.18)
"""`Verification.end_error` of a repeated training and of the released LeWorldModel on Push-T."""

CHUNK = 256  # frames that are encoded at once


@dataclass(frozen=True)
class Rate:
    """A share of n trials, and its 95 % Wilson interval."""

    share: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        """The share of `outcomes` that are true."""
        count = sum(outcomes)
        return cls(count / len(outcomes), *wilson(count, len(outcomes)), len(outcomes))


@dataclass(frozen=True)
class EncodedClips:
    """N clips of T blocks, seen by a model.

    Attributes:
        belief: of the first frames.
        blocks: normalised, ``(N, T, F*A)``.
        latents: of the frames after each block, ``(N, T, *Z)``.
    """

    belief: Belief
    blocks: Tensor
    latents: Tensor

    @property
    def start(self) -> Tensor:
        """Latents of the first frames, ``(N, *Z)``."""
        return self.belief.latent


@dataclass(frozen=True)
class Verification:
    """Outcome of the verifier tests.

    All distances are roots of the model's own planning distance.

    Attributes:
        told_apart: by how wrong the actions are: how often the next latent is closer to what the model predicts of the
            recorded block than to what it predicts of the wrong one.
        gap: the same wrong actions, for all blocks: median distance between the two imagined ends, over the median
            error of the imagined end of the recorded ones.
        error_by_block: median error of the imagined latent after each of the recorded blocks, over the median distance
            of the clip's end from its start.
        picked: how often the recorded blocks end nearest to the end of the clip, among those of `RIVALS` other clips.
    """

    told_apart: dict[str, Rate]
    gap: dict[str, float]
    error_by_block: tuple[float, ...]
    picked: Rate

    @property
    def end_error(self) -> float:
        """Error after the last block, over the distance at the start."""
        return self.error_by_block[-1]


@torch.no_grad()
def encode_clips(agent: Agent, clips: Clips) -> EncodedClips:
    """The clips as the agent's model sees them."""
    observer, units = agent.observer, agent.checkpoint.normalizer
    belief = observer.begin(clips.pixels[:, 0])
    later = clips.pixels[:, 1:]
    frames = later.reshape(-1, *later.shape[2:])
    parts = np.array_split(frames, max(1, len(frames) // CHUNK))
    latents = torch.cat([observer.begin(part).latent.float() for part in parts])
    return EncodedClips(belief, units.blocks(clips.env_action, agent.device), latents.unflatten(0, later.shape[:2]))


@torch.no_grad()
def verify(agent: Agent, clips: EncodedClips, seed: int) -> Verification:
    """All verifier tests of the agent's model on `clips`."""
    wrong = wrong_blocks(agent, clips.blocks, seed)
    imagined = imagine(agent, clips, torch.stack([clips.blocks, *wrong.values()], dim=1))  # (N, 1 + W, T, *Z)
    right = imagined[:, 0]
    first_errors = root_distances(agent, imagined[:, :, 0], clips.latents[:, 0])  # (N, 1 + W)
    ends = root_distances(agent, imagined[:, 1:, -1], right[:, -1])  # (N, W)
    errors = [root_distances(agent, right[:, None, t], clips.latents[:, t]).median() for t in range(right.shape[1])]
    way = root_distances(agent, clips.start[:, None], clips.latents[:, -1]).median().clamp_min(1e-9)
    told_apart = first_errors[:, :1] < first_errors[:, 1:]
    return Verification(
        told_apart={name: Rate.of(told_apart[:, place].tolist()) for place, name in enumerate(wrong)},
        gap={name: float(ends[:, place].median() / errors[-1].clamp_min(1e-9)) for place, name in enumerate(wrong)},
        error_by_block=tuple(float(error / way) for error in errors),
        picked=_pick(agent, clips, seed),
    )


def wrong_blocks(agent: Agent, blocks: Tensor, seed: int) -> dict[str, Tensor]:
    """Actions ``(N, T, F*A)`` beside the recorded `blocks`, inside the bounds, by how wrong they are."""
    others = {OTHER_CLIP: blocks.roll(1, dims=0)}
    if agent.checkpoint.normalizer.discrete:
        return others
    low, high = agent.checkpoint.normalizer.bounds(agent.model.frameskip, agent.device)
    noise = torch.randn(blocks.shape, generator=torch.Generator().manual_seed(seed)).to(blocks)
    perturbed = {f"{std:g} sd": (blocks + std * noise).clamp(low, high) for std in DEVIATIONS}
    return perturbed | others


def imagine(agent: Agent, clips: EncodedClips, actions: Tensor) -> Tensor:
    """Latents ``(N, S, T, *Z)`` after the blocks `actions` ``(N, S, T, F*A)`` from the start of each clip."""
    model = agent.replanner.model

    def roll_out(part: slice, chunk: Tensor) -> tuple[Tensor]:
        with autocast(agent.device, agent.bf16):
            return (model.rollout(select(clips.belief, part), chunk),)

    (latents,) = in_chunks(roll_out, agent.max_rollouts, actions)
    return latents


def root_distances(agent: Agent, latents: Tensor, goals: Tensor) -> Tensor:
    """Roots of the distances ``(N, S)`` of `latents` ``(N, S, *Z)`` to `goals` ``(N, *Z)``."""
    return agent.replanner.model.distance(latents[:, :, None], goals)[:, :, 0].float().clamp_min(0).sqrt()


def _pick(agent: Agent, clips: EncodedClips, seed: int) -> Rate:
    """How often the recorded plan is picked among those of other clips, by its imagined end."""
    count = len(clips.blocks)
    generator = torch.Generator().manual_seed(seed)
    rivals = 1 + torch.randint(count - 1, (count, min(RIVALS, count - 1)), generator=generator)
    rows = (torch.arange(count)[:, None] + rivals) % count  # any clip but the own one
    candidates = torch.cat([clips.blocks[:, None], clips.blocks[rows.to(clips.blocks.device)]], dim=1)
    ends = imagine(agent, clips, candidates)[:, :, -1]
    nearest = root_distances(agent, ends, clips.latents[:, -1]).argmin(dim=1)
    return Rate.of((nearest == 0).tolist())

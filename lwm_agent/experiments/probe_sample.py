"""Samples of recorded clips for probes: their latents, and the quantities of their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint
from ..data.clips import Windows, shares
from ..data.trajectories import DatasetError, Trajectories
from ..envs.quantities import Quantity
from ..eval.probes import Examples
from ..training.latent_cache import OnProgress
from .clip_latents import CONTEXT, ClipLatents, encode_clips, joined
from .probe_config import ProbeConfig
from .probe_quantities import RecordedQuantities

READ_SHARE = 4
"""Frames that are fitted on for each that is read."""


@dataclass(frozen=True)
class Sample:
    """Clips of one or several files.

    Attributes:
        clips: latents of B clips.
        clip_episodes: episode of each clip, ``(B,)``, numbered over all files.
        quantities: quantities of the ``B * (1 + T)`` frames, clip by clip.
    """

    clips: ClipLatents
    clip_episodes: NDArray[np.int64]
    quantities: Mapping[str, Quantity]

    @property
    def frames(self) -> Tensor:
        """Latents of the frames, ``(B * (1 + T), D)``."""
        return self.clips.seen.flatten(0, 1)

    @property
    def episodes(self) -> NDArray[np.int64]:
        """Episode of each frame, ``(B * (1 + T),)``."""
        return self.clip_episodes.repeat(self.clips.seen.shape[1])

    def examples(self, name: str) -> tuple[Examples, Examples]:
        """Latents with targets of a quantity, to fit a probe and to choose among fits: a tenth of the episodes."""
        numbers, targets = np.unique(self.episodes), self.quantities[name].targets
        choosing = np.isin(self.episodes, numbers[::10])
        fitting = ~choosing if len(numbers) > 1 else choosing
        fit, choose = (Examples(self.frames[torch.from_numpy(part)], targets[part]) for part in (fitting, choosing))
        return fit, choose


@dataclass(frozen=True)
class Sampler:
    """Draws clips, as many of each file.

    Attributes:
        config: how many, and of which length.
        checkpoint: its model encodes.
        files: the files.
        device: where the model is.
        report: called after each chunk.
    """

    config: ProbeConfig
    checkpoint: Checkpoint
    files: Sequence[Trajectories]
    device: torch.device
    report: OnProgress

    def sample(self, episodes: Sequence[NDArray[np.int64]], *, ahead: bool) -> Sample:
        """Clips of these `episodes` of each file; to be read, `ahead`, fewer, and with imagined and painted latents.

        Raises:
            DatasetError: the episodes are too short, or the frames have no quantities.
        """
        config, done, first_episode, parts = self.config, 0, 0, []
        wanted = -(-config.frames // ((1 + config.horizon) * (READ_SHARE if ahead else 1)))
        task = "reading" if ahead else "encoding"
        for number, share in enumerate(shares(wanted, len(self.files))):
            file = self.files[number]
            windows = _windows(file, episodes[number], config.horizon, self.checkpoint.model.frameskip)
            rng = np.random.default_rng([config.seed, number, ahead])
            chosen = np.sort(rng.permutation(len(windows))[: max(1, share)])  # in the order of the file: reads faster
            rows, _ = windows.rows(chosen)
            quantities = RecordedQuantities(file).at(rows[:, CONTEXT - 1 :].flatten())

            def show(clips: int) -> None:
                nonlocal done
                done += clips
                self.report(task, done, wanted, "clips")

            clips = encode_clips(self.checkpoint, windows, chosen, self.device, ahead=ahead, on_chunk=show)
            parts.append(Sample(clips, first_episode + windows.episodes(chosen), quantities))
            first_episode += file.num_episodes
        return _joined(parts)


def _windows(file: Trajectories, episodes: NDArray[np.int64], horizon: int, frameskip: int) -> Windows:
    """Clips of the frames before, the present and `horizon` blocks.

    Raises:
        DatasetError: all episodes are shorter.
    """
    longest = int(file.lengths[episodes].max())
    most = (longest - 1) // frameskip + 1 - CONTEXT
    if most < horizon:
        advice = f"pass --horizon {most}" if most >= 1 else "probes need longer ones"
        raise DatasetError(
            f"{file.path}: horizon={horizon} blocks after {CONTEXT} frames, {frameskip} steps apart, need episodes of "
            f"{(horizon + CONTEXT - 1) * frameskip + 1} frames, and the longest has {longest}: {advice}"
        )
    return Windows(file, episodes, CONTEXT + horizon, frameskip)


def _joined(parts: Sequence[Sample]) -> Sample:
    """Samples of several files as one, with the quantities that all of them have."""
    imagined, painted = (
        joined(getattr(sample.clips, column) for sample in parts) for column in ("imagined", "painted")
    )
    seen = torch.cat([sample.clips.seen for sample in parts])
    quantities = {
        name: replace(quantity, values=np.concatenate([sample.quantities[name].values for sample in parts]))
        for name, quantity in parts[0].quantities.items()
        if all(name in sample.quantities for sample in parts)
    }
    episodes = np.concatenate([sample.clip_episodes for sample in parts])
    return Sample(ClipLatents(seen, imagined, painted), episodes, quantities)

"""Conversion of data sets of other formats to files of trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import MachineError, UserError
from ..imports import hub
from . import ogbench_npz
from .config import ConvertConfig
from .origin import Origin
from .pictures import area_resize, central_square
from .readers import Recordings, open_recordings
from .schema import DatasetError
from .trajectories import Progress
from .writer import TrajectoryWriter, check_output


@dataclass(frozen=True)
class Conversion:
    """Outcome of a conversion.

    Attributes:
        recordings: the data set that was read, None for OGBench's.
        num_frames: frames that were written.
        left_out: what was not, in words.
    """

    recordings: Recordings | None
    num_frames: int = 0
    left_out: tuple[str, ...] = ()


def convert(config: ConvertConfig, progress: Progress | None = None) -> Conversion:
    """Writes the file that `config` asks for, which appears when it is complete.

    `progress` is called with what is done and the total: episodes, or frames of OGBench's.

    Raises:
        DatasetError: the source cannot be read, or is of no format that is known.
        UserError: an option does not fit the source.
    """
    check_output(config.out)
    source = Path(config.source)
    if source.suffix == ".npz":
        if config.env is not None:
            raise UserError(f"{source} is converted for --env cube: leave --env out")
        ogbench_npz.convert(source, config.out, progress)
        return Conversion(None)
    recordings = open_recordings(source if source.exists() else _downloaded(config), config.camera)
    left_out, frames, short = [*recordings.left_out], 0, 0
    origin = Origin.of(config)
    with TrajectoryWriter(
        config.out,
        env_id=origin.env_id,
        env_kwargs=origin.env_kwargs,
        action_low=origin.low,
        action_high=origin.high,
        discrete=recordings.num_actions is not None,
        attributes={"source": source.name, "camera": recordings.camera, "lwm_agent_version": __version__},
    ) as writer:
        for number, demonstration in enumerate(recordings.demonstrations(), start=1):
            pixels = [_picture(frame, config, origin) for frame in demonstration.frames]
            if len(pixels) < 2:
                short += 1
                continue
            action = _actions(demonstration.action, len(pixels), config, recordings.num_actions, number)
            origin.check_actions(action)
            state = demonstration.state
            writer.add(np.stack(pixels), action, state if state is not None and len(state) == len(pixels) else None)
            frames += len(pixels)
            if progress is not None:
                progress(number, recordings.num_episodes)
    others = [name for name in recordings.cameras if name != recordings.camera]
    left_out += [f"cameras {', '.join(others)}"] if others else []
    left_out += [f"{short} episodes of a single frame"] if short else []
    return Conversion(recordings, frames, tuple(left_out))


def _picture(frame: NDArray[np.uint8], config: ConvertConfig, origin: Origin) -> NDArray[np.uint8]:
    origin.check_frame(frame, config.image_size)
    return area_resize(frame if config.squash else central_square(frame), config.image_size)


def _actions(
    action: NDArray[Any], num_frames: int, config: ConvertConfig, num_actions: int | None, number: int
) -> NDArray[np.float32]:
    """Actions ``(n - 1, A)`` of episode `number`, of the columns asked for; one-hot where they are discrete."""
    if len(action) not in (num_frames, num_frames - 1):
        raise DatasetError(
            f"episode {number} has {num_frames} frames and {len(action)} actions: an action leaves each frame but the "
            "last"
        )
    rows = action[: num_frames - 1]
    if num_actions is not None:
        return np.eye(num_actions, dtype=np.float32)[rows]
    rows = rows[:, None] if rows.ndim == 1 else rows.reshape(len(rows), -1)
    if any(column >= rows.shape[1] for column in config.action_columns):
        raise DatasetError(
            f"--action-columns {config.action_columns}: actions have the columns 0 to {rows.shape[1] - 1}"
        )
    return np.asarray(rows[:, list(config.action_columns)] if config.action_columns else rows, np.float32)


def _downloaded(config: ConvertConfig) -> Path:
    """The folder of a data set of the Hugging Face hub."""
    if config.source.count("/") != 1:
        raise DatasetError(f"{config.source} does not exist; an id of the Hugging Face hub is OWNER/NAME")
    client = hub(f"{config.source} is not here, and to download it")
    try:
        return Path(client.snapshot_download(config.source, repo_type="dataset", revision=config.revision))
    except Exception as error:  # of the network, of the disk, of the hub: each has a class of its own
        raise MachineError(f"{config.source} cannot be downloaded ({error}): get it elsewhere") from error

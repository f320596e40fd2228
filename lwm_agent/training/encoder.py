"""Training the encoder of a checkpoint to see past what differs, such as colours and light.

The encoder learns to give a picture with a shift the latent that its former self gives the same state without one.
Latents of usual pictures stay what they are, so that predictor, heads and decoder need no new training. A simulator
draws both pictures of a state. Data with shifts (``collect --shift``) train all parts anew instead.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from ..compute.device import autocast, fast_bf16
from ..data.clips import random_rows, shares
from ..data.trajectories import DatasetError, Trajectories
from ..envs import find_env
from ..envs.shifts import parse_shift, shifted
from ..errors import UserError
from ..models import LatentModel
from .config import EncoderConfig
from .frozen_encoder import PartTrainer, open_all
from .held_out import follow_splits
from .latent_cache import OnProgress

States = NDArray[np.float64]
Pictures = NDArray[np.uint8]

VALIDATION, CHUNK, COMPARED = 512, 256, 8  # frames
RECORDED = "as recorded"
ALIKE = 2.0  # levels of 255: the largest mean difference of a recorded frame from its state as it is drawn


def train_encoder(config: EncoderConfig, on_progress: OnProgress | None = None) -> Checkpoint:
    """Trains the encoder on recorded frames and on their states, drawn with shifts; saves the checkpoint.

    Raises:
        DatasetError: the data does not fit the checkpoint, has no states, or shows something else than they say.
        UserError: the model has no encoder that could be trained by itself, or a shift cannot be seen.
    """
    report = on_progress or (lambda task, done, total, text: None)
    started_at = time.perf_counter()
    checkpoint, files, device = open_all(config, in_memory="auto")  # frames are drawn at random
    pupil = copy.deepcopy(checkpoint.model)
    encoder = trainable_encoder(checkpoint, pupil)
    first = checkpoint if config.init is None else begin_with(config.init, encoder)
    earlier = first.training.get("encoder")
    records = follow_splits(checkpoint.training, files, config, earlier)
    trainer = PartTrainer(config, "encoder", encoder, records, started_at, earlier)
    trainer.check()
    splits = [record.split(file) for record, file in zip(records, files, strict=True)]
    train, held_out = (
        [Frames(*part) for part in zip(files, numbers, strict=True)] for numbers in zip(*splits, strict=True)
    )
    with scenes_of(checkpoint, config.shift) as scenes:
        for source in train:
            source.check(scenes)
        some, _ = sample(train, VALIDATION, np.random.default_rng(0))
        variance = float(latents_of(checkpoint, checkpoint.model, some).var(dim=0).mean())

        def loss(rng: np.random.Generator) -> Tensor:
            frames, states = sample(train, config.batch_size, rng)
            both = np.concatenate([frames, scenes.unusual_pictures(states, config.together, rng)])
            units = checkpoint.normalizer
            with autocast(device, fast_bf16(device)):
                wanted = checkpoint.model.embed(units.pixels(frames, device))
                seen = pupil.embed(units.pixels(both, device))
            return (seen - torch.cat([wanted, wanted])).square().mean() / variance

        views = views_of(held_out, scenes)
        before = measure(checkpoint, pupil, views)
        del before[RECORDED]  # nothing, by definition
        encoder.requires_grad_(True)
        state = trainer.optimize(loss, report)
        encoder.requires_grad_(False)
    errors = {f"{name} before": value for name, value in before.items()} | measure(checkpoint, pupil, views)
    return trainer.save(replace(checkpoint, model=pupil), state, errors, sum(file.num_frames for file in files))


def trainable_encoder(checkpoint: Checkpoint, model: LatentModel) -> nn.Module:
    """The parts of `model` that make latents of frames.

    Raises:
        UserError: there are none that could be trained by themselves.
    """
    parts = model.encoder_parts()
    if not parts:
        raise UserError(
            f"a {checkpoint.name} model has no encoder that can be trained by itself: collect data with --shift and "
            "use `lwm-agent train`"
        )
    return nn.ModuleList(parts)


def begin_with(name: str, encoder: nn.Module) -> Checkpoint:
    """The checkpoint `name`, after its weights were copied to `encoder`.

    Raises:
        UserError: it has no encoder of that kind.
    """
    first = Checkpoint.load(name)
    try:
        encoder.load_state_dict(trainable_encoder(first, first.model).state_dict())
    except RuntimeError as error:
        raise UserError(
            f"init={name!r} has another kind of encoder than the checkpoint: name one of its kind"
        ) from error
    return first


@dataclass(frozen=True)
class Scenes:
    """Environments that draw the same states in several ways.

    Attributes:
        usual: the environment of a checkpoint, as it is.
        unusual: with one shift each, by that shift; and, if there are several, with all of them.
    """

    usual: gym.Env[Any, Any]
    unusual: Mapping[str, gym.Env[Any, Any]]

    def unusual_pictures(self, states: States, together: float, rng: np.random.Generator) -> Pictures:
        """Pictures ``(N, h, w, 3)`` of `states` ``(N, k)``: a share `together` with all shifts, the others with one."""
        *single, all_of_them = self.unusual.values()

        def scene() -> gym.Env[Any, Any]:
            return all_of_them if rng.uniform() < together or not single else single[rng.integers(len(single))]

        return np.concatenate([draw(scene(), pair, rng) for pair in np.array_split(states, -(-len(states) // 2))])


@contextmanager
def scenes_of(checkpoint: Checkpoint, shifts: Sequence[str]) -> Iterator[Scenes]:
    """Environments that draw as a checkpoint sees, without and with `shifts`; closed at the end.

    Raises:
        UserError: the environment is not registered, has no such shift, or a shift cannot be seen.
    """
    spec, name = find_env(checkpoint.env), checkpoint.env
    for text in shifts:
        called, shift, _ = parse_shift(text, name)
        if not shift.seen:
            raise UserError(f"shift {text!r} does not change what a state looks like: an encoder cannot learn {called}")
    ways = {text: (text,) for text in shifts} | ({"all of them": tuple(shifts)} if len(shifts) > 1 else {})
    settings = {**checkpoint.env_kwargs, "image_size": checkpoint.model.image_size, "terminate_on_success": False}
    with ExitStack() as stack:
        envs = []
        for way in ((), *ways.values()):
            env = gym.make(spec.env_id, disable_env_checker=True, **settings)
            stack.callback(env.close)
            envs.append(shifted(env, way, name))
        yield Scenes(envs[0], dict(zip(ways, envs[1:], strict=True)))


def draw(env: gym.Env[Any, Any], states: States, rng: np.random.Generator) -> Pictures:
    """Pictures ``(N, h, w, 3)`` of `states` ``(N, k)``: two are drawn at a time, as present and goal of an episode."""
    pictures: list[Pictures] = []
    for first in range(0, len(states), 2):
        pair = states[first : first + 2]
        options = {"state": pair[0], "goal_state": pair[-1]}
        observation, _ = env.reset(seed=int(rng.integers(2**31)), options=options)
        pictures += [observation["pixels"], observation["goal"]][: len(pair)]
    return np.stack(pictures)


@dataclass(frozen=True)
class Frames:
    """Frames of some episodes of a file, and their states.

    Attributes:
        file: the file.
        episodes: numbers of the episodes.
    """

    file: Trajectories
    episodes: NDArray[np.int64]

    def check(self, scenes: Scenes) -> None:
        """Raises `DatasetError` if the file has no states, or its frames do not show them."""
        if self.file.state is None:
            raise DatasetError(f"{self.file.path} has no states: its frames cannot be drawn with a shift")
        frames, states = self.sample(COMPARED, np.random.default_rng(0))
        difference = float(np.abs(draw(scenes.usual, states, np.random.default_rng(0)).astype(int) - frames).mean())
        if difference > ALIKE:
            raise DatasetError(
                f"the frames of {self.file.path} differ from their states, as the environment draws them, by "
                f"{difference:.1f} of 255 levels: name data that were collected without --shift"
            )

    def sample(self, num: int, rng: np.random.Generator) -> tuple[Pictures, States]:
        """`num` frames ``(num, h, w, 3)`` and states ``(num, k)``."""
        assert self.file.state is not None
        rows = random_rows(self.file, self.episodes, num, rng)
        return self.file.frames(rows), self.file.state[rows]


def sample(sources: Sequence[Frames], num: int, rng: np.random.Generator) -> tuple[Pictures, States]:
    """`num` frames and states, as many of each source; see `Frames.sample`."""
    parts = [source.sample(share, rng) for source, share in zip(sources, shares(num, len(sources)), strict=True)]
    frames, states = zip(*parts, strict=True)
    return np.concatenate(frames), np.concatenate(states)


@torch.no_grad()
def latents_of(checkpoint: Checkpoint, model: LatentModel, pictures: Pictures) -> Tensor:
    """Latents ``(N, *Z)`` that `model` gives pictures, in the units of `checkpoint`."""
    device = next(model.parameters()).device
    chunks = np.array_split(pictures, -(-len(pictures) // CHUNK))
    return torch.cat([model.embed(checkpoint.normalizer.pixels(chunk, device)) for chunk in chunks])


def views_of(sources: Sequence[Frames], scenes: Scenes) -> dict[str, Pictures]:
    """Pictures of the same held-out states each time: as they were recorded, and under each of the shifts."""
    frames, states = sample(sources, VALIDATION, np.random.default_rng(0))
    drawn = {name: draw(env, states, np.random.default_rng(0)) for name, env in scenes.unusual.items()}
    return {RECORDED: frames, **drawn}


def measure(checkpoint: Checkpoint, model: LatentModel, views: Mapping[str, Pictures]) -> dict[str, float]:
    """Squared error of the latents of `model`, over the variance of latents, for each of the `views`.

    The right ones are those that the model in `checkpoint` gives to frames as they are recorded.
    """
    right = latents_of(checkpoint, checkpoint.model, views[RECORDED])
    return {
        name: float((latents_of(checkpoint, model, pictures) - right).square().mean() / right.var(dim=0).mean())
        for name, pictures in views.items()
    }

"""`lwm-agent surprise`: violation of expectation, measured on recorded clips with impossible events in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import Checkpoint, checksum
from ..compute.device import autocast, fast_bf16, resolve_device
from ..data.clips import Windows
from ..data.trajectories import Trajectories
from ..envs import spec_of
from ..envs.base import GoalImageEnv
from ..errors import UserError
from ..eval.events import Clip, Event, Frames, Place
from ..eval.figures import new_figure
from ..eval.provenance import command_line, machine
from ..eval.state_events import events_of
from ..eval.surprise import FALSE_ALARMS, Outcome, Surprise, corrected, draw_courses, draw_examples, judge
from ..files import write_text
from ..imports import import_requested
from ..training.frozen_encoder import open_fitting
from ..training.held_out import unseen_episodes
from .surprise_config import SurpriseConfig

BATCH = 50
REDRAWN = 8  # recorded frames that are compared with what the environment draws

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Surprises:
    """What a world model is surprised by.

    Attributes:
        outcomes: of each event.
        left_out: reason why an event was not measured, by its name.
        threshold: surprise that a step without an event exceeds with a chance of `FALSE_ALARMS`.
    """

    outcomes: dict[str, Outcome]
    left_out: dict[str, str]
    threshold: float


@dataclass(frozen=True)
class _Recording:
    """Clips of held-out episodes.

    Attributes:
        clips: the clips, which are their own controls.
        episodes: number of the episode of each, ``(n,)``.
        others: number of a clip of another episode, for each, ``(n,)``.
    """

    clips: list[Clip]
    episodes: NDArray[np.int64]
    others: NDArray[np.int64]


def run_surprise(config: SurpriseConfig, progress: Progress = lambda *_: None) -> Surprises:
    """Injects events, measures the surprise, and writes results.json, surprise.png and events.png, and an SVG of each.

    Raises:
        UserError: the model imagines nothing, the data do not fit it or are too few, or there is no such event.
    """
    new_figure(1, 1)  # without matplotlib, nothing need be measured
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    (file,) = open_fitting(checkpoint, [config.data])
    recording = _record(config, checkpoint, file)
    env, reason = _drawer(file, recording.clips)
    events, left_out = _chosen(config, checkpoint, file, reason)
    control = measure(checkpoint, recording.clips)
    first = config.steps - 1
    threshold = float(np.quantile(control, 1 - FALSE_ALARMS))
    outcomes: dict[str, Outcome] = {}
    examples: dict[str, Frames] = {}
    for number, (name, event) in enumerate(events.items()):
        progress(number, len(events), name)
        rows, clips = _inject(event, recording, config, file, env)
        if len(np.unique(recording.episodes[rows])) < 2:
            left_out[name] = f"it could be injected into {len(rows)} of the clips only"
            continue
        judged = measure(checkpoint, clips)
        outcomes[name] = judge(judged, control[rows], recording.episodes[rows], first, threshold)
        examples[name] = clips[0].frames
    progress(len(events), len(events), "")
    surprises = Surprises(corrected(outcomes), left_out, threshold)
    _save(config, checkpoint, file, recording, control, surprises)
    if outcomes:
        draw_courses(surprises.outcomes, first, config.out / "surprise.png")
        draw_examples(examples, config.steps, config.out / "events.png")
    return surprises


@torch.no_grad()
def measure(checkpoint: Checkpoint, clips: Sequence[Clip]) -> Surprise:
    """Surprise ``(n, K - 1)`` at each frame of the clips after their first, as `AgentState.surprise`."""
    model, units = checkpoint.world_model, checkpoint.normalizer
    device = next(model.parameters()).device
    measured = []
    for start in range(0, len(clips), BATCH):
        batch = clips[start : start + BATCH]
        blocks = units.blocks(np.stack([clip.env_action for clip in batch]), device)  # (B, K - 1, F*A)
        frames = np.stack([clip.frames for clip in batch])
        errors = []
        with autocast(device, fast_bf16(device)):
            belief = model.begin(units.pixels(frames[:, 0], device))
            for step, block in enumerate(blocks.unbind(1), start=1):
                before, belief = belief, model.observe(belief, block, units.pixels(frames[:, step], device))
                errors.append(model.surprise(before, block, belief))
        measured.append(torch.stack(errors, dim=1).double().cpu().numpy() / checkpoint.usual_surprise)
    surprise: Surprise = np.concatenate(measured)
    return surprise


def _record(config: SurpriseConfig, checkpoint: Checkpoint, file: Trajectories) -> _Recording:
    """Different clips, spread evenly over the held-out episodes."""
    rng, episodes = np.random.default_rng([config.seed, 0]), unseen_episodes(checkpoint.training, file)
    windows = Windows(file, episodes, 2 * config.steps + 1, checkpoint.model.frameskip)
    order = rng.permutation(len(windows))
    owners = windows.episodes(order)
    rounds = np.zeros(len(order), np.int64)  # number of the clips before it of the same episode
    for episode in np.unique(owners):
        rounds[owners == episode] = np.arange((owners == episode).sum())
    chosen = np.argsort(rounds, kind="stable")[: config.clips]
    numbers = owners[chosen]
    if len(np.unique(numbers)) < 2:
        raise UserError(f"{file.path} has {len(episodes)} held-out episodes: surprise needs clips of 2, collect more")
    cut = windows.at(order[chosen])
    states = [None] * len(chosen) if cut.state is None else list(cut.state)
    clips = [Clip(*parts) for parts in zip(cut.pixels, cut.env_action, states, strict=True)]
    others = np.array([rng.choice(np.flatnonzero(numbers != number)) for number in numbers])
    return _Recording(clips, numbers, others)


def _drawer(file: Trajectories, clips: Sequence[Clip]) -> tuple[GoalImageEnv | None, str]:
    """The environment that draws the states of the data as they were recorded, or None and the reason."""
    if file.state is None:
        return None, "the data have no states"
    import_requested()
    spec = None if file.env_id is None else spec_of(file.env_id)
    if spec is None:
        return None, "the data name no registered environment"
    env = gym.make(spec.env_id, disable_env_checker=True, **file.env_kwargs).unwrapped
    if not isinstance(env, GoalImageEnv) or file.state.shape[1] != env.state_size:
        return None, "the environment draws no states as the data have them"
    for clip in clips[:REDRAWN]:
        assert clip.states is not None
        difference = np.abs(env.picture(clip.states[0]).astype(float) - clip.frames[0])
        if difference.mean() > 1:
            return None, f"the environment draws recorded states otherwise ({difference.mean():.1f} levels a pixel)"
    return env, ""


def _chosen(
    config: SurpriseConfig, checkpoint: Checkpoint, file: Trajectories, reason: str
) -> tuple[dict[str, Event], dict[str, str]]:
    """The events to measure, and those that are left out because there are no states to draw."""
    known = events_of(checkpoint.env, file.state)
    unknown = [name for name in config.events if name not in known]
    if unknown:
        raise UserError(f"--events {unknown[0]} is unknown: choose from {', '.join(known)}")
    events = {name: event for name, event in known.items() if not config.events or name in config.events}
    left_out = {name: reason for name, event in events.items() if event.needs_states and reason}
    return {name: event for name, event in events.items() if name not in left_out}, left_out


def _inject(
    event: Event, recording: _Recording, config: SurpriseConfig, file: Trajectories, env: GoalImageEnv | None
) -> tuple[list[int], list[Clip]]:
    """Numbers of the clips that can have the event, and these clips with it."""
    rows, clips = [], []
    for row, (clip, other) in enumerate(zip(recording.clips, recording.others, strict=True)):
        rng = np.random.default_rng([config.seed, 1, row])
        changed = event.inject(clip, Place(config.steps, recording.clips[other], rng, file.state, env))
        if changed is not None:
            rows.append(row)
            clips.append(changed)
    return rows, clips


def _save(
    config: SurpriseConfig,
    checkpoint: Checkpoint,
    file: Trajectories,
    recording: _Recording,
    control: Surprise,
    surprises: Surprises,
) -> None:
    quantiles = {f"{100 * share:g} %": float(np.quantile(control, share)) for share in (0.5, 0.9, 0.99, 0.999)}
    contents: Mapping[str, Any] = {
        "command": command_line(),
        "checkpoint": checksum(config.checkpoint),
        "model": checkpoint.name,
        "env": checkpoint.env,
        "data": {"name": file.path.name, "fingerprint": file.fingerprint, "episodes": len(set(recording.episodes))},
        "clips": config.clips,
        "steps": config.steps,
        "seed": config.seed,
        "usual_surprise": checkpoint.usual_surprise,
        "control": {"steps": control.size, "mean": float(control.mean()), "quantiles": quantiles},
        "false_alarms": FALSE_ALARMS,
        "threshold": surprises.threshold,
        "events": {name: asdict(outcome) for name, outcome in surprises.outcomes.items()},
        "left_out": surprises.left_out,
        **machine(),
    }
    rounded = json.loads(json.dumps(contents), parse_float=lambda text: float(f"{float(text):.4g}"))
    write_text(config.out / "results.json", json.dumps(rounded, indent=1, allow_nan=False) + "\n")

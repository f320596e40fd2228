"""`lwm-agent probe`: what a model's latents know of the world, now, in its imagination, and in painted pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint, checksum
from ..compute.device import resolve_device
from ..data.trajectories import DatasetError
from ..envs import name_of, spec_of
from ..envs.quantities import Quantity
from ..eval.bootstrap import Bootstrap
from ..eval.comparison_table import markdown_rows
from ..eval.figures import new_figure
from ..eval.latent_geometry import effective_rank, straightness
from ..eval.probe_figures import draw_figures
from ..eval.probe_scores import BEST, FRAMES, IMAGINED, PAINTED, STILL, ProbeReport, Score, points, save_report, score
from ..eval.probe_table import tables
from ..eval.probes import PROBES, Probe
from ..eval.provenance import command_line, machine, sources
from ..eval.published_probes import PUBLISHED
from ..files import write_text
from ..training.frozen_encoder import open_fitting
from ..training.held_out import follow_splits
from ..training.latent_cache import OnProgress
from .clip_latents import CONTEXT
from .probe_config import ProbeConfig
from .probe_sample import Sample, Sampler


def run_probe(config: ProbeConfig, on_progress: OnProgress = lambda *_: None) -> ProbeReport:
    """Encodes clips, fits probes, scores them on other episodes; writes results.json, table.md and figures.

    Raises:
        DatasetError: the data does not fit the checkpoint, is too short, or holds nothing to read.
        UserError: matplotlib is not installed, or no two episodes are held out.
    """
    if config.plot:
        new_figure(1, 1)  # first: without matplotlib, nothing need be encoded
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    files = open_fitting(checkpoint, config.data)
    records = follow_splits(checkpoint.training, files, config)
    splits = [record.split(file) for record, file in zip(records, files, strict=True)]
    training, validation = zip(*splits, strict=True)
    sampler = Sampler(config, checkpoint, files, device, on_progress)
    held_out = sampler.sample(validation, ahead=True)
    bootstrap = Bootstrap(held_out.episodes, config.seed)  # refuses too few, before more is encoded
    fitted = sampler.sample(training, ahead=False)
    names, left_out = _varied(fitted.quantities, held_out.quantities)
    probes = _fit(fitted, names, config.seed, on_progress)
    report = ProbeReport(
        model=checkpoint.name,
        checkpoint=config.checkpoint,
        env=name_of(checkpoint.env),
        frameskip=checkpoint.model.frameskip,
        latent_size=checkpoint.model.summary_size,
        fitted_frames=len(fitted.frames),
        fitted_episodes=len(np.unique(fitted.episodes)),
        episodes=bootstrap.num_episodes,
        effective_rank=effective_rank(held_out.frames),
        straightness=Bootstrap(held_out.clip_episodes, config.seed).mean(straightness(held_out.clips.seen)),
        left_out=left_out,
        scores=_scores(probes, held_out, names, config.seed),
        points={name: points(held_out.quantities[name], probes[name][BEST](held_out.frames)) for name in names},
        published=_published(checkpoint.env),
    )
    _write(config, report, [asdict(record) for record in records])
    return report


def _varied(fitted: Mapping[str, Quantity], held_out: Mapping[str, Quantity]) -> tuple[list[str], dict[str, str]]:
    """Names of the quantities that can be read, and why the others cannot.

    Raises:
        DatasetError: there is none.
    """
    reasons = {}
    for name in fitted:
        values = [part[name].targets for part in (fitted, held_out)]
        if not all(np.isfinite(part).all() for part in values):
            reasons[name] = "has rows without a number"
        elif min(part.std(axis=0).min() for part in values) < 1e-9:
            reasons[name] = "does not vary in these data"
    names = [name for name in fitted if name not in reasons]
    if not names:
        raise DatasetError(f"nothing can be read: {', '.join(f'{name} {why}' for name, why in reasons.items())}")
    return names, reasons


def _fit(sample: Sample, names: Sequence[str], seed: int, report: OnProgress) -> dict[str, dict[str, Probe]]:
    """A probe of each kind for each quantity."""
    probes: dict[str, dict[str, Probe]] = {}
    for done, name in enumerate(names):
        report("fitting", done, len(names), name)
        fit, choose = sample.examples(name)
        probes[name] = {kind: make(fit, choose, seed) for kind, make in PROBES.items()}
    report("fitting", len(names), len(names), "")
    return probes


def _scores(probes: Mapping[str, Mapping[str, Probe]], sample: Sample, names: Sequence[str], seed: int) -> list[Score]:
    """Scores of all frames and of painted ones; those of `BEST` block by block along rollouts too."""
    clips, length = sample.clips, sample.clips.seen.shape[1]
    every, each = Bootstrap(sample.episodes, seed), Bootstrap(sample.clip_episodes, seed)
    scores = []
    for name in names:
        quantity = sample.quantities[name]
        for kind, probe in probes[name].items():
            named = {"quantity": name, "probe": kind}
            scores.append(score(quantity, probe(sample.frames), every, latents=FRAMES, **named))
            if clips.painted is not None:
                scores.append(score(quantity, probe(clips.painted.flatten(0, 1)), every, latents=PAINTED, **named))
            if clips.imagined is None or kind != BEST:
                continue
            seen, imagined = probe(clips.seen), probe(clips.imagined)
            imagined = np.concatenate([seen[:, :1], imagined], axis=1)
            for block in range(length):
                future = quantity.rows(np.arange(len(clips.seen)) * length + block)
                for latents, read in ((IMAGINED, imagined[:, block]), (FRAMES, seen[:, block]), (STILL, seen[:, 0])):
                    scores.append(score(future, read, each, latents=latents, block=block, **named))
    return scores


def _published(env: str) -> Mapping[str, Mapping[str, tuple[float, float]]]:
    spec = spec_of(env)
    return {} if spec is None else PUBLISHED.get(spec.env_id, {})


def _write(config: ProbeConfig, report: ProbeReport, records: list[dict[str, Any]]) -> None:
    run = {
        "command": command_line(),
        "checkpoint": checksum(config.checkpoint),
        "data": records,
        "seed": config.seed,
        "context_frames": CONTEXT,
        "sources": sources(),
        **machine(),
    }
    save_report(report, run, config.out / "results.json")
    write_text(config.out / "table.md", "\n\n".join(map(markdown_rows, tables(report))) + "\n")
    if config.plot:
        draw_figures(report, config.out)

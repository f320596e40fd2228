"""Collapse monitors and probes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.data.clips import Mixture, Windows
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.models import MODELS, LeWorldModel
from lwm_agent.models.sigreg import sigreg
from lwm_agent.normalizer import Normalizer
from lwm_agent.training.monitors import collapse_monitors, collapse_warning, probe
from lwm_agent.training.validation import validate


def gaussian(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_effective_rank_counts_dimensions() -> None:
    assert collapse_monitors(gaussian(4000, 12))["effective_rank"] == pytest.approx(12, abs=0.2)
    flat = torch.cat([gaussian(4000, 3), torch.zeros(4000, 9)], dim=1)
    assert collapse_monitors(flat)["effective_rank"] == pytest.approx(3, abs=0.05)


def test_spread_is_the_smallest_and_the_mean_standard_deviation() -> None:
    monitors = collapse_monitors(gaussian(4000, 4) * torch.tensor([0.1, 1.0, 1.0, 1.9]))
    assert monitors["std_min"] == pytest.approx(0.1, rel=0.05)
    assert monitors["std_mean"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        (gaussian(500, 40), None),
        (torch.zeros(500, 40), "effective rank"),
        (gaussian(500, 1).expand(500, 40), "effective rank is 1.0 of 40"),
        (0.01 * gaussian(500, 40), "standard deviation is 0.010"),
        (gaussian(500, 40) * torch.nan, "not finite"),
    ],
)
def test_collapse_warning_names_the_problem(latents: torch.Tensor, said: str | None) -> None:
    if latents.isnan().any():
        monitors = {"effective_rank": float("nan"), "std_mean": float("nan")}
    else:
        monitors = collapse_monitors(latents)
    warning = collapse_warning(monitors, 40)
    assert warning is None if said is None else said in str(warning)


def test_linear_probe_finds_linear_targets_only() -> None:
    latents = gaussian(900, 5)
    angle = np.random.default_rng(0).uniform(-9, 9, 900)
    latents = torch.cat([latents, torch.from_numpy(np.stack([np.sin(angle), np.cos(angle)], 1)).float()], dim=1)
    state = np.stack([latents[:, 0].numpy() * 3 + 1, np.random.default_rng(1).normal(size=900), angle], axis=1)
    scores = probe(latents, state, {"here": (0,), "noise": (1,), "angle": (2,)})
    assert scores["r2_here"] > 0.99
    assert scores["r2_angle"] > 0.99
    assert scores["r2_noise"] < 0.1


def test_kernel_probe_finds_smooth_targets() -> None:
    latents = gaussian(1500, 3)
    state = np.stack([latents[:, 0].numpy() ** 2, np.random.default_rng(1).normal(size=1500)], axis=1)
    scores = probe(latents, state, {"square": (0,), "noise": (1,)})
    assert scores["r2_square"] < 0.1 < 0.95 < scores["kernel_r2_square"]
    assert scores["kernel_r2_noise"] < 0.1


def test_warning_about_few_frames_says_that_they_are_too_few() -> None:
    monitors = collapse_monitors(gaussian(30, 2).repeat(1, 64))
    assert "are collapsing" in str(collapse_warning(monitors, 128))
    assert "are collapsing" in str(collapse_warning(monitors, 128, num_frames=128, remedy="Do this"))
    assert str(collapse_warning(monitors, 128, num_frames=200, remedy="Do this")).endswith("Do this")
    few = str(collapse_warning(monitors, 128, num_frames=30))
    assert "are collapsing" not in few
    assert "30 validation frames are too few to judge 128 dimensions" in few
    assert collapse_warning(collapse_monitors(gaussian(30, 40)), 40, num_frames=30) is None


def test_probe_scores_the_last_third_of_the_rows_and_fits_the_others() -> None:
    latents = gaussian(900, 1)
    state = latents.double().numpy() * np.where(np.arange(900) < 600, 1, -1)[:, None]
    assert probe(latents, state, {"x": (0,)})["r2_x"] == pytest.approx(-3.0, abs=0.2)


def test_probe_scores_other_episodes_than_it_fits() -> None:
    """A place and a target that belong to an episode: what is fitted on some episodes says nothing of others."""
    rng = np.random.default_rng(0)
    episodes = rng.permutation(np.repeat(np.arange(30), 20))
    places, target = rng.normal(size=(30, 20)), rng.normal(size=(30, 1))
    latents = torch.from_numpy(places[episodes] + 0.01 * rng.normal(size=(600, 20))).float()
    state = target[episodes]
    assert probe(latents, state, {"x": (0,)})["kernel_r2_x"] > 0.9
    assert probe(latents, state, {"x": (0,)}, episodes)["kernel_r2_x"] < 0.3
    assert probe(latents, state, {"x": (0,)}, episodes)["r2_x"] < 0.3


def test_probe_fits_two_thirds_of_the_episodes_whatever_the_order_of_rows() -> None:
    latents, episodes = gaussian(900, 1), np.random.default_rng(1).permutation(np.repeat(np.arange(9), 100))
    first_rows = np.unique(episodes, return_index=True)[1]
    fitting = np.isin(episodes, np.argsort(first_rows)[:6])
    state = latents.double().numpy() * np.where(fitting, 1, -1)[:, None]
    assert probe(latents, state, {"x": (0,)}, episodes)["r2_x"] == pytest.approx(-3.0, abs=0.2)
    alone = probe(latents, state, {"x": (0,)}, np.zeros(900, np.int64))
    assert alone == probe(latents, state, {"x": (0,)})


class Quiet(LeWorldModel):
    """A model whose loss exchanges nothing, so that each reduction comes from the monitors."""

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        return {"loss": torch.zeros(())}


@pytest.fixture
def group_without_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group that refuses tensors on the CPU, as NCCL does."""

    def refuse(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    monkeypatch.setattr(dist_nn, "all_reduce", refuse)
    for name in ("all_reduce", "all_gather", "broadcast", "reduce"):
        monkeypatch.setattr(dist, name, refuse)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_without_cpu")
@pytest.mark.filterwarnings("ignore:the latents")
def test_monitors_exchange_nothing_between_processes(data: str) -> None:
    with pytest.raises(RuntimeError, match="No backend"):
        sigreg(gaussian(30, 5), 7)
    assert float(sigreg(gaussian(30, 5), 7, across_processes=False)) > 0
    assert collapse_monitors(gaussian(500, 5))["sigreg"] > 0
    settings = {**MODELS["lewm"].presets["tiny"], "image_size": 32, "latent_size": 8, "width": 16, "mlp_size": 16}
    settings |= {"head_size": 4, "depth": 1, "action_size": 2}
    units = {"action_mean": (0.0,) * 2, "action_std": (1.0,) * 2, "action_low": (-2.0,) * 2, "action_high": (2.0,) * 2}
    checkpoint = Checkpoint(
        name="lewm",
        model_config=settings,
        model=Quiet(**settings).eval(),
        normalizer=Normalizer(pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3, **units),
        env="pusht",
    )
    mixture = Mixture([Windows(Trajectories.open(data), np.arange(3), 4, 5)])
    assert {"sigreg", "r2_agent"} <= validate(checkpoint, mixture, "pusht", num_clips=66).keys()

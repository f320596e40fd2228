"""Collapse monitors and probes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lwm_agent.training.monitors import collapse_monitors, collapse_warning, probe


def gaussian(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_effective_rank_counts_dimensions() -> None:
    assert collapse_monitors(gaussian(4000, 12))["effective_rank"] == pytest.approx(12, abs=0.2)
    flat = torch.cat([gaussian(4000, 3), torch.zeros(4000, 9)], dim=1)
    assert collapse_monitors(flat)["effective_rank"] == pytest.approx(3, abs=0.05)


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
def test_the_warning_names_what_is_wrong(latents: torch.Tensor, said: str | None) -> None:
    if latents.isnan().any():
        monitors = {"effective_rank": float("nan"), "std_mean": float("nan")}
    else:
        monitors = collapse_monitors(latents)
    warning = collapse_warning(monitors, 40)
    assert warning is None if said is None else said in str(warning)


def test_probes_find_what_is_linear_and_nothing_else() -> None:
    latents = gaussian(900, 5)
    angle = np.random.default_rng(0).uniform(-9, 9, 900)
    latents = torch.cat([latents, torch.from_numpy(np.stack([np.sin(angle), np.cos(angle)], 1)).float()], dim=1)
    state = np.stack([latents[:, 0].numpy() * 3 + 1, np.random.default_rng(1).normal(size=900), angle], axis=1)
    scores = probe(latents, state, {"here": (0,), "noise": (1,), "angle": (2,)})
    assert scores["r2_here"] > 0.99
    assert scores["r2_angle"] > 0.99
    assert scores["r2_noise"] < 0.1


def test_the_kernel_probe_finds_what_a_linear_map_does_not() -> None:
    latents = gaussian(1500, 3)
    state = np.stack([latents[:, 0].numpy() ** 2, np.random.default_rng(1).normal(size=1500)], axis=1)
    scores = probe(latents, state, {"square": (0,), "noise": (1,)})
    assert scores["r2_square"] < 0.1 < 0.95 < scores["kernel_r2_square"]
    assert scores["kernel_r2_noise"] < 0.1

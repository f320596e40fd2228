"""SIGReg against its definition."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm_agent.models.sigreg import NULL_VALUE, epps_pulley, sigreg


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def score(latents: torch.Tensor) -> float:
    return float(sigreg(latents, 128, torch.Generator().manual_seed(1)))


def test_epps_pulley_is_the_weighted_distance_of_characteristic_functions() -> None:
    samples = gaussian(7, 3).double().float()
    knots = np.linspace(-3, 3, 33)  # the symmetric half's 17 knots, mirrored
    for column in range(3):
        x = samples[:, column].numpy()
        empirical = np.exp(1j * np.outer(knots, x)).mean(1)
        integrand = np.abs(empirical - np.exp(-(knots**2) / 2)) ** 2 * np.exp(-(knots**2) / 2)
        expected = 7 * np.trapezoid(integrand, knots)
        assert float(epps_pulley(samples)[column]) == pytest.approx(expected, rel=1e-4)


def test_null_value_is_the_mean_score_of_a_gaussian_sample() -> None:
    scores = torch.stack([epps_pulley(gaussian(64, 200, seed)).mean() for seed in range(5)])
    assert float(scores.mean()) == pytest.approx(NULL_VALUE, rel=0.05)
    assert score(gaussian(512, 16)) == pytest.approx(NULL_VALUE, rel=0.35)


@pytest.mark.parametrize(
    "latents",
    [
        pytest.param(torch.zeros(512, 16), id="collapsed to a point"),
        pytest.param(gaussian(512, 1).expand(512, 16), id="collapsed to a line"),
        pytest.param(gaussian(512, 16).sign() * 1.0, id="bimodal"),
        pytest.param(gaussian(512, 16) @ torch.linspace(0, 2, 256).reshape(16, 16), id="correlated"),
        pytest.param(3 * gaussian(512, 16), id="too wide"),
        pytest.param(gaussian(512, 16) + 1, id="shifted"),
    ],
)
def test_what_is_not_an_isotropic_gaussian_scores_higher(latents: torch.Tensor) -> None:
    # One bimodal coordinate hides in random directions of many: what they add up to is nearly normal.
    margin = 1.3 if set(latents.unique().tolist()) == {-1.0, 1.0} else 5.0
    assert score(latents) > margin * NULL_VALUE


def test_descending_its_gradient_spreads_a_collapsed_sample() -> None:
    latents = (0.05 * gaussian(128, 6)).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(latents, 64, torch.Generator().manual_seed(step)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    covariance = torch.cov(latents.detach().T)
    assert torch.allclose(covariance, torch.eye(6), atol=0.35)


def test_each_time_step_is_a_sample_of_its_own() -> None:
    # Two steps that are Gaussian apart, but not together: shifted in opposite directions they would look wide.
    steps = torch.stack([gaussian(256, 4, 0), gaussian(256, 4, 1)])
    together = score(torch.cat([steps[0] + 2, steps[1] - 2]))
    assert score(steps) < 2 * NULL_VALUE < together


WORKER = """
import sys
import torch
import torch.distributed as dist
from lwm_agent.models.sigreg import sigreg

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
samples = 1.5 * torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
part = samples.chunk(2)[rank].requires_grad_()
value = sigreg(part, 32, torch.Generator().manual_seed(0))
value.backward()
assert (part.grad != 0).any()
print(float(value.detach()))
dist.destroy_process_group()
"""


def test_the_statistic_is_summed_over_processes(tmp_path: Path) -> None:
    expected = float(sigreg(1.5 * gaussian(24, 5), 32, torch.Generator().manual_seed(0)))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    scores = [float(worker.communicate(timeout=120)[0]) for worker in workers]
    assert scores == pytest.approx([expected, expected], rel=1e-5)

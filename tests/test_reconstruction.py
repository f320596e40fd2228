"""Painters beside a world model: they learn to paint, and they look where frames differ."""

from __future__ import annotations

import pytest
import torch

from lwm_agent.models.reconstruction import RECONSTRUCTIONS, Pixels, Reconstruction, _chances

SIDE, BLOCK = 48, 12


def moving_block(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames with a dark square, ``(count, 3, 48, 48)``, and its place, ``(count, 2)`` in [-1, 1]."""
    corners = torch.randint(0, SIDE - BLOCK + 1, (count, 2), generator=torch.Generator().manual_seed(seed))
    frames = torch.ones(count, 3, SIDE, SIDE)
    for frame, (y, x) in zip(frames, corners.tolist(), strict=True):
        frame[:, y : y + BLOCK, x : x + BLOCK] = torch.tensor([-1.0, -2.0, -0.5])[:, None, None]
    return frames, 2 * corners / (SIDE - BLOCK) - 1


@pytest.fixture(params=RECONSTRUCTIONS)
def painter(request: pytest.FixtureRequest) -> Reconstruction:
    torch.manual_seed(0)
    return RECONSTRUCTIONS[request.param](7)


def latents_of(places: torch.Tensor) -> torch.Tensor:
    return torch.cat([places, places**2, torch.zeros(len(places), 3)], dim=1)


def test_learns_to_paint_and_asks_the_latent_for_the_place(painter: Reconstruction) -> None:
    frames, places = moving_block(32)
    latents = latents_of(places)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(painter.parameters(), 3e-3)
    losses = []
    for _ in range(600):
        loss = painter.loss(latents, frames, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    with torch.no_grad():
        true = painter.loss(latents, frames, torch.Generator().manual_seed(1)).item()
        others = painter.loss(latents.roll(1, 0), frames, torch.Generator().manual_seed(1)).item()
    assert others > 2 * true


def test_gradients_reach_latents_and_every_weight(painter: Reconstruction) -> None:
    frames, places = moving_block(5)
    latents = latents_of(places).requires_grad_()
    painter.loss(latents, frames, torch.Generator().manual_seed(0)).backward()
    assert latents.grad is not None
    assert bool((latents.grad[:, :4] != 0).any(1).all())
    assert [name for name, weight in painter.named_parameters() if weight.grad is None] == []


def test_same_generator_same_loss(painter: Reconstruction) -> None:
    frames, places = moving_block(6)
    first, second, other = (
        painter.loss(latents_of(places), frames, torch.Generator().manual_seed(seed)).item() for seed in (3, 3, 4)
    )
    assert first == second
    assert (first != other) == isinstance(painter, Pixels)


def test_half_of_the_pixels_are_where_frames_differ() -> None:
    """A sixteenth of two pictures is a block; the frames are alike everywhere else."""
    pictures = torch.zeros(4, 3, 20, 20)
    pictures[0, :, 2:7, 2:7], pictures[1, :, 10:15, 10:15] = 1.0, -1.0
    chances = _chances(pictures)
    assert torch.allclose(chances.sum(1), torch.ones(4))
    assert float(chances.min()) == pytest.approx(0.5 / 400, rel=1e-3)
    block = chances[0].view(20, 20)[1:8, 1:8].sum()
    assert 0.4 < block < 0.65
    alike = _chances(torch.ones(3, 3, 8, 8))
    assert torch.allclose(alike, torch.full((3, 64), 1 / 64))

"""Goal-conditioned behaviour cloning: what it learns from, and what it takes to be impossible."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lwm_agent.errors import UserError
from lwm_agent.models import GCBC, MODELS
from lwm_agent.protocols import Batch

B, L, F, A, SIDE = 3, 4, 5, 2, 32


@pytest.fixture
def model() -> GCBC:
    torch.manual_seed(0)
    return GCBC(action_size=A, frameskip=F, image_size=SIDE, latent_size=11, width=16)


def batch(steps: list[float]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels, goal = (torch.randn(*shape, 3, SIDE, SIDE, generator=generator) for shape in ((B, L), (B,)))
    return Batch(pixels, torch.randn(B, L - 1, F * A, generator=generator), goal=goal, goal_steps=torch.tensor(steps))


def errors(model: GCBC, clips: Batch) -> Tensor:
    """Mean squared error ``(B, L - 1)`` of each block, frame by frame."""
    assert clips.goal is not None
    goal = model.embed(clips.goal)
    rows = []
    for frame, block in zip(clips.pixels.unbind(1), clips.actions.unbind(1), strict=False):
        mean, _ = model.act(model.embed(frame), goal, torch.ones(B))
        rows.append((mean - block).square().mean(-1))
    return torch.stack(rows, dim=1)


def test_it_learns_from_the_frames_before_a_goal_of_their_own_trajectory(model: GCBC) -> None:
    clips = batch([6.0, math.inf, 40.0])  # two frames before the goal, none, and all three
    each = errors(model, clips)
    expected = (each[0, :2].sum() + each[2].sum()) / 5
    torch.testing.assert_close(model.loss(clips)["loss"], expected)


def test_a_batch_of_goals_of_other_trajectories_teaches_nothing(model: GCBC) -> None:
    loss = model.loss(batch([math.inf] * B))["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_batches_without_goals_are_refused(model: GCBC) -> None:
    with pytest.raises(UserError, match="learns from goals: this batch has none"):
        model.loss(batch([5.0] * B)._replace(goal=None, goal_steps=None))


def test_it_has_no_sense_of_time(model: GCBC) -> None:
    latent, goal = torch.randn(B, 11), torch.randn(B, 11)
    assert model.steps_to_go(latent, goal).tolist() == [math.inf] * B
    assert model.distance_flops == 0
    torch.testing.assert_close(model.act(latent, goal, torch.tensor([1, 2, 9])), model.act(latent, goal, torch.ones(B)))


def test_it_acts_towards_the_goal_of_its_row(model: GCBC) -> None:
    latent, goal = torch.randn(B, 11), torch.randn(B, 11)
    mean, _ = model.act(latent, goal, torch.ones(B))
    for row in range(B):
        alone, _ = model.act(latent[row : row + 1], goal[row : row + 1], torch.ones(1))
        torch.testing.assert_close(mean[row], alone[0])
    assert (model.act(latent, goal.roll(1, 0), torch.ones(B))[0] - mean).abs().amin() > 0


def test_tiny_is_of_the_size_of_the_world_model_beside_it() -> None:
    sizes = {
        name: sum(
            weight.numel() for weight in MODELS[name].model(action_size=A, **MODELS[name].presets["tiny"]).parameters()
        )
        for name in ("lewm", "gcbc")
    }
    assert sizes["gcbc"] == 4_234_634
    assert 0.7 < sizes["gcbc"] / sizes["lewm"] < 1.1


@pytest.mark.parametrize(
    ("settings", "message"), [({"encoder": "cnn"}, "encoder='cnn' is unknown"), ({"depth": 0}, "depth=0")]
)
def test_unusable_settings_are_refused(settings: dict[str, str | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GCBC(action_size=A, **settings)  # type: ignore[arg-type]

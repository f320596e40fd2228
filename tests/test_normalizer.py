"""Units of pictures and actions."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from lwm_agent.normalizer import Normalizer

NORMALIZER = Normalizer(
    pixel_mean=(0.1, 0.2, 0.3),
    pixel_std=(0.5, 0.4, 0.3),
    action_mean=(0.5, -1.0, 0.0),
    action_std=(2.0, 0.5, 1.0),
    action_low=(-1.5, -2.0, -3.0),
    action_high=(2.5, 0.0, 3.0),
)


def test_pixels_move_the_colour_axis_and_standardise_each_colour() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 6, 3), np.uint8)
    tensor = NORMALIZER.pixels(frames)
    assert tensor.shape == (2, 5, 3, 4, 6)
    assert float(tensor[1, 2, 1, 3, 5]) == pytest.approx((frames[1, 2, 3, 5, 1] / 255 - 0.2) / 0.4, rel=1e-5)


@pytest.mark.parametrize("frames", [np.zeros((4, 6, 3), np.float32), np.zeros((4, 6, 4), np.uint8)])
def test_pixels_of_another_kind_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        NORMALIZER.pixels(frames)


def test_blocks_and_env_actions_are_inverse() -> None:
    actions = np.random.default_rng(0).uniform(-0.9, -0.1, (2, 5, 4, 3)).astype(np.float32)
    blocks = NORMALIZER.blocks(actions)
    assert blocks.shape == (2, 5, 12)
    assert float(blocks[1, 2, 4]) == pytest.approx((actions[1, 2, 1, 1] + 1.0) / 0.5, rel=1e-5)
    assert np.allclose(NORMALIZER.env_actions(blocks), actions, atol=1e-6)


def test_bounds_are_the_actions_bounds_and_actions_never_leave_them() -> None:
    low, high = NORMALIZER.bounds(frameskip=4)
    assert torch.allclose(low, torch.tensor([-1.0, -2.0, -3.0]).repeat(4))
    assert torch.allclose(high, torch.tensor([1.0, 2.0, 3.0]).repeat(4))
    far = NORMALIZER.env_actions(torch.full((12,), 99.0))
    assert far.shape == (4, 3)
    assert (far == np.array([2.5, 0.0, 3.0], np.float32)).all()


def test_it_survives_json_and_refuses_nonsense() -> None:
    assert Normalizer(**json.loads(json.dumps(asdict(NORMALIZER)))) == NORMALIZER
    with pytest.raises(TypeError):
        Normalizer(**asdict(NORMALIZER), extra=(1.0,))
    with pytest.raises(ValueError, match="positive"):
        Normalizer(**{**asdict(NORMALIZER), "action_std": (0.0, 1.0, 1.0)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_low": (2.5, -2.0, -3.0)}, r"action_low\[0\]=2.5 must be below action_high\[0\]=2.5"),
        ({"action_low": (3.0, -2.0, -3.0)}, r"action_low\[0\]=3.0 must be below"),
        ({"action_high": (float("inf"), 0.0, 3.0)}, "action_high=.* must be finite"),
        ({"action_mean": (float("nan"), 0.0, 3.0)}, "action_mean=.* must be finite"),
        ({"pixel_std": (1.0,)}, "pixel_std has 1 numbers and pixel_mean has 3"),
        ({"action_high": (1.0,) * 4}, "action_high has 4 numbers and action_mean has 3"),
        ({"action_std": (1.0, -1.0, 1.0)}, "positive"),
        ({"pixel_mean": ()}, "at least one"),
        ({"pixel_mean": None}, "must be a list of numbers"),
        ({"pixel_mean": "abc"}, "at least one"),
        ({"discrete": "no"}, "discrete='no' must be True or False"),
    ],
)
def test_values_that_contradict_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Normalizer(**{**asdict(NORMALIZER), **changes})

"""The scripted play with the cube: it moves the cube, covers the actions, and keeps its randomness to itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

if find_spec("ogbench") is None:
    pytest.skip("ogbench is not installed: it has no wheels for this Python", allow_module_level=True)

from lwm_agent.envs.cube import CubeEnv
from lwm_agent.envs.cube_play import NoisyPolicy, PlayPolicy, mixed_policy

STEPS, WINDOW = 150, 25


def play(kind: Callable[[np.random.Generator], Any], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """States ``(STEPS + 1, 41)`` and actions ``(STEPS, 5)`` of an episode."""
    env = CubeEnv(image_size=16, fidelity="blank", terminate_on_success=False)
    policy = kind(np.random.default_rng([seed, 1]))
    _, info = env.reset(seed=seed)
    states, actions = [info["state"]], []
    for _ in range(STEPS):
        actions.append(policy(info))
        assert env.action_space.contains(actions[-1])
        *_, info = env.step(actions[-1])
        states.append(info["state"])
    return np.array(states), np.array(actions)


@pytest.mark.parametrize("kind", [PlayPolicy, NoisyPolicy, mixed_policy])
def test_cube_moves_and_actions_vary(kind: Callable[[np.random.Generator], Any]) -> None:
    played = [play(kind, seed) for seed in range(6)]
    cube, actions = np.array([states[:, 14:17] for states, _ in played]), np.array([actions for _, actions in played])
    moved = np.linalg.norm(cube[:, WINDOW:] - cube[:, :-WINDOW], axis=-1) > 0.04
    assert moved.mean() > 0.4
    assert (cube[..., 2] > 0.05).mean() > 0.05  # lifted, not only pushed
    assert np.ptp(cube[..., :2], axis=(0, 1)).min() > 0.15
    assert actions.std((0, 1)).min() > 0.2
    assert actions.min((0, 1)).max() < -0.5
    assert actions.max((0, 1)).min() > 0.5


@pytest.mark.parametrize("kind", [PlayPolicy, NoisyPolicy, mixed_policy])
def test_play_depends_on_its_generator_alone(kind: Callable[[np.random.Generator], Any]) -> None:
    np.random.seed(3)  # noqa: NPY002  (ogbench draws from the global generator)
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    states, actions = play(kind, 0)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002
    again = play(kind, 0)
    np.testing.assert_array_equal(again[0], states)
    np.testing.assert_array_equal(again[1], actions)
    assert not np.array_equal(play(kind, 1)[1], actions)


def test_mixed_is_both() -> None:
    kinds = {type(mixed_policy(np.random.default_rng(seed))) for seed in range(20)}
    assert kinds == {PlayPolicy, NoisyPolicy}


def test_targets_change_within_an_episode() -> None:
    env = CubeEnv(image_size=16, fidelity="blank", terminate_on_success=False)
    policy, targets = PlayPolicy(np.random.default_rng(0)), set()
    _, info = env.reset(seed=0)
    for _ in range(2 * STEPS):
        *_, info = env.step(policy(info))
        targets.add(tuple(policy._target["privileged/target_block_pos"]))
    assert len(targets) >= 3


def test_reset_forgets_the_target() -> None:
    env, policy = CubeEnv(image_size=16, fidelity="blank"), PlayPolicy(np.random.default_rng(0))
    _, info = env.reset(seed=0)
    while policy._oracle is None:
        policy(info)
    policy.reset()
    assert policy._oracle is None
    assert policy._steps == 0

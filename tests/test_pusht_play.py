"""Statistics of the scripted play: training data without pushes teaches a world model nothing about the block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_geometry import CENTER_OF_GRAVITY, WORLD, place
from lwm_agent.envs.pusht_play import NoisyPolicy, PlayPolicy, mixed_policy

EPISODES, STEPS, WINDOW = 40, 150, 25
Kind = Callable[[np.random.Generator], PlayPolicy]
kinds = pytest.mark.parametrize("kind", [PlayPolicy, NoisyPolicy, mixed_policy])


def play(env: PushTEnv, seed: int, kind: Kind = PlayPolicy) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """States ``(STEPS + 1, 7)`` and actions ``(STEPS, 2)`` of an episode, without its pictures."""
    env.np_random = np.random.default_rng([seed, 0])
    policy = kind(np.random.default_rng([seed, 1]))
    env.set_state(env.sample_state())
    states, actions = [env.get_state()], []
    for _ in range(STEPS):
        actions.append(policy({"state": states[-1]}))
        env.simulate(actions[-1])
        states.append(env.get_state())
    return np.array(states), np.array(actions)


@pytest.fixture(scope="module")
def env() -> PushTEnv:
    return PushTEnv(image_size=16)


@pytest.fixture(scope="module")
def states(env: PushTEnv) -> NDArray[np.float64]:
    return np.array([play(env, seed)[0] for seed in range(EPISODES)])


def test_block_moves_and_turns(states: NDArray[np.float64]) -> None:
    change = states[:, WINDOW:, 2:5] - states[:, :-WINDOW, 2:5]
    assert np.mean(np.linalg.norm(change[..., :2], axis=-1) > 20) >= 0.60
    assert np.mean(np.abs(change[..., 2]) > np.radians(20)) >= 0.35


def test_block_stays_on_the_table(states: NDArray[np.float64]) -> None:
    centers = np.array([place((CENTER_OF_GRAVITY,), *pose)[0] for pose in states[..., 2:5].reshape(-1, 3).tolist()])
    assert np.mean(((centers > 5) & (centers < WORLD - 5)).all(axis=1)) > 0.99


def test_agent_comes_from_all_sides(states: NDArray[np.float64]) -> None:
    """Seen from the block, each of eight directions holds the agent for at least 3 % of the time."""
    offset = states[..., :2] - states[..., 2:4]
    bearing = np.arctan2(offset[..., 1], offset[..., 0]) - states[..., 4]
    counts = np.bincount((bearing // (np.pi / 4) % 8).astype(int).ravel(), minlength=8)
    assert counts.min() > 0.03 * counts.sum()


@kinds
def test_play_depends_on_its_generator_alone(env: PushTEnv, kind: Kind) -> None:
    states, actions = play(env, 0, kind)
    np.testing.assert_array_equal(play(PushTEnv(image_size=16), 0, kind)[0], states)
    assert not np.array_equal(play(env, 1, kind)[1], actions)


def test_noisy_play_still_pushes_and_shakes_as_planners_do(env: PushTEnv) -> None:
    played = [play(env, seed, NoisyPolicy) for seed in range(EPISODES)]
    states, actions = np.array([states for states, _ in played]), np.array([actions for _, actions in played])
    change = states[:, WINDOW:, 2:5] - states[:, :-WINDOW, 2:5]
    assert np.mean(np.linalg.norm(change[..., :2], axis=-1) > 20) >= 0.60
    assert np.mean(np.abs(change[..., 2]) > np.radians(20)) >= 0.35
    calm = np.array([play(env, seed)[1] for seed in range(EPISODES)])

    def jerk(actions: NDArray[np.float32]) -> float:
        return float(np.median(np.abs(np.diff(actions, axis=1))))

    assert jerk(actions) > 2 * jerk(calm)


def test_mixed_is_both() -> None:
    assert {type(mixed_policy(np.random.default_rng(seed))) for seed in range(20)} == {PlayPolicy, NoisyPolicy}


@kinds
def test_actions_are_in_the_box(env: PushTEnv, kind: Kind) -> None:
    _, actions = play(env, 2, kind)
    assert actions.dtype == np.float32
    assert all(env.action_space.contains(action) for action in actions)
    assert actions.std() > 0.1


def test_reset_forgets_the_current_push(env: PushTEnv) -> None:
    policy = PlayPolicy(np.random.default_rng(0))
    state = np.array([100.0, 100.0, 256.0, 256.0, 0.0, 0.0, 0.0])
    while policy._mode != "approach":
        policy({"state": state})
    policy.reset()
    assert policy._mode == "choose"

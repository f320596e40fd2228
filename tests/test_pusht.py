"""Push-T as an environment: the Gymnasium contract, reset and its options, pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import lwm_agent  # noqa: F401  (registers the environment)
from lwm_agent.envs import pusht
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_geometry import block_polygons, distance_to_block

State = NDArray[np.float64]
ENV_ID = "lwm/PushT-v0"
GOAL_GREEN = (144, 238, 144)


def at(
    agent_x: float = 100.0, agent_y: float = 420.0, block_x: float = 256.0, block_y: float = 256.0, angle: float = 0.0
) -> State:
    """A state at rest."""
    return np.array([agent_x, agent_y, block_x, block_y, angle, 0.0, 0.0])


def small(**settings: Any) -> PushTEnv:
    return PushTEnv(image_size=16, **settings)


@pytest.mark.parametrize("check", [gymnasium_check, sb3_check])
def test_checkers_find_nothing(check: Callable[[gym.Env[Any, Any]], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(gym.make(ENV_ID, render_mode="rgb_array").unwrapped)


def test_make_limits_an_episode() -> None:
    with gym.make(ENV_ID, image_size=16) as env:
        assert env.spec is not None
        assert env.spec.max_episode_steps == 300
        _, info = env.reset(seed=0)
        assert info.keys() == {"state", "goal_state", "is_success", "coverage"}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_envs_reset_in_each_mode(vectorization: str, mode: AutoresetMode) -> None:
    settings = {"vector_kwargs": {"autoreset_mode": mode}, "image_size": 16}
    envs = gym.make_vec(ENV_ID, 3, vectorization, **settings)  # type: ignore[arg-type]
    still = np.zeros((3, 2), np.float32)
    observation, info = envs.reset(seed=5, options={"state": at(), "goal_state": at()})
    assert observation["pixels"].shape == observation["goal"].shape == (3, 16, 16, 3)
    observation, reward, terminated, _, info = envs.step(still)
    assert reward.tolist() == [1.0] * 3
    assert terminated.all()
    if mode is AutoresetMode.SAME_STEP:
        assert info["final_info"]["is_success"].all()
        np.testing.assert_array_equal(info["final_obs"][0]["pixels"], small().picture(at()))
    elif mode is AutoresetMode.NEXT_STEP:
        observation, reward, terminated, _, info = envs.step(still)
        assert reward.tolist() == [0.0] * 3
        assert not terminated.any()
    else:
        observation, info = envs.reset(options={"reset_mask": np.ones(3, bool)})
    assert not info["is_success"].any()
    for row in range(3):  # the new episodes are the environments' own
        np.testing.assert_array_equal(observation["pixels"][row], small().picture(info["state"][row]))
        np.testing.assert_array_equal(observation["goal"][row], small().picture(info["goal_state"][row]))
    assert len(np.unique(info["state"], axis=0)) == 3
    envs.close()


@pytest.mark.parametrize("vec_env", [DummyVecEnv, partial(SubprocVecEnv, start_method="fork")])
def test_sb3_vec_envs_step_and_reset(vec_env: Callable[..., VecEnv]) -> None:
    envs = vec_env([partial(gym.make, ENV_ID, max_episode_steps=2)] * 2)
    envs.seed(0)
    first = envs.reset()
    assert isinstance(first, dict)
    assert first["pixels"].shape == (2, 64, 64, 3)
    envs.step(np.zeros((2, 2)))
    _, rewards, dones, infos = envs.step(np.zeros((2, 2)))
    assert dones.all()
    assert rewards.tolist() == [0.0, 0.0]
    for row, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        np.testing.assert_array_equal(info["terminal_observation"]["pixels"], first["pixels"][row])  # nothing moved
    envs.close()


def test_a_seed_fixes_states_and_pictures() -> None:
    def episode(seed: int) -> tuple[State, NDArray[np.uint8]]:
        env, rng = PushTEnv(terminate_on_success=False), np.random.default_rng(3)
        first, info = env.reset(seed=seed)
        states, pixels = [info["goal_state"], info["state"]], [first["goal"], first["pixels"]]
        for _ in range(10):
            observation, _, _, _, info = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
            states.append(info["state"])
            pixels.append(observation["pixels"])
        return np.array(states), np.array(pixels)

    for one, other in zip(episode(1), episode(1), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(episode(1)[0], episode(2)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 8}, "image_size=8 is out of range: choose one from 16 to 512"),
        ({"image_size": 513}, "image_size=513 is out of range"),
        ({"render_size": 0}, "render_size=0 is out of range: choose one from 16 to 4096"),
        ({"control_mode": "joint"}, "control_mode='joint' is unknown: choose one of relative, absolute"),
        ({"success": "luck"}, "success='luck' is unknown: choose one of pose, block, coverage"),
        ({"render_mode": "ansi"}, "render_mode='ansi' is unknown: choose one of .*rgb_array"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PushTEnv(**arguments)


@pytest.mark.parametrize(
    "action", [np.zeros(3, np.float32), np.zeros((1, 2), np.float32), np.array([np.nan, 0.0], np.float32)]
)
def test_bad_actions_are_refused(action: NDArray[np.float32]) -> None:
    env = small()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must be finite and of shape \(2,\)"):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": at()}, r"unknown reset options \['goal'\]: choose from state, goal_state, goal_image"),
        ({"state": at()[:5]}, r"options\['state'\] must be 7 finite numbers"),
        ({"goal_state": at()[None]}, r"options\['goal_state'\] must be 7 finite numbers"),
        ({"state": np.full(7, np.nan)}, r"options\['state'\] must be 7 finite numbers"),
        ({"goal_image": np.zeros((64, 64, 3), np.uint8)}, r"uint8 \(64, 64, 3\).*needs uint8 \(16, 16, 3\)"),
        ({"goal_image": np.zeros((16, 16, 3))}, r"float64 \(16, 16, 3\).*needs uint8"),
        ({"goal_image": np.zeros((16, 16, 3), np.uint8), "goal_state": at()[:2]}, r"options\['goal_state'\]"),
    ],
)
def test_bad_reset_options_change_nothing(options: dict[str, Any], message: str) -> None:
    env = small()
    _, info = env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    np.testing.assert_array_equal(env.get_state(), info["state"])
    np.testing.assert_array_equal(env.goal_state, info["goal_state"])


def test_reset_sets_exactly_what_info_says() -> None:
    env, state, goal_state = small(), at(angle=7.5) + 1 / 3, at(angle=-9.25) + 0.1
    state[5:] = -120.7, 33.3
    observation, info = env.reset(options={"state": state, "goal_state": goal_state})
    np.testing.assert_array_equal(info["state"], state)
    np.testing.assert_array_equal(info["goal_state"], goal_state)
    np.testing.assert_array_equal(observation["pixels"], env.picture(state))
    np.testing.assert_array_equal(observation["goal"], env.picture(goal_state))


def test_what_goes_in_and_out_is_copied() -> None:
    env, state, goal_state = small(), at(), at(angle=1.0)
    goal_image = env.picture(goal_state)
    options = {"state": state, "goal_state": goal_state, "goal_image": goal_image}
    observation, info = env.reset(options=options)
    for array in (state, goal_state, goal_image, *observation.values(), info["state"], info["goal_state"]):
        array[:] = 0
    observation, _, _, _, info = env.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(info["state"], at())
    np.testing.assert_array_equal(info["goal_state"], at(angle=1.0))
    np.testing.assert_array_equal(observation["goal"], env.picture(at(angle=1.0)))


@pytest.mark.parametrize("success", PushTEnv.successes)
def test_goal_known_by_its_picture_only(success: str) -> None:
    env = small(success=success, render_mode="rgb_array")
    goal_image = env.picture(at())
    observation, info = env.reset(options={"state": at(), "goal_image": goal_image})
    np.testing.assert_array_equal(observation["goal"], goal_image)
    for _ in range(2):
        assert np.isnan(info["goal_state"]).all()
        assert info["is_success"] is False
        assert info["coverage"] == 0.0
        _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
        assert (reward, terminated) == (0.0, False)
    frame = env.render()
    assert frame is not None
    assert not (frame == GOAL_GREEN).all(axis=2).any()
    _, info = env.reset(options={"state": at(), "goal_state": at(), "goal_image": goal_image})
    assert info["is_success"] is True


def test_random_starts_are_on_the_table_and_apart() -> None:
    env = small()
    env.reset(seed=0)
    for state in (env.sample_state() for _ in range(100)):
        corners = np.concatenate(block_polygons(*state[2:5]))
        assert corners.min() > 10
        assert corners.max() < pusht.WORLD - 10
        assert distance_to_block(*state[:5]) > pusht.AGENT_RADIUS


@pytest.mark.parametrize("image_size", [64, 96, 512])
def test_observations_show_the_table(image_size: int) -> None:
    env = PushTEnv(image_size=image_size)
    observation, _ = env.reset(options={"state": at(), "goal_state": at(block_x=346.0)})
    assert env.observation_space.contains(observation)
    white, blue, gray = (255, 255, 255), (65, 105, 225), (119, 136, 153)
    for name, block_x in (("pixels", 256), ("goal", 346)):
        for x, y, color in ((256, 60, white), (100, 420, blue), (block_x, 271, gray)):
            pixel = observation[name][y * image_size // 512, x * image_size // 512]
            np.testing.assert_allclose(pixel, color, atol=3)  # smoothing rounds down


@pytest.mark.parametrize("image_size", [16, 64, 224, 512])
def test_smoothing_in_parts_equals_smoothing_the_whole(image_size: int) -> None:
    env, rng = PushTEnv(image_size=image_size), np.random.default_rng(0)
    for state in rng.uniform(-60, 570, (20, 7)):
        canvas = pusht._empty_table(image_size * min(3, 1024 // image_size))
        pusht._draw_scene(canvas, state)
        whole = pygame.surfarray.array3d(pygame.transform.smoothscale(canvas, (image_size, image_size)))
        np.testing.assert_array_equal(env.picture(state), whole.swapaxes(0, 1))


def test_observation_does_not_show_where_the_goal_is() -> None:
    env = PushTEnv()
    one, other = (env.reset(options={"state": at(), "goal_state": at(angle=angle)})[0] for angle in (1.0, 2.0))
    np.testing.assert_array_equal(one["pixels"], other["pixels"])
    assert not np.array_equal(one["goal"], other["goal"])


@pytest.mark.parametrize("render_size", [96, 512])
def test_rendered_frame_shows_the_goal(render_size: int) -> None:
    env = PushTEnv(render_mode="rgb_array", render_size=render_size)
    env.reset(options={"state": at(), "goal_state": at(block_x=356.0)})
    frame = env.render()
    assert frame is not None
    assert frame.shape == (render_size, render_size, 3)
    assert frame.dtype == np.uint8
    assert (frame == GOAL_GREEN).all(axis=2).sum() > 0.01 * render_size**2


def test_render_needs_a_mode() -> None:
    env = small()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert env.render() is None


@pytest.mark.parametrize(("render_mode", "driver"), [("human", "dummy"), ("rgb_array", None)])
def test_runs_without_a_display(render_mode: str, driver: str | None) -> None:
    variables = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}
    if driver is not None:
        variables["SDL_VIDEODRIVER"] = driver
    code = f"""
import gymnasium, lwm_agent
with gymnasium.make("{ENV_ID}", render_mode="{render_mode}") as env:
    env.reset(seed=0)
    env.step(env.action_space.sample())
    frame = env.render()
assert (frame is None) == ({render_mode!r} == "human")
"""
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""Push-T as an environment: the Gymnasium contract, reset and its options, pictures."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import lwm_agent  # noqa: F401  (registers the environment)
from lwm_agent.envs import pusht_drawing
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_geometry import AGENT_RADIUS, TEE, WORLD

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


def test_reset_sets_the_state_and_goal_of_info_exactly() -> None:
    env, state, goal_state = small(), at(angle=7.5) + 1 / 3, at(angle=-9.25) + 0.1
    state[5:] = -120.7, 33.3
    observation, info = env.reset(options={"state": state, "goal_state": goal_state})
    np.testing.assert_array_equal(info["state"], state)
    np.testing.assert_array_equal(info["goal_state"], goal_state)
    np.testing.assert_array_equal(observation["pixels"], env.picture(state))
    np.testing.assert_array_equal(observation["goal"], env.picture(goal_state))


@pytest.mark.parametrize("success", PushTEnv.successes)
def test_goal_image_without_a_state_is_never_reached(success: str) -> None:
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
        corners = np.concatenate(TEE.polygons(*state[2:5]))
        assert corners.min() > 10
        assert corners.max() < WORLD - 10
        assert TEE.distance(*state[:5]) > AGENT_RADIUS


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
        canvas = pusht_drawing.empty_table(image_size * min(3, 1024 // image_size), pusht_drawing.Table())
        pusht_drawing.draw_scene(canvas, state, pusht_drawing.Table())
        whole = pygame.surfarray.array3d(pygame.transform.smoothscale(canvas, (image_size, image_size)))
        np.testing.assert_array_equal(env.picture(state), whole.swapaxes(0, 1))


def test_observation_does_not_show_where_the_goal_is() -> None:
    env = PushTEnv()
    first, second = (env.reset(options={"state": at(), "goal_state": at(angle=angle)})[0] for angle in (1.0, 2.0))
    np.testing.assert_array_equal(first["pixels"], second["pixels"])
    assert not np.array_equal(first["goal"], second["goal"])


@pytest.mark.parametrize("render_size", [96, 512])
def test_rendered_frame_shows_the_goal(render_size: int) -> None:
    env = PushTEnv(render_mode="rgb_array", render_size=render_size)
    env.reset(options={"state": at(), "goal_state": at(block_x=356.0)})
    frame = env.render()
    assert frame is not None
    assert frame.shape == (render_size, render_size, 3)
    assert frame.dtype == np.uint8
    assert (frame == GOAL_GREEN).all(axis=2).sum() > 0.01 * render_size**2


@pytest.mark.parametrize(("render_mode", "driver"), [("human", "dummy"), ("rgb_array", None)])
def test_runs_without_a_display(render_mode: str, driver: str | None) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT", "XDG_RUNTIME_DIR")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
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


def test_copies_do_not_share_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = PushTEnv(render_mode="human", render_size=64)
    env.metadata = {**env.metadata, "render_fps": 1000}
    env.reset(seed=0)
    window = pygame.display.get_surface()
    assert window is not None
    duplicate, action = copy.deepcopy(env), np.ones(2, np.float32)
    duplicate.close()  # it has none
    assert pygame.display.get_surface() is window
    duplicate.step(action)  # and opens its own when it is shown
    env.close()
    duplicate.step(action)
    env.step(action)
    duplicate.close()
    env.step(action)
    env.close()
    assert not pygame.display.get_init()
    np.testing.assert_array_equal(duplicate.picture(env.get_state()), env.picture(env.get_state()))


def test_step_of_5_moves_the_agent_as_the_bound_does() -> None:
    env, moved = small(), []
    for action in (5.0, 1.0):
        env.reset(options={"state": at(), "goal_state": at(angle=1.0)})
        *_, info = env.step(np.array([action, 0.0], np.float32))
        moved.append(info["state"][0] - 100.0)
    assert moved[0] == moved[1]
    assert 20 < moved[0] < 40


def test_environment_that_outlives_the_program_ends_silently(tmp_path: Path) -> None:
    code = f"""
import numpy, gymnasium, lwm_agent
env = gymnasium.make("{ENV_ID}", image_size=16)
env.reset(seed=0)
numpy.env_in_a_module_that_is_unloaded_late = env
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")

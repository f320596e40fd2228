"""The contract of a goal-image environment, for every entry of `ENVS`: a new entry is tested without a change here."""

from __future__ import annotations

import inspect
import pkgutil
import warnings
from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check

from lwm_agent.envs import ENVS, EnvSpec, spec_of
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.envs.opengl import choose_backend
from lwm_agent.errors import UserError

UNITS = ("_px", "_m", "_deg", "_rad")


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.ogbench] if name.startswith("cube") else []


every_env = pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in ENVS])


def make(name: str, **settings: Any) -> GoalImageEnv:
    """The environment, without its pictures unless `settings` say otherwise."""
    kwargs = {**ENVS[name].no_pixels_kwargs, "terminate_on_success": False, **settings}
    return cast(GoalImageEnv, gym.make(ENVS[name].env_id, disable_env_checker=True, **kwargs).unwrapped)


def make_drawing(name: str, **settings: Any) -> GoalImageEnv:
    """The environment with small pictures; skips where the machine cannot draw them."""
    if name.startswith("cube"):
        try:
            choose_backend()
        except UserError as error:
            pytest.skip(str(error))
    return cast(
        GoalImageEnv, gym.make(ENVS[name].env_id, disable_env_checker=True, image_size=36, **settings).unwrapped
    )


def actions_of(env: GoalImageEnv, number: int, seed: int = 0) -> NDArray[np.float32]:
    """Random actions ``(number, A)`` inside the Box."""
    box = box_of(env)
    return np.random.default_rng(seed).uniform(box.low, box.high, (number, *box.shape)).astype(np.float32)


def box_of(env: GoalImageEnv) -> gym.spaces.Box:
    assert isinstance(env.action_space, gym.spaces.Box)
    return env.action_space


@every_env
@pytest.mark.parametrize("check", [gymnasium_check, sb3_check])
def test_checkers_find_nothing(name: str, check: Callable[[gym.Env[Any, Any]], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make_drawing(name, render_mode="rgb_array", render_size=64))


@every_env
def test_spec_agrees_with_the_class(name: str) -> None:
    spec, env = ENVS[name], make(name)
    assert spec_of(name) is spec_of(spec.env_id) is spec
    box = box_of(env)
    assert box.dtype == np.float32
    assert box.is_bounded()
    assert len(box.shape) == 1
    parameters = inspect.signature(type(env).__init__).parameters
    assert {parameter.kind for parameter in list(parameters.values())[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"image_size", "success", "terminate_on_success", "render_mode", "render_size"} <= parameters.keys()
    assert {argument: parameters[argument].default for argument in spec.conventions} == spec.conventions
    assert spec.no_pixels_kwargs.keys() <= parameters.keys()
    assert parameters["success"].default == env.successes[0]
    assert all(0 <= column < env.state_size for columns in spec.probes.values() for column in columns)


@every_env
def test_seed_fixes_the_episode(name: str) -> None:
    def episode(seed: int) -> list[Any]:
        env = make_drawing(name)
        results: list[Any] = [env.reset(seed=seed)]
        return results + [env.step(action) for action in actions_of(env, 5)]

    first = episode(1)
    np.testing.assert_equal(episode(1), first)
    (observation, info), (other_observation, other_info) = first[0], episode(2)[0]
    for key in ("state", "goal_state"):
        assert not np.array_equal(info[key], other_info[key])
    for key in ("pixels", "goal"):
        assert not np.array_equal(observation[key], other_observation[key])


@every_env
def test_restored_state_continues_exactly(name: str) -> None:
    env, restored = make(name), make(name)
    env.reset(seed=0)
    restored.reset(seed=1)
    for action, detour in zip(actions_of(env, 25), actions_of(env, 25, seed=1), strict=True):
        state = env.get_state()
        restored.step(detour)
        restored.set_state(state)
        np.testing.assert_array_equal(restored.get_state(), state)
        env.step(action)
        restored.step(action)
        np.testing.assert_array_equal(restored.get_state(), env.get_state())


@every_env
def test_observations_are_pictures_of_state_and_goal(name: str) -> None:
    env = make_drawing(name, terminate_on_success=False)
    observation, info = env.reset(seed=3)
    for action in actions_of(env, 3):
        np.testing.assert_array_equal(observation["pixels"], env.picture(info["state"]))
        np.testing.assert_array_equal(observation["goal"], env.picture(info["goal_state"]))
        assert env.observation_space.contains(observation)
        observation, _, _, _, info = env.step(action)


@every_env
def test_info_has_the_declared_types(name: str) -> None:
    env = make(name)
    _, info = env.reset(seed=0)
    for _ in range(2):
        for key in ("state", "goal_state"):
            assert (info[key].dtype, info[key].shape) == (np.float64, (env.state_size,))
        assert type(info["is_success"]) is bool
        assert all(isinstance(value, bool | float | np.ndarray) for value in info.values())
        _, reward, terminated, truncated, info = env.step(actions_of(env, 1)[0])
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)


@every_env
def test_goal_state_is_success_under_every_criterion(name: str) -> None:
    for success in type(make(name)).successes:
        env = make(name, success=success)
        env.reset(seed=0)
        for goal_state in (env.sample_state() for _ in range(5)):
            _, info = env.reset(options={"state": goal_state, "goal_state": goal_state})
            assert info["is_success"] is True
            assert not env.is_nontrivial(goal_state, goal_state)
            np.testing.assert_allclose(list(env.errors(goal_state, goal_state).values()), 0, atol=1e-4)
            assert not env.is_success(goal_state, np.full(env.state_size, np.nan))


@every_env
def test_random_goals_are_nontrivial_and_errors_have_units(name: str) -> None:
    env = make(name)
    env.reset(seed=0)
    states = [env.sample_state() for _ in range(20)]
    assert any(env.is_nontrivial(state, states[0]) for state in states[1:])
    for state in states[1:]:
        errors = env.errors(state, states[0])
        assert errors
        assert all(key.endswith(UNITS) for key in errors)
        assert all(type(error) is float and 0 < error < np.inf for error in errors.values())


@every_env
def test_goal_known_by_its_picture_is_never_reached(name: str) -> None:
    env = make(name)
    env.reset(seed=0)
    state, goal_image = env.sample_state(), np.full((env.image_size, env.image_size, 3), 7, np.uint8)
    observation, info = env.reset(options={"state": state, "goal_image": goal_image})
    for action in actions_of(env, 2):
        np.testing.assert_array_equal(observation["goal"], goal_image)
        assert np.isnan(info["goal_state"]).all()
        assert info["is_success"] is False
        observation, reward, _, _, info = env.step(action)
        assert reward == 0.0


@every_env
def test_arguments_without_pixels_keep_the_physics(name: str) -> None:
    fast, full = make(name), make_drawing(name, terminate_on_success=False)
    _, info = fast.reset(seed=0)
    full.reset(options={"state": info["state"], "goal_state": info["goal_state"]})
    for action in actions_of(fast, 5):
        np.testing.assert_equal(fast.step(action)[1:], full.step(action)[1:])


@every_env
def test_scripted_policies_act_inside_the_box(name: str) -> None:
    env = make(name)
    for place in ENVS[name].policies.values():
        policy = pkgutil.resolve_name(place)(np.random.default_rng(0))
        for seed in range(2):
            policy.reset()
            _, info = env.reset(seed=seed)
            actions = []
            for _ in range(20):
                action = policy(info)
                if action is None and actions:  # its episode is over
                    break
                actions.append(action)
                assert env.action_space.contains(actions[-1])
                *_, info = env.step(actions[-1])
            assert np.std(actions) > 0


@every_env
def test_rendered_frames_have_their_size(name: str) -> None:
    env = make_drawing(name, render_mode="rgb_array", render_size=48)
    assert "rgb_array" in env.metadata["render_modes"]
    assert env.metadata["render_fps"] > 0
    env.reset(seed=0)
    frame = cast(Any, env.render())
    assert (frame.shape, frame.dtype) == ((48, 48, 3), np.uint8)
    silent = make(name)
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert silent.render() is None


@every_env
def test_environment_can_be_closed_twice_and_used_again(name: str) -> None:
    env, untouched = make(name), make(name)
    for each in (env, untouched):
        each.reset(seed=0)
    for _ in range(2):
        env.close()
    for action in actions_of(env, 2):
        np.testing.assert_equal(env.step(action), untouched.step(action))
    np.testing.assert_equal(env.reset(seed=1), untouched.reset(seed=1))


def test_every_entry_is_an_env_spec() -> None:
    assert all(isinstance(spec, EnvSpec) for spec in ENVS.values())
    assert len({spec.env_id for spec in ENVS.values()}) == len(ENVS)


@every_env
def test_films_know_places_in_the_picture(name: str) -> None:
    env = make_drawing(name)
    _, info = env.reset(seed=3)
    marks = env.landmarks(info["state"])
    assert all(-0.5 < place < 1.5 for mark in marks.values() for place in mark)  # a gripper may be above the picture
    candidates = actions_of(env, 7 * 4).reshape(7, 4, -1)
    ways = env.steered(info["state"], candidates)
    if ways is not None:
        assert ways.shape == (7, 5, 2)
        np.testing.assert_allclose(ways[:, 0], [next(iter(marks.values()))] * 7)  # the agent is the first mark
        alone = env.steered(info["state"], candidates[2:3])
        assert alone is not None
        np.testing.assert_array_equal(alone[0], ways[2])
    np.testing.assert_array_equal(env.get_state(), info["state"])  # asking changes nothing

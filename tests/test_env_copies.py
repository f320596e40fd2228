"""Copies of every environment, of its arrays and its policies, and its use in several threads."""

from __future__ import annotations

import copy
import pickle
import pkgutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_agent.envs import ENVS
from lwm_agent.envs.base import GoalImageEnv

from .test_env_contract import actions_of, every_env, make, make_drawing


def arrays_in(contents: dict[str, Any]) -> list[NDArray[Any]]:
    return [value for value in contents.values() if isinstance(value, np.ndarray)]


@every_env
def test_arrays_that_enter_or_leave_are_copies(name: str) -> None:
    env, untouched = make_drawing(name), make_drawing(name)
    env.reset(seed=0)
    state, goal_state = env.sample_state(), env.sample_state()
    goal_image = env.picture(goal_state)
    options = {"state": state, "goal_state": goal_state, "goal_image": goal_image}
    expected = untouched.reset(seed=0, options=copy.deepcopy(options))
    result = env.reset(seed=0, options=options)
    np.testing.assert_equal(result, expected)
    for action in actions_of(env, 3):
        observation, info = result[0], result[-1]
        returned = [*arrays_in(observation), *arrays_in(info), env.get_state(), env.goal_state, env.picture(state)]
        for array in (state, goal_state, goal_image, *returned):
            array[...] = 0
        np.testing.assert_equal(env._info(), expected[-1])
        expected, result = untouched.step(action.copy()), env.step(action)
        action[...] = 0
        np.testing.assert_equal(result, expected)
    kept = env.get_state()
    env.set_state(kept)
    kept[...] = 0
    np.testing.assert_array_equal(env.get_state(), expected[-1]["state"])


@every_env
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "deep", "pickle"]
)
def test_copies_continue_exactly_and_independently(name: str, duplicate: Callable[[Any], Any]) -> None:
    env = gym.make(ENVS[name].env_id, **ENVS[name].no_pixels_kwargs, terminate_on_success=False)
    simulator = cast(GoalImageEnv, env.unwrapped)
    if duplicate is copy.copy:  # a shallow copy shares its generator, but nothing else
        env = cast(Any, simulator)
    actions = actions_of(simulator, 20)
    env.reset(seed=0)
    for action in actions[:10]:
        env.step(action)
    duplicated, untouched = duplicate(env), make(name)
    untouched.reset(seed=0)
    for action in actions[:10]:
        untouched.step(action)
    expected = [untouched.step(action) for action in actions[10:]]
    for each in (duplicated, env):  # one after the other: neither disturbs the other
        np.testing.assert_equal([each.step(action) for action in actions[10:]], expected)
    if duplicate is not copy.copy:
        expected_reset = untouched.reset()
        np.testing.assert_equal(duplicated.reset(), expected_reset)
        np.testing.assert_equal(env.reset(), expected_reset)


@every_env
def test_environment_can_be_copied_before_its_first_reset(name: str) -> None:
    env = make(name)
    duplicate = copy.deepcopy(env)
    np.testing.assert_equal(duplicate.reset(seed=0), env.reset(seed=0))


@every_env
def test_copies_draw_the_same_pictures(name: str) -> None:
    env = make_drawing(name, render_mode="rgb_array", render_size=48)
    env.reset(seed=0)
    duplicate = copy.deepcopy(env)
    np.testing.assert_array_equal(duplicate.render(), env.render())
    action = actions_of(env, 1)[0]
    np.testing.assert_equal(duplicate.step(action), env.step(action))


@every_env
def test_scripted_policies_can_be_copied(name: str) -> None:
    env = make(name)
    for place in ENVS[name].policies.values():
        policy = pkgutil.resolve_name(place)(np.random.default_rng(0))
        policy.reset()
        _, info = env.reset(seed=0)
        for _ in range(4):
            *_, info = env.step(policy(info))
        duplicate = copy.deepcopy(policy)
        for _ in range(5):
            action = policy(info)
            np.testing.assert_equal(duplicate(info), action)
            if action is None:  # its episode is over
                break
            *_, info = env.step(action)


@every_env
def test_environment_works_in_another_thread(name: str) -> None:
    env, untouched = make_drawing(name), make_drawing(name)
    actions = actions_of(env, 4)
    env.reset(seed=0)
    untouched.reset(seed=0)
    expected = [untouched.step(action) for action in actions]
    with ThreadPoolExecutor(1) as other:
        results = [env.step(actions[0]), *other.map(env.step, actions[1:3]), env.step(actions[3])]
    np.testing.assert_equal(results, expected)


@every_env
def test_environments_in_two_threads_do_not_disturb_each_other(name: str) -> None:
    def run(seed: int) -> list[Any]:
        env, policy = make(name), pkgutil.resolve_name(ENVS[name].policies["play"])(np.random.default_rng(seed))
        policy.reset()
        barrier.wait()
        _, info = env.reset(seed=seed)
        results = [info]
        for _ in range(20):
            *_, info = env.step(policy(info))
            results.append(info)
        return results

    barrier = threading.Barrier(1)
    expected = [run(seed) for seed in range(2)]
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        np.testing.assert_equal(list(pool.map(run, range(2))), expected)

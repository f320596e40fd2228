"""Bad arguments, states, goals and actions of every environment: refused by name, or clipped, and nothing changes."""

from __future__ import annotations

import copy
import pkgutil
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from lwm_agent.envs import ENVS
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.errors import UserError

from .test_env_contract import actions_of, box_of, every_env, make, marks

CONTROL_MODES: dict[str, list[dict[str, Any]]] = {"pusht": [{"control_mode": "relative"}, {"control_mode": "absolute"}]}
every_control_mode = pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(name, settings, marks=marks(name), id="-".join((name, *settings.values())))
        for name in ENVS
        for settings in CONTROL_MODES.get(name, [{}])
    ],
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": {"noisy": "lwm_agent.envs.pusht_play:NoisyPolicy"}}, "has no policy 'play', only .*noisy"),
        ({"policies": {"play": "lwm_agent.envs.pusht_play.PlayPolicy"}}, "must name a module and an object"),
        ({"entry_point": "PushTEnv"}, "'PushTEnv' must name a module and an object"),
        ({"max_episode_steps": 0}, "max_episode_steps=0 must be at least 1"),
    ],
)
def test_spec_refuses_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(ENVS["pusht"], **changes)


def test_environment_without_a_required_method_cannot_be_made() -> None:
    class Incomplete(GoalImageEnv):
        state_size = 2

    with pytest.raises(TypeError, match="picture"):
        Incomplete(  # type: ignore[abstract]
            image_size=16, success="", terminate_on_success=True, render_mode=None, render_size=16
        )


@every_env
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("image_size", value) for value in (15, 513, 64.0, "64", True, None, float("nan"))),
        *(("render_size", value) for value in (0, 4097, 64.5, "64", False, None)),
        *(("terminate_on_success", value) for value in ("no", 0, None, [])),
        *(("success", value) for value in ("luck", "", None, 1, ["pose"])),
        *(("render_mode", value) for value in ("ansi", "", 1, ["rgb_array"])),
    ],
)
def test_constructor_refuses_bad_values(name: str, argument: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{argument}="):
        pkgutil.resolve_name(ENVS[name].entry_point)(**{argument: value})


@every_env
@pytest.mark.parametrize("key", ["state", "goal_state"])
def test_bad_states_change_nothing(name: str, key: str) -> None:
    env = make(name)
    _, info = env.reset(seed=0)
    good, before = env.sample_state(), copy.deepcopy(env.np_random.bit_generator.state)
    bad: list[Any] = [
        *(
            good[:-1],
            good[None],
            np.append(good, 0.0),
            np.full_like(good, np.nan),
            np.full_like(good, np.inf),
            np.full_like(good, 1e7),
        ),
        *(good.astype(complex), good.astype(str), good > 0, "state", 1.0, [[1.0], [2.0, 3.0]], {"x": 1.0}, [10**400]),
    ]
    for value in bad:
        with pytest.raises(UserError, match=rf"options\['{key}'\]"):
            env.reset(seed=1, options={key: value})
        if key == "state":
            with pytest.raises(UserError, match=r"^state"):
                env.set_state(value)
    np.testing.assert_equal(env.np_random.bit_generator.state, before)
    np.testing.assert_array_equal(env.get_state(), info["state"])
    np.testing.assert_array_equal(env.goal_state, info["goal_state"])


@every_env
def test_bad_goal_images_and_options_change_nothing(name: str) -> None:
    env = make(name)
    observation, info = env.reset(seed=0)
    good, before = observation["goal"], copy.deepcopy(env.np_random.bit_generator.state)
    bad: list[Any] = [
        *(good[:-1], good[None], good[..., :1], good[..., 0], good.astype(np.float32), good.astype(np.int64)),
        *(good > 0, "goal.png", 7, [[1], [2, 3]]),
    ]
    for value in bad:
        with pytest.raises(UserError, match=r"options\['goal_image'\]"):
            env.reset(seed=1, options={"goal_image": value})
    for options in ({"goal": good}, {"state": None, 3: None}):
        with pytest.raises(UserError, match=r"unknown reset options .*choose from state, goal_state, goal_image"):
            env.reset(seed=1, options=cast(Any, options))
    with pytest.raises(UserError, match="must be a dictionary"):
        env.reset(seed=1, options=cast(Any, ["state"]))
    np.testing.assert_equal(env.np_random.bit_generator.state, before)
    np.testing.assert_array_equal(env.get_state(), info["state"])
    np.testing.assert_array_equal(env.step(actions_of(env, 1)[0])[0]["goal"], good)


@every_control_mode
def test_actions_outside_the_box_are_clipped(name: str, settings: dict[str, Any]) -> None:
    env, clipped = make(name, **settings), make(name, **settings)
    box = box_of(env)
    for seed, factor in enumerate((5.0, -5.0, 1e30, -1e300)):
        action = np.full(box.shape, factor)
        action[0] = (box.low + box.high)[0] / 2
        env.reset(seed=seed)
        clipped.reset(seed=seed)
        at_bound = np.clip(action, box.low, box.high).astype(np.float32)
        np.testing.assert_equal(env.step(cast(Any, action)), clipped.step(at_bound))
        np.testing.assert_array_equal(env.executed_action(action), at_bound)
    for action in actions_of(env, 5):  # an action inside is executed as it is
        np.testing.assert_array_equal(env.executed_action(action), action)
        np.testing.assert_array_equal(env.executed_action(action.tolist()), action)


@every_control_mode
def test_actions_that_are_no_vector_of_numbers_are_refused(name: str, settings: dict[str, Any]) -> None:
    env = make(name, **settings)
    _, info = env.reset(seed=0)
    good = actions_of(env, 1)[0]
    hole = good.copy()
    hole[-1] = np.nan
    bad: list[Any] = [
        *(good[:-1], good[None], np.append(good, 0), good[0], hole, np.full_like(good, np.inf), good.astype(complex)),
        *(good.astype(str), good > 0, None, "left", [None] * len(good), [[1.0], [2.0, 3.0]], {"action": good}),
    ]
    for action in bad:
        with pytest.raises(UserError, match=r"must be finite and of shape \(\d,\)"):
            env.step(action)
    np.testing.assert_array_equal(env.get_state(), info["state"])


@every_env
def test_environment_needs_a_reset_first(name: str) -> None:
    env = make(name)
    for use in (env.get_state, lambda: env.step(actions_of(env, 1)[0])):
        with pytest.raises(UserError, match=r"call reset\(\)"):
            use()

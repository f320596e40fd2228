"""Impossible events: what they change in a recorded clip, and what they leave alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lwm_agent.envs import ENVS
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.eval.events import GENERIC, Clip, Event, Place
from lwm_agent.eval.state_events import EVENTS, Teleport, events_of
from lwm_agent.imports import import_named

AT, FRAMES, F = 3, 7, 5


def noise(seed: int, frames: int = FRAMES) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip(
        rng.integers(0, 256, (frames, 8, 8, 3), np.uint8),
        rng.normal(size=(frames - 1, F, 2)).astype(np.float32),
        rng.normal(size=(frames, 4)),
    )


def inject(event: Event, clip: Clip, **place: Any) -> Clip | None:
    return event.inject(clip, Place(**{"at": AT, "other": noise(9), "rng": np.random.default_rng(0), **place}))


@pytest.mark.parametrize("name", GENERIC)
def test_generic_events_need_no_states_and_leave_the_past_alone(name: str) -> None:
    clip = noise(0)
    kept = (clip.frames.copy(), clip.env_action.copy())
    changed = inject(GENERIC[name], clip)
    assert not GENERIC[name].needs_states
    assert changed is not None
    np.testing.assert_array_equal(changed.frames[:AT], clip.frames[:AT])
    np.testing.assert_array_equal(changed.env_action[: AT - 1], clip.env_action[: AT - 1])
    same_frame = np.array_equal(changed.frames[AT], clip.frames[AT])
    same_block = np.array_equal(changed.env_action[AT - 1], clip.env_action[AT - 1])
    assert same_frame != same_block
    np.testing.assert_array_equal(clip.frames, kept[0])
    np.testing.assert_array_equal(clip.env_action, kept[1])


def test_generic_events_change_what_they_say() -> None:
    clip, other = noise(0), noise(9)
    changed = {name: inject(event, clip) for name, event in GENERIC.items()}
    assert all(changed.values())
    frames = {name: one.frames[AT:] for name, one in changed.items() if one is not None}
    np.testing.assert_array_equal(frames["freeze"], np.stack([clip.frames[AT - 1]] * (FRAMES - AT)))
    np.testing.assert_array_equal(frames["reversal"], clip.frames[[1, 0, 0, 0]])
    np.testing.assert_array_equal(frames["cut"], other.frames[AT:])
    np.testing.assert_array_equal(frames["colours"], clip.frames[AT:][..., [1, 2, 0]])
    np.testing.assert_array_equal(frames["wrong-actions"], clip.frames[AT:])
    np.testing.assert_array_equal(changed["wrong-actions"].env_action[AT - 1 :], other.env_action[AT - 1 :])  # type: ignore[union-attr]


@pytest.mark.parametrize("name", GENERIC)
def test_events_that_change_nothing_are_none(name: str) -> None:
    grey = np.full((FRAMES, 8, 8, 3), 77, np.uint8)
    still = Clip(grey, np.zeros((FRAMES - 1, F, 2), np.float32))
    assert inject(GENERIC[name], still, other=still) is None


def recorded(env: GoalImageEnv, policy: str, seed: int, frames: int = FRAMES) -> Clip:
    """A clip of scripted play, its start far into the episode."""
    name = next(name for name, spec in ENVS.items() if spec.env_id == env.spec.id)  # type: ignore[union-attr]
    module, _, kind = ENVS[name].policies[policy].partition(":")
    act = getattr(import_named(module, "test"), kind)(np.random.default_rng(seed))
    _, info = env.reset(seed=seed)
    pictures, states, actions = [], [], []
    for step in range(30 + (frames - 1) * F + 1):
        if step >= 30 and (step - 30) % F == 0:
            pictures.append(env.picture(env.get_state()))
            states.append(env.get_state())
        action = act(info)
        if step >= 30:
            actions.append(env.executed_action(action))
        env.simulate(env.executed_action(action))
        info = env._info()
    blocks = np.stack(actions[: (frames - 1) * F]).reshape(frames - 1, F, -1)
    return Clip(np.stack(pictures), blocks, np.stack(states))


@pytest.fixture(scope="module", params=[pytest.param("pusht"), pytest.param("cube", marks=pytest.mark.ogbench)])
def scene(request: pytest.FixtureRequest) -> tuple[str, GoalImageEnv, list[Clip]]:
    env: Any = gym.make(ENVS[request.param].env_id, terminate_on_success=False).unwrapped
    return request.param, env, [recorded(env, "play", seed) for seed in range(4)]


def test_events_of_states_change_one_thing_and_leave_the_past_alone(
    scene: tuple[str, GoalImageEnv, list[Clip]],
) -> None:
    name, env, clips = scene
    pool = np.concatenate([clip.states for clip in clips if clip.states is not None])
    for title, event in EVENTS[name].items():
        changed = [inject(event, clip, states=pool, env=env, other=clips[0]) for clip in clips]
        injected = [(clip, one) for clip, one in zip(clips, changed, strict=True) if one is not None]
        assert injected or title in ("block-not-pushed", "cube-not-carried"), title
        for clip, one in injected:
            np.testing.assert_array_equal(one.frames[:AT], clip.frames[:AT], err_msg=title)
            np.testing.assert_array_equal(one.env_action, clip.env_action, err_msg=title)
            different = (one.frames[AT] != clip.frames[AT]).any(-1).mean()
            assert 0.0005 < different < 0.5, title
            assert one.frames.shape == clip.frames.shape


def test_a_teleport_goes_on_with_the_recorded_actions(scene: tuple[str, GoalImageEnv, list[Clip]]) -> None:
    name, env, (clip, *others) = scene
    assert clip.states is not None
    assert others[0].states is not None
    event = next(event for event in EVENTS[name].values() if isinstance(event, Teleport))
    changed = inject(event, clip, states=others[0].states[:1], env=env)
    if changed is None:  # the only place to go is too near, or impossible
        changed = inject(event, clip, states=others[1].states[-1:], env=env)  # type: ignore[index]
    assert changed is not None
    env.set_state(clip.states[AT])
    for block in clip.env_action[AT:]:
        for action in block:
            env.simulate(action)
    np.testing.assert_array_equal(env.picture(env.get_state()), clip.frames[-1])  # as it was recorded
    assert (changed.frames[-1] != clip.frames[-1]).any()


def test_teleports_are_as_far_as_they_promise_and_end_where_things_can_be() -> None:
    env: Any = gym.make("lwm/PushT-v0", image_size=16).unwrapped
    clip = recorded(env, "play", 0)
    assert clip.states is not None
    near = clip.states[AT] + np.array([0.0, 0.0, 50.0, 0.0, 0.0, 0.0, 0.0])
    event = EVENTS["pusht"]["teleport-block"]
    assert inject(event, clip, states=near[None], env=env) is None
    onto_agent = clip.states[AT].copy()
    onto_agent[2:5] = *(clip.states[AT][:2] - [0, 15]), 0.0
    forced = Teleport((2, 3, 4), least=0.0, measured=(2, 3))
    assert inject(event, clip, states=onto_agent[None], env=env) is None
    assert inject(forced, clip, states=onto_agent[None], env=env) is not None


def test_things_of_an_environment_of_ones_own_teleport_by_its_probes(room: ModuleType) -> None:
    states = np.random.default_rng(0).uniform(0, 1, (50, 2))
    assert events_of("Room-v0", states).keys() == GENERIC.keys()  # it names no probes
    cubes = events_of("cube-double", np.zeros((9, 54)))
    assert {"teleport-cube", "teleport-second-cube", "freeze"} <= cubes.keys()
    assert events_of("cube-double", None).keys() == GENERIC.keys()
    event = Teleport((0, 1), least=0.3)
    env: Any = gym.make("Room-v0").unwrapped
    clip = recorded(env, "play", 0)
    changed = inject(event, clip, states=states, env=env)
    assert changed is not None
    assert (changed.frames[AT] != clip.frames[AT]).any()

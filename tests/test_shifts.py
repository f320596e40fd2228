"""Shifts of environments: factors of variation, changed pictures and changed actions."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from lwm_agent.envs import ENVS
from lwm_agent.envs.base import GoalImageEnv
from lwm_agent.envs.picture_shifts import CameraShift
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_geometry import BLOCKS, WORLD
from lwm_agent.envs.shifts import GENERAL, parse_shift, shifted, shifts_of
from lwm_agent.errors import UserError

from .test_env_contract import actions_of, every_env, make_drawing

PICTURES = tuple(name for name in GENERAL if "action" not in name and name != "dropped-frames")


def strongest(name: str, shift: str) -> str:
    return f"{shift}={shifts_of(name)[shift].strengths[-1]}"


def episode(env: gym.Env[Any, Any], simulator: GoalImageEnv, seed: int) -> list[Any]:
    """Observations and infos of eight steps."""
    results: list[Any] = [env.reset(seed=seed)]
    return results + [env.step(action) for action in actions_of(simulator, 8)]


@every_env
@pytest.mark.parametrize("kind", [*GENERAL, "own"])
def test_every_shift_changes_an_episode_and_follows_from_the_seed(name: str, kind: str) -> None:
    simulator = make_drawing(name)
    shifts = [shift for shift in shifts_of(name) if shift not in GENERAL] if kind == "own" else [kind]
    assert shifts  # both environments have factors of their own
    usual = episode(simulator, simulator, 1)
    for shift in shifts:
        env = shifted(simulator, [strongest(name, shift)], name)
        changed = episode(env, simulator, 1)
        for observation, *_ in changed:
            assert simulator.observation_space.contains(observation)
            np.testing.assert_array_equal(observation["goal"], changed[0][0]["goal"])
        np.testing.assert_equal(episode(env, simulator, 1), changed)
        pixels, others = ([observation["pixels"] for observation, *_ in rows] for rows in (changed, usual))
        states, before = ([info["state"] for *_, info in rows] for rows in (changed, usual))
        assert not np.array_equal(pixels, others)
        if shift in PICTURES or (name.startswith("cube") and kind == "own"):
            np.testing.assert_array_equal(states, before)  # only what is seen differs
            assert not np.array_equal(changed[0][0]["goal"], usual[0][0]["goal"])
        if "action" in shift:
            assert not np.array_equal(states, before)
    np.testing.assert_equal(episode(simulator, simulator, 1), usual)  # nothing stays


@pytest.mark.parametrize("shift", ["light=0.3", "agent-color=1", "block-size=0.3", "action-noise=0.3", "blur=2"])
def test_a_seed_draws_one_episode_and_another_seed_another(shift: str) -> None:
    simulator = make_drawing("pusht")
    env = shifted(simulator, [shift], "pusht")
    state = simulator.reset(seed=5)[1]["state"]
    options = {"state": state, "goal_state": state}

    def pixels(seed: int | None) -> Any:
        env.reset(seed=seed, options=options)
        return [env.step(np.zeros(2, np.float32))[0]["pixels"] for _ in range(6)]

    first = pixels(0)
    assert np.array_equal(pixels(0), first)
    if not shift.startswith("blur"):
        assert any(not np.array_equal(pixels(seed), first) for seed in range(1, 6))
        assert any(not np.array_equal(pixels(None), first) for _ in range(5))


def test_shifts_add_up() -> None:
    simulator = make_drawing("pusht")
    both = shifted(simulator, ["agent-color=1", "block-shape=L", "pixel-noise=0.1"], "pusht")
    both.reset(seed=0)
    usual = {name: factor.usual for name, factor in simulator.factors.items()}
    changed = {name for name, value in simulator.variation.items() if value != usual[name]}
    assert changed == {"agent_color", "block_shape"}
    with_option = both.reset(seed=0, options={"variation": {"block_shape": "Z", "block_size": 1.2}})
    assert (simulator.variation["block_shape"], simulator.variation["block_size"]) == ("Z", 1.2)
    assert both.observation_space.contains(with_option[0])
    again = gym.make(both.spec)  # type: ignore[arg-type]
    np.testing.assert_equal(again.reset(seed=3), both.reset(seed=3))


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ("smell=1", "shift 'smell=1' is unknown: write NAME=STRENGTH with a name of agent-color"),
        ("blur", "shift blur= must be a number above 0 and at most 16, such as blur=0.5: pixels of 64"),
        ("blur=much", "shift blur=much must be a number"),
        ("blur=0", "above 0"),
        ("blur=-1", "above 0"),
        ("blur=nan", "must be a number"),
        ("occlusion=1.1", "at most 1"),
        ("action-delay=1.5", "must be a whole number above 0"),
        ("block-shape=O", "shift block-shape=O is unknown: choose one of L, Z, I, square, +"),
        ("agent-size=3", "at most 1, such as agent-size=0.1: more or less, as a share"),
    ],
)
def test_unknown_shifts_and_strengths_are_refused(shift: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_shift(shift, "pusht")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        ({"agent_colour": (1, 2, 3)}, "unknown factor 'agent_colour': choose from agent_color, block_color"),
        ({"agent_color": (1, 2)}, "three whole numbers from 0 to 255"),
        ({"agent_color": (1, 2, 300)}, "three whole numbers from 0 to 255"),
        ({"agent_color": "red"}, "three whole numbers from 0 to 255"),
        ({"block_size": 9}, r"variation block_size=9 must be a number from 0.5 to 1.5"),
        ({"block_size": True}, "must be a number"),
        ({"block_shape": "O"}, "choose one of T, L, Z, I, square, +"),
        (["agent_color"], "must be a dictionary"),
    ],
)
def test_bad_variations_change_nothing(variation: Any, message: str) -> None:
    env = make_drawing("pusht")
    _, info = env.reset(seed=0)
    before = copy.deepcopy(env.np_random.bit_generator.state)
    with pytest.raises(UserError) as error:
        env.reset(seed=1, options={"variation": variation})
    assert message in str(error.value)
    assert env.np_random.bit_generator.state == before
    np.testing.assert_array_equal(env.get_state(), info["state"])


@every_env
def test_variation_holds_for_an_episode_and_for_copies(name: str) -> None:
    env = make_drawing(name, render_mode="rgb_array", render_size=48)
    observation, info = env.reset(seed=0)
    options = {"state": info["state"], "goal_state": info["goal_state"]}
    assert env.variation == {factor: kind.usual for factor, kind in env.factors.items()}
    rng = np.random.default_rng(0)
    drawn = {factor: kind.drawn(kind.strengths[-1], rng) for factor, kind in env.factors.items()}
    rendered = env.render()
    varied, _ = env.reset(seed=0, options={**options, "variation": drawn})
    assert env.variation == drawn
    assert not np.array_equal(varied["pixels"], observation["pixels"])
    assert not np.array_equal(env.render(), rendered)
    action = actions_of(env, 1)[0]
    for other in (copy.deepcopy(env), cast(GoalImageEnv, pickle.loads(pickle.dumps(env)))):
        assert other.variation == drawn
        np.testing.assert_equal(copy.deepcopy(other).step(action), other.step(action))
        np.testing.assert_array_equal(other.picture(info["state"]), env.picture(info["state"]))
    again, _ = env.reset(seed=0, options=options)
    np.testing.assert_equal(again, observation)
    np.testing.assert_array_equal(env.render(), rendered)


@pytest.mark.parametrize("shape", BLOCKS)
@pytest.mark.parametrize("size", [0.5, 1.5])
def test_blocks_of_any_shape_start_on_the_table_and_are_pushed(shape: str, size: float) -> None:
    env = PushTEnv(image_size=16, terminate_on_success=False)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0, options={"variation": {"block_shape": shape, "block_size": size}})
    block = BLOCKS[shape].scaled(size)
    for seed in range(3):
        _, info = env.reset(seed=seed, options={"variation": {"block_shape": shape, "block_size": size}})
        start = info["state"]
        assert block.coverage(start[2:5].tolist(), start[2:5].tolist()) == pytest.approx(1.0)
        corners = np.concatenate(block.polygons(*start[2:5].tolist()))
        assert corners.min() > 0
        assert corners.max() < WORLD
        for _ in range(12):
            state = env.get_state()
            at = np.array(block.polygons(*state[2:5].tolist())[0]).mean(axis=0)
            away = np.clip((at - state[:2]) / 100 + rng.normal(0, 0.2, 2), -1, 1)
            _, _, _, _, info = env.step(away.astype(np.float32))
        assert np.linalg.norm(info["state"][2:4] - start[2:4]) > 5


def test_a_larger_agent_touches_the_block_from_farther_away() -> None:
    def moved(agent_size: float) -> bool:
        env = PushTEnv(image_size=16)
        state = np.array([256.0, 225.0, 256.0, 256.0, 0.0, 0.0, 0.0])  # 31 px above the bar
        env.reset(options={"state": state, "goal_state": state, "variation": {"agent_size": agent_size}})
        _, _, _, _, info = env.step(np.array([0.0, 0.35], np.float32))
        return bool(np.linalg.norm(info["state"][2:4] - state[2:4]) > 0.5)

    assert not moved(0.5)
    assert moved(2.0)


def test_delayed_actions_arrive_late_and_the_agent_waits_before() -> None:
    usual = PushTEnv(image_size=16, control_mode="absolute")
    late = shifted(PushTEnv(image_size=16, control_mode="absolute"), ["action-delay=2"], "pusht")
    start = usual.reset(seed=0)[1]["state"]
    late.reset(seed=0)
    actions = actions_of(usual, 4)
    states = [usual.step(action)[4]["state"] for action in actions]
    delayed = [late.step(action)[4]["state"] for action in actions]
    np.testing.assert_allclose(delayed[1][:2], start[:2], atol=1e-3)
    np.testing.assert_allclose(delayed[2][:2], states[0][:2], atol=1e-3)


@pytest.mark.parametrize("shift", GENERAL)
def test_copies_of_an_episode_go_on_alike(shift: str) -> None:
    env = shifted(make_drawing("pusht"), [strongest("pusht", shift)], "pusht")
    env.reset(seed=0)
    first, *others = actions_of(cast(GoalImageEnv, env.unwrapped), 5)
    env.step(first)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    played = [[each.step(action) for action in others] for each in (env, *copies)]
    for rows in played[1:]:
        np.testing.assert_equal(rows, played[0])
    for observation, *_ in played[0]:
        assert all(picture.flags.writeable for picture in observation.values())


@pytest.mark.parametrize("shift", ["action-delay=1", "sticky-actions=0.5"])
def test_actions_are_kept_though_the_caller_reuses_the_array(shift: str) -> None:
    def states(reuse: bool) -> list[Any]:
        env = shifted(make_drawing("pusht"), [shift], "pusht")
        env.reset(seed=3)
        buffer, reached = np.zeros(2, np.float32), []
        for action in actions_of(cast(GoalImageEnv, env.unwrapped), 8):
            buffer[:] = action
            reached.append(env.step(buffer if reuse else action)[4]["state"])
        return reached

    np.testing.assert_array_equal(states(reuse=True), states(reuse=False))


@every_env
@pytest.mark.parametrize("shift", ["blur=1", "action-delay=1", "sticky-actions=0.5", "dropped-frames=0.5"])
def test_a_step_before_the_first_reset_is_refused(name: str, shift: str) -> None:
    env = shifted(make_drawing(name), [shift], name)
    with pytest.raises(ResetNeeded, match=r"before calling env\.reset"):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("options", [5, {"variation": 5}, {"variation": "red"}, {"colour": 1}])
def test_wrong_options_are_refused_as_without_a_shift(options: Any) -> None:
    env = make_drawing("pusht")
    refused = []
    for each in (env, shifted(env, ["agent-color=1"], "pusht")):
        with pytest.raises(UserError) as error:
            each.reset(seed=0, options=options)
        refused.append(str(error.value))
    assert refused[0] == refused[1]


def test_the_edge_of_a_picture_goes_on_however_far_the_camera_moves() -> None:
    picture = np.full((32, 48, 3), 200, np.uint8)
    for seed in range(8):
        assert (CameraShift(np.random.default_rng(seed), 1.0)(picture) == 200).all()


def test_other_environments_have_no_shifts() -> None:
    with pytest.raises(UserError, match=r"shift blur=1.0 is for a GoalImageEnv, not for .*CartPole"):
        shifted(gym.make("CartPole-v1"), ["blur=1"], "pusht")


def test_every_registered_environment_has_the_general_shifts() -> None:
    for name in ENVS:
        assert GENERAL.keys() <= shifts_of(name).keys()

"""Push-T as a simulation: exact restoring, success, coverage, control and contact."""

from __future__ import annotations

import json
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_agent.envs.pusht import PushTEnv, angle_error, position_error
from lwm_agent.envs.pusht_geometry import AGENT_RADIUS, CENTER_OF_GRAVITY, TEE, WORLD, place

State = NDArray[np.float64]


def at(
    agent_x: float = 100.0, agent_y: float = 420.0, block_x: float = 256.0, block_y: float = 256.0, angle: float = 0.0
) -> State:
    """A state at rest."""
    return np.array([agent_x, agent_y, block_x, block_y, angle, 0.0, 0.0])


def small(**settings: Any) -> PushTEnv:
    return PushTEnv(image_size=16, **settings)


def ram(state: State, rng: np.random.Generator) -> NDArray[np.float32]:
    """Full speed at the block, which ends squeezed into walls and corners: many contacts at once."""
    center = place((CENTER_OF_GRAVITY,), *state[2:5].tolist())[0]
    toward = np.subtract(center, state[:2]) + rng.normal(0, 30, 2)
    return (toward / np.abs(toward).max()).astype(np.float32)


def test_restored_state_continues_exactly_in_contact() -> None:
    """Each step is taken twice: by an environment that never stopped and, restored, by one with another past."""
    straight, restored, contacts = small(), small(), 0
    restored.reset(seed=0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        straight.np_random = rng
        straight.set_state(straight.sample_state())
        for _ in range(40):
            state = straight.get_state()
            action = ram(state, rng)
            for _ in range(int(rng.integers(3))):
                restored.simulate(action)
            restored.set_state(state)
            straight.simulate(action)
            restored.simulate(action)
            np.testing.assert_array_equal(straight.get_state(), restored.get_state())
            contacts += not np.array_equal(state[2:5], straight.get_state()[2:5])
    assert contacts > 600


@pytest.mark.parametrize("control_mode", ["relative", "absolute"])
def test_state_restored_from_json_continues_exactly(control_mode: str) -> None:
    env, other, rng = small(control_mode=control_mode), small(control_mode=control_mode), np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for step in range(60):
        if step % 7 == 0:
            options = {name: info[name].tolist() for name in ("state", "goal_state")}
            _, again = other.reset(options=json.loads(json.dumps(options)))
            np.testing.assert_equal(again, info)
        action = ram(info["state"], rng)
        if control_mode == "absolute":
            action = np.clip(info["state"][:2] + 100 * action, 0, 512).astype(np.float32)
        result, same = env.step(action), other.step(action)
        np.testing.assert_equal(result, same)
        info = result[-1]


def test_picture_leaves_the_simulation_alone() -> None:
    env, untouched, rng = small(), small(), np.random.default_rng(0)
    for each in (env, untouched):
        each.reset(seed=1)
    for _ in range(30):
        env.picture(env.sample_state())
        np.testing.assert_array_equal(env.get_state(), untouched.get_state())
        action = ram(env.get_state(), rng)
        env.simulate(action)
        untouched.simulate(action)


def off(**change: float) -> State:
    """Difference of two states that changes the named numbers."""
    return at(**{**dict.fromkeys(("agent_x", "agent_y", "block_x", "block_y"), 0.0), **change})


@pytest.mark.parametrize(
    ("success", "change", "reached"),
    [
        ("pose", {"agent_x": 19.9}, True),
        ("pose", {"agent_y": -20.0}, False),
        ("pose", {"agent_x": 12.0, "block_y": -15.9}, True),  # the norm of both together counts
        ("pose", {"agent_x": 12.0, "block_y": -16.1}, False),
        ("pose", {"angle": math.radians(19.9)}, True),
        ("pose", {"angle": math.radians(-20.1)}, False),
        ("pose", {"angle": math.radians(360 - 19.9)}, True),
        ("pose", {"angle": math.radians(-720 + 20.1)}, False),
        ("block", {"agent_x": 300.0, "block_x": 19.9}, True),
        ("block", {"block_x": 12.0, "block_y": 16.1}, False),
        ("block", {"angle": math.radians(1080 + 19.9)}, True),
        ("block", {"angle": math.radians(180)}, False),
    ],
)
@pytest.mark.parametrize("angle", [0.0, 3.1, -3.1])
def test_success_thresholds(success: str, change: dict[str, float], reached: bool, angle: float) -> None:
    goal_state = at(angle=angle)
    _, info = small(success=success).reset(options={"state": goal_state + off(**change), "goal_state": goal_state})
    assert info["is_success"] is reached


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({"agent_x": 300.0, "block_x": 2.62}, True),  # sideways by d covers 1 - 120 d / 6300
        ({"block_x": 2.63}, False),
        ({"angle": math.radians(-360)}, True),
        ({"angle": math.radians(180)}, False),
    ],
)
def test_coverage_threshold(change: dict[str, float], reached: bool) -> None:
    _, info = small(success="coverage").reset(options={"state": at() + off(**change), "goal_state": at()})
    assert info["is_success"] is reached


def test_errors_and_nontrivial() -> None:
    env = small()
    errors = env.errors(at() + off(agent_x=3.0, block_y=4.0, angle=math.radians(350)), at())
    assert errors == pytest.approx({"position_px": 5.0, "block_px": 4.0, "angle_deg": 10.0})
    assert not env.is_nontrivial(at() + off(agent_x=200.0, block_x=19.9, angle=math.radians(-19.9)), at())
    assert env.is_nontrivial(at() + off(block_x=20.1), at())
    assert env.is_nontrivial(at(angle=math.radians(340 - 0.1)), at())


def test_angle_error_wraps() -> None:
    for turn in np.linspace(-10, 10, 41):
        expected = abs(math.remainder(turn, math.tau))
        assert angle_error(at(angle=1.0 + turn), at(angle=1.0)) == pytest.approx(expected, abs=1e-12)
    assert position_error(at() + off(agent_x=3.0, block_x=4.0), at()) == pytest.approx(5.0)


@pytest.mark.parametrize(("terminate", "terminated"), [(True, True), (False, False)])
def test_reward_and_termination(terminate: bool, terminated: bool) -> None:
    env = small(terminate_on_success=terminate)
    env.reset(options={"state": at(), "goal_state": at(agent_x=110.0)})
    assert env.step(np.zeros(2, np.float32))[1:4] == (1.0, terminated, False)
    env.reset(options={"state": at(), "goal_state": at(agent_x=130.0)})
    assert env.step(np.zeros(2, np.float32))[1:4] == (0.0, False, False)


def test_coverage_equals_counted_points() -> None:
    spacing = 0.5
    axis = [np.arange(low + spacing / 2, high, spacing) for low, high in ((-60, 60), (0, 120))]
    points = np.stack(np.meshgrid(*axis), axis=-1).reshape(-1, 2)

    def in_block(local: NDArray[np.float64]) -> NDArray[np.bool_]:
        x, y = local.T
        return ((abs(x) < 60) & (y > 0) & (y < 30)) | ((abs(x) < 15) & (y >= 30) & (y < 120))

    def rotation(angle: float) -> NDArray[np.float64]:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    points, rng, overlapping = points[in_block(points)], np.random.default_rng(0), 0
    for _ in range(100):
        goal = rng.uniform((100, 100, -9), (400, 400, 9))
        block = goal + rng.normal(0, (35, 35, rng.choice([0.3, 3.0])))
        world = points @ rotation(goal[2]).T + goal[:2]
        counted = in_block((world - block[:2]) @ rotation(block[2])).mean()
        assert TEE.coverage(block.tolist(), goal.tolist()) == pytest.approx(counted, abs=0.005)
        overlapping += 0 < counted < 1
    assert overlapping > 50


def test_coverage_of_known_poses() -> None:
    for pose in ((256.0, 256.0, 0.0), (301.7, 199.2, 2.2), (256.0, 256.0, -40.0)):
        assert TEE.coverage(pose, pose) == pytest.approx(1.0, abs=1e-9)
    pose = (256.0, 256.0, 0.0)
    assert TEE.coverage((266.0, 256.0, 0.0), pose) == pytest.approx(1 - 120 * 10 / 6300)
    assert TEE.coverage((256.0 + 121.0, 256.0, 0.0), pose) == 0.0
    assert TEE.coverage(pose, (math.nan, math.nan, math.nan)) == 0.0


def test_absolute_targets_are_reached() -> None:
    env = small(control_mode="absolute")
    assert env.action_space == gym.spaces.Box(0, 512, (2,), np.float32)
    env.reset(options={"state": at(), "goal_state": at()})
    for target in ((60.0, 60.0), (450.0, 60.0), (450.0, 450.0)):
        for _ in range(20):
            env.simulate(np.array(target, np.float32))
        np.testing.assert_allclose(env.get_state()[:2], target, atol=0.01)
        np.testing.assert_allclose(env.get_state()[5:], 0, atol=0.1)


def test_relative_actions_are_displacements_over_100_px() -> None:
    relative, absolute, rng = small(), small(control_mode="absolute"), np.random.default_rng(0)
    assert relative.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    relative.reset(seed=0)
    for _ in range(50):
        state, action = relative.get_state(), rng.uniform(-1, 1, 2).astype(np.float32)
        absolute.set_state(state)
        absolute.simulate(np.clip(state[:2] + 100 * action, 0, 512).astype(np.float32))
        relative.simulate(action)
        np.testing.assert_allclose(relative.get_state(), absolute.get_state(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("control_mode", ["relative", "absolute"])
def test_agent_stays_on_the_table(control_mode: str) -> None:
    env, rng = small(control_mode=control_mode), np.random.default_rng(0)
    ends = (-1.0, 1.0) if control_mode == "relative" else (0.0, WORLD)
    for seed in range(10):
        env.np_random = np.random.default_rng(seed)
        env.set_state(env.sample_state())
        for _ in range(30):
            env.simulate(rng.choice(ends, 2).astype(np.float32))
            assert (env.get_state()[:2] >= 0).all()
            assert (env.get_state()[:2] <= WORLD).all()


def test_a_push_moves_the_block_and_the_table_stops_it() -> None:
    env = small()
    env.set_state(at(agent_x=178.0, agent_y=271.0))  # left of the bar, level with it
    for _ in range(6):
        env.simulate(np.array([0.4, 0.0]))
    pushed = env.get_state()
    assert pushed[2] > 256 + 50
    assert pushed[0] < pushed[2] - 60 - AGENT_RADIUS + 2  # still outside the bar
    for _ in range(2):
        env.simulate(np.array([-1.0, 0.0]))
    left = env.get_state()
    for _ in range(5):
        env.simulate(np.array([-0.5, 0.5]))
    np.testing.assert_array_equal(env.get_state()[2:5], left[2:5])


def test_a_push_off_centre_turns_the_block() -> None:
    env = small()
    for agent_x, sign in ((205.0, -1), (307.0, 1)):
        env.set_state(at(agent_x=agent_x, agent_y=225.0))  # above an end of the bar
        for _ in range(6):
            env.simulate(np.array([0.0, 0.3]))
        assert sign * env.get_state()[4] > 0.3

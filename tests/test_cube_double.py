"""The second cube: both have to arrive, both are drawn, and play moves and stacks both."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

if find_spec("ogbench") is None:
    pytest.skip("ogbench is not installed: it has no wheels for this Python", allow_module_level=True)

from lwm_agent.cli.main import app
from lwm_agent.envs.cube import CubeDoubleEnv, CubeEnv
from lwm_agent.envs.cube_play import NoisyPolicy, PlayPolicy
from lwm_agent.envs.cube_simulator import centre
from lwm_agent.envs.opengl import choose_backend
from lwm_agent.eval import ReplayPolicy, TaskSet, evaluate, shipped_tasks

State = NDArray[np.float64]
ENV_ID = "lwm/CubeDouble-v0"
FIRST, SECOND = (0.35, -0.1, 0.02), (0.45, 0.1, 0.02)


def blank(**settings: Any) -> CubeDoubleEnv:
    return CubeDoubleEnv(image_size=16, fidelity="blank", **settings)


def at(first: tuple[float, ...] = FIRST, second: tuple[float, ...] = SECOND) -> State:
    """A state at rest."""
    state = np.zeros(54)
    state[:6] = [-1.571, -1.571, 1.571, -1.571, -1.571, 0.0]
    state[14:21], state[21:28] = [*first, 1, 0, 0, 0], [*second, 1, 0, 0, 0]
    return state


def test_both_cubes_have_readings() -> None:
    _, info = blank().reset(seed=0)
    np.testing.assert_array_equal(info["privileged/block_0_pos"], info["state"][14:17])
    np.testing.assert_array_equal(info["privileged/block_1_pos"], info["state"][21:24])
    goals = np.concatenate([info["goal_state"][14:17], info["goal_state"][21:24]])
    np.testing.assert_array_equal(info["privileged/target_block_pos"], goals)


def test_both_cubes_have_to_arrive() -> None:
    env = blank()
    near, far = (0.35, -0.07, 0.02), (0.35, -0.05, 0.02)
    assert env.is_success(at(near), at())
    assert not env.is_nontrivial(at(near), at())
    for state in (at(far), at(near, (0.45, 0.15, 0.02))):
        assert not env.is_success(state, at())
        assert env.is_nontrivial(state, at())
    assert env.errors(at(near), at()) == pytest.approx({"cube_m": 0.03, "cube_turn_deg": 0.0})
    swapped = at(SECOND, FIRST)  # they have colours
    assert not env.is_success(swapped, at())


def test_random_scenes_keep_the_cubes_apart() -> None:
    env = blank()
    env.reset(seed=0)
    scenes = np.array([env.sample_state() for _ in range(100)])
    assert len(np.unique(scenes, axis=0)) == 100
    apart = np.linalg.norm(scenes[:, centre(0)] - scenes[:, centre(1)], axis=1)
    assert 0.06 <= apart.min() < 0.12  # and no farther than they must be


def test_restored_and_continued_equals_uninterrupted() -> None:
    env, restored = blank(terminate_on_success=False), blank()
    policy = NoisyPolicy(np.random.default_rng(0))
    _, info = env.reset(seed=0)
    for _ in range(60):
        action = policy(info)
        restored.reset(options={"state": info["state"], "goal_state": info["goal_state"]})
        *_, same = restored.step(action)
        *_, info = env.step(action)
        np.testing.assert_equal(same, info)


def test_pictures_show_two_cubes_and_the_goal_of_each() -> None:
    try:
        choose_backend()
    except RuntimeError as error:
        pytest.skip(str(error))
    env = CubeDoubleEnv(image_size=64, render_mode="rgb_array", render_size=64)
    goal = at((0.35, 0.2, 0.02), (0.45, -0.2, 0.02))
    observation, _ = env.reset(options={"state": at(), "goal_state": goal})
    red, blue = (observation["pixels"][..., channel].astype(int) for channel in (0, 2))
    single = CubeEnv(image_size=64).picture(at()[:41])
    assert not np.array_equal(observation["pixels"], single)
    assert ((red > 2 * blue) & (red > 100)).any()
    assert not np.array_equal(observation["pixels"], env.picture(at(second=tuple(goal[21:24]))))
    frame = env.render()
    assert frame is not None
    columns = np.flatnonzero((frame != observation["pixels"]).any(axis=(0, 2)))
    assert columns.min() < 32 < columns.max()  # a mark on either side


@pytest.mark.parametrize("kind", [PlayPolicy, NoisyPolicy])
def test_play_moves_both_cubes_and_stacks_them(kind: Callable[[np.random.Generator], Any]) -> None:
    stacked, moved = 0, np.zeros(2)
    for seed in range(3):
        env, policy = blank(terminate_on_success=False), kind(np.random.default_rng([seed, 1]))
        _, info = env.reset(seed=seed)
        start = info["state"]
        for _ in range(250):
            *_, info = env.step(policy(info))
            first, second = info["state"][14:17], info["state"][21:24]
            near = np.linalg.norm(first[:2] - second[:2]) < 0.02
            stacked += bool(near and abs(abs(first[2] - second[2]) - 0.04) < 0.005)
        moved += [np.linalg.norm((info["state"] - start)[centre(cube)]) > 0.04 for cube in range(2)]
    assert stacked > 20
    assert (moved > 0).all()


def test_tasks_are_made_and_replayed(tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    result = CliRunner().invoke(app, ["tasks", "--env", "cube-double", "--episodes", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    tasks = TaskSet.load(out)
    replay = evaluate(ReplayPolicy(blank().action_space), tasks, env_kwargs={"image_size": 16, "fidelity": "blank"})
    assert [episode.success for episode in replay] == [True, True]


def test_missing_tasks_error_names_the_command_that_makes_them() -> None:
    with pytest.raises(ValueError, match="lwm-agent tasks --env cube-double --offset 50"):
        shipped_tasks("cube-double", offset=50)

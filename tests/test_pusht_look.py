"""Push-T as gym-pusht draws and steers it: against gym-pusht itself, and from its demonstrations to an evaluation.

gym-pusht wants pymunk 6, and this package 7, so that no extra names it. To run the comparison beside pymunk 7::

    pip install --no-deps gym-pusht && pip install opencv-python-headless shapely
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pymunk
import pytest
from numpy.typing import NDArray

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_geometry import CENTER_OF_GRAVITY, place
from lwm_agent.envs.pusht_play import PlayPolicy
from lwm_agent.eval import NoOpPolicy, evaluate, shipped_tasks

from .test_cli import SEARCH, TRAIN, results, run

State = NDArray[np.float64]
PUBLIC: dict[str, Any] = {"look": "gym-pusht", "control_mode": "absolute"}
GREEN, BLUE, GRAY = (144, 238, 144), (78, 126, 255), (143, 163, 184)
STEPS = 100


def at(agent: tuple[float, float], block: tuple[float, float, float]) -> State:
    """A state at rest."""
    return np.array([*agent, *block, 0.0, 0.0])


@pytest.mark.parametrize("image_size", [48, 96, 512])
def test_green_t_is_in_both_pictures_wherever_the_goal_is(image_size: int) -> None:
    env = PushTEnv(image_size=image_size, **PUBLIC)
    state, goal_state = at((400.0, 100.0), (120.0, 120.0, 0.0)), at((90.0, 450.0), (380.0, 380.0, 0.0))
    observation, _ = env.reset(options={"state": state, "goal_state": goal_state})
    seen = {name: picture.astype(int) for name, picture in observation.items()}
    for name, x, y, color in (
        ("pixels", 400.0, 100.0, BLUE),
        ("goal", 90.0, 450.0, BLUE),
        ("pixels", 120.0, 180.0, GRAY),  # on the stem
        ("goal", 380.0, 440.0, GRAY),
        ("pixels", 235.0, 277.0, GREEN),  # on the stem of the green T
        ("goal", 235.0, 277.0, GREEN),
    ):
        row, column = int(y * image_size / 512), int(x * image_size / 512)
        np.testing.assert_allclose(seen[name][row, column], color, atol=2, err_msg=f"{name} at {x}, {y}")


def test_covering_the_green_t_is_the_public_success() -> None:
    env = PushTEnv(success="coverage", image_size=16, **PUBLIC)
    goal_state = at((100.0, 100.0), (256.0, 256.0, math.pi / 4))
    _, info = env.reset(options={"state": goal_state, "goal_state": goal_state})
    assert info["is_success"]
    hidden = PushTEnv(image_size=96, **PUBLIC).picture(goal_state)
    assert not (hidden == GREEN).all(axis=2).any()


def test_pictures_of_states_far_away_are_drawn() -> None:
    env = PushTEnv(image_size=96, **PUBLIC)
    assert env.picture(at((1e6, -1e6), (-1e6, 1e6, 1e6))).shape == (96, 96, 3)


@pytest.fixture
def public_env(monkeypatch: pytest.MonkeyPatch) -> Any:
    """gym-pusht's own environment; pymunk 7 has no collision handlers, with which it counts contacts."""
    pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: see the top of this file")
    monkeypatch.setattr(pymunk.Space, "add_collision_handler", lambda *pair: SimpleNamespace(), raising=False)
    return gym.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos", disable_env_checker=True).unwrapped


def public_reset(env: Any, state: State) -> dict[str, Any]:
    """Observation of gym-pusht in `state`. It turns the block about its centre of gravity after it has placed it."""
    turned = place((CENTER_OF_GRAVITY,), 0.0, 0.0, state[4])[0]
    corner = state[2:4] - CENTER_OF_GRAVITY + turned
    observation, info = env.reset(options={"reset_to_state": [*state[:2], *corner, state[4]]})
    np.testing.assert_allclose(info["block_pose"], state[2:5], atol=1e-9)
    return dict(observation)


def test_pictures_are_those_of_gym_pusht(public_env: Any) -> None:
    """Measured: a mean difference of 0.015 of 255, at most 0.025. Red marks of contacts are missing here."""
    env, differences = PushTEnv(image_size=96, **PUBLIC), []
    env.reset(seed=0)
    for _ in range(100):
        state = env.sample_state()
        theirs = public_reset(public_env, state)["pixels"]
        differences.append(np.abs(env.picture(state).astype(int) - theirs).mean())
        plain = np.abs(PushTEnv(image_size=96).picture(state).astype(int) - theirs).mean()
        assert plain > 2.0
    assert np.mean(differences) < 0.02
    assert max(differences) < 0.05


def test_the_same_actions_lead_to_the_poses_of_gym_pusht(public_env: Any) -> None:
    """Contact impulses are not carried over between control steps here: blocks drift apart by a pixel or so."""
    env, block_px, angle_deg, moved = PushTEnv(image_size=16, **PUBLIC), [], [], []
    for seed in range(30):
        env.reset(seed=seed)
        state, policy = env.get_state(), PlayPolicy(np.random.default_rng(seed))
        public_reset(public_env, state)
        start = state
        for _ in range(STEPS):
            action = env.scripted_action(policy({"state": state}), state)
            *_, theirs = public_env.step(action)
            state = env.step(action)[-1]["state"]
            np.testing.assert_allclose(state[:2], theirs["pos_agent"], atol=1e-9)
        block_px.append(math.dist(state[2:4], theirs["block_pose"][:2]))
        angle_deg.append(math.degrees(abs(state[4] - theirs["block_pose"][2])))
        moved.append(math.dist(state[2:4], start[2:4]))
    assert np.median(moved) > 50
    assert np.median(block_px) < 1.0
    assert np.median(angle_deg) < 0.5
    assert max(block_px) < 20
    assert max(angle_deg) < 10


def test_scripted_play_is_recorded_in_absolute_actions(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"episodes": 2, "episode_env_steps": 30, "workers": 1, "image_size": 32}
    relative = Trajectories.open(collect(CollectConfig(out=tmp_path / "relative.h5", **settings)))
    absolute = Trajectories.open(collect(CollectConfig(out=tmp_path / "absolute.h5", env_kwargs=PUBLIC, **settings)))
    assert absolute.env_kwargs == {"image_size": 32, **PUBLIC}
    assert relative.state is not None
    assert absolute.state is not None
    np.testing.assert_allclose(absolute.state, relative.state, atol=0.01)  # of px: actions are rounded to float32
    inside = ~np.isnan(relative.action[:, 0])
    targets = np.clip(relative.state[inside, :2] + 100 * relative.action[inside], 0, 512)
    np.testing.assert_allclose(absolute.action[inside], targets, atol=0.01)


@pytest.mark.parametrize("control_mode", ["relative", "absolute"])
def test_doing_nothing_leaves_the_agent_where_it_is(control_mode: str) -> None:
    tasks, kwargs = shipped_tasks("pusht"), {"control_mode": control_mode, "image_size": 16}
    env = PushTEnv(**kwargs)
    policy = NoOpPolicy(env.action_space, env)
    env.set_state(np.array(tasks.tasks[3].state))
    (action,), _ = policy.predict({"pixels": np.zeros((1, 1))}, policy.begin(tasks.tasks[3:4]))
    for _ in range(10):
        env.simulate(action)
    assert math.dist(env.get_state()[:2], tasks.tasks[3].state[:2]) < 40  # it had a speed at the start
    assert not any(episode.success for episode in evaluate(policy, tasks, indices=range(4), env_kwargs=kwargs))


def write_demonstrations(path: Path) -> State:
    """A store of the published layout, with pictures, actions and states as that environment has them."""
    zarr = pytest.importorskip("zarr", minversion="3", reason="zarr 3 is not installed")
    env = PushTEnv(image_size=96, terminate_on_success=False, **PUBLIC)
    columns: dict[str, list[Any]] = {"img": [], "action": [], "state": [], "keypoint": [], "n_contacts": []}
    for seed in range(3):
        policy = PlayPolicy(np.random.default_rng(seed))
        observation, info = env.reset(seed=seed)
        for _ in range(30):
            action = env.scripted_action(policy(info), info["state"])
            columns["img"].append(observation["pixels"].astype(np.float32))
            columns["action"].append(action)
            columns["state"].append(info["state"][:5].astype(np.float32))
            columns["keypoint"].append(np.zeros((9, 2), np.float32))
            columns["n_contacts"].append(np.zeros(1, np.float32))
            observation, *_, info = env.step(action)
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name, rows in columns.items():
        root.create_array(f"data/{name}", data=np.stack(rows))
    root.create_array("meta/episode_ends", data=np.array([30, 60, 90]))
    return np.stack(columns["state"])


CONVERT = "convert demos.zarr --out demos.h5 --env pusht"
STATED = "--image-size 96 --set env.look=gym-pusht --set env.control_mode=absolute"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demonstrations, and a model that was trained on them."""
    work = tmp_path_factory.mktemp("demonstrations")
    states = write_demonstrations(work / "demos.zarr")
    printed = run(f"{CONVERT} {STATED}", work)
    assert "left out: columns keypoint, n_contacts" in printed
    assert "train on it with --env pusht" in printed
    data = Trajectories.open(work / "demos.h5")
    np.testing.assert_array_equal(data.state, states)
    np.testing.assert_array_equal(
        data.pixels[40], PushTEnv(image_size=96, **PUBLIC).picture(np.append(states[40], (0, 0)))
    )
    run(f"train --env pusht --data demos.h5 --out run {TRAIN.replace('image_size=32', 'image_size=96')}", work)
    run("tasks --env pusht --out tasks.json --offset 10 --episodes 2", work)
    return work


def test_model_of_demonstrations_is_evaluated_where_they_were_made(work: Path) -> None:
    checkpoint = Checkpoint.load(work / "run/checkpoint")
    assert checkpoint.env_kwargs == {"image_size": 96, **PUBLIC}
    low, high = np.array(checkpoint.normalizer.action_low), np.array(checkpoint.normalizer.action_high)
    assert (low >= 0).all()
    assert (high > 100).all()
    search = f"{SEARCH} --set planner.num_elites=2 --checkpoint run/checkpoint"
    run(f"eval --planner cem --tasks tasks.json {search} --output-dir eval", work)
    contents = results(work, "eval")
    assert contents["run"]["tasks"]["env_kwargs"] == {"image_size": 96, **PUBLIC}
    assert contents["floors"]["none"]["success"] == 0.0
    printed = run(f"eval --planner cem --tasks tasks.json {search} --set env.look=plain", work, code=2)
    assert (
        "--set env asks for look='plain' and checkpoint 'run/checkpoint' was trained with look='gym-pusht'" in printed
    )


def test_replayed_actions_must_be_those_of_the_tasks(work: Path) -> None:
    printed = run("eval --planner replay --tasks tasks.json --set env.control_mode=absolute", work, code=2)
    assert "planner='replay': the tasks' actions are of Box(-1.0, 1.0, (2,), float32)" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--set env.look=gym-pusht --set env.control_mode=absolute", "frames are 96 x 96 px, .* pass --image-size 96"),
        (
            "--image-size 96 --set env.look=gym-pusht",
            "actions go from .*'relative' those of .*: say what they mean",
        ),
        (f"{STATED} --set env.look=neon", "look='neon' is unknown: choose one of plain, gym-pusht"),
        (f"{STATED} --set env.success=block", "env.success says nothing about data of pusht: choose from control_mode"),
    ],
)
def test_conversion_refuses_what_the_data_are_not(work: Path, options: str, message: str) -> None:
    printed = run(f"{CONVERT.replace('demos.h5', 'other.h5')} {options}", work, code=2)
    assert re.search(message, printed), printed
    assert not (work / "other.h5").exists()

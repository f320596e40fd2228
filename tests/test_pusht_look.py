"""Push-T as gym-pusht draws and steers it: against gym-pusht itself, and from its demonstrations to an evaluation."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.config import ConvertConfig
from lwm_agent.data.convert import convert
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_play import PlayPolicy
from lwm_agent.errors import UserError
from lwm_agent.eval import NoOpPolicy, evaluate, make_tasks, shipped_tasks
from lwm_agent.experiments.config import EvalConfig
from lwm_agent.experiments.evaluate import load_tasks
from lwm_agent.experiments.policies import make_policy

from .commands import SEARCH, TRAIN, run
from .test_cli import results

State = NDArray[np.float64]
PUBLIC: dict[str, Any] = {"look": "gym-pusht", "control_mode": "absolute"}
GREEN, BLUE, GRAY = (144, 238, 144), (78, 126, 255), (143, 163, 184)
BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "public_pusht.py"


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


def test_plain_pictures_are_those_of_the_golden_file() -> None:
    env, tasks = PushTEnv(), shipped_tasks("pusht").tasks
    with np.load(Path(__file__).parent / "golden" / "pusht-tiny.npz") as golden:
        for task, frames, goal in zip(tasks, golden["frames"], golden["goals"], strict=False):
            observation, _ = env.reset(options=task.reset_options)
            np.testing.assert_array_equal(observation["pixels"], frames[0])
            np.testing.assert_array_equal(observation["goal"], goal)


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


def test_pictures_and_poses_are_those_of_gym_pusht(tmp_path: Path) -> None:
    """docs/pusht-public.json has what was measured; blocks drift by a pixel, as contact impulses are not kept."""
    pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: benchmarks/public_pusht.py says how")
    command = [sys.executable, "-P", str(BENCHMARK), "--out", "public.json", "--states", "60", "--episodes", "30"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "public.json").read_text())
    assert (tmp_path / "public.png").is_file()
    pictures, poses = measured["pictures"], measured["poses"]
    assert pictures["mean_of_255"] < 0.02
    assert pictures["most_of_255"] < 0.05
    assert pictures["plain_mean_of_255"] > 2.0
    assert poses["block_moved_px"]["median"] > 50
    assert poses["agent_px"]["most"] < 1e-9
    assert poses["block_px"]["median"] < 0.5
    assert poses["angle_deg"]["median"] < 0.5
    assert poses["block_px"]["of_nine_in_ten"] < 3
    assert poses["angle_deg"]["of_nine_in_ten"] < 2


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


STATED = "--image-size 96 --set env.look=gym-pusht --set env.control_mode=absolute"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demonstrations, and a model that was trained on them."""
    work = tmp_path_factory.mktemp("demonstrations")
    states = write_demonstrations(work / "demos.zarr")
    printed = run(f"convert demos.zarr --out demos.h5 --env pusht {STATED}", work)
    assert "left out: columns keypoint, n_contacts" in printed
    assert "train on it with --env pusht" in printed
    data = Trajectories.open(work / "demos.h5")
    np.testing.assert_array_equal(data.state, states)
    np.testing.assert_array_equal(
        data.pixels[40], PushTEnv(image_size=96, **PUBLIC).picture(np.append(states[40], (0, 0)))
    )
    play: dict[str, Any] = {"episodes": 2, "episode_env_steps": 30, "workers": 1, "image_size": 96}
    collect(CollectConfig(out=work / "play.h5", env_kwargs=PUBLIC, **play))
    run(f"train --env pusht --data demos.h5 play.h5 --out run {TRAIN.replace('image_size=32', 'image_size=96')}", work)
    make_tasks("pusht", 10, 2, seed=0).save(work / "tasks.json")
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


def test_evaluation_keeps_to_the_look_of_the_checkpoint_and_to_the_actions_of_tasks(work: Path) -> None:
    settings = {"tasks": work / "tasks.json", "output_dir": work / "refused"}
    plain = EvalConfig(
        planner="cem", checkpoint=str(work / "run/checkpoint"), env_settings={"look": "plain"}, device="cpu", **settings
    )
    with pytest.raises(UserError, match=r"asks for look='plain' and checkpoint .* was trained with look='gym-pusht'"):
        make_policy(plain, load_tasks(plain))
    replay = EvalConfig(planner="replay", env_settings={"control_mode": "absolute"}, **settings)
    with pytest.raises(UserError, match=r"planner='replay': the tasks' actions are of Box\(-1.0, 1.0, \(2,\)"):
        make_policy(replay, load_tasks(replay))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_kwargs": PUBLIC}, "the frames are 96 x 96 px, .* at 64 px: pass --image-size 96"),
        (
            {"image_size": 96, "env_kwargs": {"look": "gym-pusht"}},
            "actions go from .*'relative' those of .* from .*: say what they mean by --set env.NAME=VALUE",
        ),
        ({"image_size": 96, "env_kwargs": {"look": "neon"}}, "look='neon' is unknown: choose one of plain, gym-pusht"),
        ({"image_size": 96, "env_kwargs": {"success": "block"}}, "env.success .*: choose from control_mode, look"),
        ({"image_size": 96, "env_kwargs": {"image_size": 96}}, "env.image_size says nothing about data of pusht"),
        ({"env": None, "env_kwargs": PUBLIC}, "--set env belongs to an environment: name it with --env"),
        ({"env": "nowhere"}, "env='nowhere' is unknown"),
        ({"source": "play.npz"}, "is converted for --env cube: leave --env out"),
    ],
)
def test_conversion_refuses_what_the_data_are_not(work: Path, settings: dict[str, Any], message: str) -> None:
    options = {"source": str(work / "demos.zarr"), "out": work / "other.h5", "env": "pusht", **settings}
    with pytest.raises(UserError, match=message):
        convert(ConvertConfig(**options))
    assert not (work / "other.h5").exists()

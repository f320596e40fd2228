from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lwm_agent import Agent
from lwm_agent.checkpoint import checksum
from lwm_agent.collect.agent_policy import ReachableGoalSampler
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.pictures import area_resize
from lwm_agent.data.trajectories import DatasetError, Trajectories
from lwm_agent.envs import ENVS
from lwm_agent.errors import UserError
from lwm_agent.planners import make_planner

SMALL: dict[str, Any] = {"episodes": 5, "episode_env_steps": 7, "image_size": 32, "seed": 3, "workers": 1}

FRAGILE = '''
"""Pendulum whose episodes fail in the way that its action bound tells."""
import os
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Fragile(PendulumEnv):
    def __init__(self, failure, render_mode=None):
        super().__init__(render_mode)
        self.failure, self.episodes = failure, 0

    def reset(self, **kwargs):
        self.episodes += 1
        if self.episodes > 2:
            if self.failure == "die":
                os._exit(1)
            raise RuntimeError("the simulator broke")
        return super().reset(**kwargs)

gym.register("Fragile-v0", Fragile)
'''


def content(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: column[:] for name, column in file.items()} | {
            f"@{k}": np.array(v) for k, v in file.attrs.items()
        }


def assert_same(first: Path, second: Path) -> None:
    a, b = content(first), content(second)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def pusht(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect(CollectConfig(out=tmp_path_factory.mktemp("data") / "pusht.h5", **SMALL))


def test_file_tells_how_it_was_made(pusht: Path) -> None:
    made = content(pusht)
    assert made["pixels"].shape == (40, 32, 32, 3)
    assert made["@env_id"] == "lwm/PushT-v0"
    assert made["@env_kwargs"] == '{"control_mode": "relative", "image_size": 32, "look": "plain"}'
    assert {name: made[f"@{name}"].item() for name in ("policy", "seed", "episodes", "episode_env_steps")} == {
        "policy": "play",
        "seed": 3,
        "episodes": 5,
        "episode_env_steps": 7,
    }
    np.testing.assert_array_equal(made["@action_low"], [-1, -1])
    assert made["@complete"]


def test_actions_lead_from_frame_to_frame(pusht: Path) -> None:
    data = Trajectories.open(pusht)
    assert data.env_id is not None
    env = gym.make(data.env_id, terminate_on_success=False, **data.env_kwargs)
    for index in range(data.num_episodes):
        pixels, action, state, _ = data.episode(index)
        assert state is not None
        observation, info = env.reset(options={"state": state[0]})
        for t in range(len(pixels)):
            np.testing.assert_array_equal(info["state"], state[t])
            np.testing.assert_array_equal(observation["pixels"], pixels[t])
            if t < len(action):
                observation, _, _, _, info = env.step(action[t])
    assert np.ptp(data.state[data.offsets], axis=0)[:5].min() > 0  # type: ignore[index]


def test_episodes_depend_on_seed_and_number_only(pusht: Path, tmp_path: Path) -> None:
    assert_same(pusht, collect(CollectConfig(out=tmp_path / "two.h5", **{**SMALL, "workers": 2})))
    other = collect(CollectConfig(out=tmp_path / "other.h5", **{**SMALL, "seed": 4}))
    assert not np.array_equal(content(pusht)["state"], content(other)["state"])


def test_interrupted_collection_resumes(pusht: Path, tmp_path: Path) -> None:
    out, calls = tmp_path / "data.h5", []

    def interrupt(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(CollectConfig(out=out, **SMALL), interrupt)
    with pytest.raises(DatasetError, match="is incomplete: run the collect"):
        Trajectories.open(out)
    with pytest.raises(DatasetError, match="policy is 'play' there and 'random' here"):
        collect(CollectConfig(out=out, policy="random", **SMALL))
    collect(CollectConfig(out=out, **SMALL), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert_same(pusht, out)
    with pytest.raises(DatasetError, match="exists already"):
        collect(CollectConfig(out=out, **SMALL))
    collect(CollectConfig(out=out, policy="random", overwrite=True, **SMALL))
    assert content(out)["@policy"] == "random"


SCRIPT = """
import signal, sys, time
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect

def tell(done, total):
    print(done, flush=True)
    if done == 40:
        time.sleep(60)  # until it is killed, however slow the machine

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
    settings = dict(episodes=60, episode_env_steps=70, image_size=32, policy="random", workers=2)
    collect(CollectConfig(out=sys.argv[1], **settings), tell)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_collection_resumes_and_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    script, out = tmp_path / "script.py", tmp_path / "data.h5"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 40:
            pass
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        process.communicate(timeout=300)  # ends when the last process that holds the pipe does
    assert process.returncode == -how
    assert not out.exists()
    collect(CollectConfig(out=out, episodes=60, episode_env_steps=70, image_size=32, policy="random", workers=1))
    data = Trajectories.open(out)
    assert data.lengths.tolist() == [71] * 60
    np.testing.assert_array_equal(data.action[-2], _uniform(np.random.SeedSequence([0, 59]), 70)[-1])


def _uniform(seed: np.random.SeedSequence, steps: int) -> np.ndarray:
    rng = np.random.default_rng(seed.spawn(2)[1])
    return np.array([rng.uniform([-1, -1], [1, 1]) for _ in range(steps)]).astype(np.float32)


def test_foreign_environment(tmp_path: Path) -> None:
    config = CollectConfig(out=tmp_path / "p.h5", env="Pendulum-v1", policy="random", env_kwargs={"g": 9.0}, **SMALL)
    data = Trajectories.open(collect(config))
    assert (data.env_id, data.env_kwargs, data.action_size, data.image_size) == ("Pendulum-v1", {"g": 9.0}, 1, 32)
    assert data.pixels.std() > 0
    env = gym.make("Pendulum-v1", render_mode="rgb_array", g=9.0)
    seed = np.random.SeedSequence([3, 4]).spawn(2)[0].generate_state(1)[0]
    observation, _ = env.reset(seed=int(seed))
    pixels, action, state, _ = data.episode(4)
    assert state is not None
    for t in range(8):
        np.testing.assert_array_equal(state[t], observation)
        np.testing.assert_array_equal(pixels[t], area_resize(env.render(), 32))  # type: ignore[arg-type]
        if t < 7:
            observation, *_ = env.step(action[t])


def test_foreign_episodes_end_where_they_end(tmp_path: Path) -> None:
    config = {**SMALL, "episode_env_steps": 900, "episodes": 1}
    data = Trajectories.open(
        collect(CollectConfig(out=tmp_path / "p.h5", env="Pendulum-v1", policy="random", **config))
    )
    assert data.lengths.tolist() == [201]  # its own limit


def test_area_resize_is_a_mean() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    expected = frame.reshape(30, 2, 30, 3, 3).mean((1, 3))
    np.testing.assert_allclose(area_resize(frame, 30), expected, atol=1)  # rounded once along each axis


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "fragile_env.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "fragile_env:Fragile-v0"
    gym.registry.pop("Fragile-v0", None)
    sys.modules.pop("fragile_env", None)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller(tmp_path: Path, fragile: str, workers: int) -> None:
    config = CollectConfig(
        out=tmp_path / "f.h5",
        env=fragile,
        policy="random",
        env_kwargs={"failure": "raise"},
        **{**SMALL, "workers": workers},
    )
    with pytest.raises(RuntimeError, match="the simulator broke") as caught:
        collect(config)
    trace = str(caught.value.__cause__) if workers == 2 else str(caught.traceback)
    assert "fragile_env.py" in trace


def test_a_dead_worker_is_an_error(tmp_path: Path, fragile: str) -> None:
    out, settings = tmp_path / "f.h5", {**SMALL, "workers": 2}
    with pytest.raises(RuntimeError, match=r"worker process died.*f.h5.partial: collect again"):
        collect(CollectConfig(out=out, env=fragile, policy="random", env_kwargs={"failure": "die"}, **settings))
    assert not out.exists()


def test_an_agent_can_be_recorded(tmp_path: Path) -> None:
    planner: dict[str, Any] = {"num_samples": 8, "num_elites": 2}
    settings: dict[str, Any] = {"policy": "guided", "checkpoint": "pusht-tiny", "image_size": 64, "episodes": 2}
    settings |= {"offset": 2, "planner_settings": planner, "agent_settings": {"num_proposals": 2}}
    first, again = (
        collect(CollectConfig(out=tmp_path / name, **{**SMALL, **settings})) for name in ("first.h5", "again.h5")
    )
    assert_same(first, again)
    made = content(first)
    assert made["@policy"] == "guided"
    assert made["@checkpoint"] == checksum("pusht-tiny")
    assert made["@offset"] == 2
    agent = Agent.load("pusht-tiny", make_planner("guided", **planner), seed=3, deadline_env_steps=4, num_proposals=2)
    assert json.loads(str(made["@agent"])) == {**agent.settings(), "planner": asdict(agent.planner)}
    # It has four steps for each goal, which is where play gets in two; frames and actions go on from goal to goal.
    pixels, action, states, _ = Trajectories.open(first).episode(1)
    assert states is not None
    env_seed, policy_seed = np.random.SeedSequence([SMALL["seed"], 1]).spawn(2)
    rng, goals = np.random.default_rng(policy_seed), ReachableGoalSampler(ENVS["pusht"], 2)
    with gym.make("lwm/PushT-v0", terminate_on_success=False) as env:
        _, info = env.reset(seed=int(env_seed.generate_state(1)[0]))
        for step in range(SMALL["episode_env_steps"]):
            if step % 4 == 0:
                goal = goals(info["state"], rng)
                assert np.linalg.norm(goal - info["state"]) > 1
                observation, info = env.reset(options={"state": info["state"], "goal_state": goal})
                state = None
            np.testing.assert_array_equal(info["state"], states[step])
            np.testing.assert_array_equal(observation["pixels"], pixels[step])
            expected, state = agent.predict(observation, state)
            np.testing.assert_array_equal(expected, action[step])
            observation, _, _, _, info = env.step(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 32}, r"has image_size=32 and .* trained with image_size=64: collect with --image-size 64"),
        ({"env": "cube"}, "'pusht-tiny' was trained for pusht, not for cube: pass --env pusht"),
        ({"env": "Pendulum-v1"}, "an agent can be recorded in pusht, cube, cube-double, not in Pendulum-v1"),
        ({"policy": "play"}, "planner='play' is unknown"),
        ({"offset": 0}, "offset=0 must be at least 1"),
        ({"agent_settings": {"deadline_env_steps": 9, "seed": 1}}, "must not name deadline_env_steps, seed: offset"),
        ({"checkpoint": None, "policy": "random", "agent_settings": {"horizon": 2}}, "need an agent: name its check"),
        ({"checkpoint": None, "policy": "random", "offset": 9}, "need an agent: name its checkpoint"),
    ],
)
def test_an_agent_that_does_not_fit_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    fixed = {**SMALL, "policy": "actor", "checkpoint": "pusht-tiny", "image_size": 64}
    with pytest.raises(ValueError, match=message):
        collect(CollectConfig(out=tmp_path / "x.h5", **{**fixed, **settings}))
    assert list(tmp_path.iterdir()) == []


def test_another_agent_does_not_go_on_with_a_recording(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**SMALL, "policy": "actor", "checkpoint": "pusht-tiny", "image_size": 64, "episodes": 2}

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(CollectConfig(out=tmp_path / "x.h5", **settings), interrupt)
    with pytest.raises(DatasetError, match="policy is 'actor' there and 'guided' here"):
        collect(CollectConfig(out=tmp_path / "x.h5", **{**settings, "policy": "guided"}))
    data = Trajectories.open(collect(CollectConfig(out=tmp_path / "x.h5", **{**settings, "workers": 2})))
    assert data.lengths.tolist() == [8, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"env": "Nothing-v7", "policy": "random"},
            "env='Nothing-v7' cannot be made .*: choose pusht, cube, cube-double or a Gymnasium id",
        ),
        ({"env": "Pendulum-v1"}, "policy='play' is unknown for Pendulum-v1: choose one of random"),
        ({"policy": "oracle"}, "choose one of random, play"),
        ({"episodes": 0}, "episodes=0 must be at least 1"),
        ({"env_kwargs": {"image_size": 9}}, "env_kwargs must not set image_size"),
        ({"env_kwargs": {"fidelity": "x"}}, r"env_kwargs\.fidelity is unknown: choose from .*control_mode"),
        ({"env_kwargs": {"control_mode": 3}}, r"env_kwargs\.control_mode=3 must be str"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(CollectConfig(out=tmp_path / "x.h5", **{**SMALL, **settings}))
    assert not (tmp_path / "x.h5").exists()


ODD = '''
"""Environment that shows what its argument says, and reuses its arrays."""
import gymnasium as gym
import numpy as np

FRAMES = {
    "none": lambda step: None,
    "grey": lambda step: np.zeros((40, 40), np.uint8),
    "float": lambda step: np.zeros((40, 40, 3)),
    "alpha": lambda step: np.zeros((40, 40, 4), np.uint8),
    "empty": lambda step: np.zeros((0, 40, 3), np.uint8),
    "changing": lambda step: np.zeros((40 + step, 40, 3), np.uint8),
    "list": lambda step: [np.zeros((40, 40, 3), np.uint8)],
}

class Odd(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    observation_space = gym.spaces.Box(-9, 9, (3,), np.float64)

    def __init__(self, shows="reused", render_mode=None):
        self.shows, self.render_mode = shows, render_mode
        self.state, self.frame = np.zeros(3), np.zeros((32, 32, 3), np.uint8)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.state[:] = 0
        return self.state, {"state": self.state}

    def step(self, action):
        self.state += 1
        return self.state, 0.0, False, False, {"state": self.state}

    def render(self):
        if self.shows != "reused":
            return FRAMES[self.shows](int(self.state[0]))
        self.frame[:] = self.state[0]
        return self.frame

gym.register("Odd-v0", Odd)
'''


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An environment of the working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "odd_env.py").write_text(ODD, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    yield "odd_env:Odd-v0"
    gym.registry.pop("Odd-v0", None)
    sys.modules.pop("odd_env", None)


@pytest.mark.parametrize("workers", [1, 2])
def test_environment_of_the_working_directory_that_reuses_its_arrays(tmp_path: Path, odd: str, workers: int) -> None:
    config = CollectConfig(out=tmp_path / "x.h5", env=odd, policy="random", **{**SMALL, "workers": workers})
    data = Trajectories.open(collect(config))
    assert data.env_id == odd
    assert data.state is not None
    np.testing.assert_array_equal(data.state[:, 0], np.tile(np.arange(8), 5))
    np.testing.assert_array_equal(data.pixels[:, 0, 0, 0], np.tile(np.arange(8), 5))


@pytest.mark.parametrize(
    ("shows", "message"),
    [
        ("none", "shows None as its frame: `render"),
        ("grey", r"shows uint8 \(40, 40\) as its frame"),
        ("float", r"shows float64 \(40, 40, 3\) as its frame"),
        ("alpha", r"shows uint8 \(40, 40, 4\) as its frame"),
        ("empty", "shows an empty frame"),
        ("list", r"shows \[array"),
        ("changing", r"shows frames of \(40, 40, 3\) and of \(41, 40, 3\)"),
    ],
)
def test_frames_that_cannot_be_recorded_are_refused(tmp_path: Path, odd: str, shows: str, message: str) -> None:
    config = CollectConfig(out=tmp_path / "x.h5", env=odd, policy="random", env_kwargs={"shows": shows}, **SMALL)
    with pytest.raises(UserError, match=message):
        collect(config)
    assert shows == "changing" or not (tmp_path / "x.h5.partial").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": 2**64}, r"seed=18446744073709551616 must be under 2\*\*63"),
        ({"seed": 2**70}, "must be under"),
        ({"seed": 1.0}, "seed=1.0 must be int: write 1"),
        ({"seed": True}, "seed=True must be int"),
        ({"episodes": float("nan")}, "episodes=nan must be int"),
        ({"episodes": 10**30}, "must be under"),
        ({"episode_env_steps": 0}, "episode_env_steps=0 must be at least 1"),
        ({"workers": "2"}, "workers='2' must be int"),
        ({"image_size": 10**6}, "image_size=1000000 must be at most 512"),
        ({"checkpoint": ""}, "checkpoint='' must not be empty"),
        ({"env": ""}, "env='' must not be empty"),
        ({"policy": " "}, "policy=' ' is unknown"),
        ({"device": None}, "device=None must be str"),
        ({"out": ""}, "out='' must not be empty"),
        ({"overwrite": 1}, "overwrite=1 must be bool"),
        ({"env_kwargs": []}, r"env_kwargs=\[\] must be Mapping"),
        ({"env_kwargs": {"damping": float("nan")}}, "must be finite"),
        ({"env_kwargs": {"damping": object()}}, "must fit in JSON"),
        ({"checkpoint": "pusht-tiny", "offset": 10**6}, "offset=1000000 must be at most 300"),
        ({"checkpoint": "pusht-tiny", "offset": 2.5}, "offset=2.5 must be int"),
    ],
)
def test_settings_of_a_wrong_type_or_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CollectConfig(**{"out": "x.h5", **SMALL, **settings})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_refused_before_anything_is_recorded(tmp_path: Path, overwrite: bool) -> None:
    with pytest.raises(DatasetError, match="a folder, pipe or device is there"):
        collect(CollectConfig(out=tmp_path, overwrite=overwrite, **{**SMALL, "episodes": 10**6}))


@pytest.mark.parametrize(
    ("env", "env_kwargs", "message"),
    [
        ("no_such_module:Name-v0", {"unknown": 1}, "there is no module 'no_such_module'"),
        ("odd_env:Missing-v0", {"unknown": 1}, "cannot be made"),
        ("CartPole-v1", {"unknown": 1}, r"env_kwargs=\{'unknown': 1\} do not fit CartPole-v1"),
        ("FrozenLake-v1", {"map_name": "huge"}, r"env_kwargs=\{'map_name': 'huge'\} do not fit FrozenLake-v1"),
    ],
)
def test_environments_that_cannot_be_made_are_refused(
    tmp_path: Path, odd: str, env: str, env_kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        collect(CollectConfig(out=tmp_path / "x.h5", env=env, policy="random", env_kwargs=env_kwargs, **SMALL))


def test_frame_sizes_that_not_every_preset_takes_are_warned_of(tmp_path: Path) -> None:
    from lwm_agent.models.encoders import ConvNet, ViT

    with pytest.warns(UserWarning, match="image_size=84: .*tiny takes multiples of 16, base takes multiples of 14"):
        collect(CollectConfig(out=tmp_path / "x.h5", policy="random", **{**SMALL, "image_size": 84, "episodes": 1}))
    ConvNet(48)
    ViT(42, depth=1)
    for encoder in (ConvNet, ViT):
        with pytest.raises(ValueError, match="must be a multiple of"):
            encoder(50)


def test_config_imports_neither_torch_nor_a_simulator() -> None:
    code = (
        "import sys, lwm_agent.collect.config; "
        "sys.exit(', '.join({'torch', 'pygame', 'pymunk', 'mujoco', 'h5py'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_a_shift_is_drawn_anew_for_each_episode(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"episodes": 3, "episode_env_steps": 12, "seed": 4, "workers": 1, "env": "pusht"}
    usual = collect(CollectConfig(out=str(tmp_path / "usual.h5"), **settings))
    varied = collect(CollectConfig(out=str(tmp_path / "varied.h5"), shift=("background-color=1", "blur=1"), **settings))
    with h5py.File(usual) as before, h5py.File(varied) as after:
        np.testing.assert_array_equal(before["state"], after["state"])
        assert after.attrs["shifts"] == "background-color=1 blur=1"
        assert "shifts" not in before.attrs
        corners = after["pixels"][:, 2, 8]  # of the table, where nothing else ever is
        of_episodes = [corners[first : first + 13] for first in (0, 13, 26)]
        for corner in of_episodes:
            np.testing.assert_array_equal(corner, np.broadcast_to(corner[0], corner.shape))
        assert len({tuple(corner[0]) for corner in of_episodes}) == 3
    with pytest.raises(UserError, match="nothing can differ in a collection by an agent"):
        CollectConfig(out="x.h5", policy="cem", checkpoint="pusht-tiny", shift=("blur=1",))
    with pytest.raises(UserError, match="in CartPole-v1, which is not registered"):
        CollectConfig(out="x.h5", env="CartPole-v1", policy="random", shift=("blur=1",))
    with pytest.raises(UserError, match="shift 'smell=1' is unknown"):
        CollectConfig(out="x.h5", shift=("smell=1",))

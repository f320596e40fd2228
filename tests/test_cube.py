"""The cube as an environment and as a simulation; pictures are drawn for real."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

if find_spec("ogbench") is None:
    pytest.skip("ogbench is not installed: it has no wheels for this Python", allow_module_level=True)

from lwm_agent.data.trajectories import Trajectories
from lwm_agent.envs import opengl
from lwm_agent.envs.cube import CubeEnv, cube_turn_deg
from lwm_agent.envs.cube_play import NoisyPolicy
from lwm_agent.envs.cube_scene import scene
from lwm_agent.envs.cube_simulator import OGBenchCube, simulator
from lwm_agent.envs.mujoco_rendering import Renderer
from lwm_agent.envs.opengl import choose_backend, opengl_errors
from lwm_agent.errors import MachineError, UserError

State = NDArray[np.float64]
ENV_ID = "lwm/Cube-v0"


@pytest.fixture(scope="module", autouse=True)
def _drawing() -> None:
    try:
        choose_backend()
    except RuntimeError as error:
        pytest.skip(str(error))


def blank(**settings: Any) -> CubeEnv:
    return CubeEnv(image_size=16, fidelity="blank", **settings)


def turned(degrees: float, axis: int = 2) -> list[float]:
    """The quaternion of a turn."""
    quaternion = [np.cos(np.radians(degrees) / 2), 0.0, 0.0, 0.0]
    quaternion[1 + axis] = np.sin(np.radians(degrees) / 2)
    return quaternion


def at(x: float = 0.4, y: float = 0.0, z: float = 0.02, degrees: float = 0.0) -> State:
    """A state at rest, the arm as after the first reset."""
    state = np.zeros(41)
    state[:6] = [-1.571, -1.571, 1.571, -1.571, -1.571, 0.0]
    state[14:21] = [x, y, z, *turned(degrees)]
    return state


def test_made_environment_limits_episodes_and_reports_readings() -> None:
    with gym.make(ENV_ID, image_size=16, fidelity="blank") as env:
        assert env.spec is not None
        assert env.spec.max_episode_steps == 200
        observation, info = env.reset(seed=0)
    assert observation["pixels"].shape == observation["goal"].shape == (16, 16, 3)
    assert info["state"].shape == info["goal_state"].shape == (41,)
    np.testing.assert_array_equal(info["privileged/block_0_pos"], info["state"][14:17])
    np.testing.assert_array_equal(info["privileged/target_block_pos"], info["goal_state"][14:17])
    assert {"proprio/effector_pos", "proprio/effector_yaw", "proprio/gripper_opening"} <= info.keys()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_vector_envs_step_and_reset(vectorization: str) -> None:
    CubeEnv(image_size=16).picture(at())  # worker processes are forks of one that has drawn
    envs = gym.make_vec(ENV_ID, 2, vectorization, image_size=16)  # type: ignore[arg-type]
    observation, info = envs.reset(seed=5)
    for row in range(2):
        np.testing.assert_array_equal(observation["pixels"][row], CubeEnv(image_size=16).picture(info["state"][row]))
    envs.reset(options={"state": at(), "goal_state": at()})
    _, reward, terminated, _, _ = envs.step(np.zeros((2, 5), np.float32))
    assert reward.tolist() == [1.0] * 2
    assert terminated.all()
    envs.close()


@pytest.mark.parametrize("vec_env", [DummyVecEnv, partial(SubprocVecEnv, start_method="fork")])
def test_sb3_vec_envs_step_and_reset(vec_env: Callable[..., VecEnv]) -> None:
    make = partial(gym.make, ENV_ID, image_size=16, max_episode_steps=2, terminate_on_success=False)
    envs = vec_env([make] * 2)
    envs.seed(0)
    first = envs.reset()
    assert isinstance(first, dict)
    assert first["pixels"].shape == (2, 16, 16, 3)
    envs.step(np.zeros((2, 5)))
    _, _, dones, infos = envs.step(np.zeros((2, 5)))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    envs.close()


EPISODE = f"""
import hashlib, gymnasium, lwm_agent
with gymnasium.make("{ENV_ID}") as env:
    observation, _ = env.reset(seed=3)
    env.action_space.seed(4)
    pictures = [observation["goal"], observation["pixels"]]
    pictures += [env.step(env.action_space.sample())[0]["pixels"] for _ in range(5)]
print(hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest())
"""


def test_a_seed_fixes_pictures_in_processes_without_a_display() -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", EPISODE], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    env = gym.make(ENV_ID)
    observation, _ = env.reset(seed=3)
    env.action_space.seed(4)
    pictures = [observation["goal"], observation["pixels"]]
    pictures += [env.step(env.action_space.sample())[0]["pixels"] for _ in range(5)]
    assert done.stdout.strip() == hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()
    assert not np.array_equal(env.reset(seed=5)[0]["pixels"], pictures[1])


def test_importing_the_package_leaves_mujoco_alone() -> None:
    code = "import lwm_agent, lwm_agent.envs.opengl, sys; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mujocos_own_renderer_uses_the_chosen_opengl() -> None:
    """It takes MUJOCO_GL as it is when mujoco is imported, which is therefore not before the choice."""
    from mujoco.gl_context import GLContext

    assert GLContext.__module__ == f"mujoco.{choose_backend()}"


def test_restored_and_continued_equals_uninterrupted() -> None:
    """Every step is taken twice: by an environment that goes on and by one that is restored after another past."""
    env, restored, grasps = blank(terminate_on_success=False), blank(terminate_on_success=False), 0
    policy, rng = NoisyPolicy(np.random.default_rng(0)), np.random.default_rng(1)
    _, info = env.reset(seed=0)
    restored.reset(seed=1)
    for _ in range(100):
        action = policy(info)
        restored.simulate(rng.uniform(-1, 1, 5).astype(np.float32))
        restored.reset(options={"state": info["state"].tolist(), "goal_state": info["goal_state"].tolist()})
        *_, same = restored.step(action)
        *_, info = env.step(action)
        np.testing.assert_equal(same, info)
        grasps += bool(info["proprio/gripper_contact"][0] > 0.5)
    assert grasps > 10


def test_uninterrupted_environments_do_not_disturb_each_other() -> None:
    alone, env, other = blank(), blank(), blank()
    rng, states = np.random.default_rng(0), []
    for each in (alone, env):
        each.reset(seed=0)
    other.reset(seed=1)
    actions = rng.uniform(-1, 1, (20, 5)).astype(np.float32)
    for action in actions:
        alone.simulate(action)
        states.append(alone.get_state())
    for action, state in zip(actions, states, strict=True):
        other.simulate(-action)
        env.simulate(action)
        env.sample_state()
        env.picture(other.get_state())
        np.testing.assert_array_equal(env.get_state(), state)


def test_physics_is_ogbenchs_whatever_is_drawn() -> None:
    """100 steps, each the same to the last bit as one of ogbench's own environment put into the same state."""
    original = OGBenchCube("single", mode="data_collection")
    original.reset(seed=0)
    envs = [CubeEnv(image_size=16, fidelity=fidelity) for fidelity in ("lite", "stock")]
    for env in envs:
        env.reset(seed=2)
        env.picture(env.get_state())
    rng = np.random.default_rng(0)
    for _ in range(100):
        action, state = rng.uniform(-1, 1, 5).astype(np.float32), envs[0].get_state()
        original._data.qacc_warmstart[:] = 0.0  # what ogbench carries over from step to step
        original.set_state(state[:21], state[21:])
        original.step(action)
        for env in envs:
            env.simulate(action)
            np.testing.assert_array_equal(env.get_state()[:21], original._data.qpos)
            np.testing.assert_array_equal(env.get_state()[21:], original._data.qvel)


def test_reset_sets_the_state_and_goal_of_info_exactly() -> None:
    env, state, goal_state = CubeEnv(image_size=32), at(x=1 / 3), at(y=0.1, degrees=17.0)
    state[21:] = 1 / 7
    observation, info = env.reset(options={"state": state, "goal_state": goal_state})
    np.testing.assert_array_equal(info["state"], state)
    np.testing.assert_array_equal(info["goal_state"], goal_state)
    np.testing.assert_array_equal(observation["pixels"], env.picture(state))
    np.testing.assert_array_equal(observation["goal"], env.picture(goal_state))
    assert not np.array_equal(observation["pixels"], observation["goal"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 8}, "image_size=8 is out of range"),
        ({"render_size": 0}, "render_size=0 is out of range: choose one from 16 to 4096"),
        ({"fidelity": "high"}, "fidelity='high' is unknown: choose one of lite, stock, blank"),
        ({"success": "luck"}, "success='luck' is unknown: choose one of position, pose"),
        ({"render_mode": "human"}, "render_mode='human' is unknown: choose one of .*rgb_array"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CubeEnv(**arguments)


@pytest.mark.parametrize(
    ("success", "goal", "reached"),
    [
        ("position", at(x=0.439, degrees=45.0), True),
        ("position", at(x=0.441), False),
        ("position", at(x=0.43, z=0.05), False),  # together 4.2 cm
        ("pose", at(x=0.439, degrees=14.9), True),
        ("pose", at(degrees=15.1), False),
        ("pose", at(degrees=-90 + 14.9), True),
        ("pose", at(x=0.441), False),
    ],
)
def test_success_thresholds(success: str, goal: State, reached: bool) -> None:
    env = blank(success=success)
    _, info = env.reset(options={"state": at(), "goal_state": goal})
    assert info["is_success"] is reached
    moved = np.linalg.norm(goal[14:17] - at()[14:17]) > 0.04
    assert env.is_nontrivial(at(), goal) == moved


def test_turns_are_measured_modulo_the_cubes_symmetries() -> None:
    def turn(first: list[float], second: list[float]) -> float:
        return cube_turn_deg(np.array(first), np.array(second))

    for degrees, expected in ((0, 0), (30, 30), (45, 45), (60, 30), (90, 0), (-170, 10), (350, 10)):
        for start in (0.0, 77.0):
            assert turn(turned(start + degrees), turned(start)) == pytest.approx(expected, abs=1e-5)
    for axis in range(3):
        assert turn(turned(100.0, axis), turned(0.0)) == pytest.approx(10.0, abs=1e-5)
    third_about_a_diagonal = [0.5, 0.5, 0.5, 0.5]
    assert turn(third_about_a_diagonal, turned(0.0)) == pytest.approx(0.0, abs=1e-5)
    errors = blank().errors(at(x=0.43, y=0.04, degrees=50.0), at())
    assert errors == pytest.approx({"cube_m": 0.05, "cube_turn_deg": 40.0})


def test_goal_image_without_a_state_is_not_rendered() -> None:
    env = CubeEnv(image_size=16, render_mode="rgb_array", render_size=32)
    observation, info = env.reset(options={"state": at(), "goal_image": np.full((16, 16, 3), 7, np.uint8)})
    assert (observation["goal"] == 7).all()
    assert info["is_success"] is False
    assert np.isnan(info["privileged/target_block_pos"]).all()
    frame = env.render()
    np.testing.assert_array_equal(frame, CubeEnv(image_size=32).view(at()))


def test_rendered_frame_shows_the_goal_and_observations_do_not() -> None:
    env = CubeEnv(image_size=64, render_mode="rgb_array", render_size=64)
    observation, _ = env.reset(options={"state": at(y=-0.15), "goal_state": at(y=0.15)})
    frame = env.render()
    assert frame is not None
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(observation["pixels"], CubeEnv().picture(at(y=-0.15)))
    changed = np.argwhere((frame != CubeEnv().view(at(y=-0.15))).any(axis=2))
    assert 0 < np.ptp(changed, axis=0).max() < 16  # a patch the size of a cube


def test_views_are_brighter_than_observations_and_show_the_arm() -> None:
    state, still = at(), at(y=0.2)
    env = CubeEnv(image_size=64)
    seen, shown = env.picture(state).astype(int), env.view(state).astype(int)
    assert shown.mean() > seen.mean() + 50
    assert np.ptp(shown[:16, 16:48], axis=(0, 1)).max() > np.ptp(seen[:16, 16:48], axis=(0, 1)).max() + 50  # the arm
    assert (env.view(still) != shown).any()  # the cube
    np.testing.assert_array_equal(env.picture(state), seen)  # another scene was lit
    stock = CubeEnv(image_size=64, fidelity="stock")
    np.testing.assert_array_equal(stock.view(state), stock.picture(state))


def test_lite_looks_like_stock() -> None:
    rng_state = simulator().sample(np.random.default_rng(0))
    lite, stock, flat, dark = (
        CubeEnv(image_size=64, **settings).picture(rng_state).astype(int)
        for settings in (
            {},
            {"fidelity": "stock"},
            {"shadows": False},
            {"fidelity": "blank"},
        )
    )
    assert np.abs(lite - stock).mean() < 3.0  # edges are smoothed there
    assert np.abs(flat - lite).mean() > 3.0
    assert (dark == 0).all()
    red = (lite[..., 0] > 2 * lite[..., 1]) & (lite[..., 0] > 100)
    assert 9 <= red.sum() <= 60  # the cube


def test_random_scenes_differ_and_lie_on_the_table() -> None:
    env = blank()
    env.reset(seed=0)
    scenes = np.array([env.sample_state() for _ in range(20)])
    assert len(np.unique(scenes, axis=0)) == 20
    assert (np.ptp(scenes[:, 14:16], axis=0) > 0.15).all()
    np.testing.assert_allclose(scenes[:, 16], 0.02)


def test_threads_free_what_they_drew_with() -> None:
    freed: list[int] = []
    original = Renderer.close

    def draw() -> None:
        CubeEnv(image_size=16).picture(at())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Renderer, "close", lambda self: (freed.append(id(self)), original(self)))
        thread = Thread(target=draw)
        thread.start()
        thread.join()
        gc.collect()
    assert len(freed) == 1


def test_renderer_of_another_thread_is_refused() -> None:
    with ThreadPoolExecutor(1) as other:
        renderer = other.submit(scene, 1, 16, "lite", True).result()._renderer
        with pytest.raises(RuntimeError, match="the thread that made it"):
            renderer.picture(simulator()._data, "front_pixels")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 1e4, "the simulation is unstable in this state"),
        (25, 1e5, "the simulation is unstable in this state"),
        (17, 0.0, "has a cube whose quaternion is zero"),
    ],
)
def test_state_that_cannot_be_simulated_is_refused(
    column: int, value: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # mujoco writes its log into the working directory
    env, state = blank(), at()
    state[column] = value

    def reset_and_step() -> None:
        env.reset(options={"state": state, "goal_state": at()})
        env.step(np.zeros(5, np.float32))

    with pytest.raises(UserError, match=message):
        reset_and_step()


MUJOCO_ENV = """
import sys
from lwm_agent.envs import import_env
import_env("InvertedPendulum-v5")
import gymnasium
for name, settings in (("InvertedPendulum-v5", {"width": 32, "height": 32}), ("CartPole-v1", {})):
    env = gymnasium.make(name, render_mode="rgb_array", **settings)
    env.reset(seed=0)
    assert env.render().std() > 0
"""


def test_gymnasiums_environments_draw_without_a_display(tmp_path: Path) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    run = subprocess.run(
        [sys.executable, "-c", MUJOCO_ENV], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


WINDOW = """
import gymnasium, lwm_agent
cube = gymnasium.make("lwm/Cube-v0", image_size=16)
before, _ = cube.reset(seed=0)
with gymnasium.make("lwm/PushT-v0", render_mode="human") as shown:
    shown.reset(seed=0)
after, _ = cube.reset(seed=0)
assert (after["pixels"] == before["pixels"]).all()
"""


def test_a_window_without_a_display_leaves_mujocos_pictures(tmp_path: Path) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    run = subprocess.run(
        [sys.executable, "-c", WINDOW], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MuJoCo cannot draw on this machine (egl: no library; osmesa: no library). On Debian"),
        ({"MUJOCO_GL": "egl"}, "MUJOCO_GL=egl cannot draw on this machine (no library): on Debian"),
        ({"DISPLAY": ":0"}, None),
    ],
)
def test_error_of_an_environment_that_draws_by_itself_names_the_machines_fault(
    variables: dict[str, str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **variables})
    for name in {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER"} - set(variables):
        os.environ.pop(name, None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(opengl, "choose_backend", choose_backend.__wrapped__)
    monkeypatch.setattr(opengl, "try_backend", lambda name: "no library")
    opengl.prepare_drawing.__wrapped__()  # says nothing yet: who knows whether something draws with MuJoCo?
    assert os.environ.get("SDL_VIDEODRIVER") == (None if "DISPLAY" in variables else "dummy")
    with pytest.raises((MachineError, ArithmeticError)) as raised, opengl_errors():
        raise ArithmeticError("its own words")  # mujoco's own FatalError is a bare Exception too
    assert str(raised.value).startswith(message or "its own words")


@pytest.mark.parametrize("problem", [UserError("its own words"), ValueError("its own words")])
def test_errors_that_are_not_of_the_machine_stay(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(opengl, "try_backend", lambda name: None)
    with pytest.raises(type(problem), match="its own words") as raised, opengl_errors():
        raise problem
    assert raised.value is problem


def test_mujoco_environments_of_others_are_recorded_without_a_display(tmp_path: Path) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")
    command = "collect --env InvertedPendulum-v5 --policy random --episodes 2 --workers 1 --out x.h5"
    run = subprocess.run(
        [sys.executable, "-c", "from lwm_agent.cli.main import main; main()", *command.split()],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert Trajectories.open(tmp_path / "x.h5").num_episodes == 2


WITHOUT_LIBRARIES = """
import ctypes, ctypes.util, sys
found, load = ctypes.util.find_library, ctypes.CDLL.__init__
def init(library, name, *args, **kwargs):
    if name and ("OSMesa" in str(name) or "EGL" in str(name)):
        raise OSError(f"{name} is missing")
    load(library, name, *args, **kwargs)
ctypes.util.find_library = lambda name: None if name in ("OSMesa", "EGL") else found(name)
ctypes.CDLL.__init__ = init
"""


@pytest.mark.parametrize("env", ["cube", "InvertedPendulum-v5 --policy random"])
@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        ("osmesa", "on Debian and Ubuntu, apt-get install libosmesa6, or unset MUJOCO_GL"),
        ("egl", "on Debian and Ubuntu, apt-get install libegl1 libgl1-mesa-dri libopengl0, or unset MUJOCO_GL"),
        ("nonsense", "choose egl or osmesa, or unset MUJOCO_GL"),
    ],
)
def test_missing_opengl_is_no_bug_of_the_package(env: str, backend: str, problem: str, tmp_path: Path) -> None:
    """The trial in another process does without the libraries too, as sitecustomize is imported there."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LIBRARIES)
    command = f"collect --env {env} --episodes 1 --episode-env-steps 2 --workers 1 --out x.h5"
    run = subprocess.run(
        [sys.executable, "-c", "from lwm_agent.cli.main import main; main()", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(run.stderr.split())
    assert f"MUJOCO_GL={backend} cannot draw on this machine (" in said
    assert problem in said
    assert "this is a bug" not in said
    assert run.returncode not in (0, 1)

"""OGBench's npz files: what is converted is what is there, frame by frame, and what cannot be says why."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.data.ogbench_npz import convert
from lwm_agent.data.trajectories import DatasetError, Trajectories
from lwm_agent.envs.opengl import choose_backend
from lwm_agent.training.config import HeadsConfig, TrainConfig
from lwm_agent.training.heads import train_heads
from lwm_agent.training.train import train

LENGTHS = (11, 15, 12)
N = sum(LENGTHS)
STARTS = np.cumsum((0, *LENGTHS[:-1]))
MODEL = {"latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1, "sigreg_directions": 16}


def layout(**changes: Any) -> dict[str, np.ndarray]:
    """Columns as in the published files; each number tells the row and the column that it belongs to."""
    rows, terminals = np.arange(N), np.zeros(N, bool)
    terminals[np.cumsum(LENGTHS) - 1] = True
    pixels = np.random.default_rng(0).integers(0, 256, (N, 64, 64, 3), np.uint8)
    pixels[:, 0, 0, 0] = rows
    columns = {
        "observations": pixels,
        "actions": (rows[:, None] / N + np.arange(5) / 1000).astype(np.float32),
        "terminals": terminals,
        "qpos": (rows[:, None] + np.arange(21) / 100).astype(np.float32),
        "qvel": (-rows[:, None] - np.arange(20) / 100).astype(np.float32),
    }
    return {name: column for name, column in {**columns, **changes}.items() if column is not None}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "visual-cube-single-play-v0.npz"
    np.savez_compressed(path, **layout())  # type: ignore[arg-type]
    return path


def test_every_frame_keeps_its_action_and_its_state(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(source, tmp_path / "data" / "cube.h5", lambda done, total: seen.append((done, total)))
    assert seen == [(11, N), (26, N), (38, N)]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cube.h5"]
    data, columns = Trajectories.open(tmp_path / "data" / "cube.h5"), layout()
    assert data.lengths.tolist() == [*LENGTHS]
    assert data.env_id == "lwm/Cube-v0"
    assert data.env_kwargs == {"fidelity": "stock", "image_size": 64, "shadows": True}
    np.testing.assert_array_equal([data.action_low, data.action_high], [[-1] * 5, [1] * 5])
    for index, (start, length) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        pixels, action, state, _ = data.episode(index)
        rows = slice(start, start + length)
        np.testing.assert_array_equal(pixels, columns["observations"][rows])
        np.testing.assert_array_equal(action, columns["actions"][rows][:-1])  # the last one leads nowhere
        assert state is not None
        np.testing.assert_array_equal(state[:, :21], columns["qpos"][rows])
        np.testing.assert_array_equal(state[:, 21:], columns["qvel"][rows])


def test_the_kinds_of_numbers_do_not_matter(tmp_path: Path) -> None:
    columns = layout()
    wide = {name: columns[name].astype(np.float64) for name in columns if name != "observations"}
    np.savez(tmp_path / "wide.npz", **{**columns, **wide})  # type: ignore[arg-type]
    convert(tmp_path / "wide.npz", tmp_path / "wide.h5")
    assert Trajectories.open(tmp_path / "wide.h5").lengths.tolist() == [*LENGTHS]


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_models_and_heads_train_on_it_and_remember_the_fidelity(source: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "cube.h5")
    convert(source, data)
    settings: dict[str, Any] = {"steps": 1, "batch_size": 2, "clip_length": 3, "device": "cpu", "validation": 0.3}
    train(
        TrainConfig.from_preset(
            "tiny", data=(data,), out=str(tmp_path / "run"), env="cube", model_settings=MODEL, **settings
        )
    )
    folder = str(tmp_path / "run" / "checkpoint")
    train_heads(HeadsConfig(checkpoint=folder, data=(data,), steps=1, batch_size=2, width=8, device="cpu"))
    checkpoint = Checkpoint.load(folder)
    assert (checkpoint.env, checkpoint.env_kwargs["fidelity"]) == ("cube", "stock")
    assert checkpoint.heads is not None


def test_a_file_that_was_not_converted_names_the_command(source: Path) -> None:
    with pytest.raises(DatasetError, match=r"play-v0.npz is an npz file.*`lwm-agent convert .*npz --out .*v0.h5`"):
        Trajectories.open(source)


def test_nothing_is_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cube.h5").write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        convert(source, tmp_path / "cube.h5")
    assert (tmp_path / "cube.h5").read_text() == "mine"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_pixel(path: Path) -> None:
    """In an archive that is not compressed only the checksum tells."""
    np.savez(path, **layout())  # type: ignore[arg-type]
    content = bytearray(path.read_bytes())
    content[40_000] ^= 1
    path.write_bytes(content)


def damage_compressed_data(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5_000:5_100] = b"\xff" * 100
    path.write_bytes(content)


def announce_more_rows(path: Path) -> None:
    """The header of the pictures tells of a frame that is not there."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = f"({N}, 64, 64, 3)".encode()
    assert header in members["observations.npy"]
    members["observations.npy"] = members["observations.npy"].replace(header, f"({N + 1}, 64, 64, 3)".encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def recompress(path: Path, method: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def bomb(path: Path) -> None:
    """The directory of the archive announces 4,000 times what it holds of one column."""
    recompress(path, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02", 0, content.rfind(b"qpos.npy"))
    size = int.from_bytes(content[entry + 24 : entry + 28], "little")
    content[entry + 24 : entry + 28] = (4000 * size).to_bytes(4, "little")
    path.write_bytes(content)


def instead(**changes: Any) -> Callable[[Path], None]:
    return lambda path: np.savez_compressed(path, **layout(**changes))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "does not exist: download it"),
    "text": (lambda path: path.write_text("hello"), "not an npz file .*: download it .again."),
    "cut short": (cut_short, "damaged, cut short .*: download it .again."),
    "a pixel": (change_a_pixel, "damaged.*CRC.*: download it .again."),
    "compressed": (damage_compressed_data, "damaged.*: download it .again."),
    "other archive": (
        lambda path: zipfile.ZipFile(path, "w").close(),
        "has no actions, .*: only OGBench's visual-cube",
    ),
    "no state": (instead(qpos=None), "has no qpos; it has actions, observations, qvel, terminals: only OGBench's"),
    "states": (instead(observations=np.zeros((N, 28))), r"is float64 \(38, 28\), not pictures \(N, 64, 64, 3\): only"),
    "two cubes": (
        instead(qpos=np.zeros((N, 28))),
        r"qpos is float64 \(38, 28\), not numbers \(N, 21\): only OGBench's",
    ),
    "by columns": (instead(qvel=np.zeros((N, 20), order="F")), r"qvel is float64 \(38, 20\)"),
    "pickle": (instead(actions=np.full((N, 5), None)), r"actions is object \(38, 5\), not numbers \(N, 5\)"),
    "lengths": (instead(qvel=np.zeros((N - 1, 20))), "differ in length: .*'qvel': 37.*: download it .again."),
    "rows": (announce_more_rows, "observations does not hold the 39 rows that it announces: download it .again."),
    "no end": (instead(terminals=np.zeros(N, bool)), "ends within an episode: its last row is not terminal"),
    "bomb": (lambda path: bomb(path), "qpos announces .* bytes, more than the file can hold"),
    "other compression": (lambda path: recompress(path, zipfile.ZIP_LZMA), "compressed in another way than numpy does"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "a pipe, socket or device, name a regular file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "a folder, name a regular file"),
    "terminals": (instead(terminals=np.full(N, 2.0)), "terminals must be 0 or 1"),
    "parts of numbers": (instead(actions=np.zeros((N, 5), [("x", "f4")])), r"actions is \[\('x', '<f4'\)\]"),
    "other units": (instead(actions=np.full((N, 5), 40.0)), "100.0% of the actions lie outside"),
    "NaN": (
        instead(qpos=np.where(np.arange(N)[:, None] == 17, np.nan, np.zeros(21))),
        "qpos has NaN .* in row 17: down",
    ),
    "empty": (lambda path: np.savez(path, **{k: v[:0] for k, v in layout().items()}), "ends within an episode"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_bad_files_are_refused_and_make_no_data_set(source: Path, tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(source)
    with pytest.raises(DatasetError, match=message) as caught:
        convert(source, tmp_path / "cube.h5")
    assert str(source) in str(caught.value) or kind == "other units"
    assert not (tmp_path / "cube.h5").exists()


@pytest.mark.ogbench
def test_ogbenchs_own_rows_are_states_and_pictures_of_the_cube(tmp_path: Path) -> None:
    """Recorded as OGBench's script does, with its environment: our own restores each row and goes on as it did."""
    try:
        choose_backend()
    except RuntimeError as error:
        pytest.skip(str(error))
    record_with_ogbench(tmp_path / "own.npz", lengths=(3, 4))
    convert(tmp_path / "own.npz", tmp_path / "own.h5")
    data = Trajectories.open(tmp_path / "own.h5")
    assert data.env_id is not None
    env = gym.make(data.env_id, terminate_on_success=False, **data.env_kwargs)
    for index in range(2):
        pixels, action, state, _ = data.episode(index)
        assert state is not None
        observation, info = env.reset(options={"state": state[0], "goal_state": state[-1]})
        np.testing.assert_array_equal(info["state"], state[0])
        np.testing.assert_array_equal(info["goal_state"], state[-1])
        for step, frame in enumerate(pixels):
            # The arm has moved on for 2 ms where ogbench draws; in lite pictures it is 0.8 and more.
            assert np.abs(observation["pixels"].astype(int) - frame).mean() < 0.4
            np.testing.assert_allclose(info["state"][:21], state[step][:21], atol=3e-3)
            if step < len(action):
                observation, _, _, _, info = env.step(action[step])


def record_with_ogbench(path: Path, lengths: tuple[int, ...]) -> None:
    from lwm_agent.envs.cube_simulator import OGBenchCube

    env = OGBenchCube(
        "single", mode="data_collection", ob_type="pixels", width=64, height=64, visualize_info=False
    )  # visual-cube-single-v0
    rng, rows = np.random.default_rng(0), []
    for seed, length in enumerate(lengths):
        observation, _ = env.reset(seed=seed)
        for step in range(length):
            action = rng.uniform(-1, 1, 5)
            following, _, _, _, info = env.step(action)
            rows.append((observation, action, step == length - 1, info["prev_qpos"], info["prev_qvel"]))
            observation = following
    env._renderer.close()  # while OpenGL is still there to be asked; `env.close()` leaves it to the garbage collector
    types = (np.uint8, np.float32, bool, np.float32, np.float32)
    columns = [np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), types, strict=True)]
    np.savez_compressed(path, **dict(zip(layout(), columns, strict=True)))  # type: ignore[arg-type]

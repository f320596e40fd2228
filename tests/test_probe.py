"""Probes: fits, scores, latents along clips, and the command on recordings of real environments."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.cli.main import app
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.clips import Windows
from lwm_agent.data.trajectories import DatasetError, Trajectories
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.envs.quantities import Quantity
from lwm_agent.errors import UserError
from lwm_agent.eval import probes
from lwm_agent.eval.bootstrap import Bootstrap
from lwm_agent.eval.latent_geometry import effective_rank, straightness
from lwm_agent.eval.probe_scores import FRAMES, IMAGINED, PAINTED, STILL, ProbeReport, read_report
from lwm_agent.eval.probes import Examples, fit_linear, fit_mlp
from lwm_agent.experiments.clip_latents import CONTEXT, encode_clips
from lwm_agent.experiments.probe import run_probe
from lwm_agent.experiments.probe_config import ProbeConfig
from lwm_agent.experiments.probe_quantities import RecordedQuantities
from lwm_agent.models import WorldModel

from .test_env_contract import every_env, make
from .test_train_predictor import trained  # noqa: F401  (a fixture: a small checkpoint of the square that moves)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STEPS", 250)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recording of Push-T."""
    path = tmp_path_factory.mktemp("play") / "play.h5"
    collect(CollectConfig(env="pusht", policy="play", episodes=30, episode_env_steps=60, out=path, workers=1))
    return str(path)


def settings(checkpoint: Path | str, data: str, out: Path, **others: object) -> ProbeConfig:
    fixed = {"frames": 400, "horizon": 3, "validation": 0.4, "device": "cpu", "plot": False}
    return ProbeConfig(checkpoint=str(checkpoint), data=(data,), out=out, **{**fixed, **others})  # type: ignore[arg-type]


# Quantities


def test_error_of_an_angle_is_the_short_way_round() -> None:
    yaw = Quantity(values=np.array([[350.0], [-170.0], [0.0]]), unit="deg", period=360.0)
    np.testing.assert_allclose(yaw.errors(np.array([[10.0], [170.0], [180.0]])), [20, 20, 180])
    np.testing.assert_allclose(yaw.errors(yaw.read(yaw.targets)), 0, atol=1e-9)
    quarter = Quantity(values=np.array([[44.0], [91.0]]), unit="deg", period=90.0)
    np.testing.assert_allclose(quarter.errors(np.array([[-44.0], [0.0]])), [2, 1])
    np.testing.assert_allclose(quarter.targets[0], Quantity(values=np.array([[134.0]]), period=90.0).targets[0])


def test_error_of_a_place_is_a_distance_and_of_numbers_their_mean() -> None:
    values, others = np.zeros((1, 2)), np.array([[3.0, -4.0]])
    assert Quantity(values=values, is_place=True).errors(others).tolist() == [5.0]
    assert Quantity(values=values).errors(others).tolist() == [3.5]
    with pytest.raises(UserError, match=r"must be \(N, n\), not \(3,\)"):
        Quantity(values=np.zeros(3))


@every_env
def test_every_environment_names_its_quantities(name: str) -> None:
    env = make(name)
    states, infos = [], []
    for seed in range(3):
        _, info = env.reset(seed=seed)
        states.append(info["state"])
        infos.append(info)
    named = env.quantities(np.stack(states))
    assert len(named) >= 4
    for quantity in named.values():
        assert len(quantity.values) == 3
        assert np.isfinite(quantity.values).all()
        assert quantity.unit
    assert any(quantity.tolerance for quantity in named.values())
    if name == "pusht":
        np.testing.assert_array_equal(named["block"].values, np.stack(states)[:, 2:4])
        np.testing.assert_allclose(np.radians(named["angle"].values[:, 0]), np.stack(states)[:, 4])
    else:
        hand = [100 * info["proprio/effector_pos"] for info in infos]
        np.testing.assert_allclose(named["effector"].values, hand, atol=1e-6)
        np.testing.assert_allclose(named["cube"].values, 100 * np.stack(states)[:, 14:17], atol=1e-9)


def test_files_without_an_environment_have_a_quantity_for_each_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path) as writer:
        for _ in range(2):
            pixels, action = np.zeros((5, 16, 16, 3), np.uint8), rng.normal(size=(4, 2)).astype(np.float32)
            writer.add(pixels, action, rng.normal(size=(5, 3)))
    with h5py.File(path, "a") as file:
        file["force"] = np.arange(20.0).reshape(10, 2)
        file["label"] = np.arange(10)
        file["wide"] = np.zeros((10, 65))
        file["words"] = np.array([b"a"] * 10)
    quantities = RecordedQuantities(Trajectories.open(path)).at(np.array([1, 7]))
    assert list(quantities) == ["state[0]", "state[1]", "state[2]", "force[0]", "force[1]", "label[0]"]
    assert quantities["force[1]"].values.tolist() == [[3.0], [15.0]]
    assert quantities["force[1]"].unit == ""


def test_files_with_nothing_to_read_are_refused(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "bare.h5") as writer:
        writer.add(np.zeros((5, 16, 16, 3), np.uint8), np.zeros((4, 2), np.float32))
    with pytest.raises(DatasetError, match="holds nothing to read from latents: record states"):
        RecordedQuantities(Trajectories.open(tmp_path / "bare.h5")).at(np.arange(3))


def test_columns_named_at_registration_are_quantities(room: ModuleType, tmp_path: Path) -> None:
    from lwm_agent.envs import ENVS

    collect(CollectConfig(env="room:Room-v0", episodes=2, episode_env_steps=9, out=tmp_path / "room.h5", workers=1))
    file = Trajectories.open(tmp_path / "room.h5")
    assert list(RecordedQuantities(file).at(np.arange(4))) == ["state[0]", "state[1]"]
    ENVS["Room-v0"].probes["place"] = (1, 0)
    quantities = RecordedQuantities(file).at(np.arange(4))
    assert file.state is not None
    np.testing.assert_array_equal(quantities["place"].values, file.state[:4, [1, 0]])


# Fits


def examples(rows: int, seed: int) -> tuple[torch.Tensor, NDArray[np.float64]]:
    """Latents ``(rows, 7)``, and a linear and a quadratic function of them."""
    latents = torch.randn(rows, 7, generator=torch.Generator().manual_seed(seed))
    x = latents.double().numpy()
    return latents, np.stack([30 * x[:, 0] - 2 * x[:, 3] + 100, x[:, 1] * x[:, 2]], axis=1)


def r2(read: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - ((read - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)


def test_linear_probe_reads_what_is_linear_and_an_mlp_more() -> None:
    fit, choose = Examples(*examples(3000, 0)), Examples(*examples(500, 1))
    latents, true = examples(1000, 2)
    linear, mlp = (r2(make(fit, choose, 0)(latents), true) for make in (fit_linear, fit_mlp))
    assert linear[0] > 0.9999
    assert abs(linear[1]) < 0.05
    assert mlp[0] > 0.98
    assert mlp[1] > 0.9


def test_ridge_is_chosen_against_noise() -> None:
    """With as many numbers as examples, least squares would fit noise alone."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(460, 200, generator=generator)
    target = (latents[:, :1] + 3 * torch.randn(460, 1, generator=generator)).double().numpy()
    parts = [Examples(latents[rows], target[rows]) for rows in (slice(210), slice(210, 260))]
    read = fit_linear(*parts)(latents[260:])
    squares = np.linalg.lstsq(latents[:210].double().numpy(), target[:210], rcond=None)[0]
    assert r2(read, target[260:])[0] > r2(latents[260:].double().numpy() @ squares, target[260:])[0] + 1


def test_same_seed_gives_the_same_probe_and_leaves_the_global_generator_alone() -> None:
    fit, choose = Examples(*examples(300, 0)), Examples(*examples(50, 1))
    state = torch.get_rng_state()
    first, again, other = (fit_mlp(fit, choose, seed)(choose.latents) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# Statistics


def test_statistics_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(600, 2))
    read, errors = true + rng.normal(scale=[0.3, 0.9], size=(600, 2)), rng.exponential(size=600)
    bootstrap = Bootstrap(np.repeat(np.arange(30), 20))
    assert bootstrap.r2(read, true).value == pytest.approx(r2(read, true).mean(), rel=1e-4)
    correlations = [np.corrcoef(read[:, column], true[:, column])[0, 1] for column in range(2)]
    assert bootstrap.pearson(read, true).value == pytest.approx(np.mean(correlations), rel=1e-4)
    decile = np.quantile(errors, 0.9, method="inverted_cdf")
    assert bootstrap.quantile(errors, 0.9).value == pytest.approx(decile, rel=1e-4)
    assert bootstrap.mean(errors).value == pytest.approx(errors.mean(), rel=1e-4)
    for interval in (bootstrap.r2(read, true), bootstrap.mean(errors), bootstrap.quantile(errors, 0.5)):
        assert interval.low < interval.value < interval.high


def test_frames_of_an_episode_count_as_one_draw() -> None:
    """Equal errors within each episode: the interval is that of 30 episodes, not of 600 frames."""
    errors = np.random.default_rng(0).normal(size=30).repeat(20)
    widths = []
    for episodes in (np.arange(30).repeat(20), np.arange(600)):
        interval = Bootstrap(episodes).mean(errors)
        widths.append(interval.high - interval.low)
    assert widths[0] == pytest.approx(2 * 1.96 * errors.std() / 30**0.5, rel=0.15)
    assert widths[0] > 3 * widths[1]
    with pytest.raises(UserError, match="at least two held-out episodes"):
        Bootstrap(np.zeros(9, np.int64))


def test_geometry_of_latents() -> None:
    line = torch.arange(5.0)[None, :, None] * torch.tensor([1.0, 2.0, 0.0])
    assert straightness(line).tolist() == pytest.approx([1.0])
    assert straightness(torch.tensor([[[0.0], [1.0], [0.0], [1.0]]])).tolist() == [-1.0]
    assert effective_rank(torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))) == pytest.approx(5, abs=0.1)


# Latents along clips


@pytest.mark.parametrize("name", ["pusht-tiny", "pusht-dreamer", "pusht-gcbc"])
def test_latents_are_those_of_beliefs_and_rollouts(name: str, play: str) -> None:
    checkpoint, file = Checkpoint.load(name), Trajectories.open(play)
    model = checkpoint.model
    windows = Windows(file, np.arange(3), CONTEXT + 4, model.frameskip)
    indices = np.array([2, 40, 61])
    got = encode_clips(checkpoint, windows, indices, CPU, ahead=True)
    assert got.seen.shape == (3, 5, model.summary_size)
    alone = encode_clips(checkpoint, windows, indices[1:2], CPU, ahead=True)
    torch.testing.assert_close(alone.seen[0], got.seen[1], atol=0.02, rtol=0.02)  # bfloat16 on some CPUs
    embedded = model.summary(
        model.embed(checkpoint.normalizer.pixels(file.frames(windows.rows(indices[1:2])[0][0, CONTEXT - 1 :])))
    )
    same = torch.allclose(embedded, got.seen[1], atol=0.05, rtol=0.05)
    assert same is (name != "pusht-dreamer")  # whose latents remember the frames before
    if not isinstance(model, WorldModel):
        assert got.imagined is None
        assert got.painted is None
        return
    assert got.imagined is not None
    assert got.imagined.shape == (3, 4, model.summary_size)
    assert got.painted is not None
    assert got.painted.shape == got.seen.shape
    ahead = [(got.imagined - got.seen[:, 1:])[:, block].square().mean() for block in (0, 3)]
    still = (got.seen[:, :1] - got.seen[:, 1:])[:, 3].square().mean()
    assert ahead[0] < ahead[1] < still


# The command


def check(report: ProbeReport, out: Path) -> None:
    """What holds for every report of a model that imagines."""
    assert read_report(out / "results.json").scores[0].n == report.scores[0].n
    run = json.loads((out / "results.json").read_text("utf-8"))["run"]
    assert {"command", "checkpoint", "data", "seed", "versions", "hardware"} <= run.keys()
    for quantity in report.quantities:
        now, frame = (
            report.select(quantity=quantity, probe="mlp", latents=latents, block=0)[0] for latents in (IMAGINED, FRAMES)
        )
        assert now == type(now)(**{**vars(frame), "latents": IMAGINED})
        assert len(report.select(quantity=quantity, latents=STILL)) == report.horizon + 1


def test_probe_of_push_t(play: str, tmp_path: Path) -> None:
    report = run_probe(settings("pusht-tiny", play, tmp_path, frames=1000))
    check(report, tmp_path)
    assert report.quantities == ["agent", "block", "angle", "velocity"]
    assert (report.horizon, report.episodes, report.fitted_episodes) == (3, 12, 18)
    (agent,) = report.select(quantity="agent", probe="linear", latents=FRAMES, block=None)
    assert agent.r2.value > 0.95
    assert agent.median.value < 25
    assert agent.unit == "px"
    assert agent.within is not None
    assert agent.within.low <= agent.within.value <= agent.within.high
    (painted,) = report.select(quantity="agent", probe="linear", latents=PAINTED)
    assert painted.r2.value > 0.9
    steps = [report.select(quantity="agent", latents=STILL, block=block)[0] for block in (0, 3)]
    assert steps[0].median.value < steps[1].median.value
    assert report.published["angle"]["LeWM"] == (0.902, 0.990)
    assert report.points["angle"]
    assert max(abs(row[0]) for side in report.points["angle"] for row in side) <= 180


def test_same_command_gives_the_same_scores(play: str, tmp_path: Path) -> None:
    first, again = (run_probe(settings("pusht-gcbc", play, tmp_path / name)) for name in ("a", "b"))
    assert first == again
    assert first.horizon == 0
    assert not first.select(latents=PAINTED)


@pytest.mark.ogbench
def test_probe_of_the_cube(tmp_path: Path) -> None:
    path = tmp_path / "cube.h5"
    try:
        collect(CollectConfig(env="cube", policy="mixed", episodes=4, episode_env_steps=40, out=path, workers=1))
    except UserError as error:
        pytest.skip(str(error))  # a machine that cannot draw
    report = run_probe(settings("cube-tiny", str(path), tmp_path, frames=200, horizon=2))
    check(report, tmp_path)
    (effector,) = report.select(quantity="effector", probe="linear", latents=FRAMES, block=None)
    assert effector.unit == "cm"
    assert effector.r.value > 0.5
    assert {"cube", "joints", "joint speeds"} <= {*report.quantities, *report.left_out}


def test_command_writes_tables_and_figures(trained: Path, data: str, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "probe"
    options = ["--frames", "300", "--horizon", "3", "--validation", "0.3", "--device", "cpu", "--out", str(out)]
    result = CliRunner().invoke(app, ["probe", "--checkpoint", str(trained), "--data", data, data, *options])
    assert result.exit_code == 0, result.output
    assert "agent" in result.output
    assert "effective rank" in result.output
    names = {path.name for path in out.iterdir()}
    figures = {f"{name}{suffix}" for name in ("readings", "horizon") for suffix in (".png", ".svg")}
    assert names == {"results.json", "table.md", *figures}
    assert (out / "table.md").read_text("utf-8").startswith("| quantity | probe | R2 |")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"horizon": 12}, r"longest has 41: pass --horizon 11"),
        ({"validation": 0.01}, "at least two held-out episodes: raise --validation"),
        ({"device": "abacus"}, "device='abacus' is unknown"),
        ({"checkpoint": "pusht-tiny"}, "has 32-px frames and the checkpoint sees 64"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    trained: Path,  # noqa: F811
    data: str,
    tmp_path: Path,
    others: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        run_probe(settings(**{"checkpoint": trained, "data": data, "out": tmp_path, **others}))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_do_not_vary_are_left_out(trained: Path, data: str, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "more.h5"
    path.write_bytes(Path(data).read_bytes())
    with h5py.File(path, "a") as file:
        rows = len(file["action"])
        file["state"][:] = 2 * file["state"][:]  # so that the model was not trained on it
        file["constant"] = np.ones(rows)
        file["gaps"] = np.where(np.arange(rows) % 2, np.nan, 1.0)
    report = run_probe(settings(trained, str(path), tmp_path / "out"))
    assert report.left_out == {"constant[0]": "does not vary in these data", "gaps[0]": "has rows without a number"}
    assert report.quantities == ["agent", "block", "angle", "velocity"]


def test_a_file_of_another_kind_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"run": {}, "scores": []}', encoding="utf-8")
    with pytest.raises(UserError, match="is not the results of lwm-agent probe"):
        read_report(tmp_path / "other.json")

"""Sweeps: every combination of settings is trained once, wherever the sweep was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.cli.main import app
from lwm_agent.errors import UserError
from lwm_agent.experiments import sweep as sweep_module
from lwm_agent.experiments.sweep import make_trainings, parallel_trainings, run_sweep
from lwm_agent.experiments.sweep_config import SweepConfig
from lwm_agent.experiments.sweep_table import Trained, seeds_table, trainings_table
from lwm_agent.training.config import TrainConfig
from lwm_agent.training.train import train
from lwm_agent.training.validation import recalibrate_batch_norm, validate

from .test_train import MODEL

COLLAPSE = pytest.mark.filterwarnings("ignore:the latents are collapsing")


def config(data: str, out: Path, *each: str, **settings: Any) -> SweepConfig:
    fixed: dict[str, Any] = {"steps": 4, "batch_size": 8, "clip_length": 4, "log_every": 1, "device": "cpu"}
    values = {**fixed, "model_settings": MODEL, **settings}
    return SweepConfig.from_options(data=(data,), out=str(out), each=each, preset="tiny", **values)


@pytest.fixture
def _small_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_agent.training.train.validate", partial(validate, num_clips=16))
    monkeypatch.setattr(
        "lwm_agent.training.train.recalibrate_batch_norm", partial(recalibrate_batch_norm, num_batches=1)
    )


def test_every_combination_is_a_training_with_a_folder_of_its_own(data: str, tmp_path: Path) -> None:
    model = {name: value for name, value in MODEL.items() if name != "depth"}
    sweep = config(
        data, tmp_path, "train.seed=0,5", "train.learning_rate=1e-4,0.01,2", "model.depth=1,2", model_settings=model
    )
    trainings = make_trainings(sweep)
    assert len(trainings) == len({training.config.out for training in trainings}) == 12
    first, second, *_, last = trainings
    assert first.settings == {"train.seed": 0, "train.learning_rate": 1e-4, "model.depth": 1}
    assert second.settings["model.depth"] == 2
    assert (last.config.seed, last.config.learning_rate, last.config.model_settings) == (5, 2, {**model, "depth": 2})
    assert Path(last.config.out) == tmp_path / "seed=5,learning_rate=2,model.depth=2"
    assert type(last.config) is TrainConfig
    assert {training.config.steps for training in trainings} == {4}
    assert {training.config.weight_decay for training in trainings} == {TrainConfig.weight_decay}


def test_recipe_of_the_preset_is_that_of_train(data: str, tmp_path: Path) -> None:
    sweep = SweepConfig.from_options(data=(data,), out=str(tmp_path), each=("train.seed=3",), model="gcbc")
    alone = TrainConfig.from_options(data=(data,), out=str(tmp_path / "seed=3"), model="gcbc", seed=3)
    assert [training.config for training in make_trainings(sweep)] == [alone]


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ("train.precision=auto,32-true", ["auto", "32-true"]),
        ("model.encoder=conv", ["conv"]),
        ("model.sizes=[1, 2],[3]", [[1, 2], [3]]),
        ("model.residual=true,false", [True, False]),
    ],
)
def test_values_are_json_or_words(each: str, expected: list[Any], data: str, tmp_path: Path) -> None:
    (values,) = config(data, tmp_path, each).grid.values()
    assert values == expected


@pytest.mark.parametrize(
    ("each", "settings", "message"),
    [
        ((), {}, "--each names no setting that differs"),
        (("train.seed",), {}, "'train.seed' is not understood: write GROUP.NAME=VALUE,VALUE"),
        (("seed=1",), {}, "'seed=1' is not understood"),
        (("train.seed=",), {}, r"--each train\.seed= has no value"),
        (("train.seed=1,2,1",), {}, "names a value twice"),
        (("train.seed=1", "train.seed=2"), {}, "names a setting twice"),
        (("train.tempo=1",), {}, r"train\.tempo cannot differ: choose of train\.batch_size, "),
        (("train.model=lewm,gcbc",), {}, r"train\.model cannot differ"),
        (("agent.cost=1",), {}, r"agent\.cost cannot differ"),
        (("model.depth=1,2",), {}, r"--each model\.depth and --set model\.depth name the same"),
        (("train.seed=1",), {"num_devices": 2}, "each training of a sweep has one device"),
        (("train.seed=1",), {"address": "auto"}, "--address is for --engine ray"),
        (("train.learning_rate=0.1,fast",), {}, "learning_rate='fast' must be float"),
        (("train.seed=1,-1",), {}, "seed=-1 must be at least 0"),
    ],
)
def test_mistakes_are_refused_before_the_work(
    each: tuple[str, ...], settings: dict[str, Any], message: str, data: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainings(config(data, tmp_path, *each, **settings))


@COLLAPSE
@pytest.mark.usefixtures("_small_validation")
def test_failures_stop_no_other_and_finished_trainings_are_left_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = config(data, tmp_path, "train.clip_length=4,60", "train.seed=0,1")
    rows = run_sweep(sweep)
    assert [bool(row.failure) for row in rows] == [False, False, True, True]
    assert "lower clip_length or frameskip" in rows[2].failure
    contents = json.loads((tmp_path / "sweep.json").read_text())
    assert [entry["settings"] for entry in contents["trainings"]] == [row.settings for row in rows]
    assert contents["trainings"][0]["folder"] == "clip_length=4,seed=0"
    text = (tmp_path / "sweep.md").read_text()
    assert f"| 4 | 0 | clip_length=4,seed=0 | {rows[0].loss:.4f} | 4 |" in text
    assert "| 60 | 1 | clip_length=60,seed=1 | failed | - | - |" in text
    assert "| clip_length=60 | - | - | 0 |" in text

    trained: list[int] = []

    def stop(settings: TrainConfig, resume: bool) -> None:
        before = (Path(settings.out) / "metrics.jsonl").exists()
        train(settings, resume=resume, on_step=lambda progress: trained.append(progress.step))
        assert before

    folder = tmp_path / "clip_length=4,seed=1" / "checkpoint"
    changed = Checkpoint.load(folder)
    changed.training["heads"] = {"trained": "after the sweep"}
    changed.save(folder, "card")
    monkeypatch.setattr(sweep_module, "train", stop)
    again = run_sweep(sweep)
    assert trained == []
    assert [row.validation for row in again] == [row.validation for row in rows]


@COLLAPSE
@pytest.mark.usefixtures("_small_validation")
def test_interrupted_sweep_goes_on_and_gives_what_one_training_gives(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = config(data, tmp_path / "sweep", "train.seed=0,1", save_every=2)
    steps: list[tuple[int, int]] = []
    interrupt = True

    def watched(settings: TrainConfig, resume: bool) -> None:
        def note(progress: Any) -> None:
            steps.append((settings.seed, progress.step))
            if interrupt and steps[-1] == (1, 3):
                raise KeyboardInterrupt

        train(settings, resume=resume, on_step=note)

    monkeypatch.setattr(sweep_module, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep)
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    interrupt = False
    rows = run_sweep(sweep)
    assert steps == [*((0, step) for step in (1, 2, 3, 4)), *((1, step) for step in (1, 2, 3, 3, 4))]
    values = {**make_trainings(sweep)[1].config.__dict__, "out": str(tmp_path / "alone")}
    alone = train(TrainConfig(**values))
    assert rows[1].validation == alone.training["validation"]


@pytest.fixture(scope="module")
def alone(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    """Two trainings, one after the other in this process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the latents are collapsing")
        return run_sweep(config(data, tmp_path_factory.mktemp("alone"), "train.seed=0,1", steps=2))


@COLLAPSE
@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param("ray", marks=pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")),
    ],
)
def test_processes_and_ray_give_the_results_of_one_process(
    engine: str, alone: list[Trained], data: str, tmp_path: Path
) -> None:
    others = run_sweep(config(data, tmp_path, "train.seed=0,1", steps=2, engine=engine, jobs=2))
    assert [row.failure for row in others] == ["", ""]
    assert [row.validation for row in others] == [row.validation for row in alone]
    assert alone[0].validation != alone[1].validation


@pytest.mark.usefixtures("examples")
def test_processes_import_a_model_of_your_own(data: str, tmp_path: Path) -> None:
    options = {"steps": 1, "batch_size": 8, "clip_length": 4, "device": "cpu", "model_settings": {"image_size": 32}}
    sweep = SweepConfig.from_options(
        data=(data,), out=str(tmp_path), each=("train.seed=0,1",), model="markov_model:markov", jobs=2, **options
    )
    assert [row.failure for row in run_sweep(sweep)] == ["", ""]


SWEEP = """
import signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
sys.path.append(sys.argv[3])
from tests.test_sweep import config
from lwm_agent.experiments.sweep import run_sweep
from pathlib import Path

if __name__ == "__main__":
    run_sweep(config(sys.argv[1], Path(sys.argv[2]), "train.seed=0,1", steps=100_000, jobs=2, save_every=100_000))
"""


def test_processes_save_their_state_when_the_sweep_is_interrupted(data: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, data, str(tmp_path / "sweep"), str(Path(__file__).parent.parent)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    logs = [tmp_path / "sweep" / f"seed={seed}" / "metrics.jsonl" for seed in (0, 1)]
    deadline = time.monotonic() + 120
    while not all(log.exists() and log.stat().st_size for log in logs):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all processes
    _, errors = process.communicate(timeout=60)
    assert [log.with_name("training.safetensors").exists() for log in logs] == [True, True], errors.decode()
    assert process.returncode != 0


def test_jobs_at_a_time(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = config(data, tmp_path, "train.seed=0,1,2")
    assert parallel_trainings(sweep, 3) == 1
    assert parallel_trainings(config(data, tmp_path, "train.seed=0,1,2", jobs=8), 3) == 3
    assert parallel_trainings(config(data, tmp_path, "train.seed=0", engine="ray", address="auto"), 3) == 3
    monkeypatch.setattr(sweep_module, "count_devices", lambda name: 2)
    assert parallel_trainings(sweep, 3) == 2


def test_tables_have_means_over_seeds() -> None:
    losses = {(0, 64): 1.0, (1, 64): 2.0, (0, 96): 5.0, (1, 96): None}
    rows = [
        Trained(
            {"train.seed": seed, "model.width": width},
            f"{seed}-{width}",
            failure="no memory" if loss is None else "",
            steps=7,
            seconds=90.0,
            validation=None if loss is None else {"loss": loss},
        )
        for (seed, width), loss in losses.items()
    ]
    assert trainings_table(rows).rows[0] == ("0", "64", "0-64", "1.0000", "7", "1.5")
    assert trainings_table(rows).rows[3] == ("1", "96", "1-96", "failed", "-", "-")
    assert seeds_table(rows).rows == (
        ("model.width=64", "1.5000", "0.7071", "2"),
        ("model.width=96", "5.0000", "-", "1"),
    )


@COLLAPSE
def test_the_exit_code_of_the_command_tells_of_failures(data: str, tmp_path: Path) -> None:
    sizes = [f"--set=model.{name}={value}" for name, value in MODEL.items() if name != "image_size"]
    command = ["sweep", "--data", data, "--out", str(tmp_path), "--steps", "1", "--batch-size", "8", *sizes]
    command += ["--set", "model.image_size=32", "--device", "cpu", "--each", "train.clip_length=4,60", "train.seed=0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    assert "1 training failed: the same command tries again" in done.output
    assert "sweep.json and sweep.md beside it" in done.output.replace("\n", "")

"""Options are generated from the dataclasses of settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from rich.table import Table
from typer.main import get_command
from typer.testing import CliRunner

from lwm_agent.cli import data, progress
from lwm_agent.cli.main import app
from lwm_agent.cli.options import check_outputs, configure, help_texts, spread
from lwm_agent.data.config import ConvertConfig
from lwm_agent.errors import UserError
from lwm_agent.eval import PROTOCOLS
from lwm_agent.experiments.bench import three_digits
from lwm_agent.experiments.comparison_config import CompareConfig
from lwm_agent.experiments.config import (
    MODEL_FREE,
    PROTOCOL_NAMES,
    BenchConfig,
    EvalConfig,
    ExportConfig,
    PullConfig,
    PushConfig,
    RecommendConfig,
    ReportConfig,
    TasksConfig,
)
from lwm_agent.experiments.diagnosis.config import DiagnoseConfig
from lwm_agent.experiments.explain_config import ExplainConfig
from lwm_agent.experiments.film_config import DemoConfig, RecordConfig
from lwm_agent.experiments.policies import MODEL_FREE_POLICIES
from lwm_agent.experiments.probe_config import ProbeConfig
from lwm_agent.experiments.robustness_config import RobustnessConfig
from lwm_agent.experiments.surprise_config import SurpriseConfig
from lwm_agent.experiments.sweep_config import SweepConfig
from lwm_agent.models import MODELS
from lwm_agent.play.config import PlayConfig
from lwm_agent.training.config import (
    MODEL_NAMES,
    DecoderConfig,
    EncoderConfig,
    HeadsConfig,
    ImportConfig,
    PredictorConfig,
    TrainConfig,
)
from lwm_agent.validation import Config

COMMANDS = {
    "collect": data.CollectConfig,
    "convert": ConvertConfig,
    "tasks": TasksConfig,
    "train": TrainConfig,
    "sweep": SweepConfig,
    "train-heads": HeadsConfig,
    "train-predictor": PredictorConfig,
    "train-encoder": EncoderConfig,
    "train-decoder": DecoderConfig,
    "import": ImportConfig,
    "recommend": RecommendConfig,
    "demo": DemoConfig,
    "record": RecordConfig,
    "play": PlayConfig,
    "eval": EvalConfig,
    "bench": BenchConfig,
    "compare": CompareConfig,
    "surprise": SurpriseConfig,
    "robustness": RobustnessConfig,
    "report": ReportConfig,
    "probe": ProbeConfig,
    "diagnose": DiagnoseConfig,
    "explain": ExplainConfig,
    "export": ExportConfig,
    "push": PushConfig,
    "pull": PullConfig,
}


def test_every_command_has_a_configuration_or_no_options() -> None:
    assert COMMANDS.keys() | {"doctor"} == get_command(app).commands.keys()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("command", "config"), COMMANDS.items())
def test_every_setting_has_a_help_text_that_the_command_shows(command: str, config: type[Config]) -> None:
    texts = help_texts(config)
    assert {item.name for item in fields(config)} <= texts.keys()
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"}).output
    for item in fields(config):
        assert texts[item.name].split("[")[0].rstrip(".")[:60] in shown


def test_names_in_help_texts_are_those_of_the_registries() -> None:
    assert sorted(MODEL_FREE_POLICIES) == sorted(MODEL_FREE)
    assert set(MODEL_NAMES) <= set(MODELS)
    assert sorted(PROTOCOLS) == sorted(PROTOCOL_NAMES)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from lwm_agent.cli.main import app; app(['eval', '--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_help_shows_defaults_and_choices() -> None:
    shown = " ".join(CliRunner().invoke(app, ["eval", "--help"], env={"COLUMNS": "400"}).output.split())
    assert "Environment. [default: that of the checkpoint, else pusht; pusht, cube, cube-double, or MODULE" in shown
    assert "predictive-sampling" in shown
    assert "[default: 0; at least 0 and under 2**63]" in shown
    assert "--no-floors" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_text_option_refuses_an_empty_string(command: str) -> None:
    for option in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if option.metavar not in ("TEXT", "PATH"):
            continue
        result = CliRunner().invoke(app, [command, option.opts[0], ""])
        assert result.exit_code == 2
        assert "is empty" in result.output


def test_only_named_options_take_the_place_of_defaults(tmp_path: Path) -> None:
    named = {"data": ["a", "b"], "out": "c", "preset": "base", "steps": 7, "learning_rate": None, "track": None}
    config = configure(TrainConfig, {**named, "assignments": ["train.batch_size=16", "model.width=5"]})
    assert isinstance(config, TrainConfig)
    assert (config.data, config.steps, config.learning_rate, config.batch_size) == (("a", "b"), 7, 5e-5, 16)
    assert {"width": 5} in (getattr(config, "model", None), getattr(config, "model_settings", None))
    with pytest.raises(UserError, match=r"--set train\.steps and --steps name the same"):
        configure(TrainConfig, {**named, "assignments": ["train.steps=8"]})
    with pytest.raises(UserError, match=r"--set train\.stepz is unknown: choose one of batch_size"):
        configure(TrainConfig, {**named, "assignments": ["train.stepz=8"]})


def test_output_folder_is_named_after_the_options() -> None:
    config = configure(EvalConfig, {"planner": "cem", "offset": 50})
    assert isinstance(config, EvalConfig)
    assert config.output_dir == Path("out/pusht-cem-strict-test-50")
    config = configure(EvalConfig, {"planner": "cem", "tasks": Path("mine.json")})
    assert isinstance(config, EvalConfig)
    assert config.output_dir == Path("out/pusht-cem-mine")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "is a file: name a folder"),
        ("file/below", "cannot be written"),
        ("/proc/no/folder", "cannot be written"),
    ],
)
def test_output_that_cannot_be_written_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        check_outputs(BenchConfig(planner="cem", output_dir=tmp_path / path))
    with pytest.raises(UserError, match="is a folder: name a file"):
        check_outputs(TasksConfig(out=tmp_path))


def test_check_of_outputs_leaves_nothing_behind(tmp_path: Path) -> None:
    check_outputs(BenchConfig(planner="cem", output_dir=tmp_path / "new" / "folder"))
    check_outputs(TasksConfig(out=tmp_path / "other" / "tasks.json"))
    assert list(tmp_path.iterdir()) == []


def test_tasks_replace_no_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"is there and no task file: pass --overwrite"):
        data.tasks(TasksConfig(out=path, offset=3, episodes=1))
    assert path.read_text(encoding="utf-8") == '{"mine": 1}'
    data.tasks(TasksConfig(out=path, offset=3, episodes=1, overwrite=True))
    data.tasks(TasksConfig(out=path, offset=3, episodes=1, seed=4))


@pytest.mark.parametrize(
    ("value", "text"), [(694.4, "694"), (1110.0, "1110"), (12345.6, "12346"), (5.294, "5.29"), (0.000351, "0.000351")]
)
def test_number_has_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert three_digits(value) == text


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (60, False), (200, True)])
def test_table_keeps_every_digit(monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool) -> None:
    console = progress.Console(width=width, force_terminal=terminal, record=True, markup=False)
    monkeypatch.setattr(progress, "console", console)
    table = Table(title="times")
    for column in range(11):
        table.add_column(f"name {column}", no_wrap=True)
    table.add_row(*(f"{12345.6 + column}" for column in range(11)))
    progress.show_table(table)
    shown = console.export_text()
    assert all(f"{12345.6 + column}" in shown for column in range(11))
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert not terminal or max(map(len, shown.splitlines())) <= width


def test_counted_noun_has_its_form() -> None:
    assert [progress.counted(number, "video") for number in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]


def test_bar_shows_no_count_before_the_total_is_known() -> None:
    task = progress.Progress(progress.CountColumn())
    task.add_task("eval", total=None)
    assert progress.CountColumn().render(task.tasks[0]).plain == ""
    task.update(task.task_ids[0], completed=3, total=50)
    assert progress.CountColumn().render(task.tasks[0]).plain == "3/50"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a --data x", "a --data x"),
        ("--data x y z --out w v", "--data x --data y --data z --out w v"),
        ("--data x --data y z", "--data x --data y --data z"),
        ("--data=x y", "--data=x y"),  # one value is bound to its flag
        ("--data x -- y", "--data x -- y"),
        ("--data --out w", "--data --out w"),  # a missing value stays an error
        ("--set a.b=1 c", "--set a.b=1 c"),  # a command's own argument
        ("--set a.b=1 c.d=2 e f.g=3", "--set a.b=1 --set c.d=2 e f.g=3"),
        ("--set a", "--set a"),  # no assignment, which stays an error
        ("--data -1 -.5e3 2 --out w", "--data -1 --data -.5e3 --data 2 --out w"),  # numbers, no flags
    ],
)
def test_an_option_that_may_be_repeated_takes_several_values(line: str, expected: str) -> None:
    assert spread(line.split(), {"--data", "--model", "--set"}) == expected.split()


def test_several_values_reach_a_command(tmp_path: Path) -> None:
    missing = [str(tmp_path / name) for name in ("a.h5", "b.h5")]
    result = CliRunner().invoke(app, ["train", "--data", *missing, "--out", str(tmp_path / "run")])
    assert isinstance(result.exception, UserError | FileNotFoundError)
    assert "unexpected extra argument" not in result.output

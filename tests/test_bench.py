"""`lwm-agent bench`: what it measures and writes; never how fast this machine is."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lwm_agent import Agent
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.cli.main import app
from lwm_agent.experiments import bench
from lwm_agent.experiments.bench import PRODUCT_SIDES, product_peak, run_bench, time_batch
from lwm_agent.experiments.config import BenchConfig
from lwm_agent.models import MODELS, Heads, LeWorldModel
from lwm_agent.normalizer import Normalizer
from lwm_agent.planners import CEM

SMALL = {"image_size": 32, "latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1}
SEARCH: dict[str, Any] = {"num_samples": 6, "num_elites": 2}


def untrained(preset: dict[str, Any], **parts: Any) -> Checkpoint:
    settings = {**preset, "action_size": 2}
    units: dict[str, Any] = {"pixel_mean": (0.5,) * 3, "pixel_std": (0.2,) * 3, "action_mean": (0.0,) * 2}
    return Checkpoint(
        name="lewm",
        model_config=settings,
        model=LeWorldModel(**settings).eval().requires_grad_(False),
        normalizer=Normalizer(**units, action_std=(0.5,) * 2, action_low=(-1.0,) * 2, action_high=(1.0,) * 2),
        env="pusht",
        **parts,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an untrained world model and untrained heads."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "checkpoint"
    heads = Heads(latent_size=8, block_size=10, width=16, max_steps=6)
    untrained({**MODELS["lewm"].presets["tiny"], **SMALL}, heads=heads).save(folder, "# card\n")
    return str(folder)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PRODUCT_SIDES", (16, 32, 64))


def config(checkpoint: str, out: Path, **settings: Any) -> BenchConfig:
    limited = any(name.startswith("budget") for name in settings)
    fixed: dict[str, Any] = {
        "max_batch": 5,
        "decisions": 4,
        "device": "cpu",
        "planner_settings": SEARCH if limited else {**SEARCH, "iterations": 2},
        "planner": "cem",
    }
    return BenchConfig(checkpoint=checkpoint, output_dir=out, **{**fixed, **settings})


def test_every_batch_size_is_timed_and_written(checkpoint: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    report = run_bench(config(checkpoint, tmp_path), lambda *step: seen.append(step))
    assert [row.batch for row in report.timings] == [1, 2, 4]
    for row in report.timings:
        assert row.decisions == 4
        assert row.p50_ms > 0
        assert row.p95_ms is row.p99_ms is None
        assert row.overshoot_ms == 0
        assert row.plans_per_second > 0
        assert row.rollouts == 16 + 1 + 2 * 6  # the actor's and the rest of the last plan, then the search
        model = Checkpoint.load(checkpoint).model
        agent = Agent(Checkpoint.load(checkpoint), "guided", bf16=False)
        assert agent.replanner.proposal is not None
        assert row.flops == row.rollouts * model.rollout_flops(5) + agent.replanner.proposal.flops(5)  # type: ignore[operator]
        assert report.share(row) > 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["batch"] for row in written["timings"]] == [1, 2, 4]
    assert written["timings"][0]["share_of_peak"] == pytest.approx(report.share(report.timings[0]))
    assert written["planner"]["num_samples"] == 6
    assert written["agent"]["device"] == "cpu"
    assert written["hardware"]["threads"] == torch.get_num_threads()
    assert len(written["checkpoint"]) == 64
    assert (tmp_path / "bench.png").stat().st_size > 0
    for words in ("median", "milliseconds a decision for all episodes", "plans a second", ">4</text>"):
        assert words in (tmp_path / "bench.svg").read_text()
    assert [step[:2] for step in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_time_limits_the_number_of_decisions(checkpoint: str, tmp_path: Path) -> None:
    report = run_bench(config(checkpoint, tmp_path, max_batch=1, decisions=10**6, seconds=0.0, plot=False))
    assert report.timings[0].decisions == bench.MIN_DECISIONS
    assert not (tmp_path / "bench.png").exists()


@pytest.mark.parametrize(("decisions", "known"), [(19, (False, False)), (20, (True, False)), (100, (True, True))])
def test_percentiles_are_told_of_enough_decisions(
    checkpoint: str, tmp_path: Path, decisions: int, known: tuple[bool, bool]
) -> None:
    (row,) = run_bench(config(checkpoint, tmp_path, max_batch=1, decisions=decisions)).timings
    assert (row.p95_ms is not None, row.p99_ms is not None) == known
    assert 0 < row.p50_ms <= (row.p95_ms or row.p50_ms) <= (row.p99_ms or math.inf)


def test_what_exceeds_a_budget_is_told(checkpoint: str, tmp_path: Path) -> None:
    (row,) = run_bench(config(checkpoint, tmp_path, max_batch=1, plot=False, budget_ms=1e-3)).timings
    assert 0 < row.overshoot_ms < 1000 * 10


def test_a_budget_is_kept(checkpoint: str, tmp_path: Path) -> None:
    report = run_bench(config(checkpoint, tmp_path, max_batch=1, plot=False, budget_rollouts=25))
    assert report.timings[0].rollouts == 16 + 1 + 6


def test_steps_between_decisions_are_not_timed(checkpoint: str, tmp_path: Path) -> None:
    one = config(checkpoint, tmp_path, max_batch=1, plot=False)
    every = run_bench(replace(one, agent_settings={"replan_every_env_steps": 5}))
    seldom = run_bench(replace(one, agent_settings={"replan_every_env_steps": 15}))
    assert seldom.timings[0].decisions == every.timings[0].decisions == 4
    assert seldom.timings[0].rollouts == every.timings[0].rollouts


def test_the_command_line_prints_a_table(checkpoint: str, tmp_path: Path) -> None:
    options = "--planner guided --max-batch 2 --decisions 3 --device cpu --budget-rollouts 50 --set agent.bf16=false"
    chosen = [*options.split(), "--checkpoint", checkpoint, "--output-dir", str(tmp_path)]
    ran = CliRunner().invoke(app, ["bench", *chosen, "--set", "planner.num_samples=8"], env={"COLUMNS": "120"})
    assert ran.exit_code == 0, ran.output
    for words in ("random pictures", "p99 ms", "% of peak", "bench.png"):
        assert words in ran.output
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["planner"]["name"] == "guided"
    assert written["planner"]["num_samples"] == 8
    assert written["planner"]["budget"]["rollouts"] == 50
    assert written["agent"]["bf16"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "tennis"}, "'tennis' is unknown: choose one of pusht"),
        ({"env": "cube"}, "was trained for pusht, not for cube"),
        ({"planner": "replay", "planner_settings": {}}, "planner='replay' is unknown: choose one of"),
        ({"planner_settings": {"samples": 3}}, r"unknown settings \['samples'\]"),
        ({"max_batch": 0}, "max_batch=0 must be at least 1"),
        ({"decisions": 2}, "decisions=2 must be at least 3"),
    ],
)
def test_mistakes_are_told(checkpoint: str, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_bench(config(checkpoint, tmp_path, **settings))


@pytest.mark.parametrize("installed", [True, False])
def test_a_picture_is_drawn_where_matplotlib_is_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("json") if installed else None
    monkeypatch.setattr("lwm_agent.experiments.config.find_spec", lambda name: spec)
    assert BenchConfig.from_options(planner="cem").plot is installed
    assert BenchConfig.from_options(planner="cem", plot=not installed).plot is not installed


def test_without_matplotlib_its_command_is_named_before_anything_is_timed(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(bench, "time_batch", None)
    with pytest.raises(ValueError, match="pip install 'matplotlib>="):
        run_bench(config(checkpoint, tmp_path))


def test_products_are_timed_in_the_type_asked_for() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        assert product_peak(torch.device("cpu"), dtype) > 0


@pytest.mark.cuda
def test_a_base_plan_on_an_h100_takes_50_ms_and_64_at_once_half_of_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one timing among the tests: a target of the project, for the device that it names."""
    if "H100" not in torch.cuda.get_device_name():
        pytest.skip("the target is of an H100")
    monkeypatch.setattr(bench, "PRODUCT_SIDES", PRODUCT_SIDES)
    planner = CEM(num_samples=300, num_elites=30, iterations=30)
    agent = Agent(
        untrained(MODELS["lewm"].presets["base"]), planner, cost="terminal", device="cuda", bf16=True, compile=True
    )
    timing = BenchConfig(planner="cem", checkpoint="unused", output_dir=Path("unused"), decisions=20)
    alone, together = (time_batch(agent, batch, timing) for batch in (1, 64))
    assert alone.p50_ms <= 50
    assert together.flops_per_second >= 0.5 * product_peak(agent.device, torch.bfloat16)

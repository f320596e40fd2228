"""`lwm-agent robustness` and `eval --shift`: agents where something differs from their training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import imageio.v3 as iio
import pytest

from lwm_agent.checkpoint import checksum
from lwm_agent.errors import UserError
from lwm_agent.eval.report import markdown_table
from lwm_agent.eval.results_file import parse_results
from lwm_agent.experiments import evaluate as evaluate_module
from lwm_agent.experiments import robustness as robustness_module
from lwm_agent.experiments.config import EvalConfig
from lwm_agent.experiments.evaluate import Item, run_evaluation
from lwm_agent.experiments.robustness import make_studies, run_robustness
from lwm_agent.experiments.robustness_config import RobustnessConfig

from .commands import run


def study(out: Path, *shifts: str, planner: str = "actor", episodes: int = 6, env: str = "pusht") -> RobustnessConfig:
    return RobustnessConfig(
        env=env, planner=planner, shift=shifts, episodes=episodes, output_dir=out, jobs=1, device="cpu"
    )


def test_an_evaluation_has_its_shifts_in_results_tables_and_floors(tmp_path: Path) -> None:
    config = EvalConfig(env="pusht", planner="actor", episodes=6, output_dir=tmp_path / "usual", shift=(), device="cpu")
    usual = run_evaluation(config).summaries
    shifted = run_evaluation(
        replace(config, shift=("background-color=1", "sticky-actions=0.9"), output_dir=tmp_path / "shifted")
    ).summaries
    assert shifted["actor"].final_errors != usual["actor"].final_errors
    assert shifted["random"].final_errors != usual["random"].final_errors  # its actions stick too
    path = tmp_path / "shifted" / "results.json"
    assert parse_results(path).run["shifts"] == ["background-color=1", "sticky-actions=0.9"]
    assert "`sticky-actions=0.9`" in markdown_table([path])
    with pytest.raises(UserError, match="another"):  # the shift decides about outcomes
        run_evaluation(replace(config, output_dir=tmp_path / "shifted"))


def test_the_command_line_names_the_folder_after_the_shift(tmp_path: Path) -> None:
    printed = run("eval --planner none --no-floors --episodes 2 --shift action-noise=0.1 blur=1", tmp_path)
    assert "budget 50, with action-noise=0.1 blur=1" in printed
    assert "wrote out/pusht-none-strict-test-25-action-noise=0.1-blur=1/results.json" in printed
    assert "shift 'smell=1' is unknown" in run("eval --shift smell=1", tmp_path, code=2)
    results = "out/pusht-none-strict-test-25-action-noise=0.1-blur=1/results.json"
    assert "which makes no plans" in run(f"explain {results}", tmp_path, code=2)


def test_results_of_shifts_are_not_explained(tmp_path: Path) -> None:
    run("eval --planner cem --budget-rollouts 100 --no-floors --episodes 1 --shift blur=1 --output-dir e", tmp_path)
    assert "of a shifted environment (blur=1)" in run("explain e/results.json", tmp_path, code=2)


def test_a_study_has_every_strength_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study(tmp_path, "background-color", "block-shape=L", "action-delay=2")
    done: list[str] = []
    measured = run_robustness(config, lambda number, total, name: done.append(f"{number}/{total} {name}"))
    assert done[0] == "1/6 no shift"
    assert done[-1] == "6/6 action-delay=2"
    assert [(cell.shift, cell.strength) for cell in measured.cells] == [
        *(("background-color", strength) for strength in (0.25, 0.5, 1.0)),
        *(("block-shape", "L"), ("action-delay", 2.0)),
    ]
    assert measured.success > 0.3
    assert measured.cells[2].success < measured.success  # it has never seen another background
    for cell in measured.cells:
        assert cell.n == 6
        assert cell.ci95[0] <= cell.success <= cell.ci95[1]
        assert cell.kept == cell.success / measured.success
        assert 0 < cell.p_value <= 1
    assert measured.floors.keys() == {"random", "none"}
    stored = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert (stored["checkpoint"], stored["seed"]) == (checksum("pusht-pixels"), config.seed)
    assert [cell["success"] for cell in stored["cells"]] == [cell.success for cell in measured.cells]
    assert "| block-shape | L |" in (tmp_path / "table.md").read_text("utf-8")
    assert iio.imread(tmp_path / "robustness.png").std() > 10
    assert iio.imread(tmp_path / "shifts.png").std() > 10
    assert "action-delay" not in (tmp_path / "shifts.svg").read_text("utf-8")  # nothing of it can be seen
    played: list[Item] = []
    play = evaluate_module._play
    monkeypatch.setattr(evaluate_module, "_play", lambda *args: (played.extend(args[3]), play(*args)))
    with_less = run_robustness(replace(config, shift=("action-delay=2",)))
    assert with_less.success == measured.success
    assert {item.floor for item in played} == {"random", "none"}  # floors are cheap: they are played again
    monkeypatch.setattr(robustness_module, "run_evaluation", lambda config: (_ for _ in ()).throw(UserError("no room")))
    with pytest.raises(UserError, match="no shift: no room"):
        run_robustness(config)


@pytest.mark.ogbench
def test_the_cube_has_shifts_of_its_own(tmp_path: Path) -> None:
    measured = run_robustness(study(tmp_path, "lamps=0.9", "cube-color=1", env="cube", episodes=3))
    assert [cell.shift for cell in measured.cells] == ["lamps", "cube-color"]
    assert iio.imread(tmp_path / "shifts.png").std() > 10


def test_the_command_tries_all_shifts_of_an_environment_by_default(tmp_path: Path) -> None:
    studies = make_studies(study(tmp_path))
    names = [item.config.shift for item in studies]
    assert names[0] == ()
    assert len(names) == len(set(names)) == 1 + 5 * 3 + 5 + 12 * 3
    assert [item.config.with_floors for item in studies] == [True] + [False] * (len(studies) - 1)
    assert len({item.config.output_dir for item in studies}) == len(studies)
    message = run("robustness --env cube --shift block-shape", tmp_path, code=2)
    assert "shift 'block-shape' is unknown: write NAME=STRENGTH with a name of cube-color" in message


def test_an_environment_of_ones_own_has_the_general_shifts(room: ModuleType, tmp_path: Path) -> None:
    """The room, whose doors no model has been trained for: the floor that does nothing is studied."""
    config = replace(study(tmp_path, env="Room-v0"), checkpoint="unknown")
    assert {shift for shift, *_ in config.shifts()} >= {"blur", "camera-shift", "action-noise"}


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    printed = run("robustness --planner actor --episodes 2 --shift blur=1 --jobs 1 --output-dir r", tmp_path)
    assert "pusht-pixels, actor: 2 strict test tasks, goals 25 steps ahead" in printed
    assert "pixels of 64" in printed
    assert "wrote r/results.json, and table.md, robustness.png and shifts.png beside it" in printed

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from rich.console import Console

from lwm_agent.errors import UserError
from lwm_agent.eval import (
    Episode,
    EpisodeLog,
    RandomPolicy,
    ReplayPolicy,
    TaskSet,
    compact_table,
    compare,
    evaluate,
    fingerprint,
    make_tasks,
    markdown_table,
    mcnemar,
    provenance,
    run_info,
    save_results,
    summarize,
    table,
    wilson,
    write_table,
)
from lwm_agent.eval.convert_results import convert
from lwm_agent.eval.plot import bar_plot, compute_plot, words_of
from lwm_agent.eval.provenance import commit
from lwm_agent.eval.report import budget_labels, proposal_label
from lwm_agent.eval.results_file import parse_results, to_json

SPACE = Box(-1.0, 1.0, (2,), np.float32)


@pytest.fixture(scope="module")
def task_set() -> TaskSet:
    return make_tasks("pusht", 5, 6, seed=1)


def _episode(index: int, success: bool, plan_ms: tuple[float, ...] = (2.0, 4.0), rollouts: float = 100.0) -> Episode:
    steps = 10 + index if success else None
    errors = {"position_px": 3.0 * index}
    return Episode(index, success, False, steps, errors, errors, len(plan_ms), plan_ms, rollouts, 1e9, 0.5)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (500, 1000, 0.4691, 0.5309)]
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="have no rate"):
        wilson(successes, n)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"), [(0, 0, 1.0), (3, 3, 1.0), (1, 5, 0.21875), (10, 2, 0.03857), (0, 2000, 0.0)]
)
def test_mcnemar(only_a: int, only_b: int, p_value: float) -> None:
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a) == pytest.approx(p_value, abs=1e-5)


def test_summary_weighs_by_decision() -> None:
    few, many = _episode(0, True, (1.0,), 10.0), _episode(2, True, (5.0, 5.0, 9.0), 30.0)
    summary = summarize([few, many, _episode(4, False, ())])
    assert (summary.n, summary.success, summary.ci95) == (3, 2 / 3, wilson(2, 3))
    assert summary.steps_to_success == 11
    assert summary.plan_ms_p50 == 5
    assert summary.rollouts == pytest.approx((10 + 3 * 30) / 4)
    assert summary.final_errors == {"position_px": 6.0}


def test_save_results_writes_json_and_csv(task_set: TaskSet, tmp_path: Path) -> None:
    run = run_info(task_set, seed=3, checkpoint="abc", planner={"samples": 64}, env_kwargs={"image_size": 32})
    episodes = [_episode(0, True), _episode(1, False, ())]
    summary = save_results(tmp_path, run, episodes, {"none": [_episode(0, False, ())]})
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["format", "run", "summary", "floors", "columns", "episodes"]
    assert results["run"]["tasks"]["sha256"] == task_set.sha256
    assert results["run"]["tasks"]["env_kwargs"] == {"image_size": 32}
    assert results["run"]["versions"].keys() >= {"python", "torch", "gymnasium", "pymunk", "lwm-agent"}
    assert results["run"]["hardware"]["cores"] >= 1
    assert results["summary"]["success"] == summary.success == 0.5
    assert results["floors"]["none"]["plan_ms_p50"] is None
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [row["success"] for row in rows] == ["1", "0"]
    assert rows[1]["final_position_px"] == "3.0"
    assert (rows[0]["plan_ms_p50"], rows[1]["plan_ms_p50"]) == ("3.0", "")


@pytest.mark.skipif(which("git") is None, reason="no git")
def test_commit_marks_changed_files(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", tmp_path, *name, *args], capture_output=True, text=True, check=True).stdout

    assert commit(tmp_path) is None
    git("init", "-q")
    assert commit(tmp_path) is None  # nothing committed
    (tmp_path / "file").write_text("first")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    newest = git("rev-parse", "HEAD").strip()
    assert commit(tmp_path) == newest[:12]
    (tmp_path / "file").write_text("second")
    assert commit(tmp_path) == newest[:12] + "+"


def test_table_fits_a_terminal() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(
        table({"CEM": summarize([_episode(i, True) for i in range(200)]), "none": summarize([_episode(0, False, ())])})
    )
    text = console.export_text()
    for word in ("success %", "95 % CI", "100.0", "98.1-100.0", "GFLOP"):
        assert word in text


def test_table_shows_the_overshoot_of_a_time_budget_within_80_columns() -> None:
    def lines(overshoot_ms: float) -> list[str]:
        slow = [replace(_episode(i, True, (1234.5,), 1e5), overshoot_ms=overshoot_ms, flops=1e13) for i in range(200)]
        console = Console(width=80, file=io.StringIO(), record=True)
        console.print(table({"guided": summarize(slow), "random": summarize([_episode(0, False, ())])}))
        return [line.rstrip() for line in console.export_text().splitlines()]

    header, row, floor = (lines(85.55)[index] for index in (0, 2, 3))
    assert header.split()[-2:] == ["ms", "over"]
    assert row.split()[-3:] == ["100000", "10000", "85.5"]
    assert "1234/1234" in row
    assert floor.split()[-1] == "0"
    assert "ms over" not in "".join(lines(0.0))
    assert all(len(line) <= 80 and "\N{HORIZONTAL ELLIPSIS}" not in line for line in lines(1085.0))


class Killed(BaseException):
    """Stands for a killed process."""


def test_resumed_evaluation_equals_an_uninterrupted_one(task_set: TaskSet, tmp_path: Path) -> None:
    policy, mark = RandomPolicy(SPACE, seed=4), fingerprint(run_info(task_set, seed=4))
    log = EpisodeLog(tmp_path / "episodes.jsonl", mark)

    def append_three(episode: Episode) -> None:
        log.append(episode)
        if len(log.episodes) == 3:
            raise Killed

    with pytest.raises(Killed):
        evaluate(policy, task_set, batch_size=2, on_episode=append_three)
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write('{"index": 3, "succ')  # torn by the interruption
    log = EpisodeLog(tmp_path / "episodes.jsonl", mark)
    todo = [index for index in range(6) if index not in log.episodes]
    assert len(todo) == 3
    evaluate(policy, task_set, indices=todo, on_episode=log.append)
    resumed = EpisodeLog(tmp_path / "episodes.jsonl", mark).episodes
    whole = evaluate(policy, task_set)
    assert {index: replace(episode, seconds=0.0) for index, episode in resumed.items()} == {
        episode.index: replace(episode, seconds=0.0) for episode in whole
    }


def test_log_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    EpisodeLog(path, {"seed": 1, "planner": {"samples": 64, "topk": 8}}).append(_episode(0, True))
    with pytest.raises(ValueError, match=r"planner\.samples: 64 there, 128 now\): name another folder, or pass --over"):
        EpisodeLog(path, {"seed": 1, "planner": {"samples": 128, "topk": 8}})
    with pytest.raises(ValueError, match="seed: 1 there, 2 now"):
        EpisodeLog(path, {"seed": 2, "planner": {"samples": 64, "topk": 8}})
    assert EpisodeLog(path, {"seed": 1, "planner": {"topk": 8, "samples": 64}}).episodes == {0: _episode(0, True)}
    assert EpisodeLog(path, {"seed": 2}, overwrite=True).episodes == {}
    assert EpisodeLog(path, {"seed": 2}).episodes == {}


@pytest.mark.parametrize("middle", ["{not json}\n", '{"index": 0}\n', "[]\n"])
def test_log_refuses_lines_that_are_no_episodes(tmp_path: Path, middle: str) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"seed": 1}\n' + middle)
    with pytest.raises(ValueError, match="damaged"):
        EpisodeLog(path, {"seed": 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index": 6}, "line 2: index=6 is not a count from 0 to 5"),
        ({"index": -1}, "index=-1 is not a count"),
        ({"index": True}, "index=True is not a count"),
        ({"index": 0.0}, "index=0.0 is not a count"),
        ({"success": 1}, "success=1 is not true or false"),
        ({"success": False}, "success=False contradicts steps_to_success=10"),
        ({"solved_at_start": True}, "solved_at_start=True contradicts steps_to_success=10"),
        ({"steps_to_success": 10.5}, "steps_to_success=10.5 is not a count"),
        ({"plan_ms": None}, "plan_ms is not a list"),
        ({"plan_ms": [2.0, "4"]}, "plan_ms='4' is not a number"),
        ({"plan_ms": [2.0]}, "plan_ms has 1 entries, but num_decisions=2"),
        ({"seconds": None}, "seconds=None is not a number"),
        ({"seconds": float("nan")}, "NaN is not a JSON number"),
        ({"flops": float("inf")}, "Infinity is not a JSON number"),
        ({"flops": -1.0}, "flops=-1.0 is not a number from 0"),
        ({"final_errors": None}, "final_errors is not an object"),
        ({"final_errors": {"position_px": None}}, "final_errors.position_px=None is not a number"),
        ({"final_errors": {}}, "final_errors and min_errors have different keys"),
        ({"min_errors": {"position_px": 9.0}}, "min_errors.position_px=9.0 is not a number from 0 to 0"),
        ({"score": 1}, "line 2 has the keys"),
    ],
)
def test_log_refuses_damaged_rows(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"seed": 1}\n' + json.dumps({**asdict(_episode(0, True)), **change}) + "\n")
    before = path.read_text()
    with pytest.raises(UserError, match=words) as error:
        EpisodeLog(path, {"seed": 1}, num_tasks=6)
    assert "episodes.jsonl is damaged" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert path.read_text() == before


def test_log_refuses_rows_of_different_environments(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    log = EpisodeLog(path, {"seed": 1})
    log.append(_episode(0, True))
    log.append(replace(_episode(1, True), final_errors={"cube_m": 0.0}, min_errors={"cube_m": 0.0}))
    with pytest.raises(UserError, match="different distances"):
        EpisodeLog(path, {"seed": 1})


def test_log_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "episodes.jsonl")
    with pytest.raises(UserError, match="no regular file"):
        EpisodeLog(tmp_path / "episodes.jsonl", {})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sources", "0" * 16, r"code\.sources: '\w{16}' there, '0{16}' now"),
        ("commit", "abc+", r"code\.commit: .* there, 'abc\+' now"),
        ("versions", {"lwm-agent": "9.9"}, r"code\.version: .* there, '9\.9' now"),
    ],
)
def test_log_of_another_code_version_is_refused(
    task_set: TaskSet, tmp_path: Path, name: str, value: Any, words: str
) -> None:
    path, run = tmp_path / "episodes.jsonl", run_info(task_set, seed=1)
    EpisodeLog(path, fingerprint(run)).append(_episode(0, True))
    assert list(EpisodeLog(path, fingerprint(run_info(task_set, seed=1) | {"max_rollouts": 7})).episodes) == [0]
    with pytest.raises(UserError, match=words + ".*--overwrite"):
        EpisodeLog(path, fingerprint({**run, name: value}))


def test_sources_cover_every_room() -> None:
    names = provenance.source_files().keys()
    for module in ("envs.pusht", "planners.cem", "eval.evaluate", "agent.agent", "models.lewm"):
        assert f"lwm_agent.{module}.py" in names
    assert not any("__pycache__" in name for name in names)


def test_log_torn_in_its_first_line_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"se')
    assert EpisodeLog(path, {"seed": 1}).episodes == {}
    assert path.read_text() == '{"seed": 1}\n'


RUN: dict[str, Any] = {
    "command": "lwm-agent eval --set agent.proposal=none --set agent.cost=terminal",
    "planner": {"name": "cem", "agent": {"cost": "terminal", "proposal": None}, "budget": {"rollouts": None}},
    "tasks": {
        "env_id": "lwm/PushT-v0",
        "protocol": "strict",
        "split": "test",
        "offset_env_steps": 25,
        "sha256": "x",
    },
}


def _save(directory: Path, sha256: str, solved: list[bool]) -> Path:
    episodes = [_episode(index, success) for index, success in enumerate(solved)]
    save_results(directory, {**RUN, "tasks": {**RUN["tasks"], "sha256": sha256}}, episodes)
    return directory / "results.json"


def test_compare_is_paired(tmp_path: Path) -> None:
    first = _save(tmp_path / "a", "x", [True] * 5 + [False] + [True] * 2)
    second = _save(tmp_path / "b", "x", [False] * 5 + [True] + [True] * 2)
    result = compare(first, second)
    assert (result.n, result.only_a, result.only_b) == (8, 5, 1)
    assert (result.success_a, result.success_b) == (7 / 8, 3 / 8)
    assert result.p_value == pytest.approx(0.21875)


def test_compare_refuses_results_of_different_tasks(tmp_path: Path) -> None:
    first = _save(tmp_path / "a", "x", [True] * 3)
    with pytest.raises(ValueError, match="different tasks: evaluate both on the same task file"):
        compare(first, _save(tmp_path / "b", "y", [True] * 3))
    with pytest.raises(ValueError, match="cover different tasks"):
        compare(first, _save(tmp_path / "c", "x", [True] * 2))
    for number, text in enumerate(["{", "[]", '{"run": {"tasks": {"sha256": "x"}}, "episodes": []}']):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(ValueError, match="not a results"):
            compare(first, path)


def test_compare_and_report_refuse_contradicting_results(tmp_path: Path) -> None:
    path = _save(tmp_path, "x", [True, False, True])
    whole = json.loads(path.read_text())
    row, nested = whole["episodes"][0], "[" * 100_000 + "]" * 100_000
    changes: list[tuple[dict[str, Any], str]] = [
        ({"episodes": [[row[0], 7, *row[2:]], *whole["episodes"][1:]]}, "success=7 is not a count from 0 to 1"),
        ({"episodes": [row, row, *whole["episodes"][2:]]}, "an index occurs twice"),
        ({"episodes": whole["episodes"][1:]}, "summary.n=3 but its episodes give 2"),
        ({"episodes": []}, "no episodes"),
        ({"summary": {**whole["summary"], "success": 5.0}}, r"summary.success=5.0 is not a number from 0 to 1"),
        ({"summary": {**whole["summary"], "success": float("nan")}}, "NaN is not a JSON number"),
        ({"summary": {**whole["summary"], "success": 1 / 3}}, "is not the interval of 1 successes"),
        ({"summary": {**whole["summary"], "flops": 2e9}}, "summary.flops"),
        ({"floors": {"none": None}}, "floors.none is not an object"),
        ({"run": {**RUN, "tasks": []}}, "run.tasks is not an object"),
        ({"run": {**RUN, "command": "eval 'x"}}, "No closing quotation"),
        ({"run": {**RUN, "planner": {"name": "cem", "agent": {}}}}, "run.planner.agent.cost=None is not a word"),
        ({"run": {**RUN, "planner": {"name": "cem", "agent": {"cost": "terminal"}}}}, "agent has no proposal"),
        ({"run": {**RUN, "planner": {"name": "cem", "budget": {"flops": 10**400}}}}, "budget.flops=1000.* is not"),
        ({"floors": None}, "floors is not an object"),
        ({"format": 3}, "its format is 3"),
    ]
    for change, words in changes:
        path.write_text(json.dumps({**whole, **change}))
        for read in (parse_results, lambda file: markdown_table([file]), lambda file: compare(file, file)):
            with pytest.raises(UserError, match=words):
                read(path)
    for text in (b"\xff", b"\xef\xbb\xbf{}", nested.encode(), b'{"format": 2, "format": 2}', b"", b"null"):
        path.write_bytes(text)
        with pytest.raises(UserError, match="not a results"):
            parse_results(path)
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "fifo", tmp_path):
        with pytest.raises(UserError, match="no regular file"):
            parse_results(place)


def test_table_escapes_names(tmp_path: Path) -> None:
    evil = "a|b\n<script>`<!-- /results -->"
    path = _result(tmp_path / "a) |.json", evil, 2e9)
    for text in (markdown_table([path], tmp_path), compact_table([path], tmp_path)):
        lines = text.splitlines()
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {lines[0].count("|")}
        assert "<" not in text
        assert "(a%29%20%7C.json)" in text


def test_conversion_keeps_what_tables_and_comparisons_read(tmp_path: Path) -> None:
    path = _result(tmp_path / "a.json", "cem", 2e9)
    new = path.read_text()
    contents = json.loads(new)
    episodes = [
        replace(_episode(index, index < 4, (10.0,)), steps_to_success=20 if index < 4 else None, flops=2e9)
        for index in range(8)
    ]
    old = {name: contents[name] for name in ("run", "summary", "floors")}
    path.write_text(json.dumps({**old, "episodes": [asdict(episode) for episode in episodes]}, indent=1))
    with pytest.raises(UserError, match=r"python -m lwm_agent\.eval\.convert_results .*a\.json"):
        parse_results(path)
    assert convert(path)
    assert path.read_text() == new
    assert not convert(path)


def test_episodes_survive_json(task_set: TaskSet, tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / "episodes.jsonl", {})
    episodes: list[Any] = evaluate(ReplayPolicy(SPACE), task_set, on_episode=log.append)
    assert list(EpisodeLog(tmp_path / "episodes.jsonl", {}).episodes.values()) == sorted(
        episodes, key=lambda episode: list(log.episodes).index(episode.index)
    )


def _result(path: Path, planner: str, flops: float, offset: int = 25, rollouts: int | None = None) -> Path:
    run = {
        **RUN,
        "planner": {**RUN["planner"], "name": planner, "budget": {"rollouts": rollouts}},
        "tasks": {**RUN["tasks"], "offset_env_steps": offset},
    }
    plan_ms: tuple[float, ...] = (10.0,) if flops else ()
    episodes = [
        replace(_episode(index, index < 4, plan_ms), steps_to_success=20 if index < 4 else None, flops=flops)
        for index in range(8)
    ]
    floor = summarize([_episode(index, index == 0, ()) for index in range(10)])
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_json(run, summarize(episodes), {"random": floor}, episodes), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        ({}, ""),
        ({"agent": {"proposal": "actor"}, "budget": {"flops": None}}, ""),
        ({"agent": {"proposal": None}, "budget": {"flops": 6e9}}, ", no proposal, within 6 GFLOP"),
        ({"budget": {"seconds": 0.05, "rollouts": 300}}, ", within 300 rollouts, within 50 ms"),
    ],
)
def test_rows_name_proposal_and_budget(planner: dict[str, Any], words: str) -> None:
    assert proposal_label(planner) + "".join(f", {limit}" for limit in budget_labels(planner)) == words


@pytest.mark.parametrize(
    ("option", "cost", "words"),
    [
        ("", "best-step", ""),
        ("", "running+2*terminal", ", `agent.cost=running+2*terminal`"),  # the checkpoint's recommendation
        (" --set agent.cost=best-step", "best-step", ", `agent.cost=best-step`"),  # instead of it
        (" --set=agent.cost=terminal", "terminal", ", `agent.cost=terminal`"),
    ],
)
def test_rows_name_the_planning_cost(option: str, cost: str, words: str, tmp_path: Path) -> None:
    path = _result(tmp_path / "a.json", "cem", 2e9)
    contents = json.loads(path.read_text())
    contents["run"]["command"] = f"lwm-agent eval{option}"
    contents["run"]["planner"]["agent"] = {"proposal": "actor", "cost": cost}
    path.write_text(json.dumps(contents))
    assert f"[`cem`](a.json){words} |" in markdown_table([path], tmp_path)


def test_write_table_replaces_the_marked_part_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    files = [
        _result(tmp_path / "results" / "a.json", "cem", 2e9),
        _result(tmp_path / "results" / "b.json", "mppi", 3e9),
    ]
    document = tmp_path / "docs" / "table.md"
    document.parent.mkdir()
    document.write_text("# Mine\n<!-- mine -->\n<!-- /mine -->\nafter\n")
    write_table(files, document, "mine")
    text = document.read_text()
    assert text == f"# Mine\n<!-- mine -->\n{markdown_table(files, document.parent)}\n<!-- /mine -->\nafter\n"
    assert "[`cem`](../results/a.json), no proposal, `agent.cost=terminal` |" in text
    write_table(files[:1], document, "mine")
    assert "mppi" not in document.read_text()
    with pytest.raises(ValueError, match=r"table\.md has no lines <!-- yours --> and <!-- /yours -->"):
        write_table(files, document, "yours")


def test_compact_table_has_planners_by_tasks_and_floors_last(tmp_path: Path) -> None:
    files = [
        _result(tmp_path / "a.json", "cem", 2e9),
        _result(tmp_path / "b.json", "mppi", 3e9, offset=50),
        _result(tmp_path / "c.json", "cem", 12e9, offset=50),
    ]
    without = json.loads(files[2].read_text())
    files[2].write_text(json.dumps({**without, "floors": {}}))
    assert compact_table(files, tmp_path).splitlines() == [
        "|  | lwm/PushT-v0 strict test 25 | lwm/PushT-v0 strict test 50 |",
        "| --- | --- | --- |",
        "| `cem` | [50.0](a.json) (21.5-78.5), 2.0 | [50.0](c.json) (21.5-78.5), 12 |",
        "| `mppi` | - | [50.0](b.json) (21.5-78.5), 3.0 |",
        "| random | 10.0 | 10.0 |",
        "| do nothing | - | - |",
    ]
    with pytest.raises(ValueError, match=r"b\.json is another result of `mppi` on lwm/PushT-v0 strict test 50"):
        compact_table([*files, files[1]], tmp_path)


def test_compute_plot_shows_every_planner_and_set_of_tasks(tmp_path: Path) -> None:
    paths = [
        _result(tmp_path / "a.json", "cem", 2e9),
        _result(tmp_path / "b.json", "cem", 3e9, offset=50),
        _result(tmp_path / "c.json", "gradient", 4e9),
        _result(tmp_path / "d.json", "replay", 0),
    ]
    compute_plot(paths, tmp_path / "plot.svg")
    words = (tmp_path / "plot.svg").read_text()
    assert set(re.findall(r">(cem, no proposal|gradient, no proposal|replay.*?)</text>", words)) == {
        "cem, no proposal",
        "gradient, no proposal",
    }
    assert "milliseconds a decision" in words
    for label in (5, 10, 20):  # each decision took 10 ms
        assert f">{label}</text>" in words
    assert [f"PushT, strict test tasks, goals {offset} steps away" in words for offset in (25, 50, 75)] == [
        True,
        True,
        False,
    ]
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["a.json", "b.json", "c.json", "d.json", "plot.svg"]
    with pytest.raises(ValueError, match="none of the results is of a planner"):
        compute_plot(paths[3:], tmp_path / "none.png")
    (tmp_path / "broken.json").write_text('{"run": {}}')
    with pytest.raises(ValueError, match=r"broken\.json is not a results\.json"):
        compute_plot([tmp_path / "broken.json"], tmp_path / "none.png")


def test_compute_plot_joins_results_that_differ_in_the_budget_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("lwm_agent.eval.plot.save_figure", lambda figure, out: figures.append(figure))
    paths = [_result(tmp_path / f"{flops}.json", "cem", flops * 1e9, rollouts=flops) for flops in (3, 2, 7, 5)]
    other = json.loads(paths[3].read_text())
    other["run"]["planner"]["agent"]["cost"] = "running"
    paths[3].write_text(json.dumps(other))
    compute_plot(paths, tmp_path / "plot.svg")
    gflop, _ = figures[0].axes
    lines = [list(line.get_xdata()) for line in gflop.lines if line.get_marker() == "o"]
    assert lines == [[2, 3, 7], [5]]


def test_bar_plot_names_changed_settings(tmp_path: Path) -> None:
    paths = [
        _result(tmp_path / "a.json", "cem", 2e9),
        _result(tmp_path / "b.json", "gradient", 4e9, offset=50),
        _result(tmp_path / "c.json", "mppi", 2e9, rollouts=50),
        _result(tmp_path / "d.json", "none", 0),
    ]
    bar_plot(paths, tmp_path / "bars.svg")
    words = (tmp_path / "bars.svg").read_text()
    shown = re.findall(r">(\w+), no proposal(.*?)</text>", words)
    assert shown == [("cem", ""), ("mppi", ", within 50 rollouts"), ("gradient", "")]
    for offset in (25, 50):  # what all bars have in common is in the title
        assert f"strict test tasks, goals {offset} steps away, cost terminal" in words
    with pytest.raises(ValueError, match="none of the results is of a planner"):
        bar_plot(paths[3:], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("agent.horizon=2", "horizon 2"),
        ("planner.num_samples=64", "64 samples"),
        ("planner.iterations=1", "1 iteration"),
        ("planner.first.iterations=2", "2 iterations of the first"),
        ("planner.proposals=all", "all proposals"),
        ("agent.deadline_env_steps=null", "no deadline"),
        ("agent.int8=true", "8-bit integers"),
        ("agent.compile=false", "no compile"),
        ("agent.replan_every_env_steps=1", "a new plan every step"),
        ("agent.replan_every_env_steps=25", "a new plan every 25 steps"),
        ("agent.cost=best-step+0.1*actor-deviation", "cost best step + 0.1 x actor deviation"),
        ("within 50 rollouts", "within 50 rollouts"),
    ],
)
def test_settings_are_words_in_pictures(setting: str, words: str) -> None:
    assert words_of(setting) == words


def test_iterations_that_a_budget_replaces_are_not_named(tmp_path: Path) -> None:
    path = _result(tmp_path / "a.json", "cem", 2e9, rollouts=50)
    contents = json.loads(path.read_text())
    contents["run"]["command"] += " --set planner.iterations=1000 --set planner.noise_correlation=0"
    path.write_text(json.dumps(contents))
    bar_plot([path], tmp_path / "bars.svg")
    words = (tmp_path / "bars.svg").read_text()
    assert "noise correlation 0" in words
    assert "1000" not in words


def test_lines_of_one_planner_are_told_apart(tmp_path: Path) -> None:
    one, other = _result(tmp_path / "a.json", "cem", 2e9), _result(tmp_path / "b.json", "cem", 3e9)
    contents = json.loads(other.read_text())
    contents["run"]["command"] += " --set agent.horizon=3"
    other.write_text(json.dumps(contents))
    compute_plot([one, other], tmp_path / "plot.svg")
    words = (tmp_path / "plot.svg").read_text()
    assert ">cem, no proposal</text>" in words
    assert ">cem, no proposal, horizon 3</text>" in words


def test_plot_without_matplotlib_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install 'matplotlib>="):
        compute_plot([_result(tmp_path / "a.json", "cem", 2e9)], tmp_path / "plot.png")

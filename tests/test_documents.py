"""Agreement of README and documents with what there is: tables, files, commands and examples."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from typer.main import get_command

from lwm_agent import Agent, Budget, make_planner
from lwm_agent.agent.config import default_checkpoint
from lwm_agent.checkpoint import checksum
from lwm_agent.cli.main import app
from lwm_agent.cli.options import TRACEBACK, configure
from lwm_agent.cli.settings import parse_settings
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.envs.pusht_expert import SHAKEN
from lwm_agent.eval import compact_table, markdown_table, wilson
from lwm_agent.eval.comparison_table import markdown_rows
from lwm_agent.eval.explanation import CAUSES
from lwm_agent.eval.probe_scores import read_report
from lwm_agent.eval.probe_table import tables
from lwm_agent.experiments.diagnosis.trials import TRIALS

from .import_graph import LAYERS
from .test_cli_options import COMMANDS as CONFIGURATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ZOO = ROOT / "lwm_agent" / "zoo"
RECIPE = ROOT / "results" / "recipe"
DOCUMENTS = ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TABLES = [
    ("README.md", "short", [f"{env}-{planner}-*.json" for env in ("pusht", "cube") for planner in ("guided", "actor")]),
    ("docs/results.md", "results", ["*.json", "paper/*.json"]),
    ("docs/results.md", "drawn", ["drawn*/*.json"]),
    ("docs/results.md", "tiny", ["tiny/*.json", "plain/*.json"]),
    ("docs/planners.md", "ablation", ["ablation/*.json"]),
    ("docs/planners.md", "equal", ["equal/*.json"]),
    ("docs/planners.md", "ladder", ["ladder/*.json"]),
    ("docs/planners.md", "offsets", ["offsets/*.json"]),
    ("docs/planners.md", "realtime", ["realtime/*.json"]),
    ("docs/results.md", "every-step", ["every-step/*.json"]),
]  # the document, what its table is called there, and its files in results/


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def numbers_of(name: str) -> Any:
    """Contents of a file of measurements in `docs/`."""
    return json.loads(text_of(f"docs/{name}.json"))


REQUIRED = {"train": "--data data.h5 --out run", "collect": "--out data.h5", "tasks": "--out tasks.json"}
"""Options without which a command is refused; a sentence that names one of its other options leaves them out."""


def commands_of(document: str) -> list[str]:
    """Commands of a document: lines of its bash blocks, and code within a line, completed by what is required."""
    text = text_of(document)
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [line.removeprefix("lwm-agent ").strip() for line in lines if line.startswith("lwm-agent ")]
    for command in re.findall(r"`lwm-agent ([^`]* [^`]*)`", text):
        if re.search(r"\.\.\.|\b[A-Z]{2,}\b|\b[ABC]\b", command):  # not a whole command
            continue
        missing = shlex.split(REQUIRED.get(command.split()[0], ""))
        options = zip(missing[::2], missing[1::2], strict=True)
        commands.append(" ".join([command, *(f"{name} {value}" for name, value in options if name not in command)]))
    return commands


COMMANDS = [(name, command) for name in DOCUMENTS if name != "CHANGELOG.md" for command in commands_of(name)]


@pytest.mark.parametrize(("document", "mark", "patterns"), TABLES)
def test_tables_are_those_of_the_results_files(document: str, mark: str, patterns: list[str]) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    table = text.split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- /{mark} -->")[0]
    paths = [(ROOT / document).parent / name for name in re.findall(r"\]\((\S*?\.json)\)", table)]
    files = [path for pattern in patterns for path in (ROOT / "results").glob(pattern)]
    assert sorted(path.resolve() for path in paths) == sorted(path.resolve() for path in files)
    make = compact_table if mark in ("offsets", "short") else markdown_table
    assert table == make(paths, (ROOT / document).parent)


def test_rates_in_the_steps_of_the_recipe_are_those_of_their_files() -> None:
    shown = re.findall(r"\| \[([\d.]+)\]\(\.\./(results/\S+\.json)\) \((\S+)-(\S+)\)", text_of("docs/recipe.md"))
    assert len(shown) >= 6
    for rate, path, low, high in shown:
        summary = json.loads(text_of(path))["summary"]
        measured = (summary["success"], *summary["ci95"])
        assert (rate, low, high) == tuple(f"{100 * value:.1f}" for value in measured)
    assert {name for _, name, *_ in shown} >= {f"results/recipe/{path.name}" for path in RECIPE.glob("*.json")}


def test_failures_that_end_a_third_of_a_turn_away_are_those_of_the_results() -> None:
    shown = re.findall(r"\| \[(\d+) of (\d+)\]\(\.\./(results/\S+\.json)\) \| (\d+) \|", text_of("docs/recipe.md"))
    assert len(shown) == 4
    for failed, tasks, path, turned in shown:
        results = json.loads(text_of(path))
        episodes = [dict(zip(results["columns"], episode, strict=True)) for episode in results["episodes"]]
        angles = [episode["final_angle_deg"] for episode in episodes if not episode["success"]]
        assert (int(failed), int(tasks)) == (len(angles), len(episodes))
        assert int(turned) == sum(85 <= angle <= 150 for angle in angles)


def test_rates_of_readers_are_those_that_were_measured() -> None:
    layouts = numbers_of("readers")["layouts"]
    table = text_of("docs/data.md").split("<!-- readers -->\n")[1].split("\n<!-- /readers -->")[0]
    shown = [re.findall(r"\| ([\d,]+) \(([\d,]+)-([\d,]+)\) \| ([\d,]+)", row) for row in table.splitlines()[2:]]
    for place, layout in enumerate(("ours", "released")):
        for row, reader in zip(shown, layouts[layout].values(), strict=True):
            numbers = (reader[name] for name in ("frames_per_second", "least", "most", "peak_mib"))
            assert row[place] == tuple(f"{number:,}" for number in numbers)


@pytest.mark.parametrize(
    "path",  # "joint" and "predictor" are of checkpoints on the way to the one that is shipped
    sorted(path for path in (ROOT / "results").rglob("*.json") if not path.stem.endswith(("-joint", "-predictor"))),
    ids=lambda path: path.stem,
)
def test_results_are_those_of_the_shipped_checkpoint(path: Path) -> None:
    env, *_ = path.stem.split("-")
    kind = str(path.parent.relative_to(ROOT / "results"))
    by_default = kind in (".", "paper", "recipe") or kind.startswith("drawn")
    name = default_checkpoint(env) if by_default else f"{env}-tiny"
    assert f'"checkpoint": "{checksum(name)}"' in path.read_text(encoding="utf-8") or "replay" in path.name


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.json")), ids=lambda path: path.stem)
def test_results_are_of_settings_that_there_are(path: Path) -> None:
    words = shlex.split(json.loads(path.read_text(encoding="utf-8"))["run"]["command"])
    given = [value for option, value in pairwise(words) if option == "--set"]
    settings = parse_settings(given, ("planner", "agent", "env"))["agent"]
    assert settings.keys() <= get_type_hints(Agent.__init__).keys()


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_commands_of_documents_are_accepted(
    document: str, command: str, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parses them and checks their settings; checkpoints stand where earlier commands would have put some."""
    for name in re.findall(r"runs/\S*/checkpoint", command):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(ZOO / f"{'cube' if '--env cube' in command else 'pusht'}-tiny")
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(command)
    if name == "--import":
        _, name, *words = words
    if name == "doctor":
        assert not words
        return
    parsed = get_command(app).commands[name].make_context(name, words)  # type: ignore[attr-defined]
    values = {name: value for name, value in parsed.params.items() if name != TRACEBACK}
    own = {"resume"} if name == "train" else set()
    configure(CONFIGURATIONS[name], {name: value for name, value in values.items() if name not in own})


def test_documents_have_commands() -> None:
    assert len(COMMANDS) > 50
    assert {"README.md", "docs/usage.md", "docs/comparison.md"} <= {document for document, _ in COMMANDS}


def examples_of(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(document), flags=re.DOTALL)


def run(example: str, scope: dict[str, Any], changes: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs an example with some of its text changed, so that it takes less time."""
    for old, new in (changes or {}).items():
        assert old in example, f"the example has no {old!r}"
        example = example.replace(old, new)
    exec(example, scope)
    return scope


class CountedAgent:
    """An agent that counts the episodes that begin, and checks that each row pursues the goal of its picture."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self.begun = agent, 0

    def predict(self, observation: Any, state: Any, episode_start: Any = None) -> tuple[Any, Any]:
        action, state = self._agent.predict(observation, state, episode_start)
        assert np.array_equal(state.goal_pixels, observation["goal"])
        self.begun += int((state.ages == 1).sum())
        return action, state


def test_rooms_of_the_architecture_are_those_of_the_import_graph() -> None:
    tree = text_of("docs/architecture.md").split("an arrow upwards; tests hold both.")[1].split("```")[1]
    levels = re.split(r"^\d  ", tree, flags=re.MULTILINE)[1:]
    assert len(levels) == len(LAYERS)
    for text, rooms in zip(levels, LAYERS, strict=True):
        for room in set(rooms) - {"lwm_agent", "__main__"}:
            assert re.search(rf"\b{room}(/|\.py)", text), room


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_files_that_documents_name_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    names = re.findall(r"`([\w./-]+\.(?:py|md))`", text)
    links = [link for link in re.findall(r"\]\((?!http)([^)#]+)", text) if "/" in link or "." in link]
    missing = [name for name in names if not any((folder / name).exists() for folder in (ROOT, ROOT / "lwm_agent"))]
    assert missing == []
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


def anchors_of(path: Path) -> set[str]:
    """Anchors of the headings of a Markdown file, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sections_that_links_lead_to_exist(document: str) -> None:
    here = ROOT / document
    links = re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", text_of(document))
    lost = [(name, anchor) for name, anchor in links if anchor not in anchors_of(here.parent / name if name else here)]
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_documents_name_exist(document: str) -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {option for command in commands for parameter in command.params for option in parameter.opts}
    options |= {option for parameter in get_command(app).params for option in parameter.opts}
    named = re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b(?!-)", (ROOT / document).read_text(encoding="utf-8"))
    assert set(named) - options - {"--help", "--logdir", "--install-completion"} == set()


def test_readme_is_short_and_its_first_example_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(README.splitlines()) <= 150
    (example,) = examples_of("README.md")
    run(example, {})
    assert capsys.readouterr().out == "reached the goal: True\n"


@pytest.mark.parametrize("document", ["README.md", "docs/agent.md", "docs/data.md"])
def test_users_import_nothing_deeper_than_the_package(document: str) -> None:
    assert not any(deeper in text_of(document) for deeper in ("from lwm_agent.", "import lwm_agent."))


def test_loops_of_the_documents_run() -> None:
    scope: dict[str, Any] = {}
    loop, sb3, autoreset, planner = examples_of("docs/agent.md")
    run(
        loop,
        scope,
        {"deadline_env_steps=100": "deadline_env_steps=10", "max_episode_steps=100": "max_episode_steps=10"},
    )
    assert scope["over"]
    run(
        sb3,
        scope,
        {"n_envs=4": "n_envs=2", '"max_episode_steps": 50': '"max_episode_steps": 5', "episodes=8": "episodes=3"},
    )
    scope["agent"] = CountedAgent(scope["agent"])
    run(autoreset, scope, {"range(200)": "range(23)", "max_episode_steps=100": "max_episode_steps=10"})
    assert scope["agent"].begun == 3 * 3 * 4  # three loops, three episodes in each of four environments
    scope = run(planner, {})
    assert scope["agent"].planner == make_planner("cem", num_samples=64, proposals="all")
    assert scope["agent"].replanner.budget == Budget(rollouts=300)


def test_example_of_a_data_file_writes_it(tmp_path: Path) -> None:
    episodes = [(np.full((n, 64, 64, 3), n, np.uint8), np.full((n - 1, 2), n, np.float32)) for n in (3, 5)]
    path = tmp_path / "mine.h5"
    (example,) = examples_of("docs/data.md")
    run(example, {"my_episodes": episodes}, {"mine.h5": path.as_posix()})
    assert Trajectories.open(path).lengths.tolist() == [3, 5]


def test_example_of_imagination_paints() -> None:
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for name in ("pixels", "goal")}
    (example,) = examples_of("docs/imagination.md")
    scope = run(example, {"observation": observation})
    assert [picture.shape for picture in scope["pictures"]] == [(5, 64, 64, 3)] * 2


def test_example_of_films_writes_one(tmp_path: Path) -> None:
    (example,) = examples_of("docs/record.md")
    run(example, {}, {"=60": "=7", '"out/films"': f'"{tmp_path.as_posix()}"'})
    assert [path.name for path in tmp_path.iterdir()] == ["episode-000.mp4"]


def test_example_of_surprise_goes_on_while_nothing_is_judged() -> None:
    rng = np.random.default_rng(0)
    observation = {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in ("pixels", "goal")}
    (example,) = examples_of("docs/surprise.md")
    assert np.isnan(run(example, {"observation": observation})["state"].surprise).all()


def test_example_of_shifts_draws_them() -> None:
    (example,) = examples_of("docs/robustness.md")
    env = run(example, {})["env"]
    assert env.unwrapped.variation["block_shape"] == "T"  # of the last reset
    env.close()


def test_example_of_quantities_names_them() -> None:
    (example,) = examples_of("docs/probes.md")
    hand, wrist = run(example, {})["ArmEnv"].quantities(None, np.array([[0.1, 0.2, np.pi / 2]])).values()
    assert hand.values.tolist() == [[10.0, 20.0]]
    assert wrist.values.tolist() == [[90.0]]


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("probe-*.json")), ids=lambda path: path.stem)
def test_tables_of_probes_are_those_of_their_files(path: Path) -> None:
    name, report = path.stem.removeprefix("probe-"), read_report(path)
    table = text_of("docs/probes.md").split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]
    assert table == "\n\n".join(map(markdown_rows, tables(report)))
    assert json.loads(path.read_text(encoding="utf-8"))["run"]["checkpoint"] == checksum(name)


def test_tables_of_the_comparison_are_those_of_its_file() -> None:
    cells = numbers_of("comparison")["cells"]
    page, readme = text_of("docs/comparison.md"), text_of("README.md")
    best: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        low, high = (100 * bound for bound in cell["ci95"])
        planner = "own policy" if cell["planner"] == "policy" else cell["planner"]
        budget = "-" if cell["unit"] == "none" else f"{cell['limit'] / 1e9:g} GFLOP"
        success = 100 * cell["success"]
        if cell["parameters"] is not None:  # no floor
            assert (
                f"| {cell['model']} | {planner} | {budget} | {success:.1f} | {low:.1f}-{high:.1f} | {cell['n']} |"
                in page
            )
            best.setdefault((cell["env"], cell["model"]), []).append(f"{success:.0f} ({low:.0f}-{high:.0f})")
    for rates in best.values():  # the best planner of each model
        assert max(rates, key=lambda rate: float(rate.split()[0])) in readme


def test_table_of_farther_goals_is_that_of_its_file() -> None:
    cells = numbers_of("comparison-offsets")["cells"]
    section = text_of("docs/comparison.md").split("### Farther goals")[1].split("\n### ")[0]
    rows: dict[str, list[str]] = {}
    for budget in (5e9, 5e10):
        for cell in cells:
            if cell["parameters"] is not None and cell["limit"] in (0, budget):
                low, high = (100 * bound for bound in cell["ci95"])
                rows.setdefault(cell["model"], []).append(f"{100 * cell['success']:.0f} ({low:.0f}-{high:.0f})")
    for model, rates in rows.items():
        (line,) = [line for line in section.splitlines() if line.startswith(f"| {model} |")]
        assert sorted(line.strip("| ").split(" | ")[1:]) == sorted(rates)


def test_table_without_a_budget_is_that_of_its_file() -> None:
    cells = numbers_of("comparison-unlimited")["cells"]
    section = text_of("docs/comparison.md").split("### Without a budget")[1].split("\n### ")[0]
    played = [cell for cell in cells if cell["parameters"] is not None]
    rows = [line for line in section.splitlines() if line.startswith(("| Push-T |", "| cube |"))]
    assert len(rows) == len(played)
    for cell in played:
        numbers = f"{cell['rollouts']:.0f} | {cell['plan_flops'] / 1e9:.3g} | {cell['plan_ms_p50']:.3g}"
        assert f"| {cell['model']} | {numbers} | {rate_of(cell)} |" in "\n".join(rows)


@pytest.mark.parametrize("name", ["pusht", "cube"])
def test_tables_of_robustness_are_those_of_their_files(name: str) -> None:
    measured = numbers_of(f"robustness-{name}")
    assert measured["checkpoint"] == checksum(f"{name}-tiny")
    page = text_of("docs/robustness.md")
    section = page.split(f"robustness-{name}.json")[1].split("\n## ")[0]
    assert f"without a shift: {rate_of(measured)}" in section
    rows: dict[str, list[str]] = {}
    for cell in measured["cells"]:
        strength = cell["strength"] if isinstance(cell["strength"], str) else f"{cell['strength']:g}"
        rows.setdefault(cell["shift"], []).append(f"{strength}: {rate_of(cell)}")
    for shift, cells in rows.items():
        assert f"| `{shift}` | {', '.join(cells)} |" in section


def test_table_of_the_mended_encoder_is_that_of_its_files() -> None:
    before, after, contrast = (numbers_of(f"robustness-{name}") for name in ("pusht", "pusht-robust", "contrast"))
    assert after["checkpoint"] == contrast["checkpoint"] == checksum("pusht-robust")
    usual = {(cell["shift"], cell["strength"]): rate_of(cell) for cell in before["cells"]}
    section = text_of("docs/robustness.md").split("## Mending it")[1]
    assert f"| none | {rate_of(before)} | {rate_of(after)} |  |" in section
    for cell in after["cells"]:
        shift, strength = cell["shift"], cell["strength"]
        rates = f"{usual[shift, strength]} | {rate_of(cell)} | {100 * cell['kept']:.0f}"
        assert f"| `{shift}={strength:g}` | {rates} |" in section
    lowest, *others = contrast["quarters"]["background-color=1"]
    said = " ".join(section.split())
    assert f"solves {lowest['solved']} of {lowest['n']} ({lowest['solved_without']} without a shift)" in said
    solved, num, without = (sum(each[name] for each in others) for name in ("solved", "n", "solved_without"))
    assert f"{solved} of {num} ({without} without)" in said


def rate_of(cell: dict[str, Any]) -> str:
    """Success and its interval, in percent."""
    return f"{100 * cell['success']:.0f} ({100 * cell['ci95'][0]:.0f}-{100 * cell['ci95'][1]:.0f})"


@pytest.mark.parametrize(("table", "files"), [("weights", [""]), ("shipped", ["-pusht-tiny", "-cube-tiny"])])
def test_tables_of_rare_states_are_those_of_their_files(table: str, files: list[str]) -> None:
    reports = [numbers_of(f"rare-states{name}") for name in files]
    page = text_of("docs/rare-states.md")
    shown = page.split(f"<!-- {table} -->\n")[1].split(f"<!-- /{table} -->")[0].splitlines()[2:]
    for report in reports:
        for each in report["checkpoints"]:
            assert each["evaluation"]["floors"].keys() == {"random", "none"}
    assert shown == [row for report in reports for row in rows_of_rare_states(report["checkpoints"])]


def rows_of_rare_states(checkpoints: list[dict[str, Any]]) -> list[str]:
    """Lines of a table: a column for each checkpoint, its errors and success in usual and in rare states."""
    checkpoints = sorted(checkpoints, key=lambda each: each["sigreg_weight"])
    rows = []
    for name, quantity in checkpoints[0]["quantities"].items():
        for when, words in (("now", ""), ("imagined", ", imagined")):
            for part in quantity[when]:
                if part.startswith("decile") and part not in ("decile 1", "decile 10"):
                    continue
                found = [each["quantities"][name][when][part] for each in checkpoints]
                cells = [
                    "-" if one is None else f"{one['median']:.3g} ({one['low']:.3g}-{one['high']:.3g})" for one in found
                ]
                rows.append(f"| {name}{words}: {part}, {quantity['unit']} | {' | '.join(cells)} |")
    for number, third in enumerate(("usual", "middle", "rarest")):
        rates = [each["tasks"][number] for each in checkpoints]
        cells = [f"{100 * one['success']:.0f} ({100 * one['low']:.0f}-{100 * one['high']:.0f})" for one in rates]
        rows.append(f"| success, {third} third, % | {' | '.join(cells)} |")
    return rows


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.json")), ids=lambda path: path.stem)
def test_commands_of_measurements_name_no_place_of_a_machine(path: Path) -> None:
    command = numbers_of(path.stem).get("command", "")
    assert not [word for word in shlex.split(command) if word.startswith("/")]


@pytest.mark.parametrize("name", ["pusht-pixels", "pusht-tiny", "pusht-dreamer", "cube-tiny"])
def test_table_of_verifiers_is_that_of_its_files(name: str) -> None:
    measured = numbers_of(f"diagnosis-{name}")
    assert measured["checkpoint"] == checksum(name)
    found = measured["verification"]
    shares = [100 * found["told_apart"][f"{far} sd"]["share"] for far in ("0.25", "0.5", "1", "2")]
    told = " / ".join(f"{share:.0f}" for share in shares)
    gap, end, picked = found["gap"]["1 sd"], found["error_by_block"][-1], found["picked"]["share"]
    row = f"| [`{name}`](diagnosis-{name}.json) | {told} | {gap:.1f} | {100 * end:.0f} | {100 * picked:.0f} |"
    assert row in text_of("docs/diagnosis.md")


def test_table_of_trials_is_that_of_its_file() -> None:
    trials = numbers_of("diagnosis-pusht-tiny")["trials"]
    assert trials.keys() == set(TRIALS)
    for name, found in trials.items():
        interval = f"{100 * found['low']:.0f}-{100 * found['high']:.0f}"
        assert f"| {name} | {len(found['solved'])} of {found['n']} | {interval} |" in text_of("docs/diagnosis.md")


def test_trials_in_the_recipe_are_those_of_their_files() -> None:
    before, after = (numbers_of(f"diagnosis-{name}")["trials"] for name in ("pusht-tiny", "pusht-pixels"))
    assert before.keys() == after.keys()
    for name in before:
        cells = [
            f"{len(trials[name]['solved'])} of {trials[name]['n']} "
            f"({100 * trials[name]['low']:.0f}-{100 * trials[name]['high']:.0f})"
            for trials in (before, after)
        ]
        assert f"| {name} | {' | '.join(cells)} |" in text_of("docs/recipe.md")


def test_rates_of_two_checkpoints_in_the_comparison_are_those_of_their_file() -> None:
    rates: dict[str, list[str]] = {}
    for cell in numbers_of("comparison-pixels")["cells"]:
        if cell["model"] == "pixels":
            assert cell["checkpoint"] == checksum("pusht-pixels")
        low, high = (100 * end for end in cell["ci95"])
        rates.setdefault(cell["planner"], []).append(f"{100 * cell['success']:.0f} ({low:.0f}-{high:.0f})")
    for planner in ("cem", "gradient", "guided"):
        assert f"| {planner} | {' | '.join(rates[planner])} |" in text_of("docs/comparison.md")


def test_card_of_the_expert_is_that_of_its_file() -> None:
    scores = numbers_of("expert")["scores"]
    assert [(score["offset_env_steps"], score["shaken"]) for score in scores] == [
        (offset, shaken) for offset in (25, 50, 75, 100) for shaken in (SHAKEN, 0.0)
    ]
    for noisy, steady in zip(scores[::2], scores[1::2], strict=True):
        cells = [str(noisy["offset_env_steps"])]
        for score in (noisy, steady):
            assert (score["low"], score["high"]) == wilson(score["solved"], score["n"])
            interval = f"{100 * score['low']:.0f}-{100 * score['high']:.0f}"
            cells += [f"{score['solved']} of {score['n']} ({interval})", f"{score['median_env_steps']:g}"]
        assert f"| {' | '.join(cells)} |" in text_of("docs/pusht.md")


def test_table_of_causes_is_that_of_its_files() -> None:
    found = [numbers_of(f"explanation-{name}") for name in ("pusht", "cube")]
    shown = text_of("docs/diagnosis.md").split("<!-- causes -->\n")[1].split("<!-- /causes -->")[0]
    assert "| [Push-T](explanation-pusht.json): {failed} of {played} failed |".format(**found[0]) in shown
    assert "| [the cube](explanation-cube.json): {failed} of {played} failed |".format(**found[1]) in shown
    for cause in CAUSES:
        cells = []
        for each in found:
            count, failed = each["causes"][cause], each["failed"]
            low, high = wilson(count, failed)
            cells.append(f"{count}: {100 * count / failed:.0f} % ({100 * low:.0f}-{100 * high:.0f})")
        assert f"| {cause} | {' | '.join(cells)} |" in shown


def test_latency_without_torch_is_that_of_its_file() -> None:
    measured = numbers_of("onnx-latency")
    times = f"[{measured['onnx_p50_ms']:.0f} against {measured['torch_p50_ms']:.0f} ms](onnx-latency.json)"
    assert f"{times} on two slow cores, {measured['median_ratio_onnx_to_torch']:.1f} of it" in text_of("docs/usage.md")


def test_rates_of_longer_trainings_are_those_of_their_file() -> None:
    page = " ".join(text_of("docs/comparison.md").split())
    evaluations = numbers_of("comparison-longer")["evaluations"]
    searched = [each for each in evaluations if "cube" not in each["command"] and each["checkpoint"] is not None]
    assert len(searched) == 6
    for each in searched:
        low, high = (100 * bound for bound in each["ci95"])
        assert f"{100 * each['success']:.0f} % ({low:.0f}-{high:.0f})" in page


def test_all_examples_are_tested() -> None:
    tested = {"README.md": 1, "docs/agent.md": 4, "docs/data.md": 1, "docs/baselines.md": 1, "docs/planners.md": 1}
    tested |= {"docs/world-models.md": 1, "docs/imagination.md": 1, "docs/record.md": 1, "docs/surprise.md": 1}
    tested |= {"docs/probes.md": 1, "docs/robustness.md": 1}
    assert {document: len(examples_of(document)) for document in DOCUMENTS if examples_of(document)} == tested


@pytest.mark.parametrize(
    ("document", "file"), [("docs/planners.md", "shrinking_search.py"), ("docs/world-models.md", "markov_model.py")]
)
def test_documents_show_the_files_of_the_examples(document: str, file: str) -> None:
    assert examples_of(document) == [(ROOT / "examples" / file).read_text(encoding="utf-8")]

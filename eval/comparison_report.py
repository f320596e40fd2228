"""report.html of a comparison: one file with tables, figures and videos, which opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import html
from .comparison import ModelComparison
from .comparison_figures import Picture
from .comparison_table import (
    TextTable,
    cell_table,
    headline_table,
    model_table,
    pair_table,
    reason_table,
    summary_sentence,
)
from .figures import FAINT, GRID, INK
from .side_by_side import TaskVideo

STYLE = """
:root { --ink: #24292f; --faint: #57606a; --paper: #ffffff; --line: #d8dee4; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9da7b1; --paper: #0d1117; --line: #30363d; --soft: #161b22; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); }
.lead { font-size: 1.1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
caption { max-width: calc(100vw - 2rem); }
caption { text-align: left; color: var(--faint); padding-bottom: 0.4rem; position: sticky; left: 0; }
th, td { padding: 0.3rem 0.6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--soft); font-weight: 600; }
td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 4rem; }
.number { text-align: right; }
figure { margin: 1.5rem 0; }
figure svg { display: block; max-width: max(100%, 38rem); height: auto; }
figcaption, dt { color: var(--faint); font-size: 0.875rem; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
.films figure { margin: 0; }
video { width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }
summary { cursor: pointer; }
dd { margin: 0 0 0.6rem; overflow-wrap: anywhere; }
"""


def report_page(comparison: ModelComparison, pictures: Sequence[Picture], videos: Sequence[TaskVideo]) -> str:
    """The whole page."""
    return html.page(
        "Comparison of models",
        STYLE,
        html.element("h1", "Comparison of models"),
        html.element("p", html.text(summary_sentence(comparison)), class_="lead"),
        _table(headline_table(comparison)),
        _heading("Success against compute and distance"),
        *(_figure(picture) for picture in pictures),
        _heading("Every cell"),
        *(_table(cell_table(comparison, env, offset)) for env, offset in comparison.sets),
        _table(reason_table(comparison)),
        _heading("Models"),
        _table(model_table(comparison)),
        _heading("Tests"),
        html.element("details", html.element("summary", "Paired tests of all models"), _table(pair_table(comparison))),
        _videos(videos),
        _heading("Method"),
        html.definitions(method(comparison.info)),
    )


def method(info: dict[str, Any]) -> dict[str, str]:
    """Terms of the method, and what each means here."""
    hardware = info["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    tasks = next(iter(info["tasks"].values()))
    return {
        "Command": info["command"],
        "Tasks": f"Protocol {info['protocol']}, split {info['split']}. All models play the same tasks, from the same "
        f"starts and to the same goals, in at most {tasks['budget_env_steps']} environment steps (first set). "
        f"Seed {info['seed']}.",
        "Budgets": "A budget in FLOPs holds for one plan of one episode, counted analytically: a multiply-add is two, "
        "a candidate with a gradient counts twice, learned proposals count. A budget in milliseconds holds for "
        "one plan of one episode that is planned alone. Within a budget, populations and proposals are cut until the "
        "planner's first three iterations fit; they are never enlarged. A cell whose budget affords no rollout over "
        "the horizon is 'below one rollout'; one whose budget affords rollouts, but not the planner's first "
        "iteration, is 'below one plan'. Neither is played.",
        "Encoding": "Each decision encodes the newest frame. That is counted beside the plan, and timed once for each "
        "model with one frame alone; the goal's frame, once an episode, is left out. Without a budget in "
        f"milliseconds, planning is timed for up to {info['batch_size']} episodes together and divided by them.",
        "Floors and ceiling": "Random actions, doing nothing, and the replay of the actions from which a task was cut, "
        "on the same tasks.",
        "Intervals": "Wilson, 95 %. Several training seeds of a model are pooled: the interval is that of all their "
        "episodes, and the range of the seeds stands beside it. It does not cover the choice of tasks twice: "
        "all seeds play the same ones.",
        "Tests": "Exact McNemar tests of pairs of models on the same tasks, each model with its best planner in that "
        "column of compute. With several seeds, a task counts for the model whose seeds solve it more often (exact "
        "sign test). All p-values of this page are corrected together (Holm). Every model has the same choice of "
        "planners, made on these tasks: rates of the best are slightly too high, for all alike.",
        "Hardware": f"{hardware['cpu']}, {hardware['cores']} cores, GPU: {hardware['gpu'] or 'none'}, "
        f"{hardware['platform']}.",
        "Versions": f"{versions}; commit {info['commit'] or 'unknown'}.",
    }


def _heading(title: str) -> str:
    return html.element("h2", html.text(title))


def _table(table: TextTable) -> str:
    if not table.rows:
        return html.element("p", html.text(table.caption))
    return html.table(table.caption, table.header, table.rows, table.words)


def _figure(picture: Picture) -> str:
    """A figure whose words and lines take the colours of the page."""
    drawing = picture.svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)").replace(GRID, "var(--line)")
    described = html.element("div", drawing, class_="wide", role="img", aria_label=picture.alt, tabindex="0")
    return html.element("figure", described, html.element("figcaption", html.text(picture.caption)))


def _videos(videos: Sequence[TaskVideo]) -> str:
    if not videos:
        return ""
    films = [
        html.element("figure", html.video(video.path, video.label), html.element("figcaption", html.text(video.label)))
        for video in videos
    ]
    words = (
        "The same tasks side by side, without a budget or within the largest. A frame turns green where the goal was "
        "reached, red where it was not."
    )
    return _heading("Videos") + html.element("p", html.text(words)) + html.element("div", *films, class_="films")

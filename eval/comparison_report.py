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
from .side_by_side import TaskVideo


def report_page(comparison: ModelComparison, pictures: Sequence[Picture], videos: Sequence[TaskVideo]) -> str:
    """The whole page."""
    return html.page(
        "Comparison of models",
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
    drawing = html.drawing(picture.svg)
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

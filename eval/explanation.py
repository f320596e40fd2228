"""Causes of failed tasks: what the model, the search, the cost and the time have to do with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import read_text
from . import html
from .comparison_table import TextTable
from .figures import FAINT, INK, PALETTE, new_figure, quiet_axes, save_figure
from .results import wilson
from .video import video_name

TIME, SEARCH, MODEL, COST = "time", "search", "model", "cost"

CAUSES = {
    TIME: "with twice the steps, the task is solved",
    SEARCH: "the recorded actions, imagined, cost less than the plan: the search did not find them",
    MODEL: "the first plan does not bring half of what the model has imagined",
    COST: "the first plan brings what was imagined, but does not lead to the goal: the cost does not tell",
}
"""Causes of a failure, in the order in which they are looked for, and what is seen of each."""


@dataclass(frozen=True)
class Evidence:
    """Evidence of why a task failed. Costs are those of plans at the first decision.

    Attributes:
        task: its number.
        solved_later: whether it is solved with twice the steps.
        plan_imagined: cost of the plan in the model's future.
        plan_real: the same in the future that the simulator makes of it.
        recorded_imagined: cost of the recorded actions in the model's future.
        recorded_real: the same in the simulator's.
        nothing_real: cost of doing nothing, in the simulator's future.
        closest: smallest distance to the goal on the way, by the environment's names.
        final: distance at the end.
    """

    task: int
    solved_later: bool
    plan_imagined: float
    plan_real: float
    recorded_imagined: float
    recorded_real: float
    nothing_real: float
    closest: dict[str, float]
    final: dict[str, float]

    @property
    def cause(self) -> str:
        """The first of `CAUSES` that the evidence speaks for."""
        if self.solved_later:
            return TIME
        if self.recorded_imagined < self.plan_imagined:
            return SEARCH
        return MODEL if self.brought < 0.5 * self.promised else COST

    @property
    def promised(self) -> float:
        """Cost that the plan saves against doing nothing, as imagined."""
        return self.nothing_real - self.plan_imagined

    @property
    def brought(self) -> float:
        """Cost that it really saves."""
        return self.nothing_real - self.plan_real

    @property
    def misjudged(self) -> float:
        """Cost of the plan beyond what was imagined."""
        return self.plan_real - self.plan_imagined


@dataclass(frozen=True)
class Explanation:
    """Explanation of the failures of an evaluation.

    Attributes:
        title: the evaluation in words.
        played: tasks of the evaluation.
        failed: tasks that it did not solve.
        evidence: of those that were looked at.
    """

    title: str
    played: int
    failed: int
    evidence: tuple[Evidence, ...]

    def count(self, cause: str) -> int:
        """Failures by this cause."""
        return sum(evidence.cause == cause for evidence in self.evidence)

    @property
    def summary(self) -> str:
        """The causes in one sentence, the most frequent first."""
        if not self.evidence:
            return "Every task was solved."
        causes = sorted(CAUSES, key=self.count, reverse=True)
        shares = ", ".join(f"{cause} {self.count(cause)}" for cause in causes if self.count(cause))
        return f"Of {self.played} tasks {self.failed} failed; of {len(self.evidence)} looked at: {shares}."


def cause_table(explanation: Explanation) -> TextTable:
    """Causes, with their shares of the failures that were looked at, and 95 % intervals."""
    rows = []
    for cause, seen in CAUSES.items():
        count, total = explanation.count(cause), len(explanation.evidence)
        low, high = wilson(count, total) if total else (0.0, 1.0)
        share = 100 * count / total if total else 0.0
        rows.append((cause, seen, str(count), f"{share:.0f} ({100 * low:.0f}-{100 * high:.0f})"))
    return TextTable("Causes of the failures", ("cause", "what was seen", "tasks", "share, %"), tuple(rows), 2)


def task_table(explanation: Explanation) -> TextTable:
    """One row a failed task."""
    names = list(explanation.evidence[0].closest) if explanation.evidence else []
    header = ("task", "cause", "plan imagined", "plan, really", "recorded imagined", "recorded, really", "nothing")
    rows = []
    for each in explanation.evidence:
        plan, recorded = (each.plan_imagined, each.plan_real), (each.recorded_imagined, each.recorded_real)
        numbers = (*plan, *recorded, each.nothing_real, *(each.closest[name] for name in names))
        # Rounded first: the distance of a latent to itself is not quite zero, and would be shown as 2e-12.
        rows.append((str(each.task), each.cause, *(f"{round(number, 4):.3g}" for number in numbers)))
    caption = "Failed tasks: planning costs at the first decision, and the closest approach"
    return TextTable(caption, (*header, *(f"closest {name}" for name in names)), tuple(rows), 2)


def draw_explanation(explanation: Explanation, path: Path) -> None:
    """Draws costs of first plans, imagined and real, one point a failed task, as PNG and SVG."""
    figure = new_figure(6.4, 4.2)
    ax = figure.subplots()
    quiet_axes(ax)
    for place, cause in enumerate(CAUSES):
        points = [(each.plan_imagined, each.plan_real) for each in explanation.evidence if each.cause == cause]
        if points:
            name = f"{cause} ({len(points)})"
            ax.plot(*zip(*points, strict=True), "o", color=PALETTE[place], ms=5, alpha=0.8, label=name)
    if explanation.evidence:
        ax.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
        highest = max(each.plan_imagined for each in explanation.evidence)
        ax.plot([0, highest], [0, highest], color=FAINT, lw=0.8)
        end = (highest, highest)
        ax.annotate("as imagined", end, (-6, 0), textcoords="offset points", ha="right", color=FAINT, fontsize=8)
    ax.set_xlabel("cost of the first plan, as imagined", color=FAINT)
    ax.set_ylabel("the same, as it came", color=FAINT)
    save_figure(figure, path)


def explanation_page(explanation: Explanation, figure: Path, films: Sequence[Path]) -> str:
    """The whole page: causes, tasks, the SVG `figure`, and films, each called by its task."""
    causes, tasks = cause_table(explanation), task_table(explanation)
    shown = [_film(each, path) for each in explanation.evidence for path in films if path.name == video_name(each.task)]
    heading = html.element("h2", "Films of those tasks of which the model was most wrong")
    return html.page(
        "Why tasks failed",
        html.element("h1", "Why tasks failed"),
        html.element("p", html.text(explanation.title)),
        html.element("p", html.text(explanation.summary), class_="lead"),
        html.table(causes.caption, causes.header, causes.rows, causes.words),
        html.element("figure", html.drawing(read_text(figure))),
        heading + html.element("div", *shown, class_="films") if shown else "",
        html.element("h2", "Tasks"),
        html.table(tasks.caption, tasks.header, tasks.rows, tasks.words),
    )


def _film(evidence: Evidence, path: Path) -> str:
    caption = f"Task {evidence.task}, {evidence.cause}: {CAUSES[evidence.cause]}."
    film = html.video(path, f"Task {evidence.task}")
    return html.element("figure", film, html.element("figcaption", html.text(caption)))

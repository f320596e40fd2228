"""Films of episodes: what happens, what the agent wants, what it imagines, how it searches, and how it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..envs.base import State
from ..insight import Insight, PlanInsight
from .canvas import (
    BELOW,
    ELITE,
    GAP,
    PANEL,
    WAYS,
    Graph,
    Panel,
    compose,
    draw_graphs,
    draw_search,
    draw_strips,
    draw_ways,
)
from .figures import FAINT
from .scenery import Frame, Outcome, Scenery

ELITE_SHARE = 8
"""One of so many candidates is called an elite: those to which the default planner refits its samples."""

BLANK: Frame = np.full((PANEL, PANEL, 3), 255, np.uint8)


@dataclass
class _Shot:
    """One environment step: its picture or the state to draw, and what the agent told about it."""

    state: State | None
    picture: Frame | None
    insight: Insight | None = None


@dataclass(frozen=True)
class _Plan:
    """A plan as it is shown while it is executed.

    Attributes:
        insight: the plan.
        first: step at which it was made.
        steps: how many steps it is shown.
        state: where it begins.
        outcome: where the simulator says that it leads, where that can be told.
        chosen: way ``(N + 1, 2)`` that it asks for, where that can be told.
    """

    insight: PlanInsight
    first: int
    steps: int
    state: State | None
    outcome: Outcome | None
    chosen: NDArray[np.float64] | None

    def stage(self, step: int) -> int:
        """Number of the call whose candidates are shown at `step`: all in turn, the last one at the end."""
        age = min(step - self.first, self.steps - 1)
        return -(-(age + 1) * len(self.insight.search) // self.steps) - 1


class Film:
    """An episode, step by step: look at each step, then say what the agent told about it.

    Args:
        goal: picture of the goal.
        title: what is played.
        words: who plays.
        scenery: draws states and tries plans out; None where only pictures are known.
        length: environment steps that the episode may have; by default those that it has had.
    """

    def __init__(self, goal: Frame, title: str, words: str, scenery: Scenery | None, length: int | None = None) -> None:
        self._goal, self._title, self._words = goal, title, words
        self._scenery, self._length = scenery, length
        self._shots: list[_Shot] = []

    def look(self, state: State | None = None, picture: Frame | None = None) -> None:
        """Adds an environment step, by its state if there is a scenery, else by its picture."""
        self._shots.append(_Shot(state, picture))

    def explain(self, insight: Insight) -> None:
        """Adds what the agent told when it saw the newest step."""
        self._shots[-1].insight = insight

    def frames(self, success: bool | None, hold: int = 0) -> Iterator[tuple[Frame, int]]:
        """All frames, and how often each is shown: once, and the last one, with the verdict, `hold` times more."""
        graphs, columns = graphs_of(self._told), self._columns()
        plan: _Plan | None = None
        for step, shot in enumerate(self._shots):
            if shot.insight is not None and shot.insight.plan is not None:
                plan = self._open(step, shot, shot.insight.plan)
            now = self._picture(shot)
            panels = [self._now(now, plan), Panel(self._goal, "goal")]
            panels += [draw(now, plan, step) for draw in columns]
            below = self._below(plan, graphs, step, len(panels)) if graphs else None
            title = f"{self._title}    step {step} of {self._last}"
            over = step == len(self._shots) - 1
            yield compose(panels, title, self._words, success if over else None, below), 1 + over * hold

    @property
    def _told(self) -> list[tuple[int, Insight]]:
        return [(step, shot.insight) for step, shot in enumerate(self._shots) if shot.insight is not None]

    @property
    def _last(self) -> int:
        return len(self._shots) - 1 if self._length is None else self._length

    def _picture(self, shot: _Shot) -> Frame:
        if self._scenery is not None and shot.state is not None:
            return self._scenery.view(shot.state)
        assert shot.picture is not None
        return shot.picture

    def _columns(self) -> list[Callable[[Frame, _Plan | None, int], Panel]]:
        """Drawers of the panels beside the present and the goal: the same for all frames of the film."""
        made = ((shot, shot.insight.plan) for shot in self._shots if shot.insight and shot.insight.plan)
        shot, plan = next(made, (None, None))
        if shot is None or plan is None:
            return []
        searched = len(plan.search) > 0 and self._chosen(shot, plan) is not None
        shown = {self._imagined: plan.pictures is not None, self._search: searched}
        return [draw for draw, there in shown.items() if there]

    def _open(self, step: int, shot: _Shot, plan: PlanInsight) -> _Plan:
        """The plan that is made at `step`, until the next one."""
        later = (n for n, each in enumerate(self._shots[step + 1 :], 1) if each.insight and each.insight.plan)
        steps = next(later, plan.env_actions.shape[1])
        if self._scenery is None or shot.state is None:
            return _Plan(plan, step, steps, None, None, None)
        outcome = self._scenery.outcome(shot.state, plan.env_actions)
        return _Plan(plan, step, steps, shot.state, outcome, self._chosen(shot, plan))

    def _chosen(self, shot: _Shot, plan: PlanInsight) -> NDArray[np.float64] | None:
        """Way ``(N + 1, 2)`` that a plan asks for, where that can be told."""
        if self._scenery is None or shot.state is None:
            return None
        ways = self._scenery.steered(shot.state, plan.env_actions[None])
        return None if ways is None else ways[0]

    @staticmethod
    def _now(now: Frame, plan: _Plan | None) -> Panel:
        if plan is None or plan.outcome is None or not plan.outcome.ways:
            return Panel(now, "now")
        ways, frameskip = plan.outcome.ways, plan.insight.env_actions.shape[1]
        named = [part for name, color in zip(ways, WAYS, strict=False) for part in ((name, color), (", ", FAINT))]
        note = (*named[:-1], (": simulated (privileged)", FAINT))
        return Panel(draw_ways(now, ways, frameskip), "now, and where the plan leads", note)

    @staticmethod
    def _imagined(now: Frame, plan: _Plan | None, step: int) -> Panel:
        if plan is None or plan.insight.pictures is None:
            return Panel(BLANK, "imagined end of the plan")
        blocks, frameskip = plan.insight.env_actions.shape[:2]
        ahead = max(0, plan.first + blocks * frameskip - step)
        return Panel(plan.insight.pictures[-1], "imagined end of the plan", [(f"{ahead} steps ahead", FAINT)])

    def _search(self, now: Frame, plan: _Plan | None, step: int) -> Panel:
        if plan is None or plan.chosen is None or not plan.insight.search:
            return Panel(BLANK, "search")
        assert self._scenery is not None  # where the plan's own way is known
        assert plan.state is not None
        stage = plan.stage(step)
        ways = self._scenery.steered(plan.state, plan.insight.search[stage])
        assert ways is not None
        elites = max(1, len(ways) // ELITE_SHARE)
        note = [
            (f"round {stage + 1} of {len(plan.insight.search)}: {len(ways)} tried, ", FAINT),
            (f"the best {elites}", ELITE),
        ]
        return Panel(draw_search(now, ways, plan.chosen, elites), "search", note)

    def _below(self, plan: _Plan | None, graphs: list[Graph], step: int, panels: int) -> Frame:
        """The second row: strips of what is imagined and of what would happen, and graphs."""
        width = GAP + panels * (PANEL + GAP)
        row = np.full((BELOW, width, 3), 255, np.uint8)
        left, half, height = GAP, (width - 3 * GAP) // 2, BELOW - GAP
        if plan is not None and plan.insight.pictures is not None:
            rows = {"imagined by the model, block by block": plan.insight.pictures}
            if plan.outcome is not None:
                rows["the same plan in the simulator (privileged)"] = plan.outcome.pictures
            strips = draw_strips(rows, plan.insight.env_actions.shape[1], half, height // 2)
            row[: len(strips), left : left + half] = strips
            left += half + GAP
        row[:height, left : width - GAP] = draw_graphs(graphs, step, self._last, (width - GAP - left, height))
        return row


def graphs_of(told: Sequence[tuple[int, Insight]]) -> list[Graph]:
    """Graphs of what is known over time, of insights and their environment steps."""
    series = {
        "latent distance to the goal": [(step, insight.distance) for step, insight in told],
        "surprise (1 is usual)": [(step, insight.surprise) for step, insight in told],
        "milliseconds a plan": [(step, insight.plan.ms if insight.plan else None) for step, insight in told],
    }
    known = {name: [(step, value) for step, value in points if value is not None] for name, points in series.items()}
    return [Graph(name, points) for name, points in known.items() if points]

"""Videos of one task, all models side by side, cut out of the videos of their cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw

from .canvas import GAP, GREEN, PAPER, RED, font
from .comparison import CellKey, ModelComparison, Row
from .comparison_table import row_planner
from .figures import FAINT, GRID, INK
from .scenery import Frame
from .video import panels_of, video_name, write_episode

SIDE, CAPTION = 192, 32  # px of a panel and of the text below it
COLUMNS = 3
HOLD = 10  # frames for which the last one stands still


@dataclass(frozen=True)
class TaskVideo:
    """A video of one task.

    Attributes:
        path: the file.
        label: what it shows.
    """

    path: Path
    label: str


@dataclass(frozen=True)
class Film:
    """One model's episode.

    Attributes:
        name: text below its panel.
        frames: pictures ``(T, 256, 256, 3)``.
        solved: whether the goal was reached.
    """

    name: str
    frames: Frame
    solved: bool


def write_videos(
    comparison: ModelComparison, folders: Mapping[CellKey, Path], out: Path, num_tasks: int
) -> list[TaskVideo]:
    """Writes the first tasks of each set, every model that was filmed beside the goal, by its best planner.

    Args:
        comparison: the comparison.
        folders: folder of each cell.
        out: folder of the videos.
        num_tasks: tasks of each set, from the first.
    """
    videos = []
    for env, offset in comparison.sets:
        rows = comparison.best(env, offset, comparison.limits[-1])
        for task in range(num_tasks):
            films, goal = [], None
            for row in sorted(rows, key=lambda row: comparison.models.index(row.key.model)):
                path = folders[row.cells[0].key] / "videos" / video_name(task)
                if path.exists():
                    now, goal = panels_of(iio.imread(path))
                    films.append(Film(_name(row), now, row.cells[0].solved[task]))
            if goal is not None:
                path = out / f"{env}-{offset}-{task:03d}.mp4"
                write_episode(path, list(_frames(films, goal)))
                videos.append(TaskVideo(path, f"{env}, goals {offset} steps ahead, task {task}"))
    return videos


def _name(row: Row) -> str:
    return f"{row.key.model}, {row_planner(row)}"


def _frames(films: Sequence[Film], goal: Frame) -> Iterator[Frame]:
    """Frames of all `films` and the `goal` in a grid; an episode that is over stands still."""
    length = max(len(film.frames) for film in films) + HOLD
    for step in range(length):
        panels = [
            (film.frames[min(step, len(film.frames) - 1)], film.name, film.solved, step >= len(film.frames) - 1)
            for film in films
        ]
        yield _grid([*panels, (goal, "goal", None, False)])


def _grid(panels: Sequence[tuple[Frame, str, bool | None, bool]]) -> Frame:
    """Panels ``(picture, name, solved, over)`` in rows of three; sides are multiples of 16, as ffmpeg needs."""
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    size = columns * (SIDE + GAP) + GAP, lines * (SIDE + CAPTION + GAP) + GAP
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (picture, name, solved, over) in enumerate(panels):
        left, top = GAP + place % columns * (SIDE + GAP), GAP + place // columns * (SIDE + CAPTION + GAP)
        canvas.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        color = GRID if not over else GREEN if solved else RED
        draw.rectangle((left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), outline=color, width=2)
        middle = left + SIDE / 2, top + SIDE + CAPTION / 2
        draw.text(middle, name, FAINT if solved is None else INK, font(13), anchor="mm")
    return np.asarray(canvas)

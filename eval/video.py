"""Videos of episodes: the present, the goal, what is imagined, and the cost of each plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..envs.base import GoalImageEnv, State
from ..errors import MachineError, UserError
from ..files import replacing
from .episode import Decision, Episode
from .figures import FAINT, GRID, INK
from .tasks import TaskSet

Frame = NDArray[np.uint8]
Paint = Callable[[Any], NDArray[np.uint8]]
"""Shows latents ``(N, *Z)`` as pictures ``(N, h, w, 3)``."""

PANEL, GAP, HEADER, CAPTION = 256, 16, 48, 32  # px
HEIGHT = HEADER + PANEL + CAPTION  # 336: as the width, a multiple of 16, which ffmpeg needs
FORMATS: dict[str, dict[str, Any]] = {
    ".mp4": {"codec": "libx264", "quality": 8},
    ".gif": {"loop": 0},
}
PAPER = "#ffffff"
CURVE, GREEN, RED = "#4169e1", "#1a7f37", "#cf222e"


def write_episode(path: str | Path, frames: Sequence[Frame], fps: int = 10) -> None:
    """Writes frames ``(h, w, 3)`` as ``.mp4`` or ``.gif``; for mp4, h and w must be multiples of 16."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UserError(f"{path.name} is no video that can be written: choose one of {', '.join(FORMATS)}")
    timing = {"fps": fps} if path.suffix == ".mp4" else {"duration": 1000 / fps}
    with replacing(path) as partial:
        try:
            imageio.mimwrite(partial, list(frames), **timing, **FORMATS[path.suffix])
        except (ImportError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(partial)):
                raise  # of the file, not of ffmpeg
            raise MachineError(
                f"{path} cannot be written, ffmpeg is missing or fails: pip install imageio-ffmpeg, or set "
                f"IMAGEIO_FFMPEG_EXE to an ffmpeg with libx264 ({error})"
            ) from error


def check_video(path: str | Path) -> None:
    """Writes a video of one black frame and removes it again.

    Raises:
        UserError: videos cannot be written at `path`.
    """
    write_episode(path, [np.zeros((16, 16, 3), np.uint8)])
    Path(path).unlink(missing_ok=True)  # another process may have checked the same


class Recorder:
    """Writes a video of each of the first tasks of an evaluation.

    Args:
        directory: folder of the videos, ``task-000.mp4`` and so on.
        task_set: the tasks that are evaluated.
        count: number of tasks to record, from the first.
        suffix: ``.mp4`` or ``.gif``.
        paint: shows what plans were imagined to lead to, in a panel of its own, where the policy keeps that.

    Raises:
        UserError: videos cannot be written, because of the folder or of ffmpeg.
    """

    def __init__(
        self,
        directory: str | Path,
        task_set: TaskSet,
        *,
        count: int = 4,
        suffix: str = ".mp4",
        paint: Paint | None = None,
    ) -> None:
        if suffix not in FORMATS:
            raise UserError(f"suffix={suffix!r} is unknown: choose one of {', '.join(FORMATS)}")
        self._directory = Path(directory)
        self._count = count
        self._suffix = suffix
        self._paint = paint
        self._task_set = task_set
        check_video(self._directory / f"check{suffix}")
        # Draws states larger than the policy sees them, without touching the environment that is evaluated.
        env = gym.make(task_set.env_id, disable_env_checker=True, **{**task_set.env_kwargs, "image_size": PANEL})
        self._painter = cast(GoalImageEnv, env.unwrapped)
        self._fps = int(env.metadata["render_fps"])
        self._states: dict[int, list[State]] = {}
        self._costs: dict[int, list[tuple[int, float]]] = {}
        self._imagined: dict[int, list[Frame]] = {}

    def wants(self, index: int) -> bool:
        """True if task `index` is to be recorded."""
        return index < self._count

    def record(self, index: int, info: dict[str, Any], decision: Decision | None) -> None:
        """Keeps the state after the reset or a step of task `index`, and the planning call before it."""
        states, costs = self._states.setdefault(index, []), self._costs.setdefault(index, [])
        imagined = self._imagined.setdefault(index, [])
        if decision is not None:
            costs.append((len(states) - 1, float(decision.cost)))
            if self._paint is not None and decision.imagined is not None:
                imagined.append(self._paint(decision.imagined[-1:])[0])
        states.append(info["state"])

    def finish(self, episode: Episode) -> None:
        """Draws and writes the video; its last frame, with the verdict, is held for a second."""
        states, costs = self._states.pop(episode.index), self._costs.pop(episode.index)
        imagined = self._imagined.pop(episode.index)
        goal = self._painter.view(np.array(self._task_set.tasks[episode.index].goal_state))
        frames = []
        for step, state in enumerate(states):
            title = f"task {episode.index}    step {step} / {self._task_set.budget_env_steps}"
            verdict = episode.success if step == len(states) - 1 else None
            panels = {"now": self._painter.view(state), "goal": goal}
            if imagined:
                newest = sum(at < max(step, 1) for at, _ in costs) - 1
                panels["imagined end of the plan"] = imagined[newest]
            panels["plan cost"] = draw_costs(costs, step, self._task_set.budget_env_steps)
            frames.append(compose(panels, title, verdict))
        write_episode(self.path(episode.index), frames + frames[-1:] * self._fps, self._fps)

    def path(self, index: int) -> Path:
        """Path of the video of a task."""
        return self._directory / video_name(index, self._suffix)


def compose(panels: Mapping[str, Frame], title: str, verdict: bool | None) -> Frame:
    """One video frame ``(336, 16 + 272 n, 3)`` of n panels, by their captions, each made ``(256, 256, 3)``.

    `verdict` None means that the episode goes on.
    """
    width = GAP + len(panels) * (PANEL + GAP)
    canvas = Image.new("RGB", (width, HEIGHT), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, (caption, panel) in enumerate(panels.items()):
        left = GAP + column * (PANEL + GAP)
        canvas.paste(Image.fromarray(panel).resize((PANEL, PANEL), Image.Resampling.BICUBIC), (left, HEADER))
        draw.rectangle((left - 1, HEADER - 1, left + PANEL, HEADER + PANEL), outline=GRID)
        draw.text((left + PANEL / 2, HEADER + PANEL + CAPTION / 2), caption, FAINT, font(15), anchor="mm")
    draw.text((GAP, HEADER / 2), title, INK, font(18), anchor="lm")
    if verdict is not None:
        right, middle = width - GAP, HEADER / 2
        draw.rounded_rectangle((right - 112, middle - 14, right, middle + 14), 6, GREEN if verdict else RED)
        draw.text((right - 56, middle), "SUCCESS" if verdict else "FAILED", PAPER, font(17), anchor="mm")
    return np.asarray(canvas)


def draw_costs(costs: Sequence[tuple[int, float]], step: int, budget: int) -> Frame:
    """The costs ``(step, cost)`` of the plans before `step`, on axes that fit all of them."""
    image = Image.new("RGB", (PANEL, PANEL), PAPER)
    draw = ImageDraw.Draw(image)
    if not costs:
        draw.text((PANEL / 2, PANEL / 2), "no planner", FAINT, font(15), anchor="mm")
        return np.asarray(image)
    left, top, right, bottom = 50, 16, PANEL - 16, PANEL - 32
    low, high = min(0.0, *(cost for _, cost in costs)), max(cost for _, cost in costs)
    for share in (0.0, 0.5, 1.0):
        y, value = bottom - share * (bottom - top), low + share * (high - low)
        draw.line((left, y, right, y), GRID)
        draw.text((left - 6, y), f"{value:.3g}", FAINT, font(13), anchor="rm")
        draw.text((left + share * (right - left), bottom + 14), f"{share * budget:g}", FAINT, font(13), anchor="mm")
    points = [
        (left + at / budget * (right - left), bottom - (cost - low) / ((high - low) or 1.0) * (bottom - top))
        for at, cost in costs
        if at < max(step, 1)
    ]
    draw.line(points, CURVE, 2)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), CURVE)
    return np.asarray(image)


def panels_of(film: Frame) -> tuple[Frame, Frame]:
    """Pictures ``(T, 256, 256, 3)`` of the present and ``(256, 256, 3)`` of the goal in a film ``(T, h, w, 3)``."""
    shown = film[:, HEADER : HEADER + PANEL]
    return shown[:, :, GAP : GAP + PANEL], shown[0, :, 2 * GAP + PANEL : 2 * (GAP + PANEL)]


def video_name(index: int, suffix: str = ".mp4") -> str:
    """File name of the video of a task."""
    return f"task-{index:03d}{suffix}"


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all captions."""
    return ImageFont.load_default(size)

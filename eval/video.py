"""Video files, and the recorder that writes one of each of the first tasks of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from ..envs.variation import Value
from ..errors import MachineError, UserError
from ..files import replacing
from ..insight import Insight
from ..validation import check_choice
from .canvas import GAP, HEADER, PANEL
from .episode import Episode
from .film import Film
from .gif import GifWriter
from .scenery import Frame, Scenery
from .tasks import TaskSet

Inspect = Callable[[Any], Insight]
"""What a policy's state, of one episode, tells about its last call."""

FORMATS: dict[str, Callable[[Path, int], Any]] = {
    ".mp4": lambda path, fps: imageio.get_writer(path, mode="I", fps=fps, codec="libx264", quality=8),
    ".gif": GifWriter,
}
"""What writes a file of a kind, at so many frames a second, frame by frame until it is closed."""


def write_episode(path: str | Path, frames: Iterable[Frame], fps: int = 10) -> None:
    """Writes frames ``(h, w, 3)`` as ``.mp4`` or ``.gif``; for mp4, h and w must be multiples of 16."""
    with _video(Path(path), fps) as append:
        for frame in frames:
            append(frame)


@contextmanager
def _video(path: Path, fps: int) -> Iterator[Callable[[Frame], None]]:
    """A video that is complete or not there at all; yields what appends a frame."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path.name} is no video that can be written: choose one of {', '.join(FORMATS)}")
    with replacing(path) as partial:
        with _errors(path, partial):
            writer = FORMATS[path.suffix](partial, fps)

        def append(frame: Frame) -> None:
            with _errors(path, partial):
                writer.append_data(frame)

        try:
            yield append
        finally:
            with _errors(path, partial):
                writer.close()


@contextmanager
def _errors(path: Path, partial: Path) -> Iterator[None]:
    """Errors of imageio and ffmpeg as those of this machine; errors of the file stay."""
    try:
        yield
    except (ImportError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(partial)):
            raise
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


def check_videos(folder: str | Path, suffixes: Sequence[str]) -> None:
    """Raises UserError if videos of these kinds cannot be written into `folder`, because of it or of ffmpeg."""
    if not suffixes:
        raise UserError(f"suffixes={suffixes!r} names no format: choose some of {', '.join(FORMATS)}")
    for suffix in suffixes:
        check_choice("suffix", suffix, FORMATS)
        check_video(Path(folder) / f"check{suffix}")


def write_film(film: Film, paths: Sequence[Path], success: bool | None, fps: int) -> None:
    """Writes a film, drawn once, in several formats; its last frame, with the verdict, is held for a second."""
    with ExitStack() as stack:
        videos = [stack.enter_context(_video(path, fps)) for path in paths]
        for frame, times in film.frames(success, hold=fps):
            for append in videos:
                for _ in range(times):
                    append(frame)


class Recorder:
    """Writes a video of each of the first tasks of an evaluation.

    Args:
        directory: folder of the videos, ``task-000.mp4`` and so on.
        task_set: the tasks that are evaluated.
        count: number of tasks to record, from the first.
        suffixes: ``.mp4``, ``.gif`` or both.
        inspect: what the policy's state tells, where it tells anything.
        words: name of the policy.

    Raises:
        UserError: videos cannot be written, because of the folder or of ffmpeg.
    """

    def __init__(
        self,
        directory: str | Path,
        task_set: TaskSet,
        *,
        count: int = 4,
        suffixes: Sequence[str] = (".mp4",),
        inspect: Inspect | None = None,
        words: str = "",
    ) -> None:
        check_videos(directory, suffixes)
        self._directory = Path(directory)
        self._task_set, self._count, self._suffixes = task_set, count, suffixes
        self._inspect, self._words = inspect, words
        self._scenery = Scenery(task_set.env_id, task_set.env_kwargs, PANEL)
        self._films: dict[int, tuple[Film, Mapping[str, Value]]] = {}

    def wants(self, index: int) -> bool:
        """True if task `index` is to be recorded."""
        return index < self._count

    def begin(self, index: int, variation: Mapping[str, Value]) -> None:
        """Begins the film of task `index`, in a world whose factors have the values of `variation`."""
        self._scenery.vary(variation)
        goal = self._scenery.view(np.array(self._task_set.tasks[index].goal_state))
        film = Film(goal, f"task {index}", self._words, self._scenery, self._task_set.budget_env_steps)
        self._films[index] = film, variation

    def record(self, index: int, info: dict[str, Any]) -> None:
        """Keeps the state after the reset or a step of task `index`."""
        self._films[index][0].look(state=info["state"])

    def explain(self, index: int, policy_state: Any) -> None:
        """Keeps what the policy's state, of this episode alone, tells about its call after the newest step."""
        if self._inspect is not None:
            self._films[index][0].explain(self._inspect(policy_state))

    def finish(self, episode: Episode) -> None:
        """Draws and writes the video."""
        film, variation = self._films.pop(episode.index)
        self._scenery.vary(variation)  # films of other worlds were begun or written since
        write_film(
            film, [self.path(episode.index, suffix) for suffix in self._suffixes], episode.success, self._scenery.fps
        )

    def path(self, index: int, suffix: str | None = None) -> Path:
        """Path of the video of a task, of the first kind if none is named."""
        return self._directory / video_name(index, suffix or self._suffixes[0])


def panels_of(film: Frame) -> tuple[Frame, Frame]:
    """Pictures ``(T, 256, 256, 3)`` of the present and ``(256, 256, 3)`` of the goal in a film ``(T, h, w, 3)``."""
    shown = film[:, HEADER : HEADER + PANEL]
    return shown[:, :, GAP : GAP + PANEL], shown[0, :, 2 * GAP + PANEL : 2 * (GAP + PANEL)]


def video_name(index: int, suffix: str = ".mp4") -> str:
    """File name of the video of a task."""
    return f"task-{index:03d}{suffix}"

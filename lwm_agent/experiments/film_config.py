"""Settings of films. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..agent.config import DEFAULT_PLANNER, AgentConfig
from ..envs import name_of
from ..errors import UserError
from ..planners.registry import PLANNERS
from ..validation import Choices, Count, Option, OutputFolder, Range
from .config import MODEL_FREE, PROTOCOL_NAMES, USUAL_OFFSET, output_folder, usual_offset, with_offset

DEMO_TASKS = {"pusht": 82, "cube": 97}
"""A task of each environment, at offset 25, whose object moves far: all planners of the results solve them."""


@dataclass(frozen=True, kw_only=True)
class FilmConfig(AgentConfig):
    """Tasks to play and film.

    Attributes:
        protocol: rules by which the tasks were chosen.
        offset: environment steps from start to goal; there are tasks for 25, 50, 75 and 100, drawn ones for 100.
        tasks: task file to use instead, of the same protocol.
    """

    planner: Annotated[
        str,
        Choices((*PLANNERS, *MODEL_FREE), "two in a row (cem+gradient), or MODULE:CLASS of your own"),
        DEFAULT_PLANNER,
    ]
    protocol: Annotated[str, Choices(PROTOCOL_NAMES)] = "strict"
    offset: Annotated[Count, USUAL_OFFSET] = 25
    tasks: Path | None = None

    @property
    def choice_of_tasks(self) -> str:
        """Options that choose the same tasks in another command, each after a space; none for those of the default."""
        own = {
            "protocol": self.protocol != FilmConfig.protocol,
            "offset": self.offset != usual_offset(self.protocol),
            "tasks": self.tasks is not None,
        }
        return "".join(f" --{name} {getattr(self, name)}" for name, named in own.items() if named)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(FilmConfig):
    """A task to play and film.

    Attributes:
        task: number of the task; by default one of the package's at offset 25 whose object moves far, else 0.
        output_dir: folder of the film.
    """

    task: Annotated[int, Range(least=0)] | None = None
    output_dir: Annotated[OutputFolder, Option(default="out/demo-ENV")]

    @classmethod
    def from_options(cls, **options: Any) -> DemoConfig:
        """Settings with the default planner and output folder, where none is named."""
        options = cls.with_defaults(with_offset(options))
        return cls(**{"output_dir": output_folder("demo", options["env"]), **options})

    def task_of(self, num_tasks: int) -> int:
        """Number of the task, of so many.

        Raises:
            UserError: there is no such task.
        """
        usual = self.tasks is None and self.offset == 25 and self.protocol == "strict"
        index = (DEMO_TASKS.get(name_of(self.env), 0) if usual else 0) if self.task is None else self.task
        if index >= num_tasks:
            raise UserError(f"--task {index}: the {num_tasks} tasks are 0 to {num_tasks - 1}")
        return index


@dataclass(frozen=True, kw_only=True)
class RecordConfig(FilmConfig):
    """Tasks to play and film, as mp4 and as GIF.

    Attributes:
        episodes: number of tasks.
        first: number of the first of them.
        out: folder of the films and of films.json, which says what they show.
    """

    episodes: Count = 4
    first: Annotated[int, Range(least=0)] = 0
    out: Annotated[OutputFolder, Option(default="out/record-ENV-PLANNER")]

    @classmethod
    def from_options(cls, **options: Any) -> RecordConfig:
        """Settings with the default planner and output folder, where none is named."""
        options = cls.with_defaults(with_offset(options))
        return cls(**{"out": output_folder("record", options["env"], options["planner"]), **options})

    def tasks_of(self, num_tasks: int) -> range:
        """Numbers of the tasks, of so many.

        Raises:
            UserError: there are not enough.
        """
        end = self.first + self.episodes
        if end > num_tasks:
            raise UserError(f"--first {self.first} --episodes {self.episodes}: the tasks are 0 to {num_tasks - 1}")
        return range(self.first, end)

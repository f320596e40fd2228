"""Settings of a diagnosis. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ...agent.config import AgentConfig
from ...errors import UserError
from ...validation import Count, Option, OutputFolder, Range
from ..config import EvalConfig, output_folder


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(AgentConfig):
    """Diagnosis of a checkpoint.

    Attributes:
        data: data of its environment, with the actions: tests are on episodes that no training has seen.
        clips: clips of these, as long as a plan, that are tested.
        episodes: tasks to play in each trial, from the first; 0 for no trials, where there is no simulator.
        offset: environment steps from start to goal, in the tasks of the package.
        tasks: task file to use instead.
        out: folder of the results and figures.
    """

    data: tuple[Path, ...]
    clips: Annotated[int, Range(least=2)] = 256
    episodes: Annotated[int, Range(least=0)] = 20
    offset: Count = 25
    tasks: Path | None = None
    out: Annotated[OutputFolder, Option(default="out/diagnosis-ENV")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UserError("data=() names no file: the tests need recorded episodes (--data)")

    @classmethod
    def from_options(cls, **options: Any) -> DiagnoseConfig:
        """Settings with the default planner and output folder, where none is named."""
        options = cls.with_defaults(options)
        return cls(**{"out": output_folder("diagnosis", options["env"]), **options})

    @property
    def evaluation(self) -> EvalConfig:
        """The evaluation whose agent is diagnosed, on validation tasks."""
        return EvalConfig.of(
            self,
            split="val",
            offset=self.offset,
            tasks=self.tasks,
            episodes=self.episodes or None,
            output_dir=self.out,
        )

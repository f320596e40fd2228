"""Settings of `lwm-agent robustness`. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..agent.config import AgentConfig
from ..envs.shifts import GENERAL, OWN_SHIFTS, Shift, parse_shift, shifts_of
from ..envs.variation import Strength
from ..validation import Choices, Count, Option, OutputFolder
from .config import ENGINES, PROTOCOL_NAMES, USUAL_OFFSET, check_engine, output_folder, with_offset


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(AgentConfig):
    """Evaluations of an agent where something differs from its training.

    Attributes:
        shift: names of what differs, each in several strengths, or NAME=STRENGTH of one; by default all there are.
        protocol: rules by which the tasks were chosen.
        split: split of the tasks: test, or val for tuning.
        offset: environment steps from start to goal; there are tasks for 25, 50, 75 and 100, drawn ones for 100.
        tasks: task file to use instead, of the same protocol.
        episodes: number of tasks, from the first.
        batch_size: episodes in lock-step.
        output_dir: folder of the evaluations, results.json, table.md and figures, and of what is needed to resume.
        overwrite: replace the results of another study in the folder.
        engine: processes of this machine (local), or a Ray cluster (ray, needs the extra of that name).
        jobs: evaluations at a time; with a budget in milliseconds, one, so that none takes time from another.
        address: address of a Ray cluster; by default a new one on this machine.
    """

    shift: Annotated[tuple[str, ...], Choices(GENERAL, OWN_SHIFTS)] = ()
    protocol: Annotated[str, Choices(PROTOCOL_NAMES)] = "strict"
    split: str = "test"
    offset: Annotated[Count, USUAL_OFFSET] = 25
    tasks: Path | None = None
    episodes: Count = 100
    batch_size: Count = 50
    output_dir: Annotated[OutputFolder, Option(default="out/robustness-ENV-PLANNER-OFFSET")]
    overwrite: bool = False
    engine: Annotated[str, Choices(ENGINES)] = "local"
    jobs: Annotated[Count | None, Option(default="one a core, at most 8; with --budget-ms or a GPU, 1")] = None
    address: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.address)
        self.shifts()  # refuses what the environment does not have

    @classmethod
    def from_options(cls, **options: Any) -> RobustnessConfig:
        """Settings with the default planner and output folder, where none is named."""
        options = cls.with_defaults(with_offset(options))
        words = ("robustness", options["env"], options["planner"], str(options["offset"]))
        return cls(**{"output_dir": output_folder(*words), **options})

    def shifts(self) -> list[tuple[str, Shift, Strength]]:
        """Name, shift and strength of each evaluation."""
        known = shifts_of(self.env)
        chosen = []
        for text in self.shift or known:
            if text in known:
                chosen += [(text, known[text], strength) for strength in known[text].strengths]
            else:
                chosen.append(parse_shift(text, self.env))
        return list(dict.fromkeys(chosen))

"""Settings of the comparison over models. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..agent.config import OWN_ENV
from ..envs import find_env
from ..errors import UserError
from ..planners.registry import PLANNERS
from ..validation import Choices, Config, Count, Option, OutputFolder, Range, Seed
from .config import ENGINES, PROTOCOL_NAMES, USUAL_OFFSET, check_engine, usual_offset


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """A comparison of models, or of two evaluations.

    Attributes:
        results: two results.json of the same tasks, to compare task by task; the options are for models.
        env: environments.
        model: NAME (the package's ENV-NAME; lewm is ENV-tiny) or NAME=FOLDER; NAME-actor acts by its own policy.
        planner: planners, each of which plans with every model that can imagine.
        offset: environment steps from start to goal, in the tasks of the package.
        tasks: task files to use instead of the package's tasks.
        budget_flops: floating-point operations that a plan may use; several are several columns.
        budget_ms: milliseconds that a plan may use, of one episode alone.
        unlimited: compare without a budget too; so it is by default where no budget is named.
        split: split of the tasks: test, or val for tuning.
        protocol: rules by which the tasks were chosen.
        episodes: number of tasks, from the first; by default all.
        batch_size: episodes in lock-step; with a budget in milliseconds, one.
        seed: source of every random choice.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
        out: folder of the cells, tables, figures and report, and of what is needed to resume.
        video: tasks to film, side by side.
        overwrite: replace the results of another comparison in the folder.
        engine: processes of this machine (local), or a Ray cluster (ray, needs the extra of that name).
        jobs: cells at a time; with a budget in milliseconds, one, so that none takes time from another.
        address: address of a Ray cluster; by default a new one on this machine.
        planner_settings: arguments of one planner, such as cem.num_samples.
        agent_settings: arguments of the agent.
    """

    results: Annotated[tuple[Path, ...], Option(positional=True)] = ()
    env: Annotated[tuple[str, ...], OWN_ENV] = ("pusht",)
    model: tuple[str, ...] = ()
    planner: Annotated[
        tuple[str, ...], Choices(PLANNERS, "two in a row (cem+gradient), or MODULE:CLASS of your own")
    ] = ("cem",)
    offset: Annotated[tuple[int, ...], Range(least=1), USUAL_OFFSET] = (25,)
    tasks: tuple[Path, ...] = ()
    budget_flops: Annotated[tuple[float, ...], Range(above=0)] = ()
    budget_ms: Annotated[tuple[float, ...], Range(above=0)] = ()
    unlimited: bool = False
    split: str = "test"
    protocol: Annotated[str, Choices(PROTOCOL_NAMES)] = "strict"
    episodes: Count | None = None
    batch_size: Count = 50
    seed: Seed = 0
    device: str = "auto"
    out: OutputFolder = Path("out/compare")
    video: Annotated[int, Range(least=0, most=10)] = 3
    overwrite: bool = False
    engine: Annotated[str, Choices(ENGINES)] = "local"
    jobs: Annotated[Count | None, Option(default="one a core, at most 8; with --budget-ms or a GPU, 1")] = None
    address: str | None = None
    planner_settings: Annotated[Mapping[str, Any], Option(group="planner")] = field(default_factory=dict)
    agent_settings: Annotated[Mapping[str, Any], Option(group="agent")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for env in self.env:
            find_env(env)
        if self.results and self.model:
            raise UserError("name either two results.json or models (--model), not both")
        if not self.model and len(self.results) != 2:
            raise UserError(
                f"{len(self.results)} results are named: name two results.json of the same tasks, or models (--model)"
            )
        check_engine(self.engine, self.address)
        for name in self.planner_settings:
            planner, dot, _ = name.partition(".")
            if not dot or planner not in self.planner:
                names = " or ".join(f"planner.{planner}.NAME" for planner in self.planner)
                raise UserError(f"--set planner.{name} names no planner of this comparison: write {names}")

    @classmethod
    def from_options(cls, **options: Any) -> CompareConfig:
        """Settings with the offset of the package's tasks of the protocol, where none is named."""
        return cls(**{"offset": (usual_offset(options.get("protocol")),), **options})

    def settings_of(self, planner: str) -> dict[str, Any]:
        """Arguments of one planner."""
        prefix = f"{planner}."
        named = {name: value for name, value in self.planner_settings.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): value for name, value in named.items()}

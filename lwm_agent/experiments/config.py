"""Settings of evaluations, benchmarks and reports. Importing this module does not import torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ..agent.config import DEFAULT_PLANNER, OWN_ENV, AgentConfig
from ..envs import find_env, name_of
from ..envs.shifts import GENERAL, OWN_SHIFTS, parse_shift
from ..errors import UserError
from ..planners.registry import PLANNERS, find_planner
from ..validation import Choices, Config, Count, Option, OutputFile, OutputFolder, Range, Seed

EvalConfigType = TypeVar("EvalConfigType", bound="EvalConfig")

MODEL_FREE = ("random", "none", "replay")
"""Policies without a model: two floors and the ceiling."""

PROTOCOL_NAMES = ("strict", "drawn", "drawn-wall", "drawn-turned", "drawn-edge", "lewm-paper")
"""Names of `lwm_agent.eval.PROTOCOLS`, for help texts."""

ENGINES = ("local", "ray")
"""Ways to run jobs that do not depend on each other: processes of this machine, or a Ray cluster."""

USUAL_OFFSET = Option(default="25; of drawn goals, 100")

MIN_DECISIONS = 3
MAX_BATCH = 2**16

PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "agent": {"cost": "terminal", "proposal": "none", "horizon": 5, "deadline_env_steps": None},
    "cem": {"num_samples": 300, "num_elites": 30, "iterations": 30, "noise_correlation": 0.0, "keep_best": False},
}
"""Plans of the LeWorldModel paper (arXiv 2603.19312, appendix D): whole plans, CEM with independent noise."""


def protocol_settings(protocol: str, part: str) -> Mapping[str, Any]:
    """Arguments that a protocol prescribes for the agent, or for the planner called `part`."""
    return PAPER_SETTINGS.get(part, {}) if protocol == "lewm-paper" else {}


def usual_offset(protocol: str | None) -> int:
    """Offset of the package's tasks of a protocol that is taken where none is named."""
    return 100 if protocol is not None and protocol.startswith("drawn") else 25


def with_offset(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` and, where they name no offset, the usual one of their protocol."""
    return {"offset": usual_offset(options.get("protocol")), **options}


def check_engine(engine: str, address: str | None) -> None:
    """Refuses the address of a cluster beside another engine."""
    if address is not None and engine != "ray":
        raise UserError(f"--address is for --engine ray, not for {engine}: leave it out")


def output_folder(*words: str) -> Path:
    """Folder below ``out/`` that is called by `words`, of which some may be ids of environments."""
    return Path("out") / "-".join(name_of(word).replace("/", "-") for word in words)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(AgentConfig):
    """Evaluation of a planner; the seed decides about the floors too.

    Attributes:
        protocol: strict; drawn: goals that no play has reached, also with the block at a wall or turned by half a turn
            (pusht) or the cube at the edge of the gripper's reach; or lewm-paper: 50 unfiltered tasks, and agent and
            CEM as in the paper.
        split: split of the tasks: test, or val for tuning.
        offset: environment steps from start to goal; there are tasks for 25, 50, 75 and 100, drawn ones for 100.
        tasks: task file to use instead, of the same protocol.
        episodes: number of tasks, from the first; by default all.
        batch_size: episodes in lock-step.
        workers: processes that share the episodes; of several GPUs, each has one.
        output_dir: folder of the results and videos, and of what is needed to resume.
        video: number of episodes to film, from the first.
        shift: NAME=STRENGTH of what differs from the training, such as blur=1; the floors have it too. Films show the
            world with its shifts of colours, sizes and shapes, and not those of its pictures.
        with_floors: run the policies random and none on the same tasks too.
        overwrite: replace the results of another evaluation in the folder.
        env_settings: conventions of the environment; a checkpoint allows none but its own.
    """

    planner: Annotated[
        str,
        Choices((*PLANNERS, *MODEL_FREE), "two in a row (cem+gradient), or MODULE:CLASS of your own"),
        DEFAULT_PLANNER,
    ]
    protocol: str = "strict"
    split: str = "test"
    offset: Annotated[Count, USUAL_OFFSET] = 25
    tasks: Path | None = None
    episodes: Count | None = None
    batch_size: Count = 50
    workers: Annotated[int, Range(least=1, most=512)] = 1
    output_dir: Annotated[OutputFolder, Option(default="out/ENV-PLANNER-PROTOCOL-SPLIT-OFFSET")]
    video: Annotated[int, Range(least=0, most=10_000)] = 0
    shift: Annotated[tuple[str, ...], Choices(GENERAL, OWN_SHIFTS)] = ()
    with_floors: Annotated[bool, Option(flag="--floors/--no-floors")] = True
    overwrite: bool = False
    env_settings: Annotated[Mapping[str, Any], Option(group="env")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in () if self.planner in MODEL_FREE else self.planner.split("+"):
            find_planner(name)
        if self.planner in MODEL_FREE and (self.planner_settings or self.agent_settings or self.limited):
            raise UserError(f"planner={self.planner!r} plans nothing: it has no settings and no budget")
        for text in self.shift:
            parse_shift(text, self.env)
        conventions = find_env(self.env).conventions
        unknown = sorted(self.env_settings.keys() - conventions.keys())
        if unknown:
            names = ", ".join(conventions)
            raise UserError(f"--set env.{unknown[0]} cannot be chosen in an evaluation: choose from {names}")

    @classmethod
    def of(cls, agent: AgentConfig, **settings: Any) -> EvalConfig:
        """Settings of an evaluation of the `agent` that another command has chosen."""
        return EvalConfig(**{item.name: getattr(agent, item.name) for item in fields(AgentConfig)}, **settings)

    @classmethod
    def from_options(cls: type[EvalConfigType], **options: Any) -> EvalConfigType:
        """Settings with the default planner and output folder, where none is named."""
        options = with_offset(options)
        values = {**cls.defaults(), **options}
        options = cls.with_defaults(options, protocol_settings(values["protocol"], "agent"))
        tasks = "{protocol}-{split}-{offset}".format_map(values) if values["tasks"] is None else values["tasks"].stem
        return cls(
            **{"output_dir": output_folder(options["env"], options["planner"], tasks, *values["shift"]), **options}
        )


@dataclass(frozen=True, kw_only=True)
class RecommendConfig(EvalConfig):
    """Choice of the planning cost that a checkpoint recommends; the options of `eval` say how several are tried.

    With ``--set agent.replan_every_env_steps=N``, the checkpoint recommends that too.

    Attributes:
        checkpoint: folder or name of the checkpoint.
        cost: planning cost, as in ``--set agent.cost=COST``; of several, the one that solves most tasks is stored. By
            default, that of the checkpoint stays.
        out: folder of the new checkpoint; by default the checkpoint itself is changed.
        split: split of the tasks: val, because what was chosen on other tasks is not measured on them any more.
        output_dir: folder of the evaluations, and of what is needed to resume.
    """

    checkpoint: str
    cost: tuple[str, ...] = ()
    out: Annotated[str, Option(path="folder")] | None = None
    split: str = "val"
    output_dir: Annotated[OutputFolder, Option(default="out/recommend-ENV-PLANNER-PROTOCOL-SPLIT-OFFSET")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.cost)) < len(self.cost):
            raise UserError(f"cost={self.cost!r} must be one cost, or several different ones")
        if not self.cost and "replan_every_env_steps" not in self.agent_settings:
            raise UserError(
                "nothing to recommend is named: name costs (--cost best-step), or how often to plan "
                "(--set agent.replan_every_env_steps=1)"
            )
        if "cost" in self.agent_settings:
            raise UserError("--set agent.cost has no effect beside --cost: leave it out")

    @classmethod
    def from_options(cls, **options: Any) -> RecommendConfig:
        """Settings with the default planner and output folder, where none is named."""
        config = super().from_options(**options)
        if "output_dir" in options:
            return config
        return replace(config, output_dir=config.output_dir.with_name(f"recommend-{config.output_dir.name}"))


@dataclass(frozen=True, kw_only=True)
class BenchConfig(AgentConfig):
    """Timing of a planner's decisions; the seed decides about the pictures too.

    Attributes:
        max_batch: largest batch; batch sizes are the powers of two from 1 to it.
        decisions: decisions to time for each batch size.
        seconds: wall time after which a batch size needs no more decisions, but at least 3.
        output_dir: folder of bench.json, bench.png and bench.svg.
        plot: draw bench.png and bench.svg.
    """

    max_batch: Annotated[int, Range(least=1, most=MAX_BATCH)] = 256
    decisions: Annotated[int, Range(least=MIN_DECISIONS)] = 200
    seconds: Annotated[float, Range(least=0)] = 20.0
    output_dir: Annotated[OutputFolder, Option(default="out/bench-ENV-PLANNER")]
    plot: Annotated[bool, Option(flag="--plot/--no-plot", default="yes, if matplotlib is installed")] = True

    @classmethod
    def from_options(cls, **options: Any) -> BenchConfig:
        """Settings with the default planner, plot and output folder, where none is named."""
        options = {"plot": find_spec("matplotlib") is not None, **cls.with_defaults(options)}
        return cls(**{"output_dir": output_folder("bench", options["env"], options["planner"]), **options})

    @property
    def batch_sizes(self) -> list[int]:
        """Episodes planned at once, from one to the most."""
        return [2**power for power in range(self.max_batch.bit_length())]


@dataclass(frozen=True, kw_only=True)
class TasksConfig(Config):
    """Evaluation tasks to make.

    Attributes:
        out: JSON file to write; a task file that is there is replaced.
        env: environment.
        offset: environment steps from start to goal.
        episodes: number of tasks.
        seed: source of every random choice.
        protocol: rules by which tasks are chosen.
        split: name of the tasks' split.
        overwrite: replace a file of another kind.
    """

    out: OutputFile
    env: Annotated[str, OWN_ENV] = "pusht"
    offset: Annotated[int, Range(least=1, most=10_000)] = 25
    episodes: Count = 200
    seed: Seed = 0
    protocol: Annotated[str, Choices(PROTOCOL_NAMES)] = "strict"
    split: str = "custom"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Evaluations to report.

    Attributes:
        results: results.json files, a row of the table each.
        plot: draw success against compute into this PNG, with an SVG beside it, or into this PDF or SVG.
        bars: draw success rates beside each other, into the same kinds of files.
        into: Markdown file to put the table in, instead of printing it.
        mark: name of the two marks in that file; the table goes between <!-- MARK --> and <!-- /MARK -->.
        compact: a row for each planner and a column for each set of tasks, or the other way round.
    """

    results: Annotated[tuple[Path, ...], Option(positional=True)]
    plot: OutputFile | None = None
    bars: OutputFile | None = None
    into: Path | None = None
    mark: str = "results"
    compact: bool = False


@dataclass(frozen=True, kw_only=True)
class PushConfig(Config):
    """Checkpoint to upload.

    Attributes:
        checkpoint: folder or name of the checkpoint.
        repository: id of the repository on the Hugging Face hub, OWNER/NAME; it is made if it is not there.
        results: results.json files of evaluations of this checkpoint, for the card.
        film: GIF or mp4 for the card.
        message: message of the commit.
        private: make the repository private.
    """

    checkpoint: Annotated[str, Option(positional=True)]
    repository: Annotated[str, Option(positional=True)]
    results: tuple[Path, ...] = ()
    film: Path | None = None
    message: str | None = None
    private: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_repository(self.repository)
        if self.film is not None and (self.film.suffix not in (".gif", ".mp4") or not self.film.is_file()):
            raise UserError(f"--film {self.film} is no GIF or mp4 file")


@dataclass(frozen=True, kw_only=True)
class PullConfig(Config):
    """Checkpoint to download.

    Attributes:
        repository: id of the repository on the Hugging Face hub, OWNER/NAME.
        out: folder of the checkpoint.
        revision: branch, tag or commit; by default the newest.
    """

    repository: Annotated[str, Option(positional=True)]
    out: Annotated[str, Option(path="folder")]
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_repository(self.repository)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Checkpoint to export to ONNX.

    Attributes:
        checkpoint: folder or name of a LeWorldModel checkpoint.
        out: folder of the graphs and of agent.json.
    """

    checkpoint: Annotated[str, Option(positional=True)]
    out: Annotated[str, Option(path="folder")]


def _check_repository(repository: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise UserError(f"repository={repository!r} is no id of the Hugging Face hub: write OWNER/NAME")

"""Choice of an agent by `eval`, `bench` and `collect`, and its loading. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from ..envs import ENVS, find_env, import_env, name_of, spec_of
from ..errors import UserError
from ..planners.registry import PLANNERS
from ..validation import Choices, Config, Option, PositiveFloat, PositiveInt, Seed, check_setting

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..planners import Budget
    from .agent import Agent

AgentConfigType = TypeVar("AgentConfigType", bound="AgentConfig")

DEFAULT_PLANNER = Option(default="guided; without a trained actor, cem; for discrete actions, categorical-cem")

BEST = {"pusht": "pusht-pixels"}
"""The package's checkpoint that is used by default, by environment, where it is not called ENV-tiny."""

OWN_ENV = Choices(ENVS, "MODULE:NAME of your own")

OWN_OPTIONS = ("checkpoint", "planner", "seed", "device", "budget", "keep_imagined", "keep_surprise", "return")
"""Annotations of `Agent` that are no settings: `AgentConfig` has them under their own names."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig(Config):
    """Choice of an agent.

    Attributes:
        env: environment.
        planner: planner.
        checkpoint: folder or name of a checkpoint; by default the one of the environment in this package.
        seed: source of every random choice.
        device: auto, cpu, cuda or mps; of several, one by its number (cuda:1).
        budget_rollouts: most candidate rollouts of a plan; without a budget, a planner does its own iterations.
        budget_iterations: most iterations of a plan.
        budget_flops: most floating-point operations of a plan.
        budget_ms: most milliseconds of a planning call, for all episodes of the batch.
        planner_settings: arguments of the planner.
        agent_settings: arguments of the agent.
    """

    env: Annotated[str, OWN_ENV, Option(default="that of the checkpoint, else pusht")] = "pusht"
    planner: Annotated[
        str, Choices(PLANNERS, "two in a row (cem+gradient), or MODULE:CLASS of your own"), DEFAULT_PLANNER
    ]
    checkpoint: str | None = None
    seed: Seed = 0
    device: str = "auto"
    budget_rollouts: PositiveInt | None = None
    budget_iterations: PositiveInt | None = None
    budget_flops: PositiveFloat | None = None
    budget_ms: PositiveFloat | None = None
    planner_settings: Annotated[Mapping[str, Any], Option(group="planner")] = field(default_factory=dict)
    agent_settings: Annotated[Mapping[str, Any], Option(group="agent")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from .agent import Agent

        super().__post_init__()
        find_env(self.env)
        kinds = get_type_hints(Agent.__init__, include_extras=True)
        settings = {name: kind for name, kind in kinds.items() if name not in OWN_OPTIONS}
        for name, value in self.agent_settings.items():
            if name not in settings:
                raise UserError(f"--set agent.{name} is unknown: choose one of {', '.join(sorted(settings))}")
            check_setting(f"--set agent.{name}", value, settings[name])
        for name in self.planner_settings if self.limited else ():
            if counts_iterations(name):
                raise UserError(
                    f"--set planner.{name} has no effect beside a budget, which takes its place: leave it out, or pass "
                    "--budget-iterations too"
                )

    @classmethod
    def from_options(cls: type[AgentConfigType], **options: Any) -> AgentConfigType:
        """Settings with the environment and the default planner of the checkpoint, where none is named."""
        return super().from_options(**cls.with_defaults(options))

    @classmethod
    def with_defaults(cls, options: Mapping[str, Any], implied: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The options and, where they name none, the environment and the default planner of the checkpoint.

        `implied` are arguments of the agent that other options imply.
        """
        named, checkpoint = dict(options), options.get("checkpoint")
        if "env" not in named:
            named["env"] = cls.env if checkpoint is None else trained_env(checkpoint)
        import_env(named["env"])
        if "planner" not in named:
            settings = {**(implied or {}), **options.get("agent_settings", {})}
            named["planner"] = planner_for(named["env"], checkpoint, settings)
        return named

    @property
    def checkpoint_name(self) -> str:
        """Folder or name of the checkpoint."""
        return checkpoint_of(self.env, self.checkpoint)

    @property
    def limited(self) -> bool:
        """True if there is a budget."""
        budgets = (self.budget_rollouts, self.budget_iterations, self.budget_flops, self.budget_ms)
        return any(budget is not None for budget in budgets)

    @property
    def budget(self) -> Budget:
        """Limits of one plan."""
        from ..planners import Budget

        return Budget(
            rollouts=self.budget_rollouts,
            iterations=self.budget_iterations,
            flops=self.budget_flops,
            seconds=None if self.budget_ms is None else self.budget_ms / 1000,
        )


def counts_iterations(setting: str) -> bool:
    """True if a planner's `setting` is the number of its iterations, whose place a budget takes."""
    *parts, last = setting.split(".")
    return last == "iterations" and "first" not in parts


def checkpoint_of(env: str, checkpoint: str | None) -> str:
    """Folder or name of the checkpoint to use: the package's own of the environment, unless another is named."""
    find_env(env)
    if checkpoint == "":
        raise UserError(f"checkpoint='' must not be empty: leave it out for {default_checkpoint(env)}")
    return default_checkpoint(env) if checkpoint is None else checkpoint


def default_checkpoint(env: str) -> str:
    """Name of the package's checkpoint of an environment that is used where none is named."""
    name = name_of(env)
    return BEST.get(name, f"{name}-tiny")


def trained_env(checkpoint: str) -> str:
    """Name of the environment that a checkpoint was trained for.

    Raises:
        UserError: there is no checkpoint, or no such environment is registered.
    """
    from ..checkpoint import find_checkpoint
    from ..checkpoint_config import read_config

    env: str = read_config(find_checkpoint(checkpoint))["env"]
    if spec_of(env) is None:
        raise UserError(
            f"checkpoint {checkpoint!r} was trained for {env}, which is not registered: pass --env MODULE:{env} if a "
            "module of yours registers it, or load it with Agent.load and run it in a loop of your own"
        )
    return name_of(env)


def planner_for(env: str, checkpoint: str | None, agent_settings: Mapping[str, Any]) -> str:
    """Name of the planner that is used where nobody asks for one."""
    from ..checkpoint import Checkpoint
    from .agent import default_planner

    return default_planner(Checkpoint.load(checkpoint_of(env, checkpoint)), agent_settings.get("proposal", "auto"))


def load_agent(config: AgentConfig, checkpoint: Checkpoint | None = None, keep_thoughts: bool = False) -> Agent:
    """The agent that `config` asks for; `checkpoint` is its checkpoint, if the caller has loaded it already.

    With `keep_thoughts`, it keeps all that `Agent.insight` can show: what it imagines, tries, and is surprised by.
    """
    from ..checkpoint import Checkpoint
    from ..compatibility import different_env
    from ..planners import make_planner
    from .agent import Agent

    name, planner = config.checkpoint_name, make_planner(config.planner, **config.planner_settings)
    checkpoint = Checkpoint.load(name) if checkpoint is None else checkpoint
    agent = Agent(
        checkpoint,
        planner,
        seed=config.seed,
        device=config.device,
        budget=config.budget,
        keep_imagined=keep_thoughts,
        keep_surprise=keep_thoughts,
        **config.agent_settings,
    )
    trained = checkpoint.env
    if different_env(trained, find_env(config.env).env_id) is not None:
        advice = (
            f"pass --env {trained}" if trained in ENVS else "load it with Agent.load and run it in a loop of your own"
        )
        raise UserError(f"checkpoint {name!r} was trained for {trained}, not for {config.env}: {advice}")
    return agent

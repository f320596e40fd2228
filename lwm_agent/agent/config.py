"""Choice of an agent by `eval`, `bench` and `collect`, and its loading. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_type_hints

from ..envs import ENVS
from ..errors import UserError

if TYPE_CHECKING:
    from ..planners import Budget
    from .agent import Agent

OWN_OPTIONS = ("checkpoint", "planner", "seed", "device", "budget", "return")
"""Annotations of `Agent` that are no settings: `AgentConfig` has them under their own names."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Which agent to use.

    Attributes:
        env: name in `ENVS`.
        planner: name in `PLANNERS`, or two of them joined by a plus.
        checkpoint: folder or name; None takes the one of the environment that ships with the package.
        seed: of the planner.
        device: "auto", "cpu", "cuda" or "mps".
        budget_rollouts: candidate rollouts that one plan may spend; without any budget, a planner does its own number
            of iterations.
        budget_iterations: iterations that one plan may spend.
        budget_flops: floating-point operations that one plan may spend.
        budget_ms: milliseconds that one planning call, of a batch, may take.
        planner_settings: arguments of the planner.
        agent_settings: arguments of `Agent`.
    """

    env: str = "pusht"
    planner: str
    checkpoint: str | None = None
    seed: int = 0
    device: str = "auto"
    budget_rollouts: int | None = None
    budget_iterations: int | None = None
    budget_flops: float | None = None
    budget_ms: float | None = None
    planner_settings: Mapping[str, Any] = field(default_factory=dict)
    agent_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ..planners.checks import check_type
        from .agent import Agent

        checkpoint_of(self.env, self.checkpoint)
        settings = {name: kind for name, kind in get_type_hints(Agent.__init__).items() if name not in OWN_OPTIONS}
        for name, value in self.agent_settings.items():
            if name not in settings:
                raise UserError(f"--set agent.{name} is unknown: choose one of {', '.join(sorted(settings))}")
            check_type("--set agent", name, value, settings[name])
        for name in self.planner_settings if self.limited else ():
            *parts, last = name.split(".")
            if last == "iterations" and "first" not in parts:
                raise UserError(
                    f"--set planner.{name} has no effect beside a budget, which takes its place: leave it out, or pass "
                    "--budget-iterations too"
                )

    @property
    def checkpoint_name(self) -> str:
        """Folder or name of the checkpoint."""
        return checkpoint_of(self.env, self.checkpoint)

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
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


def checkpoint_of(env: str, checkpoint: str | None) -> str:
    """Folder or name of the checkpoint to use: the package's own of the environment, unless another is given."""
    if env not in ENVS:
        raise UserError(f"--env {env!r} is unknown: choose one of {', '.join(ENVS)}")
    return checkpoint or f"{env}-tiny"


def planner_for(env: str, checkpoint: str | None, agent_settings: Mapping[str, Any]) -> str:
    """Name of the planner that is used where nobody asks for one."""
    from ..checkpoint import Checkpoint
    from .agent import default_planner

    return default_planner(Checkpoint.load(checkpoint_of(env, checkpoint)), agent_settings.get("proposal", "auto"))


def load_agent(config: AgentConfig) -> Agent:
    """The agent that `config` asks for."""
    from ..compatibility import other_env
    from ..planners import make_planner
    from .agent import Agent

    name, planner = config.checkpoint_name, make_planner(config.planner, **config.planner_settings)
    agent = Agent.load(
        name, planner, seed=config.seed, device=config.device, budget=config.budget, **config.agent_settings
    )
    trained = agent.checkpoint.env
    if other_env(trained, ENVS[config.env].env_id) is not None:
        raise UserError(f"checkpoint {name!r} was trained for {trained}, not for {config.env}: pass --env {trained}")
    return agent

"""Settings of evaluations and benchmarks. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..agent.config import AgentConfig
from ..envs import ENVS
from ..errors import UserError

MODEL_FREE = ("random", "none", "replay")
"""Policies without a model: two floors and the ceiling."""

MIN_DECISIONS = 3

PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "agent": {"cost": "terminal", "proposal": "none", "horizon": 5, "deadline_env_steps": None},
    "cem": {"num_samples": 300, "num_elites": 30, "iterations": 30, "noise_correlation": 0.0, "keep_best": False},
}
"""How the LeWorldModel paper (arXiv 2603.19312, appendix D) plans: whole plans, CEM with independent noise."""


def protocol_settings(protocol: str, part: str) -> Mapping[str, Any]:
    """What a protocol asks of the agent, or of the planner of this name."""
    return PAPER_SETTINGS.get(part, {}) if protocol == "lewm-paper" else {}


@dataclass(frozen=True, kw_only=True)
class EvalConfig(AgentConfig):
    """What to evaluate and how; the seed decides about the floors too, and `planner` may name one of `MODEL_FREE`.

    Attributes:
        protocol: "strict" or "lewm-paper", which also sets agent and CEM as in the paper.
        split: "test" or "val".
        offset: environment steps between start and goal.
        tasks: file of tasks to use instead of the shipped ones.
        episodes: how many of the tasks, from the first; None takes all.
        batch_size: episodes in lock-step.
        output_dir: where results, videos and what is needed to resume go.
        video: number of episodes to film.
        with_floors: whether to run the floors on the same tasks.
        overwrite: throw away an earlier, different evaluation in `output_dir`.
        env_settings: conventions of the environment (`EnvSpec.conventions`); a checkpoint allows none but its own.
    """

    protocol: str = "strict"
    split: str = "test"
    offset: int = 25
    tasks: Path | None = None
    episodes: int | None = None
    batch_size: int = 50
    output_dir: Path
    video: int = 0
    with_floors: bool = True
    overwrite: bool = False
    env_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ..planners import PLANNERS

        super().__post_init__()
        if self.planner not in MODEL_FREE and not set(self.planner.split("+")) <= PLANNERS.keys():
            raise UserError(
                f"--planner {self.planner!r} is unknown: choose one of {', '.join((*PLANNERS, *MODEL_FREE))}, "
                "or two planners in a row, such as cem+gradient"
            )
        if self.episodes is not None and self.episodes < 1:
            raise UserError(f"--episodes {self.episodes} must be at least 1")
        if self.planner in MODEL_FREE and (self.planner_settings or self.agent_settings or self.limited):
            raise UserError(f"--planner {self.planner} plans nothing: it has no settings and no budget")
        known = ENVS[self.env].conventions.keys()
        if self.env_settings.keys() - known:
            unknown = ", ".join(sorted(self.env_settings.keys() - known))
            raise UserError(f"--set env.{unknown} cannot be chosen in an evaluation: choose from {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class BenchConfig(AgentConfig):
    """What to time and how; the seed decides about the pictures too.

    Attributes:
        max_batch: batch sizes are the powers of two from 1 to this.
        decisions: decisions to time for each batch size.
        seconds: wall time after which a batch size is left with fewer decisions, but at least `MIN_DECISIONS`.
        output_dir: where ``bench.json`` and ``bench.png`` go.
        plot: whether to draw the latter, which needs matplotlib.
    """

    max_batch: int = 256
    decisions: int = 200
    seconds: float = 20.0
    output_dir: Path
    plot: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"max_batch": 1, "decisions": MIN_DECISIONS}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {least}")

    @property
    def batch_sizes(self) -> list[int]:
        """Episodes planned at once, from one to the most."""
        return [2**power for power in range(self.max_batch.bit_length())]

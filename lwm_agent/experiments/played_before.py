"""The settings of an evaluation, from the results that it has written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..agent.config import default_checkpoint
from ..checkpoint import checksum, shipped_with
from ..envs import name_of
from ..errors import UserError
from ..eval.results_file import Results
from ..eval.tasks import DRAWN
from .config import MODEL_FREE, EvalConfig

AGENT_SETTINGS = (
    "cost",
    "num_proposals",
    "proposal_std",
    "horizon",
    "replan_every_env_steps",
    "deadline_env_steps",
    "int8",
)
"""Settings of the agent that decide about its actions, as `Agent.settings` records them."""

BUDGETS = {"rollouts": 1, "iterations": 1, "flops": 1, "ms": 1000}
"""Names of the budgets in `EvalConfig`, and their unit in that of the results, which has seconds."""


def evaluation_of(results: Results, path: Path, checkpoint: str | None, tasks: Path | None, device: str) -> EvalConfig:
    """The evaluation that has written `results` to the file `path`.

    Raises:
        UserError: they are of no agent that plans, of another checkpoint, or of an earlier version.
    """
    run = results.run
    env, planner = name_of(run["tasks"]["env_id"]), dict(run["planner"])
    name, budget, agent = planner.pop("name"), planner.pop("budget", None), planner.pop("agent", None)
    if name in (*MODEL_FREE, "policy") or agent is None:
        raise UserError(f"{path} is of {name}, which makes no plans that could be explained")
    if run.get("shifts"):
        raise UserError(f"{path} is of a shifted environment ({', '.join(run['shifts'])}): explain one without --shift")
    if run["tasks"]["protocol"] in DRAWN:
        raise UserError(f"{path} is of drawn goals, which no recorded actions reach: explain one of other tasks")
    missing = [key for key in AGENT_SETTINGS if key not in agent]
    if missing:
        raise UserError(f"{path} is of an earlier version, which did not record {', '.join(missing)}: evaluate again")
    checkpoint = checkpoint or shipped_with(run["checkpoint"]) or default_checkpoint(env)
    if checksum(checkpoint) != run["checkpoint"]:
        raise UserError(
            f"{path} is of another checkpoint than {checkpoint!r}: pass --checkpoint with that of the evaluation "
            f"({run.get('command', 'its command is not known')})"
        )
    limits: dict[str, Any] = {key: value for key, value in _limits(budget) if value is not None}
    settings = dict(_flat(planner))
    if limits:  # a budget takes the place of iterations, but for those of the first of two planners
        settings = {key: value for key, value in settings.items() if key not in ("iterations", "second.iterations")}
    chosen = {key: agent[key] for key in AGENT_SETTINGS if agent[key] is not None}
    chosen["proposal"] = agent["proposal"] or "none"
    if agent["proposal"] is None:
        chosen.pop("num_proposals")
    return EvalConfig(
        env=env,
        planner=name,
        checkpoint=checkpoint,
        seed=run["seed"],
        device=device,
        planner_settings=settings,
        agent_settings=chosen,
        protocol=run["tasks"]["protocol"],
        split=run["tasks"]["split"],
        offset=run["tasks"]["offset_env_steps"],
        tasks=tasks,
        episodes=len(results.solved),
        output_dir=path.parent,
        **limits,
    )


def _limits(budget: Mapping[str, Any] | None) -> Iterator[tuple[str, float | int | None]]:
    for name, unit in BUDGETS.items():
        value = None if budget is None else budget["seconds" if name == "ms" else name]
        yield f"budget_{name}", None if value is None else unit * value


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of a planner, those of the planners inside it as ``first.num_samples``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

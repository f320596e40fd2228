"""Policies of evaluations: agents, and policies without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import gymnasium as gym

from ..agent.config import load_agent
from ..checkpoint import Checkpoint, checksum
from ..compatibility import check_compatible, conventions
from ..envs.base import GoalImageEnv
from ..errors import UserError
from ..eval import Inspect, ModelAccount, NoOpPolicy, RandomPolicy, ReplayPolicy, TaskSet, make_env, run_info
from ..eval.tasks import DRAWN
from ..protocols import Policy
from .accounting import account_of
from .config import EvalConfig, protocol_settings

MODEL_FREE_POLICIES: dict[str, Callable[[gym.spaces.Box, GoalImageEnv, int], Policy]] = {
    "random": lambda space, env, seed: RandomPolicy(space, seed),
    "none": lambda space, env, seed: NoOpPolicy(space, env),
    "replay": lambda space, env, seed: ReplayPolicy(space),
}
"""Policies without a model, of an action space, an environment and a seed: two floors and the ceiling."""


@dataclass(frozen=True)
class ConfiguredPolicy:
    """A policy, ready for an evaluation.

    Attributes:
        policy: the policy.
        planner: settings of planner, budget and agent from which its actions follow, in JSON types.
        env_kwargs: arguments of the environment that it needs.
        checkpoint: hash of its checkpoint, None without a model.
        max_rollouts: rollouts that it imagines at once, None without a model. It follows from free memory and changes
            actions by rounding.
        account: costs of its model.
        inspect: what the policy's states tell, where films are made.
        words: its name for people.
    """

    policy: Policy
    planner: dict[str, Any]
    env_kwargs: dict[str, Any]
    checkpoint: str | None = None
    max_rollouts: int | None = None
    account: ModelAccount | None = None
    inspect: Inspect | None = None
    words: str = ""

    def run_info(self, task_set: TaskSet, seed: int, shifts: Sequence[str] = ()) -> dict[str, Any]:
        """Provenance of episodes that it plays."""
        return run_info(
            task_set,
            seed=seed,
            planner=self.planner,
            env_kwargs=self.env_kwargs,
            checkpoint=self.checkpoint,
            model=self.account,
            shifts=shifts,
        )


def make_policy(config: EvalConfig, task_set: TaskSet) -> ConfiguredPolicy:
    """The policy that `config` asks for."""
    if config.planner in MODEL_FREE_POLICIES:
        policy = model_free_policy(config.planner, task_set, config.env_settings, config.seed)
        words = f"policy {config.planner}, without a model"
        return ConfiguredPolicy(policy, {"name": config.planner}, dict(config.env_settings), words=words)
    checkpoint = Checkpoint.load(config.checkpoint_name)
    env_kwargs = agreed_env_kwargs(config, task_set, checkpoint)
    filmed = config.video > 0
    agent = load_agent(with_protocol(config, task_set, checkpoint.model.frameskip), checkpoint, keep_thoughts=filmed)
    planner = {
        "name": config.planner,
        **asdict(agent.planner),  # type: ignore[call-overload]
        "budget": asdict(config.budget),
        "agent": agent.settings(),
    }
    return ConfiguredPolicy(
        agent,
        planner,
        env_kwargs,
        checksum(config.checkpoint_name),
        agent.max_rollouts,
        account_of(agent),
        agent.insight if filmed else None,
        f"{config.checkpoint_name}: {agent.describe()}",
    )


def model_free_policy(name: str, task_set: TaskSet, env_kwargs: Mapping[str, Any], seed: int) -> Policy:
    """The policy without a model that is called `name`, for tasks in an environment of these arguments.

    Raises:
        UserError: it is to replay actions in an action space that is not that of the tasks.
    """
    with closing(make_env(task_set, env_kwargs)) as env:
        space, simulator = cast(gym.spaces.Box, env.action_space), cast(GoalImageEnv, env.unwrapped)
    if name == "replay":
        _check_replayed(task_set, space)
    return MODEL_FREE_POLICIES[name](space, simulator, seed)


def _check_replayed(task_set: TaskSet, space: gym.spaces.Box) -> None:
    """Refuses to replay the actions of tasks that have none, or in an action space that is not theirs."""
    if task_set.protocol in DRAWN:
        raise UserError("planner='replay': nobody has reached goals that were drawn: choose another planner")
    with closing(make_env(task_set)) as env:
        if env.action_space != space:
            raise UserError(
                f"planner='replay': the tasks' actions are of {env.action_space}, and --set env asks for {space}: "
                "leave that out"
            )


def with_protocol(config: EvalConfig, task_set: TaskSet, frameskip: int) -> EvalConfig:
    """`config` with the settings of agent and planner that its protocol prescribes, where it has none of its own.

    `frameskip` is that of the world model: the protocol of the paper executes whole plans.
    """
    usual = {"deadline_env_steps": task_set.budget_env_steps, **protocol_settings(config.protocol, "agent")}
    if config.planner == "policy":
        usual.pop("horizon", None)  # a policy acts block by block
    elif config.protocol == "lewm-paper":
        usual["replan_every_env_steps"] = usual["horizon"] * frameskip
    search = dict(protocol_settings(config.protocol, config.planner))
    if config.limited:
        search.pop("iterations", None)
    return replace(
        config,
        agent_settings={**usual, **config.agent_settings},
        planner_settings={**search, **config.planner_settings},
    )


def agreed_env_kwargs(config: EvalConfig, task_set: TaskSet, checkpoint: Checkpoint) -> dict[str, Any]:
    """The conventions under which the checkpoint was trained; an error if settings or tasks ask for others."""
    trained = conventions(config.env, checkpoint.env_kwargs)
    asking = {"--set env": config.env_settings, f"the task file {config.tasks}": task_set.env_kwargs}
    for source, settings in asking.items():
        check_compatible(
            config.env,
            trained,
            {**trained, **settings},
            trained_by=f"checkpoint {config.checkpoint_name!r} was trained with",
            requested_by=f"{source} asks for",
            fix=lambda options: "leave it out, or use a checkpoint that was trained with it",
        )
    return trained

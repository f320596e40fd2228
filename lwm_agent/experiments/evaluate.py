"""`lwm-agent eval`: puts an agent or a floor together with tasks, files and a progress report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_type_hints

import gymnasium as gym

from ..agent.agent import Agent, default_planner
from ..checkpoint import Checkpoint, checksum
from ..compatibility import conventions, mismatch, other_env
from ..envs import ENVS
from ..errors import UserError
from ..eval import (
    Episode,
    EpisodeLog,
    NoOpPolicy,
    RandomPolicy,
    Recorder,
    ReplayPolicy,
    Summary,
    TaskSet,
    evaluate,
    fingerprint,
    floors,
    make_env,
    run_info,
    save_results,
    shipped,
    summarize,
)
from ..planners import PLANNERS, UNLIMITED, Budget, make_planner
from ..planners.checks import check_type
from ..protocols import Policy

BASELINES: dict[str, Callable[[gym.spaces.Box, int], Policy]] = {
    "random": RandomPolicy,
    "none": lambda space, seed: NoOpPolicy(space),
    "replay": lambda space, seed: ReplayPolicy(space),
}
"""Policies without a model: two floors and the ceiling."""

PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "agent": {"cost": "terminal", "proposal": "none", "horizon": 5, "deadline_env_steps": None},
    "cem": {"num_samples": 300, "num_elites": 30, "iterations": 30, "noise_correlation": 0.0, "keep_best": False},
}
"""How the LeWorldModel paper (arXiv 2603.19312, appendix D) plans: whole plans, CEM with independent noise."""

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
        budget: what one plan may spend; none leaves it to the planner's own number of iterations.
        planner_settings: arguments of the planner.
        agent_settings: arguments of `Agent`.
    """

    env: str = "pusht"
    planner: str
    checkpoint: str | None = None
    seed: int = 0
    device: str = "auto"
    budget: Budget = UNLIMITED
    planner_settings: Mapping[str, Any] = field(default_factory=dict)
    agent_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checkpoint_of(self.env, self.checkpoint)
        known = {name: kind for name, kind in get_type_hints(Agent.__init__).items() if name not in OWN_OPTIONS}
        for name, value in self.agent_settings.items():
            if name not in known:
                raise UserError(f"--set agent.{name} is unknown: choose one of {', '.join(sorted(known))}")
            check_type("--set agent", name, value, known[name])
        for name in self.planner_settings if self.budget != UNLIMITED else ():
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


@dataclass(frozen=True, kw_only=True)
class EvalConfig(AgentConfig):
    """What to evaluate and how; the seed decides about the floors too, and `planner` may name one of `BASELINES`.

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
        super().__post_init__()
        if self.planner not in BASELINES and not set(self.planner.split("+")) <= PLANNERS.keys():
            raise UserError(
                f"--planner {self.planner!r} is unknown: choose one of {', '.join((*PLANNERS, *BASELINES))}, "
                "or two planners in a row, such as cem+gradient"
            )
        if self.episodes is not None and self.episodes < 1:
            raise UserError(f"--episodes {self.episodes} must be at least 1")
        if self.planner in BASELINES and (self.planner_settings or self.agent_settings or self.budget != UNLIMITED):
            raise UserError(f"--planner {self.planner} plans nothing: it has no settings and no budget")
        known = ENVS[self.env].conventions.keys()
        if self.env_settings.keys() - known:
            unknown = ", ".join(sorted(self.env_settings.keys() - known))
            raise UserError(f"--set env.{unknown} cannot be chosen in an evaluation: choose from {', '.join(known)}")


@dataclass(frozen=True)
class Report:
    """Summaries by policy, the one asked for first and then the floors, and what else there is to tell."""

    summaries: dict[str, Summary]
    task_set: TaskSet
    num_resumed: int
    num_videos: int


def run_evaluation(config: EvalConfig, on_episode: Callable[[Episode, int], None] | None = None) -> Report:
    """Evaluates, writes ``results.json``, ``results.csv`` and videos, and resumes what was interrupted.

    `on_episode` is called with each finished episode and the number of tasks.
    """
    task_set = load_tasks(config)
    policy, facts, env_kwargs = make_policy(config, task_set)
    run = run_info(task_set, seed=config.seed, planner=facts, env_kwargs=env_kwargs, checkpoint=facts.pop("checkpoint"))
    run["max_rollouts"] = getattr(policy, "max_rollouts", None)  # follows from free memory; rounding follows from it
    log = EpisodeLog(config.output_dir / "episodes.jsonl", fingerprint(run), overwrite=config.overwrite)
    num_resumed = len(log.episodes)
    recorder = Recorder(config.output_dir / "videos", task_set, count=config.video) if config.video else None

    def finish(episode: Episode) -> None:
        log.append(episode)
        if on_episode is not None:
            on_episode(episode, len(task_set.tasks))

    evaluate(
        policy,
        task_set,
        batch_size=config.batch_size,
        seed=config.seed,
        env_kwargs=env_kwargs,
        indices=[index for index in range(len(task_set.tasks)) if index not in log.episodes],
        on_episode=finish,
        recorder=recorder,
    )
    episodes = [log.episodes[index] for index in range(len(task_set.tasks))]
    # Floors act by the same conventions and see no pictures.
    blind = {**env_kwargs, **ENVS[config.env].blind}
    below = floors(task_set, seed=config.seed, env_kwargs=blind) if config.with_floors else {}
    summary = save_results(config.output_dir, run, episodes, below)
    summaries = {config.planner: summary, **{name: summarize(rows) for name, rows in below.items()}}
    videos = 0 if recorder is None else sum(recorder.path(index).exists() for index in range(config.video))
    return Report(summaries, task_set, num_resumed, videos)


def load_tasks(config: EvalConfig) -> TaskSet:
    """The tasks that `config` asks for."""
    if config.tasks is not None:
        task_set = TaskSet.load(config.tasks)
        for name in ("env", "protocol"):
            given, found = getattr(config, name), getattr(task_set, name)
            if found != given:
                raise UserError(f"{config.tasks} holds tasks of {found}, not of {given}: pass --{name} {found}")
    else:
        task_set = shipped(config.env, config.protocol, config.split, config.offset)
    if config.episodes is None:
        return task_set
    if config.episodes > len(task_set.tasks):
        raise UserError(
            f"--episodes {config.episodes}: there are {len(task_set.tasks)} such tasks, make more: `lwm-agent tasks`"
        )
    return replace(task_set, tasks=task_set.tasks[: config.episodes])


def make_policy(config: EvalConfig, task_set: TaskSet) -> tuple[Policy, dict[str, Any], dict[str, Any]]:
    """The policy, the settings that decide what it does, and the arguments of the environment that it needs."""
    if config.planner in BASELINES:
        with make_env(task_set, config.env_settings) as env:
            space = cast(gym.spaces.Box, env.action_space)
        facts: dict[str, Any] = {"name": config.planner, "checkpoint": None}
        return BASELINES[config.planner](space, config.seed), facts, dict(config.env_settings)
    usual = {"deadline_env_steps": task_set.budget_env_steps, **protocol_settings(config.protocol, "agent")}
    if config.protocol == "lewm-paper":  # takes plans whole
        model: Any = Checkpoint.load(config.checkpoint_name).model
        usual["replan_every_env_steps"] = usual["horizon"] * model.frameskip
    agent_settings = {**usual, **config.agent_settings}
    search = dict(protocol_settings(config.protocol, config.planner))
    if config.budget != UNLIMITED:
        search.pop("iterations", None)
    planner_settings = {**search, **config.planner_settings}
    agent = load_agent(replace(config, agent_settings=agent_settings, planner_settings=planner_settings))
    env_kwargs = agreed_env_kwargs(config, task_set, agent.checkpoint)
    facts = {
        "name": config.planner,
        **asdict(agent.planner),  # type: ignore[call-overload]
        "budget": asdict(config.budget),
        "agent": agent.settings(),
        "checkpoint": checksum(config.checkpoint_name),
    }
    return agent, facts, env_kwargs


def planner_for(env: str, checkpoint: str | None, agent_settings: Mapping[str, Any], protocol: str = "strict") -> str:
    """Name of the planner that is used where nobody asks for one."""
    settings = {**protocol_settings(protocol, "agent"), **agent_settings}
    return default_planner(Checkpoint.load(checkpoint_of(env, checkpoint)), settings.get("proposal", "auto"))


def checkpoint_of(env: str, checkpoint: str | None) -> str:
    """Folder or name of the checkpoint to use: the package's own of the environment, unless another is given."""
    if env not in ENVS:
        raise UserError(f"--env {env!r} is unknown: choose one of {', '.join(ENVS)}")
    return checkpoint or f"{env}-tiny"


def protocol_settings(protocol: str, part: str) -> Mapping[str, Any]:
    """What a protocol asks of the agent, or of the planner of this name."""
    return PAPER_SETTINGS.get(part, {}) if protocol == "lewm-paper" else {}


def load_agent(config: AgentConfig) -> Agent:
    """The agent that `config` asks for."""
    name, planner = config.checkpoint_name, make_planner(config.planner, **config.planner_settings)
    agent = Agent.load(
        name, planner, seed=config.seed, device=config.device, budget=config.budget, **config.agent_settings
    )
    trained = agent.checkpoint.env
    if other_env(trained, ENVS[config.env].env_id) is not None:
        raise UserError(f"checkpoint {name!r} was trained for {trained}, not for {config.env}: pass --env {trained}")
    return agent


def agreed_env_kwargs(config: EvalConfig, task_set: TaskSet, checkpoint: Checkpoint) -> dict[str, Any]:
    """The conventions under which the checkpoint was trained; an error if settings or tasks ask for others."""
    trained = conventions(config.env, checkpoint.env_kwargs)
    for source, given in (("--set env", config.env_settings), (f"the task file {config.tasks}", task_set.env_kwargs)):
        differing = mismatch(config.env, trained, {**trained, **given})
        if differing is not None:
            raise UserError(
                f"{source} asks for {differing.given} and checkpoint {config.checkpoint_name!r} was trained with "
                f"{differing.trained}: leave it out, or use a checkpoint that was trained with it"
            )
    return trained

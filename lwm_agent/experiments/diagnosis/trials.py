"""Trials: the same tasks with simulator, true state or recorded actions in the place of what was learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import gymnasium as gym

from ...agent.agent import Agent
from ...agent.config import load_agent
from ...envs.base import GoalImageEnv
from ...eval import Episode, TaskSet, evaluate, make_env
from ...protocols import Policy
from ..policies import MODEL_FREE_POLICIES, agreed_env_kwargs, with_protocol
from .clairvoyant import ClairvoyantPolicy, SeesPictures, SeesStates, goal_error
from .config import DiagnoseConfig
from .verifier import Rate

DISTANCE_ONLY = "best-step"
"""Planning cost of the trials that are compared: of distances, as true states have no learned terms."""

NOTHING, RECORDED = "nothing", "recorded actions"
STATES, PICTURES, MODEL = "simulator, true state", "simulator, latents", "model, latents"
AGENT = "agent"

TRIALS = (NOTHING, RECORDED, STATES, PICTURES, MODEL, AGENT)
"""Names of the trials. `RECORDED` to `MODEL` take away one certainty each; `AGENT` is the agent with its own cost."""

OnEpisode = Callable[[str, int, int], object]
"""Called with the name of a trial, the episodes that are over and those of the trial."""


@dataclass(frozen=True)
class Trials:
    """Success of each of `TRIALS` on the same tasks.

    Attributes:
        rates: by name.
        solved: tasks solved, by name.
    """

    rates: Mapping[str, Rate]
    solved: Mapping[str, tuple[int, ...]]

    def lost(self, better: str, worse: str) -> float:
        """Share of the tasks that is lost between two trials."""
        return self.rates[better].share - self.rates[worse].share


def run_trials(config: DiagnoseConfig, task_set: TaskSet, agent: Agent, on_episode: OnEpisode) -> Trials:
    """Plays all trials. Those in the simulator take minutes: it draws every future that the search asks for."""
    env_kwargs = agreed_env_kwargs(config.evaluation, task_set, agent.checkpoint)
    episodes: dict[str, list[Episode]] = {}
    with _twin(task_set, env_kwargs) as twin:
        for name, policy in _policies(config, task_set, agent, twin):
            played: list[Episode] = []

            def count(episode: Episode, name: str = name, played: list[Episode] = played) -> None:
                played.append(episode)
                on_episode(name, len(played), len(task_set.tasks))

            size = 1 if isinstance(policy, ClairvoyantPolicy) else 50
            for first in range(0, len(task_set.tasks), size):
                indices = range(first, min(first + size, len(task_set.tasks)))
                evaluate(
                    policy, task_set, indices=indices, batch_size=size, seed=config.seed, env_kwargs=env_kwargs,
                    on_episode=count,
                )  # fmt: skip
            episodes[name] = played
    return Trials(
        rates={name: Rate.of([episode.success for episode in played]) for name, played in episodes.items()},
        solved={
            name: tuple(sorted(episode.index for episode in played if episode.success))
            for name, played in episodes.items()
        },
    )


@contextmanager
def _twin(task_set: TaskSet, env_kwargs: Mapping[str, object]) -> Iterator[GoalImageEnv]:
    with make_env(task_set, env_kwargs) as env:
        yield cast(GoalImageEnv, env.unwrapped)


def _policies(
    config: DiagnoseConfig, task_set: TaskSet, agent: Agent, twin: GoalImageEnv
) -> Iterator[tuple[str, Policy]]:
    """The policy of each trial."""
    space = cast(gym.spaces.Box, twin.action_space)
    yield NOTHING, MODEL_FREE_POLICIES["none"](space, twin, config.seed)
    yield RECORDED, MODEL_FREE_POLICIES["replay"](space, twin, config.seed)
    by_distance = replace(config, agent_settings={**config.agent_settings, "cost": DISTANCE_ONLY})

    def made(settings: DiagnoseConfig) -> Agent:
        frameskip = agent.checkpoint.model.frameskip
        return load_agent(with_protocol(settings.evaluation, task_set, frameskip), agent.checkpoint)

    states, pictures = made(by_distance), made(by_distance)
    yield STATES, ClairvoyantPolicy(states, SeesStates(states, twin, goal_error(twin, task_set.tasks)))
    yield PICTURES, ClairvoyantPolicy(pictures, SeesPictures(pictures, twin))
    yield MODEL, made(by_distance)
    yield AGENT, made(config)

"""`lwm-agent explain`: why the failed tasks of an evaluation failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..agent.agent import Agent
from ..agent.objective import ModelObjective
from ..envs.base import GoalImageEnv
from ..errors import UserError
from ..eval import Episode, Task, TaskSet, evaluate, make_env
from ..eval.explanation import CAUSES, Evidence, Explanation, draw_explanation, explanation_page
from ..eval.figures import new_figure
from ..eval.provenance import command_line, machine
from ..eval.results_file import parse_results
from ..files import write_text
from .config import EvalConfig
from .evaluate import load_tasks
from .explain_config import ExplainConfig
from .played_before import evaluation_of
from .policies import ConfiguredPolicy, make_policy
from .record import film_tasks

LONGER = 2
"""Times the steps of a task, to see whether it was a matter of time."""

Progress = Callable[[str, int, int], object]
OnEpisode = Callable[[Episode], None]


@dataclass(frozen=True)
class Witness:
    """Looks at the first decision of tasks, in the model's futures and in the simulator's.

    Attributes:
        agent: the agent of the evaluation.
        twin: an environment of the kind that it acts in.
    """

    agent: Agent
    twin: GoalImageEnv

    @torch.no_grad()
    def costs(self, task: Task) -> dict[str, float]:
        """Costs of the plan and of the recorded actions, imagined and real, and of doing nothing, as in `Evidence`."""
        agent = self.agent
        observation, _ = self.twin.reset(options=task.reset_options)
        _, state = agent.predict(observation)
        plan = agent.insight(state).plan
        assert plan is not None
        nothing = self._nothing(task, plan.env_actions.shape)
        sequences = {"plan": plan.env_actions, "recorded": self._recorded(task, nothing), "nothing": nothing}
        start, goal = (agent.observer.begin(observation[key][None]) for key in ("pixels", "goal"))
        deadline = torch.from_numpy(agent.schedule.blocks_left(np.zeros(1, np.int64))).float().to(agent.device)
        planning = agent.replanner
        objective = ModelObjective(
            planning.model, start, goal.latent, agent.cost, agent.bf16, agent.max_rollouts, planning.actor, deadline
        )
        costs = {}
        for name, env_actions in sequences.items():
            actions = agent.checkpoint.normalizer.blocks(env_actions, agent.device)[None, None]  # (1, 1, T, F*A)
            real = self._outcome(task, env_actions)[None, None]
            costs[f"{name}_imagined"] = float(objective(actions))
            costs[f"{name}_real"] = float(objective.rate(real, actions))
        costs.pop("nothing_imagined")
        return costs

    def _nothing(self, task: Task, shape: Sequence[int]) -> NDArray[np.float32]:
        """Blocks ``(T, F, A)`` that do nothing from the start of the task on."""
        still = self.twin.scripted_action(np.zeros(shape[2], np.float32), np.array(task.state))
        return np.broadcast_to(self.twin.executed_action(still), tuple(shape)).copy()

    def _recorded(self, task: Task, nothing: NDArray[np.float32]) -> NDArray[np.float32]:
        """The recorded actions as blocks ``(T, F, A)``, as long as a plan; after their end, nothing is done."""
        blocks = nothing.copy()
        actions = blocks.reshape(-1, blocks.shape[-1])
        recorded = np.array(task.env_actions, np.float32)[: len(actions)]
        actions[: len(recorded)] = recorded
        return blocks

    def _outcome(self, task: Task, env_actions: NDArray[np.float32]) -> Tensor:
        """Latents ``(T, *Z)`` of what the simulator makes of blocks ``(T, F, A)`` from the start of the task."""
        frameskip, actions = env_actions.shape[1], env_actions.reshape(-1, env_actions.shape[2])
        reached = [*self.twin.follow(np.array(task.state), actions)][frameskip - 1 :: frameskip]
        return self.agent.observer.begin(np.stack([self.twin.picture(state) for state in reached])).latent


def explain(config: ExplainConfig, progress: Progress = lambda *_: None) -> Explanation:
    """Looks at the failed tasks; writes ``explanation.json``, the page ``explanation.html``, a figure and films.

    Args:
        config: settings.
        progress: called with the name of a part, what is done of it, and the total.

    Raises:
        UserError: the results are not of an agent that plans with this checkpoint, or of other tasks.
    """
    new_figure(1, 1)  # first: without matplotlib, nothing need be played
    results = parse_results(config.results)
    entry = evaluation_of(results, config.results, config.checkpoint, config.tasks, config.device)
    task_set = load_tasks(entry)
    if task_set.sha256 != results.run["tasks"]["sha256"]:
        raise UserError(f"{config.results} is of other tasks: pass --tasks with the task file of the evaluation")
    failed = [index for index, solved in sorted(results.solved.items()) if not solved]
    looked_at = failed[: config.failures]
    evidence = _evidence(entry, task_set, looked_at, progress) if looked_at else []
    tasks = f"{task_set.protocol} {task_set.split} tasks, goals {task_set.offset_env_steps} steps away"
    title = f"{config.results}: {entry.env}, {tasks}, {entry.planner}"
    explanation = Explanation(title, len(results.solved), len(failed), tuple(evidence))
    films = _film_worst(config, entry, task_set, explanation, progress)
    contents = {
        "command": command_line(),
        "results": str(config.results),
        "summary": explanation.summary,
        "causes": {cause: explanation.count(cause) for cause in CAUSES},
        "played": explanation.played,
        "failed": explanation.failed,
        "tasks": [{**asdict(each), "cause": each.cause} for each in evidence],
        **machine(),
    }
    write_text(config.out / "explanation.json", json.dumps(contents, indent=1, allow_nan=False) + "\n")
    draw_explanation(explanation, config.out / "explanation.png")
    page = explanation_page(explanation, config.out / "explanation.svg", films)
    write_text(config.out / "explanation.html", page)
    return explanation


def _evidence(entry: EvalConfig, task_set: TaskSet, failed: Sequence[int], progress: Progress) -> list[Evidence]:
    """Evidence of the `failed` tasks."""
    entrant = make_policy(entry, task_set)
    again = _play(entrant, entry, task_set, failed, _counted(progress, "as before", len(failed)))
    longer = replace(task_set, budget_env_steps=LONGER * task_set.budget_env_steps)
    deadline = {"deadline_env_steps": longer.budget_env_steps}
    patient = make_policy(replace(entry, agent_settings={**entry.agent_settings, **deadline}), longer)
    later = _play(patient, entry, longer, failed, _counted(progress, "with twice the steps", len(failed)))
    evidence = []
    with closing(make_env(task_set, entrant.env_kwargs)) as env:
        witness = Witness(cast(Agent, entrant.policy), cast(GoalImageEnv, env.unwrapped))
        for episode, more in zip(again, later, strict=True):
            costs = witness.costs(task_set.tasks[episode.index])
            evidence.append(
                Evidence(
                    task=episode.index,
                    solved_later=more.success,
                    closest=episode.min_errors,
                    final=episode.final_errors,
                    **costs,
                )
            )
            progress("first decisions", len(evidence), len(failed))
    return evidence


def _play(
    entrant: ConfiguredPolicy, entry: EvalConfig, task_set: TaskSet, indices: Sequence[int], on_episode: OnEpisode
) -> list[Episode]:
    """Episodes of some tasks."""
    return evaluate(
        entrant.policy,
        task_set,
        batch_size=entry.batch_size,
        indices=indices,
        seed=entry.seed,
        env_kwargs=entrant.env_kwargs,
        on_episode=on_episode,
    )


def _film_worst(
    config: ExplainConfig, entry: EvalConfig, task_set: TaskSet, explanation: Explanation, progress: Progress
) -> list[Path]:
    """Films of the tasks of which the model was most wrong."""
    worst = sorted(explanation.evidence, key=lambda each: each.misjudged, reverse=True)[: config.films]
    indices = sorted(each.task for each in worst)
    if not indices:
        return []
    entrant, report = make_policy(replace(entry, video=1), task_set), _counted(progress, "films", len(indices))
    _, files = film_tasks(entrant, task_set, indices, entry.seed, config.out / "films", on_episode=report)
    return [film for (film,) in files]


def _counted(progress: Progress, part: str, total: int) -> OnEpisode:
    """A report of how many episodes of a part are over."""
    done = count(1)

    def report(episode: Episode) -> None:
        progress(part, next(done), total)

    return report

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.eval import (
    Episode,
    NoOpPolicy,
    RandomPolicy,
    ReplayPolicy,
    TaskSet,
    evaluate,
    floors,
    make_env,
    make_tasks,
    summarize,
)
from lwm_agent.eval.evaluate import PlanningState, TaskPolicy
from lwm_agent.protocols import Policy

SPACE = Box(-1.0, 1.0, (2,), np.float32)
POLICIES: dict[str, Policy] = {
    "none": NoOpPolicy(SPACE),
    "random": RandomPolicy(SPACE, seed=5),
    "replay": ReplayPolicy(SPACE),
}


@pytest.fixture(scope="module")
def task_set() -> TaskSet:
    return make_tasks("pusht", 13, 11, seed=2)


@dataclass
class Rows:
    """A policy state that tracks which episode each of its rows belongs to."""

    goals: np.ndarray
    steps: np.ndarray
    replay: Any
    decisions: list[Any]

    def __getitem__(self, rows: np.ndarray) -> Rows:
        replay = tuple(part[rows] for part in self.replay)
        return Rows(self.goals[rows], self.steps[rows], replay, [self.decisions[row] for row in rows])


class Planning(ReplayPolicy):
    """Replays, pretends to plan every fifth step, and checks that its rows stay with their episodes."""

    def begin(self, tasks: Any) -> Any:
        return Rows(np.zeros(0), np.zeros(len(tasks), int), super().begin(tasks), [])

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        goals = observation["goal"].reshape(len(observation["goal"]), -1)
        assert episode_start is not None
        assert len(episode_start) == len(goals) == len(state.steps)
        if episode_start.all():
            state.goals = goals
        assert (state.goals == goals).all()
        actions, replay = super().predict(observation, state.replay)
        decisions = [self._decision(step, len(goals)) if step % 5 == 0 else None for step in state.steps]
        return actions, Rows(goals, state.steps + 1, replay, decisions)

    @staticmethod
    def _decision(step: int, batch: int) -> SimpleNamespace:
        taken = {"seconds": 0.02 * batch, "overshoot": 0.001 * (step == 5), "rollouts": 100 + step, "flops": 1e9}
        return SimpleNamespace(batch=batch, cost=1.0, trace=[1.0], **taken)


def _untimed(episodes: list[Episode]) -> list[Episode]:
    return [replace(episode, seconds=0.0) for episode in episodes]


def test_replay_is_the_ceiling_and_doing_nothing_the_floor(task_set: TaskSet) -> None:
    replayed = evaluate(POLICIES["replay"], task_set)
    assert all(episode.success for episode in replayed)
    assert all(0 < cast(int, episode.steps_to_success) <= 13 for episode in replayed)
    floor = floors(task_set)
    assert not any(episode.success for episode in floor["none"])
    assert sum(episode.success for episode in floor["random"]) <= 2
    assert all(episode.steps_to_success is None for episode in floor["none"])


@pytest.mark.parametrize("name", POLICIES)
def test_results_do_not_depend_on_the_batch(task_set: TaskSet, name: str) -> None:
    alone = evaluate(POLICIES[name], task_set, batch_size=1)
    assert _untimed(alone) == _untimed(evaluate(POLICIES[name], task_set, batch_size=7))


def test_random_actions_do_not_depend_on_the_pictures(task_set: TaskSet) -> None:
    """Floors are evaluated on the cheapest pictures, which may be black for all tasks."""
    policy = RandomPolicy(Box(-1, 1, (2,)))
    small, large = (evaluate(policy, task_set, env_kwargs={"image_size": size}) for size in (16, 32))
    assert [episode.final_errors for episode in small] == [episode.final_errors for episode in large]
    (first, _), (second, _) = (
        policy.predict({"pixels": np.zeros((1, 16, 16, 3))}, policy.begin([task])) for task in task_set.tasks[:2]
    )
    assert not np.array_equal(first, second)


def test_rows_stay_with_their_episodes_when_others_finish(task_set: TaskSet) -> None:
    episodes = evaluate(Planning(SPACE), task_set, batch_size=11)
    assert len({episode.steps_to_success for episode in episodes}) > 1  # rows were dropped one by one
    assert all(episode.success for episode in episodes)
    for episode in episodes:
        decisions = -(-cast(int, episode.steps_to_success) // 5)
        assert episode.num_decisions == decisions
        assert episode.plan_ms == pytest.approx([20.0] * decisions)
        assert episode.rollouts == pytest.approx(100 + 5 * (decisions - 1) / 2)
        assert episode.flops == 1e9
        assert episode.overshoot_ms == (1.0 if decisions > 1 else 0.0)
    assert summarize(episodes).overshoot_ms == 1.0


def test_task_solved_at_the_start_needs_no_step(task_set: TaskSet) -> None:
    solved = replace(task_set.tasks[1], goal_state=task_set.tasks[1].state)
    mixed = replace(task_set, tasks=(task_set.tasks[0], solved, task_set.tasks[2]))
    first, second, third = evaluate(POLICIES["replay"], mixed)
    assert second.solved_at_start
    assert second.steps_to_success == 0
    assert second.final_errors["position_px"] == 0
    for episode in (first, third):
        assert episode.success
        assert not episode.solved_at_start


def test_episode_has_the_distances_of_the_last_and_the_best_step(task_set: TaskSet) -> None:
    for episode in evaluate(POLICIES["random"], task_set, indices=range(3)):
        assert episode.final_errors.keys() == episode.min_errors.keys() >= {"position_px", "angle_deg"}
        assert all(episode.min_errors[name] <= error for name, error in episode.final_errors.items())


def test_indices_choose_tasks_and_callbacks_see_each_once(task_set: TaskSet) -> None:
    seen: list[int] = []
    chosen = [4, 0, 9]
    episodes = evaluate(
        POLICIES["none"], task_set, indices=chosen, batch_size=2, on_episode=lambda episode: seen.append(episode.index)
    )
    assert [episode.index for episode in episodes] == chosen
    assert sorted(seen) == sorted(chosen)
    everything = _untimed(evaluate(POLICIES["none"], task_set))
    assert _untimed(episodes) == [everything[index] for index in chosen]
    assert evaluate(POLICIES["none"], task_set, indices=[]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"indices": [11]}, "from 0 to 10"),
        ({"indices": [-1]}, "0"),
    ],
)
def test_evaluate_refuses_wrong_arguments(task_set: TaskSet, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(POLICIES["none"], task_set, **arguments)


@pytest.mark.parametrize("action", [[1.5, 0.0], [np.nan, 0.0], [0.0, 0.0, 0.0]])
def test_evaluate_refuses_actions_outside_the_space(task_set: TaskSet, action: list[float]) -> None:
    rogue = NoOpPolicy(SPACE)
    rogue._action = np.array(action, np.float32)
    with pytest.raises(ValueError, match="not in the action space"):
        evaluate(rogue, task_set)


def test_env_kwargs_replace_those_of_the_tasks(task_set: TaskSet) -> None:
    easier = replace(task_set, env_kwargs={"success": "block"})
    with make_env(easier, {"image_size": 32}) as env:
        observation, _ = env.reset()
        assert observation["pixels"].shape == (32, 32, 3)
        assert env.unwrapped.success == "block"  # type: ignore[attr-defined]
        assert not env.unwrapped.terminate_on_success  # type: ignore[attr-defined]


class BrightPixels(gym.ObservationWrapper[Any, Any, Any]):
    """Shift of the pictures: white ones."""

    def observation(self, observation: Any) -> Any:
        return {**observation, "pixels": np.full_like(observation["pixels"], 255)}


def test_wrap_env_changes_observations_but_not_success(task_set: TaskSet) -> None:
    darkest: list[int] = []

    class Watching(ReplayPolicy):
        def predict(self, observation: dict[str, np.ndarray], *inputs: Any, **options: Any) -> Any:
            darkest.append(int(observation["pixels"].min()))
            return super().predict(observation, *inputs, **options)

    plain = evaluate(POLICIES["replay"], task_set)
    shifted = evaluate(Watching(SPACE), task_set, wrap_env=BrightPixels)
    assert set(darkest) == {255}
    assert _untimed(shifted) == _untimed(plain)
    assert floors(task_set, wrap_env=BrightPixels).keys() == {"random", "none"}


def test_wrap_env_that_fails_closes_the_environments(task_set: TaskSet, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(PushTEnv, "close", lambda env: closed.append(env))

    def fail(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        raise RuntimeError("no wrapper")

    with pytest.raises(RuntimeError, match="no wrapper"):
        evaluate(POLICIES["none"], task_set, wrap_env=fail)
    assert len(closed) == 1


def test_protocols_tell_policies_and_states_apart() -> None:
    assert isinstance(POLICIES["replay"], TaskPolicy)
    assert not isinstance(object(), TaskPolicy)
    assert isinstance(Rows(np.zeros(1), np.zeros(1), (), [None]), PlanningState)
    assert not isinstance((np.zeros(1),), PlanningState)


def test_doing_nothing_stays_inside_a_space_without_zero() -> None:
    policy = NoOpPolicy(Box(2.0, 3.0, (2,), np.float32))
    actions, _ = policy.predict({"pixels": np.zeros((3, 8, 8, 3), np.uint8)})
    assert actions.tolist() == [[2.0, 2.0]] * 3


def test_random_actions_fill_the_space_and_restart_with_the_episode() -> None:
    rng = np.random.default_rng(0)
    observation = {key: rng.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8) for key in ("pixels", "goal")}
    policy = RandomPolicy(SPACE, seed=1)
    first, state = policy.predict(observation)
    second, state = policy.predict(observation, state, np.zeros(2, bool))
    assert not np.isclose(first, second).any()
    restarted, _ = policy.predict(observation, state, np.array([True, False]))
    assert (restarted[0] == first[0]).all()
    assert not np.isclose(restarted[1], first[1]).any()
    assert not np.isclose(first[0], first[1]).any()
    state, actions = None, []
    for _ in range(200):
        action, state = policy.predict(observation, state)
        actions.append(action)
    assert np.min(actions) < -0.9
    assert np.max(actions) > 0.9

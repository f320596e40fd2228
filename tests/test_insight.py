"""What an agent tells about its last call: units, order, rows, and what it does not know."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lwm_agent import Agent, Checkpoint, make_planner
from lwm_agent.insight import Insight

SMALL: dict[str, Any] = {"num_samples": 9, "num_elites": 3, "iterations": 2}


def observe(seeds: list[int]) -> dict[str, np.ndarray]:
    env = gym.make("lwm/PushT-v0", disable_env_checker=True)
    observations = [env.reset(seed=seed)[0] for seed in seeds]
    return {name: np.stack([each[name] for each in observations]) for name in ("pixels", "goal")}


def make(name: str, **settings: Any) -> Agent:
    return Agent(Checkpoint.load(name), make_planner("cem", **SMALL), device="cpu", num_proposals=4, **settings)


def same(one: Insight, other: Insight) -> bool:
    assert one.plan is not None
    assert other.plan is not None
    return bool(np.allclose(one.plan.env_actions, other.plan.env_actions, atol=1e-3)) and one.distance == pytest.approx(
        other.distance, rel=1e-3
    )


@pytest.mark.parametrize("name", ["pusht-tiny", "pusht-dreamer"])
def test_it_is_about_the_plan_that_was_made(name: str) -> None:
    agent, observation = make(name, keep_imagined=True, keep_surprise=True), observe([0, 1, 2])
    actions, state = agent.predict(observation)
    for row in range(3):
        insight = agent.insight(state, row)
        plan, decision = insight.plan, state.decisions[row]
        assert plan is not None
        assert decision is not None
        assert (plan.cost, insight.surprise) == (decision.cost, None)  # nothing was predicted yet
        assert plan.env_actions.shape == (5, 5, 2)
        np.testing.assert_array_equal(plan.env_actions[0, 0], actions[row])
        np.testing.assert_allclose(
            plan.env_actions.reshape(25, 2)[1:],
            agent.checkpoint.normalizer.env_actions(state.plan[row, :24])[:, 0],
            atol=1e-5,
        )
        assert plan.pictures is not None
        assert plan.pictures.shape == (5, 64, 64, 3)
        assert decision.imagined is not None
        np.testing.assert_array_equal(plan.pictures, agent.checkpoint.paint(decision.imagined))


def test_candidates_are_sorted_and_the_plan_is_the_cheapest_of_all() -> None:
    agent = make("pusht-tiny", keep_imagined=True)
    _, state = agent.predict(observe([3, 4]))
    for row, decision in enumerate(state.decisions):
        plan = agent.insight(state, row).plan
        assert plan is not None
        assert decision is not None
        assert [len(tried) for tried in plan.search] == [5, 9, 9]
        best = min(range(3), key=lambda call: float(decision.search[call].costs.min()))
        assert float(decision.search[best].costs.min()) == pytest.approx(decision.cost)
        np.testing.assert_allclose(plan.search[best][0], plan.env_actions, atol=1e-5)
        for tried, ranked in zip(decision.search, plan.search, strict=True):
            worst = agent.checkpoint.normalizer.env_actions(tried.actions[int(tried.costs.argmax())])
            np.testing.assert_array_equal(ranked[-1], worst)


def test_rows_tell_what_they_tell_alone() -> None:
    agent, observation = make("pusht-tiny", keep_imagined=True), observe([5, 6])
    _, both = agent.predict(observation)
    _, alone = agent.predict({name: part[1:] for name, part in observation.items()})
    assert same(agent.insight(both, 1), agent.insight(alone))
    assert not same(agent.insight(both, 0), agent.insight(alone))


def test_distance_and_surprise_come_when_the_agent_looks() -> None:
    agent = make("pusht-tiny", keep_surprise=True)
    env = gym.make("lwm/PushT-v0", disable_env_checker=True)
    observation, _ = env.reset(seed=7)
    told, state = [], None
    for _ in range(11):
        action, state = agent.predict(observation, state)
        told.append(agent.insight(state))
        if len(told) == 11:
            model, units = agent.checkpoint.world_model, agent.checkpoint.normalizer
            with torch.no_grad():
                now, goal = (model.embed(units.pixels(observation[name][None])) for name in ("pixels", "goal"))
            expected = float(model.distance(now[:, None, None], goal))
        observation, *_ = env.step(action)
    looks = [step % 5 == 0 for step in range(11)]
    assert [each.distance is not None for each in told] == looks
    assert [each.surprise is not None for each in told] == [step in (5, 10) for step in range(11)]
    assert told[10].distance == pytest.approx(expected, rel=0.05)
    assert told[0].plan is not None
    assert (told[0].plan.pictures, told[0].plan.search) == (None, ())  # it was not asked to keep them


def test_policies_tell_what_they_have() -> None:
    for name in ("pusht-gcbc", "pusht-tiny"):
        agent = Agent.load(name, "policy", device="cpu", keep_imagined=True)
        action, state = agent.predict(observe([8]))
        insight = agent.insight(state)
        assert (insight.distance is None) == (name == "pusht-gcbc")  # no world model, no distance
        assert insight.plan is not None
        assert insight.plan.env_actions.shape == (1, 5, 2)
        np.testing.assert_array_equal(insight.plan.env_actions[0, 0], action[0])
        assert insight.plan.pictures is None
    assert agent.describe() == "LeWorldModel, acts by its own policy"


def test_keeping_thoughts_changes_no_action() -> None:
    observation = observe([9, 10])
    plain, _ = make("pusht-tiny").predict(observation)
    kept, _ = make("pusht-tiny", keep_imagined=True, keep_surprise=True).predict(observation)
    np.testing.assert_array_equal(plain, kept)

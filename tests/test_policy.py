"""A learned policy that acts by itself, without imagined futures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lwm_agent import Agent, Budget
from lwm_agent.models import Heads

from .test_agent import checkpoint, observations


def policy_agent(**settings: object) -> Agent:
    return Agent(checkpoint(), "policy", device="cpu", bf16=False, **settings)  # type: ignore[arg-type]


def test_it_takes_the_mean_action_of_the_actor_inside_the_bounds() -> None:
    agent, seen = policy_agent(deadline_env_steps=15), observations(3)
    policy, model = agent.checkpoint.policy, agent.model
    assert isinstance(policy, Heads)
    actions, state = agent.predict(seen)
    pictures = [agent.checkpoint.normalizer.pixels(seen[name], agent.device) for name in ("pixels", "goal")]
    with torch.no_grad():
        now, goal = map(model.embed, pictures)
        steps = policy.steps_to_go(now, goal).clamp_max(3)
        mean, _ = policy.act(now, goal, steps)
    low, high = agent.checkpoint.normalizer.bounds(model.frameskip, agent.device)
    expected = agent.checkpoint.normalizer.env_actions(mean.clamp(low, high))
    assert np.allclose(actions, expected[:, 0], atol=1e-5)
    for step in range(1, model.frameskip):  # the rest of the block
        actions, state = agent.predict(seen, state)
        assert np.allclose(actions, expected[:, step], atol=1e-5)
        assert state.decisions == (None, None, None)
    assert agent.predict(seen, state)[1].decisions[0] is not None


def test_a_decision_costs_what_the_actor_costs() -> None:
    agent = policy_agent()
    (decision,) = agent.predict(observations(1))[1].decisions
    policy = agent.checkpoint.policy
    assert decision is not None
    assert policy is not None
    assert (decision.rollouts, decision.flops) == (0, policy.actor_flops + policy.distance_flops)
    assert decision.seconds > 0
    assert agent.max_rollouts == 0
    assert agent.settings()["horizon"] == 1


def test_it_does_not_look_at_the_other_episodes_of_its_batch() -> None:
    agent, seen = policy_agent(replan_every_env_steps=1), observations(4)
    together, _ = agent.predict(seen)
    alone, _ = agent.predict({name: picture[2:3] for name, picture in seen.items()})
    assert np.allclose(alone[0], together[2], atol=1e-5)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no policy; train one with `lwm-agent train-heads`"):
        Agent(replace(checkpoint(), heads=None), "policy", device="cpu")
    with pytest.raises(ValueError, match="replan_every_env_steps=6 must be from 1 to 5"):
        policy_agent(replan_every_env_steps=6)
    with pytest.raises(ValueError, match=r"a budget of 1 FLOPs is below the policy's own"):
        policy_agent(budget=Budget(flops=1.0))
    with pytest.raises(ValueError, match="makes no plans"):
        _ = policy_agent().replanner

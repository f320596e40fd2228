"""Surprise in the state of an agent: the error of the model's last prediction."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lwm_agent import Agent, Checkpoint
from lwm_agent.agent.state import AgentState
from lwm_agent.envs.pusht_play import PlayPolicy

SIZE = 64


def play(steps: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Observations of an episode of scripted play, which has one goal."""
    env = gym.make("lwm/PushT-v0", image_size=SIZE, terminate_on_success=False)
    observation, info = env.reset(seed=seed)
    policy, observations = PlayPolicy(np.random.default_rng(seed)), []
    for _ in range(steps):
        observations.append({name: picture[None] for name, picture in observation.items()})
        observation, *_, info = env.step(policy(info))
    return observations


def run(agent: Agent, observations: list[dict[str, np.ndarray]]) -> list[AgentState]:
    """The states after each of `observations`."""
    states: list[AgentState] = []
    for observation in observations:
        states.append(agent.predict(observation, states[-1] if states else None)[1])
    return states


def load(name: str = "pusht-tiny", **settings: Any) -> Agent:
    return Agent.load(name, "policy", device="cpu", bf16=False, **settings)


@pytest.mark.parametrize("name", ["pusht-tiny", "pusht-dreamer"])
@pytest.mark.parametrize("replan_every_env_steps", [1, 2, 5])
def test_it_is_what_the_model_says_of_the_frames_and_of_the_actions_between_them(
    name: str, replan_every_env_steps: int
) -> None:
    agent = load(name, replan_every_env_steps=replan_every_env_steps, keep_surprise=True)
    observations, state, executed = play(13), None, []
    model, usual = agent.checkpoint.world_model, agent.checkpoint.usual_surprise
    for step, observation in enumerate(observations):
        action, state = agent.predict(observation, state)
        executed.append(action[0])
        judged = step if replan_every_env_steps % 5 else step - step % 5  # the newest frame that a belief has seen
        if judged < 5:
            assert np.isnan(state.surprise).all()
            continue
        frames = [*range(judged % 5, judged + 1, 5)]
        pixels = [agent.checkpoint.normalizer.pixels(observations[frame]["pixels"]) for frame in frames]
        with torch.no_grad():
            belief = model.begin(pixels[0])
            for frame, picture in zip(frames, pixels[1:], strict=False):
                block = agent.checkpoint.normalizer.blocks(np.stack(executed[frame : frame + 5])[None])
                before, belief = belief, model.observe(belief, block, picture)
                expected = model.surprise(before, block, belief).numpy() / usual
        assert state.surprise.shape == (1,)
        np.testing.assert_allclose(state.surprise, expected, rtol=1e-3)


@pytest.mark.parametrize("planner", ["guided", "policy"])
def test_it_changes_no_action(planner: str) -> None:
    observations = play(11)
    plain, keeping = (
        run(Agent.load("pusht-tiny", planner, device="cpu", keep_surprise=keep), observations) for keep in (False, True)
    )
    for without, state in zip(plain, keeping, strict=True):
        assert torch.equal(without.plan, state.plan)
        assert torch.equal(without.executed_actions, state.executed_actions)
        assert np.isnan(without.surprise).all()
    assert np.isfinite(keeping[-1].surprise).all()


def test_models_that_imagine_nothing_are_never_surprised() -> None:
    states = run(load("pusht-gcbc", keep_surprise=True), play(11))
    assert all(np.isnan(state.surprise).all() for state in states)


def test_each_episode_has_its_own_and_a_new_one_begins_without() -> None:
    agent, first, second = load(keep_surprise=True), play(12, seed=1), play(12, seed=2)
    both = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(first, second, strict=True)]
    alone = [run(agent, observations)[-1].surprise[0] for observations in (first, second)]
    state = run(agent, both)[-1]
    np.testing.assert_allclose(state.surprise, alone, rtol=1e-4)
    assert state[[1, 0]].surprise.tolist() == state.surprise[::-1].tolist()
    _, state = agent.predict(both[-1], state, episode_start=np.array([False, True]))
    assert np.isfinite(state.surprise[0])
    assert np.isnan(state.surprise[1])


@pytest.mark.parametrize("name", ["pusht-tiny", "pusht-dreamer"])
def test_shipped_models_are_most_surprised_by_a_jump(name: str) -> None:
    agent = load(name, keep_surprise=True)
    env = gym.make("lwm/PushT-v0", max_episode_steps=100)
    usual, jumps = [], []
    for seed in range(6):
        observation, _ = env.reset(seed=seed)
        state = None
        for step in range(21):
            if step == 20:
                env.unwrapped.set_state(_elsewhere(env.unwrapped.get_state()))  # type: ignore[attr-defined]
                observation["pixels"] = env.unwrapped.picture(env.unwrapped.get_state())  # type: ignore[attr-defined]
            action, state = agent.predict(observation, state)
            if step in (5, 10, 15):
                usual.append(float(state.surprise[0]))
            observation, *_ = env.step(action)
        assert state is not None
        jumps.append(float(state.surprise[0]))
    assert 0.2 < np.mean(usual) < 3
    assert min(jumps) > max(usual)


def _elsewhere(state: np.ndarray) -> np.ndarray:
    """The state with the block on the other side of the table."""
    moved = state.copy()
    moved[2:4] = np.where(moved[2:4] < 256, moved[2:4] + 180, moved[2:4] - 180)
    return moved


def test_the_unit_is_the_error_on_validation_data() -> None:
    tiny, dreamer = Checkpoint.load("pusht-tiny"), Checkpoint.load("pusht-dreamer")
    assert tiny.usual_surprise == tiny.training["predictor"]["validation"]["prediction"]
    assert dreamer.usual_surprise == dreamer.training["validation"]["kl_dyn"]
    tiny.training.clear()
    assert tiny.usual_surprise == 1.0

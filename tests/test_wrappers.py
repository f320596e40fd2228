"""Environments that show latents: what learners see, what they are paid, and how they are made."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.env_util import make_vec_env

from lwm_agent import Checkpoint, LatentObservation
from lwm_agent.errors import UserError

ENV, D = "lwm/PushT-v0", 128


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load("pusht-tiny")


def make(checkpoint: Checkpoint, **settings: Any) -> LatentObservation:
    return LatentObservation(gym.make(ENV, disable_env_checker=True), checkpoint, **settings)


def embed(checkpoint: Checkpoint, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        latents: np.ndarray[Any, Any] = checkpoint.model.embed(checkpoint.normalizer.pixels(picture[None]))[0].numpy()
    return latents


def test_it_shows_the_latents_of_frame_and_goal(checkpoint: Checkpoint) -> None:
    with make(checkpoint) as env:
        latents, info = env.reset(seed=3)
        simulator: Any = env.unwrapped
        frame, goal = (embed(checkpoint, simulator.picture(info[name])) for name in ("state", "goal_state"))
        assert np.allclose(latents["observation"], frame, atol=1e-4)
        assert np.allclose(latents["achieved_goal"], frame, atol=1e-4)
        assert np.allclose(latents["desired_goal"], goal, atol=1e-4)
        assert np.abs(frame - goal).max() > 0.1
        later, _, _, _, info = env.step(np.array([0.9, -0.4], np.float32))
        assert np.allclose(later["observation"], embed(checkpoint, simulator.picture(info["state"])), atol=1e-4)
        assert np.array_equal(later["desired_goal"], latents["desired_goal"])
        assert env.observation_space.contains(later)


def test_a_goal_is_encoded_once_and_anew_when_it_changes(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(checkpoint) as env:
        calls: list[int] = []
        real = env._encode
        monkeypatch.setattr(env, "_encode", lambda pixels: (calls.append(1), real(pixels))[1])
        first, info = env.reset(seed=0)
        assert len(calls) == 2
        env.step(np.zeros(2, np.float32))
        assert len(calls) == 3
        second, _ = env.reset(options={"state": info["goal_state"], "goal_state": info["state"]})
        assert len(calls) == 5
    assert np.array_equal(second["achieved_goal"], first["desired_goal"])
    assert np.array_equal(second["desired_goal"], first["achieved_goal"])


def test_rewards_are_minus_the_distance_of_frame_and_goal(checkpoint: Checkpoint) -> None:
    with make(checkpoint) as env:
        env.reset(seed=1)
        latents, reward, *_ = env.step(np.array([0.5, 0.5], np.float32))
        expected = -np.square(latents["achieved_goal"] - latents["desired_goal"]).mean()
        assert reward == pytest.approx(expected)
        rows = np.random.default_rng(0).normal(size=(2, 7, D)).astype(np.float32)
        rewards = env.compute_reward(rows[0], rows[1], [{}] * 7)
        assert rewards.shape == (7,)
        assert rewards.dtype == np.float32
        assert [env.compute_reward(rows[0, row], rows[1, row], {}) for row in range(7)] == rewards.tolist()


def test_with_a_success_distance_rewards_are_zero_there_and_minus_one_elsewhere(checkpoint: Checkpoint) -> None:
    with make(checkpoint, success_distance=0.5) as env:
        goal = np.zeros((3, D), np.float32)
        reached = np.sqrt([0.49, 0.51, 4.0]).astype(np.float32)[:, None] * np.ones((3, D), np.float32)
        assert env.compute_reward(reached, goal, [{}] * 3).tolist() == [0, -1, -1]
        _, info = env.reset(seed=2)
        env.reset(options={"state": info["state"], "goal_state": info["state"]})
        *_, reward, _, _, _ = env.step(np.zeros(2, np.float32))
        assert reward == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("success_distance", [None, 0.3])
def test_checkers_of_gymnasium_and_stable_baselines3_accept_it(success_distance: float | None) -> None:
    env = LatentObservation(gym.make(ENV), "pusht-tiny", success_distance=success_distance)
    with closing(env):
        gymnasium_check(env)
        sb3_check(env)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_it_works_in_vector_environments(mode: str, checkpoint: Checkpoint) -> None:
    wrap = partial(LatentObservation, checkpoint="pusht-tiny")
    envs = gym.make_vec(ENV, num_envs=3, vectorization_mode=mode, wrappers=[wrap])
    with closing(envs):
        latents, _ = envs.reset(seed=5)
        assert {name: part.shape for name, part in latents.items()} == dict.fromkeys(latents, (3, D))
        latents, rewards, *_ = envs.step(envs.action_space.sample())
    with make(checkpoint) as env:
        expected = env.compute_reward(latents["achieved_goal"], latents["desired_goal"], {})
    assert np.allclose(rewards, expected)
    assert len(set(rewards)) == 3


def test_hindsight_replay_of_stable_baselines3_learns_from_it() -> None:
    settings: dict[str, Any] = {"env_kwargs": {"max_episode_steps": 5}, "wrapper_kwargs": {"checkpoint": "pusht-tiny"}}
    envs = make_vec_env(ENV, n_envs=2, seed=0, wrapper_class=LatentObservation, **settings)
    model = SAC(
        "MultiInputPolicy",
        envs,
        replay_buffer_class=HerReplayBuffer,
        learning_starts=20,
        batch_size=8,
        policy_kwargs={"net_arch": [16]},
        device="cpu",
    )
    before = model.policy.actor.state_dict()["mu.weight"].clone()
    model.learn(30)
    assert not torch.equal(before, model.policy.actor.state_dict()["mu.weight"])
    assert model.replay_buffer is not None
    samples: Any = model.replay_buffer.sample(64)
    difference = samples.next_observations["achieved_goal"] - samples.next_observations["desired_goal"]
    torch.testing.assert_close(samples.rewards[:, 0], -difference.square().mean(-1))
    assert (samples.rewards == 0).any()  # goals that were really reached


def test_what_does_not_fit_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="the model sees uint8"), gym.make(ENV, image_size=32) as env:
        LatentObservation(env, checkpoint)
    with pytest.raises(UserError, match="control_mode"), gym.make(ENV, control_mode="absolute") as env:
        LatentObservation(env, checkpoint)
    for distance in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="success_distance="):
            make(checkpoint, success_distance=distance)
    with pytest.raises(UserError, match="no checkpoint at 'nowhere'"), gym.make(ENV) as env:
        LatentObservation(env, "nowhere")

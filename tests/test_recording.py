"""Films of a loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest

from lwm_agent import Agent, RecordImagination
from lwm_agent.errors import UserError

FAST = {"device": "cpu", "num_proposals": 2}


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.load("pusht-tiny", "actor", keep_imagined=True, **FAST)


def play(env: Any, agent: Agent, steps: int, seed: int) -> None:
    observation, _ = env.reset(seed=seed)
    state = None
    for _ in range(steps):
        action, state = agent.predict(observation, state)
        env.show(state)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return


def make(agent: Agent, folder: Path, **settings: Any) -> RecordImagination:
    env = gym.make("lwm/PushT-v0", max_episode_steps=6, disable_env_checker=True)
    return RecordImagination(env, agent, folder, **settings)


def test_every_so_many_episodes_are_filmed(agent: Agent, tmp_path: Path) -> None:
    env = make(agent, tmp_path, every=2)
    play(env, agent, 6, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode-000.mp4"]  # as soon as it is over
    play(env, agent, 6, seed=1)
    play(env, agent, 2, seed=2)
    env.close()  # before the episode is over
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode-000.mp4", "episode-002.mp4"]
    films = [iio.imread(tmp_path / f"episode-00{number}.mp4") for number in (0, 2)]
    assert [film.shape for film in films] == [(7 + 10, 608, 1104, 3), (3 + 10, 608, 1104, 3)]


def test_it_changes_nothing(agent: Agent, tmp_path: Path) -> None:
    plain = gym.make("lwm/PushT-v0", max_episode_steps=6, disable_env_checker=True)
    env = make(agent, tmp_path)
    action = np.array([0.7, -0.2], np.float32)
    for each in (env, plain):
        each.reset(seed=4)
    first, second = env.step(action), plain.step(action)
    np.testing.assert_array_equal(first[0]["pixels"], second[0]["pixels"])
    np.testing.assert_array_equal(first[4]["state"], second[4]["state"])
    assert first[1:4] == second[1:4]


def test_films_show_the_world_of_the_episode(agent: Agent, tmp_path: Path) -> None:
    env = make(agent, tmp_path, suffixes=(".gif",))
    for color in ((0, 0, 255), (255, 255, 255)):
        env.reset(seed=0, options={"variation": {"background_color": color}})
    env.close()
    blue, white = (iio.imread(tmp_path / f"episode-00{number}.gif", index=0)[..., :3] for number in (0, 1))
    assert ((white > 200).all(-1) & (blue[..., 2] > 200) & (blue[..., :2] < 60).all(-1)).mean() > 0.1


class Dot(gym.Env[Any, Any]):
    """An environment that is no `GoalImageEnv`: a white dot that stays."""

    def __init__(self) -> None:
        box = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"pixels": box, "goal": box})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _observe(self) -> dict[str, np.ndarray]:
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[10:14, 20:24] = 255
        return {"pixels": pixels, "goal": pixels[::-1].copy()}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._observe(), 0.0, False, False, {}


def test_environments_of_others_are_filmed_as_they_are_observed(agent: Agent, tmp_path: Path) -> None:
    env = RecordImagination(Dot(), agent, tmp_path, suffixes=(".gif",))
    play(env, agent, 6, seed=0)
    env.close()
    film = iio.imread(tmp_path / "episode-000.gif")
    assert film.shape[1:] == (608, 832, 3)  # now, goal and the imagined end: nobody knows where plans lead
    panel = film[0][48:304, 16:272].mean(-1)
    assert panel[46, 86] > 200
    assert panel[200:, 200:].max() < 60


def test_what_does_not_fit_is_refused(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make it with keep_imagined=True"):
        make(Agent.load("pusht-tiny", "actor", **FAST), tmp_path)
    with pytest.raises(UserError, match="every=0 must be at least 1"):
        make(agent, tmp_path, every=0)
    with pytest.raises(UserError, match=r"every=1\.5 must be int"):
        make(agent, tmp_path, every=1.5)
    with pytest.raises(UserError, match=r"suffixes=\(\) names no format: choose some of .mp4, .gif"):
        make(agent, tmp_path, suffixes=())
    with pytest.raises(UserError, match=r"choose one of \.mp4, \.gif"):
        make(agent, tmp_path, suffixes=(".avi",))
    with pytest.raises(UserError, match="films need a Dict with 'pixels' and 'goal'"):
        RecordImagination(gym.make("CartPole-v1"), agent, tmp_path)


def test_agents_without_a_plan_are_filmed_too(tmp_path: Path) -> None:
    policy = Agent.load("pusht-tiny", "policy", device="cpu")
    env = make(policy, tmp_path)
    play(env, policy, 3, seed=0)
    env.close()
    assert iio.imread(tmp_path / "episode-000.mp4").shape[1:] == (608, 560, 3)

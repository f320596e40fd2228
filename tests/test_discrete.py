"""Discrete actions: recorded one-hot, learned from, planned by categorical-cem, and taken as indices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from lwm_agent import Agent
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.pictures import area_resize
from lwm_agent.data.trajectories import DatasetError
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.planners import make_planner, plan
from lwm_agent.planners.categorical_cem import _sample
from lwm_agent.protocols import Problem
from lwm_agent.training.config import HeadsConfig, TrainConfig
from lwm_agent.training.heads import train_heads
from lwm_agent.training.train import train

B, S, T, F, A = 2, 64, 3, 2, 5
LOW, HIGH = torch.linspace(-0.9, -0.1, A).repeat(F), torch.linspace(1.0, 3.0, A).repeat(F)
MODEL: dict[str, Any] = {"image_size": 32, "latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1}
ENV = "CartPole-v1"


def blocks_of(choices: Tensor) -> Tensor:
    """Blocks ``(..., T, F*A)`` that take the actions `choices` ``(..., T, F)``."""
    taken = torch.nn.functional.one_hot(choices, A).flatten(-2).bool()
    return torch.where(taken, HIGH, LOW)


def make_problem(target: Tensor, init: Tensor | None = None) -> Problem:
    """To take the actions `target` ``(B, T, F)``: each that differs costs 1."""
    wanted = blocks_of(target)
    return Problem(
        objective=lambda actions: (actions != wanted[:, None]).flatten(2).sum(dim=2) / 2.0,
        init=torch.zeros(B, T, F * A) if init is None else init,
        scale=torch.ones(B, T, F * A),
        low=LOW,
        high=HIGH,
        generators=[torch.Generator().manual_seed(i) for i in range(B)],
        action_size=A,
    )


def test_it_finds_the_one_sequence_that_costs_nothing() -> None:
    target = torch.randint(A, (B, T, F), generator=torch.Generator().manual_seed(0))
    result = plan(make_planner("categorical-cem", num_samples=256, iterations=8), make_problem(target))
    torch.testing.assert_close(result.actions, blocks_of(target))
    assert result.cost.tolist() == [0.0, 0.0]


def test_shortest_problem() -> None:
    """One block of one environment step, as at an episode's end."""
    problem = make_problem(torch.zeros(B, T, F, dtype=torch.long))
    cost = torch.tensor([3.0, 2.0, 5.0, 1.0, 4.0])
    short = replace(
        problem,
        objective=lambda actions: ((actions == HIGH[:A]) * cost).flatten(2).sum(dim=2),
        init=torch.zeros(B, 1, A),
        scale=torch.ones(B, 1, A),
        low=LOW[:A],
        high=HIGH[:A],
    )
    result = plan(make_planner("categorical-cem"), short)
    assert result.actions[:, 0].argmax(dim=1).tolist() == [3, 3]


def test_candidates_take_one_action_a_step_as_often_as_its_chance() -> None:
    problem = make_problem(torch.zeros(B, T, F, dtype=torch.long))
    chances = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0]).expand(B, T * F, A)
    candidates = _sample(problem, chances, 4000)
    taken = (candidates == HIGH).unflatten(-1, (F, A))
    assert ((candidates == HIGH) | (candidates == LOW)).all()
    assert (taken.sum(dim=-1) == 1).all()
    torch.testing.assert_close(taken.float().mean(dim=(1, 2, 3)), chances[:, 0], atol=0.02, rtol=0)
    assert taken[:, 0, ..., 0].all()  # the likeliest


def test_it_starts_from_what_is_left_of_the_last_plan() -> None:
    target = torch.randint(A, (B, T, F), generator=torch.Generator().manual_seed(1))
    kept = plan(make_planner("categorical-cem", iterations=1), make_problem(target, init=blocks_of(target)))
    assert kept.cost.tolist() == [0.0, 0.0]
    fresh = plan(make_planner("categorical-cem", iterations=1), make_problem(target))
    assert (fresh.cost > 0).all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("discrete") / "cartpole.h5"
    settings = {"episodes": 24, "episode_env_steps": 30, "workers": 1, "image_size": 32}
    return collect(CollectConfig(out=out, env=ENV, policy="random", **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("run")
    fixed = {"steps": 2, "batch_size": 4, "clip_length": 3, "validate_every": 2, "save_every": 2, "device": "cpu"}
    model = {**MODEL, "frameskip": 3}
    return train(
        TrainConfig.from_preset("tiny", data=(str(data),), out=str(out), env=ENV, model_settings=model, **fixed)
    )


class GoalPictures(gym.ObservationWrapper[Any, Any, Any]):
    """What the agent needs of any environment: its picture and that of a goal."""

    goal: NDArray[np.uint8] = np.full((32, 32, 3), 255, np.uint8)

    def observation(self, observation: Any) -> dict[str, NDArray[np.uint8]]:
        return {"pixels": area_resize(self.render(), 32), "goal": self.goal}  # type: ignore[arg-type]


def test_actions_are_recorded_one_hot(data: Path) -> None:
    with h5py.File(data) as file:
        assert file.attrs["discrete"]
        actions = file["action"][:]
    actions = actions[np.isfinite(actions).all(axis=1)]
    assert actions.shape[1] == 2
    assert set(map(tuple, actions)) == {(0.0, 1.0), (1.0, 0.0)}


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
@pytest.mark.parametrize("replan_every_env_steps", [None, 2])
def test_a_trained_agent_acts_by_indices(checkpoint: Checkpoint, replan_every_env_steps: int | None) -> None:
    planner = make_planner("categorical-cem", num_samples=8, num_elites=2, iterations=2)
    agent = Agent(checkpoint, planner, horizon=2, replan_every_env_steps=replan_every_env_steps)
    seen = []
    with GoalPictures(gym.make(ENV, render_mode="rgb_array")) as env:
        observation, _ = env.reset(seed=0)
        state = None
        for _ in range(7):
            seen.append(observation)
            action, state = agent.predict(observation, state)
            assert env.action_space.contains(action)
            observation, *_ = env.step(action)
    batch = {key: np.stack([seen[0][key], seen[-1][key]]) for key in seen[0]}
    actions, together = agent.predict(batch)
    assert actions.shape == (2,)
    assert actions.dtype == np.int64
    for row, i in enumerate((0, -1)):
        _, alone = agent.predict(seen[i])
        torch.testing.assert_close(alone.plan[0], together.plan[row])


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_planners_and_heads_of_continuous_actions_are_refused(
    checkpoint: Checkpoint, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="CEM cannot plan: the checkpoint's actions are discrete; choose categ"):
        Agent(checkpoint, "cem")
    with pytest.raises(ValueError, match="BestProposal cannot plan: the checkpoint's actions are discrete"):
        Agent(checkpoint, "actor")
    continuous = replace(checkpoint, normalizer=replace(checkpoint.normalizer, discrete=False))
    with pytest.raises(ValueError, match="CategoricalCEM cannot plan: the checkpoint's actions are continuous"):
        Agent(continuous, "categorical-cem")
    checkpoint.save(tmp_path / "checkpoint", "")
    assert Checkpoint.load(tmp_path / "checkpoint").normalizer.discrete
    with pytest.raises(DatasetError, match="heads need continuous actions"):
        train_heads(HeadsConfig(checkpoint=str(tmp_path / "checkpoint"), data=(str(data),)))


def test_an_action_that_is_never_taken_is_named(tmp_path: Path) -> None:
    pixels, rows = np.zeros((20, 32, 32, 3), np.uint8), np.eye(3)[[0, 2] * 9 + [0]]
    with TrajectoryWriter(tmp_path / "some.h5", discrete=True) as writer:
        for _ in range(4):
            writer.add(pixels, rows)
    settings = {
        "data": (str(tmp_path / "some.h5"),),
        "out": str(tmp_path / "run"),
        "model_settings": MODEL,
        "clip_length": 3,
    }
    with pytest.raises(DatasetError, match="actions 1 are never taken"):
        train(TrainConfig.from_preset("tiny", **settings))


def test_rows_must_be_one_hot(tmp_path: Path) -> None:
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    with (
        TrajectoryWriter(tmp_path / "bad.h5", discrete=True) as writer,
        pytest.raises(DatasetError, match="must be one-hot rows"),
    ):
        writer.add(pixels, np.array([[0.0, 1.0], [0.5, 0.5]]))


@pytest.mark.parametrize("space", [gym.spaces.MultiDiscrete([2, 3]), gym.spaces.Discrete(3, start=1)])
def test_other_spaces_are_refused(space: gym.Space[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Dials-v0", EnvSpec("Dials-v0", lambda **kwargs: Dials(space)))
    with pytest.raises(ValueError, match=r"acts in .*Discrete.*only a Box of one axis, or a Discrete from 0"):
        collect(CollectConfig(env="Dials-v0", out=tmp_path / "x.h5", policy="random", workers=1))


class Dials(gym.Env[Any, Any]):
    """Not to be planned in."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Discrete(1)

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = action_space
        self.render_mode = "rgb_array"

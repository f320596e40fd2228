"""The agent in Gymnasium's and Stable-Baselines3's loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from lwm_agent import Agent
from lwm_agent.agent.replanner import Replanner
from lwm_agent.agent.state import AgentState
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.compute.device import can_compile
from lwm_agent.errors import UserError, UserTypeError
from lwm_agent.models import MODELS, PREDICTORS, Heads, LeWorldModel
from lwm_agent.models.window import Window
from lwm_agent.normalizer import Normalizer
from lwm_agent.planners import PLANNERS, Budget, make_planner
from lwm_agent.protocols import Belief, Problem

ENV = "lwm/PushT-v0"
MODEL: dict[str, Any] = {
    **MODELS["lewm"].presets["tiny"],
    "image_size": 32,
    "latent_size": 8,
    "width": 16,
    "head_size": 4,
    "mlp_size": 16,
    "depth": 1,
    "history": 3,
    "action_size": 2,
    "frameskip": 5,
}
CONTINUOUS = [name for name, planner in PLANNERS.items() if not planner.discrete]
SMALL: dict[str, dict[str, Any]] = {name: {"num_samples": 7, "iterations": 2} for name in CONTINUOUS}
for name in ("cem", "icem", "guided"):
    SMALL[name]["num_elites"] = 3
SMALL["grasp"] |= {"sync_steps": 1, "lifted_steps": 2}
SMALL["actor"] = SMALL["policy"] = {}


def checkpoint(predictor: str = "transformer", kind: type[LeWorldModel] = LeWorldModel) -> Checkpoint:
    torch.manual_seed(0)
    model = kind(**MODEL, predictor=predictor).eval().requires_grad_(False)
    for parameter in model.predictor.parameters():  # AdaLN-zero starts as a constant: give actions an effect
        torch.nn.init.normal_(parameter, std=0.3)
    normalizer = Normalizer(
        pixel_mean=(0.9, 0.9, 0.9),
        pixel_std=(0.2, 0.2, 0.2),
        action_mean=(0.1, 0.0),
        action_std=(0.4, 0.3),
        action_low=(-0.8, -1.0),
        action_high=(0.9, 1.0),
    )
    return Checkpoint(
        name="lewm",
        model_config=MODEL,
        model=model,
        normalizer=normalizer,
        env="pusht",
        env_kwargs={"image_size": 32},
        training={"steps": 1},
        heads=Heads(latent_size=8, block_size=10, width=16, max_steps=6, contrast=True).eval().requires_grad_(False),
    )


def make_agent(
    planner: str = "cem", predictor: str = "transformer", kind: type[LeWorldModel] = LeWorldModel, **settings: Any
) -> Agent:
    # The plain planners are tested without a proposal, which has tests of its own.
    plain = {} if planner in ("actor", "guided") else {"proposal": "none"}
    settings = {"device": "cpu", "bf16": False, **plain, **settings}
    return Agent(checkpoint(predictor, kind), make_planner(planner, **SMALL[planner]), **settings)


class CountingModel(LeWorldModel):
    """A world model that counts the blocks it imagines, twice those with a gradient."""

    blocks, most_at_once = 0, 0

    def rollout(self, belief: Belief, actions: torch.Tensor) -> torch.Tensor:
        self.blocks += actions[..., 0].numel() * (2 if actions.requires_grad else 1)
        self.most_at_once = max(self.most_at_once, actions.shape[0] * actions.shape[1])
        return super().rollout(belief, actions)

    def imagine(self, belief: Belief, block: torch.Tensor) -> Any:
        self.blocks += len(block)
        return super().imagine(belief, block)

    def step(self, latents: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        self.blocks += 2 * len(blocks)
        self.most_at_once = max(self.most_at_once, len(blocks))
        return super().step(latents, blocks)


def counted(agent: Agent) -> CountingModel:
    assert isinstance(agent.model, CountingModel)
    return agent.model


@pytest.mark.parametrize("budget", [None, Budget(rollouts=40), Budget(iterations=1), Budget(flops=2e6)])
@pytest.mark.parametrize("planner", [*CONTINUOUS, "cem+gradient"])
def test_counted_rollouts_are_those_that_the_model_imagines(planner: str, budget: Budget | None) -> None:
    chain = {"first.num_samples": 3, "first.num_elites": 2, "first.iterations": 2, "second.num_samples": 3}
    made = make_planner(planner, **SMALL.get(planner, chain))
    counting = checkpoint(kind=CountingModel)
    agent = Agent(counting, made, device="cpu", bf16=False, num_proposals=4, horizon=3, budget=budget)
    _, state = agent.predict(observations(2))
    for decision in state.decisions:
        assert decision is not None
        assert decision.rollouts == counted(agent).blocks / (2 * 3)  # of two episodes, three blocks each
        assert budget is None or decision.rollouts <= (budget.rollouts or math.inf)
        assert budget is None or decision.flops <= (budget.flops or math.inf)
        assert budget is None or len(decision.trace) <= (budget.iterations or math.inf)


@pytest.mark.parametrize("planner", [*(name for name in CONTINUOUS if name != "policy"), "cem+gradient"])
@pytest.mark.parametrize("env", ["pusht", "cube"])
def test_every_planner_keeps_budgets_in_every_unit_with_the_models_of_the_package(env: str, planner: str) -> None:
    agent = Agent.load(f"{env}-tiny", planner, device="cpu", num_proposals=2, horizon=2)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for name in ("pixels", "goal")}

    def decide(**limit: float) -> Any:
        agent.decider = replace(agent.replanner, budget=Budget(**limit))  # type: ignore[arg-type]
        return agent.predict(batch)[1].decisions[0]

    freely = decide(iterations=2)
    assert len(freely.trace) == (1 if planner == "actor" else 2)
    late = decide(seconds=1e-6)
    assert late.overshoot > 0
    if planner == "actor":  # which spends nothing beyond the proposals
        for limit in ({"rollouts": freely.rollouts - 1}, {"flops": freely.flops - 1}):
            with pytest.raises(ValueError, match="too small"):
                decide(**limit)
        return
    assert decide(rollouts=freely.rollouts - 1).rollouts < freely.rollouts
    assert decide(flops=freely.flops - 1).flops < freely.flops
    assert late.rollouts < freely.rollouts


def make_env(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(ENV, image_size=32, max_episode_steps=12, **kwargs)


def observations(count: int) -> dict[str, np.ndarray]:
    with make_env() as env:
        seen = [env.reset(seed=seed)[0] for seed in range(count)]
    return {key: np.stack([observation[key] for observation in seen]) for key in seen[0]}


@pytest.mark.parametrize("planner", CONTINUOUS)
def test_every_planner_acts_in_a_gymnasium_loop(planner: str) -> None:
    agent = make_agent(planner, deadline_env_steps=12)
    with make_env() as env:
        observation, _ = env.reset(seed=0)
        state, planned, over = None, [], False
        while not over:
            action, state = agent.predict(observation, state)
            assert env.action_space.contains(action)
            assert (action >= np.array((-0.8, -1.0), np.float32)).all()
            assert (action <= np.array((0.9, 1.0), np.float32)).all()
            observation, _, terminated, truncated, _ = env.step(action)
            planned.append(state.decisions[0] is not None)
            over = terminated or truncated
    assert planned == [step % 5 == 0 for step in range(12)]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_agent_pursues_the_goals_of_vector_envs_under_each_autoreset_mode(mode: AutoresetMode) -> None:
    """The loops of the README: every decision is for the goal in the picture, and no memory outlives an episode."""
    agent = make_agent(replan_every_env_steps=3)
    envs = gym.make_vec(
        ENV,
        num_envs=3,
        vectorization_mode="sync",
        image_size=32,
        max_episode_steps=12,
        vector_kwargs={"autoreset_mode": mode},
    )
    observation, _ = envs.reset(seed=1)
    state, start, ages = None, np.ones(3, bool), np.zeros(3, int)
    begun = np.zeros(3, int)
    for step in range(30):
        action, state = agent.predict(observation, state, episode_start=start)
        assert action.shape == (3, 2)
        assert np.array_equal(state.goal_pixels, observation["goal"])
        torch.testing.assert_close(state.goal, agent.observer.begin(observation["goal"]).latent, atol=1e-5, rtol=0)
        begun += start
        assert np.array_equal(state.ages, ages + 1), step
        observation, _, terminated, truncated, _ = envs.step(action)
        over = terminated | truncated
        ages = np.where(start & (mode == AutoresetMode.NEXT_STEP) & (step > 0), 0, ages + 1)
        if mode == AutoresetMode.DISABLED and over.any():
            observation, _ = envs.reset(options={"reset_mask": over})
        start = over
        ages = np.where(over, 0, ages)
    envs.close()
    assert (begun >= 2).all()


@pytest.mark.parametrize("changed", ["goal", "goal and frame"])
def test_new_goal_picture_starts_an_episode_anew(changed: str) -> None:
    agent, pictures = make_agent(deadline_env_steps=9), observations(4)
    first = {name: value[:2] for name, value in pictures.items()}
    _, state = agent.predict(first)
    for _ in range(6):
        _, state = agent.predict(first, state)
    later = {"goal": np.stack([first["goal"][0], pictures["goal"][3]]), "pixels": first["pixels"].copy()}
    if changed == "goal and frame":
        later["pixels"][1] = pictures["pixels"][3]
    expected, fresh = agent.predict({name: value[1:] for name, value in later.items()})
    kept, _ = agent.predict({name: value[:1] for name, value in later.items()}, state[[0]])
    actions, state = agent.predict(later, state)
    np.testing.assert_allclose(actions, np.concatenate([kept, expected]), atol=1e-4)
    assert state.ages.tolist() == [8, 1]
    assert torch.allclose(state.goal[1], fresh.goal[0], atol=1e-5)


def test_state_keeps_no_reference_to_the_observation() -> None:
    agent, batch = make_agent(), observations(2)
    _, state = agent.predict(batch)
    expected, _ = agent.predict(batch, state)
    seen = {name: value.copy() for name, value in batch.items()}
    _, state = agent.predict(seen)
    for value in seen.values():
        value[:] = 0
    assert np.array_equal(agent.predict(batch, state)[0], expected)


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_stable_baselines3_evaluates_it(kind: type[DummyVecEnv] | type[SubprocVecEnv]) -> None:
    # Not make_env: worker processes cannot import this file.
    make = partial(gym.make, f"lwm_agent:{ENV}", image_size=32, max_episode_steps=12)
    envs = kind([make, make])
    try:
        rewards, lengths = evaluate_policy(make_agent(), envs, n_eval_episodes=4, return_episode_rewards=True)  # type: ignore[arg-type]
    finally:
        envs.close()
    assert len(rewards) == 4
    assert all(1 <= length <= 12 for length in lengths)


def test_the_same_seed_acts_the_same_and_another_does_not() -> None:
    observation = observations(1)
    first, again, other = (make_agent(seed=seed).predict(observation)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_random_acting_differs_from_call_to_call() -> None:
    agent, observation = make_agent(), observations(1)
    fixed = [agent.predict(observation)[0] for _ in range(2)]
    drawn = [agent.predict(observation, deterministic=False)[0] for _ in range(2)]
    assert np.array_equal(*fixed)
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize("planner", CONTINUOUS)
def test_an_episode_is_acted_the_same_alone_and_in_a_batch(planner: str) -> None:
    agent, batch = make_agent(planner), observations(4)
    together, state = agent.predict(batch)
    for i in (3, 0):
        alone, lonely = agent.predict({key: value[i] for key, value in batch.items()})
        assert alone.shape == (2,)
        assert np.allclose(together[i], alone, atol=1e-4)
        assert state.decisions[i].cost == pytest.approx(lonely.decisions[0].cost, rel=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("planner", ["cem", "gradient", "grasp"])
def test_chunks_bound_what_is_imagined_at_once_and_change_nothing(planner: str) -> None:
    batch, actions = observations(3), []
    for limit in (10_000, 15, 3, 1):  # all episodes of 7 candidates, two, a part of one, a single candidate
        agent = make_agent(planner, kind=CountingModel, max_rollouts=limit)
        actions.append(agent.predict(batch)[0])
        horizon = agent.schedule.horizon if planner == "grasp" else 1  # its lifted steps are taken side by side
        assert counted(agent).most_at_once <= limit * horizon
    for chunked in actions[1:]:
        assert np.allclose(actions[0], chunked, atol=1e-4)


def remembered(state: AgentState) -> list[int]:
    """Frames in the belief of each episode."""
    beliefs = state.beliefs
    assert isinstance(beliefs, Window)
    lengths: list[int] = beliefs.length[:, 0].tolist()
    return lengths


def test_an_episode_start_clears_its_own_rows_only() -> None:
    agent, batch = make_agent(), observations(2)
    _, state = agent.predict(batch)
    for _ in range(7):
        _, state = agent.predict(batch, state, episode_start=[False, False])
    assert state.ages.tolist() == [8, 8]
    assert remembered(state) == [2, 2]
    _, state = agent.predict(batch, state, episode_start=[False, True])
    assert state.ages.tolist() == [9, 1]
    assert remembered(state) == [2, 1]


@pytest.mark.parametrize("replan_every_env_steps", [None, 1, 3])
def test_a_mixed_batch_acts_as_its_episodes_do_alone(replan_every_env_steps: int | None) -> None:
    """One planning call serves rows of any age: no row may see another's history, horizon or random numbers."""
    agent, batch = make_agent(deadline_env_steps=20, replan_every_env_steps=replan_every_env_steps), observations(2)
    first = {key: value[:1] for key, value in batch.items()}
    _, old = agent.predict(first)
    for _ in range(5 if replan_every_env_steps == 3 else 4):
        _, old = agent.predict(first, old)
    expected_old, _ = agent.predict(first, old)
    expected_new, _ = agent.predict({key: value[1:] for key, value in batch.items()})
    stale = old[[0, 0]]
    actions, state = agent.predict(batch, stale, episode_start=[False, True])
    assert np.allclose(actions, np.concatenate([expected_old, expected_new]), atol=1e-4)
    assert [decision.batch for decision in state.decisions] == [2, 2]  # type: ignore[union-attr]


def test_states_can_be_selected() -> None:
    _, state = make_agent().predict(observations(3))
    kept = state[np.array([2, 0])]
    assert len(kept) == 2
    assert kept.seeds.tolist() == state.seeds[[2, 0]].tolist()
    assert torch.equal(kept.plan, state.plan[[2, 0]])
    assert torch.equal(kept.beliefs.latents, state.beliefs.latents[[2, 0]])  # type: ignore[attr-defined]
    assert kept.decisions == (state.decisions[2], state.decisions[0])


@pytest.mark.parametrize("replan_every_env_steps", [1, 2, 5, 10])
def test_it_imagines_from_frames_a_block_apart_and_the_actions_really_taken(replan_every_env_steps: int) -> None:
    agent, stream = make_agent(replan_every_env_steps=replan_every_env_steps), observations(16)
    stream["goal"][:] = stream["goal"][0]
    state, executed = None, []
    for step in range(16):
        with watched_problems(agent) as problems:
            action, state = agent.predict({key: value[step : step + 1] for key, value in stream.items()}, state)
        executed.append(action[0])
        assert len(problems) == (step % replan_every_env_steps == 0)
        for problem in problems:
            belief = problem.objective.belief  # type: ignore[attr-defined]
            frames = [*range(step % 5, step + 1, 5)][-3:]
            latents = agent.observer.begin(stream["pixels"][frames]).latent
            assert belief.length.tolist() == [len(frames)]
            assert torch.allclose(belief.latents[0, 3 - len(frames) :], latents, atol=1e-5)
            units = agent.checkpoint.normalizer
            blocks = [units.blocks(np.stack(executed[first : first + 5])) for first in frames[:-1]]
            assert not blocks or torch.allclose(belief.actions[0, 2 - len(blocks) :], torch.stack(blocks), atol=1e-5)


@contextmanager
def watched_problems(agent: Agent) -> Iterator[list[Problem]]:
    """The problems that the agent poses inside."""
    problems: list[Problem] = []
    pose = Replanner.problem

    def problem(self: Replanner, *args: Any, **kwargs: Any) -> Problem:
        problems.append(pose(self, *args, **kwargs))
        return problems[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replanner, "problem", problem)
        yield problems


def test_a_new_plan_starts_from_what_is_left_of_the_last() -> None:
    agent, batch = make_agent(horizon=2, replan_every_env_steps=3), observations(1)
    _, state = agent.predict(batch)
    for _ in range(2):
        _, state = agent.predict(batch, state)
    left = state.plan[:, :7]
    assert torch.equal(state.plan[:, 7:], torch.zeros(1, 3, 2))
    with watched_problems(agent) as problems:
        agent.predict(batch, state)
    init = problems[0].init.unflatten(2, (5, 2)).flatten(1, 2)
    assert torch.equal(init, torch.cat([left, torch.zeros(1, 3, 2)], dim=1))


def test_the_horizon_shrinks_towards_the_deadline() -> None:
    agent, batch = make_agent(deadline_env_steps=17, horizon=3), observations(1)
    state, horizons = None, []
    for _ in range(20):
        with watched_problems(agent) as problems:
            _, state = agent.predict(batch, state)
        horizons += [problem.init.shape[1] for problem in problems]
    assert horizons == [3, 3, 2, 1]


def test_the_last_block_before_the_deadline_is_taken_whole() -> None:
    agent, batch = make_agent(deadline_env_steps=12, horizon=3, replan_every_env_steps=1), observations(1)
    state, horizons = None, []
    for _ in range(12):
        with watched_problems(agent) as problems:
            _, state = agent.predict(batch, state)
        horizons += [problem.init.shape[1] for problem in problems]
    assert horizons == [3, 3, 2, 2, 2, 2, 2, 1]  # from 12 steps left to 5


@pytest.mark.parametrize("replan_every_env_steps", [None, 1, 4, 5, 10, 15])
def test_it_replans_when_told(replan_every_env_steps: int | None) -> None:
    agent, batch = make_agent(horizon=3, replan_every_env_steps=replan_every_env_steps), observations(1)
    state, planned = None, []
    for step in range(31):
        _, state = agent.predict(batch, state)
        if state.decisions[0] is not None:
            planned.append(step)
    assert planned == list(range(0, 31, replan_every_env_steps or 5))


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_bfloat16_weights_are_cast_once_and_leave_the_checkpoint_alone(predictor: str) -> None:
    agent = make_agent("guided", predictor, bf16=True)
    assert {weight.dtype for weight in agent.checkpoint.model.parameters()} == {torch.float32}
    assert agent.model.predictor.input_proj.weight.dtype == torch.bfloat16
    uncast = make_agent("guided", predictor, bf16=True)
    model, heads = uncast.checkpoint.model, uncast.checkpoint.heads
    assert uncast.replanner.proposal is not None
    assert heads is not None
    uncast.observer = replace(uncast.observer, model=model)
    proposal = replace(uncast.replanner.proposal, model=model, actor=heads)
    uncast.decider = replace(uncast.replanner, observer=uncast.observer, actor=heads, proposal=proposal)
    batch = observations(2)
    assert np.array_equal(agent.predict(batch)[0], uncast.predict(batch)[0])


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler, or no Python headers")
@pytest.mark.parametrize(
    ("planner", "predictor", "device"),
    [
        ("guided", "transformer", "cpu"),
        ("cem", "mlp", "cpu"),
        pytest.param("gradient", "transformer", "cpu", marks=pytest.mark.slow),
        pytest.param("guided", "transformer", "cuda", marks=pytest.mark.cuda),
        pytest.param("cem", "mlp", "cuda", marks=pytest.mark.cuda),
        pytest.param("gradient", "transformer", "cuda", marks=pytest.mark.cuda),
    ],
)
def test_compiled_it_imagines_the_same(planner: str, predictor: str, device: str) -> None:
    costs, batch = [], observations(2)
    cost = "best-step" if planner == "cem" else "best-step+actor-deviation+contrast"
    for compiled in (False, True):
        found: list[float] = []
        for deadline in (None, 5):  # two blocks ahead, then one
            settings: dict[str, Any] = {"device": device, "compile": compiled, "deadline_env_steps": deadline}
            agent = make_agent(planner, predictor, horizon=2, cost=cost, **settings)
            _, state = agent.predict(batch)
            found += [decision.cost for decision in state.decisions]  # type: ignore[union-attr]
        costs.append(found)
    assert costs[1] == pytest.approx(costs[0], abs=1e-4)
    assert agent.settings()["compile"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert {"rollout", "imagine"} <= vars(agent.model).keys()
    heads = agent.replanner.actor
    assert isinstance(heads, Heads)
    assert "deviations" in vars(heads)
    assert "act" in vars(heads)
    assert "contrasts" in vars(heads)
    assert "rollout" not in vars(agent.checkpoint.model)


def test_without_a_compiler_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_agent.compute.device.which", lambda name: None)
    with pytest.raises(ValueError, match=r"apt install g\+\+ python3-dev"):
        make_agent(compile=True)


def test_budgets_reach_the_planner() -> None:
    agent = make_agent(budget=Budget(rollouts=8))
    _, state = agent.predict(observations(1))
    assert state.decisions[0].rollouts == 7  # type: ignore[union-attr]
    assert state.decisions[0].flops == 7 * agent.model.rollout_flops(5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"pixels": np.zeros((32, 32, 3), np.uint8)}, "needs observations"),
        (np.zeros((32, 32, 3), np.uint8), "needs observations"),
        ({key: np.zeros((64, 64, 3), np.uint8) for key in ("pixels", "goal")}, r"32-px frames.*image_size=32"),
        ({key: np.zeros((32, 32, 3), np.float32) for key in ("pixels", "goal")}, "uint8"),
    ],
)
def test_wrong_observations_are_named(observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent().predict(observation)


def test_wrong_states_and_settings_are_named() -> None:
    agent, batch = make_agent(), observations(2)
    _, state = agent.predict(batch)
    with pytest.raises(ValueError, match="2 observations do not fit"):
        agent.predict(batch, state[[0]])
    with pytest.raises(ValueError, match="replan_every_env_steps=26 must be from 1 to 25"):
        make_agent(replan_every_env_steps=26)
    with pytest.raises(ValueError, match="replan_every_env_steps=0 must be positive"):
        make_agent(replan_every_env_steps=0)
    with pytest.raises(ValueError, match="horizon=0"):
        make_agent(horizon=0)
    with pytest.raises(ValueError, match="proposal_std=-1"):
        make_agent(proposal_std=-1.0)
    with pytest.raises(ValueError, match="deadline_env_steps=0"):
        make_agent(deadline_env_steps=0)
    with pytest.raises(ValueError, match=r"device='tpu'.*auto, cpu"):
        make_agent(device="tpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 2.5}, r"agent\.horizon=2\.5 must be int"),
        ({"replan_every_env_steps": 1.5}, r"agent\.replan_every_env_steps=1\.5 must be int"),
        ({"num_proposals": "4"}, r"agent\.num_proposals='4' must be int"),
        ({"bf16": 1}, r"agent\.bf16=1 must be bool"),
        ({"cost": 3}, r"agent\.cost=3 must be str"),
        ({"seed": -1}, r"agent\.seed=-1 must be at least 0"),
        ({"budget": 300}, r"budget=300 is no Budget: write Budget\(rollouts="),
    ],
)
def test_arguments_of_a_wrong_type_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_agent(**settings)


def test_a_name_is_no_checkpoint() -> None:
    with pytest.raises(
        UserTypeError, match=r"checkpoint='pusht-tiny' is no Checkpoint: use Agent.load\('pusht-tiny'\)"
    ):
        Agent("pusht-tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize(("planner", "horizon", "steps"), [("cem", 5, 20), ("cem", 2, 10), ("policy", 5, 5)])
def test_a_checkpoints_advice_is_no_longer_than_a_plan(planner: str, horizon: int, steps: int) -> None:
    advised = replace(checkpoint(), replan_every_env_steps=20)
    assert Agent(advised, planner, horizon=horizon, device="cpu").schedule.replan_every_env_steps == steps


def test_where_nobody_names_a_planner_it_searches_around_the_actor_if_there_is_one() -> None:
    with_actor = checkpoint()
    discrete = replace(with_actor, normalizer=replace(with_actor.normalizer, discrete=True), heads=None)
    chosen = {
        "guided": Agent(with_actor, device="cpu"),
        "cem": Agent(replace(with_actor, heads=None), device="cpu"),
        "categorical-cem": Agent(discrete, device="cpu"),
    }
    assert {name: type(agent.planner) for name, agent in chosen.items()} == {name: PLANNERS[name] for name in chosen}
    assert type(Agent(with_actor, proposal="none", device="cpu").planner) is PLANNERS["cem"]


def test_it_loads_from_a_folder(tmp_path: Path) -> None:
    saved = checkpoint()
    saved.save(tmp_path / "one", "")
    planner = make_planner("cem", **SMALL["cem"])
    loaded = Agent.load(tmp_path / "one", planner, device="cpu", bf16=False, proposal="actor")
    batch = observations(1)
    assert np.allclose(loaded.predict(batch)[0], make_agent(proposal="actor").predict(batch)[0], atol=0.02)


@pytest.mark.cuda
@pytest.mark.parametrize("planner", CONTINUOUS)
def test_it_plans_on_cuda(planner: str) -> None:
    action, _ = make_agent(planner, device="cuda").predict(observations(2))
    assert action.shape == (2, 2)

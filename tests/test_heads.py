"""Heads: what they learn on frozen latents, how they travel in a checkpoint, and what the agent makes of them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from lwm_agent import Agent
from lwm_agent.agent.objective import ModelObjective
from lwm_agent.agent.proposal import make_proposal
from lwm_agent.checkpoint import Checkpoint, CheckpointError, checksum
from lwm_agent.cli.main import app
from lwm_agent.data.trajectories import DatasetError, Trajectories
from lwm_agent.model_card import model_card
from lwm_agent.models import Heads
from lwm_agent.models.heads import Contrast
from lwm_agent.models.window import Window, make_window
from lwm_agent.planners import COSTS, PLANNERS, Budget, make_cost
from lwm_agent.protocols import Problem
from lwm_agent.training.config import HeadsConfig, TrainConfig
from lwm_agent.training.heads import Pairs, train_heads
from lwm_agent.training.train import train

D, BLOCK, N = 7, 6, 5
MODEL = {
    "image_size": 32,
    "latent_size": 8,
    "width": 16,
    "head_size": 4,
    "mlp_size": 16,
    "depth": 1,
    "sigreg_directions": 16,
}


@pytest.fixture(scope="module")
def bare(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without heads, of a model that was trained for a moment."""
    out = tmp_path_factory.mktemp("bare")
    fixed = {"steps": 40, "batch_size": 16, "clip_length": 4, "device": "cpu", "learning_rate": 3e-3}
    train(TrainConfig.from_preset("tiny", data=(data,), out=str(out), model_settings=MODEL, **fixed))
    return out / "checkpoint"


@pytest.fixture(scope="module")
def headed(bare: Path, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with heads, and all that they can have."""
    out = tmp_path_factory.mktemp("headed") / "checkpoint"
    checkpoint = train_heads(config(bare, data, out=str(out), contrast_steps=2))
    assert checkpoint.heads is not None
    assert checkpoint.heads.contrast is not None
    checkpoint.heads.contrast.one_step.zero_()  # so that it is silent nowhere, and planners can lower it
    checkpoint.save(out, model_card(checkpoint))
    return out


def config(checkpoint: Path, data: str, **settings: Any) -> HeadsConfig:
    fixed = {"steps": 300, "batch_size": 64, "width": 32, "max_steps": 6, "learning_rate": 3e-3, "device": "cpu"}
    return HeadsConfig(checkpoint=str(checkpoint), data=(data,), **{**fixed, **settings})


def test_heads_return_the_documented_shapes_and_ranges() -> None:
    heads = Heads(latent_size=D, block_size=BLOCK, width=12, max_steps=4)
    latent, goal = torch.randn(N, D), torch.randn(N, D)
    mean, std = heads.actor(latent, goal, torch.tensor([-3, 1, 4, 5, 99]))
    assert mean.shape == std.shape == (N, BLOCK)
    assert (std > 0).all()
    far = heads.actor(latent, goal, torch.full((N,), 4))[0]
    assert torch.equal(mean[2:], far[2:])  # beyond the largest known number of steps, it is taken
    steps = heads.steps_to_go(latent * 100, goal * 100)
    assert steps.dtype == torch.int64
    assert ((steps >= 1) & (steps <= 4)).all()


@pytest.mark.parametrize("contrast", [False, True])
def test_many_latents_share_a_goal(contrast: bool) -> None:
    heads = Heads(latent_size=D, block_size=BLOCK, width=12, max_steps=4, contrast=contrast)
    latents, goal, steps = torch.randn(N, 3, D), torch.randn(N, D), torch.randint(1, 5, (N, 3))
    mean, std = heads.act(latents, goal[:, None], steps)
    log_steps = heads.log_steps(latents[:, :, None], goal)
    assert mean.shape == std.shape == (N, 3, BLOCK)
    for i in range(3):
        own = heads.act(latents[:, i], goal, steps[:, i])
        torch.testing.assert_close((mean[:, i], std[:, i]), own)
        whole = log_steps[:, i, 0].exp().round().long().clamp(1, 4)
        assert torch.equal(whole, heads.steps_to_go(latents[:, i], goal))


def test_actor_and_distance_see_the_embedding_of_a_contrast() -> None:
    torch.manual_seed(0)
    heads = Heads(latent_size=D, block_size=BLOCK, width=12, max_steps=4, contrast=True)
    assert heads.contrast is not None
    latent, goal = torch.randn(N, D, requires_grad=True), torch.randn(N, D)
    steps = torch.randint(1, 5, (N,))
    assert torch.equal(heads.see(latent), torch.cat([latent, heads.contrast.embed(latent)], dim=-1))
    before = heads.act(latent, goal, steps)[0]
    heads.contrast.log_scale.data += 3
    assert not torch.allclose(before, heads.act(latent, goal, steps)[0])
    embedded = heads.see(latent)[:, D:]
    (gradient,) = torch.autograd.grad(embedded.sum(), latent)  # planners follow it
    assert gradient.abs().sum() > 0


def test_heads_learn_direction_and_distance() -> None:
    """In a world where one walks straight to the goal, as fast each time, both follow from where the goal is."""
    torch.manual_seed(0)
    heads = Heads(latent_size=2, block_size=2, width=64, max_steps=6)
    optimizer = torch.optim.Adam(heads.parameters(), lr=3e-3)
    for _ in range(300):
        steps = torch.randint(1, 7, (256,))
        angle = torch.rand(256) * 6.283
        block = torch.stack([angle.cos(), angle.sin()], dim=1)
        latent = torch.randn(256, 2)
        losses = heads.loss(latent, latent + block * steps[:, None], steps, block)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert float(losses["actor_error"].detach()) < 0.05  # 0.5 is guessing
    assert float(losses["distance"].detach()) < 0.05  # 0.33 is guessing
    assert heads.steps_to_go(torch.zeros(2, 2), torch.tensor([[0.0, 2.0], [-4.0, 0.0]])).tolist() == [2, 4]


def test_a_contrast_tells_apart_what_looks_alike() -> None:
    """On a circle whose points look like those a third of a turn away, the way along it decides."""

    def seen(turn: torch.Tensor) -> torch.Tensor:
        waves = [(3 * turn).cos(), (3 * turn).sin(), 0.2 * turn.cos(), 0.2 * turn.sin()]
        return torch.stack(waves, dim=-1)

    torch.manual_seed(0)
    contrast = Contrast(4, 64)
    optimizer = torch.optim.Adam(contrast.parameters(), lr=3e-3)
    for _ in range(300):
        turn = torch.rand(256) * 2 * math.pi
        loss = contrast.loss(seen(turn), seen(turn + 0.3 * torch.randn(256)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    turns = torch.arange(24) * 2 * math.pi / 24
    third, little = turns + 2 * math.pi / 3, turns + math.pi / 6
    looks = [(seen(turns) - seen(other)).square().sum(-1) for other in (third, little)]
    learned = [contrast(seen(turns), seen(other)) for other in (third, little)]
    assert (looks[0] < looks[1]).all()
    assert (learned[0] > learned[1]).all()
    torch.testing.assert_close(learned[0], contrast(seen(third), seen(turns)))  # both ways
    contrast.measure_step(seen(turns), seen(little))
    beyond = contrast.beyond(seen(turns), torch.stack([seen(turns), seen(little), seen(third)])).mean(1)
    assert beyond[0] == 0
    assert beyond[1] < 0.3 < beyond[2]


def test_the_loss_of_a_contrast_is_exact_in_bfloat16_too() -> None:
    """It compares squared distances that are much smaller than the embeddings."""
    contrast = Contrast(Contrast.SIZE, 8)
    contrast.body = torch.nn.Identity()  # type: ignore[assignment]
    latent = 20 + torch.randn(50, Contrast.SIZE)
    later = latent + 0.1 * torch.randn(50, Contrast.SIZE)
    squares = (latent[:, None] - later).square().sum(-1)
    expected = torch.nn.functional.cross_entropy(-squares, torch.arange(50))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(contrast.loss(latent, later), expected, atol=0.01, rtol=0)


def test_training_is_reproducible_and_leaves_the_world_model_alone(bare: Path, data: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    for name in ("one", "two"):
        train_heads(
            config(bare, data, steps=5, out=str(tmp_path / name)),
            lambda task, done, total, _: seen.append((task, done, total)),
        )
    one, two = (Checkpoint.load(tmp_path / name) for name in ("one", "two"))
    assert one.heads is not None
    assert two.heads is not None
    weights = two.heads.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in one.heads.state_dict().items())
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (bare / "model.safetensors").read_bytes()
    assert {("encoding", 492, 492), ("training heads", 5, 5)} <= set(seen)
    card = (tmp_path / "one" / "README.md").read_text()
    assert "lwm-agent train-heads --checkpoint" in card
    assert "actor_error" in card


def test_heads_go_into_the_checkpoint_itself(bare: Path, data: str, tmp_path: Path) -> None:
    Checkpoint.load(bare).save(tmp_path / "own", "# card\n")
    before = checksum(tmp_path / "own")
    train_heads(config(tmp_path / "own", data, steps=2))
    assert Checkpoint.load(tmp_path / "own").heads is not None
    assert checksum(tmp_path / "own") != before
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "README.md",
        "config.json",
        "heads.safetensors",
        "model.safetensors",
    ]


def test_checkpoint_behind_a_link_is_replaced_and_the_link_stays(bare: Path, data: str, tmp_path: Path) -> None:
    Checkpoint.load(bare).save(tmp_path / "store" / "step-3", "# card\n")
    (tmp_path / "last").symlink_to(Path("store") / "step-3")
    for width in (5, 7):
        train_heads(config(tmp_path / "last", data, steps=2, width=width))
        assert (tmp_path / "last").is_symlink()
        heads = Checkpoint.load(tmp_path / "store" / "step-3").heads
        assert heads is not None
        assert heads.settings["width"] == width
    assert {path.name for path in tmp_path.iterdir()} == {"last", "store"}


def test_output_that_cannot_be_written_is_refused_before_the_encoding(bare: Path, data: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(ValueError, match="file"):
            train_heads(config(bare, data, out=str(out)), lambda task, *_: pytest.fail(f"{task} before it was refused"))


def test_command_line_trains_heads(bare: Path, data: str, tmp_path: Path) -> None:
    Checkpoint.load(bare).save(tmp_path / "own", "# card\n")
    options = ["--steps", "2", "--device", "cpu", "--set", "heads.width=16"]
    ran = CliRunner().invoke(app, ["train-heads", "--checkpoint", str(tmp_path / "own"), "--data", data, *options])
    assert ran.exit_code == 0, ran.output
    assert "actor_error" in ran.output
    heads = Checkpoint.load(tmp_path / "own").heads
    assert heads is not None
    assert heads.settings["width"] == 16


def test_incompatible_settings_data_and_files_are_named(bare: Path, data: str, headed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps=0 must be positive"):
        config(bare, data, steps=0)
    with pytest.raises(DatasetError, match="32-px frames and the checkpoint sees 64: collect with --image-size 64"):
        train_heads(config(Path("pusht-tiny"), data, out=str(tmp_path / "never")))
    Checkpoint.load(headed).save(tmp_path / "damaged", "# card\n")
    (tmp_path / "damaged" / "heads.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"heads\.safetensors cannot be read"):
        Checkpoint.load(tmp_path / "damaged")
    settings = json.loads((tmp_path / "damaged" / "config.json").read_text())
    settings["heads"]["width"] = "wide"
    (tmp_path / "damaged" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="does not describe"):
        Checkpoint.load(tmp_path / "damaged")


def beginning(checkpoint: Checkpoint) -> Window:
    """N episodes that begin with random latents."""
    return make_window(torch.randn(N, 1, 8), torch.zeros(N, 0, 10), checkpoint.model_config["history"])


def test_the_first_proposal_is_what_the_actor_would_do(headed: Path) -> None:
    checkpoint = Checkpoint.load(headed)
    heads, model = checkpoint.heads, checkpoint.model
    assert heads is not None
    propose = make_proposal("auto", checkpoint, 4, bf16=False)
    assert propose is not None
    belief, goal = beginning(checkpoint), torch.randn(N, 8)
    deadline = torch.tensor([1.0, 2.0, 3.0, torch.inf, torch.inf])
    problem = Problem(
        objective=lambda actions: actions.mean((2, 3)),
        init=0.1 * torch.rand(N, 3, 10),
        scale=torch.ones(N, 3, 10),
        low=torch.full((10,), -0.2),
        high=torch.full((10,), 0.3),
        generators=[torch.Generator().manual_seed(i) for i in range(N)],
        action_size=2,
    )
    with torch.no_grad():
        options: dict[str, Any] = {"bf16": False, "max_rollouts": 2048, "actor": heads, "deadline": deadline}
        objective = ModelObjective(model, belief, goal, make_cost("best-step"), **options)
        actions, costs = propose(objective, problem)
        assert actions.shape == (N, 5, 3, 10)
        assert torch.equal(actions[:, 4], problem.init)
        assert ((actions >= problem.low) & (actions <= problem.high)).all()
        torch.testing.assert_close(costs, objective(actions))
        assert not torch.equal(actions[:, 1], actions[:, 2])
        latents = model.rollout(belief, actions[:, :1])[:, 0]
        steps = torch.minimum(heads.steps_to_go(belief.latent, goal), deadline).long()
        for step, latent in enumerate((belief.latent, latents[:, 0], latents[:, 1])):
            expected = heads.act(latent, goal, steps - step)[0].clamp(problem.low, problem.high)
            torch.testing.assert_close(actions[:, 0, step], expected)


def test_deviations_are_from_what_the_actor_would_do_on_the_way(headed: Path) -> None:
    checkpoint = Checkpoint.load(headed)
    heads, model = checkpoint.heads, checkpoint.model
    assert heads is not None
    belief, goal = beginning(checkpoint), torch.randn(N, 8)
    deadline = torch.tensor([1.0, 2.0, 3.0, torch.inf, torch.inf])
    options: dict[str, Any] = {"bf16": False, "actor": heads, "deadline": deadline}
    with torch.no_grad():
        objective = ModelObjective(model, belief, goal, make_cost("actor-deviation"), max_rollouts=7, **options)
        actions = torch.randn(N, 3, 4, 10)
        latents = objective.rollout(actions)
        steps = torch.minimum(heads.steps_to_go(belief.latent, goal), deadline).long()
        expected = torch.zeros(N, 3)
        for candidate in range(3):
            way = [belief.latent, *latents[:, candidate].unbind(1)][:4]
            for step, latent in enumerate(way):
                mean, std = heads.act(latent, goal, steps - step)
                far = (actions[:, candidate, step] - mean) / std
                expected[:, candidate] += far.square().mean(-1) / 4
        torch.testing.assert_close(objective(actions), expected)
        block = heads.act(belief.latent, goal, steps)[0][:, None, None]
        torch.testing.assert_close(objective(block), torch.zeros(N, 1))


@pytest.mark.parametrize("planner", ["gradient", "grasp", "cem"])
@pytest.mark.parametrize("proposal", ["actor", "none"])
def test_every_kind_of_search_can_stay_near_the_actor(headed: Path, planner: str, proposal: str) -> None:
    costs = {}
    for cost in ("best-step", "best-step+actor-deviation"):
        planning = agent(headed, planner, cost=cost, proposal=proposal)
        _, state = planning.predict(observation())
        (decision,) = state.decisions
        assert decision is not None
        costs[cost] = decision.cost
        assert decision.trace[-1] <= decision.trace[0]
    assert np.isfinite(costs["best-step+actor-deviation"])
    assert costs["best-step+actor-deviation"] > costs["best-step"]


def test_an_episode_deviates_the_same_alone_and_in_a_batch(headed: Path) -> None:
    planning = agent(headed, "cem", cost="best-step+actor-deviation", deadline_env_steps=12)
    with gym.make("lwm/PushT-v0", image_size=32) as env:
        several = [env.reset(seed=seed)[0] for seed in range(3)]
    together, _ = planning.predict({name: np.stack([each[name] for each in several]) for name in several[0]})
    for action, each in zip(together, several, strict=True):
        np.testing.assert_allclose(action, planning.predict(each)[0], atol=1e-5)


def test_deviations_have_gradients_in_actions_and_latents(headed: Path) -> None:
    heads = Checkpoint.load(headed).heads
    assert heads is not None
    latents, blocks = torch.randn(N, 3, 4, 8, requires_grad=True), torch.randn(N, 3, 4, 10, requires_grad=True)
    heads.deviations(latents, torch.randn(N, 8), torch.ones(N, 3, 4, dtype=torch.long), blocks).sum().backward()
    for part in (latents, blocks):
        assert part.grad is not None
        assert (part.grad.abs().sum(-1) > 0).all()


def test_a_cost_of_deviations_keeps_a_search_near_the_actor(headed: Path) -> None:
    first = {}
    for cost in ("best-step", "best-step+1000*actor-deviation"):
        action, state = agent(headed, "guided", cost=cost, num_proposals=1).predict(observation())
        first[cost], (decision,) = action, state.decisions
        assert decision is not None
    alone, _ = agent(headed, "actor", cost="actor-deviation", num_proposals=1).predict(observation())
    free, held = (np.abs(action - alone).max() for action in first.values())
    assert held < 1e-3 < free


@pytest.fixture
def copied(headed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(headed, tmp_path / "copied"))


def test_recommend_stores_a_cost_and_nothing_else(copied: Path) -> None:
    before, card = Checkpoint.load(copied), (copied / "README.md").read_text()
    done = CliRunner().invoke(app, ["recommend", "--checkpoint", str(copied), "--cost", "terminal+3*actor-deviation"])
    assert done.exit_code == 0, done.output
    after = Checkpoint.load(copied)
    assert after.cost == "terminal+3*actor-deviation"
    assert agent(copied).settings()["cost"] == after.cost
    told = "\n## Planning\n\nThe default planning cost of agents is `terminal+3*actor-deviation`.\n"
    assert (copied / "README.md").read_text() == card + told
    same = zip(before.model.state_dict().values(), after.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    assert replace(after, cost=before.cost, model=before.model, heads=before.heads) == before


def test_recommend_refuses_a_cost_that_cannot_be_used(bare: Path, copied: Path) -> None:
    for folder, cost, message in (
        (bare, "best-step+actor-deviation", "needs learned heads"),
        (copied, "best-stop", "unknown planning cost 'best-stop'"),
    ):
        before = checksum(folder)
        done = CliRunner().invoke(app, ["recommend", "--checkpoint", str(folder), "--cost", cost])
        assert done.exit_code != 0
        assert message in f"{done.output} {done.exception}"
        assert checksum(folder) == before


def test_a_checkpoint_recommends_a_cost(headed: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(headed)
    assert agent(headed).settings()["cost"] == "best-step"
    replace(checkpoint, cost="best-step+2*actor-deviation").save(tmp_path / "own", "# card")
    assert agent(tmp_path / "own").settings()["cost"] == "best-step+2*actor-deviation"
    assert agent(tmp_path / "own", cost="terminal").settings()["cost"] == "terminal"
    with pytest.raises(ValueError, match=r"cost='best-step\+2\*actor-deviation' needs learned heads"):
        Agent(replace(Checkpoint.load(tmp_path / "own"), heads=None), device="cpu")


def test_a_checkpoint_recommends_how_often_to_plan(copied: Path) -> None:
    before = checksum(copied)
    assert agent(copied).settings()["replan_every_env_steps"] == 5
    recommend = ["recommend", "--checkpoint", str(copied)]
    command = [*recommend, "--set", "agent.replan_every_env_steps=2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "best-step, and plan every 2 environment steps, with" in done.output
    assert agent(copied).settings()["replan_every_env_steps"] == 2
    assert agent(copied, replan_every_env_steps=5).settings()["replan_every_env_steps"] == 5
    assert "They plan again every 2 environment steps." in (copied / "README.md").read_text()
    assert checksum(copied) == before  # results say beside it how often was planned
    assert CliRunner().invoke(app, [*command[:-1], "agent.replan_every_env_steps=26"]).exit_code != 0
    assert Checkpoint.load(copied).replan_every_env_steps == 2
    with pytest.raises(ValueError, match="replan_every_env_steps=0 must be positive"):
        agent(copied, replan_every_env_steps=0)
    assert "nothing to recommend is named: name costs" in str(CliRunner().invoke(app, recommend).exception)
    costly = CliRunner().invoke(app, [*recommend, "--cost", "terminal"])
    assert costly.exit_code == 0, costly.output
    kept = Checkpoint.load(copied)
    assert (kept.cost, kept.replan_every_env_steps) == ("terminal", 2)
    assert CliRunner().invoke(app, [*command[:-1], "agent.replan_every_env_steps=3"]).exit_code == 0
    assert Checkpoint.load(copied).cost == "terminal"


def agent(path: Path, planner: str = "cem", **settings: Any) -> Agent:
    return Agent.load(path, planner, **{"device": "cpu", "bf16": False, **settings})


def observation() -> dict[str, np.ndarray]:
    with gym.make("lwm/PushT-v0", image_size=32) as env:
        return env.reset(seed=0)[0]


def test_a_plan_is_never_worse_than_the_proposal_it_starts_from(headed: Path) -> None:
    costs = {}
    for planner in ("actor", "guided"):
        _, state = agent(headed, planner).predict(observation())
        (decision,) = state.decisions
        assert decision is not None
        costs[planner] = decision.cost
    assert costs["guided"] <= costs["actor"]


def test_the_proposal_is_paid_for(headed: Path) -> None:
    _, state = agent(headed, "actor", num_proposals=3).predict(observation())
    (decision,) = state.decisions
    assert decision is not None
    # Three of the actor and one of the last plan's rest, each imagined once.
    assert decision.rollouts == 3 + 1
    with pytest.raises(ValueError, match="too small"):
        agent(headed, "actor", num_proposals=3, budget=Budget(rollouts=3)).predict(observation())
    _, state = agent(headed, "guided", num_proposals=3, budget=Budget(rollouts=40)).predict(observation())
    (decision,) = state.decisions
    assert decision is not None
    assert (decision.rollouts, decision.trace) == (4, ())  # none is left for a search


@pytest.mark.parametrize(
    "cost", ["best-step", "best-step+2*actor-deviation", "running+temporal-distance", "best-step+contrast"]
)
@pytest.mark.parametrize("planner", ["actor", "guided", "gradient", "grasp"])
def test_the_flops_of_a_decision_are_those_that_torch_counts(headed: Path, planner: str, cost: str) -> None:
    planning = agent(headed, planner, cost=cost, num_proposals=40)
    first = observation()
    _, state = planning.predict(first)
    second = {**observation(), "pixels": first["pixels"][::-1].copy()}
    for _ in range(planning.model.frameskip - 1):
        _, state = planning.predict(second, state)
    with FlopCounterMode(display=False) as encoding:  # beyond planning: the newest frame, and what candidates share
        planning.observer.begin(second["pixels"][None])
    with FlopCounterMode(display=False) as counter:
        _, state = planning.predict(second, state)
    (decision,) = state.decisions
    assert decision is not None
    counted = counter.get_total_flops() - encoding.get_total_flops()
    assert decision.flops == pytest.approx(counted, rel=0.03)  # torch leaves attention out


@pytest.mark.parametrize("cost", COSTS)
def test_proposals_are_rated_as_plans_are(headed: Path, cost: str) -> None:
    """In bfloat16 too, and outside the planning loop."""
    timed = agent(headed, "actor", cost=cost, bf16=True)
    pixels, goal = (timed.observer.begin(observation()[name][None]) for name in ("pixels", "goal"))
    generators, deadline = [torch.Generator().manual_seed(0)], torch.tensor([9.0])
    problem = timed.replanner.problem(pixels, goal.latent, torch.zeros(1, 5, 10), deadline, generators)
    assert problem.propose is not None
    with torch.no_grad():
        guesses, costs = problem.propose()
        assert costs.dtype == torch.float32
        torch.testing.assert_close(costs, problem.objective(guesses), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(
    "planner", [*(name for name in PLANNERS if name not in ("categorical-cem", "policy")), "cem+gradient"]
)
def test_every_planner_lowers_every_cost(headed: Path, planner: str, cost: str) -> None:
    """Where a planner follows gradients, through the model and the heads."""
    (decision,) = agent(headed, planner, cost=cost, num_proposals=1).predict(observation())[1].decisions
    assert decision is not None
    assert math.isfinite(decision.cost)
    (guess,) = agent(headed, "actor", cost=cost, num_proposals=1).predict(observation())[1].decisions
    assert guess is not None
    if planner == "actor" or cost in ("actor-deviation", "control-penalty"):  # of these, a guess is the best there is
        assert decision.cost == pytest.approx(guess.cost, abs=1e-12)  # rounding: both are zero
    else:
        assert decision.cost < guess.cost


def test_temporal_distance_as_a_cost(bare: Path, headed: Path) -> None:
    plain, timed = agent(headed, proposal="none"), agent(headed, proposal="none", cost="temporal-distance")
    (by_distance,), (by_time,) = (each.predict(observation())[1].decisions for each in (plain, timed))
    assert by_distance is not None
    assert by_time is not None
    heads = timed.checkpoint.heads
    assert heads is not None
    assert by_time.rollouts == by_distance.rollouts
    assert by_time.flops == by_distance.flops + by_time.rollouts * 5 * heads.distance_flops
    pixels, goal = (timed.observer.begin(observation()[name][None]).latent for name in ("pixels", "goal"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        log_steps = heads.log_steps(pixels.expand(4, 3, -1)[None], goal)
    assert counter.get_total_flops() == 12 * heads.distance_flops + heads.contrast_flops  # that of the goal
    expected = heads.distance(heads.see(pixels), heads.see(goal))
    torch.testing.assert_close(log_steps, expected.expand(1, 4, 3))
    with pytest.raises(ValueError, match=r"cost='running\+temporal-distance' needs .*lwm-agent train-heads"):
        agent(bare, cost="running+temporal-distance")


def test_contrast_as_a_cost(bare: Path, headed: Path, data: str, tmp_path: Path) -> None:
    sure = agent(headed, proposal="none", cost="best-step+0.5*contrast")
    (plain,), (decision,) = (
        each.predict(observation())[1].decisions for each in (agent(headed, proposal="none"), sure)
    )
    heads = sure.checkpoint.heads
    assert plain is not None
    assert decision is not None
    assert heads is not None
    assert decision.flops == plain.flops + decision.rollouts * 5 * heads.contrast_flops
    latents, goal = torch.randn(2, 3, 5, 8), torch.randn(2, 8)
    contrasts = heads.contrasts(latents, goal)
    assert contrasts.shape == (2, 3, 5)
    at_goal = heads.contrasts(goal[:, None, None], goal)
    assert float(at_goal.max()) == 0
    assert (contrasts > at_goal).all()
    torch.testing.assert_close(contrasts[1:, 2:, 3:], heads.contrasts(latents[1:, 2:, 3:], goal[1:]))
    assert heads.contrast is not None
    heads.contrast.one_step += contrasts.median()
    nearer = contrasts <= contrasts.median()
    assert torch.equal(heads.contrasts(latents, goal) == 0, nearer)  # less than a step away, it is silent
    with pytest.raises(ValueError, match=r"cost='contrast' needs .*lwm-agent train-heads"):
        agent(bare, cost="contrast")
    train_heads(config(bare, data, steps=1, out=str(tmp_path / "usual")))
    assert Checkpoint.load(tmp_path / "usual").heads.settings == {  # type: ignore[union-attr]
        **{"latent_size": 8, "block_size": heads.settings["block_size"], "width": 32, "max_steps": 6},
    }
    with pytest.raises(ValueError, match=r"--set heads.contrast_steps=12"):
        agent(tmp_path / "usual", cost="contrast")


def test_near_pairs_are_near(headed: Path, data: str) -> None:
    file, checkpoint = Trajectories.open(data), Checkpoint.load(headed)
    rows = torch.arange(file.num_frames, dtype=torch.float32)[:, None].expand(-1, 8)  # each knows its place
    pairs = Pairs(checkpoint, file, rows, np.arange(file.num_episodes), 6)
    for near, most in ((0, 6), (2, 2)):
        first, later, steps, _ = pairs.sample(500, np.random.default_rng(0), torch.device("cpu"), near)
        assert set(steps.tolist()) == set(range(1, most + 1))
        assert torch.equal((later - first)[:, 0], checkpoint.model.frameskip * steps.float())


def test_without_heads_the_command_that_trains_them_is_named(bare: Path, headed: Path) -> None:
    assert agent(bare).replanner.proposal is None
    assert agent(headed, proposal="none").replanner.proposal is None
    assert agent(headed).settings()["proposal"] == "actor"
    assert agent(bare).settings()["proposal"] is None
    with pytest.raises(ValueError, match="lwm-agent train-heads"):
        agent(bare, proposal="actor")
    with pytest.raises(ValueError, match=r"proposal='luck' is unknown: choose one of auto, actor, none"):
        agent(bare, proposal="luck")
    with pytest.raises(ValueError, match="num_proposals=0"):
        agent(headed, num_proposals=0)
    for planner in ("actor", "guided", "cem+guided"):
        with pytest.raises(ValueError, match="needs a learned proposal"):
            agent(headed, planner, proposal="none")

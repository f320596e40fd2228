"""The contract of models, and that of world models: they hold for every model of the registry, and for two toys.

A new entry of `MODELS` is tested by its registry line: with the first of its presets, or with smaller `SETTINGS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lwm_agent import Agent, Checkpoint
from lwm_agent.compute.device import autocast, can_compile
from lwm_agent.compute.int8 import exact_products
from lwm_agent.errors import UserError
from lwm_agent.models import MODELS, PREDICTORS, Heads, LatentModel, LatentPredictor, WorldModel
from lwm_agent.models.base import concatenate, repeat, select
from lwm_agent.normalizer import Normalizer
from lwm_agent.planners import PLANNERS, make_planner
from lwm_agent.protocols import Batch, Belief
from lwm_agent.training.config import HeadsConfig, PredictorConfig, TrainConfig
from lwm_agent.training.heads import train_heads
from lwm_agent.training.predictor import train_predictor
from lwm_agent.training.train import train

from .toy_models import TOYS, RecurrentModel, State, TokenModel

B, S, T, L, F, A, SIDE = 2, 3, 5, 4, 7, 2, 32
LEWM: dict[str, Any] = {
    "image_size": SIDE,
    "latent_size": 11,
    "width": 16,
    "heads": 2,
    "head_size": 4,
    "mlp_size": 16,
    "depth": 1,
    "sigreg_directions": 8,
}
DREAMER: dict[str, Any] = {
    "image_size": SIDE,
    "deter": 24,
    "hidden": 9,
    "categoricals": 5,
    "classes": 3,
    "units": 12,
    "depth": 4,
}
DINO: dict[str, Any] = {"image_size": SIDE, "depth": 2, "heads": 2, "head_size": 4, "mlp_size": 16}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "dreamer": {"small": DREAMER},
    "lewm": {
        predictor: {**LEWM, "predictor": predictor, "history": history}
        for history, predictor in enumerate(PREDICTORS, start=2)
    },
    "gcbc": {"conv": {"image_size": SIDE, "latent_size": 11, "width": 16}},
    "dino-wm": {"vit": {**DINO, "encoder_blocks": 1, "encoder_size": 28}},
    "dino-wm-lite": {"net": {**DINO, "encoder_blocks": 5, "encoder_size": 32}},
}
"""Variants of a model to test, as constructor arguments beside those of its first preset."""
ALL = {**MODELS, **TOYS}
VARIANTS = [(name, variant) for name in ALL for variant in SETTINGS.get(name, {"preset": {}})]
WORLD_MODELS = [variant for variant in VARIANTS if issubclass(ALL[variant[0]].model, WorldModel)]
"""Those that imagine; the others act by a policy of their own."""
pytestmark = pytest.mark.usefixtures("pretrained")


def make_model(name: str, variant: str, **settings: Any) -> LatentModel:
    torch.manual_seed(0)
    spec = ALL[name]
    preset = next(reversed(spec.presets.values())) if name in SETTINGS else next(iter(spec.presets.values()))
    chosen = {**preset, **SETTINGS.get(name, {}).get(variant, {}), "action_size": A, **settings}
    model = spec.model(**chosen)
    model.load_external_weights()
    with torch.no_grad():
        for parameter in model.parameters():  # blocks that start as if they were not there: give actions an effect
            if parameter.count_nonzero() == 0:
                parameter.normal_(std=0.2)
    return model.eval()


@pytest.fixture(params=VARIANTS, ids="-".join)
def model(request: pytest.FixtureRequest) -> LatentModel:
    return make_model(*request.param, frameskip=F)


@pytest.fixture(params=WORLD_MODELS, ids="-".join)
def world_model(request: pytest.FixtureRequest) -> WorldModel:
    model = make_model(*request.param, frameskip=F)
    assert isinstance(model, WorldModel)
    return model


@pytest.fixture
def registered() -> Iterator[None]:
    """The toys beside the models of the package."""
    with pytest.MonkeyPatch.context() as patch:
        for name, spec in TOYS.items():
            patch.setitem(MODELS, name, spec)
        yield


def frames(model: LatentModel, count: int = B, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, model.image_size, model.image_size, generator=generator)


def blocks(model: LatentModel, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, model.block_size, generator=torch.Generator().manual_seed(seed))


def remember(model: LatentModel, steps: int, count: int = B) -> Belief:
    """Belief after `steps` executed blocks."""
    belief = model.begin(frames(model, count))
    for step in range(steps):
        belief = model.observe(belief, blocks(model, count, seed=10 + step), frames(model, count, seed=20 + step))
    return belief


def make_batch(model: LatentModel, clips: int = B, length: int = L) -> Batch:
    """Clips with goals in their own trajectories, beyond the last frame."""
    pixels = frames(model, clips * length).unflatten(0, (clips, length))
    steps = torch.full((clips,), float(length * model.frameskip))
    return Batch(pixels, blocks(model, clips, length - 1), goal=frames(model, clips, seed=5), goal_steps=steps)


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_beliefs_have_the_shapes_of_the_contract_and_are_float32(model: LatentModel, bf16: bool) -> None:
    with autocast(torch.device("cpu"), bf16):
        belief = model.begin(frames(model))
        beliefs = [belief, model.observe(belief, blocks(model, B), frames(model, seed=3))]
        results = [*(each.latent for each in beliefs), model.embed(frames(model, 6)), model.summary(belief.latent)]
    assert {type(each) for each in beliefs} == {type(belief)}
    assert all(part.shape[0] == B for each in beliefs for part in each)
    shapes = [(B, *model.latent_shape), (B, *model.latent_shape), (6, *model.latent_shape), (B, model.summary_size)]
    assert [result.shape for result in results] == shapes
    assert {result.dtype for result in results} == {torch.float32}
    assert all(part.dtype != torch.bfloat16 for each in beliefs for part in each)


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_futures_have_the_shapes_of_the_contract_and_are_float32(world_model: WorldModel, bf16: bool) -> None:
    model, size = world_model, world_model.latent_shape
    with autocast(torch.device("cpu"), bf16):
        belief = model.begin(frames(model))
        ahead = model.imagine(belief, blocks(model, B))
        futures = model.rollout(belief, blocks(model, B, S, T))
        stepped = model.step(belief.latent, blocks(model, B))
        distance = model.distance(futures, belief.latent)
        summary = model.summary(futures)
    assert type(ahead) is type(belief)
    assert ahead.latent.shape == stepped.shape == (B, *size)
    assert futures.shape == (B, S, T, *size)
    assert distance.shape == (B, S, T)
    assert summary.shape == (B, S, T, model.summary_size)
    assert {result.dtype for result in (ahead.latent, futures, stepped, distance, summary)} == {torch.float32}
    assert all(part.dtype != torch.bfloat16 for part in ahead)


@torch.no_grad()
def test_single_frames_embed_as_episodes_begin(model: LatentModel) -> None:
    torch.testing.assert_close(model.embed(frames(model)), model.begin(frames(model)).latent)


@torch.no_grad()
def test_rows_of_any_age_do_not_depend_on_each_other(model: LatentModel) -> None:
    ages = [remember(model, steps, count=1) for steps in (0, 1, 4)]
    executed, pictures = blocks(model, 3), frames(model, 3, seed=7)
    seen = model.observe(concatenate(ages), executed, pictures)
    for row, alone in enumerate(ages):
        own = model.observe(alone, executed[row : row + 1], pictures[row : row + 1])
        for part, parts in zip(own, seen, strict=True):
            torch.testing.assert_close(part[0], parts[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_futures_of_rows_of_any_age_do_not_depend_on_each_other(world_model: WorldModel) -> None:
    model, ages = world_model, [remember(world_model, steps, count=1) for steps in (0, 1, 4)]
    together, actions = concatenate(ages), blocks(model, 3, S, T)
    futures = model.rollout(together, actions)
    ahead = model.imagine(together, actions[:, 0, 0])
    for row, alone in enumerate(ages):
        torch.testing.assert_close(model.rollout(alone, actions[row : row + 1])[0], futures[row], atol=1e-5, rtol=1e-5)
        block = actions[row : row + 1, 0, 0]
        torch.testing.assert_close(model.imagine(alone, block).latent[0], ahead.latent[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_rollout_equals_imagining_block_by_block(world_model: WorldModel, steps: int) -> None:
    belief, actions = remember(world_model, steps), blocks(world_model, B, S, T)
    before = [part.clone() for part in belief]
    futures = world_model.rollout(belief, actions)
    assert all(torch.equal(old, new) for old, new in zip(before, belief, strict=True))  # no hidden memory
    ahead = repeat(belief, S)
    for step in range(T):
        ahead = world_model.imagine(ahead, actions[:, :, step].flatten(0, 1))
        torch.testing.assert_close(ahead.latent.unflatten(0, (B, S)), futures[:, :, step], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_futures_depend_on_the_past_and_on_their_own_actions(world_model: WorldModel) -> None:
    belief, actions = remember(world_model, 2), blocks(world_model, B, S, T)
    futures = world_model.rollout(belief, actions)
    changed = actions.clone()
    changed[:, 1, 2] += 1
    others = world_model.rollout(belief, changed)
    differs = (futures - others).flatten(3).abs().amax(-1) > 1e-5  # (B, S, T)
    expected = torch.zeros_like(differs)
    expected[:, 1, 2:] = True
    assert torch.equal(differs, expected)
    fresh = world_model.rollout(world_model.begin(frames(world_model, seed=21)), actions)
    assert (futures - fresh).abs().max() > 1e-5


@torch.no_grad()
def test_step_is_a_rollout_of_one_block_without_memory(world_model: WorldModel) -> None:
    belief, actions = world_model.begin(frames(world_model)), blocks(world_model, B)
    torch.testing.assert_close(world_model.step(belief.latent, actions), world_model.imagine(belief, actions).latent)


def test_futures_are_differentiable_in_actions(world_model: WorldModel) -> None:
    world_model.requires_grad_(False)
    actions = blocks(world_model, B, S, T).requires_grad_()
    belief = remember(world_model, 1)
    world_model.distance(world_model.rollout(belief, actions), belief.latent)[..., -1].sum().backward()
    assert actions.grad is not None
    assert bool((actions.grad.abs().sum(-1) > 0).all())
    leaf = blocks(world_model, B).requires_grad_()
    (gradient,) = torch.autograd.grad(world_model.step(belief.latent, leaf).sum(), leaf)
    assert bool((gradient.abs().sum(-1) > 0).all())


@torch.no_grad()
def test_distance_pairs_each_episode_with_its_own_goal(world_model: WorldModel) -> None:
    goal = world_model.embed(frames(world_model, S))  # B == S: broadcasting from the right would go unnoticed
    latents = goal[:, None, None].expand(S, S, T, *world_model.latent_shape)
    assert world_model.distance(latents, goal).abs().max() < 1e-6
    assert world_model.distance(latents, goal.roll(1, 0)).min() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_surprise_is_zero_where_what_was_imagined_comes_true(world_model: WorldModel, bf16: bool) -> None:
    with autocast(torch.device("cpu"), bf16):
        before, block = remember(world_model, 2), blocks(world_model, B)
        as_imagined = world_model.surprise(before, block, world_model.imagine(before, block))
        observed = world_model.observe(before, block, frames(world_model, seed=7))
        surprise = world_model.surprise(before, block, observed)
    assert surprise.shape == (B,)
    assert surprise.dtype == torch.float32
    assert as_imagined.abs().max() < 1e-6
    assert (surprise > 1e-4).all()
    rows = torch.tensor([1])
    alone = world_model.surprise(select(before, rows), block[rows], select(observed, rows))
    torch.testing.assert_close(alone, surprise[rows], rtol=0.05 if bf16 else 1e-4, atol=1e-5)


def test_loss_reaches_what_is_trained_and_nothing_else(model: LatentModel) -> None:
    losses = model.train().loss(make_batch(model), torch.Generator().manual_seed(0))
    assert all(loss.shape == () and torch.isfinite(loss) for loss in losses.values())
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    trained = {id(parameter) for parameter in model.trainable_parameters()}
    assert trained
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), name


def test_work_grows_with_the_horizon(world_model: WorldModel) -> None:
    flops = [world_model.rollout_flops(horizon) for horizon in (1, 2, T)]
    assert 0 < flops[0] < flops[1] < flops[2]
    assert world_model.imagine_flops() > 0
    assert {id(part) for part in world_model.planning_parts()} <= {id(part) for part in world_model.modules()}


@torch.no_grad()
def test_counted_flops_of_encoding_are_those_that_torch_counts(model: LatentModel) -> None:
    with FlopCounterMode(display=False) as counter:
        model.begin(frames(model))
    assert model.encode_flops() * B == pytest.approx(counter.get_total_flops(), rel=0.02)


def strange_belief(model: LatentModel) -> Belief:
    other = RecurrentModel(action_size=A) if isinstance(model, LatentPredictor) else TokenModel(action_size=A)
    return other.begin(frames(other))


def test_beliefs_of_another_model_are_not_continued(model: LatentModel) -> None:
    with pytest.raises(TypeError, match="beliefs are"):
        model.observe(strange_belief(model), blocks(model, B), frames(model))


def test_beliefs_of_another_model_are_not_imagined_from(world_model: WorldModel) -> None:
    belief = strange_belief(world_model)
    for use in (
        lambda: world_model.imagine(belief, blocks(world_model, B)),
        lambda: world_model.rollout(belief, blocks(world_model, B, S, T)),
    ):
        with pytest.raises(TypeError, match="beliefs are"):
            use()


@pytest.mark.parametrize("name", ALL)
def test_sizes_below_one_are_refused(name: str) -> None:
    variant = next(iter(SETTINGS.get(name, {"preset": {}})))
    with pytest.raises(UserError, match="action_size=0 must be at least 1"):
        make_model(name, variant, action_size=0)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_later_training_may_change_are_arguments(name: str) -> None:
    model = MODELS[name].model
    assert set(model.loss_settings) <= set(inspect.signature(model).parameters)


def make_checkpoint(name: str, variant: str) -> Checkpoint:
    """An untrained model that sees and acts as Push-T does, with untrained heads."""
    spec = ALL[name]
    settings = {"action_size": A, "image_size": SIDE, **SETTINGS.get(name, {}).get(variant, {})}
    preset = next(reversed(spec.presets.values())) if name in SETTINGS else next(iter(spec.presets.values()))
    model = make_model(name, variant, image_size=SIDE).requires_grad_(False)
    return Checkpoint(
        name=name,
        model_config={**preset, **settings},
        model=model,
        normalizer=Normalizer(
            pixel_mean=(0.9, 0.9, 0.9),
            pixel_std=(0.2, 0.2, 0.2),
            action_mean=(0.1, 0.0),
            action_std=(0.4, 0.3),
            action_low=(-0.8, -1.0),
            action_high=(0.9, 1.0),
        ),
        env="pusht",
        env_kwargs={"image_size": SIDE},
        heads=Heads(latent_size=model.summary_size, block_size=model.block_size, width=16, max_steps=6).eval(),
    )


def small_planner(name: str) -> Any:
    settings = {"iterations": 2, "num_samples": 6, "num_elites": 3, "sync_steps": 1, "lifted_steps": 1}
    known = PLANNERS[name].__dataclass_fields__
    return make_planner(name, **{key: value for key, value in settings.items() if key in known})


CONTINUOUS = [name for name, planner in PLANNERS.items() if not planner.discrete]


def usable(name: str, planner: str) -> bool:
    """Whether `planner` can act with the model `name`: without imagination, only a policy can."""
    return PLANNERS[planner].reactive or issubclass(ALL[name].model, WorldModel)


def usual_planner(name: str) -> str:
    return "cem" if issubclass(ALL[name].model, WorldModel) else "policy"


@pytest.mark.parametrize(
    ("variant", "planner"),
    [(variant, planner) for variant in VARIANTS for planner in CONTINUOUS if usable(variant[0], planner)],
)
def test_every_planner_acts_with_every_model(variant: tuple[str, str], planner: str) -> None:
    """In a vector environment whose episodes end and begin at different times."""
    cost = "best-step+0.1*temporal-distance+0.1*actor-deviation"
    settings: dict[str, Any] = {"cost": cost, "num_proposals": 2, "horizon": 3, "deadline_env_steps": 9}
    agent = Agent(make_checkpoint(*variant), small_planner(planner), device="cpu", bf16=False, **settings)
    envs = gym.make_vec(
        "lwm/PushT-v0",
        num_envs=2,
        vectorization_mode="sync",
        image_size=SIDE,
        max_episode_steps=9,
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    with closing(envs):
        agent.check_env(envs)
        observation, _ = envs.reset(seed=0)
        state, start = None, np.array([True, True])
        for step in range(13):
            action, state = agent.predict(observation, state, episode_start=start)
            assert envs.action_space.contains(action)
            observation, _, terminated, truncated, _ = envs.step(action)
            start = terminated | truncated | (step == 3) & np.array([False, True])
            assert all(decision is None or np.isfinite(decision.cost) for decision in state.decisions)
            assert state.ages.tolist() == [step % 9 + 1, step % 9 + 1 if step < 4 or step > 8 else step - 3]


def results(model: LatentModel) -> Tensor:
    """Something that depends on most weights of a model: imagined latents, or actions of its policy."""
    belief = model.begin(frames(model))
    if isinstance(model, WorldModel):
        return model.rollout(belief, blocks(model, B, S, T))
    assert model.policy is not None
    return model.policy.act(belief.latent, model.embed(frames(model, seed=4)), torch.ones(B).long())[0]


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in WORLD_MODELS], ids="-".join)
def test_models_that_imagine_nothing_act_by_their_own_policy(variant: tuple[str, str]) -> None:
    checkpoint = replace(make_checkpoint(*variant), heads=None)
    rng = np.random.default_rng(0)
    seen = {name: rng.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8) for name in ("pixels", "goal")}
    agent = Agent(checkpoint, device="cpu", bf16=False, seed=0)
    action, state = agent.predict(seen)
    pictures = [checkpoint.normalizer.pixels(picture) for picture in seen.values()]
    policy, model = checkpoint.policy, checkpoint.model
    assert policy is not None
    with torch.no_grad():
        mean, std = policy.act(*map(model.embed, pictures), torch.tensor([1, 1]))
    low, high = checkpoint.normalizer.bounds(model.frameskip)
    assert np.allclose(action, checkpoint.normalizer.env_actions(mean.clamp(low, high))[:, 0], atol=1e-5)
    assert std.shape == (2, model.block_size)
    assert [decision.flops for decision in state.decisions if decision is not None] == [agent.decider.flops] * 2
    for planner in CONTINUOUS:
        if not PLANNERS[planner].reactive:
            with pytest.raises(UserError, match="imagines no futures, so that no search can use it"):
                Agent(make_checkpoint(*variant), planner, device="cpu")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_checkpoints_restore_every_model(variant: tuple[str, str], tmp_path: Path) -> None:
    saved = make_checkpoint(*variant)
    saved.save(tmp_path / "one", "card")
    with safe_open(tmp_path / "one" / "model.safetensors", framework="pt") as file:
        external = [name for name in file.keys() if name.split(".")[0] in saved.model.external_parts]  # noqa: SIM118
    assert external == []
    loaded = Checkpoint.load(tmp_path / "one")
    assert type(loaded.model) is type(saved.model)
    with torch.no_grad():
        expected, found = (results(each.model) for each in (saved, loaded))
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)  # weights are stored in half precision
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.usefixtures("registered")
@pytest.mark.filterwarnings("ignore:the latents are collapsing", "ignore:too few")
@pytest.mark.parametrize("name", ALL)
def test_ten_steps_of_training_and_heads(name: str, data: str, tmp_path: Path) -> None:
    settings = {**next(iter(SETTINGS.get(name, {"preset": {}}).values()))}
    preset = next(reversed(ALL[name].presets)) if name in SETTINGS else next(iter(ALL[name].presets))
    fixed: dict[str, Any] = {"steps": 10, "batch_size": 6, "clip_length": L, "precision": "32-true", "device": "cpu"}
    config = TrainConfig.from_preset(
        preset, model=name, data=(data,), out=str(tmp_path / "run"), model_settings=settings, **fixed
    )
    trained = train(config)
    assert np.isfinite(list(trained.training["validation"].values())).all()
    external = trained.model.external_parts
    frozen = {key for key, weight in trained.model.named_parameters() if key.split(".")[0] in external}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        untrained = ALL[name].model(**trained.model_config)
    untrained.load_external_weights()
    start = dict(untrained.named_parameters())
    for key, weight in trained.model.named_parameters():
        assert torch.equal(weight.detach().cpu(), start[key]) == (key in frozen), key
    if isinstance(trained.model, RecurrentModel):
        assert trained.model.steps_taken == 10
        assert "memory_std" in trained.training["validation"]
    folder = str(tmp_path / "run" / "checkpoint")
    part: dict[str, Any] = {"checkpoint": folder, "data": (data,), "steps": 3, "batch_size": 8, "device": "cpu"}
    headed = train_heads(HeadsConfig(**part, width=16, max_steps=4))
    assert headed.heads is not None
    assert headed.heads.settings["latent_size"] == trained.model.summary_size
    if isinstance(trained.model, LatentPredictor):
        again = train_predictor(PredictorConfig(**part, clip_length=L))
        assert np.isfinite(again.training["predictor"]["validation"]["loss"])
    else:
        with pytest.raises(UserError, match="no predictor"):
            train_predictor(PredictorConfig(**part, clip_length=L))
    agent = Agent.load(folder, small_planner("guided") if usable(name, "guided") else None, device="cpu")
    picture = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    assert agent.predict({"pixels": picture, "goal": picture})[0].shape == (2, A)


@pytest.mark.skipif(not exact_products(), reason="int8 needs exact 8-bit products, which this CPU has not")
@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_model_plans_in_8_bit_integers(variant: tuple[str, str]) -> None:
    planner = small_planner(usual_planner(variant[0]))
    agent = Agent(make_checkpoint(*variant), planner, device="cpu", int8=True)
    picture = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    assert np.isfinite(agent.predict({"pixels": picture, "goal": picture})[0]).all()


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler, or no Python headers")
@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_model_plans_compiled(variant: tuple[str, str]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    planner = small_planner(usual_planner(variant[0]))
    costs, actions = [], []
    for compiled in (False, True):
        agent = Agent(make_checkpoint(*variant), planner, device="cpu", bf16=False, compile=compiled)
        action, state = agent.predict({"pixels": picture, "goal": picture[::-1].copy()})
        costs.append([decision.cost for decision in state.decisions if decision is not None])
        actions.append(action)
    assert costs[0] == pytest.approx(costs[1], abs=1e-4)
    np.testing.assert_allclose(*actions, atol=1e-2)


def test_operations_on_beliefs_keep_their_kind() -> None:
    belief = State(torch.arange(6.0).reshape(3, 2), torch.arange(3.0).reshape(3, 1))
    assert select(belief, slice(1, 3)).memory.tolist() == [[2, 3], [4, 5]]
    assert repeat(belief, 2).sample.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    joined = concatenate([belief, select(belief, torch.tensor([2]))])
    assert isinstance(joined, State)
    assert joined.sample.flatten().tolist() == [0, 1, 2, 2]

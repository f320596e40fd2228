"""LeWorldModel: shapes, pairing of latents and actions, losses and presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lwm_agent.compute.device import autocast
from lwm_agent.errors import UserError
from lwm_agent.models import MODELS, LeWorldModel
from lwm_agent.models.encoders import ConvNet, ViT
from lwm_agent.models.sigreg import sigreg
from lwm_agent.models.window import Window, make_window
from lwm_agent.protocols import Batch

B, S, T, F, A, L = 2, 3, 5, 4, 7, 6
PRESETS = MODELS["lewm"].presets
SMALL: dict[str, Any] = {
    **PRESETS["tiny"],
    "image_size": 32,
    "latent_size": 24,
    "width": 40,
    "head_size": 8,
    "mlp_size": 48,
    "depth": 2,
    "frameskip": F,
    "history": 3,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "base": {
        "projector_size": 33,
        "residual": False,
        "rollout_weight": 0.0,
        "inverse_weight": 0.0,
        "reconstruction_weight": 0.0,
        "dropout": 0.1,
        "width": 24,
    },
    "mlp": {"predictor": "mlp", "reconstruction": "pixels"},
}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> LeWorldModel:
    torch.manual_seed(0)
    model = LeWorldModel(action_size=A, **{**SMALL, **VARIANTS[request.param]})
    for parameter in model.predictor.parameters():  # AdaLN-zero starts as a constant: give actions an effect
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def blocks(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, F * A, generator=torch.Generator().manual_seed(seed))


def remember(model: LeWorldModel, count: int) -> Window:
    """Belief after `count` frames."""
    kept = range(max(0, count - model.history), count)
    latents = torch.stack([model.embed(frames(B, seed=step)) for step in kept], dim=1)
    actions = torch.stack([blocks(B, seed=10 + step) for step in kept], dim=1)[:, 1:]
    return make_window(latents, actions, model.history)


def test_base_preset_has_the_parameters_of_the_paper() -> None:
    model = LeWorldModel(action_size=2, **PRESETS["base"])
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(18.03, abs=0.005)
    assert isinstance(model.encoder, ViT)


def test_tiny_preset_is_small() -> None:
    model = LeWorldModel(action_size=2, **PRESETS["tiny"])
    assert sum(parameter.numel() for parameter in model.parameters()) < 6e6
    assert isinstance(model.encoder, ConvNet)
    narrow = LeWorldModel(action_size=2, **PRESETS["tiny"], encoder_hidden=448)
    assert isinstance(narrow.encoder, ConvNet)
    assert model.encoder.features - narrow.encoder.features == 512 - 448


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="latnt_size"):
        LeWorldModel(action_size=2, latnt_size=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"encoder='cnn'.*vit, conv"):
        LeWorldModel(action_size=2, encoder="cnn")
    with pytest.raises(ValueError, match=r"encoder_hidden=9 is of encoder='conv', not of 'vit'"):
        LeWorldModel(action_size=2, encoder="vit", encoder_hidden=9)


@torch.no_grad()
def test_a_belief_remembers_the_last_frames_and_the_blocks_between_them(model: LeWorldModel) -> None:
    belief = model.begin(frames(B))
    assert torch.equal(belief.latent, model.embed(frames(B)))
    for step, kept in ((1, 2), (2, 3), (3, 3), (4, 3)):
        before, belief = belief, model.imagine(belief, blocks(B, seed=step))
        assert belief.length.tolist() == [kept] * B
        assert belief.latents.shape == (B, 3, 24)
        assert belief.actions.shape == (B, 2, F * A)
        assert torch.equal(belief.latents[:, -2], before.latent)
        assert torch.equal(belief.actions[:, -1], blocks(B, seed=step))
        assert belief.latents[:, : 3 - kept].count_nonzero() == 0


@pytest.mark.parametrize("context", [1, 2, 3])
@torch.no_grad()
def test_a_rollout_equals_predicting_step_by_step(model: LeWorldModel, context: int) -> None:
    belief, actions = remember(model, context), blocks(B, S, T)
    imagined = model.rollout(belief, actions)
    assert imagined.shape == (B, S, T, 24)
    for b in range(B):
        for s in range(S):
            latents, past = list(belief.latents[b, 3 - context :]), list(belief.actions[b, 3 - context :])
            for t in range(T):
                past.append(actions[b, s, t])
                window = torch.stack(latents[-3:])[None]
                latents.append(model.predictor(window, torch.stack(past[-window.shape[1] :])[None])[0, -1])
            torch.testing.assert_close(torch.stack(latents[context:]), imagined[b, s], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("context", [1, 2, 3])
def test_imagining_block_by_block_equals_a_rollout(model: LeWorldModel, context: int) -> None:
    belief, actions = remember(model, context), blocks(B, 1, T)
    with torch.no_grad():
        expected = model.rollout(belief, actions)[:, 0]
        for step in range(T):
            belief = model.imagine(belief, actions[:, 0, step])
            torch.testing.assert_close(belief.latent, expected[:, step])
            assert belief.length.tolist() == [min(context + step + 1, 3)] * B


def test_a_rollout_depends_on_earlier_actions_only(model: LeWorldModel) -> None:
    belief, actions = remember(model, 2), blocks(B, S, T)
    changed = actions.clone()
    changed[:, :, 3] += 1
    before, after = model.rollout(belief, actions), model.rollout(belief, changed)
    assert torch.allclose(before[:, :, :3], after[:, :, :3], atol=1e-6)
    assert (before[:, :, 3:] - after[:, :, 3:]).abs().amax(dim=(0, 1, 3)).min() > 1e-3  # each of the later ones


def test_a_rollout_is_differentiable_in_its_actions(model: LeWorldModel) -> None:
    model.requires_grad_(False)
    actions = blocks(B, S, T).requires_grad_()
    model.distance(model.rollout(remember(model, 2), actions), torch.zeros(B, 24))[..., -1].sum().backward()
    assert actions.grad is not None
    assert bool((actions.grad.abs().sum(-1) > 0).all())


def test_distance_pairs_each_episode_with_its_own_goal(model: LeWorldModel) -> None:
    latents, goal = torch.randn(S, S, T, 24), torch.randn(S, 24)  # B == S: right-aligned broadcasting would go unseen
    distance = model.distance(latents, goal)
    assert distance.shape == (S, S, T)
    assert torch.allclose(distance[1, 0, 2], (latents[1, 0, 2] - goal[1]).square().mean())


def test_losses_reach_every_part_of_the_model(model: LeWorldModel) -> None:
    model.train()
    losses = model.loss(Batch(frames(8, L), blocks(8, L - 1)), torch.Generator().manual_seed(0))
    expected = losses["prediction"] + model.sigreg_weight * losses["sigreg"]
    optional = {
        "rollout": model.rollout_weight,
        "inverse": model.inverse_weight,
        "reconstruction": model.reconstruction_weight,
    }
    for name, weight in optional.items():
        assert (name in losses) == (weight > 0)
        expected = expected + (weight * losses[name] if weight else 0)
    assert torch.allclose(losses["loss"], expected)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


def test_actor_beside_learns_from_pairs_of_the_clip_and_from_goals_that_follow() -> None:
    torch.manual_seed(0)
    model = LeWorldModel(action_size=A, **{**SMALL, "actor_weight": 0.7}).train()
    assert model.needs_goals
    assert not LeWorldModel(action_size=A, **SMALL).needs_goals
    pixels, actions = frames(2, L), blocks(2, L - 1)
    steps = torch.tensor([F * 3.0 - 1, torch.inf])  # the first goal is before the fourth frame, the second unrelated

    def losses(goal: torch.Tensor) -> dict[str, torch.Tensor]:
        return model.loss(Batch(pixels, actions, goal=goal, goal_steps=steps), torch.Generator().manual_seed(0))

    found = losses(frames(2, seed=3))
    without = found["loss"] - 0.7 * found["actor"]
    latents = model.embed(pixels.flatten(0, 1)).unflatten(0, (2, L))
    goal = model.embed(frames(2, seed=3))
    pairs = [(b, i, latents[b, j], j - i) for b in range(2) for i in range(L - 1) for j in range(i + 1, L)]
    pairs += [(0, i, goal[0], 3 - i) for i in range(3)]
    errors = []
    for clip, frame, end, left in pairs:
        mean, std = model.actor(latents[clip, frame][None], end[None], torch.tensor([left]))
        errors.append(torch.nn.functional.gaussian_nll_loss(mean, actions[clip, frame][None], std.square()))
    assert torch.allclose(found["actor"], torch.stack(errors).mean(), rtol=1e-4)
    other = torch.cat([frames(1, seed=3), frames(1, seed=4)])  # an unrelated goal teaches nothing
    other[0] = frames(2, seed=3)[0]
    assert torch.allclose(losses(other)["actor"], found["actor"], rtol=1e-4)
    assert torch.isfinite(without)
    found["loss"].backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    with pytest.raises(UserError, match=r"model.actor_weight needs goals"):
        model.loss(Batch(pixels, actions))


@pytest.mark.parametrize("decay", [0.3, 1.0])
@torch.no_grad()
def test_rollout_loss_weighs_each_step_by_the_decay(decay: float) -> None:
    torch.manual_seed(0)
    # A history of one frame leaves no choice of the context that the rollout begins with.
    model = LeWorldModel(action_size=A, **{**SMALL, "history": 1, "rollout_decay": decay}).eval()
    for parameter in model.predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pixels, actions = frames(B, L), blocks(B, L - 1)
    imagined = model.rollout(model.begin(pixels[:, 0]), actions[:, None])[:, 0]
    errors = [(imagined[:, k] - model.embed(pixels[:, k + 1])).square().mean() for k in range(L - 1)]
    expected = sum(decay**k * error for k, error in enumerate(errors)) / sum(decay**k for k in range(L - 1))
    losses = model.loss(Batch(pixels, actions), torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["rollout"], expected)


def test_gradients_flow_through_the_latents_that_are_predicted(model: LeWorldModel) -> None:
    """Follows the paper, which has no stop-gradient: the last frame of a clip of two is a target and nothing else."""
    pixels = frames(B, 2).requires_grad_()
    losses = model.loss(Batch(pixels, blocks(B, 1)), torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(losses["prediction"], pixels)
    assert (gradient[:, 1].flatten(1).norm(dim=1) > 0).all()


@torch.no_grad()
def test_sigreg_is_that_of_each_time_step() -> None:
    torch.manual_seed(0)
    model = LeWorldModel(action_size=A, **{**SMALL, "rollout_weight": 0.0}).eval()
    pixels = frames(8, L)
    losses = model.loss(Batch(pixels, blocks(8, L - 1)), torch.Generator().manual_seed(0))
    directions = model.sigreg_directions
    steps = [sigreg(model.embed(frame), directions, torch.Generator().manual_seed(0)) for frame in pixels.unbind(1)]
    torch.testing.assert_close(losses["sigreg"], torch.stack(steps).mean())


@pytest.mark.parametrize("seed", range(6))
def test_clips_shorter_than_the_history_leave_a_frame_to_imagine(model: LeWorldModel, seed: int) -> None:
    losses = model.loss(Batch(frames(8, 2), blocks(8, 1)), torch.Generator().manual_seed(seed))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert ("rollout" in losses) == (model.rollout_weight > 0)


def test_training_learns_which_action_led_where() -> None:
    """A point moves by its action: the right actions must come to predict better than shuffled ones."""
    torch.manual_seed(0)
    settings = {**SMALL, "frameskip": 1, "latent_size": 16, "history": 2, "sigreg_directions": 32}
    model = LeWorldModel(action_size=2, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def clips(seed: int, count: int = 48) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        actions = torch.rand(count, 3, 2, generator=generator) * 0.5 - 0.25
        start = torch.rand(count, 1, 2, generator=generator) - 0.5
        places = torch.cat([start, start + actions.cumsum(1)], dim=1)  # (B, 4, 2)
        axis = torch.linspace(-1, 1, 32)
        blob = torch.exp(-20 * (places[..., :1, None] - axis[:, None]) ** 2)
        blob = blob * torch.exp(-20 * (places[..., 1:, None] - axis) ** 2)
        return Batch(blob[:, :, None].expand(-1, -1, 3, -1, -1).contiguous() * 4, actions * 7)

    for step in range(120):
        optimizer.zero_grad()
        model.loss(clips(step), torch.Generator().manual_seed(step))["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    batch = clips(1000, 256)
    with torch.no_grad():
        right = model.loss(batch, torch.Generator().manual_seed(0))["prediction"]
        wrong = model.loss(Batch(batch.pixels, batch.actions.flip(0)), torch.Generator().manual_seed(0))["prediction"]
    assert float(right) < 0.6 * float(wrong)


@pytest.mark.parametrize("context", [1, 2, 3])
@torch.no_grad()
def test_counted_flops_are_those_that_torch_counts(model: LeWorldModel, context: int) -> None:
    belief, counted = remember(model, context), []
    for samples in (S, S + 4):
        with FlopCounterMode(display=False) as counter:
            model.rollout(belief, blocks(B, samples, T))
        counted.append(counter.get_total_flops())
    of_four = counted[1] - counted[0]  # what the candidates of an episode share is left out
    assert model.rollout_flops(T) * B * 4 == pytest.approx(of_four, rel=0.02)  # torch leaves attention out


def test_a_gradient_is_charged_for_at_least_what_it_takes(model: LeWorldModel) -> None:
    """Planners count a rollout with a gradient twice: its backward pass goes through the frozen weights once more."""
    model.requires_grad_(False)
    belief, actions = remember(model, 2), blocks(B, 40 * S, T).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model.rollout(belief, actions).sum().backward()
    charged = 2 * model.rollout_flops(T) * B * 40 * S
    assert 0.85 * charged < counter.get_total_flops() < 1.02 * charged


@pytest.mark.parametrize("context", [1, 2, 3, 4])
@torch.no_grad()
def test_the_flops_of_imagining_a_block_are_those_that_torch_counts(model: LeWorldModel, context: int) -> None:
    belief = remember(model, context)
    with FlopCounterMode(display=False) as counter:
        model.imagine(belief, blocks(B))
    assert model.imagine_flops() * B == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(("preset", "predictor"), [("base", "transformer"), ("tiny", "transformer"), ("tiny", "mlp")])
@torch.no_grad()
def test_bfloat16_keeps_the_ranking_of_plans(preset: str, predictor: str) -> None:
    torch.manual_seed(0)
    model = LeWorldModel(action_size=2, **PRESETS[preset], predictor=predictor).eval()
    for name, weight in model.predictor.named_parameters():
        if name.endswith(("modulation.1.weight", "output_proj.weight")):
            torch.nn.init.normal_(weight, std=0.1)  # blocks start as if they were not there
    frames = torch.randn(2, 3, model.image_size, model.image_size)
    belief, goal, actions = model.begin(frames[:1]), model.begin(frames[1:]).latent, torch.randn(1, 100, T, 10)
    ranks = []
    for bf16 in (False, True):
        with autocast(actions.device, bf16):
            costs = model.distance(model.rollout(belief, actions), goal).amin(-1)
        ranks.append(costs.flatten().argsort().argsort())
    assert float(torch.corrcoef(torch.stack(ranks).float())[0, 1]) >= 0.99  # Spearman


@pytest.mark.cuda
@torch.no_grad()
def test_rollout_on_cuda_equals_rollout_on_the_cpu(model: LeWorldModel) -> None:
    belief, actions = remember(model, 2), blocks(B, S, T)
    expected = model.rollout(belief, actions)
    on_cuda = Window(*(part.cuda() for part in belief))
    assert torch.allclose(model.cuda().rollout(on_cuda, actions.cuda()).cpu(), expected, atol=1e-3)

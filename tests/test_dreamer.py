"""The Dreamer-style agent: its distributions, losses and returns, each against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lwm_agent.errors import UserError
from lwm_agent.models import MODELS
from lwm_agent.models.distributions import DEVIATION, UNIMIX, Categoricals, Normals
from lwm_agent.models.dreamer import FREE_NATS, LATENTS, Dreamer
from lwm_agent.models.dreamer_nets import Colours
from lwm_agent.models.imagination_actor import DISCOUNT, LAMBDA, SLOW_RATE, ImaginationActor, frozen, lambda_returns
from lwm_agent.models.rssm import BlockLinear
from lwm_agent.models.two_hot import TwoHot, symexp, symlog
from lwm_agent.protocols import Batch

B, L, F, A, SIDE = 3, 5, 7, 2, 32
SMALL: dict[str, Any] = {
    "action_size": A,
    "frameskip": F,
    "image_size": SIDE,
    "deter": 24,
    "hidden": 11,
    "latents": "categorical",
    "categoricals": 5,
    "classes": 4,
    "units": 13,
    "depth": 4,
    "imagination": 3,
    "max_steps": 6,
}


def make(**settings: Any) -> Dreamer:
    torch.manual_seed(0)
    return Dreamer(**{**SMALL, **settings})


def make_batch(seed: int = 0, goal_steps: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(B, L, 3, SIDE, SIDE, generator=generator),
        torch.randn(B, L - 1, F * A, generator=generator),
        goal=torch.randn(B, 3, SIDE, SIDE, generator=generator),
        goal_steps=torch.full((B,), 2.0 * F) if goal_steps is None else goal_steps,
    )


def test_probabilities_are_mixed_with_a_uniform_distribution() -> None:
    probabilities = Categoricals(5, 4).mean(torch.tensor([[100.0, 0, 0, 0] * 5])).unflatten(-1, (5, 4))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 5))
    torch.testing.assert_close(probabilities[..., 1:], torch.full((1, 5, 3), UNIMIX / 4))


def test_divergence_is_that_of_the_distributions_summed() -> None:
    kind = Categoricals(5, 4)
    first, second = kind.mean(torch.randn(2, B, 20)).unbind(0)
    one, two = (torch.distributions.Categorical(part.unflatten(-1, (5, 4))) for part in (first, second))
    torch.testing.assert_close(kind.kl(first, second), torch.distributions.kl_divergence(one, two).sum(-1))
    normal, other = (torch.distributions.Normal(part, DEVIATION) for part in (first, second))
    expected = torch.distributions.kl_divergence(normal, other).sum(-1)
    torch.testing.assert_close(Normals(20).kl(first, second), expected)


def test_draws_are_one_hot_with_the_gradient_and_the_shares_of_their_probabilities() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.7, 0.2, 0.1]).expand(20_000, 3).clone().requires_grad_()
    drawn = Categoricals(1, 3).draw(probabilities)
    assert set(drawn.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)
    weights = torch.randn(20_000, 3)
    (gradient,) = torch.autograd.grad((drawn * weights).sum(), probabilities)
    torch.testing.assert_close(gradient, weights)


def test_normal_draws_have_their_mean_deviation_and_gradient() -> None:
    torch.manual_seed(0)
    mean = torch.tensor([0.7, -2.0]).expand(20_000, 2).clone().requires_grad_()
    drawn = Normals(2).draw(mean)
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((2,), DEVIATION), atol=0.01, rtol=0)
    (gradient,) = torch.autograd.grad(drawn.sum(), mean)
    torch.testing.assert_close(gradient, torch.ones(20_000, 2))


@pytest.mark.parametrize("latents", LATENTS)
def test_memory_and_pictures_go_on_from_draws_in_training_and_from_the_mean_else(latents: str) -> None:
    model = make(latents=latents)
    stoch = torch.rand(B, 20)
    assert torch.equal(model.eval().rssm.code(stoch), stoch)
    draws = [model.train().rssm.code(stoch) for _ in range(2)]
    assert not torch.equal(*draws)


def test_colours_vary_equally_in_all_directions_and_back() -> None:
    torch.manual_seed(0)
    mixed = torch.einsum("ij,njhw->nihw", torch.tensor([[2.0, 0.3, 0.0], [1.9, 0.5, 0.1], [1.5, 0.2, 0.4]]),
                         torch.randn(20, 3, 8, 8))  # fmt: skip
    colours = Colours()
    assert torch.equal(colours(mixed), mixed)
    colours.fit(mixed)
    whitened = colours(mixed)
    values = whitened.movedim(1, 0).flatten(1)
    variances = torch.linalg.eigvalsh(values @ values.T / values.shape[1])
    torch.testing.assert_close(variances[1:], torch.ones(2), atol=1e-3, rtol=0)
    assert 0.1 < variances[0] <= 1  # of a direction below the least that counts
    torch.testing.assert_close(colours.invert(whitened), mixed, atol=1e-4, rtol=0)


def test_frames_of_one_colour_do_not_break_colours() -> None:
    colours, grey = Colours(), torch.randn(4, 1, 8, 8).expand(-1, 3, -1, -1)
    colours.fit(grey)
    torch.testing.assert_close(colours.invert(colours(grey)), grey, atol=1e-4, rtol=0)


def test_divergence_below_the_free_nats_has_no_gradient() -> None:
    model = make().train()
    for part in (model.rssm.prior_net[-1], model.rssm.posterior_net[-1]):
        torch.nn.init.zeros_(part.weight)  # type: ignore[arg-type]
    states = model._filter(torch.randn(B, L, model.encoder.features), torch.randn(B, L - 1, F * A))
    losses = model._world_model_losses(torch.randn(B * L, 3, SIDE, SIDE), states)
    assert float(losses["kl_dyn"]) == float(losses["kl_rep"]) == FREE_NATS
    (losses["kl_dyn"] + losses["kl_rep"]).backward()  # type: ignore[no-untyped-call]
    assert all(not weight.grad.any() for weight in model.rssm.parameters() if weight.grad is not None)


def test_each_half_of_the_divergence_moves_its_own_side() -> None:
    model = make().train()
    for loss, moved, still in (("kl_dyn", "prior_net", "posterior_net"), ("kl_rep", "posterior_net", "prior_net")):
        states = model._filter(3 * torch.randn(B, L, model.encoder.features), torch.randn(B, L - 1, F * A))
        free = states._replace(deter=states.deter.detach())  # the memory is moved by both
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lwm_agent.models.dreamer.FREE_NATS", 0.0)
            losses = model._world_model_losses(torch.randn(B * L, 3, SIDE, SIDE), free)
        weights = [model.rssm.get_submodule(part)[-1].weight for part in (moved, still)]  # type: ignore[index]
        gradients = torch.autograd.grad(losses[loss], weights, allow_unused=True, retain_graph=True)
        assert gradients[0] is not None
        assert bool(gradients[0].any())
        assert gradients[1] is None or loss == "kl_rep"


def test_block_linear_maps_each_part_by_its_own_matrix() -> None:
    torch.manual_seed(0)
    layer, x = BlockLinear(6, 9, 3), torch.randn(B, 6)
    expected = x @ torch.block_diag(*layer.weight) + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_two_hot_restores_numbers_of_any_scale() -> None:
    two_hot = TwoHot()
    x = torch.tensor([-3e4, -7.5, -1e-3, 0.0, 0.4, 12.0, 1e6])
    weights = two_hot.encode(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(7))
    assert bool(((weights > 0).sum(-1) <= 2).all())
    torch.testing.assert_close((weights * two_hot.values).sum(-1), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert two_hot.decode(torch.zeros(2, 255)).tolist() == [0.0, 0.0]
    assert two_hot.encode(torch.tensor([1e12])).argmax() == 254  # beyond the last bin


def test_two_hot_cross_entropy_is_least_at_the_target() -> None:
    two_hot, target = TwoHot(limit=3.0, bins=31), torch.tensor([-4.2])
    logits = torch.zeros(1, 31, requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(two_hot.cross_entropy(logits, target).sum(), logits)
        logits = (logits - 3 * gradient).detach().requires_grad_()
    torch.testing.assert_close(two_hot.decode(logits), target, atol=0.05, rtol=0)


def test_lambda_returns_equal_their_recursion() -> None:
    rewards, values = torch.randn(4, B), torch.randn(4, B)
    returns = lambda_returns(rewards, values)
    for row in range(B):
        ahead = float(values[3, row])
        for step in (3, 2, 1, 0):
            reward, value = float(rewards[step, row]), float(values[step, row])
            ahead = reward + DISCOUNT * ((1 - LAMBDA) * value + LAMBDA * ahead)
            assert float(returns[step, row]) == pytest.approx(ahead, abs=1e-5)


def test_goals_are_later_frames_of_the_clip_or_its_hindsight_goal() -> None:
    model, batch = make().eval(), make_batch(goal_steps=torch.tensor([2.0 * F, math.inf, 30.0 * F]))
    codes = torch.arange(B * L * 20.0).reshape(B, L, 20)
    goals, steps = model._hindsight(batch, codes, torch.Generator().manual_seed(0))
    assert batch.goal is not None
    hindsight = model.begin(batch.goal).stoch
    kinds = set()
    for clip in range(B):
        for now in range(L):
            goal, ahead = goals[clip, now], float(steps[clip, now])
            far = torch.equal(goal, hindsight[clip])
            kinds.add(far)
            if far:
                assert ahead == (2.0 - now, math.inf, 30.0 - now)[clip]
            else:
                assert torch.equal(goal, codes[clip, now + int(ahead)])
                assert ahead >= 1
    assert kinds == {True, False}
    assert torch.equal(goals[:, -1], hindsight)  # no frame of the clip is later


def test_batches_without_goals_are_refused() -> None:
    with pytest.raises(UserError, match="needs goals"):
        make().loss(make_batch()._replace(goal=None))


def test_pairs_count_by_what_is_known_of_them() -> None:
    model = make()
    codes, goals = torch.randn(2, 4, 20)
    untrained = model.actor.distance_loss(codes, goals, torch.tensor([6.0, math.inf, 3.0, -1.0]))
    assert float(untrained) == pytest.approx((0.25 + 0.25 + 0.0) / 3)  # it says half of max_steps, 6, at first
    latents, blocks = torch.randn(4, 44), torch.randn(4, F * A)
    one = model.actor.imitation_loss(latents[:1], codes[:1], blocks[:1], torch.ones(1))
    masked = model.actor.imitation_loss(latents, codes, blocks, torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(masked, one)


def test_actor_learns_from_imagination_and_the_world_model_does_not() -> None:
    model = make().train()
    latents, goals = torch.randn(B, 44), torch.rand(B, 20)
    with torch.no_grad():
        model.actor.distance[-1].weight.normal_()  # type: ignore[operator, union-attr]
    with frozen(model.rssm):
        losses = model.actor.imagination_losses(latents, goals, model.step)
    losses["actor"].backward()  # type: ignore[no-untyped-call]
    moved = {name.split(".")[0] for name, weight in model.actor.named_parameters() if weight.grad is not None}
    assert moved == {"actor"}
    assert all(weight.grad is None for weight in model.rssm.parameters())
    assert all(weight.requires_grad for weight in model.rssm.parameters())
    assert bool(model.actor.actor[0].weight.grad.any())  # type: ignore[union-attr, operator]
    losses["critic"].backward()  # type: ignore[no-untyped-call]
    moved = {name.split(".")[0] for name, weight in model.actor.named_parameters() if weight.grad is not None}
    assert moved == {"actor", "critic"}


def test_slow_critic_follows_the_critic() -> None:
    model = make()
    slow, fast = (next(critic.parameters()) for critic in (model.actor.slow_critic, model.actor.critic))
    before = slow.clone()
    assert torch.equal(before, fast)
    with torch.no_grad():
        fast.add_(1.0)
    model.after_step()
    torch.testing.assert_close(slow, before + SLOW_RATE)


def test_actions_stay_in_the_range_of_the_data() -> None:
    model, batch = make().train(), make_batch()
    seen: list[Tensor] = []

    def imagine(latents: Tensor, blocks: Tensor) -> Tensor:
        seen.append(blocks)
        return model.step(latents, blocks)

    model.loss(batch)
    by_action = batch.actions.unflatten(-1, (F, A)).flatten(0, 2)
    torch.testing.assert_close(model.actor.action_low, by_action.amin(0).clamp_max(-1))
    torch.testing.assert_close(model.actor.action_high, by_action.amax(0).clamp_min(1))
    with torch.no_grad():
        model.actor.actor[-1].weight.normal_(std=10)  # type: ignore[operator, union-attr]
        model.actor.imagination_losses(torch.randn(50, 44), torch.rand(50, 20), imagine)
    blocks = torch.cat(seen).unflatten(-1, (F, A))
    assert bool((blocks <= model.actor.action_high + 1e-5).all())
    assert bool((blocks >= model.actor.action_low - 1e-5).all())
    assert blocks.unique().numel() > 100
    mean, std = model.actor.act(torch.randn(4, 44), torch.randn(4, 44), torch.ones(4))
    assert mean.shape == std.shape == (4, F * A)
    assert bool((mean.unflatten(-1, (F, A)) <= model.actor.action_high + 1e-5).all())


def test_goal_actor_pairs_latents_with_their_own_goals() -> None:
    actor: ImaginationActor = make().actor
    with torch.no_grad():
        actor.distance[-1].weight.normal_(std=3)  # type: ignore[operator, union-attr]
    latents, goal, blocks = torch.randn(2, 3, 4, 44), torch.randn(2, 44), torch.randn(2, 3, 4, F * A)
    steps = torch.ones(2, 3, 4)
    logs, deviations = actor.log_steps(latents, goal), actor.deviations(latents, goal, steps, blocks)
    assert logs.shape == deviations.shape == (2, 3, 4)
    rows = actor.log_steps(latents[1:, 2:, 3:], goal[1:])
    torch.testing.assert_close(rows.squeeze(), logs[1, 2, 3])
    mean, std = actor.act(latents[1, 2, 3], goal[1], steps[1, 2, 3])
    torch.testing.assert_close(((blocks[1, 2, 3] - mean) / std).square().mean(), deviations[1, 2, 3])
    whole = actor.steps_to_go(latents[:, 0, 0], goal)
    torch.testing.assert_close(whole.float(), logs[:, 0, 0].exp().round().clamp(1, 6))


@pytest.mark.parametrize("latents", LATENTS)
def test_losses_follow_from_the_seed_and_validation_draws_nothing(latents: str) -> None:
    model, batch = make(latents=latents).train(), make_batch()

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        found = model.loss(batch, torch.Generator().manual_seed(3))
        return [float(loss.detach()) for name, loss in found.items() if name not in ("actor", "loss")]

    assert losses(0) == losses(0) != losses(1)
    model.eval()
    assert losses(0) == losses(1)


@torch.no_grad()
def test_first_frame_leaves_the_same_memory_whatever_it_shows() -> None:
    model = make().eval()
    belief = model.begin(torch.randn(B, 3, SIDE, SIDE))
    assert (belief.deter - belief.deter[:1]).abs().max() < 1e-6
    assert (belief.stoch - belief.stoch[:1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["stoch", "features"])
def test_distance_sums_over_classes(kind: str) -> None:
    latents, goal = torch.randn(2, 3, 4, 44), torch.randn(2, 44)
    gap = (latents[1, 2, 3] - goal[1]).square()
    memory = gap[:24].mean() if kind == "features" else 0
    expected = gap[24:].unflatten(0, (5, 4)).sum(-1).mean() + memory
    torch.testing.assert_close(make(distance=kind).eval().distance(latents, goal)[1, 2, 3], expected)
    normal = make(distance=kind, latents="normal", latent_size=20).eval()
    torch.testing.assert_close(normal.distance(latents, goal)[1, 2, 3], gap[24:].mean() + memory)


@torch.no_grad()
@pytest.mark.parametrize("absolute", [True, False])
def test_posterior_sees_the_memory_unless_it_is_absolute(absolute: bool) -> None:
    model = make(absolute=absolute).eval()
    frames, block = torch.randn(B, 3, SIDE, SIDE), torch.randn(B, F * A)
    begun, observed = model.begin(frames), model.observe(model.begin(frames.roll(1, 0)), block, frames)
    assert torch.allclose(begun.stoch, observed.stoch, atol=1e-6) == absolute
    assert not torch.allclose(begun.deter, observed.deter, atol=1e-3)


@torch.no_grad()
def test_latents_decode_to_frames() -> None:
    model = make().eval()
    belief = model.begin(torch.randn(B, 3, SIDE, SIDE))
    futures = model.rollout(belief, torch.randn(B, 2, 4, F * A))
    pictures = model.decode(futures.flatten(0, 2))
    assert pictures.shape == (B * 2 * 4, 3, SIDE, SIDE)
    assert pictures.dtype == torch.float32
    torch.testing.assert_close(model.decode(futures[1, 1]), pictures.unflatten(0, (B, 2, 4))[1, 1])


@torch.no_grad()
@pytest.mark.parametrize("preset", MODELS["dreamer"].presets)
def test_operations_are_those_that_torch_counts(preset: str) -> None:
    model = Dreamer(**{**MODELS["dreamer"].presets[preset], "action_size": A}).eval()
    with FlopCounterMode(display=False) as counter:
        belief = model.begin(torch.randn(2, 3, 64, 64))
    assert counter.get_total_flops() == 2 * model.encode_flops()
    with FlopCounterMode(display=False) as counter:
        model.rollout(belief, torch.randn(2, 3, 4, model.block_size))
    assert counter.get_total_flops() == 2 * 3 * model.rollout_flops(4)
    with FlopCounterMode(display=False) as counter:
        model.actor.act(belief.latent, belief.latent, torch.ones(2))
    assert counter.get_total_flops() == 2 * model.actor.actor_flops
    with FlopCounterMode(display=False) as counter:
        model.actor.steps_to_go(belief.latent, belief.latent)
    assert counter.get_total_flops() == 2 * model.actor.distance_flops


def test_presets_have_the_sizes_they_say() -> None:
    sizes = {
        name: sum(w.numel() for w in Dreamer(**{**preset, "action_size": A}).trainable_parameters())
        for name, preset in MODELS["dreamer"].presets.items()
    }
    assert 1e6 < sizes["tiny"] < 5e6
    assert 9e6 < sizes["12m"] < 12.5e6


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"deter": 20}, "deter=20 must be a multiple of 8"),
        ({"image_size": 40}, "image_size=40 must be one of 16, 32, 64, 128"),
        ({"distance": "pixels"}, "distance='pixels' is unknown"),
        ({"latents": "bits"}, "latents='bits' is unknown: choose one of normal, categorical"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        make(**settings)

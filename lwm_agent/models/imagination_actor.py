"""A goal-conditioned actor and critic that learn in imagination, and a temporal distance that rewards them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .layers import linear_weights
from .rssm import dense
from .two_hot import TwoHot

DISCOUNT = 0.95
"""Of an action block; about .99 for each of 5 environment steps, as in LEXA."""

LAMBDA, ENTROPY_WEIGHT, SLOW_RATE, RETURN_RATE = 0.95, 3e-4, 0.02, 0.01
"""Of DreamerV3: of lambda-returns, of the actor's entropy, of the slow critic, of the range of returns."""

RETURN_PERCENTILES = (0.05, 0.95)
STD = (0.1, 1.0)
"""Smallest and largest deviation of an action, in units of half the range of actions."""

Imagine = Callable[[Tensor, Tensor], Tensor]
"""Latents ``(N, D)`` and blocks ``(N, F*A)`` to the latents that follow."""


class ImaginationActor(nn.Module):
    """Actor, critic and temporal distance of states and goals; a `GoalActor`.

    A latent ``(N, D)`` is a memory and a code, its last `code_size` numbers. Goals enter by their codes: the memory of
    a single frame is empty. As in LEXA, the actor does not look at the steps that are left.

    Args:
        latent_size: D.
        code_size: size of a code.
        action_size: A.
        frameskip: F.
        units: width of the hidden layers.
        imagination: action blocks of an imagined future.
        max_steps: model steps beyond which the temporal distance tells nothing apart.
    """

    action_low: Tensor  # (A,): smallest action of the training data so far, and at most -1
    action_high: Tensor  # (A,): largest
    return_range: Tensor  # (): moving average of the range of returns

    def __init__(
        self,
        *,
        latent_size: int,
        code_size: int,
        action_size: int,
        frameskip: int,
        units: int,
        imagination: int,
        max_steps: int,
    ) -> None:
        super().__init__()
        self.code_size, self.frameskip, self.imagination, self.max_steps = code_size, frameskip, imagination, max_steps
        self.two_hot = TwoHot(limit=math.log1p(2 / (1 - DISCOUNT)))  # twice the largest return
        self.actor = dense(latent_size + code_size, units, 3, 2 * frameskip * action_size)
        self.critic = dense(latent_size + code_size, units, 3, len(self.two_hot.values))
        self.distance = dense(2 * code_size, units, 2, 1)
        for network, scale in ((self.actor, 0.01), (self.critic, 0.0), (self.distance, 0.0)):
            last = network[-1]
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                last.weight.mul_(scale)
                last.bias.zero_()
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("action_low", -torch.ones(action_size))
        self.register_buffer("action_high", torch.ones(action_size))
        self.register_buffer("return_range", torch.zeros(()))

    def act(self, latent: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Implements `GoalActor`."""
        mean, std = self._policy(latent, self._code(goal).expand(*latent.shape[:-1], -1))
        centre, half = self._limits()
        return centre + half * mean, half * std

    def log_steps(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Implements `GoalActor`."""
        return self._log_steps(latents, goal[:, None, None].expand_as(latents))

    def steps_to_go(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Implements `GoalActor`."""
        return self._log_steps(latent, goal).exp().round().long().clamp(1, self.max_steps)

    def contrasts(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Implements `GoalActor`: a Dreamer has none."""
        raise UserError("the cost 'contrast' needs heads with a contrast, and a Dreamer has none: choose another cost")

    @property
    def contrast_flops(self) -> float:
        """Implements `GoalActor`."""
        return 0.0

    def deviations(self, latents: Tensor, goal: Tensor, steps: Tensor, blocks: Tensor) -> Tensor:
        """Implements `GoalActor`."""
        mean, std = self.act(latents, goal[:, None, None], steps)
        return ((blocks - mean) / std).square().mean(-1)

    @property
    def actor_flops(self) -> float:
        """Implements `GoalActor`."""
        return 2.0 * linear_weights(self.actor)

    @property
    def distance_flops(self) -> float:
        """Implements `GoalActor`."""
        return 2.0 * linear_weights(self.distance)

    @torch.no_grad()
    def see_actions(self, blocks: Tensor) -> None:
        """Widens the range of actions to that of `blocks` ``(..., F*A)``."""
        actions = blocks.unflatten(-1, (self.frameskip, -1)).flatten(0, -2)
        self.action_low.copy_(torch.minimum(self.action_low, actions.amin(0)))
        self.action_high.copy_(torch.maximum(self.action_high, actions.amax(0)))

    @torch.no_grad()
    def move_slow_critic(self) -> None:
        """Moves the slow critic a little towards the critic."""
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, SLOW_RATE)

    def distance_loss(self, codes: Tensor, goals: Tensor, steps: Tensor) -> Tensor:
        """Mean squared error of the distance from `codes` to `goals` ``(N, code_size)``, as a share of `max_steps`.

        Goals are `steps` ``(N,)`` away; infinitely many count as `max_steps`, and pairs with fewer than 0 do not count.
        """
        target = (steps / self.max_steps).clamp(0, 1)
        known = (steps >= 0).float()
        return (known * (self._share(codes, goals).sigmoid() - target).square()).sum() / known.sum().clamp_min(1)

    def imitation_loss(self, latents: Tensor, goals: Tensor, blocks: Tensor, valid: Tensor) -> Tensor:
        """Negative log-likelihood, per number of a block, of the data's `blocks` where `valid` ``(N,)``."""
        mean, std = self._policy(latents, goals)
        centre, half = self._limits()
        error = F.gaussian_nll_loss(mean, (blocks - centre) / half, std.square(), reduction="none").mean(-1)
        return (valid * error).sum() / valid.sum().clamp_min(1)

    def imagination_losses(self, latents: Tensor, goals: Tensor, imagine: Imagine) -> dict[str, Tensor]:
        """Losses "actor" and "critic" of futures from `latents` ``(N, D)`` towards codes `goals` ``(N, code_size)``.

        The actor's gradient is that of the lambda-returns, through the imagined futures: `imagine` must be
        differentiable in its blocks. No other network than actor and critic gets a gradient, if those inside `imagine`
        are frozen.
        """
        with frozen(self.critic, self.distance):
            futures, entropy = self._imagine(latents, goals, imagine)
            codes = futures[1:, :, -self.code_size :]
            targets = goals.expand(self.imagination, *goals.shape)
            rewards = -self._share(codes, targets).sigmoid()
            values = self.two_hot.decode(self._value_logits(self.critic, futures[1:], targets))
            returns = lambda_returns(rewards, values)  # (H, N)
        weights = DISCOUNT ** torch.arange(self.imagination, device=latents.device)[:, None]
        actor = -(weights * returns).mean() / self._scale(returns) - ENTROPY_WEIGHT * (weights * entropy).mean()
        return {"actor": actor, "critic": self._critic_loss(futures[:-1].detach(), targets, returns.detach(), weights)}

    def _imagine(self, latents: Tensor, goals: Tensor, imagine: Imagine) -> tuple[Tensor, Tensor]:
        """Latents ``(H + 1, N, D)``, the first those of the present, and entropies of the actions ``(H, N)``."""
        futures, entropies = [latents], []
        centre, half = self._limits()
        for _ in range(self.imagination):
            mean, std = self._policy(futures[-1].detach(), goals)
            action = (mean + std * torch.randn_like(std) if self.training else mean).clamp(-1, 1)
            futures.append(imagine(futures[-1], centre + half * action))
            entropies.append((std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1))
        return torch.stack(futures), torch.stack(entropies)

    def _critic_loss(self, latents: Tensor, goals: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy of the critic at the returns, and at what the slow critic says."""
        logits = self._value_logits(self.critic, latents, goals)
        with torch.no_grad():
            slow = self.two_hot.decode(self._value_logits(self.slow_critic, latents, goals))
        losses = self.two_hot.cross_entropy(logits, returns) + self.two_hot.cross_entropy(logits, slow)
        return (weights * losses).mean()

    @torch.no_grad()
    def _scale(self, returns: Tensor) -> Tensor:
        """Range of returns, at least 1, by which the actor's gradient is divided; training updates it."""
        if self.training:
            low, high = torch.quantile(returns.flatten(), torch.tensor(RETURN_PERCENTILES, device=returns.device))
            self.return_range.lerp_(high - low, RETURN_RATE)
        return self.return_range.clamp_min(1.0)

    def _policy(self, latents: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation ``(..., F*A)`` of the next block, on a scale where the data lie between -1 and 1."""
        mean, spread = self.actor(torch.cat([latents, goals], dim=-1)).float().chunk(2, dim=-1)
        return mean.tanh(), STD[0] + (STD[1] - STD[0]) * (spread + 2).sigmoid()

    def _limits(self) -> tuple[Tensor, Tensor]:
        """Centre and half the range of the actions of a block, each ``(F*A,)``."""
        centre, half = (self.action_high + self.action_low) / 2, (self.action_high - self.action_low) / 2
        return centre.float().repeat(self.frameskip), half.float().repeat(self.frameskip)

    def _value_logits(self, critic: nn.Module, latents: Tensor, goals: Tensor) -> Tensor:
        logits: Tensor = critic(torch.cat([latents, goals], dim=-1))
        return logits

    def _share(self, codes: Tensor, goals: Tensor) -> Tensor:
        """Logit ``(...)`` of the steps from `codes` to `goals` ``(..., code_size)`` as a share of `max_steps`."""
        share: Tensor = self.distance(torch.cat([codes, goals], dim=-1))
        return share.float().squeeze(-1)

    def _log_steps(self, latents: Tensor, goals: Tensor) -> Tensor:
        return math.log(self.max_steps) + F.logsigmoid(self._share(self._code(latents), self._code(goals)))

    def _code(self, latents: Tensor) -> Tensor:
        return latents[..., -self.code_size :]


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """What is computed inside has no gradient in the weights of `networks`."""
    weights = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def lambda_returns(rewards: Tensor, values: Tensor) -> Tensor:
    """Lambda-returns ``(H, N)`` of `rewards` ``(H, N)`` of each block, and `values` ``(H, N)`` of where they lead."""
    ahead, returns = values[-1], []
    for reward, value in zip(rewards.flip(0), values.flip(0), strict=True):
        ahead = reward + DISCOUNT * ((1 - LAMBDA) * value + LAMBDA * ahead)
        returns.append(ahead)
    return torch.stack(returns[::-1])

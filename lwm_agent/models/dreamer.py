"""A Dreamer-style agent: DreamerV3's world model, trained on recorded data, and LEXA's goal-conditioned actor."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..protocols import Batch, Belief
from .base import WorldModel, checked
from .dreamer_nets import ImageDecoder, ImageEncoder
from .imagination_actor import ImaginationActor, frozen
from .rssm import RSSM, Recurrent

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"image_size": 64},
    "12m": {
        "image_size": 64,
        "deter": 2048,
        "hidden": 256,
        "units": 256,
        "kernel": 5,
        "stem": 2,
    },
}
"""Constructor arguments by preset: `tiny` is made for 2 CPU cores, `12m` has the sizes of DreamerV3's."""

RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {"learning_rate": 1e-3, "batch_size": 12, "clip_length": 8, "steps": 24_000},
    "12m": {"learning_rate": 3e-4, "batch_size": 32, "clip_length": 16, "steps": 50_000},
}
"""Settings of `TrainConfig` by preset."""

DISTANCES = ("stoch", "features")

DYN_WEIGHT, REP_WEIGHT, FREE_NATS = 1.0, 0.1, 1.0
"""Weights of the two halves of the divergence, and the nats of it that cost nothing (DreamerV3, section 3)."""


ACTOR_SCALE = 0.02
"""Factor of all losses of the actor, its critic and the temporal distance.

The critic's gradient is a hundred times as large as the world model's, and both are clipped together. AdamW's steps do
not depend on the scale of a loss, so actor and critic learn as fast with it.
"""

IMAGINE_EVERY = 2
"""Frames of a clip from one start of imagined futures to the next: neighbours are alike, and futures take long."""


class Dreamer(WorldModel):
    """Recurrent state-space model, decoder, and an actor that learns in imagination.

    A latent is the memory of the GRU and the probabilities of the categoricals. Memory and decoder go on from the
    likeliest class of each, with straight-through gradients, in training as in planning: pictures are learned much
    faster than from draws, and planning is deterministic. Distances, actor and critic see the probabilities, which are
    smooth in the actions.

    Loss: squared error of the decoded frames; the divergence of posterior and prior, with free nats; and those of
    `ImaginationActor`, which do not reach the world model. The data have no rewards and no ends of episodes, so there
    are no heads for these: the reward of the imagined futures is minus a learned temporal distance to the goal.

    Args:
        action_size: A.
        frameskip: F.
        image_size: side of the frames, px.
        deter: M, size of the GRU's memory.
        hidden: width of the hidden layers of the recurrent model.
        categoricals: C.
        classes: K, of each categorical.
        units: width of the hidden layers of decoder, actor, critic and temporal distance.
        depth: unit of the numbers of channels of encoder and decoder.
        kernel: side of their kernels.
        stem: stride of the encoder's first convolution.
        absolute: whether the posterior sees the frame alone; else it sees the memory too, as in the paper.
        drawn: whether training draws classes, as in the paper, and planning goes on from their probabilities; else the
            likeliest are taken.
        distance: what a goal is compared by: "stoch", the probabilities, or "features", the memory too.
        kl_weight: weight of the divergence relative to the mean squared error of a normalised pixel.
        imagination: action blocks of the futures that the actor learns from.
        max_steps: model steps beyond which the temporal distance tells nothing apart.
        imagination_weight: weight of the imagined returns in the actor's loss.
        imitation_weight: weight of the data's actions in the actor's loss (off at 0).
    """

    needs_goals: ClassVar[bool] = True

    def __init__(
        self,
        *,
        action_size: int,
        frameskip: int = 5,
        image_size: int = 64,
        deter: int = 512,
        hidden: int = 256,
        categoricals: int = 32,
        classes: int = 16,
        units: int = 256,
        depth: int = 16,
        kernel: int = 3,
        stem: int = 4,
        absolute: bool = True,
        drawn: bool = False,
        distance: str = "stoch",
        kl_weight: float = 0.002,
        imagination: int = 6,
        max_steps: int = 20,
        imagination_weight: float = 1.0,
        imitation_weight: float = 1.0,
    ) -> None:
        code_size = categoricals * classes
        super().__init__(
            action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(deter + code_size,)
        )
        if distance not in DISTANCES:
            raise UserError(f"distance={distance!r} is unknown: choose one of {', '.join(DISTANCES)}")
        self.distance_kind, self.kl_weight = distance, kl_weight
        self.imagination_weight, self.imitation_weight = imagination_weight, imitation_weight
        self.encoder = ImageEncoder(image_size, depth, kernel, stem)
        self.rssm = RSSM(
            block_size=self.block_size,
            embedding=self.encoder.features,
            deter=deter,
            hidden=hidden,
            categoricals=categoricals,
            classes=classes,
            absolute=absolute,
            drawn=drawn,
        )
        self.decoder = ImageDecoder(deter + code_size, units, image_size, depth, kernel, stem)
        self.actor = ImaginationActor(
            latent_size=deter + code_size,
            code_size=code_size,
            action_size=action_size,
            frameskip=frameskip,
            units=units,
            imagination=imagination,
            max_steps=max_steps,
        )

    def begin(self, pixels: Tensor) -> Recurrent:
        """Implements `WorldModel`."""
        return self.rssm.begin(self.encoder(pixels))

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Recurrent:
        """Implements `WorldModel`."""
        return self.rssm.observe(checked(belief, Recurrent), block, self.encoder(pixels))

    def imagine(self, belief: Belief, block: Tensor) -> Recurrent:
        """Implements `WorldModel`."""
        return self.rssm.imagine(checked(belief, Recurrent), block)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Implements `WorldModel`; a latent is the whole state, so nothing is lost."""
        return self.rssm.imagine(self.rssm.split(latents), blocks).latent

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Squared difference ``(B, S, T)`` of the probabilities, summed over classes, and its mean over categoricals.

        The memory after one frame is the same for every frame, so it tells nothing of a goal: only with
        ``distance="features"``, its mean squared difference is added.
        """
        gap = self.rssm.split((latents.float() - goal.float()[:, None, None]).square())
        codes = gap.stoch.mean(-1) * self.rssm.classes
        return codes + gap.deter.mean(-1) if self.distance_kind == "features" else codes

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised frames ``(N, C, h, w)`` of `latents` ``(N, D)``."""
        state = self.rssm.split(latents)
        return self.decoder(torch.cat([state.deter, self.rssm.code(state.stoch)], dim=-1))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of `batch`, which has goals; `generator` (on the CPU) chooses between goals.

        In training, actions and the latents of a model that is `drawn` are drawn by torch's own generator.
        """
        clips, length = batch.pixels.shape[:2]
        embeddings = self.encoder(batch.pixels.flatten(0, 1)).unflatten(0, (clips, length))
        states = self._filter(embeddings, batch.actions)
        losses = self._world_model_losses(batch.pixels, states)
        divergence = DYN_WEIGHT * losses["kl_dyn"] + REP_WEIGHT * losses["kl_rep"]
        losses["loss"] = losses["reconstruction"] + self.kl_weight * divergence
        if self.training:
            self.actor.see_actions(batch.actions)
        latents = states.latent.detach()
        goals, steps = self._hindsight(batch, self.rssm.split(latents).stoch, generator)
        losses |= self._actor_losses(latents, goals, steps, batch.actions)
        actor = self.imagination_weight * losses["actor"] + self.imitation_weight * losses["imitation"]
        losses["loss"] = losses["loss"] + ACTOR_SCALE * (actor + losses["critic"] + losses["distance"])
        return losses

    def _filter(self, embeddings: Tensor, actions: Tensor) -> Recurrent:
        """Posterior states ``(B, L, ...)`` of clips of `embeddings` ``(B, L, E)`` and `actions` ``(B, L - 1, F*A)``."""
        state = self.rssm.begin(embeddings[:, 0])
        states = [state]
        for embedding, block in zip(embeddings[:, 1:].unbind(1), actions.unbind(1), strict=True):
            state = self.rssm.observe(state, block, embedding)
            states.append(state)
        return Recurrent(*(torch.stack(parts, dim=1) for parts in zip(*states, strict=True)))

    def _world_model_losses(self, pixels: Tensor, states: Recurrent) -> dict[str, Tensor]:
        """Reconstruction, and both halves of the divergence in nats, beyond the free ones.

        The first frame of a clip has no past: it is decoded, but nothing is to predict it.
        """
        decoded = self.decode(states.latent.flatten(0, 1))
        prior, posterior = self.rssm.prior(states.deter[:, 1:]), states.stoch[:, 1:]
        return {
            "reconstruction": (decoded - pixels.flatten(0, 1)).square().mean(),
            "kl_dyn": self.rssm.kl(posterior.detach(), prior).clamp_min(FREE_NATS).mean(),
            "kl_rep": self.rssm.kl(posterior, prior.detach()).clamp_min(FREE_NATS).mean(),
        }

    def _hindsight(self, batch: Batch, codes: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A goal for each frame, as a code ``(B, L, C*K)``, and the model steps to it ``(B, L)``.

        Half of them are later frames of the clip, the others the clip's hindsight goal: a later frame of its
        trajectory, or another's, infinitely many steps away. Steps below 0 are to a goal that lies in the past.
        """
        if batch.goal is None:
            raise UserError("this model needs goals in its batches")
        clips, length = codes.shape[:2]
        with torch.no_grad():
            goal = self.begin(batch.goal).stoch
        now = torch.arange(length, device=codes.device).expand(clips, length)
        draws = torch.rand(2, clips, length, generator=generator).to(codes.device)
        later = now + 1 + (draws[0] * (length - 1 - now)).long()
        far = (draws[1] < 0.5) | (later >= length)
        later = later.clamp_max(length - 1)
        inside = codes.gather(1, later[..., None].expand_as(codes))
        ahead = torch.inf if batch.goal_steps is None else batch.goal_steps[:, None] / self.frameskip - now
        goals = torch.where(far[..., None], goal[:, None], inside)
        return goals, torch.where(far, ahead, (later - now).float())

    def _actor_losses(self, latents: Tensor, goals: Tensor, steps: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Losses of the actor, its critic and the temporal distance, on all frames of the clips."""
        valid = (steps.isfinite() & (steps > 0)).float()[:, :-1].flatten()
        from_latents, to_goals = (part[:, :-1].flatten(0, 1) for part in (latents, goals))
        starts, towards = (part[:, ::IMAGINE_EVERY].flatten(0, 1) for part in (latents, goals))
        with frozen(self.rssm):
            losses = self.actor.imagination_losses(starts, towards, self.step)
        codes = self.rssm.split(latents).stoch
        losses["distance"] = self.actor.distance_loss(codes.flatten(0, 1), goals.flatten(0, 1), steps.flatten())
        losses["imitation"] = self.actor.imitation_loss(from_latents, to_goals, actions.flatten(0, 1), valid)
        return losses

    def after_step(self) -> None:
        """Implements `WorldModel`."""
        self.actor.move_slow_critic()

    @property
    def goal_actor(self) -> ImaginationActor:
        """Implements `WorldModel`."""
        return self.actor

    def encode_flops(self) -> float:
        """Floating-point operations of encoding one frame and taking it into a belief."""
        return self.encoder.flops() + self.rssm.observe_flops()

    def rollout_flops(self, horizon: int) -> float:
        """Implements `WorldModel`."""
        return horizon * self.imagine_flops()

    def imagine_flops(self) -> float:
        """Implements `WorldModel`."""
        return self.rssm.imagine_flops()

    def planning_parts(self) -> tuple[nn.Module, ...]:
        """Implements `WorldModel`."""
        return (self.rssm.core, self.rssm.prior_net)

    def describe(self) -> str:
        """Implements `WorldModel`."""
        return "Dreamer-style recurrent state-space model with an actor that learned in imagination"

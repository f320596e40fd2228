"""A Dreamer-style agent: DreamerV3's world model, trained on recorded data, and LEXA's goal-conditioned actor."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..protocols import Batch, Belief
from ..validation import NonNegative, PositiveInt, check_choice
from .base import WorldModel, checked
from .distributions import Categoricals, Normals
from .dreamer_nets import Colours, ImageDecoder, ImageEncoder
from .imagination_actor import ImaginationActor, frozen
from .rssm import RSSM, Recurrent

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"image_size": 64},
    "12m": {
        "image_size": 64,
        "latents": "categorical",
        "kl_weight": 0.002,
        "deter": 2048,
        "hidden": 256,
        "units": 256,
        "kernel": 5,
        "stem": 2,
    },
}
"""Constructor arguments by preset: `tiny` is made for 2 CPU cores, `12m` has the sizes of DreamerV3's."""

RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {"learning_rate": 1e-3, "batch_size": 16, "clip_length": 6, "steps": 24_000},
    "12m": {"learning_rate": 3e-4, "batch_size": 32, "clip_length": 16, "steps": 50_000},
}
"""Settings of `TrainConfig` by preset."""

LATENTS = ("normal", "categorical")
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

    A latent, in the words of `WorldModel`, is the memory of the GRU and the mean of the recurrent model's own latent.
    Training draws the latter, planning is deterministic: memory and pictures go on from the mean. Distances, actor and
    critic see the mean in training too: it is smooth in the actions.

    Loss: squared error of the decoded frames, in the `Colours` of the data; the divergence of posterior and prior, with
    free nats; and those of `ImaginationActor`, which do not reach the world model. The data have no rewards and no ends
    of episodes, so there are no heads for these: the reward of the imagined futures is minus a learned temporal
    distance to the goal.

    Args:
        action_size: A.
        frameskip: F.
        image_size: side of the frames, px.
        deter: M, size of the GRU's memory.
        hidden: width of the hidden layers of the recurrent model.
        latents: "normal", as in the first Dreamer, or "categorical", as in DreamerV3.
        latent_size: Z, of normal latents.
        categoricals: C, of categorical latents; Z is C*K.
        classes: K, of each categorical.
        units: width of the hidden layers of decoder, actor, critic and temporal distance.
        depth: unit of the numbers of channels of encoder and decoder.
        kernel: side of their kernels.
        stem: stride of the encoder's first convolution.
        absolute: whether the posterior sees the frame alone; else it sees the memory too, as in the paper.
        distance: what a goal is compared by: "stoch", the mean of the latent, or "features", the memory too.
        kl_weight: weight of the divergence relative to the mean squared error of a normalised pixel.
        imagination: action blocks of the futures that the actor learns from.
        max_steps: model steps beyond which the temporal distance tells nothing apart.
        imagination_weight: weight of the imagined returns in the actor's loss.
        imitation_weight: weight of the data's actions in the actor's loss (off at 0).
    """

    loss_settings = ("kl_weight", "imagination_weight", "imitation_weight")
    needs_goals = True
    prediction_loss: ClassVar[str] = "kl_dyn"

    def __init__(
        self,
        *,
        action_size: PositiveInt,
        frameskip: PositiveInt = 5,
        image_size: PositiveInt = 64,
        deter: PositiveInt = 512,
        hidden: PositiveInt = 256,
        latents: str = "normal",
        latent_size: PositiveInt = 192,
        categoricals: PositiveInt = 32,
        classes: PositiveInt = 16,
        units: PositiveInt = 256,
        depth: PositiveInt = 16,
        kernel: PositiveInt = 3,
        stem: PositiveInt = 4,
        absolute: bool = True,
        distance: str = "stoch",
        kl_weight: NonNegative = 2e-5,
        imagination: PositiveInt = 6,
        max_steps: PositiveInt = 20,
        imagination_weight: NonNegative = 1.0,
        imitation_weight: NonNegative = 1.0,
    ) -> None:
        check_choice("distance", distance, DISTANCES)
        check_choice("latents", latents, LATENTS)
        kind = Normals(latent_size) if latents == "normal" else Categoricals(categoricals, classes)
        super().__init__(
            action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(deter + kind.size,)
        )
        self.distance_kind, self.kl_weight = distance, kl_weight
        self.imagination_weight, self.imitation_weight = imagination_weight, imitation_weight
        self.colours = Colours()
        self.encoder = ImageEncoder(image_size, depth, kernel, stem)
        self.rssm = RSSM(
            block_size=self.block_size,
            embedding=self.encoder.features,
            deter=deter,
            hidden=hidden,
            latents=kind,
            absolute=absolute,
        )
        self.decoder = ImageDecoder(deter + kind.size, units, image_size, depth, kernel, stem)
        self.actor = ImaginationActor(
            latent_size=deter + kind.size,
            code_size=kind.size,
            action_size=action_size,
            frameskip=frameskip,
            units=units,
            imagination=imagination,
            max_steps=max_steps,
        )

    def begin(self, pixels: Tensor) -> Recurrent:
        """Implements `WorldModel`."""
        return self.rssm.begin(self._embed(pixels))

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Recurrent:
        """Implements `WorldModel`."""
        return self.rssm.observe(checked(belief, Recurrent), block, self._embed(pixels))

    def imagine(self, belief: Belief, block: Tensor) -> Recurrent:
        """Implements `WorldModel`."""
        return self.rssm.imagine(checked(belief, Recurrent), block)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Implements `WorldModel`; a latent is the whole state, so nothing is lost."""
        return self.rssm.imagine(self.rssm.split(latents), blocks).latent

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Squared difference ``(B, S, T)`` of the means of the latents.

        The memory after one frame is the same for every frame, so it tells nothing of a goal: only with
        ``distance="features"``, its mean squared difference is added.
        """
        state, wanted = self.rssm.split(latents.float()), self.rssm.split(goal.float()[:, None, None])
        codes = self.rssm.latents.distance(state.stoch, wanted.stoch)
        return codes if self.distance_kind == "stoch" else codes + (state.deter - wanted.deter).square().mean(-1)

    def surprise(self, belief: Belief, block: Tensor, observed: Belief) -> Tensor:
        """Implements `WorldModel`: divergence, in nats, of the posterior from the prior."""
        prior = self.rssm.imagine(checked(belief, Recurrent), block)
        return self.rssm.latents.kl(checked(observed, Recurrent).stoch, prior.stoch)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised frames ``(N, C, h, w)`` of `latents` ``(N, D)``."""
        return self.colours.invert(self._paint(self.rssm.split(latents)))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of `batch`, which has goals; `generator` (on the CPU) chooses between goals.

        In training, actions and latents are drawn by torch's own generator; else they are the means.
        """
        clips, length = batch.pixels.shape[:2]
        colours = self.colours(batch.pixels.flatten(0, 1))
        states = self._filter(self.encoder(colours).unflatten(0, (clips, length)), batch.actions)
        losses = self._world_model_losses(colours, states)
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

    def _world_model_losses(self, colours: Tensor, states: Recurrent) -> dict[str, Tensor]:
        """Reconstruction of `colours` ``(B*L, C, h, w)``, and both halves of the divergence in nats, with free ones.

        The first frame of a clip has no past: it is decoded, but nothing is to predict it.
        """
        painted = self._paint(Recurrent(*(part.flatten(0, 1) for part in states)))
        prior, posterior, kl = self.rssm.prior(states.deter[:, 1:]), states.stoch[:, 1:], self.rssm.latents.kl
        return {
            "reconstruction": (painted - colours).square().mean(),
            "kl_dyn": kl(posterior.detach(), prior).clamp_min(FREE_NATS).mean(),
            "kl_rep": kl(posterior, prior.detach()).clamp_min(FREE_NATS).mean(),
        }

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.encoder(self.colours(pixels))

    def _paint(self, states: Recurrent) -> Tensor:
        """Frames ``(N, C, h, w)`` of `states` ``(N, ...)``, in the colours of the decoder."""
        painted: Tensor = self.decoder(torch.cat([states.deter, self.rssm.code(states.stoch)], dim=-1))
        return painted

    def _hindsight(self, batch: Batch, codes: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A goal for each frame, as a code ``(B, L, Z)``, and the model steps to it ``(B, L)``.

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
        """Losses of the actor, its critic and the temporal distance; `IMAGINE_EVERY` says where futures start."""
        valid = (steps.isfinite() & (steps > 0)).float()[:, :-1].flatten()
        from_latents, to_goals = (part[:, :-1].flatten(0, 1) for part in (latents, goals))
        starts, towards = (part[:, ::IMAGINE_EVERY].flatten(0, 1) for part in (latents, goals))
        with frozen(self.rssm):
            losses = self.actor.imagination_losses(starts, towards, self.step)
        codes = self.rssm.split(latents).stoch
        losses["distance"] = self.actor.distance_loss(codes.flatten(0, 1), goals.flatten(0, 1), steps.flatten())
        losses["imitation"] = self.actor.imitation_loss(from_latents, to_goals, actions.flatten(0, 1), valid)
        return losses

    def calibrate(self, pixels: Tensor) -> None:
        """Implements `WorldModel`."""
        self.colours.fit(pixels)

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

"""LeWorldModel: a joint-embedding predictive world model trained end to end from pixels (arXiv 2603.19312)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..protocols import Batch, Belief
from ..validation import Dropout, NonNegative, PositiveInt, Range, check_choice
from .base import checked
from .encoders import ENCODERS
from .heads import Actor
from .layers import linear_weights, projector
from .predictors import Predictor, ResidualMLP, Transformer
from .reconstruction import RECONSTRUCTIONS
from .sigreg import sigreg
from .window import Window, WindowModel, make_window

PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {
        "image_size": 64,
        "encoder": "conv",
        "latent_size": 128,
        "projector_size": 0,
        "history": 2,
        "depth": 3,
        "width": 192,
        "heads": 4,
        "head_size": 48,
        "mlp_size": 768,
        "dropout": 0.0,
        "residual": True,
        "sigreg_weight": 0.15,
        "sigreg_directions": 128,
        "rollout_weight": 0.5,
        "inverse_weight": 0.5,
    },
}
"""Constructor arguments by preset: `base` is the paper's 18.03 M parameters, `tiny` is made for 2 CPU cores."""

RECIPES: dict[str, dict[str, Any]] = {
    "base": {"learning_rate": 5e-5, "batch_size": 128, "clip_length": 4, "steps": 100_000},
    "tiny": {"learning_rate": 8e-4, "batch_size": 80, "clip_length": 6, "steps": 8_500},
}
"""Settings of `TrainConfig` by preset; those of `base` are the paper's (appendix D and the released configuration)."""

PREDICTORS: dict[str, Callable[..., Predictor]] = {"transformer": Transformer, "mlp": ResidualMLP}

PREDICTOR_SETTINGS = ("predictor", "history", "residual", "depth", "width", "heads", "head_size", "mlp_size", "dropout")
"""Constructor arguments that are of the predictor alone."""

LOSS_SETTINGS = (
    *("sigreg_weight", "sigreg_directions", "rollout_weight", "rollout_decay", "inverse_weight"),
    *("reconstruction", "reconstruction_weight", "actor_weight", "dropout"),
)
"""Constructor arguments that decide how it learns."""

ACTOR_WIDTH, ACTOR_STEPS = 384, 25
"""Hidden width of the actor beside, and the most model steps to a goal that it tells apart, as in `Heads`."""


class LeWorldModel(WindowModel):
    """Encoder, action-conditioned predictor and the two-term loss: one latent vector ``(D,)`` a frame.

    Loss (section 3.2): mean squared error of the next latent, plus `sigreg_weight` times SIGReg for each time step;
    gradients flow through both sides, without stop-gradient or moving average. With `rollout_weight` above 0 the error
    of an imagined rollout is added, its k-th step weighted by `rollout_decay` to the power k; with `inverse_weight`
    above 0, the error of reading the action block from the change of the latent (arXiv 2606.31232); with
    `reconstruction_weight` above 0, the error of painting the frame from the latent. The last asks for what moves
    seldom, such as a block's angle, which is easily predicted and hard to see. With `actor_weight` above 0, an actor
    learns beside, whose loss shapes the encoder too (INTACT; LeWAM, arXiv 2610.12818): which block leads from
    a frame to a later one of its clip, and to a hindsight goal. It is not part of what plans: ``train-heads`` trains
    that on the latents.

    Args:
        action_size: A, numbers in an environment action.
        frameskip: F, environment steps in a model step.
        image_size: side of the square frames, px.
        encoder: name in `ENCODERS`.
        encoder_hidden: width of the hidden layer of the encoder "conv"; None leaves it as it is, "vit" has none.
        latent_size: D.
        projector_size: hidden width of the BatchNorm projectors behind encoder and transformer; 0 makes them linear.
        history: frames that the predictor sees.
        predictor: name in `PREDICTORS`.
        depth: blocks of the predictor.
        width: of what goes from block to block.
        heads: attention heads of the predictor "transformer".
        head_size: width of each head.
        mlp_size: hidden width of the predictor's feed-forward layers.
        dropout: dropout of the predictor.
        residual: predict the change of the latent instead of the latent.
        sigreg_weight: the loss's one weight, lambda.
        sigreg_directions: random directions of SIGReg.
        rollout_weight: weight of the multi-step rollout loss (off at 0).
        rollout_decay: weight of each rollout step relative to the one before.
        inverse_weight: weight of the inverse-dynamics loss (off at 0).
        reconstruction: what is painted, a name in `RECONSTRUCTIONS`.
        reconstruction_weight: weight of the reconstruction loss (off at 0).
        actor_weight: weight of the loss of the actor beside (off at 0).
    """

    predictor: Predictor
    predictor_settings = PREDICTOR_SETTINGS
    loss_settings = LOSS_SETTINGS
    collapse_remedy = "Raise model.sigreg_weight, or look for data that hardly varies"

    def __init__(
        self,
        *,
        action_size: PositiveInt,
        frameskip: PositiveInt = 5,
        image_size: PositiveInt = 224,
        encoder: str = "vit",
        encoder_hidden: PositiveInt | None = None,
        latent_size: PositiveInt = 192,
        projector_size: Annotated[int, Range(least=0)] = 2048,
        history: PositiveInt = 3,
        predictor: str = "transformer",
        depth: PositiveInt = 6,
        width: PositiveInt = 192,
        heads: PositiveInt = 16,
        head_size: PositiveInt = 64,
        mlp_size: PositiveInt = 2048,
        dropout: Dropout = 0.1,
        residual: bool = False,
        sigreg_weight: NonNegative = 0.1,
        sigreg_directions: PositiveInt = 1024,
        rollout_weight: NonNegative = 0.0,
        rollout_decay: NonNegative = 0.8,
        inverse_weight: NonNegative = 0.0,
        reconstruction: str = "thumbnail",
        reconstruction_weight: NonNegative = 0.0,
        actor_weight: NonNegative = 0.0,
    ) -> None:
        super().__init__(
            action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(latent_size,)
        )
        check_choice("encoder", encoder, ENCODERS)
        check_choice("predictor", predictor, PREDICTORS)
        check_choice("reconstruction", reconstruction, RECONSTRUCTIONS)
        if encoder_hidden is not None and encoder != "conv":
            raise UserError(f"encoder_hidden={encoder_hidden} is of encoder='conv', not of {encoder!r}: leave it None")
        self.history, self.predictor_kind = history, predictor
        self.sigreg_weight, self.sigreg_directions = sigreg_weight, sigreg_directions
        self.rollout_weight, self.rollout_decay = rollout_weight, rollout_decay
        self.inverse_weight, self.reconstruction_weight = inverse_weight, reconstruction_weight
        widths = {} if encoder_hidden is None else {"hidden": encoder_hidden}
        self.encoder = ENCODERS[encoder](image_size, **widths)
        self.projector = projector(self.encoder.features, projector_size, latent_size)
        sizes = {"depth": depth, "width": width, "mlp_size": mlp_size, "dropout": dropout}
        if predictor == "transformer":
            sizes |= {"heads": heads, "head_size": head_size, "projector_size": projector_size}
        self.predictor = PREDICTORS[predictor](
            latent_size, frameskip * action_size, history=history, residual=residual, **sizes
        )
        if inverse_weight > 0:
            self.inverse = nn.Sequential(
                nn.Linear(latent_size, 2 * latent_size), nn.GELU(), nn.Linear(2 * latent_size, frameskip * action_size)
            )
        if reconstruction_weight > 0:
            self.decoder = RECONSTRUCTIONS[reconstruction](latent_size)
        self.actor_weight, self.needs_goals = actor_weight, actor_weight > 0
        if actor_weight > 0:
            self.actor = Actor(latent_size, self.block_size, ACTOR_WIDTH, ACTOR_STEPS)

    def embed(self, pixels: Tensor) -> Tensor:
        """Latents ``(N, D)`` of frames ``(N, C, h, w)``."""
        latents: Tensor = self.projector(self.encoder(pixels))
        return latents.float()

    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """Implements `LatentModel`."""
        return self.encoder, self.projector

    def imagine(self, belief: Belief, block: Tensor) -> Window:
        """Implements `WorldModel`."""
        window = checked(belief, Window)
        return window.append(block, self.predictor.advance(window, block).float())

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Implements `WorldModel`."""
        return self.predictor.rollout(checked(belief, Window), actions).float()

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Implements `WorldModel`."""
        return self.predictor.step(latents, blocks).float()

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of `batch`; `generator` (on the CPU) draws SIGReg's directions and the rollout's context."""
        clips, length = batch.pixels.shape[:2]
        pictures = batch.pixels if self.actor_weight == 0 else _with_goals(batch)
        every = self.embed(pictures.flatten(0, 1)).unflatten(0, (clips, -1))
        latents = every[:, :length]
        losses = self.prediction_losses(latents, batch.actions, generator)
        # Processes train on clips of their own, and validate on the same ones.
        losses["sigreg"] = sigreg(latents.transpose(0, 1), self.sigreg_directions, generator, self.training)
        losses["loss"] = losses["loss"] + self.sigreg_weight * losses["sigreg"]
        if self.inverse_weight > 0:
            decoded = self.inverse(latents[:, 1:] - latents[:, :-1])
            losses["inverse"] = F.mse_loss(decoded.float(), batch.actions)
            losses["loss"] = losses["loss"] + self.inverse_weight * losses["inverse"]
        if self.reconstruction_weight > 0:
            losses["reconstruction"] = self.decoder.loss(latents.flatten(0, 1), batch.pixels.flatten(0, 1), generator)
            losses["loss"] = losses["loss"] + self.reconstruction_weight * losses["reconstruction"]
        if self.actor_weight > 0:
            losses["actor"] = self._actor_loss(latents, every[:, -1], batch)
            losses["loss"] = losses["loss"] + self.actor_weight * losses["actor"]
        return losses

    def _actor_loss(self, latents: Tensor, goal: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the blocks that lead to later frames of the clip, and to the goal ``(B, D)``."""
        clips, length = latents.shape[:2]
        first, second = torch.triu_indices(length - 1, length, offset=1, device=latents.device)
        frames = torch.arange(length - 1, device=latents.device)
        assert batch.goal_steps is not None
        to_goal = (batch.goal_steps[:, None] / self.frameskip - frames).ceil()  # (B, L - 1), infinite to unrelated ones
        steps = torch.cat([(second - first).float().expand(clips, -1), to_goal], dim=1)
        start = torch.cat([first, frames])
        ends = torch.cat([latents[:, second], goal[:, None].expand(-1, length - 1, -1)], dim=1)
        known = steps.isfinite() & (steps >= 1)
        mean, std = self.actor(
            latents[:, start].flatten(0, 1), ends.flatten(0, 1), steps.where(known, 1).long().flatten()
        )
        blocks = batch.actions[:, start].flatten(0, 1)
        errors = F.gaussian_nll_loss(mean, blocks, std.square(), reduction="none").mean(-1)
        return (errors * known.flatten()).sum() / known.sum()

    def prediction_losses(
        self, latents: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The predictor's part of the losses, on clips of `latents` ``(B, L, D)`` and `actions` ``(B, L - 1, F*A)``."""
        seen = min(self.history, latents.shape[1] - 1)
        predicted = self.predictor(latents[:, :seen], actions[:, :seen])
        losses = {"prediction": F.mse_loss(predicted.float(), latents[:, 1 : seen + 1].float())}
        losses["loss"] = losses["prediction"]
        if self.rollout_weight > 0:
            losses["rollout"] = self._rollout_loss(latents, actions, generator)
            losses["loss"] = losses["loss"] + self.rollout_weight * losses["rollout"]
        return losses

    def _rollout_loss(self, latents: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Weighted error of imagining the clip from its first frames, as many as planning may remember."""
        most = min(self.history, latents.shape[1] - 1)  # one frame at least is left to imagine
        context = int(torch.randint(1, most + 1, (), generator=generator))
        window = make_window(latents[:, :context], actions[:, : context - 1], self.history)
        imagined = self.predictor.rollout(window, actions[:, None, context - 1 :])[:, 0]
        errors = (imagined.float() - latents[:, context:].float()).square().mean((0, 2))
        weights = self.rollout_decay ** torch.arange(len(errors), device=errors.device)
        return (errors * weights).sum() / weights.sum()

    def encode_flops(self) -> float:
        """Implements `LatentModel`."""
        return self.encoder.flops() + 2.0 * linear_weights(self.projector)

    def rollout_flops(self, horizon: int) -> float:
        """Implements `WorldModel`."""
        return self.predictor.rollout_flops(horizon)

    def imagine_flops(self) -> float:
        """Implements `WorldModel`."""
        return self.predictor.advance_flops()

    def planning_parts(self) -> tuple[nn.Module, ...]:
        """Implements `WorldModel`."""
        return (self.predictor,)

    def describe(self) -> str:
        """Implements `WorldModel`."""
        return f"LeWorldModel with a predictor of kind `{self.predictor_kind}`"


def _with_goals(batch: Batch) -> Tensor:
    """The frames of each clip, and its goal after them, ``(B, L + 1, C, h, w)``.

    Raises:
        UserError: the batch has no goals.
    """
    if batch.goal is None or batch.goal_steps is None:
        raise UserError("model.actor_weight needs goals, and this batch has none")
    return torch.cat([batch.pixels, batch.goal.unsqueeze(1)], dim=1)

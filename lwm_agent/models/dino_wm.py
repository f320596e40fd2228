"""DINO-WM: a world model over the patches of a frozen, pretrained encoder (arXiv 2411.04983)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..protocols import Batch, Belief
from ..validation import Dropout, PositiveInt, check_choice
from .base import checked
from .dinov2 import DinoV2
from .efficientnet import EfficientNetLite0
from .patch_predictor import PatchPredictor
from .pretrained import FrozenEncoder
from .window import Window, WindowModel

ENCODERS: dict[str, type[DinoV2] | type[EfficientNetLite0]] = {
    "dinov2-vits14": DinoV2,
    "efficientnet-lite0": EfficientNetLite0,
}

_LITE: dict[str, Any] = {
    "encoder": "efficientnet-lite0",
    "encoder_blocks": 11,
    "standardize": True,
    "action_features": 16,  # a width of 128, which processors multiply fast
    "residual": True,
    "depth": 4,
    "heads": 4,
    "head_size": 64,
    "mlp_size": 768,
    "dropout": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {"base": {}}
LITE_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {**_LITE, "encoder_size": 64},
    "small": {**_LITE, "encoder_size": 128},
}
"""Constructor arguments by preset: `base` is the published model, of 196 patches; the lite ones have 16 and 64."""

_LITE_RECIPE: dict[str, Any] = {
    "learning_rate": 5e-4,
    "batch_size": 64,
    "clip_length": 4,
    "steps": 20_000,
    "validate_every": 2_000,
}
RECIPES: dict[str, dict[str, Any]] = {
    "base": {"learning_rate": 5e-4, "batch_size": 32, "clip_length": 4, "steps": 100_000, "validate_every": 5_000}
}
LITE_RECIPES: dict[str, dict[str, Any]] = {"tiny": _LITE_RECIPE, "small": _LITE_RECIPE}
"""Settings of `TrainConfig` by preset."""

SUMMARY_SIDE = 4
"""Places along a side of the grid that heads and probes see."""


class DinoWM(WindowModel):
    """Frozen patches ``(P, D)`` of each frame, and a transformer that predicts those of the next.

    The loss is the mean squared error of the next patches after each of the first H frames of a clip, from true frames
    alone (teacher forcing; section 3.1). Planning compares patches with those of the goal picture. The published model
    may also see proprioception; this one plans from pictures alone, as everything does in this package.

    Args:
        action_size: A, numbers in an environment action.
        frameskip: F, environment steps in a model step.
        image_size: side of the square frames, px; they are resized to what the encoder sees.
        encoder: name in `ENCODERS`.
        encoder_blocks: blocks of the encoder that run.
        encoder_size: side of the pictures that the encoder sees, px.
        standardize: scale each of the D features by its spread over training frames, and subtract the mean of each
            patch. DINOv2's features need it not; of others, a few would outweigh all the rest in the squared error.
        history: H, frames that the predictor sees.
        action_features: numbers that an action block is embedded to.
        residual: predict the change of the patches, by a linear map behind the last norm.
        depth: blocks of the predictor.
        heads: attention heads.
        head_size: width of each head.
        mlp_size: hidden width of the feed-forward layers.
        dropout: dropout of attention and feed-forward layers.

    Raises:
        UserError: an unknown encoder, or a size that it cannot have.
    """

    external_parts = ("encoder",)
    prediction_loss = "loss"
    predictor_settings = (
        *("history", "action_features", "residual", "depth", "heads", "head_size", "mlp_size", "dropout"),
    )
    loss_settings = ("dropout",)
    predictor: PatchPredictor
    patch_mean: Tensor  # (P, D)
    patch_std: Tensor  # (D,)

    def __init__(
        self,
        *,
        action_size: PositiveInt,
        frameskip: PositiveInt = 5,
        image_size: PositiveInt = 224,
        encoder: str = "dinov2-vits14",
        encoder_blocks: PositiveInt = 12,
        encoder_size: PositiveInt = 196,
        standardize: bool = False,
        history: PositiveInt = 3,
        action_features: PositiveInt = 10,
        residual: bool = False,
        depth: PositiveInt = 6,
        heads: PositiveInt = 16,
        head_size: PositiveInt = 64,
        mlp_size: PositiveInt = 2048,
        dropout: Dropout = 0.1,
    ) -> None:
        check_choice("encoder", encoder, ENCODERS)
        network = ENCODERS[encoder](encoder_blocks, encoder_size)
        patches = network.side**2
        super().__init__(
            action_size=action_size,
            frameskip=frameskip,
            image_size=image_size,
            latent_shape=(patches, network.features),
        )
        self.history, self.standardize = history, standardize
        self.encoder: FrozenEncoder = network.requires_grad_(False)
        self.register_buffer("patch_mean", torch.zeros(patches, network.features))
        self.register_buffer("patch_std", torch.ones(network.features))
        self.predictor = PatchPredictor(
            patches,
            network.features,
            self.block_size,
            history=history,
            action_features=action_features,
            residual=residual,
            depth=depth,
            heads=heads,
            head_size=head_size,
            mlp_size=mlp_size,
            dropout=dropout,
        )

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Implements `LatentModel`: those that the encoder was trained with."""
        return self.encoder.pixel_statistics

    def load_external_weights(self) -> None:
        """Implements `WorldModel`."""
        self.encoder.load()

    def external_sources(self) -> dict[str, str]:
        """Implements `WorldModel`."""
        return {"encoder": self.encoder.source}

    def calibrate(self, pixels: Tensor) -> None:
        """Implements `WorldModel`: with `standardize`, the statistics of patches."""
        if self.standardize:
            patches = self._encode(pixels)
            self.patch_mean.copy_(patches.mean(0))
            self.patch_std.copy_((patches - self.patch_mean).square().mean((0, 1)).sqrt() + 1e-6)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """Patches ``(N, P, D)`` of frames ``(N, C, h, w)``, as the encoder gives them."""
        size = self.encoder.size
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return self.encoder(pixels).float()

    def embed(self, pixels: Tensor) -> Tensor:
        """Patches ``(N, P, D)`` of frames ``(N, C, h, w)``; no gradient goes through the encoder."""
        return (self._encode(pixels) - self.patch_mean) / self.patch_std

    def imagine(self, belief: Belief, block: Tensor) -> Window:
        """Implements `WorldModel`."""
        window = checked(belief, Window)
        actions = torch.cat([window.actions, block.unsqueeze(1).to(window.actions.dtype)], dim=1)
        # The predictor wants the oldest frame first and what is missing at the end: turn each row by that much.
        rows = torch.arange(len(actions), device=actions.device)[:, None]
        frames = torch.arange(self.history, device=actions.device) - window.length[:, None]
        turned = frames % self.history  # (B, H)
        ahead = self.predictor.newest(window.latents[rows, turned], actions[rows, turned], window.length)
        return window.append(block, ahead)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Implements `WorldModel`."""
        return self.predictor(latents.unsqueeze(1), blocks.unsqueeze(1))[:, 0]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Implements `WorldModel`."""
        latents = self.embed(batch.pixels.flatten(0, 1)).unflatten(0, batch.pixels.shape[:2])
        return self.prediction_losses(latents, batch.actions, generator)

    def prediction_losses(
        self, latents: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Implements `LatentPredictor`."""
        seen = min(self.history, latents.shape[1] - 1)
        predicted = self.predictor(latents[:, :seen], actions[:, :seen])
        return {"loss": F.mse_loss(predicted, latents[:, 1 : seen + 1])}

    def summary(self, latents: Tensor) -> Tensor:
        """Implements `WorldModel`: means over a grid of at most 4 x 4 places, so that places are not lost."""
        maps = latents.flatten(0, -3).transpose(1, 2).unflatten(2, (self.encoder.side, self.encoder.side))
        return F.adaptive_avg_pool2d(maps, self._summary_side).flatten(1).unflatten(0, latents.shape[:-2])

    @property
    def summary_size(self) -> int:
        """Implements `WorldModel`."""
        return self._summary_side**2 * self.encoder.features

    @property
    def _summary_side(self) -> int:
        return min(SUMMARY_SIDE, self.encoder.side)

    def encode_flops(self) -> float:
        """Implements `LatentModel`, for convolutions, linear maps and attention."""
        return self.encoder.flops()

    def rollout_flops(self, horizon: int) -> float:
        """Implements `WorldModel`; counts full windows, also where an episode has just begun."""
        return horizon * self.imagine_flops()

    def imagine_flops(self) -> float:
        """Implements `WorldModel`."""
        return self.predictor.newest_flops()

    def planning_parts(self) -> tuple[PatchPredictor]:
        """Implements `WorldModel`."""
        return (self.predictor,)

    def describe(self) -> str:
        """Implements `WorldModel`."""
        return f"DINO-WM on {self.latent_shape[0]} frozen patches of {self.encoder.source}"

"""LeWorldModel: a joint-embedding predictive world model trained end to end from pixels (arXiv 2603.19312)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..protocols import Batch, Belief
from .encoders import ENCODERS
from .layers import ConditionalBlock, projector
from .sigreg import sigreg

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


class Predictor(nn.Module):
    """Causal transformer over at most `history` latents, conditioned on the action block that leaves each of them."""

    def __init__(
        self,
        latent_size: int,
        block_size: int,
        *,
        history: int,
        depth: int,
        width: int,
        heads: int,
        head_size: int,
        mlp_size: int,
        projector_size: int,
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.action_embedding = nn.Sequential(
            nn.Linear(block_size, block_size), nn.Linear(block_size, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.inward = nn.Identity() if latent_size == width else nn.Linear(latent_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(history, width))
        self.blocks = nn.ModuleList(ConditionalBlock(width, heads, head_size, mlp_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outward = projector(width, projector_size, latent_size)

    def modulations(self, actions: Tensor) -> Tensor:
        """What each block needs to know of the actions ``(N, t, F*A)``: ``(depth, N, t, 6 * width)``."""
        embedded = self.action_embedding(actions)
        return torch.stack([block.modulation(embedded) for block in self.blocks])  # type: ignore[operator]

    def forward(self, latents: Tensor, modulations: Tensor) -> Tensor:
        """Next latents ``(N, t, D)`` for a window of `latents` ``(N, t, D)`` under its actions' `modulations`."""
        tokens = self.inward(latents) + self.positions[: latents.shape[1]]
        for block, modulation in zip(self.blocks, modulations, strict=True):
            tokens = block(tokens, modulation)
        # Rows, not windows: the projector's BatchNorm takes ``(rows, features)``.
        predicted = self.outward(self.norm(tokens).flatten(0, 1)).unflatten(0, latents.shape[:2])
        return latents + predicted if self.residual else predicted


class LeWorldModel(nn.Module):
    """Encoder, action-conditioned predictor and the two-term loss: one latent vector ``(D,)`` a frame.

    Loss (section 3.2): mean squared error of the next latent, plus `sigreg_weight` times SIGReg for each time step;
    gradients flow through both sides, without stop-gradient or moving average. With `rollout_weight` above 0 the error
    of an imagined rollout is added, its k-th step weighted by `rollout_decay` to the power k; with `inverse_weight`
    above 0, the error of reading the action block from the change of the latent (arXiv 2606.31232).

    Args:
        action_size: A, numbers in an environment action.
        frameskip: F, environment steps in a model step.
        image_size: side of the square frames, px.
        encoder: name in `ENCODERS`.
        latent_size: D.
        projector_size: hidden width of the two BatchNorm projectors; 0 makes each a linear map.
        history: frames that the predictor sees.
        depth: transformer blocks of the predictor.
        width: its token width.
        heads: its attention heads.
        head_size: width of each head.
        mlp_size: hidden width of its feed-forward layers.
        dropout: dropout of the predictor.
        residual: predict the change of the latent instead of the latent.
        sigreg_weight: the loss's one weight, lambda.
        sigreg_directions: random directions of SIGReg.
        rollout_weight: weight of the multi-step rollout loss (off at 0).
        rollout_decay: weight of each rollout step relative to the one before.
        inverse_weight: weight of the inverse-dynamics loss (off at 0).
    """

    def __init__(
        self,
        *,
        action_size: int,
        frameskip: int = 5,
        image_size: int = 224,
        encoder: str = "vit",
        latent_size: int = 192,
        projector_size: int = 2048,
        history: int = 3,
        depth: int = 6,
        width: int = 192,
        heads: int = 16,
        head_size: int = 64,
        mlp_size: int = 2048,
        dropout: float = 0.1,
        residual: bool = False,
        sigreg_weight: float = 0.1,
        sigreg_directions: int = 1024,
        rollout_weight: float = 0.0,
        rollout_decay: float = 0.8,
        inverse_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"encoder={encoder!r} is unknown: choose one of {', '.join(ENCODERS)}")
        self.action_size, self.frameskip, self.image_size, self.history = action_size, frameskip, image_size, history
        self.sigreg_weight, self.sigreg_directions = sigreg_weight, sigreg_directions
        self.rollout_weight, self.rollout_decay, self.inverse_weight = rollout_weight, rollout_decay, inverse_weight
        self.encoder = ENCODERS[encoder](image_size)
        self.projector = projector(self.encoder.features, projector_size, latent_size)
        self.predictor = Predictor(
            latent_size,
            frameskip * action_size,
            history=history,
            depth=depth,
            width=width,
            heads=heads,
            head_size=head_size,
            mlp_size=mlp_size,
            projector_size=projector_size,
            dropout=dropout,
            residual=residual,
        )
        if inverse_weight > 0:
            self.inverse = nn.Sequential(
                nn.Linear(latent_size, 2 * latent_size), nn.GELU(), nn.Linear(2 * latent_size, frameskip * action_size)
            )

    def embed(self, pixels: Tensor) -> Tensor:
        """Latents ``(N, D)`` of frames ``(N, C, h, w)``."""
        latents: Tensor = self.projector(self.encoder(pixels))
        return latents

    def encode(self, pixels: Tensor, action: Tensor | None = None, belief: Belief | None = None) -> Belief:
        """Belief after `pixels` ``(B, C, h, w)``, alone or after `belief` and the block `action` ``(B, F*A)``."""
        latent = self.embed(pixels).float()
        if belief is None:
            return Belief(latent.unsqueeze(1), latent.new_zeros(len(latent), 0, self.frameskip * self.action_size))
        if action is None:
            raise ValueError("encode() with a belief needs the action block that led from it to this frame")
        return self._remember(belief, action, latent)

    def advance(self, belief: Belief, action: Tensor) -> Belief:
        """Belief after imagining the block `action` ``(B, F*A)``."""
        actions = torch.cat([belief.actions, action.unsqueeze(1)], dim=1)
        return self._remember(belief, action, self._imagine(belief.latents, actions)[:, 0].float())

    def _remember(self, belief: Belief, action: Tensor, latent: Tensor) -> Belief:
        """`belief` after one more block ``(B, F*A)`` and the `latent` ``(B, D)`` that it leads to."""
        latents = torch.cat([belief.latents, latent.unsqueeze(1)], dim=1)[:, -self.history :]
        actions = torch.cat([belief.actions, action.unsqueeze(1)], dim=1)
        return Belief(latents, actions[:, max(0, actions.shape[1] - self.history + 1) :])

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, D)`` after each block of `actions` ``(B, S, T, F*A)``."""
        samples = actions.shape[1]
        latents = belief.latents.repeat_interleave(samples, dim=0)  # (B*S, H, D)
        past = belief.actions.repeat_interleave(samples, dim=0)
        return self._imagine(latents, torch.cat([past, actions.flatten(0, 1)], dim=1)).unflatten(0, actions.shape[:2])

    def _imagine(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Latents ``(N, T, D)`` that follow `latents` ``(N, H, D)`` under `actions` ``(N, H - 1 + T, F*A)``."""
        modulations = self.predictor.modulations(actions)  # once for all steps
        context = latents.shape[1]
        frames = list(latents.unbind(1))
        for end in range(context, actions.shape[1] + 1):
            start = max(0, end - self.history)
            window = torch.stack(frames[start:end], dim=1)
            frames.append(self.predictor(window, modulations[:, :, start:end])[:, -1])
        return torch.stack(frames[context:], dim=1)

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Mean squared difference ``(B, S, T)`` of `latents` ``(B, S, T, D)`` to `goal` ``(B, D)``."""
        return (latents.float() - goal.float()[:, None, None]).square().mean(-1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses of `batch`; `generator` (on the CPU) draws SIGReg's directions and the rollout's context."""
        clips, length = batch.pixels.shape[:2]
        latents = self.embed(batch.pixels.flatten(0, 1)).unflatten(0, (clips, length))
        seen = min(self.history, length - 1)
        modulations = self.predictor.modulations(batch.actions[:, :seen])
        predicted = self.predictor(latents[:, :seen], modulations)
        losses = {
            "prediction": F.mse_loss(predicted.float(), latents[:, 1 : seen + 1].float()),
            "sigreg": sigreg(latents.transpose(0, 1), self.sigreg_directions, generator),
        }
        losses["loss"] = losses["prediction"] + self.sigreg_weight * losses["sigreg"]
        if self.rollout_weight > 0:
            losses["rollout"] = self._rollout_loss(latents, batch.actions, generator)
            losses["loss"] = losses["loss"] + self.rollout_weight * losses["rollout"]
        if self.inverse_weight > 0:
            decoded = self.inverse(latents[:, 1:] - latents[:, :-1])
            losses["inverse"] = F.mse_loss(decoded.float(), batch.actions)
            losses["loss"] = losses["loss"] + self.inverse_weight * losses["inverse"]
        return losses

    def _rollout_loss(self, latents: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Weighted error of imagining the clip from its first frames, as many as planning may remember."""
        context = int(torch.randint(1, self.history + 1, (), generator=generator))
        imagined = self._imagine(latents[:, :context], actions)
        errors = (imagined.float() - latents[:, context:].float()).square().mean((0, 2))
        weights = self.rollout_decay ** torch.arange(len(errors), device=errors.device)
        return (errors * weights).sum() / weights.sum()

    def rollout_flops(self, horizon: int, context: int) -> float:
        """Matrix-product FLOPs of one candidate over `horizon` blocks from `context` frames (a multiply-add is two)."""
        token_weights = [self.predictor.inward, self.predictor.outward]
        per_token = sum(_linear_weights(module) for module in token_weights)
        modulation = 0
        for block in self.predictor.blocks:
            in_modulation = _linear_weights(block.get_submodule("modulation"))
            modulation += in_modulation
            per_token += _linear_weights(block) - in_modulation
        per_action = modulation + _linear_weights(self.predictor.action_embedding)
        windows = [min(self.history, context + step) for step in range(horizon)]
        attention = 2 * sum(b.attention.out.in_features for b in self.predictor.blocks)  # type: ignore[union-attr,misc]
        tokens = sum(windows) * per_token + sum(n * n for n in windows) * attention
        return 2.0 * (tokens + (context - 1 + horizon) * per_action)


def _linear_weights(module: nn.Module) -> int:
    """Multiply-adds of one row through every linear map inside `module`."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))

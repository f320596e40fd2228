"""A world model of your own: lwm-agent train --model markov_model:markov --data data/pusht.h5 --out runs/markov."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwm_agent.models import MODELS, ModelSpec, WorldModel
from lwm_agent.models.base import checked
from lwm_agent.protocols import Batch, Belief


class Present(NamedTuple):
    """The belief: batch-first tensors, one of them called latent."""

    latent: Tensor  # (B, D)


class MarkovModel(WorldModel):
    """Latents of single frames; the next one depends on the last one and the action block."""

    def __init__(self, *, action_size: int, frameskip: int = 5, image_size: int = 64, size: int = 32) -> None:
        super().__init__(action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(size,))
        self.encoder = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, size))
        self.predictor = nn.Sequential(nn.Linear(size + self.block_size, 64), nn.GELU(), nn.Linear(64, size))
        self.decoder = nn.Linear(size, 192)

    def begin(self, pixels: Tensor) -> Present:
        return Present(self.encoder(pixels).float())

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Present:
        return self.begin(pixels)  # this model remembers nothing before the newest frame

    def imagine(self, belief: Belief, block: Tensor) -> Present:
        return Present(self.step(checked(belief, Present).latent, block))

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        return latents + self.predictor(torch.cat([latents, blocks], dim=-1)).float()

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        frames = batch.pixels.flatten(0, 1)  # (B*L, C, h, w)
        latents = self.embed(frames)
        reconstruction = F.mse_loss(self.decoder(latents).float(), F.adaptive_avg_pool2d(frames, 8).flatten(1))
        latents = latents.unflatten(0, batch.pixels.shape[:2])  # (B, L, D)
        prediction = F.mse_loss(self.step(latents[:, :-1], batch.actions), latents[:, 1:])
        return {"loss": prediction + reconstruction, "prediction": prediction, "reconstruction": reconstruction}

    def encode_flops(self) -> float:
        return 2.0 * self.encoder[2].weight.numel()

    def imagine_flops(self) -> float:
        return 2.0 * sum(weight.numel() for weight in self.predictor.parameters() if weight.ndim == 2)

    def rollout_flops(self, horizon: int) -> float:
        return horizon * self.imagine_flops()


RECIPE = {"steps": 2000, "batch_size": 64, "clip_length": 6, "learning_rate": 1e-3}
MODELS["markov"] = ModelSpec(MarkovModel, presets={"tiny": {}}, recipes={"tiny": RECIPE})

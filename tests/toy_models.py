"""Two small world models of other kinds than those of the package, which hold its contract to account.

`TokenModel` sees patches, as DINO-WM does: its latents are tokens ``(N, D)``, from an encoder that stays frozen.
`RecurrentModel` keeps a recurrent state, as Dreamer does: no frame can be taken out of its belief again.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwm_agent.models import LatentPredictor, ModelSpec, WorldModel
from lwm_agent.models.base import checked
from lwm_agent.models.layers import linear_weights
from lwm_agent.models.window import Window, make_window
from lwm_agent.protocols import Batch, Belief


class TokenModel(LatentPredictor):
    """Latents of `tokens` patches; the next ones follow from all patches of the last two frames and the block."""

    predictor: nn.Module
    predictor_settings = ("width",)
    external_parts = ("encoder",)

    def __init__(
        self,
        *,
        action_size: int,
        frameskip: int = 5,
        image_size: int = 32,
        tokens: int = 4,
        size: int = 6,
        width: int = 24,
    ) -> None:
        side = int(tokens**0.5)
        super().__init__(
            action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(tokens, size)
        )
        self.history = 2
        patch = image_size // side
        self.encoder = nn.Conv2d(3, size, patch, patch).requires_grad_(False)
        numbers = 2 * tokens * size + 2 * self.block_size
        self.predictor = nn.Sequential(nn.Linear(numbers, width), nn.Tanh(), nn.Linear(width, tokens * size))

    def load_external_weights(self) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.encoder.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))

    def embed(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels).flatten(2).transpose(1, 2).float()

    def begin(self, pixels: Tensor) -> Window:
        latents = self.embed(pixels).unsqueeze(1)
        return make_window(latents, latents.new_zeros(len(latents), 0, self.block_size), self.history)

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Window:
        return checked(belief, Window).append(block, self.embed(pixels))

    def imagine(self, belief: Belief, block: Tensor) -> Window:
        window = checked(belief, Window)
        return window.append(block, self._next(window, block))

    def _next(self, window: Window, block: Tensor) -> Tensor:
        seen = torch.cat([window.latents.flatten(1), window.actions.flatten(1), block], dim=1)
        return window.latent + self.predictor(seen).float().unflatten(1, self.latent_shape)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        window = make_window(latents.unsqueeze(1), blocks.new_zeros(len(blocks), 0, self.block_size), self.history)
        return self._next(window, blocks)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        latents = self.embed(batch.pixels.flatten(0, 1)).unflatten(0, batch.pixels.shape[:2])
        return self.prediction_losses(latents, batch.actions, generator)

    def prediction_losses(
        self, latents: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        window = make_window(latents[:, :1], actions[:, :0], self.history)
        errors = []
        for step, block in enumerate(actions.unbind(1)):
            errors.append(F.mse_loss(self._next(window, block), latents[:, step + 1]))
            window = window.append(block, latents[:, step + 1])
        return {"loss": torch.stack(errors).mean()}

    def encode_flops(self) -> float:
        return 2.0 * self.encoder.weight.numel() * self.tokens

    def rollout_flops(self, horizon: int) -> float:
        return horizon * self.imagine_flops()

    def imagine_flops(self) -> float:
        return 2.0 * linear_weights(self.predictor)

    def planning_parts(self) -> list[nn.Module]:
        return [self.predictor]

    def describe(self) -> str:
        return "A toy of patch tokens"


class State(NamedTuple):
    """Memory and stochastic part of a recurrent belief."""

    memory: Tensor  # (B, M)
    sample: Tensor  # (B, D)

    @property
    def latent(self) -> Tensor:
        return torch.cat([self.memory, self.sample], dim=-1)


class RecurrentModel(WorldModel):
    """A GRU over blocks and samples; the posterior sees the frame, the prior guesses it."""

    collapse_remedy: ClassVar[str | None] = None

    def __init__(
        self, *, action_size: int, frameskip: int = 5, image_size: int = 32, memory: int = 7, size: int = 5
    ) -> None:
        super().__init__(
            action_size=action_size, frameskip=frameskip, image_size=image_size, latent_shape=(memory + size,)
        )
        self.memory_size, self.size = memory, size
        self.encoder = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, size))
        self.cell = nn.GRUCell(size + self.block_size, memory)
        self.prior = nn.Linear(memory, size)
        self.posterior = nn.Linear(memory + size, size)
        self.decoder = nn.Linear(memory + size, size)
        self.steps_taken = 0

    def begin(self, pixels: Tensor) -> State:
        features = self.encoder(pixels).float()
        memory = features.new_zeros(len(features), self.memory_size)
        return State(memory, self._posterior(memory, features))

    def _posterior(self, memory: Tensor, features: Tensor) -> Tensor:
        return self.posterior(torch.cat([memory, features], dim=1)).tanh().float()

    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> State:
        memory = self._advance(checked(belief, State), block)
        return State(memory, self._posterior(memory, self.encoder(pixels).float()))

    def imagine(self, belief: Belief, block: Tensor) -> State:
        memory = self._advance(checked(belief, State), block)
        return State(memory, self.prior(memory).tanh().float())

    def _advance(self, state: State, block: Tensor) -> Tensor:
        return self.cell(torch.cat([state.sample, block.to(state.sample.dtype)], dim=1), state.memory).float()

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        return self.imagine(State(*latents.split([self.memory_size, self.size], dim=-1)), blocks).latent

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        state, errors = self.begin(batch.pixels[:, 0]), []
        for step, block in enumerate(batch.actions.unbind(1)):
            guess, frame = self.imagine(state, block), batch.pixels[:, step + 1]
            state = self.observe(state, block, frame)
            target = self.encoder(frame).float()
            errors.append(
                F.mse_loss(guess.sample, state.sample) + F.mse_loss(self.decoder(state.latent).float(), target)
            )
        return {"loss": torch.stack(errors).mean()}

    def after_step(self) -> None:
        self.steps_taken += 1

    def monitors(self, latents: Tensor) -> dict[str, float]:
        return {"memory_std": float(latents[:, : self.memory_size].std())}

    def encode_flops(self) -> float:
        return 2.0 * (linear_weights(self.encoder) + linear_weights(self.posterior))

    def rollout_flops(self, horizon: int) -> float:
        return horizon * self.imagine_flops()

    def imagine_flops(self) -> float:
        weights = self.cell.weight_ih.numel() + self.cell.weight_hh.numel() + linear_weights(self.prior)
        return 2.0 * weights

    def planning_parts(self) -> list[nn.Module]:
        return [self.prior]


RECIPE: dict[str, Any] = {"steps": 10, "batch_size": 8, "clip_length": 4, "learning_rate": 1e-3}
TOYS = {
    "tokens": ModelSpec(TokenModel, {"tiny": {}}, {"tiny": RECIPE}),
    "recurrent": ModelSpec(RecurrentModel, {"tiny": {}}, {"tiny": RECIPE}),
}

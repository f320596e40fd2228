"""The recurrent state-space model of DreamerV3 (arXiv 2301.04104): a block GRU, latents with and without a frame."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from .distributions import Latents
from .layers import linear_weights


class Recurrent(NamedTuple):
    """The belief of a recurrent state-space model."""

    deter: Tensor  # (B, M): memory of the GRU
    stoch: Tensor  # (B, Z): mean of the latent

    @property
    def latent(self) -> Tensor:
        """Memory and mean, ``(B, M + Z)``."""
        return torch.cat([self.deter, self.stoch], dim=-1)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm, in float32 under autocast too."""

    def __init__(self, features: int) -> None:
        super().__init__(features, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., features)`` to the same shape."""
        return super().forward(x.float())


class BlockLinear(nn.Module):
    """A linear map whose matrix is block-diagonal: each part of the input reaches its own part of the output."""

    def __init__(self, in_features: int, out_features: int, blocks: int) -> None:
        super().__init__()
        scale = (blocks / in_features) ** 0.5
        self.weight = nn.Parameter(
            torch.empty(blocks, in_features // blocks, out_features // blocks).uniform_(-scale, scale)
        )
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_features)`` to ``(N, out_features)``."""
        parts = x.unflatten(-1, (len(self.weight), -1)).transpose(0, 1)  # (blocks, N, in_features / blocks)
        return torch.bmm(parts, self.weight).transpose(0, 1).flatten(1) + self.bias


def dense(in_features: int, units: int, layers: int, out_features: int | None = None) -> nn.Sequential:
    """`layers` hidden layers with RMSNorm and SiLU, and a linear map to `out_features`, if there are any."""
    parts: list[nn.Module] = []
    for features in [in_features, *[units] * (layers - 1)]:
        parts += [nn.Linear(features, units), RMSNorm(units), nn.SiLU()]
    return nn.Sequential(*parts, *([] if out_features is None else [nn.Linear(units, out_features)]))


class BlockGRU(nn.Module):
    """A gated recurrent unit whose memory is mixed in blocks; memory, latent and action enter each block.

    DreamerV3 copies the projected inputs beside each block of the memory. A linear map of the copies is one dense map
    of the inputs, which is what `inputs` computes.
    """

    def __init__(self, deter: int, stoch: int, block_size: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.projections = nn.ModuleList(dense(size, hidden, 1) for size in (deter, stoch, block_size))
        self.memory = BlockLinear(deter, deter, blocks)
        self.inputs = nn.Linear(3 * hidden, deter, bias=False)
        self.activation = nn.Sequential(RMSNorm(deter), nn.SiLU())
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def forward(self, deter: Tensor, sample: Tensor, block: Tensor) -> Tensor:
        """Memory ``(N, M)`` after the action block ``(N, F*A)`` at `deter` ``(N, M)`` and `sample` ``(N, Z)``."""
        parts = zip(self.projections, (deter, sample, block), strict=True)
        seen = torch.cat([project(part) for project, part in parts], dim=-1)
        gates = self.gates(self.activation(self.memory(deter) + self.inputs(seen))).float()
        reset, candidate, update = gates.unflatten(-1, (self.blocks, 3, -1)).unbind(-2)  # (N, blocks, M / blocks) each
        update = (update - 1).sigmoid().flatten(1)
        return update * (reset.sigmoid() * candidate).tanh().flatten(1) + (1 - update) * deter


class RSSM(nn.Module):
    """Memory, and distributions of the latent with the frame (posterior) and without it (prior).

    Args:
        block_size: F*A.
        embedding: size of a frame's embedding.
        deter: M, size of the memory.
        hidden: width of the hidden layers.
        latents: kind of distributions, with Z numbers.
        absolute: whether the posterior sees the frame alone; else it sees the memory too.
        blocks: parts of the memory.

    Raises:
        UserError: `deter` is not a multiple of `blocks`.
    """

    def __init__(
        self,
        *,
        block_size: int,
        embedding: int,
        deter: int,
        hidden: int,
        latents: Latents,
        absolute: bool,
        blocks: int = 8,
    ) -> None:
        super().__init__()
        if deter < 1 or deter % blocks:
            raise UserError(f"deter={deter} must be a multiple of {blocks}, the blocks of the memory")
        self.deter, self.latents, self.absolute = deter, latents, absolute
        self.core = BlockGRU(deter, latents.size, block_size, hidden, blocks)
        self.block_size = block_size
        self.prior_net = dense(deter, hidden, 2, latents.size)
        self.posterior_net = dense(embedding + (0 if absolute else deter), hidden, 1, latents.size)

    def prior(self, deter: Tensor) -> Tensor:
        """Mean ``(..., Z)`` of the latent that memory `deter` ``(..., M)`` expects."""
        return self.latents.mean(self.prior_net(deter))

    def posterior(self, deter: Tensor, embedding: Tensor) -> Tensor:
        """Mean ``(..., Z)`` of the latent of a frame with this `embedding`, after memory `deter`."""
        seen = embedding if self.absolute else torch.cat([deter, embedding], dim=-1)
        return self.latents.mean(self.posterior_net(seen))

    def code(self, stoch: Tensor) -> Tensor:
        """Latents ``(..., Z)`` that memory and pictures go on from: drawn in training, else the mean `stoch`."""
        return self.latents.draw(stoch) if self.training else stoch

    def begin(self, embedding: Tensor) -> Recurrent:
        """Belief of episodes that begin with frames of this `embedding` ``(B, E)``: no memory, latent or action."""
        sizes = [self.deter, self.latents.size, self.block_size]
        zeros = embedding.new_zeros((len(embedding), sum(sizes)), dtype=torch.float32)
        deter = self.core(*zeros.split(sizes, dim=-1))
        return Recurrent(deter, self.posterior(deter, embedding))

    def advance(self, state: Recurrent, block: Tensor) -> Tensor:
        """Memory ``(N, M)`` after the action block ``(N, F*A)``."""
        return self.core(state.deter, self.code(state.stoch), block)

    def imagine(self, state: Recurrent, block: Tensor) -> Recurrent:
        """State after the action block, by the prior."""
        deter = self.advance(state, block)
        return Recurrent(deter, self.prior(deter))

    def observe(self, state: Recurrent, block: Tensor, embedding: Tensor) -> Recurrent:
        """State after the action block, by the posterior."""
        deter = self.advance(state, block)
        return Recurrent(deter, self.posterior(deter, embedding))

    def split(self, latents: Tensor) -> Recurrent:
        """The states of `latents` ``(..., M + Z)``."""
        return Recurrent(*latents.split([self.deter, self.latents.size], dim=-1))

    def imagine_flops(self) -> float:
        """Floating-point operations of `imagine` for one state, in matrix products; a multiply-add is two."""
        return self._core_flops() + 2.0 * linear_weights(self.prior_net)

    def observe_flops(self) -> float:
        """Floating-point operations of `observe` for one state, as above."""
        return self._core_flops() + 2.0 * linear_weights(self.posterior_net)

    def _core_flops(self) -> float:
        core = self.core
        return 2.0 * (linear_weights(core) + core.memory.weight.numel() + core.gates.weight.numel())

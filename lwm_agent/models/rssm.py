"""The recurrent state-space model of DreamerV3 (arXiv 2301.04104): a block GRU and categorical latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from .layers import linear_weights

UNIMIX = 0.01
"""Share of a uniform distribution in every categorical, so that no logarithm of a probability is infinite."""


class Recurrent(NamedTuple):
    """The belief of a recurrent state-space model."""

    deter: Tensor  # (B, M): memory of the GRU
    stoch: Tensor  # (B, C*K): probabilities of C categoricals of K classes

    @property
    def latent(self) -> Tensor:
        """Memory and probabilities, ``(B, M + C*K)``."""
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
        """Memory ``(N, M)`` after the action block ``(N, F*A)`` at `deter` ``(N, M)`` and `sample` ``(N, C*K)``."""
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
        categoricals: C.
        classes: K.
        absolute: whether the posterior sees the frame alone; else it sees the memory too.
        drawn: whether training draws latents from their probabilities; else the likeliest classes are taken, always.
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
        categoricals: int,
        classes: int,
        absolute: bool,
        drawn: bool,
        blocks: int = 8,
    ) -> None:
        super().__init__()
        if deter < 1 or deter % blocks:
            raise UserError(f"deter={deter} must be a multiple of {blocks}, the blocks of the memory")
        self.deter, self.classes, self.absolute, self.drawn = deter, classes, absolute, drawn
        self.stoch = categoricals * classes
        self.core = BlockGRU(deter, self.stoch, block_size, hidden, blocks)
        self.block_size = block_size
        self.prior_net = dense(deter, hidden, 2, self.stoch)
        self.posterior_net = dense(embedding + (0 if absolute else deter), hidden, 1, self.stoch)

    def prior(self, deter: Tensor) -> Tensor:
        """Probabilities ``(..., C*K)`` of the latent that memory `deter` ``(..., M)`` expects."""
        return self._probabilities(self.prior_net(deter))

    def posterior(self, deter: Tensor, embedding: Tensor) -> Tensor:
        """Probabilities ``(..., C*K)`` of the latent of a frame with this `embedding`, after memory `deter`."""
        seen = embedding if self.absolute else torch.cat([deter, embedding], dim=-1)
        return self._probabilities(self.posterior_net(seen))

    def begin(self, embedding: Tensor) -> Recurrent:
        """Belief of episodes that begin with frames of this `embedding` ``(B, E)``: no memory, latent or action."""
        zeros = embedding.new_zeros((len(embedding), self.deter + self.stoch + self.block_size), dtype=torch.float32)
        deter = self.core(*zeros.split([self.deter, self.stoch, self.block_size], dim=-1))
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
        """The states of `latents` ``(..., M + C*K)``."""
        return Recurrent(*latents.split([self.deter, self.stoch], dim=-1))

    def code(self, stoch: Tensor) -> Tensor:
        """Latents ``(..., C*K)`` of these probabilities, with their gradient: what the memory goes on from.

        They are one-hot, except that those of a model that is `drawn` are the probabilities when it does not train.
        """
        if self.drawn and not self.training:
            return stoch
        classes = stoch.unflatten(-1, (-1, self.classes))
        return (draw(classes) if self.drawn else likeliest(classes)).flatten(-2)

    def kl(self, first: Tensor, second: Tensor) -> Tensor:
        """Divergence ``(...)``, in nats, of the distributions `first` from `second` ``(..., C*K)``."""
        return (first * (first.log() - second.log())).sum(-1)

    def imagine_flops(self) -> float:
        """Floating-point operations of `imagine` for one state, in matrix products; a multiply-add is two."""
        return self._core_flops() + 2.0 * linear_weights(self.prior_net)

    def observe_flops(self) -> float:
        """Floating-point operations of `observe` for one state, as above."""
        return self._core_flops() + 2.0 * linear_weights(self.posterior_net)

    def _core_flops(self) -> float:
        core = self.core
        return 2.0 * (linear_weights(core) + core.memory.weight.numel() + core.gates.weight.numel())

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities ``(..., C*K)`` of `logits` ``(..., C*K)``, a share of them uniform."""
        mixed = (1 - UNIMIX) * logits.float().unflatten(-1, (-1, self.classes)).softmax(-1) + UNIMIX / self.classes
        return mixed.flatten(-2)


def draw(probabilities: Tensor) -> Tensor:
    """One-hot vectors drawn from `probabilities` ``(..., K)``, with their gradient."""
    race = probabilities / torch.empty_like(probabilities).exponential_()  # the largest wins as often as it should
    return _one_hot(race, probabilities)


def likeliest(probabilities: Tensor) -> Tensor:
    """One-hot vectors of the largest of `probabilities` ``(..., K)``, with their gradient."""
    return _one_hot(probabilities, probabilities)


def _one_hot(scores: Tensor, probabilities: Tensor) -> Tensor:
    """One-hot vectors of the largest `scores`, whose gradient is that of the `probabilities` (straight-through)."""
    hard = torch.zeros_like(probabilities).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
    return hard + probabilities - probabilities.detach()

"""Building blocks that more than one model uses."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = list[tuple[Tensor, Tensor]]
"""Key and value, each ``(N, heads, head_size)``, of every token that an attention has seen."""


def projector(in_features: int, hidden: int, out_features: int) -> nn.Module:
    """Linear, BatchNorm, GELU, Linear as in LeWorldModel (section 3.1); one linear map if `hidden` is 0."""
    if hidden == 0:
        return nn.Linear(in_features, out_features)
    return nn.Sequential(
        nn.Linear(in_features, hidden), JointBatchNorm(hidden), nn.GELU(), nn.Linear(hidden, out_features)
    )


class JointBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the rows ``(rows, features)`` of all processes that train together, on a CPU too.

    Each process has as many rows. They train as one process would on the rows of all.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Implements `nn.Module`."""
        together = self.training and dist.is_available() and dist.is_initialized()
        processes = dist.get_world_size() if together else 1
        if processes == 1:
            return super().forward(rows)
        with torch.autocast(rows.device.type, enabled=False):
            return self._joint(rows.float(), processes)

    def _joint(self, rows: Tensor, processes: int) -> Tensor:
        mean = dist_nn.all_reduce(rows.mean(0)) / processes
        variance = dist_nn.all_reduce((rows - mean).square().mean(0)) / processes
        self._follow(mean.detach(), variance.detach(), processes * len(rows))
        return (rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics towards those of a batch of `count` rows."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1), share)


def normed_mlp(in_features: int, width: int, out_features: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers, each normalised, and a linear map behind them."""
    layers: list[nn.Module] = []
    for features in [in_features, *[width] * (depth - 1)]:
        layers += [nn.Linear(features, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, out_features))


def pair(latent: Tensor, goal: Tensor) -> Tensor:
    """What a network sees of `latent` and `goal` ``(..., D)``: both and their difference, ``(..., 3 * D)``.

    One of the two may have fewer rows, where they broadcast.
    """
    latent, goal = torch.broadcast_tensors(latent, goal)
    return torch.cat([latent, goal, goal - latent], dim=-1)


class JointLinear(nn.Linear):
    """Several linear maps of the same rows in one, of which some can be had without the others."""

    def part(self, rows: Tensor, outputs: slice) -> Tensor:
        """These `outputs` of `forward`."""
        return F.linear(rows, self.weight[outputs], None if self.bias is None else self.bias[outputs])


class Attention(nn.Module):
    """Multi-head self-attention over ``(N, tokens, width)``."""

    def __init__(
        self, width: int, heads: int, head_size: int, *, bias: bool, causal: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.qkv = JointLinear(width, 3 * heads * head_size, bias=bias)
        self.out = nn.Linear(heads * head_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixes the tokens; with `causal`, each sees itself and those before it."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        return F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), dropout)


class CausalAttention(Attention):
    """Self-attention in which each token sees itself and those before it; it also takes a few tokens at a time."""

    def __init__(self, width: int, heads: int, head_size: int, dropout: float) -> None:
        super().__init__(width, heads, head_size, bias=False, causal=True, dropout=dropout)

    def extend(
        self, tokens: Tensor, past: KeysValues, queries: int, hidden: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """`forward` for the last `queries` of `tokens` ``(N, n, width)``, which follow the tokens behind `past`.

        `hidden` ``(tokens, N, 1, 1)`` is added to the scores of all tokens. Also returns their keys and values. Where
        tokens are two or three, sums of products are faster than fused kernels, which are made for long sequences: on a
        CPU by a factor of 1.6 in float32, of 3 in bfloat16.
        """
        features = self.out.in_features
        query = self.qkv.part(tokens[:, -queries:].contiguous(), slice(features)).unflatten(-1, (self.heads, -1))
        new = self.qkv.part(tokens, slice(features, None)).unflatten(-1, (2, self.heads, -1))
        seen = [*past, *zip(new[:, :, 0].unbind(1), new[:, :, 1].unbind(1), strict=True)]
        first = len(seen) - queries + 1  # a token sees itself too
        mixed = [self._attend(query[:, place], seen[: first + place], hidden) for place in range(queries)]
        return F.dropout(self.out(torch.stack(mixed, dim=1)), self.dropout, self.training), seen

    def _attend(self, query: Tensor, seen: KeysValues, hidden: Tensor | None) -> Tensor:
        """Mix ``(N, heads * head_size)`` of the values in `seen` for one `query` ``(N, heads, head_size)``."""
        scores = torch.stack([(query * key).sum(-1, keepdim=True) for key, _ in seen]) * query.shape[-1] ** -0.5
        if hidden is not None:
            scores = scores + hidden[: len(seen)]
        weights = F.dropout(scores.softmax(0), self.dropout, self.training)
        mixed = weights[0] * seen[0][1]
        for weight, (_, value) in zip(weights[1:], seen[1:], strict=True):
            mixed = torch.addcmul(mixed, weight, value)
        return mixed.flatten(1)


def mlp(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """The feed-forward half of a transformer block."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
    )


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.attention = Attention(width, heads, width // heads, bias=True, causal=False)
        self.mlp = mlp(width, mlp_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, tokens, width)`` to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ConditionalBlock(nn.Module):
    """Causal transformer block whose norms are shifted, scaled and gated by a condition (AdaLN-zero, arXiv 2212.09748).

    The gates start at zero, so that a new block changes nothing. The inner norms are those of the released
    LeWorldModel.
    """

    def __init__(self, width: int, heads: int, head_size: int, mlp_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, head_size, dropout)
        self.mlp = mlp(width, mlp_size, dropout)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.modulation[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.modulation[1].bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """Tokens ``(N, t, width)`` under their `modulation` ``(N, t, 6 * width)``, made by ``self.modulation``."""
        return self._update(tokens, modulation, self.attention(self._modulated(tokens, modulation)))

    def extend(
        self, tokens: Tensor, modulation: Tensor, past: KeysValues, queries: int, hidden: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """`forward` for the last `queries` of `tokens`, which follow those of `past`; as `CausalAttention.extend`."""
        mixed, keys_values = self.attention.extend(self._modulated(tokens, modulation), past, queries, hidden)
        return self._update(tokens[:, -queries:], modulation[:, -queries:], mixed), keys_values

    def _modulated(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """The input of the attention."""
        shift, scale = modulation.chunk(6, dim=-1)[:2]
        return self.attention_norm(self.norm(tokens) * (1 + scale) + shift)

    def _update(self, tokens: Tensor, modulation: Tensor, mixed: Tensor) -> Tensor:
        """`tokens` after the attention, which made `mixed` of them, and the feed-forward half."""
        gate1, shift, scale, gate2 = modulation.chunk(6, dim=-1)[2:]
        tokens = tokens + gate1 * mixed
        return tokens + gate2 * self.mlp(self.mlp_norm(self.norm(tokens) * (1 + scale) + shift))


def linear_weights(module: nn.Module) -> int:
    """Multiply-adds of one row through every linear map inside `module`."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def conv_flops(module: nn.Module, positions: int) -> float:
    """Floating-point operations of the convolutions inside `module`, whose maps have so many positions."""
    return 2.0 * positions * sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))

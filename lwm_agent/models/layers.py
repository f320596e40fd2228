"""Building blocks that more than one model uses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def projector(in_features: int, hidden: int, out_features: int) -> nn.Module:
    """Linear, BatchNorm, GELU, Linear as in LeWorldModel (section 3.1); one linear map if `hidden` is 0."""
    if hidden == 0:
        return nn.Linear(in_features, out_features)
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, out_features)
    )


class Attention(nn.Module):
    """Multi-head self-attention over ``(N, tokens, width)``."""

    def __init__(
        self, width: int, heads: int, head_size: int, *, bias: bool, causal: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.qkv = nn.Linear(width, 3 * heads * head_size, bias=bias)
        self.out = nn.Linear(heads * head_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixes the tokens; with `causal`, each sees itself and those before it."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        return F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), dropout)


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
        self.attention = Attention(width, heads, head_size, bias=False, causal=True, dropout=dropout)
        self.mlp = mlp(width, mlp_size, dropout)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.modulation[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.modulation[1].bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """Tokens ``(N, t, width)`` under their `modulation` ``(N, t, 6 * width)``, made by ``self.modulation``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        mixed = self.attention(self.attention_norm(self.norm(tokens) * (1 + scale1) + shift1))
        tokens = tokens + gate1 * mixed
        return tokens + gate2 * self.mlp(self.mlp_norm(self.norm(tokens) * (1 + scale2) + shift2))

"""The predictor of DINO-WM: a transformer over the patches of a window of frames (arXiv 2411.04983, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import JointLinear, mlp


class PatchBlock(nn.Module):
    """Pre-norm transformer block whose queries may be some of the tokens only."""

    def __init__(self, width: int, heads: int, head_size: int, mlp_size: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.inner, self.dropout = heads, heads * head_size, dropout
        self.width, self.hidden = width, mlp_size
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = JointLinear(width, 3 * self.inner, bias=False)
        self.out = nn.Linear(self.inner, width)
        self.mlp = mlp(width, mlp_size, dropout)

    def forward(self, tokens: Tensor, seen: Tensor, visible: Tensor) -> Tensor:
        """`tokens` ``(N, q, width)`` after they have looked at those of `seen` ``(N, k, width)``.

        `visible`, of a shape that broadcasts to ``(N, heads, q, k)``, is true where a token may look.
        """
        normed = self.attention_norm(seen)
        query = self.qkv.part(normed if tokens is seen else self.attention_norm(tokens), slice(self.inner))
        key, value = self.qkv.part(normed, slice(self.inner, None)).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        tokens = tokens + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), dropout)
        return tokens + self.mlp(self.mlp_norm(tokens))

    def flops(self, queries: int, keys: int) -> float:
        """Floating-point operations for as many tokens that look and that are looked at."""
        products = 2 * queries * self.width * (self.inner + self.hidden) + 2 * keys * self.width * self.inner
        return 2.0 * (products + 2 * queries * keys * self.inner)


class PatchTransformer(nn.Module):
    """Transformer over the P patches of up to H frames, causal by frame: a patch sees its own frame and earlier ones.

    Positions are learned, one for each patch of each frame; the oldest frame of a window takes the first.

    Args:
        patches: P.
        history: H.
        width: of a token.
        depth: blocks.
        heads: attention heads.
        head_size: width of each head.
        mlp_size: hidden width of the feed-forward layers.
        dropout: dropout of attention and feed-forward layers.
    """

    causal: Tensor  # (H * P, H * P): true where a token, by row, sees another, by column

    def __init__(
        self,
        patches: int,
        history: int,
        width: int,
        *,
        depth: int,
        heads: int,
        head_size: int,
        mlp_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patches, self.history = patches, history
        self.positions = nn.Parameter(torch.randn(history, patches, width))
        self.blocks = nn.ModuleList(PatchBlock(width, heads, head_size, mlp_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        frame = torch.arange(history, device=self.positions.device).repeat_interleave(patches)
        self.register_buffer("causal", frame[:, None] >= frame, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Successors ``(N, n, P, width)`` of the `tokens` ``(N, n, P, width)`` of each frame, n up to H."""
        frames = tokens.shape[1]
        visible = self.causal[: frames * self.patches, : frames * self.patches]
        mixed = (tokens + self.positions[:frames]).flatten(1, 2)
        for block in self.blocks:
            mixed = block(mixed, mixed, visible)
        return self.norm(mixed).unflatten(1, (frames, self.patches))

    def newest(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Successors ``(N, P, width)`` of the newest frame alone.

        Of `tokens` ``(N, H, P, width)``, the first `length` ``(N,)`` frames of each row are real. What comes after them
        has no effect: frames see no later ones. The last block is computed for the newest frame only.
        """
        mixed = (tokens + self.positions).flatten(1, 2)
        for block in self.blocks[:-1]:
            mixed = block(mixed, mixed, self.causal)
        rows = torch.arange(len(tokens), device=tokens.device)
        present = mixed.unflatten(1, (self.history, self.patches))[rows, length - 1]
        real = torch.arange(self.history, device=tokens.device) < length[:, None]  # (N, H)
        visible = real.repeat_interleave(self.patches, dim=1)[:, None, None]
        return self.norm(self.blocks[-1](present, mixed, visible))

    def newest_flops(self) -> float:
        """Floating-point operations of `newest` for one row, in linear maps and attention; a multiply-add is two."""
        tokens = self.history * self.patches
        blocks = [block for block in self.modules() if isinstance(block, PatchBlock)]
        return sum(block.flops(tokens, tokens) for block in blocks[:-1]) + blocks[-1].flops(self.patches, tokens)


class PatchPredictor(nn.Module):
    """Patches of the next frame, from a window of patches and of the action blocks that leave its frames.

    An action block is embedded linearly and appended to every patch of its frame. The transformer works on both
    together; what it makes of the action's part is dropped.

    Args:
        patches: P.
        features: D, numbers in a patch.
        block_size: F*A.
        history: H, frames that it sees.
        action_features: numbers that an action block is embedded to.
        residual: predict the change of a patch by a linear map behind the last norm, which starts at zero. Otherwise,
            as published, the output of the norm is the next patch itself, which suits features that were normed too.
        depth: blocks, as the arguments after it, of `PatchTransformer`.
        heads: attention heads.
        head_size: width of each head.
        mlp_size: hidden width of the feed-forward layers.
        dropout: dropout of attention and feed-forward layers.
    """

    def __init__(
        self,
        patches: int,
        features: int,
        block_size: int,
        *,
        history: int,
        action_features: int,
        residual: bool,
        depth: int,
        heads: int,
        head_size: int,
        mlp_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = features + action_features
        self.action = nn.Linear(block_size, action_features)
        self.transformer = PatchTransformer(
            patches,
            history,
            width,
            depth=depth,
            heads=heads,
            head_size=head_size,
            mlp_size=mlp_size,
            dropout=dropout,
        )
        self.change = nn.Linear(width, features) if residual else None
        if self.change is not None:
            nn.init.zeros_(self.change.weight)
            nn.init.zeros_(self.change.bias)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Next patches ``(N, n, P, D)`` after each of n frames `latents` and of the `actions` ``(N, n, F*A)``."""
        return self._patches(self.transformer(self._tokens(latents, actions)), latents)

    def newest(self, latents: Tensor, actions: Tensor, length: Tensor) -> Tensor:
        """Next patches ``(N, P, D)`` after the newest frame of each window; those are full from the left.

        Of `latents` ``(N, H, P, D)`` and `actions` ``(N, H, F*A)``, the first `length` ``(N,)`` of each row are real.
        """
        tokens = self.transformer.newest(self._tokens(latents, actions), length)
        return self._patches(tokens, latents[torch.arange(len(latents), device=latents.device), length - 1])

    def _tokens(self, latents: Tensor, actions: Tensor) -> Tensor:
        embedded = self.action(actions).unsqueeze(2).expand(-1, -1, latents.shape[2], -1)
        return torch.cat([latents, embedded.to(latents.dtype)], dim=-1)

    def _patches(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Next patches from the transformer's output for `latents`."""
        if self.change is None:
            return tokens[..., : latents.shape[-1]].float()
        return latents + self.change(tokens).float()

    def newest_flops(self) -> float:
        """Floating-point operations of `newest` for one row, in linear maps and attention; a multiply-add is two."""
        history, patches = self.transformer.history, self.transformer.patches
        change = 0 if self.change is None else patches * self.change.in_features * self.change.out_features
        return self.transformer.newest_flops() + 2.0 * (history * self.action.weight.numel() + change)

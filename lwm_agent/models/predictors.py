"""Predictors: the next latent, after a window of latents and the action blocks that leave them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..protocols import Belief
from .layers import ConditionalBlock, KeysValues, linear_weights, projector


class Predictor(nn.Module, ABC):
    """Latents of D numbers after action blocks of F*A, each from a window of at most `history` frames.

    Args:
        history: frames that it sees.
        residual: predict the change of the latent instead of the latent.
    """

    def __init__(self, history: int, residual: bool) -> None:
        super().__init__()
        self.history, self.residual = history, residual

    @abstractmethod
    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Next latents ``(N, t, D)`` for a window of `latents` ``(N, t, D)`` and the `actions` ``(N, t, F*A)``.

        Each is predicted from the latents and actions up to its own.
        """

    @abstractmethod
    def advance(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The last of the next latents, ``(N, D)``, for the same arguments."""

    @abstractmethod
    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, D)`` after each block of `actions` ``(B, S, T, F*A)``."""

    @abstractmethod
    def rollout_flops(self, horizon: int, context: int) -> float:
        """FLOPs of one candidate over `horizon` blocks from `context` frames, in linear maps and attention.

        A multiply-add is two. What all candidates of an episode share, the frames before the present, is left out.
        """

    @abstractmethod
    def advance_flops(self, context: int) -> float:
        """FLOPs of `advance` for one episode that remembers `context` frames, counted as in `rollout_flops`."""

    def _follow(self, latents: Tensor, predicted: Tensor) -> Tensor:
        """The next latents: what was `predicted` after `latents`, or how they change."""
        return latents + predicted if self.residual else predicted


class Transformer(Predictor):
    """Causal transformer over the window, conditioned on the action block that leaves each latent."""

    def __init__(
        self,
        latent_size: int,
        block_size: int,
        *,
        history: int,
        residual: bool,
        depth: int,
        width: int,
        heads: int,
        head_size: int,
        mlp_size: int,
        projector_size: int,
        dropout: float,
    ) -> None:
        super().__init__(history, residual)
        self.action_embedding = nn.Sequential(
            nn.Linear(block_size, block_size), nn.Linear(block_size, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.inward = nn.Identity() if latent_size == width else nn.Linear(latent_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(history, width))
        self.blocks = nn.ModuleList(ConditionalBlock(width, heads, head_size, mlp_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outward = projector(width, projector_size, latent_size)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """As in `Predictor`."""
        tokens = self.inward(latents) + self.positions[: latents.shape[1]]
        for block, modulation in zip(self.blocks, self._modulations(actions), strict=True):
            tokens = block(tokens, modulation)
        # Rows, not windows: the projector's BatchNorm takes ``(rows, features)``.
        predicted = self.outward(self.norm(tokens).flatten(0, 1)).unflatten(0, latents.shape[:2])
        return self._follow(latents, predicted)

    def advance(self, latents: Tensor, actions: Tensor) -> Tensor:
        """As in `Predictor`."""
        return self._extend(latents, self._modulations(actions))[0]

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """As in `Predictor`.

        Keys and values are kept while the window of `history` frames grows. Once it slides, each frame has a new place
        in it, and the window is computed anew; its frames before the present, once for all candidates of an episode.
        """
        samples, horizon = actions.shape[1:3]
        present = belief.latents.shape[1] - 1
        modulations = self._modulations(actions.flatten(0, 1))  # once for all steps
        frames = [belief.latent.repeat_interleave(samples, dim=0)]  # (B*S, D) each: the present, and what follows it
        for step in range(horizon):
            start, new = present + step + 1 - self.history, slice(step, step + 1)
            if step == 0 or start > 0:
                memory = self._past(belief, slice(max(0, start), present), samples)
                new = slice(max(0, start - present), step + 1)
            window = torch.stack(frames[new], dim=1)
            latent, memory = self._extend(window, [part[:, new] for part in modulations], memory)
            frames.append(latent)
        return torch.stack(frames[1:], dim=1).unflatten(0, actions.shape[:2])

    def _modulations(self, actions: Tensor) -> list[Tensor]:
        """What each block needs to know of the actions ``(N, t, F*A)``: ``(N, t, 6 * width)``."""
        embedded = self.action_embedding(actions)
        return [block.modulation(embedded) for block in self.blocks]  # type: ignore[operator]

    def _extend(
        self, latents: Tensor, modulations: Sequence[Tensor], memory: Sequence[KeysValues] = ()
    ) -> tuple[Tensor, list[KeysValues]]:
        """Next latent ``(N, D)`` after the window that `memory` begins and `latents` ``(N, n, D)`` complete.

        Only the newest latent is predicted, so the last block needs no more than keys and values of the others. Also
        returns the memory of the whole window: keys and values in each block, good for as long as no latent changes its
        place in the window.
        """
        length = latents.shape[1]
        first = len(memory[0]) if memory else 0
        tokens = self.inward(latents) + self.positions[first : first + length]
        extended = []
        for place, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            queries = length if place < len(self.blocks) - 1 else 1
            tokens, seen = block.extend(tokens, modulation, memory[place] if memory else [], queries)  # type: ignore[operator]
            extended.append(seen)
        return self._follow(latents[:, -1], self.outward(self.norm(tokens[:, 0]))), extended

    def _past(self, belief: Belief, frames: slice, samples: int) -> list[KeysValues]:
        """The memory of some `frames` before the present, for `samples` candidates an episode."""
        if frames.start >= frames.stop:
            return []
        _, memory = self._extend(belief.latents[:, frames], self._modulations(belief.actions[:, frames]))
        return [
            [(key.repeat_interleave(samples, 0), value.repeat_interleave(samples, 0)) for key, value in seen]
            for seen in memory
        ]

    def rollout_flops(self, horizon: int, context: int) -> float:
        """As in `Predictor`."""
        total = horizon * self._action_weights
        for end in range(context, context + horizon):
            new = 1 if end <= self.history else min(self.history, end - context + 1)
            total += self._window_weights(min(self.history, end), new)
        return 2.0 * total

    def advance_flops(self, context: int) -> float:
        """As in `Predictor`."""
        window = min(self.history, context)
        return 2.0 * (window * self._action_weights + self._window_weights(window, window))

    @property
    def _action_weights(self) -> int:
        """Multiply-adds that prepare an action block."""
        return linear_weights(self.action_embedding) + sum(
            linear_weights(cast(ConditionalBlock, block).modulation) for block in self.blocks
        )

    def _window_weights(self, window: int, new: int) -> int:
        """Multiply-adds of predicting the latent after a `window` of frames, of which the last `new` were not seen."""
        block, others = cast(ConditionalBlock, self.blocks[-1]), len(self.blocks) - 1
        token = linear_weights(block) - linear_weights(block.modulation)
        keys_values = 2 * block.attention.qkv.weight.numel() // 3
        pairs = others * sum(range(window - new + 1, window + 1)) + window  # of a query and a key
        tokens = new * (linear_weights(self.inward) + others * token) + token + (new - 1) * keys_values
        return tokens + 2 * pairs * block.attention.out.in_features + linear_weights(self.outward)


class ResidualMLP(Predictor):
    """Residual multilayer perceptron over the whole window at once.

    A transformer spends most of its time on a window of two frames in a thousand small operations, and computes the
    window anew whenever it slides; this one is a few matrix products a step. What the actions do to each block is
    computed before the first step. Frames before the beginning of an episode are zeros, the mean of latents.

    Args:
        latent_size: D.
        block_size: F*A.
        history: frames that it sees.
        residual: predict the change of the latent instead of the latent.
        depth: blocks.
        width: what goes from block to block.
        mlp_size: hidden width of a block.
        dropout: of each block.
    """

    def __init__(
        self,
        latent_size: int,
        block_size: int,
        *,
        history: int,
        residual: bool,
        depth: int,
        width: int,
        mlp_size: int,
        dropout: float,
    ) -> None:
        super().__init__(history, residual)
        self.inward = nn.Linear(history * latent_size, width)
        self.condition = nn.Sequential(
            nn.Linear(history * block_size, 64), nn.SiLU(), nn.Linear(64, width + depth * mlp_size)
        )
        self.blocks = nn.ModuleList(ShiftedBlock(width, mlp_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, latent_size)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """As in `Predictor`."""
        count = latents.shape[1]
        return self._follow(latents, self._predict(self._windows(latents, count), self._conditions(actions, count)))

    def advance(self, latents: Tensor, actions: Tensor) -> Tensor:
        """As in `Predictor`."""
        predicted = self._predict(self._windows(latents, 1), self._conditions(actions, 1))
        return self._follow(latents[:, -1], predicted[:, 0])

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """As in `Predictor`."""
        samples, horizon = actions.shape[1:3]
        past = belief.actions.repeat_interleave(samples, dim=0)
        conditions = self._conditions(torch.cat([past, actions.flatten(0, 1)], dim=1), horizon)  # once for all steps
        frames = [*belief.latents.repeat_interleave(samples, dim=0).unbind(1)]
        frames = [torch.zeros_like(frames[0])] * (self.history - len(frames)) + frames
        for condition in conditions.unbind(1):
            predicted = self._predict(torch.cat(frames[-self.history :], dim=-1), condition)
            frames.append(self._follow(frames[-1], predicted))
        return torch.stack(frames[-horizon:], dim=1).unflatten(0, actions.shape[:2])

    def _predict(self, windows: Tensor, conditions: Tensor) -> Tensor:
        """What follows `windows` ``(..., history * D)`` under the `conditions` ``(..., width + depth * mlp_size)``."""
        width, depth = self.norm.normalized_shape[0], len(self.blocks)
        shift, *shifts = conditions.split([width, *[(conditions.shape[-1] - width) // depth] * depth], dim=-1)
        features = self.inward(windows).to(windows.dtype) + shift  # autocast or not, blocks add up in full precision
        for block, shift in zip(self.blocks, shifts, strict=True):
            features = block(features, shift)
        predicted: Tensor = self.outward(self.norm(features))
        return predicted

    def _conditions(self, actions: Tensor, count: int) -> Tensor:
        """What the last `count` windows of `actions` ``(N, t, F*A)`` do: ``(N, count, width + depth * mlp_size)``."""
        conditions: Tensor = self.condition(self._windows(actions, count))
        return conditions

    def _windows(self, rows: Tensor, count: int) -> Tensor:
        """The last `count` windows of `rows` ``(N, t, n)``, as ``(N, count, history * n)``; zeros before the first."""
        length = count + self.history - 1
        padded = F.pad(rows[:, -length:], (0, 0, max(0, length - rows.shape[1]), 0))
        return padded.unfold(1, self.history, 1).transpose(2, 3).flatten(2)

    def rollout_flops(self, horizon: int, context: int) -> float:
        """As in `Predictor`."""
        return horizon * self.advance_flops(context)

    def advance_flops(self, context: int) -> float:
        """As in `Predictor`."""
        return 2.0 * linear_weights(self)


class ShiftedBlock(nn.Module):
    """Pre-norm feed-forward block whose hidden layer is shifted by a condition. A new one changes nothing."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(self, features: Tensor, shift: Tensor) -> Tensor:
        """`features` ``(..., width)`` to the same shape, under a `shift` ``(..., hidden)``."""
        hidden = F.gelu(self.inward(self.norm(features)) + shift)
        return features + self.dropout(self.outward(self.dropout(hidden)))

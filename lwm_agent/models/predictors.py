"""Predictors: the next latent, after a window of latents and the action blocks that leave them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConditionalBlock, KeysValues, linear_weights, projector
from .window import Window, make_window

RENAMED = {"inward.": "input_proj.", "outward.": "output_proj."}
"""Names of weights in checkpoints of version 0.1."""


class Predictor(nn.Module, ABC):
    """Latents of D numbers after action blocks of F*A, each from a window of at most `history` frames.

    Args:
        history: H, frames that it sees.
        residual: predict the change of the latent instead of the latent.
    """

    renamed_weights = RENAMED

    def __init__(self, history: int, residual: bool) -> None:
        super().__init__()
        self.history, self.residual = history, residual

    @abstractmethod
    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Next latents ``(N, t, D)`` for a window of `latents` ``(N, t, D)`` and the `actions` ``(N, t, F*A)``.

        Each is predicted from the latents and actions up to its own.
        """

    @abstractmethod
    def advance(self, window: Window, block: Tensor) -> Tensor:
        """Latent ``(N, D)`` that follows `window` and the action block `block` ``(N, F*A)``."""

    @abstractmethod
    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Latents ``(N, D)`` one of `blocks` ``(N, F*A)`` after `latents` ``(N, D)``, with nothing before them."""

    @abstractmethod
    def rollout(self, window: Window, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, D)`` after each block of `actions` ``(B, S, T, F*A)``."""

    @abstractmethod
    def rollout_flops(self, horizon: int) -> float:
        """FLOPs of one candidate over `horizon` blocks, in linear maps and attention.

        A multiply-add is two. Work that all candidates of an episode share, on frames before the present, is left out.
        """

    @abstractmethod
    def advance_flops(self) -> float:
        """FLOPs of `advance` for one episode, counted as in `rollout_flops`."""

    def _next_latent(self, latents: Tensor, predicted: Tensor) -> Tensor:
        """The latents after `latents`: the `predicted` ones, or the predicted change of them."""
        return latents + predicted if self.residual else predicted


class Transformer(Predictor):
    """Causal transformer over the window, conditioned on the action block that leaves each latent.

    In a window that is not full, the first frame takes the first position, and the empty places before it are masked.
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
        self.input_proj = nn.Identity() if latent_size == width else nn.Linear(latent_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(history, width))
        self.blocks = nn.ModuleList(ConditionalBlock(width, heads, head_size, mlp_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output_proj = projector(width, projector_size, latent_size)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Implements `Predictor`."""
        tokens = self.input_proj(latents) + self.positions[: latents.shape[1]]
        for block, modulation in zip(self.blocks, self._modulations(actions), strict=True):
            tokens = block(tokens, modulation)
        # Rows, not windows: the projector's BatchNorm takes ``(rows, features)``.
        predicted = self.output_proj(self.norm(tokens).flatten(0, 1)).unflatten(0, latents.shape[:2])
        return self._next_latent(latents, predicted)

    def advance(self, window: Window, block: Tensor) -> Tensor:
        """Implements `Predictor`."""
        modulations = self._modulations(torch.cat([window.actions, block.unsqueeze(1)], dim=1))
        empty = self._empty(window, 0)
        return self._extend(window.latents, modulations, self._places(empty), mask(empty, self.history))[0]

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Implements `Predictor`."""
        return self._extend(latents.unsqueeze(1), self._modulations(blocks.unsqueeze(1)), self.positions[:1])[0]

    def rollout(self, window: Window, actions: Tensor) -> Tensor:
        """Implements `Predictor`.

        Frames before the present are computed once for all candidates of an episode. All others are computed anew in
        each step, since each has a new place in the window then.
        """
        samples, horizon = actions.shape[1:3]
        modulations = self._modulations(actions.flatten(0, 1))  # once for all steps
        frames = [window.latent.repeat_interleave(samples, dim=0)]  # (B*S, D) each: the present, and what follows it
        for step in range(horizon):
            new = slice(max(0, step + 1 - self.history), step + 1)
            parts = [part[:, new] for part in modulations]
            latents = torch.stack(frames[new], dim=1)
            past = self.history - latents.shape[1]
            if past == 0:
                latent, _ = self._extend(latents, parts, self.positions)
            else:
                empty = self._empty(window, step)
                places = self._places(empty)[:, past:].repeat_interleave(samples, dim=0)
                hidden = mask(empty, self.history).repeat_interleave(samples, dim=1)
                memory = self._past(window, slice(step, self.history - 1), samples)
                latent, _ = self._extend(latents, parts, places, hidden, memory)
            frames.append(latent)
        return torch.stack(frames[1:], dim=1).unflatten(0, actions.shape[:2])

    def _empty(self, window: Window, steps: int) -> Tensor:
        """Places ``(N,)`` of the window that are still empty, `steps` after `window`."""
        return (self.history - steps - window.length).clamp_min(0)

    def _places(self, empty: Tensor) -> Tensor:
        """Embeddings ``(N, H, width)`` of the places in windows whose first `empty` ``(N,)`` hold no frame."""
        index = torch.arange(self.history, device=empty.device) - empty[:, None]
        return self.positions[index.clamp_min(0)]

    def _modulations(self, actions: Tensor) -> list[Tensor]:
        """Modulations of each block ``(N, t, 6 * width)`` by the actions ``(N, t, F*A)``."""
        embedded = self.action_embedding(actions)
        return [block.modulation(embedded) for block in self.blocks]  # type: ignore[operator]

    def _extend(
        self,
        latents: Tensor,
        modulations: Sequence[Tensor],
        places: Tensor,
        hidden: Tensor | None = None,
        memory: Sequence[KeysValues] = (),
    ) -> tuple[Tensor, list[KeysValues]]:
        """Next latent ``(N, D)`` after the window that `memory` begins and `latents` ``(N, n, D)`` complete.

        Only the newest latent is predicted, so the last block needs no more than keys and values of the others. Also
        returns the memory of the whole window: keys and values in each block.

        Args:
            latents: frames that are not in `memory`.
            modulations: of their blocks.
            places: embeddings of their places, ``(N, n, width)`` or ``(n, width)``.
            hidden: what is added to the score of each frame of the window, ``(frames, N, 1, 1)``.
            memory: keys and values of the frames before.
        """
        tokens = self.input_proj(latents) + places
        extended = []
        for place, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            queries = latents.shape[1] if place < len(self.blocks) - 1 else 1
            past = memory[place] if memory else []
            tokens, seen = block.extend(tokens, modulation, past, queries, hidden)  # type: ignore[operator]
            extended.append(seen)
        return self._next_latent(latents[:, -1], self.output_proj(self.norm(tokens[:, 0]))), extended

    def _past(self, window: Window, frames: slice, samples: int) -> list[KeysValues]:
        """Keys and values of some `frames` before the present, for `samples` candidates an episode."""
        latents, modulations = window.latents[:, frames], self._modulations(window.actions[:, frames])
        empty = self._empty(window, frames.start)
        count = latents.shape[1]
        _, memory = self._extend(latents, modulations, self._places(empty)[:, :count], mask(empty, count))
        return [
            [(key.repeat_interleave(samples, 0), value.repeat_interleave(samples, 0)) for key, value in seen]
            for seen in memory
        ]

    def rollout_flops(self, horizon: int) -> float:
        """Implements `Predictor`."""
        windows = sum(self._window_weights(min(self.history, step + 1)) for step in range(horizon))
        return 2.0 * (horizon * self._action_weights + windows)

    def advance_flops(self) -> float:
        """Implements `Predictor`."""
        return 2.0 * (self.history * self._action_weights + self._window_weights(self.history))

    @property
    def _action_weights(self) -> int:
        """Multiply-adds that prepare an action block."""
        return linear_weights(self.action_embedding) + sum(
            linear_weights(cast(ConditionalBlock, block).modulation) for block in self.blocks
        )

    def _window_weights(self, new: int) -> int:
        """Multiply-adds of predicting the latent after a window whose last `new` frames were not seen before."""
        block, others = cast(ConditionalBlock, self.blocks[-1]), len(self.blocks) - 1
        token = linear_weights(block) - linear_weights(block.modulation)
        keys_values = 2 * block.attention.qkv.weight.numel() // 3
        pairs = others * sum(range(self.history - new + 1, self.history + 1)) + self.history  # of a query and a key
        tokens = new * (linear_weights(self.input_proj) + others * token) + token + (new - 1) * keys_values
        return tokens + 2 * pairs * block.attention.out.in_features + linear_weights(self.output_proj)


def mask(empty: Tensor, count: int) -> Tensor:
    """Scores ``(count, N, 1, 1)`` that hide the first `empty` ``(N,)`` of `count` frames from attention, when added."""
    hidden = torch.arange(count, device=empty.device)[:, None] < empty  # (count, N)
    # Not infinite, so that the scores of a frame that sees nothing else stay numbers.
    return torch.zeros(hidden.shape, dtype=torch.float32, device=empty.device).masked_fill(hidden, -1e9)[
        ..., None, None
    ]


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
        self.input_proj = nn.Linear(history * latent_size, width)
        self.condition = nn.Sequential(
            nn.Linear(history * block_size, 64), nn.SiLU(), nn.Linear(64, width + depth * mlp_size)
        )
        self.blocks = nn.ModuleList(ShiftedBlock(width, mlp_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, latent_size)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Implements `Predictor`."""
        count = latents.shape[1]
        return self._next_latent(
            latents, self._predict(self._windows(latents, count), self._conditions(actions, count))
        )

    def advance(self, window: Window, block: Tensor) -> Tensor:
        """Implements `Predictor`."""
        actions = torch.cat([window.actions, block.unsqueeze(1)], dim=1)
        predicted = self._predict(window.latents.flatten(1), self.condition(actions.flatten(1)))
        return self._next_latent(window.latent, predicted)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Implements `Predictor`."""
        window = make_window(latents.unsqueeze(1), blocks.new_zeros(len(blocks), 0, blocks.shape[1]), self.history)
        return self.advance(window, blocks)

    def rollout(self, window: Window, actions: Tensor) -> Tensor:
        """Implements `Predictor`."""
        samples, horizon = actions.shape[1:3]
        past = window.actions.repeat_interleave(samples, dim=0)
        conditions = self._conditions(torch.cat([past, actions.flatten(0, 1)], dim=1), horizon)  # once for all steps
        frames = [*window.latents.repeat_interleave(samples, dim=0).unbind(1)]
        for condition in conditions.unbind(1):
            predicted = self._predict(torch.cat(frames[-self.history :], dim=-1), condition)
            frames.append(self._next_latent(frames[-1], predicted))
        return torch.stack(frames[-horizon:], dim=1).unflatten(0, actions.shape[:2])

    def _predict(self, windows: Tensor, conditions: Tensor) -> Tensor:
        """Output for `windows` ``(..., history * D)`` under the `conditions` ``(..., width + depth * mlp_size)``."""
        width, depth = self.norm.normalized_shape[0], len(self.blocks)
        shift, *shifts = conditions.split([width, *[(conditions.shape[-1] - width) // depth] * depth], dim=-1)
        features = (
            self.input_proj(windows).to(windows.dtype) + shift
        )  # autocast or not, blocks add up in full precision
        for block, shift in zip(self.blocks, shifts, strict=True):
            features = block(features, shift)
        predicted: Tensor = self.output_proj(self.norm(features))
        return predicted

    def _conditions(self, actions: Tensor, count: int) -> Tensor:
        """Conditions ``(N, count, width + depth * mlp_size)`` of the last `count` windows of `actions`."""
        conditions: Tensor = self.condition(self._windows(actions, count))
        return conditions

    def _windows(self, rows: Tensor, count: int) -> Tensor:
        """The last `count` windows of `rows` ``(N, t, n)``, as ``(N, count, history * n)``; zeros before the first."""
        length = count + self.history - 1
        padded = F.pad(rows[:, -length:], (0, 0, max(0, length - rows.shape[1]), 0))
        return padded.unfold(1, self.history, 1).transpose(2, 3).flatten(2)

    def rollout_flops(self, horizon: int) -> float:
        """Implements `Predictor`."""
        return horizon * self.advance_flops()

    def advance_flops(self) -> float:
        """Implements `Predictor`."""
        return 2.0 * linear_weights(self)


class ShiftedBlock(nn.Module):
    """Pre-norm feed-forward block whose hidden layer is shifted by a condition. A new one changes nothing."""

    renamed_weights = RENAMED

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.input_proj, self.output_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)

    def forward(self, features: Tensor, shift: Tensor) -> Tensor:
        """`features` ``(..., width)`` to the same shape, under a `shift` ``(..., hidden)``."""
        hidden = F.gelu(self.input_proj(self.norm(features)) + shift)
        return features + self.dropout(self.output_proj(self.dropout(hidden)))

"""An agent that plans without torch, on the graphs that `lwm-agent export pusht-tiny --out out/onnx` writes.

It needs NumPy and onnxruntime. Each plan starts from the best of 16 futures that the actor imagines; a small search
(CEM) goes on from there, as the planner `guided` does. Its only cost is the distance to the goal at the best step,
which is the default of `pusht-tiny`; the cube's checkpoint recommends another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class OnnxAgent:
    """Call `reset` at the start of an episode of so many steps, then `act` at each of them."""

    def __init__(self, folder: str | Path, horizon: int = 5, seed: int = 0) -> None:
        self.about = json.loads((Path(folder) / "agent.json").read_text(encoding="utf-8"))
        self._graphs = {path.stem: onnxruntime.InferenceSession(path) for path in Path(folder).glob("*.onnx")}
        self._mean, self._std, self._low, self._high = (
            np.tile(np.array(self.about[f"action_{name}"], np.float32), self.about["frameskip"])
            for name in ("mean", "std", "low", "high")
        )
        self._bounds = (self._low - self._mean) / self._std, (self._high - self._mean) / self._std
        self._horizon, self._rng = horizon, np.random.default_rng(seed)

    def reset(self, num_env_steps: int) -> None:
        """Forgets the last episode."""
        history, block = self.about["history"], len(self._mean)
        self._latents = np.zeros((1, history, self.about["latent_size"]), np.float32)
        self._actions = np.zeros((1, history - 1, block), np.float32)
        self._seen, self._left, self._queue = 0, num_env_steps, np.zeros((0, 0), np.float32)

    def act(self, pixels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The next action ``(A,)`` for pictures ``(h, w, 3)`` in uint8; plans where the last block is used up."""
        if not len(self._queue):
            latent, end = self._run("encoder", pixels=np.stack([pixels, goal]))[0][:, None]
            self._latents = np.concatenate([self._latents[:, 1:], latent[None]], axis=1)
            self._seen += 1
            block = self._plan(end)
            self._actions = np.concatenate([self._actions, block[None, None]], axis=1)[:, 1:]
            actions = np.clip(block * self._std + self._mean, self._low, self._high)
            self._queue = actions.reshape(self.about["frameskip"], -1)
        self._left -= 1
        action, self._queue = self._queue[0], self._queue[1:]
        return action

    def _plan(self, goal: np.ndarray) -> np.ndarray:
        """The first block ``(F*A,)`` of a plan towards the latent `goal` ``(1, D)``."""
        blocks_left = -(-self._left // self.about["frameskip"])
        horizon = min(self._horizon, blocks_left)
        noise = self._rng.standard_normal((16, horizon, len(self._mean))).astype(np.float32)
        noise[0] = 0
        expected = np.exp(self._run("actor", latent=self._latents[:, -1], goal=goal, steps=np.ones(1, np.int64))[2])
        plans, costs = self._imagine(noise, goal, steps=int(np.clip(np.rint(expected[0]), 1, blocks_left)))
        mean, std, best = plans[costs.argmin()], np.full_like(plans[0], 0.5), (costs.min(), plans[costs.argmin()])
        for _ in range(3):
            candidates = mean + std * self._rng.standard_normal((64, *mean.shape)).astype(np.float32)
            plans, costs = self._imagine(np.clip(candidates, *self._bounds), goal)
            elites = plans[np.argsort(costs)[:8]]
            mean, std = elites.mean(0), np.maximum(elites.std(0), 0.05)
            best = min(best, (costs.min(), plans[costs.argmin()]), key=lambda pair: pair[0])
        return best[1][0]

    def _imagine(self, blocks: np.ndarray, goal: np.ndarray, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Plans ``(S, T, F*A)`` and their least distances to the goal; with `steps`, `blocks` are the actor's noise."""
        count, horizon, _ = blocks.shape
        latents, actions, goals = (np.repeat(part, count, axis=0) for part in (self._latents, self._actions, goal))
        plans, distances = [], []
        for step in range(horizon):
            block = blocks[:, step]
            if steps is not None:
                left = np.full(count, steps - step)
                mean, std, _ = self._run("actor", latent=latents[:, -1], goal=goals, steps=left)
                block = np.clip(mean + block * std, *self._bounds)
            length = np.full(count, min(self._seen + step, self.about["history"]))
            latent = self._run("imagine", latents=latents, actions=actions, length=length, block=block)[0]
            latents = np.concatenate([latents[:, 1:], latent[:, None]], axis=1)
            actions = np.concatenate([actions, block[:, None]], axis=1)[:, 1:]
            plans.append(block)
            distances.append(np.square(latent - goals).mean(axis=1))
        return np.stack(plans, axis=1), np.min(distances, axis=0)

    def _run(self, graph: str, **inputs: np.ndarray) -> list[Any]:
        return self._graphs[graph].run(None, inputs)

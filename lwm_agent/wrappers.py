"""Latents in the place of pictures, for learners that know no world model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .agent.environment import check_env
from .checkpoint import Checkpoint
from .compute.device import arrange_weights, resolve_device, unaffected
from .errors import UserError

Latent = NDArray[np.float32]
Latents = dict[str, Latent]


class LatentObservation(
    gym.ObservationWrapper[Latents, Any, dict[str, NDArray[np.uint8]]], gym.utils.RecordConstructorArgs
):
    """An environment that shows latents of its pictures, as the frozen encoder of a checkpoint sees them.

    Observation: ``{"observation", "achieved_goal", "desired_goal"}``, each float32 ``(D,)``, the form of Gymnasium's
        goal environments, which `HerReplayBuffer` of Stable-Baselines3 takes. The first two are the latent of the
        present frame alone, so that velocities are not observed; the third is that of the goal picture. Latents of many
        tokens count as their mean (`LatentModel.summary`).

    Reward: minus the mean squared difference of the latents of frame and goal, which planners minimise too. With
        `success_distance` it is 0 where that difference is at most `success_distance`, and -1 elsewhere. No latent
        distance is success by itself: choose one on data whose successes are known. The simulator's own verdict stays
        in ``info["is_success"]``, and its own termination stays, unless it was switched off in the environment.

    Args:
        env: observes ``{"pixels", "goal"}``, under the conventions that the checkpoint was trained with.
        checkpoint: a checkpoint, its folder, or the name of one that ships with the package.
        success_distance: the largest squared latent difference that counts as success; None for the graded reward.
        device: where to encode; each environment encodes its own frames, one by one, which suits a CPU.

    Raises:
        UserError: the environment differs from the training data, or a setting is out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: Checkpoint | Path | str,
        *,
        success_distance: float | None = None,
        device: str = "cpu",
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, checkpoint=checkpoint, success_distance=success_distance, device=device
        )
        super().__init__(env)
        if success_distance is not None and not 0 < success_distance < float("inf"):
            raise UserError(f"success_distance={success_distance} must be above 0 and finite, or None")
        self._device, self._success_distance = resolve_device(device), success_distance
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
        check_env(env, loaded)
        with unaffected(self._device):
            self._model = arrange_weights(loaded.model, self._device, bf16=False)
        self._normalizer = loaded.normalizer
        self._goal_pixels: NDArray[np.uint8] | None = None
        self._goal = np.zeros(self._model.summary_size, np.float32)
        space = gym.spaces.Box(-np.inf, np.inf, self._goal.shape, np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = gym.spaces.Dict(dict.fromkeys(names, space))  # type: ignore[assignment]

    def step(self, action: Any) -> tuple[Latents, float, bool, bool, dict[str, Any]]:
        """A step of the environment, with the reward of `compute_reward`."""
        latents, _, terminated, truncated, info = super().step(action)
        reward = self.compute_reward(latents["achieved_goal"], latents["desired_goal"], info)
        return latents, float(reward), terminated, truncated, info

    def observation(self, observation: dict[str, NDArray[np.uint8]]) -> Latents:
        """Latents ``(D,)`` of a frame and its goal; a goal that is still the same is not encoded again."""
        if self._goal_pixels is None or not np.array_equal(observation["goal"], self._goal_pixels):
            self._goal_pixels = observation["goal"].copy()
            self._goal = self._encode(self._goal_pixels)
        latent = self._encode(observation["pixels"])
        return {"observation": latent, "achieved_goal": latent.copy(), "desired_goal": self._goal.copy()}

    def compute_reward(self, achieved_goal: Latent, desired_goal: Latent, info: Any) -> NDArray[np.float32]:
        """Rewards ``(...)`` of latents ``(..., D)``; `info` is part of Gymnasium's interface and not looked at."""
        distance = np.square(achieved_goal - desired_goal, dtype=np.float32).mean(axis=-1)
        if self._success_distance is None:
            return -distance
        return -(distance > self._success_distance).astype(np.float32)

    def _encode(self, pixels: NDArray[np.uint8]) -> Latent:
        """The latent ``(D,)`` of one picture ``(h, w, C)``, in float32."""
        with unaffected(self._device):
            latents = self._model.embed(self._normalizer.pixels(pixels[None], self._device))
            encoded: Latent = self._model.summary(latents)[0].cpu().numpy()
        return encoded

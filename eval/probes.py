"""Probes: maps from frozen latents to physical quantities, which tell what a model knows and nothing of how to act.

They see vectors and numbers, no model and no environment, and are fitted on the CPU: the same data and seed give the
same probe.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-6, 1))
"""Penalties of ridge regressions to choose from, a row."""

HIDDEN, STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 256, 3000, 256, 3e-3, 1e-2
"""Size and training of an MLP of two hidden layers."""

CHOOSE_EVERY = 250
"""Steps between two looks at the error on the examples that choose."""


@dataclass(frozen=True)
class Examples:
    """Latents and the numbers to read from them.

    Attributes:
        latents: ``(N, D)``.
        targets: ``(N, m)``.
    """

    latents: Tensor
    targets: Array


@dataclass(frozen=True)
class Probe:
    """A fitted map; calling it reads targets ``(N, m)`` from latents ``(N, D)``.

    Attributes:
        scale: units of latents and targets.
        network: from normalised latents to normalised targets.
    """

    scale: Scale
    network: nn.Module

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Array:
        """The targets that `latents` ``(..., D)`` are read as, ``(..., m)``."""
        predicted = self.network(self.scale.inputs(latents)).double() * self.scale.target_std + self.scale.target_mean
        array: Array = predicted.numpy()
        return array


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of latents ``(D,)`` and targets ``(m,)``, over the examples that fit."""

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    @classmethod
    def of(cls, examples: Examples) -> Scale:
        """The scale of some examples; a number that hardly varies is not blown up."""
        latents, targets = examples.latents.double(), torch.from_numpy(examples.targets)
        std, target_std = latents.std(0), targets.std(0)
        return cls(latents.mean(0), std.clamp_min(1e-3 * float(std.mean()) + 1e-12), targets.mean(0), target_std)

    def inputs(self, latents: Tensor) -> Tensor:
        """Normalised latents ``(..., D)``, in float32."""
        return ((latents.double() - self.mean) / self.std).float()

    def outputs(self, targets: Array) -> Tensor:
        """Normalised targets ``(N, m)``, in float32."""
        return ((torch.from_numpy(targets) - self.target_mean) / self.target_std).float()


def fit_linear(fit: Examples, choose: Examples, seed: int = 0) -> Probe:
    """Ridge regression with the penalty of `PENALTIES` that is best on the examples `choose`; it needs no `seed`."""
    scale = Scale.of(fit)
    inputs, outputs = scale.inputs(fit.latents).double(), scale.outputs(fit.targets).double()
    values, vectors = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    projected = vectors.T @ (inputs.T @ outputs) / len(inputs)
    best, least = nn.Linear(inputs.shape[1], outputs.shape[1]), math.inf
    for penalty in PENALTIES:
        weight = vectors @ (projected / (values.clamp_min(0) + penalty)[:, None])
        network = nn.Linear(*weight.shape)
        network.weight.data, network.bias.data = weight.T.float(), torch.zeros_like(network.bias)
        error = _error(network, scale, choose)
        if error < least:
            best, least = network, error
    return Probe(scale, best)


def fit_mlp(fit: Examples, choose: Examples, seed: int = 0) -> Probe:
    """MLP of two hidden layers; of the looks at the examples `choose` during its training, the best is kept."""
    scale = Scale.of(fit)
    inputs, outputs = scale.inputs(fit.latents), scale.outputs(fit.targets)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = nn.Sequential(
            *(nn.Linear(inputs.shape[1], HIDDEN), nn.SiLU()),
            *(nn.Linear(HIDDEN, HIDDEN), nn.SiLU()),
            nn.Linear(HIDDEN, outputs.shape[1]),
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1)
        best, least = copy.deepcopy(network), math.inf
        for step in range(STEPS):
            rows = torch.randint(len(inputs), (BATCH,))
            loss = (network(inputs[rows]) - outputs[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % CHOOSE_EVERY == 0 and (error := _error(network, scale, choose)) < least:
                best, least = copy.deepcopy(network), error
    return Probe(scale, best)


PROBES: dict[str, Callable[[Examples, Examples, int], Probe]] = {"linear": fit_linear, "mlp": fit_mlp}
"""Kinds of probes: functions of the examples that fit, of those that choose, and of a seed."""


@torch.no_grad()
def _error(network: nn.Module, scale: Scale, examples: Examples) -> float:
    """Mean squared error of normalised targets."""
    wanted = scale.outputs(examples.targets)
    return float((network(scale.inputs(examples.latents)) - wanted).square().mean())

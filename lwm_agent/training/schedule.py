"""Numbers that follow from a seed and a step alone: learning rates and seeds."""

from __future__ import annotations

import math

import numpy as np


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine down to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def seed_of(*parts: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])

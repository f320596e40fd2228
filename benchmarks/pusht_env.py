"""Push-T's steps a second on one core under random actions; prints JSON: python benchmarks/pusht_env.py.

A rate is steps by CPU time of this process, in the fastest of a few rounds, which other work on the machine disturbs
least.
"""

from __future__ import annotations

import json
import platform
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pymunk

from lwm_agent.envs.pusht import PushTEnv

STEPS, ROUNDS, IMAGE_SIZES = 1000, 3, (64, 96, 224)


def steps_per_second(image_size: int, with_pixels: bool = True) -> int:
    """Rate of `env.step`, or of the physics alone."""
    env = PushTEnv(image_size=image_size, terminate_on_success=False)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2)).astype(np.float32)
    advance: Any = env.step if with_pixels else env.simulate
    fastest = float("inf")
    for _ in range(ROUNDS):
        env.reset(seed=0)
        started = time.process_time()
        for action in actions:
            advance(action)
        fastest = min(fastest, time.process_time() - started)
    return round(STEPS / fastest)


def main() -> None:
    """Measures and prints."""
    result = {
        "steps_per_s": {
            **{f"{size} px": steps_per_second(size) for size in IMAGE_SIZES},
            "without rendering": steps_per_second(16, with_pixels=False),
        },
        "versions": {
            "python": platform.python_version(),
            "gymnasium": gym.__version__,
            "numpy": np.__version__,
            "pygame": pygame.version.ver,
            "pymunk": pymunk.version,
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

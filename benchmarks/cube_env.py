"""The cube's frames a second on one core; prints JSON: python benchmarks/cube_env.py.

A rate is by CPU time of this process, in the fastest of a few rounds, which other work on the machine disturbs least.
`stock` is measured in the same run: on a busy machine, the ratio is more reliable than the rates.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from lwm_agent.envs.cube import CubeEnv
from lwm_agent.envs.opengl import choose_backend

FRAMES, STOCK_FRAMES, STEPS, ROUNDS, IMAGE_SIZES = 40, 4, 100, 3, (64, 224)
KINDS: dict[str, dict[str, Any]] = {
    "stock": {"fidelity": "stock"},
    "lite": {},
    "lite without shadows": {"shadows": False},
}


def rate(work: Callable[[], object], times: int) -> float:
    """Calls of `work` a second."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times):
            work()
        fastest = min(fastest, time.process_time() - started)
    return round(times / fastest, 1)


def frames_per_second(image_size: int, settings: dict[str, Any]) -> float:
    """Rate of pictures, without the physics."""
    env = CubeEnv(image_size=image_size, **settings)
    _, info = env.reset(seed=0)
    return rate(lambda: env.picture(info["state"]), STOCK_FRAMES if settings.get("fidelity") == "stock" else FRAMES)


def steps_per_second(**settings: Any) -> float:
    """Rate of `env.step` under random actions."""
    env = CubeEnv(terminate_on_success=False, **settings)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    return rate(lambda: env.step(rng.uniform(-1, 1, 5).astype(np.float32)), STEPS)


def main() -> None:
    """Measures and prints."""
    result = {
        "frames_per_s": {
            f"{size} px": {name: frames_per_second(size, settings) for name, settings in KINDS.items()}
            for size in IMAGE_SIZES
        },
        "steps_per_s": {"lite, 64 px": steps_per_second(), "without pictures": steps_per_second(fidelity="blank")},
        "drawn_with": choose_backend(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("gymnasium", "mujoco", "numpy", "ogbench")},
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

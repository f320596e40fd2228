"""Published scores of probes, to stand beside one's own."""

from __future__ import annotations

from collections.abc import Mapping

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "lwm/PushT-v0": {
        "agent": {"LeWM": (0.974, 0.998), "PLDM": (0.955, 0.993), "DINO-WM": (0.977, 0.999)},
        "block": {"LeWM": (0.986, 0.999), "PLDM": (0.938, 0.994), "DINO-WM": (0.997, 0.999)},
        "angle": {"LeWM": (0.902, 0.990), "PLDM": (0.745, 0.972), "DINO-WM": (0.979, 0.995)},
    },
    "lwm/Cube-v0": {
        "cube": {"LeWM": (0.997, 0.999), "PLDM": (0.985, 0.999), "DINO-WM": (0.991, 0.998)},
        "cube yaw": {"LeWM": (0.062, 0.164), "PLDM": (0.061, 0.106), "DINO-WM": (0.176, 0.304)},
        "effector": {"LeWM": (0.991, 0.998), "PLDM": (0.974, 0.993), "DINO-WM": (0.996, 0.999)},
        "effector yaw": {"LeWM": (0.124, 0.213), "PLDM": (0.056, 0.117), "DINO-WM": (0.828, 0.917)},
        "gripper": {"LeWM": (0.938, 0.976), "PLDM": (0.876, 0.967), "DINO-WM": (0.943, 0.982)},
        "joints": {"LeWM": (0.706, 0.742), "PLDM": (0.695, 0.728), "DINO-WM": (0.808, 0.870)},
        "joint speeds": {"LeWM": (0.095, 0.386), "PLDM": (0.115, 0.536), "DINO-WM": (0.763, 0.852)},
    },
}
"""Pearson's r of a linear probe and of an MLP, by environment, quantity and model (arXiv 2603.19312, tables 1, 4)."""

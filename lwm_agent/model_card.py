"""The README.md of a checkpoint."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

from .checkpoint import Checkpoint
from .protocols import DEFAULT_COST

_TEMPLATE = """---
library_name: lwm-agent
tags: [world-model, jepa, planning, {env}]
license: mit
---
# {title}

A {name} world model for `{env}` with a predictor of kind `{predictor}`, trained from pixels and actions alone.
{parameters:.2f} M parameters.

```python
from lwm_agent import Agent

agent = Agent.load("path/to/this/folder")
action, state = agent.predict(observation)
```

| | |
|---|---|
| data | {data}, {frames:,} frames |
| steps | {steps:,} of {batch_size} clips x {clip_length} frames, seed {seed}, {precision}{changes} |
| time | {minutes:.0f} minutes |
| hardware | {hardware} |

Command: `{command}`

Validation (held-out episodes):

{validation}
"""

_PREDICTOR = """
## Predictor

With the encoder frozen: {steps:,} steps of {batch_size} clips x {clip_length} frames, {minutes:.0f}
minutes{changes}.

Command: `{command}`

{validation}
"""

_HEADS = """
## Heads

An actor and a temporal distance on the frozen latents: {steps:,} steps of {batch_size} pairs of frames, {minutes:.0f}
minutes{changes}.

Command: `{command}`

{validation}
"""


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown that says what the checkpoint is, where it comes from and what it reached on validation data."""
    training = checkpoint.training
    overrides = _options("model", training["model"])
    card = _TEMPLATE.format(
        title=f"{checkpoint.name} / {training['preset']} / {checkpoint.env}",
        env=checkpoint.env,
        name=checkpoint.name,
        predictor=checkpoint.model_config.get("predictor", "transformer"),
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()) / 1e6,
        minutes=training["seconds"] / 60,
        hardware=training.get("hardware", "not recorded"),
        command=f"lwm-agent train --env {checkpoint.env} --preset {training['preset']} {_data(training)} "
        f"--steps {training['steps']} --seed {training['seed']}{overrides}{_train_options(training)}",
        data=", ".join(f"`{path}`" for path in _files(training)),
        changes=_changes(training),
        validation=_table(training["validation"]),
        **{key: training[key] for key in ("frames", "steps", "batch_size", "clip_length", "seed", "precision")},
    )
    if "predictor" in training:
        card += _stage(_PREDICTOR, "predictor", training["predictor"])
    if checkpoint.heads is not None:
        card += _stage(_HEADS, "heads", training["heads"])
    if checkpoint.cost != DEFAULT_COST:
        card += f"\n## Planning\n\nAgents minimise `{checkpoint.cost}` unless told otherwise.\n"
    return card


def hardware(device: torch.device) -> str:
    """What this process and `device` compute on, for the record of a training."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"


def _stage(template: str, part: str, training: Mapping[str, Any]) -> str:
    """How a part was trained, and before that, how what it was trained on from."""
    before = _stage(template, part, training["before"]) if "before" in training else ""
    return before + template.format(
        minutes=training["seconds"] / 60,
        changes=_changes(training),
        command=f"lwm-agent train-{part} --checkpoint {training['checkpoint']} {_data(training)} "
        f"--steps {training['steps']} --seed {training['seed']}{_settings(part, training)}",
        validation=_table(training["validation"]),
        **{key: training[key] for key in ("steps", "batch_size", "clip_length") if key in training},
    )


def _data(training: Mapping[str, Any]) -> str:
    return " ".join(f"--data {file}" for file in _files(training))


def _files(training: Mapping[str, Any]) -> list[str]:
    """What was trained on; earlier versions knew one file."""
    return [training["data"]] if isinstance(training["data"], str) else training["data"]


def _train_options(training: Mapping[str, Any]) -> str:
    """Options for what was set of the training; earlier versions did not say, and computed in bf16-mixed."""
    if "set" not in training:
        return ""
    return f" --precision {training['precision']}{_options('train', training['set'])}"


def _settings(part: str, training: Mapping[str, Any]) -> str:
    """Options for what was set of a part's training; earlier versions did not say."""
    return _options(part, training.get("set", {})) + _options("model", training.get("model", {}))


def _options(group: str, settings: Mapping[str, Any]) -> str:
    """`settings` as the command line reads them: JSON, but for words."""
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return "".join(f" --set {group}.{name}={word}" for name, word in words.items())


def _changes(training: Mapping[str, Any]) -> str:
    """What resuming changed; nothing is known of it where a part was trained by an earlier version."""
    return "".join(f"; resumed: {change}" for change in training.get("changes", ()))


def _table(metrics: Mapping[str, float]) -> str:
    rows = (f"| {name} | {value:.4g} |" for name, value in metrics.items())
    return "\n".join(("| metric | value |", "|---|---|", *rows))

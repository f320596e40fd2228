"""The README.md of a checkpoint."""

from __future__ import annotations

import os
import platform

import torch

from .checkpoint import Checkpoint

_TEMPLATE = """---
library_name: lwm-agent
tags: [world-model, jepa, planning, {env}]
license: mit
---
# {title}

A {name} world model for `{env}`, trained from pixels and actions alone. {parameters:.2f} M parameters.

```python
from lwm_agent import Agent

agent = Agent.load("path/to/this/folder")
action, state = agent.predict(observation)
```

| | |
|---|---|
| data | `{data}`, {frames:,} frames |
| steps | {steps:,} of {batch_size} clips x {clip_length} frames, seed {seed}, {precision} |
| time | {minutes:.0f} minutes |
| hardware | {hardware} |

Command: `{command}`

Validation (held-out episodes):

| metric | value |
|---|---|
{validation}
"""


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown that says what the checkpoint is, where it comes from and what it reached on validation data."""
    training = checkpoint.training
    overrides = "".join(f" --set model.{key}={value}" for key, value in training["model"].items())
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in training["validation"].items())
    return _TEMPLATE.format(
        title=f"{checkpoint.name} / {training['preset']} / {checkpoint.env}",
        env=checkpoint.env,
        name=checkpoint.name,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()) / 1e6,
        minutes=training["seconds"] / 60,
        hardware=f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}",
        command=f"lwm-agent train --env {checkpoint.env} --preset {training['preset']} --data {training['data']} "
        f"--steps {training['steps']} --seed {training['seed']}{overrides}",
        validation=rows,
        **{key: training[key] for key in ("data", "frames", "steps", "batch_size", "clip_length", "seed", "precision")},
    )

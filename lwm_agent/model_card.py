"""The README.md of a checkpoint.

Names and paths come from users: they are escaped, so that no value can change the Markdown around it. An entry that is
missing or of an unexpected type is shown as it is, never an error.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .checkpoint import Checkpoint
from .protocols import DEFAULT_COST, PARTS

_SAFE = re.compile(r"[^`|<>&\x00-\x1f\x7f\u2028\u2029]+")
"""Text that a code span of Markdown shows as it is, also in a table."""

_PLAIN = re.compile(r"[\w .,:/()+-]")
"""Characters that mean nothing in Markdown, HTML and YAML."""

_TEMPLATE = """---
library_name: lwm-agent
tags: [world-model, planning, {tag}]
license: mit
---
# {title}

{description} for {env}, trained from pixels and actions alone.
{parameters:.2f} M parameters.

```python
from lwm_agent import Agent

agent = Agent.load("path/to/this/folder")
action, state = agent.predict(observation)
```

| | |
|---|---|
| model | {settings} |
| data | {data}, {frames} frames |
| steps | {steps} of {batch_size} clips x {clip_length} frames, seed {seed}, {precision}{changes} |
| time | {minutes} minutes |
| hardware | {hardware} |

Command: {command}

Validation (held-out episodes):

{validation}
"""

_BEFORE = """
## Before

It began with the checkpoint of an earlier training:
{steps} steps of {batch_size} clips x {clip_length} frames, {minutes} minutes{changes}.
"""

_STAGES = {
    "predictor": (
        "Predictor",
        "With the encoder frozen: {steps} steps of {batch_size} clips x {clip_length} frames, {minutes} minutes"
        "{changes}.",
    ),
    "encoder": (
        "Encoder",
        "Its encoder has learned to give the same latents under shifts: {steps} steps of {batch_size} frames, and as "
        "many with shifts, {minutes} minutes{changes}. Errors are over the variance of latents.",
    ),
    "decoder": (
        "Decoder",
        "Pictures of the frozen latents, to look at: {steps} steps of {batch_size} frames, {minutes} minutes{changes}.",
    ),
    "heads": (
        "Heads",
        "On the frozen latents, {heads}: {steps} steps of {batch_size} pairs of frames, {minutes} minutes{changes}.",
    ),
}
"""Heading and summary of each part that is trained after the world model."""


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown that says what the checkpoint is, where it comes from and what it reached on validation data."""
    training = checkpoint.training
    preset = training.get("preset", "tiny")
    card = _TEMPLATE.format(
        tag=_tag(checkpoint.env),
        title=" / ".join(_text(part) for part in (checkpoint.name, preset, checkpoint.env)),
        env=_code(checkpoint.env),
        description=" ".join(checkpoint.model.describe().split()),
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()) / 1e6,
        settings=", ".join(_code(f"{key}={value}") for key, value in checkpoint.model_config.items()) or "defaults",
        data=", ".join(_code(path) for path in _files(training)) or "not recorded",
        hardware=_text(training.get("hardware", "not recorded")),
        precision=_text(training.get("precision", "precision not recorded")),
        command=_train_command(checkpoint, training),
        validation=_table(training.get("validation")),
        **_numbers(training),
    )
    card += _released(training.get("released")) + _before(checkpoint, training.get("before"))
    for part in PARTS:
        if part in training and (part != "heads" or checkpoint.heads is not None):
            card += _stage(part, training[part])
    if checkpoint.decoder is not None:
        card += _stage("decoder", checkpoint.decoder.record)
    return card + _planning(checkpoint)


def _train_command(checkpoint: Checkpoint, training: Mapping[str, Any]) -> str:
    options = {
        "env": checkpoint.env,
        "model": checkpoint.name,
        "preset": training.get("preset", "tiny"),
        **_data(training),
        **_named(training, "init", "steps", "seed"),
    }
    if "set" in training:  # earlier versions recorded no changed settings, and computed in bf16-mixed
        options |= _named(training, "precision")
    settings = _settings("train", training.get("set")) + _settings("model", training.get("model_settings"))
    return _command("train", options, settings)


def _before(checkpoint: Checkpoint, training: Any) -> str:
    """Section about the training whose checkpoint this one began with, after those before it."""
    if not isinstance(training, Mapping):
        return ""
    summary = _BEFORE.format(**_numbers(training))
    return f"{_before(checkpoint, training.get('before'))}{summary}\nCommand: {_train_command(checkpoint, training)}\n"


def _released(origin: Any) -> str:
    """Section about weights that others have trained and released."""
    if not isinstance(origin, Mapping):
        return ""
    names = {"source": "Source", "revision": "revision", "sha256": "SHA-256 of the weights"}
    words = ", ".join(f"{word} {_code(origin.get(name))}" for name, word in names.items() if origin.get(name))
    return f"\n## Released weights\n\nTrained and released by others. {words}.\n"


def _planning(checkpoint: Checkpoint) -> str:
    """Section about the planning cost, where it was chosen or differs from the usual one."""
    chosen = checkpoint.training.get("recommendation")
    steps = checkpoint.replan_every_env_steps
    if checkpoint.cost == DEFAULT_COST and chosen is None and steps is None:
        return ""
    often = "" if steps is None else f" They plan again every {steps} environment step{'s' if steps > 1 else ''}."
    section = f"\n## Planning\n\nThe default planning cost of agents is {_code(checkpoint.cost)}.{often}\n"
    if not isinstance(chosen, Mapping):
        return section
    how = ", ".join(_text(chosen.get(name, "not recorded")) for name in ("planner", "tasks"))
    episodes = _number(chosen.get("episodes"), ".0f")
    return f"{section}\nShare of {episodes} tasks that each cost solves ({how}):\n\n{_table(chosen.get('tried'))}\n"


def hardware(device: torch.device) -> str:
    """CPU, GPU and version of torch that this process computes with, for the record of a training."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores ({platform.machine()})"
    return f"{gpu}{cores}, torch {torch.__version__}"


def _stage(part: str, training: Any) -> str:
    """Section about the training of a part, after that of the training that it continued."""
    if not isinstance(training, Mapping):
        return ""
    earlier = _stage(part, training["before"]) if "before" in training else ""
    heading, summary = _STAGES[part]
    options = _named(training, "checkpoint") | _data(training) | _named(training, "shift", "steps", "seed")
    settings = _settings(part, training.get("set")) + _settings("model", training.get("model_settings"))
    return (
        f"{earlier}\n## {heading}\n\n{summary.format(**_numbers(training))}\n\n"
        f"Command: {_command(f'train-{part}', options, settings)}\n\n{_table(training.get('validation'))}\n"
    )


def _numbers(training: Mapping[str, Any]) -> dict[str, str]:
    """Numbers and changes of a training, as text."""
    seconds = training.get("seconds")
    minutes = seconds / 60 if isinstance(seconds, int | float) and abs(seconds) < 1e15 else seconds
    changes = training.get("changes")
    has_contrast = training.get("contrast_steps", 0) != 0
    return {
        "frames": _number(training.get("frames"), ",.0f"),
        "steps": _number(training.get("steps"), ",.0f"),
        "batch_size": _number(training.get("batch_size"), ".0f"),
        "clip_length": _number(training.get("clip_length"), ".0f"),
        "seed": _number(training.get("seed"), ".0f"),
        "minutes": _number(minutes, ".0f"),
        "heads": "an actor, a temporal distance and a contrast" if has_contrast else "an actor and a temporal distance",
        "changes": "".join(f"; resumed: {_text(text)}" for text in changes) if isinstance(changes, list) else "",
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any, form: str) -> str:
    """A number as text; an integer too large for a float, and anything else, as it is."""
    if value is None:
        return "?"
    if not _is_number(value):
        return _text(value)
    try:
        return format(value, form)
    except (OverflowError, ValueError):
        return _text(value)


def _data(training: Mapping[str, Any]) -> dict[str, list[str]]:
    return {"data": _files(training)}


def _files(training: Mapping[str, Any]) -> list[str]:
    """Paths of the data; earlier versions knew one file."""
    data = training.get("data", [])
    return [str(path) for path in data] if isinstance(data, list | tuple) else [str(data)]


def _named(training: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: training[name] for name in names if training.get(name) is not None}


def _command(command: str, options: Mapping[str, Any], settings: Iterable[str]) -> str:
    """A command line in a code span, quoted for a shell."""
    words = [f"lwm-agent {command}"]
    for name, value in options.items():
        parts = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name} {shlex.quote(str(part))}" for part in parts]
    return _code(" ".join((*words, *(f"--set {shlex.quote(setting)}" for setting in settings))))


def _settings(group: str, settings: Any) -> list[str]:
    """`settings` as the command line reads them: JSON, but for words."""
    if not isinstance(settings, Mapping):
        return []
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return [f"{group}.{name}={word}" for name, word in words.items()]


def _table(metrics: Any) -> str:
    if not isinstance(metrics, Mapping):
        return "Not recorded."
    rows = (f"| {_text(name)} | {_number(value, '.4g')} |" for name, value in metrics.items())
    return "\n".join(("| metric | value |", "|---|---|", *rows))


def _code(value: Any) -> str:
    """`value` as code; as HTML where a code span could not hold it."""
    text = str(value)
    return f"`{text}`" if _SAFE.fullmatch(text) else f"<code>{_escaped(text)}</code>"


def _text(value: Any) -> str:
    """`value` as text without markup; underscores inside a word are none."""
    return _escaped(str(value))


def _escaped(text: str) -> str:
    return "".join(character if _PLAIN.match(character) else f"&#{ord(character)};" for character in text)


def _tag(env: str) -> str:
    """`env` as an item of a YAML list, other characters than those of a Gymnasium id left out."""
    return re.sub(r"[^\w./]+", "-", env).strip("-.") or "environment"

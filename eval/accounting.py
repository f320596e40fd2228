"""Costs of a model beside its plans: size, tokens, encoding, one rollout, and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..protocols import PARTS
from .json_file import checked_number, checked_object


@dataclass(frozen=True, kw_only=True)
class ModelAccount:
    """Costs of a model that follow from its checkpoint.

    Attributes:
        parameters: of the model and its heads, frozen parts included.
        tokens: vectors that stand for one frame.
        encode_flops: floating-point operations of encoding one frame.
        rollout_flops: of one candidate over the horizon; None for a model that cannot imagine.
        training_seconds: wall time of training, of its heads and of a predictor trained alone; None if unknown.
        costs_tried: planning costs that were tried on validation tasks; None if the checkpoint does not say.
    """

    parameters: int
    tokens: int
    encode_flops: float
    rollout_flops: float | None = None
    training_seconds: float | None = None
    costs_tried: int | None = None


def training_seconds(training: Mapping[str, Any]) -> float | None:
    """Wall time of all stages in the record of a training, None if no stage has any.

    A training, or a stage, that began with an earlier one counts that one too.
    """
    seconds, rest = [], [training]
    while rest:
        stage = rest.pop()
        if isinstance(stage.get("seconds"), int | float):
            seconds.append(stage["seconds"])
        rest += [stage[name] for name in ("before", *PARTS) if isinstance(stage.get(name), dict)]
    return float(sum(seconds)) if seconds else None


def parse_account(value: Any, name: str) -> ModelAccount:
    """The account of a JSON value.

    Raises:
        ValueError: it has other keys, or a value is none of its kind.
    """
    row = checked_object(value, name)
    expected = [item.name for item in fields(ModelAccount)]
    if sorted(row) != sorted(expected):
        raise ValueError(f"{name} has the keys {', '.join(row)}, expected {', '.join(expected)}")
    for key in ("parameters", "tokens", "encode_flops"):
        checked_number(row[key], f"{name}.{key}")
    for key in ("rollout_flops", "training_seconds", "costs_tried"):
        if row[key] is not None:
            checked_number(row[key], f"{name}.{key}")
    return ModelAccount(**row)

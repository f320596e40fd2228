"""Networks made ready for planning: on a device, in a precision, compiled."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..checkpoint import Checkpoint
from ..compute.device import arrange_weights, compile_methods, fast_bf16
from ..compute.int8 import to_int8
from ..errors import UserError
from ..models import WorldModel


def choose_bf16(device: torch.device, bf16: bool | None, int8: bool) -> bool:
    """Decides for or against bfloat16: by `bf16`, or by which is faster if that is None.

    Raises:
        UserError: together with `int8`, or `int8` on another device than a CPU.
    """
    chosen = fast_bf16(device) and not int8 if bf16 is None else bf16
    if int8 and (chosen or device.type != "cpu"):
        raise UserError(f"int8=True is for CPUs, without bf16: device={device.type!r}, bf16={chosen}")
    return chosen


def ready_networks(checkpoint: Checkpoint, device: torch.device, bf16: bool, int8: bool, compiled: bool) -> Checkpoint:
    """`checkpoint` with copies of its networks on `device`, ready for planning."""
    model = arrange_weights(checkpoint.model, device, bf16)
    heads = None if checkpoint.heads is None else arrange_weights(checkpoint.heads, device, bf16)
    if int8:
        parts = model.planning_parts() if isinstance(model, WorldModel) else []
        to_int8(*parts, *([] if heads is None else [heads]))
    if compiled and isinstance(model, WorldModel):
        compile_methods(device, (model, "rollout"), (model, "imagine"))
    if compiled and heads is not None:
        compile_methods(device, (heads, "deviations"), (heads, "act"))
        if heads.contrast is not None:
            compile_methods(device, (heads, "contrasts"))
    return replace(checkpoint, model=model, heads=heads)

"""Linear maps in 8-bit integers, which a CPU with VNNI multiplies several times as fast as floats."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.layers import JointLinear

LEAST_INPUTS = 64
"""Rounding the inputs of a smaller map takes about as long as multiplying them."""

_LARGEST = 127


class Int8Linear(JointLinear):
    """A frozen `linear` map, in 8-bit integers unless gradients are asked for.

    Every output has a scale of its own, and so has every row that comes in: what becomes of it does not depend on the
    rest of its batch. The integers are made once, from the weights that `linear` has then.
    """

    scale: Tensor  # (out_features,)
    integers: Tensor  # (in_features, out_features)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        scale, integers = _round(linear.weight.detach())
        self.register_buffer("scale", scale[:, 0], persistent=False)
        self.register_buffer("integers", integers.t().contiguous(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return self.part(rows, slice(None))

    def part(self, rows: Tensor, outputs: slice) -> Tensor:
        """The `outputs` of the map for `rows` ``(..., in_features)``, in 8-bit integers where no gradient is needed."""
        if rows.requires_grad and torch.is_grad_enabled():
            return super().part(rows, outputs)
        scale, integers = _round(rows.reshape(-1, self.in_features).float())
        # In place: the products of many rows do not fit into a cache.
        result = torch._int_mm(integers, self.integers[:, outputs]).float().mul_(scale).mul_(self.scale[outputs])
        if self.bias is not None:
            result += self.bias[outputs]
        return result.reshape(*rows.shape[:-1], result.shape[1])


def to_int8(*networks: nn.Module | None) -> None:
    """Puts an `Int8Linear` in the place of each linear map that is large enough in the `networks` that there are.

    Raises:
        ValueError: this CPU does not multiply 8-bit integers exactly.
    """
    if not exact_products():
        raise UserError("int8=True needs a CPU with VNNI: this one rounds sums of 8-bit products; leave it out")
    for parent in [part for network in networks if network is not None for part in network.modules()]:
        for name, part in parent.named_children():
            if isinstance(part, nn.Linear) and part.in_features >= LEAST_INPUTS:
                setattr(parent, name, Int8Linear(part))


@cache
def exact_products() -> bool:
    """True if sums of 8-bit products are exact; on x86 without VNNI, they saturate at 16 bits."""
    largest = torch.full((LEAST_INPUTS, LEAST_INPUTS), _LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest) == LEAST_INPUTS * _LARGEST**2).all())


def _round(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Scales ``(N, 1)`` and 8-bit integers ``(N, n)`` whose product is about `rows` ``(N, n)``."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / _LARGEST
    return scale, (rows / scale).round_().to(torch.int8)

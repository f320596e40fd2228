"""How many imagined futures memory has room for."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .checkpoint import Checkpoint
from .device import ENOUGH_ROLLOUTS, free_memory
from .imagination import Imagination
from .planners.costs import WeightedSum
from .protocols import Belief


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside it, on any device.

    Attributes:
        now: of those that are alive.
        peak: the most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.now -= size


def rollouts_at_once(checkpoint: Checkpoint, cost: WeightedSum, horizon: int, device: torch.device) -> int:
    """Rollouts of `horizon` blocks that `device` can imagine at once, in float32 and with gradients.

    As many as half of its free memory holds, in powers of two and at most `ENOUGH_ROLLOUTS`, so that chunks are the
    same from run to run as long as memory is not scarce.
    """
    most = ENOUGH_ROLLOUTS[device.type]
    free = free_memory(device)
    room = most if free is None else int(free / 2 / bytes_per_rollout(checkpoint, cost, horizon))
    return 1 << (min(max(room, 1), most).bit_length() - 1)


def bytes_per_rollout(checkpoint: Checkpoint, cost: WeightedSum, horizon: int) -> int:
    """Bytes that one more rollout of `horizon` blocks takes, with its `cost` and its gradient, in float32.

    Measured, on the networks of `checkpoint` where they are: models need not tell.
    """
    return _peak(checkpoint, cost, horizon, rollouts=2) - _peak(checkpoint, cost, horizon, rollouts=1)


def _peak(checkpoint: Checkpoint, cost: WeightedSum, horizon: int, rollouts: int) -> int:
    """Bytes alive at once, at most, while so many `rollouts` are imagined from a full memory, and differentiated."""
    model: Any = checkpoint.model
    block = model.frameskip * model.action_size
    device = next(model.parameters()).device
    with torch.no_grad():
        frame = model.encode(torch.zeros(1, 3, model.image_size, model.image_size, device=device)).latents
    past = torch.zeros(1, model.history - 1, block, device=device)
    belief = Belief(frame.repeat_interleave(model.history, dim=1), past)
    deadline = torch.full((1,), torch.inf, device=device)
    actions = torch.zeros(1, rollouts, horizon, block, device=device, requires_grad=True)
    imagination = Imagination(model, belief, belief.latent, cost, False, rollouts, checkpoint.heads, deadline)
    with torch.enable_grad(), LiveBytes() as live:
        torch.autograd.grad(imagination.objective(actions).sum(), actions)
    return live.peak

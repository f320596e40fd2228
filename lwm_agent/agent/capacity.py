"""Rollouts that memory has room for."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..checkpoint import Checkpoint
from ..compute.device import ENOUGH_ROLLOUTS, free_memory
from ..planners.costs import WeightedSum
from .objective import ModelObjective


def max_parallel_rollouts(checkpoint: Checkpoint, cost: WeightedSum, horizon: int, device: torch.device) -> int:
    """Rollouts of `horizon` blocks that `device` can imagine at once, in float32 and with gradients.

    As many as half of its free memory holds, in powers of two, so that a little more or less of it changes no chunk; at
    most `ENOUGH_ROLLOUTS`.
    """
    most = ENOUGH_ROLLOUTS[device.type]
    room = free_memory(device) // (2 * bytes_per_rollout(checkpoint, cost, horizon))
    return 1 << (min(max(room, 1), most).bit_length() - 1)


@torch.inference_mode(False)
@torch.enable_grad()
def bytes_per_rollout(checkpoint: Checkpoint, cost: WeightedSum, horizon: int) -> int:
    """Bytes that one more rollout of `horizon` blocks takes at most, with its `cost` and its gradient, in float32.

    Measured on the networks of `checkpoint`, on the device where they are: models need not declare it. Without a
    gradient it is less. Nothing is known of a model that has no gradient.
    """
    model = copy.deepcopy(checkpoint.world_model)  # of tensors that gradients may pass, whatever mode made its own
    actor = copy.deepcopy(checkpoint.goal_actor)
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        belief = model.begin(torch.zeros(1, 3, model.image_size, model.image_size, dtype=torch.float32, device=device))
    deadline = torch.full((1,), torch.inf, dtype=torch.float32, device=device)
    kept = []
    for rollouts in (1, 2):
        objective = ModelObjective(model, belief, belief.latent, cost, False, rollouts, actor, deadline)
        actions = torch.zeros(
            1, rollouts, horizon, model.block_size, dtype=torch.float32, device=device, requires_grad=True
        )
        kept.append(_bytes_for_backward(objective, actions))
    # Beside what is kept for the backward pass, nearly as much comes and goes.
    return 2 * max(1, kept[1] - kept[0])


def _bytes_for_backward(objective: ModelObjective, actions: Tensor) -> int:
    """Bytes of the tensors that are kept for the gradient of `actions`."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        objective.rate(objective.imagine(slice(None), actions), actions)
    return sum(sizes.values())

"""Planning costs: numbers ``(B, S)``, one a candidate, of how bad its imagined future is, and weighted sums of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lwm_agent.errors import UserError


@dataclass(frozen=True)
class Futures:
    """S imagined futures for each of B episodes, of which costs are computed.

    Attributes:
        distances: distance to the goal after each action block, ``(B, S, T)``; ``(B, S, 1)``, after the last one only,
            will do for a cost that is `terminal_only`.
        actions: the blocks, ``(B, S, T, F*A)``.
        compute_log_steps: computes the logarithm of the model steps that are left after each block, ``(B, S, T)``; None
            if the world model has no learned temporal distance.
        compute_deviations: computes the distance of each block from what the actor would do there, ``(B, S, T)``; None
            if the world model has no actor.
        valid: whether a block belongs to its episode's plan, ``(B, T)``, as in `Problem`: costs do not depend on the
            others. None if all do.
        compute_contrasts: computes the certainty that each latent is another place than the goal, ``(B, S, T)``; None
            if the world model has no actor.
    """

    distances: Tensor
    actions: Tensor
    compute_log_steps: Callable[[], Tensor] | None = None
    compute_deviations: Callable[[], Tensor] | None = None
    valid: Tensor | None = None
    compute_contrasts: Callable[[], Tensor] | None = None

    def last(self, values: Tensor) -> Tensor:
        """`values` ``(B, S, T)`` after the last block of each plan, ``(B, S)``; of one block, those after it."""
        if self.valid is None or values.shape[2] == 1:
            return values[..., -1]
        return values.take_along_dim(last_block(self.valid), dim=2).squeeze(2)

    def smallest(self, values: Tensor) -> Tensor:
        """Smallest of `values` ``(B, S, T)`` over the blocks of each plan, ``(B, S)``."""
        if self.valid is not None:
            values = values.masked_fill(~self.valid[:, None], torch.inf)
        return values.amin(dim=-1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` ``(B, S, T)`` over the blocks of each plan, ``(B, S)``."""
        if self.valid is None:
            return values.mean(dim=-1)
        valid = self.valid[:, None]
        return torch.where(valid, values, 0).sum(dim=-1) / valid.sum(dim=-1)


def last_block(valid: Tensor) -> Tensor:
    """Index ``(B, 1, 1)`` of the last block of each plan, of those that are `valid` ``(B, T)``."""
    return valid.sum(dim=1)[:, None, None] - 1


Cost = Callable[[Futures], Tensor]
"""Costs ``(B, S)`` of futures."""


def terminal(futures: Futures) -> Tensor:
    """Distance after the last block: be at the goal when the horizon ends."""
    return futures.last(futures.distances)


def best_step(futures: Futures) -> Tensor:
    """Smallest distance of the rollout: reach the goal at any time, as far as a goal may be reached early."""
    return futures.smallest(futures.distances)


def running(futures: Futures) -> Tensor:
    """Mean distance of the rollout: get to the goal early and stay."""
    return futures.mean(futures.distances)


def control_penalty(futures: Futures) -> Tensor:
    """Mean squared normalised action, whatever the horizon: stay near the mean action of the training data."""
    squares = futures.actions.square()
    return squares.mean(dim=(-2, -1)) if futures.valid is None else futures.mean(squares.mean(dim=-1))


def temporal_distance(futures: Futures) -> Tensor:
    """Smallest logarithm of the steps that are left: get to where the goal can be reached from (arXiv 2608.12959)."""
    if futures.compute_log_steps is None:
        raise UserError("the cost 'temporal-distance' needs a learned one: train it with `lwm-agent train-heads`")
    return futures.smallest(futures.compute_log_steps())


def contrast(futures: Futures) -> Tensor:
    """Smallest certainty of being elsewhere: get away from what only looks like the goal (`models.heads.Contrast`)."""
    if futures.compute_contrasts is None:
        raise UserError("the cost 'contrast' needs learned heads: train them with `lwm-agent train-heads`")
    return futures.smallest(futures.compute_contrasts())


def actor_deviation(futures: Futures) -> Tensor:
    """Mean squared distance of the actions from the actor's, in its standard deviations: do as the data did.

    A search finds what a world model gets wrong, and it is wrong where its data never were. This keeps it where they
    were, as a behaviour prior does in offline planning (MBOP, arXiv 2008.05556).
    """
    if futures.compute_deviations is None:
        raise UserError("the cost 'actor-deviation' needs an actor: train one with `lwm-agent train-heads`")
    return futures.mean(futures.compute_deviations())


COSTS: dict[str, Cost] = {
    "terminal": terminal,
    "best-step": best_step,
    "running": running,
    "control-penalty": control_penalty,
    "temporal-distance": temporal_distance,
    "contrast": contrast,
    "actor-deviation": actor_deviation,
}


@dataclass(frozen=True)
class WeightedSum:
    """A cost that adds up others, each with its weight."""

    terms: tuple[tuple[float, Cost], ...]

    def __call__(self, futures: Futures) -> Tensor:
        """Costs ``(B, S)`` of `futures`."""
        return torch.stack([weight * cost(futures) for weight, cost in self.terms]).sum(dim=0)

    @property
    def terminal_only(self) -> bool:
        """True if it looks at the end of a rollout and at nothing else."""
        return all(cost is terminal for _, cost in self.terms)

    @property
    def asks_for_steps(self) -> bool:
        """True if it needs a learned temporal distance."""
        return any(cost is temporal_distance for _, cost in self.terms)

    @property
    def asks_for_contrast(self) -> bool:
        """True if it needs a learned contrast."""
        return any(cost is contrast for _, cost in self.terms)

    @property
    def asks_for_actor(self) -> bool:
        """True if it needs a learned actor."""
        return any(cost is actor_deviation for _, cost in self.terms)

    @property
    def asks_for_heads(self) -> bool:
        """True if it needs anything that is learned beside the world model."""
        return self.asks_for_steps or self.asks_for_contrast or self.asks_for_actor


def make_cost(text: str) -> WeightedSum:
    """The planning cost that `text` describes: a name, or a weighted sum such as ``best-step+0.01*control-penalty``.

    Raises:
        ValueError: unknown name, or a weight that is not a positive number.
    """
    return WeightedSum(tuple(_parse_term(term) for term in text.split("+")))


def _parse_term(term: str) -> tuple[float, Cost]:
    weight, _, name = term.rpartition("*")
    if name not in COSTS:
        raise UserError(
            f"unknown planning cost {name!r}, choose one of {sorted(COSTS)}, or a sum such as terminal+0.1*running"
        )
    try:
        factor = float(weight or 1)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise UserError(f"the weight of {name!r} must be a positive number, got {weight!r}")
    return factor, COSTS[name]

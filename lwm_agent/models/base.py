"""The contracts of models and of world models: the methods that the rest of the package calls, and none beside them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..protocols import Batch, Belief, GoalActor, GoalPolicy

B = TypeVar("B", bound=Belief)


@runtime_checkable
class Painter(Protocol):
    """A model that paints its latents itself."""

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised frames ``(N, C, h, w)`` of `latents` ``(N, *Z)``."""
        ...


class LatentModel(nn.Module, ABC):
    """A network that sees frames and keeps beliefs; it knows no planner and no environment.

    A belief holds all that a model remembers of an episode. It is opaque: only the model that made it looks inside.
    Everything that leaves a model is float32, under autocast too. No row of a result depends on the other rows.

    Args:
        action_size: A.
        frameskip: F, environment steps in a model step.
        image_size: side of the square frames, px.
        latent_shape: *Z.

    Raises:
        UserError: a size below 1.
    """

    renamed_weights: ClassVar[Mapping[str, str]] = {}
    """Prefixes of weights' names in older checkpoints, and those of today."""

    external_parts: ClassVar[Sequence[str]] = ()
    """Names of frozen parts whose weights come from elsewhere: checkpoints leave them out."""

    loss_settings: ClassVar[Sequence[str]] = ()
    """Arguments of the constructor that say how a model learns, not what it is; a later training may change them."""

    needs_goals: bool = False
    """True if `loss` needs goals in its batches."""

    collapse_remedy: ClassVar[str | None] = None
    """Advice to a user whose latents collapse; None for models whose latents cannot."""

    def __init__(self, *, action_size: int, frameskip: int, image_size: int, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, value in {"action_size": action_size, "frameskip": frameskip, "image_size": image_size}.items():
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        if not latent_shape or min(latent_shape) < 1:
            raise UserError(f"latents of shape {latent_shape} hold nothing: every size must be at least 1")
        self.action_size, self.frameskip, self.image_size = action_size, frameskip, image_size
        self.latent_shape = latent_shape

    def encoder_parts(self) -> Sequence[nn.Module]:
        """Networks that make latents of frames and can be trained by themselves; by default there are none."""
        return ()

    @property
    def block_size(self) -> int:
        """F*A, numbers in an action block."""
        return self.frameskip * self.action_size

    @property
    def tokens(self) -> int:
        """Vectors that stand for one frame."""
        return math.prod(self.latent_shape[:-1])

    @abstractmethod
    def begin(self, pixels: Tensor) -> Belief:
        """Belief of B episodes that begin with the frames `pixels` ``(B, C, h, w)``."""

    @abstractmethod
    def observe(self, belief: Belief, block: Tensor, pixels: Tensor) -> Belief:
        """Belief after the action block `block` ``(B, F*A)`` was executed and led to the frames `pixels`."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Latents ``(N, *Z)`` of single frames ``(N, C, h, w)``: of goals, and of data on which parts are trained."""
        return self.begin(pixels).latent

    def summary(self, latents: Tensor) -> Tensor:
        """One vector ``(..., D)`` for each of `latents` ``(..., *Z)``, for heads and probes; means over tokens."""
        return latents.flatten(-len(self.latent_shape), -2).mean(-2) if len(self.latent_shape) > 1 else latents

    @property
    def summary_size(self) -> int:
        """D."""
        return self.latent_shape[-1]

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Training losses of a batch; the one to minimise is called ``loss``.

        `generator`, on the CPU, draws what processes that train together must share.
        """

    @abstractmethod
    def encode_flops(self) -> float:
        """Floating-point operations of encoding one frame; a multiply-add is two."""

    @property
    def policy(self) -> GoalPolicy | None:
        """A policy on its latents that the model has learned itself, or None."""
        return None

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that training changes: all, but those of frozen parts."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def load_external_weights(self) -> None:
        """Loads the weights of `external_parts`, after the model was made; checks that they are the right ones."""
        return

    def external_sources(self) -> Mapping[str, str]:
        """Place where the weights of each of `external_parts` are published, for checkpoints and errors."""
        return {}

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of each colour, on the scale [0, 1], that frames must be normalised with.

        None for those of the training data.
        """
        return None

    def calibrate(self, pixels: Tensor) -> None:
        """A hook before training, with frames ``(N, C, h, w)`` of the training data."""
        return

    def after_step(self) -> None:
        """A hook after each optimisation step, such as for moving averages."""
        return

    def monitors(self, latents: Tensor) -> dict[str, float]:
        """Numbers of the model's own about validation latents ``(N, *Z)``, beside those that training logs anyway."""
        return {}

    def describe(self) -> str:
        """The model in a few words, for its card."""
        return type(self).__name__


class WorldModel(LatentModel):
    """A model that also imagines futures and measures distances."""

    prediction_loss: ClassVar[str] = "prediction"
    """Name of the loss whose value on validation data is the mean of `surprise`."""

    @abstractmethod
    def imagine(self, belief: Belief, block: Tensor) -> Belief:
        """Belief after the imagined action block `block` ``(B, F*A)``; differentiable in `block`."""

    def rollout(self, belief: Belief, actions: Tensor) -> Tensor:
        """Imagined latents ``(B, S, T, *Z)`` after each block of `actions` ``(B, S, T, F*A)``.

        Equal to `imagine` block by block, for S candidates of each episode, and differentiable in `actions`.
        """
        ahead = repeat(belief, actions.shape[1])
        latents = []
        for block in actions.flatten(0, 1).unbind(1):  # (B*S, F*A) each
            ahead = self.imagine(ahead, block)
            latents.append(ahead.latent)
        return torch.stack(latents, dim=1).unflatten(0, actions.shape[:2])

    @abstractmethod
    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Latents ``(N, *Z)`` one of `blocks` ``(N, F*A)`` after `latents` ``(N, *Z)``, with no memory before them.

        Differentiable in `blocks`. For planners that treat latents as variables beside actions.
        """

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Mean squared difference ``(B, S, T)`` of `latents` ``(B, S, T, *Z)`` to `goal` ``(B, *Z)``."""
        return (latents.float() - goal.float()[:, None, None]).square().flatten(3).mean(-1)

    def surprise(self, belief: Belief, block: Tensor, observed: Belief) -> Tensor:
        """Errors ``(B,)`` of what is predicted from `belief` and the executed `block` ``(B, F*A)``.

        `observed` is the belief that `observe` made of both and of the frames that came. By default, the mean squared
        error of the latent.
        """
        predicted = self.imagine(belief, block).latent
        return (predicted.float() - observed.latent.float()).square().flatten(1).mean(-1)

    @abstractmethod
    def rollout_flops(self, horizon: int) -> float:
        """Floating-point operations of one candidate over `horizon` blocks; a multiply-add is two.

        Work that all candidates of an episode share is left out.
        """

    @abstractmethod
    def imagine_flops(self) -> float:
        """Floating-point operations of `imagine` for one episode, counted as in `rollout_flops`."""

    def planning_parts(self) -> Sequence[nn.Module]:
        """Networks that run for every candidate: those that int8 pays for."""
        return [self]

    @property
    def goal_actor(self) -> GoalActor | None:
        """An actor that the model has learned itself; None for models whose actor is a head on their latents."""
        return None

    @property
    def policy(self) -> GoalPolicy | None:
        """Its `goal_actor`."""
        return self.goal_actor


class LatentPredictor(WorldModel):
    """A world model whose `predictor` can be trained on latents that are encoded once, its encoder frozen."""

    predictor: nn.Module

    predictor_settings: ClassVar[Sequence[str]] = ()
    """Constructor arguments of the predictor alone."""

    @property
    def frozen_encoder(self) -> bool:
        """True if nothing but the predictor is trained: `training.train` then encodes the data once."""
        own = {id(parameter) for parameter in self.predictor.parameters()}
        return all(id(parameter) in own for parameter in self.trainable_parameters())

    @property
    def min_clip_length(self) -> int:
        """Fewest frames of a clip that the predictor can be trained on."""
        return 2

    @abstractmethod
    def prediction_losses(
        self, latents: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The predictor's part of the losses, on clips of `latents` ``(B, L, *Z)`` and `actions` ``(B, L - 1, F*A)``.

        The one to minimise is called ``loss``.
        """


def select(belief: B, rows: slice | Tensor | tuple[Tensor, ...]) -> B:
    """Some rows of `belief`."""
    return type(belief)(*(part[rows] for part in belief))


def put(belief: B, rows: tuple[Tensor, ...], other: B) -> B:
    """`belief` with some rows replaced by those of `other`."""
    return type(belief)(*(part.index_put(rows, new) for part, new in zip(belief, other, strict=True)))


def repeat(belief: B, times: int) -> B:
    """Each row of `belief` `times` times in a row: ``(B * times, ...)``."""
    return type(belief)(*(part.repeat_interleave(times, dim=0) for part in belief))


def concatenate(beliefs: Sequence[B]) -> B:
    """The rows of all `beliefs`, one after the other."""
    return type(beliefs[0])(*(torch.cat(parts) for parts in zip(*beliefs, strict=True)))


def checked(belief: Belief, kind: type[B]) -> B:
    """`belief`, if it is of the `kind` that a model makes.

    Raises:
        TypeError: it is another model's.
    """
    if not isinstance(belief, kind):
        raise TypeError(f"this model's beliefs are {kind.__name__}, not {type(belief).__name__}")
    return belief

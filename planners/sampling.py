"""Random candidates, and the choice of the best of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lwm_agent.protocols import Problem

from .horizons import by_horizon, draw_episodes, zero_padding


def sample_noise(problem: Problem, num_samples: int, correlation: float) -> Tensor:
    """Standard normal noise ``(B, S, T, F*A)``, correlated over environment steps: AR(1) of coefficient `correlation`.

    Independent noise moves an agent like a random walk, which stays near its start; correlated noise keeps a direction
    (iCEM, arXiv 2008.06389). Steps inside a block and across its borders are treated alike.
    """
    device, dtype = problem.init.device, problem.init.dtype

    @cache
    def transposed_factor(num_env_steps: int) -> Tensor:
        """Cholesky factor of the correlation matrix c^|i-j|, in closed form, transposed."""
        env_steps = torch.arange(num_env_steps, device=device)
        lag = (env_steps[:, None] - env_steps).clamp_min(0)
        factor = (correlation ** lag.to(dtype)).tril()
        factor[:, 1:] *= (1 - correlation**2) ** 0.5
        return factor.T

    return _shape_noise(problem, num_samples, lambda white: white @ transposed_factor(white.shape[-1]))


def sample_coloured_noise(problem: Problem, num_samples: int, beta: float) -> Tensor:
    """Standard normal noise ``(B, S, T, F*A)`` over environment steps, of power spectrum ``1 / frequency^beta``.

    A beta of 0 is white noise, 1 pink, 2 red (iCEM, arXiv 2008.06389, section 3.1). The lowest frequency, which does
    not move at all, has the power of the second lowest.
    """
    device, dtype = problem.init.device, problem.init.dtype

    @cache
    def amplitudes(num_env_steps: int) -> Tensor:
        """Factor of each frequency, which keeps the variance of every environment step at 1."""
        frequencies = torch.fft.fftfreq(num_env_steps, device=device, dtype=dtype).abs()
        powers = frequencies.clamp_min(1 / num_env_steps) ** (-beta / 2)
        return powers / powers.square().mean().sqrt()

    def colour(white: Tensor) -> Tensor:
        return torch.fft.ifft(torch.fft.fft(white) * amplitudes(white.shape[-1])).real

    return _shape_noise(problem, num_samples, colour)


def _shape_noise(problem: Problem, num_samples: int, shape: Callable[[Tensor], Tensor]) -> Tensor:
    """White noise over environment steps, ``(S, A, T*F)`` an episode, sent through `shape`, as ``(B, S, T, F*A)``."""
    init = problem.init
    frameskip = init.shape[2] // problem.action_size

    # One call of `shape` an episode, so that its rounding does not depend on the batch either.
    def draw(generator: torch.Generator, horizon: int) -> Tensor:
        size = (num_samples, problem.action_size, horizon * frameskip)
        return shape(torch.randn(size, generator=generator, device=init.device, dtype=init.dtype))

    padded = (num_samples, problem.action_size, init.shape[1] * frameskip)
    noise = draw_episodes(problem, draw, padded, dim=-1)  # (B, S, A, T*F)
    return noise.transpose(2, 3).reshape(-1, num_samples, *init.shape[1:])


def sample_actions(problem: Problem, mean: Tensor, std: Tensor, num_samples: int, correlation: float) -> Tensor:
    """Candidates ``(B, S, T, F*A)`` inside the bounds around `mean` ``(B, T, F*A)``; candidate 0 is `mean` itself."""
    return perturb(problem, mean, std, sample_noise(problem, num_samples, correlation))


def perturb(problem: Problem, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """`mean` ``(B, T, F*A)`` plus `std` times `noise` ``(B, S, T, F*A)``, inside the bounds; candidate 0 is `mean`."""
    noise[:, 0] = 0
    return clamp(mean[:, None] + std[:, None] * noise, problem)


def clamp(actions: Tensor, problem: Problem) -> Tensor:
    """`actions` ``(B, ..., T, F*A)``, moved inside the bounds, and zero beyond each episode's horizon."""
    return zero_padding(actions.clamp(problem.low, problem.high), problem)


def select_best(candidates: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest of `candidates` ``(B, S, T, F*A)`` by `costs` ``(B, S)``: ``(B, T, F*A)`` and its cost ``(B,)``."""
    cost, index = costs.min(dim=1)
    return candidates.take_along_dim(index[:, None, None, None], dim=1).squeeze(1), cost


def select_elites(candidates: Tensor, costs: Tensor, num_elites: int) -> tuple[Tensor, Tensor]:
    """The K cheapest of `candidates` ``(B, S, T, F*A)``, best first: ``(B, K, T, F*A)`` and their costs ``(B, K)``."""
    costs, index = costs.topk(num_elites, dim=1, largest=False)
    return candidates.take_along_dim(index[:, :, None, None], dim=1), costs


def refit(
    problem: Problem, elites: Tensor, mean: Tensor, std: Tensor, momentum: float, min_std: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(B, T, F*A)`` of `elites` ``(B, K, T, F*A)``, with `momentum` of the old ones."""

    def blend(elites: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        mean = momentum * mean + (1 - momentum) * elites.mean(dim=1)
        std = momentum * std + (1 - momentum) * elites.std(dim=1, correction=0)
        return mean, std.clamp_min(min_std)

    mean, std = by_horizon(problem, blend, elites, mean, std)
    return mean, std

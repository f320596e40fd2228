"""How candidates are drawn, and what is made of the best of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lwm_agent.protocols import Problem


def sample_noise(problem: Problem, num_samples: int, correlation: float) -> Tensor:
    """Standard normal noise ``(B, S, T, F*A)``, correlated over environment steps: AR(1) of coefficient `correlation`.

    Independent noise moves an agent like a random walk, which stays near its start; correlated noise keeps a direction
    (iCEM, arXiv 2008.06389). Steps inside a block and across its borders are treated alike.
    """
    env_steps = torch.arange(_num_env_steps(problem), device=problem.init.device)
    lag = (env_steps[:, None] - env_steps).clamp_min(0)
    # Cholesky factor of the correlation matrix c^|i-j|, in closed form.
    factor = (correlation ** lag.to(problem.init.dtype)).tril()
    factor[:, 1:] *= (1 - correlation**2) ** 0.5
    return _shape_noise(problem, num_samples, lambda white: white @ factor.T)


def sample_coloured_noise(problem: Problem, num_samples: int, beta: float) -> Tensor:
    """Standard normal noise ``(B, S, T, F*A)`` over environment steps, of power spectrum ``1 / frequency^beta``.

    A beta of 0 is white noise, 1 pink, 2 red (iCEM, arXiv 2008.06389, section 3.1). The lowest frequency, which does
    not move at all, has the power of the second lowest.
    """
    env_steps = _num_env_steps(problem)
    frequencies = torch.fft.fftfreq(env_steps, device=problem.init.device, dtype=problem.init.dtype).abs()
    amplitudes = frequencies.clamp_min(1 / env_steps) ** (-beta / 2)
    amplitudes = amplitudes / amplitudes.square().mean().sqrt()  # keeps the variance of every environment step at 1
    return _shape_noise(problem, num_samples, lambda white: torch.fft.ifft(torch.fft.fft(white) * amplitudes).real)


def _num_env_steps(problem: Problem) -> int:
    _, horizon, block = problem.init.shape
    return horizon * block // problem.action_size


def _shape_noise(problem: Problem, num_samples: int, shape: Callable[[Tensor], Tensor]) -> Tensor:
    """White noise over environment steps, ``(S, A, T*F)`` an episode, sent through `shape`, as ``(B, S, T, F*A)``."""
    init = problem.init
    size = (num_samples, problem.action_size, _num_env_steps(problem))
    # One call of `shape` an episode, so that its rounding does not depend on the batch either.
    noise = [
        shape(torch.randn(size, generator=generator, device=init.device, dtype=init.dtype))
        for generator in problem.generators
    ]
    return torch.stack(noise).transpose(2, 3).reshape(-1, num_samples, *init.shape[1:])


def sample_actions(problem: Problem, mean: Tensor, std: Tensor, num_samples: int, correlation: float) -> Tensor:
    """Candidates ``(B, S, T, F*A)`` inside the bounds around `mean` ``(B, T, F*A)``; candidate 0 is `mean` itself."""
    return perturb(problem, mean, std, sample_noise(problem, num_samples, correlation))


def perturb(problem: Problem, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """`mean` ``(B, T, F*A)`` plus `std` times `noise` ``(B, S, T, F*A)``, inside the bounds; candidate 0 is `mean`."""
    noise[:, 0] = 0
    return clamp(mean[:, None] + std[:, None] * noise, problem)


def clamp(actions: Tensor, problem: Problem) -> Tensor:
    """`actions` ``(..., F*A)``, moved inside the bounds."""
    return actions.clamp(problem.low, problem.high)


def select_best(candidates: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest of `candidates` ``(B, S, T, F*A)`` by `costs` ``(B, S)``: ``(B, T, F*A)`` and its cost ``(B,)``."""
    cost, index = costs.min(dim=1)
    return candidates.take_along_dim(index[:, None, None, None], dim=1).squeeze(1), cost


def select_elites(candidates: Tensor, costs: Tensor, num_elites: int) -> tuple[Tensor, Tensor]:
    """The K cheapest of `candidates` ``(B, S, T, F*A)``, best first: ``(B, K, T, F*A)`` and their costs ``(B, K)``."""
    costs, index = costs.topk(num_elites, dim=1, largest=False)
    return candidates.take_along_dim(index[:, :, None, None], dim=1), costs


def refit(elites: Tensor, mean: Tensor, std: Tensor, momentum: float, min_std: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(B, T, F*A)`` of `elites` ``(B, K, T, F*A)``, with `momentum` of the old ones."""
    mean = momentum * mean + (1 - momentum) * elites.mean(dim=1)
    std = momentum * std + (1 - momentum) * elites.std(dim=1, correction=0)
    return mean, std.clamp_min(min_std)

"""A planner of your own: lwm-agent eval --planner shrinking_search:ShrinkingSearch --set planner.num_samples=100."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lwm_agent.planners.sampling import sample_actions, select_best
from lwm_agent.protocols import Planner, Problem


@dataclass(frozen=True, kw_only=True)
class ShrinkingSearch(Planner):
    """Random search around the best plan so far, in a range that halves with each iteration."""

    num_samples: int = 64
    iterations: int = 5

    def improve(self, problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
        best, scale = problem.init, problem.scale  # (B, T, F*A): the first guess, and how far to look around it
        while True:
            candidates = sample_actions(
                problem, best, scale, self.num_samples, 0.7
            )  # (B, S, T, F*A), inside the bounds
            best, cost = select_best(candidates, problem.objective(candidates))
            yield best, cost
            scale = scale / 2

"""No planning at all: a learned policy acts."""

from __future__ import annotations

from dataclasses import dataclass

from .best_proposal import BestProposal


@dataclass(frozen=True, kw_only=True)
class LearnedPolicy(BestProposal):
    """A learned policy acts by itself, without imagined futures; registered as "policy".

    An agent with this planner never poses a planning problem. A problem that is posed all the same is solved by its
    best proposal.
    """

    reactive = True

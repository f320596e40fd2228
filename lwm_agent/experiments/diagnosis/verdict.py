"""The verdict: what the numbers of a diagnosis mean in plain words, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .data_checks import DataCheck
from .trials import AGENT, MODEL, PICTURES, RECORDED, STATES, Trials
from .verifier import Verification

GOOD, WEAK, BAD = "good", "weak", "bad"

ONE_DEVIATION = "1 sd"
TOLD_APART = (0.95, 0.85)
"""Shares of `Verification.told_apart` at one deviation that are good, and at least weak. LeWorldModel has 0.98."""
END_ERROR = (0.25, 0.45)
"""End errors that are good, and at least weak. The released LeWorldModel has 0.14 to 0.18."""
PICKED = (0.85, 0.6)
"""Shares of `Verification.picked` that are good, and at least weak."""
LOST = (0.1, 0.2)
"""Shares of the tasks that a step may lose to be good, and at least weak."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        part: what it is about.
        grade: `GOOD`, `WEAK` or `BAD`.
        text: what was found.
        advice: what to do; empty where nothing has to be done.
    """

    part: str
    grade: str
    text: str
    advice: str = ""


def find(data: DataCheck, verification: Verification, trials: Trials | None) -> tuple[Finding, ...]:
    """All findings, in the order in which they should be mended."""
    return (*_of_data(data), *_of_predictor(verification), *(() if trials is None else _of_trials(trials)))


def verdict(findings: tuple[Finding, ...]) -> str:
    """The worst finding in one sentence; of equals, the first: what comes before it should be mended before it."""
    for grade in (BAD, WEAK):
        for finding in findings:
            if finding.grade == grade:
                return f"First of all, {finding.part}: {finding.text} {finding.advice}".strip()
    return "Nothing stands out: the parts are sound. What is left is the search and the tasks themselves."


def _of_data(check: DataCheck) -> Iterator[Finding]:
    if check.collapse is not None:
        yield Finding(
            "latents", BAD, f"they have collapsed: {check.collapse}.", "Raise model.sigreg_weight and train again."
        )
    else:
        yield Finding("latents", GOOD, f"their effective rank is {check.effective_rank:.0f} of {check.latent_size}.")
    low, high = check.action_std
    if check.action_mean > 1 or low < 0.4 or high > 2.5:
        yield Finding(
            "action scale",
            BAD,
            f"actions have means up to {check.action_mean:.2g} and deviations from {low:.2g} to {high:.2g}, where 0 "
            "and 1 are those of the training.",
            "These data are in other units, or of another policy, than those of the training: check control mode and "
            "frameskip, or train on data like these.",
        )
    else:
        yield Finding("action scale", GOOD, f"deviations are {low:.2f} to {high:.2f} of those of the training.")
    if check.beyond > 0.02:
        yield Finding(
            "action bounds",
            WEAK,
            f"{100 * check.beyond:.0f} % of the actions lie beyond the bounds that a plan keeps.",
            "The bounds come from the training data: train on data whose actions reach as far.",
        )
    if check.still > 0.3:
        yield Finding(
            "movement",
            BAD if check.still > 0.6 else WEAK,
            f"in {100 * check.still:.0f} % of the clips nothing moves that the model can see.",
            "Collect data in which the agent touches things, or cut out the pauses.",
        )
    if check.block_move < 0.02:
        yield Finding(
            "frameskip",
            WEAK,
            f"a block changes the latent by {100 * check.block_move:.1f} % of the distance of two random frames.",
            "Train with a larger --frameskip: one step of the model is too short to see.",
        )


def _of_predictor(test: Verification) -> Iterator[Finding]:
    learn = "Train the predictor longer, or on more episodes (`lwm-agent train-predictor`)."
    if ONE_DEVIATION in test.told_apart:
        rate = test.told_apart[ONE_DEVIATION]
        text = (
            f"it tells the recorded block from one that is a deviation away in {100 * rate.share:.0f} % of the clips."
        )
        yield _graded(
            "one step of the predictor",
            rate.share,
            TOLD_APART,
            text,
            f"Its predictions depend too little on the actions. {learn}",
        )
    text = f"the imagined end of a recorded plan is off by {100 * test.end_error:.0f} % of the way."
    yield _graded("rollouts of the predictor", -test.end_error, (-END_ERROR[0], -END_ERROR[1]), text, learn)
    text = f"of {test.picked.n} plans, it picks the recorded one among others in {100 * test.picked.share:.0f} %."
    yield _graded("choice between plans", test.picked.share, PICKED, text, learn)


def _of_trials(trials: Trials) -> Iterator[Finding]:
    rates = trials.rates
    if rates[RECORDED].share < 0.95:
        yield Finding(
            "tasks",
            BAD,
            f"the recorded actions solve only {100 * rates[RECORDED].share:.0f} % of the tasks.",
            "Environment and data differ: check their conventions (`lwm-agent doctor`, control mode, frameskip).",
        )
    for part, better, worse, advice in (
        ("search", RECORDED, STATES, "Train an actor (`lwm-agent train-heads`), or search more: --planner cem."),
        (
            "latents and their distance",
            STATES,
            PICTURES,
            "The encoder does not hold what matters, or the distance does not show it: train it longer, or try other "
            "costs (`lwm-agent recommend`).",
        ),
        (
            "futures of the predictor",
            PICTURES,
            MODEL,
            "Train the predictor longer or on more episodes, or keep plans near to the data (`--set "
            "agent.cost=best-step+actor-deviation`).",
        ),
    ):
        lost = trials.lost(better, worse)
        text = f"{100 * lost:.0f} % of the tasks are lost between “{better}” and “{worse}” ({rates[worse].n} tasks)."
        yield _graded(part, -lost, (-LOST[0], -LOST[1]), text, advice)
    gained = trials.lost(AGENT, MODEL)
    if gained < -0.1:
        yield Finding(
            "planning cost",
            WEAK,
            f"the distance alone solves {-100 * gained:.0f} % more tasks than the checkpoint's own cost.",
            "Choose the cost again: `lwm-agent recommend`.",
        )


def _graded(part: str, value: float, least: tuple[float, float], text: str, advice: str) -> Finding:
    """A finding that is good from ``least[0]`` on, and weak from ``least[1]`` on."""
    if value >= least[0]:
        return Finding(part, GOOD, text)
    return Finding(part, WEAK if value >= least[1] else BAD, text, advice)

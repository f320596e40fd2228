"""An agent acts the same whatever the state of torch around it, and leaves that state alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lwm_agent import Agent, Checkpoint

from .test_planner_ambient import STATES
from .test_world_models import CONTINUOUS, SIDE, VARIANTS, make_checkpoint, small_planner, usable

COST = "best-step+0.1*temporal-distance+0.1*actor-deviation"


def act(checkpoint: Checkpoint, planner: str) -> list[Any]:
    """Actions of a loop in which episodes of different ages are planned."""
    rng = np.random.default_rng(0)
    seen = {name: rng.integers(0, 256, (3, SIDE, SIDE, 3), np.uint8) for name in ("pixels", "goal")}
    agent = Agent(
        checkpoint, small_planner(planner), cost=COST, num_proposals=2, horizon=2, deadline_env_steps=9, device="cpu"
    )
    state, actions = None, []
    for step in range(7):
        action, state = agent.predict(seen, state, episode_start=np.array([False, step == 3, step == 5]))
        actions.append(action)
    return actions


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize(
    ("variant", "planner"),
    [(variant, planner) for variant in VARIANTS for planner in CONTINUOUS if usable(variant[0], planner)],
)
def test_actions_do_not_depend_on_ambient_state(variant: tuple[str, str], planner: str) -> None:
    """Every state with one planner, and every planner in the states that once broke some."""
    checkpoint = make_checkpoint(*variant)
    expected = act(checkpoint, planner)
    for state in STATES if planner == "guided" else ("inference mode", "float64"):
        with STATES[state]():
            found = act(checkpoint, planner)
        assert np.array_equal(np.stack(expected), np.stack(found)), state


def test_loading_and_acting_draw_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    agent = Agent.load("pusht-tiny", device="cpu")
    picture = np.zeros((2, 64, 64, 3), np.uint8)
    agent.predict({"pixels": picture, "goal": picture})
    assert torch.equal(torch.get_rng_state(), before)

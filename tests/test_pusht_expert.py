"""The expert of Push-T, which searches in the simulator."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.envs.pusht import PushTEnv
from lwm_agent.envs.pusht_expert import REACHED, ExpertPolicy, error
from lwm_agent.eval import shipped_tasks


@pytest.mark.parametrize(("offset", "index"), [(25, 1), (25, 2), (75, 0), (75, 3)])
def test_it_is_no_slower_than_the_actions_that_it_starts_from(offset: int, index: int) -> None:
    """At 75, a plan that ends near the goal takes less time than any that reaches it."""
    task_set = shipped_tasks("pusht", "strict", "val", offset)
    env, expert = PushTEnv(image_size=16, terminate_on_success=False), ExpertPolicy(np.random.default_rng(0))
    _, info = env.reset(seed=0, options=task_set.tasks[index].reset_options)
    expert.pursue(info["goal_state"], np.array(task_set.tasks[index].env_actions), shaken=0.0)
    steps = 0
    while (action := expert(info)) is not None:
        *_, info = env.step(action)
        steps += 1
    assert info["is_success"]
    assert steps <= offset


def test_error_is_one_at_the_edge_of_success() -> None:
    goal = np.array([100.0, 100.0, 250.0, 250.0, 0.5, 0.0, 0.0])
    moved, turned = goal.copy(), goal.copy()
    moved[2] += 20.0
    turned[4] += np.pi / 9
    assert error(goal, goal) == 0
    assert error(moved, goal) == pytest.approx(1)
    assert error(turned, goal) == pytest.approx(1)


def test_its_episodes_end_at_their_goals_and_follow_from_the_seed(tmp_path: Path) -> None:
    settings = {"env": "pusht", "policy": "expert", "episodes": 2, "seed": 2}
    first = collect(CollectConfig(out=str(tmp_path / "a.h5"), workers=1, **settings))
    second = collect(CollectConfig(out=str(tmp_path / "b.h5"), workers=2, **settings))
    lengths = Trajectories.open(first).lengths
    assert len(set(lengths.tolist())) > 1
    assert lengths.max() <= 151
    with h5py.File(first) as one, h5py.File(second) as two:
        for name in ("state", "action", "pixels"):
            np.testing.assert_array_equal(one[name], two[name])
        assert one.attrs["policy"] == "expert"
        block = one["state"][:, 2:5]
    for start, stop in zip(np.cumsum([0, *lengths[:-1]]), np.cumsum(lengths), strict=True):
        assert np.ptp(block[start:stop], axis=0).max() > 0.3  # it has moved the block
    assert REACHED < 1  # episodes end inside success, not at its edge

"""Children that are forked after their parent has planned: they plan too, with one thread, and do not hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_SECONDS = 60
BEGIN = """
import os
from functools import partial

import gymnasium
import numpy as np
import torch

import lwm_agent

torch.set_num_threads(2)
agent = lwm_agent.Agent.load("pusht-tiny", "cem", deadline_env_steps=10)
env = gymnasium.make("lwm/PushT-v0")
observation, _ = env.reset(seed=0)


def plan():
    return agent.predict(observation)[0]


class Planning(gymnasium.Wrapper):
    def reset(self, **settings):
        observation, info = self.env.reset(**settings)
        info["action"], info["threads"] = plan(), torch.get_num_threads()
        return observation, info


def make_planning_env():
    return Planning(gymnasium.make("lwm/PushT-v0"))


expected = plan()
"""
FORK = """
child = os.fork()
if child == 0:
    same = np.allclose(plan(), expected, atol=1e-4) and torch.get_num_threads() == 1
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.get_num_threads() == 2
"""
GYMNASIUM = """
envs = gymnasium.vector.AsyncVectorEnv([make_planning_env] * 2, context="fork")
_, info = envs.reset(seed=0)
np.testing.assert_allclose(info["action"], [expected] * 2, atol=1e-4)
assert (info["threads"] == 1).all()
envs.close()
"""
SB3 = """
from stable_baselines3.common.vec_env import SubprocVecEnv
envs = SubprocVecEnv([make_planning_env] * 2, start_method="fork")
envs.reset()
for info in envs.reset_infos:
    np.testing.assert_allclose(info["action"], expected, atol=1e-4)
    assert info["threads"] == 1
envs.close()
"""
NO_TORCH = """
import os
import sys

import lwm_agent

child = os.fork()
if child == 0:
    os._exit("torch" in sys.modules)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("use", [FORK, GYMNASIUM, SB3], ids=["fork", "gymnasium", "sb3"])
def test_forked_child_plans_after_its_parent(use: str, tmp_path: Path) -> None:
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    child = subprocess.run(
        [sys.executable, "-c", BEGIN + use],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in limits},
        timeout=TIMEOUT_SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_leaves_torch_alone_where_it_is_not_imported(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", NO_TORCH], cwd=tmp_path, timeout=TIMEOUT_SECONDS, check=False)
    assert child.returncode == 0

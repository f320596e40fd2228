"""Training of two processes: what one process learns from the clips of both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.append(sys.argv[5])
from tests.test_train import config
from lwm_agent.data.clips import Clips
from lwm_agent.training import train as training
from lwm_agent.training.validation import recalibrate_batch_norm, validate

data, out, processes, projector_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


def draw(self, source, step):
    "The share of this process in the clips that one process would draw."
    clips = source.sample(8, np.random.default_rng([7, step]))
    share = slice(self._fabric.global_rank, None, processes)
    return Clips(*(None if column is None else column[share] for column in clips))


training._Run.draw = draw
training.validate = partial(validate, num_clips=8)
training.recalibrate_batch_norm = partial(recalibrate_batch_norm, num_batches=2)
model = {"dropout": 0.0, "projector_size": projector_size}
settings = {"steps": 1, "precision": "32-true", "keep_state": True}
training.train(config(data, out, num_devices=processes, model_settings=model, **settings))
"""


@pytest.mark.parametrize("projector_size", [0, 12])
def test_two_processes_learn_what_one_learns(projector_size: int, data: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parent.parent)
    for processes in ("1", "2"):
        arguments = [data, str(tmp_path / processes), processes, str(projector_size), root]
        done = subprocess.run(
            [sys.executable, str(script), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / processes / "training.safetensors") for processes in ("1", "2"))
    assert one.keys() == two.keys()
    statistics = [name for name in one if "running" in name]
    assert bool(statistics) == bool(projector_size)
    gradients = [name for name in one if name.endswith("/exp_avg")]  # a tenth of each, after one step
    assert len(gradients) > 10
    largest = max(float(one[name].abs().max()) for name in gradients)
    for name in (*statistics, *gradients):
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5 * largest), name
    logs = [(tmp_path / processes / "metrics.jsonl").read_text().splitlines() for processes in ("1", "2")]
    for name in ("train/sigreg", "validation/loss"):  # other losses of a step are those of the first process alone
        losses = [[json.loads(line)[name] for line in log if name in line] for log in logs]
        assert len(losses[0]) == 1
        assert losses[1] == pytest.approx(losses[0], rel=1e-2), name

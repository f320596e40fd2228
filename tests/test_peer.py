"""benchmarks/peer.py: stable-worldmodel with our weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lwm_agent.models.predictors import Transformer
from lwm_agent.models.window import make_window

from .benchmark_modules import load_benchmark

B, S, T, F, A, D = 2, 7, 5, 3, 2, 8


@torch.no_grad()
def test_peer_costs_equal_ours() -> None:
    pytest.importorskip("stable_worldmodel", reason="stable-worldmodel is not installed: pip install 'lwm-agent[peer]'")
    peer = load_benchmark("peer")
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": D, "heads": 2, "head_size": 4, "mlp_size": 16, "projector_size": 16}
    ours = Transformer(D, F * A, history=3, residual=False, dropout=0.0, **sizes).eval()
    for block in ours.blocks:
        nn.init.normal_(block.modulation[1].weight)  # type: ignore[union-attr, index, arg-type]
    start, goal = torch.randn(2, B, D)
    candidates = torch.randn(B, S, T, F * A)
    window = make_window(start[:, None], start.new_zeros(B, 0, F * A), ours.history)
    expected = (ours.rollout(window, candidates)[:, :, -1] - goal[:, None]).square().mean(-1)
    other = peer.Peer(ours, start, goal, samples=S, elites=3, horizon=T, frameskip=F, action_size=A)
    torch.testing.assert_close(other.costs(candidates), expected, atol=1e-4, rtol=1e-4)
    other.iterate()

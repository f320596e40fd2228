"""stable-worldmodel's LeWM and CEMSolver with our weights, for benchmarks/engine.py; tried with its version 0.1.1."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import gymnasium as gym
import torch
from stable_worldmodel import PlanConfig
from stable_worldmodel.solver import CEMSolver
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder
from stable_worldmodel.wm.lewm.module import Predictor as PeerPredictor
from torch import Tensor, nn

from lwm_agent.models.predictors import Transformer

OUR_NAMES = {
    "predictor.pos_embedding": "positions",
    "predictor.transformer.norm": "norm",
    "predictor.transformer.layers": "blocks",
    "adaLN_modulation": "modulation",
    "attn.norm": "attention_norm",
    "attn.to_qkv": "attention.qkv",
    "attn.to_out.0": "attention.out",
    "mlp.net.0": "mlp_norm",
    "mlp.net.1": "mlp.0",
    "mlp.net.4": "mlp.3",
    "action_encoder.patch_embed": "action_embedding.0",
    "action_encoder.embed.0": "action_embedding.1",
    "action_encoder.embed.2": "action_embedding.3",
    "pred_proj.net": "output_proj",
}
"""Our names of parts of the peer's parameter names."""


class Peer:
    """The peer's solver for the planning problems of B episodes, from the latents of their starts and goals.

    Args:
        predictor: source of its weights, of the `base` preset.
        start: latents ``(B, D)``.
        goal: latents ``(B, D)``.
        samples: S, candidates an iteration.
        elites: K, the best of these.
        horizon: T, blocks.
        frameskip: F.
        action_size: A.
    """

    def __init__(
        self,
        predictor: Transformer,
        start: Tensor,
        goal: Tensor,
        samples: int,
        elites: int,
        horizon: int,
        frameskip: int,
        action_size: int,
    ) -> None:
        episodes = len(start)
        self._model = same_model(predictor).to(start.device)
        config = PlanConfig(horizon=horizon, receding_horizon=horizon, action_block=frameskip)
        space = gym.spaces.Box(-1, 1, (episodes, action_size))
        self._solver = CEMSolver(self._model, episodes, samples, n_steps=1, topk=elites, device=start.device)
        self._solver.configure(action_space=space, n_envs=episodes, config=config)
        pictures = start.new_zeros(episodes, 1, 1)  # not encoded, as there are latents
        self._info = {"pixels": pictures, "goal": pictures, "emb": start[:, None], "goal_emb": goal[:, None]}

    def iterate(self) -> None:
        """One iteration of its CEM."""
        with redirect_stdout(io.StringIO()):  # it prints its time
            self._solver.solve(self._info)

    @torch.no_grad()
    def costs(self, candidates: Tensor) -> Tensor:
        """Mean squared errors ``(B, S)`` of the last latents that `candidates` ``(B, S, T, F*A)`` lead to."""
        samples = candidates.shape[1]
        info = {name: part[:, None].expand(-1, samples, *part.shape[1:]) for name, part in self._info.items()}
        total: Tensor = self._model.get_cost(info, candidates)
        return total / self._info["emb"].shape[-1]


def same_model(ours: Transformer) -> LeWM:
    """The peer's model without its encoder, with the weights of our predictor."""
    history, size = ours.positions.shape
    block = ours.blocks[0]
    hidden, depth, heads = block.mlp[0].out_features, len(ours.blocks), block.attention.heads
    predictor = PeerPredictor(
        num_frames=history,
        depth=depth,
        heads=heads,
        mlp_dim=hidden,
        input_dim=size,
        hidden_dim=size,
        dim_head=block.attention.out.in_features // heads,
    )
    embedder = Embedder(ours.action_embedding[0].in_features, ours.action_embedding[0].out_features, size)
    projector = MLP(size, ours.output_proj[0].out_features, norm_fn=nn.BatchNorm1d)
    model = LeWM(nn.Identity(), predictor, embedder, pred_proj=projector)
    weights = ours.state_dict()
    renamed = {}
    for name, tensor in model.state_dict().items():
        our_name = name
        for peer_part, our_part in OUR_NAMES.items():
            our_name = our_name.replace(peer_part, our_part)
        renamed[name] = weights.pop(our_name).reshape(tensor.shape)
    assert not weights, f"left over: {list(weights)}"
    model.load_state_dict(renamed)
    return model.eval().requires_grad_(False)

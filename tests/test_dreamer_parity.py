"""The recurrent state-space model and the two-hot scalars against those of torchrl, with the same weights.

torchrl follows the reference code of DreamerV3. It is no dependency of the package: `pip install lwm-agent[parity]`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lwm_agent.models.distributions import Categoricals
from lwm_agent.models.rssm import RSSM, BlockLinear
from lwm_agent.models.two_hot import TwoHot

torchrl = pytest.importorskip(
    "torchrl.modules.models.model_based", reason="needs torchrl: pip install 'lwm-agent[parity]'"
)

N, BLOCK, EMBEDDING, DETER, HIDDEN, C, K, BLOCKS = 3, 7, 13, 24, 11, 5, 4, 8
EXACT = {"atol": 1e-6, "rtol": 1e-5}


@pytest.fixture
def ours() -> RSSM:
    torch.manual_seed(0)
    sizes = {"block_size": BLOCK, "embedding": EMBEDDING, "deter": DETER, "hidden": HIDDEN}
    return RSSM(**sizes, latents=Categoricals(C, K), absolute=False, blocks=BLOCKS)


def copy_layers(source: nn.Module, target: nn.Module) -> None:
    """Weights of linear maps and norms, which come in the same order, from `source` to `target`."""
    weights = zip(source.parameters(), target.parameters(), strict=True)
    with torch.no_grad():
        for one, other in weights:
            other.copy_(one)


def their_prior(ours: RSSM) -> nn.Module:
    prior = torchrl.RSSMPriorV3(
        hidden_dim=HIDDEN,
        rnn_hidden_dim=DETER,
        num_categoricals=C,
        num_classes=K,
        action_dim=BLOCK,
        action_shape=torch.Size([BLOCK]),
        recurrent_model="block_gru",
        num_blocks=BLOCKS,
        unimix=0.01,
    )
    core, rnn = ours.core, prior.rnn
    projections = (rnn.belief_projection, rnn.state_projection, rnn.action_projection)
    for mine, other in zip(core.projections, projections, strict=True):
        copy_layers(mine, other)
    with torch.no_grad():  # theirs repeats the projected inputs beside each block of the memory
        inputs = core.inputs.weight.unflatten(0, (BLOCKS, -1)).transpose(1, 2)
        rnn.hidden_layers[0].weight.copy_(torch.cat([core.memory.weight, inputs], dim=1))
        rnn.hidden_layers[0].bias.copy_(core.memory.bias)
    copy_layers(core.activation, rnn.hidden_layers[1:])
    copy_layers(core.gates, rnn.gates)
    copy_layers(ours.prior_net, prior.rnn_to_prior_projector)
    return prior


def probabilities(logits: Tensor) -> Tensor:
    return torchrl._unimix_probs(logits, 0.01).flatten(-2)


@torch.no_grad()
def test_block_gru_and_prior(ours: RSSM) -> None:
    deter, sample = torch.randn(N, DETER), torch.randn(N, C * K)
    block = torch.rand(N, BLOCK) * 2 - 1  # theirs divides larger actions by their size: normalised ones need it not
    logits, _, belief = their_prior(ours)(sample, deter, block)
    memory = ours.core(deter, sample, block)
    torch.testing.assert_close(memory, belief, **EXACT)
    torch.testing.assert_close(ours.prior(memory), probabilities(logits), **EXACT)


@torch.no_grad()
def test_posterior(ours: RSSM) -> None:
    posterior = torchrl.RSSMPosteriorV3(
        hidden_dim=HIDDEN,
        num_categoricals=C,
        num_classes=K,
        rnn_hidden_dim=DETER,
        obs_embed_dim=EMBEDDING,
        use_rms_norm=True,
        unimix=0.01,
    )
    copy_layers(ours.posterior_net, posterior.obs_rnn_to_post_projector)
    deter, embedding = torch.randn(N, DETER), torch.randn(N, EMBEDDING)
    logits, _ = posterior(deter, embedding)
    torch.testing.assert_close(ours.posterior(deter, embedding), probabilities(logits), **EXACT)


def test_straight_through_gradient() -> None:
    logits, weights = torch.randn(N, C, K, requires_grad=True), torch.randn(N, C, K)
    theirs = torchrl._straight_through_categorical(logits, 0.01)
    mixed = 0.99 * logits.softmax(-1) + 0.01 / K
    drawn = Categoricals(C, K).draw(mixed.flatten(-2)).unflatten(-1, (C, K))
    gradients = [torch.autograd.grad((hot * weights).sum(), logits)[0] for hot in (theirs, drawn)]
    torch.testing.assert_close(*gradients, **EXACT)


@torch.no_grad()
def test_block_linear() -> None:
    ours, theirs = BlockLinear(12, 20, 4), torchrl._DreamerV3BlockLinear(12, 20, 4)
    copy_layers(ours, theirs)
    x = torch.randn(N, 12)
    torch.testing.assert_close(ours(x), theirs(x), **EXACT)


@torch.no_grad()
def test_two_hot() -> None:
    ours, theirs = TwoHot(), torchrl.SymExpTwoHot()
    torch.testing.assert_close(ours.values, theirs.bins, rtol=1e-5, atol=1e-6)
    x = torch.cat([torch.linspace(-30, 30, 11), torch.tensor([-2e5, 1e-4, 3e7])])
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), atol=1e-4, rtol=0)
    logits = torch.randn(len(x), 255)
    torch.testing.assert_close(ours.cross_entropy(logits, x), theirs.loss(logits, x), atol=1e-4, rtol=1e-5)
    logits[:, [0, 1, 2, 252, 253, 254]] -= 30
    torch.testing.assert_close(ours.decode(logits), theirs.decode(logits), rtol=1e-3, atol=1e-2)

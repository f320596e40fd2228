"""Agents, models and trainings on CUDA, without a GPU: `simulated_cuda` refuses what a GPU would refuse.

Each test runs real code on tensors that are on no CPU as far as the code can tell, and most compare the results with
those of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from lwm_agent import Agent
from lwm_agent.checkpoint import Checkpoint
from lwm_agent.models import MODELS, Heads, LeWorldModel, WorldModel
from lwm_agent.models.sigreg import epps_pulley, sigreg
from lwm_agent.normalizer import Normalizer
from lwm_agent.planners import COSTS, PLANNERS, Budget, make_planner
from lwm_agent.protocols import Batch, Belief
from lwm_agent.training.config import HeadsConfig, PredictorConfig, TrainConfig
from lwm_agent.training.heads import train_heads
from lwm_agent.training.monitors import collapse_monitors, probe
from lwm_agent.training.predictor import train_predictor
from lwm_agent.training.train import recalibrate_batch_norm, train, validate

from . import simulated_cuda as simulation
from . import test_world_models as contract
from .simulated_cuda import DeviceMismatchError, SimulatedTensor, two_processes
from .toy_models import TOYS

pytestmark = pytest.mark.usefixtures("pretrained")

SMALL: dict[str, dict[str, Any]] = {name: {"num_samples": 7, "iterations": 2} for name in PLANNERS}
for with_elites in ("cem", "icem", "guided", "categorical-cem"):
    SMALL[with_elites]["num_elites"] = 3
SMALL["grasp"] |= {"sync_steps": 1, "lifted_steps": 2}
SMALL["actor"] = SMALL["policy"] = {}
SMALL["cem+gradient"] = {
    **{f"first.{name}": value for name, value in SMALL["cem"].items()},
    **{f"second.{name}": value for name, value in SMALL["gradient"].items()},
}
SIZES = {"latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1, "history": 3, "dropout": 0.0}
CONV = {"image_size": 32, "encoder": "conv", "projector_size": 0, "residual": True}


def checkpoint(predictor: str = "transformer", discrete: bool = False) -> Checkpoint:
    """Random weights, in which actions have an effect."""
    torch.manual_seed(0)
    settings = {**SIZES, **CONV, "predictor": predictor, "action_size": 2}
    model = LeWorldModel(**settings)
    for parameter in model.predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    heads = Heads(latent_size=8, block_size=10, width=16, max_steps=6, contrast=True)
    units = {
        "pixel_mean": (0.5, 0.5, 0.5),
        "pixel_std": (0.2, 0.3, 0.4),
        "action_mean": (0.1, 0),
        "action_std": (0.4, 0.3),
    }
    bounds = (
        {"action_low": (0, 0), "action_high": (1, 1)}
        if discrete
        else {"action_low": (-0.8, -1), "action_high": (0.9, 1)}
    )
    return Checkpoint(
        name="lewm",
        model_config=settings,
        model=model.eval().requires_grad_(False),
        normalizer=Normalizer(**units, **bounds, discrete=discrete),  # type: ignore[arg-type]
        env="pusht",
        env_kwargs={"image_size": 32},
        training={"steps": 1},
        heads=None if discrete else heads.eval().requires_grad_(False),
    )


@pytest.fixture
def cuda() -> Iterator[None]:
    with simulation.simulated_cuda():
        yield


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings compute in float32, though bfloat16 may be faster: only so are those of two devices alike."""
    for part in ("heads", "latent_cache", "predictor", "train"):
        monkeypatch.setattr(f"lwm_agent.training.{part}.fast_bf16", lambda _: False)


def frames(*shape: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 32, 32, 3), np.uint8)


def act(agent: Agent, num_steps: int = 6) -> NDArray[np.float32]:
    """Actions ``(num_steps, 2, 2)`` in two environments, the second of which begins a new episode after a while."""
    state, actions = None, []
    for step in range(num_steps):
        observation = {"pixels": frames(2, seed=step), "goal": frames(2, seed=100)}
        action, state = agent.predict(observation, state, [False, step == 3])
        actions.append(action)
    return np.stack(actions)


def plan(device: str, planner: str, **settings: Any) -> Agent:
    small = make_planner(planner, **SMALL[planner])
    return Agent(
        checkpoint(discrete=planner == "categorical-cem"),
        small,
        device=device,
        bf16=False,
        num_proposals=1,
        horizon=2,
        **settings,
    )


# The simulation itself


@pytest.mark.usefixtures("cuda")
def test_simulation_refuses_tensors_of_two_devices() -> None:
    there, here = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
    assert (there.device, here.device) == (torch.device("cuda", 0), torch.device("cpu"))
    for mix in (
        lambda: there + here,
        lambda: there @ here.T,
        lambda: torch.cat([there, here]),
        lambda: torch.where(there > 0, there, here),
        lambda: torch.nn.Linear(4, 2)(there),
        lambda: here[there.long()],
        lambda: there.add_(here),
    ):
        with pytest.raises(DeviceMismatchError, match="same device"):
            mix()


@pytest.mark.usefixtures("cuda")
def test_simulation_keeps_generators_and_numpy_to_their_devices() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    assert torch.randn(3, generator=generator, device="cuda").device.type == "cuda"
    with pytest.raises(DeviceMismatchError, match="'cpu' generator"):
        torch.randn(3, generator=generator)
    with pytest.raises(DeviceMismatchError, match="'cuda' generator"):
        torch.randn(3, generator=torch.Generator(), device="cuda")
    for convert in (lambda x: x.numpy(), np.asarray):
        with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
            convert(torch.ones(3, device="cuda"))


@pytest.mark.usefixtures("cuda")
def test_simulation_computes_moves_and_counts_waiting() -> None:
    there = torch.arange(6.0, device="cuda").reshape(2, 3).requires_grad_()
    (there.square() * torch.tensor(2.0)).sum().backward()  # a tensor without axes may be on the CPU
    assert isinstance(there.grad, SimulatedTensor)
    np.testing.assert_array_equal(there.grad.cpu().numpy(), [[0, 4, 8], [12, 16, 20]])
    simulation.waits.clear()
    assert float(there.detach().sum()) == 15
    assert there.detach()[:, 1].tolist() == [1, 4]
    assert simulation.waits == ["aten::_local_scalar_dense", "tolist"]


def test_two_simulated_processes_refuse_cpu_tensors(cuda: None) -> None:
    with two_processes():
        epps_pulley(torch.randn(7, 3, device="cuda"))
        with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
            epps_pulley(torch.randn(7, 3))


# Planning


@pytest.mark.parametrize("planner", SMALL)
def test_agent_plans_on_cuda_as_on_the_cpu(planner: str, cuda: None) -> None:
    on_cpu, on_cuda = (act(plan(device, planner, deadline_env_steps=12)) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_cuda, on_cpu, atol=1e-3)


@pytest.mark.parametrize("cost", [*COSTS, "running+0.1*control-penalty"])
@pytest.mark.parametrize("predictor", ["transformer", "mlp"])
def test_every_cost_is_computed_on_cuda(predictor: str, cost: str, cuda: None) -> None:
    costs = []
    for device in ("cpu", "cuda"):
        small = make_planner("cem", **SMALL["cem"])
        agent = Agent(checkpoint(predictor), small, cost=cost, device=device, bf16=False, horizon=3, num_proposals=2)
        decisions = agent.predict({"pixels": frames(3, seed=0), "goal": frames(3, seed=1)})[1].decisions
        costs.append([decision.cost for decision in decisions if decision is not None])
    np.testing.assert_allclose(*costs, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"replan_every_env_steps": 2}, {"proposal": "none"}, {"max_rollouts": 4}, {"budget": Budget(seconds=0.01)}],
)
def test_agent_acts_on_cuda_with_every_schedule(settings: dict[str, Any], cuda: None) -> None:
    actions = act(plan("cuda", "cem", **settings))
    assert actions.shape == (6, 2, 2)
    assert np.isfinite(actions).all()


def test_shipped_agent_runs_on_cuda(cuda: None) -> None:
    observation = {"pixels": np.zeros((64, 64, 3), np.uint8), "goal": np.full((64, 64, 3), 255, np.uint8)}
    actions = [
        Agent.load("pusht-tiny", device=device, bf16=False).predict(observation)[0] for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*actions, atol=1e-3)


@pytest.mark.parametrize("planner", SMALL)
def test_planner_does_not_wait_for_the_device_between_iterations(planner: str, cuda: None) -> None:
    """Waiting leaves a GPU idle: however many iterations there are, the agent waits for the results of the last."""
    counts = []
    for iterations in (2, 4):
        agent = plan("cuda", planner, budget=Budget(iterations=iterations))
        simulation.waits.clear()
        agent.predict({"pixels": frames(2, seed=0), "goal": frames(2, seed=1)})
        counts.append(len(simulation.waits))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("name", "planner"),
    [
        (name, planner)
        for name in contract.ALL
        for planner in ("guided", "cem", "gradient", "grasp", "policy")
        if contract.usable(name, planner)
    ],
)
def test_every_kind_of_model_is_planned_with_on_cuda(name: str, planner: str, cuda: None) -> None:
    variant = next(variant for variant in contract.VARIANTS if variant[0] == name)
    actions = []
    for device in ("cpu", "cuda"):
        small = make_planner(planner, **SMALL[planner])
        settings: dict[str, Any] = {"device": device, "bf16": False, "num_proposals": 2, "horizon": 2}
        agent = Agent(contract.make_checkpoint(*variant), small, **settings)
        actions.append(act(agent))
    np.testing.assert_allclose(*actions, atol=1e-3)


# Models, heads and losses

VARIANTS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 28, "encoder": "vit", "projector_size": 12},
    "conv": CONV,
    "mlp": {**CONV, "predictor": "mlp"},
}
WEIGHTS = {"rollout_weight": 0.5, "inverse_weight": 0.5, "reconstruction_weight": 0.1, "sigreg_directions": 16}


def differentiate(module: torch.nn.Module, losses: dict[str, torch.Tensor]) -> tuple[dict[str, float], list[Any]]:
    """Values of `losses`, and gradients on the CPU."""
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad.cpu() for weight in module.parameters() if weight.grad is not None]
    return {name: float(value) for name, value in losses.items()}, gradients


def assert_same(on_cuda: tuple[dict[str, float], list[Any]], on_cpu: tuple[dict[str, float], list[Any]]) -> None:
    assert on_cuda[0] == pytest.approx(on_cpu[0], rel=1e-4)
    for ours, theirs in zip(on_cuda[1], on_cpu[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_of_a_world_model_are_computed_on_cuda(variant: str, cuda: None) -> None:
    results = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = LeWorldModel(action_size=2, **{**SIZES, **WEIGHTS, **VARIANTS[variant]})
        size = model.image_size
        batch = Batch(torch.randn(4, 5, 3, size, size).to(device), torch.randn(4, 4, 10).to(device))
        results[device] = differentiate(model.to(device), model.loss(batch, torch.Generator().manual_seed(1)))
    assert_same(results["cuda"], results["cpu"])


@pytest.mark.parametrize("variant", contract.VARIANTS, ids="-".join)
def test_every_method_of_a_model_is_computed_on_cuda(variant: tuple[str, str], cuda: None) -> None:
    results: dict[str, list[torch.Tensor]] = {}
    for device in ("cpu", "cuda"):
        model = contract.make_model(*variant, frameskip=3).to(device)
        pictures = [contract.frames(model, seed=seed).to(device) for seed in range(3)]
        with torch.no_grad():
            first: Belief = model.begin(pictures[0])
            beliefs = [first, model.observe(first, contract.blocks(model, 2).to(device), pictures[1])]
            own = [model.embed(pictures[2]), model.summary(first.latent)]
            if model.policy is not None:
                own += model.policy.act(*own, torch.ones(2, device=device).long())
                own.append(model.policy.steps_to_go(*own[:2]))
            if isinstance(model, WorldModel):
                own += [part for belief in imagined(model, beliefs[1], pictures[2]) for part in belief]
                actions = contract.blocks(model, 2, 3, 5).to(device)
                futures = model.rollout(beliefs[1], actions)
                own += [futures, model.step(first.latent, actions[:, 0, 0]), model.distance(futures, first.latent)]
        own += [part for belief in beliefs for part in belief]
        assert {part.device.type for part in own} == {device}
        results[device] = [part.cpu() for part in own]
    for ours, theirs in zip(results["cuda"], results["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def imagined(model: WorldModel, belief: Belief, pixels: torch.Tensor) -> list[Belief]:
    """Beliefs one imagined block after `belief`, and after an observation that follows it."""
    block = contract.blocks(model, 2).to(pixels.device)
    ahead = model.imagine(belief, block)
    return [ahead, model.observe(ahead, block, pixels)]


@pytest.mark.parametrize("variant", contract.VARIANTS, ids="-".join)
def test_losses_of_every_kind_of_model_are_computed_on_cuda(variant: tuple[str, str], cuda: None) -> None:
    results = {}
    for device in ("cpu", "cuda"):
        model = contract.make_model(*variant, frameskip=3).train()
        batch = contract.make_batch(model, clips=2, length=5)
        batch = Batch(*(None if part is None else part.to(device) for part in batch))  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = model.to(device).loss(batch, torch.Generator().manual_seed(1))
        results[device] = differentiate(model, losses)
    assert_same(results["cuda"], results["cpu"])


def test_losses_of_heads_are_computed_on_cuda(cuda: None) -> None:
    results = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        heads = Heads(latent_size=8, block_size=10, width=16, max_steps=6)
        pairs = torch.randn(7, 8), torch.randn(7, 8), torch.arange(1, 8), torch.randn(7, 10)
        results[device] = differentiate(heads.to(device), heads.loss(*(part.to(device) for part in pairs)))
    assert_same(results["cuda"], results["cpu"])


@pytest.mark.parametrize("processes", [1, 2])
def test_sigreg_and_monitors_are_computed_on_cuda(processes: int, cuda: None) -> None:
    latents = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    expected = float(sigreg(latents, 16, torch.Generator().manual_seed(0)))
    monitors = collapse_monitors(latents)
    with two_processes() if processes == 2 else nullcontext():
        value = float(sigreg(latents.to("cuda"), 16, torch.Generator().manual_seed(0)))
        measured = collapse_monitors(latents.to("cuda"))
    assert value == pytest.approx(processes * expected, rel=1e-4)  # both processes have the same samples
    assert measured["effective_rank"] == pytest.approx(monitors["effective_rank"], rel=1e-4)


def test_probe_reads_latents_on_cuda(cuda: None) -> None:
    latents = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    state = latents[:, :3].double().numpy()
    targets = {"agent": (0, 1), "angle": (2,)}
    assert probe(latents.to("cuda"), state, targets) == pytest.approx(probe(latents, state, targets), rel=1e-4)


# Training


@pytest.fixture
def small_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("lwm_agent.training.frozen_encoder.model_card", lambda _: "card")
    checkpoint().save(tmp_path / "checkpoint", "card")
    return str(tmp_path / "checkpoint")


@pytest.mark.usefixtures("float32")
def test_heads_are_trained_on_cuda(small_checkpoint: str, data: str, tmp_path: Path, cuda: None) -> None:
    weights = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        fixed: dict[str, Any] = {"steps": 3, "batch_size": 8, "width": 16, "max_steps": 4, "save_every": 2}
        train_heads(HeadsConfig(checkpoint=small_checkpoint, data=(data,), out=str(out), device=device, **fixed))
        heads = Checkpoint.load(out).heads
        assert heads is not None
        weights[device] = torch.cat([weight.flatten() for weight in heads.parameters()])
    torch.testing.assert_close(weights["cuda"], weights["cpu"], rtol=0, atol=1e-3)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("model", [{}, {"predictor": "mlp"}])
def test_predictor_is_trained_on_cuda(
    model: dict[str, Any], small_checkpoint: str, data: str, tmp_path: Path, cuda: None
) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        fixed: dict[str, Any] = {
            "steps": 3,
            "batch_size": 8,
            "clip_length": 5,
            "save_every": 2,
            "model_settings": model,
        }
        trained = train_predictor(
            PredictorConfig(checkpoint=small_checkpoint, data=(data,), out=str(out), device=device, **fixed)
        )
        losses[device] = trained.training["predictor"]["validation"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)


class SimulatedFabric(Fabric):
    """Fabric with its device replaced; all else is Fabric's own."""

    def __init__(self, accelerator: str, devices: int, precision: str) -> None:
        super().__init__(accelerator="cpu", devices=1, precision="32-true")
        self.place = torch.device(accelerator)

    @property
    def device(self) -> torch.device:
        return self.place

    def setup(self, module: torch.nn.Module, *optimizers: Any, **settings: Any) -> Any:
        before = [*module.parameters()]
        # On a GPU, parameters stay the same objects when they move. Simulated ones are new: optimizers must know.
        moved = dict(zip(before, module.to(self.place).parameters(), strict=True))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["params"] = [moved[weight] for weight in group["params"]]
        return super().setup(module, *optimizers, **settings, move_to_device=False)

    def to_device(self, obj: Any) -> Any:
        return move_data_to_device(obj, self.place)


TRAINED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lewm": ("lewm", "tiny", {**SIZES, **WEIGHTS, "image_size": 32, "encoder": "conv", "projector_size": 0}),
    "batch norm": ("lewm", "tiny", {**SIZES, **WEIGHTS, "image_size": 32, "encoder": "conv", "projector_size": 12}),
    "gcbc": ("gcbc", "tiny", {"image_size": 32, "latent_size": 8, "width": 16}),
    **{name: (name, next(iter(spec.presets)), {}) for name, spec in TOYS.items()},
}


@pytest.mark.filterwarnings("ignore:the latents are collapsing", "ignore:.*from a non-meta parameter")
@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("kind", TRAINED)
def test_world_model_is_trained_on_cuda(
    kind: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: None
) -> None:
    """Batches, steps, validation, probes, recalibration of BatchNorm, the training state and the checkpoint."""
    monkeypatch.setattr("lwm_agent.training.train.Fabric", SimulatedFabric)
    monkeypatch.setattr("lwm_agent.training.train.validate", partial(validate, num_clips=16))
    monkeypatch.setattr(
        "lwm_agent.training.train.recalibrate_batch_norm", partial(recalibrate_batch_norm, num_batches=1)
    )
    for name, spec in TOYS.items():
        monkeypatch.setitem(MODELS, name, spec)
    name, preset, model_settings = TRAINED[kind]
    every: dict[str, Any] = {"validate_every": 2, "save_every": 1, "batch_size": 4, "clip_length": 4}
    fixed = {"model": name, "model_settings": model_settings, "data": (data,), "keep_state": True, **every}
    losses = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        run = partial(TrainConfig.from_preset, preset, out=str(out), device=device, **fixed)
        losses[device] = train(run(steps=2)).training["validation"]
        resumed = train(run(steps=3), resume=True)
        losses[device] |= {f"{name} later": value for name, value in resumed.training["validation"].items()}
        Checkpoint.load(out / "checkpoint")
    # A share of variance may be near zero, where only its absolute error tells something.
    shares = [name for name in losses["cpu"] if "r2_" in name]
    assert [losses["cuda"].pop(name) for name in shares] == pytest.approx(
        [losses["cpu"].pop(name) for name in shares], rel=1e-2, abs=1e-3
    )
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)

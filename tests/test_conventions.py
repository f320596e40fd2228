"""Data, checkpoint and environment keep to one fidelity, and to one meaning of an action; nobody mixes two."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.compatibility import check_compatible, conventions, different_env
from lwm_agent.data.trajectories import DatasetError, Trajectories
from lwm_agent.envs import ENVS
from lwm_agent.errors import UserError
from lwm_agent.experiments.config import EvalConfig
from lwm_agent.experiments.evaluate import load_tasks, run_evaluation
from lwm_agent.experiments.policies import make_policy
from lwm_agent.models import MODELS, LeWorldModel
from lwm_agent.normalizer import Normalizer
from lwm_agent.training.config import HeadsConfig, TrainConfig
from lwm_agent.training.frozen_encoder import check_fit
from lwm_agent.training.heads import train_heads
from lwm_agent.training.train import train

SMALL = {"latent_size": 8, "width": 16, "head_size": 4, "mlp_size": 16, "depth": 1, "sigreg_directions": 16}


@pytest.mark.parametrize("env", ["pusht", pytest.param("cube", marks=pytest.mark.ogbench)])
def test_arguments_of_environments_are_conventions_or_known_others(env: str) -> None:
    """A new argument of an environment must be filed under one of them."""
    parameters = inspect.signature(resolve_name(ENVS[env].entry_point)).parameters
    assert parameters.keys() == ENVS[env].conventions.keys() | {
        "success",
        "terminate_on_success",
        "render_mode",
        "render_size",
    }
    assert all(parameters[name].default == default for name, default in ENVS[env].conventions.items())


def test_conventions_include_defaults_and_nothing_else() -> None:
    expected = {"image_size": 64, "fidelity": "stock", "shadows": True}
    assert conventions("cube", {"fidelity": "stock", "success": "pose"}) == expected
    assert conventions("lwm/Cube-v0", {"fidelity": "stock"}) == expected
    assert conventions("Pendulum-v1", {"g": 9.0}) == {"g": 9.0}


def test_incompatible_conventions_are_named_with_the_options_of_the_first() -> None:
    def difference(env: str, trained: dict[str, Any], requested: dict[str, Any]) -> str | None:
        try:
            check_compatible(env, trained, requested, trained_by="we have", requested_by="they have", fix=str)
        except UserError as error:
            return str(error)
        return None

    assert difference("cube", {}, {"fidelity": "lite", "success": "pose"}) is None
    assert difference("cube", {"shadows": False, "image_size": 32}, {"fidelity": "stock", "image_size": 32}) == (
        "they have fidelity='stock', shadows=True and we have fidelity='lite', shadows=False: "
        "--set env.fidelity=lite --set env.shadows=false"
    )
    assert str(difference("cube", {"image_size": 32}, {})).endswith(": --image-size 32")
    assert difference("Pendulum-v1", {"g": 9.0}, {"g": 8.0}) == "they have g=8.0 and we have g=9.0: --set env.g=9.0"


@pytest.mark.parametrize(
    ("env", "env_id", "other"),
    [
        ("cube", "lwm/Cube-v0", None),
        ("lwm/Cube-v0", "lwm/Cube-v0", None),
        ("mine", None, None),
        ("Pendulum-v1", "Pendulum-v1", None),
        ("pusht", "lwm/Cube-v0", "cube"),
        ("pusht", "Pendulum-v1", "Pendulum-v1"),
        ("mine", "lwm/PushT-v0", "pusht"),
    ],
)
def test_different_env_names_the_environment_of_the_data(env: str, env_id: str | None, other: str | None) -> None:
    assert different_env(env, env_id) == other


@pytest.mark.ogbench
def test_collection_refuses_to_resume_with_another_fidelity(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"env": "cube", "policy": "random", "episodes": 2, "episode_env_steps": 2, "workers": 1}

    def config(**env_kwargs: Any) -> CollectConfig:
        return CollectConfig(out=tmp_path / "cube.h5", image_size=16, env_kwargs=env_kwargs, **settings)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(config(fidelity="blank"), interrupt)
    with pytest.raises(DatasetError, match=r"\"blank\".* there and .*\"lite\".* here.*Use the same ones"):
        collect(config())
    collect(config(fidelity="blank", shadows=True))  # the default, said or not
    assert Trajectories.open(tmp_path / "cube.h5").env_kwargs == {
        "fidelity": "blank",
        "image_size": 16,
        "shadows": True,
    }


def rewritten(data: str, path: Path, env: str = "pusht", **env_kwargs: Any) -> str:
    """A copy of the pictures and actions that claims other conventions."""
    shutil.copy(data, path)
    with h5py.File(path, "r+") as file:
        file.pop("state", None)
        file.attrs.update(env_id=ENVS[env].env_id if env in ENVS else env, env_kwargs=json.dumps(env_kwargs))
    return str(path)


def train_config(data: str, out: Path, **settings: Any) -> TrainConfig:
    fixed = {
        "steps": 1,
        "batch_size": 4,
        "clip_length": 4,
        "device": "cpu",
        "model_settings": {"image_size": 32, **SMALL},
    }
    return TrainConfig.from_preset("tiny", data=(data,), out=str(out), **{**fixed, **settings})


@pytest.fixture
def cube_data(data: str, tmp_path: Path) -> str:
    return rewritten(data, tmp_path / "stock.h5", "cube", fidelity="stock", success="pose", image_size=32)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_training_takes_the_conventions_of_its_data_and_resumes_with_no_others(cube_data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stock.h5 was recorded in cube, not in pusht: pass --env cube"):
        train(train_config(cube_data, tmp_path / "run"))
    trained = train(train_config(cube_data, tmp_path / "run", env="cube", keep_state=True))
    assert trained.env_kwargs == {
        "fidelity": "stock",
        "image_size": 32,
        "shadows": True,
    }  # how success is judged is not
    lite = rewritten(cube_data, tmp_path / "lite.h5", "cube")
    with pytest.raises(DatasetError, match=r"stock.h5 was recorded with .*'stock' and .*lite.h5 with .*'lite'"):
        train(replace(train_config(cube_data, tmp_path / "both", env="cube"), data=(cube_data, lite)))
    with pytest.raises(ValueError, match=r"env_kwargs was .*'stock'.* and is .*'lite'.*Use the same ones, .* --out"):
        train(train_config(lite, tmp_path / "run", env="cube", steps=2), resume=True)
    copied = rewritten(cube_data, tmp_path / "copy.h5", "cube", fidelity="stock", shadows=True)
    train(train_config(copied, tmp_path / "run", env="cube", steps=2), resume=True)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_training_state_of_an_earlier_version_is_resumed(data: str, tmp_path: Path) -> None:
    train(train_config(data, tmp_path / "run", keep_state=True))
    path = tmp_path / "run" / "training.safetensors"
    with safe_open(path, framework="pt") as file:
        facts = {name: value for name, value in file.metadata().items() if name != "sha256"}
    settings = json.loads(facts["settings"])
    assert settings.pop("env_kwargs") == {"control_mode": "relative", "image_size": 32, "look": "plain"}
    save_file(load_file(path), path, {**facts, "settings": json.dumps(settings)})
    train(train_config(data, tmp_path / "run", steps=2), resume=True)


@pytest.mark.filterwarnings("ignore:the latents are collapsing")
def test_arguments_of_foreign_environments_are_stored_and_compared(data: str, tmp_path: Path) -> None:
    foreign = rewritten(data, tmp_path / "foreign.h5", "Pendulum-v1", g=9.0)
    checkpoint = train(train_config(foreign, tmp_path / "run", env="Pendulum-v1"))
    assert checkpoint.env_kwargs == {"g": 9.0}
    folder = str(tmp_path / "run" / "checkpoint")
    train_heads(HeadsConfig(checkpoint=folder, data=(foreign,), steps=1, batch_size=2, width=8, device="cpu"))
    other = rewritten(data, tmp_path / "other.h5", "Pendulum-v1", g=8.0)
    with pytest.raises(DatasetError, match=r"has g=8.0 and .* trained with g=9.0: collect with --set env.g=9.0"):
        train_heads(HeadsConfig(checkpoint=folder, data=(other,), steps=1, device="cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An untrained checkpoint for lite pictures of the cube, of a version that did not store defaults."""
    config = {**MODELS["lewm"].presets["tiny"], **SMALL, "image_size": 32, "action_size": 2}
    units = {"action_mean": (0.0,) * 2, "action_std": (1.0,) * 2, "action_low": (-1.0,) * 2, "action_high": (1.0,) * 2}
    Checkpoint(
        name="lewm",
        model_config=config,
        model=LeWorldModel(**config).eval(),
        normalizer=Normalizer(pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3, **units),
        env="cube",
        env_kwargs={"image_size": 32},
    ).save(tmp_path / "checkpoint", "# card\n")
    return str(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("env", "env_kwargs", "message"),
    [
        (
            "cube",
            {"fidelity": "stock"},
            r"made.h5 has fidelity='stock' and .* with fidelity='lite': collect with --set env.fidelity=lite, or",
        ),
        ("cube", {"shadows": False}, r"shadows=False and .* shadows=True: collect with --set env.shadows=true"),
        ("pusht", {}, r"made.h5 was recorded in pusht and .* trained for cube: collect with --env cube"),
    ],
)
def test_heads_are_not_trained_on_other_pictures(
    data: str, folder: str, tmp_path: Path, env: str, env_kwargs: dict[str, Any], message: str
) -> None:
    made = rewritten(data, tmp_path / "made.h5", env, **env_kwargs)
    with pytest.raises(DatasetError, match=message):
        train_heads(HeadsConfig(checkpoint=folder, data=(made,), steps=1, device="cpu"))


def test_data_fit_with_equal_or_unrecorded_conventions(data: str, folder: str, tmp_path: Path) -> None:
    same = rewritten(data, tmp_path / "same.h5", "cube", fidelity="lite", success="pose")
    unknown = tmp_path / "unknown.h5"
    shutil.copy(data, unknown)
    with h5py.File(unknown, "r+") as file:
        del file.attrs["env_id"], file.attrs["env_kwargs"]
    for path in (same, unknown):
        check_fit(Checkpoint.load(folder), Trajectories.open(path))


def eval_config(tmp_path: Path, **settings: Any) -> EvalConfig:
    fixed = {"env": "cube", "planner": "cem", "episodes": 1, "device": "cpu", "output_dir": tmp_path / "out"}
    return EvalConfig(**{**fixed, **settings})


def test_evaluation_uses_the_conventions_of_the_checkpoint(folder: str, tmp_path: Path) -> None:
    for env_settings in ({}, {"fidelity": "lite"}, {"shadows": True, "image_size": 32}):
        config = eval_config(tmp_path, checkpoint=folder, env_settings=env_settings)
        assert make_policy(config, load_tasks(config)).env_kwargs == {
            "fidelity": "lite",
            "image_size": 32,
            "shadows": True,
        }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "fidelity",
            "stock",
            "--set env asks for fidelity='stock' and checkpoint .* was trained with fidelity='lite': leave",
        ),
        ("shadows", False, "asks for shadows=False and .* with shadows=True"),
        ("image_size", 64, "asks for image_size=64 and .* with image_size=32"),
    ],
)
def test_evaluation_refuses_other_conventions_than_the_checkpoint_s(
    folder: str, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    config = eval_config(tmp_path, checkpoint=folder, env_settings={name: value})
    with pytest.raises(ValueError, match=message):
        make_policy(config, load_tasks(config))
    assert not config.output_dir.exists()


def test_evaluation_refuses_tasks_of_another_fidelity(folder: str, tmp_path: Path) -> None:
    tasks = tmp_path / "stock.json"
    replace(load_tasks(eval_config(tmp_path)), env_kwargs={"fidelity": "stock", "success": "pose"}).save(tasks)
    config = eval_config(tmp_path, checkpoint=folder, tasks=tasks)
    with pytest.raises(ValueError, match=r"task file .*stock.json asks for fidelity='stock' and .* fidelity='lite'"):
        make_policy(config, load_tasks(config))


def test_evaluation_refuses_to_change_the_success_criterion(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"env.success cannot be chosen .*: choose from image_size, fidelity, shadows"):
        eval_config(tmp_path, env_settings={"success": "position"})


@pytest.mark.parametrize("planner", ["random", "none", "replay"])
def test_policies_without_a_model_take_any_conventions(tmp_path: Path, planner: str) -> None:
    config = eval_config(tmp_path, env="pusht", planner=planner, env_settings={"image_size": 48}, with_floors=False)
    entrant = make_policy(config, load_tasks(config))
    assert entrant.env_kwargs == {"image_size": 48}
    if planner == "replay":
        run_evaluation(config)
        results = json.loads((config.output_dir / "results.json").read_text())
        assert results["run"]["tasks"]["env_kwargs"] == {"image_size": 48}
    else:
        actions, _ = entrant.policy.predict({"pixels": np.zeros((3, 48, 48, 3)), "goal": np.zeros((3, 48, 48, 3))})
        assert actions.shape == (3, 2)

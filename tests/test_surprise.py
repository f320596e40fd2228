"""`lwm-agent surprise`: impossible events in recorded clips."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import pytest

from lwm_agent.checkpoint import Checkpoint, checksum
from lwm_agent.collect.config import CollectConfig
from lwm_agent.collect.record import collect
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.errors import UserError
from lwm_agent.eval.events import GENERIC
from lwm_agent.eval.state_events import EVENTS
from lwm_agent.experiments.surprise import run_surprise
from lwm_agent.experiments.surprise_config import SurpriseConfig
from lwm_agent.training.held_out import data_files, unseen_episodes

from .commands import run


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight episodes of play on Push-T."""
    out = tmp_path_factory.mktemp("play") / "play.h5"
    collect(CollectConfig(out=str(out), env="pusht", episodes=8, episode_env_steps=60, seed=5, workers=1))
    return out


def settings(data: Path, out: Path, **changed: Any) -> SurpriseConfig:
    config = SurpriseConfig(checkpoint="pusht-tiny", data=data, out=out, clips=12, steps=3, device="cpu")
    return replace(config, **changed)


def test_the_command_measures_every_event_and_draws_them(play: Path, tmp_path: Path) -> None:
    printed = run(f"surprise --checkpoint pusht-tiny --data {play} --clips 12 --steps 3 --device cpu --out s", tmp_path)
    assert "wrote s/results.json, surprise.png, surprise.svg and events.png" in printed
    results = json.loads((tmp_path / "s" / "results.json").read_text("utf-8"))
    assert results["events"].keys() | results["left_out"].keys() == EVENTS["pusht"].keys() | GENERIC.keys()
    assert results["left_out"].keys() <= {"block-not-pushed"}  # nothing but pushing is rare in short play
    assert results["data"]["episodes"] == 8
    assert results["control"]["steps"] == 12 * 6
    for name, event in results["events"].items():
        assert 0 <= event["at_once"]["low"] <= event["at_once"]["value"] <= event["at_once"]["high"] <= 1, name
        assert len(event["event"]["mean"]) == 6
        assert event["event"]["mean"][:2] == event["control"]["mean"][:2]  # the past is the same
        assert event["event"]["mean"][2] != event["control"]["mean"][2]
    for name in ("teleport-agent", "teleport-block", "cut"):
        assert results["events"][name]["at_once"]["value"] > 0.95
        assert results["events"][name]["effect"] > 0.9
        assert results["events"][name]["n"] == 12
    assert iio.imread(tmp_path / "s" / "surprise.png").std() > 10
    assert iio.imread(tmp_path / "s" / "events.png").std() > 10
    assert "teleport-agent" in (tmp_path / "s" / "surprise.svg").read_text("utf-8")


@pytest.mark.ogbench
def test_the_cube_has_events_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "cube.h5"
    collect(CollectConfig(out=str(data), env="cube", episodes=3, episode_env_steps=31, seed=5, workers=1))
    events = ("teleport-cube", "vanish-cube", "freeze")
    measured = run_surprise(settings(data, tmp_path / "s", checkpoint="cube-tiny", clips=6, events=events))
    assert measured.outcomes.keys() == set(events)
    assert measured.outcomes["teleport-cube"].at_once.value > 0.8


@pytest.mark.parametrize("checkpoint", ["pusht-tiny", "pusht-dreamer"])
def test_the_same_seed_measures_the_same(checkpoint: str, play: Path, tmp_path: Path) -> None:
    events = ("teleport-block", "wrong-actions")
    changed = {"checkpoint": checkpoint, "events": events, "clips": 6}
    first, again, other = (
        run_surprise(settings(play, tmp_path / str(number), **changed, seed=seed))
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert first.outcomes["teleport-block"].control != other.outcomes["teleport-block"].control


def changed_copy(data: Path, path: Path, change: str) -> Path:
    path.write_bytes(data.read_bytes())
    with h5py.File(path, "r+") as file:
        if change == "no states":
            del file["state"]
        elif change == "another renderer":
            file["pixels"][:] = np.clip(file["pixels"][:].astype(int) - 40, 0, 255).astype(np.uint8)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [("no states", "the data have no states"), ("another renderer", "draws recorded states otherwise")],
)
def test_data_that_cannot_be_redrawn_have_the_generic_events(
    change: str, reason: str, play: Path, tmp_path: Path
) -> None:
    data = changed_copy(play, tmp_path / "changed.h5", change)
    measured = run_surprise(settings(data, tmp_path / "s", clips=4))
    assert measured.outcomes.keys() == GENERIC.keys()
    assert measured.left_out.keys() == EVENTS["pusht"].keys()
    assert all(reason in why for why in measured.left_out.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"events": ("earthquake",)}, "--events earthquake is unknown: choose from teleport-agent, "),
        ({"checkpoint": "pusht-gcbc"}, "imagines no futures"),
        ({"checkpoint": "cube-tiny"}, "was recorded in pusht and the checkpoint was trained for cube"),
        ({"steps": 10}, "a clip of 21 frames at frameskip 5 needs an episode of 101 frames"),
    ],
)
def test_what_cannot_be_measured_is_named(changed: dict[str, Any], message: str, play: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_surprise(settings(play, tmp_path / "s", **changed))
    assert not (tmp_path / "s").exists()


def test_one_episode_is_not_enough(tmp_path: Path) -> None:
    data = tmp_path / "one.h5"
    collect(CollectConfig(out=str(data), env="pusht", episodes=1, episode_env_steps=60, workers=1))
    with pytest.raises(UserError, match="has 1 held-out episodes: surprise needs clips of 2, collect more"):
        run_surprise(settings(data, tmp_path / "s"))


def test_episodes_that_were_trained_on_are_not_used(play: Path) -> None:
    file = Trajectories.open(play)
    record = {"data_files": data_files([file], seed=3, validation=0.25)}
    held_out = unseen_episodes(record, file)
    assert len(held_out) == 2
    assert unseen_episodes({"before": record}, file).tolist() == held_out.tolist()
    assert unseen_episodes(Checkpoint.load("cube-dino-wm-lite").training, file).tolist() == list(range(8))


@pytest.mark.parametrize("name", ["pusht-tiny", "pusht-dreamer", "cube-tiny"])
def test_the_page_has_the_numbers_of_its_files(name: str) -> None:
    docs = Path(__file__).parent.parent / "docs"
    page = (docs / "surprise.md").read_text("utf-8")
    results = json.loads((docs / f"surprise-{name}.json").read_text("utf-8"))
    assert results["checkpoint"] == checksum(name)
    assert results["clips"] == 200
    for event, outcome in results["events"].items():
        (row,) = re.findall(
            rf"^\| {event}[ :].*$", page.split(f"| `{name}")[-1] if name == "cube-tiny" else page, re.M
        )[:1]
        for kind in ("at_once", "later"):
            area = outcome[kind]
            assert f"{area['value']:.3f} ({area['low']:.3f}\N{EN DASH}{area['high']:.3f})" in row, event
        assert outcome["n"] == 200 or f"(n = {outcome['n']})" in row

"""Every file that the package writes: killed at any moment, or with a full disk, the old or the new contents are there.

The recording of trajectories has tests of its own in test_dataset, the cache of latents in test_latent_cache.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.errors import UserError
from lwm_agent.eval.episode_log import EpisodeLog
from lwm_agent.eval.results_file import parse_results, save_results
from lwm_agent.eval.tasks import TaskSet, make_tasks
from lwm_agent.files import read_text, write_text

from . import mutations
from .interruptions import die_at, fail_at, in_a_child, limit_files
from .mutations import FINGERPRINT, make_episode, training_state, write_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@dataclass(frozen=True)
class Writer:
    """A kind of file or folder.

    Attributes:
        write: writes version 0, 1 or 2 of it in a folder.
        read: the version that a reader sees.
    """

    write: Callable[[Path, int], None]
    read: Callable[[Path], int]


def write_note(folder: Path, version: int) -> None:
    write_text(folder / "note.md", f"version {version}\n" * 100)


def read_note(folder: Path) -> int:
    text = read_text(folder / "note.md")
    version = int(text.split()[1])
    assert text == f"version {version}\n" * 100
    return version


@cache
def template() -> Checkpoint:
    with TemporaryDirectory() as folder:
        return Checkpoint.load(write_checkpoint(Path(folder)))


def save_checkpoint(folder: Path, version: int) -> None:
    loaded = template()
    replace(loaded, training={**loaded.training, "version": version}).save(folder / "model", f"card {version}")


def read_checkpoint(folder: Path) -> int:
    version = Checkpoint.load(folder / "model").training["version"]
    assert (folder / "model" / "README.md").read_text() == f"card {version}"
    assert len([*(folder / "model").iterdir()]) == 4
    return int(version)


def save_state(folder: Path, version: int) -> None:
    model, optimizer, state = training_state(folder)
    for _ in range(version + 1):
        model(torch.ones(3, 7)).sum().backward()
        optimizer.step()
    state.save(version + 1)


def read_state(folder: Path) -> int:
    return int(training_state(folder)[2].load()) - 1


@cache
def run_of_results() -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return json.loads(mutations.write_results(Path(folder)).read_text("utf-8"))["run"]  # type: ignore[no-any-return]


def write_results(folder: Path, version: int) -> None:
    run = {**run_of_results(), "seed": version}
    run["tasks"] = {**run["tasks"], "n": 4 + version}
    save_results(folder, run, [make_episode(index) for index in range(4 + version)])


def read_results(folder: Path) -> int:
    results = parse_results(folder / "results.json")
    assert len(results.solved) == 4 + results.run["seed"]
    return int(results.run["seed"])


@cache
def tasks() -> TaskSet:
    return make_tasks("pusht", 5, 3, 0)


def write_tasks(folder: Path, version: int) -> None:
    replace(tasks(), budget_env_steps=50 + version).save(folder / "tasks.json")


WRITERS = {
    "text": Writer(write_note, read_note),
    "checkpoint": Writer(save_checkpoint, read_checkpoint),
    "training state": Writer(save_state, read_state),
    "results": Writer(write_results, read_results),
    "tasks": Writer(write_tasks, lambda folder: TaskSet.load(folder / "tasks.json").budget_env_steps - 50),
}


def new_folder(folder: Path, writer: Writer) -> Path:
    """A folder that holds version 0."""
    folder.mkdir()
    writer.write(folder, 0)
    return folder


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("name", WRITERS)
def test_writer_killed_at_any_call_leaves_old_or_new(name: str, tmp_path: Path) -> None:
    writer, seen = WRITERS[name], set()
    for place in count(step=3 if name == "checkpoint" else 1):  # test_files stops the swap of folders at every call
        folder = new_folder(tmp_path / str(place), writer)

        def killed(folder: Path = folder, place: int = place) -> None:
            die_at(place)
            writer.write(folder, 1)

        status = in_a_child(killed)
        seen.add(writer.read(folder))
        writer.write(folder, 2)
        assert writer.read(folder) == 2
        assert visible(folder) == visible(tmp_path / "0")
        if status == 0:
            break
        assert status == 9
    assert place >= 4
    assert seen == {0, 1}


def sizes(folder: Path) -> list[int]:
    """Sizes at which a write of a file could stop."""
    full = sorted({path.stat().st_size for path in folder.rglob("*") if path.is_file()})
    return [0, 1, *(part for size in full for part in (size // 2, size - 1))]


@pytest.mark.parametrize("name", WRITERS)
def test_writer_killed_within_a_file_leaves_the_old_contents(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    for size in sizes(new_folder(tmp_path / "whole", writer)):
        folder = tmp_path / str(size)
        if folder.exists():
            continue
        new_folder(folder, writer)

        def killed(folder: Path = folder, size: int = size) -> None:
            limit_files(size, deadly=True)
            writer.write(folder, 1)

        assert in_a_child(killed) < 0
        # results.csv is written after results.json
        assert writer.read(folder) in ((0, 1) if name == "results" else (0,))
        writer.write(folder, 2)
        assert writer.read(folder) == 2
        assert visible(folder) == visible(tmp_path / "whole")


def error_of(action: Callable[[], None], folder: Path, prepare: Callable[[], None]) -> str:
    """Message of the `UserError` that `action` raises in a child process; "" if it raises none."""
    reader, sender = os.pipe()
    real = os.write

    def child() -> None:
        prepare()
        try:
            action()
        except UserError as error:
            real(sender, str(error).encode())

    assert in_a_child(child) == 0
    os.close(sender)
    with open(reader, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_named_and_leaves_the_old_contents(name: str, tmp_path: Path) -> None:
    """Whichever file or call it is that finds no more room."""
    writer = WRITERS[name]
    whole = new_folder(tmp_path / "whole", writer)
    causes: list[tuple[str, Callable[[], None]]] = [
        (f"size {size}", lambda size=size: limit_files(size, deadly=False))
        for size in sizes(whole)  # type: ignore[misc]
    ]
    causes += [(f"call {place}", lambda place=place: fail_at(place, errno.ENOSPC)) for place in range(40)]  # type: ignore[misc]
    failed = set()
    for cause, prepare in causes:
        folder = tmp_path / cause
        if folder.exists():
            continue
        new_folder(folder, writer)
        message = error_of(lambda folder=folder: writer.write(folder, 1), folder, prepare)  # type: ignore[misc]
        if not message:
            assert writer.read(folder) == 1
            break
        failed.add(cause.split()[0])
        assert re.search(r"cannot be \w+: the (disk is full|file system takes no file of this size)", message), message
        assert str(folder) in message
        assert writer.read(folder) in (0, 1)
        assert visible(folder) == visible(whole)
        writer.write(folder, 2)
        assert writer.read(folder) == 2
    assert failed == {"size", "call"}
    assert not message


def test_log_of_episodes_torn_at_any_byte_goes_on(tmp_path: Path) -> None:
    def run(folder: Path, last: int) -> bytes:
        log = EpisodeLog(folder / "episodes.jsonl", FINGERPRINT)
        for index in range(last):
            if index not in log.episodes:
                log.append(make_episode(index))
        return (folder / "episodes.jsonl").read_bytes()

    whole = run(tmp_path, 4)
    first = len(run(tmp_path / "first", 1)) if (tmp_path / "first").mkdir() is None else 0
    for size in range(first, len(whole), 37):
        folder = tmp_path / str(size)
        folder.mkdir()
        run(folder, 1)

        def killed(folder: Path = folder, size: int = size) -> None:
            limit_files(size, deadly=True)
            run(folder, 4)

        assert in_a_child(killed) < 0
        assert run(folder, 4) == whole

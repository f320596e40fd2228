"""Files that the package reads, the ways in which they go wrong, and the worker that reads them.

A `Subject` is a kind of file: a function that writes a valid one, and one that reads it as the package does and returns
its contents. A `Mutation` damages the file. `cases` lists the combinations; `worker` runs them, one a line of its
standard input, and answers with one JSON line each:

=========  ============================================================================================
refused    a `UserError` whose message names the file
same       read, with the contents of the undamaged file
other      read, with other contents: right for an edited value that is as good as the one before
unclear    a `UserError` whose message does not say which file
traceback  any other exception
memory     more than 4 GB
hang       no answer in time (the parent process notices)
crash      the worker process died (the parent process notices)
=========  ============================================================================================
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from lwm_agent.errors import UserError

SECONDS = 20
"""Time for one case: most take less than a second."""
MEMORY = 4 * 2**30

Rng = np.random.Generator


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        write: makes a valid one in an empty folder, and returns its path.
        read: its contents, as the package reads them, in comparable types.
        form: "binary", "json", "jsonl" or "hdf5": which mutations fit.
        protected: which changes of the contents a checksum must find: "" none, "bytes" those of damaged bytes, "all"
            those of another program that writes the format, too.
        lacks: column of a data set that it has not, so that the column's mutations do not fit.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    form: str
    protected: str
    lacks: str | None = None


@dataclass(frozen=True)
class Mutation:
    """A way to damage a file.

    Attributes:
        apply: changes the file at a path.
            It may return True: the result could be right with other contents.
        repeat: number of variants, each with its own random numbers.
        must_fail: whether nothing but an error, or the same contents, can be right.
        of_bytes: whether it damages bytes, whatever they mean.
    """

    apply: Callable[[Path, Rng], bool | None]
    repeat: int = 1
    must_fail: bool = True
    of_bytes: bool = False


# What is read

MODEL: dict[str, Any] = {
    **{"image_size": 32, "encoder": "conv", "encoder_hidden": 8, "latent_size": 8, "projector_size": 0, "history": 2},
    **{"depth": 1, "width": 16, "heads": 2, "head_size": 4, "mlp_size": 16, "action_size": 2, "frameskip": 5},
}


def write_trajectories(folder: Path) -> Path:
    with new_writer(folder / "data.h5") as writer:
        add_episodes(writer, 0, 5)
    return folder / "data.h5"


def new_writer(path: Path, **settings: Any) -> Any:
    from lwm_agent.data.writer import TrajectoryWriter

    env_kwargs = {"image_size": 32, "control_mode": "relative"}
    bounds = {"action_low": [-1, -1], "action_high": [1, 1]}
    return TrajectoryWriter(path, env_id="lwm/PushT-v0", env_kwargs=env_kwargs, **bounds, **settings)


def add_episodes(writer: Any, first: int, last: int) -> None:
    for episode in range(first, last):
        rng = np.random.default_rng(episode)
        pixels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
        writer.add(pixels, rng.uniform(-1, 1, (11, 2)).astype(np.float32), rng.uniform(0, 500, (12, 7)))


def read_trajectories(path: Path) -> Any:
    """All columns, the attributes, and random clips."""
    from lwm_agent.data.clips import Windows
    from lwm_agent.data.trajectories import Trajectories

    contents = []
    for in_memory in (True, False):
        file = Trajectories.open(path, in_memory=in_memory)
        episodes = [file.episode(index) for index in range(file.num_episodes)]
        clips = Windows(file, np.arange(file.num_episodes), 2, 5).sample(4, np.random.default_rng(0))
        columns = [None if column is None else column.tobytes() for column in (*clips, file.state, file.action)]
        bounds = [
            None if bound is None else np.asarray(bound).tolist() for bound in (file.action_low, file.action_high)
        ]
        contents.append(
            [[part.tobytes() for part in episode if part is not None] for episode in episodes]
            + [columns, bounds, file.env_id, file.env_kwargs, file.discrete, file.image_size]
        )
    return contents


def write_partial(folder: Path) -> Path:
    class StopError(Exception):
        pass

    try:
        with new_writer(folder / "data.h5") as writer:
            add_episodes(writer, 0, 3)
            raise StopError
    except StopError:
        pass
    return next(path for path in sorted(folder.rglob("*")) if path.is_file() and "partial" in str(path))


def read_partial(path: Path) -> Any:
    """The finished file: a resumed recording must equal one that was never interrupted."""
    target = next(folder for folder in path.parents if (folder / ".case").exists()) / "data.h5"
    with new_writer(target, resume=True) as writer:
        add_episodes(writer, writer.num_episodes, 5)
    return read_trajectories(target)


def write_archive(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.integers(0, 256, (14, 64, 64, 3), np.uint8),
        "actions": rng.uniform(-1, 1, (14, 5)).astype(np.float32),
        "terminals": np.arange(14) % 7 == 6,
        "qpos": rng.uniform(-1, 1, (14, 21)).astype(np.float32),
        "qvel": rng.uniform(-1, 1, (14, 20)).astype(np.float32),
    }
    np.savez_compressed(folder / "cube.npz", **columns)
    return folder / "cube.npz"


def read_archive(path: Path) -> Any:
    from lwm_agent.data.ogbench_npz import convert
    from lwm_agent.data.trajectories import Trajectories

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        convert(path, Path(folder) / "out.h5")
        file = Trajectories.open(Path(folder) / "out.h5", in_memory=True)
        return [np.asarray(column).tobytes() for column in (file.pixels, file.action, file.state, file.lengths)]


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint with heads, and with the account of its training that a trained one has."""
    import torch

    from lwm_agent.checkpoint import Checkpoint
    from lwm_agent.models import Heads, LeWorldModel
    from lwm_agent.normalizer import Normalizer
    from lwm_agent.training.config import TrainConfig

    torch.manual_seed(0)
    model = LeWorldModel(**MODEL).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    two = {"action_mean": (0.1, 0.0), "action_std": (0.4, 0.3), "action_low": (-0.8, -1.0), "action_high": (0.9, 1.0)}
    three = {"pixel_mean": (0.9, 0.8, 0.7), "pixel_std": (0.2, 0.1, 0.3)}
    recipe = TrainConfig.from_preset("tiny", data=("x.h5",), out="run", steps=2)
    facts = {"set": {}, "frames": 60, "changes": [], "hardware": "a computer", "seconds": 60.0}
    part = {"checkpoint": "run", "data": ["x.h5"], "steps": 2, "batch_size": 4, "seed": 0, "seconds": 1.0}
    Checkpoint(
        name="lewm",
        model_config=MODEL,
        model=model,
        normalizer=Normalizer(**two, **three),  # type: ignore[arg-type]
        env="pusht",
        env_kwargs={"image_size": 32, "control_mode": "relative"},
        training={
            **json.loads(json.dumps(vars(recipe))),
            **facts,
            "validation": {"prediction": 0.5},
            "heads": {**part, "validation": {"actor": 0.1}, "set": {}, "frames": 60, "changes": []},
        },
        heads=Heads(latent_size=8, block_size=10, width=16, max_steps=6).eval(),
        cost="best-step+10*actor-deviation",
    ).save(folder / "checkpoint", "card")
    return folder / "checkpoint"


def read_checkpoint(path: Path) -> Any:
    """Units, conventions and weights; whether the agent plans with it, and whether a card can be written of it."""
    from lwm_agent import Agent
    from lwm_agent.agent.agent import default_planner
    from lwm_agent.checkpoint import Checkpoint, checksum
    from lwm_agent.model_card import model_card
    from lwm_agent.planners import make_planner

    folder = path if path.is_dir() and path.name == "checkpoint" else path.parent
    checkpoint = Checkpoint.load(folder)
    checksum(folder)
    model_card(checkpoint)
    small = {"num_samples": 4, "num_elites": 2, "iterations": 1}
    planner = make_planner(default_planner(checkpoint), **small)
    agent = Agent(checkpoint, planner, device="cpu", bf16=False, num_proposals=1, horizon=2, max_rollouts=8)
    rng = np.random.default_rng(0)
    size = int(checkpoint.model.image_size)  # type: ignore[arg-type]
    action, _ = agent.predict({name: rng.integers(0, 256, (size, size, 3), np.uint8) for name in ("pixels", "goal")})
    if not np.isfinite(action).all():
        raise AssertionError(f"the agent's action is {action}")
    parts = [checkpoint.model, *([] if checkpoint.heads is None else [checkpoint.heads])]
    weights = [weight.numpy().tobytes() for part in parts for weight in part.state_dict().values()]
    own = (checkpoint.name, checkpoint.env, checkpoint.env_kwargs, checkpoint.cost, str(checkpoint.normalizer))
    return [weights, own, action.tolist()]


def file_of_checkpoint(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_checkpoint(folder) / name


def file_without_hashes(name: str) -> Callable[[Path], Path]:
    """A file of a checkpoint as version 0.1 wrote it, or as somebody edited it who took out the hashes."""

    def write(folder: Path) -> Path:
        path = write_checkpoint(folder)
        config = json.loads((path / "config.json").read_text("utf-8"))
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "sha256"}), "utf-8")
        return path / name

    return write


def training_state(folder: Path) -> Any:
    import torch

    from lwm_agent.training.state import TrainingState

    torch.manual_seed(0)
    model = torch.nn.Linear(7, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    settings = {"steps": 10, "data": ["x.h5"], "seed": 0, "batch_size": 8}
    return model, optimizer, TrainingState(folder, model, optimizer, settings)


def write_state(folder: Path) -> Path:
    import torch

    model, optimizer, state = training_state(folder)
    model(torch.ones(3, 7)).sum().backward()
    optimizer.step()
    state.begin()
    state.save(4)
    return folder / "training.safetensors"


def write_old_state(folder: Path) -> Path:
    """A state as version 0.1 wrote it, without a hash."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = write_state(folder)
    with safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "sha256"}
    save_file(load_file(path), path, metadata)
    return path


def read_state(path: Path) -> Any:
    model, optimizer, state = training_state(path.parent)
    step = state.load()
    moments = [optimizer.state[weight] for weight in model.parameters()]
    numbers = [{name: value.tolist() for name, value in moment.items()} for moment in moments]
    return [step, [weight.tolist() for weight in model.parameters()], numbers, state.changes]


def make_episode(index: int) -> Any:
    from lwm_agent.eval.episode import Episode

    return Episode(
        index=index,
        success=index % 2 == 0,
        solved_at_start=False,
        steps_to_success=12 if index % 2 == 0 else None,
        final_errors={"block_px": 3.5, "angle_rad": 0.1},
        min_errors={"block_px": 2.5, "angle_rad": 0.05},
        num_decisions=3,
        plan_ms=(10.0, 11.0, 12.5),
        rollouts=64.0,
        flops=2e9,
        seconds=0.5,
    )


def write_tasks(folder: Path) -> Path:
    from lwm_agent.eval.tasks import make_tasks

    make_tasks("pusht", 5, 3, 0).save(folder / "tasks.json")
    return folder / "tasks.json"


def read_tasks(path: Path) -> Any:
    """The tasks, and what becomes of them in an evaluation of a policy that does nothing."""
    from lwm_agent.eval.evaluate import evaluate
    from lwm_agent.eval.floors import NoOpPolicy
    from lwm_agent.eval.tasks import TaskSet

    tasks = TaskSet.load(path)
    episodes = evaluate(NoOpPolicy(Box(-1, 1, (2,), np.float32)), tasks)
    return [tasks.sha256, [episode.success for episode in episodes]]


def write_results(folder: Path) -> Path:
    from lwm_agent.eval.results_file import save_results

    episodes = [make_episode(index) for index in range(4)]
    tasks = {"protocol": "strict", "split": "test", "offset_env_steps": 25, "sha256": "0" * 64, "seed": 1}
    tasks |= {"env": "pusht", "env_id": "lwm/PushT-v0", "env_kwargs": {}, "budget_env_steps": 50, "n": 4}
    agent = {"cost": "best-step", "proposal": None, "replan_every_env_steps": 5, "horizon": 5}
    planner = {"name": "cem", "checkpoint": "1" * 64, "settings": {"num_samples": 64}, "agent": agent, "budget": {}}
    run = {"tasks": tasks, "planner": planner, "seed": 0, "command": "lwm-agent eval --set num_samples=64"}
    save_results(folder, run, episodes, {"random": episodes, "none": episodes})
    shutil.copy(folder / "results.json", folder / "others.json")
    return folder / "results.json"


def read_results(path: Path) -> Any:
    from dataclasses import astuple

    from lwm_agent.eval.compare import compare
    from lwm_agent.eval.report import compact_table, markdown_table

    other = path.parent / "others.json"
    tables = [make([path], path.parent) for make in (markdown_table, compact_table)]
    return [astuple(compare(path, other)), tables]


FINGERPRINT = {"tasks": "0" * 64, "checkpoint": "1" * 64, "planner": {"name": "cem"}, "seed": 0}


def write_episodes(folder: Path) -> Path:
    from lwm_agent.eval.episode_log import EpisodeLog

    log = EpisodeLog(folder / "episodes.jsonl", FINGERPRINT)
    for index in range(4):
        log.append(make_episode(index))
    return folder / "episodes.jsonl"


def read_episodes(path: Path) -> Any:
    """The log's episodes, and those that it lacks, run again; their summary and their table."""
    from lwm_agent.eval.episode_log import EpisodeLog
    from lwm_agent.eval.results_file import save_results

    log = EpisodeLog(path, FINGERPRINT)
    for index in {*range(4)} - {*log.episodes}:
        log.append(make_episode(index))
    episodes = [log.episodes[index] for index in sorted(log.episodes)]
    return [episodes, save_results(path.parent, {}, episodes)]


SUBJECTS = {
    "trajectories": Subject(write_trajectories, read_trajectories, "hdf5", "bytes"),
    "partial recording": Subject(write_partial, read_partial, "hdf5", "all", lacks="ep_offset"),
    "npz": Subject(write_archive, read_archive, "binary", "bytes"),
    "config": Subject(file_of_checkpoint("config.json"), read_checkpoint, "json", ""),
    "weights": Subject(file_of_checkpoint("model.safetensors"), read_checkpoint, "safetensors", "all"),
    "heads": Subject(file_of_checkpoint("heads.safetensors"), read_checkpoint, "safetensors", "all"),
    "training state": Subject(write_state, read_state, "safetensors", "bytes"),
    "plain config": Subject(file_without_hashes("config.json"), read_checkpoint, "json", ""),
    "plain weights": Subject(file_without_hashes("model.safetensors"), read_checkpoint, "safetensors", ""),
    "old training state": Subject(write_old_state, read_state, "safetensors", ""),
    "tasks": Subject(write_tasks, read_tasks, "json", ""),
    "results": Subject(write_results, read_results, "json", ""),
    "episodes": Subject(write_episodes, read_episodes, "jsonl", ""),
}

# Damage to any file


def flip_bit(path: Path, rng: Rng) -> None:
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def truncate(path: Path, rng: Rng) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(1, len(data)))])


def append(path: Path, rng: Rng) -> None:
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 100))))


def clear_range(path: Path, rng: Rng) -> None:
    """Zeros, as a file has where a disk was full or a system crashed."""
    data = bytearray(path.read_bytes())
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 1 + min(512, len(data) - start)))
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


def empty(path: Path, rng: Rng) -> None:
    path.write_bytes(b"")


def garbage(path: Path, rng: Rng) -> None:
    path.write_bytes(rng.bytes(1000))


def remove(path: Path, rng: Rng) -> None:
    path.unlink()


def folder(path: Path, rng: Rng) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path, rng: Rng) -> None:
    path.unlink()
    os.mkfifo(path)


def socket_file(path: Path, rng: Rng) -> None:
    import socket

    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def device(path: Path, rng: Rng) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def dangling_link(path: Path, rng: Rng) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def looping_link(path: Path, rng: Rng) -> None:
    path.unlink()
    path.symlink_to(path.name)


def good_link(path: Path, rng: Rng) -> None:
    """A link to the file itself, moved elsewhere: nothing is wrong."""
    moved = path.with_name("moved-" + path.name)
    if not (path.parent / "config.json").exists():
        path.rename(moved)
        path.symlink_to(moved.name)


UNREADABLE = "no permission"


def forbid(path: Path, rng: Rng) -> None:
    """Takes away the right to read it, which a case of `UNREADABLE` does without the rights of root."""
    path.chmod(0)


ANY = {
    UNREADABLE: Mutation(forbid),
    "bit flip": Mutation(flip_bit, repeat=12, must_fail=False, of_bytes=True),
    "truncation": Mutation(truncate, repeat=6, must_fail=False, of_bytes=True),
    "appended bytes": Mutation(append, repeat=2, of_bytes=True),
    "zeros": Mutation(clear_range, repeat=6, of_bytes=True),
    "empty": Mutation(empty),
    "garbage": Mutation(garbage),
    "missing": Mutation(remove, must_fail=False),
    "folder": Mutation(folder),
    "fifo": Mutation(fifo),
    "socket": Mutation(socket_file),
    "device": Mutation(device),
    "dangling link": Mutation(dangling_link),
    "looping link": Mutation(looping_link),
    "link": Mutation(good_link),
}

# Damage to JSON

Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value; of long lists, the first two entries."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


def value_at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def replaced(value: Any, place: Place, new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


VALUES: dict[str, Any] = {
    **{"null": None, "true": True, "minus one": -1, "zero": 0, "huge": 10**30, "fraction": 1.5, "nan": float("nan")},
    **{"infinity": float("inf"), "no text": "", "text": "a|b\n<script>", "no list": [], "no object": {}},
    **{"nested list": [[1.0]], "object": {"a": 1}},
}
GROUPS = {bool: "bool", int: "number", float: "number", str: "text", list: "list", dict: "object", type(None): "null"}


def is_plausible(old: Any, new: Any) -> bool:
    """True if a value of the kind of `new` could be right where `old` is."""
    if isinstance(new, float) and not np.isfinite(new):
        return False
    if isinstance(old, int) and isinstance(new, float):
        return False
    return old is None or new is None or GROUPS[type(old)] == GROUPS[type(new)]


def load_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def replace_value(name: str, lines: bool) -> Callable[[Path, Rng], bool]:
    """Puts a value in a random place; returns whether the result could be right."""

    def apply(path: Path, rng: Rng) -> bool:
        value = load_lines(path) if lines else json.loads(path.read_text("utf-8"))
        choices = [place for place in places(value) if place or not lines]
        place = choices[int(rng.integers(len(choices)))]
        old, new = value_at(value, place), VALUES[name]
        save_json(path, replaced(value, place, new), lines)
        # The arguments of an environment are its own.
        return is_plausible(old, new) and (type(old) is not dict or place == ("env_kwargs",))

    return apply


def save_json(path: Path, value: Any, lines: bool) -> None:
    text = "".join(json.dumps(line) + "\n" for line in value) if lines else json.dumps(value)
    path.write_text(text, encoding="utf-8")


def drop_key(lines: bool) -> Callable[[Path, Rng], None]:
    def apply(path: Path, rng: Rng) -> None:
        value = load_lines(path) if lines else json.loads(path.read_text("utf-8"))
        owners = [
            place for place in places(value) if isinstance(value_at(value, place), dict) and value_at(value, place)
        ]
        place = owners[int(rng.integers(len(owners)))]
        owner = dict(value_at(value, place))
        owner.pop(sorted(owner)[int(rng.integers(len(owner)))])
        save_json(path, replaced(value, place, owner), lines)

    return apply


def add_key(lines: bool) -> Callable[[Path, Rng], None]:
    def apply(path: Path, rng: Rng) -> None:
        value = load_lines(path) if lines else json.loads(path.read_text("utf-8"))
        owners = [place for place in places(value) if isinstance(value_at(value, place), dict)]
        place = owners[int(rng.integers(len(owners)))]
        save_json(path, replaced(value, place, {**value_at(value, place), "unknown": 1}), lines)

    return apply


def swap_values(lines: bool) -> Callable[[Path, Rng], None]:
    """Exchanges two values of one object."""

    def apply(path: Path, rng: Rng) -> None:
        value = load_lines(path) if lines else json.loads(path.read_text("utf-8"))
        owners = [p for p in places(value) if isinstance(value_at(value, p), dict) and len(value_at(value, p)) > 1]
        place = owners[int(rng.integers(len(owners)))]
        owner = dict(value_at(value, place))
        first, second = rng.choice(sorted(owner), 2, replace=False)
        owner[first], owner[second] = owner[second], owner[first]
        save_json(path, replaced(value, place, owner), lines)

    return apply


def repeat_entry(path: Path, rng: Rng) -> None:
    """An episode or a task that is there twice."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    if len(lines) > 2:
        path.write_text("".join([*lines, lines[-1]]), encoding="utf-8")


def write_bytes(data: bytes) -> Callable[[Path, Rng], None]:
    return lambda path, rng: path.write_bytes(data) and None


def byte_order_mark(path: Path, rng: Rng) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


JSON_TEXTS = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "many digits": b'{"format": ' + b"1" * 5_000 + b"}",
    "not utf-8": b'{"format": "\xff\xfe"}',
    "number": b"7",
    "null text": b"null",
    "list": b"[]",
    "object without keys": b"{}",
    "two objects": b"{}{}",
    "blank": b" \n",
}


def json_mutations(lines: bool) -> dict[str, Mutation]:
    edits = {f"value {name}": Mutation(replace_value(name, lines), repeat=8) for name in VALUES}  # type: ignore[arg-type]
    structure = {
        "dropped key": Mutation(drop_key(lines), repeat=16, must_fail=False),
        "added key": Mutation(add_key(lines), repeat=6, must_fail=False),
        "swapped values": Mutation(swap_values(lines), repeat=12, must_fail=False),
        "byte order mark": Mutation(byte_order_mark),
        "repeated line": Mutation(repeat_entry, must_fail=False),
    }
    return {**edits, **structure, **{name: Mutation(write_bytes(text)) for name, text in JSON_TEXTS.items()}}


# Damage to safetensors


def edit_tensors(change: Callable[[dict[str, Any], Rng], None]) -> Callable[[Path, Rng], None]:
    def apply(path: Path, rng: Rng) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors, rng)
        save_file(tensors, path, metadata)

    return apply


def some(tensors: dict[str, Any], rng: Rng) -> str:
    """The name of a random tensor of floats."""
    names = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 1)
    return names[int(rng.integers(len(names)))]


def put_number(number: float) -> Callable[[dict[str, Any], Rng], None]:
    def change(tensors: dict[str, Any], rng: Rng) -> None:
        flat = tensors[some(tensors, rng)].flatten()
        flat[int(rng.integers(len(flat)))] = number

    return edit_tensors(change)  # type: ignore[return-value]


def cast_to(dtype: str) -> Callable[[Path, Rng], None]:
    def change(tensors: dict[str, Any], rng: Rng) -> None:
        import torch

        name = some(tensors, rng)
        tensors[name] = tensors[name].to(getattr(torch, dtype))

    return edit_tensors(change)


def drop_tensor(tensors: dict[str, Any], rng: Rng) -> None:
    del tensors[some(tensors, rng)]


def add_tensor(tensors: dict[str, Any], rng: Rng) -> None:
    tensors["unknown"] = tensors[some(tensors, rng)].clone()


def reshape_tensor(tensors: dict[str, Any], rng: Rng) -> None:
    name = some(tensors, rng)
    tensors[name] = tensors[name].reshape(1, -1).contiguous()


def permute_tensor(tensors: dict[str, Any], rng: Rng) -> None:
    name = some(tensors, rng)
    tensors[name] = tensors[name].flatten().flip(0).reshape(tensors[name].shape).contiguous()


def edit_header(change: Callable[[dict[str, Any], Rng], bool | None]) -> Callable[[Path, Rng], bool | None]:
    def apply(path: Path, rng: Rng) -> bool | None:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        plausible = change(header, rng)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        return plausible

    return apply


def announce_huge_header(path: Path, rng: Rng) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def announce_huge_tensor(header: dict[str, Any], rng: Rng) -> None:
    names = sorted(name for name in header if name != "__metadata__")
    header[names[int(rng.integers(len(names)))]]["shape"] = [2**40]


def drop_metadata(header: dict[str, Any], rng: Rng) -> None:
    header.pop("__metadata__", None)


def parsed(text: str) -> Any:
    """The value of a text in JSON, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def edit_metadata(name: str) -> Callable[[dict[str, Any], Rng], bool]:
    """Puts a value in the place of a random one that is JSON."""

    def change(header: dict[str, Any], rng: Rng) -> bool:
        metadata = header.setdefault("__metadata__", {})
        values = {key: value for key, text in metadata.items() if (value := parsed(text)) is not None}
        if not values:
            return True
        key = sorted(values)[int(rng.integers(len(values)))]
        metadata[key] = json.dumps(VALUES[name])
        return is_plausible(values[key], VALUES[name]) and not isinstance(values[key], dict)

    return change


def swap_files(path: Path, rng: Rng) -> None:
    """The weights of another network."""
    for name in ("model.safetensors", "heads.safetensors"):
        if path.name != name and (path.parent / name).exists():
            shutil.copy(path.parent / name, path)


SAFETENSORS = {
    **{f"number {number}": Mutation(put_number(float(number)), repeat=3) for number in ("nan", "inf", "-inf")},
    **{
        f"dtype {name}": Mutation(cast_to(name), repeat=2)
        for name in ("bfloat16", "float64", "int8", "int64", "bool", "complex64", "float8_e4m3fn")
    },
    "dropped tensor": Mutation(edit_tensors(drop_tensor), repeat=3),
    "added tensor": Mutation(edit_tensors(add_tensor), repeat=2),
    "reshaped tensor": Mutation(edit_tensors(reshape_tensor), repeat=3),
    "permuted tensor": Mutation(edit_tensors(permute_tensor), repeat=3, must_fail=False),
    "huge header": Mutation(announce_huge_header),
    "huge tensor": Mutation(edit_header(announce_huge_tensor), repeat=2),
    "no metadata": Mutation(edit_header(drop_metadata)),
    **{f"metadata {name}": Mutation(edit_header(edit_metadata(name)), repeat=4) for name in VALUES},
    "other weights": Mutation(swap_files),
}

# Damage to HDF5


def edit_hdf5(change: Callable[[Any, Rng], None]) -> Callable[[Path, Rng], None]:
    def apply(path: Path, rng: Rng) -> None:
        import h5py

        with h5py.File(path, "r+") as file:
            change(file, rng)

    return apply


COLUMNS = ("pixels", "action", "state", "ep_len", "ep_offset")


def replace_column(name: str, make: Callable[[Any], Any]) -> Callable[[Path, Rng], None]:
    def change(file: Any, rng: Rng) -> None:
        import h5py

        old = file[name][:] if isinstance(file[name], h5py.Dataset) else None
        del file[name]
        value = make(old)
        if value is not None:
            file[name] = value

    return edit_hdf5(change)


def put_entry(name: str, value: float) -> Callable[[Path, Rng], None]:
    """Changes one entry that is a number now."""

    def change(file: Any, rng: Rng) -> None:
        column = file[name][:]
        entries = np.argwhere(np.isfinite(column))
        column[tuple(entries[int(rng.integers(len(entries)))])] = value
        file[name][...] = column

    return edit_hdf5(change)


def replace_by(make: Callable[[Any, str], None], name: str) -> Callable[[Path, Rng], None]:
    def change(file: Any, rng: Rng) -> None:
        del file[name]
        make(file, name)

    return edit_hdf5(change)


def link_outside(file: Any, name: str) -> None:
    import h5py

    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def link_to_itself(file: Any, name: str) -> None:
    import h5py

    file[name] = h5py.SoftLink(f"/{name}")


def raw_storage(file: Any, name: str) -> None:
    """Bytes of another file as a column."""
    rows = len(file["ep_len"]) * 12 if "ep_len" in file else 60
    shapes = {"pixels": ((rows, 32, 32, 3), np.uint8), "action": ((rows, 2), np.float32)}
    shape, dtype = shapes.get(name, ((rows,), np.int64))
    file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, 2**20)])


def virtual_column(file: Any, name: str) -> None:
    """A view of a file that is lost, which reads as zeros."""
    import h5py

    layout = h5py.VirtualLayout((60, 32, 32, 3), np.uint8)
    layout[:] = h5py.VirtualSource("lost.h5", "pixels", (60, 32, 32, 3))
    file.create_virtual_dataset(name, layout)


def huge_column(file: Any, name: str) -> None:
    """A few kB that announce 10^9 rows."""
    shapes = {"pixels": (10**9, 32, 32, 3), "action": (10**9, 2), "state": (10**9, 7)}
    dtype = {"pixels": np.uint8, "action": np.float32, "state": np.float64}.get(name, np.int64)
    shape = shapes.get(name, (10**9,))
    file.create_dataset(name, shape, dtype, chunks=(1024, *shape[1:]))


def unwritten_column(file: Any, name: str) -> None:
    """Chunks that were never written read as zeros."""
    file.create_dataset(name, (60, 32, 32, 3), np.uint8, chunks=(16, 32, 32, 3))


def make_group(file: Any, name: str) -> None:
    file.create_group(name)


def put_attribute(name: str, value: Any) -> Callable[[Path, Rng], None]:
    def change(file: Any, rng: Rng) -> None:
        file.attrs[name] = value

    return edit_hdf5(change)


def drop_attribute(name: str) -> Callable[[Path, Rng], None]:
    return edit_hdf5(lambda file, rng: file.attrs.pop(name, None))


ATTRIBUTES: dict[str, list[Any]] = {
    "env_kwargs": ["[]", "7", "not JSON", "null", "", 7, b"\xff\xfe", [1.0, 2.0]],
    "env_id": [7, [1.0, 2.0], "", b"\xff\xfe"],
    "action_low": [7.0, "x", [], [np.nan, -1], [-np.inf, -1], [2, 2], [-1, -1, -1], [[-1, -1]], [1, -1]],
    "action_high": [7.0, "x", [], [np.nan, 1], [np.inf, 1], [-2, -2], [1, 1, 1], [[1, 1]], [-1, 1]],
    "discrete": [True, "x", 7, [], 0.5],
    "complete": [False, "x", []],
    "schema_version": [2, "x", [], -1],
}
PLAUSIBLE_ATTRIBUTES: dict[str, list[Any]] = {
    "env_kwargs": ['{"image_size": 33}', '{"image_size": "x"}', '{"unknown": 1}'],
    "env_id": ["os:system", "no/Such-v0"],
    "action_low": [[-2, -2]],
    "source": ["x|y", 7],
}

MAKERS: dict[str, Callable[[Any], Any]] = {
    "dropped": lambda old: None,
    "float64": lambda old: old.astype(np.float64) + 0.5,
    "int8": lambda old: np.nan_to_num(old).astype(np.int8),
    "complex": lambda old: old.astype(np.complex64),
    "text": lambda old: np.array([b"text"] * len(old)),
    "shorter": lambda old: old[:-1],
    "longer": lambda old: np.concatenate([old, old[-1:]]),
    "no rows": lambda old: old[:0],
    "one axis more": lambda old: old[..., None],
    "scalar": lambda old: old.flat[0],
    "reversed": lambda old: old[::-1].copy(),
    "records": lambda old: np.zeros(len(old), [("a", "i4"), ("b", "f4")]),
}

MAY_DIFFER = {
    *(f"{name} {kind}" for name in ("action", "state") for kind in ("float64", "int8")),
    *("state dropped", "pixels reversed", "state reversed", "ep_offset reversed"),
}
"""Columns that another program could have written."""

HDF5 = {
    **{
        f"{name} {kind}": Mutation(replace_column(name, make), must_fail=f"{name} {kind}" not in MAY_DIFFER)
        for name in COLUMNS
        for kind, make in MAKERS.items()
    },
    **{
        f"{name} {kind}": Mutation(replace_by(make, name))
        for name in COLUMNS
        for kind, make in {
            "group": make_group,
            "external link": link_outside,
            "loop": link_to_itself,
            "raw storage": raw_storage,
            "huge": huge_column,
        }.items()
    },
    "pixels virtual": Mutation(replace_by(virtual_column, "pixels")),
    "pixels unwritten": Mutation(replace_by(unwritten_column, "pixels")),
    **{
        f"{name} {value:g}": Mutation(put_entry(name, value), repeat=2, must_fail=must_fail)
        for (name, must_fail), values in {
            ("action", True): (np.nan, np.inf),
            ("action", False): (-1e30,),
            ("state", False): (np.nan, np.inf),
            ("ep_len", True): (-1, 0, 1, 2**40, -(2**62)),
            ("ep_offset", True): (-1, 1, 2**40, -(2**62)),
        }.items()
        for value in values
    },
    **{
        f"attribute {name} {number}": Mutation(put_attribute(name, value))
        for name, values in ATTRIBUTES.items()
        for number, value in enumerate(values)
    },
    **{
        f"other {name} {number}": Mutation(put_attribute(name, value), must_fail=False)
        for name, values in PLAUSIBLE_ATTRIBUTES.items()
        for number, value in enumerate(values)
    },
    **{f"no attribute {name}": Mutation(drop_attribute(name), must_fail=False) for name in ATTRIBUTES},
}

FORMS: dict[str, dict[str, Mutation]] = {
    "binary": ANY,
    "json": {**ANY, **json_mutations(lines=False)},
    "jsonl": {**ANY, **json_mutations(lines=True)},
    "safetensors": {**ANY, **SAFETENSORS},
    "hdf5": {**ANY, **HDF5},
}


# Running


def cases() -> list[str]:
    """All cases, as "subject / mutation / number"."""
    return [
        f"{name} / {kind} / {number}"
        for name, subject in SUBJECTS.items()
        for kind, mutation in FORMS[subject.form].items()
        if kind.split(" ")[0] != subject.lacks
        for number in range(mutation.repeat)
    ]


class Templates:
    """One undamaged file of each kind, and its contents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._contents: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}

    def copy(self, name: str, target: Path) -> Path:
        """The path of a fresh copy in the empty folder `target`."""
        place = self.folder / name.replace(" ", "-")
        if name not in self._paths:
            place.mkdir(parents=True)
            self._paths[name] = SUBJECTS[name].write(place).relative_to(place)
        shutil.copytree(place, target, dirs_exist_ok=True)
        (target / ".case").touch()
        return target / self._paths[name]

    def contents(self, name: str) -> Any:
        """The contents of an undamaged file."""
        if name not in self._contents:
            with tempfile.TemporaryDirectory(dir=self.folder) as target:
                self._contents[name] = SUBJECTS[name].read(self.copy(name, Path(target)))
        return self._contents[name]


@contextmanager
def nobody() -> Iterator[None]:
    """Runs a block without the rights of root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def run_case(case: str, templates: Templates) -> dict[str, Any]:
    """The outcome of a case; see the table above."""
    name, kind, _ = case.split(" / ")
    subject, mutation = SUBJECTS[name], FORMS[SUBJECTS[name].form][kind]
    expected = templates.contents(name)
    with tempfile.TemporaryDirectory(dir=templates.folder, ignore_cleanup_errors=True) as target:
        path = templates.copy(name, Path(target))
        templates.folder.chmod(0o755)
        Path(target).chmod(0o777)  # for cases of `UNREADABLE`
        plausible = mutation.apply(path, np.random.default_rng(zlib.crc32(case.encode())))
        protected = subject.protected == "all" or (subject.protected == "bytes" and mutation.of_bytes)
        strict = protected or (mutation.must_fail and not mutation.of_bytes and not plausible)
        try:
            with warnings.catch_warnings(), nobody() if kind == UNREADABLE else nullcontext():
                warnings.simplefilter("ignore")
                contents = subject.read(path)
        except UserError as error:
            text = str(error)
            named = any(name in text for name in (path.name, path.parent.name, "data.h5"))
            named = named and (kind != UNREADABLE or "permission" in text.lower())
            return {"outcome": "refused" if named else "unclear", "text": text}
        except MemoryError:
            return {"outcome": "memory", "text": ""}
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "lwm_agent" in frame.filename]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (last, *reversed(ours[-2:])))
            return {"outcome": "traceback", "text": f"{type(error).__name__}: {str(error)[:150]} [{where}]"}
        same = repr(contents) == repr(expected)
        return {"outcome": "same" if same else "wrong" if strict else "other", "text": ""}


def worker() -> None:
    """Runs the cases that come in, one a line, and answers each with a line of JSON."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed while a case runs is no answer
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        templates = Templates(Path(folder))
        for line in sys.stdin:
            answers.write(json.dumps(run_case(line.rstrip("\n"), templates)) + "\n")
            answers.flush()


if __name__ == "__main__":
    worker()

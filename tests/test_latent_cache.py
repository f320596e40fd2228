"""Latents on disk: the same as in memory, whole after an interruption, refused or encoded again when damaged."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm_agent.checkpoint import Checkpoint
from lwm_agent.data.trajectories import Trajectories
from lwm_agent.data.writer import TrajectoryWriter
from lwm_agent.errors import DivergedError, FileError
from lwm_agent.normalizer import Normalizer
from lwm_agent.training import latent_cache
from lwm_agent.training.latent_cache import affordable, encode, encoder_hash

from .toy_models import TokenModel

TOKENS, SIZE, CHUNK = 4, 6, 11
CPU = torch.device("cpu")


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = {"action_size": 3, "image_size": 16, "tokens": TOKENS, "size": SIZE}
    three = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    units = Normalizer(
        pixel_mean=three[0],
        pixel_std=three[1],
        action_mean=three[0],
        action_std=three[1],
        action_low=(-1.0,) * 3,
        action_high=three[1],
    )
    model = TokenModel(**config).eval()
    return Checkpoint(name="tokens", model_config=config, model=model, normalizer=units, env="mine")


@pytest.fixture
def files(tmp_path: Path) -> list[Trajectories]:
    """Two files of 50 and 15 frames."""
    rng, opened = np.random.default_rng(0), []
    for name, lengths in {"a.h5": (20, 30), "b.h5": (15,)}.items():
        with TrajectoryWriter(tmp_path / name) as writer:
            for length in lengths:
                pixels = rng.integers(0, 255, (length, 16, 16, 3), dtype=np.uint8)
                writer.add(pixels, np.zeros((length - 1, 3), np.float32))
        opened.append(Trajectories.open(tmp_path / name))
    return opened


def cached(checkpoint: Checkpoint, files: list[Trajectories], folder: Path, **options: Any) -> list[Tensor]:
    settings = {"chunk": CHUNK, "in_memory": False, "report": lambda *_: None, **options}
    return encode(checkpoint, files, CPU, folder=folder, **settings)


def count_embeds(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    frames: list[int] = []
    embed = checkpoint.model.embed

    def counted(pixels: Tensor) -> Tensor:
        frames.append(len(pixels))
        return embed(pixels)

    monkeypatch.setattr(checkpoint.model, "embed", counted)
    return frames


def test_latents_on_disk_equal_those_in_memory(
    checkpoint: Checkpoint, files: list[Trajectories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    memory = encode(checkpoint, files, CPU, lambda task, done, total, _: seen.append((done, total)), CHUNK)
    assert [tuple(part.shape) for part in memory] == [(50, TOKENS, SIZE), (15, TOKENS, SIZE)]
    assert seen[-1] == (65, 65)
    disk = cached(checkpoint, files, tmp_path / "latents")
    for one, two in zip(memory, disk, strict=True):
        assert two.dtype == torch.float16
        assert torch.equal(one, two)
    embeds = count_embeds(checkpoint, monkeypatch)
    reports: list[int] = []
    again = cached(checkpoint, files, tmp_path / "latents", report=lambda task, done, *_: reports.append(done))
    assert embeds == []
    assert reports == [50, 65]
    assert all(torch.equal(one, two) for one, two in zip(memory, again, strict=True))
    again[0][0] = 7  # a tensor of its own: the file stays as it is
    assert torch.equal(cached(checkpoint, files, tmp_path / "latents")[0], memory[0])


def test_cache_is_used_where_memory_is_scarce(
    checkpoint: Checkpoint, files: list[Trajectories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 65 * TOKENS * SIZE * 2
    for free, is_cached in ((4 * size, True), (4 * size + 4, False)):
        monkeypatch.setattr(latent_cache, "free_memory", lambda device, free=free: free)
        folder = tmp_path / str(free)
        cached(checkpoint, files, folder, in_memory=None)
        assert folder.exists() == is_cached


def killed_at(number: int, checkpoint: Checkpoint, files: list[Trajectories], folder: Path) -> bool:
    """Fills the cache in a child process that ends at its `number`-th flush or rename; True if it got there."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(call: Any) -> Any:
            def count(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                if calls == number:
                    os._exit(9)
                calls += 1
                return call(*args, **kwargs)

            return count

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        try:
            cached(checkpoint, files[:1], folder)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_encoding_killed_anywhere_continues(
    checkpoint: Checkpoint, files: list[Trajectories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = encode(checkpoint, files[:1], CPU, lambda *_: None, CHUNK)[0]
    embeds = count_embeds(checkpoint, monkeypatch)
    done = set()
    for number in range(100):
        killed = killed_at(number, checkpoint, files, tmp_path / str(number))
        embeds.clear()
        assert torch.equal(cached(checkpoint, files[:1], tmp_path / str(number))[0], memory)
        done.add(50 - sum(embeds))
        if not killed:
            break
    assert not killed
    assert done == {0, 11, 22, 33, 44, 50}


def cache_files(folder: Path) -> tuple[Path, Path]:
    return next(folder.glob("*.npy")), next(folder.glob("*.json"))


def flip(path: Path, place: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[place] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("damage", "frames"),
    [
        (lambda latents, marker: flip(latents, 128 + 2 * TOKENS * SIZE * 25), 50 - 22),
        (lambda latents, marker: flip(latents, 20), 50),
        (lambda latents, marker: latents.write_bytes(latents.read_bytes()[:-1]), 50 - 44),
        (lambda latents, marker: latents.unlink(), 50),
        (lambda latents, marker: marker.write_text("{"), 50),
        (lambda latents, marker: marker.write_text("[]"), 50),
        (lambda latents, marker: marker.write_text(json.dumps({**json.loads(marker.read_text()), "chunk": 7})), 50),
        (lambda latents, marker: marker.write_text(json.dumps({**json.loads(marker.read_text()), "checks": 7})), 50),
        (lambda latents, marker: marker.unlink(), 50),
    ],
)
def test_damaged_chunks_are_encoded_again(
    checkpoint: Checkpoint,
    files: list[Trajectories],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Any,
    frames: int,
) -> None:
    before = cached(checkpoint, files[:1], tmp_path / "latents")[0].clone()
    damage(*cache_files(tmp_path / "latents"))
    embeds = count_embeds(checkpoint, monkeypatch)
    assert torch.equal(cached(checkpoint, files[:1], tmp_path / "latents")[0], before)
    assert sum(embeds) == frames


def test_other_encoders_and_other_data_have_files_of_their_own(
    checkpoint: Checkpoint, files: list[Trajectories], tmp_path: Path
) -> None:
    own = encoder_hash(checkpoint, CPU)
    with torch.no_grad():
        next(checkpoint.model.predictor.parameters()).mul_(2)  # type: ignore[union-attr,operator]
    assert encoder_hash(checkpoint, CPU) == own
    units = replace(checkpoint, normalizer=replace(checkpoint.normalizer, pixel_mean=(0.5, 0.0, 0.0)))
    assert encoder_hash(units, CPU) != own
    cached(checkpoint, files, tmp_path / "latents")
    with torch.no_grad():
        checkpoint.model.encoder.weight.mul_(2)  # type: ignore[union-attr,operator]
    assert encoder_hash(checkpoint, CPU) != own
    doubled = cached(checkpoint, files, tmp_path / "latents")
    assert torch.equal(doubled[1], encode(checkpoint, files, CPU, lambda *_: None, CHUNK)[1])
    assert len(list((tmp_path / "latents").glob("*.npy"))) == 4


def test_full_disk_is_named_before_and_during_the_work(
    checkpoint: Checkpoint, files: list[Trajectories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(latent_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    embeds = count_embeds(checkpoint, monkeypatch)
    with pytest.raises(FileError, match=r"npy needs 0.00 GiB more and its disk has 0.00 GiB left.*latent_cache"):
        cached(checkpoint, files, tmp_path / "latents")
    assert embeds == []
    assert usage.f_bsize > 0
    monkeypatch.undo()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(latent_cache, "flush", full)
    with pytest.raises(FileError, match=r"npy cannot be written: the disk is full"):
        cached(checkpoint, files, tmp_path / "latents")
    monkeypatch.undo()
    memory = encode(checkpoint, files, CPU, lambda *_: None, CHUNK)
    assert torch.equal(cached(checkpoint, files, tmp_path / "latents")[0], memory[0])


def test_two_trainings_do_not_fill_one_cache(checkpoint: Checkpoint, files: list[Trajectories], tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    cached(checkpoint, files[:1], tmp_path / "latents")
    with cache_files(tmp_path / "latents")[0].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileError, match="another training is filling"):
            cached(checkpoint, files[:1], tmp_path / "latents")


def test_latents_beyond_half_precision_are_refused(checkpoint: Checkpoint, files: list[Trajectories]) -> None:
    with torch.no_grad():
        checkpoint.model.encoder.weight.mul_(1e9)  # type: ignore[union-attr,operator]
    with pytest.raises(DivergedError, match=r"a.h5 exceed half precision .* frames 0 to 10"):
        encode(checkpoint, files, CPU, lambda *_: None, CHUNK)


def test_validation_gathers_no_more_than_it_can_afford() -> None:
    assert affordable(4096, torch.zeros(2, 128, dtype=torch.float16), 6) == 4096
    assert affordable(4096, torch.zeros(2, 196, 384, dtype=torch.float16), 6) == 297
    assert affordable(4096, torch.zeros(2, 196, 384, 100, dtype=torch.float16), 6) == 64

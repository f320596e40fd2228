"""Atomic writes: whole or not at all, behind links, with plain permissions, and with advice when they fail."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lwm_agent import files
from lwm_agent.errors import FileError
from lwm_agent.files import (
    advice,
    check_regular_file,
    check_writable,
    read_text,
    recover_folder,
    replacing,
    replacing_folder,
    write_text,
)

SYSTEM_CALLS = ("os.replace", "os.fsync", "os.chmod", "os.open", "os.unlink", "os.rmdir", "os.mkdir")


def killed_at(number: int, work: Callable[[], None], exchange: bool = True) -> bool:
    """Runs `work` in a child process that ends, as by SIGKILL, at its `number`-th system call; True if it got there."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def count(*args: object, **kwargs: object) -> object:
                nonlocal calls
                if calls == number:
                    os._exit(9)
                calls += 1
                return call(*args, **kwargs)

            return count

        for name in SYSTEM_CALLS:
            setattr(os, name.split(".")[1], counted(getattr(os, name.split(".")[1])))
        files._exchange = counted(files._exchange) if exchange else lambda one, two: False  # type: ignore[assignment]
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 9


def fill(folder: Path, text: str) -> None:
    with replacing_folder(folder) as work:
        for name in ("a.txt", "b.txt"):
            (work / name).write_text(text)


def contents(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("exchange", [True, False])
def test_folder_swap_killed_at_each_call_leaves_old_or_new(tmp_path: Path, exchange: bool) -> None:
    seen = set()
    for number in range(200):
        folder = tmp_path / str(number) / "model"
        fill(folder, "old")
        killed = killed_at(number, lambda: fill(folder, "new"), exchange)  # noqa: B023
        missing = not folder.exists()
        recover_folder(folder)
        assert contents(folder) in ({"old"}, {"new"})
        assert len(list(folder.iterdir())) == 2
        seen.add((*contents(folder), missing))
        fill(folder, "newer")
        assert contents(folder) == {"newer"}
        assert {path.name for path in folder.parent.iterdir() if not path.name.startswith(".")} == {"model"}
        if not killed:
            break
    assert not killed
    assert {("old", False), ("new", False)} <= seen
    assert any(missing for _, missing in seen) == (not exchange)


def test_interrupted_swap_of_two_copies_never_deletes_both(tmp_path: Path) -> None:
    for name, text in {"model.old": "old", "model.partial": "new"}.items():
        fill(tmp_path / name, text)
    fill(tmp_path / "model", "newer")
    assert contents(tmp_path / "model") == {"newer"}
    (tmp_path / "model").rename(tmp_path / "model.old")
    recover_folder(tmp_path / "model")
    assert contents(tmp_path / "model") == {"newer"}


def test_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    with suppress(KeyboardInterrupt), replacing_folder(tmp_path / "model") as work:
        (work / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path / "model") == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "notes.txt", "old")
    with suppress(KeyboardInterrupt), replacing(tmp_path / "notes.txt") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "notes.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_partial_files_have_names_of_their_own_and_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "film.mp4") as one, replacing(tmp_path / "film.mp4") as two:
        assert one != two
        assert {one.suffix, two.suffix} == {".mp4"}
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "film.mp4").read_text() == "one"


@pytest.mark.parametrize(("kind", "is_removed"), [("partial", True), ("else", False)])
def test_leftovers_of_killed_processes_are_removed_after_an_hour(tmp_path: Path, kind: str, is_removed: bool) -> None:
    young, old = tmp_path / f".{kind}-0123abcd-a.txt", tmp_path / f".{kind}-0123abce-a.txt"
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    write_text(tmp_path / "a.txt", "text")
    assert young.exists()
    assert old.exists() != is_removed


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_permissions_of_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        with replacing(tmp_path / "a.safetensors") as partial:
            save_file({"x": torch.zeros(1)}, partial)
        with replacing_folder(tmp_path / "model") as work:
            save_file({"x": torch.zeros(1)}, work / "b.safetensors")
    for path in (tmp_path / "a.safetensors", tmp_path / "model" / "b.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_links_stay_and_their_targets_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "store" / "step-3", "old")
    (tmp_path / "last").symlink_to(Path("store") / "step-3")
    fill(tmp_path / "last", "new")
    assert (tmp_path / "last").is_symlink()
    assert contents(tmp_path / "store" / "step-3") == {"new"}
    (tmp_path / "link.txt").symlink_to("later.txt")  # to nothing yet
    write_text(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "later.txt").read_text() == "text"


def test_texts_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "学習.txt", "学習")
    assert (tmp_path / "学習.txt").read_bytes() == "学習".encode()
    assert read_text(tmp_path / "学習.txt") == "学習"
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(FileError, match=r"latin.txt is no UTF-8 text .*byte 3"):
        read_text(tmp_path / "latin.txt")


def test_readers_refuse_anything_but_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    cases = {"pipe": "pipe, socket or device", "": "a folder", "loop": "circle", "nowhere": "does not exist"}
    for name, message in cases.items():
        with pytest.raises(FileError, match=message):
            check_regular_file(tmp_path / name)
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(FileError, match="pipe, socket or device, name a regular file"):
            read_text(path)
    with pytest.raises(FileError, match="is no path"):
        read_text("")


def test_paths_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "a.txt")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "model", folder=True)
    cases: list[tuple[str | Path, bool, str]] = [
        (tmp_path, False, "name a file"),
        (tmp_path / "file", True, "name a folder"),
        (tmp_path / "file" / "inside", True, "file is a file, not a folder"),
        ("/", True, "mount point"),
        ("/dev/null", False, "pipe or device is there, name a file"),
        ("", True, "'' is no path"),
    ]
    for path, is_folder, message in cases:
        with pytest.raises(FileError, match=message):
            check_writable(path, folder=is_folder)
    for path in (tmp_path / "file" / "inside.txt", "/dev/null", tmp_path):
        with pytest.raises(FileError, match="cannot be written: "):
            write_text(path, "")


@contextmanager
def nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_missing_permissions_are_named(tmp_path: Path) -> None:
    write_text(tmp_path / "own.txt", "text")
    (tmp_path / "own.txt").chmod(0)
    tmp_path.chmod(0o555)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    try:
        with nobody():
            with pytest.raises(FileError, match=r"own.txt cannot be read: permission denied: .*chmod"):
                read_text(tmp_path / "own.txt")
            with pytest.raises(FileError, match=r"new.txt cannot be written: permission denied: .*chmod"):
                write_text(tmp_path / "new.txt", "")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_errors_of_the_disk_have_advice_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=r"a.txt cannot be written: .*(disk|read-only)"):
        write_text(tmp_path / "a.txt", "text")
    with pytest.raises(FileError, match=r"model cannot be written: .*(disk|read-only)"):
        fill(tmp_path / "model", "text")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.mp4"):
        (tmp_path / "ffmpeg").read_text()
    assert not isinstance(caught.value, FileError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError("Unable to synchronously open file (errno = 13)"), "permission denied"),
        (OSError("odd"), "odd"),
    ],
)
def test_advice_follows_the_error_number(error: Exception, words: str) -> None:
    assert words in advice(error)

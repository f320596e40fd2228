"""Atomic writes and folder swaps: a file or folder appears whole or not at all, whenever the process is killed.

A symbolic link is followed first: the link stays, and its target is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import FileError

ADVICE = {
    errno.ENOSPC: "the disk is full: free space on it, or name a path on another disk",
    errno.EDQUOT: "the disk quota is used up: remove files, or name a path on another disk",
    errno.EFBIG: "the file system takes no file of this size: name a path on another disk",
    errno.EACCES: "permission denied: change its permissions (chmod, chown), or run as a user who has them",
    errno.EPERM: "permission denied: change its permissions (chmod, chown), or run as a user who has them",
    errno.EROFS: "the file system is read-only: name a path elsewhere",
    errno.ENOENT: "it does not exist: check the path",
    errno.EISDIR: "it is a folder: name a file",
    errno.EEXIST: "a file is in the place of a folder: check the path",
    errno.ENOTDIR: "a part of its path is a file, not a folder: check the path",
    errno.ENAMETOOLONG: "its name is too long for the file system: choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle: remove one of them",
    errno.EMFILE: "this process has too many files open: raise the limit with `ulimit -n`",
    errno.EAGAIN: "another process holds it: wait until that has ended",
    errno.EBUSY: "another process holds it, or it is a mount point: wait, or name a folder inside it",
    errno.EIO: "the disk or the network failed: check them, then run the command again",
    errno.ESTALE: "the network file system lost it: mount it again, then run the command again",
}
"""Cause and fix by error number of the operating system."""

STALE_SECONDS = 3600.0
"""Age after which what a killed process left unfinished is removed."""

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux
_HERE = -100  # AT_FDCWD: paths are relative to the working directory


def advice(error: Exception) -> str:
    """Cause and fix of an operating system's error, also of one that safetensors or HDF5 report in words."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        words = re.search(r"(?:os error|errno\s*=?)\s*(\d+)", str(error))
        number = int(words[1]) if words else None
    return ADVICE.get(number or 0, str(error))


@contextmanager
def file_errors(path: str | Path, action: str) -> Iterator[None]:
    """Turns an `OSError` inside the block into a `FileError`: "`path` cannot be `action`: cause and fix"."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be {action}: {advice(error)}") from error


def resolved(path: str | Path) -> Path:
    """The absolute path that `path` stands for, symbolic links followed; nothing need be there."""
    if not str(path) or "\0" in str(path):
        raise FileError(f"{str(path)!r} is no path: name a file or folder")
    return Path(os.path.realpath(path))


def check_regular_file(path: str | Path) -> None:
    """Refuses a missing file, a folder, a pipe or device, and a file without the permission to read it.

    Readers would wait for a pipe without end. Libraries of other languages call a file without permission missing.
    """
    with file_errors(path, "read"):
        mode = os.stat(resolved(path)).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise FileError(f"{path} cannot be read: it is {kind}, name a regular file")
        open(path, "rb").close()


def check_writable(path: str | Path, *, folder: bool = False) -> None:
    """Refuses, before the work, a path that could not be written after it.

    Args:
        path: file to write, or a folder to replace.
        folder: whether `path` is a folder.
    """
    place = resolved(path)
    with file_errors(path, "written"):
        if place.exists() or place.is_symlink():
            if not folder and not stat.S_ISREG(os.stat(place).st_mode):
                raise FileError(f"{path} cannot be written: a folder, pipe or device is there, name a file")
            if folder and not place.is_dir():
                raise FileError(f"{path} cannot be written: a file is there, name a folder")
            if folder and place.is_mount():
                raise FileError(f"{path} cannot be replaced: it is a mount point, name a folder inside it")
        parent = place.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir():
            raise FileError(f"{path} cannot be written: {parent} is a file, not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise FileError(f"{path} cannot be written: {ADVICE[errno.EACCES]} ({parent})")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Path to write to, with the suffix of `path`, whose file replaces `path` when the block ends without an error.

    After an error nothing is left behind. The file gets the permissions that the umask leaves to a new file.
    """
    place = resolved(path)
    check_writable(place)
    with file_errors(path, "written"):
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(place, "partial")
        partial = _sibling(place, "partial")
        with partial.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        yield partial
        with file_errors(path, "written"):
            os.chmod(partial, mode)
            flush(partial)
            os.replace(partial, place)
            flush(place.parent)
    except OSError as error:
        # Of another file, or of no file at all, the caller knows more.
        if error.errno in ADVICE and error.filename in (None, str(partial)) and not isinstance(error, FileError):
            raise FileError(f"{path} cannot be written: {advice(error)}") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file so that a reader sees the old contents or the new, never half of them."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_text(path: str | Path) -> str:
    """Text of a regular UTF-8 file."""
    check_regular_file(path)
    try:
        with file_errors(path, "read"):
            return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): copy it again") from error


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """New folder to fill, which replaces `folder` when the block ends without an error.

    Killed at any moment, it leaves the old or the new folder: at `folder`, or where `recover_folder` finds it.
    """
    place = resolved(folder)
    check_writable(place, folder=True)
    recover_folder(place)
    with file_errors(folder, "written"):
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(place, "writing")
        _remove_stale(place, "removed")
        work = _sibling(place, "writing")
        work.mkdir()
        try:
            yield work
            mode = stat.S_IMODE(work.stat().st_mode) & 0o666
            for file in work.iterdir():
                os.chmod(file, mode)
                flush(file)
            flush(work)
            _swap(work, place)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def recover_folder(folder: str | Path) -> None:
    """Finishes a swap that was interrupted: `folder` is the new one again, or the old one.

    Without RENAME_EXCHANGE there is a moment in which the complete new folder is called ``.partial``, the complete old
    one ``.old``, and `folder` is missing.
    """
    place = resolved(folder)
    new, old = _swap_names(place)
    if place.exists() or not old.is_dir():
        return
    with file_errors(f"{old}, the copy of {folder} that an interrupted save left,", "renamed"):
        try:
            os.replace(new if new.is_dir() else old, place)
        except FileNotFoundError:
            if not place.exists():  # else another process has recovered it
                raise
        flush(place.parent)


def _swap(work: Path, place: Path) -> None:
    """Puts the complete folder `work` in the place of `place`."""
    new, old = _swap_names(place)
    if not place.exists():
        os.replace(work, place)
    elif _exchange(work, place):
        flush(place.parent)
        _discard(work, place)
    else:
        _discard(new, place)
        _discard(old, place)
        os.replace(work, new)
        os.replace(place, old)
        flush(place.parent)
        os.replace(new, place)
    flush(place.parent)
    _discard(new, place)
    _discard(old, place)


def _swap_names(place: Path) -> tuple[Path, Path]:
    """Names of the new and the old folder between the two renames of a swap."""
    return place.with_name(f"{place.name}.partial"), place.with_name(f"{place.name}.old")


def _exchange(one: Path, two: Path) -> bool:
    """Swaps two names in one step, where system and file system can."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28 and later
    if call is None:
        return False
    status: int = call(_HERE, os.fsencode(one), _HERE, os.fsencode(two), _EXCHANGE)
    if status == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):  # a file system or sandbox without it
        return False
    raise OSError(number, os.strerror(number), str(two))


def _discard(folder: Path, place: Path) -> None:
    """Removes `folder`; renamed first, so that what is half removed is never taken for complete."""
    if not folder.is_dir():
        return
    removed = _sibling(place, "removed")
    os.replace(folder, removed)
    shutil.rmtree(removed, ignore_errors=True)


def _sibling(place: Path, kind: str) -> Path:
    """A new hidden name beside `place`, with its suffix."""
    return place.with_name(f".{kind}-{secrets.token_hex(4)}-{place.name}")


def _remove_stale(place: Path, kind: str) -> None:
    """Removes what processes that were killed left beside `place`."""
    pattern = re.compile(rf"\.{kind}-[0-9a-f]{{8}}-{re.escape(place.name)}")
    for path in place.parent.iterdir():
        if pattern.fullmatch(path.name):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)

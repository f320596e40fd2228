"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to, which replaces `path` when the block ends without an error; it keeps the suffix."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    yield partial
    os.replace(partial, path)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file so that a reader sees the old contents or the new, never half of them."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def replace_folder(partial: Path, folder: Path) -> None:
    """Puts the finished folder `partial` in the place of `folder`."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)

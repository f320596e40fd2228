"""Memory of this machine that is free, within the limits of a container. Torch is not imported."""

from __future__ import annotations

from pathlib import Path

import psutil


def free_host_memory() -> int:
    """Bytes of memory that this process can still take without swapping."""
    machine, container = int(psutil.virtual_memory().available), container_memory()
    return machine if container is None else min(machine, container)


def container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left below the limit, if any, of the control group (cgroup v2) in `folder`.

    Memory that only caches files counts as left.
    """
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = dict(line.split() for line in lines)["inactive_file"]
    except (OSError, KeyError):
        return None
    return None if limit == "max" else max(0, int(limit) - int(used) + int(cached))

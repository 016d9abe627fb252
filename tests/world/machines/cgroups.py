"""Control groups of machines: one in each hierarchy, so that machines do not meet in each other's groups.

They tell which processes belong to a machine beyond doubt, which is what makes a power cut and a clean-up safe.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from ..shell import wait_for

MOUNT = Path("/sys/fs/cgroup")


def groups_below_ours(name: str) -> list[Path]:
    """Where a child group `name` of our own group is, in each hierarchy (version 1, 2 or both)."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        hierarchy = _hierarchy(controllers)
        parent = hierarchy / path.lstrip("/")
        if (parent / "cgroup.procs").exists():
            found.append(parent / name)
    return found


def create(groups: Iterable[Path]) -> None:
    for group in groups:
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts them empty and then refuses processes
            if (group.parent / setting).exists():
                (group / setting).write_text((group.parent / setting).read_text())


def members(groups: Iterable[Path]) -> set[int]:
    """The processes in the groups and below them."""
    pids: set[int] = set()
    for group in groups:
        for directory, _, files in os.walk(group):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    pids |= {int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()}
    return pids - {0}


def kill(groups: list[Path], timeout: float = 10) -> None:
    """Ends every process in the groups; returns when none is left."""

    def empty() -> bool:
        pids = members(groups)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_for("the end of the processes of a machine", empty, timeout, interval=0.01)


def remove(groups: Iterable[Path]) -> None:
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _hierarchy(controllers: str) -> Path:
    if not controllers:
        return MOUNT / "unified" if (MOUNT / "unified").is_dir() else MOUNT
    return MOUNT / controllers.removeprefix("name=")

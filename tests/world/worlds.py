"""The worlds of this checkout on disk: their folders and locks, and how what a dead one left is removed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from pathlib import Path

from . import processes
from .network import WorldNetwork
from .paths import WORLDS

NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
NETNS_RECORD = "netns"  # file in a world's folder: this world made its network namespace


class WorldInUse(RuntimeError):
    """Another process runs this world."""


class BadName(ValueError):
    """Not a name for a world."""


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise BadName(f"{name!r} is no name for a world: a letter, then at most 19 of a-z, 0-9 and -")
    return name


def folder(name: str) -> Path:
    return WORLDS / name


class Lock:
    """Held by the process that runs a world, for as long as it lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.file = WORLDS / f"{name}.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        WORLDS.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 20).decode() or "?"
                os.close(descriptor)
                raise WorldInUse(f"world {self.name} is run by process {holder}") from None
            # Whoever held it before may have removed the file: then this is the lock of nothing.
            if self._is_current(descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                self._descriptor = descriptor
            else:
                os.close(descriptor)

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        if self._descriptor is not None:
            self.file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.fstat(descriptor).st_ino == self.file.stat().st_ino
        except FileNotFoundError:
            return False


def names() -> list[str]:
    """Every world of this checkout that has a folder or a lock."""
    if not WORLDS.is_dir():
        return []
    found = {entry.stem if entry.suffix == ".lock" else entry.name for entry in WORLDS.iterdir()}
    return sorted(name for name in found if NAME.fullmatch(name))


def holder(name: str) -> int | None:
    """The process that runs the world; None when nobody does."""
    lock = Lock(name)
    if not lock.file.exists():
        return None
    try:
        lock.acquire()
    except WorldInUse:
        text = lock.file.read_text()
        return int(text) if text.isdigit() else 0
    lock.release()
    return None


def reap() -> list[str]:
    """Removes what worlds left whose process is gone; returns their names."""
    reaped = []
    for name in names():
        lock = Lock(name)
        try:
            lock.acquire()
        except WorldInUse:
            continue
        if remove(name):
            reaped.append(name)
        lock.release()
    return reaped


def remove(name: str) -> bool:
    """Ends everything of the world and removes all but its logs; the caller holds its lock. True if there was anything."""
    state = folder(name)
    if not state.is_dir():
        return False
    found = bool(processes.end_recorded(state))
    if os.geteuid() == 0:
        from .machines.nspawn import reap_machines

        reap_machines(state)
        if (state / NETNS_RECORD).exists():
            WorldNetwork(name).remove()
    for entry in state.iterdir():
        if entry.name != "logs":
            found = True
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return found


def description(name: str) -> dict:
    """What a running world says about itself; empty before it is ready."""
    try:
        return json.loads((folder(name) / "world.json").read_text())
    except (OSError, ValueError):
        return {}

"""The worlds of this checkout on disk: their folders and locks, and how what a dead one left is removed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from pathlib import Path

from . import processes
from .network import WorldNetwork
from .paths import WORLDS

NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
PATIENCE = 60.0  # seconds for a lock that somebody holds only to look or to clean up
KEPT_LOGS = 20
NETNS_RECORD = "netns"  # file in a world's folder: this world made its network namespace


class WorldInUse(RuntimeError):
    """Another process runs this world."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"world {name} is run by process {holder or '?'}")
        self.pid = int(holder) if holder.isdigit() else 0


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

    def acquire(self, owner: bool = True) -> None:
        """WorldInUse when a process runs the world; a lock that is held for a moment only (`owner` False) is waited for."""
        WORLDS.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + PATIENCE
        while self._descriptor is None:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if self._try(descriptor):
                os.ftruncate(descriptor, 0)
                if owner:
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                self._descriptor = descriptor
                return
            holder = os.read(descriptor, 20).decode()
            os.close(descriptor)
            if holder or time.monotonic() > deadline:
                raise WorldInUse(self.name, holder)
            time.sleep(0.01)

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        if self._descriptor is not None:
            self.file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Whoever held it before may have removed the file: then this is the lock of nothing.
        if self._is_current(descriptor):
            return True
        os.ftruncate(descriptor, 0)
        return False

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
        lock.acquire(owner=False)
    except WorldInUse as use:
        return use.pid
    lock.release()
    return None


def reap() -> list[str]:
    """Removes what worlds left whose process is gone; returns their names."""
    reaped = []
    for name in names():
        lock = Lock(name)
        try:
            lock.acquire(owner=False)
        except WorldInUse:
            continue
        if remove(name):
            reaped.append(name)
        lock.release()
    forget_old_logs()
    return reaped


def forget_old_logs() -> None:
    """Keeps the logs of the last few worlds that are down."""
    ended = [folder(name) for name in names() if not Lock(name).file.exists() and folder(name).is_dir()]
    for old in sorted(ended, key=lambda state: state.stat().st_mtime, reverse=True)[KEPT_LOGS:]:
        shutil.rmtree(old, ignore_errors=True)


def remove(name: str) -> bool:
    """Ends the world and removes all but its logs; the caller holds its lock. True if there was anything."""
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

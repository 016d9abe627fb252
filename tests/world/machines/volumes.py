"""EBS volumes and snapshots: sparse files, and loop devices while they are attached."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

from ..shell import CommandFailed, run, wait_for
from .base import DriverError

GIB = 1 << 30
LOOP_MAJOR = 7


class VolumeStore:
    """The volumes and snapshots of one world."""

    def __init__(self, state_dir: Path) -> None:
        self.volumes, self.snapshots = state_dir / "volumes", state_dir / "snapshots"
        self._loops: dict[str, str] = {}  # volume id -> "/dev/loopN"
        self._lock = threading.Lock()
        for directory in (self.volumes, self.snapshots):
            directory.mkdir(parents=True, exist_ok=True)

    def create(self, volume_id: str, size_gib: int, snapshot_id: str | None) -> None:
        file = self._file(volume_id)
        if snapshot_id:
            source = self.snapshots / f"{snapshot_id}.img"
            if not source.exists():
                raise DriverError(f"{volume_id}: there is no snapshot {snapshot_id}")
            _copy_sparse(source, file)
        else:
            file.touch(mode=0o600)
        if size_gib * GIB < file.stat().st_size:
            raise DriverError(f"{volume_id}: {size_gib} GiB is smaller than {snapshot_id}")
        os.truncate(file, size_gib * GIB)

    def delete(self, volume_id: str) -> None:
        if volume_id in self._loops:
            raise DriverError(f"{volume_id} is attached")
        self._file(volume_id).unlink(missing_ok=True)

    def grow(self, volume_id: str, size_gib: int) -> None:
        file = self._existing(volume_id)
        if size_gib * GIB < file.stat().st_size:
            raise DriverError(f"{volume_id} cannot shrink to {size_gib} GiB")
        os.truncate(file, size_gib * GIB)
        if loop := self._loops.get(volume_id):
            run("losetup", "--set-capacity", loop)

    def snapshot(self, snapshot_id: str, volume_id: str) -> None:
        unfinished = self.snapshots / f"{snapshot_id}.unfinished"
        _copy_sparse(self._existing(volume_id), unfinished)
        unfinished.rename(self.snapshots / f"{snapshot_id}.img")

    def delete_snapshot(self, snapshot_id: str) -> None:
        (self.snapshots / f"{snapshot_id}.img").unlink(missing_ok=True)

    def open(self, volume_id: str) -> int:
        """Makes the volume a block device (nobody else may have it) and returns the device number."""
        file = self._existing(volume_id)
        with self._lock:
            if volume_id in self._loops:
                raise DriverError(f"{volume_id} is attached already")
            loop = run("losetup", "--find", "--show", "--direct-io=off", file).strip()
            self._loops[volume_id] = loop
        return os.stat(loop).st_rdev

    def close(self, volume_id: str, timeout: float = 10) -> None:
        """Gives the block device back; DriverError when something still uses it after `timeout`."""
        loop = self._loops.get(volume_id)
        if not loop:
            return
        file = os.fspath(self._file(volume_id))

        def gone() -> bool:
            return backing_file(loop) != file

        with contextlib.suppress(CommandFailed):
            run("losetup", "--detach", loop)
        try:
            wait_for(f"{volume_id} to be free", gone, timeout)
        except TimeoutError as error:
            raise DriverError(f"{volume_id} is still in use: {loop}") from error
        with self._lock:
            self._loops.pop(volume_id, None)

    def device_number(self, volume_id: str) -> str:
        """MAJOR:MINOR of an open volume, as mountinfo writes it."""
        return f"{LOOP_MAJOR}:{self._loops[volume_id].removeprefix('/dev/loop')}"

    def is_open(self, volume_id: str) -> bool:
        return volume_id in self._loops

    def _file(self, volume_id: str) -> Path:
        return self.volumes / f"{volume_id}.img"

    def _existing(self, volume_id: str) -> Path:
        file = self._file(volume_id)
        if not file.exists():
            raise DriverError(f"there is no volume {volume_id}")
        return file


def backing_file(loop: str) -> str | None:
    try:
        return Path(f"/sys/block/{Path(loop).name}/loop/backing_file").read_text().strip()
    except OSError:
        return None


def free_loops_below(directory: Path) -> None:
    """Gives back every loop device whose file is below `directory`."""
    listed = run("losetup", "--list", "--json", "--output", "NAME,BACK-FILE").strip()
    for device in json.loads(listed)["loopdevices"] if listed else []:
        if Path(device["back-file"].removesuffix(" (deleted)")).is_relative_to(directory):
            run("losetup", "--detach", device["name"], check=False)


def _copy_sparse(source: Path, target: Path) -> None:
    run("cp", "--sparse=always", "--reflink=auto", source, target, timeout=600)

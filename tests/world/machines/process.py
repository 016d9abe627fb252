"""Machines that are plain processes, for laptops without root: network and metadata are real, the system is not.

Each machine is a directory, a network namespace, and one process (`appliance`) that does for the gateway what systemd
and nginx do on a booted machine. User data does not run: the identity that it would write is taken out of it. A data
volume is a directory; the first one attached moves into the machine as its /home, and out of it again when it leaves.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import sys
from pathlib import Path

from ..paths import ROOT
from ..processes import Recorded, spawn
from .base import Attachment, DriverError, MachineSpec
from .wires import WiredDriver

IDENTITY = re.compile(rb'\{"agentUid":"[^"]+","cluster":"[^"]+","region":"[^"]+"\}')


class ProcessDriver(WiredDriver):
    """Runs the gateways of one world; lives in the cloud's process, inside the world's network namespace."""

    def __init__(self, name: str, state_dir: Path, endpoint_for_machines: str) -> None:
        super().__init__(name)
        self.state_dir, self.endpoint = state_dir, endpoint_for_machines
        self.volumes, self.snapshots = state_dir / "volumes", state_dir / "snapshots"
        self._specs: dict[str, MachineSpec] = {}
        self._volumes_of: dict[str, list[str]] = {}
        self._home_of: dict[str, str] = {}
        self._running: dict[str, Recorded] = {}
        for directory in (self.volumes, self.snapshots):
            directory.mkdir(parents=True, exist_ok=True)

    # volumes are directories; their size is not enforced

    def create_volume(self, volume_id: str, size_gib: int, snapshot_id: str | None = None) -> None:
        if snapshot_id:
            shutil.copytree(self.snapshots / snapshot_id, self.volumes / volume_id, symlinks=True)
        else:
            (self.volumes / volume_id).mkdir()

    def delete_volume(self, volume_id: str) -> None:
        # What is attached cannot be deleted: the cloud says so before it asks us.
        shutil.rmtree(self.volumes / volume_id, ignore_errors=True)

    def grow_volume(self, volume_id: str, size_gib: int) -> None:
        """Nothing to do."""

    def create_snapshot(self, snapshot_id: str, volume_id: str) -> None:
        shutil.copytree(self._where(volume_id), self.snapshots / snapshot_id, symlinks=True)

    def delete_snapshot(self, snapshot_id: str) -> None:
        shutil.rmtree(self.snapshots / snapshot_id, ignore_errors=True)

    # power

    def launch(self, spec: MachineSpec) -> None:
        root = self._directory(spec.instance_id) / "root"
        (root / "etc/skykoi").mkdir(parents=True)
        (root / "etc/skykoi/bootstrap.json").write_bytes(identity_in(spec.user_data))
        self._specs[spec.instance_id] = spec
        self._volumes_of[spec.instance_id] = [attachment.volume_id for attachment in spec.attachments]
        self.add_link(spec.instance_id, spec.private_ip)
        self.start(spec.instance_id)

    def start(self, instance_id: str) -> None:
        if instance_id in self._running:
            return
        gateway = self.state_dir / "artifacts" / "koi-gateway"
        if not gateway.exists():
            raise DriverError(
                f"{gateway} does not exist: machines that are processes run the gateway that the world serves"
            )
        if instance_id not in self._specs:
            raise DriverError(f"there is no machine {instance_id}")
        directory, link = self._directory(instance_id), self._links[instance_id]
        shutil.rmtree(directory / "root" / "run", ignore_errors=True)  # as a tmpfs over a boot
        self._mount_home(instance_id)
        self.network.plug(link)
        command = [
            *link.namespace.prefix(),
            sys.executable,
            "-m",
            "world.machines.appliance",
            directory / "root",
            gateway,
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory / "root/home/ubuntu"),
            "PYTHONPATH": str(ROOT / "tests"),
            "AWS_ENDPOINT_URL": self.endpoint,
        }
        # Its record lies in the world's own folder: what a killed world left is ended from there.
        self._running[instance_id] = spawn(f"machine-{instance_id}", command, self.state_dir, environment)

    def stop(self, instance_id: str, force: bool = False) -> None:
        running = self._running.pop(instance_id, None)
        if running:
            running.kill() if force else running.stop(grace=15)
            self.network.unplug(self._links[instance_id])

    def reboot(self, instance_id: str) -> None:
        self.stop(instance_id)
        self.start(instance_id)

    def terminate(self, instance_id: str) -> None:
        self.stop(instance_id, force=True)
        self.drop_link(instance_id)
        self._specs.pop(instance_id, None)
        self._unmount_home(instance_id)
        shutil.rmtree(self._directory(instance_id), ignore_errors=True)

    # devices

    def attach(self, instance_id: str, attachment: Attachment) -> None:
        """Seen at the next start: a plain process has no devices to plug in."""
        self._volumes_of.setdefault(instance_id, []).append(attachment.volume_id)

    def detach(self, instance_id: str, volume_id: str, force: bool = False) -> None:
        with contextlib.suppress(ValueError, KeyError):
            self._volumes_of[instance_id].remove(volume_id)
        if self._home_of.get(instance_id) == volume_id:
            self._unmount_home(instance_id)

    # reports and end

    def console(self, instance_id: str) -> bytes:
        try:
            return (self.state_dir / "logs" / f"machine-{instance_id}.log").read_bytes()
        except OSError:
            return b""

    def close(self) -> None:
        for instance_id in list(self._specs):
            self.terminate(instance_id)

    def _directory(self, instance_id: str) -> Path:
        return self.state_dir / "machines" / instance_id

    def _home(self, instance_id: str) -> Path:
        return self._directory(instance_id) / "root" / "home"

    def _where(self, volume_id: str) -> Path:
        """The directory that the volume is just now."""
        for instance_id, placed in self._home_of.items():
            if placed == volume_id:
                return self._home(instance_id)
        return self.volumes / volume_id

    def _mount_home(self, instance_id: str) -> None:
        """A link would not do: bootstrap follows none, since on a real machine only an attacker would have made it."""
        wanted = next(iter(self._volumes_of.get(instance_id, [])), None)
        if self._home_of.get(instance_id) == wanted:
            self._home(instance_id).mkdir(exist_ok=True)
            return
        self._unmount_home(instance_id)
        shutil.rmtree(self._home(instance_id), ignore_errors=True)
        (self.volumes / wanted).rename(self._home(instance_id))
        self._home_of[instance_id] = wanted

    def _unmount_home(self, instance_id: str) -> None:
        volume_id = self._home_of.pop(instance_id, None)
        if volume_id:
            self._home(instance_id).rename(self.volumes / volume_id)


def identity_in(user_data: bytes) -> bytes:
    """Whose machine this is, as the user data would have written it to /etc/skykoi/bootstrap.json."""
    script = gzip.decompress(user_data) if user_data[:2] == b"\x1f\x8b" else user_data
    found = IDENTITY.search(script)
    if not found:
        raise DriverError("machines that are processes need user data of koi: it names no cluster, agent and region")
    return found[0]

"""Worlds for these tests, and machines in them without a cloud."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from world import imds
from world.machines.base import STOCK_IMAGE, Attachment, IngressRule, MachineSpec, Metadata
from world.machines.nspawn import NspawnDriver
from world.shell import wait_for
from world.world import World

ANYWHERE = (IngressRule("-1", None, None, "0.0.0.0/0"),)


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(8)}0"


class Ground:
    """A world with a driver and a metadata service, and nothing else."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.driver = NspawnDriver(world.name, world.state_dir, "http://172.31.0.1:4566")
        self.metadata: dict[str, Metadata] = {}
        self.powered_off: list[str] = []
        self.driver.on_poweroff = self.powered_off.append
        self._addresses = (f"172.31.{n // 250}.{n % 250 + 4}" for n in itertools.count())
        self._imds = world.network.inside(lambda: imds.serve(self.metadata.get))

    def boot(
        self,
        user_data: str = "#!/bin/sh\ntrue\n",
        image: str = STOCK_IMAGE,
        volumes: tuple[str, ...] = (),
        ingress: tuple[IngressRule, ...] = ANYWHERE,
    ) -> Guest:
        """Launches a machine and waits until cloud-init has ended."""
        address, instance_id = next(self._addresses), new_id("i")
        attachments = tuple(
            Attachment(volume, f"/dev/sd{letter}") for letter, volume in zip("fghij", volumes, strict=False)
        )
        spec = MachineSpec(instance_id, image, address, user_data.encode(), attachments)
        self.metadata[address] = metadata_of(spec)
        self.driver.set_ingress(instance_id, ingress)
        self.driver.launch(spec)
        guest = Guest(self, instance_id, address)
        guest.wait_booted()
        return guest

    def new_volume(self, size_gib: int = 1, snapshot_id: str | None = None) -> str:
        volume_id = new_id("vol")
        self.driver.create_volume(volume_id, size_gib, snapshot_id)
        return volume_id

    def reaches(self, address: str, port: int, timeout: float = 0.25) -> bool:
        """Whether a TCP connection from the router to that address comes about."""
        try:
            self.world.connect(address, port, timeout).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.driver.close()
        self._imds.shutdown()
        self._imds.server_close()


class Guest:
    """A machine of a test."""

    def __init__(self, ground: Ground, instance_id: str, address: str) -> None:
        self.ground, self.id, self.address = ground, instance_id, address

    @property
    def leader(self) -> int:
        return self.ground.driver.leader(self.id)

    def file(self, path: str) -> Path:
        return Path(f"/proc/{self.leader}/root", path.lstrip("/"))

    def wait_booted(self, timeout: float = 20) -> None:
        """cloud-init has ended in the current boot, and the bus answers."""
        what = f"the boot of {self.id}"
        wait_for(what, lambda: self.leader and self.file("/run/cloud-init/result.json").exists(), timeout)
        wait_for(what, lambda: self.sh("systemctl is-system-running", check=False) in ("running", "degraded"), timeout)

    def sh(self, script: str, check: bool = True) -> str:
        """Runs a shell script as root in the machine; its standard output."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", "sh", "-euc", script]
        done = subprocess.run(enter, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        assert not check or done.returncode == 0, f"{script}: exit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def listen(self, *ports: int) -> None:
        """Something that accepts connections on these ports, until the machine goes down."""
        for port in ports:
            self.sh(f"systemd-run --quiet --unit=listen-{port} python3 -m http.server {port}")
            self.sh(f"for i in $(seq 100); do ss -Hltn sport = :{port} | grep -q . && exit 0; sleep 0.05; done; exit 1")

    def terminate(self) -> None:
        self.ground.driver.terminate(self.id)


def metadata_of(spec: MachineSpec, tokens_required: bool = True, hop_limit: int = 2) -> Metadata:
    host_name = f"ip-{spec.private_ip.replace('.', '-')}.ec2.internal"
    mac = "02:00:00:00:00:01"
    tree = {
        "ami-id": spec.image_id,
        "hostname": host_name,
        "instance-id": spec.instance_id,
        "instance-type": "t3.small",
        "local-hostname": host_name,
        "local-ipv4": spec.private_ip,
        "mac": mac,
        "network": {"interfaces": {"macs": {mac: {"device-number": "0", "local-ipv4s": spec.private_ip}}}},
        "placement": {"availability-zone": "us-east-1a", "region": "us-east-1"},
    }
    document = {"instanceId": spec.instance_id, "region": "us-east-1", "availabilityZone": "us-east-1a"}
    return Metadata(True, tokens_required, hop_limit, tree, spec.user_data, document)


@pytest.fixture(scope="session")
def new_world() -> Callable[[str], World]:
    """Names of these tests' worlds do not collide with those of another run."""
    return lambda name: World(f"t{os.getpid() % 100000}-{name}")


@pytest.fixture(scope="module")
def ground(new_world: Callable[[str], World]) -> Iterator[Ground]:
    with new_world("ground") as world:
        world.start(control_plane=False, cloud=False)
        here = Ground(world)
        try:
            yield here
        finally:
            here.close()

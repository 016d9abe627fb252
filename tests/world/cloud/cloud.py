"""The hub: everything that the parts of the cloud share."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import random
import threading
from typing import Any

from moto.backends import get_backend
from moto.ssm.models import Parameter

from world.machines.base import Driver, IngressRule

from . import inventory
from .call import Call
from .clock import Clock, Lanes
from .images import UBUNTU_AMI, UBUNTU_PARAMETERS
from .settings import Settings

log = logging.getLogger("world.cloud")


@dataclasses.dataclass
class Machine:
    """What we know of an instance beyond moto's own record of it."""

    id: str
    account: str
    region: str
    number: int  # order of launch; pages go by it
    instance: Any  # moto's Instance
    reservation_id: str
    born: float
    user_data: bytes | None
    client_token: str | None = None
    epoch: int = 0  # grows with each change of power; a timer of an older epoch does nothing
    running_since: float | None = None
    gone_at: float | None = None
    doom: tuple[str, str] | None = None  # state reason of an accepted launch that will die
    launched: bool = False  # the driver knows the machine
    impaired: dict[str, float] = dataclasses.field(default_factory=dict)  # "system" or "instance" -> since
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ingress: tuple[IngressRule, ...] | None = None  # as last given to the driver
    credentials: Any = None  # of the role, as IMDS gives them out

    @property
    def state(self) -> str:
        return self.instance._state.name

    @property
    def arn(self) -> str:
        return f"arn:aws:ec2:{self.region}:{self.account}:instance/{self.id}"


class Cloud:
    def __init__(self, name: str, state_dir: pathlib.Path, driver: Driver, settings: Settings) -> None:
        self.name = name
        self.state_dir = state_dir
        self.driver = driver
        self.settings = settings
        self.clock = Clock()
        self.lanes = Lanes()
        self.lock = threading.RLock()  # every handler runs under it; the driver's work and held answers do not
        self.random = random.Random(20260115)
        self.machines: dict[str, Machine] = {}
        self.launches = 0
        self.born: dict[str, float] = {}  # of volumes, groups, snapshots, roles ... by id or IAM key
        self.tag_changes: dict[str, list[tuple[float, dict[str, str]]]] = {}
        self.role_changes: dict[tuple[str, str], list[tuple[float, list[Any]]]] = {}  # policies before each change
        self.tokens: dict[tuple[str, ...], Any] = {}
        self.baseline: dict[tuple[str, str], set[str]] = {}  # what a fresh region has
        self.seeded: set[tuple[str, str]] = set()

    # backends

    def ec2(self, account: str, region: str) -> Any:
        backend = get_backend("ec2")[account][region]
        self._seed(account, region)
        return backend

    def ssm(self, account: str, region: str) -> Any:
        backend = get_backend("ssm")[account][region]
        self._seed(account, region)
        return backend

    def iam(self, account: str) -> Any:
        return get_backend("iam")[account]["aws"]

    def ec2_of(self, call: Call) -> Any:
        return self.ec2(call.account, call.region)

    def _seed(self, account: str, region: str) -> None:
        """What AWS has in a fresh region: Canonical's public parameters."""
        if (account, region) in self.seeded:
            return
        self.seeded.add((account, region))
        parameters = get_backend("ssm")[account][region]._parameters
        for name in UBUNTU_PARAMETERS:
            dict.__setitem__(parameters, name, [self._public_parameter(account, name)])
        self.baseline[(account, region)] = inventory.ids(inventory.regional(self, account, region))

    def _public_parameter(self, account: str, name: str) -> Parameter:
        return Parameter(
            account_id=account,
            name=name,
            value=UBUNTU_AMI,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=self.clock.now(),
            version=1,
            data_type="aws:ec2:image",
        )

    # machines

    def machines_in(self, account: str, region: str) -> list[Machine]:
        return [m for m in self.machines.values() if m.account == account and m.region == region]

    def live_machines_in(self, account: str, region: str) -> list[Machine]:
        return [m for m in self.machines_in(account, region) if m.state != "terminated"]

    def machine_at(self, address: str) -> Machine | None:
        """The live machine with this private address."""
        for machine in self.machines.values():
            if machine.state != "terminated" and machine.instance.private_ip == address:
                return machine
        return None

    def forget_old_terminated(self) -> None:
        limit = self.clock.now() - self.settings.terminated_ttl
        for machine in [m for m in self.machines.values() if m.gone_at is not None and m.gone_at < limit]:
            del self.machines[machine.id]
            backend = self.ec2(machine.account, machine.region)
            backend.tags.pop(machine.id, None)
            backend.__dict__.get("world_instances", {}).pop(machine.id, None)
            reservation = backend.reservations.get(machine.reservation_id)
            if reservation:
                reservation.instances[:] = [i for i in reservation.instances if i.id != machine.id]
                if not reservation.instances:
                    backend.reservations.pop(machine.reservation_id, None)

    # transit

    def after_transit(self, since: float, job: Any) -> None:
        """Runs the job under the lock when the transit time since then is over."""

        def locked() -> None:
            with self.lock:
                job()

        self.clock.at(since + self.settings.transit, locked)

    def close(self) -> None:
        self.clock.close()
        self.lanes.close()
        self.driver.close()

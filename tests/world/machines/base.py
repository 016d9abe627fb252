"""The seam between the cloud and what runs its machines: the cloud decides about states, a driver makes them true."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

#: the images of the world; every other id boots the stock one
STOCK_IMAGE = "ami-0a22040000000001f"
BAKED_IMAGE = "ami-0a22040000000002f"


class DriverError(RuntimeError):
    """A machine or a volume cannot do what was asked; the message says why."""


class VolumeBusy(DriverError):
    """The guest has the volume mounted: on EC2 the attachment now says `busy` until the guest lets go."""


@dataclasses.dataclass(frozen=True)
class Attachment:
    """A volume as one machine sees it."""

    volume_id: str  # "vol-0123456789abcdef0"
    device: str  # as requested through the API, for example "/dev/sdf"; the guest sees /dev/nvmeXn1 and the by-id link


@dataclasses.dataclass(frozen=True)
class MachineSpec:
    """All that a driver needs to boot a machine for the first time."""

    instance_id: str
    image_id: str
    private_ip: str  # inside 172.31.0.0/16
    user_data: bytes  # as passed to RunInstances, after base64
    attachments: tuple[Attachment, ...] = ()  # data volumes; the root disk is the driver's own business


@dataclasses.dataclass(frozen=True)
class IngressRule:
    """One allowed inbound flow; everything else is dropped at the machine's interface (established flows pass)."""

    protocol: str  # "tcp", "udp", "icmp" or "-1" for all
    from_port: int | None
    to_port: int | None
    cidr: str  # IPv4 or IPv6; a rule that names a security group arrives as one rule for each member address


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What the instance metadata service answers for one machine; asked anew for each request."""

    http_endpoint: bool  # False: 403
    http_tokens_required: bool  # True: IMDSv1 answers 401
    hop_limit: int
    tree: dict  # below /latest/meta-data/; leaves are str, a dict with the key "__json__" is served as JSON
    user_data: bytes | None
    identity_document: dict


class Driver(abc.ABC):
    """Runs machines. Calls block until the deed is done; several threads may call for different machines at once."""

    #: set by the cloud: called (from any thread) with the instance id when a guest powered itself off
    on_poweroff: Callable[[str], None] = staticmethod(lambda _instance_id: None)

    @abc.abstractmethod
    def create_volume(self, volume_id: str, size_gib: int, snapshot_id: str | None = None) -> None: ...

    @abc.abstractmethod
    def delete_volume(self, volume_id: str) -> None: ...

    @abc.abstractmethod
    def grow_volume(self, volume_id: str, size_gib: int) -> None: ...

    @abc.abstractmethod
    def create_snapshot(self, snapshot_id: str, volume_id: str) -> None: ...

    @abc.abstractmethod
    def delete_snapshot(self, snapshot_id: str) -> None: ...

    @abc.abstractmethod
    def launch(self, spec: MachineSpec) -> None:
        """First boot: returns when PID 1 of the machine runs; raises if it cannot."""

    @abc.abstractmethod
    def start(self, instance_id: str) -> None:
        """Boots a stopped machine again, same root disk, same volumes."""

    @abc.abstractmethod
    def stop(self, instance_id: str, force: bool = False) -> None:
        """Orderly shutdown (or power cut with force); returns when nothing of the machine runs."""

    @abc.abstractmethod
    def reboot(self, instance_id: str) -> None: ...

    @abc.abstractmethod
    def terminate(self, instance_id: str) -> None:
        """Power cut, then the root disk goes; data volumes are detached and stay."""

    @abc.abstractmethod
    def attach(self, instance_id: str, attachment: Attachment) -> None:
        """Hot-plug when the machine runs, else at its next start."""

    @abc.abstractmethod
    def detach(self, instance_id: str, volume_id: str, force: bool = False) -> None:
        """Takes the device away. VolumeBusy after some seconds while the guest has it mounted, unless forced."""

    @abc.abstractmethod
    def set_ingress(self, instance_id: str, rules: tuple[IngressRule, ...]) -> None:
        """Enforces the security groups at the machine's interface; called before launch and at each change."""

    def set_public_ip(self, instance_id: str, address: str | None) -> None:  # noqa: B027 (drivers may leave it)
        """Makes the address reach the machine, and the one given before no longer; may come before launch."""

    def set_network_cut(self, instance_id: str, cut: bool) -> None:  # noqa: B027
        """Drops every packet to and from the machine while True: a fault for tests, no part of EC2."""

    @abc.abstractmethod
    def console(self, instance_id: str) -> bytes:
        """What the machine wrote to its console so far (GetConsoleOutput)."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends every machine of this world and removes all that the driver made."""

"""A driver without machines: states only."""

from __future__ import annotations

from world.machines.base import Attachment, Driver, IngressRule, MachineSpec


class NoneDriver(Driver):
    """Remembers what it was told, so that tests can look at it."""

    def __init__(self) -> None:
        self.ingress: dict[str, tuple[IngressRule, ...]] = {}

    def create_volume(self, volume_id: str, size_gib: int, snapshot_id: str | None = None) -> None: ...

    def delete_volume(self, volume_id: str) -> None: ...

    def grow_volume(self, volume_id: str, size_gib: int) -> None: ...

    def create_snapshot(self, snapshot_id: str, volume_id: str) -> None: ...

    def delete_snapshot(self, snapshot_id: str) -> None: ...

    def launch(self, spec: MachineSpec) -> None: ...

    def start(self, instance_id: str) -> None: ...

    def stop(self, instance_id: str, force: bool = False) -> None: ...

    def reboot(self, instance_id: str) -> None: ...

    def terminate(self, instance_id: str) -> None:
        self.ingress.pop(instance_id, None)

    def attach(self, instance_id: str, attachment: Attachment) -> None: ...

    def detach(self, instance_id: str, volume_id: str) -> None: ...

    def set_ingress(self, instance_id: str, rules: tuple[IngressRule, ...]) -> None:
        self.ingress[instance_id] = rules

    def console(self, instance_id: str) -> bytes:
        return f"console of {instance_id}\n".encode()

    def close(self) -> None: ...

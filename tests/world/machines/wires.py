"""What drivers share about the network: the links of machines, what may come in, public addresses."""

from __future__ import annotations

import threading

from ..network import MachineLink, WorldNetwork
from .base import Driver, IngressRule


class WiredDriver(Driver):
    """Remembers rules and addresses that come before their machine does, and applies the rest at once."""

    def __init__(self, name: str) -> None:
        self.world = name
        self.network = WorldNetwork(name)
        self._lock = threading.RLock()
        self._links: dict[str, MachineLink] = {}
        self._ingress: dict[str, tuple[IngressRule, ...]] = {}
        self._public: dict[str, str | None] = {}

    def set_ingress(self, instance_id: str, rules: tuple[IngressRule, ...]) -> None:
        with self._lock:
            self._ingress[instance_id] = rules
            link = self._links.get(instance_id)
            if link:
                self.network.set_ingress(link.port, rules)

    def set_public_ip(self, instance_id: str, address: str | None) -> None:
        with self._lock:
            old, self._public[instance_id] = self._public.get(instance_id), address
            link = self._links.get(instance_id)
            if link and old != address:
                self.network.set_public_ip(old, address, link.address)

    def set_network_cut(self, instance_id: str, cut: bool) -> None:
        with self._lock:
            self.network.cut(self._links[instance_id].port, cut)

    def add_link(self, instance_id: str, address: str) -> MachineLink:
        """The machine exists now: its rules hold before it is plugged in."""
        with self._lock:
            link = self._links[instance_id] = MachineLink(self.world, instance_id, address)
            self.network.set_ingress(link.port, self._ingress.get(instance_id, ()))
            self.network.set_public_ip(None, self._public.get(instance_id), address)
            return link

    def drop_link(self, instance_id: str) -> None:
        """The machine is gone."""
        with self._lock:
            link = self._links.pop(instance_id, None)
            if link:
                self.network.unplug(link)
                self.network.set_public_ip(self._public.get(instance_id), None, link.address)
                self.network.forget(link.port)
            self._public.pop(instance_id, None)
            self._ingress.pop(instance_id, None)

"""Network namespaces: one for each world, which is its VPC and its router, and one for each machine.

Each machine hangs on a veth pair of its own. The world's namespace routes a /32 to each and answers ARP for all of
them, as a VPC does; so every packet to a machine passes the router, where nftables enforces the security groups with
connection tracking, out of reach of the guest. 172.31.0.1 (router, cloud) and 169.254.169.254 (instance metadata) are
addresses of br0, which has no ports.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from .machines.base import IngressRule
from .paths import system_program
from .shell import run

T = TypeVar("T")

ROUTER = "172.31.0.1"
SUBNET = "172.31.0.0/16"
METADATA = "169.254.169.254"
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000

_FIREWALL = """
add table inet koi
add map inet koi machines { type ifname : verdict; }
add set inet koi cut { type ifname; }
add chain inet koi guard
add chain inet koi forward { type filter hook forward priority 0; policy accept; }
add chain inet koi output { type filter hook output priority 0; policy accept; }
add chain inet koi input { type filter hook input priority 0; policy accept; }
add rule inet koi guard ct state established,related accept
add rule inet koi guard oifname vmap @machines
add rule inet koi forward iifname @cut drop
add rule inet koi forward oifname @cut drop
add rule inet koi forward jump guard
add rule inet koi output oifname @cut drop
add rule inet koi output jump guard
add rule inet koi input iifname @cut drop
add table ip koi-public
add map ip koi-public addresses { type ipv4_addr : ipv4_addr; }
add chain ip koi-public output { type nat hook output priority -100; policy accept; }
add chain ip koi-public prerouting { type nat hook prerouting priority -100; policy accept; }
add rule ip koi-public output dnat to ip daddr map @addresses
add rule ip koi-public prerouting dnat to ip daddr map @addresses
"""


class NetworkError(RuntimeError):
    """A namespace is not as it should be; the message says what to do."""


class HostNetwork:
    """The caller's own network: what a world without root lives in."""

    name: str | None = None

    def prefix(self) -> tuple[str, ...]:
        return ()

    def inside(self, function: Callable[[], T]) -> T:
        return function()

    def connect(self, host: str, port: int, timeout: float = 5) -> socket.socket:
        return socket.create_connection((host, port), timeout=timeout)


class Namespace:
    """A named network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NAMESPACES / name

    def exists(self) -> bool:
        return self.path.exists()

    def create(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def remove(self) -> None:
        if self.exists():
            run("ip", "netns", "del", self.name)

    def prefix(self) -> tuple[str, ...]:
        """What to put before a command. Not `ip netns exec`: that mounts another /sys and hides the cgroups."""
        return ("nsenter", f"--net={self.path}", "--")

    def enter(self) -> None:
        """Moves the calling thread in; later threads and children of it start there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with self.path.open() as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns {self.path}: {os.strerror(number)}")

    def inside(self, function: Callable[[], T]) -> T:
        """Calls `function` in a thread that has moved in. Sockets that it makes stay in there wherever they are used."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                self.enter()
                outcome.append(function())
            except BaseException as error:  # handed over to the caller
                failure.append(error)

        thread = threading.Thread(target=body, name=f"in-{self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def connect(self, host: str, port: int, timeout: float = 5) -> socket.socket:
        return self.inside(lambda: socket.create_connection((host, port), timeout=timeout))

    def nft(self, script: str, check: bool = True) -> str:
        """Applies an nftables script: all of it or nothing."""
        return run(*self.prefix(), system_program("nft"), "-f", "-", stdin=script, check=check)


class WorldNetwork(Namespace):
    """The VPC of one world and its router."""

    def __init__(self, world: str) -> None:
        super().__init__(f"koi-{world}")

    def require_free(self) -> None:
        """NetworkError when somebody else has a namespace of this name."""
        if self.exists():
            raise NetworkError(
                f"the network namespace {self.name} exists, but not from this checkout: choose another --name, "
                f"or remove it with `ip netns del {self.name}`"
            )

    def create(self) -> None:
        super().create()
        ip = ("ip", "-n", self.name)
        run(*ip, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        run(*ip, "addr", "add", f"{ROUTER}/16", "dev", "br0")
        run(*ip, "addr", "add", f"{METADATA}/32", "dev", "br0")
        run(*ip, "link", "set", "br0", "up")
        self.inside(_make_router)
        self.nft(_FIREWALL)

    def plug(self, machine: MachineLink) -> None:
        """Makes the machine's namespace and its link."""
        machine.namespace.create()
        inside, outside = ("ip", "-n", machine.namespace.name), ("ip", "-n", self.name)
        run(
            *outside,
            "link",
            "add",
            machine.port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            machine.namespace.name,
        )
        run(*inside, "link", "set", "eth0", "address", machine.mac)
        run(*inside, "addr", "add", f"{machine.address}/16", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", ROUTER)
        self.inside(lambda: _set_port(machine.port))
        run(*outside, "link", "set", machine.port, "up")
        run(*outside, "route", "replace", f"{machine.address}/32", "dev", machine.port, "src", ROUTER)

    def unplug(self, machine: MachineLink) -> None:
        """Takes the machine off the network; its rules stay for its next boot."""
        if self.exists():
            run("ip", "-n", self.name, "link", "del", machine.port, check=False)
        machine.namespace.remove()

    def set_ingress(self, port: str, rules: Iterable[IngressRule]) -> None:
        """Replaces what may reach the machine behind `port`, in one transaction."""
        chain = f"m-{port}"
        lines = [f"add chain inet koi {chain}", f"flush chain inet koi {chain}"]
        lines += [f"add rule inet koi {chain} {match} accept" for rule in rules if (match := nft_match(rule))]
        lines.append(f"add rule inet koi {chain} drop")
        lines.append(f'add element inet koi machines {{ "{port}" : jump {chain} }}')
        self.nft("\n".join(lines))

    def forget(self, port: str) -> None:
        """Removes the rules of a machine that is gone."""
        if self.exists():
            self.nft(f'delete element inet koi machines {{ "{port}" }}', check=False)
            self.nft(f"flush chain inet koi m-{port}\ndelete chain inet koi m-{port}", check=False)

    def cut(self, port: str, on: bool) -> None:
        """Drops everything to and from the machine, established connections included."""
        self.nft(f'{"add" if on else "delete"} element inet koi cut {{ "{port}" }}', check=on)

    def set_public_ip(self, old: str | None, new: str | None, private: str) -> None:
        """Makes `new` reach the machine (from this namespace and from other machines), and `old` no longer."""
        if old:
            self.nft(f"delete element ip koi-public addresses {{ {old} }}", check=False)
            run("ip", "-n", self.name, "route", "del", f"{old}/32", check=False)
        if new:
            self.nft(f"add element ip koi-public addresses {{ {new} : {private} }}")
            run("ip", "-n", self.name, "route", "replace", f"{new}/32", "dev", "br0", "src", ROUTER)


class MachineLink:
    """Names and addresses of one machine's connection, all derived from its private address."""

    def __init__(self, world: str, instance_id: str, address: str) -> None:
        octets = ipaddress.IPv4Address(address).packed
        self.address = address
        self.port = "m" + octets[1:].hex()
        self.mac = "02:" + ":".join(f"{octet:02x}" for octet in (0, *octets))
        self.namespace = Namespace(f"koi-{world}.{instance_id}")


def nft_match(rule: IngressRule) -> str | None:
    """The rule as an nftables expression; None for one that no packet here can meet."""
    network = ipaddress.ip_network(rule.cidr, strict=False)
    family = "ip" if network.version == 4 else "ip6"
    source = f"{family} saddr {network}"
    if rule.protocol in ("-1", "all"):
        return source
    if rule.protocol in ("tcp", "udp"):
        low, high = rule.from_port, rule.to_port
        ports = "0-65535" if low in (None, -1) else f"{low}-{high if high is not None else low}"
        return f"{source} {rule.protocol} dport {ports}"
    if rule.protocol in ("icmp", "icmpv6", "58"):
        protocol = "icmp" if rule.protocol == "icmp" else "icmpv6"
        kind = f" {protocol} type {rule.from_port}" if rule.from_port not in (None, -1) else ""
        return f"{source} meta l4proto {protocol}{kind}"
    return f"{source} meta l4proto {rule.protocol}" if rule.protocol.isdigit() else None


def addresses_of(namespace: str) -> set[str]:
    """The IPv4 addresses that exist in a namespace, for checks."""
    links = json.loads(run("ip", "-n", namespace, "-j", "-4", "addr"))
    return {entry["local"] for link in links for entry in link["addr_info"]}


def _make_router() -> None:
    for name, value in {"ip_forward": 1, "conf/all/send_redirects": 0, "conf/default/send_redirects": 0}.items():
        Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))


def _set_port(port: str) -> None:
    """Answers ARP for the other machines; refuses packets with a source address that is not the machine's."""
    for name in ("proxy_arp", "rp_filter"):
        Path(f"/proc/sys/net/ipv4/conf/{port}/{name}").write_text("1")
    Path(f"/proc/sys/net/ipv4/neigh/{port}/proxy_delay").write_text("0")  # up to 0.8 s otherwise

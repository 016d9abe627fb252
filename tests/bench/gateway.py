"""Figures of koi-gateway alone, on loopback: what it weighs, how soon it is there, what a request costs."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenario.wait import until
from websockets.sync.client import ClientConnection, connect
from world.paths import ROOT

BINARY = ROOT / "target" / "release" / "koi-gateway"
REQUESTS = 2000
HANDSHAKES = 300


@dataclasses.dataclass(frozen=True)
class Running:
    """A gateway that listens."""

    pid: int
    port: int
    token: str
    seconds_to_hello: float

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory."""
        line = next(row for row in Path(f"/proc/{self.pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


def shake(port: int, token: str) -> ClientConnection:
    """One handshake with the shared token."""
    client = connect(f"ws://127.0.0.1:{port}/", compression=None, proxy=None, open_timeout=5, legacy=True)
    client.recv(timeout=5)
    params = {
        "minProtocol": 3,
        "maxProtocol": 4,
        "client": {"id": "gateway-client", "version": "0", "platform": "linux", "mode": "backend"},
        "role": "operator",
        "scopes": ["operator.read"],
        "auth": {"token": token},
    }
    client.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": params}))
    answer = json.loads(client.recv(timeout=5))
    assert answer["ok"], answer
    return client


@contextmanager
def running() -> Iterator[Running]:
    """Starts the release binary with a fresh state, and measures the way to its first hello-ok."""
    with tempfile.TemporaryDirectory(prefix="koi-bench-") as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        token = secrets.token_urlsafe(32)
        config = Path(folder, "skykoi.json")
        config.write_text(
            json.dumps({"gateway": {"mode": "local", "port": port, "auth": {"mode": "token", "token": token}}})
        )
        config.chmod(0o600)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "SKYKOI_STATE_DIR": folder,
            "SKYKOI_CONFIG_PATH": str(config),
        }
        begin = time.monotonic()
        process = subprocess.Popen([BINARY, "run"], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until("the first hello-ok", lambda: shake(port, token), 10, every=0.001).close()
            yield Running(process.pid, port, token, time.monotonic() - begin)
        finally:
            process.kill()
            process.wait()


def measure() -> dict[str, float]:
    """All figures, by name; units are in the names."""
    with running() as gateway:
        figures = {
            "gateway binary MiB": BINARY.stat().st_size / 2**20,
            "gateway start to hello-ok ms": gateway.seconds_to_hello * 1e3,
            "gateway RSS idle MiB": gateway.rss_mib(),
        }
        client, before = shake(gateway.port, gateway.token), gateway.cpu_seconds()
        for number in range(REQUESTS):
            client.send(json.dumps({"type": "req", "id": str(number), "method": "health", "params": None}))
            while json.loads(client.recv(timeout=5)).get("id") != str(number):
                pass
        figures["gateway CPU per health request us"] = (gateway.cpu_seconds() - before) / REQUESTS * 1e6
        before = gateway.cpu_seconds()
        for _ in range(HANDSHAKES):
            shake(gateway.port, gateway.token).close()
        figures["gateway CPU per handshake us"] = (gateway.cpu_seconds() - before) / HANDSHAKES * 1e6
        figures["gateway RSS after that MiB"] = gateway.rss_mib()
    return figures

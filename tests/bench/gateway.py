"""Figures of koi-gateway alone, on loopback: what it weighs, how soon it is there, what a request costs."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scenario.wait import until
from websockets.sync.client import ClientConnection, connect
from world.paths import ROOT

BINARY = ROOT / "target" / "release" / "koi-gateway"
LOAD = ROOT / "target" / "slim" / "examples" / "load"

# A hair more than the kernel's clock ticks can show: what is measured takes seconds.
REQUESTS = 1000
HANDSHAKES = 3000
STARTS = 5
MESSAGES = 300
HISTORY_ROWS = 100_000

#: What the gateway's unit sets.
UNIT = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}

# Files here last no longer than the machine runs, and cost nothing to flush: what is left is the gateway's own time.
MEMORY = Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Running:
    """A gateway that listens."""

    pid: int
    folder: Path
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

    def load(self, scenario: str, **options: object) -> dict[str, Any]:
        """Runs the load client, and gives what it saw."""
        with self.loading(scenario, **options) as process:
            told, _ = process.communicate(timeout=300)
        assert process.returncode == 0, (scenario, process.returncode)
        return json.loads(told.splitlines()[-1])

    @contextmanager
    def loading(self, scenario: str, **options: object) -> Iterator[subprocess.Popen[str]]:
        """The load client while it runs."""
        command = [LOAD, str(self.port), scenario, *(f"{key}={value}" for key, value in options.items())]
        env = {"KOI_TOKEN": self.token}
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield process

    def cpu_microseconds(self, scenario: str, **options: object) -> tuple[float, dict[str, Any]]:
        """What the gateway spends on one request or handshake, and what the client saw."""
        before = self.cpu_seconds()
        seen = self.load(scenario, **options)
        return (self.cpu_seconds() - before) / seen["count"] * 1e6, seen


def shake(port: int, token: str, scopes: Sequence[str] = ("operator.read",)) -> ClientConnection:
    """One handshake with the shared token."""
    client = connect(f"ws://127.0.0.1:{port}/", compression=None, proxy=None, open_timeout=5, legacy=True)
    client.recv(timeout=5)
    params = {
        "minProtocol": 3,
        "maxProtocol": 4,
        "client": {"id": "gateway-client", "version": "0", "platform": "linux", "mode": "backend"},
        "role": "operator",
        "scopes": list(scopes),
        "auth": {"token": token},
    }
    client.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": params}))
    answer = json.loads(client.recv(timeout=5))
    assert answer["ok"], answer
    return client


@contextmanager
def running(
    prepare: Callable[[Path], None] = lambda folder: None,
    place: Path | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
    env: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Running]:
    """Starts the release binary with a state of its own, and measures the way to its first hello-ok.

    `more` are further sections of its config, `env` further variables; `{folder}` in them is the folder of its state.
    """
    with tempfile.TemporaryDirectory(prefix="koi-bench-", dir=place) as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        token = secrets.token_urlsafe(32)
        config = Path(folder, "skykoi.json")
        sections = {
            "gateway": {"mode": "local", "port": port, "auth": {"mode": "token", "token": token}},
            "agents": {"defaults": {"model": {"primary": "echo/echo"}}},
            **more,
        }
        config.write_text(json.dumps(sections).replace("{folder}", folder))
        config.chmod(0o600)
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "SKYKOI_STATE_DIR": folder,
            "SKYKOI_CONFIG_PATH": str(config),
            **UNIT,
            **{name: value.replace("{folder}", folder) for name, value in env.items()},
        }
        prepare(Path(folder))
        begin = time.monotonic()
        process = subprocess.Popen([BINARY, "run"], env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until("the first hello-ok", lambda: shake(port, token), 10, every=0.001).close()
            yield Running(process.pid, Path(folder), port, token, time.monotonic() - begin)
        finally:
            process.kill()
            process.wait()


def starts() -> dict[str, float]:
    """How soon it is there, and what it weighs then."""
    seconds, rss = [], []
    for _ in range(STARTS):
        with running() as gateway:
            seconds.append(gateway.seconds_to_hello)
            rss.append(gateway.rss_mib())
    return {
        "binary MB": BINARY.stat().st_size / 1e6,
        "start to hello-ok ms": statistics.median(seconds) * 1e3,
        "RSS idle MiB": statistics.median(rss),
    }


def crowd() -> dict[str, float]:
    """What idle clients weigh."""
    with running() as gateway, gateway.loading("idle", connections=500) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["connected"] == 500
        rss = gateway.rss_mib()
        told, _ = process.communicate(input="\n", timeout=30)
        return {"RSS with 500 idle clients MiB": rss, "of which stayed": json.loads(told)["stayed"]}


def requests() -> dict[str, float]:
    """What requests and handshakes cost."""
    with running() as gateway:
        gateway.load("calls", connections=50, count=50)
        one, _ = gateway.cpu_microseconds("calls", connections=1, count=REQUESTS * 5)
        many, seen = gateway.cpu_microseconds("calls", connections=50, count=REQUESTS)
        eight, busy = gateway.cpu_microseconds("calls", connections=50, in_flight=8, count=REQUESTS)
        shakes, shaken = gateway.cpu_microseconds("handshakes", count=HANDSHAKES)
        return {
            "health, one by one: CPU us": one,
            "health, 50 connections: CPU us": many,
            "health, 50 connections: requests/s": seen["count"] / seen["seconds"],
            "health, 50 connections: p50 us": seen["p50_us"],
            "health, 50 x 8 in flight: CPU us": eight,
            "health, 50 x 8 in flight: p99 us": busy["p99_us"],
            "health, 50 x 8 in flight: refused": busy["refused"],
            "handshake: CPU us": shakes,
            "handshake: p50 us": shaken["p50_us"],
            "RSS after that MiB": gateway.rss_mib(),
        }


def fsync_p50_us(folder: Path) -> float:
    """What the disk itself takes for a small append that is to last."""
    times = []
    with Path(folder, "fsync").open("ab", buffering=0) as file:
        for _ in range(200):
            begin = time.perf_counter()
            file.write(b"x" * 200)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def write_history(folder: Path, rows: int) -> None:
    """A session with a long history, as the gateway itself writes it."""
    session = "00000000-0000-4000-8000-000000000001"
    home = folder / "agents" / "main" / "sessions"
    home.mkdir(parents=True)
    stamp = "2026-01-01T00:00:00.000Z"
    head = {"type": "session", "version": 3, "id": session, "timestamp": stamp, "cwd": "/"}
    with (home / f"{session}.jsonl").open("w") as file:
        file.write(json.dumps(head) + "\n")
        for row in range(rows):
            message = {
                "role": "user" if row % 2 == 0 else "assistant",
                "content": [{"type": "text", "text": f"row {row}"}],
                "timestamp": 1_767_225_600_000 + row,
            }
            entry = {
                "type": "message",
                "id": f"{row + 1:08x}",
                "parentId": f"{row:08x}" if row else None,
                "timestamp": stamp,
                "message": message,
            }
            file.write(json.dumps(entry) + "\n")
    now = int(time.time() * 1000)
    index = {"agent:main:main": {"sessionId": session, "updatedAt": now, "sessionStartedAt": now}}
    (home / "sessions.json").write_text(json.dumps(index))


def turns(name: str, place: Path | None) -> dict[str, float]:
    """What a turn takes where files are kept in this place; the model answers at once."""
    with running(place=place) as gateway:
        gateway.load("chat", count=20)
        seen = gateway.load("chat", count=MESSAGES)
        return {
            f"{name}: fsync p50 us": fsync_p50_us(gateway.folder),
            f"{name}: chat.send to ack p50 us": seen["ack"]["p50_us"],
            f"{name}: chat.send to first delta p50 us": seen["delta"]["p50_us"],
            f"{name}: chat.send to final p50 us": seen["final"]["p50_us"],
        }


def conversations() -> dict[str, float]:
    """What turns and a page of history take and weigh."""
    with running() as gateway:
        gateway.load("chat", count=1)
        figures = {"RSS after the first turn MiB": gateway.rss_mib()}
    figures |= turns("on disk", None)
    if MEMORY.is_dir():
        figures |= turns("in memory", MEMORY)
    with running(lambda folder: write_history(folder, HISTORY_ROWS)) as gateway:
        page = {"method": "chat.history", "params": json.dumps({"sessionKey": "main", "limit": 50})}
        gateway.load("calls", connections=1, count=20, **page)
        cpu, seen = gateway.cpu_microseconds("calls", connections=1, count=REQUESTS, **page)
        assert seen["refused"] == 0, seen
        figures |= {
            f"chat.history, 50 of {HISTORY_ROWS} rows: p50 us": seen["p50_us"],
            f"chat.history, 50 of {HISTORY_ROWS} rows: CPU us": cpu,
            "RSS with that history MiB": gateway.rss_mib(),
        }
    return figures


def measure() -> dict[str, float]:
    """All figures, by name; units are in the names."""
    return starts() | crowd() | requests() | conversations()

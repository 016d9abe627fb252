"""The stand-in for the operating system of a machine that is a directory: bootstraps, runs the gateway, is its TLS front.

python -m world.machines.appliance ROOT GATEWAY      inside the machine's network namespace
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..relay import pump

GATEWAY_PORT, TLS_PORT = 18789, 443
MAX_HEAD = 64 * 1024
FORWARDED = re.compile(rb"(?im)^(?:x-forwarded-[^:]*|x-real-ip):.*\r\n")
REFRESH = "run/skykoi/refresh"  # the gateway makes it when the operator asks for the bundle to be fetched anew


class Appliance:
    """Init, nginx and systemd units of the machine, as far as the gateway needs them."""

    def __init__(self, root: Path, gateway: Path) -> None:
        self.root, self.gateway = root, gateway
        self.daemon: subprocess.Popen | None = None

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            while not self._bootstrap():
                time.sleep(1)  # as the unit's RestartSec
            self._start_gateway()
            self._open_front()
            while True:
                self._keep()
                time.sleep(0.2)
        finally:
            self._stop_gateway()

    def _bootstrap(self) -> bool:
        return (
            subprocess.run([self.gateway, "bootstrap", "--root", self.root], stdin=subprocess.DEVNULL).returncode == 0
        )

    def _start_gateway(self) -> None:
        self.daemon = subprocess.Popen([self.gateway, "run", "--root", self.root], stdin=subprocess.DEVNULL)

    def _stop_gateway(self) -> None:
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(10)
            self.daemon.kill()

    def _keep(self) -> None:
        """Restarts what died; fetches the bundle anew when asked to."""
        assert self.daemon
        if self.daemon.poll() not in (None, 78):
            self._start_gateway()
        refresh = self.root / REFRESH
        if refresh.exists():
            refresh.unlink()
            config = self.root / "home/ubuntu/.skykoi/skykoi.json"
            before = config.read_bytes()
            self._bootstrap()
            if config.read_bytes() != before:
                self._stop_gateway()
                self._start_gateway()

    def _open_front(self) -> None:
        listener = socket.create_server(("0.0.0.0", TLS_PORT), backlog=128)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            outside, address = listener.accept()
            threading.Thread(target=self._serve, args=(outside, address[0]), daemon=True).start()

    def _serve(self, outside: socket.socket, client: str) -> None:
        with contextlib.suppress(OSError):
            outside.settimeout(30)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.root / "run/skykoi-tls/tls.crt", self.root / "run/skykoi-tls/tls.key")
            secured = context.wrap_socket(outside, server_side=True)
            head, rest = read_head(secured)
            inside = socket.create_connection(("127.0.0.1", GATEWAY_PORT), timeout=10)
            inside.sendall(with_forwarded(head, client) + rest)
            secured.settimeout(None)
            inside.settimeout(None)
            back = threading.Thread(target=pump, args=(inside, secured), daemon=True)
            back.start()
            pump(secured, inside)
            back.join()
            inside.close()
            secured.close()
        outside.close()


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of the first request, and what came after it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(MAX_HEAD)
        if not chunk or len(received) > MAX_HEAD:
            raise OSError("no request")
        received += chunk
    head, rest = received.split(b"\r\n\r\n", 1)
    return head + b"\r\n\r\n", rest


def with_forwarded(head: bytes, client: str) -> bytes:
    """The head as a trusted proxy passes it on: it says who asked, and nobody else does."""
    line, rest = FORWARDED.sub(b"", head).split(b"\r\n", 1)
    added = f"X-Real-IP: {client}\r\nX-Forwarded-For: {client}\r\nX-Forwarded-Proto: https\r\n"
    return line + b"\r\n" + added.encode() + rest


if __name__ == "__main__":
    Appliance(Path(sys.argv[1]), Path(sys.argv[2])).run()

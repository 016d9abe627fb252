"""Doors from the caller's network into a world: listeners on 127.0.0.1 out here, connections made in there.

Nothing else crosses, and nothing in the world can come out.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading

from .network import HostNetwork, Namespace

log = logging.getLogger("world.relay")

CHUNK = 1 << 16


class Relay:
    """One door: a free port of 127.0.0.1 that leads to `port` of the world's own 127.0.0.1."""

    def __init__(self, network: Namespace | HostNetwork, port: int, listener: socket.socket | None = None) -> None:
        self._network, self._target = network, port
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"relay-{port}", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                outside, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(outside,), daemon=True).start()

    def _serve(self, outside: socket.socket) -> None:
        try:
            inside = self._network.connect("127.0.0.1", self._target)
        except OSError as error:
            log.warning("port %d of the world does not answer: %s", self._target, error)
            outside.close()
            return
        inside.settimeout(None)
        for end in (inside, outside):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=pump, args=(inside, outside), daemon=True)
        back.start()
        pump(outside, inside)
        back.join()
        inside.close()
        outside.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copies until the source ends, then tells the target so; the other direction may go on."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)

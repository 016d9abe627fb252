"""A plain client of the gateway's protocol, as a user of the agent has it: token, pinned certificate, one socket."""

from __future__ import annotations

import json
import socket
import ssl
import uuid
from types import TracebackType

from websockets.sync.client import ClientConnection, connect


class Gateway:
    """An authenticated connection to the gateway of one agent."""

    def __init__(
        self, address: str, token: str, certificate_pem: str, tls_name: str, seconds: float = 10.0, port: int = 443
    ) -> None:
        context = ssl.create_default_context(cadata=certificate_pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.seconds = seconds
        self.socket: ClientConnection = connect(
            f"wss://{tls_name}:{port}/",
            sock=socket.create_connection((address, port), timeout=seconds),
            ssl=context,
            server_hostname=tls_name,
            open_timeout=seconds,
            compression=None,
            proxy=None,
            max_size=26_214_400,
            legacy=True,
        )
        self.challenge = self._receive()
        self.hello = self.call(
            "connect",
            {
                "minProtocol": 3,
                "maxProtocol": 4,
                "client": {"id": "gateway-client", "version": "0.1.0", "platform": "linux", "mode": "backend"},
                "role": "operator",
                "scopes": ["operator.read", "operator.write"],
                "auth": {"token": token},
            },
        )

    def _receive(self) -> dict:
        return json.loads(self.socket.recv(timeout=self.seconds))

    def call(self, method: str, params: dict | None = None) -> dict:
        """One request and its answer; events that come in between are skipped."""
        request = str(uuid.uuid4())
        self.socket.send(json.dumps({"type": "req", "id": request, "method": method, "params": params}))
        while True:
            frame = self._receive()
            if frame.get("type") == "res" and frame.get("id") == request:
                if not frame["ok"]:
                    raise GatewayRefusal(frame["error"])
                return frame.get("payload") or {}

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GatewayRefusal(Exception):
    """An error frame."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error

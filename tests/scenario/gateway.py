"""A plain client of the gateway's protocol, as a user of the agent has it: token, pinned certificate, one socket."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import uuid
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect


class Gateway:
    """An authenticated connection to the gateway of one agent.

    It has an event loop of its own and no thread: the threads of the library's blocking client read and write one TLS
    session at the same time, which OpenSSL does not allow; a session ticket in the wrong moment swallows the request.
    """

    def __init__(
        self, address: str, token: str, certificate_pem: str, tls_name: str, seconds: float = 10.0, port: int = 443
    ) -> None:
        context = ssl.create_default_context(cadata=certificate_pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.seconds = seconds
        self.loop = asyncio.new_event_loop()
        try:
            self.socket = self._await(self._connect(address, port, context, tls_name))
            self.challenge = self._receive()
            self.hello = self.call("connect", hello(token))
        except BaseException:
            self.loop.close()
            raise

    async def _connect(self, address: str, port: int, context: ssl.SSLContext, tls_name: str) -> ClientConnection:
        return await connect(
            f"wss://{tls_name}:{port}/",
            sock=socket.create_connection((address, port), timeout=self.seconds),
            ssl=context,
            server_hostname=tls_name,
            open_timeout=self.seconds,
            compression=None,
            proxy=None,
            max_size=26_214_400,
        )

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, self.seconds))

    def _receive(self) -> dict:
        return json.loads(self._await(self.socket.recv()))

    def call(self, method: str, params: dict | None = None) -> dict:
        """One request and its answer; events that come in between are skipped."""
        request = str(uuid.uuid4())
        frame = {"type": "req", "id": request, "method": method, "params": params}
        self._await(self.socket.send(json.dumps(frame)))
        while True:
            frame = self._receive()
            if frame.get("type") == "res" and frame.get("id") == request:
                if not frame["ok"]:
                    raise GatewayRefusal(frame["error"])
                return frame.get("payload") or {}

    def close(self) -> None:
        """Ends the connection."""
        try:
            self._await(self.socket.close())
        finally:
            self.loop.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def hello(token: str) -> dict:
    """The parameters of a connect call that has nothing but the shared token."""
    return {
        "minProtocol": 3,
        "maxProtocol": 4,
        "client": {"id": "gateway-client", "version": "0.1.0", "platform": "linux", "mode": "backend"},
        "role": "operator",
        "scopes": ["operator.read", "operator.write"],
        "auth": {"token": token},
    }


class GatewayRefusal(Exception):
    """An error frame."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error

"""A stand-in for the gateways of a world without machines: one listener answers for all addresses, with each agent's own certificate."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from websockets.sync.server import Server, ServerConnection, serve
from world.cloud.client import CloudClient

NETWORK = "172.31.0.0/16"
HELLO = {
    "type": "hello-ok",
    "protocol": 3,
    "server": {"version": "stand-in", "connId": "1"},
    "features": {"methods": ["health"], "events": []},
    "snapshot": {
        "presence": [],
        "health": {},
        "stateVersion": {"presence": 0, "health": 0},
        "uptimeMs": 1,
    },
    "auth": {"role": "operator", "scopes": ["operator.read", "operator.admin"]},
    "policy": {"maxPayload": 26214400, "maxBufferedBytes": 52428800, "tickIntervalMs": 30000},
}


class Bundle:
    """What one instance was told."""

    def __init__(self, text: str) -> None:
        content = json.loads(text)
        self.config_sha256: str = content["configSha256"]
        self.tokens = {content["token"], content.get("previousToken")}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(content["tls"]["certificate"] + content["tls"]["key"])
            file.flush()
            self.context.load_cert_chain(file.name)


class Gateways:
    """Answers on 443 of every address of the VPC, inside the calling thread's network namespace.

    An instance has a gateway from the moment that its bundle can be read. Nothing else of a machine is there.
    """

    def __init__(self, cloud: CloudClient, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self._cloud, self._ssm = cloud, cloud.boto("ssm")
        self._lock, self._listing = threading.Lock(), threading.Lock()
        self._addresses, self._listed_at = dict[str, str](), 0.0
        self._bundles: dict[tuple[str, str], Bundle] = {}
        self._silent: set[str] = set()
        self.handshakes = 0
        self._server = serve_all(self._choose, self._talk)

    def close(self) -> None:
        """Nobody answers any more."""
        self._server.shutdown()

    @contextlib.contextmanager
    def silenced(self, instance: str) -> Iterator[None]:
        """Meanwhile nobody answers for this instance."""
        self._silent.add(instance)
        yield
        self._silent.discard(instance)

    def _choose(self, connection: ssl.SSLSocket, name: str | None, _outer: ssl.SSLContext) -> int | None:
        try:
            connection.context = self._bundle(connection.getsockname()[0], uid_of(name)).context
        except Exception:  # noqa: BLE001 - a machine that was not told anything has no certificate to show
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    def _bundle(self, address: str, uid: str) -> Bundle:
        if self._silent and self._instance(address) in self._silent:
            raise LookupError("silent")
        with self._lock:
            if known := self._bundles.get((address, uid)):
                return known
        name = f"/koi/{self.cluster_id}/{uid}/{self._instance(address)}"
        try:
            bundle = Bundle(self._ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
        except Exception:
            # Nothing was written yet, or the address is another instance's by now.
            with self._listing:
                self._addresses.pop(address, None)
            raise
        with self._lock:
            self._bundles[address, uid] = bundle
        return bundle

    def _instance(self, address: str) -> str:
        """Who runs at an address. All are listed together, so that a thousand that boot cost the cloud a few lists, not one each."""
        asked = time.monotonic()
        with self._listing:
            if address not in self._addresses and self._listed_at < asked:
                self._listed_at = time.monotonic()
                running = [one for one in self._cloud.instances() if one.state == "running" and one.private_ip]
                self._addresses = {str(one.private_ip): one.id for one in running}
            return self._addresses[address]

    def _talk(self, connection: ServerConnection) -> None:
        assert connection.request
        key = connection.socket.getsockname()[0], uid_of(connection.request.headers["Host"])
        self.handshakes += 1
        challenge = {"nonce": "n" * 32, "ts": int(time.time() * 1000)}
        connection.send(json.dumps({"type": "event", "event": "connect.challenge", "payload": challenge}))
        for message in connection:
            request = json.loads(message)
            answer: dict[str, Any] = {"type": "res", "id": request["id"], "ok": True}
            connection.send(json.dumps(answer | {"payload": self._answer(key, request)}))

    def _answer(self, key: tuple[str, str], request: dict[str, Any]) -> dict[str, Any]:
        match request["method"]:
            case "connect":
                return HELLO
            case "koi.workspace.seed":
                return {"written": sorted(request["params"]["files"]), "kept": []}
            case "koi.bundle.refresh":
                with self._lock:
                    self._bundles.pop(key, None)
                return {}
            case "config.get":
                # The bundle was fetched: the config is there already.
                return {"hash": self._bundle(*key).config_sha256, "config": {}}
            case _:
                return {
                    "ok": True,
                    "ts": int(time.time() * 1000),
                    "runtimeVersion": "stand-in",
                    "configSha256": self._bundle(*key).config_sha256,
                    "workspaceSeeded": False,
                    "uptimeMs": 1,
                }


def serve_all(choose: Callable[..., int | None], talk: Callable[[ServerConnection], None]) -> Server:
    """Listens on 443 of every address of the VPC."""
    subprocess.run(["ip", "route", "replace", "local", NETWORK, "dev", "lo"], check=True)
    outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    outer.sni_callback = choose
    server = serve(talk, "0.0.0.0", 443, ssl=outer, compression=None, max_size=2**22)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def uid_of(host: str | None) -> str:
    """The agent that is meant by a TLS name."""
    return (host or "").split(".")[0]
